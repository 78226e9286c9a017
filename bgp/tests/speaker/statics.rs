//! Static routes: what is reached by ways that are no peers.

use crate::network::*;
use routemesh_bgp::Reach;
use std::time::Duration;

const CLOUD: &str = "10.9.0.0/16";
const CLOUD6: &str = "2001:db8:9::/48";

fn to(prefixes: &[&str]) -> Reach {
    Reach {
        prefixes: nets(prefixes),
        ..Reach::default()
    }
}

fn network() -> Network {
    let mut network = Network::mesh(&["A", "B"], false);
    network.run(Duration::from_secs(5));
    network
}

#[test]
fn all_ways_that_are_alive_are_used_and_the_others_hear_of_them() {
    let mut network = network();
    let both = to(&[CLOUD, CLOUD6]);
    network.reach("A", "one", both.clone());
    network.reach("A", "two", both.clone());
    network.run(Duration::from_secs(1));
    for prefix in [CLOUD, CLOUD6] {
        assert_eq!(network.peers_for("A", prefix), ["one", "two"]);
        assert_eq!(network.peers_for("B", prefix), ["A"]);
    }
    // One family of one way goes, and then the whole way.
    network.reach("A", "one", to(&[CLOUD6]));
    assert_eq!(network.peers_for("A", CLOUD), ["two"]);
    assert_eq!(network.peers_for("A", CLOUD6), ["one", "two"]);
    network.reach("A", "one", Reach::default());
    assert_eq!(network.peers_for("A", CLOUD6), ["two"]);
    network.reach("A", "two", Reach::default());
    network.run(Duration::from_secs(1));
    for name in ["A", "B"] {
        assert_eq!(network.peers_for(name, CLOUD), Vec::<String>::new());
    }
    // And it comes back.
    network.reach("A", "two", both);
    network.run(Duration::from_secs(1));
    assert_eq!(network.peers_for("B", CLOUD), ["A"]);
}

#[test]
fn own_ways_come_before_those_of_others_unless_they_are_preferred() {
    let mut network = network();
    network.reach("A", "one", to(&[CLOUD]));
    network.reach("B", "other", to(&[CLOUD]));
    network.run(Duration::from_secs(1));
    assert_eq!(network.peers_for("A", CLOUD), ["one"]);
    assert_eq!(network.peers_for("B", CLOUD), ["other"]);
    let preferred = Reach {
        preference: Some(200),
        ..to(&[CLOUD])
    };
    network.reach("A", "one", preferred);
    network.run(Duration::from_secs(1));
    assert_eq!(network.peers_for("A", CLOUD), ["one"]);
    assert_eq!(network.peers_for("B", CLOUD), ["A"]);
    network.reach("A", "one", Reach::default());
    network.run(Duration::from_secs(1));
    assert_eq!(network.peers_for("A", CLOUD), ["B"]);
    assert_eq!(network.peers_for("B", CLOUD), ["other"]);
}

#[test]
fn ways_have_shares() {
    let mut network = network();
    for (way, weight) in [("one", 3), ("two", 1)] {
        let weight = Some(weight);
        let reach = Reach {
            weight,
            ..to(&[CLOUD])
        };
        network.reach("A", way, reach);
    }
    let (hops, _) = network.speaker("A").in_use(&net(CLOUD)).unwrap();
    let shares: Vec<(String, u16)> = hops
        .iter()
        .map(|hop| (hop.peer.to_string(), hop.weight))
        .collect();
    assert_eq!(shares, [("one".to_owned(), 3), ("two".to_owned(), 1)]);
}

#[test]
fn a_way_that_becomes_a_peer_reaches_nothing_until_that_says_so_and_the_other_way_round() {
    let mut network = network();
    network.reach("A", "one", to(&[CLOUD]));
    network.run(Duration::from_secs(1));
    assert_eq!(network.peers_for("B", CLOUD), ["A"]);
    network.configure("A", |config| {
        let mut peer = peer(1, 9, 64512);
        // Nobody is there.
        peer.passive = true;
        config.peers.insert("one".into(), peer);
    });
    network.run(Duration::from_secs(1));
    for name in ["A", "B"] {
        assert_eq!(network.peers_for(name, CLOUD), Vec::<String>::new());
    }
    // A peer has a session, and no other way.
    network.reach("A", "one", to(&[CLOUD]));
    assert_eq!(network.peers_for("A", CLOUD), Vec::<String>::new());
    network.configure("A", |config| drop(config.peers.remove(&"one".into())));
    network.reach("A", "one", to(&[CLOUD]));
    network.run(Duration::from_secs(1));
    assert_eq!(network.peers_for("A", CLOUD), ["one"]);
    assert_eq!(network.peers_for("B", CLOUD), ["A"]);
}

#[test]
fn what_one_of_a_full_mesh_says_no_other_is_told_whatever_their_ases() {
    for meshed in [false, true] {
        let mut network = Network::mesh(&["A", "B", "C"], true);
        for name in ["A", "B", "C"] {
            network.configure(name, |config| {
                let peers = config.peers.values_mut();
                peers.for_each(|peer| peer.meshed = meshed);
            });
        }
        network.run(Duration::from_secs(30));
        network.reach("A", "one", to(&[CLOUD]));
        network.run(Duration::from_secs(5));
        assert_eq!(network.peers_for("C", CLOUD), ["A"]);
        let b = "B".into();
        let paths = network.speaker("C").adj_rib_in(&b);
        let through_b = paths.filter(|(prefix, _)| *prefix == net(CLOUD)).count();
        assert_eq!(through_b, usize::from(!meshed), "meshed: {meshed}");
    }
}

#[test]
fn a_way_that_traffic_is_to_leave_is_the_last_choice_everywhere() {
    for ases in [false, true] {
        let mut network = Network::mesh(&["A", "B"], ases);
        network.run(Duration::from_secs(5));
        network.reach("A", "one", to(&[CLOUD]));
        network.reach("B", "other", to(&[CLOUD]));
        let drained = Reach {
            drain: true,
            preference: Some(200),
            ..to(&[CLOUD])
        };
        network.reach("A", "one", drained);
        network.run(Duration::from_secs(1));
        assert_eq!(network.peers_for("A", CLOUD), ["B"]);
        assert_eq!(network.peers_for("B", CLOUD), ["other"]);
        // And better than none.
        network.reach("B", "other", Reach::default());
        network.run(Duration::from_secs(1));
        assert_eq!(network.peers_for("A", CLOUD), ["one"]);
        assert_eq!(network.peers_for("B", CLOUD), ["A"]);
    }
}
