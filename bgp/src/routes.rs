//! What follows from a peer's doings for the table, and from the table for the other peers.

use crate::config::{PeerId, Time};
use crate::ending::Ending;
use crate::interface::{Event, Output};
use crate::peer::{Happening, Peer};
use crate::policy::{Rejection, Verdict};
use crate::rib::{Fate, Path};
use crate::speaker::Speaker;
use crate::wire::notification::cease;
use crate::wire::{Family, Notification, UpdateView};
use std::collections::BTreeSet;

/// A session that is down, and what becomes of its paths.
#[derive(Debug)]
pub(crate) struct Lost {
    peer: PeerId,
    keep: BTreeSet<Family>,
    collision: bool,
}

fn rejection(verdict: Verdict) -> Option<Rejection> {
    match verdict {
        Verdict::Accept(_) => None,
        Verdict::Reject(why) => Some(why),
    }
}

impl Speaker {
    /// Does what a peer's machine asks for.
    pub(crate) fn follow(&mut self, id: &PeerId, happening: Happening<'_>, now: Time) {
        match happening {
            Happening::Up { drop } => {
                self.catch_up();
                self.drop_stale(id, &drop);
                if !self.deferring {
                    self.open(id);
                }
            }
            Happening::Down { keep, collision } => self.lost.push(Lost {
                peer: id.clone(),
                keep,
                collision,
            }),
            Happening::DropStale(families) => {
                self.drop_stale(id, &families);
                let peer = id.clone();
                let event = Event::StaleRemoved { peer, families };
                self.outputs.push_back(Output::Event(event));
            }
            Happening::Update(update) => {
                self.import(id, *update);
                self.check_max_prefixes(id, now);
            }
            Happening::Refresh(family) => {
                if let Some(out) = self.peers.get_mut(id).and_then(|peer| peer.out.as_mut()) {
                    out.refresh(family);
                }
            }
            Happening::LongLived(families) => {
                let peer = id.clone();
                let event = Event::LongLived { peer, families };
                self.outputs.push_back(Output::Event(event));
            }
            Happening::RefreshBegins(family) => self.mark_stale(id, family),
            Happening::RefreshEnds(family) => self.drop_stale(id, &BTreeSet::from([family])),
            Happening::Nothing => {}
        }
        if let Some(peer) = self.peers.get_mut(id) {
            peer.note_state(now);
        }
        self.propagate();
    }

    /// Sees to the paths of sessions that are down. False if there was nothing to do.
    pub(crate) fn catch_up(&mut self) -> bool {
        let lost = std::mem::take(&mut self.lost);
        for lost in &lost {
            self.forget(lost);
        }
        self.propagate();
        !lost.is_empty()
    }

    /// A session is down: its paths of the families to keep become stale, the others go. So do
    /// those that were stale before, since they were not announced again in time (RFC 4724 section
    /// 4.2) - but for a session that ended in a collision there was no time.
    fn forget(&mut self, lost: &Lost) {
        let id = &lost.peer;
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        self.rib.revise(id, |prefix, path| {
            if lost.keep.contains(&Family::of(prefix)) && (lost.collision || !path.stale) {
                path.stale = true;
                Fate::Changed
            } else {
                peer.intake.count(Some(path), None);
                Fate::Removed
            }
        });
    }

    fn mark_stale(&mut self, id: &PeerId, family: Family) {
        self.rib.revise(id, |prefix, path| {
            if Family::of(prefix) == family && !path.stale {
                path.stale = true;
                return Fate::Changed;
            }
            Fate::Same
        });
    }

    fn drop_stale(&mut self, id: &PeerId, families: &BTreeSet<Family>) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        if families.is_empty() {
            return;
        }
        self.rib.revise(id, |prefix, path| {
            if path.stale && families.contains(&Family::of(prefix)) {
                peer.intake.count(Some(path), None);
                Fate::Removed
            } else {
                Fate::Same
            }
        });
    }

    fn import(&mut self, id: &PeerId, update: UpdateView<'_>) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let (Some(session), Some(source)) = (peer.established(), peer.source.clone()) else {
            return;
        };
        let families = session.negotiated.families.clone();
        for (_, prefix) in update.withdrawn() {
            if let Some(old) = self.rib.forget(prefix, id) {
                peer.intake.count(Some(&old), None);
            }
        }
        let mut reach = update.reach().peekable();
        if reach.peek().is_some() {
            let attributes = self.interner.intern(update.attributes);
            for (next_hop, prefixes) in reach {
                // RFC 4760 section 7: what was not negotiated is ignored.
                if !families.contains(&prefixes.family()) {
                    continue;
                }
                let judge = peer.rules.on(&attributes, &next_hop);
                for (_, prefix) in prefixes {
                    let path = Path {
                        source: source.clone(),
                        attributes: attributes.clone(),
                        next_hop,
                        stale: false,
                        rejected: rejection(judge.judge(&prefix)),
                    };
                    let rejected = path.rejected.is_some();
                    let old = self.rib.learn(prefix, path);
                    peer.intake.count(old.as_ref(), Some(rejected));
                }
            }
        }
        if let Some(family) = update.end_of_rib
            && families.contains(&family)
        {
            let stale = peer.intake.end_of_rib(family);
            let peer = id.clone();
            let event = Event::EndOfRib { peer, family };
            self.outputs.push_back(Output::Event(event));
            if stale {
                self.drop_stale(id, &BTreeSet::from([family]));
            }
        }
    }

    /// Judges the paths of a peer again, after what it may announce has changed.
    pub(crate) fn import_again(&mut self, id: &PeerId) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        self.rib.revise(id, |prefix, path| {
            let judge = peer.rules.on(&path.attributes, &path.next_hop);
            let rejected = rejection(judge.judge(prefix));
            if rejected == path.rejected {
                return Fate::Same;
            }
            peer.intake.count(Some(path), Some(rejected.is_some()));
            path.rejected = rejected;
            Fate::Changed
        });
    }

    /// Ends the session of a peer that announced too much (RFC 4486), for long; warns before.
    pub(crate) fn check_max_prefixes(&mut self, id: &PeerId, now: Time) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.warn_of_many(&mut self.outputs);
        }
        if self.peers.get(id).is_some_and(Peer::too_many) {
            let notification = Notification::cease(cease::MAXIMUM_PREFIXES);
            self.end_all(id, &Ending::Sent(notification), now);
            if let Some(peer) = self.peers.get_mut(id) {
                peer.rest_after_max_prefixes(now);
                peer.note_state(now);
            }
        }
    }

    /// Queues what changed in the table for all whom it concerns.
    pub(crate) fn propagate(&mut self) {
        for prefix in self.rib.take_changed() {
            let winner = self.rib.winner(&prefix);
            for peer in self.peers.values_mut() {
                if let Some(out) = &mut peer.out {
                    out.changed(prefix, winner, &peer.allowed_out);
                }
            }
        }
    }

    /// Begins to announce to a peer.
    fn open(&mut self, id: &PeerId) {
        if let Some(peer) = self.peers.get_mut(id)
            && let Some(out) = &mut peer.out
        {
            out.open(&self.rib, &peer.allowed_out);
        }
    }

    pub(crate) fn deferral_ends(&self) -> Time {
        self.started + self.config.deferral_time
    }

    /// Sees whether the routes are complete, and whether announcing may begin. For the latter,
    /// peers that have restarted as well do not count: they wait for us.
    pub(crate) fn settle(&mut self, now: Time) {
        if self.settled && !self.deferring {
            return;
        }
        let over = now >= self.deferral_ends();
        let (mut complete, mut may_announce) = (true, true);
        for peer in self.peers.values_mut() {
            let arrived = peer.complete(now);
            complete &= arrived;
            may_announce &= arrived || peer.restarting();
        }
        self.settled |= complete || over;
        if self.deferring && (may_announce || over) {
            self.deferring = false;
            let ids: Vec<PeerId> = self.peers.keys().cloned().collect();
            for id in ids {
                self.open(&id);
            }
        }
    }

    /// Queues the next UPDATEs, for one peer; false if no peer is due any. One after the other gets
    /// as much as its connection can take.
    pub(crate) fn announce(&mut self) -> bool {
        let ready = |peer: &&mut Peer| peer.out.as_ref().is_some_and(|out| out.ready());
        let Some(peer) = self.peers.values_mut().find(ready) else {
            return false;
        };
        if let Some(out) = &mut peer.out {
            let bytes = out.next(&self.rib, &peer.allowed_out, &mut self.interner);
            // A batch may turn out to change nothing.
            if !bytes.is_empty() {
                peer.announce(bytes, self.now, &mut self.outputs);
            }
        }
        true
    }
}
