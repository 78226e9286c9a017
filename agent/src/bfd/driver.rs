//! The thread: what came in, what is due, what there is to report, and then a little rest.

use super::sessions::{Outgoing, Sessions};
use super::sockets::{Arrival, Family, Sockets};
use super::{Reports, Target};
use crate::netns::Netns;
use crate::state::ours::tunnel;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use routemesh_bfd::State;
use routemesh_bgp::PeerId;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tracing::{info, warn};

/// Packets between two looks at the clock.
const PACKETS: usize = 4096;
/// How often to try sockets again.
const LOOK: Duration = Duration::from_secs(1);

pub(super) enum Command {
    Configure(BTreeMap<PeerId, Target>),
    Stop,
}

pub(super) struct Driver {
    overlay: Netns,
    epoch: Instant,
    sessions: Sessions,
    commands: Receiver<Command>,
    woken: UnixStream,
    reported: watch::Sender<Arc<Reports>>,
    sockets: Vec<Sockets>,
    /// Up to when they were read.
    read: Duration,
    /// For which sockets are wanted.
    families: BTreeSet<Family>,
    problem: Option<String>,
    /// `problem` is another.
    news: bool,
    looked: Option<Duration>,
    choice: u64,
}

impl Driver {
    pub(super) fn new(
        overlay: Netns,
        epoch: Instant,
        seed: u64,
        commands: Receiver<Command>,
        woken: UnixStream,
        reported: watch::Sender<Arc<Reports>>,
    ) -> Self {
        Self {
            overlay,
            epoch,
            sessions: Sessions::new(seed),
            commands,
            woken,
            reported,
            sockets: Vec::new(),
            read: Duration::ZERO,
            families: BTreeSet::new(),
            problem: None,
            news: false,
            looked: None,
            choice: seed,
        }
    }

    pub(super) fn run(mut self) {
        let mut out = Vec::new();
        while self.obey() {
            self.look();
            // What has come counts before the clock, and the clock no further than the sockets were read:
            // a thread that was kept waiting is nobody's death.
            self.receive();
            self.sessions.due(self.read, &mut out);
            for (peer, outgoing) in out.drain(..) {
                let problem = send(&self.sockets, &outgoing);
                self.sessions.sent(&peer, problem);
            }
            self.report();
            self.rest();
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Does what it was told; false when that is to end.
    fn obey(&mut self) -> bool {
        let mut bytes = [0; 64];
        while matches!((&self.woken).read(&mut bytes), Ok(1..)) {}
        loop {
            let (goodbyes, goes_on) = match self.commands.try_recv() {
                Ok(Command::Configure(targets)) => {
                    let families = targets.values().map(|it| Family::of(it.remote));
                    self.families = families.collect();
                    self.looked = None;
                    (self.sessions.configure(targets, self.now()), true)
                }
                Err(TryRecvError::Empty) => return true,
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => {
                    (self.sessions.stop(self.now()), false)
                }
            };
            for outgoing in goodbyes {
                let _ = send(&self.sockets, &outgoing);
            }
            if !goes_on {
                return false;
            }
        }
    }

    /// Opens the sockets that are wanted.
    fn look(&mut self) {
        let now = self.now();
        if self.looked.is_some_and(|looked| now < looked + LOOK) {
            return;
        }
        self.looked = Some(now);
        self.sockets
            .retain(|it| self.families.contains(&it.family()));
        let mut problem = None;
        for family in self.families.iter().copied() {
            if self.sockets.iter().any(|it| it.family() == family) {
                continue;
            }
            match Sockets::open(&self.overlay, family, self.choice) {
                Ok(sockets) => self.sockets.push(sockets),
                Err(error) => problem = Some(error.to_string()),
            }
        }
        if let Some(problem) = problem
            .as_ref()
            .filter(|it| self.problem.as_ref() != Some(*it))
        {
            warn!("BFD: {problem}");
        }
        self.news |= self.problem != problem;
        self.problem = problem;
    }

    fn receive(&mut self) {
        let now = self.now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = wall.unwrap_or_default();
        let mut arrivals = Vec::new();
        let mut read = now;
        for sockets in &mut self.sockets {
            let received: Vec<_> = std::iter::from_fn(|| sockets.receive())
                .take(PACKETS)
                .collect();
            let all = received.len() < PACKETS;
            let at = |it: Arrival| (moment(it.stamp, wall, self.read, now), it);
            arrivals.extend(received.into_iter().flatten().map(at));
            if !all && let Some((last, _)) = arrivals.last() {
                read = read.min(*last);
            }
        }
        // As they came, whatever the socket.
        arrivals.sort_by_key(|(at, _)| *at);
        for (at, Arrival { packet, origin, .. }) in arrivals {
            self.sessions.receive(&packet, origin, at);
        }
        self.read = read;
    }

    fn report(&mut self) {
        let news = self.sessions.take_news();
        if !std::mem::take(&mut self.news) && !news {
            return;
        }
        let before = self.reported.borrow().clone();
        let now = self.sessions.reports(self.problem.as_deref());
        for (peer, report) in &now {
            let was = before.get(peer).map_or(State::Down, |before| before.state);
            match (was, report.state) {
                (State::Up, State::Up) => {}
                (_, State::Up) => info!(tunnel = tunnel(&peer.0), "BFD {peer} is up"),
                (State::Up, state) => {
                    warn!(
                        tunnel = tunnel(&peer.0),
                        "BFD {peer} is {state}: {}", report.diagnostic
                    );
                }
                _ => {}
            }
        }
        self.reported.send_replace(Arc::new(now));
    }

    /// Until something comes that may change something, or something is due.
    fn rest(&self) {
        let now = self.now();
        let missing = self.sockets.len() < self.families.len();
        let looks = self.looked.filter(|_| missing);
        let looks = looks.map(|looked| looked + LOOK);
        let due = self.sessions.deadline().into_iter().chain(looks).min();
        let left = due.map(|due| TimeSpec::from(due.saturating_sub(now)));
        let waits = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![waits(self.woken.as_fd())];
        let expectant = self.sessions.expectant();
        for [news, routine] in self.sockets.iter().map(Sockets::readable) {
            fds.push(waits(news));
            fds.extend(expectant.then(|| waits(routine)));
        }
        // Whatever it says, the next thing to do is to look.
        let _ = ppoll(&mut fds, left, None);
    }
}

/// When a packet came that the kernel got at `stamp`, both being read from the wall clock, which
/// somebody may set: not before the sockets were last read, and not later than now.
fn moment(stamp: Option<Duration>, wall: Duration, read: Duration, now: Duration) -> Duration {
    let age = stamp.map_or(Duration::ZERO, |stamp| wall.saturating_sub(stamp));
    now.saturating_sub(age).max(read)
}

/// Sends, or says why not.
fn send(sockets: &[Sockets], outgoing: &Outgoing) -> Option<String> {
    let family = Family::of(outgoing.remote);
    let sockets = sockets.iter().find(|it| it.family() == family)?;
    let error = sockets.send(outgoing).err()?;
    Some(format!("cannot send: {}", error.desc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_came_when_the_kernel_got_it() {
        let s = Duration::from_secs;
        let (read, now) = (s(100), s(103));
        let table = [
            (None, s(103)),
            (Some(s(5000)), s(103)),
            (Some(s(4999)), s(102)),
            // The wall clock was set forwards, or backwards.
            (Some(s(1000)), s(100)),
            (Some(s(9000)), s(103)),
        ];
        for (stamp, expected) in table {
            assert_eq!(moment(stamp, s(5000), read, now), expected, "{stamp:?}");
        }
    }
}
