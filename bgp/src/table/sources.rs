//! Where paths come from: a peer, as it was during one session, for one family.
//!
//! Whether paths are stale is a matter of their source, so that a lost session costs nothing
//! until the table is walked; and a walk is only due where paths have to go.

use super::slab::Slab;
use crate::config::PeerId;
use crate::wire::{Family, PerFamily};
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
    /// It is one of a full mesh.
    pub meshed: bool,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
    /// Its address.
    pub address: IpAddr,
}

/// What is known about the paths of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// They are those of the session.
    Live,
    /// They are, but the peer is about to announce all again (RFC 7313).
    Refreshing,
    /// The session is gone; they are kept for the peer's return (RFC 4724).
    Stale,
    /// It has been gone for long; they are a last resort (RFC 9494).
    LongLived,
    /// They are to go.
    Dead,
}

impl State {
    pub(crate) fn is_stale(self) -> bool {
        matches!(self, Self::Stale | Self::LongLived)
    }
}

#[derive(Debug)]
pub(crate) struct SourceRecord {
    pub(crate) source: Arc<Source>,
    pub(crate) family: Family,
    pub(crate) state: State,
    /// Its paths in the table, and those of them that are rejected.
    pub(crate) paths: usize,
    pub(crate) rejected: usize,
}

/// How often a peer may begin to announce all again without coming to the end of it.
const REFRESHES: usize = 4;

#[derive(Debug, Default)]
struct PeerRecord {
    /// Stands for the peer, and never for another.
    number: u32,
    /// The sources in the state `Live`, while there is a session.
    live: Option<PerFamily<u32>>,
    /// All its sources.
    sources: Vec<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Sources {
    records: Slab<SourceRecord>,
    peers: BTreeMap<PeerId, PeerRecord>,
    /// Sources of peers that are no more.
    orphans: Vec<u32>,
    last_number: u32,
    /// Some source may be dead.
    dirty: bool,
}

impl Sources {
    /// A session is up.
    pub(crate) fn up(&mut self, source: Arc<Source>) {
        let peer = self.peers.entry(source.peer.clone()).or_insert_with(|| {
            self.last_number = self.last_number.wrapping_add(1);
            PeerRecord {
                number: self.last_number,
                ..PeerRecord::default()
            }
        });
        let mut new = |family| {
            let at = self.records.insert(SourceRecord {
                source: source.clone(),
                family,
                state: State::Live,
                paths: 0,
                rejected: 0,
            });
            peer.sources.push(at);
            at
        };
        peer.live = Some(PerFamily {
            ipv4: new(Family::Ipv4),
            ipv6: new(Family::Ipv6),
        });
    }

    /// The source of what the peer says now of a family.
    pub(crate) fn live(&self, peer: &PeerId, family: Family) -> Option<u32> {
        Some(*self.peers.get(peer)?.live.as_ref()?.of(family))
    }

    /// What stands for the peer.
    pub(crate) fn number(&self, peer: &PeerId) -> Option<u32> {
        self.peers.get(peer).map(|it| it.number)
    }

    pub(crate) fn get(&self, at: u32) -> Option<&SourceRecord> {
        self.records.get(at)
    }

    /// Counts a path that came or went.
    pub(crate) fn count(&mut self, at: u32, rejected: bool, came: bool) {
        if let Some(record) = self.records.get_mut(at) {
            let rejected = usize::from(rejected);
            match came {
                true => {
                    record.paths += 1;
                    record.rejected += rejected;
                }
                false => {
                    record.paths = record.paths.saturating_sub(1);
                    record.rejected = record.rejected.saturating_sub(rejected);
                }
            }
        }
    }

    /// Changes the state of the peer's sources, as `change` says.
    fn change(&mut self, peer: &PeerId, change: impl Fn(&SourceRecord) -> State) {
        let Some(peer) = self.peers.get(peer) else {
            return;
        };
        for at in &peer.sources {
            if let Some(record) = self.records.get_mut(*at)
                && record.state != State::Dead
            {
                record.state = change(record);
                self.dirty |= record.state == State::Dead;
            }
        }
    }

    /// The session is down. Paths of the families in `keep` become stale, the others go. So do
    /// those that were stale before, since they were not announced again in time (RFC 4724 section
    /// 4.2), but for the families in `again`.
    pub(crate) fn down(
        &mut self,
        peer: &PeerId,
        keep: &BTreeSet<Family>,
        again: &BTreeSet<Family>,
    ) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.live = None;
        }
        self.change(peer, |record| match record.state {
            // One without paths is done with: many may come and go while others stay.
            _ if record.paths == 0 || !keep.contains(&record.family) => State::Dead,
            State::Live | State::Refreshing => State::Stale,
            stale if again.contains(&record.family) => stale,
            _ => State::Dead,
        });
    }

    /// Stale paths of these families have to go: the peer has said all that it has to say, or took
    /// too long. So has what a refresh did not bring again (EoRR, RFC 7313 section 4).
    pub(crate) fn drop_stale(&mut self, peer: &PeerId, families: &BTreeSet<Family>) {
        self.change(peer, |record| {
            let over = record.state != State::Live && families.contains(&record.family);
            if over { State::Dead } else { record.state }
        });
    }

    /// Stale paths of these families become a last resort (RFC 9494 section 4.2).
    pub(crate) fn keep_long(&mut self, peer: &PeerId, families: &BTreeSet<Family>) {
        self.change(peer, |record| {
            let over = record.state == State::Stale && families.contains(&record.family);
            if over { State::LongLived } else { record.state }
        });
    }

    /// The peer begins to announce a family again (BoRR, RFC 7313 section 4). Who begins again and
    /// again has only the first few counted.
    pub(crate) fn refresh_begins(&mut self, peer: &PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(peer) else {
            return;
        };
        let Some(live) = peer.live.as_mut().map(|it| it.of_mut(family)) else {
            return;
        };
        let mut refreshing = 0;
        for at in &peer.sources {
            if let Some(record) = self.records.get_mut(*at)
                && record.state == State::Refreshing
            {
                refreshing += usize::from(record.paths > 0);
                if record.paths == 0 {
                    record.state = State::Dead;
                    self.dirty = true;
                }
            }
        }
        let Some(old) = self.records.get_mut(*live) else {
            return;
        };
        if old.paths == 0 || refreshing >= REFRESHES {
            return;
        }
        old.state = State::Refreshing;
        let new = SourceRecord {
            source: old.source.clone(),
            family,
            state: State::Live,
            paths: 0,
            rejected: 0,
        };
        *live = self.records.insert(new);
        peer.sources.push(*live);
    }

    /// All that the peer announced has to go, and the peer with it.
    pub(crate) fn remove_peer(&mut self, peer: &PeerId) {
        self.change(peer, |_| State::Dead);
        if let Some(peer) = self.peers.remove(peer) {
            self.orphans.extend(peer.sources);
        }
    }

    /// Paths of the peer, and those of them that are rejected.
    pub(crate) fn counts(&self, peer: &PeerId) -> (usize, usize) {
        let sources = self.peers.get(peer).map(|it| it.sources.as_slice());
        let records = sources.unwrap_or_default().iter();
        let records = records.filter_map(|at| self.records.get(*at));
        let there = records.filter(|it| it.state != State::Dead);
        there.fold((0, 0), |(paths, rejected), it| {
            (paths + it.paths, rejected + it.rejected)
        })
    }

    /// Whether paths have to go.
    pub(crate) fn are_dirty(&self) -> bool {
        self.dirty
    }

    /// The families with paths that have to go.
    pub(crate) fn dead(&self) -> BTreeSet<Family> {
        let records = self.records.iter().map(|it| it.1);
        let dead = records.filter(|it| it.state == State::Dead && it.paths > 0);
        dead.map(|it| it.family).collect()
    }

    /// Forgets the sources that are done with.
    pub(crate) fn tidy(&mut self) {
        let records = &mut self.records;
        let mut stays = |at: &u32| {
            let record = records.get(*at);
            let stays = record.is_some_and(|it| it.paths > 0 || it.state == State::Live);
            if !stays {
                records.remove(*at);
            }
            stays
        };
        for peer in self.peers.values_mut() {
            peer.sources.retain(&mut stays);
        }
        self.orphans.retain(&mut stays);
        self.dirty = false;
    }
}
