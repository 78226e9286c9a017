use super::*;
use proptest::prelude::*;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const FAST: Timers = Timers {
    interval: ms(300),
    multiplier: 3,
};
/// A packet in the middle of what is allowed.
const CHANCE: u64 = 32;
const STATES: [State; 4] = [State::AdminDown, State::Down, State::Init, State::Up];

fn session(timers: Timers, number: u32) -> Session {
    Session::new(timers, NonZeroU32::new(number).unwrap())
}

/// What a peer with the same timers says to session 1.
fn said(state: State) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: NonZeroU32::new(2).unwrap(),
        your_discriminator: 1,
        desired_min_tx: 300_000,
        required_min_rx: 300_000,
        required_min_echo_rx: 0,
    }
}

fn in_state(state: State) -> Session {
    let mut session = session(FAST, 1);
    let hears: &[State] = match state {
        State::Down | State::AdminDown => &[],
        State::Init => &[State::Down],
        State::Up => &[State::Down, State::Up],
    };
    for state in hears {
        session.receive(&said(*state), ms(0));
    }
    if state == State::AdminDown {
        session.shut();
    }
    drain(&mut session, ms(0));
    assert_eq!(session.state(), state);
    session
}

fn drain(session: &mut Session, now: Time) -> Vec<Packet> {
    std::iter::from_fn(|| session.transmit(now, CHANCE)).collect()
}

/// Section 6.8.6, for every state and every received state, and what is then sent at once.
#[test]
fn every_state_against_every_received_state() {
    use State::{AdminDown, Down, Init, Up};
    let table = [
        (AdminDown, [AdminDown, AdminDown, AdminDown, AdminDown]),
        (Down, [Down, Init, Up, Down]),
        (Init, [Down, Init, Up, Up]),
        (Up, [Down, Down, Up, Up]),
    ];
    for (before, after) in table {
        for (theirs, expected) in STATES.into_iter().zip(after) {
            let mut session = in_state(before);
            let change = session.receive(&said(theirs), ms(1));
            let context = format!("{before}, hearing {theirs}");
            assert_eq!(session.state(), expected, "{context}");
            let change = change.map(|change| (change.from, change.to));
            let moved = before != expected;
            assert_eq!(change, moved.then_some((before, expected)), "{context}");
            if moved && expected == Down {
                assert_eq!(session.diagnostic(), Diagnostic::NEIGHBOR_DOWN, "{context}");
            }
            let sent = drain(&mut session, ms(1));
            assert_eq!(sent.len(), usize::from(moved), "{context}: news go at once");
            assert!(sent.iter().all(|packet| packet.state == expected));
        }
    }
}

#[test]
fn silence_takes_a_session_down_after_the_detection_time_and_not_before() {
    for state in STATES {
        let mut session = in_state(state);
        let detection_time = session.negotiated().detection_time;
        let heard = matches!(state, State::Init | State::Up);
        assert_eq!(
            detection_time,
            if heard { ms(900) } else { ms(0) },
            "{state}"
        );
        assert_eq!(session.timeout(ms(899)), None, "{state}");
        let change = session.timeout(ms(900));
        let down = Change {
            from: state,
            to: State::Down,
            cause: Cause::Silence,
            independent: false,
        };
        assert_eq!(change, heard.then_some(down), "{state}");
        if heard {
            assert_eq!(session.diagnostic(), Diagnostic::TIME_EXPIRED);
            // Whose session it was is not known any more.
            let sent = drain(&mut session, ms(900));
            assert_eq!(sent[0].your_discriminator, 0);
            assert_eq!(sent[0].desired_min_tx, SLOW);
        }
    }
}

#[test]
fn a_discriminator_is_forgotten_in_silence_whatever_the_state() {
    let mut session = in_state(State::Up);
    session.receive(&said(State::Down), ms(10));
    assert_eq!(drain(&mut session, ms(10))[0].your_discriminator, 2);
    assert_eq!(session.timeout(ms(910)), None, "it was down already");
    assert_eq!(drain(&mut session, ms(2000))[0].your_discriminator, 0);
}

#[test]
fn what_is_for_another_session_changes_nothing() {
    let mut session = in_state(State::Up);
    let stranger = Packet {
        your_discriminator: 7,
        ..said(State::Down)
    };
    assert_eq!(session.receive(&stranger, ms(800)), None);
    assert!(session.timeout(ms(900)).is_some(), "it is no sign of life");
}

#[test]
fn nobody_is_fast_before_up_and_a_poll_tells_of_the_speed() {
    let mut session = session(FAST, 1);
    let first = session.transmit(ms(0), CHANCE).unwrap();
    assert_eq!((first.desired_min_tx, first.poll), (SLOW, false));
    let slow = session.deadline().unwrap();
    assert!((ms(750)..=ms(1000)).contains(&slow), "{slow:?}");

    session.receive(&said(State::Init), ms(5));
    let up = session.transmit(ms(5), CHANCE).unwrap();
    assert_eq!((up.desired_min_tx, up.poll), (300_000, true));
    let next = session.deadline().unwrap() - ms(5);
    assert!((ms(225)..=ms(300)).contains(&next), "{next:?}");
    let again = session.transmit(ms(305), CHANCE).unwrap();
    assert!(again.poll, "until it is answered");

    let answer = Packet {
        is_final: true,
        ..said(State::Up)
    };
    session.receive(&answer, ms(310));
    assert!(!session.transmit(ms(700), CHANCE).unwrap().poll);
}

#[test]
fn a_poll_is_answered_at_once_and_the_answer_does_not_poll() {
    for state in [State::Down, State::Init, State::Up] {
        let mut session = in_state(state);
        let poll = Packet {
            poll: true,
            ..said(state)
        };
        session.receive(&poll, ms(1));
        assert_eq!(session.deadline(), Some(Time::ZERO));
        let sent = drain(&mut session, ms(1));
        assert!(sent[0].is_final && !sent[0].poll, "{state}");
        assert_eq!(sent.iter().filter(|packet| packet.is_final).count(), 1);
    }
}

#[test]
fn timers_that_would_surprise_the_other_end_wait_for_its_word() {
    let mut session = in_state(State::Up);
    let answer = Packet {
        is_final: true,
        desired_min_tx: 10_000,
        required_min_rx: 10_000,
        ..said(State::Up)
    };
    session.receive(&answer, ms(1));
    drain(&mut session, ms(1));
    let negotiated = |session: &Session| {
        let Negotiated {
            interval,
            detection_time,
        } = session.negotiated();
        (interval, detection_time)
    };
    assert_eq!(negotiated(&session), (ms(300), ms(900)));
    // Faster: we send so at once, and expect it only when it is known there.
    let with = |interval| Timers {
        interval,
        multiplier: 3,
    };
    session.configure(with(ms(50)));
    assert_eq!(negotiated(&session), (ms(50), ms(900)));
    assert!(session.transmit(ms(2), CHANCE).unwrap().poll);
    session.receive(&answer, ms(3));
    assert_eq!(negotiated(&session), (ms(50), ms(150)));
    // Slower: the other way round.
    session.configure(with(ms(1000)));
    assert_eq!(negotiated(&session), (ms(50), ms(3000)));
    assert!(session.transmit(ms(4), CHANCE).unwrap().poll);
    session.receive(&answer, ms(5));
    assert_eq!(negotiated(&session), (ms(1000), ms(3000)));
    assert_eq!(session.state(), State::Up);
}

#[test]
fn the_slower_of_both_ends_decides() {
    let mut session = in_state(State::Up);
    let slow = Packet {
        desired_min_tx: 700_000,
        required_min_rx: 500_000,
        multiplier: 5,
        ..said(State::Up)
    };
    session.receive(&slow, ms(1));
    let expected = Negotiated {
        interval: ms(500),
        detection_time: ms(3500),
    };
    assert_eq!(session.negotiated(), expected);
}

#[test]
fn who_wants_nothing_gets_nothing_but_answers() {
    let silent = [
        Packet {
            required_min_rx: 0,
            ..said(State::Up)
        },
        Packet {
            demand: true,
            is_final: true,
            ..said(State::Up)
        },
    ];
    for packet in silent {
        let mut session = in_state(State::Up);
        session.receive(&packet, ms(1));
        assert_eq!(session.transmit(ms(800), CHANCE), None);
        assert_eq!(session.deadline(), Some(ms(901)), "silence still counts");
        let poll = Packet {
            poll: true,
            ..packet
        };
        session.receive(&poll, ms(1));
        assert!(session.transmit(ms(1), CHANCE).unwrap().is_final);
        session.receive(&said(State::Up), ms(1));
        assert!(session.transmit(ms(800), CHANCE).is_some());
    }
}

#[test]
fn an_operators_word_is_told_and_nothing_is_heard() {
    let mut session = in_state(State::Up);
    session.shut();
    let last = session.transmit(ms(1), CHANCE).unwrap();
    assert_eq!(last.state, State::AdminDown);
    assert_eq!(last.diagnostic, Diagnostic::ADMINISTRATIVELY_DOWN);
    assert_eq!(last.your_discriminator, 2);
}

proptest! {
    #[test]
    fn jitter_stays_within_its_bounds(
        chances in prop::collection::vec(any::<u64>(), 20), multiplier in 1u8..=20,
    ) {
        let timers = Timers { interval: ms(300), multiplier };
        let mut session = Session::new(timers, NonZeroU32::MIN);
        session.receive(&said(State::Down), ms(0));
        session.receive(&said(State::Up), ms(0));
        session.receive(&Packet { desired_min_tx: 3_000_000, ..said(State::Up) }, ms(0));
        let mut now = ms(0);
        drain(&mut session, now);
        for (n, chance) in chances.into_iter().enumerate() {
            let due = session.deadline().unwrap();
            let most = if multiplier == 1 { ms(270) } else { ms(300) };
            prop_assert!((ms(225)..=most).contains(&(due - now)), "{:?}", due - now);
            let earliest = now + ms(225);
            prop_assert_eq!(session.transmit(earliest - Duration::from_micros(1), chance), None);
            // When it is due, or with others that are.
            now = if n % 3 == 0 { earliest } else { due };
            prop_assert!(session.transmit(now, chance).is_some());
        }
    }

    /// Whatever comes: no panic, no packet that no receiver would take, and no flood.
    #[test]
    fn anything_may_come(
        bytes in prop::collection::vec(prop::collection::vec(any::<u8>(), 24..26), 1..60),
        fixed: bool,
    ) {
        let mut session = session(FAST, 1);
        let (mut now, mut sent, mut heard) = (ms(0), 0, 0);
        for mut bytes in bytes {
            if fixed {
                (bytes[0], bytes[3]) = (0x20 | bytes[0] & 0x1f, 24);
                bytes[1] &= !5;
                bytes[4] |= 1;
                bytes[8..12].copy_from_slice(&[0, 0, 0, 1]);
            }
            now += ms(u64::from(bytes[23]));
            if let Ok(packet) = Packet::decode(&bytes) {
                heard += 1;
                session.receive(&packet, now);
            }
            session.timeout(now);
            for packet in drain(&mut session, now) {
                sent += 1;
                prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
                prop_assert!(!(packet.poll && packet.is_final));
            }
            prop_assert!(session.deadline().is_none_or(|due| due > now));
        }
        let periodic = usize::try_from(now.as_millis() / 225).unwrap();
        prop_assert!(sent <= periodic + 2 * heard + 2, "{} sent, {} heard", sent, heard);
    }
}

/// Two ends and what is on its way between them, in one direction each.
struct Link {
    ends: [Session; 2],
    timers: [Timers; 2],
    wires: [Vec<(Time, Packet)>; 2],
    now: Time,
    delay: Duration,
    /// Per direction, out of 100.
    loss: [u64; 2],
    seed: u64,
    /// Who went down when.
    downs: Vec<(usize, Time)>,
    /// The last time anything went over each direction.
    last: [Time; 2],
}

impl Link {
    fn new(timers: [Timers; 2], delay: Duration, seed: u64) -> Self {
        Self {
            ends: [session(timers[0], 1), session(timers[1], 2)],
            timers,
            wires: [Vec::new(), Vec::new()],
            now: ms(0),
            delay,
            loss: [0, 0],
            seed: seed | 1,
            downs: Vec::new(),
            last: [ms(0), ms(0)],
        }
    }

    fn lost(&mut self, from: usize) -> bool {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005) + 1442;
        (self.seed >> 33) % 100 < self.loss[from]
    }

    fn run(&mut self, until: Time) {
        loop {
            let deadlines = self.ends.iter().filter_map(Session::deadline);
            let arrivals = self.wires.iter().flatten().map(|(at, _)| *at);
            let next = deadlines
                .chain(arrivals)
                .min()
                .unwrap_or(until)
                .max(self.now);
            if next > until {
                self.now = until;
                return;
            }
            self.now = next;
            for end in 0..2 {
                self.step(end);
            }
        }
    }

    fn step(&mut self, end: usize) {
        let (now, mut changes) = (self.now, Vec::new());
        let wire = std::mem::take(&mut self.wires[1 - end]);
        for (at, packet) in wire {
            match at <= now {
                true => changes.extend(self.ends[end].receive(&packet, now)),
                false => self.wires[1 - end].push((at, packet)),
            }
        }
        changes.extend(self.ends[end].timeout(now));
        let down = changes.iter().filter(|change| change.to == State::Down);
        self.downs.extend(down.map(|_| (end, now)));
        let chance = self.seed >> 33;
        let ours = &mut self.ends[end];
        let packets = std::iter::from_fn(|| ours.transmit(now, chance));
        for packet in packets.collect::<Vec<_>>() {
            if !self.lost(end) {
                self.last[end] = now + self.delay;
                self.wires[end].push((now + self.delay, packet));
            }
        }
    }

    fn up(&self) -> [bool; 2] {
        [0, 1].map(|end| self.ends[end].state() == State::Up)
    }
}

fn timers() -> impl Strategy<Value = Timers> {
    (50u64..1000, 2u8..6).prop_map(|(interval, multiplier)| Timers {
        interval: ms(interval),
        multiplier,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn two_ends_come_up_stay_up_and_notice_the_end_in_time(
        a in timers(), b in timers(), delay in 0u64..20, seed: u64, noise in 0u64..40,
    ) {
        let mut link = Link::new([a, b], ms(delay), seed);
        // Whatever happens in the beginning,
        link.loss = [noise, noise];
        link.run(ms(10_000));
        link.loss = [0, 0];
        link.run(ms(25_000));
        prop_assert_eq!(link.up(), [true, true]);
        // both are told of each other's timers, and nothing goes wrong while nothing is lost.
        let slower = a.interval.max(b.interval);
        for end in 0..2 {
            let negotiated = link.ends[end].negotiated();
            prop_assert_eq!(negotiated.interval, slower);
            let multiplier = link.timers[1 - end].multiplier;
            prop_assert_eq!(negotiated.detection_time, slower * multiplier.into());
        }
        link.downs.clear();
        link.run(ms(60_000));
        prop_assert_eq!(&link.downs, &Vec::new());
        // Silence is noticed by both, not before the detection time, and not after.
        link.loss = [100, 100];
        link.run(ms(90_000));
        prop_assert_eq!(link.downs.len(), 2);
        for (end, at) in &link.downs {
            let detection_time = slower * link.timers[1 - end].multiplier.into();
            prop_assert_eq!(*at, link.last[1 - end] + detection_time);
        }
        link.loss = [0, 0];
        link.run(ms(100_000));
        prop_assert_eq!(link.up(), [true, true]);
    }

    #[test]
    fn what_goes_one_way_only_is_down_at_both_ends(
        a in timers(), b in timers(), seed: u64, silent in 0usize..2,
    ) {
        let mut link = Link::new([a, b], ms(5), seed);
        link.run(ms(10_000));
        prop_assert_eq!(link.up(), [true, true]);
        link.loss[silent] = 100;
        link.run(ms(20_000));
        prop_assert_eq!(link.up(), [false, false]);
        // It stays so for as long as that is so.
        link.downs.clear();
        link.run(ms(60_000));
        prop_assert_eq!(link.up(), [false, false]);
        link.loss[silent] = 0;
        link.run(ms(75_000));
        prop_assert_eq!(link.up(), [true, true]);
    }
}
