//! Which paths may be used: prefix authorization and the loop checks, as pure functions.

use crate::config::PeerConfig;
use crate::identity::Identity;
use crate::wire::{Attributes, NextHop};
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// Why a path that a peer announced is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rejection {
    /// The prefix is not inside any prefix that the peer may announce.
    NotAuthorized,
    /// No unicast destination lives in the prefix.
    Martian,
    /// Our AS is in the AS_PATH (RFC 4271 section 9.1.2).
    AsLoop(u32),
    /// The AS_PATH of an eBGP peer does not begin with its AS (RFC 4271 section 6.3).
    FirstAs {
        /// The peer's AS.
        expected: u32,
        /// What the path begins with, if anything.
        found: Option<u32>,
    },
    /// The path began at this very speaker (RFC 4456 section 8).
    OriginatorLoop,
    /// The path was reflected by this very speaker before (RFC 4456 section 8).
    ClusterLoop,
    /// The next hop is ourselves, or not the address of one host (RFC 4271 section 6.3).
    NextHop(IpAddr),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAuthorized => write!(f, "the peer may not announce this prefix"),
            Self::Martian => write!(f, "not a unicast destination"),
            Self::AsLoop(asn) => write!(f, "AS loop: our AS {asn} is in the path"),
            Self::FirstAs {
                expected,
                found: Some(found),
            } => write!(
                f,
                "the path begins with AS {found}, not the peer's {expected}"
            ),
            Self::FirstAs { expected, .. } => {
                write!(f, "the path does not begin with the peer's AS {expected}")
            }
            Self::OriginatorLoop => write!(f, "reflection loop: we are the originator"),
            Self::ClusterLoop => write!(f, "reflection loop: our cluster id is in the list"),
            Self::NextHop(address) => write!(f, "unusable next hop {address}"),
        }
    }
}

/// Prefixes, asked whether they cover another one.
///
/// Sorted and without members inside other members, so that the one member that can cover a
/// prefix is its predecessor: a binary search, however long the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PrefixSet(Vec<IpNet>);

impl PrefixSet {
    pub(crate) fn new(prefixes: &[IpNet]) -> Self {
        let mut sorted: Vec<IpNet> = prefixes.iter().map(IpNet::trunc).collect();
        sorted.sort();
        // A covering prefix sorts before what it covers.
        sorted.dedup_by(|inner, outer| outer.contains(&*inner));
        Self(sorted)
    }

    /// Whether `prefix` is equal to or inside a member.
    pub(crate) fn covers(&self, prefix: &IpNet) -> bool {
        let after = self.0.partition_point(|member| member <= prefix);
        after
            .checked_sub(1)
            .and_then(|at| self.0.get(at))
            .is_some_and(|member| member.contains(prefix))
    }
}

/// What the import check depends on beside the path.
#[derive(Clone, Debug)]
pub(crate) struct ImportRules {
    /// Our AS.
    pub(crate) asn: u32,
    /// Our BGP identifier and cluster id.
    pub(crate) router_id: Ipv4Addr,
    /// Our address of the session.
    pub(crate) local: IpAddr,
    /// The peer's AS.
    pub(crate) peer_asn: u32,
    /// What the peer may announce.
    pub(crate) allowed: PrefixSet,
}

impl ImportRules {
    pub(crate) fn new(peer: &PeerConfig, us: Identity) -> Self {
        Self {
            asn: us.asn,
            router_id: us.router_id,
            local: peer.local,
            peer_asn: peer.asn,
            allowed: PrefixSet::new(&peer.import),
        }
    }

    /// Why the path must not be used, if so.
    pub(crate) fn check(
        &self,
        prefix: &IpNet,
        attributes: &Attributes,
        next_hop: &NextHop,
    ) -> Option<Rejection> {
        self.check_prefix(prefix)
            .or_else(|| self.check_path(attributes, next_hop))
    }

    /// The part of [`ImportRules::check`] that depends on the prefix.
    pub(crate) fn check_prefix(&self, prefix: &IpNet) -> Option<Rejection> {
        if !self.allowed.covers(prefix) {
            Some(Rejection::NotAuthorized)
        } else if martian(prefix) {
            Some(Rejection::Martian)
        } else {
            None
        }
    }

    /// The part of [`ImportRules::check`] that is the same for all prefixes of an UPDATE.
    pub(crate) fn check_path(
        &self,
        attributes: &Attributes,
        next_hop: &NextHop,
    ) -> Option<Rejection> {
        self.check_attributes(attributes)
            .or_else(|| self.check_next_hop(next_hop))
    }

    fn check_attributes(&self, attributes: &Attributes) -> Option<Rejection> {
        let first = attributes.as_path.first();
        if attributes.as_path.contains(self.asn) {
            Some(Rejection::AsLoop(self.asn))
        } else if self.peer_asn != self.asn && first != Some(self.peer_asn) {
            Some(Rejection::FirstAs {
                expected: self.peer_asn,
                found: first,
            })
        } else if attributes.originator_id == Some(self.router_id) {
            Some(Rejection::OriginatorLoop)
        } else if attributes.cluster_list.contains(&self.router_id) {
            Some(Rejection::ClusterLoop)
        } else {
            None
        }
    }

    fn check_next_hop(&self, next_hop: &NextHop) -> Option<Rejection> {
        let address = next_hop.address;
        let wrong = address == self.local
            || address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        wrong.then_some(Rejection::NextHop(address))
    }
}

/// Prefixes within which nothing can be reached by routing. A default route is not one of them.
fn martian(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(net) => {
            let network = net.network();
            network.is_loopback() || network.is_multicast()
        }
        IpNet::V6(net) => {
            let network = net.network();
            network.is_loopback() || network.is_multicast() || network.is_unicast_link_local()
        }
    }
}
