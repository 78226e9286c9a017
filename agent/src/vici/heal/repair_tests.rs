//! What is done where charon and the kernel do not agree, and when traffic is to leave.

use super::*;

/// What is done while charon and the kernel do not agree, as `audit` has it, by quarters of a second.
fn disagreeing(side: &Wanted, sas: &[IkeSa], audit: &Audit, seconds: u64) -> Vec<(u64, Action)> {
    let start = Instant::now();
    let mut history = History::default();
    let (mut done, mut repaired) = (Vec::new(), 0);
    for quarter in 0..=4 * seconds {
        let now = start + Duration::from_millis(250 * quarter);
        let heal = wanted(std::slice::from_ref(side), sas, audit, &history, now);
        repaired += heal.repaired.len();
        // Told once, however often it is tried.
        assert!(repaired == 1 || !heal.actions.contains(&initiate()));
        let fresh = heal.actions.into_iter().map(|it| (250 * quarter, it));
        done.extend(fresh);
        history = heal.history;
    }
    done
}

fn orphan(spi: u32) -> Sa {
    let [here, there] = ["2001:db8::1", "2001:db8::2"].map(|it| it.parse().unwrap());
    Sa::new(here, there, spi, 1, Some(BIND.number()))
}

#[test]
fn a_charon_that_forgot_makes_an_sa_on_either_side_once_traffic_had_time_to_leave() {
    let forgot = Audit {
        orphans: [(BIND.number(), vec![orphan(1)])].into(),
        ..Audit::default()
    };
    for side in [initiator(), responder()] {
        for sas in [&[][..], &[up(1, 1, "old")]] {
            let done = disagreeing(&side, sas, &forgot, 2);
            assert_eq!(done, [(1500, initiate())]);
        }
        // Not before there is another, which is in use.
        assert_eq!(
            disagreeing(&side, &[up(1, 1, "new")], &forgot, 5),
            [(5000, Action::Clear(orphan(1)))]
        );
    }
}

#[test]
fn traffic_leaves_from_the_first_suspicion_until_there_is_an_sa() {
    let now = Instant::now();
    let doubtful = Audit {
        doubtful: [BIND.number()].into(),
        ..Audit::default()
    };
    let look = |sas: &[IkeSa], audit: &Audit| {
        let heal = wanted(&[initiator()], sas, audit, &History::default(), now);
        (heal.yielding.contains("rm7-v2"), heal.actions, heal.again)
    };
    assert_eq!(look(&[], &doubtful), (true, vec![], Some(now + YIELD)));
    assert!(look(&[connecting(1)], &doubtful).0);
    assert_eq!(look(&[up(1, 1, "new")], &doubtful), (false, vec![], None));
    // A change that is made beside the old one; the side that answers loses nothing by it.
    let agreed = Audit::default();
    assert!(look(&[up(1, 1, "old")], &agreed).0);
    let answers = wanted(
        &[responder()],
        &[up(1, 1, "old")],
        &agreed,
        &History::default(),
        now,
    );
    assert_eq!(answers.yielding.len(), 0);
    // A peer that does not answer is not avoided for ever.
    let history = wanted(&[initiator()], &[], &doubtful, &History::default(), now).history;
    let late = wanted(&[initiator()], &[], &doubtful, &history, now + STUCK);
    assert_eq!((late.yielding.len(), late.actions), (0, vec![initiate()]));
    // A mistake delays nothing.
    let mistaken = look(&[], &Audit::default());
    assert_eq!((mistaken.0, mistaken.1), (false, vec![initiate()]));
}

#[test]
fn what_an_unwanted_tunnel_left_goes_in_time() {
    let left = Audit {
        orphans: [(BIND.number() + 1, vec![orphan(1), orphan(2)])].into(),
        ..Audit::default()
    };
    let clear = [1, 2].map(|spi| (5000, Action::Clear(orphan(spi))));
    assert_eq!(
        disagreeing(&initiator(), &[up(1, 1, "new")], &left, 5),
        clear
    );
}

fn terminate_child(unique_id: u32) -> Action {
    Action::TerminateChild { unique_id }
}

#[test]
fn broken_sas_are_closed_at_once_on_either_side_and_made_anew_as_always() {
    let broken = |numbers: &[u32]| Audit {
        broken: numbers.iter().copied().collect(),
        ..Audit::default()
    };
    let two = [up(1, 1, "new"), up(2, 2, "new")];
    for (side, waits, patience) in [(initiator(), 0, 5), (responder(), 15, 60)] {
        let now = Instant::now();
        let look = |audit: &Audit, sas: &[IkeSa], history: &History| {
            wanted(std::slice::from_ref(&side), sas, audit, history, now)
        };
        let found = look(&broken(&[1]), &two[..1], &History::default());
        assert_eq!(found.actions, [terminate_child(1)]);
        assert_eq!(found.repaired.len(), 1);
        // It is there for a moment more, and counts once.
        let still = look(&broken(&[1]), &two[..1], &found.history);
        assert_eq!(still.repaired.len(), 0);
        let empty = ike(1, IkeState::Established, vec![]);
        let gone = look(&broken(&[]), &[empty], &still.history);
        assert_eq!(gone.repaired.len(), 0);
        match waits {
            0 => assert_eq!(gone.actions, [initiate()]),
            _ => assert_eq!(gone.again, Some(now + Duration::from_secs(waits))),
        }
        assert_eq!(
            look(&broken(&[1, 2]), &two, &History::default()).actions,
            [terminate_child(1), terminate_child(2)]
        );
        // Where one is whole, the other goes like any duplicate. Which is newer does not matter.
        for number in [1, 2] {
            assert_eq!(
                disagreeing(&side, &two, &broken(&[number]), patience),
                [(1000 * patience, terminate(number))]
            );
        }
    }
}

#[test]
fn what_somebody_breaks_again_and_again_is_made_anew_less_and_less_often() {
    let broken = Audit {
        broken: [1].into(),
        ..Audit::default()
    };
    let start = Instant::now();
    let (mut history, mut sas, mut times) = (History::default(), vec![], vec![]);
    for second in 0..60 {
        let now = start + Duration::from_secs(second);
        let audit = match sas.is_empty() {
            true => Audit::default(),
            false => broken.clone(),
        };
        let heal = wanted(&[initiator()], &sas, &audit, &history, now);
        for action in heal.actions {
            sas.clear();
            if action == initiate() {
                times.push(second);
                sas.push(up(1, 1, "new"));
            }
        }
        history = heal.history;
    }
    assert_eq!(times, [0, 2, 4, 8, 16, 32]);
}

#[test]
fn what_does_not_go_is_not_closed_again_and_again() {
    let broken = Audit {
        broken: [1].into(),
        ..Audit::default()
    };
    for side in [initiator(), responder()] {
        // Another exchange is under way, which the peer does not answer.
        assert_eq!(
            disagreeing(&side, &[up(1, 1, "new")], &broken, 25),
            [
                (0, terminate_child(1)),
                (10_000, terminate(1)),
                (20_000, terminate(1))
            ]
        );
    }
    let two = [up(1, 1, "new"), up(2, 2, "new")];
    let closed = |second: u64| (1000 * second, terminate(1));
    assert_eq!(
        disagreeing(&initiator(), &two, &Audit::default(), 30),
        [5, 15, 25].map(closed)
    );
}

/// Tunnels to site two, changed at once: when traffic leaves which, by seconds. Each is made anew
/// in `takes` seconds from its attempt.
fn changed(count: u32, takes: Option<u64>, seconds: u64) -> Vec<Vec<u32>> {
    let start = Instant::now();
    let bind = |number| Bind::IfId(0x5200_0000 + number);
    let tunnels: Vec<Wanted> = (1..=count)
        .map(|number| Wanted {
            connection: format!("rm{number}-v2"),
            bind: bind(number),
            ..initiator()
        })
        .collect();
    let elsewhere = Wanted {
        connection: "rm99-v3".into(),
        bind: bind(99),
        site: "three".into(),
        ..initiator()
    };
    let tunnels = [tunnels, vec![elsewhere]].concat();
    let mut history = History::default();
    let mut made = BTreeMap::new();
    let (mut yielding, mut seen) = (BTreeSet::new(), Vec::new());
    for quarter in 0..4 * seconds {
        let now = start + Duration::from_millis(250 * quarter);
        let sas: Vec<IkeSa> = (1..)
            .zip(&tunnels)
            .map(|(id, it)| {
                let done = made.get(&it.connection).is_some_and(|at| *at <= now);
                let mut sa = up(id, id, if done { "new" } else { "old" });
                sa.connection.clone_from(&it.connection);
                sa.children[0].bind = Some(it.bind);
                sa
            })
            .collect();
        let heal = agreed(&tunnels, &sas, &history, now);
        for action in heal.actions {
            if let (Action::Initiate { connection, .. }, Some(takes)) = (action, takes) {
                // BGP had its time, and it has not come back meanwhile.
                assert!(heal.yielding.contains(&connection) && yielding.contains(&connection));
                made.insert(connection, now + Duration::from_secs(takes));
            }
        }
        yielding = heal.yielding;
        if quarter % 4 == 0 {
            let number = |name: &String| vici_number(name);
            seen.push(yielding.iter().map(number).collect());
        }
        history = heal.history;
    }
    seen
}

fn vici_number(connection: &str) -> u32 {
    let digits = connection.trim_start_matches("rm");
    digits.split('-').next().unwrap().parse().unwrap()
}

#[test]
fn traffic_leaves_half_of_the_tunnels_to_a_site_at_a_time() {
    // A change of all, each made 1.5 s after its turn and another later: what is left from turn to turn.
    let table: [(u32, &[&[u32]]); 5] = [
        (1, &[&[1, 99]]),
        (2, &[&[1, 99], &[2]]),
        (3, &[&[1, 99], &[2], &[3]]),
        (4, &[&[1, 2, 99], &[3, 4]]),
        (5, &[&[1, 2, 99], &[3, 4], &[5]]),
    ];
    for (count, turns) in table {
        let mut seen = changed(count, Some(1), 60);
        seen.retain(|it| !it.is_empty());
        seen.dedup();
        assert_eq!(seen, turns, "{count}");
    }
    // Peers that cannot do it yet: each has its turn, and that ends.
    let seen = changed(10, None, 60);
    let began = |number| seen.iter().position(|it| it.contains(&number));
    let ended = |number| seen.iter().rposition(|it| it.contains(&number));
    for number in 1..=5 {
        assert_eq!(
            (began(number), ended(number)),
            (Some(0), Some(9)),
            "{number}"
        );
    }
    for number in 6..=10 {
        assert_eq!(began(number), Some(10), "{number}");
    }
    let seen = changed(3, None, 60);
    let began: Vec<_> = (1..=3)
        .map(|n| seen.iter().position(|it| it.contains(&n)))
        .collect();
    assert_eq!(
        began,
        [0, 10, 15].map(Some),
        "nobody waits for longer than that"
    );
}
