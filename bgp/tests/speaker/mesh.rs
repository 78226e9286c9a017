//! A full mesh of many speakers: all sessions come up, links fail at random, and all is well again.
//! What happens follows from a seed.

use crate::network::{Name, Network, prefixes_of, seconds};
use ipnet::IpNet;
use routemesh_bgp::PeerState;
use std::collections::BTreeMap;
use std::time::Duration;

/// When everything has to be well again: a dead session is noticed after 9 s, the next attempt comes
/// at most 15 s later; and as much again, because it may have been lost as well.
const LIMIT: Duration = Duration::from_secs(60);

/// What it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Virtual time from the start until all routes were everywhere, to a tenth of a second.
    pub started: Duration,
    /// The same from the last trouble on.
    pub mended: Duration,
    /// Ends of sessions that went down after that.
    pub lost: usize,
}

/// `speakers` in a full mesh within one AS, each with a prefix of either family.
pub fn run(speakers: u16, seed: u64) -> Report {
    let names: Vec<Name> = (1..=speakers)
        .map(|number| &*Box::leak(format!("{number:05}").into_boxed_str()))
        .collect();
    let mut network = Network::mesh(&names, false);
    network.look_at_changes = false;
    network.keep_events = false;
    let started = converge(&mut network, &names, seed);
    let before = network.lost;
    trouble(&mut network, &names, seed);
    let mended = converge(&mut network, &names, seed);
    Report {
        started,
        mended,
        lost: network.lost - before,
    }
}

/// Runs until all have a session with all, and exactly the routes there are.
fn converge(network: &mut Network, names: &[Name], seed: u64) -> Duration {
    let start = network.now;
    let routes = all_routes(names);
    while let Err(missing) = converged(network, names, &routes) {
        assert!(
            network.now < start + LIMIT,
            "seed {seed}: {missing} after {LIMIT:?}"
        );
        network.run(seconds(0.1));
    }
    network.now - start
}

/// Every prefix with its speaker.
fn all_routes(names: &[Name]) -> BTreeMap<IpNet, Name> {
    let mut routes = BTreeMap::new();
    for (name, number) in names.iter().zip(1..) {
        let prefixes = prefixes_of(number).into_iter();
        routes.extend(prefixes.map(|prefix| (prefix, *name)));
    }
    routes
}

fn converged(
    network: &Network,
    names: &[Name],
    routes: &BTreeMap<IpNet, Name>,
) -> Result<(), String> {
    // Seen at once; all the rest is looked at only when this is so.
    let (up, all) = (network.sessions(), names.len() * (names.len() - 1));
    if up < all {
        return Err(format!("{} of {all} ends of sessions are down", all - up));
    }
    for &name in names {
        let speaker = network.speaker(name);
        for status in speaker.peers() {
            if status.state != PeerState::Established || !status.stale.is_empty() {
                return Err(format!("{name} has no session with {}", status.peer));
            }
        }
        let expected = routes.values().filter(|it| **it != name).count();
        let mut found = 0;
        for (prefix, hops) in speaker.loc_rib() {
            found += 1;
            let from = hops.iter().map(|hop| &*hop.peer.0);
            if !from.eq(routes.get(&prefix).copied()) {
                return Err(format!("{name} has another way to {prefix}"));
            }
        }
        if found != expected {
            return Err(format!("{name} has {found} of {expected} routes"));
        }
    }
    Ok(())
}

/// Within four seconds a quarter of all links lose everything, or one direction, or their
/// connections; each is good again after at most 16 s, half of them too late for the hold time.
fn trouble(network: &mut Network, names: &[Name], seed: u64) {
    let mut random = Random(seed);
    let mut schedule: BTreeMap<(Duration, usize), (Fault, Name, Name)> = BTreeMap::new();
    let links = names.iter().enumerate();
    let links = links.flat_map(|(at, a)| names.iter().skip(at + 1).map(move |b| (*a, *b)));
    for (a, b) in links.filter(|_| random.below(4) == 0).collect::<Vec<_>>() {
        let at = Duration::from_millis(random.below(4_000));
        let until = at + Duration::from_millis(random.below(16_000));
        let fault = match random.below(4) {
            0 => Fault::Reset,
            1 => Fault::OneWay,
            _ => Fault::Cut,
        };
        schedule.insert((at, schedule.len()), (fault, a, b));
        schedule.insert((until, schedule.len()), (Fault::Heal, a, b));
    }
    let start = network.now;
    for ((at, _), (fault, a, b)) in schedule {
        network.run((start + at).saturating_sub(network.now));
        match fault {
            Fault::Cut => network.cut(a, b),
            Fault::OneWay => network.cut_one_way(a, b),
            Fault::Reset => network.reset(a, b),
            Fault::Heal => network.heal(a, b),
        }
    }
}

enum Fault {
    Cut,
    OneWay,
    Reset,
    Heal,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
