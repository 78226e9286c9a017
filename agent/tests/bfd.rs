//! BFD between two agents, as routers on one LAN: no charon, no tunnel. BGP's hold time is 90 s, so that
//! whatever is noticed sooner is noticed by BFD.

mod space;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use routemesh_proto::{Bfd, Config, Router, Site};
use space::Space;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Child;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);
/// In which an agent tells all it has, and more.
const TELLS: Duration = Duration::from_secs(2);

struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id().try_into().expect("a pid"));
        kill(pid, signal).expect("it runs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two gateways at one switch.
struct Lan {
    gateways: [Space; 2],
    switch: Space,
    bfd: Option<Bfd>,
    dir: TempDir,
}

/// What each announces. Who forwards nothing has nothing to preserve over a restart.
const PREFIXES: [&str; 2] = ["10.0.1.0/24", "10.0.2.0/24"];

impl Lan {
    fn new(bfd: Option<Bfd>) -> Self {
        let (switch, gateways) = (Space::new(), [Space::new(), Space::new()]);
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        for (n, gateway) in (1..).zip(&gateways) {
            let peer = format!("port{n} netns {}", switch.0);
            gateway.ip(&format!("link add lan0 type veth peer name {peer}"));
            gateway.ip(&format!("addr add fd00:1::{n}/64 dev lan0 nodad"));
            gateway.ip("link set lan0 up");
            switch.ip(&format!("link set port{n} master br0 up"));
        }
        for (gateway, prefix) in gateways.iter().zip(PREFIXES) {
            gateway.ip(&format!("route add {prefix} dev lan0 proto static"));
        }
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            let file = dir.path().join(name);
            fs::write(&file, "none").expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
        }
        Self {
            gateways,
            switch,
            bfd,
            dir,
        }
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn agent(&self, n: usize) -> Process {
        // A prefix of both sites may be taken from a router and told to one.
        let site = |name: &str| Site {
            name: name.into(),
            prefixes: PREFIXES.map(Into::into).into(),
            ..Site::default()
        };
        let number = |n: usize| u32::try_from(n).expect("small");
        let config = Config {
            gateway: format!("V{n}"),
            site: "one".into(),
            asn: 65000 + number(n),
            router_id: format!("198.18.0.{}", n + 1),
            hold_time: 90,
            announce: vec!["static".into()],
            sites: vec![site("one"), site("two")],
            routers: vec![Router {
                address: format!("fd00:1::{}", 2 - n),
                asn: 65000 + number(1 - n),
                bfd: self.bfd,
                ..Router::default()
            }],
            ..Config::default()
        };
        let text = toml::to_string(&config).expect("TOML");
        fs::write(self.file(&format!("{n}.toml")), text).expect("written");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.file(&format!("{n}.log")));
        let mut command = self.gateways[n].command(env!("CARGO_BIN_EXE_mesh-agent"));
        command
            .args(["run", "--config", &self.file(&format!("{n}.toml"))])
            .args(["--identity", &self.file("")])
            .args(["--state-dir", &self.file(&format!("state{n}"))])
            .args(["--vici", &self.file("no.vici")])
            .stderr(log.expect("a log"));
        Process(command.spawn().expect("the agent runs"))
    }

    /// Both forward to each other.
    fn routed(&self) -> bool {
        (0..2).all(|n| self.forwards(n))
    }

    fn forwards(&self, n: usize) -> bool {
        let prefix = PREFIXES[1 - n];
        let routes = self.gateways[n].json(&format!("route show {prefix} proto 82"));
        routes.iter().any(|route| route.get("nhid").is_some())
    }

    /// How often an agent said this.
    fn said(&self, n: usize, what: &str) -> usize {
        let log = fs::read_to_string(self.file(&format!("{n}.log")));
        log.unwrap_or_default().matches(what).count()
    }

    fn wait_for(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            let log = |n| fs::read_to_string(self.file(&format!("{n}.log"))).unwrap_or_default();
            assert!(
                began.elapsed() < DEADLINE,
                "{what}: not within {DEADLINE:?}\n{}\n{}",
                log(0),
                log(1)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Both agents, with BFD up and the route in place.
    fn up(&self) -> [Process; 2] {
        let agents = [0, 1].map(|n| self.agent(n));
        self.wait_for("BFD", || [0, 1].iter().all(|n| self.said(*n, "is up") == 1));
        self.wait_for("the routes", || self.routed());
        agents
    }

    /// Everything that happens to routes and nexthops of the first gateway from now on.
    fn monitor(&self) -> Process {
        let log = fs::File::create(self.file("monitor.log")).expect("a log");
        let mut command = self.gateways[0].command("ip");
        let command = command.args(["monitor", "route", "nexthop"]).stdout(log);
        Process(command.spawn().expect("ip monitor runs"))
    }

    fn monitored(&self) -> String {
        fs::read_to_string(self.file("monitor.log")).expect("the monitor's log")
    }
}

const FAST: Option<Bfd> = Some(Bfd {
    interval: 50,
    multiplier: 3,
});

#[test]
fn a_way_that_is_cut_silently_is_left_and_taken_again_after_a_hold() {
    let lan = Lan::new(FAST);
    let _agents = lan.up();
    for n in 1..=2 {
        lan.switch.ip("link set port2 nomaster");
        lan.wait_for("the routes gone", || !lan.forwards(0) && !lan.forwards(1));
        lan.wait_for("both know", || {
            let dead = |which| lan.said(which, "is dead: BFD: nothing is heard");
            dead(0) == n && dead(1) == n
        });
        lan.switch.ip("link set port2 master br0");
        lan.wait_for("the routes back", || lan.routed());
    }
}

#[test]
fn an_agent_that_is_killed_and_returns_is_not_dead() {
    let lan = Lan::new(FAST);
    let [_one, two] = lan.up();
    let monitor = lan.monitor();
    // How often so far: two that start at once may meet twice.
    let so_far = || ["is up", "established"].map(|what| lan.said(0, what));
    let both_more_than = |before: [usize; 2]| {
        let now = so_far();
        now[0] > before[0] && now[1] > before[1]
    };
    let before = so_far();
    drop(two);
    lan.wait_for("its silence noticed", || lan.said(0, "is Down") >= 1);
    let two = lan.agent(1);
    lan.wait_for("BFD and BGP again", || both_more_than(before));
    // What it has not told anew by its next restart is to be forgotten (RFC 4724 section 4.2).
    std::thread::sleep(TELLS);
    // And back before that is noticed.
    let before = so_far();
    drop(two);
    let two = lan.agent(1);
    lan.wait_for("BFD and BGP once more", || both_more_than(before));
    std::thread::sleep(TELLS);
    // A planned end is none either.
    let before = so_far();
    two.signal(Signal::SIGTERM);
    lan.wait_for("its leave", || lan.said(0, "neighbor signaled") >= 1);
    let _two = lan.agent(1);
    lan.wait_for("BFD and BGP at last", || both_more_than(before));
    drop(monitor);
    assert_eq!(lan.said(0, "is dead"), 0);
    let changes = lan.monitored();
    assert!(!changes.contains("Deleted"), "{changes}");
    assert!(lan.routed());
}

#[test]
fn an_agent_that_stands_still_is_dead_until_it_goes_on() {
    let lan = Lan::new(FAST);
    let [_one, two] = lan.up();
    two.signal(Signal::SIGSTOP);
    lan.wait_for("the route gone", || !lan.forwards(0));
    two.signal(Signal::SIGCONT);
    lan.wait_for("the routes back", || lan.routed());
}
