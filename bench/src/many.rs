//! Many peers, each on an interface of its own, two of which announce prefixes: what a daemon costs that
//! has nothing to do.
//!
//! The interfaces stand in for tunnels, and like those ask for no neighbour.

use crate::error::{Error, Result};
use crate::far::{FarEnd, Timers};
use crate::lab::{Neighbours, Space};
use crate::prefix::Family;
use crate::process::pause;
use crate::report::Figure;
use crate::subject::{Running, Subject};
use crate::watch::{Count, Watch};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

/// For how long an idle daemon is looked at: whatever it does once a minute is in it.
const IDLE: Duration = Duration::from_secs(60);
/// After everything is up, before that.
const SETTLE: Duration = Duration::from_secs(15);
/// As the mesh has it unless told otherwise.
const TIMERS: Timers = Timers {
    interval: 300,
    multiplier: 3,
};

/// Who has many peers.
#[derive(Clone, Copy, Debug)]
pub struct Many {
    /// Who.
    pub subject: Subject,
    /// How many.
    pub peers: u32,
    /// With BFD.
    pub bfd: bool,
    /// How many IPv6 prefixes two of them announce.
    pub count: u32,
    /// How long each step may take.
    pub deadline: Duration,
}

impl Many {
    /// What it measures, in order.
    pub fn figures(&self) -> Vec<Figure> {
        let Self { peers, bfd, .. } = *self;
        let pass = (bfd && self.subject == Subject::Routemesh).then_some(Figure::Pass(peers));
        let all = [
            Figure::ManyProcessor(peers, bfd),
            Figure::ManyMemory(peers, bfd),
        ];
        all.into_iter().chain(pass).collect()
    }

    /// Runs it. Figures are told as they come.
    pub fn run(&self, mut tell: impl FnMut(Figure, f64)) -> Result<()> {
        let _neighbours = Neighbours::many()?;
        let [middle, far] = [Space::new("middle")?, Space::new("far")?];
        let dir = tempfile::tempdir().map_err(Error::io("a directory"))?;
        self.wire(&middle, &far)?;
        let peers: Vec<IpAddr> = (0..self.peers).map(|n| address(n, 1)).collect();
        let (family, bfd) = (Family::Ipv6, self.timers());
        let started = self.subject.start(&middle, &peers, family, bfd, dir.path());
        started?.through(|running| self.steps(&middle, &far, running, dir.path(), &mut tell))
    }

    fn steps(
        &self,
        middle: &Space,
        far: &Space,
        running: &Running,
        dir: &Path,
        tell: &mut impl FnMut(Figure, f64),
    ) -> Result<()> {
        let mut watch = Watch::start(middle, Family::Ipv6, self.count)?;
        let sessions: Vec<_> = (0..self.peers)
            .map(|n| (address(n, 1), address(n, 0)))
            .collect();
        let far = FarEnd::start(far, 1, &sessions, (2, self.count), self.timers(), dir)?;
        far.up(self.deadline)?;
        let both = Count {
            single: 0,
            multiple: self.count,
        };
        watch.until(both, "all ECMP routes", self.deadline)?;
        pause(SETTLE)?;
        let (before, said) = (running.busy()?, running.said().len());
        pause(IDLE)?;
        let busy = running.busy()?.saturating_sub(before);
        let share = busy.as_secs_f64() / IDLE.as_secs_f64();
        let Self { peers, bfd, .. } = *self;
        tell(Figure::ManyProcessor(peers, bfd), share);
        tell(Figure::ManyMemory(peers, bfd), running.resident()? as f64);
        if self.figures().contains(&Figure::Pass(peers)) {
            let all = running.said();
            let longest = longest_pass(all.get(said..).unwrap_or_default());
            let longest = longest.ok_or_else(|| Error::Wrong("no word of a pass".into()))?;
            tell(Figure::Pass(peers), longest.as_secs_f64());
        }
        Ok(())
    }

    fn timers(&self) -> Option<Timers> {
        self.bfd.then_some(TIMERS)
    }

    /// An interface each. Without ARP whatever is sent goes to the sender's own hardware address, so that
    /// both ends have the same.
    fn wire(&self, middle: &Space, far: &Space) -> Result<()> {
        for n in 0..self.peers {
            let [high, low] = u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
            let hardware = format!("02:00:00:00:{high:02x}:{low:02x}");
            middle.ip(&format!(
                "link add l{n} address {hardware} type veth peer name l{n} netns {} address {hardware}",
                far.name()
            ))?;
            for (space, host) in [(middle, 0), (far, 1)] {
                space.ip(&format!("addr add {}/127 dev l{n} nodad", address(n, host)))?;
                space.ip(&format!("link set l{n} arp off up"))?;
            }
        }
        Ok(())
    }
}

/// On link `link`: 0 is the daemon's, 1 the peer's.
fn address(link: u32, host: u16) -> IpAddr {
    let link = u16::try_from(link).unwrap_or(u16::MAX);
    Ipv6Addr::new(0xfd30, 0, 0, link, 0, 0, 0, host).into()
}

/// What the agent says of its passes: "a pass of 1234 us".
fn longest_pass(said: &str) -> Option<Duration> {
    let passes = said.split("a pass of ").skip(1);
    let micros = passes.filter_map(|rest| rest.split(' ').next()?.parse().ok());
    micros.max().map(Duration::from_micros)
}
