//! When to connect: the states Idle, Connect and Active of RFC 4271 section 8, and their timers.
//!
//! Of the optional session attributes of section 8.1.1 there is no DelayOpen: it is to let the peer's
//! OPEN come first, and what collides with our own is settled all the same (section 6.8).

use crate::config::Time;
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

/// How the next connection comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// No connections until then, or ever.
    Idle { until: Option<Time> },
    /// We are connecting since then.
    Connecting { since: Time },
    /// We connect then; the peer may connect before.
    Waiting { until: Time },
    /// No attempt is needed, because a connection of ours, or one past OpenSent, is there; or none
    /// is to be made, because the peer is the one to connect.
    Rest,
}

/// The plan, and how often it failed.
#[derive(Debug)]
pub(crate) struct Retry {
    pub(crate) plan: Plan,
    failures: u32,
    /// We never connect (PassiveTcpEstablishment of RFC 4271 section 8.1.1).
    pub(crate) passive: bool,
    /// What makes our jitter differ from that of others.
    seed: u64,
}

impl Retry {
    /// Connects at once, unless it is `passive`. `seed`: bytes that are not the same at both ends.
    pub(crate) fn new(passive: bool, seed: impl Iterator<Item = u8>, now: Time) -> Self {
        let mut retry = Self {
            plan: Plan::Rest,
            failures: 0,
            passive,
            seed: hash(seed),
        };
        retry.wait(now);
        retry
    }

    /// Connects at once, whatever went wrong before.
    pub(crate) fn again(&mut self, now: Time) {
        self.failures = 0;
        self.wait(now);
    }

    /// Connects then, if ever.
    fn wait(&mut self, until: Time) {
        self.plan = match self.passive {
            true => Plan::Rest,
            false => Plan::Waiting { until },
        };
    }

    /// The time has come: whether to connect. From now on the peer may.
    pub(crate) fn due(&mut self, now: Time) -> bool {
        self.plan = match self.passive {
            true => Plan::Rest,
            false => Plan::Connecting { since: now },
        };
        !self.passive
    }

    /// Forgets the failures: things went well.
    pub(crate) fn forgive(&mut self) {
        self.failures = 0;
    }

    /// Waits a little; the peer may connect meanwhile.
    pub(crate) fn pause(&mut self, now: Time) {
        let until = now + self.delay(FIRST_RETRY, CONNECT_RETRY);
        self.wait(until);
    }

    /// Refuses connections for a while, after an error.
    pub(crate) fn idle(&mut self, now: Time) {
        let until = now + self.delay(FIRST_IDLE, LONGEST_IDLE);
        self.plan = Plan::Idle { until: Some(until) };
    }

    /// Refuses connections for long, after too many prefixes.
    pub(crate) fn idle_after_max_prefixes(&mut self, now: Time) {
        let until = now + MAX_PREFIXES_IDLE;
        self.plan = Plan::Idle { until: Some(until) };
    }

    /// Refuses connections for good.
    pub(crate) fn stop(&mut self) {
        self.plan = Plan::Idle { until: None };
    }

    /// The link works: whether to connect now. An attempt that began before may be waiting for
    /// TCP's next SYN, but one that has just begun is left alone.
    pub(crate) fn alive(&mut self, now: Time) -> bool {
        let due = match self.plan {
            Plan::Waiting { .. } => true,
            Plan::Connecting { since } => now >= since + FIRST_RETRY,
            Plan::Idle { .. } | Plan::Rest => false,
        };
        if due {
            self.failures = 0;
        }
        due
    }

    /// When to connect.
    pub(crate) fn deadline(&self) -> Option<Time> {
        match self.plan {
            Plan::Idle { until } => until,
            Plan::Connecting { since } => Some(since + CONNECT_RETRY),
            Plan::Waiting { until } => Some(until),
            Plan::Rest => None,
        }
    }

    /// The pause after one more failure: doubled each time, less up to a quarter (RFC 4271 section
    /// 10) so that the two ends, or many peers, do not try in step. How much less follows from the
    /// seed and the count: nothing here depends on chance.
    fn delay(&mut self, first: Duration, longest: Duration) -> Duration {
        let pause = first
            .saturating_mul(1 << self.failures.min(16))
            .min(longest);
        self.failures = self.failures.saturating_add(1);
        let seed = self.seed.to_be_bytes();
        let hash = hash(seed.into_iter().chain(self.failures.to_be_bytes()));
        let share = 768 + (hash >> 32) as u32 % 257;
        pause * share / 1024
    }
}

/// FNV-1a.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(seed: &str) -> Vec<Duration> {
        let mut retry = Retry::new(false, seed.bytes(), Duration::ZERO);
        let pause = |_| {
            retry.pause(Duration::ZERO);
            retry.deadline().unwrap()
        };
        (0..40).map(pause).collect()
    }

    #[test]
    fn pauses_grow_to_a_limit_and_differ_between_peers_but_not_between_runs() {
        let pauses_of_a = pauses("V2-1");
        for (failures, pause) in pauses_of_a.iter().enumerate() {
            let full = FIRST_RETRY * (1 << failures.min(10));
            let full = full.min(CONNECT_RETRY);
            assert!(
                *pause >= full * 3 / 4 && *pause <= full,
                "{failures}: {pause:?}"
            );
        }
        assert_eq!(pauses_of_a, pauses("V2-1"));
        let others = pauses("V2-2");
        let same = pauses_of_a.iter().zip(&others).filter(|(a, b)| a == b);
        assert!(same.count() < 5);
    }
}
