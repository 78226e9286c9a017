//! Whatever peers announce, withdraw and lose, the Loc-RIB is what a naive reading of the RFC makes
//! of it, the changes taken add up to it, and a peer that listens knows what it should.

use crate::network::{Name, address, net};
use crate::solo::{bytes, messages, name_of, peers, their_open};
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use routemesh_bgp::wire::{
    AsPath, Attributes, Family, Message, NextHop, Open, Origin, Reach, Update,
};
use routemesh_bgp::{ConnId, Hop, Input, Output, Speaker, SpeakerConfig, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

const US: u32 = 65000;
/// Who announces: two inside, two of one other AS, one of a third.
const SPEAKING: [(u8, u32); 5] = [(3, US), (4, US), (5, 65009), (6, 65009), (7, 65010)];
/// Who only listens, in a fourth.
const LISTENER: (u8, u32) = (8, 65011);
const PREFIXES: [Name; 5] = [
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.1.0.0/16",
    "2001:db8::/32",
    "2001:db8::/48",
];
const NOW: Time = Duration::from_secs(100);

#[derive(Clone, Debug)]
enum Action {
    Announce(usize, Vec<usize>, Shape),
    Withdraw(usize, Vec<usize>),
    /// The link is dead: nothing is kept.
    Dead(usize),
    /// The connection is gone: its paths are kept.
    Closed(usize),
    Return(usize),
    EndOfRib(usize),
    Originate(BTreeSet<usize>),
    Installed(usize, bool),
    Take(usize),
}

/// What decides about a path.
#[derive(Clone, Debug)]
struct Shape {
    preference: Option<u32>,
    path: Vec<u32>,
    origin: Origin,
    med: Option<u32>,
    originator: Option<u8>,
    clusters: usize,
    /// Our own AS is in the path: a loop.
    loops: bool,
}

fn shape() -> impl Strategy<Value = Shape> {
    let small = (
        prop_oneof![3 => Just(None), 1 => (99..102_u32).prop_map(Some)],
        vec(1..3_u32, 0..3),
        prop_oneof![3 => Just(Origin::Igp), 1 => Just(Origin::Incomplete)],
        prop_oneof![1 => Just(None), 1 => (0..3_u32).prop_map(Some)],
        prop_oneof![3 => Just(None), 1 => (1..9_u8).prop_map(Some)],
        0..2_usize,
        prop::bool::weighted(0.1),
    );
    small.prop_map(
        |(preference, path, origin, med, originator, clusters, loops)| Shape {
            preference,
            path,
            origin,
            med,
            originator,
            clusters,
            loops,
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    let who = 0..SPEAKING.len();
    let some = || vec(0..PREFIXES.len(), 1..4);
    prop_oneof![
        12 => (who.clone(), some(), shape()).prop_map(|(a, b, c)| Action::Announce(a, b, c)),
        4 => (who.clone(), some()).prop_map(|(a, b)| Action::Withdraw(a, b)),
        1 => who.clone().prop_map(Action::Dead),
        2 => who.clone().prop_map(Action::Closed),
        3 => who.clone().prop_map(Action::Return),
        2 => who.prop_map(Action::EndOfRib),
        1 => prop::collection::btree_set(0..PREFIXES.len(), 0..2).prop_map(Action::Originate),
        3 => (0..PREFIXES.len(), any::<bool>()).prop_map(|(a, b)| Action::Installed(a, b)),
        2 => (0..9_usize).prop_map(Action::Take),
    ]
}

/// A path as the model has it.
#[derive(Clone, Debug)]
struct Way {
    who: usize,
    attributes: Attributes,
    stale: bool,
}

/// One speaker, and what it should know.
struct Play {
    speaker: Speaker,
    conns: [Option<u64>; 5],
    last_conn: u64,
    ways: BTreeMap<(IpNet, usize), Way>,
    originated: BTreeSet<IpNet>,
    installed: Option<BTreeSet<IpNet>>,
    /// The changes taken, applied.
    taken: BTreeMap<IpNet, Arc<[Hop]>>,
    /// What the listener heard, applied.
    heard: BTreeMap<IpNet, Attributes>,
}

fn prefix(at: usize) -> IpNet {
    net(PREFIXES[at])
}

impl Play {
    fn new() -> Self {
        let mut config = SpeakerConfig {
            asn: US,
            router_id: Ipv4Addr::new(10, 0, 0, 2),
            restart_time: Duration::from_secs(20),
            deferral_time: Duration::from_secs(40),
            peers: BTreeMap::new(),
        };
        let all: Vec<(u8, u32)> = SPEAKING.into_iter().chain([LISTENER]).collect();
        peers(&all)(&mut config);
        let mut play = Self {
            speaker: Speaker::new(config, false, 5, NOW),
            conns: [None; 5],
            last_conn: 0,
            ways: BTreeMap::new(),
            originated: BTreeSet::new(),
            installed: None,
            taken: BTreeMap::new(),
            heard: BTreeMap::new(),
        };
        play.connect(LISTENER);
        play.conns = SPEAKING.map(|who| Some(play.connect(who)));
        play
    }

    fn connect(&mut self, (number, asn): (u8, u32)) -> u64 {
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        let (peer, active) = (name_of(number), false);
        self.input(Input::Connected { peer, conn, active });
        let open = Open {
            asn,
            router_id: Ipv4Addr::new(10, 0, 0, number),
            ..their_open()
        };
        for message in [Message::Open(open), Message::Keepalive] {
            let bytes = bytes(&message);
            self.input(Input::Received { conn, bytes });
        }
        conn.0
    }

    fn input(&mut self, input: Input) {
        self.speaker.input(input, NOW);
        self.outputs();
    }

    fn outputs(&mut self) {
        while let Some(output) = self.speaker.poll_output() {
            let Output::Send { conn, bytes } = output else {
                continue;
            };
            self.speaker.input(Input::Writable { conn }, NOW);
            for message in messages(&bytes) {
                if let (Message::Update(update), 1) = (message, conn.0) {
                    self.hear(update);
                }
            }
        }
    }

    fn hear(&mut self, update: Update) {
        for (_, prefix) in update.withdrawn {
            assert!(
                self.heard.remove(&prefix).is_some(),
                "{prefix} was not known"
            );
        }
        for (_, prefix) in update.reach.into_iter().flat_map(|it| it.prefixes) {
            let before = self.heard.insert(prefix, update.attributes.clone());
            assert_ne!(before.as_ref(), Some(&update.attributes), "{prefix} twice");
        }
    }

    fn say(&mut self, who: usize, update: Update) {
        if let Some(conn) = self.conns[who].map(ConnId) {
            let bytes = bytes(&Message::Update(update));
            self.input(Input::Received { conn, bytes });
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Announce(who, which, shape) => self.announce(*who, which, shape),
            Action::Withdraw(who, which) => {
                let withdrawn = which.iter().map(|at| (0, prefix(*at))).collect();
                if self.conns[*who].is_some() {
                    for at in which {
                        self.ways.remove(&(prefix(*at), *who));
                    }
                }
                let update = Update {
                    withdrawn,
                    ..Update::default()
                };
                self.say(*who, update);
            }
            Action::Dead(who) => {
                self.conns[*who] = None;
                self.ways.retain(|_, way| way.who != *who);
                let peer = name_of(SPEAKING[*who].0);
                self.input(Input::Dead { peer });
            }
            Action::Closed(who) => {
                if let Some(conn) = self.conns[*who].take().map(ConnId) {
                    self.ways.retain(|_, way| way.who != *who || !way.stale);
                    let of_peer = self.ways.values_mut().filter(|it| it.who == *who);
                    of_peer.for_each(|it| it.stale = true);
                    self.input(Input::Closed { conn });
                }
            }
            Action::Return(who) => {
                if self.conns[*who].is_none() {
                    self.conns[*who] = Some(self.connect(SPEAKING[*who]));
                }
            }
            Action::EndOfRib(who) => {
                for family in [Family::Ipv4, Family::Ipv6] {
                    let update = Update {
                        end_of_rib: Some(family),
                        ..Update::default()
                    };
                    self.say(*who, update);
                }
                if self.conns[*who].is_some() {
                    self.ways.retain(|_, way| way.who != *who || !way.stale);
                }
            }
            Action::Originate(which) => {
                self.originated = which.iter().map(|at| prefix(*at)).collect();
                self.speaker.originate(self.originated.clone(), NOW);
                self.outputs();
            }
            Action::Installed(at, installed) => {
                let known = self.installed.get_or_insert_default();
                match installed {
                    true => known.insert(prefix(*at)),
                    false => known.remove(&prefix(*at)),
                };
                self.speaker.installed([(prefix(*at), *installed)], NOW);
                self.outputs();
            }
            Action::Take(max) => self.take(*max),
        }
    }

    fn announce(&mut self, who: usize, which: &[usize], shape: &Shape) {
        let (number, asn) = SPEAKING[who];
        let internal = asn == US;
        let own = if internal { None } else { Some(asn) };
        let mut path: Vec<u32> = own.into_iter().chain(shape.path.clone()).collect();
        if shape.loops {
            path.push(US);
        }
        let attributes = Attributes {
            origin: shape.origin,
            as_path: AsPath(path),
            med: shape.med,
            local_pref: internal.then(|| shape.preference.unwrap_or(100)),
            originator_id: shape
                .originator
                .filter(|_| internal)
                .map(|it| Ipv4Addr::new(10, 0, 1, it)),
            cluster_list: match internal {
                true => vec![Ipv4Addr::new(7, 7, 7, 7); shape.clusters],
                false => Vec::new(),
            },
            ..Attributes::default()
        };
        let family = Family::of(&prefix(which[0]));
        let of_family = which.iter().map(|at| prefix(*at));
        let mut prefixes: Vec<IpNet> = of_family.filter(|it| Family::of(it) == family).collect();
        prefixes.dedup();
        if self.conns[who].is_some() {
            for prefix in &prefixes {
                let way = Way {
                    who,
                    attributes: attributes.clone(),
                    stale: false,
                };
                self.ways.insert((*prefix, who), way);
            }
        }
        let next_hop = NextHop {
            address: address(number.into()),
            link_local: None,
        };
        let prefixes = prefixes.into_iter().map(|it| (0, it)).collect();
        let update = Update {
            reach: vec![Reach { next_hop, prefixes }],
            attributes,
            ..Update::default()
        };
        self.say(who, update);
    }

    fn take(&mut self, max: usize) {
        let mut seen = BTreeSet::new();
        for (prefix, hops) in self.speaker.take_changes(max) {
            assert!(seen.insert(prefix), "{prefix} twice");
            match hops {
                Some(hops) => drop(self.taken.insert(prefix, hops)),
                None => assert!(
                    self.taken.remove(&prefix).is_some(),
                    "{prefix} was not known"
                ),
            }
        }
    }

    fn check(&mut self) {
        let loc_rib = self.speaker.loc_rib();
        let loc_rib: BTreeMap<IpNet, Vec<String>> = loc_rib
            .map(|(prefix, hops)| (prefix, hops.iter().map(|it| it.peer.to_string()).collect()))
            .collect();
        let mut expected = BTreeMap::new();
        let mut heard = BTreeMap::new();
        for at in 0..PREFIXES.len() {
            let prefix = prefix(at);
            let ways = self.ways.iter().filter(|(key, _)| key.0 == prefix);
            let used = naive(ways.map(|(_, way)| way).collect());
            if self.originated.contains(&prefix) {
                heard.insert(prefix, vec![US]);
                continue;
            }
            let Some(best) = used.first() else {
                continue;
            };
            let names = used.iter().map(|it| SPEAKING[it.who].0.to_string());
            expected.insert(prefix, names.collect::<Vec<_>>());
            let installed = self.installed.as_ref();
            if installed.is_none_or(|it| it.contains(&prefix)) {
                let path = &best.attributes.as_path.0;
                heard.insert(prefix, [&[US], path.as_slice()].concat());
            }
        }
        assert_eq!(loc_rib, expected);
        let told = |(prefix, it): (&IpNet, &Attributes)| (*prefix, it.as_path.0.clone());
        let really: BTreeMap<_, _> = self.heard.iter().map(told).collect();
        assert_eq!(really, heard);
        let listener = name_of(LISTENER.0);
        let out = self.speaker.adj_rib_out(&listener);
        let out: BTreeMap<_, _> = out.map(|it| (it.0, it.1.as_ref().clone())).collect();
        assert_eq!(out, self.heard);
        for (who, (number, _)) in SPEAKING.iter().enumerate() {
            let peer = name_of(*number);
            let paths = self.speaker.adj_rib_in(&peer);
            let paths: BTreeMap<IpNet, bool> = paths.map(|it| (it.0, it.1.stale)).collect();
            let of_peer = self.ways.iter().filter(|(key, _)| key.1 == who);
            let expected: BTreeMap<IpNet, bool> =
                of_peer.map(|(key, way)| (key.0, way.stale)).collect();
            assert_eq!(paths, expected, "of {number}");
            let status = self.speaker.peer(&peer);
            assert_eq!(status.unwrap().received, expected.len());
        }
    }
}

/// RFC 4271 section 9.1.2.2 and RFC 4456 section 9, word by word: which ways are used, the best one
/// first. A way is out when there is another that is better at a step that both reach.
fn naive(mut ways: Vec<&Way>) -> Vec<&Way> {
    ways.retain(|way| !way.attributes.as_path.0.contains(&US));
    let internal = |way: &Way| SPEAKING[way.who].1 == US;
    let neighbour = |way: &Way| way.attributes.as_path.0.first().copied();
    let med = |way: &Way| way.attributes.med.unwrap_or(0);
    type Better<'a> = &'a dyn Fn(&Way, &Way) -> bool;
    let preference = |way: &Way| way.attributes.local_pref.unwrap_or(100);
    let steps: [Better; 5] = [
        &|a, b| preference(a) > preference(b),
        &|a, b| a.attributes.as_path.0.len() < b.attributes.as_path.0.len(),
        &|a, b| a.attributes.origin < b.attributes.origin,
        &|a, b| neighbour(a) == neighbour(b) && med(a) < med(b),
        &|a, b| !internal(a) && internal(b),
    ];
    for better in steps {
        let all = ways.clone();
        ways.retain(|way| !all.iter().any(|other| better(other, way)));
    }
    ways.sort_by_key(|way| {
        let number = SPEAKING[way.who].0;
        let own = Ipv4Addr::new(10, 0, 0, number);
        let originator = way.attributes.originator_id.unwrap_or(own);
        (originator, way.attributes.cluster_list.len(), number)
    });
    ways
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_loc_rib_is_what_the_rfc_makes_of_all_paths(actions in vec(action(), 1..60)) {
        let mut play = Play::new();
        for action in &actions {
            play.act(action);
            play.check();
        }
        play.take(usize::MAX);
        let loc_rib = play.speaker.loc_rib().map(|(prefix, hops)| (prefix, hops.clone()));
        prop_assert_eq!(loc_rib.collect::<BTreeMap<_, _>>(), play.taken);
    }
}
