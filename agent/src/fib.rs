//! The routes of ours that carry traffic, as far as we know the kernel to hold them: from prefix to
//! nexthop group, 10 octets an IPv4 route and 22 an IPv6 one in a hash table each, since there may
//! be a million.

use crate::state::{NexthopId, ours};
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeMap;
use std::fmt;

/// Address and prefix length, in network order and without padding.
type V4 = ([u8; 4], u8);
type V6 = ([u8; 16], u8);

/// Prefixes and their groups, and how many routes each group serves.
#[derive(Clone, Default)]
pub struct Fib {
    v4: HashMap<V4, Slot>,
    v6: HashMap<V6, Slot>,
    users: BTreeMap<NexthopId, usize>,
}

/// The group, as its number in our range, in three octets; and marks.
#[derive(Clone, Copy)]
struct Slot([u8; 4]);

/// An earlier run left it, and nothing was said of the prefix since.
const INHERITED: u8 = 1;
/// Seen in the listing under way.
const LISTED: u8 = 2;
/// Wanted, as far as the review under way has come.
const WANTED: u8 = 4;

/// How a route that is listed compares with what was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// As it was.
    Known,
    /// It goes elsewhere.
    Changed,
    /// Of this prefix, none was.
    New,
}

/// What stands for a route of a shape we never make: no group's number, or nearly.
const STRANGE: u32 = 0x00ff_ffff;

impl Slot {
    fn new(group: NexthopId, marks: u8) -> Self {
        let number = match ours::NEXTHOPS.contains(&group.0) {
            true => group.0 - ours::NEXTHOPS.start(),
            false => STRANGE,
        };
        let [_, high, middle, low] = number.to_be_bytes();
        Self([high, middle, low, marks])
    }

    fn group(self) -> NexthopId {
        let [high, middle, low, _] = self.0;
        match u32::from_be_bytes([0, high, middle, low]) {
            STRANGE => NexthopId(0),
            number => NexthopId(ours::NEXTHOPS.start() + number),
        }
    }

    fn has(self, mark: u8) -> bool {
        self.0[3] & mark != 0
    }

    fn set(&mut self, mark: u8, on: bool) {
        match on {
            true => self.0[3] |= mark,
            false => self.0[3] &= !mark,
        }
    }
}

fn v4(prefix: &Ipv4Net) -> V4 {
    (prefix.network().octets(), prefix.prefix_len())
}

fn v6(prefix: &Ipv6Net) -> V6 {
    (prefix.network().octets(), prefix.prefix_len())
}

/// A length that was one comes back as it was.
fn net4(&(address, length): &V4) -> IpNet {
    Ipv4Net::new(address.into(), length)
        .unwrap_or_default()
        .into()
}

fn net6(&(address, length): &V6) -> IpNet {
    Ipv6Net::new(address.into(), length)
        .unwrap_or_default()
        .into()
}

impl Fib {
    /// The group that serves a prefix: 0 where it is not one of ours.
    pub fn get(&self, prefix: &IpNet) -> Option<NexthopId> {
        self.slot(prefix).map(|slot| slot.group())
    }

    /// An earlier run left the route, and this one has not touched it.
    pub fn is_inherited(&self, prefix: &IpNet) -> bool {
        self.slot(prefix).is_some_and(|slot| slot.has(INHERITED))
    }

    /// This run put a route, which is wanted.
    pub fn insert(&mut self, prefix: &IpNet, group: NexthopId) {
        self.put(prefix, Slot::new(group, WANTED | LISTED));
    }

    /// Whether there was one.
    pub fn remove(&mut self, prefix: &IpNet) -> bool {
        let old = match prefix {
            IpNet::V4(prefix) => self.v4.remove(&v4(prefix)),
            IpNet::V6(prefix) => self.v6.remove(&v6(prefix)),
        };
        if let Some(slot) = old {
            self.unuse(slot.group());
        }
        old.is_some()
    }

    /// Takes away the routes for whose prefix and group `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(IpNet, NexthopId) -> bool) {
        let mut gone = BTreeMap::new();
        let mut stay = |prefix, slot: &Slot| {
            let stays = keep(prefix, slot.group());
            if !stays {
                *gone.entry(slot.group()).or_insert(0usize) += 1;
            }
            stays
        };
        self.v4.retain(|prefix, slot| stay(net4(prefix), slot));
        self.v6.retain(|prefix, slot| stay(net6(prefix), slot));
        for (group, count) in gone {
            if let Some(users) = self.users.get_mut(&group) {
                *users = users.saturating_sub(count);
            }
        }
        self.users.retain(|_, users| *users > 0);
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The groups in use.
    pub fn groups(&self) -> impl Iterator<Item = NexthopId> {
        self.users.keys().copied()
    }

    /// How many routes a group serves.
    pub fn users(&self, group: NexthopId) -> usize {
        self.users.get(&group).copied().unwrap_or(0)
    }

    /// All routes, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, NexthopId)> {
        let slots = self.slots();
        slots.map(|(prefix, slot)| (prefix, slot.group()))
    }

    // ---- A listing of the kernel's routes, against which this is corrected ----

    /// A listing begins.
    pub fn begin_listing(&mut self) {
        self.mark_all(LISTED, false);
    }

    /// A route of ours is listed.
    pub fn listed(&mut self, prefix: &IpNet, group: NexthopId) -> Listed {
        let old = self.slot(prefix);
        let marks = match old {
            // More than one route of a prefix: nothing we make.
            Some(slot) if slot.has(LISTED) => {
                self.put(prefix, Slot::new(NexthopId(0), slot.0[3]));
                return Listed::Changed;
            }
            Some(slot) => slot.0[3] | LISTED,
            None => INHERITED | LISTED,
        };
        let new = Slot::new(group, marks);
        self.put(prefix, new);
        match old {
            None => Listed::New,
            Some(old) if old.group() == new.group() => Listed::Known,
            Some(_) => Listed::Changed,
        }
    }

    /// The listing has ended: what it did not show is not there. Returns how many that were.
    pub fn end_listing(&mut self) -> usize {
        self.drop_unless(LISTED)
    }

    // ---- A review of all that is wanted, after which the rest may go ----

    /// A review begins.
    pub fn begin_review(&mut self) {
        self.mark_all(WANTED, false);
    }

    /// The prefix is wanted.
    pub fn want(&mut self, prefix: &IpNet) {
        let slot = match prefix {
            IpNet::V4(prefix) => self.v4.get_mut(&v4(prefix)),
            IpNet::V6(prefix) => self.v6.get_mut(&v6(prefix)),
        };
        if let Some(slot) = slot {
            slot.set(WANTED, true);
        }
    }

    /// Prefixes of which the review that has ended did not say that they are wanted.
    pub fn unwanted(&self) -> impl Iterator<Item = IpNet> {
        let slots = self.slots();
        let unwanted = slots.filter(|(_, slot)| !slot.has(WANTED));
        unwanted.map(|(prefix, _)| prefix)
    }

    fn slot(&self, prefix: &IpNet) -> Option<Slot> {
        match prefix {
            IpNet::V4(prefix) => self.v4.get(&v4(prefix)).copied(),
            IpNet::V6(prefix) => self.v6.get(&v6(prefix)).copied(),
        }
    }

    fn slots(&self) -> impl Iterator<Item = (IpNet, Slot)> {
        let v4 = self.v4.iter().map(|(prefix, slot)| (net4(prefix), *slot));
        let v6 = self.v6.iter().map(|(prefix, slot)| (net6(prefix), *slot));
        v4.chain(v6)
    }

    fn put(&mut self, prefix: &IpNet, slot: Slot) {
        let old = match prefix {
            IpNet::V4(prefix) => exchange(self.v4.entry(v4(prefix)), slot),
            IpNet::V6(prefix) => exchange(self.v6.entry(v6(prefix)), slot),
        };
        let (old, new) = (old.map(Slot::group), slot.group());
        if old != Some(new) {
            *self.users.entry(new).or_insert(0) += 1;
            if let Some(old) = old {
                self.unuse(old);
            }
        }
    }

    fn unuse(&mut self, group: NexthopId) {
        if let Some(users) = self.users.get_mut(&group) {
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.users.remove(&group);
            }
        }
    }

    fn mark_all(&mut self, mark: u8, on: bool) {
        let slots = self.v4.values_mut().chain(self.v6.values_mut());
        slots.for_each(|slot| slot.set(mark, on));
    }

    fn drop_unless(&mut self, mark: u8) -> usize {
        let before = self.len();
        let mut gone = Vec::new();
        let mut keep = |slot: &Slot| {
            let keep = slot.has(mark);
            if !keep {
                gone.push(slot.group());
            }
            keep
        };
        self.v4.retain(|_, slot| keep(slot));
        self.v6.retain(|_, slot| keep(slot));
        gone.into_iter().for_each(|group| self.unuse(group));
        before - self.len()
    }
}

fn exchange<K, S>(entry: Entry<'_, K, Slot, S>, slot: Slot) -> Option<Slot>
where
    K: std::hash::Hash,
    S: std::hash::BuildHasher,
{
    match entry {
        Entry::Occupied(mut place) => Some(place.insert(slot)),
        Entry::Vacant(place) => {
            place.insert(slot);
            None
        }
    }
}

/// Marks are of the moment: what counts is which route goes where.
impl PartialEq for Fib {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self
                .iter()
                .all(|(prefix, group)| other.get(&prefix) == Some(group))
    }
}

impl Eq for Fib {}

impl fmt::Debug for Fib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted: BTreeMap<IpNet, NexthopId> = self.iter().collect();
        sorted.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn group(number: u32) -> NexthopId {
        NexthopId(ours::NEXTHOPS.start() + number)
    }

    #[test]
    fn a_route_takes_no_more_than_its_octets() {
        assert_eq!(size_of::<(V4, Slot)>(), 9);
        assert_eq!(size_of::<(V6, Slot)>(), 21);
    }

    #[test]
    fn a_listing_corrects_what_was_known() {
        let mut fib = Fib::default();
        fib.insert(&net("10.0.0.0/24"), group(1));
        fib.insert(&net("10.0.1.0/24"), group(1));
        fib.insert(&net("10.0.2.0/24"), group(1));
        fib.begin_listing();
        let mut listed = |text, number| fib.listed(&net(text), group(number));
        assert_eq!(listed("10.0.0.0/24", 1), Listed::Known);
        assert_eq!(listed("10.0.1.0/24", 2), Listed::Changed);
        assert_eq!(listed("2001:db8::/32", 2), Listed::New);
        assert_eq!(fib.end_listing(), 1);
        let inherited = |text| fib.is_inherited(&net(text));
        assert!(inherited("2001:db8::/32") && !inherited("10.0.1.0/24"));
        assert_eq!((fib.users(group(1)), fib.users(group(2))), (1, 2));
        assert_eq!(fib.len(), 3);
    }

    #[test]
    fn two_routes_of_one_prefix_are_nothing_we_make() {
        let mut fib = Fib::default();
        fib.begin_listing();
        fib.listed(&net("10.0.0.0/24"), group(1));
        let twice = fib.listed(&net("10.0.0.0/24"), group(2));
        assert_eq!(twice, Listed::Changed);
        fib.end_listing();
        assert_eq!(fib.get(&net("10.0.0.0/24")), Some(NexthopId(0)));
    }

    #[test]
    fn a_review_leaves_what_is_not_wanted() {
        let mut fib = Fib::default();
        for text in ["10.0.0.0/24", "10.0.1.0/24", "2001:db8::/32"] {
            fib.insert(&net(text), group(1));
        }
        fib.begin_review();
        fib.want(&net("10.0.0.0/24"));
        fib.insert(&net("2001:db8::/32"), group(2));
        fib.want(&net("10.9.0.0/24"));
        let unwanted: Vec<IpNet> = fib.unwanted().collect();
        assert_eq!(unwanted, [net("10.0.1.0/24")]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u32),
        Remove(u8),
        Retain(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..8, 0u32..4).prop_map(|(n, group)| Step::Insert(n, group)),
            2 => (0u8..8).prop_map(Step::Remove),
            1 => (0u32..4).prop_map(Step::Retain),
        ]
    }

    proptest! {
        /// Against the plainest map there is.
        #[test]
        fn it_is_a_map_that_counts(steps in proptest::collection::vec(step(), 0..40)) {
            let prefix = |n: u8| match n % 2 {
                0 => net(&format!("10.{n}.0.0/16")),
                _ => net(&format!("2001:db8:{n}::/48")),
            };
            let (mut fib, mut model) = (Fib::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Insert(n, g) => {
                        fib.insert(&prefix(n), group(g));
                        model.insert(prefix(n), group(g));
                    }
                    Step::Remove(n) => {
                        let removed = model.remove(&prefix(n)).is_some();
                        prop_assert_eq!(fib.remove(&prefix(n)), removed);
                    }
                    Step::Retain(g) => {
                        fib.retain(|_, held| held != group(g));
                        model.retain(|_, held| *held != group(g));
                    }
                }
                let held: BTreeMap<IpNet, NexthopId> = fib.iter().collect();
                prop_assert_eq!(&held, &model);
                for g in 0..4 {
                    let users = model.values().filter(|held| **held == group(g)).count();
                    prop_assert_eq!(fib.users(group(g)), users);
                }
            }
        }
    }
}
