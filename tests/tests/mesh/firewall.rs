//! Packets that do not belong to the mesh.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::mesh::Mesh;
use routemesh_tests::lab::report::wait_until;
use routemesh_tests::lab::settle::SETTLE;
use routemesh_tests::lab::topology::private6;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use super::gateway;

/// On the network of V3-2's endpoint, and nobody's endpoint.
const STRANGER: &str = "2001:db8:3::99";
/// Within what site three owns.
const FORGED: &str = "2001:db8:a3::99";

/// In a mesh with every kind of overlay.
pub(super) fn what_does_not_belong_to_the_mesh_is_dropped_and_told(
    lab: &Lab,
    mesh: &Mesh<'_>,
) -> Result<()> {
    let (v1_1, v2_1, v3_2) = (gateway(1, 1), gateway(2, 1), gateway(3, 2));
    lab.ping(1, 2)?;

    let elsewhere = lab.underlay(v3_2);
    elsewhere.run(&["ip", "addr", "add", STRANGER, "dev", "eth0", "nodad"])?;
    let (victim, before) = (
        lab.underlay(v1_1),
        counted(lab.underlay(v1_1), "ipsec_stranger")?,
    );
    wait_until("a stranger's ESP is dropped", SETTLE, || {
        send_esp(elsewhere, STRANGER, &v1_1.public())?;
        more_than(before, counted(victim, "ipsec_stranger")?)
    })?;

    // A gateway of site two that sends what only site three may.
    let liar = lab.overlay(v2_1);
    liar.run(&["ip", "addr", "add", FORGED, "dev", "lo", "nodad"])?;
    for member in [1, 2] {
        // By whichever tunnel the port chooses.
        wait_until("a forged source is dropped", SETTLE, || {
            send_udp(liar, FORGED, &private6(1))?;
            let dropped = counted(lab.overlay(gateway(1, member)), "spoofed")?;
            more_than(0, dropped)
        })?;
    }
    wait_until("it is told", SETTLE * 2, || {
        match mesh.meshctl(&["topology"])? {
            text if text.contains("in: source not of the far site") => Ok(()),
            text => Err(LabError::Unexpected(text)),
        }
    })?;
    lab.ping(1, 2)?;

    // Without it, what a VRF forwards is looked up in the public side's table.
    victim.run(&["ip", "-6", "rule", "del", "l3mdev", "pref", "1000"])?;
    wait_until("a VRF's deleted rule is told", SETTLE, || {
        match mesh.meshctl(&["get", "gateways"])? {
            text if text.contains("no IPv6 rule leads to the tables of VRFs") => Ok(()),
            text => Err(LabError::Unexpected(text)),
        }
    })?;
    let back = ["ip", "-6", "rule", "add", "l3mdev", "pref", "1000"];
    victim.run(&back).map(drop)
}

/// What the counters whose names end so have counted.
fn counted(host: &Host, name: &str) -> Result<u64> {
    let text = host.run(&[
        "nft",
        "-j",
        "list",
        "counters",
        "table",
        "inet",
        "routemesh",
    ])?;
    let listing: Value =
        serde_json::from_str(&text).map_err(|error| LabError::Unexpected(error.to_string()))?;
    let objects = listing["nftables"].as_array().into_iter().flatten();
    let counters = objects.map(|object| &object["counter"]);
    let wanted = counters.filter(|it| it["name"].as_str().is_some_and(|it| it.ends_with(name)));
    Ok(wanted.filter_map(|it| it["packets"].as_u64()).sum())
}

fn more_than(before: u64, now: u64) -> Result<()> {
    match now > before {
        true => Ok(()),
        false => Err(LabError::Unexpected(format!("{now} counted"))),
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    let address: IpAddr = address.parse().expect("an address");
    (address, port).into()
}

fn send_esp(host: &Host, from: &str, to: &str) -> Result<()> {
    let sent = host.enter(|| {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(50)))?;
        socket.bind(&at(from, 0).into())?;
        socket.send_to(&[0; 64], &at(to, 0).into())
    })?;
    sent.map(drop).map_err(LabError::io("send ESP"))
}

fn send_udp(host: &Host, from: &str, to: &str) -> Result<()> {
    let sent = host.enter(|| UdpSocket::bind(at(from, 0))?.send_to(b"x", at(to, 9)));
    sent?.map(drop).map_err(LabError::io("send a datagram"))
}
