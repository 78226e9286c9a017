//! Prefixes that come from another program on the gateway.

use std::process::Command;

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::process::Process;
use routemesh_tests::lab::report::wait_until;
use routemesh_tests::lab::settle::SETTLE;
use routemesh_tests::lab::topology::Topology;

use super::{gateway, mesh_up, spec};

/// Behind R3, within what site three owns, and known to nobody but by OSPF.
const PREFIX: &str = "10.0.3.128/25";

/// As in the reference lab: the gateway's own BIRD learns the private network by OSPF and puts it
/// into the kernel; the agent announces what has BIRD's route protocol.
#[test]
fn what_bird_learns_by_ospf_on_a_gateway_is_announced_to_the_mesh() -> Result<()> {
    let lab = Lab::start("ospf", Topology::three_sites())?;
    let own = r#"endpoints = ["2001:db8:3::1"]"#;
    assert!(spec().contains(own));
    let spec = spec().replacen(own, &format!("{own}\nannounce = [\"bird\"]"), 1);
    let _mesh = mesh_up(&lab, &spec)?;
    let v3_1 = gateway(3, 1);
    let _router = ospf(
        lab.router(3),
        "lan",
        &format!("protocol static {{ ipv4; route {PREFIX} unreachable; }}"),
        "import none; export all;",
    )?;
    let learner = ospf(
        lab.overlay(v3_1),
        "lan0",
        "protocol kernel { ipv4 { import none; export all; }; }",
        "import all; export none;",
    )?;
    let others = [gateway(1, 1), gateway(1, 2), gateway(2, 1), gateway(2, 2)];
    for other in others {
        let what = format!("{PREFIX} at {}", other.name());
        wait_until(&what, SETTLE, || {
            let paths = lab.paths(other)?;
            let via: Vec<&String> = paths.get(PREFIX).into_iter().flatten().collect();
            match via.as_slice() {
                [only] if **only == v3_1.name() => Ok(()),
                via => Err(LabError::Unexpected(format!("through {via:?}"))),
            }
        })?;
    }
    // The others' routers are told, and V3-1 keeps BIRD's route as it is.
    wait_until("R1", SETTLE, || lab.check_router(1, PREFIX, 2))?;
    let kept = lab.overlay(v3_1).ip(&["-4", "route", "show", PREFIX])?;
    assert!(
        kept.iter().all(|route| route["protocol"] == "bird"),
        "{kept:?}"
    );
    assert_eq!(kept.len(), 1);

    // BIRD takes its routes along when it is stopped.
    let mut learner = learner;
    learner.stop(SETTLE)?;
    for other in others {
        let what = format!("{PREFIX} gone at {}", other.name());
        wait_until(&what, SETTLE, || match lab.paths(other)?.get(PREFIX) {
            None => Ok(()),
            Some(via) => Err(LabError::Unexpected(format!("still through {via:?}"))),
        })?;
    }
    lab.passed();
    Ok(())
}

/// A BIRD that speaks OSPF on one interface, beside whatever BIRD the host runs.
fn ospf(host: &Host, interface: &str, other: &str, channel: &str) -> Result<Process> {
    let file = |name: &str| host.dir().join(name);
    let id = match interface {
        "lan" => "172.16.3.254",
        _ => "172.16.3.1",
    };
    let text = format!(
        "log stderr all; router id {id}; protocol device {{}} {other}
        protocol ospf v2 {{ ipv4 {{ {channel} }}; area 0 {{
            interface \"{interface}\" {{ type ptp; hello 1; dead count 5; }}; }}; }}"
    );
    let config = file("ospf.conf");
    std::fs::write(&config, text).map_err(LabError::io(config.display().to_string()))?;
    let mut command = Command::new("bird");
    command.arg("-f").arg("-c").arg(config);
    command
        .arg("-s")
        .arg(file("ospf.ctl"))
        .arg("-P")
        .arg(file("ospf.pid"));
    host.spawn("ospf", command)
}
