//! The session machine as one table: every state against every event (RFC 4271 section 8.2.2), and
//! what becomes of the peer's paths (RFC 4724 section 4.2, RFC 7313 section 4).

use crate::network::{HOLD, net};
use crate::solo::{FIRST, Solo, announcement, b, bytes};
use routemesh_bgp::wire::notification::{cease, code, open};
use routemesh_bgp::wire::{Family, Message, Notification, Open, Refresh, Update};
use routemesh_bgp::{ConnId, Input, PeerState};
use std::net::Ipv4Addr;
use std::time::Duration;

/// What B announced in an earlier session, or has announced in this one.
const PREFIX: &str = "10.0.1.0/24";

/// Does what an event's name says.
fn happen(solo: &mut Solo, event: &str) {
    let open = |change: fn(&mut Open)| {
        let mut open = solo.theirs.clone();
        change(&mut open);
        Message::Open(open)
    };
    let message = match event {
        "accept" => return solo.connected(false),
        "connected" => return solo.connected(true),
        "connect failed" => return solo.input(Input::ConnectFailed { peer: b() }),
        "closed" => return solo.input(Input::Closed { conn: FIRST }),
        "dead" => return solo.input(Input::Dead { peer: b() }),
        "alive" => {
            solo.now += Duration::from_secs(2);
            return solo.input(Input::Alive { peer: b() });
        }
        "shutdown" => return solo.speaker.shutdown("bye", solo.now),
        "3 s pass" => return solo.pass(HOLD / 3),
        "hold time passes" => return solo.pass(HOLD),
        "30 s pass" => return solo.pass(Duration::from_secs(30)),
        "takes nothing for 8 min" => {
            solo.stuck = true;
            for _ in 0..200 {
                if solo.state() == Established {
                    solo.receive(FIRST, &Message::Keepalive);
                } else if solo.state() < OpenSent {
                    return;
                }
                solo.pass(HOLD / 3);
            }
            return;
        }
        "garbage" => {
            let bytes = vec![0; 19];
            return solo.input(Input::Received { conn: FIRST, bytes });
        }
        "half a message" => {
            let mut bytes = bytes(&Message::Keepalive);
            bytes.pop();
            return solo.input(Input::Received { conn: FIRST, bytes });
        }
        "unknown connection" => {
            let conn = ConnId(99);
            solo.receive(conn, &Message::Keepalive);
            solo.input(Input::Writable { conn });
            return solo.input(Input::Closed { conn });
        }
        "OPEN" => open(|_| {}),
        "OPEN wrong AS" => open(|it| it.asn = 65001),
        "OPEN own id" => open(|it| it.router_id = Ipv4Addr::new(10, 0, 0, 2)),
        "OPEN hold 2" => open(|it| it.hold_time = 2),
        "OPEN no family" => open(|it| {
            it.capabilities.families.clear();
            it.capabilities.families.insert(Family::Ipv6);
        }),
        "KEEPALIVE" => Message::Keepalive,
        "UPDATE" => announcement(PREFIX),
        "End-of-RIB" => end_of_rib(Family::Ipv4),
        "ROUTE-REFRESH" => Message::RouteRefresh(Family::Ipv4, Refresh::Request),
        "BoRR" => Message::RouteRefresh(Family::Ipv4, Refresh::Begin),
        "EoRR" => Message::RouteRefresh(Family::Ipv4, Refresh::End),
        "BoRR, EoRR" => {
            happen(solo, "BoRR");
            return happen(solo, "EoRR");
        }
        "BoRR, UPDATE, EoRR" => {
            happen(solo, "BoRR");
            happen(solo, "UPDATE");
            return happen(solo, "EoRR");
        }
        "NOTIFICATION cease" => Message::Notification(Notification::cease(cease::OUT_OF_RESOURCES)),
        "NOTIFICATION hard reset" => {
            Message::Notification(Notification::cease(cease::OUT_OF_RESOURCES).into_hard_reset())
        }
        "NOTIFICATION error" => {
            Message::Notification(Notification::new(code::OPEN, open::BAD_PEER_AS, []))
        }
        other => panic!("{other}"),
    };
    solo.receive(FIRST, &message);
}

#[test]
fn every_state_meets_every_event() {
    for (event, cells) in TABLE {
        for ((state, path), expected) in STATES.into_iter().zip(cells) {
            let mut solo = solo_for(event);
            solo.theirs.capabilities.enhanced_route_refresh = true;
            solo.keep_a_path(PREFIX);
            solo.reach(state);
            if path == "fresh" {
                solo.receive(FIRST, &announcement(PREFIX));
                for family in [Family::Ipv4, Family::Ipv6] {
                    solo.receive(FIRST, &end_of_rib(family));
                }
            }
            assert_eq!(path_of(&solo), path);
            happen(&mut solo, event);
            let outputs = solo.outputs().join(", ");
            let after = solo.state();
            let mut found = match (after == state, outputs.is_empty()) {
                (true, true) => "-".into(),
                (false, true) => format!("{after:?}"),
                _ => format!("{after:?}: {outputs}"),
            };
            if path_of(&solo) != path {
                found = format!("{found}; {}", path_of(&solo));
            }
            assert_eq!(found, expected, "{event} in {state:?}, path {path}");
        }
    }
}

fn end_of_rib(family: Family) -> Message {
    Message::Update(Update {
        end_of_rib: Some(family),
        ..Update::default()
    })
}

/// What there is of B's path: it may be kept from an earlier session.
fn path_of(solo: &Solo) -> &'static str {
    let peer = b();
    let mut paths = solo.speaker.adj_rib_in(&peer);
    match paths.find(|(prefix, _)| *prefix == net(PREFIX)) {
        None => "gone",
        Some((_, path)) if path.stale => "stale",
        Some(_) => "fresh",
    }
}

fn solo_for(event: &str) -> Solo {
    Solo::with(|config| {
        if event == "OPEN no family" {
            let peer = config.peers.get_mut(&b()).unwrap();
            peer.families.remove(&Family::Ipv6);
        }
    })
}

use PeerState::{Active, Connect, Established, Idle, OpenConfirm, OpenSent};
/// Every state, and B's path in it: from an earlier session in all of them, and in the last of this one, of
/// which B has sent all.
const STATES: [(PeerState, &str); 7] = [
    (Idle, "stale"),
    (Connect, "stale"),
    (Active, "stale"),
    (OpenSent, "stale"),
    (OpenConfirm, "stale"),
    (Established, "stale"),
    (Established, "fresh"),
];

/// What each event leads to in each of the states above: the state after it and what is sent or
/// done on which connection, "-" for nothing; then what has become of the path, if something has.
#[rustfmt::skip]
const TABLE: [(&str, [&str; 7]); 29] = [
    ("accept", ["Idle: close 2", "OpenSent: open 1", "OpenSent: open 1", "OpenSent: open 2", "OpenConfirm: open 2", "Established: open 2", "Established: open 2"]),
    ("connected", ["Idle: close 2", "OpenSent: open 1", "OpenSent: open 1", "OpenSent: close 2", "OpenConfirm: close 2", "Established: close 2", "Established: close 2"]),
    ("connect failed", ["-", "Active", "-", "-", "-", "-", "-"]),
    ("closed", ["-", "-", "-", "Active", "Active", "Active; gone", "Active; stale"]),
    ("dead", ["-; gone", "Active; gone", "-; gone", "Active: 6/10 1, close 1; gone", "Active: 6/10 1, close 1; gone", "Active: 6/10 1, close 1; gone", "Active: 6/10 1, close 1; gone"]),
    ("alive", ["-", "Connect: connect", "Connect: connect", "-", "-", "-", "-"]),
    ("shutdown", ["-; gone", "Idle; gone", "Idle; gone", "Idle: 6/2 1, close 1; gone", "Idle: 6/2 1, close 1; gone", "Idle: 6/2 1, close 1; gone", "Idle: 6/2 1, close 1; gone"]),
    ("3 s pass", ["-", "-", "Connect: connect", "-", "OpenConfirm: keepalive 1", "Established: keepalive 1", "Established: keepalive 1"]),
    ("hold time passes", ["Connect: connect", "-", "Connect: connect", "-", "Active: 4/0 1, close 1", "Active: 4/0 1, close 1; gone", "Active: 4/0 1, close 1; gone"]),
    ("30 s pass", ["Connect: connect; gone", "Connect: connect; gone", "Connect: connect; gone", "Active: 4/0 1, close 1; gone", "Active: 4/0 1, close 1; gone", "Active: 4/0 1, close 1; gone", "Active: 4/0 1, close 1; gone"]),
    ("takes nothing for 8 min", ["-", "-", "-", "Active: 4/0 1, close 1; gone", "Active: keepalive 1, 4/0 1, close 1", "Active: keepalive 1, 8/0 1, close 1; gone", "Active: keepalive 1, 8/0 1, close 1; gone"]),
    ("garbage", ["-", "-", "-", "Idle: 1/1 1, close 1", "Idle: 1/1 1, close 1", "Idle: 1/1 1, close 1; gone", "Idle: 1/1 1, close 1; gone"]),
    ("half a message", ["-", "-", "-", "-", "-", "-", "-"]),
    ("unknown connection", ["-", "-", "-", "-", "-", "-", "-"]),
    ("OPEN", ["-", "-", "-", "OpenConfirm: keepalive 1", "-", "Idle: 5/3 1, close 1; gone", "Idle: 5/3 1, close 1; gone"]),
    ("OPEN wrong AS", ["-", "-", "-", "Idle: 2/2 1, close 1", "Idle: 2/2 1, close 1", "Idle: 5/3 1, close 1; gone", "Idle: 5/3 1, close 1; gone"]),
    ("OPEN own id", ["-", "-", "-", "Idle: 2/3 1, close 1", "Idle: 2/3 1, close 1", "Idle: 5/3 1, close 1; gone", "Idle: 5/3 1, close 1; gone"]),
    ("OPEN hold 2", ["-", "-", "-", "Idle: 2/6 1, close 1", "Idle: 2/6 1, close 1", "Idle: 5/3 1, close 1; gone", "Idle: 5/3 1, close 1; gone"]),
    ("KEEPALIVE", ["-", "-", "-", "Idle: 5/1 1, close 1", "Established: update 1, update 1, end-of-rib 1, end-of-rib 1", "-", "-"]),
    ("UPDATE", ["-", "-", "-", "Idle: 5/1 1, close 1", "Idle: 5/2 1, close 1", "-; fresh", "-"]),
    ("End-of-RIB", ["-", "-", "-", "Idle: 5/1 1, close 1", "Idle: 5/2 1, close 1", "-; gone", "-"]),
    ("ROUTE-REFRESH", ["-", "-", "-", "Idle: 5/1 1, close 1", "Idle: 5/2 1, close 1", "Established: refresh 1, update 1, refresh 1", "Established: refresh 1, update 1, refresh 1"]),
    ("BoRR", ["-", "-", "-", "Idle: 5/1 1, close 1", "Idle: 5/2 1, close 1", "-", "-"]),
    ("EoRR", ["-", "-", "-", "Idle: 5/1 1, close 1", "Idle: 5/2 1, close 1", "-", "-"]),
    ("BoRR, EoRR", ["-", "-", "-", "Idle: 5/1 1, close 1", "Idle: 5/2 1, close 1", "-", "-; gone"]),
    ("BoRR, UPDATE, EoRR", ["-", "-", "-", "Idle: 5/1 1, close 1", "Idle: 5/2 1, close 1", "-; fresh", "-"]),
    ("NOTIFICATION cease", ["-", "-", "-", "Active: close 1", "Active: close 1", "Active: close 1; gone", "Active: close 1; gone"]),
    ("NOTIFICATION hard reset", ["-", "-", "-", "Active: close 1", "Active: close 1", "Active: close 1; gone", "Active: close 1; gone"]),
    ("NOTIFICATION error", ["-", "-", "-", "Idle: close 1", "Idle: close 1", "Idle: close 1; gone", "Idle: close 1; gone"]),
];
