//! BFD with BIRD and with FRR's bfdd, as routers on the agent's LAN. BGP's hold time is 90 s, so that
//! whatever is noticed sooner is noticed by BFD.

mod space;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use routemesh_proto::{Bfd, Config, Router, Site};
use space::Space;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);

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

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bird,
    Frr,
}

/// The agent, and a router that announces [`PREFIX`].
struct Lan {
    gateway: Space,
    router: Space,
    kind: Kind,
    interval: u32,
    dir: TempDir,
}

const PREFIX: &str = "10.0.1.0/24";

impl Lan {
    fn new(kind: Kind, interval: u32) -> Self {
        let (gateway, router) = (Space::new(), Space::new());
        let peer = format!("lan0 netns {}", router.0);
        gateway.ip(&format!("link add lan0 type veth peer name {peer}"));
        for (space, address) in [(&gateway, "fd00:1::1"), (&router, "fd00:1::2")] {
            space.ip(&format!("addr add {address}/64 dev lan0 nodad"));
            space.ip("link set lan0 up");
        }
        let dir = tempfile::tempdir().expect("a directory");
        // FRR's daemons are a user of their own.
        set_mode(dir.path().to_str().expect("text"), 0o777);
        let lan = Self {
            gateway,
            router,
            kind,
            interval,
            dir,
        };
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            lan.write(name, "none", 0o600);
        }
        lan
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> String {
        let file = self.file(name);
        fs::write(&file, text).expect("written");
        set_mode(&file, mode);
        file
    }

    fn spawn(&self, space: &Space, name: &str, program: &str, arguments: &[&str]) -> Process {
        let log = || fs::File::create(self.file(&format!("{name}.log"))).expect("a log");
        let mut command = space.command(program);
        command.args(arguments).stderr(log());
        Process(command.spawn().expect("it runs"))
    }

    fn agent(&self) -> Process {
        let config = Config {
            gateway: "V1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 90,
            sites: vec![Site {
                name: "one".into(),
                prefixes: vec![PREFIX.into()],
                ..Site::default()
            }],
            routers: vec![Router {
                address: "fd00:1::2".into(),
                asn: 65001,
                bfd: Some(Bfd {
                    interval: self.interval,
                    multiplier: 3,
                }),
                ..Router::default()
            }],
            ..Config::default()
        };
        let text = toml::to_string(&config).expect("TOML");
        let config = self.write("config.toml", &text, 0o600);
        let program = env!("CARGO_BIN_EXE_mesh-agent");
        let (identity, state, vici) = (self.file(""), self.file("state"), self.file("no.vici"));
        let words = ["run", "--config", &config, "--identity", &identity];
        let more = ["--state-dir", &state, "--vici", &vici];
        let words: Vec<&str> = words.into_iter().chain(more).collect();
        self.spawn(&self.gateway, "agent", program, &words)
    }

    /// The router; the first process is the one that has BFD.
    fn daemon(&self) -> Vec<Process> {
        let interval = self.interval;
        match self.kind {
            Kind::Bird => {
                let config = format!(
                    "router id 192.0.2.2; protocol device {{}}
                    protocol bfd {{ interface \"lan0\" {{ interval {interval} ms; multiplier 3; }}; }}
                    protocol static {{ ipv4; route {PREFIX} unreachable; }}
                    protocol bgp mesh {{ local fd00:1::2 as 65001; neighbor fd00:1::1 as 65000; bfd on;
                        connect delay time 1; connect retry time 2; error wait time 1, 2;
                        ipv4 {{ import all; export all; extended next hop on; next hop self; }}; }}"
                );
                let config = self.write("bird.conf", &config, 0o644);
                let (control, pid) = (self.file("bird.ctl"), self.file("bird.pid"));
                let words = ["-f", "-c", &config, "-s", &control, "-P", &pid];
                vec![self.spawn(&self.router, "bird", "bird", &words)]
            }
            Kind::Frr => {
                let bgp = format!(
                    "router bgp 65001\n bgp router-id 192.0.2.2\n no bgp ebgp-requires-policy\n \
                     no bgp network import-check\n neighbor fd00:1::1 remote-as 65000\n \
                     neighbor fd00:1::1 bfd 3 {interval} {interval}\n \
                     neighbor fd00:1::1 capability extended-nexthop\n \
                     address-family ipv4 unicast\n  network {PREFIX}\n  \
                     neighbor fd00:1::1 activate\n exit-address-family\n"
                );
                let socket = self.file("bfdd.sock");
                let daemons = [
                    ("zebra", String::new(), vec![]),
                    ("bfdd", String::new(), vec!["--bfdctl", &socket]),
                    ("bgpd", bgp, vec!["-p", "1179", "--bfdctl", &socket]),
                ];
                let mut processes = Vec::new();
                for (name, config, more) in daemons {
                    let config = self.write(&format!("{name}.conf"), &config, 0o644);
                    let (dir, zserv) = (self.file(""), self.file("zserv"));
                    let pid = self.file(&format!("{name}.pid"));
                    let words = [
                        "-f",
                        &config,
                        "-i",
                        &pid,
                        "-z",
                        &zserv,
                        "--vty_socket",
                        &dir,
                    ];
                    let words = words
                        .into_iter()
                        .chain(["-u", "frr", "-g", "frr", "-P", "0"]);
                    let more = more.into_iter().filter(|_| name == "bfdd");
                    let words: Vec<&str> = words.chain(more).collect();
                    let program = format!("/usr/lib/frr/{name}");
                    processes.push(self.spawn(&self.router, name, &program, &words));
                    let answers = || !self.ask(name, "show version").is_empty();
                    self.wait_for(name, answers);
                }
                processes.swap(0, 1);
                processes
            }
        }
    }

    fn ask(&self, daemon: &str, question: &str) -> String {
        let dir = self.file("");
        let mut command = Command::new("vtysh");
        command.args(["--vty_socket", &dir, "-d", daemon, "-c", question]);
        let output = command.output().expect("vtysh");
        match output.status.success() {
            true => String::from_utf8_lossy(&output.stdout).into_owned(),
            false => String::new(),
        }
    }

    /// What the router says of the session.
    fn session(&self) -> String {
        match self.kind {
            Kind::Bird => {
                let mut command = Command::new("birdc");
                command.args(["-s", &self.file("bird.ctl"), "show", "bfd", "sessions"]);
                let output = command.output().expect("birdc");
                String::from_utf8_lossy(&output.stdout).into_owned()
            }
            Kind::Frr => self.ask("bfdd", "show bfd peers"),
        }
    }

    fn sees(&self, up: bool) -> bool {
        let session = self.session();
        let words = match (self.kind, up) {
            (Kind::Bird, true) => "Up  ",
            (Kind::Bird, false) => "Down  ",
            (Kind::Frr, true) => "Status: up",
            (Kind::Frr, false) => "Status: down",
        };
        session.contains(words)
    }

    /// Both ends' timers are in force at the router.
    fn negotiated(&self) -> bool {
        let (session, interval) = (self.session(), self.interval);
        match self.kind {
            Kind::Bird => session.contains(&format!("0.{:03}    0.{:03}", interval, 3 * interval)),
            Kind::Frr => {
                let remote = session.split("Remote timers").nth(1).unwrap_or_default();
                remote.contains(&format!("Transmission interval: {interval}ms"))
            }
        }
    }

    fn routed(&self) -> bool {
        let routes = self.gateway.json(&format!("route show {PREFIX} proto 82"));
        routes.iter().any(|route| route.get("nhid").is_some())
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.file(&format!("{name}.log"))).unwrap_or_default()
    }

    fn wait_for(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(
                began.elapsed() < DEADLINE,
                "{what}: not within {DEADLINE:?}\n{}\n{}",
                self.log("agent"),
                self.session()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn set_mode(file: &str, mode: u32) {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("set");
}

fn both_ends_notice_each_others_silence(kind: Kind, interval: u32) {
    let lan = Lan::new(kind, interval);
    let daemon = lan.daemon();
    let agent = lan.agent();
    lan.wait_for("the route", || lan.routed());
    lan.wait_for("a session", || {
        lan.sees(true) && lan.log("agent").contains("is up")
    });
    lan.wait_for("the timers", || lan.negotiated());
    daemon[0].signal(Signal::SIGSTOP);
    lan.wait_for("the route gone", || !lan.routed());
    let dead = "is dead: BFD: nothing is heard";
    lan.wait_for("the reason", || lan.log("agent").contains(dead));
    daemon[0].signal(Signal::SIGCONT);
    lan.wait_for("the route back", || lan.routed() && lan.sees(true));
    agent.signal(Signal::SIGSTOP);
    lan.wait_for("the router knows", || lan.sees(false));
    agent.signal(Signal::SIGCONT);
    lan.wait_for("all well in the end", || lan.routed() && lan.sees(true));
}

#[test]
fn bird() {
    both_ends_notice_each_others_silence(Kind::Bird, 300);
}

#[test]
fn bird_fast() {
    both_ends_notice_each_others_silence(Kind::Bird, 50);
}

#[test]
fn frr() {
    both_ends_notice_each_others_silence(Kind::Frr, 300);
}

#[test]
fn frr_fast() {
    both_ends_notice_each_others_silence(Kind::Frr, 50);
}
