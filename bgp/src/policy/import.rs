//! What a path from a peer must pass: authorization, the loop checks, then the policy's terms.

use super::{Judge, Policy, Rejection, Verdict};
use crate::config::PeerConfig;
use crate::identity::Identity;
use crate::wire::{Attributes, NextHop};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};

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
    /// `None`: there is none, and nothing is accepted (RFC 8212).
    pub(crate) policy: Option<Policy>,
}

impl ImportRules {
    pub(crate) fn new(peer: &PeerConfig, us: Identity) -> Self {
        Self {
            asn: us.asn,
            router_id: us.router_id,
            local: peer.local,
            peer_asn: peer.asn,
            policy: match &peer.import {
                None if peer.asn == us.asn => Some(Policy::accept()),
                policy => policy.clone(),
            },
        }
    }

    /// Looks at what is the same for all prefixes of an UPDATE.
    pub(crate) fn on(&self, attributes: &Attributes, next_hop: &NextHop) -> ImportJudge<'_> {
        let wrong = self.check_attributes(attributes);
        ImportJudge {
            policy: self.policy.as_ref().map(|policy| policy.on(attributes)),
            wrong: wrong.or_else(|| self.check_next_hop(next_hop)),
        }
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

/// Import that has seen a path's attributes and next hop, and waits for its prefixes.
#[derive(Clone, Debug)]
pub(crate) struct ImportJudge<'p> {
    policy: Option<Judge<'p>>,
    /// Why no path with these attributes can be used.
    wrong: Option<Rejection>,
}

impl ImportJudge<'_> {
    /// What becomes of the path to `prefix`. What the peer has no right to comes before what is
    /// wrong with the path, and that before what the policy's terms say.
    pub(crate) fn judge(&self, prefix: &IpNet) -> Verdict {
        let Some(policy) = &self.policy else {
            return Verdict::Reject(Rejection::NoPolicy);
        };
        match policy.judge(prefix) {
            Verdict::Reject(Rejection::NotAuthorized) => Verdict::Reject(Rejection::NotAuthorized),
            _ if martian(prefix) => Verdict::Reject(Rejection::Martian),
            verdict => match &self.wrong {
                Some(wrong) => Verdict::Reject(wrong.clone()),
                None => verdict,
            },
        }
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
    use crate::policy::Matched;
    use crate::wire::AsPath;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
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
            policy: Some(
                Policy::accept()
                    .within(&["10.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "::/0"].map(net)),
            ),
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
            let found = rules(peer_asn)
                .on(attributes, &next_hop)
                .judge(&net(prefix));
            let expected = match expected {
                Some(reason) => Verdict::Reject(reason),
                None => Verdict::Accept(Matched::default()),
            };
            assert_eq!(found, expected, "{prefix} by {attributes:?} at {address}");
        }
    }
}
