//! Probes both ways and in both families between two sites, taken together.

use std::fmt;
use std::time::Duration;

use super::Lab;
use super::error::Result;
use super::probe::{Probe, ProbeReport};
use super::report::{measured, say};
use super::topology::{private4, private6};

/// Datagrams a second of each of the four probes.
const RATE: u32 = 100;
/// Flows of each of the four probes.
const FLOWS: usize = 16;

/// Four probes under way.
#[derive(Debug)]
pub struct Traffic(Vec<Probe>);

/// What they measured together.
#[derive(Debug)]
pub struct Total {
    /// Datagrams sent.
    pub sent: usize,
    /// Of these, how many never arrived.
    pub lost: usize,
    /// The longest silence of any flow.
    pub longest_gap: Duration,
    /// When the last of those that got lost was sent, from the start.
    pub last_loss: Duration,
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gap = self.longest_gap.as_secs_f64();
        write!(f, "{} of {} packets lost", self.lost, self.sent)?;
        if self.lost > 0 {
            write!(f, ", longest gap {gap:.2} s")?;
        }
        Ok(())
    }
}

impl Traffic {
    /// Starts it between the routers of two sites.
    pub fn start(lab: &Lab, one: usize, other: usize) -> Result<Self> {
        let mut probes = Vec::new();
        for (from, to) in [(one, other), (other, one)] {
            for address in [private6, private4] {
                probes.push(Probe::start(
                    (lab.router(from), &address(from)),
                    (lab.router(to), &address(to)),
                    FLOWS,
                    RATE,
                )?);
            }
        }
        Ok(Self(probes))
    }

    /// Ends it, says and records what was measured.
    pub fn stop(self, what: &str) -> Result<Total> {
        let total = self.end()?;
        measured(what, &total);
        Ok(total)
    }

    /// Ends it, for somebody who has more to record.
    pub fn end(self) -> Result<Total> {
        let reports: Vec<_> = self.0.into_iter().map(Probe::stop).collect::<Result<_>>()?;
        for report in reports.iter().filter(|report| report.lost > 0) {
            say(format_args!("  {report}"));
        }
        let longest = |pick: fn(&ProbeReport) -> Duration| reports.iter().map(pick).max();
        Ok(Total {
            sent: reports.iter().map(|r| r.sent).sum(),
            lost: reports.iter().map(|r| r.lost).sum(),
            longest_gap: longest(|r| r.longest_gap).unwrap_or_default(),
            last_loss: longest(|r| r.last_loss.unwrap_or_default()).unwrap_or_default(),
        })
    }
}
