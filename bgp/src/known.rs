//! What is known of an address, and what let it in: for whoever asks.

use crate::config::PeerId;
use crate::policy::Rejection;
use crate::speaker::Speaker;
use crate::table::{Hop, Path};
use ipnet::IpNet;
use std::net::IpAddr;

/// A prefix that somebody announces, or that we originate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The prefix.
    pub prefix: IpNet,
    /// We originate it.
    pub originated: bool,
    /// The paths to it.
    pub paths: Vec<Heard>,
}

/// A path, and what import made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who announced it.
    pub peer: PeerId,
    /// Traffic goes by it.
    pub used: bool,
    /// Why it may not be used, if so.
    pub rejected: Option<Rejection>,
    /// Positions of the terms of the peer's import that match it; the last one accepts or rejects it.
    pub terms: Vec<usize>,
}

impl Speaker {
    /// The prefixes that an address is in, the longest first.
    pub fn known(&self, target: IpAddr) -> Vec<Known> {
        let longest = IpNet::from(target).max_prefix_len();
        let around = (0..=longest).rev();
        let around = around.filter_map(|length| IpNet::new(target, length).ok());
        around
            .filter_map(|net| self.known_of(net.trunc()))
            .collect()
    }

    fn known_of(&self, prefix: IpNet) -> Option<Known> {
        let (paths, originated) = self.table.paths_to(&prefix)?;
        let paths = paths.into_iter().map(|path| self.heard(&prefix, path));
        Some(Known {
            prefix,
            originated,
            paths: paths.collect(),
        })
    }

    fn heard(&self, prefix: &IpNet, path: Path) -> Heard {
        let peer = &path.source.peer;
        let hops = self.in_use(prefix).into_iter();
        let mut hops = hops.flat_map(|(hops, _)| hops.iter());
        let is = |it: &Hop| it.peer == *peer && it.next_hop == path.next_hop;
        // A way without a session has none.
        let policy = self.peers.get(peer).and_then(|it| it.rules.policy.as_ref());
        Heard {
            used: path.rejected.is_none() && hops.any(is),
            terms: policy.map_or(Vec::new(), |it| it.trail(prefix, &path.attributes)),
            peer: peer.clone(),
            rejected: path.rejected,
        }
    }
}
