//! The difference of two [`State`]s as ordered operations: pure.
//!
//! What is new comes before what stands on it, what is gone goes after what stood on it, and the
//! old is taken away only when the new is there. One exception makes failover fast: a nexthop that
//! is gone while its groups live on is deleted first ([`shrink`]), which takes it out of all of
//! them in one message, however many routes they serve.

use crate::kernel::Op as KernelOp;
use crate::state::{Link, Nexthop, NexthopId, Side, State};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One step towards the desired state. Each may be done twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// To be done by the kernel.
    Kernel(KernelOp),
    /// Load this connection into charon.
    Load(String),
    /// Take this connection from charon, with its SAs.
    Unload(String),
}

impl Op {
    /// The kernel's part of it, if it has one.
    pub fn kernel(&self) -> Option<&KernelOp> {
        match self {
            Self::Kernel(op) => Some(op),
            Self::Load(_) | Self::Unload(_) => None,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(op) => op.fmt(f),
            Self::Load(name) => write!(f, "load connection {name}"),
            Self::Unload(name) => write!(f, "unload connection {name}"),
        }
    }
}

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
            ops.push(Op::Kernel(KernelOp::DelNexthop { id: *id }));
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
        crate::state::Target::Group(group) => !emptied.contains(group),
        crate::state::Target::Unreachable => true,
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
    // The interface comes before its SA: without it, traffic would pass in clear.
    for (name, connection) in &desired.connections {
        if observed.connections.get(name) != Some(connection) {
            ops.push(Op::Load(name.clone()));
        }
    }
    kernel(
        changed(&desired.nexthops, &observed.nexthops).map(|(id, nexthop)| KernelOp::PutNexthop {
            id: *id,
            nexthop: nexthop.clone(),
            replace: observed.nexthops.contains_key(id),
        }),
        &mut ops,
    );
    kernel(
        changed(&desired.groups, &observed.groups).map(|(id, members)| KernelOp::PutGroup {
            id: *id,
            members: members.clone(),
            replace: observed.groups.contains_key(id),
        }),
        &mut ops,
    );
    kernel(
        changed(&desired.routes, &observed.routes).map(|(key, target)| KernelOp::PutRoute {
            key: *key,
            target: *target,
            replace: observed.routes.contains_key(key),
        }),
        &mut ops,
    );
    kernel(
        gone(&desired.routes, &observed.routes).map(|(key, _)| KernelOp::DelRoute { key: *key }),
        &mut ops,
    );
    kernel(
        gone(&desired.groups, &observed.groups).map(|(id, _)| KernelOp::DelGroup { id: *id }),
        &mut ops,
    );
    kernel(
        gone(&desired.nexthops, &observed.nexthops).map(|(id, _)| KernelOp::DelNexthop { id: *id }),
        &mut ops,
    );
    for (name, _) in gone(&desired.connections, &observed.connections) {
        ops.push(Op::Unload(name.clone()));
    }
    for (name, link) in gone(&desired.links, &observed.links) {
        ops.push(del_link(name, link));
    }
    ops
}

fn kernel(new: impl Iterator<Item = KernelOp>, ops: &mut Vec<Op>) {
    ops.extend(new.map(Op::Kernel));
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
    Op::Kernel(KernelOp::DelLink {
        name: name.to_owned(),
        side: link.side,
    })
}

fn put_link(name: &str, link: &Link, old: Option<&Link>, ops: &mut Vec<Op>) {
    let mut push = |op| ops.push(Op::Kernel(op));
    let owned = || name.to_owned();
    if old.is_none() {
        push(KernelOp::AddLink {
            name: owned(),
            kind: link.kind.clone(),
            mtu: link.mtu,
        });
    }
    // A move takes addresses away and sets the interface down.
    let settled = old.filter(|old| old.side == link.side);
    if settled.is_none() && link.side == Side::Overlay {
        push(KernelOp::MoveLink { name: owned() });
    }
    let has = |address| settled.is_some_and(|old| old.addresses.contains(address));
    for address in link.addresses.iter().filter(|address| !has(address)) {
        push(KernelOp::AddAddress {
            link: owned(),
            address: *address,
        });
    }
    for address in settled.iter().flat_map(|old| &old.addresses) {
        if !link.addresses.contains(address) {
            push(KernelOp::DelAddress {
                link: owned(),
                address: *address,
            });
        }
    }
    if settled.is_none_or(|old| (old.up, old.mtu) != (link.up, link.mtu)) {
        push(KernelOp::SetLink {
            name: owned(),
            up: link.up,
            mtu: link.mtu,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Connection, LinkKind, Member, RouteKey, Target, ours};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What kernel and charon do with an operation. Whatever they would refuse fails the test.
    fn apply(state: &mut State, op: &Op, desired: &State) {
        match op {
            Op::Load(name) => {
                let connection = desired.connections[name].clone();
                state.connections.insert(name.clone(), connection);
            }
            Op::Unload(name) => assert!(state.connections.remove(name).is_some()),
            Op::Kernel(op) => apply_kernel(state, op),
        }
    }

    fn apply_kernel(state: &mut State, op: &KernelOp) {
        match op.clone() {
            KernelOp::AddLink { name, kind, mtu } => {
                let link = Link {
                    side: Side::Underlay,
                    kind,
                    up: false,
                    mtu,
                    addresses: BTreeSet::new(),
                };
                assert!(state.links.insert(name, link).is_none(), "{op}: exists");
            }
            KernelOp::MoveLink { name } => {
                let link = state.links.get_mut(&name).unwrap();
                (link.side, link.up) = (Side::Overlay, false);
                link.addresses.clear();
            }
            KernelOp::SetLink { name, up, mtu } => {
                let link = state.links.get_mut(&name).unwrap();
                (link.up, link.mtu) = (up, mtu);
            }
            KernelOp::DelLink { name, side } => {
                assert_eq!(state.links[&name].side, side);
                forget_link(state, &name);
            }
            KernelOp::AddAddress { link, address } => {
                assert!(
                    state
                        .links
                        .get_mut(&link)
                        .unwrap()
                        .addresses
                        .insert(address)
                );
            }
            KernelOp::DelAddress { link, address } => {
                assert!(
                    state
                        .links
                        .get_mut(&link)
                        .unwrap()
                        .addresses
                        .remove(&address)
                );
            }
            KernelOp::PutNexthop {
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
            KernelOp::PutGroup {
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
            KernelOp::DelNexthop { id } => {
                assert!(state.nexthops.contains_key(&id), "{op}: no such nexthop");
                forget_nexthop(state, id);
            }
            KernelOp::DelGroup { id } => {
                assert!(
                    !state.routes.values().any(|t| *t == Target::Group(id)),
                    "{op}: in use"
                );
                assert!(state.groups.remove(&id).is_some(), "{op}: no such group");
            }
            KernelOp::PutRoute {
                key,
                target,
                replace,
            } => {
                if let Target::Group(id) = target {
                    assert!(state.groups.contains_key(&id), "{op}: no such group");
                }
                assert_eq!(state.routes.insert(key, target).is_some(), replace, "{op}");
            }
            KernelOp::DelRoute { key } => assert!(state.routes.remove(&key).is_some(), "{op}"),
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
        let connections = proptest::collection::btree_map("rm[0-3]-V", "[ab]", 0..4);
        (links, nexthops, groups, routes, connections).prop_map(
            |(links, nexthops, groups, routes, connections)| {
                let mut state = State {
                    links,
                    connections: connections
                        .into_iter()
                        .map(|(name, digest)| (name, Connection { digest }))
                        .collect(),
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
            },
        )
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
                apply(&mut state, &op, &desired);
            }
            prop_assert_eq!(state, desired);
        }

        #[test]
        fn shrinking_takes_no_route_away(observed in state(), wanted in state()) {
            let wanted = wanted.nexthops.values().collect();
            let (ops, shrunk) = shrink(&observed, &wanted);
            let mut state = observed.clone();
            for op in &ops {
                apply(&mut state, op, &observed);
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
        let gone = KernelOp::DelNexthop { id: NexthopId(0) };
        assert_eq!(ops, [Op::Kernel(gone)]);
        assert_eq!(plan(&shrunk, &shrunk), []);
    }

    #[test]
    fn the_interface_is_there_before_its_sa() {
        let mut desired = State::default();
        let link = Link {
            side: Side::Overlay,
            kind: LinkKind::Xfrm { if_id: 1 },
            up: true,
            mtu: 1500,
            addresses: BTreeSet::new(),
        };
        desired.links.insert("rm0".into(), link);
        let connection = Connection { digest: "d".into() };
        desired.connections.insert("rm0-V2-1".into(), connection);
        let make = plan(&desired, &State::default());
        assert_eq!(make.last(), Some(&Op::Load("rm0-V2-1".into())));
        let undo = plan(&State::default(), &desired);
        assert_eq!(undo.first(), Some(&Op::Unload("rm0-V2-1".into())));
    }
}
