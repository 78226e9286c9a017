//! The loop that carries bytes and the time to the speaker, and does what the speaker wants done.

use super::connection::{self, Io, Outbox, Sink};
use super::dial::Dialler;
use super::feed::Feed;
use super::health::Health;
use super::listen::Listeners;
use super::setup::{self, Ends, Setup};
use super::statics::Statics;
use super::{Command, EVENTS, View, advertise, options, view};
use crate::dataplane::News;
use crate::liveness::Verdict;
use crate::netns::Netns;
use crate::state::ours::tunnel;
use routemesh_bgp::{ConnId, Event, Input, Output, PeerId, Speaker};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

/// Outputs between two looks at what has arrived.
const OUTPUTS: usize = 256;
/// With a timer so late we were busy or stopped, and much may wait in sockets:
const LATE: Duration = Duration::from_millis(500);
/// whoever reads them gets so long before the timer counts.
const CATCH_UP: Duration = Duration::from_millis(50);
/// Nothing is waited for for longer; a deadline may be as late as time goes.
const YEAR: Duration = Duration::from_secs(86_400 * 365);

pub(super) struct Driver {
    speaker: Speaker,
    /// What was asked for, and the guests.
    setup: Setup,
    restarting: bool,
    overlay: Netns,
    epoch: Instant,
    sink: Sink,
    connections: BTreeMap<ConnId, Connection>,
    next: u64,
    listeners: Listeners,
    dialler: Dialler,
    feed: Feed,
    health: Health,
    statics: Statics,
}

struct Connection {
    peer: PeerId,
    outbox: Outbox,
}

/// What came of doing what the speaker wants.
struct Performed {
    /// There was news about a peer.
    news: bool,
    /// There is more to do.
    more: bool,
}

impl Driver {
    pub(super) fn new(
        overlay: Netns,
        setup: Setup,
        inherited: Option<BTreeSet<PeerId>>,
        speaker: Speaker,
        epoch: Instant,
        io: mpsc::Sender<Io>,
        news: mpsc::Sender<News>,
    ) -> Self {
        let restarting = inherited.is_some();
        // Until charon says that they are not, those are up.
        let ways = inherited.into_iter().flatten();
        Self {
            statics: Statics::inherited(ways),
            listeners: Listeners::new(overlay.clone(), io.clone()),
            dialler: Dialler::new(overlay.clone(), io.clone()),
            health: Health::new(overlay.clone(), epoch),
            overlay,
            speaker,
            setup,
            restarting,
            epoch,
            sink: Sink::new(io),
            connections: BTreeMap::new(),
            next: 0,
            feed: Feed::new(news),
        }
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut events: mpsc::Receiver<Io>,
        changed: watch::Sender<u64>,
    ) {
        self.listeners.listen(&self.setup);
        self.watch();
        if self.restarting {
            self.health.doubt(&self.setup, &self.statics, self.now());
        }
        self.tell_statics();
        let mut before = self.settled();
        let mut news = false;
        // A listener whose port was taken is tried again, and advertisements are repeated.
        let mut relisten = tokio::time::interval(Duration::from_secs(5));
        loop {
            let due = self.speaker.next_deadline();
            if due.is_some_and(|due| self.now().saturating_sub(due) > LATE) {
                sleep(CATCH_UP).await;
            }
            // What has arrived counts before a timer that it may put off; but not for ever. Who
            // writes routes does not wait for the end of it.
            for event in std::iter::from_fn(|| events.try_recv().ok()).take(EVENTS) {
                self.event(event);
                while let Ok(command) = commands.try_recv() {
                    self.command(command);
                }
                if self.health.has_news() {
                    news |= self.judge();
                }
                news |= self.perform().news;
            }
            news |= self.judge();
            let now = self.now();
            if self.speaker.next_deadline().is_some_and(|due| due <= now) {
                self.speaker.timeout(now);
            }
            let performed = self.perform();
            let (news, more) = (std::mem::take(&mut news) | performed.news, performed.more);
            if news {
                self.dismiss();
            }
            let after = self.settled();
            if news || after != before {
                changed.send_modify(|n| *n += 1);
            }
            before = after;
            let deadlines = [
                self.speaker.next_deadline(),
                self.feed.deadline(),
                self.health.liveness.deadline(),
            ];
            let deadline = deadlines.into_iter().flatten().min();
            let latest = now + YEAR;
            let deadline = deadline.map_or(latest, |due| due.min(latest));
            tokio::select! {
                Some(event) = events.recv() => self.event(event),
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                () = self.health.changed() => {}
                () = std::future::ready(()), if more => {}
                () = sleep_until(self.epoch + deadline) => {}
                _ = relisten.tick() => {
                    self.dismiss();
                    self.listeners.listen(&self.setup);
                    self.advertise();
                }
            }
        }
    }

    /// Who comes from a range is not known before: after a restart, all such are waited for.
    fn settled(&self) -> bool {
        let now = self.now();
        let awaited = self.restarting && !self.setup.ranges.is_empty();
        self.speaker.settled(now) && (!awaited || now >= self.setup.speaker.deferral_time)
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn command(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Configure(setup) => self.configure(*setup),
            Command::Originate(prefixes) => self.speaker.originate(prefixes, now),
            Command::Installed(prefixes) => self.speaker.installed(prefixes, now),
            Command::Answer(prefixes) => {
                self.feed.answered();
                self.speaker.installed(prefixes, now);
            }
            Command::Review(number) => self.feed.review(number, &mut self.speaker),
            Command::Sign(way, sign) if self.setup.reaches.contains_key(&way) => {
                if self.statics.sign(&way, sign) {
                    let verdict = self.health.liveness.sign(&way, sign, now);
                    self.pronounce(verdict.map(|verdict| (way, verdict)));
                }
                self.tell_statics();
            }
            Command::Sign(peer, sign) => {
                let verdict = self.health.liveness.sign(&peer, sign, now);
                self.pronounce(verdict.map(|verdict| (peer, verdict)));
            }
            // Whoever asked may have gone.
            Command::Known(target, reply) => drop(reply.send(self.speaker.known(target))),
            Command::View(reply) => {
                let deaf = self.listeners.deaf().clone();
                drop(reply.send(View {
                    deaf,
                    settled: self.settled(),
                    bfd: self.health.reports(),
                    standings: self.health.standings(now),
                    unasked: self.health.problems(),
                    ..view(&self.speaker, now)
                }));
            }
            Command::Shutdown(reason, reply) => {
                self.speaker.shutdown(&reason, now);
                while self.perform().more {}
                self.health.stop();
                let _ = reply.send(());
            }
        }
    }

    fn event(&mut self, event: Io) {
        let now = self.now();
        match event {
            Io::Accepted { stream, ends } => self.accepted(stream, ends),
            Io::Connected {
                peer,
                stream: Ok(stream),
            } if !self.health.liveness.bars(&peer) => self.connected(peer, stream, true),
            Io::Connected { peer, stream } => {
                let error = stream.err();
                debug!(%peer, ?error, "cannot connect");
                self.speaker.input(Input::ConnectFailed { peer }, now);
            }
            Io::Received { conn, bytes, .. } => {
                self.speaker.input(Input::Received { conn, bytes }, now);
            }
            Io::Writable { conn } => self.speaker.input(Input::Writable { conn }, now),
            Io::Closed { conn } => {
                self.connections.remove(&conn);
                self.speaker.input(Input::Closed { conn }, now);
            }
        }
    }

    /// Takes a new configuration. Who came from a range stays as long as a range admits it.
    fn configure(&mut self, mut setup: Setup) {
        if !setup.ranges.is_empty() {
            setup.take_over(&self.setup, &setup::alive(self.speaker.peers()));
        }
        if setup == self.setup {
            return;
        }
        let before = std::mem::replace(&mut self.setup, setup);
        let outdated = self.end_outdated(&before);
        self.dialler.keep(&self.setup);
        self.tell_peers();
        let now = self.now();
        for peer in outdated {
            self.speaker.input(Input::Alive { peer }, now);
        }
        self.listeners.listen(&self.setup);
        self.watch();
        self.tell_statics();
    }

    /// Tells the speaker what is reached without a session.
    fn tell_statics(&mut self) {
        let liveness = &self.health.liveness;
        let bars = |way: &PeerId| liveness.bars(way);
        let changes = self.statics.changes(&self.setup.reaches, bars);
        let now = self.now();
        for (way, reach) in changes {
            match reach.prefixes.is_empty() {
                // First that it is lost, then what follows from it.
                true => {
                    warn!(tunnel = tunnel(&way.0), "{way} is down");
                    self.feed.lost(way.clone());
                }
                false => info!(tunnel = tunnel(&way.0), "{way} is up"),
            }
            self.speaker.reach(&way, reach, now);
        }
    }

    fn tell_peers(&mut self) {
        let now = self.now();
        self.speaker.configure(self.setup.speaker.clone(), now);
    }

    /// Ends the connections that were made by other rules than those now in force, and says whose
    /// they were: it is worth trying again at once.
    fn end_outdated(&mut self, before: &Setup) -> Vec<PeerId> {
        let now = self.now();
        let outdated = |peer: &&PeerId| before.transport(peer) != self.setup.transport(peer);
        let peers = before.speaker.peers.keys();
        let peers: Vec<PeerId> = peers.filter(outdated).cloned().collect();
        for peer in &peers {
            if self.dialler.abort(peer) {
                let peer = peer.clone();
                self.speaker.input(Input::ConnectFailed { peer }, now);
            }
            let connections = self.connections.iter();
            let of_peer = connections.filter(|(_, connection)| connection.peer == *peer);
            for conn in of_peer.map(|(conn, _)| *conn).collect::<Vec<_>>() {
                self.connections.remove(&conn);
                self.speaker.input(Input::Closed { conn }, now);
            }
        }
        peers
    }

    /// Forgets the guests that are gone.
    fn dismiss(&mut self) {
        if self.setup.guests.is_empty() {
            return;
        }
        let before = self.setup.guests.len();
        self.setup.dismiss(&setup::alive(self.speaker.peers()));
        if self.setup.guests.len() != before {
            self.tell_peers();
        }
    }

    /// Makes us known where routers are found by their advertisements.
    fn advertise(&self) {
        for (local, scope) in self.setup.unnumbered() {
            if let Err(error) = advertise::advertise(&self.overlay, local, scope) {
                debug!(%local, scope, "cannot send a router advertisement: {error}");
            }
        }
    }

    fn accepted(&mut self, stream: TcpStream, ends: Ends) {
        let before = self.setup.guests.len();
        let peer = match self.setup.admit(ends) {
            Ok(peer) => peer,
            Err(stranger) => {
                debug!(remote = %ends.remote, "connection refused: {stranger}");
                return;
            }
        };
        if self.health.liveness.bars(&peer) {
            debug!(%peer, "connection refused: the way to it is dead, or was lately");
            return;
        }
        let minimum_ttl = self.setup.transport(&peer).minimum_ttl();
        // The listener asks for the least of all its peers. What came before this one's own minimum was
        // set came as its SYN did.
        let set = options::set_minimum_ttl(&stream, ends.local, minimum_ttl);
        match set.and_then(|()| options::ttl_of_syn(&stream)) {
            Ok(ttl) if ttl.unwrap_or(0) >= minimum_ttl => {}
            Ok(_) => {
                info!("BGP {peer}: its connection is refused, it comes from too far away");
                return;
            }
            Err(error) => {
                warn!("BGP {peer}: its connection is refused, its TTL cannot be checked: {error}");
                return;
            }
        }
        if self.setup.guests.len() != before {
            self.tell_peers();
        }
        self.connected(peer, stream, false);
    }

    fn connected(&mut self, peer: PeerId, stream: TcpStream, active: bool) {
        let now = self.now();
        let conn = ConnId(self.next);
        self.next += 1;
        let outbox = connection::serve(conn, stream, self.sink.clone());
        let connection = Connection {
            peer: peer.clone(),
            outbox,
        };
        self.connections.insert(conn, connection);
        self.speaker
            .input(Input::Connected { peer, conn, active }, now);
    }

    /// Does some of what the speaker wants done, and tells the dataplane.
    fn perform(&mut self) -> Performed {
        let performed = self.put_out();
        if performed.news {
            self.feed.peers(&self.speaker);
        }
        // First that a peer is lost, then what follows from it.
        if !performed.more {
            let (settled, now) = (self.settled(), self.now());
            self.feed.hand_out(&mut self.speaker, settled, now);
        }
        performed
    }

    /// BFD and echo requests with whom they are wanted.
    fn watch(&mut self) {
        let now = self.epoch.elapsed();
        self.health.configure(&self.setup, now);
    }

    /// Acts on what BFD, echo requests and the time say of the ways to peers; whether they said anything.
    fn judge(&mut self) -> bool {
        let now = self.now();
        let (verdicts, news) = self.health.verdicts(&self.speaker, &self.statics, now);
        let any = !verdicts.is_empty();
        self.pronounce(verdicts);
        if any {
            self.tell_statics();
        }
        news
    }

    fn pronounce(&mut self, verdicts: impl IntoIterator<Item = (PeerId, Verdict)>) {
        let now = self.now();
        for (peer, verdict) in verdicts {
            match verdict {
                Verdict::Dead => {
                    if let Some(standing) = self.health.liveness.standing(&peer, now) {
                        warn!(
                            tunnel = tunnel(&peer.0),
                            "{peer} is dead: {}", standing.reason
                        );
                    }
                    self.dialler.abort(&peer);
                    self.speaker.input(Input::Dead { peer }, now);
                }
                Verdict::Alive => self.speaker.input(Input::Alive { peer }, now),
            }
        }
    }

    fn has_nothing_of(&self, peer: &PeerId) -> bool {
        let status = self.speaker.peer(peer);
        status.is_none_or(|it| it.received == 0)
    }

    fn put_out(&mut self) -> Performed {
        let mut news = false;
        for _ in 0..OUTPUTS {
            let Some(output) = self.speaker.poll_output() else {
                return Performed { news, more: false };
            };
            match output {
                Output::Connect { peer } if self.health.liveness.bars(&peer) => {
                    let now = self.now();
                    self.speaker.input(Input::ConnectFailed { peer }, now);
                }
                Output::Connect { peer } => {
                    if let Some(config) = self.setup.speaker.peers.get(&peer) {
                        let transport = self.setup.transport(&peer);
                        self.dialler.connect(peer, config, transport);
                    }
                }
                Output::Send { conn, bytes } => {
                    let Some(connection) = self.connections.get(&conn) else {
                        continue;
                    };
                    // The speaker sends no more than was asked for: a full outbox is a stuck peer.
                    if connection.outbox.send(bytes).is_err() {
                        self.connections.remove(&conn);
                        let now = self.now();
                        self.speaker.input(Input::Closed { conn }, now);
                    }
                }
                // Without its outbox the connection sends what it has and closes.
                Output::Close { conn } => drop(self.connections.remove(&conn)),
                Output::Event(event) => {
                    news = true;
                    log(&event);
                    match event {
                        Event::Down { peer, kept, ending } if kept.is_empty() => {
                            self.feed.lost(peer.clone());
                            if ending.is_silence() {
                                let now = self.now();
                                let verdict = self.health.liveness.silent(&peer, now);
                                self.pronounce(verdict.map(|verdict| (peer, verdict)));
                            }
                        }
                        Event::Down { peer, ending, .. } if ending.is_restart() => {
                            let now = self.now();
                            self.health.liveness.restarts(&peer, now);
                        }
                        // As where the link of a peer dies that was waited for.
                        Event::StaleRemoved { peer, .. } if self.has_nothing_of(&peer) => {
                            self.feed.lost(peer);
                        }
                        _ => {}
                    }
                }
            }
        }
        Performed { news, more: true }
    }
}

fn log(event: &Event) {
    match event {
        Event::Up {
            peer, router_id, ..
        } => info!(
            tunnel = tunnel(&peer.0),
            "BGP {peer} established with {router_id}"
        ),
        Event::Down { peer, ending, kept } if kept.is_empty() => {
            warn!(tunnel = tunnel(&peer.0), "BGP {peer} down: {ending}")
        }
        Event::Down { peer, ending, .. } => {
            warn!(
                tunnel = tunnel(&peer.0),
                "BGP {peer} down: {ending}; its paths are kept until it is back"
            );
        }
        Event::Failed { peer, ending } => debug!(
            tunnel = tunnel(&peer.0),
            "BGP {peer} did not come up: {ending}"
        ),
        Event::StaleRemoved { peer, .. } => {
            warn!(
                tunnel = tunnel(&peer.0),
                "BGP {peer} is waited for no more: the stale paths of it are gone"
            );
        }
        Event::PathsIgnored { peer, prefix } => {
            warn!(
                tunnel = tunnel(&peer.0),
                "BGP {peer} has more than 64 paths to {prefix}: the others are ignored"
            );
        }
        Event::NotAnnounced {
            peer,
            prefix,
            prefixes,
        } => warn!(
            tunnel = tunnel(&peer.0),
            "BGP {peer} cannot be told of {prefix} and {} more: their attributes fill a message",
            prefixes.saturating_sub(1)
        ),
        Event::ManyPrefixes {
            peer,
            received,
            limit,
        } => {
            warn!(
                tunnel = tunnel(&peer.0),
                "BGP {peer} announces {received} prefixes; above {limit} its session is ended"
            )
        }
        Event::EndOfRib { peer, family } => {
            debug!(
                tunnel = tunnel(&peer.0),
                "BGP {peer} has told all its {family:?} prefixes"
            )
        }
        Event::LongLived { peer, .. } => {
            warn!(
                tunnel = tunnel(&peer.0),
                "BGP {peer} did not come back in time: its paths are a last resort"
            )
        }
        Event::Fault {
            peer,
            fault,
            unsaid,
        } => warn!(
            tunnel = tunnel(&peer.0),
            "BGP {peer} sent a malformed attribute {}: {}, {:?} ({unsaid} more before)",
            fault.attribute,
            fault.reason,
            fault.action
        ),
    }
}
