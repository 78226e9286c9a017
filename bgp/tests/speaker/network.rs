//! A network of speakers without real time; its connections are in `tcp`.

use crate::tcp::{End, Packet, SYN_TIMEOUT};
use ipnet::IpNet;
use routemesh_bgp::wire::Family;
use routemesh_bgp::{
    Event, Hop, Input, Output, PeerConfig, PeerId, PeerState, PeerStatus, Policy, Reach, Speaker,
    SpeakerConfig, Time,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

pub const HOLD: Duration = Duration::from_secs(9);
pub const RESTART: Duration = Duration::from_secs(20);
pub const DEFERRAL: Duration = Duration::from_secs(40);
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
pub fn speaker(number: u16, asn: u32) -> SpeakerConfig {
    SpeakerConfig {
        asn,
        router_id: router_id(number),
        restart_time: RESTART,
        deferral_time: DEFERRAL,
        peers: BTreeMap::new(),
    }
}

fn router_id(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 0, high, low)
}

pub fn address(number: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number).into()
}

/// A peer that may say and be told everything.
pub fn peer(own: u16, other: u16, asn: u32) -> PeerConfig {
    PeerConfig {
        hold_time: HOLD,
        import: Some(Policy::accept()),
        export: Some(Policy::accept()),
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
    pub attempts: BTreeMap<Name, u64>,
}

type Table = BTreeMap<IpNet, Arc<[Hop]>>;

pub struct Network {
    pub now: Time,
    pub nodes: BTreeMap<Name, Node>,
    /// Both ends: who opened it, then who accepted it. `ConnId` is twice this number, plus one for
    /// the second end.
    pub conns: BTreeMap<u64, [End; 2]>,
    /// The connections of each link.
    pub of_link: BTreeSet<([Name; 2], u64)>,
    pub queue: BTreeMap<(Time, u64), Packet>,
    pub serial: u64,
    pub delays: BTreeMap<[Name; 2], Duration>,
    /// Links that silently lose everything in one direction; what is sent on a connection waits, as
    /// TCP sends again.
    pub cut: BTreeSet<[Name; 2]>,
    /// Processes that are stopped: their kernels go on.
    pub paused: BTreeSet<Name>,
    /// What waits for either to end, by from whom to whom it goes.
    pub stalled: BTreeMap<[Name; 2], Vec<Packet>>,
    /// How long a slow reader takes to make room for more.
    pub slowness: Duration,
    /// Whether to see to it that whoever follows a table's changes has the table.
    pub look_at_changes: bool,
    /// Whether to keep what speakers tell.
    pub keep_events: bool,
    /// Ends of sessions that went down.
    pub lost: usize,
    /// What the changes of each table come to.
    seen: BTreeMap<Name, Table>,
    /// Who is to be woken when.
    timers: BTreeSet<(Time, Name)>,
    deadlines: BTreeMap<Name, Time>,
    /// Who has a session with whom.
    sessions: BTreeSet<[Name; 2]>,
    /// Until when a session may last that the other side does not have.
    half: BTreeMap<[Name; 2], Time>,
    half_by_time: BTreeSet<(Time, [Name; 2])>,
}

pub fn link(a: Name, b: Name) -> [Name; 2] {
    if a < b { [a, b] } else { [b, a] }
}

impl Network {
    pub fn new() -> Self {
        Self {
            now: seconds(1000.0),
            nodes: BTreeMap::new(),
            conns: BTreeMap::new(),
            of_link: BTreeSet::new(),
            queue: BTreeMap::new(),
            serial: 0,
            delays: BTreeMap::new(),
            cut: BTreeSet::new(),
            paused: BTreeSet::new(),
            stalled: BTreeMap::new(),
            slowness: seconds(0.001),
            look_at_changes: true,
            keep_events: true,
            lost: 0,
            seen: BTreeMap::new(),
            timers: BTreeSet::new(),
            deadlines: BTreeMap::new(),
            sessions: BTreeSet::new(),
            half: BTreeMap::new(),
            half_by_time: BTreeSet::new(),
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
        let asn = |number: u16| {
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
        self.paused.remove(name);
        self.note_deadline(name);
        let others: Vec<Name> = self.nodes.keys().copied().collect();
        for other in others {
            self.holds(name, other, false);
        }
        let conns: Vec<u64> = self.conns.keys().copied().collect();
        for conn in conns {
            self.close_end(conn, name, !power);
        }
    }

    pub fn cut(&mut self, a: Name, b: Name) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    pub fn cut_one_way(&mut self, from: Name, to: Name) {
        self.cut.insert([from, to]);
    }

    pub fn heal(&mut self, a: Name, b: Name) {
        self.cut.remove(&[a, b]);
        self.cut.remove(&[b, a]);
        self.let_go([a, b]);
        self.let_go([b, a]);
    }

    /// Stops a process; what is sent to it waits in its kernel.
    pub fn pause(&mut self, name: Name) {
        if self.nodes[name].speaker.is_some() {
            self.paused.insert(name);
            self.note_deadline(name);
        }
    }

    pub fn resume(&mut self, name: Name) {
        self.paused.remove(name);
        self.note_deadline(name);
        // It could not know.
        let held: Vec<[Name; 2]> = self.half.keys().copied().collect();
        for [a, b] in held.into_iter().filter(|pair| pair[0] == name) {
            self.half_held(a, b);
        }
        let ways = self.stalled.keys().copied();
        for way in ways.filter(|way| way[1] == name).collect::<Vec<_>>() {
            self.let_go(way);
        }
    }

    /// What waited goes on its way, and waits again where it still has to.
    fn let_go(&mut self, way: [Name; 2]) {
        for packet in self.stalled.remove(&way).unwrap_or_default() {
            let now = self.now;
            self.queue(now, packet);
        }
    }

    /// Breaks all connections between two nodes, as a reset by something in between does.
    pub fn reset(&mut self, a: Name, b: Name) {
        for conn in self.between(a, b) {
            for to in [a, b] {
                let now = self.now;
                self.queue(now, Packet::Close { conn, to });
            }
        }
    }

    /// All connections that there ever were between two nodes.
    fn between(&self, a: Name, b: Name) -> Vec<u64> {
        let link = link(a, b);
        let conns = self.of_link.range((link, 0)..=(link, u64::MAX));
        conns.map(|(_, conn)| *conn).collect()
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

    pub fn reach(&mut self, name: Name, way: &str, reach: Reach) {
        let now = self.now;
        if let Some(speaker) = &mut self.nodes.get_mut(name).unwrap().speaker {
            speaker.reach(&way.into(), reach, now);
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
        self.speaker(name).peer(&peer.into()).unwrap()
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

    /// Ends of sessions that are up.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// How many connections both ends hold open.
    pub fn connections(&self, a: Name, b: Name) -> usize {
        let between = self.between(a, b);
        let ends = between.iter().map(|conn| &self.conns[conn]);
        let held = |end: &End| end.open && end.known;
        ends.filter(|ends| ends.iter().all(held)).count()
    }

    // ---- The machinery ----

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timer = self.timers.first().copied();
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

    /// Notes when a process is to be woken.
    fn note_deadline(&mut self, name: Name) {
        if let Some(before) = self.deadlines.remove(name) {
            self.timers.remove(&(before, name));
        }
        let speaker = self.nodes[name].speaker.as_ref();
        let deadline = speaker.and_then(Speaker::next_deadline);
        if let Some(deadline) = deadline.filter(|_| !self.paused.contains(name)) {
            self.deadlines.insert(name, deadline);
            self.timers.insert((deadline, name));
        }
    }

    fn name(&self, peer: &PeerId) -> Name {
        self.nodes.get_key_value::<str>(&peer.0).unwrap().0
    }

    /// One side has a session with another, or has it no longer.
    fn holds(&mut self, a: Name, b: Name, up: bool) {
        let changed = match up {
            true => self.sessions.insert([a, b]),
            false => self.sessions.remove(&[a, b]),
        };
        if changed {
            self.half_held(a, b);
            self.half_held(b, a);
        }
    }

    /// Sets, or clears, the time until which a session may last that the other side does not have,
    /// and is not about to have either.
    fn half_held(&mut self, a: Name, b: Name) {
        if let Some(before) = self.half.remove(&[a, b]) {
            self.half_by_time.remove(&(before, [a, b]));
        }
        let holds = |a, b| self.sessions.contains(&[a, b]);
        if holds(a, b) && !holds(b, a) && !self.about_to_hold(b, a) {
            // What was on its way when the other end gave up counts as heard.
            let until = self.now + HOLD + self.delay(a, b) * 2;
            self.half.insert([a, b], until);
            self.half_by_time.insert((until, [a, b]));
        }
    }

    fn about_to_hold(&self, a: Name, b: Name) -> bool {
        self.nodes[a].speaker.is_some() && self.state(a, b) == PeerState::OpenConfirm
    }

    /// No session outlives its other end by more than the hold time.
    fn check_half_held(&self) {
        let over = self.half_by_time.iter();
        let mut over = over.take_while(|(until, _)| *until < self.now);
        let held = over.find(|(_, [a, _])| !self.paused.contains(a));
        assert!(held.is_none(), "{held:?}: a session that the other lost");
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
                    let to = self.name(&peer);
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
                Output::Send { conn, bytes } => self.send_bytes(conn.0 / 2, name, bytes),
                Output::Close { conn } => self.close_end(conn.0 / 2, name, true),
                Output::Event(event) => {
                    match &event {
                        Event::Up { peer, .. } => self.holds(name, self.name(peer), true),
                        Event::Down { peer, .. } => {
                            self.lost += 1;
                            self.holds(name, self.name(peer), false);
                        }
                        Event::Failed { peer, .. } => self.half_held(self.name(peer), name),
                        _ => {}
                    }
                    if self.keep_events {
                        self.nodes.get_mut(name).unwrap().events.push(event);
                    }
                }
            }
        }
        self.note_deadline(name);
        self.check_changes(name);
    }

    /// Whoever applies all changes has what the table shows.
    fn check_changes(&mut self, name: Name) {
        let speaker = &mut self.nodes.get_mut(name).unwrap().speaker;
        let Some(speaker) = speaker.as_mut().filter(|_| self.look_at_changes) else {
            return;
        };
        let seen = self.seen.entry(name).or_default();
        for (prefix, hops) in speaker.take_changes(usize::MAX) {
            match hops {
                Some(hops) => seen.insert(prefix, hops),
                None => seen.remove(&prefix),
            };
        }
        let shown: Table = speaker
            .loc_rib()
            .map(|(it, hops)| (it, hops.clone()))
            .collect();
        assert_eq!(*seen, shown);
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
pub fn prefixes_of(number: u16) -> BTreeSet<IpNet> {
    let [high, low] = number.to_be_bytes();
    nets(&[
        &format!("10.{high}.{low}.0/24"),
        &format!("2001:db8:a{number}::/64"),
    ])
}
