//! Gives the sessions of `routemesh-bfd` sockets and a clock, on a thread of its own: whatever else
//! the agent is busy with, packets go out in time. It decides nothing; what a session that is down
//! means is [`liveness`](crate::liveness)'s to say.

mod driver;
mod sessions;
mod sockets;

use crate::netns::Netns;
use driver::{Command, Driver};
use nix::errno::Errno;
use nix::libc;
use routemesh_bfd::{Change, Diagnostic, Negotiated, State, Timers};
use routemesh_bgp::PeerId;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::debug;

/// With whom to have a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Our address.
    pub local: IpAddr,
    /// The other end's.
    pub remote: IpAddr,
    /// The interface that both are on.
    pub link: String,
    /// Its index; 0 while it is not there. Whoever asks the kernel by name for an interface that is not
    /// there waits for `modprobe`, which on a busy host takes longer than the far end has patience.
    pub index: u32,
    /// How often to send, and how much may be lost.
    pub timers: Timers,
}

/// A session as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its state.
    pub state: State,
    /// The other end's, as it last said.
    pub remote_state: State,
    /// Since when it has its state, as the time since the epoch that [`Bfd::start`] was given.
    pub since: Duration,
    /// What both ends' timers come to.
    pub negotiated: Negotiated,
    /// Why it last went down.
    pub diagnostic: Diagnostic,
    /// How often it went down from up, and how that was the last time.
    pub downs: u64,
    /// See `downs`.
    pub last_down: Option<Change>,
    /// Why no packet can be sent or received.
    pub problem: Option<String>,
}

/// All sessions, by peer.
pub type Reports = BTreeMap<PeerId, Report>;

/// A handle on the thread. Dropped, it takes all sessions down in good order.
#[derive(Debug)]
pub struct Bfd {
    commands: mpsc::Sender<Command>,
    wake: UnixStream,
    reports: watch::Receiver<Arc<Reports>>,
    thread: Option<JoinHandle<()>>,
}

impl Bfd {
    /// Starts the thread, without any session yet. `seed`: a random number.
    pub fn start(overlay: Netns, epoch: Instant, seed: u64) -> io::Result<Self> {
        let (commands, inbox) = mpsc::channel();
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let (reported, reports) = watch::channel(Arc::default());
        let driver = Driver::new(overlay, epoch, seed, inbox, woken, reported);
        let thread = std::thread::Builder::new().name("bfd".to_owned());
        let run = move || {
            if let Err(errno) = hurry() {
                debug!("BFD waits its turn on a busy host: no real-time scheduling: {errno}");
            }
            driver.run();
        };
        let thread = Some(thread.spawn(run)?);
        Ok(Self {
            commands,
            wake,
            reports,
            thread,
        })
    }

    /// Makes these all the sessions there are. What did not change is not disturbed; who is not among
    /// them any more is told that this is no failure.
    pub fn configure(&self, targets: BTreeMap<PeerId, Target>) {
        self.tell(Command::Configure(targets));
    }

    /// Changes whenever a session does.
    pub fn reports(&self) -> watch::Receiver<Arc<Reports>> {
        self.reports.clone()
    }

    fn tell(&self, command: Command) {
        // It ends only after us, and a full pipe wakes it as well.
        let _ = self.commands.send(command);
        let _ = (&self.wake).write(&[0]);
    }
}

impl Drop for Bfd {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Has the calling thread go before all that computes: it does little, and whoever waits for its
/// packets takes a gateway that is merely busy for dead.
fn hurry() -> nix::Result<()> {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: it reads one value of ours, and 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const lowest) };
    Errno::result(result).map(drop)
}
