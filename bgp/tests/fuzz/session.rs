//! A whole speaker with three peers, of which anything may come at any time.

use super::choices::Choices;
use ipnet::IpNet;
use routemesh_bgp::policy::Policy;
use routemesh_bgp::wire::{
    Capabilities, Context, Directions, Family, GracefulRestart, Message, Open, PerFamily, Role,
    encode,
};
use routemesh_bgp::{ConnId, Hop, Input, Output, PeerConfig, PeerId, Speaker, SpeakerConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// More would only be more of the same.
const STEPS: usize = 300;
const OWN: [&str; 2] = ["10.9.0.0/16", "fd00:9::/32"];
const MAX_PREFIXES: usize = 50;
/// After how many steps the table is counted, which takes longer than a step. A wrong count stays wrong,
/// and libFuzzer makes the input shorter that shows it.
const COUNTED: usize = 8;
/// What waits for a connection that takes nothing: 64 KB of UPDATEs and the batch that went beyond,
/// and the messages that are sent at most once until it takes something.
const UNTAKEN: usize = 256 * 1024;

/// Feeds a speaker with inputs, valid and other messages, and the passing of time: no panic, no timer
/// that is due for ever, counts that agree with the table, and neither outputs nor paths without
/// bound.
pub fn session(input: &[u8]) {
    let mut run = Run::new();
    let mut choices = Choices::new(input);
    for step in 0..STEPS {
        if choices.is_empty() {
            break;
        }
        run.step(&mut choices);
        run.check();
        if step % COUNTED == 0 {
            run.count();
        }
    }
    run.count();
}

struct Run {
    speaker: Speaker,
    now: Duration,
    /// Connections made so far; their numbers begin with 1.
    conns: u64,
    /// Bytes handed out since a connection was last writable.
    untaken: BTreeMap<ConnId, usize>,
    /// The table as its changes tell it.
    followed: BTreeMap<IpNet, Arc<[Hop]>>,
}

impl Run {
    fn new() -> Self {
        let now = Duration::from_secs(1);
        let mut speaker = Speaker::new(config(), false, 1, now);
        let prefixes = OWN.map(|prefix| prefix.parse().expect("a prefix"));
        speaker.originate(BTreeSet::from(prefixes), now);
        Self {
            speaker,
            now,
            conns: 0,
            untaken: BTreeMap::new(),
            followed: BTreeMap::new(),
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let number = choices.byte() % 3;
        let peer = name(number);
        // Mostly the latest connection.
        let back = u64::from(choices.byte() % 8).saturating_sub(4);
        let conn = ConnId(self.conns.saturating_sub(back));
        let input = match choices.byte() % 16 {
            0 | 1 => {
                self.conns += 1;
                Input::Connected {
                    peer,
                    conn: ConnId(self.conns),
                    active: choices.flag(),
                }
            }
            2 => Input::ConnectFailed { peer },
            3 => Input::Closed { conn },
            4 => {
                self.untaken.remove(&conn);
                Input::Writable { conn }
            }
            5 => Input::Dead { peer },
            6 => Input::Alive { peer },
            7 => return self.own_doing(choices, &peer),
            8 => {
                let milliseconds = u64::from(choices.byte()) * u64::from(choices.byte());
                self.now += Duration::from_millis(milliseconds * 16);
                return self.speaker.timeout(self.now);
            }
            9 => {
                let length = usize::from(choices.byte());
                Input::Received {
                    conn,
                    bytes: choices.bytes(length),
                }
            }
            10 | 11 => received(conn, &Message::Open(open(number)), number),
            12 => received(conn, &Message::Keepalive, number),
            _ => {
                let message = choices.message(&context(number));
                received(conn, &message, number)
            }
        };
        self.speaker.input(input, self.now);
    }

    /// What comes from our own side.
    fn own_doing(&mut self, choices: &mut Choices<'_>, peer: &PeerId) {
        let now = self.now;
        match choices.byte() % 4 {
            0 => {
                // The kernel takes some of what changed.
                let changes = self.speaker.take_changes(choices.byte().into());
                let installed = |it: (IpNet, Option<Arc<[Hop]>>)| (it.0, it.1.is_some());
                self.follow(&changes);
                let installed: Vec<_> = changes.into_iter().map(installed).collect();
                self.speaker.installed(installed, now);
            }
            1 => self.speaker.review(),
            2 => {
                let some = choices.byte();
                let own = OWN.iter().zip(0..).filter(|(_, bit)| some >> bit & 1 != 0);
                let own = own.map(|(prefix, _)| prefix.parse().expect("a prefix"));
                self.speaker.originate(own.collect(), now);
            }
            _ => {
                let mut config = config();
                let change = choices.byte();
                if let Some(peer) = config.peers.get_mut(peer) {
                    peer.drain = change & 1 != 0;
                    peer.max_prefixes >>= change >> 1 & 3;
                    peer.client = change & 8 != 0;
                    peer.import = (change & 16 != 0).then(Policy::accept);
                    peer.export = (change & 32 != 0).then(Policy::accept);
                }
                if change & 64 != 0 {
                    config.peers.remove(peer);
                }
                self.speaker.configure(config, now);
            }
        }
    }

    /// Follows the changes of the table.
    fn follow(&mut self, changes: &[(IpNet, Option<Arc<[Hop]>>)]) {
        for (prefix, hops) in changes {
            match hops {
                Some(hops) => self.followed.insert(*prefix, hops.clone()),
                None => self.followed.remove(prefix),
            };
        }
    }

    fn check(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.speaker.poll_output() {
            outputs += 1;
            match output {
                Output::Send { conn, bytes } => {
                    *self.untaken.entry(conn).or_default() += bytes.len();
                }
                Output::Close { conn } => {
                    self.untaken.remove(&conn);
                }
                _ => {}
            }
        }
        assert!(outputs < 1000, "{outputs} outputs for one input");
        for (conn, bytes) in &self.untaken {
            assert!(*bytes < UNTAKEN, "{bytes} bytes wait for {conn:?}");
        }
        self.speaker.timeout(self.now);
        let next = self.speaker.next_deadline();
        assert!(next.is_none_or(|next| next > self.now), "due for ever");
    }

    fn count(&mut self) {
        let changes = self.speaker.take_changes(usize::MAX);
        self.follow(&changes);
        let shown = self.speaker.loc_rib();
        assert_eq!(
            self.followed,
            shown.map(|(it, hops)| (it, hops.clone())).collect()
        );
        for status in self.speaker.peers() {
            let paths = self.speaker.adj_rib_in(&status.peer).count();
            assert_eq!(status.received, paths);
            assert_eq!(status.received, status.accepted + status.rejected);
            assert!(paths <= MAX_PREFIXES, "{paths} paths");
        }
    }
}

fn config() -> SpeakerConfig {
    SpeakerConfig {
        asn: 65000,
        router_id: Ipv4Addr::new(10, 0, 0, 9),
        restart_time: Duration::from_secs(120),
        deferral_time: Duration::from_secs(30),
        peers: (0..3).map(|number| (name(number), peer(number))).collect(),
    }
}

fn name(number: u8) -> PeerId {
    number.to_string().into()
}

fn asn(number: u8) -> u32 {
    match number {
        0 => 65000,
        other => 65000 + u32::from(other),
    }
}

/// Within our AS with all that is optional; of another AS with a role; of another AS and over IPv4.
fn peer(number: u8) -> PeerConfig {
    let [local, remote] = [9, number].map(|host| match number {
        2 => IpAddr::from(Ipv4Addr::new(192, 0, 2, host)),
        _ => IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into())),
    });
    PeerConfig {
        hold_time: Duration::from_secs(9),
        max_prefixes: MAX_PREFIXES,
        add_path: number == 0,
        graceful_notification: number == 0,
        long_lived: Duration::from_secs(if number == 0 { 60 } else { 0 }),
        role: (number == 1).then_some(Role::Customer),
        passive: number == 2,
        import: Some(Policy::accept()),
        export: Some(Policy::accept()),
        ..PeerConfig::new(asn(number), local, remote)
    }
}

/// An OPEN that we agree with.
fn open(number: u8) -> Open {
    let families = BTreeSet::from([Family::Ipv4, Family::Ipv6]);
    let add_path = match number {
        0 => Directions::BOTH,
        _ => Directions::NEITHER,
    };
    Open {
        asn: asn(number),
        hold_time: 90,
        router_id: Ipv4Addr::new(10, 0, 0, number + 1),
        capabilities: Capabilities {
            graceful_restart: Some(GracefulRestart {
                notification: true,
                restart_time: 20,
                families: families.iter().map(|family| (*family, true)).collect(),
                ..GracefulRestart::default()
            }),
            families,
            extended_next_hop: true,
            route_refresh: true,
            four_octet_as: true,
            enhanced_route_refresh: true,
            extended_messages: true,
            add_path: PerFamily {
                ipv4: add_path,
                ipv6: add_path,
            },
            ..Capabilities::default()
        },
    }
}

/// What such a peer's messages are encoded for.
fn context(number: u8) -> Context {
    let add_path = open(number).capabilities.add_path;
    Context {
        four_octet_as: true,
        extended_next_hop: true,
        internal: number == 0,
        extended_messages: Directions::BOTH,
        enhanced_route_refresh: true,
        add_path,
    }
}

fn received(conn: ConnId, message: &Message, number: u8) -> Input {
    let mut bytes = Vec::new();
    encode(message, &context(number), &mut bytes);
    Input::Received { conn, bytes }
}
