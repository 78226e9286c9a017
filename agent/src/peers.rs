//! What the BGP speaker is told: its peers, and the prefixes that begin here. Pure.
//!
//! Authorization is rendered into it: from a gateway nothing is taken, and to a LAN router nothing
//! is passed, that the far site does not own; to other gateways goes only what this site owns. Of both
//! are also the foreign peers behind them that the other may reach.

use crate::bfd::Target;
use crate::bgp::setup::{self, Range, Setup, Transport};
use crate::config::{
    Abroad, Config, Far, Inside, MAX_PREFIXES, Ping, Router, Session, Tunnel, Whereabouts,
};
use crate::desired::Links;
use crate::probe::ping::Asked;
use crate::state::Nexthop;
use ipnet::{IpNet, Ipv6Net};
use routemesh_bgp::policy::{Changes, Term};
use routemesh_bgp::wire::{Family, NextHop};
use routemesh_bgp::{PeerConfig, Policy, Reach, SpeakerConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// How long peers keep our paths while the agent is away (RFC 4724).
const RESTART_TIME: Duration = Duration::from_secs(120);
/// How long a starting agent waits for all peers before it decides with what it has.
const DEFERRAL_TIME: Duration = Duration::from_secs(30);
/// Where link-local addresses are (RFC 4291).
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// What BGP is to run with. A router on no subnet of ours has no session yet.
pub fn setup(config: &Config, links: &Links) -> Setup {
    let speaker = SpeakerConfig {
        asn: config.asn,
        router_id: config.router_id,
        restart_time: RESTART_TIME,
        deferral_time: DEFERRAL_TIME,
        peers: BTreeMap::new(),
    };
    let mut setup = Setup::from(speaker);
    for tunnel in config.tunnels.values() {
        let (local, remote, asn) = match &tunnel.far {
            Far::Gateway { local, remote, asn } => (*local, *remote, *asn),
            Far::Abroad(abroad) => {
                foreign(config, tunnel, abroad, links, &mut setup);
                continue;
            }
        };
        let (local, remote) = (IpAddr::V6(local), IpAddr::V6(remote));
        // Only the far gateway is one hop away: what others send through it comes with less.
        let transport = Transport {
            hops: Some(1),
            ..Transport::default()
        };
        let peer = PeerConfig::new(asn, local, remote);
        setup.add(tunnel.name(), gateway(config, tunnel, peer), transport);
        if let Some(timers) = config.bfd {
            let target = Target {
                local,
                remote,
                link: tunnel.link(),
                index: links.index(&tunnel.link()),
                timers,
            };
            setup.bfd.insert(tunnel.name().into(), target);
        }
    }
    let on_interface = |router: &&Router| matches!(router.whereabouts, Whereabouts::Interface(_));
    let routers = config.routers.iter();
    let (found, named): (Vec<_>, Vec<_>) = routers.partition(on_interface);
    // Whoever is named by address is not also whoever is found on the interface: the first one stays.
    for router in named.into_iter().chain(found) {
        for place in places(router, links) {
            let name = setup::name(place.remote, place.link_of_address());
            let peer = lan(config, router, place.local, place.remote);
            if let Some(timers) = router.bfd {
                let target = Target {
                    local: place.local,
                    remote: place.remote,
                    link: place.link.to_owned(),
                    index: links.index(place.link),
                    timers,
                };
                let id = name.as_str().into();
                if !setup.speaker.peers.contains_key(&id) {
                    setup.bfd.insert(id, target);
                }
            }
            setup.add(name, peer, transport(router, place.scope));
        }
    }
    let ranges = config.routers.iter();
    let ranges = ranges.filter_map(|router| range(config, router, links));
    setup.ranges.extend(ranges);
    setup
}

/// The interface towards each peer that is known without its having connected.
pub fn links(config: &Config, links: &Links) -> Vec<(String, String)> {
    let tunnels = config.tunnels.values().map(|t| (t.name(), t.link()));
    let places = config.routers.iter().flat_map(|r| places(r, links));
    let routers = places.map(|place| {
        let name = setup::name(place.remote, place.link_of_address());
        (name, place.link.to_owned())
    });
    tunnels.chain(routers).collect()
}

/// Where traffic for a LAN peer's next hop goes, if that is on a link of ours.
pub fn nexthop(peer: &str, next_hop: NextHop, links: &Links) -> Option<Nexthop> {
    let peers_link = || match setup::link_of(peer) {
        Some(link) => Some(link),
        None => Some(links.towards(peer.parse().ok()?)?.0),
    };
    let (gateway, link) = match (next_hop.address, next_hop.link_local) {
        // It means something on the peer's own link only.
        (IpAddr::V6(only), _) if only.is_unicast_link_local() => (only.into(), peers_link()?),
        (address, link_local) => match (links.towards(address), link_local) {
            (Some((link, _)), _) => (address, link),
            (None, Some(link_local)) => (link_local.into(), peers_link()?),
            (None, None) => return None,
        },
    };
    let link = link.to_owned();
    Some(Nexthop { gateway, link })
}

/// Where a router is found.
struct Place<'l> {
    remote: IpAddr,
    /// Our own address towards it.
    local: IpAddr,
    link: &'l str,
    /// As in [`Transport::scope`].
    scope: u32,
}

impl<'l> Place<'l> {
    fn link_of_address(&self) -> Option<&'l str> {
        (self.scope != 0).then_some(self.link)
    }
}

/// Where a router is now, as far as it can be dialled; on an interface there may be several.
fn places<'l>(router: &'l Router, links: &'l Links) -> Vec<Place<'l>> {
    let on_link = |remote: Ipv6Addr, link: &'l str| {
        let (scope, local) = *links.link_local.get(link)?;
        Some(Place {
            remote: remote.into(),
            local: local.into(),
            link,
            scope,
        })
    };
    match &router.whereabouts {
        Whereabouts::Address(remote) => {
            let towards = links.towards(*remote);
            let place = towards.map(|(link, local)| Place {
                remote: *remote,
                local,
                link,
                scope: 0,
            });
            place.into_iter().collect()
        }
        Whereabouts::LinkLocal(remote, link) => on_link(*remote, link).into_iter().collect(),
        Whereabouts::Interface(link) => {
            let index = links.link_local.get(link).map(|(index, _)| index);
            let routers = index.and_then(|index| links.routers.get(index));
            let routers = routers.into_iter().flatten().take(setup::PER_RANGE);
            routers.filter_map(|it| on_link(*it, link)).collect()
        }
        Whereabouts::Range(_) => Vec::new(),
    }
}

/// Who else becomes a peer by connecting.
fn range(config: &Config, router: &Router, links: &Links) -> Option<Range> {
    let (prefix, link, locals, scope) = match &router.whereabouts {
        Whereabouts::Range(prefix) => {
            let near = |net: &IpNet| net.contains(prefix) || prefix.contains(net);
            let connected = links.connected.iter().filter(|(net, _, _)| near(net));
            let locals: BTreeSet<IpAddr> = connected.map(|(_, own, _)| *own).collect();
            (*prefix, None, locals, 0)
        }
        Whereabouts::Interface(link) => {
            let (index, own) = *links.link_local.get(link)?;
            let own = BTreeSet::from([IpAddr::V6(own)]);
            (LINK_LOCAL.into(), Some(link.clone()), own, index)
        }
        Whereabouts::Address(_) | Whereabouts::LinkLocal(..) => return None,
    };
    let nobody = prefix.network();
    Some(Range {
        prefix,
        link,
        locals,
        peer: lan(config, router, nobody, nobody),
        transport: transport(router, scope),
    })
}

fn transport(router: &Router, scope: u32) -> Transport {
    Transport {
        scope,
        hops: router.ttl_security,
        password: router.password.clone(),
    }
}

/// What is equal to or inside one of these.
fn within(prefixes: &[IpNet]) -> Option<Policy> {
    Some(Policy::accept().within(prefixes))
}

/// What a gateway says of its site's prefixes, with the specification's word on what it is worth.
fn import(tunnel: &Tunnel) -> Policy {
    let changes = Changes {
        preference: tunnel.preference,
        weight: tunnel.weight,
        ..Changes::default()
    };
    let term = Term {
        changes,
        ..Term::default()
    };
    // One term is never too many.
    Policy::new(vec![term]).unwrap_or_default()
}

fn gateway(config: &Config, tunnel: &Tunnel, peer: PeerConfig) -> PeerConfig {
    PeerConfig {
        hold_time: config.hold_time,
        import: Some(import(tunnel).within(&config.beyond(tunnel))),
        export: within(&config.before(tunnel)),
        // What is behind another gateway, its own tunnels are for: ours do not let it through.
        meshed: true,
        max_prefixes: MAX_PREFIXES,
        drain: config.drain || tunnel.drain,
        ..peer
    }
}

/// A gateway that is not ours, and what says besides its SA whether it is there.
fn foreign(config: &Config, tunnel: &Tunnel, abroad: &Abroad, links: &Links, setup: &mut Setup) {
    let (name, link) = (tunnel.name(), tunnel.link());
    let index = links.index(&link);
    if let (Some(timers), Some(inside)) = (abroad.bfd, abroad.inside) {
        let target = Target {
            local: inside.own.addr(),
            remote: inside.far,
            link: link.clone(),
            index,
            timers,
        };
        setup.bfd.insert(name.as_str().into(), target);
    }
    if let Some(Ping {
        source,
        target,
        interval,
        lost,
    }) = abroad.ping
    {
        let asked = Asked {
            source,
            target,
            link,
            index,
            interval,
            number: tunnel.number,
        };
        setup.pings.insert(name.as_str().into(), (asked, lost));
    }
    match (&abroad.session, &abroad.inside) {
        (Some(session), Some(inside)) => {
            let peer = abroad_peer(config, tunnel, session, inside);
            setup.add(name, peer, Transport::default());
        }
        _ => drop(setup.reaches.insert(name.into(), reach(config, tunnel))),
    }
}

/// As a router on the LAN, but for whose prefixes it has.
fn abroad_peer(config: &Config, tunnel: &Tunnel, session: &Session, inside: &Inside) -> PeerConfig {
    let families = match inside.far {
        // IPv6 prefixes would need an IPv6 next hop, and an IPv4 session gives none.
        IpAddr::V4(_) => BTreeSet::from([Family::Ipv4]),
        IpAddr::V6(_) => BTreeSet::from([Family::Ipv4, Family::Ipv6]),
    };
    PeerConfig {
        hold_time: session.hold_time.unwrap_or(config.hold_time),
        families,
        // Its own terms decide within what the mesh allows, and cannot widen it.
        import: Some(session.import.clone().within(&config.beyond(tunnel))),
        export: Some(session.export.clone().within(&config.before(tunnel))),
        max_prefixes: session.max_prefixes,
        drain: config.drain || tunnel.drain,
        ..PeerConfig::new(session.asn, inside.own.addr(), inside.far)
    }
}

/// What is reached through a tunnel whose far end does not say so itself.
fn reach(config: &Config, tunnel: &Tunnel) -> Reach {
    Reach {
        prefixes: config.statics(tunnel),
        preference: tunnel.preference,
        weight: tunnel.weight,
        drain: tunnel.drain,
    }
}

fn lan(config: &Config, router: &Router, local: IpAddr, remote: IpAddr) -> PeerConfig {
    let families = match remote {
        // IPv6 prefixes would need an IPv6 next hop, and an IPv4 session gives none.
        IpAddr::V4(_) => BTreeSet::from([Family::Ipv4]),
        IpAddr::V6(_) => BTreeSet::from([Family::Ipv4, Family::Ipv6]),
    };
    let elsewhere = config.reachable();
    PeerConfig {
        hold_time: config.hold_time,
        families,
        // The router's own terms decide within what the mesh allows, and cannot widen it.
        import: Some(router.import.clone().within(config.owned())),
        export: Some(router.export.clone().within(&elsewhere)),
        client: router.asn == config.asn,
        max_prefixes: router.max_prefixes,
        role: router.role,
        add_path: router.add_path,
        // Towards a gateway a silent peer means a dead tunnel, and its paths have to go. A router that
        // offers this and restarts gracefully says that it forwards without its control plane: a reset
        // is no reason to stop using it, and one that is dead in silence costs no more than a lost
        // connection does (RFC 8538 section 4).
        graceful_notification: true,
        long_lived: router.long_lived,
        drain: config.drain,
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
    use routemesh_bgp::policy::Verdict;
    use routemesh_bgp::wire::Attributes;
    use routemesh_bgp::{PeerId, Rejection};
    use routemesh_proto as proto;

    fn config() -> Config {
        let site = |name: &str, prefix: &str| proto::Site {
            name: name.into(),
            prefixes: vec![prefix.into()],
            ..proto::Site::default()
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
                ..proto::Tunnel::default()
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
            ..Links::default()
        }
    }

    #[test]
    fn a_gateway_is_worth_what_the_specification_says() {
        let mut config = config();
        let tunnel = config.tunnels.values_mut().next().unwrap();
        (tunnel.preference, tunnel.weight) = (Some(200), Some(3));
        let speaker = setup(&config, &links()).speaker;
        let gateway = &speaker.peers[&routemesh_bgp::PeerId::from("rm1-V2-1")];
        let policy = gateway.import.as_ref().unwrap();
        let mut path = Attributes {
            local_pref: Some(100),
            ..Attributes::default()
        };
        let inside = "10.0.2.0/24".parse().unwrap();
        let Verdict::Accept(matched) = policy.evaluate(&inside, &path) else {
            panic!("the far site owns it")
        };
        policy.apply(matched, &mut path, 65000);
        assert_eq!(
            (path.local_pref, policy.weight(matched)),
            (Some(200), Some(3))
        );
        let outside = "10.0.3.0/24".parse().unwrap();
        let refused = policy.evaluate(&outside, &path);
        assert_eq!(refused, Verdict::Reject(Rejection::NotAuthorized));
    }

    #[test]
    fn each_peer_says_and_hears_only_what_its_place_allows() {
        let speaker = setup(&config(), &links()).speaker;
        let peer = |name: &str| &speaker.peers[&routemesh_bgp::PeerId::from(name)];
        // A router on no subnet of ours has no session.
        assert_eq!(speaker.peers.len(), 3);

        let gateway = peer("rm1-V2-1");
        assert_eq!(gateway.import, within(&nets(&["10.0.2.0/24"])));
        assert_eq!(gateway.export, within(&nets(&["10.0.0.0/23"])));
        assert!(!gateway.client && gateway.meshed);

        let router = peer("fd00:1::254");
        assert_eq!(router.import, within(&nets(&["10.0.0.0/23"])));
        assert_eq!(router.export, within(&nets(&["10.0.2.0/24"])));
        assert_eq!(router.local.to_string(), "fd00:1::1");
        assert!(!router.client, "eBGP needs no reflection");

        assert!(!router.meshed);

        let internal = peer("172.16.1.253");
        assert!(
            internal.client,
            "iBGP routers hear of the mesh by reflection"
        );
        assert_eq!(internal.families, BTreeSet::from([Family::Ipv4]));
    }

    /// This gateway and that of site two hold tunnels to one foreign peer each; site two may reach ours.
    fn config_with_foreign_peers() -> Config {
        let site = |name: &str, prefix: &str| proto::Site {
            name: name.into(),
            prefixes: vec![prefix.into()],
            ..proto::Site::default()
        };
        let mesh = proto::Tunnel {
            number: 1,
            peer: "V2-1".into(),
            peer_site: "two".into(),
            peer_asn: 65000,
            kind: "xfrm".into(),
            local_endpoint: "192.0.2.1".into(),
            remote_endpoint: "198.51.100.1".into(),
            local_address: "2001:db8:ff::2".into(),
            remote_address: "2001:db8:ff::3".into(),
            behind_here: vec!["oracle".into()],
            behind_there: vec!["partner".into()],
            ..proto::Tunnel::default()
        };
        let foreign = proto::Tunnel {
            number: 4,
            peer: "oracle".into(),
            peer_site: "oracle".into(),
            kind: "xfrm".into(),
            local_endpoint: "192.0.2.1".into(),
            remote_endpoint: "203.0.113.1".into(),
            preference: 90,
            foreign: Some(proto::Foreign {
                connection: 4,
                local_id: "192.0.2.1".into(),
                remote_id: "203.0.113.1".into(),
                psk: "a secret of both".into(),
                remote_selectors: vec!["10.9.1.0/24".into()],
                sites: vec!["one".into(), "two".into()],
                ..proto::Foreign::default()
            }),
            ..proto::Tunnel::default()
        };
        let raw = proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            sites: vec![
                site("one", "10.0.1.0/24"),
                site("two", "10.0.2.0/24"),
                site("oracle", "10.9.0.0/16"),
                site("partner", "10.8.0.0/16"),
            ],
            tunnels: vec![mesh, foreign],
            ..proto::Config::default()
        };
        Config::try_from(&raw).unwrap()
    }

    #[test]
    fn what_is_behind_a_gateway_is_said_and_heard_and_a_foreign_peer_has_no_session() {
        let config = config_with_foreign_peers();
        let setup = setup(&config, &links());
        let names: Vec<&PeerId> = setup.speaker.peers.keys().collect();
        assert_eq!(names, [&"rm1-V2-1".into()]);
        let gateway = &setup.speaker.peers[&"rm1-V2-1".into()];
        let expected = within(&nets(&["10.0.1.0/24", "10.9.0.0/16"]));
        assert_eq!(gateway.export, expected);
        let verdict = |prefix: &str| {
            let policy = gateway.import.as_ref().unwrap();
            let verdict = policy.evaluate(&prefix.parse().unwrap(), &Attributes::default());
            matches!(verdict, Verdict::Accept(_))
        };
        assert!(verdict("10.0.2.0/24") && verdict("10.8.0.0/16"));
        assert!(!verdict("10.9.1.0/24"), "not behind the far gateway");
        let reach = Reach {
            prefixes: nets(&["10.9.1.0/24"]).into_iter().collect(),
            preference: Some(90),
            ..Reach::default()
        };
        assert_eq!(setup.reaches, [("rm4-oracle".into(), reach)].into());
    }

    #[test]
    fn routers_hear_of_the_foreign_peers_that_their_site_may_reach() {
        let router = proto::Router {
            address: "fd00:1::254".into(),
            asn: 65001,
            ..proto::Router::default()
        };
        let exports = |ours: bool, theirs: bool| {
            let mut raw = config_with_foreign_peers();
            let barred = [(ours, "oracle"), (theirs, "partner")];
            let barred = barred.into_iter().filter(|(open, _)| !open);
            raw.barred = barred.map(|(_, name)| name.to_owned()).collect();
            let with = proto::Config {
                gateway: "V1-1".into(),
                site: "one".into(),
                asn: 65000,
                router_id: "198.18.0.1".into(),
                hold_time: 9,
                routers: vec![router.clone()],
                ..proto::Config::default()
            };
            raw.routers = Config::try_from(&with).unwrap().routers;
            let peers = setup(&raw, &links()).speaker.peers;
            let policy = peers[&"fd00:1::254".into()].export.clone().unwrap();
            let told = nets(&["10.0.1.0/24", "10.0.2.0/24", "10.9.1.0/24", "10.8.0.0/16"]);
            let told = told.into_iter().filter(|net| {
                let verdict = policy.evaluate(net, &Attributes::default());
                matches!(verdict, Verdict::Accept(_))
            });
            told.map(|it| it.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            exports(true, true),
            ["10.0.2.0/24", "10.9.1.0/24", "10.8.0.0/16"]
        );
        assert_eq!(exports(false, true), ["10.0.2.0/24", "10.8.0.0/16"]);
        assert_eq!(exports(true, false), ["10.0.2.0/24", "10.9.1.0/24"]);
    }

    #[test]
    fn a_foreign_peer_with_bgp_says_what_it_owns_and_hears_of_who_may_reach_it() {
        let mut config = config_with_foreign_peers();
        let foreign = config.tunnels.get_mut(&4).unwrap();
        let Far::Abroad(abroad) = &mut foreign.far else {
            panic!("it is foreign")
        };
        abroad.inside = Some(Inside {
            own: "169.254.10.2/30".parse().unwrap(),
            far: "169.254.10.1".parse().unwrap(),
        });
        abroad.session = Some(Session {
            asn: 64512,
            hold_time: Some(Duration::from_secs(30)),
            max_prefixes: 100,
            import: Policy::accept(),
            export: Policy::accept(),
        });
        let setup = setup(&config, &links());
        assert!(setup.reaches.is_empty());
        let peer = &setup.speaker.peers[&"rm4-oracle".into()];
        assert_eq!((peer.asn, peer.max_prefixes), (64512, 100));
        assert_eq!(peer.hold_time, Duration::from_secs(30));
        assert_eq!(peer.local.to_string(), "169.254.10.2");
        assert_eq!(peer.families, BTreeSet::from([Family::Ipv4]));
        assert_eq!(peer.export, within(&nets(&["10.0.1.0/24", "10.0.2.0/24"])));
        let verdict = |prefix: &str| {
            let policy = peer.import.as_ref().unwrap();
            let verdict = policy.evaluate(&prefix.parse().unwrap(), &Attributes::default());
            matches!(verdict, Verdict::Accept(_))
        };
        assert!(verdict("10.9.0.0/16") && verdict("10.9.7.0/24"));
        assert!(!verdict("10.0.2.0/24") && !verdict("10.8.0.0/16") && !verdict("0.0.0.0/0"));
        // Nobody has asked for BFD.
        assert_eq!(setup.bfd.len(), 0);

        // Its terms choose within that.
        let Far::Abroad(abroad) = &mut config.tunnels.get_mut(&4).unwrap().far else {
            panic!("it is foreign")
        };
        let session = abroad.session.as_mut().unwrap();
        (session.import, session.export) = (Policy::default(), Policy::default());
        let setup = super::setup(&config, &links());
        let peer = &setup.speaker.peers[&"rm4-oracle".into()];
        for (policy, inside) in [(&peer.import, "10.9.0.0/16"), (&peer.export, "10.0.1.0/24")] {
            let verdict = |prefix: &str| {
                let policy = policy.as_ref().unwrap();
                policy.evaluate(&prefix.parse().unwrap(), &Attributes::default())
            };
            assert_eq!(verdict(inside), Verdict::Reject(Rejection::NoTerm));
            let outside = verdict("10.7.0.0/16");
            assert_eq!(outside, Verdict::Reject(Rejection::NotAuthorized));
        }
    }

    #[test]
    fn what_is_asked_of_a_foreign_peer_is_asked_through_its_tunnel() {
        let mut config = config_with_foreign_peers();
        let Far::Abroad(abroad) = &mut config.tunnels.get_mut(&4).unwrap().far else {
            panic!("it is foreign")
        };
        abroad.inside = Some(Inside {
            own: "169.254.10.2/30".parse().unwrap(),
            far: "169.254.10.1".parse().unwrap(),
        });
        abroad.bfd = Some(routemesh_bfd::Timers {
            interval: Duration::from_millis(300),
            multiplier: 3,
        });
        abroad.ping = Some(Ping {
            source: "169.254.10.2".parse().unwrap(),
            target: "169.254.10.1".parse().unwrap(),
            interval: Duration::from_secs(1),
            lost: 3,
        });
        let setup = setup(&config, &links());
        let way = "rm4-oracle".into();
        assert!(setup.reaches.contains_key(&way));
        let (asked, lost) = &setup.pings[&way];
        assert_eq!((asked.link.as_str(), asked.number, *lost), ("rm4", 4, 3));
        let bfd = &setup.bfd[&way];
        assert_eq!(
            (bfd.link.as_str(), bfd.remote.to_string()),
            ("rm4", "169.254.10.1".to_owned())
        );
    }

    #[test]
    fn a_routers_terms_choose_within_what_the_mesh_allows() {
        let mut config = config();
        let only_wide = proto::Router {
            address: "fd00:1::254".into(),
            asn: 65001,
            import: vec![proto::Term {
                prefixes: vec!["0.0.0.0/0 le 24".into()],
                action: "accept".into(),
                ..proto::Term::default()
            }],
            ..proto::Router::default()
        };
        let raw = proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            routers: vec![only_wide],
            ..proto::Config::default()
        };
        config.routers = Config::try_from(&raw).unwrap().routers;
        let setup = setup(&config, &links());
        let peer = &setup.speaker.peers[&"fd00:1::254".into()];
        let verdict = |prefix: &str| {
            let policy = peer.import.as_ref().unwrap();
            policy.evaluate(&prefix.parse().unwrap(), &Attributes::default())
        };
        assert!(matches!(verdict("10.0.0.0/24"), Verdict::Accept(_)));
        let rejected = Verdict::Reject(Rejection::NoTerm);
        assert_eq!(verdict("10.0.0.0/25"), rejected);
        let rejected = Verdict::Reject(Rejection::NotAuthorized);
        assert_eq!(verdict("10.0.2.0/24"), rejected, "another site's");
    }

    #[test]
    fn a_drained_gateway_tells_all_its_peers_and_a_drained_tunnel_its_far_end() {
        let drained = |config: &Config| -> Vec<String> {
            let peers = setup(config, &links()).speaker.peers.into_iter();
            peers
                .filter(|(_, peer)| peer.drain)
                .map(|(name, _)| name.to_string())
                .collect()
        };
        let mut config = config();
        assert!(drained(&config).is_empty());
        config.tunnels.values_mut().for_each(|it| it.drain = true);
        assert_eq!(drained(&config), ["rm1-V2-1"]);
        let mut foreign = config_with_foreign_peers();
        foreign.tunnels.values_mut().for_each(|it| it.drain = true);
        let reaches = setup(&foreign, &links()).reaches;
        assert!(reaches[&"rm4-oracle".into()].drain);
        config.drain = true;
        assert_eq!(
            drained(&config),
            ["172.16.1.253", "fd00:1::254", "rm1-V2-1"]
        );
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

    /// `lan1`, number 7, has our fe80::1 and two routers; `lan2` has no link-local address yet.
    fn links_with_routers() -> Links {
        let address = |text: &str| -> Ipv6Addr { text.parse().unwrap() };
        Links {
            link_local: [("lan1".to_owned(), (7, address("fe80::1")))].into(),
            routers: [(7, [address("fe80::a"), address("fe80::b")].into())].into(),
            ..links()
        }
    }

    #[test]
    fn routers_are_found_where_they_are_and_ranges_wait_for_theirs() {
        let router = |address: &str, interface: &str, range: &str| proto::Router {
            address: address.into(),
            interface: interface.into(),
            range: range.into(),
            asn: 65001,
            ttl_security: 2,
            password: "hunter2".into(),
            ..proto::Router::default()
        };
        let raw = proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            routers: vec![
                router("fe80::9%lan1", "", ""),
                router("fe80::9%lan2", "", ""),
                router("", "lan1", ""),
                router("", "lan2", ""),
                router("", "", "172.16.0.0/16"),
                router("", "", "172.17.0.0/16"),
            ],
            ..proto::Config::default()
        };
        let config = Config::try_from(&raw).unwrap();
        let setup = setup(&config, &links_with_routers());
        let names: Vec<String> = setup.speaker.peers.keys().map(|p| p.to_string()).collect();
        assert_eq!(names, ["fe80::9%lan1", "fe80::a%lan1", "fe80::b%lan1"]);
        for (id, peer) in &setup.speaker.peers {
            assert_eq!(peer.local.to_string(), "fe80::1");
            let transport = setup.transport(id);
            assert_eq!((transport.scope, transport.minimum_ttl()), (7, 254));
            assert_eq!(transport.password, Some("hunter2".into()));
        }
        let ranges = setup.ranges.iter().map(|range| {
            let locals = range.locals.iter().map(ToString::to_string);
            (range.prefix.to_string(), locals.collect::<Vec<_>>())
        });
        let expected = [
            ("fe80::/10".to_owned(), vec!["fe80::1".to_owned()]),
            ("172.16.0.0/16".to_owned(), vec!["172.16.1.1".to_owned()]),
            // On no subnet of ours.
            ("172.17.0.0/16".to_owned(), Vec::new()),
        ];
        assert_eq!(ranges.collect::<Vec<_>>(), expected);
        let names: Vec<(String, String)> = super::links(&config, &links_with_routers());
        assert!(names.contains(&("fe80::b%lan1".to_owned(), "lan1".to_owned())));
    }

    #[test]
    fn a_router_named_by_address_is_not_the_one_found_on_its_interface() {
        let router = |address: &str, interface: &str, asn| proto::Router {
            address: address.into(),
            interface: interface.into(),
            asn,
            ..proto::Router::default()
        };
        let raw = proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            routers: vec![router("", "lan1", 65001), router("fe80::a%lan1", "", 65002)],
            ..proto::Config::default()
        };
        let config = Config::try_from(&raw).unwrap();
        let peers = setup(&config, &links_with_routers()).speaker.peers;
        let ases = peers
            .iter()
            .map(|(name, peer)| (name.to_string(), peer.asn));
        let expected = [("fe80::a%lan1", 65002), ("fe80::b%lan1", 65001)];
        let expected = expected.map(|(name, asn)| (name.to_owned(), asn));
        assert_eq!(ases.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_tunnels_far_end_is_one_hop_away() {
        let setup = setup(&config(), &links());
        assert_eq!(setup.transport(&"rm1-V2-1".into()).minimum_ttl(), 255);
        assert_eq!(setup.transport(&"fd00:1::254".into()).minimum_ttl(), 0);
    }

    #[test]
    fn a_next_hop_is_on_a_subnet_or_on_its_peers_link() {
        let links = links_with_routers();
        let table = [
            ("172.16.1.253", "172.16.1.7", None, Some("172.16.1.7 lan0")),
            ("172.16.1.253", "192.0.2.1", None, None),
            ("fe80::a%lan1", "fe80::a", None, Some("fe80::a lan1")),
            // FRR and BIRD send a link-local address beside one that may be on no common subnet.
            (
                "fe80::a%lan1",
                "fd00:9::a",
                Some("fe80::a"),
                Some("fe80::a lan1"),
            ),
            (
                "fd00:1::254",
                "fd00:1::254",
                Some("fe80::a"),
                Some("fd00:1::254 lan0"),
            ),
            ("fd00:1::254", "fe80::254", None, Some("fe80::254 lan0")),
            ("fe80::a%lan1", "fd00:9::a", None, None),
        ];
        for (peer, address, link_local, expected) in table {
            let next_hop = NextHop {
                address: address.parse().unwrap(),
                link_local: link_local.map(|text: &str| text.parse().unwrap()),
            };
            let found = nexthop(peer, next_hop, &links);
            let found = found.map(|nexthop| format!("{} {}", nexthop.gateway, nexthop.link));
            assert_eq!(found.as_deref(), expected, "{peer} {address}");
        }
    }
}
