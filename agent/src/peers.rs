//! What the BGP speaker is told: its peers, and the prefixes that begin here. Pure.
//!
//! Authorization is rendered into it: from a gateway nothing is taken, and to a LAN router nothing
//! is passed, that the far site does not own; to other gateways goes only what this site owns.

use crate::config::{Config, Router, Tunnel};
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
/// No site of a mesh announces so many; whoever does has made a mistake.
const MAX_PREFIXES: usize = 100_000;

/// The speaker's configuration. A router on no subnet of ours has no session yet.
pub fn speaker(config: &Config, links: &Links) -> SpeakerConfig {
    let mut peers: BTreeMap<PeerId, PeerConfig> = config
        .tunnels
        .values()
        .map(|t| (PeerId::from(t.name()), gateway(config, t)))
        .collect();
    for router in &config.routers {
        if let Some((_, local)) = links.towards(router.address) {
            let id = PeerId::from(router.address.to_string());
            peers.insert(id, lan(config, router, local));
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
        let (link, _) = links.towards(router.address)?;
        Some((router.address.to_string(), link.to_owned()))
    });
    tunnels.chain(routers).collect()
}

fn gateway(config: &Config, tunnel: &Tunnel) -> PeerConfig {
    PeerConfig {
        asn: tunnel.peer_asn,
        local: IpAddr::V6(tunnel.local),
        remote: IpAddr::V6(tunnel.remote),
        hold_time: config.hold_time,
        families: BTreeSet::from([Family::Ipv4, Family::Ipv6]),
        import: config.prefixes_of(&tunnel.peer_site).to_vec(),
        export: config.owned().to_vec(),
        client: false,
        max_prefixes: MAX_PREFIXES,
    }
}

fn lan(config: &Config, router: &Router, local: IpAddr) -> PeerConfig {
    let families = match router.address {
        // IPv6 prefixes would need an IPv6 next hop, and an IPv4 session gives none.
        IpAddr::V4(_) => BTreeSet::from([Family::Ipv4]),
        IpAddr::V6(_) => BTreeSet::from([Family::Ipv4, Family::Ipv6]),
    };
    PeerConfig {
        asn: router.asn,
        local,
        remote: router.address,
        hold_time: config.hold_time,
        families,
        import: config.owned().to_vec(),
        export: config.elsewhere().collect(),
        client: router.asn == config.asn,
        max_prefixes: MAX_PREFIXES,
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
