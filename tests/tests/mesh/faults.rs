//! The checks of these tests see what is wrong: each is tried against a fault made on purpose.

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::Result;
use routemesh_tests::lab::topology::{Topology, prefixes};

use super::{gateway, mesh_up, spec};

#[test]
fn every_check_fails_where_something_is_wrong() -> Result<()> {
    let lab = Lab::start("faults", Topology::three_sites())?;
    let mut mesh = mesh_up(&lab, &spec())?;
    let gateways = lab.topology().gateways();
    let v1_1 = gateway(1, 1);
    let (overlay, underlay) = (lab.overlay(v1_1), lab.underlay(v1_1));
    // Nobody is to repair what is broken here.
    mesh.stop_agent(v1_1)?;
    let expected = lab.expected_paths(v1_1, &gateways);
    let (tunnel, other) = (lab.tunnels_of(v1_1)[0], lab.tunnels_of(v1_1)[1]);
    let [site2, _] = prefixes(2);

    let before = lab.kernel_state(v1_1)?;
    lab.check_paths(v1_1, &expected)?;
    lab.check_fail_closed(v1_1)?;
    lab.check_router(1, &site2, 2)?;

    // The session ends with the agent, so the check of an end must fail already.
    assert!(lab.check_ends(v1_1, "xfrm", &[tunnel]).is_err());
    // At the far end of another tunnel all is well but for the session, and then the link.
    let (v3_1, to_v2_2) = (gateway(3, 1), gateway(2, 2));
    let healthy = lab.tunnels_of(v3_1);
    let healthy = healthy.into_iter().find(|t| t.peer(v3_1) == to_v2_2);
    let healthy = [healthy.expect("a full mesh")];
    lab.check_ends(v3_1, "xfrm", &healthy)?;
    assert!(lab.check_ends(v3_1, "vti6", &healthy).is_err());
    lab.underlay(v3_1).run(&["ip", "xfrm", "state", "flush"])?;
    assert!(lab.check_ends(v3_1, "xfrm", &healthy).is_err());

    let lines = |line: String| [line];
    overlay.ip_batch(&lines(format!(
        "route delete unreachable {site2} proto 82 metric 4294967295"
    )))?;
    assert!(lab.check_fail_closed(v1_1).is_err());

    overlay.ip_batch(&lines(format!("link set {} down", tunnel.interface())))?;
    assert!(lab.check_paths(v1_1, &expected).is_err());
    let after = lab.kernel_state(v1_1)?;
    assert!(before.difference(&after).count() > 1, "{after:?}");
    overlay.ip_batch(&lines(format!("link delete {}", other.interface())))?;
    let fewer = lab.kernel_state(v1_1)?;
    assert!(
        after
            .iter()
            .any(|l| l.starts_with("link") && !fewer.contains(l))
    );
    underlay.run(&["ip", "xfrm", "state", "flush"])?;
    assert!(
        !lab.kernel_state(v1_1)?
            .iter()
            .any(|line| line.starts_with("sa"))
    );

    lab.bird(1).ask("disable V1_2")?;
    assert!(lab.check_router(1, &site2, 2).is_err());
    assert!(lab.cut(v1_1).is_ok() && lab.ping(1, 2).is_err());
    lab.passed()
}
