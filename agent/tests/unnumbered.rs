//! The agent with routers that have no address but a link-local one: Debian's FRR and BIRD. Runs on
//! any kernel with nexthop objects.

mod space;

use routemesh_proto::{Config, Router, Site};
use serde_json::Value;
use space::Space;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(40);

/// A process that ends with its value.
struct Daemon(Child);

impl Daemon {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = fs::File::create(log).expect("a log");
        let command = command.stdout(log.try_clone().expect("twice")).stderr(log);
        Self(command.spawn().expect("it is installed"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway with one router on each of its LANs, `lan1` and `lan2`.
struct Lans {
    gateway: Space,
    routers: [Space; 2],
    dir: TempDir,
}

impl Lans {
    fn new() -> Self {
        let (gateway, routers) = (Space::new(), [Space::new(), Space::new()]);
        let dir = tempfile::tempdir().expect("a directory");
        // FRR gives up its privileges.
        set_mode(dir.path(), 0o777);
        for (router, number) in routers.iter().zip(1..) {
            gateway.ip(&format!(
                "link add lan{number} type veth peer name lan netns {}",
                router.0
            ));
            // The same on both sides of the gateway: it is the interface that tells them apart.
            for (space, link, own) in [
                (&gateway, format!("lan{number}"), "fe80::1"),
                (router, "lan".to_owned(), "fe80::2"),
            ] {
                space.ip(&format!("link set {link} addrgenmode none"));
                space.ip(&format!("addr add {own}/64 dev {link} nodad"));
                space.ip(&format!("link set {link} up"));
            }
        }
        Self {
            gateway,
            routers,
            dir,
        }
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> String {
        fs::write(self.file(name), text).expect("written");
        set_mode(&self.dir.path().join(name), mode);
        self.file(name)
    }

    fn agent(&self, routers: Vec<Router>) -> Daemon {
        // 10.5.0.0/24 belongs to both, so that what begins here is for the LAN, too.
        let site = |name: &str, own: [&str; 2]| Site {
            name: name.into(),
            prefixes: ["10.5.0.0/24", own[0], own[1]].map(Into::into).into(),
            ..Site::default()
        };
        let config = Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            announce: vec!["static".into()],
            sites: vec![
                site("one", ["10.0.0.0/23", "2001:db8:a1::/48"]),
                site("two", ["10.0.2.0/24", "2001:db8:a2::/64"]),
            ],
            routers,
            ..Config::default()
        };
        let text = toml::to_string(&config).expect("TOML");
        let config = self.write("config.toml", &text, 0o600);
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            self.write(name, "none", 0o600);
        }
        let mut command = self.gateway.command(env!("CARGO_BIN_EXE_mesh-agent"));
        command
            .args(["run", "--config", &config])
            .args(["--identity", &self.file("")])
            .args(["--state-dir", &self.file("state")])
            .args(["--vici", &self.file("no.vici")]);
        Daemon::start(&mut command, &self.dir.path().join("agent.log"))
    }

    /// Announces 10.0.0.0/24 and 2001:db8:a1::/64 to whoever is on its link.
    fn frr(&self, router: &Space) -> [Daemon; 2] {
        let conf = "router bgp 65001\n bgp router-id 192.0.2.1\n no bgp ebgp-requires-policy\n \
             no bgp network import-check\n neighbor lan interface remote-as external\n \
             address-family ipv4 unicast\n  network 10.0.0.0/24\n exit-address-family\n \
             address-family ipv6 unicast\n  network 2001:db8:a1::/64\n  neighbor lan activate\n \
             exit-address-family\n";
        let confs = [
            ("zebra", self.write("zebra.conf", "", 0o644)),
            ("bgpd", self.write("bgpd.conf", conf, 0o644)),
        ];
        confs.map(|(name, conf)| {
            let mut command = router.command(&format!("/usr/lib/frr/{name}"));
            command
                .args(["-f", &conf, "-i", &self.file(&format!("{name}.pid"))])
                .args(["-z", &self.file("zserv"), "--vty_socket", &self.file("")])
                .args(["-P", "0", "-u", "frr", "-g", "frr", "--log", "stdout"]);
            let log = self.dir.path().join(format!("{name}.log"));
            let daemon = Daemon::start(&mut command, &log);
            if name == "zebra" {
                // bgpd gives up for ten seconds where there is no zebra.
                self.wait_for("zebra", || self.dir.path().join("zserv").exists());
            }
            daemon
        })
    }

    /// Announces 10.0.1.0/24 and 2001:db8:a1:1::/64, and knows the gateway's address.
    fn bird(&self, router: &Space) -> Daemon {
        let conf = "router id 192.0.2.2; protocol device {}
            protocol static s4 { ipv4; route 10.0.1.0/24 unreachable; }
            protocol static s6 { ipv6; route 2001:db8:a1:1::/64 unreachable; }
            protocol kernel k4 { ipv4 { export where source = RTS_BGP; }; }
            protocol bgp agent { local fe80::2 as 65002; neighbor fe80::1%'lan' as 65000;
                ttl security on; password \"hunter2\";
                ipv4 { import all; export all; extended next hop on; };
                ipv6 { import all; export all; }; }";
        let conf = self.write("bird.conf", conf, 0o644);
        let mut command = router.command("bird");
        command
            .args(["-f", "-c", &conf, "-s", &self.file("bird.ctl")])
            .args(["-P", &self.file("bird.pid")]);
        Daemon::start(&mut command, &self.dir.path().join("bird.log"))
    }

    /// Routes of ours that carry traffic, each with the interface of its only nexthop.
    fn routes(&self) -> Vec<String> {
        let nexthops = self.gateway.json("nexthop show");
        let by_id = |id: &Value| nexthops.iter().find(|nexthop| nexthop["id"] == *id);
        let via = |route: &Value| {
            let group = by_id(route.get("nhid")?)?["group"].as_array()?;
            let [member] = &group[..] else { return None };
            let nexthop = by_id(&member["id"])?;
            let dst = route["dst"].as_str()?;
            let text = format!("{dst} {} {}", nexthop["gateway"], nexthop["dev"]);
            Some(text.replace('"', ""))
        };
        let mut all = self.gateway.json("-4 route show proto 82");
        all.extend(self.gateway.json("-6 route show proto 82"));
        let mut routes: Vec<String> = all.iter().filter_map(via).collect();
        routes.sort();
        routes
    }

    fn wait_for(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            let log = |name| fs::read_to_string(self.file(name)).unwrap_or_default();
            assert!(
                began.elapsed() < DEADLINE,
                "{what}: not within {DEADLINE:?}\nroutes: {:?}\nagent: {}\nFRR: {}\nBIRD: {}",
                self.routes(),
                log("agent.log"),
                log("bgpd.log"),
                log("bird.log"),
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
}

#[test]
fn routers_without_an_address_are_found_and_routed_through() {
    let lans = Lans::new();
    lans.gateway
        .ip("route add 10.5.0.0/24 dev lan1 proto static");
    let on = |interface: &str, asn| Router {
        interface: interface.into(),
        asn,
        ..Router::default()
    };
    let guarded = Router {
        password: "hunter2".into(),
        ttl_security: 1,
        ..on("lan2", 65002)
    };
    let _agent = lans.agent(vec![on("lan1", 65001), guarded]);
    // It connects as soon as it hears of us, and we to it; BIRD advertises nothing and connects.
    let _frr = lans.frr(&lans.routers[0]);
    let _bird = lans.bird(&lans.routers[1]);
    let all = [
        "10.0.0.0/24 fe80::2 lan1",
        "10.0.1.0/24 fe80::2 lan2",
        "2001:db8:a1:1::/64 fe80::2 lan2",
        "2001:db8:a1::/64 fe80::2 lan1",
    ];
    lans.wait_for("routes of both routers", || lans.routes() == all);
    for router in &lans.routers {
        let route = || router.json("route show 10.5.0.0/24");
        lans.wait_for("what begins here", || !route().is_empty());
        assert_eq!(route()[0]["via"]["host"], "fe80::1");
    }

    // Without its link, a router's routes are gone, and the other's are as they were.
    lans.routers[0].ip("link set lan down");
    lans.wait_for("only the other's routes", || lans.routes() == all[1..3]);
}
