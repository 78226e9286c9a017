//! Gives the pure speaker of `routemesh-bgp` sockets and a clock. It carries bytes and decides
//! nothing.

mod advertise;
mod connection;
mod dial;
mod driver;
mod feed;
mod health;
mod listen;
mod options;
mod pings;
pub mod setup;
mod sockets;
mod statics;

use crate::bfd::Reports;
use crate::dataplane::News;
use crate::liveness::{Sign, Standing};
use crate::netns::Netns;
use driver::Driver;
use ipnet::IpNet;
use routemesh_bgp::{Known, PeerId, PeerStatus, Speaker};
use setup::Setup;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// What the sockets tell may wait up to this many.
const EVENTS: usize = 256;

/// How many refused prefixes a view names: there may be a million, and it is made often.
const REJECTED: usize = 1000;

/// What the speaker knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Every peer, by name.
    pub peers: BTreeMap<String, PeerStatus>,
    /// Peer, prefix and reason of what was refused, the first so many: the peers have the counts.
    pub rejected: Vec<(String, IpNet, String)>,
    /// Every peer has told all it knows, or was waited for long enough.
    pub settled: bool,
    /// Own addresses on which no peer can connect, and why.
    pub deaf: BTreeMap<IpAddr, String>,
    /// The BFD sessions there are.
    pub bfd: Arc<Reports>,
    /// The ways to peers, as far as anything was seen of them.
    pub standings: BTreeMap<PeerId, Standing>,
    /// Whom no echo request can be sent to, and why.
    pub unasked: BTreeMap<PeerId, String>,
}

enum Command {
    Configure(Box<Setup>),
    Originate(BTreeSet<IpNet>),
    Installed(Vec<(IpNet, bool)>),
    Answer(Vec<(IpNet, bool)>),
    Review(u64),
    Sign(PeerId, Sign),
    View(oneshot::Sender<View>),
    Known(IpAddr, oneshot::Sender<Vec<Known>>),
    Shutdown(String, oneshot::Sender<()>),
}

/// A handle on the running speaker. The speaker ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Bgp {
    commands: mpsc::Sender<Command>,
    changes: watch::Receiver<u64>,
    epoch: Instant,
}

/// For whoever asks only: it does not keep the speaker running.
#[derive(Clone, Debug)]
pub struct Inquiry(mpsc::WeakSender<Command>);

impl Inquiry {
    /// What is known of an address; nothing where the speaker has ended.
    pub async fn known(&self, target: IpAddr) -> Vec<Known> {
        let (reply, known) = oneshot::channel();
        if let Some(commands) = self.0.upgrade() {
            let _ = commands.send(Command::Known(target, reply)).await;
        }
        known.await.unwrap_or_default()
    }
}

impl Bgp {
    /// For whoever asks.
    pub fn inquiry(&self) -> Inquiry {
        Inquiry(self.commands.downgrade())
    }

    /// Starts a speaker. `inherited`: the kernel still forwards by what an earlier run had learnt, so that
    /// peers are asked to be patient (RFC 4724), and by these ways. What begins here is known
    /// before the first peer could be told that it has heard all.
    pub fn start(
        overlay: Netns,
        setup: Setup,
        originated: BTreeSet<IpNet>,
        inherited: Option<BTreeSet<PeerId>>,
    ) -> (Self, mpsc::Receiver<News>) {
        let (commands, inbox) = mpsc::channel(64);
        let (news, told) = mpsc::channel(feed::QUEUE);
        let (changed, changes) = watch::channel(0);
        let (io, events) = mpsc::channel(EVENTS);
        let epoch = Instant::now();
        let restarting = inherited.is_some();
        let mut speaker = Speaker::new(setup.speaker.clone(), restarting, seed(), Duration::ZERO);
        speaker.originate(originated, Duration::ZERO);
        let driver = Driver::new(overlay, setup, inherited, speaker, epoch, io, news);
        tokio::spawn(driver.run(inbox, events, changed));
        let handle = Self {
            commands,
            changes,
            epoch,
        };
        (handle, told)
    }

    /// Replaces the configuration; what did not change is not disturbed.
    pub async fn configure(&self, setup: Setup) {
        self.send(Command::Configure(Box::new(setup))).await;
    }

    /// Replaces the set of prefixes that are announced from here.
    pub async fn originate(&self, prefixes: BTreeSet<IpNet>) {
        self.send(Command::Originate(prefixes)).await;
    }

    /// Says which prefixes the kernel forwards, or does not any more. From the first time on, only
    /// prefixes that it does are announced.
    pub async fn installed(&self, prefixes: Vec<(IpNet, bool)>) {
        self.send(Command::Installed(prefixes)).await;
    }

    /// The same for the oldest batch of changes that was not answered yet; others follow only
    /// when some are.
    pub async fn answer(&self, prefixes: Vec<(IpNet, bool)>) {
        self.send(Command::Answer(prefixes)).await;
    }

    /// Asks for everything in use to be told as changes once more. The [`News::Level`] that has this
    /// number says that it was.
    pub async fn review(&self, number: u64) {
        self.send(Command::Review(number)).await;
    }

    /// Something was seen of the way to this peer.
    pub async fn sign(&self, peer: &str, sign: Sign) {
        self.send(Command::Sign(PeerId::from(peer), sign)).await;
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

/// A random number.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn view(speaker: &Speaker, now: Duration) -> View {
    View {
        peers: speaker
            .peers()
            .map(|status| (status.peer.to_string(), status))
            .collect(),
        rejected: speaker
            .rejected()
            .take(REJECTED)
            .map(|(peer, prefix, reason)| (peer.to_string(), prefix, reason.to_string()))
            .collect(),
        settled: speaker.settled(now),
        ..View::default()
    }
}
