//! All prefixes there are, each with a small record: found by hash, known by a number.
//!
//! The hash table holds only the numbers (five bytes a prefix), the records lie one behind the
//! other: 16 bytes for IPv4, 28 for IPv6.

use super::hash::Seed;
use super::slab::NONE;
use crate::wire::Family;
use hashbrown::HashTable;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Set in the number of a prefix of IPv6.
const IPV6: u32 = 1 << 31;

/// The number of a prefix, for as long as it has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PrefixId(u32);

/// We originate the prefix: it wins over all paths.
pub(crate) const LOCAL: u8 = 1;
/// The kernel forwards it.
pub(crate) const INSTALLED: u8 = 2;
/// It waits among the changes of the Loc-RIB to be taken.
pub(crate) const CHANGED: u8 = 4;
/// It was given out as a change with an ECMP set, and its end was not.
pub(crate) const SHOWN: u8 = 8;
/// Some peer may have been told of it.
pub(crate) const ANNOUNCED: u8 = 16;

/// What is known of a prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    length: u8,
    flags: u8,
    /// The first of its paths; the best one if there is an ECMP set. In a free place: the next one.
    pub(crate) first: u32,
    /// The ECMP set in use.
    pub(crate) hops: u32,
}

impl Record {
    /// A length that no prefix has marks a free place.
    const FREE: u8 = u8::MAX;

    pub(crate) fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn set(&mut self, flag: u8, on: bool) {
        match on {
            true => self.flags |= flag,
            false => self.flags &= !flag,
        }
    }

    /// Nothing needs the prefix any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.first == NONE && !self.is(LOCAL | INSTALLED | SHOWN)
    }
}

/// The prefixes of one family.
#[derive(Debug)]
struct OfFamily<A> {
    numbers: HashTable<u32>,
    records: Vec<(A, Record)>,
    /// The first free place.
    free: u32,
}

impl<A: Copy + Eq + Into<IpAddr>> OfFamily<A> {
    fn new() -> Self {
        Self {
            numbers: HashTable::new(),
            records: Vec::new(),
            free: NONE,
        }
    }

    fn find(&self, seed: &Seed, address: A, length: u8) -> Option<u32> {
        let same = |at: &u32| is(&self.records, *at, address, length);
        let hash = seed.prefix(address.into(), length);
        self.numbers.find(hash, same).copied()
    }

    fn find_or_insert(&mut self, seed: &Seed, address: A, length: u8) -> u32 {
        let records = &self.records;
        let entry = self.numbers.entry(
            seed.prefix(address.into(), length),
            |at| is(records, *at, address, length),
            |at| hash(records, *at, seed),
        );
        let vacant = match entry {
            hashbrown::hash_table::Entry::Occupied(known) => return *known.get(),
            hashbrown::hash_table::Entry::Vacant(vacant) => vacant,
        };
        let record = Record {
            length,
            flags: 0,
            first: NONE,
            hops: NONE,
        };
        let at = match self.records.get_mut(self.free as usize) {
            Some(place) => {
                let at = self.free;
                self.free = place.1.first;
                *place = (address, record);
                at
            }
            None => {
                // Two thousand million prefixes are more than there is memory for.
                let at = u32::try_from(self.records.len()).unwrap_or(NONE);
                self.records.push((address, record));
                at
            }
        };
        vacant.insert(at);
        at
    }

    fn remove(&mut self, seed: &Seed, at: u32) {
        let Some((address, record)) = self.records.get_mut(at as usize) else {
            return;
        };
        let hash = seed.prefix((*address).into(), record.length);
        if let Ok(found) = self.numbers.find_entry(hash, |it| *it == at) {
            found.remove();
            record.length = Record::FREE;
            record.first = self.free;
            self.free = at;
        }
        if self.numbers.is_empty() {
            *self = Self::new();
        }
    }

    fn numbers(&self) -> impl Iterator<Item = u32> + use<A> {
        0..u32::try_from(self.records.len()).unwrap_or(NONE)
    }
}

fn is<A: Copy + Eq>(records: &[(A, Record)], at: u32, address: A, length: u8) -> bool {
    let found = records.get(at as usize);
    found.is_some_and(|it| it.0 == address && it.1.length == length)
}

fn hash<A: Copy + Into<IpAddr>>(records: &[(A, Record)], at: u32, seed: &Seed) -> u64 {
    let found = records.get(at as usize);
    found.map_or(0, |it| seed.prefix(it.0.into(), it.1.length))
}

/// The prefixes of both families.
#[derive(Debug)]
pub(crate) struct Prefixes {
    seed: Seed,
    ipv4: OfFamily<Ipv4Addr>,
    ipv6: OfFamily<Ipv6Addr>,
}

impl Prefixes {
    pub(crate) fn new(seed: Seed) -> Self {
        Self {
            seed,
            ipv4: OfFamily::new(),
            ipv6: OfFamily::new(),
        }
    }

    pub(crate) fn find(&self, prefix: &IpNet) -> Option<PrefixId> {
        let (seed, length) = (&self.seed, prefix.prefix_len());
        let at = match prefix.addr() {
            IpAddr::V4(address) => self.ipv4.find(seed, address, length)?,
            IpAddr::V6(address) => self.ipv6.find(seed, address, length)? | IPV6,
        };
        Some(PrefixId(at))
    }

    pub(crate) fn find_or_insert(&mut self, prefix: &IpNet) -> PrefixId {
        let (seed, length) = (&self.seed, prefix.prefix_len());
        PrefixId(match prefix.addr() {
            IpAddr::V4(address) => self.ipv4.find_or_insert(seed, address, length),
            IpAddr::V6(address) => self.ipv6.find_or_insert(seed, address, length) | IPV6,
        })
    }

    pub(crate) fn remove(&mut self, id: PrefixId) {
        match id.0 & IPV6 {
            0 => self.ipv4.remove(&self.seed, id.0),
            _ => self.ipv6.remove(&self.seed, id.0 & !IPV6),
        }
    }

    pub(crate) fn get(&self, id: PrefixId) -> Option<&Record> {
        let record = match id.0 & IPV6 {
            0 => &self.ipv4.records.get(id.0 as usize)?.1,
            _ => &self.ipv6.records.get((id.0 & !IPV6) as usize)?.1,
        };
        (record.length != Record::FREE).then_some(record)
    }

    pub(crate) fn get_mut(&mut self, id: PrefixId) -> Option<&mut Record> {
        let record = match id.0 & IPV6 {
            0 => &mut self.ipv4.records.get_mut(id.0 as usize)?.1,
            _ => &mut self.ipv6.records.get_mut((id.0 & !IPV6) as usize)?.1,
        };
        (record.length != Record::FREE).then_some(record)
    }

    pub(crate) fn prefix(&self, id: PrefixId) -> Option<IpNet> {
        Some(match id.0 & IPV6 {
            0 => {
                let (address, record) = self.ipv4.records.get(id.0 as usize)?;
                Ipv4Net::new(*address, record.length).ok()?.into()
            }
            _ => {
                let (address, record) = self.ipv6.records.get((id.0 & !IPV6) as usize)?;
                Ipv6Net::new(*address, record.length).ok()?.into()
            }
        })
    }

    /// All numbers of these families, those of free places too.
    pub(crate) fn ids(
        &self,
        families: &BTreeSet<Family>,
    ) -> impl Iterator<Item = PrefixId> + use<> {
        let ipv4 = families
            .contains(&Family::Ipv4)
            .then(|| self.ipv4.numbers());
        let ipv6 = families
            .contains(&Family::Ipv6)
            .then(|| self.ipv6.numbers());
        let ipv6 = ipv6.into_iter().flatten().map(|at| at | IPV6);
        ipv4.into_iter().flatten().chain(ipv6).map(PrefixId)
    }

    /// All numbers, those of free places too.
    pub(crate) fn all_ids(&self) -> impl Iterator<Item = PrefixId> + use<> {
        let ipv6 = self.ipv6.numbers().map(|at| at | IPV6);
        self.ipv4.numbers().chain(ipv6).map(PrefixId)
    }

    /// All prefixes with their records.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpNet, PrefixId, &Record)> {
        self.all_ids()
            .filter_map(|id| Some((self.prefix(id)?, id, self.get(id)?)))
    }

    pub(crate) fn len(&self) -> usize {
        self.ipv4.numbers.len() + self.ipv6.numbers.len()
    }
}
