//! The same mesh by WireGuard, without strongSwan on any gateway.

use std::time::{Duration, Instant};

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::mesh::Mesh;
use routemesh_tests::lab::report::{measured, say, wait_until};
use routemesh_tests::lab::settle::{COLD, SETTLE, await_full, await_paths};
use routemesh_tests::lab::sniff::{Kind, Sniffer, in_clear};
use routemesh_tests::lab::topology::{Gateway, PUBLIC, Topology};
use routemesh_tests::lab::traffic::Traffic;

use super::steady::{capture_sees_what_is_in_clear, says_so_itself};
use super::{gateway, spec_of};

const V2_1: Gateway = gateway(2, 1);
const KIND: &str = "wireguard";

#[test]
fn a_mesh_of_wireguard_carries_all_fails_over_and_takes_new_keys() -> Result<()> {
    let lab = Lab::without_charon(KIND, Topology::three_overlays())?;
    let sniffer = Sniffer::start(lab.host(PUBLIC))?;
    let start = Instant::now();
    let spec = spec_of(KIND, "bfd = { interval = \"300ms\", multiplier = 10 }");
    let mut mesh = Mesh::start(&lab, &lab.topology().in_spec(&spec))?;
    let gateways = lab.topology().gateways();
    await_full(&lab, &mut mesh, KIND, &gateways, COLD)?;
    measured(
        "from nothing to a full mesh of WireGuard",
        format_args!("{:.0} s", start.elapsed().as_secs_f64()),
    );
    for &gateway in &gateways {
        lab.check_fail_closed(gateway)?;
    }
    for (one, other) in [(1, 2), (1, 3), (2, 3)] {
        let what = format!("ping between sites {one} and {other}");
        wait_until(&what, SETTLE, || lab.ping(one, other))?;
    }
    says_so_itself(&mesh)?;
    nobody_misses_charon(&mesh)?;

    let traffic = Traffic::start(&lab, 1, 2)?;
    std::thread::sleep(Duration::from_secs(3));
    let before = lab.kernel_state(V2_1)?;
    say("agent of V2-1 killed, back at once");
    mesh.kill_agent(V2_1);
    mesh.start_agent(V2_1)?;
    await_full(&lab, &mut mesh, KIND, &gateways, SETTLE)?;
    assert_eq!(lab.kernel_state(V2_1)?, before, "an agent that comes back");
    let total = traffic.stop("agent killed, WireGuard")?;
    assert_eq!(total.lost, 0, "lost packets, with an agent killed");

    let counts = sniffer.stop()?;
    say(format_args!("public side: {counts:?}"));
    let carried = counts.get(&Kind::WireGuard).copied().unwrap_or_default();
    assert!(carried >= total.sent, "fewer packets than probes");
    // Who is first finds nobody at the other's port.
    let strange = |kind: &&Kind| matches!(kind, Kind::Other(_) | Kind::Esp | Kind::Ike);
    let others = counts.keys().find(strange);
    assert_eq!((in_clear(&counts), others), (0, None), "{counts:?}");
    capture_sees_what_is_in_clear(&lab)?;

    what_others_change_is_mended(&lab)?;
    await_full(&lab, &mut mesh, KIND, &gateways, SETTLE)?;
    a_silent_gateway_is_routed_around(&lab, &mut mesh)?;
    a_new_key_is_taken(&lab, &mut mesh)?;
    lab.passed()
}

/// No gateway has anything to complain of.
fn nobody_misses_charon(mesh: &Mesh<'_>) -> Result<()> {
    wait_until("all gateways ok", SETTLE, || {
        let topology = mesh.topology()?;
        let views = topology["gateways"].as_array().into_iter().flatten();
        let mut views = views.filter(|view| view["verdict"] != "ok");
        match views.next() {
            None => Ok(()),
            Some(view) => Err(LabError::Unexpected(view.to_string())),
        }
    })
}

/// `wg show INTERFACE WHAT`, at a gateway's private side.
fn wg(lab: &Lab, gateway: Gateway, interface: &str, what: &str) -> Result<String> {
    let shown = lab.overlay(gateway).run(&["wg", "show", interface, what])?;
    Ok(shown.trim().to_owned())
}

fn what_others_change_is_mended(lab: &Lab) -> Result<()> {
    say("somebody else at V1-2's and V1-1's interfaces");
    // One in a VRF, one in no namespace of its own.
    for gateway in [gateway(1, 1), gateway(1, 2)] {
        let interface = lab.tunnels_of(gateway)[0].interface();
        let peers = wg(lab, gateway, &interface, "peers")?;
        let host = lab.overlay(gateway);
        host.run(&["wg", "set", &interface, "peer", &peers, "remove"])?;
        host.run(&["wg", "set", &interface, "fwmark", "7"])?;
        wait_until("the peer back", SETTLE, || {
            let now = [
                wg(lab, gateway, &interface, "peers")?,
                wg(lab, gateway, &interface, "fwmark")?,
                wg(lab, gateway, &interface, "allowed-ips")?,
            ];
            let all = format!("{peers}\t0.0.0.0/0 ::/0");
            if now == [&peers, "off", &all].map(str::to_owned) {
                return Ok(());
            }
            Err(LabError::Unexpected(format!("{now:?}")))
        })?;
    }
    Ok(())
}

fn a_silent_gateway_is_routed_around(lab: &Lab, mesh: &mut Mesh<'_>) -> Result<()> {
    let traffic = Traffic::start(lab, 1, 2)?;
    std::thread::sleep(Duration::from_secs(1));
    say("cutting V2-1 off");
    lab.cut(V2_1)?;
    await_paths(lab, &[V2_1], SETTLE)?;
    std::thread::sleep(Duration::from_secs(1));
    let total = traffic.stop("V2-1 cut off, WireGuard")?;
    assert!(total.lost > 0, "nothing was lost: was anything cut?");
    say("putting V2-1 back");
    lab.mend(V2_1)?;
    await_full(lab, mesh, KIND, &lab.topology().gateways(), SETTLE)
}

/// Its peers are told of it by the controller, and take the place of the old one.
fn a_new_key_is_taken(lab: &Lab, mesh: &mut Mesh<'_>) -> Result<()> {
    let tunnel = lab.tunnels_of(V2_1)[0];
    let (far, interface) = (tunnel.peer(V2_1), tunnel.interface());
    let known = wg(lab, far, &interface, "peers")?;
    mesh.stop_agent(V2_1)?;
    let file = mesh.state_dir(V2_1).join("wireguard.key");
    std::fs::remove_file(file).map_err(LabError::io("wireguard.key"))?;
    mesh.start_agent(V2_1)?;
    wait_until("another key at the far end", SETTLE, || {
        match wg(lab, far, &interface, "peers")? {
            now if now != known && !now.contains('\n') => Ok(()),
            now => Err(LabError::Unexpected(now)),
        }
    })?;
    await_full(lab, mesh, KIND, &lab.topology().gateways(), SETTLE)?;
    wait_until("ping with the new key", SETTLE, || lab.ping(1, 2))
}
