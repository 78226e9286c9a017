//! Gives the pure speaker of `routemesh-bgp` sockets and a clock. It carries bytes and decides
//! nothing.

mod connection;
mod sockets;

use crate::desired::Path;
use crate::netns::Netns;
use connection::Io;
use ipnet::IpNet;
use routemesh_bgp::{ConnId, Event, Input, Output, PeerId, PeerStatus, Speaker, SpeakerConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

/// What the sockets tell may wait up to this many.
const EVENTS: usize = 256;

/// What the speaker knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Paths in use by prefix, prefixes of our own excepted.
    pub loc_rib: BTreeMap<IpNet, Vec<Path>>,
    /// Every peer, by name.
    pub peers: BTreeMap<String, PeerStatus>,
    /// Peer, prefix and reason of what was refused.
    pub rejected: Vec<(String, IpNet, String)>,
    /// Every peer has told all it knows, or was waited for long enough.
    pub settled: bool,
    /// Own addresses on which no peer can connect, and why.
    pub deaf: BTreeMap<IpAddr, String>,
}

enum Command {
    Configure(Box<SpeakerConfig>),
    Originate(BTreeSet<IpNet>),
    Installed(BTreeSet<IpNet>),
    Dead(PeerId),
    Alive(PeerId),
    View(oneshot::Sender<View>),
    Shutdown(String, oneshot::Sender<()>),
}

/// A handle on the running speaker. The speaker ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Bgp {
    commands: mpsc::Sender<Command>,
    changes: watch::Receiver<u64>,
    epoch: Instant,
}

impl Bgp {
    /// Starts a speaker. `restarting`: the kernel still forwards by what an earlier
    /// run had learnt, so that peers are asked to be patient (RFC 4724). What begins here is known
    /// before the first peer could be told that it has heard all.
    pub fn start(
        overlay: Netns,
        config: SpeakerConfig,
        originated: BTreeSet<IpNet>,
        restarting: bool,
    ) -> Self {
        let (commands, inbox) = mpsc::channel(64);
        let (changed, changes) = watch::channel(0);
        let (io, events) = mpsc::channel(EVENTS);
        let epoch = Instant::now();
        let mut speaker = Speaker::new(config.clone(), restarting, Duration::ZERO);
        speaker.originate(originated, Duration::ZERO);
        let driver = Driver {
            speaker,
            config,
            overlay,
            epoch,
            io,
            connections: BTreeMap::new(),
            next: 0,
            listeners: BTreeMap::new(),
            attempts: BTreeMap::new(),
            deaf: BTreeMap::new(),
        };
        tokio::spawn(driver.run(inbox, events, changed));
        Self {
            commands,
            changes,
            epoch,
        }
    }

    /// Replaces the configuration; what did not change is not disturbed.
    pub async fn configure(&self, config: SpeakerConfig) {
        self.send(Command::Configure(Box::new(config))).await;
    }

    /// Replaces the set of prefixes that are announced from here.
    pub async fn originate(&self, prefixes: BTreeSet<IpNet>) {
        self.send(Command::Originate(prefixes)).await;
    }

    /// Replaces the set of learnt prefixes that the kernel forwards, which may be announced.
    pub async fn installed(&self, prefixes: BTreeSet<IpNet>) {
        self.send(Command::Installed(prefixes)).await;
    }

    /// The way to this peer is known to be dead.
    pub async fn dead(&self, peer: &str) {
        self.send(Command::Dead(PeerId::from(peer))).await;
    }

    /// The way to this peer is there again: no need to wait before the next attempt.
    pub async fn alive(&self, peer: &str) {
        self.send(Command::Alive(PeerId::from(peer))).await;
    }

    /// What the speaker knows now.
    pub async fn view(&self) -> View {
        let (reply, view) = oneshot::channel();
        self.send(Command::View(reply)).await;
        view.await.unwrap_or_default()
    }

    /// Changes whenever the view may have.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Time since the speaker's start, as in [`PeerStatus::since`].
    pub fn age(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Takes leave of all peers, for good.
    pub async fn shutdown(&self, reason: &str) {
        let (reply, done) = oneshot::channel();
        self.send(Command::Shutdown(reason.to_owned(), reply)).await;
        let _ = done.await;
    }

    async fn send(&self, command: Command) {
        // The driver ends only after the last handle.
        let _ = self.commands.send(command).await;
    }
}

struct Driver {
    speaker: Speaker,
    config: SpeakerConfig,
    overlay: Netns,
    epoch: Instant,
    io: mpsc::Sender<Io>,
    connections: BTreeMap<ConnId, mpsc::Sender<Vec<u8>>>,
    next: u64,
    listeners: BTreeMap<IpAddr, AbortHandle>,
    attempts: BTreeMap<PeerId, AbortHandle>,
    /// Addresses without a listener, and why.
    deaf: BTreeMap<IpAddr, String>,
}

impl Driver {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut events: mpsc::Receiver<Io>,
        changed: watch::Sender<u64>,
    ) {
        self.listen();
        let mut before = self.summary();
        // A listener whose port was taken is tried again.
        let mut relisten = tokio::time::interval(Duration::from_secs(5));
        loop {
            // What has arrived counts before a timer that it may put off; but not for ever.
            for event in std::iter::from_fn(|| events.try_recv().ok()).take(EVENTS) {
                self.event(event);
            }
            let now = self.now();
            if self.speaker.next_deadline().is_some_and(|due| due <= now) {
                self.speaker.timeout(now);
            }
            let news = self.perform();
            let after = self.summary();
            if news || after != before {
                changed.send_modify(|n| *n += 1);
            }
            before = after;
            let deadline = self.speaker.next_deadline();
            let wake = deadline.map_or(self.epoch + Duration::from_secs(86_400 * 365), |d| {
                self.epoch + d
            });
            tokio::select! {
                Some(event) = events.recv() => self.event(event),
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                () = sleep_until(wake) => {}
                _ = relisten.tick() => self.listen(),
            }
        }
        for listener in self.listeners.values() {
            listener.abort();
        }
    }

    /// What a view depends on, beside the peers' states, of which there are events.
    fn summary(&self) -> (u64, bool) {
        let speaker = &self.speaker;
        (speaker.loc_rib_version(), speaker.settled(self.now()))
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn command(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Configure(config) => {
                if self.config != *config {
                    self.config = *config;
                    let peers = &self.config.peers;
                    self.attempts.retain(|peer, _| peers.contains_key(peer));
                    self.speaker.configure(self.config.clone(), now);
                    self.listen();
                }
            }
            Command::Originate(prefixes) => self.speaker.originate(prefixes, now),
            Command::Installed(prefixes) => self.speaker.installed(prefixes, now),
            Command::Dead(peer) => self.speaker.input(Input::Dead { peer }, now),
            Command::Alive(peer) => self.speaker.input(Input::Alive { peer }, now),
            // Whoever asked may have gone.
            Command::View(reply) => {
                let deaf = self.deaf.clone();
                drop(reply.send(View {
                    deaf,
                    ..view(&self.speaker, now)
                }));
            }
            Command::Shutdown(reason, reply) => {
                self.speaker.shutdown(&reason, now);
                self.perform();
                let _ = reply.send(());
            }
        }
    }

    fn event(&mut self, event: Io) {
        let now = self.now();
        match event {
            Io::Accepted { stream, remote } => {
                let found = self.config.peers.iter().find(|(_, p)| p.remote == remote);
                let Some(peer) = found.map(|(id, _)| id.clone()) else {
                    debug!(%remote, "connection from nobody we know");
                    return;
                };
                let conn = self.serve(stream);
                let active = false;
                self.speaker
                    .input(Input::Connected { peer, conn, active }, now);
            }
            Io::Connected {
                peer,
                stream: Ok(stream),
            } => {
                let conn = self.serve(stream);
                let active = true;
                self.speaker
                    .input(Input::Connected { peer, conn, active }, now);
            }
            Io::Connected {
                peer,
                stream: Err(error),
            } => {
                debug!(%peer, %error, "cannot connect");
                self.speaker.input(Input::ConnectFailed { peer }, now);
            }
            Io::Received { conn, bytes } => {
                self.speaker.input(Input::Received { conn, bytes }, now);
            }
            Io::Writable { conn } => self.speaker.input(Input::Writable { conn }, now),
            Io::Closed { conn } => {
                self.connections.remove(&conn);
                self.speaker.input(Input::Closed { conn }, now);
            }
        }
    }

    fn serve(&mut self, stream: tokio::net::TcpStream) -> ConnId {
        let conn = ConnId(self.next);
        self.next += 1;
        let outbox = connection::serve(conn, stream, self.io.clone());
        self.connections.insert(conn, outbox);
        conn
    }

    /// Does what the speaker wants done. True if there was news about a peer.
    fn perform(&mut self) -> bool {
        let mut news = false;
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Connect { peer } => self.connect(peer),
                Output::Send { conn, bytes } => {
                    let Some(outbox) = self.connections.get(&conn) else {
                        continue;
                    };
                    // The speaker sends no more than was asked for: a full outbox is a stuck peer.
                    if outbox.try_send(bytes).is_err() {
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
                }
            }
        }
        news
    }

    fn connect(&mut self, peer: PeerId) {
        let Some(config) = self.config.peers.get(&peer) else {
            return;
        };
        let name = peer.clone();
        let connecting = sockets::connect(self.overlay.clone(), config.local, config.remote);
        let io = self.io.clone();
        let attempt = tokio::spawn(async move {
            let stream = connecting.await;
            // The driver may have ended.
            let _ = io.send(Io::Connected { peer, stream }).await;
        });
        // A new attempt replaces the old one, whose failure would count against it.
        if let Some(old) = self.attempts.insert(name, attempt.abort_handle()) {
            old.abort();
        }
    }

    /// One listener per local address in use.
    fn listen(&mut self) {
        let wanted: BTreeSet<IpAddr> = self.config.peers.values().map(|p| p.local).collect();
        self.deaf.retain(|local, _| wanted.contains(local));
        self.listeners.retain(|local, listener| {
            let keep = wanted.contains(local);
            if !keep {
                listener.abort();
            }
            keep
        });
        for local in wanted {
            if self.listeners.contains_key(&local) {
                continue;
            }
            match sockets::listen(&self.overlay, local) {
                Ok(listener) => {
                    self.deaf.remove(&local);
                    let task = tokio::spawn(connection::accept(listener, self.io.clone()));
                    self.listeners.insert(local, task.abort_handle());
                }
                Err(error) => {
                    let reason = format!(
                        "cannot listen on port 179: {error}; peers cannot connect from their side \
                         (is another BGP daemon bound to all addresses?)"
                    );
                    self.deaf.insert(local, reason);
                }
            }
        }
    }
}

fn log(event: &Event) {
    match event {
        Event::Up {
            peer, router_id, ..
        } => info!("BGP {peer} established with {router_id}"),
        Event::Down { peer, ending, kept } if kept.is_empty() => warn!("BGP {peer} down: {ending}"),
        Event::Down { peer, ending, .. } => {
            warn!("BGP {peer} down: {ending}; its paths are kept until it is back");
        }
        Event::Failed { peer, ending } => debug!("BGP {peer} did not come up: {ending}"),
        Event::StaleRemoved { peer, .. } => {
            warn!("BGP {peer} has not come back: the paths kept for it are gone");
        }
        Event::EndOfRib { peer, family } => {
            debug!("BGP {peer} has told all its {family:?} prefixes")
        }
        Event::Fault { peer, fault } => warn!(
            "BGP {peer} sent a malformed attribute {}: {}, {:?}",
            fault.attribute, fault.reason, fault.action
        ),
    }
}

fn view(speaker: &Speaker, now: Duration) -> View {
    let paths = |best: &[routemesh_bgp::Best]| {
        let path = |best: &routemesh_bgp::Best| Path {
            peer: best.peer.to_string(),
            next_hop: best.next_hop.address,
        };
        best.iter().map(path).collect()
    };
    View {
        loc_rib: speaker
            .loc_rib()
            .map(|(prefix, best)| (prefix, paths(best)))
            .collect(),
        peers: speaker
            .peers()
            .map(|status| (status.peer.to_string(), status))
            .collect(),
        rejected: speaker
            .rejected()
            .map(|(peer, prefix, reason)| (peer.to_string(), prefix, reason.to_string()))
            .collect(),
        settled: speaker.settled(now),
        deaf: BTreeMap::new(),
    }
}
