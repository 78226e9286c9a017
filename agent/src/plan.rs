//! The difference of two [`State`]s as ordered operations: pure.
//!
//! What is new comes before what stands on it, what is gone goes after what stood on it, and the
//! old is taken away only when the new is there. One exception makes failover fast: a nexthop that
//! is gone while its groups live on is deleted first ([`shrink`]), which takes it out of all of
//! them in one message, however many routes they serve.

use crate::kernel::Op;
use crate::state::{Link, Nexthop, NexthopId, RouteKey, Side, State, Target};
use std::collections::{BTreeMap, BTreeSet};

/// Nexthops that nothing wants any more and whose groups all have others to go on with: the ids to
/// delete at once, and the state that this leaves.
pub fn shrink(observed: &State, wanted: &BTreeSet<&Nexthop>) -> (Vec<Op>, State) {
    let gone = |id: &NexthopId| {
        observed
            .nexthops
            .get(id)
            .is_some_and(|nexthop| !wanted.contains(nexthop))
    };
    let mut bereft: BTreeSet<NexthopId> = BTreeSet::new();
    for members in observed.groups.values() {
        if members.iter().all(|m| gone(&m.id)) {
            bereft.extend(members.iter().map(|m| m.id));
        }
    }
    let mut state = observed.clone();
    let mut ops = Vec::new();
    for id in observed.nexthops.keys() {
        if gone(id) && !bereft.contains(id) {
            forget_nexthop(&mut state, *id);
            ops.push(Op::DelNexthop { id: *id });
        }
    }
    (ops, state)
}

/// What the kernel does by itself when a nexthop goes: groups shrink, empty groups go, and with
/// them their routes.
pub fn forget_nexthop(state: &mut State, id: NexthopId) {
    state.nexthops.remove(&id);
    state.groups.remove(&id);
    let mut emptied = BTreeSet::from([id]);
    state.groups.retain(|group, members| {
        members.retain(|member| member.id != id);
        let keep = !members.is_empty();
        if !keep {
            emptied.insert(*group);
        }
        keep
    });
    state.routes.retain(|_, target| match target {
        Target::Group(group) => !emptied.contains(group),
        Target::Unreachable => true,
    });
}

/// What the kernel does by itself when an interface goes: its nexthops go.
pub fn forget_link(state: &mut State, name: &str) {
    state.links.remove(name);
    let ids: Vec<NexthopId> = state
        .nexthops
        .iter()
        .filter(|(_, nexthop)| nexthop.link == name)
        .map(|(id, _)| *id)
        .collect();
    for id in ids {
        forget_nexthop(state, id);
    }
}

/// The operations that turn `observed` into `desired`, in order. Empty if they are equal.
pub fn plan(desired: &State, observed: &State) -> Vec<Op> {
    let mut ops = Vec::new();
    let mut observed = observed.clone();
    // They stand on nothing, and keep traffic from the default route while the rest is made.
    let barriers = |(_, target): &(&RouteKey, &Target)| **target == Target::Unreachable;
    let put_route = |(key, target): (&RouteKey, &Target), observed: &State| Op::PutRoute {
        key: *key,
        target: *target,
        replace: observed.routes.contains_key(key),
    };
    let missing = changed(&desired.routes, &observed.routes).filter(barriers);
    ops.extend(missing.map(|route| put_route(route, &observed)));
    // A kind cannot be changed on a living interface, and two cannot share a name.
    for (name, link) in &desired.links {
        if let Some(old) = observed.links.get(name).filter(|old| old.kind != link.kind) {
            ops.push(del_link(name, old));
            forget_link(&mut observed, name);
        }
    }
    for (name, link) in &desired.links {
        put_link(name, link, observed.links.get(name), &mut ops);
    }
    ops.extend(
        changed(&desired.nexthops, &observed.nexthops).map(|(id, nexthop)| Op::PutNexthop {
            id: *id,
            nexthop: nexthop.clone(),
            replace: observed.nexthops.contains_key(id),
        }),
    );
    ops.extend(
        changed(&desired.groups, &observed.groups).map(|(id, members)| Op::PutGroup {
            id: *id,
            members: members.clone(),
            replace: observed.groups.contains_key(id),
        }),
    );
    let missing = changed(&desired.routes, &observed.routes).filter(|it| !barriers(it));
    ops.extend(missing.map(|route| put_route(route, &observed)));
    ops.extend(gone(&desired.routes, &observed.routes).map(|(key, _)| Op::DelRoute { key: *key }));
    ops.extend(gone(&desired.groups, &observed.groups).map(|(id, _)| Op::DelGroup { id: *id }));
    ops.extend(
        gone(&desired.nexthops, &observed.nexthops).map(|(id, _)| Op::DelNexthop { id: *id }),
    );
    for (name, link) in gone(&desired.links, &observed.links) {
        ops.push(del_link(name, link));
    }
    ops
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
    use crate::state::{LinkKind, Member, ours};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What the kernel does with an operation. Whatever it would refuse fails the test.
    fn apply(state: &mut State, op: &Op) {
        match op.clone() {
            Op::AddLink { name, kind, mtu } => {
                let link = Link {
                    side: Side::Underlay,
                    kind,
                    up: false,
                    mtu,
                    addresses: BTreeSet::new(),
                };
                assert!(state.links.insert(name, link).is_none(), "{op}: exists");
            }
            Op::MoveLink { name } => {
                let link = state.links.get_mut(&name).unwrap();
                (link.side, link.up) = (Side::Overlay, false);
                link.addresses.clear();
            }
            Op::SetLink { name, up, mtu } => {
                let link = state.links.get_mut(&name).unwrap();
                (link.up, link.mtu) = (up, mtu);
            }
            Op::DelLink { name, side } => {
                assert_eq!(state.links[&name].side, side);
                forget_link(state, &name);
            }
            Op::AddAddress { link, address } => {
                assert!(
                    state
                        .links
                        .get_mut(&link)
                        .unwrap()
                        .addresses
                        .insert(address)
                );
            }
            Op::DelAddress { link, address } => {
                assert!(
                    state
                        .links
                        .get_mut(&link)
                        .unwrap()
                        .addresses
                        .remove(&address)
                );
            }
            Op::PutNexthop {
                id,
                nexthop,
                replace,
            } => {
                assert!(
                    state.links.contains_key(&nexthop.link),
                    "{op}: no such link"
                );
                assert_eq!(
                    state.nexthops.insert(id, nexthop).is_some(),
                    replace,
                    "{op}"
                );
            }
            Op::PutGroup {
                id,
                members,
                replace,
            } => {
                assert!(
                    members.iter().all(|m| state.nexthops.contains_key(&m.id)),
                    "{op}"
                );
                assert_eq!(state.groups.insert(id, members).is_some(), replace, "{op}");
            }
            Op::DelNexthop { id } => {
                assert!(state.nexthops.contains_key(&id), "{op}: no such nexthop");
                forget_nexthop(state, id);
            }
            Op::DelGroup { id } => {
                assert!(
                    !state.routes.values().any(|t| *t == Target::Group(id)),
                    "{op}: in use"
                );
                assert!(state.groups.remove(&id).is_some(), "{op}: no such group");
            }
            Op::PutRoute {
                key,
                target,
                replace,
            } => {
                if let Target::Group(id) = target {
                    assert!(state.groups.contains_key(&id), "{op}: no such group");
                }
                assert_eq!(state.routes.insert(key, target).is_some(), replace, "{op}");
            }
            Op::DelRoute { key } => assert!(state.routes.remove(&key).is_some(), "{op}"),
        }
    }

    fn link() -> impl Strategy<Value = Link> {
        let side = prop_oneof![4 => Just(Side::Overlay), 1 => Just(Side::Underlay)];
        let addresses = proptest::collection::btree_set(0u8..3, 0..3);
        (side, 0u32..2, any::<bool>(), addresses).prop_map(|(side, if_id, up, addresses)| Link {
            side,
            kind: LinkKind::Xfrm { if_id },
            up,
            mtu: 1500,
            addresses: addresses
                .into_iter()
                .map(|n| format!("2001:db8:ff::{n}/127").parse().unwrap())
                .collect(),
        })
    }

    /// A state as the kernel would allow it: what stands on something missing is left out.
    fn state() -> impl Strategy<Value = State> {
        let links = proptest::collection::btree_map("rm[0-3]", link(), 0..4);
        let nexthops = proptest::collection::btree_map(0u32..4, (0u8..4, "rm[0-3]"), 0..5);
        let groups = proptest::collection::btree_map(
            10u32..14,
            proptest::collection::btree_set(0u32..4, 1..4),
            0..4,
        );
        let routes = proptest::collection::btree_map(0u8..6, 10u32..15, 0..6);
        (links, nexthops, groups, routes).prop_map(|(links, nexthops, groups, routes)| {
            let mut state = State {
                links,
                ..State::default()
            };
            for (id, (host, link)) in nexthops {
                if state.links.contains_key(&link) {
                    let gateway = format!("fe80::{host}").parse().unwrap();
                    state
                        .nexthops
                        .insert(NexthopId(id), Nexthop { gateway, link });
                }
            }
            for (id, members) in groups {
                let members: BTreeSet<Member> = members
                    .into_iter()
                    .map(|id| Member {
                        id: NexthopId(id),
                        weight: 1,
                    })
                    .filter(|m| state.nexthops.contains_key(&m.id))
                    .collect();
                if !members.is_empty() {
                    state.groups.insert(NexthopId(id), members);
                }
            }
            for (n, group) in routes {
                let prefix = format!("10.{n}.0.0/16").parse().unwrap();
                let group = NexthopId(group);
                let (metric, target) = match state.groups.contains_key(&group) {
                    true => (ours::METRIC, Target::Group(group)),
                    false => (ours::METRIC_UNREACHABLE, Target::Unreachable),
                };
                state.routes.insert(RouteKey { prefix, metric }, target);
            }
            state
        })
    }

    /// What an agent can ask for: its links are all in the overlay.
    fn desirable() -> impl Strategy<Value = State> {
        state().prop_map(|mut state| {
            for link in state.links.values_mut() {
                link.side = Side::Overlay;
            }
            state
        })
    }

    proptest! {
        #[test]
        fn nothing_to_do_is_nothing_done(state in state()) {
            prop_assert_eq!(plan(&state, &state), vec![]);
        }

        #[test]
        fn a_plan_carried_out_leads_to_what_was_desired(desired in desirable(), observed in state()) {
            let mut state = observed.clone();
            for op in plan(&desired, &observed) {
                apply(&mut state, &op);
            }
            prop_assert_eq!(state, desired);
        }

        #[test]
        fn shrinking_takes_no_route_away(observed in state(), wanted in state()) {
            let wanted = wanted.nexthops.values().collect();
            let (ops, shrunk) = shrink(&observed, &wanted);
            let mut state = observed.clone();
            for op in &ops {
                apply(&mut state, op);
            }
            prop_assert_eq!(&state, &shrunk);
            prop_assert_eq!(state.routes, observed.routes);
        }
    }

    #[test]
    fn a_lost_tunnel_costs_one_message() {
        let mut observed = State::default();
        for id in 0..2 {
            let gateway = format!("2001:db8:ff::{id}").parse().unwrap();
            let link = format!("rm{id}");
            observed
                .nexthops
                .insert(NexthopId(id), Nexthop { gateway, link });
        }
        let members = (0..2).map(|id| Member {
            id: NexthopId(id),
            weight: 1,
        });
        observed.groups.insert(NexthopId(9), members.collect());
        for n in 0..100 {
            let prefix = format!("10.{n}.0.0/16").parse().unwrap();
            let key = RouteKey {
                prefix,
                metric: ours::METRIC,
            };
            observed.routes.insert(key, Target::Group(NexthopId(9)));
        }
        let (ops, shrunk) = shrink(
            &observed,
            &BTreeSet::from([&observed.nexthops[&NexthopId(1)]]),
        );
        let gone = Op::DelNexthop { id: NexthopId(0) };
        assert_eq!(ops, [gone]);
        assert_eq!(plan(&shrunk, &shrunk), []);
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
        };
        desired.links.insert("rm0".into(), link);
        let key = RouteKey {
            prefix: "10.0.2.0/24".parse().unwrap(),
            metric: ours::METRIC_UNREACHABLE,
        };
        desired.routes.insert(key, Target::Unreachable);
        let barrier = Op::PutRoute {
            key,
            target: Target::Unreachable,
            replace: false,
        };
        assert_eq!(plan(&desired, &State::default()).first(), Some(&barrier));
    }
}
