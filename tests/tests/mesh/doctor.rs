//! `meshctl doctor` on a real mesh: it finds nothing wrong where nothing is, and the rung and the cause where
//! something was broken on purpose.

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::mesh::Mesh;
use routemesh_tests::lab::report::{say, wait_until};
use routemesh_tests::lab::settle::SETTLE;
use routemesh_tests::lab::topology::{Gateway, private4};
use serde_json::Value;

use super::gateway;

const V1_1: Gateway = gateway(1, 1);
const V1_2: Gateway = gateway(1, 2);
const V2_2: Gateway = gateway(2, 2);
const V3_1: Gateway = gateway(3, 1);
const V3_2: Gateway = gateway(3, 2);

/// A mesh that is well, seen by everything that asks.
pub(super) fn finds_nothing(mesh: &Mesh<'_>, tunnels: usize) -> Result<()> {
    let expected = format!("{tunnels} tunnels: all rungs hold");
    wait_until("doctor finds nothing", SETTLE, || {
        has(&mesh.meshctl(&["doctor"])?, &expected)
    })?;
    has(
        &mesh.meshctl(&["ping", "V1-1", "V2-1", "-c2"])?,
        "2 of 2 answered",
    )?;
    let target = private4(2);
    let trace = mesh.meshctl(&["trace", "V1-1", &target, "--from", &private4(1)])?;
    for words in ["of two, announced by V2-1, V2-2", "  > rm", "back to"] {
        has(&trace, words)?;
    }
    let logs = mesh.meshctl(&["logs", "V1-1", "-n", "500", "--text", "controller"])?;
    has(&logs, "connected to the controller")
}

/// What goes through a tunnel, and what is seen of it outside.
pub(super) fn captures(mesh: &Mesh<'_>) -> Result<()> {
    let dir = std::env::temp_dir();
    for (more, version) in [(vec!["--outside"], 0x60), (vec![], 0x60)] {
        let file = dir.join(format!("rm-capture-{}", std::process::id()));
        let name = file.display().to_string();
        let words = ["capture", "V1-1", "V2-2", "-w", &name, "--packets", "3"];
        mesh.meshctl(&[&words[..], &more].concat())?;
        let found = std::fs::read(&file).map_err(LabError::io("read a capture"))?;
        let _ = std::fs::remove_file(&file);
        // The magic number, LINKTYPE_RAW, and the first octet of the first packet.
        let seen = (
            found.get(..4),
            found.get(20),
            found.get(40).map(|it| it & 0xf0),
        );
        assert_eq!(
            seen,
            (
                Some(&[0xd4, 0xc3, 0xb2, 0xa1][..]),
                Some(&101),
                Some(version)
            )
        );
    }
    has(&mesh.meshctl(&["audit"])?, "capture")
}

/// Breaks a rung of one tunnel after the other, all at the same time. Nobody mends it.
pub(super) fn finds_what_is_broken(lab: &Lab, mesh: &Mesh<'_>) -> Result<()> {
    let interface = |one: Gateway, other: Gateway| {
        let tunnels = lab.tunnels_of(one).into_iter();
        let mut between = tunnels.filter(|tunnel| tunnel.peer(one) == other);
        let tunnel = between.next();
        tunnel.map(|it| it.interface()).unwrap_or_default()
    };
    let drop = |host: &routemesh_tests::lab::host::Host, what: &str| {
        let table = format!(
            "table inet broken {{ chain input {{ type filter hook input priority -400; {what} }}; }}"
        );
        host.run(&["nft", &table]).map(std::mem::drop)
    };
    let public = V1_1.public();
    // ESP from V1-1 does not reach V2-2, nor BFD V3-1 through the tunnel, nor IKE V3-2.
    drop(
        lab.underlay(V2_2),
        &format!("ip6 saddr {public} meta l4proto esp drop;"),
    )?;
    let link = interface(V1_1, V3_1);
    drop(
        lab.overlay(V3_1),
        &format!("iifname {link} udp dport 3784 drop;"),
    )?;
    drop(
        lab.underlay(V3_2),
        &format!(
            "ip6 saddr {public} udp dport {{ 500, 4500 }} drop; ip6 saddr {public} meta l4proto esp drop;"
        ),
    )?;
    let connection = format!("{}-V3-2", interface(V1_1, V3_2));
    lab.charon(V1_1).terminate(&connection)?;
    // Of what V1-2 has, BGP with V3-2 is lost, and the way to site three leads nowhere.
    let link = interface(V1_2, V3_2);
    drop(
        lab.overlay(V3_2),
        &format!("iifname {link} tcp dport 179 drop; iifname {link} tcp sport 179 drop;"),
    )?;
    let whole = private4(3);
    let net = whole.rsplit_once('.').map_or("", |(net, _)| net);
    let line = format!("route add blackhole {net}.0/25");
    lab.overlay(V1_2).ip_batch(&[line])?;
    let expected = [
        (V1_1, V2_2, "esp", "ESP from V1-1 to V2-2 is lost"),
        (V1_1, V3_1, "bfd", "V3-1 gets no packet of BFD from V1-1"),
        (V1_1, V3_2, "udp", "towards V3-2"),
        (V1_2, V3_2, "bgp", "BGP"),
        (V1_2, V3_1, "routes", "has a blackhole route"),
    ];
    for (one, other, rung, cause) in expected {
        wait_until(
            &format!("{rung} of {} - {}", one.name(), other.name()),
            2 * SETTLE,
            || {
                let found = diagnosis(mesh, one, other)?;
                let ladder = &found["diagnosis"]["ladders"][0];
                let of = |name: &str| ladder[name].as_str().unwrap_or_default();
                match of("broken") == rung && of("cause").contains(cause) {
                    true => Ok(()),
                    false => Err(LabError::Unexpected(ladder.to_string())),
                }
            },
        )?;
        say(format_args!("doctor finds {rung}"));
    }
    let events = mesh.meshctl(&["events", "--gateway", "V1-1"])?;
    has(&events, "down")
}

/// What the doctor says, whose exit status says that something is wrong.
fn diagnosis(mesh: &Mesh<'_>, one: Gateway, other: Gateway) -> Result<Value> {
    let words = ["doctor", &one.name(), &other.name(), "-o", "json"];
    let said = match mesh.meshctl(&words) {
        Ok(said) => said,
        Err(LabError::Command { output, .. }) => output,
        Err(other) => return Err(other),
    };
    serde_json::from_str(&said).map_err(|error| LabError::Unexpected(format!("{error}: {said}")))
}

fn has(said: &str, words: &str) -> Result<()> {
    match said.contains(words) {
        true => Ok(()),
        false => Err(LabError::Unexpected(format!("no {words:?} in {said}"))),
    }
}
