//! Graceful restart (RFC 4724), from both ends.

use crate::network::*;
use crate::solo::{FIRST, Solo, announcement, messages, their_open};
use routemesh_bgp::wire::{Family, GracefulRestart, Message, Update};
use routemesh_bgp::{ConnId, Ending, Event, Input, Output, PeerState};
use std::collections::BTreeSet;
use std::time::Duration;

const V4: &str = "10.0.2.0/24";
const V6: &str = "2001:db8:a2::/64";

fn two() -> Network {
    let mut network = Network::mesh(&["A", "B"], false);
    network.run(seconds(15.0));
    assert_eq!(network.peers_for("A", V4), ["B"]);
    assert_eq!(network.peers_for("A", V6), ["B"]);
    network
}

fn downs(network: &Network, name: Name) -> Vec<Ending> {
    let events = network.nodes[name].events.iter();
    let ending = |event: &Event| match event {
        Event::Down { ending, .. } => Some(ending.clone()),
        _ => None,
    };
    events.filter_map(ending).collect()
}

#[test]
fn routes_of_a_killed_peer_stay_until_it_is_back_and_said_all() {
    let mut network = two();
    network.kill("B", false);
    network.run(seconds(8.0));
    assert_eq!(network.peers_for("A", V4), ["B*"]);
    assert_eq!(network.status("A", "B").stale, both());

    // It comes back with one route less, and one more.
    network.nodes.get_mut("B").unwrap().originated = nets(&[V4, "10.0.22.0/24"]);
    network.start("B", true);
    network.run(seconds(1.0));
    assert_eq!(network.state("A", "B"), PeerState::Established);
    assert_eq!(network.peers_for("A", V4), ["B"]);
    assert_eq!(network.peers_for("A", "10.0.22.0/24"), ["B"]);
    assert!(network.peers_for("A", V6).is_empty());
    assert!(network.status("A", "B").stale.is_empty());
    assert_eq!(downs(&network, "A"), [Ending::Closed]);
}

#[test]
fn a_peer_that_does_not_come_back_loses_its_routes_after_its_restart_time() {
    let mut network = two();
    network.kill("B", false);
    network.run(RESTART - seconds(1.0));
    assert_eq!(network.peers_for("A", V4), ["B*"]);
    network.run(seconds(2.0));
    assert!(network.routes("A").is_empty());
    assert_eq!(network.status("A", "B").received, 0);
}

#[test]
fn a_restart_that_nobody_noticed_shows_when_the_peer_is_back() {
    // No FIN and no RST: the new connection is all that A sees, long before the hold time is over.
    for restarting in [true, false] {
        let mut network = two();
        network.kill("B", true);
        network.run(seconds(0.2));
        assert_eq!(network.state("A", "B"), PeerState::Established);
        network.start("B", restarting);
        network.run(seconds(0.5));
        assert_eq!(downs(&network, "A"), [Ending::Superseded]);
        assert_eq!(network.state("A", "B"), PeerState::Established);
        assert_eq!(network.peers_for("A", V4), ["B"]);
        assert_eq!(network.peers_for("B", "10.0.1.0/24"), ["A"]);
        assert_eq!(network.connections("A", "B"), 1);
    }
}

#[test]
fn no_route_is_missing_while_a_peer_restarts() {
    for (power, pause) in [(false, 0.2), (false, 8.0), (true, 0.2), (true, 5.0)] {
        let mut network = two();
        network.kill("B", power);
        network.run(seconds(pause));
        network.start("B", true);
        for _ in 0..200 {
            network.run(seconds(0.01));
            assert_eq!(network.routes("A").len(), 2, "power {power}, {pause} s");
        }
        assert_eq!(network.state("A", "B"), PeerState::Established);
    }
}

#[test]
fn hold_timer_notification_and_a_dead_link_leave_nothing() {
    let mut network = two();
    network.cut("A", "B");
    network.run(HOLD + seconds(0.1));
    assert!(network.routes("A").is_empty());
    assert!(matches!(downs(&network, "A")[..], [Ending::Sent(ref it)] if it.code == 4));

    let mut network = two();
    network.shutdown("B", "maintenance");
    network.run(seconds(0.1));
    assert!(network.routes("A").is_empty());
    let error = network.status("A", "B").last_error.unwrap();
    assert_eq!(
        error,
        "Cease: Administrative Shutdown: ‘maintenance’ (received)"
    );

    let mut network = two();
    network.input("A", Input::Dead { peer: "B".into() });
    assert!(network.routes("A").is_empty());
    network.run(seconds(0.1));
    // B was told, and keeps nothing either.
    assert!(network.routes("B").is_empty());
}

#[test]
fn a_dead_link_ends_the_wait_for_a_restarting_peer() {
    let mut network = two();
    network.kill("B", false);
    network.run(seconds(1.0));
    assert_eq!(network.peers_for("A", V4), ["B*"]);
    network.input("A", Input::Dead { peer: "B".into() });
    assert!(network.routes("A").is_empty());
    assert!(network.status("A", "B").stale.is_empty());
}

/// A, whose peer B was up with both families, lost the connection and is back with `change`.
fn back_with(change: impl FnOnce(&mut GracefulRestart)) -> Solo {
    let mut solo = Solo::new();
    solo.reach(PeerState::Established);
    solo.receive(FIRST, &announcement("10.0.1.0/24"));
    solo.receive(FIRST, &announcement("2001:db8:a1::/64"));
    assert_eq!(solo.speaker.loc_rib().count(), 2);
    solo.input(Input::Closed { conn: FIRST });
    solo.outputs();
    assert!(routes(&solo.speaker).values().all(|it| *it == ["B*"]));
    solo.connected(false);
    let mut open = their_open();
    change(open.capabilities.graceful_restart.as_mut().unwrap());
    let conn = ConnId(2);
    solo.receive(conn, &Message::Open(open));
    assert_eq!(solo.speaker.loc_rib().count(), 2);
    solo.receive(conn, &Message::Keepalive);
    solo.outputs();
    solo
}

fn families(solo: &Solo) -> BTreeSet<Family> {
    solo.speaker
        .loc_rib()
        .map(|(prefix, _)| Family::of(&prefix))
        .collect()
}

#[test]
fn a_family_for_which_forwarding_was_lost_goes_when_the_session_is_back() {
    let solo = back_with(|_| {});
    assert_eq!(families(&solo), both());
    let solo = back_with(|graceful| graceful.families[0].1 = false);
    assert_eq!(families(&solo), BTreeSet::from([Family::Ipv6]));
    let solo = back_with(|graceful| graceful.families.truncate(1));
    assert_eq!(families(&solo), BTreeSet::from([Family::Ipv4]));
}

#[test]
fn end_of_rib_of_one_family_says_nothing_of_the_other() {
    let mut solo = back_with(|_| {});
    let end_of_rib = |family| {
        Message::Update(Update {
            end_of_rib: Some(family),
            ..Update::default()
        })
    };
    let conn = ConnId(2);
    solo.receive(conn, &end_of_rib(Family::Ipv4));
    assert_eq!(families(&solo), BTreeSet::from([Family::Ipv6]));
    solo.receive(conn, &end_of_rib(Family::Ipv6));
    assert!(families(&solo).is_empty());
}

#[test]
fn a_peer_back_without_ever_saying_all_loses_its_stale_routes_in_the_end() {
    let mut solo = back_with(|_| {});
    let conn = ConnId(2);
    for _ in 0..119 {
        solo.pass(Duration::from_secs(3));
        solo.receive(conn, &Message::Keepalive);
    }
    assert_eq!(families(&solo), both());
    solo.pass(Duration::from_secs(3));
    assert_eq!(solo.state(), PeerState::Established);
    assert!(families(&solo).is_empty());
}

#[test]
fn routes_stale_since_before_the_last_session_do_not_outlive_it() {
    let mut solo = back_with(|_| {});
    let conn = ConnId(2);
    solo.receive(conn, &announcement("10.0.1.0/24"));
    solo.input(Input::Closed { conn });
    solo.outputs();
    assert_eq!(families(&solo), BTreeSet::from([Family::Ipv4]));
}

#[test]
fn a_restarted_speaker_announces_nothing_before_it_knows_what_the_others_know() {
    let mut network = Network::mesh(&["A", "B", "C"], true);
    network.run(seconds(15.0));
    network.cut("A", "C");
    network.kill("A", false);
    network.run(seconds(1.0));
    network.start("A", true);
    // B's routes are there, but C cannot be reached: nothing is announced, nor End-of-RIB.
    network.run(seconds(10.0));
    assert_eq!(network.state("A", "B"), PeerState::Established);
    assert_eq!(network.speaker("A").adj_rib_out(&"B".into()).count(), 0);
    assert!(network.status("B", "A").end_of_rib.is_empty());
    assert_eq!(network.peers_for("B", "10.0.1.0/24"), ["A*"]);
    assert!(!network.speaker("A").settled(network.now));
    // C is back: now all is known.
    network.heal("A", "C");
    network.run(seconds(16.0));
    assert_eq!(network.state("A", "C"), PeerState::Established);
    assert!(network.speaker("A").settled(network.now));
    assert_eq!(network.peers_for("B", "10.0.1.0/24"), ["A"]);
    assert_eq!(network.status("B", "A").end_of_rib, both());
}

#[test]
fn the_wait_for_a_peer_that_never_comes_ends_with_the_deferral_time() {
    let mut network = Network::mesh(&["A", "B", "C"], true);
    network.run(seconds(15.0));
    network.kill("C", false);
    network.kill("A", false);
    network.start("A", true);
    network.run(DEFERRAL - seconds(1.0));
    assert_eq!(network.speaker("A").adj_rib_out(&"B".into()).count(), 0);
    assert!(!network.speaker("A").settled(network.now));
    network.run(seconds(2.0));
    assert!(network.speaker("A").adj_rib_out(&"B".into()).count() > 0);
    assert!(network.speaker("A").settled(network.now));
}

#[test]
fn two_that_restart_together_do_not_wait_for_each_other() {
    let mut network = two();
    network.kill("A", false);
    network.kill("B", false);
    network.start("A", true);
    network.start("B", true);
    network.run(seconds(4.0));
    for (name, peer) in [("A", "B"), ("B", "A")] {
        assert_eq!(network.state(name, peer), PeerState::Established);
        assert!(network.speaker(name).settled(network.now));
        assert_eq!(network.routes(name).len(), 2);
    }
}

#[test]
fn a_peer_that_restarts_too_is_announced_to_but_its_routes_are_waited_for() {
    let mut solo = Solo::restarted();
    solo.connected(true);
    let mut open = their_open();
    open.capabilities
        .graceful_restart
        .as_mut()
        .unwrap()
        .restarting = true;
    solo.receive(FIRST, &Message::Open(open));
    solo.receive(FIRST, &Message::Keepalive);
    assert!(solo.outputs().contains(&"end-of-rib 1".into()));
    assert!(!solo.speaker.settled(solo.now));
    for family in both() {
        let end_of_rib = Some(family);
        let update = Update {
            end_of_rib,
            ..Update::default()
        };
        solo.receive(FIRST, &Message::Update(update));
    }
    assert!(solo.speaker.settled(solo.now));
}

#[test]
fn a_speaker_that_has_not_restarted_announces_at_once() {
    let mut network = two();
    network.add("C", speaker(3, 65000), prefixes_of(3));
    network.configure("A", |config| {
        config.peers.insert("C".into(), peer(1, 3, 65000));
    });
    network.run(seconds(1.0));
    // C does not run: A waits for nobody.
    assert_eq!(network.peers_for("B", "10.0.1.0/24"), ["A"]);
}

#[test]
fn a_peer_without_the_capability_counts_when_it_has_been_quiet() {
    let mut solo = Solo::new();
    solo.connected(true);
    let mut open = their_open();
    open.capabilities.graceful_restart = None;
    solo.receive(FIRST, &Message::Open(open));
    solo.receive(FIRST, &Message::Keepalive);
    solo.pass(Duration::from_millis(1900));
    solo.receive(FIRST, &announcement("10.0.1.0/24"));
    solo.pass(Duration::from_millis(1900));
    assert!(!solo.speaker.settled(solo.now));
    let deadline = solo.speaker.next_deadline().unwrap();
    assert_eq!(deadline, solo.now + Duration::from_millis(100));
    solo.pass(Duration::from_millis(100));
    assert!(solo.speaker.settled(solo.now));
    // Its routes are not kept either.
    solo.input(Input::Closed { conn: FIRST });
    solo.outputs();
    assert_eq!(solo.speaker.loc_rib().count(), 0);
}

#[test]
fn opens_say_restarted_for_the_restart_time_only_and_forwarding_kept_after_any_session() {
    let graceful = |solo: &mut Solo| {
        let opens = std::iter::from_fn(|| solo.speaker.poll_output()).filter_map(|it| match it {
            Output::Send { bytes, .. } => Some(messages(&bytes)),
            _ => None,
        });
        let open = opens.flatten().find_map(|message| match message {
            Message::Open(open) => open.capabilities.graceful_restart,
            _ => None,
        });
        let graceful = open.unwrap();
        assert_eq!(graceful.restart_time, 20);
        (graceful.restarting, graceful.families.iter().all(|it| it.1))
    };
    let mut fresh = Solo::new();
    fresh.connected(true);
    assert_eq!(graceful(&mut fresh), (false, false));

    let mut restarted = Solo::restarted();
    restarted.connected(false);
    assert_eq!(graceful(&mut restarted), (true, true));
    restarted.pass(RESTART);
    restarted.connected(false);
    assert_eq!(graceful(&mut restarted), (false, false));

    let mut again = Solo::new();
    again.reach(PeerState::Established);
    again.input(Input::Closed { conn: FIRST });
    again.connected(false);
    assert_eq!(graceful(&mut again), (false, true));
}
