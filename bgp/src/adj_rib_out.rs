//! What a peer was told: the Adj-RIB-Out of one session.
//!
//! Changed prefixes are collected in a set, so a prefix that changes ten times while the peer is
//! slow is sent once, as it then is. A batch of them is packed into UPDATEs, one per set of
//! attributes, only when the connection can take it: see [`Input::Writable`](crate::Input).

use crate::export::Target;
use crate::policy::{Matched, Policy};
use crate::table::{AttributeSets, Changed, Seed, Table, Winner};
use crate::wire::{Attributes, Family, Message, Refresh, Update, announce, encode, withdraw};
use hashbrown::HashTable;
use ipnet::IpNet;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// How many bytes of updates are handed out for a connection before it has to be writable again.
pub(crate) const WINDOW: usize = 64 * 1024;

/// How many prefixes are looked at together: enough to fill messages, few enough that a batch of
/// ordinary attributes stays within the window.
const BATCH: usize = 2048;

/// A path that the peer was told.
#[derive(Debug)]
struct Told {
    prefix: IpNet,
    /// Its path identifier (RFC 7911); 0 where the session has none.
    path: u32,
    /// `None`: it is to be told again (RFC 2918).
    attributes: Option<Arc<Attributes>>,
}

/// What one session's peer was told, and what it is yet to be told.
#[derive(Debug)]
pub(crate) struct AdjRibOut {
    target: Target,
    seed: Seed,
    told: HashTable<Told>,
    pending: Pending,
    /// Families whose first full announcement is not complete yet.
    end_of_rib: BTreeSet<Family>,
    /// Families that are to be told again, whose beginning was not yet said (RFC 7313).
    begins: BTreeSet<Family>,
    /// The same, whose end was not yet said.
    ends: BTreeSet<Family>,
    /// Families that are being told again.
    repeated: BTreeSet<Family>,
    /// Those of them that were asked for once more meanwhile.
    again: BTreeSet<Family>,
    /// False while we wait for the peers' routes after our own restart.
    open: bool,
    /// Bytes handed out since the connection was last known to be writable.
    unsent: usize,
}

/// Prefixes whose turn it is, each once.
#[derive(Debug, Default)]
struct Pending {
    queue: VecDeque<IpNet>,
    members: HashTable<IpNet>,
}

impl Pending {
    fn push(&mut self, prefix: IpNet, seed: &Seed) {
        let hash = seed.net(&prefix);
        if self.members.find(hash, |it| *it == prefix).is_none() {
            self.members.insert_unique(hash, prefix, |it| seed.net(it));
            self.queue.push_back(prefix);
        }
    }

    fn pop(&mut self, seed: &Seed) -> Option<IpNet> {
        let prefix = self.queue.pop_front()?;
        let found = self
            .members
            .find_entry(seed.net(&prefix), |it| *it == prefix);
        if let Ok(found) = found {
            found.remove();
        }
        if self.queue.is_empty() {
            *self = Self::default();
        }
        Some(prefix)
    }
}

/// What is announced with one set of attributes.
struct Group {
    family: Family,
    attributes: Arc<Attributes>,
    prefixes: Vec<(u32, IpNet)>,
}

/// What a batch of prefixes comes to.
#[derive(Default)]
struct Batch {
    withdrawn: Vec<(u32, IpNet)>,
    groups: Vec<Group>,
    /// Where the group of a family and of attributes stands, these by their address.
    places: BTreeMap<(Family, usize), usize>,
}

impl Batch {
    fn announce(&mut self, path: u32, prefix: IpNet, attributes: Arc<Attributes>) {
        let family = Family::of(&prefix);
        let key = (family, Arc::as_ptr(&attributes) as usize);
        let at = *self.places.entry(key).or_insert(self.groups.len());
        match self.groups.get_mut(at) {
            Some(group) => group.prefixes.push((path, prefix)),
            None => self.groups.push(Group {
                family,
                attributes,
                prefixes: vec![(path, prefix)],
            }),
        }
    }
}

impl AdjRibOut {
    pub(crate) fn new(target: Target, seed: Seed) -> Self {
        Self {
            target,
            seed,
            told: HashTable::new(),
            pending: Pending::default(),
            end_of_rib: BTreeSet::new(),
            begins: BTreeSet::new(),
            ends: BTreeSet::new(),
            repeated: BTreeSet::new(),
            again: BTreeSet::new(),
            open: false,
            unsent: 0,
        }
    }

    /// Our paths are about to go, or no longer (RFC 8326); to be followed by a review.
    pub(crate) fn drain(&mut self, drain: bool) {
        self.target.drain = drain;
    }

    /// Begins to announce: all there is, then End-of-RIB.
    pub(crate) fn open(&mut self, table: &mut Table, allowed: &Policy) {
        if !self.open {
            self.open = true;
            self.end_of_rib = self.target.families.clone();
            self.review(table, allowed);
        }
    }

    /// Looks at all prefixes again, as after a change of policy.
    pub(crate) fn review(&mut self, table: &mut Table, allowed: &Policy) {
        if !self.open {
            return;
        }
        for told in &self.told {
            self.pending.push(told.prefix, &self.seed);
        }
        let winners = table.winners();
        let wanted = winners.filter(|(prefix, it)| self.may_want(prefix, *it, allowed));
        let wanted: Vec<IpNet> = wanted.map(|it| it.0).collect();
        for prefix in wanted {
            table.note_announced(&prefix);
            self.pending.push(prefix, &self.seed);
        }
    }

    /// A prefix has another winner, or none. True if there is something to tell.
    pub(crate) fn changed(
        &mut self,
        changed: &Changed,
        winner: Option<Winner<'_>>,
        allowed: &Policy,
    ) -> bool {
        let prefix = changed.prefix;
        let wanted = || winner.is_some_and(|it| self.may_want(&prefix, it, allowed));
        let concerns = self.open && (changed.announced && self.has_told(&prefix) || wanted());
        if concerns {
            self.pending.push(prefix, &self.seed);
        }
        concerns
    }

    fn may_want(&self, prefix: &IpNet, winner: Winner<'_>, allowed: &Policy) -> bool {
        self.target.tells_several() || self.target.wants(prefix, winner, allowed)
    }

    fn has_told(&self, prefix: &IpNet) -> bool {
        let hash = self.seed.net(prefix);
        self.told.find(hash, |it| it.prefix == *prefix).is_some()
    }

    /// The peer asks for all of a family again (RFC 2918), End-of-RIB excepted. Before the first
    /// End-of-RIB there is no beginning and no end to be said of it (RFC 7313 section 4).
    ///
    /// Each is a walk over all that was told, and asking costs the peer 23 bytes: whoever asks while
    /// he is being answered is answered once more, after that, however often he asked.
    pub(crate) fn refresh(&mut self, family: Family) {
        if self.begins.contains(&family) {
            return;
        }
        if !self.repeated.insert(family) {
            self.again.insert(family);
            return;
        }
        for told in &mut self.told {
            if Family::of(&told.prefix) == family {
                told.attributes = None;
                self.pending.push(told.prefix, &self.seed);
            }
        }
        if self.open && !self.end_of_rib.contains(&family) {
            self.begins.insert(family);
            self.ends.insert(family);
        }
    }

    /// The connection has taken all that was handed out.
    pub(crate) fn writable(&mut self) {
        self.unsent = 0;
    }

    /// Whether [`AdjRibOut::next`] has something for the peer.
    pub(crate) fn ready(&self) -> bool {
        let markers = self.end_of_rib.len() + self.begins.len() + self.ends.len();
        self.unsent < WINDOW && !(self.pending.queue.is_empty() && markers == 0)
    }

    /// The next UPDATEs, as bytes, and the prefixes that cannot be said. No bytes when a batch
    /// turned out to change nothing.
    pub(crate) fn next(
        &mut self,
        table: &Table,
        allowed: &Policy,
        sets: &mut AttributeSets,
    ) -> (Vec<u8>, Vec<IpNet>) {
        let (mut bytes, mut unsaid) = (Vec::new(), Vec::new());
        let context = self.target.context;
        for family in std::mem::take(&mut self.begins) {
            let message = Message::RouteRefresh(family, Refresh::Begin);
            encode(&message, &context, &mut bytes);
        }
        let batch = self.batch(table, allowed, sets);
        for family in [Family::Ipv4, Family::Ipv6] {
            let withdrawn = batch.withdrawn.iter();
            let of_family = withdrawn.filter(|it| Family::of(&it.1) == family).copied();
            withdraw(family, of_family, &context, &mut bytes);
        }
        for (path, prefix) in &batch.withdrawn {
            self.forget(*path, prefix);
        }
        for group in batch.groups {
            let Some(next_hop) = self.target.next_hop(group.family) else {
                continue;
            };
            if self.unsent + bytes.len() >= WINDOW {
                // Prefixes without common attributes make many bytes: they wait their turn.
                for (_, prefix) in group.prefixes {
                    self.pending.push(prefix, &self.seed);
                }
                continue;
            }
            for (path, prefix) in &group.prefixes {
                self.remember(*path, *prefix, &group.attributes);
            }
            let (family, prefixes) = (group.family, group.prefixes);
            let attributes = &group.attributes;
            let unfit = announce(
                family, &next_hop, attributes, prefixes, &context, &mut bytes,
            );
            for (path, prefix) in unfit {
                self.forget(path, &prefix);
                unsaid.push(prefix);
            }
        }
        if self.pending.queue.is_empty() {
            for family in std::mem::take(&mut self.ends) {
                let message = Message::RouteRefresh(family, Refresh::End);
                encode(&message, &context, &mut bytes);
            }
            for family in std::mem::take(&mut self.end_of_rib) {
                let update = Update {
                    end_of_rib: Some(family),
                    ..Update::default()
                };
                encode(&Message::Update(update), &context, &mut bytes);
            }
            self.repeated.clear();
            for family in std::mem::take(&mut self.again) {
                self.refresh(family);
            }
        }
        self.unsent += bytes.len();
        (bytes, unsaid)
    }

    /// Takes pending prefixes and sorts them: to be withdrawn, to be announced by attributes.
    fn batch(&mut self, table: &Table, allowed: &Policy, sets: &mut AttributeSets) -> Batch {
        let mut batch = Batch::default();
        // Neighbouring prefixes mostly come from the same message: what the last one was turned
        // into serves the next.
        let mut last: Option<(Option<u32>, Matched, Arc<Attributes>)> = None;
        for _ in 0..BATCH {
            let Some(prefix) = self.pending.pop(&self.seed) else {
                break;
            };
            let several = self.target.context.add_path.of(Family::of(&prefix)).send;
            let paths: SmallVec<[(u32, Winner<'_>); 4]> = match several {
                true => table.announced_paths(&prefix),
                false => table
                    .winner(&prefix)
                    .map(|it| (0, it))
                    .into_iter()
                    .collect(),
            };
            let mut wanted: SmallVec<[(u32, Arc<Attributes>); 4]> = SmallVec::new();
            for (path, winner) in paths {
                let Some(matched) = self.target.matched(&prefix, winner, allowed) else {
                    continue;
                };
                let offer = match winner {
                    Winner::Local => None,
                    Winner::Learnt(learnt) => Some(learnt.offer),
                };
                let attributes = match &last {
                    Some((before, terms, attributes)) if (*before, *terms) == (offer, matched) => {
                        attributes.clone()
                    }
                    _ => sets.intern(self.target.attributes(winner, matched, allowed)),
                };
                last = Some((offer, matched, attributes.clone()));
                wanted.push((path, attributes));
            }
            let hash = self.seed.net(&prefix);
            let told = self.told.iter_hash(hash).filter(|it| it.prefix == prefix);
            for told in told {
                match wanted.iter().position(|it| it.0 == told.path) {
                    None => batch.withdrawn.push((told.path, prefix)),
                    Some(at) => {
                        let same = |it: &Arc<Attributes>| Arc::ptr_eq(it, &wanted[at].1);
                        if told.attributes.as_ref().is_some_and(same) {
                            wanted.swap_remove(at);
                        }
                    }
                }
            }
            for (path, attributes) in wanted {
                batch.announce(path, prefix, attributes);
            }
        }
        batch
    }

    /// The peer knows a path with these attributes.
    fn remember(&mut self, path: u32, prefix: IpNet, attributes: &Arc<Attributes>) {
        let seed = self.seed;
        let same = |it: &Told| it.prefix == prefix && it.path == path;
        let entry = self
            .told
            .entry(seed.net(&prefix), same, |it| seed.net(&it.prefix));
        let told = entry.or_insert(Told {
            prefix,
            path,
            attributes: None,
        });
        told.into_mut().attributes = Some(attributes.clone());
    }

    /// The peer does not know a path any more.
    fn forget(&mut self, path: u32, prefix: &IpNet) {
        let same = |it: &Told| it.prefix == *prefix && it.path == path;
        if let Ok(found) = self.told.find_entry(self.seed.net(prefix), same) {
            found.remove();
        }
        if self.told.is_empty() {
            self.told = HashTable::new();
        }
    }

    /// What the peer was told and not told to forget.
    pub(crate) fn told(&self) -> impl Iterator<Item = (IpNet, Arc<Attributes>)> {
        let told = self.told.iter();
        told.filter_map(|it| Some((it.prefix, it.attributes.clone()?)))
    }

    pub(crate) fn count(&self) -> usize {
        self.told.len()
    }
}
