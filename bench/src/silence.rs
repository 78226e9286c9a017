//! One peer falls silent: its daemon is stopped where it stands, so that no connection is closed and its
//! host goes on taking packets. Only BFD can tell. Then it goes on.

use crate::clock;
use crate::error::{Error, Result};
use crate::far::{FarEnd, Timers};
use crate::lab::Lab;
use crate::prefix::Family;
use crate::probe::Probe;
use crate::process::pause;
use crate::report::Figure;
use crate::subject::{Running, Subject};
use crate::watch::{Count, Watch};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::time::Duration;

/// For how long an idle daemon is looked at.
const IDLE: Duration = Duration::from_secs(10);
/// How often a far end that is to speak is asked something.
const NUDGE: Duration = Duration::from_millis(50);

/// Who loses a peer, with what.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// Who.
    pub subject: Subject,
    /// Of what.
    pub family: Family,
    /// Of how many prefixes.
    pub count: u32,
    /// How BFD is told to run at both ends.
    pub timers: Timers,
    /// How long each step may take.
    pub deadline: Duration,
}

impl Silence {
    /// What it measures, in order.
    pub fn figures(&self) -> Vec<Figure> {
        let Timers { interval, .. } = self.timers;
        let idle = (self.count == 1).then_some([
            Figure::IdleProcessor(interval),
            Figure::IdleMemory(interval),
            Figure::IdleAnonymous(interval),
        ]);
        let silent = [Figure::Silent(interval), Figure::Returned(interval)];
        idle.into_iter().flatten().chain(silent).collect()
    }

    /// Runs it. Figures are told as they come.
    pub fn run(&self, mut tell: impl FnMut(Figure, f64)) -> Result<()> {
        let lab = Lab::new()?;
        let dir = tempfile::tempdir().map_err(Error::io("a directory"))?;
        let bfd = Some(self.timers);
        let peers = Lab::peer_addresses(self.family);
        let started = self
            .subject
            .start(&lab.middle, &peers, self.family, bfd, dir.path());
        started?.through(|running| self.steps(&lab, running, dir.path(), &mut tell))
    }

    fn steps(
        &self,
        lab: &Lab,
        running: &Running,
        dir: &Path,
        tell: &mut impl FnMut(Figure, f64),
    ) -> Result<()> {
        let Self {
            family,
            count,
            deadline,
            timers,
            ..
        } = *self;
        let interval = timers.interval;
        let mut watch = Watch::start(&lab.middle, family, count)?;
        let far = |peer: usize, space| {
            let ends = (
                Lab::peer_address(family, peer),
                Lab::daemon_address(family, peer),
            );
            FarEnd::start(space, peer + 1, &[ends], (1, count), Some(timers), dir)
        };
        let [first, second] = &lab.peers;
        let far = [far(0, first)?, far(1, second)?];
        for end in &far {
            end.up(deadline)?;
        }
        let (single, multiple) = (count, count);
        let all = Count {
            single: 0,
            multiple,
        };
        watch.until(all, "all ECMP routes", deadline)?;
        if count == 1 {
            pause(Duration::from_secs(1))?;
            let before = running.busy()?;
            pause(IDLE)?;
            let busy = running.busy()?.saturating_sub(before);
            tell(
                Figure::IdleProcessor(interval),
                busy.as_secs_f64() / IDLE.as_secs_f64(),
            );
            tell(Figure::IdleMemory(interval), running.resident()? as f64);
            tell(Figure::IdleAnonymous(interval), running.anonymous()? as f64);
        }
        let probe = Probe::start(lab, family, count)?;
        let [_, silent] = &far;
        // At any moment between two of its packets.
        let chance = RandomState::new().build_hasher().finish() % u64::from(interval.max(1));
        pause(Duration::from_millis(chance))?;
        silent.freeze()?;
        let since = clock::now();
        let left = Count {
            single,
            multiple: 0,
        };
        let last = probe.until_quiet(1, &mut watch, left, since, deadline)?;
        let gap = last.saturating_sub(since);
        tell(Figure::Silent(interval), gap.as_secs_f64());
        silent.thaw()?;
        let since = clock::now();
        let first = loop {
            match probe.again(1, since, NUDGE) {
                Err(Error::Timeout { .. }) if clock::now() - since < deadline => silent.nudge()?,
                other => break other?,
            }
        };
        let took = first.saturating_sub(since);
        tell(Figure::Returned(interval), took.as_secs_f64());
        Ok(())
    }
}
