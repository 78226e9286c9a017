//! From configuration, Loc-RIB and link state to what should be in the kernel: pure.
//!
//! [`desired`] says which interfaces and `unreachable` routes there are to be. [`Ways`] resolves the
//! paths of a prefix to nexthops, and [`Sets`] remembers which group serves which set of paths, so
//! that one of a hundred thousand prefixes costs one look-up.

use crate::config::Config;
use crate::kernel::Op;
use crate::mtu;
use crate::peers;
use crate::state::{
    Group, Link, LinkKind, Member, Nexthop, NexthopId, Peer, Place, Side, State, Target, WireGuard,
    ours,
};
use crate::wireguard::PrivateKey;
use hashbrown::HashMap;
use ipnet::IpNet;
use routemesh_bgp::{Hop, PeerId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// What is known of the overlay's interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Subnets, the own address on each, and the interface.
    pub connected: Vec<(IpNet, IpAddr, String)>,
    /// Interfaces that can carry packets now.
    pub usable: BTreeSet<String>,
    /// All interfaces, and the index of each.
    pub indices: BTreeMap<String, u32>,
    /// Interfaces with a link-local address: the index of each, and that address.
    pub link_local: BTreeMap<String, (u32, Ipv6Addr)>,
    /// Routers that made themselves known, by the interface's index.
    pub routers: BTreeMap<u32, BTreeSet<Ipv6Addr>>,
}

impl Links {
    /// The index of an interface; 0 while it is not there.
    pub fn index(&self, link: &str) -> u32 {
        self.indices.get(link).copied().unwrap_or(0)
    }

    /// The interface and own address on the subnet of `neighbour`, the longest prefix first.
    pub fn towards(&self, neighbour: IpAddr) -> Option<(&str, IpAddr)> {
        self.connected
            .iter()
            .filter(|(net, _, _)| net.contains(&neighbour))
            .min_by_key(|(net, _, _)| std::cmp::Reverse(net.prefix_len()))
            .map(|(_, own, link)| (link.as_str(), *own))
    }
}

/// The interfaces, with their MTUs by number of the tunnel, and the `unreachable` routes that there
/// should be beside those in `place`; `key` is this gateway's for WireGuard, whose interfaces are not made
/// without. What stands on the interfaces follows from the Loc-RIB.
pub fn desired(
    config: &Config,
    place: Place,
    mtus: &BTreeMap<u32, u32>,
    key: Option<&PrivateKey>,
) -> State {
    let link = |(number, tunnel)| {
        let mtu = mtus.get(number).copied();
        link(tunnel, mtu.unwrap_or(mtu::IPV6_MINIMUM), key)
    };
    let barrier = |prefix| (place.barrier(prefix), Target::Unreachable);
    State {
        links: config.tunnels.iter().filter_map(link).collect(),
        barriers: config.elsewhere().map(barrier).collect(),
        place,
        ..State::default()
    }
}

/// Keeps interfaces that are wanted no more for as long as charon has something for them
/// (`in_charon`; `None` where that is not known): an SA must not outlive its interface. For WireGuard's,
/// charon never has anything.
pub fn keep_links(state: &mut State, observed: &State, in_charon: Option<&BTreeSet<String>>) {
    let ipsec = |link: &Link| !matches!(link.kind, LinkKind::WireGuard { .. });
    for (name, link) in observed.links.iter().filter(|(_, link)| ipsec(link)) {
        if in_charon.is_none_or(|links| links.contains(name)) {
            let entry = state.links.entry(name.clone());
            entry.or_insert_with(|| link.clone());
        }
    }
}

/// Where this gateway has no key: WireGuard's interfaces that are there stay as they are, with the key that
/// they have. Whether there is any tunnel that wants one.
pub fn keep_keyless(state: &mut State, observed: &State, config: &Config) -> bool {
    let tunnels = config.tunnels.values();
    let mut wanted = tunnels.filter(|it| !it.is_ipsec()).peekable();
    let any = wanted.peek().is_some();
    for name in wanted.map(crate::config::Tunnel::link) {
        if let Some(link) = observed.links.get(&name) {
            state.links.insert(name, link.clone());
        }
    }
    any
}

fn link(
    tunnel: &crate::config::Tunnel,
    mtu: u32,
    key: Option<&PrivateKey>,
) -> Option<(String, Link)> {
    let wireguard = match &tunnel.wireguard {
        None => None,
        Some(it) => Some(WireGuard {
            private_key: key?.clone(),
            port: it.local.port(),
            peer: it.peer.map(|public_key| Peer {
                public_key,
                endpoint: it.remote,
            }),
        }),
    };
    let link = Link {
        side: Side::Overlay,
        kind: tunnel.kind.clone(),
        up: true,
        mtu,
        addresses: tunnel.address().into_iter().collect(),
        wireguard,
    };
    Some((tunnel.link(), link))
}

/// Where the traffic of each peer's paths goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// By the BGP peer's name.
    tunnels: BTreeMap<String, Nexthop>,
    links: Links,
    /// Through groups of this kind.
    resilient: bool,
}

impl Ways {
    /// By this configuration, over these interfaces.
    pub fn new(config: &Config, links: &Links) -> Self {
        let tunnel = |tunnel: &crate::config::Tunnel| {
            let gateway = tunnel.neighbour();
            let link = tunnel.link();
            (tunnel.name(), Nexthop { gateway, link })
        };
        Self {
            tunnels: config.tunnels.values().map(tunnel).collect(),
            links: links.clone(),
            resilient: config.resilient,
        }
    }

    /// The interface can carry packets.
    pub fn is_usable(&self, link: &str) -> bool {
        self.links.usable.contains(link)
    }

    /// Without tunnels and routers.
    #[cfg(test)]
    pub fn over(links: &Links, resilient: bool) -> Self {
        Self {
            links: links.clone(),
            resilient,
            ..Self::default()
        }
    }

    /// Where a path leads; `None` where its next hop is on no subnet of ours.
    fn nexthop(&self, hop: &Hop) -> Option<Nexthop> {
        // Whatever next hop a gateway names, its traffic goes through its own tunnel.
        if let Some(nexthop) = self.tunnels.get(&*hop.peer.0) {
            return Some(nexthop.clone());
        }
        peers::nexthop(&hop.peer.0, hop.next_hop, &self.links)
    }

    /// The nexthops of a set of paths and their weights, without those over interfaces that cannot
    /// carry packets. Next hops on no subnet of ours are added to `unresolved`.
    fn nexthops(&self, hops: &[Hop], unresolved: &mut BTreeSet<IpAddr>) -> BTreeMap<Nexthop, u16> {
        let mut nexthops: BTreeMap<Nexthop, u16> = BTreeMap::new();
        for hop in hops {
            match self.nexthop(hop) {
                None => drop(unresolved.insert(hop.next_hop.address)),
                Some(nexthop) if self.links.usable.contains(&nexthop.link) => {
                    let weight = nexthops.entry(nexthop).or_default();
                    *weight = hop.weight.clamp(1, 256).max(*weight);
                }
                Some(_) => {}
            }
        }
        // A group is of one family: an IPv4 nexthop in it would bar IPv6 routes from it.
        let v6_only = nexthops.keys().any(|n| n.gateway.is_ipv6());
        nexthops.retain(|n, _| n.gateway.is_ipv6() == v6_only);
        nexthops
    }
}

/// What serves a set of paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// This group.
    Group(NexthopId),
    /// None of the paths can carry packets.
    Nothing,
    /// A group that could not be made.
    Unmade,
}

/// The group that serves each set of paths in use.
#[derive(Debug, Default)]
pub struct Sets {
    ways: Ways,
    /// By the address of the set, which is its own for as long as it is held here.
    known: HashMap<usize, Known>,
    nexthops: BTreeMap<Nexthop, NexthopId>,
    groups: BTreeMap<Group, NexthopId>,
    unresolved: BTreeSet<IpAddr>,
    /// Where to go on looking for an id that nothing has.
    next: u32,
}

#[derive(Debug)]
struct Known {
    hops: Arc<[Hop]>,
    nexthops: BTreeMap<Nexthop, u16>,
    group: Option<NexthopId>,
    /// It was asked for, and not again before the next review.
    asked: bool,
}

fn address(hops: &Arc<[Hop]>) -> usize {
    Arc::as_ptr(hops).cast::<Hop>().addr()
}

impl Sets {
    /// Begins again with other ways, or with what the kernel turned out to hold. `again`: what could
    /// not be made is tried once more.
    pub fn review(&mut self, ways: Option<Ways>, state: &State, again: bool) {
        if let Some(ways) = ways {
            self.ways = ways;
        }
        let invert = |(id, nexthop): (&NexthopId, &Nexthop)| (nexthop.clone(), *id);
        self.nexthops = state.nexthops.iter().map(invert).collect();
        let invert = |(id, group): (&NexthopId, &Group)| (group.clone(), *id);
        self.groups = state.groups.iter().map(invert).collect();
        self.unresolved.clear();
        let (ways, unresolved) = (&self.ways, &mut self.unresolved);
        // Sets that nobody else holds are in use no more.
        self.known
            .retain(|_, known| Arc::strong_count(&known.hops) > 1);
        for known in self.known.values_mut() {
            known.nexthops = ways.nexthops(&known.hops, unresolved);
            known.asked &= !again;
            known.group = None;
        }
        let groups: Vec<Option<NexthopId>> = self.known.values().map(|it| self.held(it)).collect();
        for (known, group) in self.known.values_mut().zip(groups) {
            known.group = group;
        }
    }

    /// Paths lead these ways already.
    pub fn leads(&self, ways: &Ways) -> bool {
        self.ways == *ways
    }

    /// Next hops on no subnet of ours.
    pub fn unresolved(&self) -> impl Iterator<Item = IpAddr> {
        self.unresolved.iter().copied()
    }

    /// What serves a set, if it is known.
    pub fn serves(&self, hops: &Arc<[Hop]>) -> Service {
        match self.known.get(&address(hops)) {
            Some(known) if known.nexthops.is_empty() => Service::Nothing,
            Some(Known {
                group: Some(id), ..
            }) => Service::Group(*id),
            _ => Service::Unmade,
        }
    }

    /// The nexthops and groups that these sets need and that are not there, once. What is made of
    /// them is taken for done: [`Sets::review`] where it was not.
    pub fn make<'a>(
        &mut self,
        sets: impl Iterator<Item = &'a Arc<[Hop]>>,
        state: &State,
        taken: &BTreeSet<NexthopId>,
    ) -> Vec<Op> {
        let mut ops = Vec::new();
        let mut last = 0;
        for hops in sets {
            // Neighbours mostly have the same.
            if std::mem::replace(&mut last, address(hops)) == address(hops) {
                continue;
            }
            let known = self.known.get(&address(hops));
            if known.is_some_and(|it| it.asked || it.group.is_some() || it.nexthops.is_empty()) {
                continue;
            }
            let mut known = Known {
                hops: hops.clone(),
                nexthops: self.ways.nexthops(hops, &mut self.unresolved),
                group: None,
                asked: true,
            };
            known.group = self.held(&known);
            if known.group.is_none() && !known.nexthops.is_empty() {
                known.group = self.ask(&known.nexthops, state, taken, &mut ops);
            }
            self.known.insert(address(hops), known);
        }
        ops
    }

    /// The nexthops that only this peer's paths lead to. Its sets are forgotten: they come again
    /// if it does.
    pub fn lose(&mut self, peer: &PeerId) -> BTreeSet<NexthopId> {
        let (mut dying, mut living) = (BTreeSet::new(), BTreeSet::new());
        for hop in self.known.values().flat_map(|known| known.hops.iter()) {
            let side = if hop.peer == *peer {
                &mut dying
            } else {
                &mut living
            };
            side.extend(self.ways.nexthop(hop));
        }
        self.known
            .retain(|_, known| known.hops.iter().all(|hop| hop.peer != *peer));
        let only = dying.difference(&living);
        only.filter_map(|nexthop| self.nexthops.get(nexthop).copied())
            .collect()
    }

    /// The group that holds what the set asks for.
    fn held(&self, known: &Known) -> Option<NexthopId> {
        let member = |(nexthop, weight): (&Nexthop, &u16)| {
            let (id, weight) = (*self.nexthops.get(nexthop)?, *weight);
            Some(Member { id, weight })
        };
        let members: Option<BTreeSet<Member>> = known.nexthops.iter().map(member).collect();
        let group = Group {
            members: members?,
            resilient: self.ways.resilient,
        };
        self.groups.get(&group).copied()
    }

    fn ask(
        &mut self,
        nexthops: &BTreeMap<Nexthop, u16>,
        state: &State,
        taken: &BTreeSet<NexthopId>,
        ops: &mut Vec<Op>,
    ) -> Option<NexthopId> {
        let mut members = BTreeSet::new();
        for (nexthop, weight) in nexthops {
            let id = match self.nexthops.get(nexthop) {
                Some(id) => *id,
                None => {
                    let id = self.fresh(state, taken)?;
                    self.nexthops.insert(nexthop.clone(), id);
                    ops.push(Op::PutNexthop {
                        id,
                        nexthop: nexthop.clone(),
                        replace: false,
                    });
                    id
                }
            };
            let weight = *weight;
            members.insert(Member { id, weight });
        }
        let id = self.fresh(state, taken)?;
        let group = Group {
            members,
            resilient: self.ways.resilient,
        };
        self.groups.insert(group.clone(), id);
        ops.push(Op::PutGroup {
            id,
            group,
            replace: false,
        });
        Some(id)
    }

    /// An id that nothing has: one in use never changes its meaning. `None` once all sixteen
    /// million are.
    fn fresh(&mut self, state: &State, taken: &BTreeSet<NexthopId>) -> Option<NexthopId> {
        let (first, last) = (*ours::NEXTHOPS.start(), *ours::NEXTHOPS.end());
        // The last one means something else in the table of routes.
        for _ in first..last {
            let id = NexthopId(self.next.clamp(first, last - 1));
            self.next = if id.0 == last - 1 { first } else { id.0 + 1 };
            let held = state.nexthops.contains_key(&id) || state.groups.contains_key(&id);
            if !held && !taken.contains(&id) && state.routes.users(id) == 0 {
                return Some(id);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_bgp::wire::NextHop;
    use routemesh_proto as proto;

    /// Site one, this one, behind a router; site two with two gateways.
    fn config() -> Config {
        let site = |name: &str, prefixes: &[&str]| proto::Site {
            name: name.into(),
            prefixes: prefixes.iter().map(ToString::to_string).collect(),
            ..proto::Site::default()
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
            ..proto::Tunnel::default()
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
        let lan = |net: &str, own: &str| {
            let (net, own) = (net.parse().unwrap(), own.parse().unwrap());
            (net, own, "lan0".to_owned())
        };
        Links {
            connected: vec![
                lan("172.16.1.0/24", "172.16.1.1"),
                lan("fd00:1::/64", "fd00:1::1"),
            ],
            usable: ["lan0", "rm1", "rm2"].map(String::from).into(),
            ..Links::default()
        }
    }

    fn hop(peer: &str, next_hop: &str, weight: u16) -> Hop {
        Hop {
            peer: peer.into(),
            next_hop: NextHop {
                address: next_hop.parse().unwrap(),
                link_local: None,
            },
            weight,
        }
    }

    /// Interfaces and weights of a set, and what could not be resolved.
    fn resolve(hops: &[Hop], links: &Links) -> (Vec<(String, u16)>, Vec<String>) {
        let mut unresolved = BTreeSet::new();
        let nexthops = Ways::new(&config(), links).nexthops(hops, &mut unresolved);
        let nexthops = nexthops.into_iter().map(|(it, weight)| (it.link, weight));
        let unresolved = unresolved.iter().map(ToString::to_string);
        (nexthops.collect(), unresolved.collect())
    }

    fn both() -> [Hop; 2] {
        [
            hop("rm1-V2-1", "2001:db8:ff::3", 1),
            // A next hop of somebody else still goes through the peer's own tunnel.
            hop("rm2-V2-2", "fd00:1::66", 100),
        ]
    }

    #[test]
    fn paths_lead_through_their_tunnels_by_their_weights() {
        let expected = vec![("rm1".to_owned(), 1), ("rm2".to_owned(), 100)];
        assert_eq!(resolve(&both(), &links()), (expected, vec![]));
    }

    #[test]
    fn a_dead_link_carries_nothing() {
        let mut links = links();
        links.usable.remove("rm1");
        let expected = vec![("rm2".to_owned(), 100)];
        assert_eq!(resolve(&both(), &links), (expected, vec![]));
    }

    #[test]
    fn a_next_hop_on_no_subnet_is_named() {
        let stray = hop("fd00:1::254", "fd00:9::1", 1);
        let expected = vec!["fd00:9::1".to_owned()];
        assert_eq!(resolve(&[stray], &links()), (vec![], expected));
    }

    #[test]
    fn two_paths_to_one_nexthop_are_one_and_the_weight_has_bounds() {
        let third = |peer, weight| hop(peer, "fd00:1::9", weight);
        let hops = [third("fd00:1::254", 3), third("fd00:1::253", 300)];
        let expected = vec![("lan0".to_owned(), 256)];
        assert_eq!(resolve(&hops, &links()), (expected, vec![]));
    }

    #[test]
    fn a_group_is_of_one_family() {
        let v4 = hop("172.16.1.254", "172.16.1.254", 1);
        let alone = vec![("lan0".to_owned(), 1)];
        assert_eq!(resolve(std::slice::from_ref(&v4), &links()).0, alone);
        let [v6, _] = both();
        assert_eq!(resolve(&[v4, v6], &links()).0, [("rm1".to_owned(), 1)]);
    }

    #[test]
    fn what_no_tunnel_serves_is_unreachable_and_our_own_is_not() {
        let barriers = desired(
            &config(),
            Place::default(),
            &BTreeMap::new(),
            Some(&[1; 32].into()),
        )
        .barriers;
        let prefixes: Vec<String> = barriers.keys().map(|it| it.prefix.to_string()).collect();
        assert_eq!(prefixes, ["10.0.2.0/24", "2001:db8:a2::/64"]);
        let worst = |(key, target): (&crate::state::RouteKey, &Target)| {
            key.metric == u32::MAX && *target == Target::Unreachable
        };
        assert!(barriers.iter().all(worst));
    }

    #[test]
    fn equal_sets_share_a_group_and_a_group_once_made_is_found_again() {
        let mut state = State::default();
        let mut sets = Sets::default();
        sets.review(Some(Ways::new(&config(), &links())), &state, true);
        let set: Arc<[Hop]> = both().into();
        let twin: Arc<[Hop]> = both().into();
        let ops = sets.make([&set, &twin].into_iter(), &state, &BTreeSet::new());
        assert_eq!(ops.len(), 3, "two nexthops and a group");
        ops.iter().for_each(|op| state.done(op));
        let Service::Group(group) = sets.serves(&set) else {
            panic!("{sets:?}");
        };
        assert_eq!(sets.serves(&twin), Service::Group(group));
        // An agent that begins anew.
        let mut sets = Sets::default();
        sets.review(Some(Ways::new(&config(), &links())), &state, true);
        assert_eq!(sets.make([&set].into_iter(), &state, &BTreeSet::new()), []);
        assert_eq!(sets.serves(&set), Service::Group(group));
    }

    #[test]
    fn an_id_that_a_stranger_holds_is_passed_over() {
        let taken = BTreeSet::from([NexthopId(*ours::NEXTHOPS.start())]);
        let mut sets = Sets::default();
        let state = State::default();
        sets.review(Some(Ways::new(&config(), &links())), &state, true);
        for op in sets.make([&both().into()].into_iter(), &state, &taken) {
            let (Op::PutNexthop { id, .. } | Op::PutGroup { id, .. }) = op else {
                panic!("{op}");
            };
            assert!(!taken.contains(&id));
        }
    }

    #[test]
    fn tunnels_become_links_with_their_interconnect() {
        let addresses = &desired(
            &config(),
            Place::default(),
            &BTreeMap::new(),
            Some(&[1; 32].into()),
        )
        .links["rm1"]
            .addresses;
        let first = addresses.first().map(ToString::to_string);
        assert_eq!(first, Some("2001:db8:ff::2/127".into()));
    }

    #[test]
    fn an_interface_goes_only_after_all_that_charon_has_for_it() {
        let mut observed = desired(
            &config(),
            Place::default(),
            &BTreeMap::new(),
            Some(&[1; 32].into()),
        );
        let old = observed.links["rm1"].clone();
        observed.links.insert("rm9".into(), old);
        let kept = |in_charon: Option<&BTreeSet<String>>| {
            let mut state = desired(
                &config(),
                Place::default(),
                &BTreeMap::new(),
                Some(&[1; 32].into()),
            );
            keep_links(&mut state, &observed, in_charon);
            state.links.contains_key("rm9")
        };
        assert!(kept(None));
        assert!(kept(Some(&["rm1", "rm9"].map(String::from).into())));
        assert!(!kept(Some(&["rm1"].map(String::from).into())));
    }
}
