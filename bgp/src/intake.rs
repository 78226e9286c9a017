//! What is known about the routes of a peer: how many, whether all have arrived, and which are
//! kept from a session that is gone (RFC 4724 section 4.2).

use crate::config::Time;
use crate::ending::Ending;
use crate::negotiate::Negotiated;
use crate::wire::Family;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long after its return a peer may take to send all its routes, before what is still stale
/// is removed. Above the time it may itself wait for its peers.
const STALE_LIMIT: Duration = Duration::from_secs(360);
/// A peer without End-of-RIB has sent all its routes when no UPDATE came for this long.
const QUIET: Duration = Duration::from_secs(2);

/// What a refresh did not bring again goes at its end, but not more often than this: each time is a walk
/// over the table, and the two marks cost the peer 46 bytes.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// Paths of a family that are kept from a session that is gone, or that are being sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    until: Time,
    /// Until when they may be kept as a last resort after that (RFC 9494).
    end: Option<Time>,
    /// They are a last resort by now.
    long_lived: bool,
}

/// What becomes of kept paths whose time is over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// They are a last resort from now on.
    LongLived(BTreeSet<Family>),
    /// They must go.
    Gone(BTreeSet<Family>),
}

#[derive(Debug, Default)]
pub(crate) struct Intake {
    /// Paths in the table, and those of them that are rejected.
    pub(crate) received: usize,
    pub(crate) rejected: usize,
    /// Families with kept paths.
    pub(crate) stale: BTreeMap<Family, Kept>,
    /// Families whose End-of-RIB arrived in this session.
    pub(crate) end_of_rib: BTreeSet<Family>,
    /// Families whose long-lived time ended in this session, before their End-of-RIB.
    overdue: BTreeSet<Family>,
    /// When a refresh last ended of which paths had to go.
    refreshed: BTreeMap<Family, Time>,
    /// It was told that the peer has too many paths to a prefix in this session.
    pub(crate) paths_ignored: bool,
    /// When the last UPDATE of this session came, or the session itself.
    last_update: Time,
    /// All of the peer's routes arrived once.
    complete: bool,
}

impl Intake {
    /// A session is up. Returns the families whose stale paths must go, because the peer did not
    /// keep forwarding for them.
    pub(crate) fn up(&mut self, negotiated: &Negotiated, now: Time) -> BTreeSet<Family> {
        self.last_update = now;
        self.paths_ignored = false;
        self.end_of_rib.clear();
        self.overdue.clear();
        let restarted = negotiated.restarting_families(|forwarding| forwarding);
        let forwarding = |family: Family, kept: &Kept| match kept.long_lived {
            true => negotiated
                .long_lived
                .of(family)
                .is_some_and(|it| it.forwarding),
            false => restarted.contains(&family),
        };
        let gone = self
            .stale
            .iter()
            .filter(|(family, kept)| !forwarding(**family, kept));
        let gone: BTreeSet<Family> = gone.map(|(family, _)| *family).collect();
        self.stale.retain(|family, _| !gone.contains(family));
        for kept in self.stale.values_mut() {
            // The long-lived time runs on (RFC 9494 section 4.2).
            let limit = now + STALE_LIMIT;
            kept.until = kept.end.map_or(limit, |end| end.min(limit));
        }
        gone
    }

    /// A session is down. Returns the families whose paths are kept. Where there is a long-lived time,
    /// it runs from the first loss until the peer has said all again, however often the session is
    /// lost meanwhile; and what is still there when it ends goes (RFC 9494 section 4.2).
    pub(crate) fn down(
        &mut self,
        negotiated: &Negotiated,
        ending: &Ending,
        now: Time,
    ) -> BTreeSet<Family> {
        self.end_of_rib.clear();
        let before = std::mem::take(&mut self.stale);
        let overdue = std::mem::take(&mut self.overdue);
        if !ending.keeps_paths(negotiated.graceful_notification) {
            return BTreeSet::new();
        }
        let restarting = negotiated.restarting_families(|_| true);
        let graceful = negotiated.graceful_restart.as_ref();
        let restart_time = graceful.map_or(0, |graceful| graceful.restart_time);
        for family in &negotiated.families {
            let long_lived = negotiated.long_lived.of(*family);
            let then = long_lived.map(|it| Duration::from_secs(it.seconds.into()));
            let then = then.filter(|then| !then.is_zero());
            if overdue.contains(family) {
                continue;
            }
            let seconds = match restarting.contains(family) {
                true => restart_time,
                // RFC 9494 section 4.2: the long-lived time begins at once.
                false if then.is_some() => 0,
                false => continue,
            };
            let until = now + Duration::from_secs(seconds.into());
            let kept = match (then, before.get(family)) {
                (Some(_), Some(kept)) if let Some(end) = kept.end => Kept {
                    until: until.min(end),
                    ..*kept
                },
                _ => Kept {
                    until,
                    end: then.map(|then| until + then),
                    long_lived: false,
                },
            };
            self.stale.insert(*family, kept);
        }
        self.stale.keys().copied().collect()
    }

    /// Families with a long-lived time: what was stale before the last session stays so.
    pub(crate) fn long_lived(&self) -> BTreeSet<Family> {
        let long_lived = self.stale.iter().filter(|(_, kept)| kept.end.is_some());
        long_lived.map(|(family, _)| *family).collect()
    }

    /// Gives up all stale paths. Returns their families.
    pub(crate) fn give_up(&mut self) -> BTreeSet<Family> {
        std::mem::take(&mut self.stale).into_keys().collect()
    }

    /// What becomes of stale paths whose time is over; `None` if there are none. In a session
    /// (`connected`) they become no last resort: the peer had the time to say all.
    pub(crate) fn over(&mut self, connected: bool, now: Time) -> Option<Over> {
        let over = self.stale.iter().filter(|(_, kept)| kept.until <= now);
        let stays = |kept: &Kept| !connected && kept.end.is_some_and(|end| end > kept.until);
        let (resort, gone): (Vec<_>, Vec<_>) = over.partition(|(_, kept)| stays(kept));
        let families = |kept: Vec<(&Family, &Kept)>| kept.iter().map(|it| *it.0).collect();
        let (resort, gone): (BTreeSet<Family>, BTreeSet<Family>) =
            (families(resort), families(gone));
        if !gone.is_empty() {
            let ended = |kept: &Kept| connected && kept.end.is_some_and(|end| end <= now);
            let overdue = self.stale.iter().filter(|(_, kept)| ended(kept));
            self.overdue.extend(overdue.map(|(family, _)| *family));
            self.stale.retain(|family, _| !gone.contains(family));
            return Some(Over::Gone(gone));
        }
        for kept in self.stale.values_mut().filter(|kept| kept.until <= now) {
            kept.until = kept.end.unwrap_or(now);
            kept.long_lived = true;
        }
        (!resort.is_empty()).then_some(Over::LongLived(resort))
    }

    /// When [`Intake::over`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.stale.values().map(|kept| kept.until).min()
    }

    /// The peer begins to send all of a family again (RFC 7313 section 4): what it does not send
    /// until it says that it has is stale. False where that means nothing.
    pub(crate) fn refresh_begins(
        &mut self,
        family: Family,
        negotiated: &Negotiated,
        now: Time,
    ) -> bool {
        if !self.may_refresh(family, negotiated) {
            return false;
        }
        let kept = Kept {
            until: now + STALE_LIMIT,
            end: None,
            long_lived: false,
        };
        self.stale.insert(family, kept);
        true
    }

    /// The peer has sent all of a family again: true if paths of it are still stale, and must go now.
    pub(crate) fn refresh_ends(
        &mut self,
        family: Family,
        negotiated: &Negotiated,
        now: Time,
    ) -> bool {
        if !self.may_refresh(family, negotiated) {
            return false;
        }
        let Some(kept) = self.stale.get_mut(&family) else {
            return false;
        };
        let last = self.refreshed.get(&family);
        if let Some(next) = last
            .map(|last| *last + REFRESH_PAUSE)
            .filter(|it| *it > now)
        {
            kept.until = next;
            return false;
        }
        self.refreshed.insert(family, now);
        self.stale.remove(&family).is_some()
    }

    /// Not where a peer with End-of-RIB has not sent all for the first time: what is stale then is
    /// stale since before the session (RFC 7313 section 4).
    fn may_refresh(&self, family: Family, negotiated: &Negotiated) -> bool {
        let sent_once = !negotiated.graceful() || self.end_of_rib.contains(&family);
        sent_once && negotiated.families.contains(&family)
    }

    /// An UPDATE came.
    pub(crate) fn update(&mut self, now: Time) {
        self.last_update = now;
    }

    /// End-of-RIB: true if paths of the family are still stale, and must go now.
    pub(crate) fn end_of_rib(&mut self, family: Family) -> bool {
        self.end_of_rib.insert(family);
        self.overdue.remove(&family);
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
