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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::AsPath;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn set(texts: &[&str]) -> PrefixSet {
        PrefixSet::new(&texts.iter().map(|text| net(text)).collect::<Vec<_>>())
    }

    #[test]
    fn a_prefix_is_covered_when_it_is_equal_to_or_inside_a_member() {
        let allowed = set(&[
            "10.0.1.0/24",
            "10.0.0.0/30",
            "2001:db8:a1::/64",
            "10.0.1.128/25",
        ]);
        let table = [
            ("10.0.1.0/24", true),
            ("10.0.1.0/25", true),
            ("10.0.1.128/25", true),
            ("10.0.1.255/32", true),
            ("10.0.0.0/16", false),
            ("10.0.0.0/24", false),
            ("10.0.0.0/30", true),
            ("10.0.0.4/32", false),
            ("10.0.2.0/24", false),
            ("0.0.0.0/0", false),
            ("9.255.255.255/32", false),
            ("2001:db8:a1::/64", true),
            ("2001:db8:a1::1/128", true),
            ("2001:db8:a1::/48", false),
            ("2001:db8:a2::/64", false),
            ("::/0", false),
        ];
        for (prefix, expected) in table {
            assert_eq!(allowed.covers(&net(prefix)), expected, "{prefix}");
        }
        // Neighbours do not add up to what nobody listed.
        let halves = set(&["10.0.0.0/25", "10.0.0.128/25"]);
        assert!(!halves.covers(&net("10.0.0.0/24")));
        assert!(!set(&[]).covers(&net("10.0.0.0/24")));
        let all = set(&["0.0.0.0/0"]);
        assert!(all.covers(&net("0.0.0.0/0")) && all.covers(&net("10.0.0.0/24")));
        assert!(!all.covers(&net("::/0")));
        // Host bits in the list are of no account.
        assert!(set(&["10.0.1.7/24"]).covers(&net("10.0.1.0/24")));
    }

    proptest::proptest! {
        #[test]
        fn the_set_agrees_with_looking_at_every_member(
            members in proptest::collection::vec((0..64_u32, 24..=32_u8), 0..20),
            asked in (0..64_u32, 24..=32_u8),
        ) {
            let net = |(bits, length): (u32, u8)| {
                let address = Ipv4Addr::from(0x0a00_0000 | bits << 4);
                IpNet::new(address.into(), length).unwrap().trunc()
            };
            let members: Vec<IpNet> = members.into_iter().map(net).collect();
            let asked = net(asked);
            let expected = members.iter().any(|member| member.contains(&asked));
            proptest::prop_assert_eq!(PrefixSet::new(&members).covers(&asked), expected);
        }
    }

    #[test]
    fn each_reason_is_found() {
        const US: u32 = 65000;
        const ID: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
        let local: IpAddr = "fd00::1".parse().unwrap();
        let rules = |peer_asn| ImportRules {
            asn: US,
            router_id: ID,
            local,
            peer_asn,
            allowed: set(&["10.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "::/0"]),
        };
        let through = |ases: &[u32]| Attributes {
            as_path: AsPath(ases.to_vec()),
            ..Attributes::default()
        };
        let good = "fd00::2";
        let empty = Attributes::default();
        let originated = Attributes {
            originator_id: Some(ID),
            ..Attributes::default()
        };
        let reflected = Attributes {
            cluster_list: vec![Ipv4Addr::new(10, 0, 0, 2), ID],
            ..Attributes::default()
        };
        let first_as = |found| Rejection::FirstAs {
            expected: 65001,
            found,
        };
        let next_hop = |text: &str| Rejection::NextHop(text.parse().unwrap());
        let table = [
            (US, "10.0.1.0/24", &empty, good, None),
            (US, "::/0", &empty, good, None),
            (65001, "10.0.1.0/24", &through(&[65001, 7]), good, None),
            (
                US,
                "11.0.1.0/24",
                &empty,
                good,
                Some(Rejection::NotAuthorized),
            ),
            (US, "127.0.0.0/24", &empty, good, Some(Rejection::Martian)),
            (US, "232.0.0.0/24", &empty, good, Some(Rejection::Martian)),
            (US, "::1/128", &empty, good, Some(Rejection::Martian)),
            (US, "fe80::/64", &empty, good, Some(Rejection::Martian)),
            (US, "ff00::/8", &empty, good, Some(Rejection::Martian)),
            (
                US,
                "10.0.1.0/24",
                &through(&[7, US]),
                good,
                Some(Rejection::AsLoop(US)),
            ),
            (
                65001,
                "10.0.1.0/24",
                &through(&[65001, US]),
                good,
                Some(Rejection::AsLoop(US)),
            ),
            (
                65001,
                "10.0.1.0/24",
                &through(&[7, 65001]),
                good,
                Some(first_as(Some(7))),
            ),
            (65001, "10.0.1.0/24", &empty, good, Some(first_as(None))),
            (
                US,
                "10.0.1.0/24",
                &originated,
                good,
                Some(Rejection::OriginatorLoop),
            ),
            (
                US,
                "10.0.1.0/24",
                &reflected,
                good,
                Some(Rejection::ClusterLoop),
            ),
            (
                US,
                "10.0.1.0/24",
                &empty,
                "fd00::1",
                Some(next_hop("fd00::1")),
            ),
            (US, "10.0.1.0/24", &empty, "::", Some(next_hop("::"))),
            (US, "10.0.1.0/24", &empty, "::1", Some(next_hop("::1"))),
            (
                US,
                "10.0.1.0/24",
                &empty,
                "ff02::1",
                Some(next_hop("ff02::1")),
            ),
            (
                US,
                "10.0.1.0/24",
                &empty,
                "255.255.255.255",
                Some(next_hop("255.255.255.255")),
            ),
            (US, "10.0.1.0/24", &empty, "10.0.0.9", None),
        ];
        for (peer_asn, prefix, attributes, address, expected) in table {
            let next_hop = NextHop {
                address: address.parse().unwrap(),
                link_local: None,
            };
            let found = rules(peer_asn).check(&net(prefix), attributes, &next_hop);
            assert_eq!(found, expected, "{prefix} by {attributes:?} at {address}");
        }
    }
}
