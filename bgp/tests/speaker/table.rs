//! The session machine as one table: every state against every event (RFC 4271 section 8.2.2).

use crate::network::{DEFERRAL, HOLD, RESTART, address, both, net, peer, prefixes_of};
use routemesh_bgp::wire::notification::{cease, code, open};
use routemesh_bgp::wire::{
    AsPath, Attributes, Capabilities, Context, Family, GracefulRestart, Message, NextHop,
    Notification, Open, Reach, Update, decode, encode,
};
use routemesh_bgp::{ConnId, Input, Output, PeerId, PeerState, Speaker, SpeakerConfig, Time};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// A speaker with one peer, B, that is played by the test.
pub struct Solo {
    pub speaker: Speaker,
    pub now: Time,
    next_conn: u64,
}

pub const FIRST: ConnId = ConnId(1);

impl Solo {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut SpeakerConfig)) -> Self {
        Self::start(change, false)
    }

    pub fn restarted() -> Self {
        Self::start(|_| {}, true)
    }

    fn start(change: impl FnOnce(&mut SpeakerConfig), restarting: bool) -> Self {
        let mut config = SpeakerConfig {
            asn: 65000,
            router_id: Ipv4Addr::new(10, 0, 0, 2),
            restart_time: RESTART,
            deferral_time: DEFERRAL,
            peers: BTreeMap::from([("B".into(), peer(2, 1, 65000))]),
        };
        change(&mut config);
        let now = Duration::from_secs(100);
        let mut speaker = Speaker::new(config, restarting, now);
        speaker.originate(prefixes_of(2), now);
        Self {
            speaker,
            now,
            next_conn: 1,
        }
    }

    /// Brings the machine into a state by the shortest way.
    pub fn reach(&mut self, state: PeerState) {
        match state {
            PeerState::Connect => {}
            PeerState::Active => self.input(Input::ConnectFailed { peer: b() }),
            PeerState::Idle => {
                self.connected(true);
                let bytes = bytes(&Message::Open(Open {
                    asn: 1,
                    ..their_open()
                }));
                self.input(Input::Received { conn: FIRST, bytes });
            }
            PeerState::OpenSent => self.connected(true),
            PeerState::OpenConfirm => {
                self.connected(true);
                self.receive(FIRST, &Message::Open(their_open()));
            }
            PeerState::Established => {
                self.reach(PeerState::OpenConfirm);
                self.receive(FIRST, &Message::Keepalive);
            }
        }
        self.outputs();
        assert_eq!(self.state(), state);
    }

    pub fn connected(&mut self, active: bool) {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let peer = b();
        self.input(Input::Connected { peer, conn, active });
    }

    pub fn receive(&mut self, conn: ConnId, message: &Message) {
        let bytes = bytes(message);
        self.input(Input::Received { conn, bytes });
    }

    pub fn input(&mut self, input: Input) {
        self.speaker.input(input, self.now);
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.speaker.timeout(self.now);
    }

    pub fn state(&self) -> PeerState {
        self.speaker.peers().next().unwrap().state
    }

    /// What the speaker did, in short: messages by connection, and what it opened and closed.
    pub fn outputs(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Connect { .. } => said.push("connect".into()),
                Output::Close { conn } => said.push(format!("close {}", conn.0)),
                Output::Event(_) => {}
                Output::Send { conn, bytes } => {
                    for message in messages(&bytes) {
                        said.push(format!("{} {}", name(&message), conn.0));
                    }
                }
            }
        }
        said
    }
}

pub fn b() -> PeerId {
    "B".into()
}

fn context() -> Context {
    Context {
        four_octet_as: true,
        extended_next_hop: true,
        internal: true,
    }
}

pub fn bytes(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(message, &context(), &mut bytes);
    bytes
}

pub fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some(decoded) = decode(bytes, &context()).unwrap() {
        messages.push(decoded.message);
        bytes = &bytes[decoded.length..];
    }
    assert!(bytes.is_empty());
    messages
}

fn name(message: &Message) -> String {
    match message {
        Message::Open(_) => "open".into(),
        Message::Keepalive => "keepalive".into(),
        Message::RouteRefresh(_) => "refresh".into(),
        Message::Update(Update {
            end_of_rib: Some(_),
            ..
        }) => "end-of-rib".into(),
        Message::Update(_) => "update".into(),
        Message::Notification(it) => format!("{}/{}", it.code, it.subcode),
    }
}

/// The OPEN of B, whose identifier is lower than ours.
pub fn their_open() -> Open {
    Open {
        asn: 65000,
        hold_time: 90,
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        capabilities: Capabilities {
            families: both(),
            extended_next_hop: true,
            route_refresh: true,
            four_octet_as: true,
            graceful_restart: Some(GracefulRestart {
                restarting: false,
                restart_time: 20,
                families: vec![(Family::Ipv4, true), (Family::Ipv6, true)],
            }),
        },
    }
}

pub fn announcement(prefix: &str) -> Message {
    Message::Update(Update {
        reach: vec![Reach {
            next_hop: NextHop {
                address: address(1),
                link_local: None,
            },
            prefixes: vec![net(prefix)],
        }],
        attributes: Attributes {
            as_path: AsPath::default(),
            local_pref: Some(100),
            ..Attributes::default()
        },
        ..Update::default()
    })
}

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
        "ROUTE-REFRESH" => Message::RouteRefresh(Family::Ipv4),
        "NOTIFICATION cease" => Message::Notification(Notification::cease(cease::OUT_OF_RESOURCES)),
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
/// done on which connection; "-" for nothing. An UPDATE in OpenSent is refused for its next hop,
/// before its being there at all is noticed.
#[rustfmt::skip]
const TABLE: [(&str, [&str; 6]); 23] = [
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
    ("OPEN", ["-", "-", "-", "OpenConfirm: keepalive 1", "Idle: 5/2 1, close 1", "Idle: 5/3 1, close 1"]),
    ("OPEN wrong AS", ["-", "-", "-", "Idle: 2/2 1, close 1", "Idle: 5/2 1, close 1", "Idle: 5/3 1, close 1"]),
    ("OPEN own id", ["-", "-", "-", "Idle: 2/3 1, close 1", "Idle: 5/2 1, close 1", "Idle: 5/3 1, close 1"]),
    ("OPEN hold 2", ["-", "-", "-", "Idle: 2/6 1, close 1", "Idle: 2/6 1, close 1", "Idle: 2/6 1, close 1"]),
    ("KEEPALIVE", ["-", "-", "-", "Idle: 5/1 1, close 1", "Established: update 1, update 1, end-of-rib 1, end-of-rib 1", "-"]),
    ("UPDATE", ["-", "-", "-", "Idle: 3/9 1, close 1", "Idle: 5/2 1, close 1", "-"]),
    ("ROUTE-REFRESH", ["-", "-", "-", "Idle: 5/1 1, close 1", "Idle: 5/2 1, close 1", "Established: update 1"]),
    ("NOTIFICATION cease", ["-", "-", "-", "Active: close 1", "Active: close 1", "Active: close 1"]),
    ("NOTIFICATION error", ["-", "-", "-", "Idle: close 1", "Idle: close 1", "Idle: close 1"]),
];
