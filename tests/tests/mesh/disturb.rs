//! A mesh to which something happens.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::mesh::Mesh;
use routemesh_tests::lab::report::{measured, say, wait_until};
use routemesh_tests::lab::settle::{COLD, SETTLE, await_full, await_paths};
use routemesh_tests::lab::topology::{Gateway, Topology, prefixes};
use routemesh_tests::lab::traffic::Traffic;

use super::{gateway, link_kind, mesh_up, spec, spec_with_v3_3, tunnel};

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

/// Checks that nothing of what was there is gone.
fn kept(when: &str, before: &BTreeSet<String>, after: &BTreeSet<String>) -> Result<()> {
    let gone: Vec<_> = before.difference(after).collect();
    if gone.is_empty() {
        return Ok(());
    }
    Err(LabError::Unexpected(format!("gone {when}: {gone:#?}")))
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

#[test]
fn down_removes_what_is_ours_and_nothing_else() -> Result<()> {
    let lab = Lab::start("down", Topology::three_sites())?;
    let v1_1 = gateway(1, 1);
    plant(&lab, v1_1)?;
    let foreign = lab.kernel_state(v1_1)?;
    let before = planted(&lab, v1_1)?;
    let mut mesh = mesh_up(&lab, &spec())?;
    kept("in the mesh", &before, &planted(&lab, v1_1)?)?;
    mesh.stop_agent(v1_1)?;
    let state = lab.kernel_state(v1_1)?;
    let (routes, links) = (count(&state, "route"), count(&state, "link"));
    assert!(
        routes > 0 && links == 4,
        "a stopped agent took its state along: {state:?}"
    );
    mesh.down(v1_1)?;
    kept("after down", &before, &planted(&lab, v1_1)?)?;
    let left = lab.kernel_state(v1_1)?;
    let ours: Vec<_> = left.difference(&foreign).collect();
    assert!(ours.is_empty(), "left after down: {ours:#?}");
    let connections = lab
        .charon(v1_1)
        .swanctl(lab.underlay(v1_1), &["--list-conns"])?;
    let names: Vec<_> = connections
        .lines()
        .filter(|l| !l.starts_with(' '))
        .collect();
    assert_eq!(
        names.len(),
        1,
        "charon has more than the foreign connection: {names:?}"
    );
    say("the others route around it");
    await_paths(&lab, &[v1_1], SETTLE)?;
    lab.passed()
}

fn count(state: &BTreeSet<String>, kind: &str) -> usize {
    state.iter().filter(|line| line.starts_with(kind)).count()
}

/// Puts objects of somebody else where ours will be.
fn plant(lab: &Lab, gateway: Gateway) -> Result<()> {
    let lines = |lines: &[&str]| lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
    lab.overlay(gateway).ip_batch(&lines(&[
        "link add foreign0 up type dummy",
        "address add 192.0.2.1/24 dev foreign0",
        "nexthop add id 7 dev foreign0",
        "nexthop add id 8 via 192.0.2.7 dev foreign0",
        "nexthop add id 9 group 8",
        "route add 198.51.100.0/24 via 192.0.2.9 proto 99 metric 50",
        "route add 203.0.113.0/24 nhid 9 proto 99",
        // A prefix of the mesh, by a foreigner and with a metric of its own.
        "route add 10.0.2.0/24 via 192.0.2.9 proto 99 metric 4000",
        "route add 2001:db8:a2::/64 dev foreign0 proto 99 metric 4000",
        "route add unreachable 2001:db8:dead::/48 proto 99",
        "rule add from 192.0.2.0/24 lookup 77 pref 7777",
        "route add default dev foreign0 table 77",
    ]))?;
    lab.underlay(gateway).ip_batch(&lines(&[
        "link add foreign1 type xfrm dev eth0 if_id 0x77",
        "address add 2001:db8:77::1/64 dev foreign1 nodad",
        "xfrm state add src 2001:db8:77::1 dst 2001:db8:77::2 proto esp spi 0x7777 mode tunnel \
         if_id 0x77 aead rfc4106(gcm(aes)) 0x0123456789abcdef0123456789abcdef01234567 128",
        "xfrm policy add dir out src 2001:db8:77::/64 dst 2001:db8:78::/64 if_id 0x77 \
         tmpl src 2001:db8:77::1 dst 2001:db8:77::2 proto esp mode tunnel",
    ]))?;
    let rule = "ip -6 rule add from 2001:db8:77::/64 lookup 77 pref 7777";
    lab.underlay(gateway)
        .run(&rule.split(' ').collect::<Vec<_>>())?;
    let file = lab.underlay(gateway).dir().join("foreign.swanctl");
    let text = "connections { foreign { version = 2\n remote_addrs = 2001:db8:77::2\n \
                local { auth = psk }\n remote { auth = psk }\n \
                children { foreign { remote_ts = 2001:db8:78::/64 } } } }\n\
                secrets { ike-foreign { secret = \"not yours\" } }\n";
    std::fs::write(&file, text).map_err(LabError::io("foreign.swanctl"))?;
    let words = ["--load-all", "--file", &file.display().to_string()];
    lab.charon(gateway)
        .swanctl(lab.underlay(gateway), &words)
        .map(drop)
}

/// All that is not ours on a gateway, as text.
fn planted(lab: &Lab, gateway: Gateway) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for host in [lab.overlay(gateway), lab.underlay(gateway)] {
        for words in [
            ["ip", "-4", "route", "show", "table", "all"].as_slice(),
            &["ip", "-6", "route", "show", "table", "all"],
            &["ip", "nexthop"],
            &["ip", "rule"],
            &["ip", "-6", "rule"],
            &["ip", "-o", "address"],
            &["ip", "-o", "xfrm", "policy"],
            &["ip", "-o", "xfrm", "state"],
        ] {
            let text = host.run(words)?;
            // How a route by nexthop object is printed hangs on nexthop_compat_mode, which the
            // agent sets: what counts is the object.
            let lines = text.lines().map(|line| match line.split_once(" nhid ") {
                Some((prefix, rest)) => {
                    format!("{prefix} nhid {}", rest.split(' ').next().unwrap_or(rest))
                }
                None => line.to_owned(),
            });
            found.extend(lines.map(|line| format!("{}: {line}", host.name())));
        }
    }
    let connections = lab
        .charon(gateway)
        .swanctl(lab.underlay(gateway), &["--list-conns"])?;
    found.extend(
        connections
            .lines()
            .filter(|l| l.contains("foreign"))
            .map(str::to_owned),
    );
    // Counters and lifetimes move by themselves.
    found.retain(|line| !line.contains("expires") && !line.contains("fe80::"));
    Ok(found)
}
