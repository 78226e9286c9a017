//! One peer: how connections to it come about, which of them survives, and what becomes of its
//! paths between two sessions (RFC 4271 sections 6.8 and 8, RFC 4724 section 4.2).

use crate::config::{ConnId, PeerConfig, PeerId, SpeakerConfig, Time};
use crate::export::{AdjRibOut, Target};
use crate::interface::{Event, Output, PeerState, PeerStatus};
use crate::policy::{ImportRules, PrefixSet};
use crate::rib::{Path, Source};
use crate::session::{Ending, Incoming, Negotiated, Phase, Session};
use crate::wire::notification::cease;
use crate::wire::{
    Capabilities, Family, Fault, GracefulRestart, Message, Notification, Open, Update,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// How long a connection attempt may take before another one replaces it, and the longest pause
/// between attempts: a tunnel that works again must not wait for RFC 4271's two minutes.
const CONNECT_RETRY: Duration = Duration::from_secs(15);
/// The first pause after a failed attempt or a lost session; doubled with every further failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The first pause after an error, and the longest (IdleHoldTime of RFC 4271 section 8.1.1).
const FIRST_IDLE: Duration = Duration::from_secs(4);
const LONGEST_IDLE: Duration = Duration::from_secs(120);
/// The pause after too many prefixes: only a change of the configuration ends it earlier.
const MAX_PREFIXES_IDLE: Duration = Duration::from_secs(15 * 60);
/// A session that lasted this long wipes out the failures before it.
const STABLE: Duration = Duration::from_secs(10);
/// How much later than our session a connection may appear and still be one that the peer opened
/// before it knew of that session, rather than after a restart.
const CONCURRENT: Duration = Duration::from_secs(1);
/// How long after its return a peer may take to send all its routes, before what is still stale
/// is removed. Above the time it may itself wait for its peers.
const STALE_LIMIT: Duration = Duration::from_secs(360);
/// A peer without End-of-RIB has sent all its routes when no UPDATE came for this long.
const QUIET: Duration = Duration::from_secs(2);

/// How the next connection comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// No connections until then, or ever.
    Idle { until: Option<Time> },
    /// We are connecting since then.
    Connecting { since: Time },
    /// We connect then; the peer may connect before.
    Waiting { until: Time },
    /// Not needed: a connection of ours, or one past OpenSent, is there.
    Rest,
}

/// What a peer's machine asks of the speaker.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A session is up; the paths kept of these families must go.
    Up { drop: BTreeSet<Family> },
    /// A session is down. Paths of the families in `keep` become stale, those stale already and
    /// all others go; after a lost collision the stale ones stay.
    Down {
        keep: BTreeSet<Family>,
        collision: bool,
    },
    /// The paths kept of these families must go.
    DropStale(BTreeSet<Family>),
    /// Routes came.
    Update(Box<Update>, Vec<Fault>),
    /// The peer wants our routes again.
    Refresh(Family),
    /// Nothing for the speaker, but more may follow.
    Nothing,
}

/// What we are, as far as sessions depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) asn: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) restart_time: Duration,
    /// Until when OPENs say that we have restarted; `None`: we have not.
    pub(crate) restarting_until: Option<Time>,
}

impl Identity {
    pub(crate) fn of(config: &SpeakerConfig, restarted: Option<Time>) -> Self {
        Self {
            asn: config.asn,
            router_id: config.router_id,
            restart_time: config.restart_time,
            restarting_until: restarted.map(|start| start + config.restart_time),
        }
    }
}

/// One peer.
#[derive(Debug)]
pub(crate) struct Peer {
    id: PeerId,
    pub(crate) config: PeerConfig,
    us: Identity,
    pub(crate) rules: ImportRules,
    pub(crate) allowed_out: PrefixSet,
    sessions: Vec<Session>,
    plan: Plan,
    failures: u32,
    last_error: Option<String>,
    state: PeerState,
    since: Time,
    /// A session was up before: our forwarding state outlived it.
    was_up: bool,
    /// Families with paths kept from a session that is gone, and until when.
    stale: BTreeMap<Family, Time>,
    /// All of the peer's routes arrived once.
    caught_up: bool,
    end_of_rib: BTreeSet<Family>,
    last_update: Time,
    /// The source of the paths of this session.
    pub(crate) source: Option<Arc<Source>>,
    pub(crate) out: Option<AdjRibOut>,
    /// Paths in the table, and those of them that are rejected.
    received: usize,
    rejected: usize,
}

impl Peer {
    pub(crate) fn new(id: PeerId, config: PeerConfig, us: Identity, now: Time) -> Self {
        Self {
            rules: rules(&config, us),
            allowed_out: PrefixSet::new(&config.export),
            id,
            config,
            us,
            sessions: Vec::new(),
            plan: Plan::Waiting { until: now },
            failures: 0,
            last_error: None,
            state: PeerState::Active,
            since: now,
            was_up: false,
            stale: BTreeMap::new(),
            caught_up: false,
            end_of_rib: BTreeSet::new(),
            last_update: now,
            source: None,
            out: None,
            received: 0,
            rejected: 0,
        }
    }

    /// Takes a changed configuration that needs no reset. False if it needs one.
    pub(crate) fn adopt(&mut self, config: &PeerConfig, us: Identity) -> bool {
        let ours = &self.config;
        let same = ours.asn == config.asn
            && ours.local == config.local
            && ours.remote == config.remote
            && ours.hold_time == config.hold_time
            && ours.families == config.families
            && ours.client == config.client
            && self.us.asn == us.asn
            && self.us.router_id == us.router_id;
        if same {
            self.us = us;
            self.rules = rules(config, us);
            self.allowed_out = PrefixSet::new(&config.export);
            self.config = config.clone();
        }
        same
    }

    /// A changed configuration is reason to try again at once, whatever went wrong before.
    pub(crate) fn retry(&mut self, now: Time) {
        if self.sessions.is_empty() {
            self.failures = 0;
            self.plan = Plan::Waiting { until: now };
        }
    }

    pub(crate) fn internal(&self) -> bool {
        self.config.asn == self.us.asn
    }

    fn session(&mut self, conn: ConnId) -> Option<&mut Session> {
        self.sessions
            .iter_mut()
            .find(|session| session.conn == conn)
    }

    /// The session, if there is one.
    pub(crate) fn established(&self) -> Option<&Session> {
        let mut sessions = self.sessions.iter();
        sessions.find(|session| session.established().is_some())
    }

    fn our_open(&self, now: Time) -> Open {
        let restarting = self.us.restarting_until.is_some_and(|until| now < until);
        // Our kernel's routes outlive both a restart and a lost connection.
        let kept = restarting || self.was_up;
        let families = self.config.families.iter();
        let hold_time = match self.config.hold_time.as_secs() {
            0 if self.config.hold_time.is_zero() => 0,
            seconds => u16::try_from(seconds).unwrap_or(u16::MAX).max(3),
        };
        let restart_time = self.us.restart_time.as_secs().min(0xfff);
        Open {
            asn: self.us.asn,
            hold_time,
            router_id: self.us.router_id,
            capabilities: Capabilities {
                families: self.config.families.clone(),
                extended_next_hop: self.config.families.contains(&Family::Ipv4)
                    && self.config.local.is_ipv6(),
                route_refresh: true,
                four_octet_as: true,
                graceful_restart: Some(GracefulRestart {
                    restarting,
                    restart_time: u16::try_from(restart_time).unwrap_or(0xfff),
                    families: families.map(|family| (*family, kept)).collect(),
                }),
            },
        }
    }

    // ---- Connections ----

    pub(crate) fn connected(
        &mut self,
        conn: ConnId,
        active: bool,
        now: Time,
        outputs: &mut VecDeque<Output>,
    ) {
        let settled = |session: &Session| session.phase > Phase::OpenSent;
        let unwanted = match self.plan {
            Plan::Idle { .. } => true,
            // Closed before our OPEN, so that the peer cannot take it for one after a restart.
            _ => active && self.sessions.iter().any(|it| it.active || settled(it)),
        };
        if unwanted {
            outputs.push_back(Output::Close { conn });
            return;
        }
        if active {
            self.plan = Plan::Rest;
        } else {
            // The peer gave up a connection without our noticing, or it would not open another.
            let given_up = |it: &Session| !it.active && it.established().is_none();
            if let Some(at) = self.sessions.iter().position(given_up) {
                let old = self.sessions.swap_remove(at);
                close(
                    &old,
                    &Ending::Sent(Notification::cease(cease::COLLISION)),
                    outputs,
                );
            }
        }
        let open = self.our_open(now);
        let session = Session::new((conn, active), open, self.config.asn, now, outputs);
        self.sessions.push(session);
    }

    pub(crate) fn connect_failed(&mut self, now: Time) {
        if let Plan::Connecting { .. } = self.plan {
            self.last_error = Some("cannot connect".into());
            self.pause(now);
        }
    }

    pub(crate) fn receive(&mut self, conn: ConnId, bytes: Vec<u8>) {
        if let Some(session) = self.session(conn) {
            session.receive(bytes);
        }
    }

    /// The next thing that the bytes received on a connection mean.
    pub(crate) fn next(
        &mut self,
        conn: ConnId,
        now: Time,
        outputs: &mut VecDeque<Output>,
    ) -> Option<Happening> {
        Some(match self.session(conn)?.next(now)? {
            Incoming::Opened => self.opened(conn, now, outputs),
            Incoming::Established => self.up(conn, now, outputs),
            Incoming::Update(update, faults) => {
                self.last_update = now;
                Happening::Update(update, faults)
            }
            Incoming::Refresh(family) => Happening::Refresh(family),
            Incoming::Ended(ending) => self.end(conn, ending, now, outputs),
        })
    }

    /// An OPEN came: of all connections past OpenSent, one stays (RFC 4271 section 6.8).
    fn opened(&mut self, conn: ConnId, now: Time, outputs: &mut VecDeque<Output>) -> Happening {
        let is_other = |it: &&Session| it.conn != conn && it.phase > Phase::OpenSent;
        let new = self.sessions.iter().find(|it| it.conn == conn);
        let old = self.sessions.iter().find(is_other);
        let (Some(new), old) = (new, old) else {
            return Happening::Nothing;
        };
        let (loser, ending) = match old {
            None => (None, Ending::Closed),
            Some(old) => {
                let (keep_new, ending) = self.collision(old, new);
                (Some(if keep_new { old.conn } else { conn }), ending)
            }
        };
        let mut happening = Happening::Nothing;
        if let Some(loser) = loser {
            happening = self.end(loser, ending, now, outputs);
        }
        if let Some(session) = self.session(conn) {
            session.confirm(now, outputs);
            self.plan = Plan::Rest;
        }
        happening
    }

    /// Whether the new one of two connections stays, and how the other ends.
    ///
    /// The connections crossed if each side opened one before it knew of the other's. Then the one
    /// opened by the side with the higher identifier stays (equal ones: the higher AS, RFC 6286
    /// section 2.3), even when the other got as far as Established here: the peer, who may have
    /// seen the OPENs in the other order, decides by the same rule, and so exactly one is left.
    ///
    /// Else the peer opened a connection although it had one: it has restarted, and a peer that
    /// restarts gracefully counts on our noticing (RFC 4724 sections 4.2 and 5). A session with any
    /// other peer stays (RFC 4271 section 6.8).
    fn collision(&self, old: &Session, new: &Session) -> (bool, Ending) {
        let collision = Ending::Sent(Notification::cease(cease::COLLISION));
        let in_time = match old.established() {
            Some(since) => new.connected <= since + CONCURRENT,
            None => true,
        };
        if old.active != new.active && in_time {
            let ours_stays = (self.us.router_id, self.us.asn) > (new.router_id, self.config.asn);
            return (new.active == ours_stays, collision);
        }
        if old.established().is_none() {
            return (true, collision);
        }
        match restarting_families(&old.negotiated).is_empty() {
            false => (true, Ending::Superseded),
            true => (false, collision),
        }
    }

    /// A session is up.
    fn up(&mut self, conn: ConnId, now: Time, outputs: &mut VecDeque<Output>) -> Happening {
        let Some(session) = self.session(conn) else {
            return Happening::Nothing;
        };
        let (negotiated, router_id) = (session.negotiated.clone(), session.router_id);
        let forwarding: BTreeSet<Family> = match &negotiated.graceful_restart {
            Some(graceful) => {
                let kept = graceful.families.iter().filter(|(_, kept)| *kept);
                kept.map(|(family, _)| *family).collect()
            }
            None => BTreeSet::new(),
        };
        let stale: BTreeSet<Family> = self.stale.keys().copied().collect();
        let drop = &stale - &(&forwarding & &negotiated.families);
        self.stale.retain(|family, _| !drop.contains(family));
        for until in self.stale.values_mut() {
            *until = now + STALE_LIMIT;
        }
        self.was_up = true;
        self.last_update = now;
        self.end_of_rib.clear();
        self.source = Some(Arc::new(Source {
            peer: self.id.clone(),
            internal: self.internal(),
            client: self.config.client && self.internal(),
            router_id,
            address: self.config.remote,
        }));
        self.out = Some(AdjRibOut::new(Target {
            peer: self.id.clone(),
            asn: self.us.asn,
            router_id: self.us.router_id,
            internal: self.internal(),
            client: self.config.client,
            local: self.config.local,
            families: negotiated.families.clone(),
            context: negotiated.context,
        }));
        outputs.push_back(Output::Event(Event::Up {
            peer: self.id.clone(),
            router_id,
            families: negotiated.families,
        }));
        Happening::Up { drop }
    }

    /// Ends a connection, and the session if it was that.
    pub(crate) fn end(
        &mut self,
        conn: ConnId,
        ending: Ending,
        now: Time,
        outputs: &mut VecDeque<Output>,
    ) -> Happening {
        let Some(at) = self.sessions.iter().position(|it| it.conn == conn) else {
            return Happening::Nothing;
        };
        let session = self.sessions.swap_remove(at);
        close(&session, &ending, outputs);
        let peer = self.id.clone();
        // A connection lost to another one of the same peer is no failure.
        let lost_to_another = ending.is_collision() && !self.sessions.is_empty();
        let Some(since) = session.established() else {
            if !lost_to_another {
                self.failed(&ending, now);
                outputs.push_back(Output::Event(Event::Failed { peer, ending }));
            }
            return Happening::Nothing;
        };
        if now >= since + STABLE {
            self.failures = 0;
        }
        if !lost_to_another {
            self.failed(&ending, now);
        }
        self.out = None;
        self.source = None;
        self.end_of_rib.clear();
        let (mut keep, mut restart_time) = (BTreeSet::new(), Duration::ZERO);
        if ending.keeps_paths() {
            keep = restarting_families(&session.negotiated);
            if let Some(graceful) = &session.negotiated.graceful_restart {
                restart_time = Duration::from_secs(graceful.restart_time.into());
            }
        }
        self.stale = keep
            .iter()
            .map(|family| (*family, now + restart_time))
            .collect();
        let collision = ending.is_collision();
        outputs.push_back(Output::Event(Event::Down {
            peer,
            ending,
            kept: keep.clone(),
        }));
        Happening::Down { keep, collision }
    }

    /// Plans the next connection after one has failed or ended.
    fn failed(&mut self, ending: &Ending, now: Time) {
        self.last_error = Some(ending.to_string());
        let on_its_way = |it: &Session| it.active || it.phase > Phase::OpenSent;
        if self.sessions.is_empty() && ending.is_error() {
            let pause = self.delay(FIRST_IDLE, LONGEST_IDLE);
            let until = Some(now + pause);
            self.plan = Plan::Idle { until };
        } else if self.plan == Plan::Rest && !self.sessions.iter().any(on_its_way) {
            self.pause(now);
        }
    }

    fn pause(&mut self, now: Time) {
        let until = now + self.delay(FIRST_RETRY, CONNECT_RETRY);
        self.plan = Plan::Waiting { until };
    }

    /// The pause after one more failure: doubled each time, less up to a quarter (RFC 4271 section
    /// 10). What is taken off derives from the names of both ends and the count, so that the ends
    /// do not try in step, and that nothing here depends on chance.
    fn delay(&mut self, first: Duration, longest: Duration) -> Duration {
        let pause = first
            .saturating_mul(1 << self.failures.min(16))
            .min(longest);
        self.failures = self.failures.saturating_add(1);
        let router_id = self.us.router_id.octets();
        let seed = self
            .id
            .0
            .bytes()
            .chain(router_id)
            .chain(self.failures.to_be_bytes());
        // FNV-1a.
        let hash = seed.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let per_1024 = 768 + (hash >> 32) as u32 % 257;
        pause * per_1024 / 1024
    }

    /// The link to the peer is dead, or an operator or the configuration ends all connections.
    pub(crate) fn end_all(
        &mut self,
        ending: &Ending,
        now: Time,
        outputs: &mut VecDeque<Output>,
    ) -> Happening {
        let mut happening = Happening::Nothing;
        while let Some(session) = self.sessions.first() {
            match self.end(session.conn, ending.clone(), now, outputs) {
                Happening::Nothing => {}
                down => happening = down,
            }
        }
        if let Plan::Connecting { .. } = self.plan {
            self.pause(now);
        }
        match happening {
            Happening::Nothing => self.drop_stale(|_| true),
            down => down,
        }
    }

    fn drop_stale(&mut self, due: impl Fn(Time) -> bool) -> Happening {
        let due = |(_, until): &(&Family, &Time)| due(**until);
        let families = self.stale.iter().filter(due).map(|(family, _)| *family);
        let families: BTreeSet<Family> = families.collect();
        self.stale.retain(|family, _| !families.contains(family));
        match families.is_empty() {
            true => Happening::Nothing,
            false => Happening::DropStale(families),
        }
    }

    /// Nothing more with this peer until then, or ever.
    pub(crate) fn rest(&mut self, until: Option<Time>) {
        self.plan = Plan::Idle { until };
    }

    /// Nothing more with a peer that announced too many prefixes, for long.
    pub(crate) fn rest_after_max_prefixes(&mut self, now: Time) {
        self.rest(Some(now + MAX_PREFIXES_IDLE));
    }

    pub(crate) fn alive(&mut self, now: Time, outputs: &mut VecDeque<Output>) {
        let due = match self.plan {
            Plan::Waiting { .. } => true,
            // An attempt that began before the link worked waits for TCP's next SYN.
            Plan::Connecting { since } => now >= since + FIRST_RETRY,
            Plan::Idle { .. } | Plan::Rest => false,
        };
        if due {
            self.failures = 0;
            self.connect(now, outputs);
        }
    }

    fn connect(&mut self, now: Time, outputs: &mut VecDeque<Output>) {
        self.plan = Plan::Connecting { since: now };
        let peer = self.id.clone();
        outputs.push_back(Output::Connect { peer });
    }

    // ---- Time ----

    /// Does the next thing that is due; `None` when nothing is.
    pub(crate) fn timeout(
        &mut self,
        now: Time,
        outputs: &mut VecDeque<Output>,
    ) -> Option<Happening> {
        let due = |deadline: Option<Time>| deadline.is_some_and(|deadline| deadline <= now);
        if let Some(session) = self.sessions.iter_mut().find(|it| due(it.deadline())) {
            let conn = session.conn;
            return Some(match session.timeout(now, outputs) {
                Some(ending) => self.end(conn, ending, now, outputs),
                None => Happening::Nothing,
            });
        }
        if due(self.stale.values().copied().min()) {
            return Some(self.drop_stale(|until| until <= now));
        }
        if due(self.plan_deadline()) {
            self.connect(now, outputs);
            return Some(Happening::Nothing);
        }
        None
    }

    fn plan_deadline(&self) -> Option<Time> {
        match self.plan {
            Plan::Idle { until } => until,
            Plan::Connecting { since } => Some(since + CONNECT_RETRY),
            Plan::Waiting { until } => Some(until),
            Plan::Rest => None,
        }
    }

    /// When [`Peer::timeout`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let sessions = self.sessions.iter().filter_map(Session::deadline);
        let stale = self.stale.values().copied();
        sessions.chain(stale).chain(self.plan_deadline()).min()
    }

    // ---- Routes ----

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

    pub(crate) fn too_many(&self) -> bool {
        self.config.max_prefixes != 0 && self.received > self.config.max_prefixes
    }

    /// End-of-RIB: true if paths of the family are still stale, and must go now.
    pub(crate) fn end_of_rib(&mut self, family: Family) -> bool {
        self.end_of_rib.insert(family);
        self.stale.remove(&family).is_some()
    }

    /// Notes, and says, whether all routes of the peer arrived. A peer without the graceful restart
    /// capability need not send End-of-RIB: it counts when no UPDATE came for two seconds.
    pub(crate) fn caught_up(&mut self, now: Time) -> bool {
        if let Some(session) = self.established() {
            let negotiated = &session.negotiated;
            let marked = negotiated.families.is_subset(&self.end_of_rib);
            let quiet = negotiated.graceful_restart.is_none() && now >= self.last_update + QUIET;
            self.caught_up |= marked || quiet;
        }
        self.caught_up
    }

    /// When [`Peer::caught_up`] may become true by the passing of time.
    pub(crate) fn quiet_at(&self) -> Option<Time> {
        let session = self.established()?;
        let waits = !self.caught_up && session.negotiated.graceful_restart.is_none();
        waits.then(|| self.last_update + QUIET)
    }

    /// Whether the peer said in this session that it has restarted itself: it waits for our routes
    /// as we might wait for its (RFC 4724 section 4.1).
    pub(crate) fn restarting(&self) -> bool {
        let graceful = self.established().map(|it| &it.negotiated.graceful_restart);
        matches!(graceful, Some(Some(graceful)) if graceful.restarting)
    }

    /// Asks the peer for its routes again.
    pub(crate) fn request_refresh(&self, outputs: &mut VecDeque<Output>) {
        if let Some(session) = self.established()
            && session.negotiated.route_refresh
        {
            for family in &session.negotiated.families {
                session.send(&Message::RouteRefresh(*family), outputs);
            }
        }
    }

    // ---- Status ----

    /// Keeps track of when the state changed. To be called after everything that may change it.
    pub(crate) fn note_state(&mut self, now: Time) {
        let state = self.current_state();
        if state != self.state {
            self.state = state;
            self.since = now;
        }
    }

    fn current_state(&self) -> PeerState {
        match (self.sessions.iter().map(|it| it.phase).max(), self.plan) {
            (Some(Phase::Established(_)), _) => PeerState::Established,
            (Some(Phase::OpenConfirm), _) => PeerState::OpenConfirm,
            (Some(Phase::OpenSent), _) => PeerState::OpenSent,
            (None, Plan::Idle { .. }) => PeerState::Idle,
            (None, Plan::Connecting { .. }) => PeerState::Connect,
            (None, Plan::Waiting { .. } | Plan::Rest) => PeerState::Active,
        }
    }

    pub(crate) fn status(&self) -> PeerStatus {
        let session = self.established();
        PeerStatus {
            peer: self.id.clone(),
            state: self.state,
            since: self.since,
            received: self.received,
            accepted: self.received.saturating_sub(self.rejected),
            rejected: self.rejected,
            advertised: self.out.as_ref().map_or(0, AdjRibOut::count),
            stale: self.stale.keys().copied().collect(),
            last_error: self.last_error.clone(),
            router_id: session.map(|it| it.router_id),
            hold_time: session.map(|it| it.negotiated.hold_time),
            families: session.map_or_else(BTreeSet::new, |it| it.negotiated.families.clone()),
            end_of_rib: self.end_of_rib.clone(),
            graceful_restart: session
                .is_some_and(|it| !restarting_families(&it.negotiated).is_empty()),
        }
    }
}

/// Families whose paths are kept when the connection is lost (RFC 4724 section 4.2).
fn restarting_families(negotiated: &Negotiated) -> BTreeSet<Family> {
    match &negotiated.graceful_restart {
        Some(graceful) => {
            let listed = graceful.families.iter().map(|(family, _)| *family);
            listed
                .filter(|family| negotiated.families.contains(family))
                .collect()
        }
        None => BTreeSet::new(),
    }
}

fn rules(config: &PeerConfig, us: Identity) -> ImportRules {
    ImportRules {
        asn: us.asn,
        router_id: us.router_id,
        local: config.local,
        peer_asn: config.asn,
        allowed: PrefixSet::new(&config.import),
    }
}

/// Says the last word on a connection.
fn close(session: &Session, ending: &Ending, outputs: &mut VecDeque<Output>) {
    let notification = match ending {
        Ending::Sent(notification) => Some(notification.clone()),
        // RFC 9384: if anything still arrives there, the peer need not wait for its hold timer.
        Ending::Dead => Some(Notification::cease(cease::BFD_DOWN)),
        _ => None,
    };
    if let Some(notification) = notification {
        session.send(&Message::Notification(notification), outputs);
    }
    if *ending != Ending::Closed {
        let conn = session.conn;
        outputs.push_back(Output::Close { conn });
    }
}
