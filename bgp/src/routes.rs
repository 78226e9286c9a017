//! What follows from a peer's doings for the table, and from the table for the other peers.

use crate::adj_rib_out::AdjRibOut;
use crate::config::{PeerId, Time};
use crate::ending::Ending;
use crate::import;
use crate::interface::{Event, Output};
use crate::peer::{Happening, Peer};
use crate::policy::Verdict;
use crate::speaker::Speaker;
use crate::table::{Offer, Winner};
use crate::wire::notification::cease;
use crate::wire::{Notification, UpdateView};
use std::collections::BTreeSet;

impl Speaker {
    /// Does what a peer's machine asks for.
    pub(crate) fn follow(&mut self, id: &PeerId, happening: Happening<'_>, now: Time) {
        match happening {
            Happening::Up { drop, target } => {
                if let Some(peer) = self.peers.get_mut(id)
                    && let Some(source) = peer.source.clone()
                {
                    let audience = target.audience();
                    self.table.every_path |= target.tells_several();
                    if !self.audiences.contains(&audience) {
                        self.audiences.push(audience);
                    }
                    peer.out = Some(AdjRibOut::new(*target, self.seed));
                    self.table.sources.drop_stale(id, &drop);
                    self.table.sources.up(source);
                }
                self.catch_up();
                if !self.deferring {
                    self.open(id);
                }
            }
            Happening::Down { keep, again, out } => {
                self.table.sources.down(id, &keep, &again);
                self.left.extend(out.map(|it| *it));
            }
            Happening::DropStale(families) => {
                self.table.sources.drop_stale(id, &families);
                let peer = id.clone();
                let event = Event::StaleRemoved { peer, families };
                self.outputs.push_back(Output::Event(event));
            }
            Happening::Update(update) => {
                self.import(id, *update);
                self.recount(id);
                self.check_max_prefixes(id, now);
            }
            Happening::Refresh(family) => {
                if let Some(out) = self.peers.get_mut(id).and_then(|peer| peer.out.as_mut()) {
                    out.refresh(family);
                }
            }
            Happening::LongLived(families) => {
                self.catch_up();
                self.table.keep_long(id, &families);
                let peer = id.clone();
                let event = Event::LongLived { peer, families };
                self.outputs.push_back(Output::Event(event));
            }
            Happening::RefreshBegins(family) => self.table.sources.refresh_begins(id, family),
            Happening::RefreshEnds(family) => {
                let families = BTreeSet::from([family]);
                self.table.sources.drop_stale(id, &families);
                self.catch_up();
            }
            Happening::Nothing => {}
        }
        self.recount(id);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.note_state(now);
        }
        self.propagate();
    }

    /// Walks the table for the paths that have to go. False if there was nothing to do.
    pub(crate) fn catch_up(&mut self) -> bool {
        let left = std::mem::take(&mut self.left);
        let swept = self.table.sweep();
        self.propagate();
        swept || !left.is_empty()
    }

    /// Tells a peer's machine how many paths of the peer there are.
    pub(crate) fn recount(&mut self, id: &PeerId) {
        if let Some(peer) = self.peers.get_mut(id) {
            let counts = self.table.sources.counts(id);
            (peer.intake.received, peer.intake.rejected) = counts;
        }
    }

    fn import(&mut self, id: &PeerId, update: UpdateView<'_>) {
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        let Some(session) = peer.established() else {
            return;
        };
        let families = session.negotiated.families.clone();
        let Some(number) = self.table.sources.number(id) else {
            return;
        };
        for (path, prefix) in update.withdrawn() {
            self.table.forget(&prefix, path, number);
        }
        let mut ignored = None;
        let mut reach = update.reach().peekable();
        if reach.peek().is_some() {
            let attributes = self.sets.intern(update.attributes);
            for (next_hop, prefixes) in reach {
                // RFC 4760 section 7: what was not negotiated is ignored.
                let family = prefixes.family();
                let Some(source) = self.table.sources.live(id, family) else {
                    continue;
                };
                if !families.contains(&family) {
                    continue;
                }
                let judge = import::judge(peer, &attributes, &next_hop);
                // Most prefixes of a message have the same lot.
                let mut last: Option<(Verdict, u32)> = None;
                for (path, prefix) in prefixes {
                    let verdict = judge.judge(&prefix);
                    let offer = match &last {
                        Some((same, offer)) if *same == verdict => *offer,
                        _ => {
                            let new = self.table.offer(Offer {
                                source,
                                peer: number,
                                received: attributes.clone(),
                                next_hop,
                                outcome: judge.outcome(&verdict, &mut self.sets),
                            });
                            if let Some((_, old)) = last.replace((verdict, new)) {
                                self.table.release(old);
                            }
                            new
                        }
                    };
                    if !self.table.learn(&prefix, path, offer) {
                        ignored = ignored.or(Some(prefix));
                    }
                }
                if let Some((_, offer)) = last {
                    self.table.release(offer);
                }
            }
        }
        if let Some(prefix) = ignored
            && let Some(peer) = self.peers.get_mut(id)
            && !std::mem::replace(&mut peer.intake.paths_ignored, true)
        {
            let peer = id.clone();
            let event = Event::PathsIgnored { peer, prefix };
            self.outputs.push_back(Output::Event(event));
        }
        if let Some(family) = update.end_of_rib
            && families.contains(&family)
        {
            let peer = self.peers.get_mut(id);
            let stale = peer.is_some_and(|it| it.intake.end_of_rib(family));
            let peer = id.clone();
            let event = Event::EndOfRib { peer, family };
            self.outputs.push_back(Output::Event(event));
            if stale {
                let sources = &mut self.table.sources;
                sources.drop_stale(id, &BTreeSet::from([family]));
                self.catch_up();
            }
        }
    }

    /// Judges the paths of a peer again, after what it may announce has changed.
    pub(crate) fn import_again(&mut self, id: &PeerId) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let sets = &mut self.sets;
        self.table.judge_again(id, |prefix, attributes, next_hop| {
            let judge = import::judge(peer, attributes, next_hop);
            judge.outcome(&judge.judge(prefix), sets)
        });
        self.recount(id);
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
        // Whether anybody may be told of a path depends on its offer, as a rule of many prefixes.
        let mut last: Option<(Option<u32>, bool, bool)> = None;
        let mut anything = false;
        for changed in self.table.take_changed() {
            let winner = match changed.offer {
                Some(offer) => self.table.learnt(offer).map(Winner::Learnt),
                None => changed.local.then_some(Winner::Local),
            };
            let kind = (changed.offer, changed.local);
            let somebody = match last {
                Some((offer, local, somebody)) if (offer, local) == kind => somebody,
                _ => winner.is_some_and(|winner| {
                    let mut audiences = self.audiences.iter();
                    audiences.any(|it| it.may_have(winner))
                }),
            };
            last = Some((changed.offer, changed.local, somebody));
            if !somebody && !changed.announced {
                continue;
            }
            anything = true;
            let mut told = false;
            for peer in self.peers.values_mut() {
                if let Some(out) = &mut peer.out {
                    told |= out.changed(&changed, winner, &peer.allowed_out);
                }
            }
            if told {
                self.table.note_announced(&changed.prefix);
            }
        }
        if anything {
            self.note_all_ready();
        }
    }

    /// Notes whom something can be told. To be called after everything that may change it.
    pub(crate) fn note_ready(&mut self, id: &PeerId) {
        if self.peers.get(id).is_some_and(is_ready) {
            self.ready.insert(id.clone());
        }
    }

    fn note_all_ready(&mut self) {
        let ready = self.peers.iter().filter(|(_, peer)| is_ready(peer));
        self.ready.extend(ready.map(|(id, _)| id.clone()));
    }

    /// Begins to announce to a peer.
    fn open(&mut self, id: &PeerId) {
        if let Some(peer) = self.peers.get_mut(id)
            && let Some(out) = &mut peer.out
        {
            out.open(&mut self.table, &peer.allowed_out);
        }
    }

    pub(crate) fn deferral_ends(&self) -> Time {
        self.started + self.deferral_time
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
            self.note_all_ready();
        }
    }

    /// Queues the next UPDATEs, for one peer; false if no peer is due any. One after the other gets
    /// as much as its connection can take.
    pub(crate) fn announce(&mut self) -> bool {
        let Some(id) = self.ready.pop_first() else {
            return false;
        };
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| is_ready(peer)) else {
            return true;
        };
        if let Some(out) = &mut peer.out {
            let (bytes, unsaid) = out.next(&self.table, &peer.allowed_out, &mut self.sets);
            if let Some(prefix) = unsaid.first() {
                self.outputs.push_back(Output::Event(Event::NotAnnounced {
                    peer: id.clone(),
                    prefix: *prefix,
                    prefixes: unsaid.len(),
                }));
            }
            // A batch may turn out to change nothing.
            if !bytes.is_empty() {
                peer.announce(bytes, self.now, &mut self.outputs);
            }
        }
        self.reschedule(&id);
        true
    }
}

fn is_ready(peer: &Peer) -> bool {
    peer.out.as_ref().is_some_and(AdjRibOut::ready)
}
