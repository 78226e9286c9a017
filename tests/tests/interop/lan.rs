//! A gateway with its agent, and two routers on networks of their own: the daemon under test, and
//! a feeder (BIRD), from which come the paths that the daemon is told, and which sees what we pass
//! on of the daemon's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::process::Process;
use routemesh_tests::lab::report::wait_until;
use routemesh_tests::lab::spaces::Spaces;
use serde_json::Value;

use crate::bird;
use crate::daemon::{Daemon, Family, Heard, Kind, Known, Setup};

pub const GATEWAY4: &str = "172.16.1.1";
pub const GATEWAY6: &str = "fd00:1::1";
pub const DAEMON4: &str = "172.16.1.254";
pub const DAEMON6: &str = "fd00:1::254";
pub const GATEWAY_LINK_LOCAL: &str = "fe80::1";
pub const DAEMON_LINK_LOCAL: &str = "fe80::2";

/// How long anything may take. Many of these run at once.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// The prefix that the daemon announces from the start.
pub fn own_prefix(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.2.1.0/24",
        Family::V6 => "2001:db8:2:1::/64",
    }
}

/// The prefix that the feeder announces.
pub fn fed_prefix(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.2.2.0/24",
        Family::V6 => "2001:db8:2:2::/64",
    }
}

/// The LAN. Dropped, it is gone.
pub struct Lan {
    pub gateway: Gateway,
    pub daemon: Daemon,
    pub feeder: Feeder,
    families: &'static [Family],
    spaces: Spaces,
}

impl Lan {
    /// The network, the daemon, the agent and the feeder. `name` is for the logs of a failure.
    pub fn start(name: &str, kind: Kind, setup: Setup) -> Result<Self> {
        let spaces = Spaces::new(name)?;
        let gateway = spaces.host("gateway")?;
        let router = spaces.host("daemon")?;
        let feeder = spaces.host("feeder")?;
        gateway.ip_batch(&[
            format!(
                "link add lan0 type veth peer name lan0 netns {}",
                router.name()
            ),
            format!(
                "link add lan1 type veth peer name lan0 netns {}",
                feeder.name()
            ),
            format!("address add {GATEWAY6}/64 dev lan0 nodad"),
            format!("address add {GATEWAY4}/24 dev lan0"),
            "link set lan0 addrgenmode none".into(),
            format!("address add {GATEWAY_LINK_LOCAL}/64 dev lan0 nodad"),
            "address add fd00:2::1/64 dev lan1 nodad".into(),
            "link set lan0 up".into(),
            "link set lan1 up".into(),
        ])?;
        router.ip_batch(&[
            format!("address add {DAEMON6}/64 dev lan0 nodad"),
            format!("address add {DAEMON4}/24 dev lan0"),
            "link set lan0 addrgenmode none".into(),
            format!("address add {DAEMON_LINK_LOCAL}/64 dev lan0 nodad"),
            "link set lan0 up".into(),
        ])?;
        feeder.ip_batch(&[
            format!("address add {}/64 dev lan0 nodad", bird::FEEDER),
            "link set lan0 up".into(),
        ])?;
        let feeder = Feeder::start(feeder, &setup)?;
        let daemon = Daemon::start(kind, router, setup)?;
        let gateway = Gateway::start(gateway, &setup)?;
        Ok(Self {
            gateway,
            daemon,
            feeder,
            families: kind.families(setup.transport),
            spaces,
        })
    }

    /// The same, and the session is up: each side has the other's prefixes.
    pub fn up(name: &str, kind: Kind, setup: Setup) -> Result<Self> {
        let mut lan = Self::start(name, kind, setup)?;
        lan.exchanged()?;
        Ok(lan)
    }

    /// The families that the session carries.
    pub fn families(&self) -> &'static [Family] {
        self.families
    }

    /// Waits until each side has the other's prefixes.
    pub fn exchanged(&mut self) -> Result<()> {
        for family in self.families {
            let prefix = own_prefix(*family);
            wait_until(&format!("{prefix} in our kernel"), DEADLINE, || {
                self.check()?;
                self.gateway.routed(prefix).map(drop)
            })?;
            let prefix = fed_prefix(*family);
            wait_until(&format!("{prefix} at the daemon"), DEADLINE, || {
                self.check()?;
                self.told(prefix).map(drop)
            })?;
        }
        Ok(())
    }

    /// An error if a program ended by itself.
    pub fn check(&mut self) -> Result<()> {
        self.gateway.check()?;
        self.daemon.check()?;
        self.feeder.process.check()
    }

    /// What the daemon has of a prefix from us; an error if nothing.
    pub fn told(&self, prefix: &str) -> Result<Heard> {
        let heard = self.daemon.heard(prefix)?.into_iter().next();
        heard.ok_or_else(|| LabError::Unexpected(format!("the daemon does not have {prefix}")))
    }

    /// Waits until the daemon has said this. Capitals do not count.
    pub fn daemon_says(&self, wanted: &str) -> Result<()> {
        wait_until(
            &format!("{wanted:?} in the daemon's words"),
            DEADLINE,
            || {
                let words = self.daemon.words()?.to_lowercase();
                let said = words.contains(&wanted.to_lowercase());
                expect(said, || "not said".into())
            },
        )
    }

    /// The test has passed: its logs are not kept.
    pub fn passed(mut self) {
        self.spaces.passed();
    }
}

/// An error with its reason where something does not hold.
pub fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(LabError::Unexpected(otherwise())),
    }
}

/// A gateway: `mesh-agent run --config FILE`, without tunnels.
pub struct Gateway {
    pub host: Host,
    agent: Option<Process>,
    log: PathBuf,
    /// What went over the daemon's LAN, for whoever looks at a failure.
    _capture: Process,
}

impl Gateway {
    fn start(host: Host, setup: &Setup) -> Result<Self> {
        let dir = host.dir();
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
                .map_err(LabError::io(path.display().to_string()))
        };
        // Only to be readable: there is no charon and no controller.
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            write(name, "none")?;
        }
        write("config.toml", &config(setup))?;
        let mut capture = Command::new("tcpdump");
        capture.args(["-U", "--immediate-mode", "-Z", "root", "-i", "lan0", "-w"]);
        capture
            .arg(dir.join("lan0.pcap"))
            .args(["tcp", "port", "179"]);
        let mut gateway = Self {
            _capture: host.spawn("tcpdump", capture)?,
            log: dir.join("agent.log"),
            host,
            agent: None,
        };
        gateway.run()?;
        Ok(gateway)
    }

    /// Starts the agent, the first time or again.
    pub fn run(&mut self) -> Result<()> {
        let dir = self.host.dir();
        let mut command = Command::new(agent()?);
        command
            .args(["--log", "info,routemesh_agent::bgp=debug", "run"])
            .arg("--config")
            .arg(dir.join("config.toml"))
            .arg("--identity")
            .arg(dir)
            .arg("--state-dir")
            .arg(dir.join("state"))
            .arg("--vici")
            .arg(dir.join("no.vici"));
        self.agent = Some(self.host.spawn("agent", command)?);
        Ok(())
    }

    /// SIGKILL to the agent.
    pub fn kill(&mut self) {
        self.agent = None;
    }

    /// `mesh-agent down`, after the agent was stopped. It cannot succeed entirely: there is no
    /// charon.
    pub fn down(&mut self) -> Result<()> {
        self.agent = None;
        let dir = self.host.dir().display();
        let (state, vici) = (format!("{dir}/state"), format!("{dir}/no.vici"));
        let words = [&agent()?, "down", "--state-dir", &state, "--vici", &vici];
        match self.host.run(&words) {
            Err(error) if !error.to_string().contains("charon") => Err(error),
            _ => Ok(()),
        }
    }

    /// `mesh-agent drain` or `undrain`.
    pub fn drain(&self, verb: &str) -> Result<()> {
        let state = self.host.dir().join("state").display().to_string();
        let agent = agent()?;
        let mut words = vec![agent.as_str(), verb, "--state-dir", &state];
        if verb == "drain" {
            words.extend(["--wait", "0"]);
        }
        self.host.run(&words).map(drop)
    }

    fn check(&mut self) -> Result<()> {
        self.agent.as_mut().map_or(Ok(()), Process::check)
    }

    /// Waits until the agent has said this.
    pub fn says(&self, wanted: &str) -> Result<()> {
        self.says_times(wanted, 1)
    }

    /// Waits until the agent has said this so many times.
    pub fn says_times(&self, wanted: &str, times: usize) -> Result<()> {
        wait_until(&format!("{wanted:?} in our log"), DEADLINE, || {
            let said = self.times(wanted);
            expect(said >= times, || format!("said {said} times"))
        })
    }

    /// How often the agent has said this.
    pub fn times(&self, said: &str) -> usize {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).matches(said).count()
    }

    /// Through which neighbours the kernel sends a prefix, and with what weights; an error if we
    /// have no such route.
    pub fn routed(&self, prefix: &str) -> Result<BTreeMap<String, u64>> {
        let family = match Family::of(prefix) {
            Family::V4 => "-4",
            Family::V6 => "-6",
        };
        let routes = self
            .host
            .ip(&[family, "route", "show", prefix, "proto", "82"])?;
        let route = routes.iter().find(|route| route["nhid"].is_u64());
        let none = || LabError::Unexpected(format!("no route of ours for {prefix}"));
        let id = &route.ok_or_else(none)?["nhid"];
        let nexthops = self.host.ip(&["nexthop", "show"])?;
        let find = |id: &Value| nexthops.iter().find(|nexthop| nexthop["id"] == *id);
        let gateway = |nexthop: &Value| nexthop["gateway"].as_str().unwrap_or("?").to_owned();
        let Some(nexthop) = find(id) else {
            return Err(none());
        };
        let Some(members) = nexthop["group"].as_array() else {
            return Ok(BTreeMap::from([(gateway(nexthop), 1)]));
        };
        let members = members.iter().filter_map(|member| {
            let weight = member["weight"].as_u64().unwrap_or(1);
            Some((gateway(find(&member["id"])?), weight))
        });
        Ok(members.collect())
    }

    /// Waits until the kernel sends a prefix through these neighbours, with these weights.
    pub fn sends(&self, prefix: &str, through: &[(&str, u64)]) -> Result<()> {
        let through = through.iter().map(|(hop, weight)| ((*hop).into(), *weight));
        let through: BTreeMap<String, u64> = through.collect();
        wait_until(&format!("{prefix} through {through:?}"), DEADLINE, || {
            let found = self.routed(prefix)?;
            expect(found == through, || format!("through {found:?}"))
        })
    }

    /// Waits until the kernel has no route of ours for the prefix.
    pub fn unrouted(&self, prefix: &str) -> Result<()> {
        wait_until(&format!("{prefix} gone from our kernel"), DEADLINE, || {
            expect(self.routed(prefix).is_err(), || "still there".into())
        })
    }

    /// Writes down every change of the kernel's routes and nexthops from now on.
    pub fn watch(&self) -> Result<Watch> {
        let mut command = Command::new("ip");
        command.args(["monitor", "route", "nexthop"]);
        let watch = Watch(self.host.spawn("routes", command)?);
        // It listens when it has seen a change.
        let change = |verb: &str| format!("route {verb} blackhole 192.0.2.1/32 proto 200");
        wait_until("the kernel's changes", DEADLINE, || {
            self.host.ip_batch(&[change("add"), change("delete")])?;
            expect(watch.log().contains("192.0.2.1"), || "none seen".into())
        })?;
        Ok(watch)
    }

    /// Whether these bytes have gone over the daemon's LAN.
    pub fn captured(&self, bytes: &[u8]) -> Result<bool> {
        let capture = self.host.dir().join("lan0.pcap");
        let capture = fs::read(&capture).map_err(LabError::io("the capture"))?;
        Ok(capture.windows(bytes.len()).any(|window| window == bytes))
    }

    /// Waits until the kernel has counted this (`/proc/net/netstat`) at least once.
    pub fn counts(&self, name: &str) -> Result<()> {
        wait_until(&format!("{name} in our kernel"), DEADLINE, || {
            let table = self
                .host
                .enter(|| fs::read_to_string("/proc/thread-self/net/netstat"))?;
            let table = table.map_err(LabError::io("/proc/net/netstat"))?;
            let lines: Vec<&str> = table.lines().collect();
            let count = lines.chunks(2).find_map(|pair| {
                let at = pair[0].split(' ').position(|column| column == name)?;
                pair.get(1)?.split(' ').nth(at)?.parse::<u64>().ok()
            });
            expect(count.is_some_and(|count| count > 0), || {
                format!("{count:?}")
            })
        })
    }

    /// Announces a prefix as one that begins here.
    pub fn originate(&self, prefix: &str) -> Result<()> {
        let line = format!("route add {prefix} dev lo proto static");
        self.host.ip_batch(&[line])
    }

    /// SIGSTOP and SIGCONT.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.host.signal(signal)
    }
}

/// `ip monitor route nexthop`.
pub struct Watch(Process);

impl Watch {
    /// An error if the way of the prefix through this neighbour was deleted meanwhile.
    pub fn never_deleted(&self, prefix: &str, through: &str) -> Result<()> {
        let deleted = self.deleted(prefix, through);
        expect(!deleted, || {
            format!("{prefix} through {through} was deleted")
        })
    }

    /// Whether it was: the route, or its nexthop, with which the kernel deletes the route and says
    /// nothing of it.
    pub fn deleted(&self, prefix: &str, through: &str) -> bool {
        let (route, hop) = (format!("Deleted {prefix} "), format!(" via {through} "));
        let says = |line: &str| {
            line.contains(&route) || line.contains("Deleted id ") && line.contains(&hop)
        };
        self.log().lines().any(says)
    }

    fn log(&self) -> String {
        let log = fs::read(self.0.log()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}

/// BIRD, AS 65002, with one prefix of each family that has every attribute.
pub struct Feeder {
    pub host: Host,
    process: Process,
}

impl Feeder {
    fn start(host: Host, setup: &Setup) -> Result<Self> {
        let process = bird::run(&host, &bird::feeder(setup), false)?;
        Ok(Self { host, process })
    }

    /// What it has of a prefix from us.
    pub fn heard(&self, prefix: &str) -> Result<Option<Heard>> {
        Ok(bird::heard(&self.host, prefix)?.into_iter().next())
    }

    /// Waits until what it has of a prefix satisfies.
    pub fn hears(&self, prefix: &str, check: impl Fn(&Heard) -> Result<()>) -> Result<()> {
        wait_until(
            &format!("{prefix} at the feeder"),
            DEADLINE,
            || match self.heard(prefix)? {
                Some(heard) => check(&heard),
                None => Err(LabError::Unexpected("not there".into())),
            },
        )
    }

    /// Announces a prefix with so many communities that the message is a long one.
    pub fn announce_long(&self) -> Result<&'static str> {
        bird::ask(&self.host, "enable fedlong")?;
        Ok(bird::LONG_PREFIX)
    }

    /// Announces a prefix with an AS path as short as the daemon's.
    pub fn announce_shared(&self) -> Result<&'static str> {
        bird::ask(&self.host, "enable fedshared")?;
        Ok(bird::SHARED_PREFIX)
    }

    /// Takes back what it announces by [`Self::announce_shared`].
    pub fn withdraw_shared(&self) -> Result<()> {
        bird::ask(&self.host, "disable fedshared").map(drop)
    }

    /// Announces one more path to the shared prefix (RFC 7911).
    pub fn announce_second(&self) -> Result<()> {
        bird::ask(&self.host, "enable fedsecond").map(drop)
    }

    /// Takes its prefixes back.
    pub fn withdraw(&self) -> Result<()> {
        bird::ask(&self.host, "disable fed4")?;
        bird::ask(&self.host, "disable fed6").map(drop)
    }
}

/// The agent's configuration. Site one owns all and site two a part of that, so that what either
/// router announces there is both taken from it and passed on to the other.
fn config(setup: &Setup) -> String {
    format!(
        r#"gateway = "V1-1"
site = "one"
asn = 65000
router_id = "198.18.0.1"
hold_time = {hold_time}
announce = ["static"]

[[sites]]
name = "one"
prefixes = ["10.0.0.0/8", "2001:db8::/32"]

[[sites]]
name = "two"
prefixes = ["10.2.0.0/16", "2001:db8:2::/48"]

[[routers]]
{known}
asn = {asn}
{router}

[[routers]]
address = "{feeder}"
asn = 65002
add_path = {add_path}
"#,
        hold_time = setup.hold_time,
        known = match setup.known {
            Known::Address => format!("address = \"{}\"", setup.local()),
            Known::LinkLocal => format!("address = \"{DAEMON_LINK_LOCAL}%lan0\""),
            Known::Interface => "interface = \"lan0\"".to_owned(),
            Known::Range => "range = \"fd00:1::/64\"".to_owned(),
        },
        asn = setup.asn(),
        router = setup.router,
        add_path = setup.add_path,
        feeder = bird::FEEDER,
    )
}

/// The agent of this build: beside the test, where cargo puts it.
fn agent() -> Result<String> {
    let test = std::env::current_exe().map_err(LabError::io("this program"))?;
    let beside = test.ancestors().nth(2).map(|dir| dir.join("mesh-agent"));
    match beside.filter(|path| path.exists()) {
        Some(path) => Ok(path.display().to_string()),
        None => Err(LabError::Unexpected(
            "no mesh-agent beside the tests: cargo build -p routemesh-agent".into(),
        )),
    }
}

/// Words of text, as a set.
pub fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Writes a file that only its owner reads, as OpenBGPD wants it.
pub fn write(host: &Host, name: &str, text: &str) -> Result<PathBuf> {
    let path = host.dir().join(name);
    let io = || LabError::io(path.display().to_string());
    fs::write(&path, text).map_err(io())?;
    set_mode(&path, 0o600)?;
    Ok(path)
}

/// Permissions of a file or folder.
pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(LabError::io(path.display().to_string()))
}
