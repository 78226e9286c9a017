//! Whatever happens to speakers and links, once it stops happening everyone has one session with
//! everyone, and exactly the routes there are.

use crate::network::*;
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use routemesh_bgp::policy::Verdict;
use routemesh_bgp::wire::Attributes;
use routemesh_bgp::{Input, PeerState, Policy};
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [Name; 3] = ["A", "B", "C"];

/// Prefixes that anyone may come to originate.
const POOL: [&str; 4] = [
    "10.9.0.0/24",
    "10.9.1.0/24",
    "2001:db8:9::/64",
    "2001:db8:9:1::/64",
];

#[derive(Clone, Debug)]
enum Action {
    Reset(usize, usize),
    Cut(usize, usize),
    /// From the one to the other only.
    CutOneWay(usize, usize),
    /// The process is stopped, and goes on.
    Pause(usize),
    Resume(usize),
    Heal(usize, usize),
    /// The link is declared dead at one end.
    Dead(usize, usize),
    Alive(usize, usize),
    Kill {
        who: usize,
        power: bool,
    },
    Start {
        who: usize,
        restarting: bool,
    },
    Originate {
        who: usize,
        prefixes: Vec<bool>,
    },
    /// Forbids and allows import and export of what is in the pool.
    Authorize {
        who: usize,
        from: usize,
        import: bool,
        export: bool,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let who = 0..3_usize;
    let two = (0..3_usize, 1..3_usize).prop_map(|(a, step)| (a, (a + step) % 3));
    prop_oneof![
        3 => two.clone().prop_map(|(a, b)| Action::Reset(a, b)),
        2 => two.clone().prop_map(|(a, b)| Action::Cut(a, b)),
        2 => two.clone().prop_map(|(a, b)| Action::CutOneWay(a, b)),
        2 => two.clone().prop_map(|(a, b)| Action::Heal(a, b)),
        2 => who.clone().prop_map(Action::Pause),
        1 => who.clone().prop_map(Action::Resume),
        2 => two.clone().prop_map(|(a, b)| Action::Dead(a, b)),
        2 => two.clone().prop_map(|(a, b)| Action::Alive(a, b)),
        2 => (who.clone(), any::<bool>()).prop_map(|(who, power)| Action::Kill { who, power }),
        3 => (who.clone(), any::<bool>())
            .prop_map(|(who, restarting)| Action::Start { who, restarting }),
        3 => (who, vec(any::<bool>(), POOL.len()))
            .prop_map(|(who, prefixes)| Action::Originate { who, prefixes }),
        2 => (two, any::<bool>(), any::<bool>())
            .prop_map(|((who, from), import, export)| Action::Authorize { who, from, import, export }),
    ]
}

/// What may happen to A, B and the link between them.
fn link_action() -> impl Strategy<Value = Action> {
    let two = prop_oneof![Just((0, 1)), Just((1, 0))];
    let who = 0..2_usize;
    prop_oneof![
        2 => two.clone().prop_map(|(a, b)| Action::Reset(a, b)),
        2 => two.clone().prop_map(|(a, b)| Action::Cut(a, b)),
        2 => two.clone().prop_map(|(a, b)| Action::CutOneWay(a, b)),
        3 => two.clone().prop_map(|(a, b)| Action::Heal(a, b)),
        1 => two.clone().prop_map(|(a, b)| Action::Dead(a, b)),
        1 => two.clone().prop_map(|(a, b)| Action::Alive(a, b)),
        2 => who.clone().prop_map(Action::Pause),
        2 => who.prop_map(Action::Resume),
    ]
}

fn act(network: &mut Network, action: &Action) {
    let running = |network: &Network, who: usize| network.nodes[NAMES[who]].speaker.is_some();
    match *action {
        Action::Reset(a, b) => network.reset(NAMES[a], NAMES[b]),
        Action::Cut(a, b) => network.cut(NAMES[a], NAMES[b]),
        Action::CutOneWay(a, b) => network.cut_one_way(NAMES[a], NAMES[b]),
        Action::Pause(who) => network.pause(NAMES[who]),
        Action::Resume(who) => network.resume(NAMES[who]),
        Action::Heal(a, b) => network.heal(NAMES[a], NAMES[b]),
        Action::Dead(a, b) => network.input(
            NAMES[a],
            Input::Dead {
                peer: NAMES[b].into(),
            },
        ),
        Action::Alive(a, b) => network.input(
            NAMES[a],
            Input::Alive {
                peer: NAMES[b].into(),
            },
        ),
        Action::Kill { who, power } => network.kill(NAMES[who], power),
        Action::Start { who, restarting } => {
            if !running(network, who) {
                network.start(NAMES[who], restarting);
            }
        }
        Action::Originate { who, ref prefixes } => {
            let chosen = POOL.iter().zip(prefixes).filter(|(_, chosen)| **chosen);
            let number = u16::try_from(who + 1).unwrap();
            let chosen = chosen.map(|(prefix, _)| net(prefix));
            let chosen = prefixes_of(number).into_iter().chain(chosen).collect();
            network.originate(NAMES[who], chosen);
        }
        Action::Authorize {
            who,
            from,
            import,
            export,
        } => {
            let allowed = |all: bool| match all {
                true => vec![net("0.0.0.0/0"), net("::/0")],
                false => vec![net("10.0.0.0/16"), net("2001:db8:a0::/44")],
            };
            network.configure(NAMES[who], |config| {
                let peer = config.peers.get_mut(&NAMES[from].into()).unwrap();
                peer.import = Some(Policy::accept().within(&allowed(import)));
                peer.export = Some(Policy::accept().within(&allowed(export)));
            });
        }
    }
}

type Routes = BTreeMap<IpNet, BTreeSet<Name>>;

/// The routes that everyone should have, by a model that knows no messages: in every round, each
/// speaker looks at what all others have. Without preferences the shortest paths are used, and the
/// one from the lowest router id, which is the order of names, is passed on - between ASes only.
fn expected(network: &Network) -> BTreeMap<Name, Routes> {
    // Who passes what on, by which way.
    let mut ways: BTreeMap<(Name, IpNet), Vec<Name>> = BTreeMap::new();
    let mut routes: BTreeMap<Name, Routes> = BTreeMap::new();
    for _round in 0..=network.nodes.len() {
        routes.clear();
        let mut next: BTreeMap<(Name, IpNet), Vec<Name>> = BTreeMap::new();
        for (&name, node) in &network.nodes {
            let mine = routes.entry(name).or_default();
            let mut best: BTreeMap<IpNet, Vec<Vec<Name>>> = BTreeMap::new();
            for ((from, prefix), way) in &ways {
                let knows = *from == name || way.contains(&name);
                if knows
                    || node.originated.contains(prefix)
                    || !allowed(network, from, name, prefix)
                {
                    continue;
                }
                let best = best.entry(*prefix).or_default();
                best.push(way.clone());
            }
            for (prefix, ways) in best {
                let shortest = ways.iter().map(Vec::len).min().unwrap();
                let ways: Vec<_> = ways.into_iter().filter(|it| it.len() == shortest).collect();
                mine.insert(prefix, ways.iter().map(|way| way[0]).collect());
                let internal = node
                    .config
                    .peers
                    .values()
                    .all(|it| it.asn == node.config.asn);
                if let (Some(way), false) = (ways.into_iter().min(), internal) {
                    next.insert((name, prefix), [vec![name], way].concat());
                }
            }
            for prefix in &node.originated {
                next.insert((name, *prefix), vec![name]);
            }
        }
        ways = next;
    }
    routes
}

/// Whether both ends allow a prefix.
fn allowed(network: &Network, from: Name, to: Name, prefix: &IpNet) -> bool {
    let import = &network.nodes[to].config.peers[&from.into()].import;
    let export = &network.nodes[from].config.peers[&to.into()].export;
    let accepts = |policy: &Option<Policy>| {
        let verdict = policy
            .as_ref()
            .unwrap()
            .evaluate(prefix, &Attributes::default());
        matches!(verdict, Verdict::Accept(_))
    };
    accepts(import) && accepts(export)
}

pub fn assert_converged(network: &Network) {
    let mut expected = expected(network);
    for &name in network.nodes.keys() {
        let speaker = network.speaker(name);
        assert!(speaker.settled(network.now), "{name} is not settled");
        for status in speaker.peers() {
            let peer = &status.peer;
            let other = *network.nodes.keys().find(|it| **it == &*peer.0).unwrap();
            assert_eq!(
                status.state,
                PeerState::Established,
                "{name} with {peer}: {status:?}"
            );
            assert_eq!(network.connections(name, other), 1, "{name} with {peer}");
            assert!(status.stale.is_empty(), "{name}: stale routes of {peer}");
            // What one was told is what the other has, and counts agree with the table.
            let mut adj_in: Vec<IpNet> = speaker.adj_rib_in(peer).map(|it| it.0).collect();
            adj_in.sort();
            let told = network.speaker(other);
            let mut told: Vec<IpNet> = told.adj_rib_out(&name.into()).map(|it| it.0).collect();
            told.sort();
            assert_eq!(adj_in, told, "{name} from {peer}");
            assert_eq!(adj_in.len(), status.received);
            let rejected = speaker.rejected().filter(|it| it.0 == *peer).count();
            assert_eq!(rejected, status.rejected);
            assert_eq!(status.received, status.accepted + status.rejected);
            assert!(speaker.adj_rib_in(peer).all(|(_, path)| !path.stale));
        }
        let routes = speaker.loc_rib().map(|(prefix, best)| {
            let names = network.nodes.keys();
            let used = names.filter(|name| best.iter().any(|it| *it.peer.0 == ***name));
            let used: BTreeSet<Name> = used.copied().collect();
            assert_eq!(used.len(), best.len());
            (prefix, used)
        });
        let routes: Routes = routes.collect();
        assert_eq!(Some(routes), expected.remove(name), "routes of {name}");
    }
}

/// Ends all trouble, and waits as long as it may take: until a dead session is noticed, its peer
/// tried again, stale routes given up, and announcing no longer deferred.
fn settle(network: &mut Network) {
    for (a, b) in [("A", "B"), ("A", "C"), ("B", "C")] {
        network.heal(a, b);
    }
    for name in NAMES {
        network.resume(name);
    }
    for name in NAMES {
        if network
            .nodes
            .get(name)
            .is_some_and(|node| node.speaker.is_none())
        {
            network.start(name, true);
        }
    }
    network.run(DEFERRAL + HOLD + seconds(40.0));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Two machines and a link that delays, stalls, breaks and swallows what one of them says. That
    /// neither holds a session that the other lost for longer than the hold time, the network sees
    /// to itself.
    #[test]
    fn two_are_established_soon_after_the_link_is_good(
        ebgp in any::<bool>(),
        delay in 0.0005..2.0_f64,
        actions in vec((0.0..15.0_f64, link_action()), 0..20),
    ) {
        let names = ["A", "B"];
        let mut network = Network::mesh_with_delays(&names, ebgp, &[delay]);
        for (wait, action) in &actions {
            network.run(seconds(*wait));
            act(&mut network, action);
        }
        network.resume("A");
        network.resume("B");
        network.heal("A", "B");
        // A dead session is noticed, and the longest pause between attempts is over; then there are
        // two round trips for a connection that may cross another one.
        network.run(HOLD + seconds(15.0 + delay * 10.0));
        prop_assert_eq!(network.state("A", "B"), PeerState::Established);
        prop_assert_eq!(network.state("B", "A"), PeerState::Established);
        prop_assert_eq!(network.connections("A", "B"), 1);
        network.run(seconds(delay * 4.0));
        for (name, number) in [("A", 2), ("B", 1)] {
            let routes: BTreeSet<IpNet> = network.speaker(name).loc_rib().map(|it| it.0).collect();
            prop_assert_eq!(routes, prefixes_of(number));
            prop_assert!(network.status(name, names[usize::from(number) - 1]).stale.is_empty());
        }
    }

    #[test]
    fn everyone_agrees_in_the_end(
        ebgp in any::<bool>(),
        delays in vec(0.0005..0.4_f64, 3),
        actions in vec((0.0..12.0_f64, action()), 0..14),
    ) {
        let mut network = Network::mesh_with_delays(&NAMES, ebgp, &delays);
        for (wait, action) in &actions {
            // Mostly in quick succession: that is when things cross.
            let wait = if *wait < 6.0 { wait / 6.0 } else { *wait };
            network.run(seconds(wait));
            act(&mut network, action);
        }
        settle(&mut network);
        assert_converged(&network);
        // And nothing happens any more.
        for node in network.nodes.values_mut() {
            node.events.clear();
        }
        network.run(HOLD * 4);
        prop_assert!(network.nodes.values().all(|node| node.events.is_empty()));
    }
}
