//! The lab: three sites, their gateways and routers, a public switch, all in network namespaces.
//!
//! [`Lab::start`] brings up what exists without Routemesh: links, addresses, BIRD on the routers,
//! a charon per gateway. [`Mesh`](mesh::Mesh) adds our programs. Dropping removes everything, and
//! what an earlier run left behind is removed at the next start.

pub mod bird;
pub mod charon;
pub mod error;
pub mod host;
pub mod mesh;
pub mod observe;
pub mod ospf;
pub mod probe;
pub mod process;
pub mod report;
pub mod secrets;
pub mod settle;
pub mod sniff;
pub mod spaces;
mod tables;
pub mod topology;
pub mod traffic;
pub mod vici;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bird::Bird;
use charon::Charon;
use error::{LabError, Result};
use host::{Host, finish};
use process::Registry;
use report::{output_dir, say};
use topology::{CONTROLLER, Gateway, PUBLIC, Private, Topology, VRF};

/// Sockets and logs. Short, for a socket's path has at most 107 bytes; not below `/run`, which
/// every charon has to itself.
const DIR: &str = "/tmp/routemesh-lab";

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    topology: Topology,
    hosts: BTreeMap<String, Host>,
    // Daemons die before the namespaces are removed.
    charons: BTreeMap<String, Charon>,
    birds: BTreeMap<String, Bird>,
    name: String,
    passed: AtomicBool,
}

impl Lab {
    /// Brings the lab up. `name` is for the logs kept of one that fails.
    pub fn start(name: &str, topology: Topology) -> Result<Self> {
        let mut lab = Self::bare(name, topology)?;
        lab.start_daemons(true)?;
        Ok(lab)
    }

    /// The same without strongSwan on any gateway.
    pub fn without_charon(name: &str, topology: Topology) -> Result<Self> {
        let mut lab = Self::bare(name, topology)?;
        lab.start_daemons(false)?;
        Ok(lab)
    }

    /// The network alone, without charon and BIRD.
    pub fn bare(name: &str, topology: Topology) -> Result<Self> {
        require_kernel()?;
        say(format_args!("lab {name}: network"));
        clean()?;
        let dir = Path::new(DIR);
        std::fs::create_dir_all(dir).map_err(LabError::io(DIR))?;
        let registry = Registry::new(dir);
        for namespace in topology.namespaces() {
            if Path::new("/run/netns").join(&namespace).exists() {
                return Err(LabError::Unexpected(format!(
                    "a network namespace {namespace} exists and is not of this lab"
                )));
            }
            registry.add(&format!("netns {namespace}"))?;
        }
        batch(&topology.namespace_lines())?;
        let mut hosts = BTreeMap::new();
        for namespace in topology.namespaces() {
            let host = Host::open(&namespace, dir, registry.clone())?;
            host.sysctl(&settings(&namespace))?;
            hosts.insert(namespace, host);
        }
        let lab = Self {
            topology,
            hosts,
            charons: BTreeMap::new(),
            birds: BTreeMap::new(),
            name: name.to_owned(),
            passed: AtomicBool::new(false),
        };
        batch(&lab.topology.link_lines())?;
        let lines = lab.topology.host_lines();
        let work = |(name, lines): &(String, Vec<String>)| lab.host(name).ip_batch(lines);
        in_parallel(&lines, work)?;
        Ok(lab)
    }

    fn start_daemons(&mut self, charon: bool) -> Result<()> {
        let charons = if charon { "charon" } else { "no charon" };
        say(format_args!(
            "{charons} on every gateway, BIRD on every router"
        ));
        for gateway in self.topology.gateways().into_iter().filter(|_| charon) {
            let charon = Charon::start(self.underlay(gateway))?;
            self.charons.insert(gateway.name(), charon);
        }
        for site in self.topology.site_numbers() {
            let members = self.topology.gateways();
            let members: Vec<_> = members.into_iter().filter(|g| g.site == site).collect();
            let bird = Bird::start(self.router(site), &bird::of_router(site, &members))?;
            self.birds.insert(topology::router(site), bird);
        }
        for charon in self.charons.values() {
            charon.wait()?;
        }
        for bird in self.birds.values_mut() {
            bird.wait()?;
        }
        say("lab is up");
        Ok(())
    }

    /// Says at its end that a test passed, if nothing that anybody has written here tells a private key. Of a lab
    /// without that, the logs are kept.
    pub fn passed(&self) -> Result<()> {
        // Where there are no programs of ours, there are no keys.
        if self.host(CONTROLLER).dir().join("controller").exists() {
            secrets::kept(Path::new(DIR), &[])?;
        }
        self.passed.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn has_passed(&self) -> bool {
        self.passed.load(Ordering::Relaxed)
    }

    /// What this lab consists of.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// A host by its namespace.
    ///
    /// # Panics
    /// If there is none: a mistake in the test.
    pub fn host(&self, name: &str) -> &Host {
        match self.hosts.get(name) {
            Some(host) => host,
            None => panic!("no host {name} in this lab"),
        }
    }

    /// The public side of a gateway.
    pub fn underlay(&self, gateway: Gateway) -> &Host {
        self.host(&gateway.name())
    }

    /// The private side of a gateway.
    pub fn overlay(&self, gateway: Gateway) -> &Host {
        self.host(&self.topology.overlay(gateway))
    }

    /// The VRF that is the private side of a gateway, if one is.
    pub fn vrf(&self, gateway: Gateway) -> Option<&'static str> {
        (self.topology.private(gateway) == Private::Vrf).then_some(VRF)
    }

    /// A site's router.
    pub fn router(&self, site: usize) -> &Host {
        self.host(&topology::router(site))
    }

    /// A gateway's charon.
    ///
    /// # Panics
    /// If there is none: a mistake in the test.
    pub fn charon(&self, gateway: Gateway) -> &Charon {
        &self.charons[&gateway.name()]
    }

    /// Where a gateway's charon listens, if there is one.
    pub fn vici(&self, gateway: Gateway) -> PathBuf {
        let charon = self.charons.get(&gateway.name());
        let socket = charon.map_or(Path::new("/nowhere"), Charon::socket);
        socket.to_owned()
    }

    /// The BIRD of a site's router.
    ///
    /// # Panics
    /// If there is none: a mistake in the test.
    pub fn bird(&self, site: usize) -> &Bird {
        &self.birds[&topology::router(site)]
    }

    /// Takes a gateway's port out of the public switch. Its link stays up: nobody is told.
    pub fn cut(&self, gateway: Gateway) -> Result<()> {
        self.host(PUBLIC)
            .ip_batch(&[format!("link set {} nomaster", gateway.name())])
    }

    /// Puts the port back.
    pub fn mend(&self, gateway: Gateway) -> Result<()> {
        self.host(PUBLIC)
            .ip_batch(&[format!("link set {} master switch", gateway.name())])
    }

    /// A gateway hears nothing of others' IKE and ESP over IPv6; they hear it.
    pub fn deafen(&self, gateway: Gateway, to: &[Gateway]) -> Result<()> {
        let far: Vec<_> = to.iter().map(|other| other.public()).collect();
        let table = format!(
            "table ip6 lab {{ chain input {{ type filter hook input priority -300; \
             ip6 saddr {{ {} }} meta l4proto {{ esp, udp }} drop; }}; }}",
            far.join(", ")
        );
        self.underlay(gateway).run(&["nft", &table]).map(drop)
    }

    /// It hears them again.
    pub fn let_hear(&self, gateway: Gateway) -> Result<()> {
        let words = ["nft", "delete", "table", "ip6", "lab"];
        self.underlay(gateway).run(&words).map(drop)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.has_passed() {
            let kept = output_dir().join("failed").join(&self.name);
            match keep_logs(&kept) {
                Ok(()) => say(format_args!("logs kept in target/lab/failed/{}", self.name)),
                Err(error) => say(format_args!("logs not kept: {error}")),
            }
        }
        self.charons.clear();
        self.birds.clear();
        self.hosts.clear();
        if let Err(error) = clean() {
            say(format_args!("lab not removed: {error}"));
        }
    }
}

/// Fails where the kernel cannot carry the lab, so that no test passes for want of trying.
fn require_kernel() -> Result<()> {
    let probe = concat!(env!("CARGO_MANIFEST_DIR"), "/vm/capable");
    finish("here", &[probe])
        .map(drop)
        .map_err(|_| LabError::Kernel)
}

/// What makes a router of a host. Routers have it from the start; gateways get it from the agent.
pub const FORWARDING: [(&str, &str); 3] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
];

/// Settings of every namespace, made before it has links. Duplicate address detection would
/// delay every address by a second.
fn settings(namespace: &str) -> Vec<(&'static str, &'static str)> {
    let mut all = vec![
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
    ];
    if namespace == PUBLIC {
        all.push(("ipv6/conf/default/disable_ipv6", "1"));
    }
    if namespace.starts_with('R') {
        all.extend(FORWARDING);
        // Routers and gateways share one kernel and so one hash seed. If they hashed the same
        // fields, all flows that a router sends to one gateway would choose one tunnel there.
        all.extend([
            ("ipv4/fib_multipath_hash_policy", "3"),
            ("ipv4/fib_multipath_hash_fields", "0x30"),
            ("ipv6/fib_multipath_hash_policy", "3"),
            ("ipv6/fib_multipath_hash_fields", "0x30"),
        ]);
    }
    all
}

/// Removes what is ours of this or an earlier run: recorded processes, then namespaces.
pub fn clean() -> Result<()> {
    let dir = Path::new(DIR);
    let namespaces = Registry::new(dir).sweep();
    let present = |name: &&String| Path::new("/run/netns").join(name).exists();
    let lines: Vec<_> = namespaces
        .iter()
        .filter(present)
        .map(|name| format!("netns delete {name}"))
        .collect();
    if !lines.is_empty() {
        batch(&lines)?;
    }
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LabError::io(DIR)(error)),
        _ => Ok(()),
    }
}

/// `ip -batch` outside of any host.
fn batch(lines: &[String]) -> Result<()> {
    let file = PathBuf::from(DIR).join("batch");
    std::fs::write(&file, lines.join("\n")).map_err(LabError::io("write a batch"))?;
    finish("here", &["ip", "-batch", &file.display().to_string()]).map(drop)
}

/// Does the same for every item, at most four at a time.
pub fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    for chunk in items.chunks(4) {
        let work = &work;
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let threads: Vec<_> = chunk
                .iter()
                .map(|item| scope.spawn(move || work(item)))
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
                .collect()
        });
        results.into_iter().collect::<Result<()>>()?;
    }
    Ok(())
}

/// Copies logs and configurations to where they outlive the machine; sockets and keys stay.
fn keep_logs(to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(LabError::io(to.display().to_string()))?;
    let from = format!("{DIR}/.");
    let copied = Command::new("sh")
        .args(["-c", "cd \"$1\" && find . -name '*.log' -o -name '*.conf' -o -name '*.toml' | cpio -pdm --quiet \"$2\"", "sh", &from])
        .arg(to)
        .status()
        .map_err(LabError::io("copy logs"))?;
    if copied.success() {
        Ok(())
    } else {
        Err(LabError::Unexpected(format!("copy logs: {copied}")))
    }
}

/// How long a daemon may take to open its socket.
const DAEMON_DEADLINE: Duration = Duration::from_secs(60);
