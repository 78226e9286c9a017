//! The network of a trial: the daemon's namespace in the middle; each of two peers, and the source of
//! packets, in a namespace of its own at the other end of a veth.

use crate::error::{Error, Result};
use crate::prefix::Family;
use crate::process::{Daemon, run};
use nix::sched::{CloneFlags, setns};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Command};

const NAMES: &str = "rm-bench";

/// A network namespace. Dropped, it is gone.
#[derive(Debug)]
pub struct Space {
    name: String,
    file: File,
}

impl Space {
    /// Makes one.
    pub fn new(role: &str) -> Result<Self> {
        let name = format!("{NAMES}-{}-{role}", std::process::id());
        run("ip", &["netns", "add", &name])?;
        let path = format!("/run/netns/{name}");
        let file = File::open(&path).map_err(Error::io(path))?;
        Ok(Self { name, file })
    }

    /// Runs `inside` on a thread in here: its sockets and processes stay here.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let thread = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .map_err(Error::os(format!("enter {}", self.name)))?;
            inside()
        };
        std::thread::scope(|scope| match scope.spawn(thread).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Starts a daemon in here.
    pub fn daemon(&self, name: &str, command: Command, dir: &Path) -> Result<Daemon> {
        self.enter(|| Daemon::start(name, command, dir))
    }

    /// Starts a process in here.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        self.enter(|| command.spawn().map_err(Error::io("start a process")))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip` in here.
    pub fn ip(&self, words: &str) -> Result<()> {
        let mut all = vec!["-n", &self.name];
        all.extend(words.split_whitespace());
        run("ip", &all).map(drop)
    }

    fn set(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (name, value) in settings {
                let path = format!("/proc/sys/net/{name}");
                fs::write(&path, value).map_err(Error::io(path))?;
            }
            Ok(())
        })
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = run("ip", &["netns", "del", &self.name]);
    }
}

/// Room in the kernel's table of IPv6 neighbours, which all namespaces share. Dropped, it is as before.
#[derive(Debug)]
pub struct Neighbours(String);

impl Neighbours {
    const LIMIT: &str = "/proc/sys/net/ipv6/neigh/default/gc_thresh3";
    const MANY: &str = "8192";

    /// Makes it.
    pub fn many() -> Result<Self> {
        let before = fs::read_to_string(Self::LIMIT).map_err(Error::io(Self::LIMIT))?;
        fs::write(Self::LIMIT, Self::MANY).map_err(Error::io(Self::LIMIT))?;
        Ok(Self(before))
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        let _ = fs::write(Self::LIMIT, &self.0);
    }
}

/// The four namespaces.
#[derive(Debug)]
pub struct Lab {
    /// Where the daemon runs.
    pub middle: Space,
    /// Where the peers run.
    pub peers: [Space; 2],
    /// Where packets come from.
    pub source: Space,
}

/// The subnets of the three links: those of the peers, and that of the source.
const SOURCE: u8 = 2;

impl Lab {
    /// Builds it.
    pub fn new() -> Result<Self> {
        let lab = Self {
            middle: Space::new("middle")?,
            peers: [Space::new("peer-0")?, Space::new("peer-1")?],
            source: Space::new("source")?,
        };
        let forwarding = [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];
        lab.middle.set(&forwarding)?;
        lab.middle.ip("link set lo up")?;
        let [first, second] = &lab.peers;
        for (number, space) in [(0, first), (1, second), (SOURCE, &lab.source)] {
            space.ip("link set lo up")?;
            let (middle, far) = (&lab.middle, &space.name);
            middle.ip(&format!(
                "link add l{number} type veth peer name eth0 netns {far}"
            ))?;
            for family in [Family::Ipv4, Family::Ipv6] {
                let (near, length) = (near(family, number), subnet_length(family));
                middle.ip(&format!(
                    "addr add {near}/{length} dev l{number} {}",
                    nodad(family)
                ))?;
                let own = far_address(family, number);
                space.ip(&format!(
                    "addr add {own}/{length} dev eth0 {}",
                    nodad(family)
                ))?;
            }
            middle.ip(&format!("link set l{number} up"))?;
            space.ip("link set eth0 up")?;
        }
        for family in [Family::Ipv4, Family::Ipv6] {
            let gateway = near(family, SOURCE);
            lab.source.ip(&format!("route add default via {gateway}"))?;
        }
        Ok(lab)
    }

    /// All peers' addresses.
    pub fn peer_addresses(family: Family) -> [IpAddr; 2] {
        [0, 1].map(|peer| Self::peer_address(family, peer))
    }

    /// The daemon's address towards a peer.
    pub fn daemon_address(family: Family, peer: usize) -> IpAddr {
        near(family, link(peer))
    }

    /// A peer's address.
    pub fn peer_address(family: Family, peer: usize) -> IpAddr {
        far_address(family, link(peer))
    }

    /// The daemon's interface towards a peer.
    pub fn interface(peer: usize) -> String {
        format!("l{}", link(peer))
    }
}

/// Removes what earlier runs left that were killed: their namespaces, and the daemons in them.
pub fn sweep() -> Result<()> {
    for line in run("ip", &["netns", "list"])?.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let mut parts = name
            .strip_prefix(NAMES)
            .unwrap_or_default()
            .split('-')
            .skip(1);
        let Some(owner) = parts.next() else { continue };
        if Path::new("/proc").join(owner).exists() {
            continue;
        }
        for pid in run("ip", &["netns", "pids", name])?.lines() {
            let _ = run("kill", &["-9", pid.trim()]);
        }
        run("ip", &["netns", "del", name])?;
    }
    Ok(())
}

fn link(peer: usize) -> u8 {
    u8::from(peer != 0)
}

fn nodad(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "",
        Family::Ipv6 => "nodad",
    }
}

fn subnet_length(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 24,
        Family::Ipv6 => 64,
    }
}

fn near(family: Family, number: u8) -> IpAddr {
    address(family, number, 1)
}

fn far_address(family: Family, number: u8) -> IpAddr {
    address(family, number, 2)
}

fn address(family: Family, link: u8, host: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(192, 168, link, host).into(),
        Family::Ipv6 => {
            let (link, host) = (u16::from(link), u16::from(host));
            Ipv6Addr::new(0xfd20, 0, 0, link, 0, 0, 0, host).into()
        }
    }
}
