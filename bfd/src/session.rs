//! One end of a session in asynchronous mode (RFC 5880 section 6.8).

use crate::packet::{Diagnostic, Packet, State};
use std::num::NonZeroU32;
use std::time::Duration;

/// While a session is not up, packets are at least so far apart (section 6.8.3).
const SLOW: u32 = 1_000_000;
/// The least of an interval between two packets, in 1/256 (section 6.8.7).
const EARLIEST: u64 = 192;

/// Time since any fixed moment.
type Time = Duration;

/// How often to send, and how much may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timers {
    /// We would like to send this often, and can receive this often. At most 71 minutes count.
    pub interval: Duration,
    /// The other end takes us for dead when so many packets in a row are lost; 0 counts as 1.
    pub multiplier: u8,
}

/// What became of a session, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its state before.
    pub from: State,
    /// Its state now.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// The other end said that its BFD goes on while its control plane restarts (RFC 5882 section 4.3).
    pub independent: bool,
}

/// Why a session's state is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing was heard for the detection time.
    Silence,
    /// The other end says so.
    Neighbor {
        /// Its state.
        state: State,
        /// Its diagnostic.
        diagnostic: Diagnostic,
        /// It knows of our session. One that does not has just begun.
        knows_us: bool,
    },
}

/// What both ends together make of their timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// We send so often, jitter aside; zero: not at all.
    pub interval: Duration,
    /// After so much silence the other end is taken for dead; zero while it is not known.
    pub detection_time: Duration,
}

/// What the other end said last. Times are in microseconds.
#[derive(Clone, Copy, Debug)]
struct Remote {
    discriminator: u32,
    state: State,
    min_tx: u32,
    min_rx: u32,
    multiplier: u8,
    independent: bool,
    demand: bool,
}

/// Of somebody who has said nothing (section 6.8.1).
const UNKNOWN: Remote = Remote {
    discriminator: 0,
    state: State::Down,
    min_tx: 0,
    min_rx: 1,
    multiplier: 0,
    independent: false,
    demand: false,
};

/// One end of a session: give it what is received and the time, send what it wants sent.
///
/// After every call of [`receive`](Self::receive), [`timeout`](Self::timeout),
/// [`configure`](Self::configure) and [`shut`](Self::shut), and at [`deadline`](Self::deadline): call
/// `timeout`, and send what [`transmit`](Self::transmit) yields until it yields nothing.
#[derive(Clone, Debug)]
pub struct Session {
    discriminator: NonZeroU32,
    state: State,
    diagnostic: Diagnostic,
    /// Ours as wanted, in microseconds.
    interval: u32,
    multiplier: u8,
    /// What is in force until the other end has acknowledged the wanted interval (section 6.8.3).
    sending: u32,
    receiving: u32,
    remote: Remote,
    heard: Option<Time>,
    /// A Poll Sequence is under way (section 6.5).
    polling: bool,
    /// An answer to a poll is owed.
    owes_final: bool,
    /// What the last packet said is not true any more.
    news: bool,
    sent: Option<Time>,
    /// Of the interval, until the next packet is due; in 1/256.
    jitter: u64,
}

impl Session {
    /// A session that is down. `discriminator` is ours, unique among ours.
    pub fn new(timers: Timers, discriminator: NonZeroU32) -> Self {
        let interval = micros(timers.interval);
        Self {
            discriminator,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            interval,
            multiplier: timers.multiplier.max(1),
            sending: interval.max(SLOW),
            receiving: interval,
            remote: UNKNOWN,
            heard: None,
            polling: false,
            owes_final: false,
            news: true,
            sent: None,
            jitter: EARLIEST,
        }
    }

    /// Our name for it.
    pub fn discriminator(&self) -> NonZeroU32 {
        self.discriminator
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it last went down.
    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// The other end's state, as it last said.
    pub fn remote_state(&self) -> State {
        self.remote.state
    }

    /// What both ends' timers come to.
    pub fn negotiated(&self) -> Negotiated {
        Negotiated {
            interval: self.transmit_interval().unwrap_or_default(),
            detection_time: self.detection_time(),
        }
    }

    /// Takes other timers. A session that is up does not go down by it.
    pub fn configure(&mut self, timers: Timers) {
        let (interval, multiplier) = (micros(timers.interval), timers.multiplier.max(1));
        if (interval, multiplier) == (self.interval, self.multiplier) {
            return;
        }
        (self.interval, self.multiplier) = (interval, multiplier);
        self.news = true;
        if self.state == State::Up {
            // What makes the other end's detection time or ours too short waits for its word
            // (section 6.8.3).
            self.sending = self.sending.min(interval);
            self.receiving = self.receiving.max(interval);
            self.polling = true;
        } else {
            self.settle();
        }
    }

    /// An operator, or our own end, takes it down: from now on nothing is heard.
    pub fn shut(&mut self) {
        self.enter(State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN);
    }

    /// Takes a packet that the driver found to be of this session (section 6.8.6). Whatever is to be
    /// discarded changes nothing.
    pub fn receive(&mut self, packet: &Packet, now: Time) -> Option<Change> {
        let named = packet.your_discriminator != 0;
        if named && packet.your_discriminator != self.discriminator.get() {
            return None;
        }
        // Held down by an operator: section 6.8.6 sets the variables first, and nobody reads them.
        if self.state == State::AdminDown {
            return None;
        }
        self.remote = Remote {
            discriminator: packet.my_discriminator.get(),
            state: packet.state,
            min_tx: packet.desired_min_tx,
            min_rx: packet.required_min_rx,
            multiplier: packet.multiplier,
            independent: packet.control_plane_independent,
            demand: packet.demand,
        };
        self.heard = Some(now);
        if packet.is_final && self.polling {
            self.polling = false;
            self.settle();
        }
        self.owes_final |= packet.poll;
        let to = next(self.state, packet.state);
        let cause = Cause::Neighbor {
            state: packet.state,
            diagnostic: packet.diagnostic,
            knows_us: named,
        };
        let diagnostic = match to {
            State::Down => Diagnostic::NEIGHBOR_DOWN,
            _ => self.diagnostic,
        };
        self.change(to, diagnostic, cause)
    }

    /// Sees whether the other end was silent for too long (section 6.8.4).
    pub fn timeout(&mut self, now: Time) -> Option<Change> {
        if self.silent_at()? > now {
            return None;
        }
        self.heard = None;
        let cause = Cause::Silence;
        let change = match self.state {
            State::Init | State::Up => self.change(State::Down, Diagnostic::TIME_EXPIRED, cause),
            State::AdminDown | State::Down => None,
        };
        // Its discriminator has to be forgotten (section 6.8.1), and what else it said is as old; its timers
        // are still worth reporting.
        self.remote = Remote {
            min_tx: self.remote.min_tx,
            multiplier: self.remote.multiplier,
            ..UNKNOWN
        };
        change
    }

    /// A packet to be sent now, if one is. An answer to a poll waits for nothing, and news neither
    /// (section 6.8.7). Any other may go from three quarters of the interval on, together with what is
    /// due elsewhere. `chance`: a random number, by which the next is due between then and the
    /// whole interval.
    pub fn transmit(&mut self, now: Time, chance: u64) -> Option<Packet> {
        if std::mem::take(&mut self.owes_final) {
            let answer = Packet {
                is_final: true,
                poll: false,
                ..self.packet()
            };
            return Some(answer);
        }
        let may = self.transmit_at(EARLIEST).is_some_and(|at| at <= now);
        if !self.news && !may {
            return None;
        }
        self.news = false;
        self.sent = Some(now);
        // No more than 90 percent where no packet may be lost (section 6.8.7).
        let span = if self.multiplier == 1 { 38 } else { 64 };
        self.jitter = EARLIEST + chance % span;
        Some(self.packet())
    }

    /// When to call [`Session::timeout`] and [`Session::transmit`] even if nothing happens.
    pub fn deadline(&self) -> Option<Time> {
        if self.news || self.owes_final {
            return Some(Time::ZERO);
        }
        [self.transmit_at(self.jitter), self.silent_at()]
            .into_iter()
            .flatten()
            .min()
    }

    fn change(&mut self, to: State, diagnostic: Diagnostic, cause: Cause) -> Option<Change> {
        let (from, independent) = (self.state, self.remote.independent);
        if from == to {
            return None;
        }
        self.enter(to, diagnostic);
        Some(Change {
            from,
            to,
            cause,
            independent,
        })
    }

    fn enter(&mut self, to: State, diagnostic: Diagnostic) {
        (self.state, self.diagnostic) = (to, diagnostic);
        self.news = true;
        // Entering Up speeds us up, which a Poll Sequence tells. Slowing down again needs none, against
        // the letter of section 6.8.3: who is not up takes the timers from any packet.
        self.polling = to == State::Up;
        self.settle();
    }

    /// What is wanted is in force.
    fn settle(&mut self) {
        self.sending = self.desired_min_tx();
        self.receiving = self.interval;
    }

    fn desired_min_tx(&self) -> u32 {
        match self.state {
            State::Up => self.interval,
            _ => self.interval.max(SLOW),
        }
    }

    fn packet(&self) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.polling,
            is_final: false,
            // Our BFD ends with the agent, which is the control plane.
            control_plane_independent: false,
            demand: false,
            multiplier: self.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: self.desired_min_tx(),
            required_min_rx: self.interval,
            required_min_echo_rx: 0,
        }
    }

    /// `None`: the other end wants nothing unasked (sections 6.8.7 and 6.6).
    fn transmit_interval(&self) -> Option<Duration> {
        let asks_for_nothing = self.remote.min_rx == 0;
        let both_up = self.state == State::Up && self.remote.state == State::Up;
        if asks_for_nothing || self.remote.demand && both_up && !self.polling {
            return None;
        }
        let interval = self.sending.max(self.remote.min_rx);
        Some(Duration::from_micros(interval.into()))
    }

    /// When so much of the interval is over, in 1/256.
    fn transmit_at(&self, part: u64) -> Option<Time> {
        let interval = self.transmit_interval()?;
        let micros = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
        let until = Duration::from_micros(micros.saturating_mul(part) / 256);
        Some(self.sent? + until)
    }

    fn detection_time(&self) -> Duration {
        let slowest = self.receiving.max(self.remote.min_tx);
        let micros = u64::from(slowest) * u64::from(self.remote.multiplier);
        Duration::from_micros(micros)
    }

    fn silent_at(&self) -> Option<Time> {
        Some(self.heard? + self.detection_time())
    }
}

/// The state machine (section 6.2) as far as what the other end says moves it.
fn next(ours: State, theirs: State) -> State {
    match (ours, theirs) {
        (State::AdminDown, _) => State::AdminDown,
        (_, State::AdminDown) => State::Down,
        (State::Down, State::Down) => State::Init,
        (State::Down, State::Init) => State::Up,
        (State::Down, State::Up) => State::Down,
        (State::Init, State::Down) => State::Init,
        (State::Init | State::Up, State::Init | State::Up) => State::Up,
        (State::Up, State::Down) => State::Down,
    }
}

fn micros(interval: Duration) -> u32 {
    u32::try_from(interval.as_micros())
        .unwrap_or(u32::MAX)
        .max(1)
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
