//! Bytes that another implementation made, and what they mean. See `vectors/bird2/README.md`.

use ipnet::IpNet;
use routemesh_bgp::wire::notification::{cease, code};
use routemesh_bgp::wire::*;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

/// A message, the bytes that BIRD made of it, and the kind of peer for whom they were.
struct Vector {
    name: &'static str,
    context: Context,
    message: Message,
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/bird2")
}

/// Reads a file of hexadecimal digits with comments.
fn bytes(name: &str) -> Vec<u8> {
    let path = folder().join(name).with_extension("hex");
    let text = std::fs::read_to_string(&path).expect(name);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let digits: Vec<u8> = lines
        .flat_map(str::chars)
        .map(|digit| digit.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// Over IPv6, in our AS.
const IBGP: Context = Context {
    four_octet_as: true,
    extended_next_hop: true,
    internal: true,
    ..Context::UNKNOWN
};
/// Over IPv6, to another AS.
const EBGP_IPV6: Context = Context {
    internal: false,
    ..IBGP
};
/// Over IPv4, to another AS.
const EBGP: Context = Context {
    four_octet_as: true,
    ..Context::UNKNOWN
};
/// To a peer without any capabilities, or before there are any.
const OLD: Context = Context::UNKNOWN;

fn prefixes(list: &[&str]) -> Vec<(u32, IpNet)> {
    let parse = |text: &&str| (0, text.parse().expect("a prefix"));
    list.iter().map(parse).collect()
}

const IPV4: [&str; 3] = ["0.0.0.0/0", "10.0.2.128/25", "10.0.1.0/24"];
const IPV6: [&str; 3] = ["::/0", "2001:db8:a2::/48", "2001:db8:a1::/64"];

fn reach(next_hop: &str, list: &[&str]) -> Vec<Reach> {
    vec![Reach {
        next_hop: NextHop {
            address: next_hop.parse().expect("an address"),
            link_local: None,
        },
        prefixes: prefixes(list),
    }]
}

fn reach_link_local(next_hop: &str, link_local: &str, list: &[&str]) -> Vec<Reach> {
    let mut reach = reach(next_hop, list);
    reach[0].next_hop.link_local = Some(link_local.parse().expect("an address"));
    reach
}

fn announce(reach: Vec<Reach>, attributes: Attributes) -> Message {
    Message::Update(Update {
        reach,
        attributes,
        ..Update::default()
    })
}

fn withdraw_message(list: &[&str]) -> Message {
    Message::Update(Update {
        withdrawn: prefixes(list),
        ..Update::default()
    })
}

fn end_of_rib(family: Family) -> Message {
    Message::Update(Update {
        end_of_rib: Some(family),
        ..Update::default()
    })
}

fn path(ases: &[u32]) -> AsPath {
    AsPath(ases.to_vec())
}

fn internal(local_pref: u32) -> Attributes {
    Attributes {
        local_pref: Some(local_pref),
        ..Attributes::default()
    }
}

fn external(ases: &[u32]) -> Attributes {
    Attributes {
        as_path: path(ases),
        ..Attributes::default()
    }
}

fn with_communities(attributes: Attributes) -> Attributes {
    Attributes {
        origin: Origin::Incomplete,
        communities: vec![65001 << 16 | 100, 0xffff_ff01],
        extended_communities: vec![
            [0x00, 0x02, 0xfd, 0xe9, 0, 0, 0, 7],
            [0x01, 0x03, 10, 1, 2, 3, 0, 9],
        ],
        large_communities: vec![[65001, 0, u32::MAX], [4_200_000_001, 1, 2]],
        ..attributes
    }
}

fn with_few_communities(attributes: Attributes) -> Attributes {
    Attributes {
        communities: vec![65001 << 16 | 100],
        large_communities: vec![[4_200_000_001, 1, 2]],
        ..attributes
    }
}

fn open(asn: u32, extended_next_hop: bool, restart: GracefulRestart) -> Message {
    Message::Open(Open {
        asn,
        hold_time: 90,
        router_id: Ipv4Addr::new(10, 9, 0, 1),
        capabilities: Capabilities {
            families: BTreeSet::from([Family::Ipv4, Family::Ipv6]),
            extended_next_hop,
            route_refresh: true,
            four_octet_as: true,
            graceful_restart: Some(restart),
            enhanced_route_refresh: true,
            ..Capabilities::default()
        },
    })
}

fn restart(restarting: bool, families: &[(Family, bool)]) -> GracefulRestart {
    GracefulRestart {
        restarting,
        restart_time: 120,
        families: families.to_vec(),
        ..GracefulRestart::default()
    }
}

fn cease(subcode: u8, text: &str) -> Message {
    Message::Notification(match text {
        "" => Notification::cease(subcode),
        text => Notification::cease_with_text(subcode, text),
    })
}

fn vector(name: &'static str, context: Context, message: Message) -> Vector {
    Vector {
        name,
        context,
        message,
    }
}

fn vectors() -> Vec<Vector> {
    let mut all = session_vectors();
    all.extend(announcements());
    all.extend(withdrawals());
    all
}

fn session_vectors() -> Vec<Vector> {
    let kept = |kept| [(Family::Ipv4, kept), (Family::Ipv6, kept)];
    let shutdown = cease::ADMINISTRATIVE_SHUTDOWN;
    let text = "maintenance until 06:00 — Jörg";
    vec![
        vector(
            "open-ibgp",
            OLD,
            open(65001, true, restart(false, &kept(false))),
        ),
        vector(
            "open-restarting",
            OLD,
            open(65001, true, restart(true, &kept(true))),
        ),
        vector(
            "open-four-octet-as",
            OLD,
            open(4_200_000_001, false, restart(false, &[])),
        ),
        vector("keepalive", IBGP, Message::Keepalive),
        vector(
            "route-refresh-ipv4",
            IBGP,
            Message::RouteRefresh(Family::Ipv4, Refresh::Request),
        ),
        vector(
            "route-refresh-ipv6",
            IBGP,
            Message::RouteRefresh(Family::Ipv6, Refresh::Request),
        ),
        vector("notification-shutdown", OLD, cease(shutdown, "")),
        vector("notification-shutdown-text", IBGP, cease(shutdown, text)),
        vector(
            "notification-reset-text",
            EBGP,
            cease(cease::ADMINISTRATIVE_RESET, "new configuration"),
        ),
        vector(
            "notification-update-error",
            IBGP,
            Message::Notification(Notification::new(code::UPDATE, 1, [])),
        ),
    ]
}

fn announcements() -> Vec<Vector> {
    let global = "2001:db8:ff::1";
    let host = ["192.0.2.7/32"];
    vec![
        vector(
            "announce-ipv4",
            EBGP,
            announce(reach("10.9.0.1", &IPV4), external(&[4_200_000_001])),
        ),
        vector(
            "announce-ipv4-communities",
            EBGP,
            announce(
                reach("10.9.0.1", &host),
                with_communities(external(&[4_200_000_001])),
            ),
        ),
        vector(
            "announce-ipv4-two-octets",
            OLD,
            announce(reach("10.9.0.1", &IPV4), external(&[4_200_000_001])),
        ),
        vector(
            "announce-ipv4-over-ipv6",
            IBGP,
            announce(reach(global, &IPV4), internal(100)),
        ),
        vector(
            "announce-ipv4-over-ipv6-communities",
            IBGP,
            announce(
                reach(global, &host),
                Attributes {
                    med: Some(77),
                    ..with_communities(internal(250))
                },
            ),
        ),
        vector(
            "announce-ipv4-over-ipv6-link-local",
            EBGP_IPV6,
            announce(
                reach_link_local(global, "fe80::1", &IPV4),
                external(&[65001]),
            ),
        ),
        vector(
            "announce-ipv6",
            IBGP,
            announce(reach(global, &IPV6), internal(100)),
        ),
        vector(
            "announce-ipv6-communities",
            IBGP,
            announce(
                reach(global, &["2001:db8::7/128"]),
                Attributes {
                    med: Some(5),
                    ..with_few_communities(internal(90))
                },
            ),
        ),
        vector(
            "announce-ipv6-link-local",
            EBGP_IPV6,
            announce(
                reach_link_local(global, "fe80::1", &IPV6),
                external(&[65001]),
            ),
        ),
        vector(
            "announce-ipv6-reflected",
            IBGP,
            announce(
                reach("2001:db8:ff::2", &["2001:db8:bb00::/40"]),
                Attributes {
                    originator_id: Some(Ipv4Addr::new(10, 9, 0, 2)),
                    cluster_list: vec![Ipv4Addr::new(10, 9, 0, 99)],
                    ..internal(100)
                },
            ),
        ),
    ]
}

fn withdrawals() -> Vec<Vector> {
    let ipv4 = ["0.0.0.0/0", "10.0.2.128/25", "192.0.2.7/32", "10.0.1.0/24"];
    let ipv6 = [
        "::/0",
        "2001:db8:a2::/48",
        "2001:db8::7/128",
        "2001:db8:a1::/64",
    ];
    vec![
        vector("withdraw-ipv4", EBGP, withdraw_message(&ipv4)),
        vector("withdraw-ipv4-multiprotocol", IBGP, withdraw_message(&ipv4)),
        vector("withdraw-ipv6", EBGP, withdraw_message(&ipv6)),
        vector("end-of-rib-ipv4", IBGP, end_of_rib(Family::Ipv4)),
        vector("end-of-rib-ipv6", IBGP, end_of_rib(Family::Ipv6)),
    ]
}

#[test]
fn what_bird_says_is_understood() {
    for Vector {
        name,
        context,
        message,
    } in vectors()
    {
        let bytes = bytes(name);
        let decoded = decode(&bytes, &context).expect(name).expect(name);
        assert_eq!(decoded.message.to_owned(), message, "{name}");
        assert_eq!(decoded.length, bytes.len(), "{name}");
        assert_eq!(decoded.faults, [], "{name}");
    }
}

/// Messages of which we make other bytes, and why. All else is the same to the byte.
const DIFFERENT: [(&str, &str); 4] = [
    ("open-ibgp", "has capabilities that we do not know"),
    ("open-restarting", "has capabilities that we do not know"),
    ("open-four-octet-as", "has capabilities that we do not know"),
    (
        "withdraw-ipv4-multiprotocol",
        "we withdraw IPv4 the short way",
    ),
];

#[test]
fn we_say_it_in_the_same_bytes() {
    for Vector {
        name,
        context,
        message,
    } in vectors()
    {
        let mut ours = Vec::new();
        encode(&message, &context, &mut ours);
        let different = DIFFERENT.iter().any(|(known, _)| *known == name);
        assert_eq!(ours != bytes(name), different, "{name}: {ours:02x?}");
        let decoded = decode(&ours, &context).expect(name).expect(name);
        assert_eq!(decoded.message.to_owned(), message, "{name}");
    }
}

/// Routes with an AS_SET.
const WITH_SETS: [(&str, Context); 2] = [
    ("announce-ipv4-two-octets-aggregated", OLD),
    ("announce-ipv4-over-ipv6-unknown", IBGP),
];

/// RFC 9774 section 3.
#[test]
fn an_as_set_costs_the_routes() {
    for (name, context) in WITH_SETS {
        let bytes = bytes(name);
        let decoded = decode(&bytes, &context).expect(name).expect(name);
        let withdrawn = withdraw_message(&["198.51.100.0/24", "203.0.112.0/22"]);
        assert_eq!(decoded.message.to_owned(), withdrawn, "{name}");
        let reasons: BTreeSet<_> = decoded.faults.iter().map(|it| it.reason).collect();
        assert_eq!(reasons, BTreeSet::from(["AS_SET"]), "{name}");
    }
}

#[test]
fn every_file_is_in_the_table() {
    let files = std::fs::read_dir(folder()).expect("the vectors");
    let found: BTreeSet<String> = files
        .map(|file| {
            file.expect("a file")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter_map(|name| name.strip_suffix(".hex").map(str::to_owned))
        .collect();
    let known = vectors().into_iter().map(|vector| vector.name);
    let known = known.chain(WITH_SETS.map(|(name, _)| name));
    let known = known.map(str::to_owned);
    assert_eq!(found, known.collect());
}
