//! The loop that carries bytes and the time to the speaker, and does what the speaker wants done.

use super::connection::{self, Io};
use super::dial::Dialler;
use super::listen::Listeners;
use super::{Command, EVENTS, View, view};
use crate::netns::Netns;
use ipnet::IpNet;
use routemesh_bgp::{ConnId, Event, Input, Output, Speaker, SpeakerConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

pub(super) struct Driver {
    speaker: Speaker,
    config: SpeakerConfig,
    epoch: Instant,
    io: mpsc::Sender<Io>,
    connections: BTreeMap<ConnId, mpsc::Sender<Vec<u8>>>,
    next: u64,
    listeners: Listeners,
    dialler: Dialler,
    /// What the kernel forwards, as the speaker was told.
    installed: BTreeSet<IpNet>,
}

impl Driver {
    pub(super) fn new(
        overlay: Netns,
        config: SpeakerConfig,
        speaker: Speaker,
        epoch: Instant,
        io: mpsc::Sender<Io>,
    ) -> Self {
        Self {
            listeners: Listeners::new(overlay.clone(), io.clone()),
            dialler: Dialler::new(overlay, io.clone()),
            speaker,
            config,
            epoch,
            io,
            connections: BTreeMap::new(),
            next: 0,
            installed: BTreeSet::new(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut events: mpsc::Receiver<Io>,
        changed: watch::Sender<u64>,
    ) {
        self.listeners.listen(&self.config);
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
                _ = relisten.tick() => self.listeners.listen(&self.config),
            }
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
                    self.dialler.keep(&self.config);
                    self.speaker.configure(self.config.clone(), now);
                    self.listeners.listen(&self.config);
                }
            }
            Command::Originate(prefixes) => self.speaker.originate(prefixes, now),
            Command::Installed(prefixes) => {
                let before = std::mem::replace(&mut self.installed, prefixes);
                let now_too = self.installed.difference(&before).map(|it| (*it, true));
                let no_more = before.difference(&self.installed).map(|it| (*it, false));
                self.speaker.installed(now_too.chain(no_more), now);
            }
            Command::Dead(peer) => self.speaker.input(Input::Dead { peer }, now),
            Command::Alive(peer) => self.speaker.input(Input::Alive { peer }, now),
            // Whoever asked may have gone.
            Command::View(reply) => {
                let deaf = self.listeners.deaf().clone();
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
                Output::Connect { peer } => {
                    if let Some(config) = self.config.peers.get(&peer) {
                        self.dialler.connect(peer, config);
                    }
                }
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
        Event::ManyPrefixes {
            peer,
            received,
            limit,
        } => {
            warn!("BGP {peer} announces {received} prefixes; above {limit} its session is ended")
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
