//! A network of speakers: TCP connections that delay, stall, break and reset, without real time.

use ipnet::IpNet;
use routemesh_bgp::wire::Family;
use routemesh_bgp::{
    ConnId, Event, Hop, Input, Output, PeerConfig, PeerId, PeerState, PeerStatus, Speaker,
    SpeakerConfig, Time,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

pub const HOLD: Duration = Duration::from_secs(9);
pub const RESTART: Duration = Duration::from_secs(20);
pub const DEFERRAL: Duration = Duration::from_secs(40);
/// How long a SYN that nobody answers is waited for.
const SYN_TIMEOUT: Duration = Duration::from_secs(7);

pub type Name = &'static str;

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| net(text)).collect()
}

pub fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

pub fn both() -> BTreeSet<Family> {
    BTreeSet::from([Family::Ipv4, Family::Ipv6])
}

/// The speaker's number makes its router id and addresses.
pub fn speaker(number: u8, asn: u32) -> SpeakerConfig {
    SpeakerConfig {
        asn,
        router_id: Ipv4Addr::new(10, 0, 0, number),
        restart_time: RESTART,
        deferral_time: DEFERRAL,
        peers: BTreeMap::new(),
    }
}

pub fn address(number: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into()
}

/// A peer that may say and be told everything.
pub fn peer(own: u8, other: u8, asn: u32) -> PeerConfig {
    PeerConfig {
        hold_time: HOLD,
        import: vec![net("0.0.0.0/0"), net("::/0")],
        export: vec![net("0.0.0.0/0"), net("::/0")],
        ..PeerConfig::new(asn, address(own), address(other))
    }
}

pub struct Node {
    pub config: SpeakerConfig,
    pub originated: BTreeSet<IpNet>,
    /// None: the process is not running.
    pub speaker: Option<Speaker>,
    pub events: Vec<Event>,
    /// The connection attempt in force towards each peer.
    attempts: BTreeMap<Name, u64>,
}

type Table = BTreeMap<IpNet, Vec<Hop>>;

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct End {
    node: Name,
    /// False once the process has closed it, or was killed.
    open: bool,
    /// Accepted or connected, as far as the speaker knows.
    known: bool,
    /// What was sent on it arrives in order.
    last_arrival: Time,
}

#[derive(Debug)]
enum Packet {
    Syn {
        from: Name,
        to: Name,
        attempt: u64,
    },
    SynAck {
        conn: u64,
        attempt: u64,
    },
    Ack {
        conn: u64,
    },
    Data {
        conn: u64,
        to: Name,
        bytes: Vec<u8>,
    },
    /// FIN or RST.
    Close {
        conn: u64,
        to: Name,
    },
    SynTimeout {
        from: Name,
        to: Name,
        attempt: u64,
    },
    Writable {
        conn: u64,
        node: Name,
    },
}

pub struct Network {
    pub now: Time,
    pub nodes: BTreeMap<Name, Node>,
    /// Both ends: who opened it, then who accepted it. `ConnId` is twice this number, plus one for
    /// the second end.
    conns: BTreeMap<u64, [End; 2]>,
    queue: BTreeMap<(Time, u64), Packet>,
    serial: u64,
    pub delays: BTreeMap<[Name; 2], Duration>,
    /// Links that silently lose everything; what is sent on a connection waits, as TCP sends again.
    pub cut: BTreeSet<[Name; 2]>,
    stalled: Vec<Packet>,
    /// How long a slow reader takes to make room for more.
    pub slowness: Duration,
    /// Whether to see to it that a table that changes gets another version.
    pub look_at_versions: bool,
    /// What each table looked like when its version was last looked at.
    seen: BTreeMap<Name, (u64, Table)>,
    /// Since when one side has a session that the other does not have.
    half: BTreeMap<[Name; 2], (Time, Time)>,
}

fn link(a: Name, b: Name) -> [Name; 2] {
    if a < b { [a, b] } else { [b, a] }
}

impl Network {
    pub fn new() -> Self {
        Self {
            now: seconds(1000.0),
            nodes: BTreeMap::new(),
            conns: BTreeMap::new(),
            queue: BTreeMap::new(),
            serial: 0,
            delays: BTreeMap::new(),
            cut: BTreeSet::new(),
            stalled: Vec::new(),
            slowness: seconds(0.001),
            look_at_versions: true,
            seen: BTreeMap::new(),
            half: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, name: Name, config: SpeakerConfig, originated: BTreeSet<IpNet>) {
        let node = Node {
            config,
            originated,
            speaker: None,
            events: Vec::new(),
            attempts: BTreeMap::new(),
        };
        self.nodes.insert(name, node);
    }

    /// Speakers in full mesh, one AS or one each, with the prefixes of their numbers.
    pub fn mesh(names: &[Name], ebgp: bool) -> Self {
        Self::mesh_with_delays(names, ebgp, &[])
    }

    /// The same with the delays of the links in seconds.
    pub fn mesh_with_delays(names: &[Name], ebgp: bool, delays: &[f64]) -> Self {
        let mut network = Self::new();
        let names_after = |at: usize| names.iter().skip(at + 1);
        let links = names.iter().enumerate();
        let links = links.flat_map(|(at, a)| names_after(at).map(|b| link(a, b)));
        let delays = links.zip(delays);
        network.delays = delays
            .map(|(link, delay)| (link, seconds(*delay)))
            .collect();
        let asn = |number: u8| {
            if ebgp {
                65000 + u32::from(number)
            } else {
                65000
            }
        };
        for (name, number) in names.iter().zip(1..) {
            let mut config = speaker(number, asn(number));
            for (other, other_number) in names.iter().zip(1..) {
                if other != name {
                    let peer = peer(number, other_number, asn(other_number));
                    config.peers.insert((*other).into(), peer);
                }
            }
            network.add(name, config, prefixes_of(number));
        }
        for name in names {
            network.start(name, false);
        }
        network
    }

    fn queue(&mut self, at: Time, packet: Packet) {
        self.serial += 1;
        self.queue.insert((at, self.serial), packet);
    }

    fn delay(&self, a: Name, b: Name) -> Duration {
        let delay = self.delays.get(&link(a, b));
        delay.copied().unwrap_or(seconds(0.01))
    }

    // ---- What tests do ----

    pub fn start(&mut self, name: Name, restarting: bool) {
        let now = self.now;
        let node = self.nodes.get_mut(name).unwrap();
        let mut speaker = Speaker::new(node.config.clone(), restarting, 1, now);
        self.seen.remove(name);
        speaker.originate(node.originated.clone(), now);
        node.speaker = Some(speaker);
        node.attempts.clear();
        self.drain(name);
    }

    /// Ends the process; its kernel closes the connections, unless the power went as well.
    pub fn kill(&mut self, name: Name, power: bool) {
        self.nodes.get_mut(name).unwrap().speaker = None;
        let conns: Vec<u64> = self.conns.keys().copied().collect();
        for conn in conns {
            self.close_end(conn, name, !power);
        }
    }

    pub fn cut(&mut self, a: Name, b: Name) {
        self.cut.insert(link(a, b));
    }

    pub fn heal(&mut self, a: Name, b: Name) {
        self.cut.remove(&link(a, b));
        for packet in std::mem::take(&mut self.stalled) {
            let now = self.now;
            self.queue(now, packet);
        }
    }

    /// Breaks all connections between two nodes, as a reset by something in between does.
    pub fn reset(&mut self, a: Name, b: Name) {
        let between = |ends: &[End; 2]| link(ends[0].node, ends[1].node) == link(a, b);
        let conns = self.conns.iter().filter(|(_, ends)| between(ends));
        let conns: Vec<u64> = conns.map(|(conn, _)| *conn).collect();
        for conn in conns {
            for to in [a, b] {
                let now = self.now;
                self.queue(now, Packet::Close { conn, to });
            }
        }
    }

    pub fn input(&mut self, name: Name, input: Input) {
        let now = self.now;
        if let Some(speaker) = &mut self.nodes.get_mut(name).unwrap().speaker {
            speaker.input(input, now);
        }
        self.drain(name);
    }

    pub fn originate(&mut self, name: Name, prefixes: BTreeSet<IpNet>) {
        let now = self.now;
        let node = self.nodes.get_mut(name).unwrap();
        node.originated = prefixes.clone();
        if let Some(speaker) = &mut node.speaker {
            speaker.originate(prefixes, now);
        }
        self.drain(name);
    }

    pub fn configure(&mut self, name: Name, change: impl FnOnce(&mut SpeakerConfig)) {
        let now = self.now;
        let node = self.nodes.get_mut(name).unwrap();
        change(&mut node.config);
        if let Some(speaker) = &mut node.speaker {
            speaker.configure(node.config.clone(), now);
        }
        self.drain(name);
    }

    pub fn shutdown(&mut self, name: Name, reason: &str) {
        let now = self.now;
        if let Some(speaker) = &mut self.nodes.get_mut(name).unwrap().speaker {
            speaker.shutdown(reason, now);
        }
        self.drain(name);
    }

    // ---- What tests see ----

    pub fn speaker(&self, name: Name) -> &Speaker {
        self.nodes[name].speaker.as_ref().unwrap()
    }

    pub fn status(&self, name: Name, peer: Name) -> PeerStatus {
        let id = PeerId::from(peer);
        self.speaker(name).peers().find(|it| it.peer == id).unwrap()
    }

    pub fn state(&self, name: Name, peer: Name) -> PeerState {
        self.status(name, peer).state
    }

    /// The table as text: each prefix with the peers used, stale ones with a star.
    pub fn routes(&self, name: Name) -> BTreeMap<String, Vec<String>> {
        routes(self.speaker(name))
    }

    pub fn peers_for(&self, name: Name, prefix: &str) -> Vec<String> {
        self.routes(name).remove(prefix).unwrap_or_default()
    }

    /// How many connections both ends hold open.
    pub fn connections(&self, a: Name, b: Name) -> usize {
        let between = |ends: &&[End; 2]| link(ends[0].node, ends[1].node) == link(a, b);
        let ends = self.conns.values().filter(between);
        let held = |end: &End| end.open && end.known;
        ends.filter(|ends| ends.iter().all(held)).count()
    }

    // ---- The machinery ----

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timers = self
                .nodes
                .iter()
                .filter_map(|(name, node)| Some((node.speaker.as_ref()?.next_deadline()?, *name)));
            let timer = timers.min();
            let packet = self.queue.keys().next().copied();
            // Bytes first: a speaker must not miss a KEEPALIVE that is there already.
            let packet_first = packet.is_some_and(|(at, _)| timer.is_none_or(|(t, _)| at <= t));
            let at = if packet_first {
                packet.map(|it| it.0)
            } else {
                timer.map(|it| it.0)
            };
            let Some(at) = at.filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            if packet_first {
                let (_, packet) = self.queue.pop_first().unwrap();
                self.arrive(packet);
            } else if let Some((_, name)) = timer {
                let now = self.now;
                let speaker = self.nodes.get_mut(name).unwrap().speaker.as_mut().unwrap();
                speaker.timeout(now);
                assert!(
                    speaker.next_deadline().is_none_or(|next| next > now),
                    "a timeout left something undone"
                );
                self.drain(name);
            }
            self.check_half_held();
        }
        self.now = end;
    }

    /// No session outlives its other end by more than the hold time.
    fn check_half_held(&mut self) {
        let mut up: BTreeMap<[Name; 2], Time> = BTreeMap::new();
        for (name, node) in &self.nodes {
            for status in node.speaker.iter().flat_map(Speaker::peers) {
                if status.state == PeerState::Established {
                    let other = *self
                        .nodes
                        .keys()
                        .find(|it| **it == &*status.peer.0)
                        .unwrap();
                    up.insert([name, other], status.since);
                }
            }
        }
        self.half.retain(|[a, b], (since, _)| {
            up.get(&[*a, *b]) == Some(since) && !up.contains_key(&[*b, *a])
        });
        for (&[a, b], &since) in &up {
            if !up.contains_key(&[b, a]) {
                // What was on its way when the other end gave up counts as heard.
                let grace = HOLD + self.delay(a, b) * 2;
                let (_, noticed) = *self.half.entry([a, b]).or_insert((since, self.now));
                assert!(
                    self.now <= noticed + grace,
                    "{a} holds a session that {b} lost"
                );
            }
        }
    }

    fn arrive(&mut self, packet: Packet) {
        let now = self.now;
        let path = match &packet {
            Packet::Syn { from, to, .. } => Some(link(from, to)),
            Packet::SynAck { conn, .. }
            | Packet::Ack { conn }
            | Packet::Data { conn, .. }
            | Packet::Close { conn, .. } => {
                let ends = &self.conns[conn];
                Some(link(ends[0].node, ends[1].node))
            }
            Packet::SynTimeout { .. } | Packet::Writable { .. } => None,
        };
        if path.is_some_and(|path| self.cut.contains(&path)) {
            if !matches!(packet, Packet::Syn { .. } | Packet::SynAck { .. }) {
                self.stalled.push(packet);
            }
            return;
        }
        match packet {
            Packet::Syn { from, to, attempt } => {
                let delay = self.delay(from, to);
                let listens = self
                    .nodes
                    .get(to)
                    .is_some_and(|node| node.speaker.is_some());
                if !listens {
                    self.queue(now + delay, Packet::SynTimeout { from, to, attempt });
                    return;
                }
                self.serial += 1;
                let conn = self.serial;
                let end = |node| End {
                    node,
                    open: true,
                    known: false,
                    last_arrival: now,
                };
                self.conns.insert(conn, [end(from), end(to)]);
                self.queue(now + delay, Packet::SynAck { conn, attempt });
            }
            Packet::SynAck { conn, attempt } => {
                let [from, to] = self.conns[&conn].map(|end| end.node);
                let wanted = self.nodes[from].attempts.get(to) == Some(&attempt);
                if !wanted {
                    self.close_end(conn, from, true);
                    return;
                }
                self.nodes.get_mut(from).unwrap().attempts.remove(to);
                self.conns.get_mut(&conn).unwrap()[0].known = true;
                self.send(conn, from, Packet::Ack { conn });
                let input = Input::Connected {
                    peer: to.into(),
                    conn: ConnId(conn * 2),
                    active: true,
                };
                self.input(from, input);
            }
            Packet::Ack { conn } => {
                let [from, to] = self.conns[&conn].map(|end| end.node);
                let end = &mut self.conns.get_mut(&conn).unwrap()[1];
                if !end.open {
                    return;
                }
                end.known = true;
                let input = Input::Connected {
                    peer: from.into(),
                    conn: ConnId(conn * 2 + 1),
                    active: false,
                };
                self.input(to, input);
            }
            Packet::Data { conn, to, bytes } => {
                let side = self.side(conn, to);
                let end = self.conns[&conn][side];
                if end.open && end.known {
                    let conn = ConnId(conn * 2 + side as u64);
                    self.input(to, Input::Received { conn, bytes });
                } else if self.nodes[to].speaker.is_some() {
                    // The kernel knows no such connection: RST.
                    let from = self.conns[&conn][1 - side].node;
                    let delay = self.delay(from, to);
                    self.queue(now + delay, Packet::Close { conn, to: from });
                }
            }
            Packet::Close { conn, to } => {
                let side = self.side(conn, to);
                let end = &mut self.conns.get_mut(&conn).unwrap()[side];
                if end.open {
                    end.open = false;
                    let conn = ConnId(conn * 2 + side as u64);
                    self.input(to, Input::Closed { conn });
                }
            }
            Packet::SynTimeout { from, to, attempt } => {
                if self.nodes[from].attempts.get(to) == Some(&attempt) {
                    self.nodes.get_mut(from).unwrap().attempts.remove(to);
                    self.input(from, Input::ConnectFailed { peer: to.into() });
                }
            }
            Packet::Writable { conn, node } => {
                let side = self.side(conn, node);
                if self.conns[&conn][side].open {
                    let conn = ConnId(conn * 2 + side as u64);
                    self.input(node, Input::Writable { conn });
                }
            }
        }
    }

    fn side(&self, conn: u64, node: Name) -> usize {
        usize::from(self.conns[&conn][1].node == node)
    }

    /// Puts a packet on the way from a node, behind what it sent before.
    fn send(&mut self, conn: u64, from: Name, packet: Packet) {
        let side = self.side(conn, from);
        let delay = {
            let ends = &self.conns[&conn];
            self.delay(ends[0].node, ends[1].node)
        };
        let end = &mut self.conns.get_mut(&conn).unwrap()[side];
        end.last_arrival = end.last_arrival.max(self.now + delay);
        let at = end.last_arrival;
        self.queue(at, packet);
    }

    fn close_end(&mut self, conn: u64, node: Name, tell: bool) {
        let side = self.side(conn, node);
        let end = &mut self.conns.get_mut(&conn).unwrap()[side];
        if end.node == node && end.open {
            end.open = false;
            if tell {
                let to = self.conns[&conn][1 - side].node;
                self.send(conn, node, Packet::Close { conn, to });
            }
        }
    }

    /// Does what a speaker puts out.
    fn drain(&mut self, name: Name) {
        let now = self.now;
        loop {
            let node = self.nodes.get_mut(name).unwrap();
            let Some(output) = node.speaker.as_mut().and_then(Speaker::poll_output) else {
                break;
            };
            match output {
                Output::Connect { peer } => {
                    let to = *self.nodes.keys().find(|it| **it == &*peer.0).unwrap();
                    self.serial += 1;
                    let attempt = self.serial;
                    self.nodes
                        .get_mut(name)
                        .unwrap()
                        .attempts
                        .insert(to, attempt);
                    let from = name;
                    self.queue(
                        now + self.delay(from, to),
                        Packet::Syn { from, to, attempt },
                    );
                    self.queue(now + SYN_TIMEOUT, Packet::SynTimeout { from, to, attempt });
                }
                Output::Send { conn, bytes } => {
                    let conn = conn.0 / 2;
                    let side = self.side(conn, name);
                    let to = self.conns[&conn][1 - side].node;
                    self.send(conn, name, Packet::Data { conn, to, bytes });
                    let at = now + self.slowness;
                    self.queue(at, Packet::Writable { conn, node: name });
                }
                Output::Close { conn } => self.close_end(conn.0 / 2, name, true),
                Output::Event(event) => self.nodes.get_mut(name).unwrap().events.push(event),
            }
        }
        self.check_version(name);
    }

    /// A table that looks different has another version.
    fn check_version(&mut self, name: Name) {
        let Some(speaker) = &self.nodes[name].speaker else {
            return;
        };
        if !self.look_at_versions {
            return;
        }
        let version = speaker.loc_rib_version();
        let routes = || -> Table {
            speaker
                .loc_rib()
                .map(|(prefix, best)| (prefix, best.to_vec()))
                .collect()
        };
        match self.seen.get(name) {
            Some((seen, before)) if *seen == version => {
                assert_eq!(routes(), *before)
            }
            _ => {
                self.seen.insert(name, (version, routes()));
            }
        }
    }
}

/// The table as text: each prefix with the peers used, stale ones with a star.
pub fn routes(speaker: &Speaker) -> BTreeMap<String, Vec<String>> {
    let stale = |peer: &PeerId, prefix: IpNet| {
        let mut paths = speaker.adj_rib_in(peer);
        paths.any(|(it, path)| it == prefix && path.stale)
    };
    let routes = speaker.loc_rib();
    routes
        .map(|(prefix, hops)| {
            let peers = hops.iter().map(|hop| {
                let star = if stale(&hop.peer, prefix) { "*" } else { "" };
                format!("{}{star}", hop.peer)
            });
            (prefix.to_string(), peers.collect())
        })
        .collect()
}

/// What the speaker with this number originates.
pub fn prefixes_of(number: u8) -> BTreeSet<IpNet> {
    nets(&[
        &format!("10.0.{number}.0/24"),
        &format!("2001:db8:a{number}::/64"),
    ])
}
