//! What heals what: tables of situations.

use super::*;

#[path = "repair_tests.rs"]
mod repairs;

pub(crate) const BIND: Bind = Bind::IfId(0x5200_0007);

fn initiator() -> Wanted {
    Wanted {
        connection: "rm7-v2".into(),
        child: "new".into(),
        bind: BIND,
        initiate: true,
        site: "two".into(),
    }
}

fn responder() -> Wanted {
    Wanted {
        initiate: false,
        ..initiator()
    }
}

pub(crate) fn ike(unique_id: u32, state: IkeState, children: Vec<ChildSa>) -> IkeSa {
    IkeSa {
        connection: "rm7-v2".into(),
        unique_id,
        state,
        initiator: true,
        established: None,
        rekey_in: None,
        local_host: "2001:db8::1".into(),
        remote_host: "2001:db8::2".into(),
        remote_id: "v2".into(),
        nat: false,
        algorithms: String::new(),
        making_child: false,
        children,
    }
}

fn child(unique_id: u32, name: &str, state: ChildState) -> ChildSa {
    ChildSa {
        name: name.into(),
        unique_id,
        state,
        bind: Some(BIND),
        selectors: 2,
        remote: Vec::new(),
        spi_in: None,
        spi_out: None,
        bytes_in: 0,
        packets_in: 0,
        bytes_out: 0,
        packets_out: 0,
        installed: Some(Duration::ZERO),
        rekey_in: None,
        algorithms: String::new(),
        esp: None,
        iptfs: false,
    }
}

pub(crate) fn up(ike_id: u32, child_id: u32, name: &str) -> IkeSa {
    ike(
        ike_id,
        IkeState::Established,
        vec![child(child_id, name, ChildState::Installed)],
    )
}

fn connecting(unique_id: u32) -> IkeSa {
    ike(unique_id, IkeState::Connecting, vec![])
}

fn initiate() -> Action {
    Action::Initiate {
        connection: "rm7-v2".into(),
        child: "new".into(),
    }
}

fn terminate(unique_id: u32) -> Action {
    Action::Terminate { unique_id }
}

/// Where charon and the kernel agree.
fn agreed(connections: &[Wanted], sas: &[IkeSa], history: &History, now: Instant) -> Heal {
    wanted(connections, sas, &Audit::default(), history, now)
}

/// The situation stays the same from second to second: what is done in which one?
fn run(wanted_list: &[Wanted], sas: &[IkeSa], seconds: u64) -> Vec<(u64, Action)> {
    let start = Instant::now();
    let mut history = History::default();
    let mut done = Vec::new();
    for second in 0..=seconds {
        let heal = agreed(
            wanted_list,
            sas,
            &history,
            start + Duration::from_secs(second),
        );
        done.extend(heal.actions.into_iter().map(|action| (second, action)));
        history = heal.history;
    }
    done
}

/// The first thing that is done, and when.
fn first(wanted: &Wanted, sas: &[IkeSa]) -> Option<(u64, Action)> {
    run(std::slice::from_ref(wanted), sas, 120)
        .into_iter()
        .next()
}

#[test]
fn what_comes_first_in_each_situation() {
    let made = |ike: IkeSa| IkeSa {
        making_child: true,
        ..ike
    };
    let elsewhere = |ike: IkeSa| IkeSa {
        connection: "rm7-renamed".into(),
        ..ike
    };
    let unbound = {
        let mut sa = up(1, 1, "new");
        sa.children[0].bind = Some(Bind::Mark(0x5200_0007));
        sa
    };
    let two_children = {
        let mut sa = up(1, 2, "new");
        sa.children.push(child(1, "new", ChildState::Installed));
        sa
    };
    let empty = ike(1, IkeState::Established, vec![]);
    let closing = IkeSa {
        state: IkeState::Closing,
        ..up(1, 1, "new")
    };
    let rekeyed = ike(
        1,
        IkeState::Established,
        vec![child(1, "new", ChildState::Closing)],
    );
    let installing = ike(
        1,
        IkeState::Established,
        vec![child(1, "new", ChildState::Making)],
    );

    type Row = (
        &'static str,
        Vec<IkeSa>,
        Option<(u64, Action)>,
        Option<(u64, Action)>,
    );
    let child_1 = Action::TerminateChild { unique_id: 1 };
    let table: Vec<Row> = vec![
        (
            "nothing",
            vec![],
            Some((0, initiate())),
            Some((15, initiate())),
        ),
        ("all well", vec![up(1, 1, "new")], None, None),
        (
            "connecting",
            vec![connecting(1)],
            Some((10, terminate(1))),
            Some((10, terminate(1))),
        ),
        (
            "an IKE_SA without child",
            vec![empty.clone()],
            Some((0, initiate())),
            Some((15, initiate())),
        ),
        (
            "making the child",
            vec![made(empty.clone())],
            Some((10, terminate(1))),
            Some((10, terminate(1))),
        ),
        (
            "installing it",
            vec![installing],
            Some((10, terminate(1))),
            Some((10, terminate(1))),
        ),
        (
            "going down",
            vec![closing],
            Some((0, initiate())),
            Some((15, initiate())),
        ),
        (
            "child going down",
            vec![rekeyed],
            Some((0, initiate())),
            Some((15, initiate())),
        ),
        (
            "wrong interface",
            vec![unbound],
            Some((0, initiate())),
            Some((15, initiate())),
        ),
        (
            "changed",
            vec![up(1, 1, "old")],
            Some((2, initiate())),
            Some((17, initiate())),
        ),
        (
            "renamed",
            vec![elsewhere(up(1, 1, "new"))],
            Some((2, initiate())),
            Some((17, initiate())),
        ),
        (
            "two",
            vec![up(1, 1, "new"), up(2, 2, "new")],
            Some((5, terminate(1))),
            Some((60, terminate(1))),
        ),
        (
            "other order",
            vec![up(2, 2, "new"), up(1, 1, "new")],
            Some((5, terminate(1))),
            Some((60, terminate(1))),
        ),
        (
            "changed and made",
            vec![up(1, 1, "new"), up(2, 2, "old")],
            Some((5, terminate(2))),
            Some((60, terminate(2))),
        ),
        (
            "two children",
            vec![two_children],
            Some((5, child_1.clone())),
            Some((60, child_1)),
        ),
        (
            "one idle",
            vec![empty, up(2, 2, "new")],
            Some((5, terminate(1))),
            Some((60, terminate(1))),
        ),
        (
            "one connecting",
            vec![up(1, 1, "new"), connecting(2)],
            Some((10, terminate(2))),
            Some((10, terminate(2))),
        ),
        // Its retransmissions end by themselves, and it carries traffic until then.
        (
            "rekeying, and stuck",
            vec![made(up(1, 1, "new"))],
            None,
            None,
        ),
        (
            "changed, and stuck",
            vec![made(up(1, 1, "old"))],
            None,
            None,
        ),
    ];
    for (situation, sas, as_initiator, as_responder) in table {
        assert_eq!(
            first(&initiator(), &sas),
            as_initiator,
            "{situation}, initiator"
        );
        assert_eq!(
            first(&responder(), &sas),
            as_responder,
            "{situation}, responder"
        );
    }
}

#[test]
fn attempts_are_spaced_more_and_more() {
    let times: Vec<u64> = run(&[initiator()], &[], 130)
        .into_iter()
        .map(|(second, _)| second)
        .collect();
    assert_eq!(times, [0, 1, 3, 7, 15, 31, 61, 91, 121]);
}

#[test]
fn something_stuck_is_closed_and_then_made_again() {
    let now = Instant::now();
    let at = |seconds| now + Duration::from_secs(seconds);
    let first = agreed(&[initiator()], &[], &History::default(), now);
    assert_eq!(first.actions, [initiate()]);
    let second = agreed(&[initiator()], &[connecting(1)], &first.history, at(1));
    assert_eq!((second.actions.len(), second.again), (0, Some(at(11))));
    let third = agreed(&[initiator()], &[connecting(1)], &second.history, at(11));
    assert_eq!(
        (third.actions, third.again),
        (vec![terminate(1)], Some(at(11) + SOON))
    );
    let fourth = agreed(&[initiator()], &[], &third.history, at(11) + SOON);
    assert_eq!(fourth.actions, [initiate()]);
}

#[test]
fn a_peer_that_is_away_for_long_is_called_all_the_time() {
    let start = Instant::now();
    let (mut history, mut sas, mut initiated) = (History::default(), vec![], vec![]);
    for second in 0..300 {
        let heal = agreed(
            &[initiator()],
            &sas,
            &history,
            start + Duration::from_secs(second),
        );
        for action in heal.actions {
            match action {
                Action::Initiate { .. } => {
                    initiated.push(second);
                    sas = vec![connecting(second as u32)];
                }
                _ => sas.clear(),
            }
        }
        history = heal.history;
    }
    assert!(
        initiated.windows(2).all(|pair| pair[1] - pair[0] <= 12),
        "{initiated:?}"
    );
}

#[test]
fn spacing_ends_only_once_an_sa_has_lived_for_a_while() {
    let start = Instant::now();
    let mut history = History::default();
    let mut times = Vec::new();
    // It comes up for one second and goes down again, over and over.
    for second in 0..60 {
        let sas =
            if history.attempts.values().any(|(_, last)| {
                *last + Duration::from_secs(1) == start + Duration::from_secs(second)
            }) {
                vec![up(1, 1, "new")]
            } else {
                vec![]
            };
        let heal = agreed(
            &[initiator()],
            &sas,
            &history,
            start + Duration::from_secs(second),
        );
        if !heal.actions.is_empty() {
            times.push(second);
        }
        history = heal.history;
    }
    assert_eq!(times, [0, 2, 4, 8, 16, 32]);
    let mut old = up(1, 1, "new");
    old.children[0].installed = Some(SETTLED);
    let settled = agreed(
        &[initiator()],
        &[old],
        &history,
        start + Duration::from_secs(60),
    );
    assert_eq!(settled.history, History::default());
    let again = agreed(
        &[initiator()],
        &[],
        &settled.history,
        start + Duration::from_secs(60),
    );
    assert_eq!(again.actions, [initiate()]);
}

#[test]
fn what_belongs_to_no_connection_is_closed_at_once() {
    assert_eq!(run(&[], &[up(1, 1, "new")], 0), [(0, terminate(1))]);
    let closing = IkeSa {
        state: IkeState::Closing,
        ..up(1, 1, "new")
    };
    assert_eq!(run(&[], &[closing], 0), []);
}

#[test]
fn a_renamed_tunnel_keeps_its_old_sa_until_the_new_one_is_there() {
    let old = IkeSa {
        connection: "rm7-renamed".into(),
        ..up(1, 1, "other")
    };
    assert_eq!(
        run(&[initiator()], std::slice::from_ref(&old), 2),
        [(2, initiate())]
    );
    assert_eq!(
        run(&[initiator()], &[old, up(2, 2, "new")], 5),
        [(5, terminate(1))]
    );
}

#[test]
fn the_last_sa_that_works_is_never_closed() {
    // Every set of up to four SAs that serve the tunnel, in any state of currency, for ten minutes.
    let names = ["new", "old"];
    for count in 1..=4u32 {
        for pick in 0..1 << count {
            let sas: Vec<IkeSa> = (0..count)
                .map(|i| up(i / 2 + 1, i + 1, names[(pick >> i & 1) as usize]))
                .collect();
            // Two children of one IKE_SA are one entry with two children.
            let mut joined: Vec<IkeSa> = Vec::new();
            for sa in sas {
                match joined
                    .iter_mut()
                    .find(|other| other.unique_id == sa.unique_id)
                {
                    Some(other) => other.children.extend(sa.children),
                    None => joined.push(sa),
                }
            }
            for side in [initiator(), responder()] {
                let done = run(&[side], &joined, 600);
                let survives = joined.iter().any(|ike| {
                    !done
                        .iter()
                        .any(|(_, action)| *action == terminate(ike.unique_id))
                        && ike.children.iter().any(|child| {
                            let closed = Action::TerminateChild {
                                unique_id: child.unique_id,
                            };
                            !done.iter().any(|(_, action)| *action == closed)
                        })
                });
                assert!(survives, "{joined:?}: {done:?}");
            }
        }
    }
}

#[test]
fn history_forgets_what_is_gone() {
    let busy = agreed(
        &[initiator()],
        &[connecting(1)],
        &History::default(),
        Instant::now(),
    );
    assert_ne!(busy.history, History::default());
    let gone = agreed(&[], &[], &busy.history, Instant::now());
    assert_eq!(gone.history, History::default());
    assert_eq!(gone.again, None);
}

/// A second child of the same connection, with an interface of its own.
const SECOND: Bind = Bind::IfId(0x5200_0008);

fn second() -> Wanted {
    Wanted {
        child: "new.8".into(),
        bind: SECOND,
        ..initiator()
    }
}

fn second_child(unique_id: u32) -> ChildSa {
    ChildSa {
        bind: Some(SECOND),
        ..child(unique_id, "new.8", ChildState::Installed)
    }
}

#[test]
fn children_of_one_connection_are_made_and_closed_each_for_itself() {
    let both = [initiator(), second()];
    let with = |mut sa: IkeSa, child: ChildSa| {
        sa.children.push(child);
        sa
    };
    let initiate_second = Action::Initiate {
        connection: "rm7-v2".into(),
        child: "new.8".into(),
    };
    let done = |sas: &[IkeSa], seconds| run(&both, sas, seconds);
    assert_eq!(done(&[up(1, 1, "new")], 0), [(0, initiate_second)]);
    let lone = ike(1, IkeState::Established, vec![second_child(2)]);
    assert_eq!(done(&[lone], 0), [(0, initiate())]);
    let whole = with(up(1, 1, "new"), second_child(2));
    assert_eq!(done(std::slice::from_ref(&whole), 120), []);
    // What one of them has twice goes, and takes nothing of the other with it.
    let twice = [whole, up(2, 3, "new")];
    let gone = Action::TerminateChild { unique_id: 1 };
    assert_eq!(done(&twice, 5), [(5, gone)]);
    // One of them starts, and the other waits for its IKE_SA.
    assert_eq!(done(&[], 0), [(0, initiate())]);
    assert_eq!(done(&[connecting(1)], 9), []);
}

#[test]
fn what_belongs_to_an_interface_that_is_wanted_no_more_is_closed_and_the_rest_stays() {
    let of = |unique_id, bind, state| ChildSa {
        bind,
        ..child(unique_id, "old", state)
    };
    let installed = ChildState::Installed;
    let mut sa = up(1, 1, "new");
    sa.children.extend([
        of(2, Some(Bind::IfId(0x5200_0009)), installed),
        of(3, Some(Bind::IfId(0x5200_0009)), ChildState::Closing),
        of(4, Some(Bind::IfId(9)), installed),
        of(5, None, installed),
    ]);
    let close = Action::TerminateChild { unique_id: 2 };
    for wanted in [initiator(), responder()] {
        assert_eq!(
            first(&wanted, std::slice::from_ref(&sa)),
            Some((0, close.clone()))
        );
    }
    let both = Wanted {
        bind: Bind::IfId(0x5200_0009),
        child: "old".into(),
        ..initiator()
    };
    assert_eq!(run(&[initiator(), both], &[sa], 60), []);
}
