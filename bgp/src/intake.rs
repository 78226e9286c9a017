//! What is known about the routes of a peer: how many, whether all have arrived, and which are
//! kept from a session that is gone (RFC 4724 section 4.2).

use crate::config::Time;
use crate::rib::Path;
use crate::session::{Ending, Negotiated};
use crate::wire::Family;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long after its return a peer may take to send all its routes, before what is still stale
/// is removed. Above the time it may itself wait for its peers.
const STALE_LIMIT: Duration = Duration::from_secs(360);
/// A peer without End-of-RIB has sent all its routes when no UPDATE came for this long.
const QUIET: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(crate) struct Intake {
    /// Paths in the table, and those of them that are rejected.
    pub(crate) received: usize,
    pub(crate) rejected: usize,
    /// Families with paths kept from a session that is gone, and until when.
    pub(crate) stale: BTreeMap<Family, Time>,
    /// Families whose End-of-RIB arrived in this session.
    pub(crate) end_of_rib: BTreeSet<Family>,
    /// When the last UPDATE of this session came, or the session itself.
    last_update: Time,
    /// All of the peer's routes arrived once.
    complete: bool,
}

impl Intake {
    /// Counts a path that left the table, and one that came into it, by whether it is rejected.
    pub(crate) fn count(&mut self, old: Option<&Path>, new_rejected: Option<bool>) {
        if let Some(old) = old {
            self.received = self.received.saturating_sub(1);
            let rejected = usize::from(old.rejected.is_some());
            self.rejected = self.rejected.saturating_sub(rejected);
        }
        if let Some(rejected) = new_rejected {
            self.received += 1;
            self.rejected += usize::from(rejected);
        }
    }

    /// A session is up. Returns the families whose stale paths must go, because the peer did not
    /// keep forwarding for them.
    pub(crate) fn up(&mut self, negotiated: &Negotiated, now: Time) -> BTreeSet<Family> {
        self.last_update = now;
        self.end_of_rib.clear();
        let forwarding = negotiated.restarting_families(|forwarding| forwarding);
        let families: BTreeSet<Family> = self.stale.keys().copied().collect();
        let gone = &families - &forwarding;
        self.stale.retain(|family, _| !gone.contains(family));
        for until in self.stale.values_mut() {
            *until = now + STALE_LIMIT;
        }
        gone
    }

    /// A session is down. Returns the families whose paths are kept.
    pub(crate) fn down(
        &mut self,
        negotiated: &Negotiated,
        ending: &Ending,
        now: Time,
    ) -> BTreeSet<Family> {
        self.end_of_rib.clear();
        let keep = match ending.keeps_paths() {
            true => negotiated.restarting_families(|_| true),
            false => BTreeSet::new(),
        };
        let graceful = negotiated.graceful_restart.as_ref();
        let seconds = graceful.map_or(0, |graceful| graceful.restart_time);
        let until = now + Duration::from_secs(seconds.into());
        self.stale = keep.iter().map(|family| (*family, until)).collect();
        keep
    }

    /// Gives up stale paths whose time `is_over`. Returns their families.
    pub(crate) fn give_up(&mut self, is_over: impl Fn(Time) -> bool) -> BTreeSet<Family> {
        let over = self.stale.iter().filter(|(_, until)| is_over(**until));
        let over: BTreeSet<Family> = over.map(|(family, _)| *family).collect();
        self.stale.retain(|family, _| !over.contains(family));
        over
    }

    /// When [`Intake::give_up`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.stale.values().copied().min()
    }

    /// An UPDATE came.
    pub(crate) fn update(&mut self, now: Time) {
        self.last_update = now;
    }

    /// End-of-RIB: true if paths of the family are still stale, and must go now.
    pub(crate) fn end_of_rib(&mut self, family: Family) -> bool {
        self.end_of_rib.insert(family);
        self.stale.remove(&family).is_some()
    }

    /// Notes, and says, whether all routes of the peer arrived, given the session if there is one.
    /// A peer without the graceful restart capability need not send End-of-RIB: its routes count
    /// as complete when no UPDATE came for two seconds.
    pub(crate) fn complete(&mut self, session: Option<&Negotiated>, now: Time) -> bool {
        if let Some(negotiated) = session {
            let marked = negotiated.families.is_subset(&self.end_of_rib);
            let quiet = negotiated.graceful_restart.is_none() && now >= self.last_update + QUIET;
            self.complete |= marked || quiet;
        }
        self.complete
    }

    /// When [`Intake::complete`] may become true by the passing of time.
    pub(crate) fn quiet_at(&self, session: &Negotiated) -> Option<Time> {
        let waits = !self.complete && session.graceful_restart.is_none();
        waits.then(|| self.last_update + QUIET)
    }
}
