//! Gateways that are not ours: `examples/oracle.toml` against plain strongSwan on the cloud's side.
//!
//! A test brings up a lab of its own; run it through `tests/vm/run`.

mod cloud;
mod dynamic;
mod faults;
mod health;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cloud::{Cloud, MACHINE, PLAIN, SELECTORS};
use routemesh_tests::lab::charon::Charon;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::mesh::program;
use routemesh_tests::lab::probe::Probe;
use routemesh_tests::lab::process::Process;
use routemesh_tests::lab::report::{measured, say, wait_until};
use routemesh_tests::lab::spaces::Spaces;
use routemesh_tests::lab::vici::Word;

/// How long a change may take to be all around.
const SETTLE: Duration = Duration::from_secs(60);
/// Packets a second, over so many flows.
const RATE: u32 = 100;
const FLOWS: usize = 16;
/// How long traffic is watched.
const WATCH: Duration = Duration::from_secs(3);

/// The gateway that holds the tunnels, and the interfaces that its golden config gives them: of either
/// family, through either tunnel.
const HOME: &str = "192.0.2.1";
const INTERFACES: [[&str; 2]; 2] = [["rm1", "rm6"], ["rm3", "rm10"]];
/// A machine at home.
const LAN: [&str; 2] = ["192.168.1.10", "2001:db8:f00f::10"];
/// At the other site.
const SHOP: &str = "203.0.113.9";
const TILL: &str = "192.168.3.1";
/// The customer who knows no interfaces.
const NAIVE: &str = "192.0.2.7";

/// Both families, each over both tunnels, and who does what for it.
struct Lab {
    cloud: Cloud,
    home: Gateway,
    shop: Gateway,
    lan: Host,
    // The last to go.
    spaces: Spaces,
}

struct Gateway {
    underlay: Host,
    overlay: Host,
    charon: Charon,
    identity: PathBuf,
    agent: Process,
}

/// A switch that everybody is at.
fn internet(spaces: &Spaces) -> Result<Host> {
    let internet = spaces.host("internet")?;
    internet.ip_batch(&["link add switch up type bridge stp_state 0".to_owned()])?;
    Ok(internet)
}

/// A port in the internet, with an address there and a route to everybody else.
fn plug(internet: &Host, host: &Host, name: &str, address: &str) -> Result<()> {
    internet.ip_batch(&[
        format!(
            "link add {name} master switch type veth peer name wan netns {}",
            host.name()
        ),
        format!("link set {name} up"),
    ])?;
    let mut lines = vec![
        "link set wan up".to_owned(),
        format!("address add {address} dev wan"),
    ];
    let nets = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"];
    let own = |net: &&&str| !address.starts_with(net.trim_end_matches("0/24"));
    lines.extend(
        nets.iter()
            .filter(own)
            .map(|net| format!("route add {net} dev wan")),
    );
    host.ip_batch(&lines)
}

/// Of the agent, in its gateway's folder.
const CONFIG: &str = "agent.toml";

fn run_agent(underlay: &Host, charon: &Charon, identity: &Path) -> Result<Process> {
    let dir = underlay.dir();
    let mut command = Command::new(program("mesh-agent")?);
    command.arg("run").arg("--config").arg(dir.join(CONFIG));
    command.arg("--identity").arg(identity);
    command.arg("--state-dir").arg(dir.join("state"));
    command.arg("--vici").arg(charon.socket());
    underlay.spawn("agent", command)
}

impl Gateway {
    fn start(
        spaces: &Spaces,
        internet: &Host,
        name: &str,
        outer: &str,
        lan: impl FnOnce(&Host) -> Result<()>,
        identity: &Path,
        // Golden files hold no secret: here they are, in order. And what else is other than there.
        (golden, keys, edit): (&str, &[String], fn(String) -> String),
    ) -> Result<Self> {
        let (underlay, overlay) = (spaces.host(name)?, spaces.host(&format!("{name}-private"))?);
        plug(internet, &underlay, name, &format!("{outer}/24"))?;
        lan(&overlay)?;
        let charon = Charon::start(&underlay)?;
        charon.wait()?;
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/golden");
        let file = PathBuf::from(file).join(golden);
        let text = std::fs::read_to_string(&file).map_err(LabError::io("a golden config"))?;
        let put = |text: String, key: &String| text.replacen("(secret)", key, 1);
        let text = keys.iter().fold(text, put);
        let private = format!("overlay = \"{}\"", overlay.name());
        let text = text.replacen("overlay = \"\"", &private, 1);
        // An emulated processor may be silent for longer than BFD is told to wait on a real one.
        let text = text.replacen("multiplier = 3", "multiplier = 10", 1);
        let config = underlay.dir().join(CONFIG);
        std::fs::write(&config, edit(text)).map_err(LabError::io(CONFIG))?;
        let owner_only = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&config, owner_only).map_err(LabError::io(CONFIG))?;
        let agent = run_agent(&underlay, &charon, identity)?;
        Ok(Self {
            underlay,
            overlay,
            charon,
            identity: identity.to_owned(),
            agent,
        })
    }

    /// The interfaces that a prefix's traffic is spread over.
    fn ways(&self, prefix: &str) -> Result<Vec<String>> {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        let words = [family, "route", "show", prefix, "proto", "82"];
        let routes = self.overlay.ip(&words)?;
        let carries = routes.iter().find(|it| it["metric"].as_u64() == Some(50));
        let Some(id) = carries.and_then(|route| route["nhid"].as_u64()) else {
            return Ok(Vec::new());
        };
        let nexthops = self.overlay.ip(&["nexthop"])?;
        let with = |id: u64| {
            nexthops
                .iter()
                .find(move |it| it["id"].as_u64() == Some(id))
        };
        let group = with(id).map(|it| it["group"].as_array().cloned().unwrap_or_default());
        let members = group
            .into_iter()
            .flatten()
            .filter_map(|it| it["id"].as_u64());
        let devices = members.filter_map(|id| with(id)?["dev"].as_str().map(str::to_owned));
        let mut devices: Vec<String> = devices.collect();
        devices.sort_by_key(|name| (name.len(), name.clone()));
        Ok(devices)
    }

    /// Packets sent and received by each interface so far.
    fn counters(&self) -> Result<BTreeMap<String, [u64; 2]>> {
        let read = || std::fs::read_to_string("/proc/thread-self/net/dev");
        let table = self.overlay.enter(read)?.map_err(LabError::io("net/dev"))?;
        let counts = table.lines().filter_map(|line| {
            let (name, numbers) = line.split_once(':')?;
            let mut numbers = numbers.split_whitespace();
            let received = numbers.nth(1)?.parse().ok()?;
            let sent = numbers.nth(7)?.parse().ok()?;
            Some((name.trim().to_owned(), [sent, received]))
        });
        Ok(counts.collect())
    }
}

/// A certificate for each of these gateways of the mesh.
fn identities<const N: usize>(spaces: &Spaces, names: [&str; N]) -> Result<Vec<PathBuf>> {
    let host = spaces.host("ca")?;
    let (controller, dir) = (program("mesh-controller")?, host.dir().join("ca"));
    let dir = dir.display().to_string();
    host.run(&[&controller, "init", "--dir", &dir])?;
    let issue = |name: &str| {
        let out = host.dir().join(name);
        let out_text = out.display().to_string();
        let words = [
            "issue",
            "--dir",
            &dir,
            "--gateway",
            name,
            "--out",
            &out_text,
        ];
        host.run(&[&[controller.as_str()], &words[..]].concat())?;
        Ok(out)
    };
    names.into_iter().map(issue).collect()
}

impl Lab {
    fn start() -> Result<Self> {
        let spaces = Spaces::new("foreign")?;
        let identities = identities(&spaces, ["home-1", "shop-1"])?;
        let internet = internet(&spaces)?;
        let cloud = Cloud::start(&spaces, &internet)?;
        let lan = spaces.host("lan")?;
        let home_lan = |overlay: &Host| {
            overlay.ip_batch(&[
                format!(
                    "link add lan0 type veth peer name eth0 netns {}",
                    lan.name()
                ),
                "link set lan0 up".to_owned(),
                "address add 192.168.1.1/24 dev lan0".to_owned(),
                "address add 2001:db8:f00f::1/64 dev lan0".to_owned(),
            ])?;
            lan.ip_batch(&[
                "link set eth0 up".to_owned(),
                format!("address add {}/24 dev eth0", LAN[0]),
                format!("address add {}/64 dev eth0", LAN[1]),
                "route add default via 192.168.1.1".to_owned(),
                "route add default via 2001:db8:f00f::1".to_owned(),
            ])
        };
        let shop_lan = |overlay: &Host| {
            overlay.ip_batch(&[
                "link add lan0 up type dummy".to_owned(),
                format!("address add {TILL}/24 dev lan0"),
            ])
        };
        // Both CHILD_SAs of a tunnel have its key.
        let (keys, none) = ([1, 1, 2, 2].map(cloud::key), []);
        let config = ("oracle/home-1.toml", &keys[..], health::with_pings as _);
        let home = (&identities[0], config);
        let home = Gateway::start(&spaces, &internet, "home", HOME, home_lan, home.0, home.1)?;
        let config = ("oracle/shop-1.toml", &none[..], std::convert::identity as _);
        let shop = (&identities[1], config);
        let shop = Gateway::start(&spaces, &internet, "shop", SHOP, shop_lan, shop.0, shop.1)?;
        for endpoint in &cloud.endpoints {
            endpoint.charon.wait()?;
            endpoint.load("customer", HOME, &children())?;
        }
        Ok(Self {
            cloud,
            home,
            shop,
            lan,
            spaces,
        })
    }

    fn check(&mut self) -> Result<()> {
        self.home.agent.check()?;
        self.shop.agent.check()
    }

    /// Waits until IPv4 and IPv6 go these ways.
    fn await_ways(&mut self, what: &str, ways: [&[&str]; 2]) -> Result<()> {
        say(what);
        wait_until(what, SETTLE, || {
            self.check()?;
            for ([_, prefix], expected) in SELECTORS.iter().zip(ways) {
                let found = self.home.ways(prefix)?;
                if found != expected {
                    return Err(LabError::Unexpected(format!(
                        "{prefix} goes by {found:?}, not {expected:?}"
                    )));
                }
            }
            Ok(())
        })
    }

    /// Pings the cloud's machine from home, and from the shop through home.
    fn ping(&self) -> Result<()> {
        let pairs = [
            (&self.lan, LAN[0], MACHINE[0]),
            (&self.lan, LAN[1], MACHINE[1]),
            (&self.shop.overlay, TILL, MACHINE[0]),
        ];
        for (host, from, to) in pairs {
            host.run(&["ping", "-n", "-c1", "-W2", "-I", from, to])?;
        }
        Ok(())
    }

    /// Both directions and families.
    fn probes(&self) -> Result<Vec<Probe>> {
        let mut probes = Vec::new();
        for (here, there) in LAN.iter().zip(MACHINE) {
            let (home, cloud) = ((&self.lan, *here), (&self.cloud.router, there));
            probes.push(Probe::start(home, cloud, FLOWS, RATE)?);
            probes.push(Probe::start(cloud, home, FLOWS, RATE)?);
        }
        Ok(probes)
    }

    /// Traffic in both directions and families, of which nothing is lost while nothing happens; what
    /// each interface carried of it, out and in.
    fn traffic(&self, what: &str) -> Result<BTreeMap<String, [u64; 2]>> {
        wait_until("pings to the cloud", SETTLE, || self.ping())?;
        let before = self.home.counters()?;
        let probes = self.probes()?;
        std::thread::sleep(WATCH);
        let reports: Vec<_> = probes.into_iter().map(Probe::stop).collect::<Result<_>>()?;
        let lost: usize = reports.iter().map(|it| it.lost).sum();
        let sent: usize = reports.iter().map(|it| it.sent).sum();
        measured(
            &format!("a cloud, {what}"),
            format_args!("{lost} of {sent} packets lost"),
        );
        assert_eq!(lost, 0, "{what}: {reports:?}");
        let mut carried = self.home.counters()?;
        for (name, counts) in &mut carried {
            let before = before.get(name).copied().unwrap_or_default();
            *counts = [counts[0] - before[0], counts[1] - before[1]];
        }
        Ok(carried)
    }
}

/// The children of a tunnel as the cloud has them.
fn children() -> [(&'static str, [&'static str; 2]); 2] {
    [("ipv4", SELECTORS[0]), ("ipv6", SELECTORS[1])]
}

/// Every policy of ours once.
fn no_policy_twice(host: &Host) -> Result<()> {
    let text = host.run(&["ip", "xfrm", "policy"])?;
    // "src A dst B", then a line each for direction and template, and at the end the interface.
    let mut policies: BTreeMap<String, usize> = BTreeMap::new();
    for policy in text.replace("\nsrc ", "\u{0}src ").split('\u{0}') {
        let mut lines = policy.lines();
        let selectors = lines.next().unwrap_or_default().trim();
        let direction = policy
            .split_whitespace()
            .skip_while(|it| *it != "dir")
            .nth(1);
        let interface = policy
            .split_whitespace()
            .skip_while(|it| *it != "if_id")
            .nth(1);
        if let Some(interface) = interface {
            let key = format!("{selectors} {} {interface}", direction.unwrap_or_default());
            *policies.entry(key).or_default() += 1;
        }
    }
    let of_foreign = |key: &&String| {
        INTERFACES
            .iter()
            .flatten()
            .any(|it| key.ends_with(&if_id(it)))
    };
    assert_eq!(policies.keys().filter(of_foreign).count(), 12, "{text}");
    assert!(policies.values().all(|count| *count == 1), "{policies:?}");
    Ok(())
}

fn if_id(interface: &str) -> String {
    let number: u32 = interface.trim_start_matches("rm").parse().unwrap_or(0);
    format!("{:#x}", 0x5200_0000 + number)
}

#[test]
fn both_tunnels_of_a_cloud_carry_both_families_and_each_alone_does() -> Result<()> {
    let mut lab = Lab::start()?;
    let [v4, v6] = INTERFACES;
    lab.await_ways("both tunnels", [&v4, &v6])?;
    no_policy_twice(&lab.home.underlay)?;
    let carried = lab.traffic("both tunnels")?;
    for interface in INTERFACES.iter().flatten() {
        let [sent, received] = carried[*interface];
        assert!(sent > 20 && received > 20, "{interface}: {carried:?}");
    }
    // The other site goes through home.
    wait_until("the shop's route", SETTLE, || {
        match lab.shop.ways(SELECTORS[0][1])? {
            ways if ways == ["rm0"] => Ok(()),
            ways => Err(LabError::Unexpected(format!("{ways:?}"))),
        }
    })?;

    for (down, left) in [(0, 1), (1, 0)] {
        lab.cloud.use_endpoints(&[left + 1])?;
        lab.cloud.endpoints[down].unload("customer")?;
        let what = format!("tunnel {} alone", left + 1);
        lab.await_ways(&what, [&[v4[left]], &[v6[left]]])?;
        lab.traffic(&what)?;
        lab.cloud.endpoints[down].load("customer", HOME, &children())?;
        lab.await_ways("both tunnels again", [&v4, &v6])?;
        lab.cloud.use_endpoints(&[1, 2])?;
    }
    no_policy_twice(&lab.home.underlay)?;

    // IPv4 of one tunnel goes, and IPv6 stays.
    lab.cloud.use_endpoints(&[2])?;
    lab.cloud.endpoints[0].load("customer", HOME, &children()[1..])?;
    lab.cloud.endpoints[0].close("ipv4")?;
    lab.await_ways("IPv4 by one tunnel, IPv6 by both", [&v4[1..], &v6])?;
    lab.traffic("IPv4 by one tunnel, IPv6 by both")?;
    lab.cloud.endpoints[0].load("customer", HOME, &children())?;
    lab.await_ways("all again", [&v4, &v6])?;
    lab.cloud.use_endpoints(&[1, 2])?;
    lab.traffic("all again")?;
    no_policy_twice(&lab.home.underlay)?;

    lab.silence()?;

    lab.faults()?;
    no_policy_twice(&lab.home.underlay)?;

    // Neither: nothing leaves in clear.
    for endpoint in &lab.cloud.endpoints {
        endpoint.unload("customer")?;
    }
    lab.await_ways("no tunnel", [&[], &[]])?;
    let routes = lab.home.overlay.run(&["ip", "route", "get", MACHINE[0]]);
    assert!(routes.is_err(), "unreachable: {routes:?}");
    policies_alone_serve_one_tunnel(&lab)?;
    let keys = [cloud::key(1), cloud::key(2), faults::NEW_KEY.to_owned()];
    lab.spaces.keep_secrets(&keys)?;
    lab.spaces.passed();
    Ok(())
}

/// What sent the author of that page to interfaces: two tunnels with the same selectors, as policies.
fn policies_alone_serve_one_tunnel(lab: &Lab) -> Result<()> {
    say("the same two tunnels without interfaces");
    let naive = &lab.home.underlay;
    naive.ip_batch(&[format!("address add {NAIVE}/24 dev wan")])?;
    for (number, endpoint) in (1..).zip(&lab.cloud.endpoints) {
        let (name, far) = (format!("naive{number}"), cloud::outer(number));
        endpoint.load("naive", NAIVE, &[("naive", PLAIN)])?;
        let charon = &lab.home.charon;
        cloud::load_key(charon, &name, &endpoint.key, [NAIVE, &far])?;
        let children = [(name.as_str(), PLAIN)];
        cloud::load(charon, &name, [NAIVE, &far], &children, "restart")?;
        charon.order(
            "initiate",
            &[Word::Text("child", &name), Word::Text("timeout", "20000")],
        )?;
    }
    let children = lab.home.charon.children()?;
    let up = children.iter().filter(|it| it.name.starts_with("naive"));
    assert_eq!(up.count(), 2, "both tunnels are up: {children:?}");
    let text = naive.run(&[
        "ip", "xfrm", "policy", "list", "dir", "out", "src", PLAIN[0],
    ])?;
    let templates = text.matches("tmpl src").count();
    assert_eq!(templates, 1, "one of them has no policy to send by: {text}");
    Ok(())
}
