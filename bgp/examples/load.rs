//! How fast the table takes routes, and how much memory they cost:
//!
//!     cargo run --release -p routemesh-bgp --example load -- 100000 4
//!
//! Two iBGP peers announce the same prefixes, 200 in an UPDATE, the paths of ten ASes; then one peer
//! is lost, comes back, and both withdraw everything. Bytes go in as from a socket.

use ipnet::IpNet;
use routemesh_bgp::wire::{
    AsPath, Attributes, Capabilities, Context, Directions, Family, Message, NextHop, Open, Update,
    announce, encode, withdraw,
};
use routemesh_bgp::{ConnId, Input, Output, PeerConfig, Speaker, SpeakerConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const NOW: Duration = Duration::from_secs(1000);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let count: u32 = arguments
        .next()
        .and_then(|it| it.parse().ok())
        .unwrap_or(100_000);
    let family = match arguments.next().as_deref() {
        Some("6") => Family::Ipv6,
        _ => Family::Ipv4,
    };
    let address = |number: u16| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number));
    let peer = |number| {
        let name = format!("P{number}");
        (
            name.into(),
            PeerConfig::new(65000, address(1), address(number)),
        )
    };
    let config = SpeakerConfig {
        asn: 65000,
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        restart_time: Duration::from_secs(10),
        deferral_time: Duration::from_secs(10),
        peers: BTreeMap::from([peer(2), peer(3)]),
    };
    let context = Context {
        four_octet_as: true,
        extended_next_hop: true,
        internal: true,
        extended_messages: Directions::default(),
        ..Context::UNKNOWN
    };
    let stream = |number: u16| {
        let mut bytes = Vec::new();
        let next_hop = NextHop {
            address: address(number),
            link_local: None,
        };
        for first in (0..count).step_by(200) {
            let attributes = Attributes {
                as_path: AsPath(vec![64500 + first / 200 % 10, 64000]),
                local_pref: Some(100),
                ..Attributes::default()
            };
            let prefixes = (first..count.min(first + 200)).map(|it| (0, prefix(it, family)));
            announce(
                family,
                &next_hop,
                &attributes,
                prefixes,
                &context,
                &mut bytes,
            );
        }
        let end = Message::Update(Update {
            end_of_rib: Some(family),
            ..Update::default()
        });
        encode(&end, &context, &mut bytes);
        bytes
    };
    let streams = [stream(2), stream(3)];
    let mut gone = Vec::new();
    withdraw(
        family,
        (0..count).map(|it| (0, prefix(it, family))),
        &context,
        &mut gone,
    );

    let mut speaker = Speaker::new(config, false, 1, NOW);
    let before = resident();
    for number in [2, 3] {
        establish(&mut speaker, number, ConnId(number.into()), &context);
    }
    let start = worked();
    let mut changes = 0;
    for (conn, bytes) in [2, 3].into_iter().zip(&streams) {
        changes += feed(&mut speaker, ConnId(conn), bytes);
    }
    report("announced by both", start, changes, count);
    let memory = resident() - before;
    println!(
        "{:>28} {:.1} MB, {} bytes a prefix",
        "memory",
        memory as f64 / 1e6,
        memory / u64::from(count)
    );
    let start = worked();
    speaker.input(Input::Closed { conn: ConnId(2) }, NOW);
    report("one lost", start, drain(&mut speaker), count);
    establish(&mut speaker, 2, ConnId(4), &context);
    let start = worked();
    report(
        "and back",
        start,
        feed(&mut speaker, ConnId(4), &streams[0]),
        count,
    );
    let start = worked();
    let changes = feed(&mut speaker, ConnId(4), &gone) + feed(&mut speaker, ConnId(3), &gone);
    report("withdrawn by both", start, changes, count);
}

fn prefix(number: u32, family: Family) -> IpNet {
    match family {
        Family::Ipv4 => IpNet::new(Ipv4Addr::from(0x1000_0000 + (number << 8)).into(), 24),
        Family::Ipv6 => {
            let bits = 0x2001_0db8_u128 << 96 | u128::from(number) << 64;
            IpNet::new(Ipv6Addr::from(bits).into(), 64)
        }
    }
    .expect("a valid length")
}

fn establish(speaker: &mut Speaker, number: u8, conn: ConnId, context: &Context) {
    let peer = format!("P{number}").into();
    let active = false;
    speaker.input(Input::Connected { peer, conn, active }, NOW);
    let open = Message::Open(Open {
        asn: 65000,
        hold_time: 90,
        router_id: Ipv4Addr::new(10, 0, 0, number),
        capabilities: Capabilities {
            families: BTreeSet::from([Family::Ipv4, Family::Ipv6]),
            extended_next_hop: true,
            four_octet_as: true,
            ..Capabilities::default()
        },
    });
    for message in [open, Message::Keepalive] {
        let mut bytes = Vec::new();
        encode(&message, context, &mut bytes);
        speaker.input(Input::Received { conn, bytes }, NOW);
    }
    drain(speaker);
}

/// Gives bytes as a socket would, and takes what follows. Returns how many changes there were.
fn feed(speaker: &mut Speaker, conn: ConnId, bytes: &[u8]) -> usize {
    let chunks = bytes.chunks(65_536);
    let feed = |chunk: &[u8]| {
        let bytes = chunk.to_vec();
        speaker.input(Input::Received { conn, bytes }, NOW);
        drain(speaker)
    };
    chunks.map(feed).sum()
}

fn drain(speaker: &mut Speaker) -> usize {
    while let Some(output) = speaker.poll_output() {
        if let Output::Send { conn, .. } = output {
            speaker.input(Input::Writable { conn }, NOW);
        }
    }
    let mut changes = 0;
    loop {
        match speaker.take_changes(512).len() {
            0 => return changes,
            taken => changes += taken,
        }
    }
}

fn report(what: &str, start: Duration, changes: usize, count: u32) {
    let took = worked() - start;
    let each = took.as_nanos() / u128::from(count);
    println!(
        "{what:>28} {:.1} ms, {each} ns a prefix, {changes} changes",
        took.as_secs_f64() * 1e3
    );
}

/// How long this process has been working: not the time that others took from it.
fn worked() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split(' ').next().and_then(|it| it.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}

/// Bytes of memory in use by this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
    let number = line.and_then(|it| it.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    number.unwrap_or_default() * 1024
}
