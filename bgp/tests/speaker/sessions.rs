//! How sessions come up and go down.

use crate::network::*;
use crate::solo::{FIRST, Solo, announcement, b, bytes, their_open};
use proptest::collection::vec;
use proptest::prelude::*;
use routemesh_bgp::wire::notification::{cease, code};
use routemesh_bgp::wire::{
    Context, Directions, Family, Message, Notification, Open, Refresh, encode,
};
use routemesh_bgp::{ConnId, Counts, Ending, Event, Input, PeerState};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

#[test]
fn two_speakers_meet_and_exchange_both_families() {
    for ebgp in [false, true] {
        let mut network = Network::mesh(&["A", "B"], ebgp);
        network.run(seconds(5.0));
        for (name, peer, prefixes) in [("A", "B", prefixes_of(2)), ("B", "A", prefixes_of(1))] {
            assert_eq!(network.state(name, peer), PeerState::Established);
            let routes: Vec<_> = network.speaker(name).loc_rib().map(|it| it.0).collect();
            assert_eq!(routes, Vec::from_iter(prefixes));
            assert!(network.speaker(name).settled(network.now));
        }
        assert_eq!(network.connections("A", "B"), 1);
    }
}

#[test]
fn connections_that_cross_leave_one_without_losing_a_session() {
    // Both start at once, or one a little later, over links of any speed.
    for delay in [0.001, 0.05, 0.3] {
        for lead in [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5] {
            let mut network = Network::mesh_with_delays(&["A", "B"], false, &[delay]);
            network.kill("A", false);
            network.run(seconds(20.0));
            network.start("A", false);
            network.run(seconds(delay * lead));
            network.input("B", Input::Alive { peer: "A".into() });
            network.run(seconds(delay * 8.0));
            for (name, peer) in [("A", "B"), ("B", "A")] {
                let state = network.state(name, peer);
                assert_eq!(state, PeerState::Established, "{delay} s, {lead}");
            }
            network.run(seconds(5.0));
            assert_eq!(network.connections("A", "B"), 1, "{delay} s, {lead}");
            assert_eq!(network.routes("A").len(), 2);
            assert_eq!(network.routes("B").len(), 2);
        }
    }
}

#[test]
fn an_established_session_stays_when_a_peer_without_graceful_restart_connects_again() {
    let mut solo = Solo::new();
    let mut open = their_open();
    open.capabilities.graceful_restart = None;
    solo.connected(true);
    solo.receive(FIRST, &Message::Open(open.clone()));
    solo.receive(FIRST, &Message::Keepalive);
    solo.receive(FIRST, &announcement("10.0.1.0/24"));
    solo.pass(Duration::from_secs(2));
    solo.outputs();
    solo.connected(false);
    solo.receive(ConnId(2), &Message::Open(open));
    assert_eq!(solo.outputs(), ["open 2", "6/7 2", "close 2"]);
    assert_eq!(solo.state(), PeerState::Established);
    assert_eq!(solo.speaker.loc_rib().count(), 1);
}

#[test]
fn routes_survive_when_a_session_gives_way_to_a_crossed_connection() {
    let mut solo = Solo::new();
    // Stale from before.
    solo.reach(PeerState::Established);
    solo.receive(FIRST, &announcement("10.0.1.0/24"));
    solo.input(Input::Closed { conn: FIRST });
    // Theirs comes first and is established; our own, connected meanwhile, is the one that stays.
    let (theirs, ours) = (ConnId(2), ConnId(3));
    solo.connected(false);
    solo.connected(true);
    solo.receive(theirs, &Message::Open(their_open()));
    solo.receive(theirs, &Message::Keepalive);
    solo.receive(theirs, &announcement("10.0.3.0/24"));
    solo.outputs();
    let error = |solo: &Solo| solo.speaker.peers().next().unwrap().last_error;
    let before = error(&solo);
    solo.receive(ours, &Message::Open(their_open()));
    assert_eq!(solo.outputs(), ["6/7 2", "close 2", "keepalive 3"]);
    let routes = routes(&solo.speaker);
    assert_eq!(routes.into_values().collect::<Vec<_>>(), [["B*"], ["B*"]]);
    solo.receive(ours, &Message::Keepalive);
    assert_eq!(solo.state(), PeerState::Established);
    // That is no error of anybody.
    assert_eq!(error(&solo), before);
}

#[test]
fn a_second_passive_connection_replaces_one_that_got_nowhere() {
    let mut solo = Solo::new();
    solo.connected(false);
    solo.connected(false);
    assert_eq!(
        solo.outputs(),
        ["connect", "open 1", "6/7 1", "close 1", "open 2"]
    );
    solo.receive(ConnId(2), &Message::Open(their_open()));
    solo.receive(ConnId(2), &Message::Keepalive);
    assert_eq!(solo.state(), PeerState::Established);
}

/// The hold time in force when we propose 9 s and the peer this.
fn negotiated(hold_time: u16) -> Solo {
    let mut solo = Solo::new();
    solo.connected(true);
    let open = Open {
        hold_time,
        ..their_open()
    };
    solo.receive(FIRST, &Message::Open(open));
    solo.receive(FIRST, &Message::Keepalive);
    solo.outputs();
    solo
}

#[test]
fn the_shorter_hold_time_is_in_force() {
    for (theirs, expected) in [(90, 9), (6, 6), (3, 3)] {
        let mut solo = negotiated(theirs);
        let status = solo.speaker.peers().next().unwrap();
        let expected = Duration::from_secs(expected);
        assert_eq!(status.hold_time, Some(expected));
        // A keepalive after a third; silence for all of it ends the session, any message does not.
        solo.pass(expected / 3 - Duration::from_millis(1));
        assert_eq!(solo.outputs(), Vec::<String>::new());
        solo.pass(Duration::from_millis(1));
        assert_eq!(solo.outputs(), ["keepalive 1"]);
        let messages = [
            Message::Keepalive,
            announcement("10.0.1.0/24"),
            Message::RouteRefresh(Family::Ipv4, Refresh::Request),
        ];
        for message in messages {
            solo.receive(FIRST, &message);
            solo.pass(expected - Duration::from_millis(1));
            assert_eq!(solo.state(), PeerState::Established);
        }
        solo.pass(Duration::from_millis(1));
        assert_eq!(solo.state(), PeerState::Active);
    }
}

#[test]
fn a_hold_time_of_zero_means_no_timers() {
    let mut solo = negotiated(0);
    solo.pass(Duration::from_secs(100_000));
    assert_eq!(solo.outputs(), Vec::<String>::new());
    assert_eq!(solo.state(), PeerState::Established);
}

/// RFC 6608 section 4.
#[test]
fn a_message_that_the_state_does_not_allow_is_answered_with_its_type() {
    let open = Message::Open(their_open());
    let update = announcement("10.0.1.0/24");
    let table = [
        (PeerState::OpenSent, Message::Keepalive, 1, 4),
        (PeerState::OpenConfirm, update, 2, 2),
        (PeerState::Established, open, 3, 1),
    ];
    for (state, message, subcode, kind) in table {
        let mut solo = Solo::new();
        solo.reach(state);
        solo.receive(FIRST, &message);
        let sent = Ending::Sent(Notification::new(code::STATE_MACHINE, subcode, [kind]));
        let peer = solo.speaker.peers().next().unwrap();
        assert_eq!(peer.last_notification, Some(sent));
    }
}

#[test]
fn long_data_of_a_notification_is_not_kept() {
    let mut solo = negotiated(90);
    let context = Context {
        extended_messages: Directions::BOTH,
        ..Context::default()
    };
    let data = [&[6, 2, 255][..], &[b'x'; 60_000]].concat();
    let long = Notification::new(code::CEASE, cease::HARD_RESET, data);
    let mut bytes = Vec::new();
    encode(&Message::Notification(long), &context, &mut bytes);
    assert!(bytes.len() > 60_000);
    solo.input(Input::Received { conn: FIRST, bytes });
    solo.outputs();
    let Some(Event::Down { ending, .. }) = solo.events.pop() else {
        panic!()
    };
    assert!(ending.to_string().contains(&"x".repeat(255)));
    let peer = solo.speaker.peers().next().unwrap();
    assert_eq!(peer.last_notification.as_ref(), Some(&ending));
    let Ending::Received(short) = ending else {
        panic!()
    };
    assert_eq!(short.data.len(), 512);
}

/// Of two OPENs on a connection the second one counts, its hold time included.
#[test]
fn a_second_open_sets_the_timers_anew() {
    let after = |first, second| {
        let mut solo = Solo::new();
        solo.connected(true);
        for hold_time in [first, second] {
            let open = Open {
                hold_time,
                ..their_open()
            };
            solo.receive(FIRST, &Message::Open(open));
        }
        solo.receive(FIRST, &Message::Keepalive);
        solo.outputs();
        solo
    };
    let none = after(90, 0);
    assert_eq!(none.speaker.next_deadline(), None);
    let mut some = after(0, 90);
    some.pass(Duration::from_secs(3));
    assert_eq!(some.outputs(), ["keepalive 1"]);
    some.pass(Duration::from_secs(6));
    assert_eq!(some.state(), PeerState::Active);
}

#[test]
fn an_identifier_may_be_ours_in_another_as_but_never_zero() {
    let state_after = |router_id: Ipv4Addr| {
        let mut solo = Solo::with(|config| {
            config.peers.get_mut(&b()).unwrap().asn = 65001;
        });
        solo.connected(true);
        let open = Open {
            asn: 65001,
            router_id,
            ..their_open()
        };
        solo.receive(FIRST, &Message::Open(open));
        solo.state()
    };
    assert_eq!(
        state_after(Ipv4Addr::new(10, 0, 0, 2)),
        PeerState::OpenConfirm
    );
    assert_eq!(state_after(Ipv4Addr::UNSPECIFIED), PeerState::Idle);
}

#[test]
fn families_without_overlap_make_no_session() {
    let mut solo = Solo::with(|config| {
        let peer = config.peers.get_mut(&b()).unwrap();
        peer.families.remove(&Family::Ipv6);
    });
    solo.connected(true);
    let mut open = their_open();
    open.capabilities.families.remove(&Family::Ipv4);
    solo.receive(FIRST, &Message::Open(open));
    assert_eq!(solo.outputs(), ["connect", "open 1", "2/7 1", "close 1"]);
}

#[test]
fn pauses_after_errors_grow_and_end_with_success() {
    let mut solo = Solo::new();
    let mut pauses = Vec::new();
    for conn in 1..8 {
        solo.connected(false);
        solo.receive(
            ConnId(conn),
            &Message::Open(Open {
                asn: 1,
                ..their_open()
            }),
        );
        assert_eq!(solo.state(), PeerState::Idle);
        solo.outputs();
        let start = solo.now;
        let until = solo
            .speaker
            .next_deadline()
            .unwrap()
            .min(start + Duration::from_secs(500));
        solo.pass(until - start);
        while solo.state() == PeerState::Idle {
            let next = solo.speaker.next_deadline().unwrap();
            solo.pass(next - solo.now);
        }
        pauses.push((solo.now - start).as_secs_f64());
    }
    for (pause, full) in pauses
        .iter()
        .zip([4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0])
    {
        assert!(*pause <= full && *pause >= full * 0.75, "{pauses:?}");
    }
    let error = solo.speaker.peers().next().unwrap().last_error;
    assert_eq!(
        error.as_deref(),
        Some("OPEN Message Error: Bad Peer AS (sent)")
    );
    // A session that lasted wipes them out.
    solo.connected(false);
    solo.receive(ConnId(8), &Message::Open(their_open()));
    solo.receive(ConnId(8), &Message::Keepalive);
    for _ in 0..4 {
        solo.pass(Duration::from_secs(3));
        solo.receive(ConnId(8), &Message::Keepalive);
    }
    solo.input(Input::Closed { conn: ConnId(8) });
    let next = solo.speaker.next_deadline().unwrap();
    assert!(next <= solo.now + Duration::from_secs(1));
}

#[test]
fn events_say_what_happened_to_a_session() {
    let mut solo = Solo::new();
    solo.reach(PeerState::Established);
    solo.input(Input::Closed { conn: FIRST });
    solo.connected(false);
    solo.input(Input::Closed { conn: ConnId(2) });
    solo.outputs();
    let say = |event: &Event| match event {
        Event::Up {
            router_id,
            families,
            ..
        } => format!("up {router_id} {}", families.len()),
        Event::Down {
            ending: Ending::Closed,
            kept,
            ..
        } => format!("down, {} kept", kept.len()),
        Event::Failed {
            ending: Ending::Closed,
            ..
        } => "failed".into(),
        other => panic!("{other:?}"),
    };
    let events: Vec<String> = solo.events.iter().map(say).collect();
    assert_eq!(events, ["up 10.0.0.1 2", "down, 2 kept", "failed"]);
}

#[test]
fn a_passive_peer_is_waited_for_and_never_connected_to() {
    let mut solo = Solo::with(|config| config.peers.get_mut(&b()).unwrap().passive = true);
    let hour = Duration::from_secs(3600);
    solo.input(Input::Alive { peer: b() });
    solo.pass(hour);
    assert_eq!(solo.state(), PeerState::Active);
    solo.reach_passively();
    solo.input(Input::Closed { conn: FIRST });
    solo.pass(hour);
    assert_eq!(solo.state(), PeerState::Active);
    // After an error it is refused for a while, and then waited for again.
    solo.connected(false);
    let wrong = Open {
        asn: 1,
        ..their_open()
    };
    solo.receive(ConnId(2), &Message::Open(wrong));
    assert_eq!(solo.state(), PeerState::Idle);
    solo.pass(Duration::from_secs(8));
    assert_eq!(solo.state(), PeerState::Active);
    assert!(!solo.outputs().contains(&"connect".into()));
}

#[test]
fn a_peer_that_becomes_passive_keeps_its_session() {
    let mut solo = Solo::new();
    solo.reach(PeerState::Established);
    let mut config = solo.config.clone();
    config.peers.get_mut(&b()).unwrap().passive = true;
    solo.speaker.configure(config.clone(), solo.now);
    assert_eq!(solo.state(), PeerState::Established);
    solo.input(Input::Closed { conn: FIRST });
    solo.pass(Duration::from_secs(60));
    assert_eq!(solo.outputs(), Vec::<String>::new());
    config.peers.get_mut(&b()).unwrap().passive = false;
    solo.speaker.configure(config, solo.now);
    assert_eq!(solo.outputs(), ["connect"]);
}

#[test]
fn many_prefixes_are_warned_of_once_and_too_many_end_the_session() {
    let mut solo = Solo::with(|config| config.peers.get_mut(&b()).unwrap().max_prefixes = 4);
    solo.reach(PeerState::Established);
    let warned = |solo: &mut Solo| {
        solo.outputs();
        let events = std::mem::take(&mut solo.events).into_iter();
        let many = events.filter_map(|event| match event {
            Event::ManyPrefixes {
                received, limit, ..
            } => Some((received, limit)),
            _ => None,
        });
        many.collect::<Vec<_>>()
    };
    let announce = |solo: &mut Solo, n: u8| {
        solo.receive(FIRST, &announcement(&format!("10.1.{n}.0/24")));
        warned(solo)
    };
    assert_eq!(announce(&mut solo, 1), []);
    assert_eq!(announce(&mut solo, 2), []);
    assert_eq!(announce(&mut solo, 3), [(3, 4)]);
    assert_eq!(announce(&mut solo, 3), []);
    assert_eq!(announce(&mut solo, 4), []);
    solo.withdraw(1, "10.1.4.0/24");
    solo.withdraw(1, "10.1.3.0/24");
    assert_eq!(announce(&mut solo, 3), []);
    solo.withdraw(1, "10.1.3.0/24");
    solo.withdraw(1, "10.1.2.0/24");
    assert_eq!(announce(&mut solo, 2), []);
    assert_eq!(announce(&mut solo, 3), [(3, 4)]);
    announce(&mut solo, 4);
    assert_eq!(solo.state(), PeerState::Established);
    announce(&mut solo, 5);
    assert_eq!(solo.state(), PeerState::Idle);
    let cease = Ending::Sent(Notification::cease(cease::MAXIMUM_PREFIXES));
    let status = solo.speaker.peers().next().unwrap();
    assert_eq!(status.last_notification, Some(cease));
    assert_eq!(solo.speaker.loc_rib().count(), 0);
}

/// RFC 9687: a peer that talks but does not take what we say is let go after eight minutes, or
/// twice the hold time, and nothing piles up for it until then.
#[test]
fn a_peer_that_takes_nothing_is_let_go() {
    for (hold_time, limit) in [(9, 480), (300, 600)] {
        let mut solo = Solo::with(|config| {
            config.peers.get_mut(&b()).unwrap().hold_time = Duration::from_secs(hold_time);
        });
        solo.connected(true);
        let open = Open {
            hold_time: 300,
            ..their_open()
        };
        solo.receive(FIRST, &Message::Open(open));
        solo.receive(FIRST, &Message::Keepalive);
        solo.outputs();
        solo.stuck = true;
        // What it took before does not count.
        solo.pass(Duration::from_secs(hold_time / 3));
        let mut said = solo.outputs();
        let mut passed = 0;
        while passed < limit - 1 {
            assert_eq!(solo.state(), PeerState::Established, "after {passed} s");
            solo.pass(Duration::from_secs(1));
            solo.receive(FIRST, &Message::Keepalive);
            said.extend(solo.outputs());
            passed += 1;
        }
        assert_eq!(said, ["keepalive 1"]);
        assert_eq!(solo.state(), PeerState::Established);
        solo.pass(Duration::from_secs(1));
        assert_eq!(solo.outputs(), ["8/0 1", "close 1"]);
        assert_eq!(solo.state(), PeerState::Active);
    }
}

#[test]
fn a_peer_that_takes_something_now_and_then_stays() {
    let mut solo = negotiated(9);
    solo.stuck = true;
    for minute in 0..60 {
        for _ in 0..20 {
            solo.pass(Duration::from_secs(3));
            solo.receive(FIRST, &Message::Keepalive);
        }
        let said = solo.outputs();
        if minute % 7 == 6 {
            assert_eq!(said, Vec::<String>::new());
            solo.input(Input::Writable { conn: FIRST });
        }
        assert_eq!(solo.state(), PeerState::Established);
    }
}

#[test]
fn messages_are_counted_over_all_sessions() {
    let mut solo = Solo::new();
    for conn in [1, 2] {
        let conn = ConnId(conn);
        solo.connected(false);
        solo.receive(conn, &Message::Open(their_open()));
        solo.receive(conn, &Message::Keepalive);
        solo.receive(conn, &announcement("10.0.1.0/24"));
        solo.outputs();
        solo.receive(conn, &Message::Notification(Notification::cease(2)));
    }
    let status = solo.speaker.peers().next().unwrap();
    // Two UPDATEs with our prefixes, two End-of-RIB.
    let expected = Counts {
        established: 2,
        messages_received: 8,
        messages_sent: 12,
        updates_received: 2,
        updates_sent: 8,
        faults: BTreeMap::new(),
    };
    assert_eq!(status.counts, expected);
    let last = Ending::Received(Notification::cease(2));
    assert_eq!(status.last_notification, Some(last));
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u16),
    Connected(bool),
    Open(u8),
    Message(u8),
    Closed,
    ConnectFailed,
    Dead,
    Alive,
    Writable,
    Garbage(Vec<u8>),
    /// A valid message with one byte changed.
    Damaged(u8, usize, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..12_000_u16).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Connected),
        1 => (0..6_u8).prop_map(Step::Open),
        4 => (0..6_u8).prop_map(Step::Message),
        1 => Just(Step::Closed),
        1 => Just(Step::ConnectFailed),
        1 => Just(Step::Dead),
        1 => Just(Step::Alive),
        1 => Just(Step::Writable),
        1 => vec(any::<u8>(), 0..40).prop_map(Step::Garbage),
        1 => (0..6_u8, any::<usize>(), any::<u8>()).prop_map(|(a, b, c)| Step::Damaged(a, b, c)),
    ]
}

fn message(number: u8) -> Message {
    match number {
        0 => announcement("10.0.1.0/24"),
        1 => announcement("2001:db8:a1::/64"),
        2 => Message::RouteRefresh(Family::Ipv6, Refresh::Request),
        3 => Message::Open(their_open()),
        _ => Message::Keepalive,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever a peer and the network do: no panic, no timer that is due for ever, and counts
    /// that agree with the table.
    #[test]
    fn any_sequence_of_events_leaves_a_sound_machine(
        steps in vec((0..4_u64, step()), 0..60),
    ) {
        let mut solo = Solo::new();
        let mut conns = 0;
        for (back, step) in steps {
            // Mostly the latest connection, sometimes one before it, which may be gone.
            let conn = ConnId((conns - back.min(conns) / 2).max(1));
            match step {
                Step::Pass(millis) => solo.pass(Duration::from_millis(millis.into())),
                Step::Connected(active) => {
                    conns += 1;
                    solo.connected(active);
                }
                Step::Open(kind) => {
                    let mut open = their_open();
                    match kind {
                        0 => open.asn = 7,
                        1 => open.hold_time = 3,
                        2 => open.capabilities.graceful_restart = None,
                        _ => {}
                    }
                    solo.receive(conn, &Message::Open(open));
                }
                Step::Message(number) => solo.receive(conn, &message(number)),
                Step::Closed => solo.input(Input::Closed { conn }),
                Step::ConnectFailed => solo.input(Input::ConnectFailed { peer: b() }),
                Step::Dead => solo.input(Input::Dead { peer: b() }),
                Step::Alive => solo.input(Input::Alive { peer: b() }),
                Step::Writable => solo.input(Input::Writable { conn }),
                Step::Garbage(bytes) => solo.input(Input::Received { conn, bytes }),
                Step::Damaged(number, at, byte) => {
                    let mut bytes = bytes(&message(number));
                    let at = at % bytes.len();
                    bytes[at] = byte;
                    solo.input(Input::Received { conn, bytes });
                }
            }
            solo.outputs();
            solo.speaker.timeout(solo.now);
            let next = solo.speaker.next_deadline();
            prop_assert!(next.is_none_or(|next| next > solo.now));
            let status = solo.speaker.peers().next().unwrap();
            let table = solo.speaker.adj_rib_in(&b()).count();
            prop_assert_eq!(status.received, table);
            prop_assert_eq!(status.rejected, solo.speaker.rejected().count());
            if status.state != PeerState::Established && status.stale.is_empty() {
                prop_assert_eq!(table, 0);
            }
        }
    }
}
