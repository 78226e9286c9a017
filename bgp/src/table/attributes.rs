//! Attribute sets, each kept once however many prefixes share it.

use super::hash::Seed;
use crate::wire::Attributes;
use hashbrown::HashTable;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct AttributeSets {
    seed: Seed,
    known: HashTable<Arc<Attributes>>,
    /// The one asked for last: UPDATEs with the same attributes often follow each other.
    last: Option<Arc<Attributes>>,
    /// Unused sets are dropped when there are this many: twice what the last sweep left.
    sweep_at: usize,
}

impl AttributeSets {
    pub(crate) fn new(seed: Seed) -> Self {
        Self {
            seed,
            known: HashTable::new(),
            last: None,
            sweep_at: 0,
        }
    }

    pub(crate) fn intern(&mut self, attributes: Attributes) -> Arc<Attributes> {
        if let Some(last) = &self.last
            && **last == attributes
        {
            return last.clone();
        }
        let hash = self.seed.attributes(&attributes);
        let found = match self.known.find(hash, |it| **it == attributes) {
            Some(known) => known.clone(),
            None => self.add(attributes, hash),
        };
        self.last = Some(found.clone());
        found
    }

    fn add(&mut self, attributes: Attributes, hash: u64) -> Arc<Attributes> {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|it| Arc::strong_count(it) > 1);
            self.sweep_at = (2 * self.known.len()).max(1024);
            let seed = self.seed;
            self.known
                .shrink_to(self.sweep_at, |it| seed.attributes(it));
        }
        let new = Arc::new(attributes);
        let seed = self.seed;
        let hash_of = |it: &Arc<Attributes>| seed.attributes(it);
        self.known.insert_unique(hash, new.clone(), hash_of);
        new
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}
