//! A model of what the kernel does with operations, for tests: the plainest there can be.

use crate::kernel::Op;
use crate::state::{
    Group, Link, LinkKind, Member, Nexthop, NexthopId, Peer, Place, RouteKey, Side, State, Target,
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub links: BTreeMap<String, Link>,
    pub nexthops: BTreeMap<NexthopId, Nexthop>,
    pub groups: BTreeMap<NexthopId, Group>,
    pub routes: BTreeMap<RouteKey, Target>,
    /// Where routes are taken to carry traffic.
    pub place: Place,
}

impl Model {
    /// Whether the kernel accepts it.
    #[must_use]
    pub fn apply(&mut self, op: &Op) -> bool {
        match op.clone() {
            Op::AddLink { name, kind, mtu } => {
                let link = Link {
                    side: Side::Underlay,
                    kind,
                    up: false,
                    mtu,
                    addresses: BTreeSet::new(),
                    wireguard: None,
                };
                self.links.insert(name, link).is_none()
            }
            Op::MoveLink { name } => self.links.get_mut(&name).is_some_and(|link| {
                (link.side, link.up) = (Side::Overlay, false);
                link.addresses.clear();
                true
            }),
            Op::SetLink { name, up, mtu } => self.links.get_mut(&name).is_some_and(|link| {
                (link.up, link.mtu) = (up, mtu);
                true
            }),
            Op::SetWireGuard {
                name,
                wireguard,
                anew,
            } => self.links.get_mut(&name).is_some_and(|link| {
                let known = link.wireguard.as_ref().map(|it| &it.peer);
                let key = |peer: &Option<Peer>| peer.as_ref().map(|it| it.public_key);
                // The kernel adds peers, unless all are replaced.
                let same = known.is_some_and(|known| key(known) == key(&wireguard.peer));
                let there = matches!(link.kind, LinkKind::WireGuard { .. });
                link.wireguard = Some(*wireguard);
                there && link.side == Side::Overlay && (anew || same)
            }),
            Op::DelLink { name, side } => {
                let there = self.links.get(&name).is_some_and(|link| link.side == side);
                self.links.remove(&name);
                self.link_down(&name);
                there
            }
            Op::AddAddress { link, address } => {
                let link = self.links.get_mut(&link);
                link.is_some_and(|link| link.addresses.insert(address))
            }
            Op::DelAddress { link, address } => {
                let link = self.links.get_mut(&link);
                link.is_some_and(|link| link.addresses.remove(&address))
            }
            Op::PutNexthop {
                id,
                nexthop,
                replace,
            } => {
                let taken = self.groups.contains_key(&id);
                !taken && put(&mut self.nexthops, id, nexthop, replace)
            }
            Op::PutGroup { id, group, replace } => {
                let known = |member: &Member| self.nexthops.contains_key(&member.id);
                let members = &group.members;
                let whole = !members.is_empty() && members.iter().all(known);
                let taken = self.nexthops.contains_key(&id);
                whole && !taken && put(&mut self.groups, id, group, replace)
            }
            Op::DelNexthop { id } => {
                let there = self.nexthops.remove(&id).is_some();
                for group in self.groups.values_mut() {
                    group.members.retain(|member| member.id != id);
                }
                self.groups.retain(|_, group| !group.members.is_empty());
                self.strand();
                there
            }
            Op::DelGroup { id } => {
                let there = self.groups.remove(&id).is_some();
                self.strand();
                there
            }
            Op::PutRoute {
                key,
                target,
                replace,
            } => {
                let known = match target {
                    Target::Group(id) => self.groups.contains_key(&id),
                    Target::Unreachable => true,
                };
                // Replacing creates as well.
                known && (replace || !self.routes.contains_key(&key)) && {
                    self.routes.insert(key, target);
                    true
                }
            }
            Op::DelRoute { key } => self.routes.remove(&key).is_some(),
        }
    }

    /// Its nexthops go, with all that follows, and without a word.
    pub fn link_down(&mut self, name: &str) {
        let over = self.nexthops.iter().filter(|(_, it)| it.link == name);
        let ids: Vec<NexthopId> = over.map(|(id, _)| *id).collect();
        for id in ids {
            let _ = self.apply(&Op::DelNexthop { id });
        }
    }

    /// Group 0 stands for none.
    fn strand(&mut self) {
        self.routes.retain(|_, target| match target {
            Target::Group(id) => id.0 == 0 || self.groups.contains_key(id),
            Target::Unreachable => true,
        });
    }

    /// The same in the words of the agent.
    pub fn state(&self) -> State {
        let mut state = State {
            links: self.links.clone(),
            nexthops: self.nexthops.clone(),
            groups: self.groups.clone(),
            place: self.place,
            ..State::default()
        };
        for (key, target) in &self.routes {
            match target {
                Target::Group(id) if self.place.holds(key) => {
                    state.routes.insert(&key.prefix, *id);
                }
                target => drop(state.barriers.insert(*key, *target)),
            }
        }
        state
    }
}

fn put<K: Ord, V>(held: &mut BTreeMap<K, V>, key: K, value: V, replace: bool) -> bool {
    held.insert(key, value).is_some() == replace
}
