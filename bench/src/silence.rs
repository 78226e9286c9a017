//! One peer falls silent: its processes are stopped where they stand, so that no connection is closed and
//! its host goes on taking packets. Only BFD can tell.

use crate::bfd::{FarEnd, Timers};
use crate::clock;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::load::Load;
use crate::prefix::Family;
use crate::probe::Probe;
use crate::process::pause;
use crate::report::Figure;
use crate::subject::{Running, Subject};
use crate::watch::{Count, Watch};
use std::time::Duration;

/// For how long an idle daemon is looked at.
const IDLE: Duration = Duration::from_secs(5);

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
        ]);
        let silent = [Figure::Silent(interval)];
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
        let mut running = started?;
        let far = |peer| FarEnd::start(&lab, peer, self.family, self.timers, dir.path());
        let far = [far(0)?, far(1)?];
        let done = self.steps(&lab, &far, &running, &mut tell);
        running.check()?;
        done.map_err(|error| match error {
            Error::Interrupted => error,
            error => Error::Wrong(format!("{error}\n{}", running.last_words())),
        })
    }

    fn steps(
        &self,
        lab: &Lab,
        far: &[FarEnd; 2],
        running: &Running,
        tell: &mut impl FnMut(Figure, f64),
    ) -> Result<()> {
        let Self {
            family,
            count,
            deadline,
            timers: Timers { interval, .. },
            ..
        } = *self;
        let mut watch = Watch::start(&lab.middle, family, count)?;
        let load = |peer| Load::start(lab, peer, family, count);
        let mut peers = [load(0)?, load(1)?];
        for peer in &mut peers {
            peer.when("established", deadline)?;
        }
        for end in far {
            end.up(deadline)?;
        }
        for peer in &mut peers {
            peer.tell("announce")?;
        }
        for peer in &mut peers {
            peer.when("announcing", deadline)?;
            peer.when("announced", deadline)?;
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
        }
        let probe = Probe::start(lab, family, count)?;
        let [_, lost] = &peers;
        let [_, silent] = far;
        silent.freeze()?;
        let since = clock::now();
        lost.freeze()?;
        let left = Count {
            single,
            multiple: 0,
        };
        let last = probe.until_quiet(1, &mut watch, left, since, deadline)?;
        tell(
            Figure::Silent(interval),
            last.saturating_sub(since).as_secs_f64(),
        );
        Ok(())
    }
}
