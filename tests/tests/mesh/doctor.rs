//! `meshctl doctor` on a real mesh: it finds nothing wrong where nothing is, and the rung and the cause where
//! something was broken on purpose.

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::mesh::Mesh;
use routemesh_tests::lab::observe::Tunnel;
use routemesh_tests::lab::report::{say, wait_until};
use routemesh_tests::lab::settle::SETTLE;
use routemesh_tests::lab::topology::{self, Gateway, private4};
use serde_json::Value;

use super::stranger::{Terms, early_certificate, loads, unknown_certificate};
use super::{gateway, spec};

const V1_1: Gateway = gateway(1, 1);
const V1_2: Gateway = gateway(1, 2);
const V2_1: Gateway = gateway(2, 1);
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

/// Packets of full size get lost on the way from V2-2 to V3-1, without a word. It takes the agent a minute to notice.
pub(super) fn makes_a_hole(lab: &Lab) -> Result<()> {
    let from = V2_2.public();
    drops(
        lab.underlay(V3_1),
        &format!("ip6 saddr {from} meta l4proto esp meta length > 1400 drop;"),
    )
}

/// Breaks rungs of all tunnels that there are without V2-1, which is gone: from above to below, so that nobody need
/// mend anything, as what is broken below is found first.
pub(super) fn finds_what_is_broken(lab: &Lab, mesh: &mut Mesh<'_>) -> Result<()> {
    routes_and_sessions(lab, mesh)?;
    prefixes(mesh)?;
    keys(lab, mesh)?;
    below_keys(lab, mesh)?;
    let events = mesh.meshctl(&["events", "--gateway", "V1-1"])?;
    has(&events, "down")
}

fn routes_and_sessions(lab: &Lab, mesh: &mut Mesh<'_>) -> Result<()> {
    let link = |one, other| tunnel(lab, one, other).interface();
    // BFD of V1-1 does not reach V3-1 through the tunnel, nor BGP of V1-2 V3-2, nor anything of V1-2 V2-2.
    let (bfd, bgp, all) = (link(V1_1, V3_1), link(V1_2, V3_2), link(V1_2, V2_2));
    drops(
        lab.overlay(V3_1),
        &format!("iifname {bfd} udp dport 3784 drop;"),
    )?;
    drops(
        lab.overlay(V3_2),
        &format!("iifname {bgp} tcp dport 179 drop; iifname {bgp} tcp sport 179 drop;"),
    )?;
    drops(lab.overlay(V2_2), &format!("iifname {all} drop;"))?;
    // The way of V1-2 to site three leads nowhere, and that of V2-2 to site one out of the mesh.
    let half = |site| {
        let address = private4(site);
        let net = address.rsplit_once('.').map_or("", |(net, _)| net);
        format!("{net}.0/25")
    };
    lab.overlay(V1_2)
        .ip_batch(&[format!("route add blackhole {}", half(3))])?;
    lab.overlay(V2_2)
        .ip_batch(&[format!("route add {} via 172.16.2.254", half(1))])?;
    // V3-2 cannot reach its controller any more.
    mesh.stop_agent(V3_2)?;
    mesh.start_agent_alone(V3_2)?;
    finds(
        mesh,
        &[
            (V1_1, V2_1, "ike", "as V2-1 does not report"),
            (V1_1, V3_1, "bfd", "V3-1 gets no packet of BFD from V1-1"),
            (V1_1, V3_2, "agents", "V3-2 does not report"),
            (V1_2, V2_2, "interconnect", "not answered by V2-2"),
            (V1_2, V3_1, "routes", "has a blackhole route"),
            (V1_2, V3_2, "bgp", "BGP"),
            (V2_2, V3_1, "mtu", "are lost without a word"),
            (
                V1_1,
                V2_2,
                "return",
                "V2-2 sends 10.0.1.1 by a route of somebody else's",
            ),
        ],
    )
}

/// What V3-2 still announces is its site's no more, as everybody else knows.
fn prefixes(mesh: &Mesh<'_>) -> Result<()> {
    let [gone, stays] = topology::prefixes(3);
    let fewer = spec().replacen(
        &format!("\"{gone}\", \"{stays}\""),
        &format!("\"{stays}\""),
        1,
    );
    mesh.apply(&fewer)?;
    let cause = format!("V2-2 rejects {gone} of V3-2");
    finds(mesh, &[(V2_2, V3_2, "prefixes", &cause)])
}

fn keys(lab: &Lab, mesh: &Mesh<'_>) -> Result<()> {
    let public = V1_1.public();
    // ESP from V1-1 does not reach V2-2, nor IKE V3-2.
    drops(
        lab.underlay(V2_2),
        &format!("ip6 saddr {public} meta l4proto esp drop;"),
    )?;
    drops(
        lab.underlay(V3_2),
        &format!(
            "ip6 saddr {public} udp dport {{ 500, 4500 }} drop; ip6 saddr {public} meta l4proto esp drop;"
        ),
    )?;
    let connection = format!("{}-V3-2", tunnel(lab, V1_1, V3_2).interface());
    lab.charon(V1_1).terminate(&connection)?;
    // Where charon has other terms than its agent has given it, the ends do not agree.
    let unlike = Terms::default;
    let cases = [
        (
            V3_1,
            V1_1,
            Terms {
                ike: Some("aes128-sha256-modp2048"),
                ..unlike()
            },
        ),
        (
            V3_1,
            V1_2,
            Terms {
                remote_id: Some("V9-9"),
                ..unlike()
            },
        ),
        (
            V3_1,
            V2_2,
            Terms {
                esp: Some("aes128gcm16-ecp384"),
                ..unlike()
            },
        ),
        (
            V2_2,
            V1_2,
            Terms {
                shows: Some(early_certificate(lab, mesh, V2_2)?),
                ..unlike()
            },
        ),
        (
            V3_2,
            V2_2,
            Terms {
                shows: Some(unknown_certificate(lab, V3_2)?),
                ..unlike()
            },
        ),
        (
            V1_2,
            V3_2,
            Terms {
                remote_ts: Some("10.9.0.0/16"),
                ..unlike()
            },
        ),
        (
            V3_2,
            V1_2,
            Terms {
                local_ts: Some("10.8.0.0/16"),
                ..unlike()
            },
        ),
    ];
    for (at, far, terms) in &cases {
        loads(lab, mesh, (tunnel(lab, *at, *far), *at), terms)?;
    }
    finds(
        mesh,
        &[
            (V1_1, V2_2, "esp", "ESP from V1-1 to V2-2 is lost"),
            (V1_1, V3_1, "ike", "it takes none of our IKE proposals"),
            (V1_1, V3_2, "udp", "towards V3-2"),
            (V1_2, V2_2, "ike", "time: V1-2 says"),
            (V1_2, V3_1, "ike", "identity: V"),
            (V1_2, V3_2, "child", "traffic selectors: V1-2 says"),
            (V2_2, V3_1, "child", "proposals: V"),
            (
                V2_2,
                V3_2,
                "ike",
                "authentication: V2-2 says that the far end's certificate is not of",
            ),
        ],
    )
}

fn below_keys(lab: &Lab, mesh: &Mesh<'_>) -> Result<()> {
    // By the name of V1-1's interface there is another one when its agent looks again.
    let link = tunnel(lab, V1_1, V3_1).interface();
    mesh.while_frozen(V1_1, || {
        lab.overlay(V1_1).ip_batch(&[
            format!("link delete {link}"),
            format!("link add {link} type xfrm dev lo if_id 0x77"),
        ])
    })?;
    let nowhere = format!("route add unreachable {}/128", V3_2.public());
    lab.underlay(V1_1).ip_batch(&[nowhere])?;
    finds(
        mesh,
        &[
            (V1_1, V3_1, "interface", "which is not the tunnel's"),
            (V1_1, V3_2, "outside", "V1-1 has no way to V3-2's endpoint"),
        ],
    )
}

fn tunnel(lab: &Lab, one: Gateway, other: Gateway) -> Tunnel {
    let tunnels = lab.tunnels_of(one).into_iter();
    let mut between = tunnels.filter(|tunnel| tunnel.peer(one) == other);
    between.next().expect("a full mesh")
}

/// A packet filter beside ours, once for each host.
fn drops(host: &Host, what: &str) -> Result<()> {
    let table = format!(
        "table inet broken {{ chain input {{ type filter hook input priority -400; {what} }}; }}"
    );
    host.run(&["nft", &table]).map(drop)
}

/// Asks about the whole mesh until each of these ladders has broken at its rung, and by its cause. What was found
/// once was found: an attempt that is under way has no cause yet.
fn finds(mesh: &Mesh<'_>, expected: &[(Gateway, Gateway, &str, &str)]) -> Result<()> {
    let mut left = expected.to_vec();
    wait_until("what doctor is to find", 2 * SETTLE, || {
        let found = diagnosis(mesh)?;
        let ladders = found["diagnosis"]["ladders"].as_array();
        let mut others = Vec::new();
        left.retain(|(one, other, rung, cause)| {
            let is_theirs = |it: &&Value| it["a"] == one.name() && it["b"] == other.name();
            let ladder = ladders.into_iter().flatten().find(is_theirs);
            let of = |name: &str| ladder.and_then(|it| it[name].as_str()).unwrap_or_default();
            let is_found = of("broken") == *rung && of("cause").contains(cause);
            if is_found {
                let (one, other) = (one.name(), other.name());
                say(format_args!("doctor finds {rung} of {one} - {other}"));
            } else {
                others.push(format!("not {rung}: {ladder:?}"));
            }
            !is_found
        });
        match left.is_empty() {
            true => Ok(()),
            false => Err(LabError::Unexpected(others.join("\n"))),
        }
    })
}

/// What the doctor says, whose exit status says that something is wrong.
fn diagnosis(mesh: &Mesh<'_>) -> Result<Value> {
    let said = match mesh.meshctl(&["doctor", "-o", "json"]) {
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
