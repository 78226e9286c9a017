//! ECMP sets, each kept once and counted.

use super::slab::Slab;
use crate::config::PeerId;
use crate::wire::NextHop;
use std::collections::BTreeMap;
use std::sync::Arc;

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

#[derive(Debug, Default)]
pub(crate) struct HopSets {
    sets: Slab<(Arc<[Hop]>, usize)>,
    numbers: BTreeMap<Arc<[Hop]>, u32>,
}

impl HopSets {
    /// The number of a set, which is not counted as used yet.
    pub(crate) fn intern(&mut self, hops: &[Hop]) -> u32 {
        if let Some(known) = self.numbers.get(hops) {
            return *known;
        }
        let set: Arc<[Hop]> = hops.into();
        let at = self.sets.insert((set.clone(), 0));
        self.numbers.insert(set, at);
        at
    }

    pub(crate) fn get(&self, at: u32) -> Option<&Arc<[Hop]>> {
        self.sets.get(at).map(|it| &it.0)
    }

    pub(crate) fn hold(&mut self, at: u32) {
        if let Some(set) = self.sets.get_mut(at) {
            set.1 += 1;
        }
    }

    /// True if that was the last use, and the number means nothing any more.
    pub(crate) fn release(&mut self, at: u32) -> bool {
        let Some(set) = self.sets.get_mut(at) else {
            return false;
        };
        set.1 = set.1.saturating_sub(1);
        let unused = set.1 == 0;
        if unused && let Some((set, _)) = self.sets.remove(at) {
            self.numbers.remove(&set);
        }
        unused
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }
}
