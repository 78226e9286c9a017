//! What somebody else did to objects of ours, and is undone: found by comparison, and counted. Pure.
//!
//! An object counts where it was as we wanted it, and is not any more, without our doing. What the
//! kernel does by itself in consequence (groups shrink with their nexthops, routes go with their group,
//! nexthops with their interface) does not count beside its cause.

use crate::state::{Group, Link, Member, Nexthop, NexthopId, State};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::AddAssign;

/// How many of each kind, since the agent's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Tunnel interfaces gone, or set down, or of another MTU.
    pub interfaces: u64,
    /// Addresses of such interfaces.
    pub addresses: u64,
    /// Single nexthops.
    pub nexthops: u64,
    /// Nexthop groups.
    pub groups: u64,
    /// Routes, `unreachable` ones among them.
    pub routes: u64,
    /// Tables of the packet filter.
    pub tables: u64,
    /// Pairs of SAs, or their policies, and what a charon that is gone has left of them.
    pub sas: u64,
}

impl Repairs {
    /// In words for people, and how many.
    pub fn each(self) -> [(&'static str, u64); 7] {
        [
            ("interface", self.interfaces),
            ("address", self.addresses),
            ("nexthop", self.nexthops),
            ("nexthop group", self.groups),
            ("route", self.routes),
            ("packet filter table", self.tables),
            ("security association", self.sas),
        ]
    }
}

impl fmt::Display for Repairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = self.each().into_iter().filter(|(_, count)| *count > 0);
        let words = some.map(|(object, count)| format!("{count} {object}"));
        f.write_str(&words.collect::<Vec<_>>().join(", "))
    }
}

impl AddAssign for Repairs {
    fn add_assign(&mut self, other: Self) {
        self.interfaces += other.interfaces;
        self.addresses += other.addresses;
        self.nexthops += other.nexthops;
        self.groups += other.groups;
        self.routes += other.routes;
        self.tables += other.tables;
        self.sas += other.sas;
    }
}

type Links = BTreeMap<String, Link>;

/// Among the interfaces that were known to be as `desired`, those that are `seen` otherwise.
pub fn links(known: &Links, seen: &Links, desired: &Links) -> Repairs {
    let mut repairs = Repairs::default();
    let as_desired = |(name, link): &(&String, &Link)| desired.get(*name) == Some(*link);
    for (name, was) in known.iter().filter(as_desired) {
        match seen.get(name) {
            Some(is) if without_addresses(is) == without_addresses(was) => {
                let other = is.addresses.symmetric_difference(&was.addresses);
                repairs.addresses += count(other);
            }
            // Setting it down takes its addresses away.
            _ => repairs.interfaces += 1,
        }
    }
    repairs
}

fn without_addresses(link: &Link) -> Link {
    Link {
        addresses: BTreeSet::new(),
        ..link.clone()
    }
}

/// Among the nexthops and groups that were known and served routes, those that are `seen` otherwise.
/// A nexthop over an interface that was not `steady` went with that.
pub fn nexthops(known: &State, seen: &State, steady: impl Fn(&str) -> bool) -> Repairs {
    let serves = |(id, _): &(&NexthopId, _)| known.routes.users(**id) > 0;
    let groups = || known.groups.iter().filter(serves);
    let used: BTreeSet<NexthopId> = groups()
        .flat_map(|(_, it)| &it.members)
        .map(|m| m.id)
        .collect();
    let lost = |(id, was): &(&NexthopId, &Nexthop)| {
        used.contains(id) && seen.nexthops.get(id) != Some(*was) && steady(&was.link)
    };
    let other = |(id, was): &(&NexthopId, &Group)| {
        let left = was
            .members
            .iter()
            .filter(|m| seen.nexthops.contains_key(&m.id));
        let left: BTreeSet<Member> = left.copied().collect();
        match seen.groups.get(id) {
            Some(is) => is.members != left || is.resilient != was.resilient,
            None => !left.is_empty(),
        }
    };
    Repairs {
        nexthops: count(known.nexthops.iter().filter(lost)),
        groups: count(groups().filter(other)),
        ..Repairs::default()
    }
}

fn count(all: impl Iterator) -> u64 {
    all.fold(0, |n, _| n + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{LinkKind, Side};

    fn link(up: bool, addresses: &[&str]) -> Link {
        Link {
            side: Side::Overlay,
            kind: LinkKind::Xfrm { if_id: 1 },
            up,
            mtu: 1400,
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            wireguard: None,
        }
    }

    const OWN: &str = "2001:db8:ff::2/127";

    #[test]
    fn interfaces_and_addresses_that_others_changed() {
        let one = |link: Link| Links::from([("rm1".to_owned(), link)]);
        let good = one(link(true, &[OWN]));
        let found = |known: &Links, seen: &Links, desired: &Links| {
            let Repairs {
                interfaces,
                addresses,
                ..
            } = links(known, seen, desired);
            (interfaces, addresses)
        };
        let none = Links::new();
        assert_eq!(found(&good, &good, &good), (0, 0));
        assert_eq!(found(&good, &none, &good), (1, 0), "gone");
        let down = one(link(false, &[]));
        assert_eq!(found(&good, &down, &good), (1, 0), "down, and so bare");
        let bare = one(link(true, &[]));
        assert_eq!(found(&good, &bare, &good), (0, 1));
        let more = one(link(true, &[OWN, "10.0.0.1/32"]));
        assert_eq!(found(&good, &more, &good), (0, 1), "one too many");
        // It was not as it should be, or need not be any more.
        assert_eq!(found(&down, &none, &good), (0, 0));
        assert_eq!(found(&good, &none, &none), (0, 0));
        assert_eq!(found(&none, &good, &good), (0, 0));
    }

    fn id(number: u32) -> NexthopId {
        NexthopId(*crate::state::ours::NEXTHOPS.start() + number)
    }

    /// Group 9 of nexthops 1 and 2 serves a route; group 8 of nexthop 3 serves none.
    fn served() -> State {
        let mut state = State::default();
        for number in 1..=3 {
            let nexthop = Nexthop {
                gateway: "fe80::1".parse().unwrap(),
                link: format!("rm{number}"),
            };
            state.nexthops.insert(id(number), nexthop);
        }
        let member = |number| Member {
            id: id(number),
            weight: 1,
        };
        let group = |members: &[Member]| Group {
            members: members.iter().copied().collect(),
            resilient: false,
        };
        state.groups.insert(id(9), group(&[member(1), member(2)]));
        state.groups.insert(id(8), group(&[member(3)]));
        state.routes.insert(&"10.0.2.0/24".parse().unwrap(), id(9));
        state
    }

    #[test]
    fn nexthops_and_groups_that_others_took_away() {
        let found = |seen: &State, steady: bool| {
            let Repairs {
                nexthops, groups, ..
            } = nexthops(&served(), seen, |_| steady);
            (nexthops, groups)
        };
        assert_eq!(found(&served(), true), (0, 0));
        let without = |ids: &[u32]| {
            let mut seen = served();
            seen.forget_nexthops(&ids.iter().map(|number| id(*number)).collect());
            seen
        };
        assert_eq!(found(&without(&[1]), true), (1, 0), "its group shrinks");
        assert_eq!(found(&without(&[1, 2]), true), (2, 0), "its group goes");
        assert_eq!(found(&without(&[9]), true), (0, 1));
        assert_eq!(found(&without(&[1, 9]), true), (1, 1));
        assert_eq!(found(&without(&[8, 3]), true), (0, 0), "of no use");
        assert_eq!(found(&without(&[1]), false), (0, 0), "with its interface");
        let mut other = served();
        other.groups.get_mut(&id(9)).unwrap().members.pop_first();
        assert_eq!(found(&other, true), (0, 1));
    }
}
