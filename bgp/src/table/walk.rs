//! What concerns a whole peer: one walk over the table.

use super::paths::PathRecord;
use super::prefixes::{LOCAL, PrefixId};
use super::slab::NONE;
use super::{Offer, Path, State, Table, Used};
use crate::config::PeerId;
use crate::policy::Rejection;
use crate::wire::{Attributes, Family, NextHop};
use ipnet::IpNet;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The path must not be kept for long (RFC 9494 section 4.2).
const NO_LLGR: u32 = 0xffff_0007;

impl Table {
    /// Removes the paths that have to go. False if there were none.
    pub(crate) fn sweep(&mut self) -> bool {
        if !self.sources.are_dirty() {
            return false;
        }
        // What was chosen depends on which sources there are.
        self.choices.clear();
        let families = self.sources.dead();
        if !families.is_empty() {
            let gone = self.offers_of(|table, offer| {
                let source = table.sources.get(offer.source);
                source.is_none_or(|it| it.state == State::Dead)
            });
            for id in self.prefixes.ids(&families) {
                self.remove_paths(id, &gone);
            }
        }
        self.sources.tidy();
        true
    }

    /// Which offers are as asked for, by number.
    fn offers_of(&self, is: impl Fn(&Self, &Offer) -> bool) -> Vec<bool> {
        let mut found = Vec::new();
        for (at, offer) in self.offers.iter() {
            found.resize(at as usize, false);
            found.push(is(self, offer));
        }
        found
    }

    fn remove_paths(&mut self, id: PrefixId, gone: &[bool]) {
        let Some(first) = self.prefixes.get(id).map(|it| it.first) else {
            return;
        };
        let is_gone = |offer: u32| gone.get(offer as usize).copied().unwrap_or_default();
        let paths = self.paths.list(first).filter(|it| is_gone(it.1.offer));
        let paths: SmallVec<[u32; 4]> = paths.map(|it| it.0).collect();
        if paths.is_empty() {
            return;
        }
        let before = self.winner_of(id);
        for at in paths {
            self.remove_path(id, at);
        }
        self.select(id, before);
    }

    /// Stale paths of the peer become a last resort, but for those that ask not to be one (RFC 9494
    /// section 4.2).
    pub(crate) fn keep_long(&mut self, peer: &PeerId, families: &BTreeSet<Family>) {
        self.sources.keep_long(peer, families);
        self.choices.clear();
        let Some(number) = self.sources.number(peer) else {
            return;
        };
        let is_kept = |table: &Self, offer: &Offer| {
            let source = table.sources.get(offer.source);
            offer.peer == number && source.is_some_and(|it| it.state == State::LongLived)
        };
        let kept = self.offers_of(is_kept);
        let gone = self.offers_of(|table, offer| {
            is_kept(table, offer) && offer.received.communities.contains(&NO_LLGR)
        });
        for id in self.prefixes.ids(families) {
            self.remove_paths(id, &gone);
            let Some(first) = self.prefixes.get(id).map(|it| it.first) else {
                continue;
            };
            let involved = |offer: u32| kept.get(offer as usize) == Some(&true);
            if self.paths.list(first).any(|it| involved(it.1.offer)) {
                // What is announced changes with the state even where the winner stays.
                self.select(id, (false, false, NONE));
            }
        }
    }

    /// Judges the paths of a peer again, as after a change of policy.
    pub(crate) fn judge_again(
        &mut self,
        peer: &PeerId,
        mut judge: impl FnMut(&IpNet, &Arc<Attributes>, &NextHop) -> Result<Used, Rejection>,
    ) {
        let Some(number) = self.sources.number(peer) else {
            return;
        };
        let of_peer = self.offers_of(|_, offer| offer.peer == number);
        let involved = |offer: u32| of_peer.get(offer as usize) == Some(&true);
        for id in self.prefixes.all_ids() {
            let (Some(record), Some(prefix)) = (self.prefixes.get(id), self.prefixes.prefix(id))
            else {
                continue;
            };
            let paths = self.paths.list(record.first);
            let paths = paths.filter(|it| involved(it.1.offer));
            let paths: SmallVec<[_; 4]> = paths.collect();
            for (_, path) in paths {
                let Some(mut offer) = self.offers.get(path.offer).cloned() else {
                    continue;
                };
                offer.outcome = judge(&prefix, &offer.received, &offer.next_hop);
                let offer = self.offers.intern(offer);
                self.learn(&prefix, path.id, offer);
                self.release(offer);
            }
        }
    }

    /// The paths that are not used, and why; without those that are to go.
    pub(crate) fn rejected(&self) -> impl Iterator<Item = (PeerId, IpNet, Rejection)> {
        let all = self.prefixes.iter();
        all.flat_map(move |(prefix, _, record)| {
            let paths = self.paths.list(record.first);
            paths.filter_map(move |(_, path)| {
                let offer = self.offers.get(path.offer)?;
                let why = offer.outcome.as_ref().err()?;
                let source = self.sources.get(offer.source)?;
                let there = source.state != State::Dead;
                there.then(|| (source.source.peer.clone(), prefix, why.clone()))
            })
        })
    }

    /// All paths.
    pub(crate) fn all_paths(&self) -> impl Iterator<Item = (IpNet, Path)> {
        let all = self.prefixes.iter();
        all.flat_map(move |(prefix, _, record)| {
            let paths = self.paths.list(record.first);
            paths.filter_map(move |(_, path)| Some((prefix, self.path(path)?)))
        })
    }

    /// The paths of a prefix, and whether we originate it.
    pub(crate) fn paths_to(&self, prefix: &IpNet) -> Option<(Vec<Path>, bool)> {
        let record = self.prefixes.get(self.prefixes.find(prefix)?)?;
        let paths = self.paths.list(record.first);
        let paths = paths.filter_map(|(_, path)| self.path(path)).collect();
        Some((paths, record.is(LOCAL)))
    }

    fn path(&self, path: PathRecord) -> Option<Path> {
        let offer = self.offers.get(path.offer)?;
        let source = self.sources.get(offer.source)?;
        Some(Path {
            source: source.source.clone(),
            id: path.id,
            attributes: offer.received.clone(),
            next_hop: offer.next_hop,
            stale: source.state.is_stale(),
            rejected: offer.outcome.as_ref().err().cloned(),
        })
    }
}
