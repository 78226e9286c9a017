//! One speaker whose peers are played by the test.

use crate::network::{DEFERRAL, RESTART, address, both, net, peer, prefixes_of};
use routemesh_bgp::wire::{
    Attributes, Capabilities, Context, Family, GracefulRestart, Message, NextHop, Open, Reach,
    Update, decode, encode,
};
use routemesh_bgp::{
    ConnId, Event, Input, Output, PeerConfig, PeerId, PeerState, Speaker, SpeakerConfig, Time,
};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// A speaker of AS 65000 with peer B in its AS, or with others, that are played by the test.
pub struct Solo {
    pub speaker: Speaker,
    pub config: SpeakerConfig,
    pub now: Time,
    next_conn: u64,
    pub events: Vec<Event>,
    /// The peers take nothing of what is sent to them.
    pub stuck: bool,
    /// What B says when a state is to be reached.
    pub theirs: Open,
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
        let mut speaker = Speaker::new(config.clone(), restarting, 1, now);
        speaker.originate(prefixes_of(2), now);
        Self {
            speaker,
            config,
            now,
            next_conn: 1,
            events: Vec::new(),
            stuck: false,
            theirs: their_open(),
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
                    ..self.theirs.clone()
                }));
                self.input(Input::Received { conn: FIRST, bytes });
            }
            PeerState::OpenSent => self.connected(true),
            PeerState::OpenConfirm => {
                self.connected(true);
                self.receive(FIRST, &Message::Open(self.theirs.clone()));
            }
            PeerState::Established => {
                self.reach(PeerState::OpenConfirm);
                self.receive(FIRST, &Message::Keepalive);
            }
        }
        self.outputs();
        assert_eq!(self.state(), state);
    }

    /// A session with B is over, from which a path to this prefix is kept; a new connection is asked for,
    /// as at the start.
    pub fn keep_a_path(&mut self, prefix: &str) {
        const EARLIER: ConnId = ConnId(50);
        self.establish_with(EARLIER.0, self.theirs.clone());
        self.receive(EARLIER, &announcement(prefix));
        self.input(Input::Closed { conn: EARLIER });
        self.pass(Duration::from_secs(1));
        self.outputs();
        self.next_conn = FIRST.0;
    }

    /// A session that B opened over the connection of this number, with this OPEN.
    pub fn establish_with(&mut self, conn: u64, open: Open) {
        self.next_conn = conn;
        self.connected(false);
        self.receive(ConnId(conn), &Message::Open(open));
        self.receive(ConnId(conn), &Message::Keepalive);
        assert_eq!(self.state(), PeerState::Established);
    }

    /// A session that B opened.
    pub fn reach_passively(&mut self) {
        self.connected(false);
        self.receive(FIRST, &Message::Open(their_open()));
        self.receive(FIRST, &Message::Keepalive);
        assert_eq!(self.state(), PeerState::Established);
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

    /// A session with the peer of this number, over the connection of the same number.
    pub fn establish(&mut self, number: u8, asn: u32, change: impl FnOnce(&mut Open)) {
        let (peer, conn) = (name_of(number), ConnId(number.into()));
        let active = false;
        self.input(Input::Connected { peer, conn, active });
        let mut open = Open {
            asn,
            router_id: Ipv4Addr::new(10, 0, 0, number),
            ..their_open()
        };
        change(&mut open);
        self.receive(conn, &Message::Open(open));
        self.receive(conn, &Message::Keepalive);
    }

    /// The peer of this number announces a prefix.
    pub fn announce(&mut self, number: u8, prefix: &str, change: impl FnOnce(&mut Attributes)) {
        let Message::Update(mut update) = announcement(prefix) else {
            panic!()
        };
        update.reach[0].next_hop.address = address(number.into());
        change(&mut update.attributes);
        self.receive(ConnId(number.into()), &Message::Update(update));
    }

    pub fn withdraw(&mut self, number: u8, prefix: &str) {
        let update = Update {
            withdrawn: vec![(0, net(prefix))],
            ..Update::default()
        };
        self.receive(ConnId(number.into()), &Message::Update(update));
    }

    /// What the speaker sent since the last time, by the number of the peer.
    pub fn told(&mut self) -> BTreeMap<u8, Vec<Update>> {
        let mut told: BTreeMap<u8, Vec<Update>> = BTreeMap::new();
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Send { conn, bytes } => {
                    let updates = messages(&bytes).into_iter().filter_map(|it| match it {
                        Message::Update(update) => Some(update),
                        _ => None,
                    });
                    let number = u8::try_from(conn.0).unwrap();
                    told.entry(number).or_default().extend(updates);
                    self.speaker.input(Input::Writable { conn }, self.now);
                }
                Output::Event(event) => self.events.push(event),
                _ => {}
            }
        }
        told.retain(|_, updates| !updates.is_empty());
        told
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
                Output::Event(event) => self.events.push(event),
                Output::Send { conn, bytes } => {
                    for message in messages(&bytes) {
                        said.push(format!("{} {}", name(&message), conn.0));
                    }
                    if !self.stuck {
                        self.speaker.input(Input::Writable { conn }, self.now);
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

/// Peers beside B go by their number.
pub fn name_of(number: u8) -> PeerId {
    number.to_string().into()
}

/// Peers with these numbers and ASes, instead of B.
pub fn peers(peers: &[(u8, u32)]) -> impl FnOnce(&mut SpeakerConfig) {
    let peers: BTreeMap<PeerId, PeerConfig> = peers
        .iter()
        .map(|(number, asn)| (name_of(*number), peer(2, (*number).into(), *asn)))
        .collect();
    |config| config.peers = peers
}

fn context() -> Context {
    Context {
        four_octet_as: true,
        extended_next_hop: true,
        internal: true,
        enhanced_route_refresh: true,
        ..Context::default()
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
        messages.push(decoded.message.to_owned());
        bytes = &bytes[decoded.length..];
    }
    assert!(bytes.is_empty());
    messages
}

fn name(message: &Message) -> String {
    match message {
        Message::Open(_) => "open".into(),
        Message::Keepalive => "keepalive".into(),
        Message::RouteRefresh(..) => "refresh".into(),
        Message::Update(Update {
            end_of_rib: Some(_),
            ..
        }) => "end-of-rib".into(),
        Message::Update(_) => "update".into(),
        Message::Notification(it) => match it.data.as_slice() {
            [code, subcode, ..] if it.is_hard_reset() => {
                format!("{}/{} wrapping {code}/{subcode}", it.code, it.subcode)
            }
            _ => format!("{}/{}", it.code, it.subcode),
        },
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
                ..GracefulRestart::default()
            }),
            ..Capabilities::default()
        },
    }
}

/// The OPEN of B with what its graceful restart capability says changed.
pub fn open_with_restart(change: impl FnOnce(&mut GracefulRestart)) -> Open {
    let mut open = their_open();
    change(open.capabilities.graceful_restart.as_mut().unwrap());
    open
}

pub fn announcement(prefix: &str) -> Message {
    Message::Update(Update {
        reach: vec![Reach {
            next_hop: NextHop {
                address: address(1),
                link_local: None,
            },
            prefixes: vec![(0, net(prefix))],
        }],
        attributes: Attributes {
            local_pref: Some(100),
            ..Attributes::default()
        },
        ..Update::default()
    })
}
