//! The table: every path of every peer, and the choice among them.
//!
//! Adj-RIB-In and Loc-RIB are two views of one table. What concerns a whole peer (session lost,
//! End-of-RIB, changed policy) walks the table once, as the announcement to a new peer does.

use crate::config::PeerId;
use crate::decision;
use crate::policy::Rejection;
use crate::wire::{Attributes, NextHop};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Where paths come from: a peer, as it was during one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The peer.
    pub peer: PeerId,
    /// It is in our AS.
    pub internal: bool,
    /// It is a route reflection client.
    pub client: bool,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
    /// Its address.
    pub address: IpAddr,
}

/// A way to a prefix that one peer announced: an entry of its Adj-RIB-In.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Who announced it.
    pub source: Arc<Source>,
    /// Its attributes.
    pub attributes: Arc<Attributes>,
    /// Where to send the traffic.
    pub next_hop: NextHop,
    /// Kept from a session that is gone (RFC 4724).
    pub stale: bool,
    /// Why it is not used, if so.
    pub rejected: Option<Rejection>,
}

/// One path in use: a member of the ECMP set of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Best {
    /// Who announced it.
    pub peer: PeerId,
    /// Where to send the traffic.
    pub next_hop: NextHop,
    /// Kept from a session that is gone, until the peer is back (RFC 4724).
    pub stale: bool,
    /// Its share of the traffic, relative to the other members. Always 1 for now.
    pub weight: u32,
    /// Its attributes.
    pub attributes: Arc<Attributes>,
}

/// What is announced to others for a prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Winner<'a> {
    /// We originate it.
    Local,
    /// The best path of a peer.
    Learnt(&'a Path),
}

/// What becomes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Same,
    Changed,
    Removed,
}

#[derive(Debug, Default)]
struct Entry {
    /// We originate the prefix: it wins over all paths.
    local: bool,
    /// At most one per peer.
    paths: Vec<Path>,
    /// What is in use: the best one first. Empty when `local`.
    best: Vec<Best>,
}

impl Entry {
    /// Chooses again; true if the outcome is another.
    fn select(&mut self) -> bool {
        let best = if self.local {
            Vec::new()
        } else {
            let paths = decision::select(&self.paths);
            paths.into_iter().map(best).collect()
        };
        let changed = best != self.best;
        self.best = best;
        changed
    }

    fn winner(&self) -> Option<Winner<'_>> {
        if self.local {
            return Some(Winner::Local);
        }
        let first = self.best.first()?;
        let path = self
            .paths
            .iter()
            .find(|path| path.source.peer == first.peer)?;
        Some(Winner::Learnt(path))
    }

    fn is_empty(&self) -> bool {
        !self.local && self.paths.is_empty()
    }
}

fn best(path: &Path) -> Best {
    Best {
        peer: path.source.peer.clone(),
        next_hop: path.next_hop,
        stale: path.stale,
        weight: 1,
        attributes: path.attributes.clone(),
    }
}

/// Every path of every peer.
#[derive(Debug, Default)]
pub(crate) struct Rib {
    entries: BTreeMap<IpNet, Entry>,
    /// Counts the changes of what [`Rib::loc_rib`] yields.
    version: u64,
    /// Prefixes whose winner changed since [`Rib::take_changed`].
    changed: Vec<IpNet>,
    /// What the kernel forwards; `None` while nobody has told.
    installed: Option<BTreeSet<IpNet>>,
}

impl Rib {
    /// Adds or replaces the path of a peer; returns the one replaced.
    pub(crate) fn learn(&mut self, prefix: IpNet, path: Path) -> Option<Path> {
        let entry = self.entries.entry(prefix).or_default();
        let same = |old: &&mut Path| old.source.peer == path.source.peer;
        let old = match entry.paths.iter_mut().find(same) {
            Some(old) => Some(std::mem::replace(old, path)),
            None => {
                entry.paths.push(path);
                None
            }
        };
        if entry.select() {
            self.version += 1;
            self.changed.push(prefix);
        }
        old
    }

    /// Removes the path of a peer, and returns it.
    pub(crate) fn forget(&mut self, prefix: IpNet, peer: &PeerId) -> Option<Path> {
        let entry = self.entries.get_mut(&prefix)?;
        let at = entry
            .paths
            .iter()
            .position(|path| path.source.peer == *peer)?;
        let old = entry.paths.swap_remove(at);
        if entry.select() {
            self.version += 1;
            self.changed.push(prefix);
        }
        if entry.is_empty() {
            self.entries.remove(&prefix);
        }
        Some(old)
    }

    /// Walks the paths of a peer, and does with each what `judge` says.
    pub(crate) fn revise(
        &mut self,
        peer: &PeerId,
        mut judge: impl FnMut(&IpNet, &mut Path) -> Fate,
    ) {
        self.entries.retain(|prefix, entry| {
            let Some(at) = entry
                .paths
                .iter()
                .position(|path| path.source.peer == *peer)
            else {
                return true;
            };
            let fate = entry
                .paths
                .get_mut(at)
                .map_or(Fate::Same, |path| judge(prefix, path));
            if fate == Fate::Removed {
                entry.paths.swap_remove(at);
            }
            if fate != Fate::Same && entry.select() {
                self.version += 1;
                self.changed.push(*prefix);
            }
            !entry.is_empty()
        });
    }

    /// Makes `prefixes` the whole set that we originate.
    pub(crate) fn originate(&mut self, prefixes: &BTreeSet<IpNet>) {
        for prefix in prefixes {
            self.entries.entry(*prefix).or_default();
        }
        self.entries.retain(|prefix, entry| {
            let local = prefixes.contains(prefix);
            if local != entry.local {
                entry.local = local;
                self.changed.push(*prefix);
                if entry.select() {
                    self.version += 1;
                }
            }
            !entry.is_empty()
        });
    }

    /// The prefixes whose winner changed since the last call.
    pub(crate) fn take_changed(&mut self) -> Vec<IpNet> {
        std::mem::take(&mut self.changed)
    }

    /// Makes `prefixes` the whole set that the kernel forwards.
    pub(crate) fn install(&mut self, prefixes: BTreeSet<IpNet>) {
        let entries = &self.entries;
        let known = |prefix: &IpNet| entries.contains_key(prefix);
        let before = match &self.installed {
            Some(before) => before.clone(),
            // Until now all counted as installed.
            None => entries.keys().copied().collect(),
        };
        let differ = prefixes.symmetric_difference(&before).copied();
        self.changed.extend(differ.filter(known));
        self.installed = Some(prefixes);
    }

    /// What is to be announced for a prefix: of what is learnt, only what the kernel forwards, or
    /// the traffic that it attracts would be lost.
    pub(crate) fn winner(&self, prefix: &IpNet) -> Option<Winner<'_>> {
        let winner = self.entries.get(prefix).and_then(Entry::winner)?;
        self.forwards(prefix, winner).then_some(winner)
    }

    fn forwards(&self, prefix: &IpNet, winner: Winner<'_>) -> bool {
        match (&self.installed, winner) {
            (None, _) | (_, Winner::Local) => true,
            (Some(installed), Winner::Learnt(_)) => installed.contains(prefix),
        }
    }

    /// All that is to be announced.
    pub(crate) fn winners(&self) -> impl Iterator<Item = (IpNet, Winner<'_>)> {
        let entries = self.entries.iter();
        entries
            .filter_map(|(prefix, entry)| Some((*prefix, entry.winner()?)))
            .filter(|(prefix, winner)| self.forwards(prefix, *winner))
    }

    /// The learnt prefixes in use, with their ECMP sets.
    pub(crate) fn loc_rib(&self) -> impl Iterator<Item = (IpNet, &[Best])> {
        let entries = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.best.is_empty());
        entries.map(|(prefix, entry)| (*prefix, entry.best.as_slice()))
    }

    /// Another number whenever [`Rib::loc_rib`] yields something else.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// All paths.
    pub(crate) fn paths(&self) -> impl Iterator<Item = (IpNet, &Path)> {
        let entries = self.entries.iter();
        entries.flat_map(|(prefix, entry)| entry.paths.iter().map(|path| (*prefix, path)))
    }
}

/// Attribute sets, each kept once however many prefixes share it.
///
/// Ordered rather than hashed, so that no choice of attributes by a peer makes it slow.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    known: BTreeSet<Arc<Attributes>>,
    /// Unused sets are dropped when there are this many: twice what the last sweep left.
    sweep_at: usize,
}

impl Interner {
    pub(crate) fn intern(&mut self, attributes: Attributes) -> Arc<Attributes> {
        if let Some(known) = self.known.get(&attributes) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.known
                .retain(|attributes| Arc::strong_count(attributes) > 1);
            self.sweep_at = (2 * self.known.len()).max(1024);
        }
        let new = Arc::new(attributes);
        self.known.insert(new.clone());
        new
    }
}
