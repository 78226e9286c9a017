//! One trial: one subject, one family, so many prefixes, through all steps once.

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::load::Load;
use crate::prefix::Family;
use crate::probe::Probe;
use crate::process::pause;
use crate::raw::Raw;
use crate::report::Figure;
use crate::subject::{Running, Subject};
use crate::watch::{Count, Watch};
use std::time::Duration;

/// How long daemons may settle before their memory is looked at, where there is much of it.
const SETTLE: Duration = Duration::from_secs(2);
const MUCH: u32 = 100_000;

/// What is measured, and how often a figure is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// Who.
    pub subject: Subject,
    /// Of what.
    pub family: Family,
    /// Of how many prefixes.
    pub count: u32,
    /// How long each step may take.
    pub deadline: Duration,
}

impl Trial {
    /// Runs it. Figures are told as they come, so that a step that fails loses only what follows.
    pub fn run(&self, mut tell: impl FnMut(Figure, f64)) -> Result<()> {
        let lab = Lab::new()?;
        let dir = tempfile::tempdir().map_err(Error::io("a directory"))?;
        if self.subject == Subject::Raw {
            return self.raw(&lab, &mut tell);
        }
        let peers = Lab::peer_addresses(self.family);
        let started = self
            .subject
            .start(&lab.middle, &peers, self.family, None, dir.path());
        started?.through(|running| self.steps(&lab, running, &mut tell))
    }

    fn steps(
        &self,
        lab: &Lab,
        running: &Running,
        tell: &mut impl FnMut(Figure, f64),
    ) -> Result<()> {
        let Self {
            family,
            count,
            deadline,
            ..
        } = *self;
        let mut watch = Watch::start(&lab.middle, family, count)?;
        let load = |peer| Load::start(lab, peer, family, count);
        let mut peers = [load(0)?, load(1)?];
        for peer in &mut peers {
            peer.when("established", deadline)?;
        }
        // Whatever a daemon does at the beginning of a session is done.
        pause(Duration::from_secs(1))?;

        let began = self.all(&mut peers, ["announce", "announcing"])?;
        let held = watch.until(self.both(), "all ECMP routes", deadline)?;
        tell(Figure::Install, (held - began).as_secs_f64());
        self.sent(&mut peers, "announced")?;
        watch.verify(self.both())?;

        pause(if count < MUCH { SETTLE / 4 } else { SETTLE })?;
        tell(Figure::Memory, running.resident()? as f64);

        let began = self.all(&mut peers, ["withdraw", "withdrawing"])?;
        let none = Count {
            single: 0,
            multiple: 0,
        };
        let gone = watch.until(none, "no route", deadline)?;
        tell(Figure::Withdraw, (gone - began).as_secs_f64());
        self.sent(&mut peers, "withdrawn")?;
        watch.verify(none)?;

        self.all(&mut peers, ["announce", "announcing"])?;
        watch.until(self.both(), "all ECMP routes again", deadline)?;
        self.sent(&mut peers, "announced")?;
        let probe = Probe::start(lab, family, count)?;
        let [_, lost] = &mut peers;
        lost.tell("abort")?;
        let aborted = lost.when("aborted", deadline)?;
        let last = probe.until_quiet(1, &mut watch, self.one(), aborted, deadline)?;
        tell(Figure::Lose, last.saturating_sub(aborted).as_secs_f64());
        Ok(())
    }

    /// Gives both peers the same command, and says when the first obeyed.
    fn all(&self, peers: &mut [Load; 2], [command, answer]: [&str; 2]) -> Result<Duration> {
        for peer in peers.iter_mut() {
            peer.tell(command)?;
        }
        let [first, second] = peers;
        let (first, second) = (
            first.when(answer, self.deadline)?,
            second.when(answer, self.deadline)?,
        );
        Ok(first.min(second))
    }

    fn sent(&self, peers: &mut [Load; 2], word: &str) -> Result<()> {
        peers
            .iter_mut()
            .try_for_each(|peer| peer.when(word, self.deadline).map(drop))
    }

    fn both(&self) -> Count {
        Count {
            single: 0,
            multiple: self.count,
        }
    }

    fn one(&self) -> Count {
        Count {
            single: self.count,
            multiple: 0,
        }
    }

    /// The same steps without a daemon, and with the same watch upon the kernel.
    fn raw(&self, lab: &Lab, tell: &mut impl FnMut(Figure, f64)) -> Result<()> {
        let mut raw = Raw::start(lab, self.family, self.count)?;
        let mut watch = Watch::start(&lab.middle, self.family, self.count)?;
        // The watch reads while routes are written, as it does beside a daemon.
        let watched = |watch: &mut Watch, wanted, step: &mut (dyn FnMut() -> Result<_> + Send)| {
            std::thread::scope(|scope| {
                let writer = scope.spawn(step);
                watch.until(wanted, "all routes", self.deadline)?;
                match writer.join() {
                    Ok(took) => took,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            })
        };
        let installed = watched(&mut watch, self.both(), &mut || raw.install(lab))?;
        watch.verify(self.both())?;
        tell(Figure::Install, installed.as_secs_f64());
        let none = Count {
            single: 0,
            multiple: 0,
        };
        let withdrawn = watched(&mut watch, none, &mut || raw.withdraw())?;
        tell(Figure::Withdraw, withdrawn.as_secs_f64());
        watched(&mut watch, self.both(), &mut || raw.install(lab))?;
        tell(Figure::Lose, raw.change_group()?.as_secs_f64());
        tell(Figure::Delete, raw.delete_nexthop()?.as_secs_f64());
        watch.catch_up()?;
        watch.verify(self.one())
    }
}
