//! What the BGP speaker is told: its peers, and the prefixes that begin here. Pure.
//!
//! Authorization is rendered into it: from a gateway nothing is taken, and to a LAN router nothing
//! is passed, that the far site does not own; to other gateways goes only what this site owns.

use crate::config::{Config, MAX_PREFIXES, Router, Tunnel, Whereabouts};
use crate::desired::Links;
use ipnet::IpNet;
use routemesh_bgp::wire::Family;
use routemesh_bgp::{PeerConfig, PeerId, SpeakerConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// How long peers keep our paths while the agent is away (RFC 4724).
const RESTART_TIME: Duration = Duration::from_secs(120);
/// How long a starting agent waits for all peers before it decides with what it has.
const DEFERRAL_TIME: Duration = Duration::from_secs(30);

/// The speaker's configuration. A router on no subnet of ours has no session yet.
pub fn speaker(config: &Config, links: &Links) -> SpeakerConfig {
    let mut peers: BTreeMap<PeerId, PeerConfig> = config
        .tunnels
        .values()
        .map(|t| (PeerId::from(t.name()), gateway(config, t)))
        .collect();
    for router in &config.routers {
        if let Some((remote, local, _)) = towards(router, links) {
            peers.insert(
                PeerId::from(router.name()),
                lan(config, router, local, remote),
            );
        }
    }
    SpeakerConfig {
        asn: config.asn,
        router_id: config.router_id,
        restart_time: RESTART_TIME,
        deferral_time: DEFERRAL_TIME,
        peers,
    }
}

/// The interface towards each peer.
pub fn links(config: &Config, links: &Links) -> Vec<(String, String)> {
    let tunnels = config.tunnels.values().map(|t| (t.name(), t.link()));
    let routers = config.routers.iter().filter_map(|router| {
        let (_, _, link) = towards(router, links)?;
        Some((router.name(), link.to_owned()))
    });
    tunnels.chain(routers).collect()
}

/// A router's address, our own towards it, and the interface between; `None` while one is missing.
fn towards<'l>(router: &Router, links: &'l Links) -> Option<(IpAddr, IpAddr, &'l str)> {
    match router.whereabouts {
        Whereabouts::Address(remote) => {
            let (link, local) = links.towards(remote)?;
            Some((remote, local, link))
        }
        // Sessions over link-local addresses and from ranges are not made yet.
        Whereabouts::LinkLocal(..) | Whereabouts::Interface(_) | Whereabouts::Range(_) => None,
    }
}

fn gateway(config: &Config, tunnel: &Tunnel) -> PeerConfig {
    let (local, remote) = (IpAddr::V6(tunnel.local), IpAddr::V6(tunnel.remote));
    PeerConfig {
        hold_time: config.hold_time,
        import: config.prefixes_of(&tunnel.peer_site).to_vec(),
        export: config.owned().to_vec(),
        max_prefixes: MAX_PREFIXES,
        ..PeerConfig::new(tunnel.peer_asn, local, remote)
    }
}

fn lan(config: &Config, router: &Router, local: IpAddr, remote: IpAddr) -> PeerConfig {
    let families = match remote {
        // IPv6 prefixes would need an IPv6 next hop, and an IPv4 session gives none.
        IpAddr::V4(_) => BTreeSet::from([Family::Ipv4]),
        IpAddr::V6(_) => BTreeSet::from([Family::Ipv4, Family::Ipv6]),
    };
    PeerConfig {
        hold_time: config.hold_time,
        families,
        import: config.owned().to_vec(),
        export: config.elsewhere().collect(),
        client: router.asn == config.asn,
        max_prefixes: router.max_prefixes,
        ..PeerConfig::new(router.asn, local, remote)
    }
}

/// The prefixes that begin here: routes of other programs, by protocol, as far as the site owns them.
pub fn originated(config: &Config, foreign: &BTreeMap<IpNet, u8>) -> BTreeSet<IpNet> {
    foreign
        .iter()
        .filter(|(_, protocol)| config.announce.contains(protocol))
        .map(|(prefix, _)| *prefix)
        .filter(|prefix| config.owned().iter().any(|own| own.contains(prefix)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_proto as proto;

    fn config() -> Config {
        let site = |name: &str, prefix: &str| proto::Site {
            name: name.into(),
            prefixes: vec![prefix.into()],
        };
        let router = |address: &str, asn| proto::Router {
            address: address.into(),
            asn,
            ..proto::Router::default()
        };
        let raw = proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            announce: vec!["bird".into(), "kernel".into()],
            sites: vec![site("one", "10.0.0.0/23"), site("two", "10.0.2.0/24")],
            routers: vec![
                router("fd00:1::254", 65001),
                router("172.16.1.253", 65000),
                router("fd00:9::1", 65009),
            ],
            tunnels: vec![proto::Tunnel {
                number: 1,
                peer: "V2-1".into(),
                peer_site: "two".into(),
                peer_asn: 65000,
                kind: "xfrm".into(),
                local_endpoint: "192.0.2.1".into(),
                remote_endpoint: "198.51.100.1".into(),
                local_address: "2001:db8:ff::2".into(),
                remote_address: "2001:db8:ff::3".into(),
                initiate: true,
            }],
            ..proto::Config::default()
        };
        Config::try_from(&raw).unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn links() -> Links {
        let lan = |net: &str, own: &str| {
            let own = own.parse().unwrap();
            (net.parse().unwrap(), own, "lan0".to_owned())
        };
        Links {
            connected: vec![
                lan("172.16.1.0/24", "172.16.1.1"),
                lan("fd00:1::/64", "fd00:1::1"),
                // A second address of the same subnet must not move the session.
                lan("fd00:1::/64", "fd00:1::ffff"),
            ],
            usable: BTreeSet::new(),
        }
    }

    #[test]
    fn each_peer_says_and_hears_only_what_its_place_allows() {
        let speaker = speaker(&config(), &links());
        let peer = |name: &str| &speaker.peers[&PeerId::from(name)];
        // A router on no subnet of ours has no session.
        assert_eq!(speaker.peers.len(), 3);

        let gateway = peer("rm1-V2-1");
        assert_eq!(gateway.import, nets(&["10.0.2.0/24"]));
        assert_eq!(gateway.export, nets(&["10.0.0.0/23"]));
        assert!(!gateway.client);

        let router = peer("fd00:1::254");
        assert_eq!(router.import, nets(&["10.0.0.0/23"]));
        assert_eq!(router.export, nets(&["10.0.2.0/24"]));
        assert_eq!(router.local.to_string(), "fd00:1::1");
        assert!(!router.client, "eBGP needs no reflection");

        let internal = peer("172.16.1.253");
        assert!(
            internal.client,
            "iBGP routers hear of the mesh by reflection"
        );
        assert_eq!(internal.families, BTreeSet::from([Family::Ipv4]));
    }

    #[test]
    fn only_chosen_protocols_and_owned_prefixes_begin_here() {
        let foreign = [
            ("10.0.0.0/24", 2),
            ("10.0.1.0/24", 12),
            ("10.0.1.128/25", 4),
            ("10.0.2.0/25", 12),
            ("0.0.0.0/0", 12),
        ];
        let foreign = foreign.map(|(net, protocol)| (net.parse().unwrap(), protocol));
        let originated = originated(&config(), &foreign.into());
        let expected = nets(&["10.0.0.0/24", "10.0.1.0/24"]);
        assert_eq!(originated, expected.into_iter().collect());
    }
}
