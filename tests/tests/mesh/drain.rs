//! Traffic leaves a gateway before it stops.

use std::time::Duration;

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::report::wait_until;
use routemesh_tests::lab::settle::SETTLE;
use routemesh_tests::lab::topology::{Gateway, Topology, prefixes};
use routemesh_tests::lab::traffic::Traffic;

use super::{doctor, gateway, mesh_up, spec};

const V2_1: Gateway = gateway(2, 1);

#[test]
fn a_drained_gateway_is_left_and_stopped_without_loss() -> Result<()> {
    let lab = Lab::start("drain", Topology::three_sites())?;
    let mut mesh = mesh_up(&lab, &spec())?;
    doctor::finds_nothing(&mesh, 12)?;
    doctor::captures(&mesh)?;
    doctor::makes_a_hole(&lab)?;
    let traffic = Traffic::start(&lab, 1, 2)?;
    std::thread::sleep(Duration::from_secs(2));
    let before = into_tunnels(&lab)?;
    assert!(before > 200, "V2-1 carries nothing: {before} packets");

    mesh.meshctl(&["drain", "V2-1"])?;
    let mut others = lab.topology().gateways();
    others.retain(|gateway| *gateway != V2_1);
    for gateway in others.iter().filter(|gateway| gateway.site != 2) {
        let expected = lab.expected_paths(*gateway, &others);
        wait_until(&format!("paths of {}", gateway.name()), SETTLE, || {
            lab.check_paths(*gateway, &expected)
        })?;
    }
    for prefix in [1, 3].into_iter().flat_map(prefixes) {
        wait_until(&format!("R2's way to {prefix}"), SETTLE, || {
            one_way(&lab, &prefix)
        })?;
    }
    wait_until("V2-1 drained in meshctl topology", SETTLE, || {
        let topology = mesh.topology()?;
        let views = topology["gateways"].as_array().into_iter().flatten();
        let mut views = views.filter(|view| view["name"] == "V2-1");
        match views.next() {
            Some(view) if view["drain"] == "drained" => Ok(()),
            other => Err(LabError::Unexpected(format!("{other:?}"))),
        }
    })?;
    // Keepalives and BFD, and nothing else.
    let after = into_tunnels(&lab)?;
    assert!(
        after * 3 < before,
        "{after} packets into the tunnels of V2-1, {before} before"
    );
    let total = traffic.stop("V2-1 drained")?;
    assert_eq!(total.lost, 0, "lost while V2-1 was drained");

    let traffic = Traffic::start(&lab, 1, 2)?;
    std::thread::sleep(Duration::from_secs(1));
    mesh.stop_agent(V2_1)?;
    mesh.down(V2_1)?;
    std::thread::sleep(Duration::from_secs(4));
    let total = traffic.stop("V2-1 stopped after it was drained")?;
    assert_eq!(total.lost, 0, "lost while V2-1 was stopped");
    doctor::finds_what_is_broken(&lab, &mut mesh)?;
    lab.passed()
}

/// How many packets V2-1 sends into its tunnels in four seconds.
fn into_tunnels(lab: &Lab) -> Result<u64> {
    let count = || Ok::<u64, LabError>(lab.sent_into_tunnels(V2_1)?.values().sum());
    let before = count()?;
    std::thread::sleep(Duration::from_secs(4));
    Ok(count()? - before)
}

/// The router of site 2 sends it to one gateway.
fn one_way(lab: &Lab, prefix: &str) -> Result<()> {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    let routes = lab.router(2).ip(&[family, "route", "show", prefix])?;
    let hops = |route: &serde_json::Value| route["nexthops"].as_array().map_or(1, Vec::len);
    match routes.iter().map(hops).sum() {
        1 => Ok(()),
        ways => Err(LabError::Unexpected(format!("{ways} ways: {routes:?}"))),
    }
}
