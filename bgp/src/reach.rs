//! Static routes: what is reached by a way without a BGP session. Whoever drives the speaker says so.

use crate::config::{PeerId, Time};
use crate::import::GRACEFUL_SHUTDOWN;
use crate::speaker::Speaker;
use crate::table::{Offer, Source, Used};
use crate::wire::{Attributes, Family, NextHop};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What is reached by a way, and what that is worth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The prefixes.
    pub prefixes: BTreeSet<IpNet>,
    /// LOCAL_PREF of the paths, where they have one.
    pub preference: Option<u32>,
    /// Their share of the traffic beside other paths.
    pub weight: Option<u16>,
    /// Traffic is to leave the way (RFC 8326): the paths are the last choice, here and wherever they are told.
    pub drain: bool,
}

impl Speaker {
    /// Makes this all that is reached by a way that is no peer. The paths are like those of an eBGP
    /// peer that announces what begins at itself: chosen among, told, and announced to others. By a way
    /// that is dead, nothing is reached.
    pub fn reach(&mut self, way: &PeerId, reach: Reach, now: Time) {
        let before = self.reached.get(way);
        if self.peers.contains_key(way) || before.unwrap_or(&Reach::default()) == &reach {
            return;
        }
        self.catch_up();
        let before = self.reached.remove(way).unwrap_or_default();
        if before.prefixes.is_empty() {
            self.table.sources.up(source(way));
        }
        let number = self.table.sources.number(way);
        for prefix in before.prefixes.difference(&reach.prefixes) {
            if let Some(number) = number {
                self.table.forget(prefix, 0, number);
            }
        }
        for family in [Family::Ipv4, Family::Ipv6] {
            self.learn_static(way, family, &reach);
        }
        match reach.prefixes.is_empty() {
            true => self.table.sources.remove_peer(way),
            false => drop(self.reached.insert(way.clone(), reach)),
        }
        self.propagate();
        self.timeout(now);
    }

    fn learn_static(&mut self, way: &PeerId, family: Family, reach: &Reach) {
        let sources = &self.table.sources;
        let (Some(source), Some(peer)) = (sources.live(way, family), sources.number(way)) else {
            return;
        };
        let marked = Attributes {
            local_pref: Some(0),
            communities: vec![GRACEFUL_SHUTDOWN],
            ..Attributes::default()
        };
        let attributes = self.sets.intern(match reach.drain {
            true => marked,
            false => Attributes {
                local_pref: reach.preference,
                ..Attributes::default()
            },
        });
        let offer = self.table.offer(Offer {
            source,
            peer,
            received: attributes.clone(),
            next_hop: NOWHERE,
            outcome: Ok(Used {
                attributes,
                weight: reach.weight,
            }),
        });
        let prefixes = reach.prefixes.iter();
        for prefix in prefixes.filter(|it| Family::of(it) == family) {
            self.table.learn(&prefix.trunc(), 0, offer);
        }
        self.table.release(offer);
    }
}

/// Where the traffic goes is known by the way.
const NOWHERE: NextHop = NextHop {
    address: std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    link_local: None,
};

fn source(way: &PeerId) -> Arc<Source> {
    Arc::new(Source {
        peer: way.clone(),
        internal: false,
        client: false,
        meshed: false,
        router_id: Ipv4Addr::UNSPECIFIED,
        address: NOWHERE.address,
    })
}
