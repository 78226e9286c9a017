//! One peer: what its connections mean for its paths, in a session and between two of them
//! (RFC 4271 section 8, RFC 4724 section 4.2).

use crate::adj_rib_out::AdjRibOut;
use crate::config::{ConnId, PeerConfig, PeerId, Time};
use crate::connections::Connections;
use crate::ending::Ending;
use crate::export::Target;
use crate::faults;
use crate::identity::Identity;
use crate::intake::{Intake, Over};
use crate::interface::{Event, Output, PeerStatus};
use crate::policy::{ImportRules, Policy};
use crate::record::Record;
use crate::retry::{Plan, Retry};
use crate::session::{Incoming, Session};
use crate::table::Source;
use crate::wire::notification::cease;
use crate::wire::{Family, Fault, Notification, PerFamily, Refresh, UpdateView};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A session that lasted this long wipes out the failures before it.
const STABLE: Duration = Duration::from_secs(10);
/// What a peer's machine asks of the speaker.
#[derive(Debug)]
pub(crate) enum Happening<'a> {
    /// A session is up; the paths kept of these families must go.
    Up {
        drop: BTreeSet<Family>,
        target: Box<Target>,
    },
    /// A session is down. Paths of the families in `keep` become stale, all others go; those stale
    /// already stay in the families of `again`.
    Down {
        keep: BTreeSet<Family>,
        again: BTreeSet<Family>,
        /// What the peer was told. It may take long to clear away.
        out: Option<Box<AdjRibOut>>,
    },
    /// The paths kept of these families must go: the peer did not announce them again in time.
    DropStale(BTreeSet<Family>),
    /// The paths kept of these families are a last resort from now on (RFC 9494).
    LongLived(BTreeSet<Family>),
    /// The peer begins to send all of a family again: what there is of it is stale (RFC 7313).
    RefreshBegins(Family),
    /// The peer has sent all of a family again: what is still stale must go.
    RefreshEnds(Family),
    /// Routes came.
    Update(Box<UpdateView<'a>>),
    /// The peer wants our routes again.
    Refresh(Family),
    /// Nothing for the speaker, but more may follow.
    Nothing,
}

/// One peer.
#[derive(Debug)]
pub(crate) struct Peer {
    id: PeerId,
    pub(crate) config: PeerConfig,
    us: Identity,
    pub(crate) rules: ImportRules,
    pub(crate) allowed_out: Policy,
    connections: Connections,
    record: Record,
    /// A session was up before: our forwarding state outlived it.
    was_up: bool,
    warned_of_many: bool,
    pub(crate) intake: Intake,
    /// The source of the paths of this session.
    pub(crate) source: Option<Arc<Source>>,
    pub(crate) out: Option<AdjRibOut>,
}

impl Peer {
    pub(crate) fn new(id: PeerId, config: PeerConfig, us: Identity, now: Time) -> Self {
        // The peer's seed has the names the other way round.
        let seed = id.0.bytes().chain(us.router_id.octets());
        Self {
            connections: Connections::new(Retry::new(config.passive, seed, now)),
            rules: ImportRules::new(&config, us),
            allowed_out: config.export_policy(us.asn),
            id,
            config,
            us,
            record: Record::new(now),
            was_up: false,
            warned_of_many: false,
            intake: Intake::default(),
            source: None,
            out: None,
        }
    }

    /// Takes a changed configuration that needs no reset. False if it needs one.
    pub(crate) fn adopt(&mut self, config: &PeerConfig, us: Identity) -> bool {
        let ours = &self.config;
        let same = ours.asn == config.asn
            && ours.local == config.local
            && ours.remote == config.remote
            && ours.families == config.families
            && ours.client == config.client
            && ours.meshed == config.meshed
            && ours.add_path == config.add_path
            && self.us.asn == us.asn
            && self.us.router_id == us.router_id;
        if same {
            self.us = us;
            self.rules = ImportRules::new(config, us);
            self.allowed_out = config.export_policy(us.asn);
            self.connections.retry.passive = config.passive;
            self.config = config.clone();
        }
        same
    }

    /// A changed configuration is reason to try again at once.
    pub(crate) fn reconnect(&mut self, now: Time) {
        if self.connections.is_empty() {
            self.connections.retry.again(now);
        }
    }

    pub(crate) fn internal(&self) -> bool {
        self.config.asn == self.us.asn
    }

    /// The session, if there is one.
    pub(crate) fn established(&self) -> Option<&Session> {
        self.connections.established()
    }

    // ---- Connections ----

    pub(crate) fn connected(
        &mut self,
        conn: ConnId,
        active: bool,
        now: Time,
        outputs: &mut VecDeque<Output>,
    ) {
        if !self.connections.wants(active) {
            // Closed before our OPEN, so that the peer cannot take it for one after a restart.
            outputs.push_back(Output::Close { conn });
            return;
        }
        let given_up = self.connections.given_up().filter(|_| !active);
        if let Some(mut old) = given_up.and_then(|conn| self.connections.remove(conn)) {
            let ending = Ending::Sent(Notification::cease(cease::COLLISION));
            old.close(&ending, now, outputs);
            self.record.ended(&old, &ending);
        }
        let open = self.us.open(&self.config, self.was_up, now);
        let session = Session::new((conn, active), open, self.config.asn, now, outputs);
        self.connections.add(session);
    }

    pub(crate) fn connect_failed(&mut self, now: Time) {
        if let Plan::Connecting { .. } = self.connections.retry.plan {
            self.record.last_error = Some("cannot connect".into());
            self.connections.retry.pause(now);
        }
    }

    /// Takes bytes from a connection. Returns those to be decoded, for [`Peer::next`].
    pub(crate) fn receive(&mut self, conn: ConnId, bytes: Vec<u8>) -> Vec<u8> {
        match self.connections.get(conn) {
            Some(session) => session.receive(bytes),
            None => Vec::new(),
        }
    }

    /// Takes back what [`Peer::next`] has left, if there is still use for it.
    pub(crate) fn keep(&mut self, conn: ConnId, stream: Vec<u8>, used: usize) {
        if let Some(session) = self.connections.get(conn) {
            session.keep(stream, used);
        }
    }

    /// The next thing that the bytes received on a connection mean.
    pub(crate) fn next<'a>(
        &mut self,
        conn: ConnId,
        rest: &mut &'a [u8],
        now: Time,
        outputs: &mut VecDeque<Output>,
    ) -> Option<Happening<'a>> {
        Some(match self.connections.get(conn)?.next(rest, now)? {
            Incoming::Opened => self.opened(conn, now, outputs),
            Incoming::Established => self.up(conn, now, outputs),
            Incoming::Update(update, faults) => {
                self.note_faults(faults, now, outputs);
                self.intake.update(now);
                Happening::Update(update)
            }
            Incoming::Refresh(family, refresh) => self.refresh(family, refresh, now),
            Incoming::Ended(ending) => self.end(conn, ending, now, outputs),
        })
    }

    /// A ROUTE-REFRESH came (RFC 2918, RFC 7313).
    fn refresh(&mut self, family: Family, refresh: Refresh, now: Time) -> Happening<'static> {
        let Some(session) = self.connections.established() else {
            return Happening::Nothing;
        };
        let (intake, negotiated) = (&mut self.intake, &session.negotiated);
        match refresh {
            Refresh::Request => Happening::Refresh(family),
            Refresh::Begin if intake.refresh_begins(family, negotiated, now) => {
                Happening::RefreshBegins(family)
            }
            Refresh::End if intake.refresh_ends(family, negotiated, now) => {
                Happening::RefreshEnds(family)
            }
            Refresh::Begin | Refresh::End => Happening::Nothing,
        }
    }

    /// An OPEN came: of all connections past OpenSent, one stays (RFC 4271 section 6.8).
    fn opened(
        &mut self,
        conn: ConnId,
        now: Time,
        outputs: &mut VecDeque<Output>,
    ) -> Happening<'static> {
        let ours = (self.us.router_id, self.us.asn);
        let loser = self.connections.contest(conn, ours, self.config.asn);
        let happening = match loser {
            Some((loser, ending)) => self.end(loser, ending, now, outputs),
            None => Happening::Nothing,
        };
        if let Some(session) = self.connections.get(conn) {
            session.confirm(now, outputs);
            self.connections.retry.plan = Plan::Rest;
        }
        happening
    }

    /// A session is up.
    fn up(
        &mut self,
        conn: ConnId,
        now: Time,
        outputs: &mut VecDeque<Output>,
    ) -> Happening<'static> {
        let Some(session) = self.connections.get(conn) else {
            return Happening::Nothing;
        };
        let (negotiated, router_id) = (session.negotiated.clone(), session.router_id);
        let drop = self.intake.up(&negotiated, now);
        self.was_up = true;
        self.record.established();
        self.source = Some(Arc::new(Source {
            peer: self.id.clone(),
            internal: self.internal(),
            client: self.config.client && self.internal(),
            meshed: self.config.meshed,
            router_id,
            address: self.config.remote,
        }));
        let target = Box::new(Target {
            peer: self.id.clone(),
            asn: self.us.asn,
            router_id: self.us.router_id,
            internal: self.internal(),
            client: self.config.client,
            meshed: self.config.meshed,
            local: self.config.local,
            families: negotiated.families.clone(),
            role: self.config.role.filter(|_| !self.internal()),
            drain: self.config.drain,
            long_lived: PerFamily {
                ipv4: negotiated.long_lived.ipv4.is_some(),
                ipv6: negotiated.long_lived.ipv6.is_some(),
            },
            context: negotiated.context,
        });
        outputs.push_back(Output::Event(Event::Up {
            peer: self.id.clone(),
            router_id,
            families: negotiated.families,
        }));
        Happening::Up { drop, target }
    }

    /// Ends a connection, and the session if it was that.
    pub(crate) fn end(
        &mut self,
        conn: ConnId,
        ending: Ending,
        now: Time,
        outputs: &mut VecDeque<Output>,
    ) -> Happening<'static> {
        let Some(mut session) = self.connections.remove(conn) else {
            return Happening::Nothing;
        };
        session.close(&ending, now, outputs);
        let ending = ending.in_short();
        self.record.ended(&session, &ending);
        if let Ending::Sent(notification) = &ending
            && let Some(fault) = faults::reset(notification)
        {
            self.note_faults(vec![fault], now, outputs);
        }
        let peer = self.id.clone();
        // A connection lost to another one of the same peer is no failure.
        let lost_to_another = ending.is_collision() && !self.connections.is_empty();
        let Some(since) = session.established() else {
            if !lost_to_another {
                self.failed(&ending, now);
                outputs.push_back(Output::Event(Event::Failed { peer, ending }));
            }
            return Happening::Nothing;
        };
        if now >= since + STABLE {
            self.connections.retry.forgive();
        }
        if !lost_to_another {
            self.failed(&ending, now);
        }
        self.source = None;
        let keep = self.intake.down(&session.negotiated, &ending, now);
        // After a lost collision there was no time to announce them again.
        let again = match ending.is_collision() {
            true => keep.clone(),
            false => self.intake.long_lived(),
        };
        outputs.push_back(Output::Event(Event::Down {
            peer,
            ending,
            kept: keep.clone(),
        }));
        let out = self.out.take().map(Box::new);
        Happening::Down { keep, again, out }
    }

    /// Plans the next connection after one has failed or ended.
    fn failed(&mut self, ending: &Ending, now: Time) {
        self.record.last_error = Some(ending.to_string());
        self.connections.failed(ending, now);
    }

    /// The link to the peer is dead, or an operator or the configuration ends all connections.
    pub(crate) fn end_all(
        &mut self,
        ending: &Ending,
        now: Time,
        outputs: &mut VecDeque<Output>,
    ) -> Happening<'static> {
        let mut happening = Happening::Nothing;
        while let Some(conn) = self.connections.first() {
            match self.end(conn, ending.clone(), now, outputs) {
                Happening::Nothing => {}
                down => happening = down,
            }
        }
        if let Plan::Connecting { .. } = self.connections.retry.plan {
            self.connections.retry.pause(now);
        }
        match happening {
            Happening::Nothing => match self.intake.give_up() {
                none if none.is_empty() => Happening::Nothing,
                families => Happening::DropStale(families),
            },
            down => down,
        }
    }

    /// Nothing more with this peer.
    pub(crate) fn stop(&mut self) {
        self.connections.retry.stop();
    }

    /// Nothing more with a peer that announced too many prefixes, for long.
    pub(crate) fn rest_after_max_prefixes(&mut self, now: Time) {
        self.connections.retry.idle_after_max_prefixes(now);
    }

    pub(crate) fn alive(&mut self, now: Time, outputs: &mut VecDeque<Output>) {
        if self.connections.retry.alive(now) {
            self.connect(now, outputs);
        }
    }

    fn connect(&mut self, now: Time, outputs: &mut VecDeque<Output>) {
        if self.connections.retry.due(now) {
            let peer = self.id.clone();
            outputs.push_back(Output::Connect { peer });
        }
    }

    // ---- Time ----

    /// Does the next thing that is due; `None` when nothing is.
    pub(crate) fn timeout(
        &mut self,
        now: Time,
        outputs: &mut VecDeque<Output>,
    ) -> Option<Happening<'static>> {
        let due = |deadline: Option<Time>| deadline.is_some_and(|deadline| deadline <= now);
        if let Some(session) = self.connections.due(now) {
            let conn = session.conn;
            return Some(match session.timeout(now, outputs) {
                Some(ending) => self.end(conn, ending, now, outputs),
                None => Happening::Nothing,
            });
        }
        if let Some(over) = self
            .intake
            .over(self.connections.established().is_some(), now)
        {
            return Some(match over {
                Over::Gone(families) => Happening::DropStale(families),
                Over::LongLived(families) => Happening::LongLived(families),
            });
        }
        if due(self.connections.retry.deadline()) {
            self.connect(now, outputs);
            return Some(Happening::Nothing);
        }
        None
    }

    /// When [`Peer::timeout`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let deadlines = [self.connections.deadline(), self.intake.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Sends UPDATEs over the session.
    pub(crate) fn announce(&mut self, bytes: Vec<u8>, now: Time, outputs: &mut VecDeque<Output>) {
        if let Some(session) = self.connections.established_mut() {
            session.outbound.send(bytes, now, outputs);
        }
    }

    /// The kernel has taken all that was handed out for a connection.
    pub(crate) fn writable(&mut self, conn: ConnId) {
        if let Some(session) = self.connections.get(conn) {
            session.outbound.writable();
            if session.established().is_some()
                && let Some(out) = &mut self.out
            {
                out.writable();
            }
        }
    }

    // ---- Routes ----

    /// Counts what was wrong with an UPDATE, and says so.
    fn note_faults(&mut self, faults: Vec<Fault>, now: Time, outputs: &mut VecDeque<Output>) {
        for fault in faults {
            if let Some(unsaid) = self.record.faults.note(&fault, now) {
                let peer = self.id.clone();
                outputs.push_back(Output::Event(Event::Fault {
                    peer,
                    fault,
                    unsaid,
                }));
            }
        }
    }

    pub(crate) fn too_many(&self) -> bool {
        self.config.max_prefixes != 0 && self.intake.received > self.config.max_prefixes
    }

    /// Warns when three quarters of the allowed prefixes are there, once until there is less than
    /// half.
    pub(crate) fn warn_of_many(&mut self, outputs: &mut VecDeque<Output>) {
        let (received, limit) = (self.intake.received, self.config.max_prefixes);
        if limit == 0 || received < limit.div_ceil(2) {
            self.warned_of_many = false;
        } else if received >= limit - limit / 4 && !self.warned_of_many {
            self.warned_of_many = true;
            let peer = self.id.clone();
            outputs.push_back(Output::Event(Event::ManyPrefixes {
                peer,
                received,
                limit,
            }));
        }
    }

    /// Notes, and says, whether all routes of the peer arrived.
    pub(crate) fn complete(&mut self, now: Time) -> bool {
        let session = self.connections.established();
        self.intake.complete(session.map(|it| &it.negotiated), now)
    }

    /// When [`Peer::complete`] may become true by the passing of time.
    pub(crate) fn quiet_at(&self) -> Option<Time> {
        self.intake.quiet_at(&self.established()?.negotiated)
    }

    /// Whether the peer said in this session that it has restarted itself: it waits for our routes
    /// as we might wait for its (RFC 4724 section 4.1).
    pub(crate) fn restarting(&self) -> bool {
        let graceful = self.established().map(|it| &it.negotiated.graceful_restart);
        matches!(graceful, Some(Some(graceful)) if graceful.restarting)
    }

    // ---- Status ----

    /// Keeps track of when the state changed. To be called after everything that may change it.
    pub(crate) fn note_state(&mut self, now: Time) {
        self.record.state(self.connections.state(), now);
    }

    pub(crate) fn status(&self) -> PeerStatus {
        let (session, intake) = (self.established(), &self.intake);
        PeerStatus {
            peer: self.id.clone(),
            state: self.record.state,
            since: self.record.since,
            received: intake.received,
            accepted: intake.received.saturating_sub(intake.rejected),
            rejected: intake.rejected,
            max_prefixes: self.config.max_prefixes,
            advertised: self.out.as_ref().map_or(0, AdjRibOut::count),
            stale: intake.stale.keys().copied().collect(),
            last_error: self.record.last_error.clone(),
            router_id: session.map(|it| it.router_id),
            hold_time: session.map(|it| it.negotiated.hold_time),
            families: session.map_or_else(BTreeSet::new, |it| it.negotiated.families.clone()),
            end_of_rib: intake.end_of_rib.clone(),
            graceful_restart: session.is_some_and(|it| it.negotiated.graceful()),
            last_notification: self.record.last_notification.clone(),
            counts: self.record.counts(self.connections.iter()),
        }
    }
}
