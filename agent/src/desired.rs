//! From configuration, Loc-RIB and link state to the [`State`] that should be: pure.
//!
//! Two steps. [`routes`] resolves every path in use to a [`Nexthop`] and finds what cannot be
//! resolved. [`desired`] numbers nexthops and groups, keeping the numbers of what the kernel holds
//! already, and adds interfaces and the `unreachable` routes.

use crate::config::{Config, Tunnel};
use crate::peers;
use crate::state::{Link, Member, Nexthop, NexthopId, RouteKey, Side, State, Target, ours};
use ipnet::IpNet;
use routemesh_bgp::wire::NextHop;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// Where the traffic of each prefix should go, before nexthops have numbers.
pub type Routes = BTreeMap<IpNet, BTreeSet<Nexthop>>;

/// MTU of tunnel interfaces: that of the usual outer path. Path MTU discovery takes off what ESP
/// needs; a smaller value here would be a guess that is wrong for other ciphers.
const MTU: u32 = 1500;

/// One path in use, as BGP chose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The BGP peer: a tunnel's name or a router's address.
    pub peer: String,
    /// The next hop that it gave.
    pub next_hop: NextHop,
}

/// What is known of the overlay's interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Subnets, the own address on each, and the interface.
    pub connected: Vec<(IpNet, IpAddr, String)>,
    /// Interfaces that can carry packets now.
    pub usable: BTreeSet<String>,
    /// Interfaces with a link-local address: the index of each, and that address.
    pub link_local: BTreeMap<String, (u32, Ipv6Addr)>,
    /// Routers that made themselves known, by the interface's index.
    pub routers: BTreeMap<u32, BTreeSet<Ipv6Addr>>,
}

impl Links {
    /// The interface and own address on the subnet of `neighbour`, the longest prefix first.
    pub fn towards(&self, neighbour: IpAddr) -> Option<(&str, IpAddr)> {
        self.connected
            .iter()
            .filter(|(net, _, _)| net.contains(&neighbour))
            .min_by_key(|(net, _, _)| std::cmp::Reverse(net.prefix_len()))
            .map(|(_, own, link)| (link.as_str(), *own))
    }
}

/// Resolves the paths of every prefix. A path over an interface that cannot carry packets is left
/// out; a next hop on no subnet of ours is left out and named in the second value.
pub fn routes(
    config: &Config,
    loc_rib: &BTreeMap<IpNet, Vec<Path>>,
    links: &Links,
) -> (Routes, BTreeSet<IpAddr>) {
    let tunnels: BTreeMap<String, &Tunnel> =
        config.tunnels.values().map(|t| (t.name(), t)).collect();
    let mut unresolved = BTreeSet::new();
    let mut resolve = |path: &Path| -> Option<Nexthop> {
        let nexthop = match tunnels.get(&path.peer) {
            // Whatever next hop a gateway names, its traffic goes through its own tunnel.
            Some(tunnel) => Nexthop {
                gateway: IpAddr::V6(tunnel.remote),
                link: tunnel.link(),
            },
            None => match peers::nexthop(&path.peer, path.next_hop, links) {
                Some(nexthop) => nexthop,
                None => {
                    unresolved.insert(path.next_hop.address);
                    return None;
                }
            },
        };
        links.usable.contains(&nexthop.link).then_some(nexthop)
    };
    let mut routes = Routes::new();
    for (prefix, paths) in loc_rib {
        let nexthops: BTreeSet<Nexthop> = paths.iter().filter_map(&mut resolve).collect();
        // A group is of one family: an IPv4 nexthop in it would bar IPv6 routes from it.
        let v6_only = nexthops.iter().any(|n| n.gateway.is_ipv6());
        let nexthops: BTreeSet<_> = nexthops
            .into_iter()
            .filter(|n| n.gateway.is_ipv6() == v6_only)
            .collect();
        if !nexthops.is_empty() {
            routes.insert(*prefix, nexthops);
        }
    }
    (routes, unresolved)
}

/// What should be in the kernel.
///
/// Until `settled` (every peer has told all it knows) what
/// is observed stays as it is beside what is new, so that nothing is deleted for want of knowledge.
pub fn desired(config: &Config, routes: &Routes, settled: bool, observed: &State) -> State {
    let mut state = State {
        links: config.tunnels.values().map(link).collect(),
        ..State::default()
    };
    let mut ids = Ids::new(observed);
    let singles: BTreeSet<&Nexthop> = routes.values().flatten().collect();
    let held = invert(&observed.nexthops);
    let numbers: BTreeMap<&Nexthop, NexthopId> = singles
        .into_iter()
        .filter_map(|nexthop| Some((nexthop, ids.of(held.get(nexthop).copied())?)))
        .collect();
    state.nexthops = numbers.iter().map(|(n, id)| (*id, (*n).clone())).collect();

    let held = invert(&observed.groups);
    let mut groups: BTreeMap<BTreeSet<Member>, NexthopId> = BTreeMap::new();
    for (prefix, nexthops) in routes {
        let members: BTreeSet<Member> = nexthops
            .iter()
            .filter_map(|n| numbers.get(n))
            .map(|id| Member { id: *id, weight: 1 })
            .collect();
        let id = match groups.get(&members) {
            Some(id) => *id,
            None => {
                let Some(id) = ids.of(held.get(&members).copied()) else {
                    continue;
                };
                groups.insert(members, id);
                id
            }
        };
        let key = RouteKey {
            prefix: *prefix,
            metric: ours::METRIC,
        };
        state.routes.insert(key, Target::Group(id));
    }
    state.groups = groups.into_iter().map(|(m, id)| (id, m)).collect();
    for prefix in config.elsewhere() {
        let key = RouteKey {
            prefix,
            metric: ours::METRIC_UNREACHABLE,
        };
        state.routes.insert(key, Target::Unreachable);
    }
    if !settled {
        keep(&mut state, observed);
    }
    state
}

/// Keeps interfaces that are wanted no more for as long as charon has something for them
/// (`in_charon`; `None` where that is not known): an SA must not outlive its interface.
pub fn keep_links(state: &mut State, observed: &State, in_charon: Option<&BTreeSet<&str>>) {
    for (name, link) in &observed.links {
        if in_charon.is_none_or(|links| links.contains(name.as_str())) {
            let entry = state.links.entry(name.clone());
            entry.or_insert_with(|| link.clone());
        }
    }
}

fn link(tunnel: &Tunnel) -> (String, Link) {
    let link = Link {
        side: Side::Overlay,
        kind: tunnel.kind.clone(),
        up: true,
        mtu: MTU,
        // 127 is a valid length: never an error, but no panic either if it were.
        addresses: IpNet::new(IpAddr::V6(tunnel.local), 127)
            .into_iter()
            .collect(),
    };
    (tunnel.link(), link)
}

/// Routes of the kernel stay as they are, with all that they stand on.
fn keep(state: &mut State, observed: &State) {
    state.nexthops.extend(observed.nexthops.clone());
    state.groups.extend(observed.groups.clone());
    state
        .routes
        .extend(observed.routes.iter().map(|(k, t)| (*k, *t)));
}

fn invert<T: Ord + Clone>(objects: &BTreeMap<NexthopId, T>) -> BTreeMap<T, NexthopId> {
    objects.iter().map(|(id, o)| (o.clone(), *id)).collect()
}

/// Gives out ids that the kernel does not hold: an id in use never changes its meaning.
struct Ids {
    taken: BTreeSet<NexthopId>,
    next: u32,
}

impl Ids {
    fn new(observed: &State) -> Self {
        Self {
            taken: observed
                .nexthops
                .keys()
                .chain(observed.groups.keys())
                .copied()
                .collect(),
            next: *ours::NEXTHOPS.start(),
        }
    }

    /// The id already held, or a free one; `None` once all sixteen million are taken.
    fn of(&mut self, held: Option<NexthopId>) -> Option<NexthopId> {
        if held.is_some() {
            return held;
        }
        while self.taken.contains(&NexthopId(self.next)) {
            self.next += 1;
        }
        let id = NexthopId(self.next);
        self.next += 1;
        ours::NEXTHOPS.contains(&id.0).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_proto as proto;

    /// Site one, this one, behind a router; site two with two gateways.
    fn config() -> Config {
        let site = |name: &str, prefixes: &[&str]| proto::Site {
            name: name.into(),
            prefixes: prefixes.iter().map(ToString::to_string).collect(),
        };
        let tunnel = |number: u32| proto::Tunnel {
            number,
            peer: format!("V2-{number}"),
            peer_site: "two".into(),
            peer_asn: 65000,
            kind: "xfrm".into(),
            local_endpoint: "192.0.2.1".into(),
            remote_endpoint: format!("198.51.100.{number}"),
            local_address: format!("2001:db8:ff::{:x}", 2 * number),
            remote_address: format!("2001:db8:ff::{:x}", 2 * number + 1),
            initiate: true,
        };
        let raw = proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            sites: vec![
                site("one", &["10.0.1.0/24"]),
                site("two", &["10.0.2.0/24", "2001:db8:a2::/64"]),
            ],
            tunnels: vec![tunnel(1), tunnel(2)],
            ..proto::Config::default()
        };
        Config::try_from(&raw).unwrap()
    }

    fn links() -> Links {
        let lan = (
            "fd00:1::/64".parse().unwrap(),
            "fd00:1::1".parse().unwrap(),
            "lan0".into(),
        );
        Links {
            connected: vec![lan],
            usable: ["lan0", "rm1", "rm2"].map(String::from).into(),
            ..Links::default()
        }
    }

    fn path(peer: &str, next_hop: &str) -> Path {
        Path {
            peer: peer.into(),
            next_hop: NextHop {
                address: next_hop.parse().unwrap(),
                link_local: None,
            },
        }
    }

    /// Two prefixes of site two over both tunnels, one of our own from the router.
    fn loc_rib() -> BTreeMap<IpNet, Vec<Path>> {
        let both = || {
            vec![
                path("rm1-V2-1", "2001:db8:ff::3"),
                path("rm2-V2-2", "2001:db8:ff::5"),
            ]
        };
        let own = vec![path("fd00:1::254", "fd00:1::254")];
        let entry = |prefix: &str, paths| (prefix.parse().unwrap(), paths);
        BTreeMap::from([
            entry("10.0.1.0/24", own),
            entry("10.0.2.0/24", both()),
            entry("2001:db8:a2::/64", both()),
        ])
    }

    fn make(loc_rib: &BTreeMap<IpNet, Vec<Path>>, settled: bool, observed: &State) -> State {
        let config = config();
        let (routes, unresolved) = routes(&config, loc_rib, &links());
        assert_eq!(unresolved, BTreeSet::new());
        desired(&config, &routes, settled, observed)
    }

    fn target(state: &State, prefix: &str, metric: u32) -> Option<Target> {
        let prefix = prefix.parse().unwrap();
        state.routes.get(&RouteKey { prefix, metric }).copied()
    }

    #[test]
    fn both_families_share_one_group_of_both_tunnels() {
        let state = make(&loc_rib(), true, &State::default());
        let Some(Target::Group(group)) = target(&state, "10.0.2.0/24", ours::METRIC) else {
            panic!("no route: {state:?}");
        };
        assert_eq!(
            target(&state, "2001:db8:a2::/64", ours::METRIC),
            Some(Target::Group(group))
        );
        let via: Vec<&str> = state.groups[&group]
            .iter()
            .map(|m| state.nexthops[&m.id].link.as_str())
            .collect();
        assert_eq!(via, ["rm1", "rm2"]);
        assert_eq!((state.groups.len(), state.nexthops.len()), (2, 3));
    }

    #[test]
    fn what_no_tunnel_serves_is_unreachable_and_our_own_is_not() {
        let state = make(&BTreeMap::new(), true, &State::default());
        for prefix in ["10.0.2.0/24", "2001:db8:a2::/64"] {
            assert_eq!(
                target(&state, prefix, ours::METRIC_UNREACHABLE),
                Some(Target::Unreachable)
            );
        }
        assert_eq!(state.routes.len(), 2);
    }

    #[test]
    fn a_next_hop_of_somebody_else_still_goes_through_the_peers_own_tunnel() {
        let mut rib = loc_rib();
        rib.insert(
            "10.0.2.0/24".parse().unwrap(),
            vec![path("rm1-V2-1", "fd00:1::66")],
        );
        let (routes, _) = routes(&config(), &rib, &links());
        let nexthops = &routes[&"10.0.2.0/24".parse().unwrap()];
        assert_eq!(nexthops.first().map(|n| n.link.as_str()), Some("rm1"));
    }

    #[test]
    fn a_next_hop_on_no_subnet_is_named() {
        let mut rib = loc_rib();
        rib.insert(
            "10.0.1.128/25".parse().unwrap(),
            vec![path("fd00:1::254", "fd00:9::1")],
        );
        let (routes, unresolved) = routes(&config(), &rib, &links());
        assert_eq!(unresolved, BTreeSet::from(["fd00:9::1".parse().unwrap()]));
        assert!(!routes.contains_key(&"10.0.1.128/25".parse().unwrap()));
    }

    #[test]
    fn a_dead_link_carries_nothing() {
        let mut links = links();
        links.usable.remove("rm1");
        let (routes, _) = routes(&config(), &loc_rib(), &links);
        let nexthops = &routes[&"10.0.2.0/24".parse().unwrap()];
        let via: Vec<&str> = nexthops.iter().map(|n| n.link.as_str()).collect();
        assert_eq!(via, ["rm2"]);
    }

    #[test]
    fn what_is_there_keeps_its_ids() {
        let first = make(&loc_rib(), true, &State::default());
        // As the kernel might hold it: the same content under other ids.
        let shift = |id: NexthopId| NexthopId(id.0 + 100);
        let target = |target: &Target| match target {
            Target::Group(id) => Target::Group(shift(*id)),
            Target::Unreachable => Target::Unreachable,
        };
        let shifted = State {
            nexthops: first
                .nexthops
                .iter()
                .map(|(id, n)| (shift(*id), n.clone()))
                .collect(),
            groups: first
                .groups
                .iter()
                .map(|(id, members)| {
                    let shifted = members.iter().map(|m| Member {
                        id: shift(m.id),
                        ..*m
                    });
                    (shift(*id), shifted.collect())
                })
                .collect(),
            routes: first
                .routes
                .iter()
                .map(|(key, t)| (*key, target(t)))
                .collect(),
            ..first.clone()
        };
        assert_eq!(make(&loc_rib(), true, &shifted), shifted);
    }

    #[test]
    fn a_shrunken_group_is_found_again() {
        let mut observed = make(&loc_rib(), true, &State::default());
        let lost = observed.nexthops.iter().find(|(_, n)| n.link == "rm2");
        let lost = *lost.unwrap().0;
        crate::plan::forget_nexthop(&mut observed, lost);
        let mut rib = loc_rib();
        for paths in rib.values_mut() {
            paths.retain(|path| path.peer != "rm2-V2-2");
        }
        assert_eq!(make(&rib, true, &observed), observed);
    }

    #[test]
    fn nothing_goes_before_all_is_known() {
        let before = make(&loc_rib(), true, &State::default());
        let mut rib = loc_rib();
        rib.remove(&"10.0.2.0/24".parse().unwrap());
        rib.insert(
            "2001:db8:a2::/64".parse().unwrap(),
            vec![path("rm1-V2-1", "::1")],
        );
        rib.insert(
            "10.0.2.128/25".parse().unwrap(),
            vec![path("rm1-V2-1", "::1")],
        );
        let unsettled = make(&rib, false, &before);
        for (key, target) in &before.routes {
            assert_eq!(unsettled.routes.get(key), Some(target));
        }
        assert!(target(&unsettled, "10.0.2.128/25", ours::METRIC).is_some());
        let settled = make(&rib, true, &before);
        assert_eq!(target(&settled, "10.0.2.0/24", ours::METRIC), None);
    }

    #[test]
    fn tunnels_become_links_with_their_interconnect() {
        let state = make(&BTreeMap::new(), true, &State::default());
        let addresses = &state.links["rm1"].addresses;
        let first = addresses.first().map(ToString::to_string);
        assert_eq!(first, Some("2001:db8:ff::2/127".into()));
    }

    #[test]
    fn an_interface_goes_only_after_all_that_charon_has_for_it() {
        let mut observed = make(&BTreeMap::new(), true, &State::default());
        let old = observed.links["rm1"].clone();
        observed.links.insert("rm9".into(), old);
        let kept = |in_charon: Option<&BTreeSet<&str>>| {
            let mut state = make(&BTreeMap::new(), true, &observed);
            keep_links(&mut state, &observed, in_charon);
            state.links.contains_key("rm9")
        };
        assert!(kept(None));
        assert!(kept(Some(&BTreeSet::from(["rm1", "rm9"]))));
        assert!(!kept(Some(&BTreeSet::from(["rm1"]))));
    }
}
