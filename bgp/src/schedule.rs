//! Which peer has something due next, without asking all of them.

use crate::config::{PeerId, Time};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(crate) struct Schedule {
    by_time: BTreeSet<(Time, PeerId)>,
    of: BTreeMap<PeerId, Time>,
}

impl Schedule {
    /// The peer has something due then, or nothing any more.
    pub(crate) fn set(&mut self, peer: &PeerId, deadline: Option<Time>) {
        let before = self.of.get(peer).copied();
        if before == deadline {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, peer.clone()));
            self.of.remove(peer);
        }
        if let Some(deadline) = deadline {
            self.by_time.insert((deadline, peer.clone()));
            self.of.insert(peer.clone(), deadline);
        }
    }

    /// The peers with something due by now, the longest waiting first.
    pub(crate) fn due(&self, now: Time) -> Vec<PeerId> {
        let due = self.by_time.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, peer)| peer.clone()).collect()
    }

    /// When the next peer has something due.
    pub(crate) fn next(&self) -> Option<Time> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The peers in it.
    pub(crate) fn peers(&self) -> Vec<PeerId> {
        self.of.keys().cloned().collect()
    }
}
