//! The agent with a router on its LAN, Debian's BIRD, and nothing else: no charon, no tunnel. Runs
//! on any kernel with nexthop objects.

mod space;

use routemesh_proto::{Config, Router, Site};
use serde_json::Value;
use space::Space;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(20);

/// A process that ends with its value.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway and a router on one LAN.
struct Lan {
    gateway: Space,
    router: Space,
    asn: u32,
    dir: TempDir,
    _bird: Daemon,
}

impl Lan {
    /// The router, AS 65001, announces what site one owns and a prefix that it does not.
    fn up() -> Self {
        Self::with(65001)
    }

    fn with(asn: u32) -> Self {
        let (gateway, router) = (Space::new(), Space::new());
        let dir = tempfile::tempdir().expect("a directory");
        gateway.ip(&format!(
            "link add lan0 type veth peer name lan0 netns {}",
            router.0
        ));
        gateway.ip("addr add fd00:1::1/64 dev lan0 nodad");
        router.ip("addr add fd00:1::254/64 dev lan0 nodad");
        gateway.ip("link set lan0 up");
        router.ip("link set lan0 up");
        let conf = format!(
            "router id 192.0.2.254; protocol device {{}}
            protocol static s4 {{ ipv4; route 10.0.1.0/24 unreachable; route 10.66.0.0/24 unreachable; }}
            protocol static s6 {{ ipv6; route 2001:db8:a1::/64 unreachable; }}
            protocol bgp v11 {{ local fd00:1::254 as {asn}; neighbor fd00:1::1 as 65000;
                ipv4 {{ import all; export all; extended next hop on; next hop self; }};
                ipv6 {{ import all; export all; next hop self; }}; }}"
        );
        let file = |name: &str| dir.path().join(name).display().to_string();
        fs::write(file("bird.conf"), conf).expect("written");
        let bird = router
            .command("bird")
            .args(["-f", "-c", &file("bird.conf"), "-s", &file("bird.ctl")])
            .args(["-P", &file("bird.pid")])
            .stderr(fs::File::create(file("bird.log")).expect("a log"))
            .spawn()
            .expect("bird is installed");
        identity(dir.path());
        Self {
            gateway,
            router,
            asn,
            dir,
            _bird: Daemon(bird),
        }
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn agent(&self) -> Daemon {
        self.agent_with(|_| {})
    }

    fn agent_with(&self, change: impl FnOnce(&mut Config)) -> Daemon {
        let site = |name: &str, prefixes: [&str; 2]| Site {
            name: name.into(),
            prefixes: prefixes.map(Into::into).into(),
            ..Site::default()
        };
        let mut config = Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            announce: vec!["static".into()],
            sites: vec![
                site("one", ["2001:db8:a1::/64", "10.0.0.0/23"]),
                site("two", ["2001:db8:a2::/64", "10.0.2.0/24"]),
            ],
            routers: vec![Router {
                address: "fd00:1::254".into(),
                asn: self.asn,
                ..Router::default()
            }],
            ..Config::default()
        };
        change(&mut config);
        let text = toml::to_string(&config).expect("TOML");
        fs::write(self.file("config.toml"), text).expect("written");
        let mut command = self.gateway.command(env!("CARGO_BIN_EXE_mesh-agent"));
        command
            .args(["run", "--config", &self.file("config.toml")])
            .args(["--identity", &self.file("")])
            .args(["--state-dir", &self.file("state")])
            .args(["--vici", &self.file("no.vici")])
            .args(["--metrics", "127.0.0.1:7180"])
            .stderr(fs::File::create(self.file("agent.log")).expect("a log"));
        Daemon(command.spawn().expect("the agent runs"))
    }

    fn down(&self) -> Output {
        let mut command = self.gateway.command(env!("CARGO_BIN_EXE_mesh-agent"));
        command
            .args(["down", "--state-dir", &self.file("state")])
            .args(["--vici", &self.file("no.vici")]);
        command.output().expect("it runs")
    }

    /// Routes of ours in the gateway's kernel: destination and whether over a group or unreachable.
    fn routes(&self) -> Vec<String> {
        self.routes_in("main")
    }

    fn routes_in(&self, table: &str) -> Vec<String> {
        let mut all = self.gateway.json("-4 route show table all proto 82");
        all.extend(self.gateway.json("-6 route show table all proto 82"));
        // iproute2 does not name the main table.
        all.retain(|route| route["table"].as_str().unwrap_or("main") == table);
        let text = |route: &Value| {
            let kind = match route.get("nhid") {
                Some(_) => "group",
                None => route["type"].as_str().unwrap_or("?"),
            };
            format!("{} {kind}", route["dst"].as_str().unwrap_or("?"))
        };
        let mut texts: Vec<String> = all.iter().map(text).collect();
        texts.sort();
        texts
    }

    fn birdc(&self, command: &str) -> String {
        let mut all = vec!["-s".to_owned(), self.file("bird.ctl")];
        all.extend(command.split(' ').map(Into::into));
        let output = Command::new("birdc").args(&all).output().expect("birdc");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn wait_for(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(
                began.elapsed() < DEADLINE,
                "{what}: not within {DEADLINE:?}\nroutes: {:?}\nagent: {}\nBIRD: {}",
                self.routes(),
                fs::read_to_string(self.file("agent.log")).unwrap_or_default(),
                fs::read_to_string(self.file("bird.log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A certificate that only has to be readable: there is no charon and no controller.
fn identity(dir: &Path) {
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        let file = dir.join(name);
        fs::write(&file, "none").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
    }
}

const ALL: [&str; 4] = [
    "10.0.1.0/24 group",
    "10.0.2.0/24 unreachable",
    "2001:db8:a1::/64 group",
    "2001:db8:a2::/64 unreachable",
];

#[test]
fn what_the_router_announces_is_routed_and_what_the_site_does_not_own_is_not() {
    let lan = Lan::up();
    lan.gateway
        .ip("route add 10.0.0.0/24 dev lan0 proto static");
    lan.gateway
        .ip("route add 10.77.0.0/24 dev lan0 proto static");
    let _agent = lan.agent();
    lan.wait_for("routes of both families", || lan.routes() == ALL);
    // IPv4 over the router's IPv6 address, through one group.
    let nexthops = lan.gateway.json("nexthop show proto 82");
    assert_eq!(nexthops.len(), 2, "{nexthops:?}");
    assert!(nexthops.iter().any(|n| n["gateway"] == "fd00:1::254"));

    // The router is told of other sites' prefixes only, and there are none yet: not of its own
    // back, and not of the gateway's static routes, which belong to its own site.
    let session = lan.birdc("show protocols all v11");
    assert!(session.contains("Established"), "{session}");
    assert!(!lan.birdc("show route protocol v11").contains("10."));

    lan.birdc("disable s4");
    let without = ["10.0.2.0/24 unreachable", ALL[2], ALL[3]];
    lan.wait_for("the withdrawn prefix gone", || lan.routes() == without);
    assert!(lan.gateway.ip("route show 10.77.0.0/24").contains("static"));
    drop(lan.router.ip("link set lan0 down"));
    let bare = ["10.0.2.0/24 unreachable", ALL[3]];
    lan.wait_for("a LAN that is down carries nothing", || {
        lan.routes() == bare
    });
}

#[test]
fn a_killed_agent_leaves_its_routes_and_the_next_one_takes_them_over() {
    let lan = Lan::up();
    let agent = lan.agent();
    lan.wait_for("routes of both families", || lan.routes() == ALL);
    let before = lan.gateway.json("nexthop show proto 82");
    drop(agent);
    assert_eq!(lan.routes(), ALL);
    // Lost while nobody looked: to be noticed by the next run.
    lan.gateway
        .ip("route del unreachable 10.0.2.0/24 metric 4294967295");
    let mut monitor = lan.gateway.command("ip");
    let log = lan.file("monitor.log");
    let monitor = monitor
        .args(["monitor", "route", "nexthop"])
        .stdout(fs::File::create(&log).expect("a log"))
        .spawn()
        .expect("ip monitor runs");
    let monitor = Daemon(monitor);
    let _agent = lan.agent();
    lan.wait_for("the lost route back", || lan.routes() == ALL);
    let settled = || lan.birdc("show protocols all v11").contains("Established");
    lan.wait_for("the session back", settled);
    std::thread::sleep(Duration::from_secs(3));
    drop(monitor);
    let changes = fs::read_to_string(&log).expect("the monitor's log");
    assert!(changes.contains("unreachable 10.0.2.0/24"), "{changes}");
    assert!(
        !changes.contains("Deleted"),
        "a takeover deletes nothing: {changes}"
    );
    assert_eq!(lan.gateway.json("nexthop show proto 82"), before);
}

/// Each once, and no consequence of it beside; an event of our own making would count as well.
#[test]
fn what_somebody_deletes_is_back_within_a_second_and_counted() {
    let lan = Lan::up();
    let _agent = lan.agent();
    lan.wait_for("routes of both families", || lan.routes() == ALL);
    let settled = || lan.birdc("show protocols all v11").contains("Established");
    lan.wait_for("the session", settled);
    let log = || fs::read_to_string(lan.file("agent.log")).unwrap_or_default();
    let id = |kind: &str| {
        let nexthops = lan.gateway.json("nexthop show proto 82");
        let mut of_kind = nexthops.iter().filter(|it| it.get(kind).is_some());
        of_kind.next().expect("one")["id"].to_string()
    };
    assert!(!log().contains("undone by others"), "{}", log());
    let kinds: [(&str, &dyn Fn() -> String, &str); 5] = [
        (
            "a route",
            &|| "route del 10.0.1.0/24 metric 50".to_owned(),
            "1 route",
        ),
        (
            "an IPv6 route",
            &|| "-6 route del 2001:db8:a1::/64 metric 50".to_owned(),
            "2 route",
        ),
        (
            "an unreachable route",
            &|| "route del unreachable 10.0.2.0/24 metric 4294967295".to_owned(),
            "3 route",
        ),
        (
            "a nexthop group",
            &|| format!("nexthop del id {}", id("group")),
            "1 nexthop group, 3 route",
        ),
        (
            "a nexthop",
            &|| format!("nexthop del id {}", id("gateway")),
            "1 nexthop, 1 nexthop group, 3 route",
        ),
    ];
    for (what, command, counted) in kinds {
        let began = Instant::now();
        lan.gateway.ip(&command());
        let line = format!("repaired so far: {counted}\n");
        lan.wait_for(what, || lan.routes() == ALL && log().contains(&line));
        println!("{what}: {:?}", began.elapsed());
    }
    // What is not ours stays away, and the count as it is.
    lan.gateway
        .ip("route add 10.9.0.0/24 dev lan0 proto static");
    lan.gateway
        .ip("route del 10.9.0.0/24 dev lan0 proto static");
    lan.gateway
        .ip("route del unreachable 10.0.2.0/24 metric 4294967295");
    lan.wait_for("one more", || {
        let lines = log();
        let last = lines.lines().rfind(|line| line.contains("repaired so far"));
        lan.routes() == ALL && last.is_some_and(|it| !it.ends_with(" 3 route"))
    });
    assert!(
        log().contains("1 nexthop, 1 nexthop group, 4 route\n"),
        "{}",
        log()
    );
}

#[test]
fn a_route_that_goes_again_at_once_waits_before_it_is_put_back() {
    let lan = Lan::up();
    let _agent = lan.agent();
    lan.wait_for("routes of both families", || lan.routes() == ALL);
    let delete = || lan.gateway.ip("route del 10.0.1.0/24 proto 82 metric 50");
    delete();
    lan.wait_for("back", || lan.routes() == ALL);
    delete();
    lan.wait_for("told", || {
        let log = fs::read_to_string(lan.file("agent.log")).unwrap_or_default();
        log.contains("route 10.0.1.0/24: was put back and deleted again")
    });
    lan.wait_for("back in the end", || lan.routes() == ALL);
}

#[test]
fn another_table_takes_over_and_asks_for_rules_that_lead_there() {
    let lan = Lan::up();
    let agent = lan.agent();
    lan.wait_for("routes of both families", || lan.routes() == ALL);
    drop(agent);
    let agent = lan.agent_with(|config| (config.table, config.metric) = (1234, 77));
    lan.wait_for("the table", || lan.routes_in("1234") == ALL);
    let route = &lan.gateway.json("route show table 1234 10.0.1.0/24")[0];
    assert_eq!(route["metric"], 77, "{route}");
    let log = || fs::read_to_string(lan.file("agent.log")).unwrap_or_default();
    lan.wait_for("no rule yet", || {
        log().contains("table 1234: no IPv4 and no IPv6 rule leads there")
    });
    // Nothing is looked up in the table: what keeps traffic from the default route stays where it was.
    assert_eq!(lan.routes(), ALL);
    lan.gateway.ip("-4 rule add lookup 1234");
    lan.gateway.ip("-6 rule add lookup 1234");
    lan.wait_for("nothing else", || lan.routes().is_empty());
    assert!(!log().contains("undone by others"), "{}", log());
    lan.gateway.ip("route del 10.0.1.0/24 metric 77 table 1234");
    lan.wait_for("repaired", || log().contains("repaired so far: 1 route"));
    assert_eq!(lan.routes_in("1234"), ALL);

    // Started anew, with nothing but the kernel to tell where the routes were.
    drop(agent);
    let agent = lan.agent();
    lan.wait_for("routes of both families", || lan.routes() == ALL);
    lan.wait_for("nothing in the table", || lan.routes_in("1234").is_empty());
    drop(agent);
}

#[test]
fn prometheus_reads_the_figures_and_understands_the_dashboard() {
    let lan = Lan::up();
    let _agent = lan.agent();
    let config = "scrape_configs: [{ job_name: mesh, scrape_interval: 1s, static_configs: [{ targets: ['127.0.0.1:7180'] }] }]";
    fs::write(lan.file("prometheus.yml"), config).expect("written");
    let server = "--web.listen-address=127.0.0.1:9090";
    let mut prometheus = lan.gateway.command("prometheus");
    prometheus
        .args(["--config.file", &lan.file("prometheus.yml"), server])
        .args(["--storage.tsdb.path", &lan.file("tsdb")])
        .stderr(fs::File::create(lan.file("prometheus.log")).expect("a log"));
    let _prometheus = Daemon(prometheus.spawn().expect("prometheus runs"));
    let query = |query: &str| {
        let mut promtool = lan.gateway.command("promtool");
        promtool.args(["query", "instant", "http://127.0.0.1:9090", query]);
        promtool.output().expect("promtool runs")
    };
    // BIRD announces one prefix that is not the site's.
    for holds in [
        r#"routemesh_bgp_up{peer="fd00:1::254"} == 1"#,
        "routemesh_rejected_prefixes == 1",
        r#"increase(routemesh_bgp_received_messages_total{peer="fd00:1::254"}[1m]) >= 0"#,
    ] {
        lan.wait_for(holds, || !query(holds).stdout.is_empty());
    }

    let packaging = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging");
    let dashboard = fs::read_to_string(format!("{packaging}/grafana/routemesh.json"));
    let dashboard: Value = serde_json::from_str(&dashboard.expect("read")).expect("JSON");
    for panel in dashboard["panels"].as_array().expect("panels") {
        let asked = panel["targets"][0]["expr"].as_str().expect("a query");
        let filled = asked.replace("$instance", ".*");
        let answer = query(&filled.replace("$__rate_interval", "1m"));
        let error = String::from_utf8_lossy(&answer.stderr);
        assert!(answer.status.success(), "{asked}: {error}");
    }
    let rules = format!("{packaging}/prometheus/routemesh");
    space::run("promtool", &["check", "rules", &format!("{rules}.yml")]);
    space::run("promtool", &["test", "rules", &format!("{rules}.test.yml")]);
}

#[test]
fn two_agents_cannot_run_the_same_gateway_nor_share_a_namespace() {
    let lan = Lan::up();
    let _agent = lan.agent();
    lan.wait_for("the first", || !lan.routes().is_empty());
    let down = |state: &str| {
        let output = lan
            .gateway
            .command(env!("CARGO_BIN_EXE_mesh-agent"))
            .args(["down", "--state-dir", &lan.file(state)])
            .output()
            .expect("it runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = down("state");
    assert!(error.contains("another mesh-agent runs"), "{error}");
    fs::create_dir(lan.file("other")).expect("made");
    fs::copy(lan.file("state/config.toml"), lan.file("other/config.toml")).expect("copied");
    let error = down("other");
    assert!(error.contains("has an agent already"), "{error}");
    assert!(!lan.routes().is_empty());
}

#[test]
fn down_takes_leave_and_removes_what_is_ours_and_nothing_else() {
    let lan = Lan::up();
    for foreign in [
        "route add 10.9.0.0/24 dev lan0 proto static",
        "-6 route add unreachable 2001:db8:9::/64 metric 4294967295 proto 12",
        "nexthop add id 7 via fd00:1::254 dev lan0",
    ] {
        lan.gateway.ip(foreign);
    }
    let agent = lan.agent();
    lan.wait_for("routes of both families", || lan.routes() == ALL);
    drop(agent);
    let down = lan.down();
    // charon is away here, and whoever takes a gateway down has to know.
    let told = String::from_utf8_lossy(&down.stderr);
    assert!(told.contains("charon") && !down.status.success(), "{told}");
    assert_eq!(lan.routes(), [""; 0]);
    assert_eq!(lan.gateway.json("nexthop show proto 82"), [Value::Null; 0]);
    let session = lan.birdc("show protocols all v11");
    assert!(session.contains("Administrative shutdown"), "{session}");
    assert!(lan.gateway.ip("route show").contains("10.9.0.0/24"));
    assert!(lan.gateway.ip("-6 route show").contains("2001:db8:9::/64"));
    assert_eq!(lan.gateway.json("nexthop show id 7").len(), 1);
}

#[test]
fn what_is_left_can_be_taken_down_where_the_overlay_is_gone() {
    let lan = Lan::up();
    let overlay = Space::new();
    let agent = lan.agent_with(|config| config.overlay.clone_from(&overlay.0));
    lan.wait_for("routes in the overlay", || {
        overlay.json("route show proto 82").len() == 1
    });
    drop(agent);
    drop(overlay);
    let down = lan.down();
    let told = String::from_utf8_lossy(&down.stderr);
    // Not a word of the namespace.
    assert!(
        told.starts_with("charon") && told.lines().count() == 1,
        "{told}"
    );
}

#[test]
fn a_router_in_the_same_as_is_as_good() {
    let lan = Lan::with(65000);
    let _agent = lan.agent();
    lan.wait_for("routes of both families", || lan.routes() == ALL);
}
