//! What is remembered of a peer for people, over all its sessions.

use crate::config::Time;
use crate::ending::Ending;
use crate::faults::Faults;
use crate::interface::{Counts, PeerState};
use crate::session::Session;

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) state: PeerState,
    /// Since when that is its state.
    pub(crate) since: Time,
    pub(crate) last_error: Option<String>,
    pub(crate) last_notification: Option<Ending>,
    /// Of sessions that are over; [`Record::counts`] adds those there are.
    counts: Counts,
    pub(crate) faults: Faults,
}

impl Record {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            state: PeerState::Active,
            since: now,
            last_error: None,
            last_notification: None,
            counts: Counts::default(),
            faults: Faults::default(),
        }
    }

    pub(crate) fn state(&mut self, state: PeerState, now: Time) {
        if state != self.state {
            self.state = state;
            self.since = now;
        }
    }

    pub(crate) fn established(&mut self) {
        self.counts.established += 1;
    }

    /// A connection is over.
    pub(crate) fn ended(&mut self, session: &Session, ending: &Ending) {
        add(&mut self.counts, session);
        if matches!(ending, Ending::Sent(_) | Ending::Received(_)) {
            self.last_notification = Some(ending.clone());
        }
    }

    /// With what the connections counted that there are.
    pub(crate) fn counts<'a>(&self, sessions: impl Iterator<Item = &'a Session>) -> Counts {
        let mut counts = self.counts.clone();
        counts.faults = self.faults.counts.clone();
        for session in sessions {
            add(&mut counts, session);
        }
        counts
    }
}

fn add(counts: &mut Counts, session: &Session) {
    counts.messages_received += session.messages;
    counts.updates_received += session.updates;
    counts.messages_sent += session.outbound.messages;
    counts.updates_sent += session.outbound.updates;
}
