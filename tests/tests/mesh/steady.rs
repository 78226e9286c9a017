//! A mesh that nobody disturbs.

use std::time::{Duration, Instant};

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::mesh::Mesh;
use routemesh_tests::lab::probe::Probe;
use routemesh_tests::lab::report::{measured, say, wait_until};
use routemesh_tests::lab::settle::{COLD, SETTLE, await_full};
use routemesh_tests::lab::sniff::{Counts, Kind, Sniffer, in_clear};
use routemesh_tests::lab::topology::{PUBLIC, Topology, VRF};
use routemesh_tests::lab::traffic::Traffic;
use serde_json::Value;

use super::down::{self, Foreign};
use super::{firewall, gateway, link_kind, mesh_up, spec, tunnel};

/// What may come of it afterwards needs no mesh of its own.
#[test]
fn a_mesh_comes_up_and_carries_all_traffic_encrypted() -> Result<()> {
    let lab = Lab::start(&tunnel(), Topology::three_overlays())?;
    let foreign = Foreign::plant(&lab, gateway(3, 1))?;
    let sniffer = Sniffer::start(lab.host(PUBLIC))?;
    let start = Instant::now();
    // All 24 tunnel ends; two-member groups for both families of every remote site; IPv4 over
    // IPv6 next hops; both paths in the routers' BIRD and kernel.
    let mut mesh = mesh_up(&lab, &lab.topology().in_spec(&spec()))?;
    assert_eq!(lab.tunnels().len(), 12);
    let gateways = lab.topology().gateways();
    for &gateway in &gateways {
        for (prefix, via) in lab.paths(gateway)? {
            let own = via.contains(&format!("R{}", gateway.site));
            assert_eq!(
                via.len(),
                if own { 1 } else { 2 },
                "{prefix} at {}",
                gateway.name()
            );
        }
        lab.check_fail_closed(gateway)?;
    }
    for (one, other) in [(1, 2), (1, 3), (2, 3)] {
        let what = format!("ping between sites {one} and {other}");
        wait_until(&what, SETTLE, || lab.ping(one, other))?;
    }
    measured(
        "from nothing to a full mesh",
        format_args!("{:.0} s", start.elapsed().as_secs_f64()),
    );
    says_so_itself(&mesh)?;

    // Nothing happens now, so nothing may be lost.
    let before: Vec<_> = gateways.iter().map(|g| lab.sent_into_tunnels(*g)).collect();
    let traffic = Traffic::start(&lab, 1, 2)?;
    std::thread::sleep(Duration::from_secs(8));
    let total = traffic.stop("steady state")?;
    assert_eq!(total.lost, 0, "lost packets in a mesh at rest");

    // Every tunnel between the two sites carried its share, in both directions.
    for (gateway, before) in gateways.iter().zip(before).filter(|(g, _)| g.site < 3) {
        let (before, after) = (before?, lab.sent_into_tunnels(*gateway)?);
        for tunnel in lab.tunnels_of(*gateway) {
            let interface = tunnel.interface();
            let used = after[&interface] - before[&interface];
            let busy = tunnel.peer(*gateway).site < 3;
            assert!(
                !busy || used > 50,
                "{} sent {used} into {interface}",
                gateway.name()
            );
        }
    }

    what_is_undone_of_a_vrf_is_mended(&lab, &mut mesh)?;
    let counts = sniffer.stop()?;
    say(format_args!("public side: {counts:?}"));
    assert!(esp(&counts) >= total.sent, "fewer ESP packets than probes");
    let strange = |kind: &&Kind| matches!(kind, Kind::Other(_) | Kind::PortUnreachable);
    let others = counts.keys().find(strange);
    assert_eq!((in_clear(&counts), others), (0, None), "{counts:?}");
    capture_sees_what_is_in_clear(&lab)?;
    firewall::what_does_not_belong_to_the_mesh_is_dropped_and_told(&lab, &mesh)?;
    down::removes_what_is_ours_and_nothing_else(&lab, &mut mesh, &foreign)?;
    lab.passed()
}

/// An interface that somebody takes out of the VRF is back at once; one whose VRF is gone carries
/// nothing until it is back.
fn what_is_undone_of_a_vrf_is_mended(lab: &Lab, mesh: &mut Mesh<'_>) -> Result<()> {
    let gateway = gateway(1, 1);
    let (host, tunnels) = (lab.overlay(gateway), lab.tunnels_of(gateway));
    let links = || -> Result<Vec<Value>> {
        let mut links = host.ip(&["link", "show", "type", link_kind()])?;
        links.retain(|link| {
            link["ifname"]
                .as_str()
                .is_some_and(|it| it.starts_with("rm"))
        });
        Ok(links)
    };
    let in_vrf = || match links()?.iter().all(|link| link["master"] == VRF) {
        true => lab.check_ends(gateway, link_kind(), &tunnels),
        false => Err(LabError::Unexpected("a tunnel is not in the VRF".into())),
    };
    in_vrf()?;
    host.ip_batch(&[format!("link set {} nomaster", tunnels[0].interface())])?;
    wait_until("the interface in its VRF again", SETTLE, in_vrf)?;

    say("V1-1's VRF deleted");
    host.ip_batch(&[format!("link delete {VRF}")])?;
    wait_until("its tunnels down", SETTLE, || {
        let up = |link: &Value| {
            link["flags"]
                .as_array()
                .is_some_and(|it| it.contains(&"UP".into()))
        };
        match links()?.iter().find(|link| up(link)) {
            None => Ok(()),
            Some(link) => Err(LabError::Unexpected(link.to_string())),
        }
    })?;
    assert_eq!(links()?.len(), tunnels.len());
    host.ip_batch(&lab.topology().private_lines(gateway))?;
    wait_until("all as before", SETTLE, in_vrf)?;
    await_full(lab, mesh, link_kind(), &lab.topology().gateways(), SETTLE)
}

fn esp(counts: &Counts) -> usize {
    counts.get(&Kind::Esp).copied().unwrap_or_default()
}

/// What `meshctl topology` says agrees with what the kernel and BIRD said.
pub(crate) fn says_so_itself(mesh: &Mesh<'_>) -> Result<()> {
    wait_until("12 edges up in meshctl topology", COLD, || {
        let topology = mesh.topology()?;
        let edges = topology["edges"].as_array().cloned().unwrap_or_default();
        let up = edges.iter().filter(|edge| edge["verdict"] == "up").count();
        if (edges.len(), up) == (12, 12) {
            return Ok(());
        }
        Err(LabError::Unexpected(format!(
            "{up} of {} edges up",
            edges.len()
        )))
    })
}

/// A capture in which nothing was in clear proves something only if it would have seen it.
pub(crate) fn capture_sees_what_is_in_clear(lab: &Lab) -> Result<()> {
    let gateways = lab.topology().gateways();
    let (a, b) = (gateways[0], gateways[2]);
    let sniffer = Sniffer::start(lab.host(PUBLIC))?;
    let (from, to) = (a.public(), b.public());
    let probe = Probe::start((lab.underlay(a), &from), (lab.underlay(b), &to), 1, 10)?;
    std::thread::sleep(Duration::from_secs(1));
    let sent = probe.stop()?.sent;
    assert_eq!(in_clear(&sniffer.stop()?), sent);
    Ok(())
}
