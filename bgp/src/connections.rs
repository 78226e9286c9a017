//! The connections to one peer: which are wanted, and which of several stays (RFC 4271 sections
//! 6.8 and 8).

use crate::collision::{self, New, Old, Verdict};
use crate::config::{ConnId, Time};
use crate::ending::Ending;
use crate::interface::PeerState;
use crate::retry::{Plan, Retry};
use crate::session::{Phase, Session};
use crate::wire::Notification;
use crate::wire::notification::cease;
use std::net::Ipv4Addr;

/// The connections there are, and how the next one comes about.
#[derive(Debug)]
pub(crate) struct Connections {
    sessions: Vec<Session>,
    pub(crate) retry: Retry,
}

impl Connections {
    pub(crate) fn new(retry: Retry) -> Self {
        let sessions = Vec::new();
        Self { sessions, retry }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(crate) fn first(&self) -> Option<ConnId> {
        self.sessions.first().map(|session| session.conn)
    }

    pub(crate) fn get(&mut self, conn: ConnId) -> Option<&mut Session> {
        let mut sessions = self.sessions.iter_mut();
        sessions.find(|session| session.conn == conn)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter()
    }

    /// The session, if there is one.
    pub(crate) fn established(&self) -> Option<&Session> {
        let mut sessions = self.sessions.iter();
        sessions.find(|session| session.established().is_some())
    }

    pub(crate) fn established_mut(&mut self) -> Option<&mut Session> {
        let mut sessions = self.sessions.iter_mut();
        sessions.find(|session| session.established().is_some())
    }

    /// Whether a new connection is wanted.
    pub(crate) fn wants(&self, active: bool) -> bool {
        let settled = |session: &Session| session.phase > Phase::OpenSent;
        match self.retry.plan {
            Plan::Idle { .. } => false,
            _ => !active || !self.sessions.iter().any(|it| it.active || settled(it)),
        }
    }

    /// A connection of the peer's that must be dead when it opens another one: the peer gave it up
    /// without our noticing.
    pub(crate) fn given_up(&self) -> Option<ConnId> {
        let given_up = |it: &&Session| !it.active && it.established().is_none();
        self.sessions.iter().find(given_up).map(|it| it.conn)
    }

    pub(crate) fn add(&mut self, session: Session) {
        if session.active {
            self.retry.plan = Plan::Rest;
        }
        // There is rarely a second one, and a speaker may have many peers.
        self.sessions.reserve_exact(1);
        self.sessions.push(session);
    }

    /// An OPEN came on a connection: of all that are past OpenSent one stays. Returns which does
    /// not, and how it ends. `ours` and `theirs` are identifier and AS.
    pub(crate) fn contest(
        &self,
        conn: ConnId,
        ours: (Ipv4Addr, u32),
        their_asn: u32,
    ) -> Option<(ConnId, Ending)> {
        let new = self.sessions.iter().find(|it| it.conn == conn)?;
        let is_old = |it: &&Session| it.conn != conn && it.phase > Phase::OpenSent;
        let session = self.sessions.iter().find(is_old)?;
        let theirs = (new.router_id, their_asn);
        let new = New {
            active: new.active,
            connected: new.connected,
        };
        let old = Old {
            active: session.active,
            established: session.established(),
            graceful: session.negotiated.graceful(),
        };
        let cease = Ending::Sent(Notification::cease(cease::COLLISION));
        Some(match collision::resolve(old, new, ours, theirs) {
            Verdict::KeepOld => (conn, cease),
            Verdict::KeepNew => (session.conn, cease),
            Verdict::Supersede => (session.conn, Ending::Superseded),
        })
    }

    pub(crate) fn remove(&mut self, conn: ConnId) -> Option<Session> {
        let at = self.sessions.iter().position(|it| it.conn == conn)?;
        Some(self.sessions.swap_remove(at))
    }

    /// Plans the next connection after one has failed or ended.
    pub(crate) fn failed(&mut self, ending: &Ending, now: Time) {
        let on_its_way = |it: &Session| it.active || it.phase > Phase::OpenSent;
        if self.sessions.is_empty() && ending.is_error() {
            self.retry.idle(now);
        } else if self.retry.plan == Plan::Rest && !self.sessions.iter().any(on_its_way) {
            self.retry.pause(now);
        }
    }

    /// A connection with something due.
    pub(crate) fn due(&mut self, now: Time) -> Option<&mut Session> {
        let due = |it: &Session| it.deadline().is_some_and(|deadline| deadline <= now);
        self.sessions.iter_mut().find(|it| due(it))
    }

    /// When a connection, or the plan for the next one, has something due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let sessions = self.sessions.iter().filter_map(Session::deadline);
        sessions.chain(self.retry.deadline()).min()
    }

    pub(crate) fn state(&self) -> PeerState {
        match (
            self.sessions.iter().map(|it| it.phase).max(),
            self.retry.plan,
        ) {
            (Some(Phase::Established(_)), _) => PeerState::Established,
            (Some(Phase::OpenConfirm), _) => PeerState::OpenConfirm,
            (Some(Phase::OpenSent), _) => PeerState::OpenSent,
            (None, Plan::Idle { .. }) => PeerState::Idle,
            (None, Plan::Connecting { .. }) => PeerState::Connect,
            (None, Plan::Waiting { .. } | Plan::Rest) => PeerState::Active,
        }
    }
}
