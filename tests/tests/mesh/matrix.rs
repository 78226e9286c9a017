//! The fault matrix: one mesh, and one fault after the other while packets flow between sites one
//! and two. Each row is a figure: what was lost, and when all was well again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::charon::Charon;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::mesh::Mesh;
use routemesh_tests::lab::observe::Tunnel;
use routemesh_tests::lab::report::{measured, say, wait_until};
use routemesh_tests::lab::settle::SETTLE;
use routemesh_tests::lab::sniff::{Sniffer, in_clear};
use routemesh_tests::lab::topology::{Gateway, PUBLIC, Topology, prefixes};
use routemesh_tests::lab::traffic::Traffic;
use routemesh_tests::lab::vici::Child;

use super::steady::capture_sees_what_is_in_clear;
use super::{gateway, link_kind, mesh_up, spec, tunnel as tunnel_kind};

/// Starts the IKE_SAs of all its tunnels.
const V1_1: Gateway = gateway(1, 1);
/// Waits for those to site one to be started.
const V2_1: Gateway = gateway(2, 1);

/// How long any row may be without packets: BFD here is slow, and so are the processors.
const BOUND: Duration = Duration::from_secs(15);

/// What a row may cost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cost {
    Nothing,
    Bounded,
}
use Cost::{Bounded, Nothing};

/// A row: packets flow, it happens, all is well again, packets flow a little longer.
fn row(
    lab: &Lab,
    name: &str,
    cost: Cost,
    fault: impl FnOnce() -> Result<()>,
    healed: impl FnMut() -> Result<()>,
) -> Result<()> {
    let traffic = Traffic::start(lab, 1, 2)?;
    std::thread::sleep(Duration::from_millis(500));
    say(name);
    let mut start = Instant::now();
    let outcome = fault().and_then(|()| {
        start = Instant::now();
        wait_until(name, SETTLE, healed)
    });
    let seconds = start.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(1));
    // Also where it did not heal: its ports are those of the next.
    let total = traffic.end()?;
    if let Err(error) = outcome {
        say(&error);
        return Err(error);
    }
    measured(name, format_args!("{total}, well after {seconds:.1} s"));
    if cost == Nothing && total.lost > 0 || total.longest_gap > BOUND {
        return Err(LabError::Unexpected(format!("{name}: {total}")));
    }
    Ok(())
}

#[test]
fn every_fault_heals_by_itself_and_nothing_leaks() -> Result<()> {
    let lab = Lab::start("matrix", Topology::three_sites())?;
    let mut mesh = mesh_up(&lab, &spec())?;
    let sniffer = Sniffer::start(lab.host(PUBLIC))?;
    let mut rows = keys_deleted(&lab);
    rows.extend(charon_killed(&lab, V2_1));
    // With VTI only what differs: by what SAs and policies are known.
    if tunnel_kind() == "xfrm" {
        rows.extend(charon_silent(&lab));
        rows.extend(rekeyed(&lab));
        rows.push(both_initiate(&lab));
        rows.extend(deleted(&lab));
        rows.extend(underlay(&lab));
        rows.extend(configured(&lab, &mut mesh));
    }
    let counts = sniffer.stop()?;
    assert_eq!(in_clear(&counts), 0, "{counts:?}");
    capture_sees_what_is_in_clear(&lab)?;
    lab.check_fail_closed(V1_1)?;
    mesh.check()?;
    let failed: Vec<_> = rows.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    lab.passed()
}

/// SAs replaced by new ones in good order, both ends at once.
fn rekeyed(lab: &Lab) -> Vec<Result<()>> {
    let kinds = [
        ("CHILD_SAs of V1-1 rekeyed", "child", false),
        ("IKE_SAs of V1-1 rekeyed", "ike", false),
        ("IKE_SAs of V1-1 authenticated again", "ike", true),
    ];
    let kinds = kinds.into_iter();
    kinds
        .map(|(name, what, reauth)| {
            let before = spis(lab, V1_1)?;
            let rekey = || rekey(lab, V1_1, what, reauth);
            let replaced = || {
                ends(lab, V1_1)?;
                let same = spis(lab, V1_1)?.intersection(&before).count();
                match what == "ike" && !reauth || same == 0 {
                    true => Ok(()),
                    false => Err(LabError::Unexpected(format!("{same} SAs are the same"))),
                }
            };
            // Nobody knows beforehand, and who answers sends by the new SA before who asked has it.
            let cost = if reauth { Bounded } else { Nothing };
            row(lab, name, cost, rekey, replaced)
        })
        .collect()
}

/// Both ends of a tunnel make its SAs in the same moment, beside the agents, which would not.
fn both_initiate(lab: &Lab) -> Result<()> {
    // Not one that other rows kill: it would be held for longer and longer.
    let gateways = [gateway(1, 2), gateway(2, 2)];
    let link = tunnel(lab, gateways[0], gateways[1]).interface();
    let ends = gateways.map(|gateway| lab.charon(gateway));
    let of = |charon: &Charon| -> Result<Vec<Child>> {
        let mut children = charon.children()?;
        children.retain(|it| it.connection.starts_with(&format!("{link}-")));
        Ok(children)
    };
    let mut most = 0;
    let both = || {
        let known = [of(ends[0])?, of(ends[1])?];
        ends[0].terminate(&known[0][0].connection)?;
        for (charon, children) in ends.iter().zip(&known) {
            charon.initiate(&children[0].connection, &children[0].name)?;
        }
        wait_until("several SAs of one tunnel", SETTLE, || {
            most = most.max(of(ends[0])?.len());
            match most {
                0 | 1 => Err(LabError::Unexpected(format!("{most} SAs"))),
                _ => Ok(()),
            }
        })
    };
    let name = "both ends of a tunnel initiate at once";
    row(lab, name, Bounded, both, || {
        for charon in ends {
            let children = of(charon)?;
            if children.len() != 1 {
                return Err(LabError::Unexpected(format!("{link}: {children:?}")));
            }
        }
        whole(lab, gateways[0])
    })
}

/// All SAs of a gateway: `what` is `child` or `ike`.
fn rekey(lab: &Lab, gateway: Gateway, what: &str, reauth: bool) -> Result<()> {
    let charon = lab.charon(gateway);
    for child in charon.children()? {
        let name = match what {
            "child" => &child.name,
            _ => &child.connection,
        };
        charon.rekey(what, name, reauth)?;
    }
    Ok(())
}

/// Objects of ours, deleted by somebody else in the overlay of V1-1.
fn deleted(lab: &Lab) -> Vec<Result<()>> {
    let tunnel = tunnel(lab, V1_1, V2_1);
    let overlay = lab.overlay(V1_1);
    let link = tunnel.interface();
    let [site2, _] = prefixes(2);
    let own = tunnel.address(V1_1);
    let delete = |line: String| overlay.ip_batch(&[line]);
    let nexthops = |groups: bool| {
        let all = overlay.ip(&["nexthop", "show", "proto", "82"])?;
        let all = all.iter().filter(|it| it["group"].is_array() == groups);
        let lines = all.map(|it| format!("nexthop delete id {}", it["id"]));
        overlay.ip_batch(&lines.collect::<Vec<_>>())
    };
    let table = |verb: &str| {
        let words = ["nft", verb, "table", "inet", "routemesh"];
        overlay.run(&words).map(drop)
    };
    let well = || whole(lab, V1_1);
    let name = "an interface of V1-1 deleted by hand";
    let interface = || delete(format!("link delete {link}"));
    let mut outcomes = vec![row(lab, name, Bounded, interface, well)];
    let name = "all nexthop groups of V1-1 deleted by hand";
    outcomes.push(row(lab, name, Bounded, || nexthops(true), well));
    let name = "nexthops, a route, an address and the nftables table of V1-1 deleted by hand";
    let others = || {
        nexthops(false)?;
        wait_until("nexthops", SETTLE, well)?;
        delete(format!("route delete {site2} proto 82 metric 50"))?;
        delete(format!("address delete {own}/127 dev {link}"))?;
        table("delete")
    };
    outcomes.push(row(lab, name, Bounded, others, || {
        table("list")?;
        well()
    }));
    outcomes
}

/// SAs and policies, deleted by somebody else at either end.
fn keys_deleted(lab: &Lab) -> Vec<Result<()>> {
    let kinds = [("SAs", "state", V1_1), ("policies", "policy", V2_1)];
    let rows = kinds.map(|(what, object, gateway)| {
        let host = lab.underlay(gateway);
        let delete = || host.run(&["ip", "xfrm", object, "deleteall"]).map(drop);
        let name = format!("all {what} of {} deleted by hand", gateway.name());
        row(lab, &name, Bounded, delete, || whole(lab, gateway))
    });
    rows.into()
}

/// charon killed: its SAs live on in the kernel, and it knows none of them when it is back.
fn charon_killed(lab: &Lab, gateway: Gateway) -> [Result<()>; 2] {
    let name = gateway.name();
    let replace = || {
        lab.charon(gateway).kill();
        std::thread::sleep(Duration::from_secs(2));
        lab.charon(gateway).start_again(lab.underlay(gateway))
    };
    let title = format!("charon of {name} killed, back after 2 s");
    let killed = row(lab, &title, Nothing, replace, || keys(lab, gateway));
    // What the old one left goes, and the next rekey meets nothing of it.
    let title = format!("what it left at {name} cleared, and all SAs rekeyed");
    let rekey = || {
        wait_until("no orphans", SETTLE, || no_orphans(lab, gateway))?;
        rekey(lab, gateway, "child", false)
    };
    let rekeyed = row(lab, &title, Nothing, rekey, || ends(lab, gateway));
    [killed, rekeyed]
}

/// charon that does not answer: a peer's, and our own.
fn charon_silent(lab: &Lab) -> Vec<Result<()>> {
    let mut outcomes = Vec::new();
    let mut others = lab.tunnels_of(V1_1);
    others.retain(|tunnel| tunnel.peer(V1_1) != V2_1);
    let half_open = || {
        lab.charon(V2_1).freeze()?;
        lab.charon(V1_1).kill();
        lab.charon(V1_1).start_again(lab.underlay(V1_1))?;
        let keyed = wait_until("the others", SETTLE, || keyed(lab, V1_1, &others));
        lab.charon(V2_1).thaw()?;
        keyed
    };
    let name = "charon of V1-1 killed and back while that of V2-1 does not answer";
    outcomes.push(row(lab, name, Bounded, half_open, || keys(lab, V1_1)));

    let stuck = || {
        lab.charon(V1_1).freeze()?;
        lab.cut(V2_1)?;
        let around = wait_until("routed around", SETTLE, || avoids(lab, V1_1, V2_1));
        lab.mend(V2_1)?;
        lab.charon(V1_1).thaw()?;
        around
    };
    let name = "V2-1 cut off and back while charon of V1-1 does not answer";
    outcomes.push(row(lab, name, Bounded, stuck, || {
        whole(lab, V2_1)?;
        whole(lab, V1_1)
    }));
    outcomes
}

/// The network between the gateways.
fn underlay(lab: &Lab) -> Vec<Result<()>> {
    let switch = lab.host(PUBLIC);
    let link = |state: &str| switch.ip_batch(&[format!("link set V2-1 {state}")]);
    let flap = || {
        link("down")?;
        std::thread::sleep(Duration::from_secs(1));
        link("up")
    };
    let both = || {
        whole(lab, V2_1)?;
        whole(lab, V1_1)
    };
    let name = "public link of V2-1 down for a second";
    let mut outcomes = vec![row(lab, name, Bounded, flap, both)];

    let one_way = || {
        lab.deafen(V2_1, &[V1_1])?;
        let around = wait_until("routed around", SETTLE, || {
            avoids(lab, V1_1, V2_1)?;
            avoids(lab, V2_1, V1_1)
        });
        lab.let_hear(V2_1)?;
        around
    };
    let name = "V2-1 does not hear V1-1, which hears it, until both avoid each other";
    outcomes.push(row(lab, name, Bounded, one_way, both));
    outcomes
}

/// Other configs, and an agent that is replaced as at an upgrade.
fn configured(lab: &Lab, mesh: &mut Mesh<'_>) -> Vec<Result<()>> {
    let name = "agent of V2-1 stopped and started, as at an upgrade";
    let upgrade = || {
        mesh.stop_agent(V2_1)?;
        mesh.start_agent(V2_1)
    };
    let mut outcomes = vec![row(lab, name, Nothing, upgrade, || whole(lab, V2_1))];

    let (old, new) = ("\"10.0.3.0/24\"]", "\"10.0.3.0/24\", \"2001:db8:a4::/64\"]");
    let elsewhere = spec().replacen(old, new, 1);
    let apply = || mesh.apply(&elsewhere).map(drop);
    let name = "a prefix of site three added to the specification";
    outcomes.push(row(lab, name, Nothing, apply, || {
        match lab.overlay(V1_1).run(&["ip", "-6", "route"])? {
            routes if routes.contains("2001:db8:a4::/64") => whole(lab, V1_1),
            routes => Err(LabError::Unexpected(routes)),
        }
    }));

    let moved = elsewhere.replace("\"2001:db8:2::2\"", "\"2001:db8:2::22\"");
    let host = lab.underlay(gateway(2, 2));
    let address = |verb: &str, last: &str| {
        let line = format!("address {verb} 2001:db8:2::{last}/64 dev eth0");
        host.ip_batch(&[line])
    };
    let up = || {
        let sas = lab.kernel_state(gateway(2, 2))?;
        let from = |address: &str| {
            let start = format!("sa {address} ");
            sas.iter().filter(|line| line.starts_with(&start)).count()
        };
        if from("2001:db8:2::22") < 4 || from("2001:db8:2::2") > 0 {
            return Err(LabError::Unexpected(format!("{sas:?}")));
        }
        let topology = mesh.topology()?;
        let edges = topology["edges"].as_array().into_iter().flatten();
        match edges.filter(|edge| edge["verdict"] == "up").count() {
            12 => Ok(()),
            up => Err(LabError::Unexpected(format!("{up} edges up"))),
        }
    };
    let name = "endpoint of V2-2 gets another address, and loses the old one";
    let change = || {
        address("add", "22")?;
        mesh.apply(&moved)?;
        wait_until("the other address", SETTLE, up)?;
        address("delete", "2")
    };
    outcomes.push(row(lab, name, Bounded, change, up));
    outcomes
}

/// A gateway sends nothing to another.
fn avoids(lab: &Lab, from: Gateway, to: Gateway) -> Result<()> {
    let paths = lab.paths(from)?;
    for prefix in prefixes(to.site) {
        if paths
            .get(&prefix)
            .is_none_or(|via| via.contains(&to.name()))
        {
            return Err(LabError::Unexpected(format!("{prefix}: {paths:?}")));
        }
    }
    Ok(())
}

/// The tunnel of two gateways.
fn tunnel(lab: &Lab, one: Gateway, other: Gateway) -> Tunnel {
    let of_one = lab.tunnels_of(one).into_iter();
    let mut both = of_one.filter(|tunnel| tunnel.peer(one) == other);
    both.next().expect("a full mesh")
}

/// Interfaces, SAs and sessions of a gateway's tunnels.
fn ends(lab: &Lab, gateway: Gateway) -> Result<()> {
    lab.check_ends(gateway, link_kind(), &lab.tunnels_of(gateway))
}

/// The same, with all routes.
fn whole(lab: &Lab, gateway: Gateway) -> Result<()> {
    ends(lab, gateway)?;
    let gateways = lab.topology().gateways();
    let mut expected = lab.expected_paths(gateway, &gateways);
    let mut paths = lab.paths(gateway)?;
    // A row adds a prefix that nobody announces.
    paths.retain(|prefix, _| expected.contains_key(prefix));
    expected.retain(|prefix, via| paths.get(prefix) != Some(via));
    if !expected.is_empty() {
        let name = gateway.name();
        return Err(LabError::Unexpected(format!("{name}: {paths:?}")));
    }
    Ok(())
}

/// charon knows of a CHILD_SA of each tunnel.
fn keys(lab: &Lab, gateway: Gateway) -> Result<()> {
    keyed(lab, gateway, &lab.tunnels_of(gateway))
}

/// charon knows of a CHILD_SA of each of these tunnels.
fn keyed(lab: &Lab, gateway: Gateway, tunnels: &[Tunnel]) -> Result<()> {
    let children = lab.charon(gateway).children()?;
    for tunnel in tunnels {
        let name = format!("{}-{}", tunnel.interface(), tunnel.peer(gateway).name());
        if !children.iter().any(|child| child.connection == name) {
            let what = format!("charon of {}: no CHILD_SA of {name}", gateway.name());
            return Err(LabError::Unexpected(what));
        }
    }
    Ok(())
}

/// SPIs of the SAs in a gateway's kernel.
fn spis(lab: &Lab, gateway: Gateway) -> Result<BTreeSet<String>> {
    let state = lab.kernel_state(gateway)?.into_iter();
    let sas = state.filter(|line| line.starts_with("sa "));
    Ok(sas
        .filter_map(|line| Some(line.rsplit_once(' ')?.1.to_owned()))
        .collect())
}

/// The kernel has the SAs that charon knows of, and no others.
fn no_orphans(lab: &Lab, gateway: Gateway) -> Result<()> {
    let known = lab.charon(gateway).children()?;
    let known: BTreeSet<_> = known.into_iter().flat_map(|child| child.spis).collect();
    let kernel = spis(lab, gateway)?;
    match kernel == known {
        true => Ok(()),
        false => Err(LabError::Unexpected(format!(
            "{}: charon knows {known:?}, the kernel has {kernel:?}",
            gateway.name()
        ))),
    }
}
