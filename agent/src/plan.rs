//! The difference between what should be and what the kernel holds as ordered operations: pure.
//!
//! What is new comes before what stands on it, what is gone goes after what stood on it, and the
//! old is taken away only when the new is there. [`plan`] is about interfaces and `unreachable`
//! routes, [`routes`] about some of the routes that carry traffic, whose groups are there already
//! ([`Sets::make`](crate::desired::Sets::make)), and [`tidy`] about groups and nexthops that nothing
//! uses any more.

use crate::desired::{Service, Sets};
use crate::kernel::Op;
use crate::state::{Link, NexthopId, Side, State, Target, WireGuard};
use ipnet::IpNet;
use routemesh_bgp::Hop;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A prefix and its ECMP set as it is now; `None`: not in use any more.
pub type Change = (IpNet, Option<Arc<[Hop]>>);

/// The operations that turn the interfaces and barriers of `observed` into those of `desired`, in
/// order. Empty if they are equal. Nothing is taken away before `settled`, and no interface while
/// a nexthop is over it.
pub fn plan(desired: &State, observed: &State, settled: bool) -> Vec<Op> {
    let mut ops = Vec::new();
    // They stand on nothing, and keep traffic from the default route while the rest is made.
    for (key, target) in changed(&desired.barriers, &observed.barriers) {
        ops.push(Op::PutRoute {
            key: *key,
            target: *target,
            replace: observed.barriers.contains_key(key),
        });
    }
    // A kind cannot be changed on a living interface, and two cannot share a name.
    for (name, link) in &desired.links {
        let mut old = observed.links.get(name);
        if let Some(other) = old.filter(|old| old.kind != link.kind) {
            ops.push(del_link(name, other));
            old = None;
        }
        put_link(name, link, old, &mut ops);
    }
    if settled {
        let stale = gone(&desired.barriers, &observed.barriers);
        ops.extend(stale.map(|(key, _)| Op::DelRoute { key: *key }));
        let free = |name: &String| observed.nexthops.values().all(|n| n.link != *name);
        let stale = gone(&desired.links, &observed.links).filter(|(name, _)| free(name));
        ops.extend(stale.map(|(name, link)| del_link(name, link)));
    }
    ops
}

/// The operations that give these prefixes the service they should have, where it is another.
/// Before `settled`, what an earlier run left stays as it is.
///
/// Replacing puts the first route of a key away, whosesoever it is: where a stranger holds the key
/// too (`shared`), ours stays as it is, and the kernel's refusal is reported until he is gone.
pub fn routes(
    changes: &[Change],
    sets: &Sets,
    state: &State,
    shared: &BTreeSet<IpNet>,
    settled: bool,
) -> Vec<Op> {
    let route = |(prefix, hops): &Change| {
        let held = state.routes.get(prefix);
        if !settled && state.routes.is_inherited(prefix) {
            return None;
        }
        let key = state.place.key(*prefix);
        let service = hops.as_ref().map_or(Service::Nothing, |it| sets.serves(it));
        match (service, held) {
            (Service::Unmade, _) | (Service::Nothing, None) => None,
            (Service::Nothing, Some(_)) => Some(Op::DelRoute { key }),
            (Service::Group(id), Some(held)) if same(state, id, held) => None,
            (Service::Group(id), held) => Some(Op::PutRoute {
                key,
                target: Target::Group(id),
                replace: held.is_some() && !shared.contains(prefix),
            }),
        }
    };
    changes.iter().filter_map(route).collect()
}

/// Groups are known by what they hold: one that shrank to what another holds serves as well.
fn same(state: &State, one: NexthopId, other: NexthopId) -> bool {
    let group = |id| state.groups.get(&id);
    one == other || group(one).is_some_and(|it| group(other) == Some(it))
}

/// Takes away groups that serve no route, and nexthops that are in no group but those.
pub fn tidy(state: &State) -> Vec<Op> {
    let idle = |id: &NexthopId| state.routes.users(*id) == 0;
    let (idle, busy): (Vec<_>, Vec<_>) = state.groups.iter().partition(|(id, _)| idle(id));
    let members = busy.into_iter().flat_map(|(_, group)| &group.members);
    let used: BTreeSet<NexthopId> = members.map(|member| member.id).collect();
    let groups = idle.into_iter().map(|(id, _)| Op::DelGroup { id: *id });
    let nexthops = state.nexthops.keys().filter(|id| !used.contains(id));
    let nexthops = nexthops.map(|id| Op::DelNexthop { id: *id });
    groups.chain(nexthops).collect()
}

/// Takes away all there is.
pub fn teardown(state: &State) -> Vec<Op> {
    let routes = state.routes.iter();
    let routes = routes.map(|(prefix, _)| state.place.key(prefix));
    let routes = routes.chain(state.barriers.keys().copied());
    let routes = routes.map(|key| Op::DelRoute { key });
    let groups = state.groups.keys().map(|id| Op::DelGroup { id: *id });
    let nexthops = state.nexthops.keys().map(|id| Op::DelNexthop { id: *id });
    let links = state.links.iter().map(|(name, link)| del_link(name, link));
    routes.chain(groups).chain(nexthops).chain(links).collect()
}

/// Entries of `desired` that are missing or different in `observed`.
fn changed<'a, K: Ord, V: PartialEq>(
    desired: &'a BTreeMap<K, V>,
    observed: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    desired
        .iter()
        .filter(|(key, value)| observed.get(key) != Some(value))
}

/// Entries of `observed` whose key is not desired.
fn gone<'a, K: Ord, V>(
    desired: &'a BTreeMap<K, V>,
    observed: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    observed
        .iter()
        .filter(|(key, _)| !desired.contains_key(key))
}

fn del_link(name: &str, link: &Link) -> Op {
    Op::DelLink {
        name: name.to_owned(),
        side: link.side,
    }
}

fn put_link(name: &str, link: &Link, old: Option<&Link>, ops: &mut Vec<Op>) {
    let mut push = |op| ops.push(op);
    let owned = || name.to_owned();
    if old.is_none() {
        push(Op::AddLink {
            name: owned(),
            kind: link.kind.clone(),
            mtu: link.mtu,
        });
    }
    // A move takes addresses away and sets the interface down.
    let settled = old.filter(|old| old.side == link.side);
    if settled.is_none() && link.side == Side::Overlay {
        push(Op::MoveLink { name: owned() });
    }
    let before = settled.and_then(|old| old.wireguard.as_ref());
    if let Some(wireguard) = link.wireguard.as_ref().filter(|it| before != Some(*it)) {
        let key = |it: &WireGuard| it.peer.as_ref().map(|peer| peer.public_key);
        push(Op::SetWireGuard {
            name: owned(),
            wireguard: Box::new(wireguard.clone()),
            anew: before.is_none_or(|before| key(before) != key(wireguard)),
        });
    }
    let has = |address| settled.is_some_and(|old| old.addresses.contains(address));
    for address in link.addresses.iter().filter(|address| !has(address)) {
        push(Op::AddAddress {
            link: owned(),
            address: *address,
        });
    }
    for address in settled.iter().flat_map(|old| &old.addresses) {
        if !link.addresses.contains(address) {
            push(Op::DelAddress {
                link: owned(),
                address: *address,
            });
        }
    }
    if settled.is_none_or(|old| (old.up, old.mtu) != (link.up, link.mtu)) {
        push(Op::SetLink {
            name: owned(),
            up: link.up,
            mtu: link.mtu,
        });
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::state::{Group, LinkKind, Member, Nexthop, Peer, Place};
    use proptest::prelude::*;

    fn link() -> impl Strategy<Value = Link> {
        let side = prop_oneof![4 => Just(Side::Overlay), 1 => Just(Side::Underlay)];
        let addresses = proptest::collection::btree_set(0u8..3, 0..3);
        let kind = prop_oneof![
            (0u32..2).prop_map(|if_id| (LinkKind::Xfrm { if_id }, None)),
            wireguard().prop_map(|it| (LinkKind::WireGuard { group: 0 }, Some(it))),
        ];
        (side, kind, any::<bool>(), addresses).prop_map(|(side, kind, up, addresses)| Link {
            side,
            kind: kind.0,
            wireguard: kind.1.filter(|_| side == Side::Overlay),
            up,
            mtu: 1500,
            addresses: addresses
                .into_iter()
                .map(|n| format!("2001:db8:ff::{n}/127").parse().unwrap())
                .collect(),
        })
    }

    fn wireguard() -> impl Strategy<Value = WireGuard> {
        let peer = (0u8..2, 1u16..3).prop_map(|(key, port)| Peer {
            public_key: [key; 32].into(),
            endpoint: ([192, 0, 2, 1], port).into(),
        });
        let all = (0u8..2, 1u16..3, proptest::option::of(peer));
        all.prop_map(|(key, port, peer)| WireGuard {
            private_key: [key; 32].into(),
            port,
            peer,
        })
    }

    /// Links, of which some have a nexthop, and barriers.
    fn model() -> impl Strategy<Value = Model> {
        let links = proptest::collection::btree_map("rm[0-3]", (link(), any::<bool>()), 0..4);
        let strange = prop_oneof![
            3 => Just(Target::Unreachable),
            1 => Just(Target::Group(NexthopId(0))),
        ];
        let barriers = proptest::collection::btree_map(0u8..6, strange, 0..6);
        (links, barriers).prop_map(|(links, barriers)| {
            let mut model = Model::default();
            for (number, (name, (link, has_nexthop))) in links.into_iter().enumerate() {
                if has_nexthop {
                    let gateway = "fe80::1".parse().unwrap();
                    let nexthop = Nexthop {
                        gateway,
                        link: name.clone(),
                    };
                    model.nexthops.insert(NexthopId(number as u32), nexthop);
                }
                model.links.insert(name, link);
            }
            for (n, target) in barriers {
                let prefix = format!("10.{n}.0.0/16").parse().unwrap();
                model.routes.insert(model.place.barrier(prefix), target);
            }
            model
        })
    }

    /// What an agent can ask for: its links are all in the overlay, its barriers unreachable.
    fn desirable() -> impl Strategy<Value = State> {
        model().prop_map(|mut model| {
            for link in model.links.values_mut() {
                link.side = Side::Overlay;
                if let LinkKind::WireGuard { .. } = link.kind {
                    let none = WireGuard {
                        private_key: [7; 32].into(),
                        port: 1,
                        peer: None,
                    };
                    link.wireguard.get_or_insert(none);
                }
            }
            for target in model.routes.values_mut() {
                *target = Target::Unreachable;
            }
            State {
                links: model.links,
                barriers: model.routes,
                ..State::default()
            }
        })
    }

    proptest! {
        #[test]
        fn nothing_to_do_is_nothing_done(model in model()) {
            let state = model.state();
            prop_assert_eq!(plan(&state, &state, true), vec![]);
        }

        #[test]
        fn a_plan_carried_out_leads_to_what_was_desired(desired in desirable(), mut model in model()) {
            let mut state = model.state();
            for op in plan(&desired, &state.clone(), true) {
                prop_assert!(model.apply(&op), "{}", op);
                state.done(&op);
            }
            prop_assert_eq!(&state, &model.state(), "what is known is what is there");
            prop_assert_eq!(&state.barriers, &desired.barriers);
            for (name, link) in &desired.links {
                prop_assert_eq!(state.links.get(name), Some(link));
            }
            // Others stay while a nexthop is over them.
            for name in state.links.keys().filter(|it| !desired.links.contains_key(*it)) {
                prop_assert!(state.nexthops.values().any(|it| it.link == *name));
            }
        }

        #[test]
        fn nothing_goes_before_all_is_known(desired in desirable(), model in model()) {
            for op in plan(&desired, &model.state(), false) {
                let replaced = |name: &String| desired.links.contains_key(name);
                let goes = match &op {
                    Op::DelLink { name, .. } => !replaced(name),
                    Op::DelRoute { .. } => true,
                    _ => false,
                };
                prop_assert!(!goes, "{}", op);
            }
        }

        #[test]
        fn taking_down_leaves_nothing(mut model in model()) {
            let state = model.state();
            let id = NexthopId(90);
            if let Some(number) = model.nexthops.keys().next().copied() {
                let members = [Member { id: number, weight: 1 }].into();
                model.groups.insert(id, Group { members, resilient: false });
                let key = model.place.key("10.9.0.0/16".parse().unwrap());
                model.routes.insert(key, Target::Group(id));
            }
            prop_assert!(state.groups.is_empty());
            for op in teardown(&model.state()) {
                prop_assert!(model.apply(&op), "{}", op);
            }
            prop_assert_eq!(model, Model::default());
        }
    }

    #[test]
    fn what_no_tunnel_serves_is_barred_before_all_else() {
        let mut desired = State::default();
        let link = Link {
            side: Side::Overlay,
            kind: LinkKind::Xfrm { if_id: 1 },
            up: true,
            mtu: 1500,
            addresses: BTreeSet::new(),
            wireguard: None,
        };
        desired.links.insert("rm0".into(), link);
        let key = Place::default().barrier("10.0.2.0/24".parse().unwrap());
        desired.barriers.insert(key, Target::Unreachable);
        let barrier = Op::PutRoute {
            key,
            target: Target::Unreachable,
            replace: false,
        };
        let ops = plan(&desired, &State::default(), true);
        assert_eq!(ops.first(), Some(&barrier));
    }
}
