//! A mesh to which something happens.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::Result;
use routemesh_tests::lab::mesh::Mesh;
use routemesh_tests::lab::report::{measured, say, wait_until};
use routemesh_tests::lab::settle::{COLD, SETTLE, await_full, await_paths};
use routemesh_tests::lab::topology::{Gateway, Topology, prefixes};
use routemesh_tests::lab::traffic::Traffic;

use super::down::kept;
use super::{gateway, link_kind, spec, spec_with_v3_3, tunnel};

const V2_1: Gateway = gateway(2, 1);

/// One lab for all, as most of the time goes into bringing one up. The last row takes the controller.
#[test]
fn a_mesh_to_which_much_happens_goes_on() -> Result<()> {
    // V3-3 is wired up, but the first specification knows nothing of it.
    let lab = Lab::start(
        "disturbed",
        Topology {
            sites: vec![2, 2, 3],
            ..Topology::default()
        },
    )?;
    let all = lab.topology().gateways();
    let (_, old) = all.split_last().expect("gateways");
    let mut mesh = Mesh::without_agents(&lab, &spec())?;
    for &gateway in old {
        mesh.start_agent(gateway)?;
    }
    await_full(&lab, &mut mesh, link_kind(), old, COLD)?;
    gateway_added(&lab, &mut mesh)?;
    gateway_cut_off(&lab, &mut mesh)?;
    // What follows is the same whatever the kind of tunnel.
    if tunnel() == "xfrm" {
        prefix_withdrawn(&lab)?;
        agent_killed(&lab, &mut mesh)?;
        controller_killed(&lab, &mut mesh)?;
    }
    lab.passed()
}

fn prefix_withdrawn(lab: &Lab) -> Result<()> {
    let gateways = lab.topology().gateways();
    let start = Instant::now();
    lab.bird(3).ask("disable own6")?;
    let [gone, _] = prefixes(3);
    for &gateway in &gateways {
        let mut expected = lab.expected_paths(gateway, &gateways);
        expected.remove(&gone);
        wait_until(
            &format!("{gone} gone at {}", gateway.name()),
            SETTLE,
            || lab.check_paths(gateway, &expected),
        )?;
        // Its traffic must not leave by a default route instead.
        if gateway.site != 3 {
            lab.check_fail_closed(gateway)?;
        }
    }
    for site in [1, 2] {
        wait_until(&format!("{gone} gone at R{site}"), SETTLE, || {
            lab.check_router(site, &gone, 0)
        })?;
    }
    let seconds = start.elapsed().as_secs_f64();
    measured(
        "a withdrawn prefix gone everywhere",
        format_args!("{seconds:.1} s"),
    );
    lab.bird(3).ask("enable own6")?;
    await_paths(lab, &[], SETTLE)?;
    lost_by_one_of_two(lab)?;
    Ok(())
}

/// Site two is lost to V1-1 and not to V1-2: R1 is told, and sends to V1-2 alone.
fn lost_by_one_of_two(lab: &Lab) -> Result<()> {
    lab.deafen(gateway(1, 1), &[V2_1, gateway(2, 2)])?;
    for prefix in prefixes(2) {
        wait_until("R1 sends to V1-2 alone", SETTLE, || {
            lab.check_router(1, &prefix, 1)
        })?;
    }
    wait_until("ping by V1-2", SETTLE, || lab.ping(1, 2))?;
    lab.let_hear(gateway(1, 1))?;
    await_paths(lab, &[], SETTLE)
}

fn gateway_cut_off(lab: &Lab, mesh: &mut Mesh<'_>) -> Result<()> {
    let traffic = Traffic::start(lab, 1, 2)?;
    std::thread::sleep(Duration::from_secs(2));
    say("cutting V2-1 off");
    lab.cut(V2_1)?;
    let start = Instant::now();
    await_paths(lab, &[V2_1], SETTLE)?;
    say(format_args!(
        "routed around after {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    std::thread::sleep(Duration::from_secs(5));
    let total = traffic.stop("V2-1 cut off")?;
    // The cut must have hurt, or nothing was cut; and the hurt must have ended.
    assert!(total.lost > 0, "nothing was lost: was anything cut?");
    let hold_time_and_more = Duration::from_secs(15);
    assert!(
        total.longest_gap < hold_time_and_more,
        "no recovery: {:?}",
        total.longest_gap
    );
    let calm = Duration::from_secs(2) + start.elapsed() - total.last_loss;
    assert!(
        calm > Duration::from_secs(2),
        "still losing packets at the end"
    );

    say("putting V2-1 back");
    let traffic = Traffic::start(lab, 1, 2)?;
    lab.mend(V2_1)?;
    let start = Instant::now();
    await_full(
        lab,
        mesh,
        link_kind(),
        &lab.topology().gateways(),
        SETTLE * 2,
    )?;
    let seconds = start.elapsed().as_secs_f64();
    measured(
        "V2-1 back, two paths everywhere again",
        format_args!("{seconds:.1} s"),
    );
    traffic.stop("V2-1 put back")?;
    Ok(())
}

fn agent_killed(lab: &Lab, mesh: &mut Mesh<'_>) -> Result<()> {
    for pause in [Duration::from_millis(200), Duration::from_secs(8)] {
        let what = format!(
            "agent of V2-1 killed, back after {:.1} s",
            pause.as_secs_f64()
        );
        let before = lab.kernel_state(V2_1)?;
        let traffic = Traffic::start(lab, 1, 2)?;
        std::thread::sleep(Duration::from_secs(2));
        say(&what);
        mesh.kill_agent(V2_1);
        std::thread::sleep(pause);
        if pause > Duration::from_secs(1) {
            kept("while the agent is dead", &before, &lab.kernel_state(V2_1)?)?;
        }
        mesh.start_agent(V2_1)?;
        let start = Instant::now();
        await_full(lab, mesh, link_kind(), &lab.topology().gateways(), SETTLE)?;
        let seconds = start.elapsed().as_secs_f64();
        say(format_args!(
            "full mesh again {seconds:.1} s after the start"
        ));
        std::thread::sleep(Duration::from_secs(3));
        traffic.stop(&what)?;
        kept("after the agent is back", &before, &lab.kernel_state(V2_1)?)?;
    }
    Ok(())
}

fn controller_killed(lab: &Lab, mesh: &mut Mesh<'_>) -> Result<()> {
    let traffic = Traffic::start(lab, 1, 2)?;
    std::thread::sleep(Duration::from_secs(1));
    mesh.kill_controller();
    std::thread::sleep(Duration::from_secs(12));
    let total = traffic.stop("controller stopped")?;
    assert_eq!(total.lost, 0);

    // Cold: even the kernel and charon have forgotten, only the cached config is left.
    let v3_2 = gateway(3, 2);
    mesh.stop_agent(v3_2)?;
    let cached = mesh.state_dir(v3_2);
    let aside = cached.with_extension("aside");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let words = [
            "cp",
            "-a",
            &from.display().to_string(),
            &to.display().to_string(),
        ];
        lab.underlay(v3_2).run(&words).map(drop)
    };
    copy(&cached, &aside)?;
    mesh.down(v3_2)?;
    let left = lab.kernel_state(v3_2)?;
    assert!(left.is_empty(), "left after down: {left:?}");
    // `down` may forget the config too: this is a machine that lost power, not one that left.
    lab.underlay(v3_2)
        .run(&["rm", "-rf", &cached.display().to_string()])?;
    copy(&aside, &cached)?;
    mesh.start_agent(v3_2)?;
    let start = Instant::now();
    await_full(lab, mesh, link_kind(), &lab.topology().gateways(), COLD)?;
    let seconds = start.elapsed().as_secs_f64();
    measured(
        "an agent up from its cached config, no controller",
        format_args!("{seconds:.1} s"),
    );
    Ok(())
}

fn gateway_added(lab: &Lab, mesh: &mut Mesh<'_>) -> Result<()> {
    let all = lab.topology().gateways();
    let (v3_3, old) = all.split_last().expect("gateways");
    let before: Result<Vec<_>> = old.iter().map(|g| without_groups(lab, *g)).collect();
    let before = before?;
    let traffic = Traffic::start(lab, 1, 2)?;
    let start = Instant::now();
    say("meshctl apply, with V3-3");
    mesh.apply(&spec_with_v3_3())?;
    mesh.start_agent(*v3_3)?;
    await_full(lab, mesh, link_kind(), &all, COLD)?;
    let seconds = start.elapsed().as_secs_f64();
    measured(
        "a gateway added, in use everywhere",
        format_args!("{seconds:.1} s"),
    );
    let total = traffic.stop("a gateway added")?;
    assert_eq!(
        total.lost, 0,
        "an added gateway cost packets between others"
    );
    for (gateway, before) in old.iter().zip(&before) {
        kept("when V3-3 came", before, &without_groups(lab, *gateway)?)?;
    }
    Ok(())
}

/// Interfaces, addresses and keys: what a new gateway changes nothing of. Groups it changes.
fn without_groups(lab: &Lab, gateway: Gateway) -> Result<BTreeSet<String>> {
    let mut state = lab.kernel_state(gateway)?;
    state.retain(|line| !line.starts_with("nexthop") && !line.starts_with("route"));
    Ok(state)
}
