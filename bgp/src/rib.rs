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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// Who announced it.
    pub peer: PeerId,
    /// Where to send the traffic.
    pub next_hop: NextHop,
    /// Its share of the traffic, relative to the other members: 1 to 256.
    pub weight: u16,
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
    /// The kernel forwards it.
    installed: bool,
    /// At most one per peer.
    paths: Vec<Path>,
    /// What is in use: the best one first, never empty. None when `local`.
    hops: Option<Arc<[Hop]>>,
}

impl Entry {
    /// Chooses again; true if the outcome is another.
    fn select(&mut self, sets: &mut Sets) -> bool {
        let paths = match self.local {
            true => Vec::new(),
            false => decision::select(&self.paths),
        };
        let hops: Vec<Hop> = paths.into_iter().map(hop).collect();
        let hops = (!hops.is_empty()).then(|| sets.intern(hops));
        let changed = hops != self.hops;
        self.hops = hops;
        changed
    }

    fn winner(&self) -> Option<Winner<'_>> {
        if self.local {
            return Some(Winner::Local);
        }
        let first = self.hops.as_ref()?.first()?;
        let path = self
            .paths
            .iter()
            .find(|path| path.source.peer == first.peer)?;
        Some(Winner::Learnt(path))
    }

    fn is_empty(&self) -> bool {
        !self.local && !self.installed && self.paths.is_empty()
    }
}

fn hop(path: &Path) -> Hop {
    Hop {
        peer: path.source.peer.clone(),
        next_hop: path.next_hop,
        weight: 1,
    }
}

/// ECMP sets, each kept once.
#[derive(Debug, Default)]
struct Sets(BTreeSet<Arc<[Hop]>>);

impl Sets {
    fn intern(&mut self, hops: Vec<Hop>) -> Arc<[Hop]> {
        if let Some(known) = self.0.get(hops.as_slice()) {
            return known.clone();
        }
        self.0.retain(|it| Arc::strong_count(it) > 1);
        let new: Arc<[Hop]> = hops.into();
        self.0.insert(new.clone());
        new
    }
}

/// Every path of every peer.
#[derive(Debug, Default)]
pub(crate) struct Rib {
    entries: BTreeMap<IpNet, Entry>,
    sets: Sets,
    /// Counts the changes of what [`Rib::loc_rib`] yields.
    version: u64,
    /// Prefixes whose winner may have changed since [`Rib::take_changed`].
    changed: Vec<IpNet>,
    /// Prefixes whose ECMP set changed since [`Rib::take_changes`].
    changes: BTreeSet<IpNet>,
    /// Somebody tells what the kernel forwards; until then all counts as forwarded.
    installing: bool,
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
        self.changed.push(prefix);
        if entry.select(&mut self.sets) {
            self.version += 1;
            self.changes.insert(prefix);
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
        self.changed.push(prefix);
        if entry.select(&mut self.sets) {
            self.version += 1;
            self.changes.insert(prefix);
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
            if fate != Fate::Same {
                self.changed.push(*prefix);
                if entry.select(&mut self.sets) {
                    self.version += 1;
                    self.changes.insert(*prefix);
                }
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
                if entry.select(&mut self.sets) {
                    self.version += 1;
                    self.changes.insert(*prefix);
                }
            }
            !entry.is_empty()
        });
    }

    /// The prefixes whose winner changed since the last call.
    pub(crate) fn take_changed(&mut self) -> Vec<IpNet> {
        std::mem::take(&mut self.changed)
    }

    /// Takes up to `max` prefixes whose ECMP set changed, with their sets as they are now.
    pub(crate) fn take_changes(&mut self, max: usize) -> Vec<(IpNet, Option<Arc<[Hop]>>)> {
        let now = |prefix| {
            let entry = self.entries.get(&prefix);
            (prefix, entry.and_then(|entry| entry.hops.clone()))
        };
        let taken = std::iter::from_fn(|| self.changes.pop_first());
        taken.take(max).map(now).collect()
    }

    /// All that is in use counts as changed.
    pub(crate) fn review(&mut self) {
        let used = self.entries.iter().filter(|(_, it)| it.hops.is_some());
        self.changes.extend(used.map(|(prefix, _)| *prefix));
    }

    /// The ECMP set of a prefix in use, and whether the kernel is known to forward it.
    pub(crate) fn in_use(&self, prefix: &IpNet) -> Option<(&Arc<[Hop]>, bool)> {
        let entry = self.entries.get(prefix)?;
        Some((entry.hops.as_ref()?, entry.installed))
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Prefixes that the kernel forwards from now on, or no more.
    pub(crate) fn install(&mut self, changes: impl IntoIterator<Item = (IpNet, bool)>) {
        if !self.installing {
            self.installing = true;
            self.changed.extend(self.entries.keys());
        }
        for (prefix, installed) in changes {
            let prefix = prefix.trunc();
            if installed {
                self.entries.entry(prefix).or_default();
            }
            if let Some(entry) = self.entries.get_mut(&prefix) {
                entry.installed = installed;
                self.changed.push(prefix);
                if entry.is_empty() {
                    self.entries.remove(&prefix);
                }
            }
        }
    }

    /// What is to be announced for a prefix: of what is learnt, only what the kernel forwards, or
    /// the traffic that it attracts would be lost.
    pub(crate) fn winner(&self, prefix: &IpNet) -> Option<Winner<'_>> {
        self.forwarded(self.entries.get(prefix)?)
    }

    fn forwarded<'a>(&self, entry: &'a Entry) -> Option<Winner<'a>> {
        let may = !self.installing || entry.installed || entry.local;
        entry.winner().filter(|_| may)
    }

    /// All that is to be announced.
    pub(crate) fn winners(&self) -> impl Iterator<Item = (IpNet, Winner<'_>)> {
        let entries = self.entries.iter();
        entries.filter_map(|(prefix, entry)| Some((*prefix, self.forwarded(entry)?)))
    }

    /// The learnt prefixes in use, with their ECMP sets.
    pub(crate) fn loc_rib(&self) -> impl Iterator<Item = (IpNet, &Arc<[Hop]>)> {
        let entries = self.entries.iter();
        entries.filter_map(|(prefix, entry)| Some((*prefix, entry.hops.as_ref()?)))
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
