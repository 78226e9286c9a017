//! Endpoints that this host does not have: behind one-to-one NAT, as in most clouds. Pure.
//!
//! The others reach the endpoint, and the host has another address, which the routes tell: that is enough
//! where the gateway has one endpoint of a family. Several could not be told apart by what comes in and goes
//! out, so that each needs its own address of the host in the specification.

use crate::config::{Config, Tunnel};
use crate::problem::remark;
use crate::state::LinkKind;
use routemesh_proto::Problem;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The endpoints for which any address of the host stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat(BTreeSet<IpAddr>);

impl Nat {
    /// Among the local ends of a config's tunnels, on a host with these addresses; and the ends for which it
    /// cannot be said which of them stands.
    pub fn new(config: &Config, addresses: &BTreeSet<IpAddr>) -> (Self, Vec<Problem>) {
        let (mut nat, mut problems) = (Self::default(), Vec::new());
        // Whether they are IPv4, as far as that is known.
        let mut ends: BTreeMap<&str, Option<bool>> = BTreeMap::new();
        for tunnel in config.tunnels.values() {
            let family = ends.entry(&tunnel.local_endpoint).or_default();
            *family = family.or_else(|| tunnel.is_ipv4());
        }
        let absent = config.tunnels.values().filter(|it| it.local.is_none());
        let absent = absent.filter_map(|it| it.local_endpoint.parse::<IpAddr>().ok());
        let absent: BTreeSet<IpAddr> = absent.filter(|it| !addresses.contains(it)).collect();
        for address in absent {
            let of_family = |is_v4: &&Option<bool>| is_v4.is_none_or(|it| it == address.is_ipv4());
            let alone = ends.values().filter(of_family).count() == 1;
            let own = |it: &&Tunnel| it.local_endpoint.parse() == Ok(address);
            let mut tunnels = config.tunnels.values().filter(own);
            if alone {
                nat.0.insert(address);
            }
            let reason = match (
                alone,
                tunnels.any(|it| matches!(it.kind, LinkKind::Vti { .. })),
            ) {
                (true, false) => continue,
                (true, true) => "a VTI interface has to be given its address",
                (false, _) => {
                    "and the gateway has other endpoints of its family, from which it has to be told apart"
                }
            };
            let reason = format!(
                "this host does not have it, {reason}: if it is behind one-to-one NAT, write {{ address = \"{address}\", \
                 local = \"…\" }} with the host's own address in the specification; if not, give the host the address"
            );
            problems.push(remark(format!("endpoint {address}"), &reason));
        }
        (nat, problems)
    }

    /// The local end of a tunnel is whichever address of the host the routes say.
    pub fn translates(&self, tunnel: &Tunnel) -> bool {
        let fixed = tunnel.local.is_some() || matches!(tunnel.kind, LinkKind::Vti { .. });
        !fixed
            && tunnel
                .local_endpoint
                .parse()
                .is_ok_and(|it| self.0.contains(&it))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_proto as proto;

    /// Tunnels by kind, local end, own address, far end.
    fn config(tunnels: &[[&str; 4]]) -> Config {
        let tunnel = |(number, [kind, endpoint, local, far]): (u32, &[&str; 4])| proto::Tunnel {
            number,
            peer: format!("V2-{number}"),
            peer_site: "two".into(),
            peer_asn: 65000,
            kind: (*kind).into(),
            local_endpoint: (*endpoint).into(),
            local: (*local).into(),
            remote_endpoint: (*far).into(),
            local_address: format!("fd00::{:x}", 2 * number),
            remote_address: format!("fd00::{:x}", 2 * number + 1),
            ..proto::Tunnel::default()
        };
        let raw = proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            tunnels: (1..).zip(tunnels).map(tunnel).collect(),
            ..proto::Config::default()
        };
        Config::try_from(&raw).unwrap()
    }

    const HOST: [&str; 2] = ["10.0.0.5", "2001:db8::5"];

    /// Which tunnels are translated, and of which objects there are problems.
    fn found(tunnels: &[[&str; 4]]) -> (Vec<u32>, Vec<String>) {
        let config = config(tunnels);
        let addresses = HOST.map(|it| it.parse().unwrap()).into();
        let (nat, problems) = Nat::new(&config, &addresses);
        let translated = config.tunnels.values().filter(|it| nat.translates(it));
        let problems = problems.into_iter().map(|it| it.object);
        (translated.map(|it| it.number).collect(), problems.collect())
    }

    const FAR: &str = "198.51.100.1";
    const FAR6: &str = "2001:db8:2::1";

    #[test]
    fn an_endpoint_that_the_host_has_stays_as_it_is() {
        let none = (vec![], vec![]);
        assert_eq!(
            found(&[["xfrm", HOST[0], "", FAR], ["xfrm", HOST[1], "", FAR6]]),
            none
        );
        // charon resolves it, each time.
        assert_eq!(found(&[["xfrm", "v1.example.net", "", FAR]]), none);
    }

    #[test]
    fn the_only_one_of_a_family_is_any_address_of_the_host() {
        let tunnels = [
            ["xfrm", "203.0.113.5", "", FAR],
            ["xfrm", HOST[1], "", FAR6],
            ["xfrm", "v1.example.net", "", FAR6],
        ];
        assert_eq!(found(&tunnels), (vec![1], vec![]));
    }

    #[test]
    fn of_several_each_needs_its_own_address() {
        let endpoints = [
            "endpoint 203.0.113.5".to_owned(),
            "endpoint 203.0.113.6".to_owned(),
        ];
        let two = [
            ["xfrm", "203.0.113.5", "", FAR],
            ["xfrm", "203.0.113.6", "", FAR],
        ];
        assert_eq!(found(&two), (vec![], endpoints.to_vec()));
        let one = [["xfrm", "203.0.113.5", "10.0.0.5", FAR], two[1]];
        assert_eq!(found(&one), (vec![], endpoints[1..].to_vec()));
        let none = [one[0], ["xfrm", "203.0.113.6", "10.0.0.6", FAR]];
        assert_eq!(found(&none), (vec![], vec![]));
        // One that may be of the same family.
        let name = ["xfrm", "v1.example.net", "", "v2.example.net"];
        assert_eq!(found(&[two[0], name]), (vec![], endpoints[..1].to_vec()));
    }

    #[test]
    fn a_vti_interface_needs_to_be_told() {
        let vti = ["vti", "203.0.113.5", "", FAR];
        assert_eq!(
            found(&[vti]),
            (vec![], vec!["endpoint 203.0.113.5".to_owned()])
        );
        assert_eq!(
            found(&[["vti", "203.0.113.5", "10.0.0.5", FAR]]),
            (vec![], vec![])
        );
    }
}
