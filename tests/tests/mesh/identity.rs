//! Who is who changes while a mesh carries traffic: certificates that run out soon, another authority, and a
//! gateway that is thrown out.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::mesh::Mesh;
use routemesh_tests::lab::observe::Tunnel;
use routemesh_tests::lab::report::{measured, say, wait_until};
use routemesh_tests::lab::settle::{COLD, SETTLE, await_full, await_paths};
use routemesh_tests::lab::topology::{Gateway, Topology};
use routemesh_tests::lab::traffic::Traffic;

use super::{gateway, link_kind, spec_with};

const V2_2: Gateway = gateway(2, 2);

#[test]
fn certificates_and_authorities_change_under_traffic_and_who_is_revoked_is_gone() -> Result<()> {
    let lab = Lab::start("identity", Topology::two_sites())?;
    let mut mesh = Mesh::enrolled(&lab, &two_sites(), "120s")?;
    let gateways = lab.topology().gateways();
    await_full(&lab, &mut mesh, link_kind(), &gateways, COLD)?;

    let died = said(&lab, " is dead: ")?;
    let traffic = Traffic::start(&lab, 1, 2)?;
    for step in ["trusted", "signs", "alone"] {
        say(format_args!("rollover: the next authority is {step}"));
        let (known, held) = (
            authorities(&mesh, &gateways)?,
            certificates(&mesh, &gateways)?,
        );
        mesh.controller_command(&["rollover", "--wait", "2m"])?;
        wait_until("the authorities everywhere", SETTLE, || {
            let now = authorities(&mesh, &gateways)?;
            match now.len() == 1 && now.is_disjoint(&known) {
                true => Ok(()),
                false => Err(LabError::Unexpected(format!("{} are known", now.len()))),
            }
        })?;
        // As a person is told to.
        if step != "alone" {
            mesh.meshctl(&["renew"])?;
        }
        if step == "signs" {
            let now = || certificates(&mesh, &gateways);
            wait_until(
                "certificates of the next authority",
                SETTLE,
                || match now()?.iter().zip(&held).all(|(now, held)| now != held) {
                    true => Ok(()),
                    false => Err(LabError::Unexpected("one has the old one".to_owned())),
                },
            )?;
        }
    }
    // Whatever was renewed is in use, and all of the mesh is there.
    std::thread::sleep(Duration::from_secs(3));
    await_full(&lab, &mut mesh, link_kind(), &gateways, SETTLE)?;
    let total =
        traffic.stop("certificates renewed, and their authority replaced within seconds")?;
    let renewals = said(&lab, "the certificate is renewed")?;
    say(format_args!(
        "{renewals} renewals since the gateways' start"
    ));
    assert_eq!(said(&lab, " is dead: ")?, died, "a tunnel died of it");
    // Where all gateways make all tunnels anew at once, some packets find none that is not about to be. A
    // renewal alone, and a rollover whose steps are ten minutes apart, have them do it one by one.
    assert!(total.lost * 100 < total.sent, "{total}");

    who_is_revoked_is_gone(&lab, &mut mesh)?;
    lab.passed()
}

fn who_is_revoked_is_gone(lab: &Lab, mesh: &mut Mesh<'_>) -> Result<()> {
    let others: Vec<_> = lab.tunnels_of(V2_2);
    let start = Instant::now();
    mesh.meshctl(&["revoke", "V2-2"])?;
    let told = start.elapsed();
    wait_until("nobody speaks to V2-2", SETTLE, || without(lab, &others))?;
    measured(
        "a gateway revoked: until no other has a tunnel, session or route to it",
        format_args!(
            "{:.1} s, of which {:.1} s for the command",
            start.elapsed().as_secs_f64(),
            told.as_secs_f64()
        ),
    );
    await_paths(lab, &[V2_2], SETTLE)?;

    // An agent that is started again goes by what it keeps, and asks by itself for nothing of the others.
    mesh.kill_agent(V2_2);
    mesh.start_agent(V2_2)?;
    let charon = lab.charon(V2_2);
    let knocks = || {
        let says = std::fs::read_to_string(charon.log()).map_err(LabError::io("charon.log"))?;
        Ok::<_, LabError>(says.matches("initiating IKE_SA").count())
    };
    let before = knocks()?;
    wait_until("V2-2 knocks", SETTLE, || {
        for (connection, child) in charon.loaded()? {
            charon.initiate(&connection, &child)?;
        }
        match knocks()? > before {
            true => Ok(()),
            false => Err(LabError::Unexpected("it does not".to_owned())),
        }
    })?;
    // The others' packet filter drops it, and nobody has a connection for it.
    std::thread::sleep(Duration::from_secs(3));
    without(lab, &others)?;
    let says = std::fs::read_to_string(lab.underlay(V2_2).dir().join("agent.log"));
    let says = says.map_err(LabError::io("agent.log"))?;
    assert!(says.contains("gateway V2-2 was revoked"), "{says}");
    Ok(())
}

/// How often agents have said so.
fn said(lab: &Lab, words: &str) -> Result<usize> {
    let of = |gateway: &Gateway| {
        let log = lab.underlay(*gateway).dir().join("agent.log");
        std::fs::read_to_string(log).map(|it| it.matches(words).count())
    };
    let all = lab.topology().gateways();
    let counts = all.iter().map(of).collect::<std::io::Result<Vec<_>>>();
    counts
        .map(|it| it.iter().sum())
        .map_err(LabError::io("agent.log"))
}

/// No end of these at the others has an interface, a key or a session.
fn without(lab: &Lab, tunnels: &[Tunnel]) -> Result<()> {
    for tunnel in tunnels {
        let far = tunnel.peer(V2_2);
        let interface = tunnel.interface();
        let links = lab.overlay(far).ip(&["link"])?;
        let (keys, of) = (lab.charon(far).children()?, format!("{interface}-"));
        let nexthops = lab.overlay(far).ip(&["nexthop"])?;
        let left = [
            (
                "an interface",
                links.iter().any(|it| it["ifname"] == interface.as_str()),
            ),
            (
                "an SA",
                keys.iter().any(|it| it.connection.starts_with(&of)),
            ),
            (
                "a nexthop",
                nexthops.iter().any(|it| it["dev"] == interface.as_str()),
            ),
        ];
        if let Some((what, _)) = left.iter().find(|(_, there)| *there) {
            let text = format!("{} has {what} of {interface}", far.name());
            return Err(LabError::Unexpected(text));
        }
    }
    Ok(())
}

fn read(mesh: &Mesh<'_>, gateways: &[Gateway], file: &'static str) -> Result<Vec<String>> {
    let read = |it: &Gateway| std::fs::read_to_string(mesh.identity_dir(*it).join(file));
    gateways
        .iter()
        .map(|it| read(it).map_err(LabError::io(file)))
        .collect()
}

/// One of each gateway.
fn certificates(mesh: &Mesh<'_>, gateways: &[Gateway]) -> Result<Vec<String>> {
    read(mesh, gateways, "cert.pem")
}

/// What is known anywhere.
fn authorities(mesh: &Mesh<'_>, gateways: &[Gateway]) -> Result<BTreeSet<String>> {
    Ok(read(mesh, gateways, "ca.pem")?.into_iter().collect())
}

/// The specification, of its first two sites.
fn two_sites() -> String {
    // Nothing here is about how soon a silence is noticed, and keys of many bits keep processors busy.
    let spec = spec_with("bfd = { interval = \"500ms\", multiplier = 16 }");
    let mut spec: toml::Table = spec.parse().expect("the example");
    spec["sites"].as_table_mut().expect("sites").remove("three");
    spec.to_string()
}
