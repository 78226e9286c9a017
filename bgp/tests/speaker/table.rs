//! The session machine as one table: every state against every event (RFC 4271 section 8.2.2).

use crate::network::HOLD;
use crate::solo::{FIRST, Solo, announcement, b, bytes, their_open};
use routemesh_bgp::wire::notification::{cease, code, open};
use routemesh_bgp::wire::{Family, Message, Notification, Open, Refresh};
use routemesh_bgp::{ConnId, Input, PeerState};
use std::net::Ipv4Addr;
use std::time::Duration;

/// Does what an event's name says.
fn happen(solo: &mut Solo, event: &str) {
    let open = |change: fn(&mut Open)| {
        let mut open = their_open();
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
        "refresh asked" => return solo.input(Input::Refresh { peer: b() }),
        "shutdown" => return solo.speaker.shutdown("bye", solo.now),
        "3 s pass" => return solo.pass(HOLD / 3),
        "hold time passes" => return solo.pass(HOLD),
        "30 s pass" => return solo.pass(Duration::from_secs(30)),
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
        "UPDATE" => announcement("10.0.1.0/24"),
        "ROUTE-REFRESH" => Message::RouteRefresh(Family::Ipv4, Refresh::Request),
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
        for (state, expected) in STATES.into_iter().zip(cells) {
            let mut solo = solo_for(event);
            solo.reach(state);
            happen(&mut solo, event);
            let outputs = solo.outputs().join(", ");
            let after = solo.state();
            let found = match (after == state, outputs.is_empty()) {
                (true, true) => "-".into(),
                (false, true) => format!("{after:?}"),
                _ => format!("{after:?}: {outputs}"),
            };
            assert_eq!(found, expected, "{event} in {state:?}");
        }
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
const STATES: [PeerState; 6] = [Idle, Connect, Active, OpenSent, OpenConfirm, Established];

/// What each event leads to in each of the states above: the state after it and what is sent or
/// done on which connection; "-" for nothing.
#[rustfmt::skip]
const TABLE: [(&str, [&str; 6]); 24] = [
    ("accept", ["Idle: close 2", "OpenSent: open 1", "OpenSent: open 1", "OpenSent: open 2", "OpenConfirm: open 2", "Established: open 2"]),
    ("connected", ["Idle: close 2", "OpenSent: open 1", "OpenSent: open 1", "OpenSent: close 2", "OpenConfirm: close 2", "Established: close 2"]),
    ("connect failed", ["-", "Active", "-", "-", "-", "-"]),
    ("closed", ["-", "-", "-", "Active", "Active", "Active"]),
    ("dead", ["-", "Active", "-", "Active: 6/10 1, close 1", "Active: 6/10 1, close 1", "Active: 6/10 1, close 1"]),
    ("alive", ["-", "Connect: connect", "Connect: connect", "-", "-", "-"]),
    ("refresh asked", ["-", "-", "-", "-", "-", "Established: refresh 1, refresh 1"]),
    ("shutdown", ["-", "Idle", "Idle", "Idle: 6/2 1, close 1", "Idle: 6/2 1, close 1", "Idle: 6/2 1, close 1"]),
    ("3 s pass", ["-", "-", "Connect: connect", "-", "OpenConfirm: keepalive 1", "Established: keepalive 1"]),
    ("hold time passes", ["Connect: connect", "-", "Connect: connect", "-", "Active: 4/0 1, close 1", "Active: 4/0 1, close 1"]),
    ("30 s pass", ["Connect: connect", "Connect: connect", "Connect: connect", "Active: 4/0 1, close 1", "Active: 4/0 1, close 1", "Active: 4/0 1, close 1"]),
    ("garbage", ["-", "-", "-", "Idle: 1/1 1, close 1", "Idle: 1/1 1, close 1", "Idle: 1/1 1, close 1"]),
    ("half a message", ["-", "-", "-", "-", "-", "-"]),
    ("unknown connection", ["-", "-", "-", "-", "-", "-"]),
    ("OPEN", ["-", "-", "-", "OpenConfirm: keepalive 1", "-", "Idle: 5/3 1, close 1"]),
    ("OPEN wrong AS", ["-", "-", "-", "Idle: 2/2 1, close 1", "Idle: 2/2 1, close 1", "Idle: 5/3 1, close 1"]),
    ("OPEN own id", ["-", "-", "-", "Idle: 2/3 1, close 1", "Idle: 2/3 1, close 1", "Idle: 5/3 1, close 1"]),
    ("OPEN hold 2", ["-", "-", "-", "Idle: 2/6 1, close 1", "Idle: 2/6 1, close 1", "Idle: 5/3 1, close 1"]),
    ("KEEPALIVE", ["-", "-", "-", "Idle: 5/1 1, close 1", "Established: update 1, update 1, end-of-rib 1, end-of-rib 1", "-"]),
    ("UPDATE", ["-", "-", "-", "Idle: 5/1 1, close 1", "Idle: 5/2 1, close 1", "-"]),
    ("ROUTE-REFRESH", ["-", "-", "-", "Idle: 5/1 1, close 1", "Idle: 5/2 1, close 1", "Established: update 1"]),
    ("NOTIFICATION cease", ["-", "-", "-", "Active: close 1", "Active: close 1", "Active: close 1"]),
    ("NOTIFICATION hard reset", ["-", "-", "-", "Active: close 1", "Active: close 1", "Active: close 1"]),
    ("NOTIFICATION error", ["-", "-", "-", "Idle: close 1", "Idle: close 1", "Idle: close 1"]),
];
