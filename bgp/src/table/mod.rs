//! The table: every path of every peer, and the choice among them.
//!
//! Adj-RIB-In and Loc-RIB are two views of one table. A prefix has a small record (`prefixes`) and
//! a list of paths (`paths`); a path names what its peer offers it with (`offers`), which is shared
//! by all prefixes of an UPDATE. So all that is large exists once, and what was chosen for one
//! prefix is what is chosen for the next with the same offers. What concerns a whole peer (session
//! lost, End-of-RIB, changed policy) walks the table once, as the announcement to a new peer does.

mod attributes;
mod changes;
mod hash;
mod hops;
mod offers;
mod paths;
mod prefixes;
mod slab;
mod sources;
mod walk;

pub(crate) use attributes::AttributeSets;
pub(crate) use hash::Seed;
pub use hops::Hop;
pub(crate) use offers::{Offer, Used};
pub use sources::Source;
pub(crate) use sources::{Sources, State};

use crate::decision::{self, Candidate, Candidates};
use crate::policy::Rejection;
use crate::weight::{link_bandwidth, weights};
use crate::wire::{Attributes, NextHop};
use hops::HopSets;
use ipnet::IpNet;
use offers::Offers;
use paths::{PathRecord, Paths};
use prefixes::{ANNOUNCED, INSTALLED, LOCAL, PrefixId, Prefixes, Record};
use slab::NONE;
use smallvec::SmallVec;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// More paths of one peer to one prefix than this are not looked at (RFC 7911 sets no limit, but
/// each costs time whenever the prefix changes).
const PATHS_OF_A_PEER: usize = 64;

/// The path identifier of what we originate; those of paths are their numbers.
const LOCAL_PATH: u32 = u32::MAX - 1;

/// How many choices are remembered.
const CHOICES: usize = 8;

/// A way to a prefix that one peer announced: an entry of its Adj-RIB-In.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Who announced it.
    pub source: Arc<Source>,
    /// The path identifier (RFC 7911); 0 where the session has none.
    pub id: u32,
    /// Its attributes.
    pub attributes: Arc<Attributes>,
    /// Where to send the traffic.
    pub next_hop: NextHop,
    /// Kept from a session that is gone (RFC 4724).
    pub stale: bool,
    /// Why it is not used, if so.
    pub rejected: Option<Rejection>,
}

/// What is announced to others for a prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Winner<'a> {
    /// We originate it.
    Local,
    /// The best path of a peer.
    Learnt(Learnt<'a>),
}

/// A path that may be announced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Learnt<'a> {
    /// The number of its offer: the same for all that are announced alike.
    pub(crate) offer: u32,
    pub(crate) source: &'a Source,
    pub(crate) attributes: &'a Arc<Attributes>,
    /// Kept as a last resort (RFC 9494).
    pub(crate) long_lived: bool,
}

/// A prefix whose winner may be another one now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changed {
    pub(crate) prefix: IpNet,
    /// The number of the offer that wins; `None`: nothing does, or we originate it.
    pub(crate) offer: Option<u32>,
    pub(crate) local: bool,
    /// Whether some peer may have been told of it.
    pub(crate) announced: bool,
}

/// What was chosen among paths with these offers, in this order.
#[derive(Clone, Debug)]
struct Choice {
    offers: SmallVec<[u32; 4]>,
    /// The ECMP set.
    hops: u32,
    /// Which of the paths is the best.
    best: usize,
}

/// Every path of every peer.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) sources: Sources,
    prefixes: Prefixes,
    paths: Paths,
    offers: Offers,
    hops: HopSets,
    choices: SmallVec<[Choice; CHOICES]>,
    /// Which of `choices` is overwritten next.
    next_choice: usize,
    /// What we originate.
    local: BTreeSet<IpNet>,
    /// Some peer was told of all paths in use (RFC 7911), so that every path counts as the winner does.
    pub(crate) every_path: bool,
    /// Somebody tells what the kernel forwards; until then all counts as forwarded.
    installing: bool,
    /// Prefixes whose winner changed since [`Table::take_changed`].
    changed: Vec<Changed>,
    /// Prefixes whose ECMP set changed since they were taken, those flagged `CHANGED`, in order.
    /// Numbers of prefixes that are gone may be among them.
    changes: VecDeque<PrefixId>,
}

impl Table {
    pub(crate) fn new(seed: Seed) -> Self {
        Self {
            sources: Sources::default(),
            prefixes: Prefixes::new(seed),
            paths: Paths::new(),
            offers: Offers::new(seed),
            hops: HopSets::default(),
            choices: SmallVec::new(),
            next_choice: 0,
            local: BTreeSet::new(),
            every_path: false,
            installing: false,
            changed: Vec::new(),
            changes: VecDeque::new(),
        }
    }

    // ---- Paths that come and go ----

    /// The number of an offer. It means nothing any more once it is released, if no path has it.
    pub(crate) fn offer(&mut self, offer: Offer) -> u32 {
        self.offers.intern(offer)
    }

    pub(crate) fn release(&mut self, offer: u32) {
        if self.offers.release(offer) {
            // The number may come to mean something else.
            self.choices.clear();
        }
    }

    /// Adds or replaces the path with this identifier of the offer's peer. False: there are too
    /// many, and it was ignored.
    pub(crate) fn learn(&mut self, prefix: &IpNet, path_id: u32, offer: u32) -> bool {
        let (peer, source) = self.offers.origin(offer);
        let id = self.prefixes.find_or_insert(prefix);
        let first = self.prefixes.get(id).map_or(NONE, |it| it.first);
        let mut others = 0;
        let old = self.paths.list(first).find(|(_, path)| {
            // The offer alone says mostly enough, without a look at it.
            let same_peer = path.offer == offer || self.offers.origin(path.offer).0 == peer;
            others += usize::from(same_peer);
            same_peer && path.id == path_id
        });
        match old {
            Some((_, path)) if path.offer == offer => return true,
            None if others >= PATHS_OF_A_PEER => return false,
            _ => {}
        }
        let before = self.winner_of(id);
        self.offers.hold(offer);
        self.count(offer, source, true);
        if let Some((at, path)) = old {
            if let Some(place) = self.paths.get_mut(at) {
                place.offer = offer;
            }
            self.drop_offer(path.offer);
            self.select(id, before);
            return true;
        }
        let at = self.paths.add(PathRecord {
            next: first,
            offer,
            id: path_id,
        });
        if let Some(record) = self.prefixes.get_mut(id) {
            record.first = at;
        }
        self.select(id, before);
        true
    }

    /// Removes the path of a peer with this identifier.
    pub(crate) fn forget(&mut self, prefix: &IpNet, path_id: u32, peer: u32) {
        let Some(id) = self.prefixes.find(prefix) else {
            return;
        };
        let first = self.prefixes.get(id).map_or(NONE, |it| it.first);
        let is = |path: &PathRecord| path.id == path_id && self.offers.origin(path.offer).0 == peer;
        let found = self.paths.list(first).find(|(_, path)| is(path));
        if let Some((at, _)) = found {
            let before = self.winner_of(id);
            self.remove_path(id, at);
            self.select(id, before);
        }
    }

    /// Takes a path from its prefix; to be followed by [`Table::select`].
    fn remove_path(&mut self, id: PrefixId, at: u32) {
        let Some(path) = self.paths.get(at).copied() else {
            return;
        };
        if let Some(record) = self.prefixes.get_mut(id) {
            record.first = self.paths.unlink(record.first, at);
        }
        self.paths.free(at);
        self.drop_offer(path.offer);
    }

    /// One path less has an offer.
    fn drop_offer(&mut self, offer: u32) {
        let (_, source) = self.offers.origin(offer);
        self.count(offer, source, false);
        self.release(offer);
    }

    fn count(&mut self, offer: u32, source: u32, came: bool) {
        let rejected = self.offers.get(offer).is_some_and(|it| it.outcome.is_err());
        self.sources.count(source, rejected, came);
    }

    // ---- The choice ----

    /// What is announced of a prefix: flags that it depends on, and the offer.
    fn winner_of(&self, id: PrefixId) -> (bool, bool, u32) {
        let Some(record) = self.prefixes.get(id) else {
            return (false, false, NONE);
        };
        let offer = match record.hops {
            NONE => NONE,
            _ => self.paths.get(record.first).map_or(NONE, |it| it.offer),
        };
        (record.is(LOCAL), record.is(INSTALLED), offer)
    }

    /// Chooses again among the paths of a prefix, of which `before` was announced.
    fn select(&mut self, id: PrefixId, before: (bool, bool, u32)) {
        let Some(record) = self.prefixes.get(id).copied() else {
            return;
        };
        let (hops, best) = match record.first {
            _ if record.is(LOCAL) => (NONE, record.first),
            NONE => (NONE, NONE),
            first => self.choose(first),
        };
        if best != record.first {
            let rest = self.paths.unlink(record.first, best);
            if let Some(path) = self.paths.get_mut(best) {
                path.next = rest;
            }
            if let Some(record) = self.prefixes.get_mut(id) {
                record.first = best;
            }
        }
        if hops != record.hops {
            self.hops.hold(hops);
            if let Some(record) = self.prefixes.get_mut(id) {
                record.hops = hops;
            }
            if self.hops.release(record.hops) {
                self.choices.clear();
            }
            self.note_change(id);
        }
        self.note_winner(id, before);
        self.remove_if_empty(id);
    }

    /// The ECMP set among the paths that begin with `first`, and the best path; where none is usable:
    /// no set, and the first path.
    fn choose(&mut self, first: u32) -> (u32, u32) {
        let paths = self.paths.list(first);
        let (numbers, offers): (SmallVec<[u32; 4]>, SmallVec<[u32; 4]>) =
            paths.map(|(at, path)| (at, path.offer)).unzip();
        let known = self.choices.iter().find(|it| it.offers == offers);
        let (hops, best) = match known {
            Some(known) => (known.hops, known.best),
            None => {
                let (set, best) = self.compare(&offers);
                let hops = match set.is_empty() {
                    true => NONE,
                    false => self.hops.intern(&set),
                };
                let choice = Choice { offers, hops, best };
                match self.choices.get_mut(self.next_choice) {
                    Some(place) => *place = choice,
                    None => self.choices.push(choice),
                }
                self.next_choice = (self.next_choice + 1) % CHOICES;
                (hops, best)
            }
        };
        (hops, numbers.get(best).copied().unwrap_or(first))
    }

    /// The decision process over paths with these offers.
    fn select_among(&self, offers: &[u32]) -> Candidates<'_> {
        let candidate = |(at, offer): (usize, &u32)| {
            let offer = self.offers.get(*offer)?;
            let source = self.sources.get(offer.source)?;
            let attributes = &offer.outcome.as_ref().ok()?.attributes;
            let usable = source.state != State::Dead;
            usable.then(|| Candidate {
                at,
                source: &source.source,
                attributes,
                next_hop: offer.next_hop,
                last_resort: source.state == State::LongLived,
            })
        };
        let candidates = offers.iter().enumerate().filter_map(candidate);
        decision::select(candidates.collect())
    }

    /// The ECMP set of paths with these offers, and which is the best; empty where none is usable.
    fn compare(&self, offers: &[u32]) -> (SmallVec<[Hop; 4]>, usize) {
        let selected = self.select_among(offers);
        let best = selected.first().map_or(0, |it| it.at);
        let mut hops: SmallVec<[Hop; 4]> = SmallVec::new();
        let mut shares: SmallVec<[_; 4]> = SmallVec::new();
        for it in &selected {
            // Two paths of one peer may differ in nothing that traffic sees.
            let known = |hop: &Hop| hop.peer == it.source.peer && hop.next_hop == it.next_hop;
            if hops.iter().any(known) {
                continue;
            }
            hops.push(Hop {
                peer: it.source.peer.clone(),
                next_hop: it.next_hop,
                weight: 1,
            });
            let offer = offers.get(it.at).and_then(|it| self.offers.get(*it));
            let used = offer.and_then(|it| it.outcome.as_ref().ok());
            shares.push((used.and_then(|it| it.weight), link_bandwidth(it.attributes)));
        }
        for (hop, weight) in hops.iter_mut().zip(weights(&shares)) {
            hop.weight = weight;
        }
        (hops, best)
    }

    /// The winner may be another one than before.
    fn note_winner(&mut self, id: PrefixId, before: (bool, bool, u32)) {
        let now = self.winner_of(id);
        if now == before && !self.every_path {
            return;
        }
        let (Some(prefix), Some(record)) = (self.prefixes.prefix(id), self.prefixes.get(id)) else {
            return;
        };
        let (local, _, offer) = now;
        let forwarded = !local && offer != NONE && self.forwards(record);
        self.changed.push(Changed {
            prefix,
            offer: forwarded.then_some(offer),
            local,
            announced: record.is(ANNOUNCED),
        });
    }

    fn remove_if_empty(&mut self, id: PrefixId) {
        if self.prefixes.get(id).is_some_and(Record::is_empty) {
            self.prefixes.remove(id);
        }
    }

    // ---- What is announced ----

    /// Of what is learnt, only what the kernel forwards is announced, or the traffic that it
    /// attracts would be lost.
    fn forwards(&self, record: &Record) -> bool {
        !self.installing || record.is(INSTALLED)
    }

    /// What is to be announced for a prefix.
    pub(crate) fn winner(&self, prefix: &IpNet) -> Option<Winner<'_>> {
        let record = self.prefixes.get(self.prefixes.find(prefix)?)?;
        self.winner_in(record)
    }

    fn winner_in(&self, record: &Record) -> Option<Winner<'_>> {
        if record.is(LOCAL) {
            return Some(Winner::Local);
        }
        if record.hops == NONE || !self.forwards(record) {
            return None;
        }
        let path = self.paths.get(record.first)?;
        self.learnt(path.offer).map(Winner::Learnt)
    }

    /// The paths that an offer makes, as they are announced.
    pub(crate) fn learnt(&self, offer: u32) -> Option<Learnt<'_>> {
        let found = self.offers.get(offer)?;
        let source = self.sources.get(found.source)?;
        Some(Learnt {
            offer,
            source: &source.source,
            attributes: &found.outcome.as_ref().ok()?.attributes,
            long_lived: source.state == State::LongLived,
        })
    }

    /// All paths in use for a prefix, with numbers that they keep, for peers that take several
    /// (RFC 7911). Of what is not in use, others would learn nothing but that it is there.
    pub(crate) fn announced_paths(&self, prefix: &IpNet) -> SmallVec<[(u32, Winner<'_>); 4]> {
        let mut found = SmallVec::new();
        let id = self.prefixes.find(prefix);
        let Some(record) = id.and_then(|id| self.prefixes.get(id)) else {
            return found;
        };
        match self.winner_in(record) {
            None => return found,
            Some(Winner::Local) => {
                found.push((LOCAL_PATH, Winner::Local));
                return found;
            }
            Some(Winner::Learnt(_)) => {}
        }
        let (numbers, offers): (SmallVec<[u32; 4]>, SmallVec<[u32; 4]>) =
            (self.paths.list(record.first))
                .map(|(at, path)| (at, path.offer))
                .unzip();
        for used in self.select_among(&offers) {
            let (number, offer) = (numbers.get(used.at), offers.get(used.at));
            if let (Some(number), Some(offer)) = (number, offer)
                && let Some(learnt) = self.learnt(*offer)
            {
                found.push((*number, Winner::Learnt(learnt)));
            }
        }
        found
    }

    /// All that is to be announced.
    pub(crate) fn winners(&self) -> impl Iterator<Item = (IpNet, Winner<'_>)> {
        let all = self.prefixes.iter();
        all.filter_map(|(prefix, _, record)| Some((prefix, self.winner_in(record)?)))
    }

    /// Takes the prefixes whose winner changed since the last call.
    pub(crate) fn take_changed(&mut self) -> Vec<Changed> {
        std::mem::take(&mut self.changed)
    }

    /// How many things of each kind there are: prefixes, offers, ECMP sets.
    #[cfg(test)]
    fn sizes(&self) -> (usize, usize, usize) {
        (self.prefixes.len(), self.offers.len(), self.hops.len())
    }

    /// Some peer is going to be told of the prefix.
    pub(crate) fn note_announced(&mut self, prefix: &IpNet) {
        if let Some(id) = self.prefixes.find(prefix)
            && let Some(record) = self.prefixes.get_mut(id)
        {
            record.set(ANNOUNCED, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Family;
    use std::net::{IpAddr, Ipv4Addr};

    fn source(number: u8) -> Arc<Source> {
        Arc::new(Source {
            peer: format!("P{number}").into(),
            internal: true,
            client: false,
            meshed: false,
            router_id: Ipv4Addr::new(1, 1, 1, number),
            address: IpAddr::from([10, 0, 0, number]),
        })
    }

    fn net(number: u32) -> IpNet {
        let address = Ipv4Addr::from(0x0a00_0000 + (number << 8));
        IpNet::new(address.into(), 24).unwrap()
    }

    struct Play {
        table: Table,
        sets: AttributeSets,
    }

    impl Play {
        fn new() -> Self {
            let seed = Seed::new(7);
            Self {
                table: Table::new(seed),
                sets: AttributeSets::new(seed),
            }
        }

        /// The peer announces a prefix with this MED.
        fn learn(&mut self, peer: u8, prefix: u32, path: u32, med: u32) -> bool {
            let source = source(peer);
            let attributes = self.sets.intern(Attributes {
                med: Some(med),
                ..Attributes::default()
            });
            let (sources, id) = (&self.table.sources, &source.peer);
            let offer = Offer {
                source: sources.live(id, Family::Ipv4).unwrap(),
                peer: sources.number(id).unwrap(),
                received: attributes.clone(),
                next_hop: NextHop {
                    address: source.address,
                    link_local: None,
                },
                outcome: Ok(Used {
                    attributes,
                    weight: None,
                }),
            };
            let offer = self.table.offer(offer);
            let done = self.table.learn(&net(prefix), path, offer);
            self.table.release(offer);
            done
        }

        fn forget(&mut self, peer: u8, prefix: u32) {
            let number = self.table.sources.number(&source(peer).peer).unwrap();
            self.table.forget(&net(prefix), 0, number);
        }
    }

    #[test]
    fn what_nobody_needs_any_more_is_given_back() {
        let mut play = Play::new();
        for peer in [1, 2] {
            play.table.sources.up(source(peer));
        }
        // Each prefix with attributes of its own, several times over.
        for round in 0..3 {
            for number in 0..3_000 {
                play.learn(1, number, 0, number * 10 + round);
                play.learn(2, number, 0, number * 10 + round);
            }
            // What is not used is found at the next sweep, at twice what is.
            assert!(play.sets.len() <= 7_000, "{}", play.sets.len());
        }
        assert_eq!(play.table.sizes(), (3_000, 6_000, 1));
        assert_eq!(play.table.sources.counts(&"P1".into()), (3_000, 0));
        for number in 0..3_000 {
            play.forget(1, number);
        }
        assert_eq!(play.table.sizes(), (3_000, 3_000, 1));
        play.table
            .sources
            .down(&"P2".into(), &BTreeSet::new(), &BTreeSet::new());
        play.table.sweep();
        assert_eq!(play.table.sizes(), (0, 0, 0));
    }

    #[test]
    fn changes_that_nobody_takes_cost_no_more_than_the_prefixes() {
        let mut play = Play::new();
        play.table.sources.up(source(1));
        for number in 0..20_000 {
            play.learn(1, number % 5_000, 0, number);
            play.forget(1, number % 5_000);
        }
        assert!(
            play.table.changes.len() < 5_000,
            "{}",
            play.table.changes.len()
        );
        assert_eq!(play.table.take_changes(10), []);
        // What was told of is remembered until its end is told too.
        play.learn(1, 1, 0, 1);
        assert_eq!(play.table.take_changes(10).len(), 1);
        play.forget(1, 1);
        assert_eq!(play.table.take_changes(10), [(net(1), None)]);
        assert_eq!(play.table.sizes().0, 0);
    }

    #[test]
    fn a_peer_has_only_so_many_paths_to_a_prefix() {
        let mut play = Play::new();
        play.table.sources.up(source(1));
        play.table.sources.up(source(2));
        for path in 0..200 {
            let taken = play.learn(1, 1, path, path);
            assert_eq!(taken, path < PATHS_OF_A_PEER as u32);
        }
        assert!(play.learn(1, 1, 5, 0) && play.learn(2, 1, 0, 0));
        assert_eq!(play.table.sources.counts(&"P1".into()).0, PATHS_OF_A_PEER);
        // Paths 0 and 5 are equally good, and lead to the same place.
        let (_, hops) = play.table.loc_rib().next().unwrap();
        assert_eq!(hops.len(), 2);
    }

    #[test]
    fn prefixes_are_found_by_address_and_length() {
        let mut prefixes = Prefixes::new(Seed::new(1));
        let nets: Vec<IpNet> = [
            "10.0.0.0/8",
            "10.0.0.0/9",
            "0.0.0.0/0",
            "::/0",
            "2001:db8::/32",
        ]
        .map(|it| it.parse().unwrap())
        .into();
        let ids: Vec<PrefixId> = nets.iter().map(|it| prefixes.find_or_insert(it)).collect();
        for (net, id) in nets.iter().zip(&ids) {
            assert_eq!(prefixes.find(net), Some(*id));
            assert_eq!(prefixes.prefix(*id), Some(*net));
        }
        prefixes.remove(ids[0]);
        assert_eq!((prefixes.find(&nets[0]), prefixes.len()), (None, 4));
        assert_eq!(prefixes.iter().count(), 4);
        assert_eq!(prefixes.find_or_insert(&net(9)), ids[0]);
    }
}
