//! Graceful restart (RFC 4724), from both ends.

use crate::network::*;
use crate::solo::{FIRST, Solo, announcement, b, messages, open_with_restart, their_open};
use routemesh_bgp::wire::notification::cease;
use routemesh_bgp::wire::{
    Family, GracefulRestart, LongLived, Message, Notification, Refresh, Update,
};
use routemesh_bgp::{ConnId, Ending, Event, Input, Output, PeerConfig, PeerState};
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
#[test]
fn the_end_of_the_wait_is_told_before_the_routes_are_looked_at() {
    let mut solo = Solo::new();
    solo.reach(PeerState::Established);
    solo.receive(FIRST, &announcement("10.0.1.0/24"));
    solo.input(Input::Closed { conn: FIRST });
    solo.outputs();
    assert_eq!(solo.speaker.loc_rib().count(), 1);
    // The peer's return is waited for, and then its link dies.
    let peer = solo.speaker.peers().next().unwrap().peer;
    solo.input(Input::Dead { peer });
    let is_end = |it: &Output| matches!(it, Output::Event(Event::StaleRemoved { .. }));
    while !is_end(&solo.speaker.poll_output().unwrap()) {}
    assert_eq!(solo.speaker.peers().next().unwrap().received, 0);
    assert_eq!(solo.speaker.loc_rib().count(), 1);
    solo.outputs();
    assert_eq!(solo.speaker.loc_rib().count(), 0);
}

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
    solo.outputs();
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
    // C does not run: A waits for nobody, and what B takes back goes at once.
    assert_eq!(network.peers_for("B", "10.0.1.0/24"), ["A"]);
    assert!(network.speaker("A").settled(network.now));
}

#[test]
fn a_peer_without_the_capability_counts_when_it_has_been_quiet() {
    let mut solo = Solo::restarted();
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

/// Both sides have the N bit of RFC 8538, and a route is there.
fn graceful_notifications() -> Solo {
    let mut solo = Solo::with(|config| {
        let peer = config.peers.get_mut(&b()).unwrap();
        peer.graceful_notification = true;
        peer.max_prefixes = 2;
    });
    solo.establish_with(1, open_with_restart(|it| it.notification = true));
    solo.receive(FIRST, &announcement("10.0.1.0/24"));
    solo.outputs();
    solo
}

#[test]
fn a_notification_keeps_paths_where_both_sides_say_so_unless_it_is_for_good() {
    type Do = fn(&mut Solo);
    let receive = |solo: &mut Solo, notification| {
        solo.receive(FIRST, &Message::Notification(notification));
    };
    // What happens, what we say of it, whether the paths stay.
    let table: [(&str, Do, &str, bool); 9] = [
        ("hold timer", |solo| solo.pass(HOLD), "4/0 1, close 1", true),
        (
            "an error of the peer",
            |solo| solo.receive(FIRST, &Message::Open(their_open())),
            "5/3 1, close 1",
            true,
        ),
        (
            "hard reset",
            |solo| {
                let reset = Notification::new(6, cease::HARD_RESET, [6, 2]);
                solo.receive(FIRST, &Message::Notification(reset));
            },
            "close 1",
            false,
        ),
        (
            "any other cease",
            |solo| {
                let cease = Notification::cease(cease::PEER_DECONFIGURED);
                solo.receive(FIRST, &Message::Notification(cease));
            },
            "close 1",
            true,
        ),
        (
            "an error that the peer finds",
            |solo| {
                let error = Notification::new(3, 1, []);
                solo.receive(FIRST, &Message::Notification(error));
            },
            "close 1",
            true,
        ),
        (
            "dead link",
            |solo| solo.input(Input::Dead { peer: b() }),
            "6/9 wrapping 6/10 1, close 1",
            false,
        ),
        (
            "shutdown",
            |solo| solo.speaker.shutdown("bye", solo.now),
            "6/9 wrapping 6/2 1, close 1",
            false,
        ),
        (
            "too many prefixes",
            |solo| {
                solo.receive(FIRST, &announcement("10.0.2.0/24"));
                solo.receive(FIRST, &announcement("10.0.3.0/24"));
            },
            "6/9 wrapping 6/1 1, close 1",
            false,
        ),
        (
            "de-configured",
            |solo| {
                let mut config = solo.config.clone();
                config.peers.clear();
                solo.speaker.configure(config, solo.now);
            },
            "6/9 wrapping 6/3 1, close 1",
            false,
        ),
    ];
    for (what, happen, said, kept) in table {
        let mut solo = graceful_notifications();
        happen(&mut solo);
        assert_eq!(solo.outputs().join(", "), said, "{what}");
        assert_eq!(solo.speaker.loc_rib().count(), usize::from(kept), "{what}");
    }
    // The same where only one side says so: nothing is kept, and no hard reset is sent.
    for ours in [true, false] {
        let mut solo = Solo::with(|config| {
            config.peers.get_mut(&b()).unwrap().graceful_notification = ours;
        });
        solo.establish_with(1, open_with_restart(|it| it.notification = !ours));
        solo.receive(FIRST, &announcement("10.0.1.0/24"));
        receive(&mut solo, Notification::cease(cease::OUT_OF_RESOURCES));
        solo.outputs();
        assert_eq!(solo.speaker.loc_rib().count(), 0);
        solo.establish_with(2, open_with_restart(|it| it.notification = !ours));
        solo.outputs();
        solo.speaker.shutdown("bye", solo.now);
        assert_eq!(solo.outputs(), ["6/2 2", "close 2"]);
    }
}

#[test]
fn a_peer_that_is_back_after_a_notification_keeps_its_routes_throughout() {
    let mut network = two_with(|peer| peer.graceful_notification = true);
    // B finds fault with A: the connection goes, the paths stay on both sides until it is back.
    network.cut_one_way("A", "B");
    network.run(HOLD + seconds(0.1));
    assert!(matches!(downs(&network, "A")[..], [Ending::Received(ref it)] if it.code == 4));
    assert!(matches!(downs(&network, "B")[..], [Ending::Sent(ref it)] if it.code == 4));
    assert_eq!(network.peers_for("A", V4), ["B*"]);
    assert_eq!(network.peers_for("B", "10.0.1.0/24"), ["A*"]);
    network.heal("A", "B");
    for _ in 0..160 {
        network.run(seconds(0.1));
        assert_eq!(network.routes("A").len(), 2);
        assert_eq!(network.routes("B").len(), 2);
    }
    assert_eq!(network.peers_for("A", V4), ["B"]);
    // A shutdown is for good.
    network.shutdown("B", "maintenance");
    network.run(seconds(0.1));
    assert!(network.routes("A").is_empty());
    let error = network.status("A", "B").last_error.unwrap();
    let expected = "Cease: Hard Reset: Cease: Administrative Shutdown: ‘maintenance’ (received)";
    assert_eq!(error, expected);
}

fn two_with(change: impl Fn(&mut PeerConfig)) -> Network {
    let mut network = Network::mesh(&["A", "B"], false);
    for name in ["A", "B"] {
        network.configure(name, |config| config.peers.values_mut().for_each(&change));
        // OPENs count from the next session on.
        network.kill(name, false);
        network.start(name, false);
    }
    network.run(seconds(15.0));
    assert_eq!(network.peers_for("A", V4), ["B"]);
    for node in network.nodes.values_mut() {
        node.events.clear();
    }
    network
}

/// RFC 9494: the restart time, then the long-lived one.
#[test]
fn long_lived_paths_stay_after_the_restart_time_for_the_shorter_of_both_times() {
    for (ours, theirs, expected) in [(100, 300, 100), (300, 100, 100), (0, 300, 0)] {
        let mut solo = Solo::with(|config| {
            config.peers.get_mut(&b()).unwrap().long_lived = Duration::from_secs(ours);
        });
        let mut open = their_open();
        open.capabilities.long_lived.ipv4 = Some(LongLived {
            forwarding: true,
            seconds: theirs,
        });
        solo.establish_with(1, open);
        solo.receive(FIRST, &announcement("10.0.1.0/24"));
        solo.receive(FIRST, &announcement("2001:db8:a1::/64"));
        solo.input(Input::Closed { conn: FIRST });
        solo.pass(RESTART - Duration::from_secs(1));
        assert_eq!(solo.speaker.loc_rib().count(), 2);
        solo.pass(Duration::from_secs(1));
        // IPv6 has no long-lived time.
        let left = usize::from(expected != 0);
        solo.outputs();
        assert_eq!(solo.speaker.loc_rib().count(), left, "{ours} {theirs}");
        let resort = |event: &Event| matches!(event, Event::LongLived { families, .. } if *families == BTreeSet::from([Family::Ipv4]));
        assert_eq!(solo.events.iter().filter(|it| resort(it)).count(), left);
        if expected != 0 {
            solo.pass(Duration::from_secs(expected - 1));
            assert_eq!(solo.speaker.loc_rib().count(), 1);
            solo.pass(Duration::from_secs(1));
            solo.outputs();
        }
        assert_eq!(solo.speaker.loc_rib().count(), 0);
        assert!(solo.speaker.peers().all(|peer| peer.stale.is_empty()));
    }
}

#[test]
fn who_is_back_in_the_long_lived_time_has_to_have_kept_forwarding() {
    for (forwarding, left) in [(true, 1), (false, 0)] {
        let mut solo = Solo::with(|config| {
            config.peers.get_mut(&b()).unwrap().long_lived = Duration::from_secs(1000);
        });
        let open = |forwarding| {
            let mut open = their_open();
            let seconds = 1000;
            open.capabilities.long_lived.ipv4 = Some(LongLived {
                forwarding,
                seconds,
            });
            open
        };
        solo.establish_with(1, open(true));
        solo.receive(FIRST, &announcement("10.0.1.0/24"));
        solo.input(Input::Closed { conn: FIRST });
        solo.pass(Duration::from_secs(500));
        solo.establish_with(2, open(forwarding));
        assert_eq!(solo.speaker.loc_rib().count(), left);
        // It has 360 s to say all, of which it makes no use.
        for _ in 0..120 {
            assert_eq!(solo.speaker.loc_rib().count(), left);
            solo.pass(Duration::from_secs(3));
            solo.receive(ConnId(2), &Message::Keepalive);
        }
        assert_eq!(solo.speaker.loc_rib().count(), 0);
    }
}

/// RFC 9494 section 4.2: the long-lived time is not begun anew by a session that did not say all.
#[test]
fn sessions_that_never_say_all_do_not_prolong_the_long_lived_time() {
    let mut solo = Solo::with(|config| {
        config.peers.get_mut(&b()).unwrap().long_lived = Duration::from_secs(1000);
    });
    let mut open = their_open();
    open.capabilities.long_lived.ipv4 = Some(LongLived {
        forwarding: true,
        seconds: 1000,
    });
    solo.establish_with(1, open.clone());
    solo.receive(FIRST, &announcement("10.0.1.0/24"));
    solo.receive(FIRST, &announcement("10.0.3.0/24"));
    solo.receive(FIRST, &announcement("2001:db8:a1::/64"));
    solo.input(Input::Closed { conn: FIRST });
    // In the restart time, in the long-lived time, and at its very end.
    let mut passed = 0;
    for (conn, at, left) in [(2, 10, 3), (3, 500, 2), (4, 1015, 2)] {
        solo.pass(Duration::from_secs(at - passed));
        passed = at;
        solo.establish_with(conn, open.clone());
        solo.receive(ConnId(conn), &announcement("10.0.1.0/24"));
        assert_eq!(solo.speaker.loc_rib().count(), left, "{at}");
        if conn < 4 {
            solo.input(Input::Closed { conn: ConnId(conn) });
            solo.outputs();
            assert_eq!(solo.speaker.loc_rib().count(), 2, "{at}");
        }
    }
    // The end comes in a session: what came in it stays, unless that is lost as well.
    solo.pass(Duration::from_secs(4));
    assert_eq!(solo.speaker.loc_rib().count(), 2);
    solo.pass(Duration::from_secs(1));
    solo.outputs();
    assert_eq!(solo.speaker.loc_rib().count(), 1);
    solo.input(Input::Closed { conn: ConnId(4) });
    solo.outputs();
    assert_eq!(solo.speaker.loc_rib().count(), 0);
}

/// RFC 7313: what the peer does not send again between the two marks is gone.
#[test]
fn a_refresh_with_marks_drops_what_is_not_sent_again() {
    let routes = |solo: &Solo| solo.speaker.loc_rib().count();
    let mark = |refresh| Message::RouteRefresh(Family::Ipv4, refresh);
    let end_of_rib = Message::Update(Update {
        end_of_rib: Some(Family::Ipv4),
        ..Update::default()
    });
    let mut open = their_open();
    open.capabilities.enhanced_route_refresh = true;
    let mut solo = Solo::new();
    solo.establish_with(1, open);
    for prefix in ["10.0.1.0/24", "10.0.3.0/24", "2001:db8:a1::/64"] {
        solo.receive(FIRST, &announcement(prefix));
    }
    // Marks before the first End-of-RIB mean nothing.
    solo.receive(FIRST, &mark(Refresh::Begin));
    solo.receive(FIRST, &mark(Refresh::End));
    assert_eq!(routes(&solo), 3);
    solo.receive(FIRST, &end_of_rib);
    // Nor does an end without a beginning.
    solo.receive(FIRST, &mark(Refresh::End));
    assert_eq!(routes(&solo), 3);
    solo.receive(FIRST, &mark(Refresh::Begin));
    solo.receive(FIRST, &announcement("10.0.1.0/24"));
    assert_eq!(routes(&solo), 3);
    solo.receive(FIRST, &mark(Refresh::End));
    assert_eq!(routes(&solo), 2);
    // A peer that never ends is not waited for.
    solo.receive(FIRST, &mark(Refresh::Begin));
    for _ in 0..120 {
        assert_eq!(routes(&solo), 2);
        solo.pass(Duration::from_secs(3));
        solo.receive(FIRST, &Message::Keepalive);
    }
    assert_eq!(routes(&solo), 1);
}

/// Each removal is a walk over the table: whoever refreshes again and again has it done once a second.
#[test]
fn refreshes_in_a_row_drop_what_they_do_not_bring_a_second_later() {
    let routes = |solo: &Solo| solo.speaker.loc_rib().count();
    let mark = |refresh| Message::RouteRefresh(Family::Ipv4, refresh);
    let mut open = their_open();
    open.capabilities.enhanced_route_refresh = true;
    open.capabilities.graceful_restart = None;
    let mut solo = Solo::new();
    solo.establish_with(1, open);
    let refresh = |solo: &mut Solo| {
        solo.receive(FIRST, &announcement("10.0.1.0/24"));
        solo.receive(FIRST, &mark(Refresh::Begin));
        solo.receive(FIRST, &mark(Refresh::End));
    };
    refresh(&mut solo);
    assert_eq!(routes(&solo), 0);
    for _ in 0..10 {
        refresh(&mut solo);
        assert_eq!(routes(&solo), 1);
    }
    solo.pass(Duration::from_secs(1));
    solo.outputs();
    assert_eq!(routes(&solo), 0);
}
