//! What peers offer: attributes and next hop, from one source, with what import made of them.
//! All prefixes of an UPDATE share one, and so do those of other UPDATEs that say the same.

use super::hash::Seed;
use super::slab::{NONE, Slab};
use crate::policy::Rejection;
use crate::wire::{Attributes, NextHop};
use hashbrown::HashTable;
use std::sync::Arc;

/// See the module's text.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// The number of the source.
    pub(crate) source: u32,
    /// The number that stands for the peer.
    pub(crate) peer: u32,
    /// As the peer announced them.
    pub(crate) received: Arc<Attributes>,
    pub(crate) next_hop: NextHop,
    /// As they are used, or why they are not.
    pub(crate) outcome: Result<Used, Rejection>,
}

/// How paths are used.
#[derive(Clone, Debug)]
pub(crate) struct Used {
    /// With what import made of the attributes.
    pub(crate) attributes: Arc<Attributes>,
    /// With this share of the traffic, if policy gives one.
    pub(crate) weight: Option<u16>,
}

impl Offer {
    /// Attributes are interned, so that the same ones are the same allocation.
    fn is(&self, other: &Self) -> bool {
        let used = match (&self.outcome, &other.outcome) {
            (Ok(one), Ok(other)) => {
                Arc::ptr_eq(&one.attributes, &other.attributes) && one.weight == other.weight
            }
            (Err(one), Err(other)) => one == other,
            _ => false,
        };
        used && self.source == other.source
            && self.next_hop == other.next_hop
            && Arc::ptr_eq(&self.received, &other.received)
    }

    fn hash(&self, seed: &Seed) -> u64 {
        let received = Arc::as_ptr(&self.received) as usize as u64;
        seed.numbers([received, self.source.into()])
    }
}

#[derive(Debug)]
pub(crate) struct Offers {
    seed: Seed,
    /// With how many paths each has.
    offers: Slab<(Offer, usize)>,
    numbers: HashTable<u32>,
}

impl Offers {
    pub(crate) fn new(seed: Seed) -> Self {
        Self {
            seed,
            offers: Slab::default(),
            numbers: HashTable::new(),
        }
    }

    /// The number of an offer, held once.
    pub(crate) fn intern(&mut self, offer: Offer) -> u32 {
        let (seed, offers) = (self.seed, &mut self.offers);
        let hash = offer.hash(&seed);
        let same = |at: &u32| offers.get(*at).is_some_and(|it| it.0.is(&offer));
        let at = match self.numbers.find(hash, same) {
            Some(known) => *known,
            None => {
                let at = offers.insert((offer, 0));
                let hash_of = |at: &u32| offers.get(*at).map_or(0, |it| it.0.hash(&seed));
                self.numbers.insert_unique(hash, at, hash_of);
                at
            }
        };
        self.hold(at);
        at
    }

    pub(crate) fn hold(&mut self, at: u32) {
        if let Some(offer) = self.offers.get_mut(at) {
            offer.1 += 1;
        }
    }

    /// True if that was the last use, and the number means nothing any more.
    pub(crate) fn release(&mut self, at: u32) -> bool {
        let Some((offer, uses)) = self.offers.get_mut(at) else {
            return false;
        };
        *uses = uses.saturating_sub(1);
        if *uses > 0 {
            return false;
        }
        let hash = offer.hash(&self.seed);
        if let Ok(found) = self.numbers.find_entry(hash, |it| *it == at) {
            found.remove();
        }
        if self.numbers.is_empty() {
            self.numbers = HashTable::new();
        }
        self.offers.remove(at);
        true
    }

    pub(crate) fn get(&self, at: u32) -> Option<&Offer> {
        self.offers.get(at).map(|it| &it.0)
    }

    /// The peer and the source of an offer.
    pub(crate) fn origin(&self, at: u32) -> (u32, u32) {
        self.get(at).map_or((NONE, NONE), |it| (it.peer, it.source))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Offer)> {
        self.offers.iter().map(|(at, it)| (at, &it.0))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.offers.len()
    }
}
