//! The reference lab as its author has it: an AS for each site and eBGP between them, OSPF by BIRD
//! within, both families outside. With it the networks behind routers of the other page.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::mesh::Mesh;
use routemesh_tests::lab::report::{measured, say, wait_until};
use routemesh_tests::lab::settle::{COLD, SETTLE};
use routemesh_tests::lab::sniff::{Sniffer, in_clear};
use routemesh_tests::lab::topology::{Gateway, PUBLIC, Topology, prefixes, private4, private6};
use routemesh_tests::lab::traffic::Traffic;
use serde_json::Value;

use super::gateway;

const REFERENCE: &str = include_str!("../../../examples/reference-lab.toml");
const ROUTED: &str = include_str!("../../../examples/routed-networks.toml");

const V1_1: Gateway = gateway(1, 1);
const V1_2: Gateway = gateway(1, 2);

/// Networks behind the routers of sites one and two.
const BEHIND: [(usize, &str, &str); 2] =
    [(1, "16.0.0.0/8", "16.0.0.1"), (2, "48.0.0.0/8", "48.0.0.1")];

/// For as long a flow may be without packets: BFD is slow here, and BIRD looks every two seconds.
const BOUND: Duration = Duration::from_secs(15);

#[test]
fn the_reference_lab_whole() -> Result<()> {
    let mut lab = Lab::start("reference", Topology::three_sites())?;
    second_family(&lab)?;
    networks_behind_routers(&lab)?;
    lab.speak_ospf(|site| {
        if site == 2 {
            bgp_of_r2()
        } else {
            String::new()
        }
    })?;
    let lab = lab;
    table::count_marks(&lab)?;
    let mut mesh = Mesh::start(&lab, &spec())?;
    let edges = wait_for_edges(&lab, &mut mesh)?;
    say("all tunnels up");
    for gateway in lab.topology().gateways() {
        let expected = expected(gateway, &edges);
        wait_until(&format!("paths of {}", gateway.name()), COLD, || {
            same(&gateway, &devices(&lab, gateway)?, &expected)
        })?;
    }
    for (site, prefix) in [(1, prefixes(2)), (2, prefixes(3)), (3, prefixes(1))]
        .into_iter()
        .flat_map(|(site, both)| both.map(|prefix| (site, prefix)))
        .chain([(1, BEHIND[1].1.to_owned()), (2, BEHIND[0].1.to_owned())])
    {
        wait_until(&format!("{prefix} at R{site} by OSPF"), SETTLE, || {
            by_ospf(&lab, site, &prefix, 2)
        })?;
    }
    for (one, other) in [(1, 2), (1, 3), (2, 3)] {
        let what = format!("ping between sites {one} and {other}");
        wait_until(&what, SETTLE, || lab.ping(one, other))?;
    }
    let [(_, _, ne0), (_, _, ne1)] = BEHIND;
    wait_until("16.0.0.1 reaches 48.0.0.1", SETTLE, || {
        lab.router(1)
            .run(&["ping", "-n", "-c1", "-W2", "-I", ne0, ne1])
            .map(drop)
    })?;
    wait_until("everybody announces its own", SETTLE, || {
        nobody_says_what_is_not_its_own(&lab, &mesh)
    })?;
    what_ospf_loses_is_gone(&lab, &edges)?;

    // From here on what R1 sends to R2 goes to V1-1 and nowhere else.
    let [from6, from4, to6, to4] = [private6(1), private4(1), private6(2), private4(2)];
    lab.router(1).ip_batch(&[
        format!("route add {to6}/128 via {} src {from6}", V1_1.lan()),
        format!("route add {to4}/32 via 172.16.1.1 src {from4}"),
    ])?;
    table::holds(&lab, &mesh)?;
    lost_by_one_of_two(&lab, &mut mesh, &edges)?;
    faults(&lab, &mut mesh, &edges)?;
    lab.passed()
}

/// R3 says no more of its network: the mesh forgets it, and learns it again.
fn what_ospf_loses_is_gone(lab: &Lab, edges: &Edges) -> Result<()> {
    let [gone, _] = prefixes(3);
    for (command, there) in [("disable", false), ("enable", true)] {
        lab.bird(3).ask(&format!("{command} private_ipv6"))?;
        for gateway in lab
            .topology()
            .gateways()
            .into_iter()
            .filter(|it| it.site != 3)
        {
            let mut expected = expected(gateway, edges);
            if !there {
                expected.remove(&gone);
            }
            wait_until(&format!("{command}: {}", gateway.name()), SETTLE, || {
                same(&gateway, &devices(lab, gateway)?, &expected)
            })?;
        }
    }
    Ok(())
}

/// Site two is lost to V1-1 and not to V1-2: its traffic goes over the segment, by OSPF's route.
fn lost_by_one_of_two(lab: &Lab, mesh: &mut Mesh<'_>, edges: &Edges) -> Result<()> {
    let sniffer = Sniffer::start(lab.host(PUBLIC))?;
    let traffic = Traffic::start(lab, 1, 2)?;
    std::thread::sleep(Duration::from_secs(1));
    lab.deafen(V1_1, &[gateway(2, 1), gateway(2, 2)])?;
    say("V1-1 hears nothing of site two");
    for target in [private6(2), private4(2)] {
        wait_until(&format!("V1-1 sends {target} to V1-2"), SETTLE, || {
            goes_to_v1_2(lab, &target)
        })?;
    }
    wait_until("ping by way of V1-1 and V1-2", SETTLE, || lab.ping(1, 2))?;
    // What OSPF brings back is not taken for V1-1's own: nobody comes to think of it as a way.
    let [lost, _] = prefixes(2);
    wait_until("V1-1 says that it has no way of its own", SETTLE, || {
        let routes = routes(mesh, V1_1)?;
        let mut all = routes["routes"].as_array().into_iter().flatten();
        match all.find(|it| it["prefix"] == *lost && it["paths"] != Value::Array(Vec::new())) {
            None => Ok(()),
            Some(route) => Err(LabError::Unexpected(route.to_string())),
        }
    })?;
    nobody_says_what_is_not_its_own(lab, mesh)?;
    let v3_1 = gateway(3, 1);
    let others: BTreeMap<_, _> = expected(v3_1, edges);
    same(&v3_1, &devices(lab, v3_1)?, &others)?;
    std::thread::sleep(Duration::from_secs(2));
    lab.let_hear(V1_1)?;
    let before = expected(V1_1, edges);
    wait_until("V1-1 has its own ways again", SETTLE, || {
        same(&V1_1, &devices(lab, V1_1)?, &before)?;
        let routes = lab
            .overlay(V1_1)
            .run(&["ip", "-6", "route", "show", &prefixes(2)[0]])?;
        match routes.contains("proto bird") {
            true => Err(LabError::Unexpected(routes)),
            false => Ok(()),
        }
    })?;
    std::thread::sleep(Duration::from_secs(1));
    let total = traffic.end()?;
    measured(
        "site two lost to V1-1, reached by V1-2 over OSPF, and back",
        &total,
    );
    assert!(total.lost > 0, "nothing was lost: was anything cut?");
    assert!(total.longest_gap < BOUND, "{total}");
    let counts = sniffer.stop()?;
    assert_eq!(in_clear(&counts), 0, "{counts:?}");
    mesh.check()
}

/// What happens to V2-1 does not stop what flows between sites one and two.
fn faults(lab: &Lab, mesh: &mut Mesh<'_>, edges: &Edges) -> Result<()> {
    let v2_1 = gateway(2, 1);
    let whole = || {
        for gateway in [V1_1, v2_1] {
            same(&gateway, &devices(lab, gateway)?, &expected(gateway, edges))?;
        }
        Ok(())
    };
    let silent = || {
        lab.cut(v2_1)?;
        wait_until("V1-1 sends nothing to V2-1", SETTLE, || {
            let found = devices(lab, V1_1)?;
            let some = found.get(&prefixes(2)[0]).map_or(0, BTreeSet::len);
            match some < expected(V1_1, edges)[&prefixes(2)[0]].len() {
                true => Ok(()),
                false => Err(LabError::Unexpected(format!("{found:?}"))),
            }
        })?;
        lab.mend(v2_1)
    };
    let charon = || {
        lab.charon(v2_1).kill();
        std::thread::sleep(Duration::from_secs(1));
        lab.charon(v2_1).start_again(lab.underlay(v2_1))?;
        wait_until("SAs of the new charon", SETTLE, || {
            let children = lab.charon(v2_1).children()?.len();
            match children >= edges[&v2_1.name()].len() {
                true => Ok(()),
                false => Err(LabError::Unexpected(format!("{children} CHILD_SAs"))),
            }
        })
    };
    let mut agent = || {
        mesh.kill_agent(v2_1);
        std::thread::sleep(Duration::from_millis(200));
        mesh.start_agent(v2_1)
    };
    type Fault<'a> = &'a mut dyn FnMut() -> Result<()>;
    let faults: [(&str, Fault<'_>); 3] = [
        ("agent of V2-1 killed", &mut agent),
        ("charon of V2-1 killed", &mut { charon }),
        ("V2-1 silent and back", &mut { silent }),
    ];
    for (name, fault) in faults {
        let traffic = Traffic::start(lab, 1, 2)?;
        std::thread::sleep(Duration::from_millis(500));
        say(name);
        let outcome = fault().and_then(|()| {
            std::thread::sleep(Duration::from_secs(2));
            wait_until("all ways", SETTLE, whole)
        });
        std::thread::sleep(Duration::from_secs(1));
        let total = traffic.stop(&format!("reference lab: {name}"))?;
        outcome?;
        assert!(total.longest_gap < BOUND, "{name}: {total}");
    }
    Ok(())
}

/// The kernel of V1-1 sends an address to V1-2, on the segment.
fn goes_to_v1_2(lab: &Lab, target: &str) -> Result<()> {
    let way = lab.overlay(V1_1).ip(&["route", "get", target])?;
    let hop = way[0]["gateway"].as_str().unwrap_or("nowhere");
    let words = ["ip", "-o", "address", "show", "dev", "lan0"];
    let addresses = lab.overlay(V1_2).run(&words)?;
    if way[0]["dev"] == "lan0" && addresses.contains(&format!(" {hop}/")) {
        return Ok(());
    }
    Err(LabError::Unexpected(format!("{way:?}")))
}

/// Every gateway announces its own site's networks and nothing else, whatever OSPF brings it.
fn nobody_says_what_is_not_its_own(lab: &Lab, mesh: &Mesh<'_>) -> Result<()> {
    for gateway in lab.topology().gateways() {
        let own: BTreeSet<_> = owned(gateway.site).collect();
        let routes = routes(mesh, gateway)?;
        let announced = routes["announced"].as_array().into_iter().flatten();
        let announced: BTreeSet<_> = announced.filter_map(Value::as_str).collect();
        if !announced.iter().eq(own.iter()) {
            let name = gateway.name();
            let what = format!("{name} announces {announced:?}, not {own:?}");
            return Err(LabError::Unexpected(what));
        }
    }
    Ok(())
}

/// What a gateway last said of its routes.
fn routes(mesh: &Mesh<'_>, gateway: Gateway) -> Result<Value> {
    let text = mesh.meshctl(&["routes", &gateway.name(), "--output", "json"])?;
    serde_json::from_str(&text)
        .map_err(|error| LabError::Unexpected(format!("meshctl routes: {error}: {text}")))
}

/// What a site owns.
fn owned(site: usize) -> impl Iterator<Item = String> {
    let behind = BEHIND.iter().filter(move |(at, ..)| *at == site);
    let behind = behind.map(|(_, net, _)| (*net).to_owned());
    prefixes(site).into_iter().chain(behind)
}

/// Interfaces of a gateway's tunnels, and the site that each leads to.
type Edges = BTreeMap<String, Vec<(String, usize)>>;

/// Waits until both ends of every tunnel say that it is up: a full mesh over IPv6, and one tunnel
/// over IPv4.
fn wait_for_edges(lab: &Lab, mesh: &mut Mesh<'_>) -> Result<Edges> {
    let mut edges = Vec::new();
    wait_until("13 tunnels", COLD, || {
        mesh.check()?;
        edges = mesh.topology()?["edges"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let up = edges.iter().filter(|edge| edge["verdict"] == "up").count();
        match (edges.len(), up) {
            (13, 13) => Ok(()),
            of => Err(LabError::Unexpected(format!("{of:?}"))),
        }
    })?;
    let mut found = Edges::new();
    for edge in &edges {
        for (own, far) in [("a", "b"), ("b", "a")] {
            let far = edge[far]["gateway"].as_str().unwrap_or_default();
            let site = lab
                .topology()
                .gateways()
                .into_iter()
                .find(|it| it.name() == far);
            let own = edge[own]["gateway"].as_str().unwrap_or_default();
            let ends = found.entry(own.to_owned()).or_default();
            ends.push((
                format!("rm{}", edge["number"]),
                site.map_or(0, |it| it.site),
            ));
        }
    }
    let outer = |edge: &&Value| {
        edge["a"]["endpoint"]
            .as_str()
            .is_some_and(|it| it.contains('.'))
    };
    assert_eq!(edges.iter().filter(outer).count(), 1, "{edges:?}");
    Ok(found)
}

/// Interfaces that prefixes of other sites are reached by.
type Devices = BTreeMap<String, BTreeSet<String>>;

fn expected(gateway: Gateway, edges: &Edges) -> Devices {
    let ends = &edges[&gateway.name()];
    let to = |site: usize| {
        let those = ends.iter().filter(move |(_, far)| *far == site);
        those
            .map(|(interface, _)| interface.clone())
            .collect::<BTreeSet<_>>()
    };
    (1..=3)
        .filter(|site| *site != gateway.site)
        .flat_map(|site| owned(site).map(move |prefix| (prefix, site)))
        .map(|(prefix, site)| (prefix, to(site)))
        .collect()
}

/// As the kernel has it: all next hops of one route, whichever family.
fn devices(lab: &Lab, gateway: Gateway) -> Result<Devices> {
    let overlay = lab.overlay(gateway);
    let mut found = Devices::new();
    for family in ["-4", "-6"] {
        for route in overlay.ip(&[family, "route", "show", "proto", "82", "metric", "50"])? {
            let hops = route["nexthops"].as_array().cloned();
            let hops = hops.unwrap_or_else(|| vec![route.clone()]);
            let names = hops.iter().filter_map(|hop| hop["dev"].as_str());
            let tunnels: BTreeSet<_> = names.filter(|it| it.starts_with("rm")).collect();
            let prefix = route["dst"].as_str().unwrap_or_default().to_owned();
            // What routers on the LAN say of their own is no tunnel's.
            if !tunnels.is_empty() {
                found.insert(prefix, tunnels.into_iter().map(str::to_owned).collect());
            }
        }
    }
    Ok(found)
}

fn same(gateway: &Gateway, found: &Devices, expected: &Devices) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(LabError::Unexpected(format!(
        "{} has {found:?}, not {expected:?}",
        gateway.name()
    )))
}

/// A router has so many ways to a prefix, all of BIRD's.
fn by_ospf(lab: &Lab, site: usize, prefix: &str, wanted: usize) -> Result<()> {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    let routes = lab
        .router(site)
        .ip(&[family, "route", "show", prefix, "proto", "bird"])?;
    let ways: usize = routes
        .iter()
        .map(|route| route["nexthops"].as_array().map_or(1, Vec::len))
        .sum();
    if ways == wanted {
        return Ok(());
    }
    Err(LabError::Unexpected(format!("{ways} ways: {routes:?}")))
}

/// The example, with the options of the other one and its networks behind routers: V1-1 and V1-2
/// have a static route of the operator's, V2-1 and V2-2 a router of their own AS that tells them.
fn spec() -> String {
    let options = ROUTED.find("[mesh.ike]").zip(ROUTED.find("[sites."));
    let options = options.map_or("", |(from, to)| &ROUTED[from..to]);
    let mut spec = format!("{REFERENCE}\n{options}");
    let mut change = |from: &str, to: &str| {
        assert!(spec.contains(from), "{from}");
        spec = spec.replacen(from, to, 1);
    };
    // Processors are emulated, and what is tried here is no matter of seconds.
    let patient = "bfd = { interval = \"300ms\", multiplier = 10 }\nhold_time = 30\n";
    change("[mesh]\n", &format!("[mesh]\n{patient}"));
    for (site, net, _) in BEHIND {
        let own = format!("\"10.0.{site}.0/24\"");
        change(&own, &format!("{own}, \"{net}\""));
        for member in 1..=2 {
            let overlay = format!("overlay = \"V{site}-{member}-private\"\nannounce = [\"bird\"");
            let more = match site {
                1 => ", \"boot\"]",
                _ => "]\nrouters = [{ address = \"fd00:2::254\", as = 65002 }]",
            };
            change(&format!("{overlay}]"), &format!("{overlay}{more}"));
        }
    }
    spec
}

/// IPv4 addresses outside.
fn second_family(lab: &Lab) -> Result<()> {
    [V1_2, gateway(2, 2)].into_iter().try_for_each(|gateway| {
        let line = format!("address add 192.0.2.{}2/24 dev eth0", gateway.site);
        lab.underlay(gateway).ip_batch(&[line])
    })
}

fn networks_behind_routers(lab: &Lab) -> Result<()> {
    for (site, _, address) in BEHIND {
        lab.router(site).ip_batch(&[
            "link add net1 up type dummy".to_owned(),
            format!("address add {address}/8 dev net1"),
        ])?;
    }
    for gateway in [V1_1, V1_2] {
        let line = format!("route add {} via 172.16.1.254", BEHIND[0].1);
        lab.overlay(gateway).ip_batch(&[line])?;
    }
    Ok(())
}

/// R2 tells the gateways of its site what is behind it by iBGP, and takes nothing.
fn bgp_of_r2() -> String {
    let session = |member: usize| {
        format!(
            "protocol bgp {{ local fd00:2::254 as 65002; neighbor fd00:2::{member} as 65002;
                hold time 9; connect retry time 1; connect delay time 1; error wait time 1, 3;
                ipv4 {{ import none; export where source = RTS_STATIC; extended next hop on; }};
                ipv6 {{ import none; export none; }}; }}\n"
        )
    };
    let behind = BEHIND[1].1;
    format!(
        "protocol static {{ ipv4; route {behind} via \"net1\"; }}\n{}{}",
        session(1),
        session(2)
    )
}
