//! What the table tells whoever programs a kernel, and what it is told back.

use super::prefixes::{ANNOUNCED, CHANGED, INSTALLED, LOCAL, PrefixId, SHOWN};
use super::{Hop, Table};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Table {
    /// The ECMP set of a prefix is another one.
    pub(super) fn note_change(&mut self, id: PrefixId) {
        if let Some(record) = self.prefixes.get_mut(id)
            && !record.is(CHANGED)
        {
            record.set(CHANGED, true);
            self.changes.push_back(id);
        }
        // Prefixes that came and went without being taken leave their numbers behind.
        if self.changes.len() > 2 * self.prefixes.len() + 1024 {
            let mut waiting: Vec<PrefixId> = Vec::new();
            for id in std::mem::take(&mut self.changes) {
                let record = self.prefixes.get_mut(id);
                if let Some(record) = record.filter(|it| it.is(CHANGED)) {
                    // Another prefix may have the number by now, and stand here twice.
                    record.set(CHANGED, false);
                    waiting.push(id);
                }
            }
            for id in &waiting {
                if let Some(record) = self.prefixes.get_mut(*id) {
                    record.set(CHANGED, true);
                }
            }
            self.changes = waiting.into();
        }
    }

    /// Takes up to `max` prefixes whose ECMP set changed, with their sets as they are now.
    pub(crate) fn take_changes(&mut self, max: usize) -> Vec<(IpNet, Option<Arc<[Hop]>>)> {
        let mut taken = Vec::with_capacity(max.min(self.changes.len()));
        while taken.len() < max {
            let Some(id) = self.changes.pop_front() else {
                break;
            };
            let Some(prefix) = self.prefixes.prefix(id) else {
                continue;
            };
            let Some(record) = self.prefixes.get_mut(id) else {
                continue;
            };
            if !record.is(CHANGED) {
                continue;
            }
            record.set(CHANGED, false);
            let hops = self.hops.get(record.hops).cloned();
            let was_shown = record.is(SHOWN);
            record.set(SHOWN, hops.is_some());
            // The end of what was never known is no news.
            if hops.is_some() || was_shown {
                taken.push((prefix, hops));
            }
            self.remove_if_empty(id);
        }
        if self.changes.is_empty() {
            self.changes.shrink_to(1024);
        }
        taken
    }

    /// Whether [`Table::take_changes`] may have something.
    pub(crate) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// All that is in use counts as changed.
    pub(crate) fn review(&mut self) {
        let used = self
            .prefixes
            .iter()
            .filter(|it| self.hops.get(it.2.hops).is_some());
        let used: Vec<PrefixId> = used.map(|it| it.1).collect();
        for id in used {
            self.note_change(id);
        }
    }

    /// The learnt prefixes in use, with their ECMP sets.
    pub(crate) fn loc_rib(&self) -> impl Iterator<Item = (IpNet, &Arc<[Hop]>)> {
        let all = self.prefixes.iter();
        all.filter_map(|(prefix, _, record)| Some((prefix, self.hops.get(record.hops)?)))
    }

    /// The ECMP set of a prefix in use, and whether the kernel is known to forward it.
    pub(crate) fn in_use(&self, prefix: &IpNet) -> Option<(&Arc<[Hop]>, bool)> {
        let record = self.prefixes.get(self.prefixes.find(prefix)?)?;
        Some((self.hops.get(record.hops)?, record.is(INSTALLED)))
    }

    /// Makes `prefixes` the whole set that we originate.
    pub(crate) fn originate(&mut self, prefixes: BTreeSet<IpNet>) {
        let before = std::mem::replace(&mut self.local, prefixes);
        let differ: Vec<IpNet> = before.symmetric_difference(&self.local).copied().collect();
        for prefix in differ {
            let id = self.prefixes.find_or_insert(&prefix);
            let before = self.winner_of(id);
            let local = self.local.contains(&prefix);
            if let Some(record) = self.prefixes.get_mut(id) {
                record.set(LOCAL, local);
            }
            self.select(id, before);
        }
    }

    /// Prefixes that the kernel forwards from now on, or no more.
    pub(crate) fn install(&mut self, changes: impl IntoIterator<Item = (IpNet, bool)>) {
        if !self.installing {
            self.installing = true;
            // Nothing counts as forwarded any more but what is told.
            let all: Vec<(PrefixId, bool)> = self
                .prefixes
                .iter()
                .map(|it| (it.1, it.2.is(ANNOUNCED)))
                .collect();
            for (id, _) in all.into_iter().filter(|it| it.1) {
                let (local, installed, _) = self.winner_of(id);
                self.note_winner(id, (local, !installed, super::NONE));
            }
        }
        for (prefix, installed) in changes {
            let prefix = prefix.trunc();
            let id = match installed {
                true => Some(self.prefixes.find_or_insert(&prefix)),
                false => self.prefixes.find(&prefix),
            };
            let Some(id) = id else {
                continue;
            };
            let before = self.winner_of(id);
            if let Some(record) = self.prefixes.get_mut(id) {
                record.set(INSTALLED, installed);
            }
            self.note_winner(id, before);
            self.remove_if_empty(id);
        }
    }
}
