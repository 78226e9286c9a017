//! The daemons of Debian that stand on the LAN, and what is the same for all of them.

use std::collections::BTreeSet;
use std::process::Command;

use nix::sys::signal::Signal;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::process::Process;

use crate::lan::{
    DAEMON_LINK_LOCAL, DAEMON4, DAEMON6, GATEWAY_LINK_LOCAL, GATEWAY4, GATEWAY6, own_prefix,
};
use crate::{bird, exabgp, frr, gobgp, openbgpd};

/// Which daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bird,
    Frr,
    Gobgp,
    Openbgpd,
    Exabgp,
}

/// An address family: of the session's transport, or of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The family of a prefix.
    pub fn of(prefix: &str) -> Self {
        match prefix.contains(':') {
            true => Self::V6,
            false => Self::V4,
        }
    }
}

/// How the session between gateway and daemon is to be.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// In one AS.
    pub internal: bool,
    /// What the session runs over.
    pub transport: Family,
    /// The daemon restarts gracefully, and keeps our paths while we do.
    pub graceful: bool,
    /// NOTIFICATIONs are no reason not to (RFC 8538).
    pub notifications: bool,
    /// For two seconds, and then as a last resort (RFC 9494).
    pub long_lived: bool,
    /// How many prefixes of a family the daemon takes from us.
    pub limit: Option<u32>,
    /// Hold time on both sides, in seconds.
    pub hold_time: u32,
    /// The daemon's secret for TCP MD5.
    pub password: Option<&'static str>,
    /// The daemon guards itself by GTSM.
    pub ttl_security: bool,
    /// Several paths per prefix (RFC 7911), of the daemon and of the feeder.
    pub add_path: bool,
    /// The daemon's role (RFC 9234).
    pub role: Option<&'static str>,
    /// How the agent knows the daemon.
    pub known: Known,
    /// More for our `[[routers]]` entry.
    pub router: &'static str,
}

/// A prefix as the daemon announces it, always with [`MARK`], [`LARGE_MARK`] and a MED of 50.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub prefix: String,
    pub more: More,
}

/// What is said of a prefix besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    Nothing,
    /// It is the second path, by [`SECOND_HOP`] (RFC 7911).
    SecondPath,
    /// A link bandwidth of [`BANDWIDTH`] Mbit/s.
    Bandwidth,
    /// GRACEFUL_SHUTDOWN (RFC 8326).
    Shutdown,
}

impl Route {
    /// Nothing more.
    pub fn plain(prefix: &str) -> Self {
        Self::with(prefix, More::Nothing)
    }

    pub fn with(prefix: &str, more: More) -> Self {
        let prefix = prefix.to_owned();
        Self { prefix, more }
    }
}

/// How the agent knows the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// By its address.
    Address,
    /// By its link-local address and the interface.
    LinkLocal,
    /// By the interface alone, and the daemon the gateway likewise.
    Interface,
    /// By the prefix that it connects from.
    Range,
}

impl Setup {
    /// What most capabilities are tried with: eBGP over IPv6.
    pub const PLAIN: Self = Self {
        internal: false,
        transport: Family::V6,
        graceful: false,
        notifications: false,
        long_lived: false,
        limit: None,
        hold_time: 9,
        password: None,
        ttl_security: false,
        add_path: false,
        role: None,
        known: Known::Address,
        router: "",
    };

    /// The daemon's AS.
    pub fn asn(&self) -> u32 {
        if self.internal { 65000 } else { 65001 }
    }

    /// The daemon's address of the session.
    pub fn local(&self) -> &'static str {
        match (self.known, self.transport) {
            (Known::LinkLocal | Known::Interface, _) => DAEMON_LINK_LOCAL,
            (_, Family::V4) => DAEMON4,
            (_, Family::V6) => DAEMON6,
        }
    }

    /// How the daemon calls the gateway's address, where that is link-local.
    pub fn scope(&self) -> &'static str {
        match self.known {
            Known::LinkLocal | Known::Interface => "%lan0",
            Known::Address | Known::Range => "",
        }
    }

    /// The gateway's.
    pub fn remote(&self) -> &'static str {
        match (self.known, self.transport) {
            (Known::LinkLocal | Known::Interface, _) => GATEWAY_LINK_LOCAL,
            (_, Family::V4) => GATEWAY4,
            (_, Family::V6) => GATEWAY6,
        }
    }
}

/// A path that the daemon has from us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub next_hop: String,
    pub as_path: Vec<u32>,
    pub communities: BTreeSet<String>,
    pub large_communities: BTreeSet<String>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
}

type Start = fn(&Host, &Setup, routes: &[Route], again: bool) -> Result<Vec<Process>>;

/// What one does with a daemon, each in its own way.
pub struct Ways {
    /// Program and argument that tell its version.
    pub version: (&'static str, &'static str),
    /// Starts it, announcing the routes. `again`: after it was killed.
    pub start: Start,
    /// The paths to a prefix that it has from us.
    pub heard: fn(&Host, &Setup, prefix: &str) -> Result<Vec<Heard>>,
    /// Announces these, no more and no less.
    pub announce: fn(&Host, &Setup, before: &[Route], now: &[Route]) -> Result<()>,
    /// Makes it ask us for all routes again.
    pub refresh: fn(&Host, &Setup) -> Result<()>,
    /// How many UPDATEs or prefixes have come from us.
    pub updates: fn(&Host, &Setup) -> Result<u64>,
    /// Shuts the session down with a text for us.
    pub shutdown: fn(&Host, &Setup, text: &str) -> Result<()>,
    /// Resets the session, by a NOTIFICATION.
    pub reset: fn(&Host, &Setup) -> Result<()>,
    /// What it says about the session, beside its log.
    pub state: fn(&Host, &Setup) -> Result<String>,
}

/// The community on all that a daemon announces.
pub const MARK: &str = "65001:7";
/// The large community on all that a daemon announces.
pub const LARGE_MARK: &str = "65001:1:2";
/// The next hop of [`More::SecondPath`].
pub const SECOND_HOP: &str = "fd00:1::253";
/// The link bandwidth of [`More::Bandwidth`], in Mbit/s.
pub const BANDWIDTH: u32 = 40;

/// The link bandwidth community for so many Mbit/s, as two numbers; without the bit that says
/// non-transitive, which some remove towards another AS.
pub fn bandwidth(asn: u32, mbits: u32) -> (u32, u32) {
    let bytes_per_second = f64::from(mbits) * 1e6 / 8.0;
    (0x0004_0000 | asn, (bytes_per_second as f32).to_bits())
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Bird,
        Self::Frr,
        Self::Gobgp,
        Self::Openbgpd,
        Self::Exabgp,
    ];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bird => "BIRD",
            Self::Frr => "FRR",
            Self::Gobgp => "GoBGP",
            Self::Openbgpd => "OpenBGPD",
            Self::Exabgp => "ExaBGP",
        }
    }

    /// Its version, without Debian's part of it.
    pub fn version(self) -> Result<String> {
        let (program, argument) = self.ways().version;
        let output = Command::new(program).arg(argument).output();
        let output = output.map_err(LabError::io(format!("{program}; run tests/tools")))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let mut words = text.split_whitespace();
        let version = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let none = || LabError::Unexpected(format!("{program} {argument}: {text:?}"));
        version.map(str::to_owned).ok_or_else(none)
    }

    pub fn ways(self) -> &'static Ways {
        match self {
            Self::Bird => &bird::WAYS,
            Self::Frr => &frr::WAYS,
            Self::Gobgp => &gobgp::WAYS,
            Self::Openbgpd => &openbgpd::WAYS,
            Self::Exabgp => &exabgp::WAYS,
        }
    }

    /// The families that it exchanges over a session.
    pub fn families(self, transport: Family) -> &'static [Family] {
        match (self, transport) {
            (_, Family::V4) => &[Family::V4],
            // No IPv6 next hops for IPv4 (RFC 8950).
            (Self::Openbgpd, Family::V6) => &[Family::V6],
            (_, Family::V6) => &[Family::V4, Family::V6],
        }
    }
}

/// One of them, running.
pub struct Daemon {
    pub kind: Kind,
    pub host: Host,
    setup: Setup,
    announced: Vec<Route>,
    processes: Vec<Process>,
}

impl Daemon {
    /// Starts it; it announces one prefix of each family that it can.
    pub fn start(kind: Kind, host: Host, setup: Setup) -> Result<Self> {
        let families = kind.families(setup.transport).iter();
        let announced: Vec<Route> = families.map(|f| Route::plain(own_prefix(*f))).collect();
        let processes = (kind.ways().start)(&host, &setup, &announced, false)?;
        Ok(Self {
            kind,
            host,
            setup,
            announced,
            processes,
        })
    }

    /// An error if it ended by itself.
    pub fn check(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    /// SIGKILL to all of it.
    pub fn kill(&mut self) -> Result<()> {
        self.host.signal(Signal::SIGKILL)?;
        self.processes.clear();
        Ok(())
    }

    /// Starts it again, as after a crash.
    pub fn restart(&mut self) -> Result<()> {
        let start = self.kind.ways().start;
        self.processes = start(&self.host, &self.setup, &self.announced, true)?;
        Ok(())
    }

    pub fn heard(&self, prefix: &str) -> Result<Vec<Heard>> {
        (self.kind.ways().heard)(&self.host, &self.setup, prefix)
    }

    pub fn announce(&mut self, route: Route) -> Result<()> {
        let mut now = self.announced.clone();
        now.push(route);
        self.announce_all(now)
    }

    /// Announces the prefix otherwise than before.
    pub fn replace(&mut self, route: Route) -> Result<()> {
        let mut now = self.announced.clone();
        now.retain(|one| one.prefix != route.prefix);
        now.push(route);
        self.announce_all(now)
    }

    /// Takes back all its paths to the prefix, or only the second one.
    pub fn withdraw(&mut self, prefix: &str) -> Result<()> {
        let mut now = self.announced.clone();
        now.retain(|one| one.prefix != prefix);
        self.announce_all(now)
    }

    fn announce_all(&mut self, now: Vec<Route>) -> Result<()> {
        (self.kind.ways().announce)(&self.host, &self.setup, &self.announced, &now)?;
        self.announced = now;
        Ok(())
    }

    pub fn refresh(&self) -> Result<()> {
        (self.kind.ways().refresh)(&self.host, &self.setup)
    }

    pub fn updates(&self) -> Result<u64> {
        (self.kind.ways().updates)(&self.host, &self.setup)
    }

    pub fn shutdown(&self, text: &str) -> Result<()> {
        (self.kind.ways().shutdown)(&self.host, &self.setup, text)
    }

    pub fn reset(&self) -> Result<()> {
        (self.kind.ways().reset)(&self.host, &self.setup)
    }

    /// All that it has said and says.
    pub fn words(&self) -> Result<String> {
        let mut words = (self.kind.ways().state)(&self.host, &self.setup)?;
        for process in &self.processes {
            words += &String::from_utf8_lossy(&std::fs::read(process.log()).unwrap_or_default());
        }
        Ok(words)
    }
}

/// By the change from `before` to `now`: what to take back, and what to add.
pub fn difference<'a>(before: &'a [Route], now: &'a [Route]) -> (Vec<&'a Route>, Vec<&'a Route>) {
    let gone = before.iter().filter(|route| !now.contains(route));
    let new = now.iter().filter(|route| !before.contains(route));
    (gone.collect(), new.collect())
}
