//! All sessions: whose a packet is, and what is due. Pure.

use super::{Report, Reports, Target};
use routemesh_bfd::{Change, Packet, Session, State};
use routemesh_bgp::PeerId;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

/// What who goes says so many times, since none of it is acknowledged.
const GOODBYES: usize = 3;
/// So many packets go together though not all of them are due: fewer wake-ups, but no bursts.
const TOGETHER: usize = 64;

/// The sessions, by peer.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: BTreeMap<PeerId, Entry>,
    by_discriminator: BTreeMap<u32, PeerId>,
    /// By the other end's address and the interface's index.
    by_source: BTreeMap<(IpAddr, u32), PeerId>,
    seed: u64,
    /// Reports are not as they were.
    news: bool,
}

#[derive(Debug)]
struct Entry {
    target: Target,
    session: Session,
    report: Report,
}

/// A packet to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) packet: Packet,
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
    /// Index of the interface.
    pub(super) index: u32,
}

/// Where a packet came from, with a TTL of 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Index of the interface.
    pub(super) index: u32,
}

impl Sessions {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// Makes these all there are; what who goes is to be told comes back.
    pub(super) fn configure(
        &mut self,
        mut targets: BTreeMap<PeerId, Target>,
        now: Duration,
    ) -> Vec<Outgoing> {
        let mut goodbyes = Vec::new();
        let mut kept = BTreeMap::new();
        for (peer, mut entry) in std::mem::take(&mut self.all) {
            let before = &entry.target;
            let ends = |it: &Target| (it.local, it.remote, it.link.clone());
            match targets.remove(&peer) {
                Some(target) if ends(before) == ends(&target) => {
                    entry.session.configure(target.timers);
                    entry.target = target;
                    drop(kept.insert(peer, entry));
                }
                changed => {
                    goodbyes.extend(entry.goodbye(now));
                    targets.extend(changed.map(|target| (peer, target)));
                }
            }
        }
        self.all = kept;
        for (peer, target) in targets {
            let discriminator = self.discriminator();
            let session = Session::new(target.timers, discriminator);
            let report = Report {
                state: session.state(),
                remote_state: session.remote_state(),
                since: now,
                negotiated: session.negotiated(),
                diagnostic: session.diagnostic(),
                downs: 0,
                last_down: None,
                problem: None,
            };
            let entry = Entry {
                target,
                session,
                report,
            };
            self.all.insert(peer, entry);
        }
        self.news = true;
        self.index();
        goodbyes
    }

    /// Takes leave of everybody.
    pub(super) fn stop(&mut self, now: Duration) -> Vec<Outgoing> {
        self.configure(BTreeMap::new(), now)
    }

    fn index(&mut self) {
        self.by_discriminator.clear();
        self.by_source.clear();
        for (peer, entry) in &self.all {
            let discriminator = entry.session.discriminator().get();
            self.by_discriminator.insert(discriminator, peer.clone());
            let source = (entry.target.remote, entry.target.index);
            self.by_source.insert(source, peer.clone());
        }
    }

    /// A packet has come. It is of the session that it names, or, where it names none, of the one with
    /// its sender (RFC 5880 section 6.3, RFC 5881 section 3); in both cases only over the session's
    /// own interface and between its addresses, so that nobody on another link can speak for a peer.
    pub(super) fn receive(&mut self, packet: &Packet, origin: Origin, now: Duration) {
        let peer = match packet.your_discriminator {
            0 => self.by_source.get(&(origin.source, origin.index)),
            named => self.by_discriminator.get(&named),
        };
        let Some(entry) = peer.and_then(|peer| self.all.get_mut(peer)) else {
            return;
        };
        let ends = (entry.target.remote, entry.target.local, entry.target.index);
        if ends == (origin.source, origin.destination, origin.index) {
            let change = entry.session.receive(packet, now);
            self.news |= entry.note(change, now);
        }
    }

    /// Does what is due, and says what is to be sent. With what is due goes what may go already. Packets
    /// that go together have the next one due together as well: jitter is there so that no two
    /// systems march in step (RFC 5880 section 6.8.7), and for that each system needs one of its own.
    pub(super) fn due(&mut self, now: Duration, out: &mut Vec<(PeerId, Outgoing)>) {
        if self.deadline().is_none_or(|due| due > now) {
            return;
        }
        let mut chance = random(&mut self.seed);
        for (peer, entry) in &mut self.all {
            let due = entry.session.deadline().is_some_and(|due| due <= now);
            if !due && out.len() >= TOGETHER {
                continue;
            }
            let change = entry.session.timeout(now);
            self.news |= entry.note(change, now);
            while let Some(packet) = entry.session.transmit(now, chance) {
                if entry.target.index != 0 {
                    out.push((peer.clone(), entry.outgoing(packet)));
                    if out.len().is_multiple_of(TOGETHER) {
                        chance = random(&mut self.seed);
                    }
                }
            }
        }
    }

    /// How it went with a packet that was to be sent.
    pub(super) fn sent(&mut self, peer: &PeerId, problem: Option<String>) {
        if let Some(entry) = self.all.get_mut(peer) {
            self.news |= entry.report.problem != problem;
            entry.report.problem = problem;
        }
    }

    /// When [`Sessions::due`] has something to do.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let entries = self.all.values();
        entries.filter_map(|entry| entry.session.deadline()).min()
    }

    /// Somebody's word that it is up is waited for: then ours is up as well.
    pub(super) fn expectant(&self) -> bool {
        let mut entries = self.all.values();
        entries.any(|entry| entry.session.state() == State::Init)
    }

    /// All sessions as they are now. `problem` is everybody's.
    pub(super) fn reports(&self, problem: Option<&str>) -> Reports {
        let report = |(peer, entry): (&PeerId, &Entry)| {
            let mut report = entry.report.clone();
            let missing = || format!("there is no interface {}", entry.target.link);
            let missing = (entry.target.index == 0).then(missing);
            report.problem = problem.map(str::to_owned).or(missing).or(report.problem);
            (peer.clone(), report)
        };
        self.all.iter().map(report).collect()
    }

    /// Whether there is something new to report since this was last asked.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    fn discriminator(&mut self) -> NonZeroU32 {
        let taken = |sessions: &Self, number: u32| {
            let mut entries = sessions.all.values();
            entries.any(|entry| entry.session.discriminator().get() == number)
        };
        loop {
            // Nobody shall guess it (RFC 5880 section 9).
            let number = (random(&mut self.seed) >> 32) as u32;
            if let Some(number) = NonZeroU32::new(number)
                && !taken(self, number.get())
            {
                return number;
            }
        }
    }
}

/// SplitMix64.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Entry {
    /// Keeps the report true; whether that took a change.
    fn note(&mut self, change: Option<Change>, now: Duration) -> bool {
        if let Some(change) = change {
            self.report.since = now;
            if change.from == State::Up {
                self.report.downs += 1;
                self.report.last_down = Some(change);
            }
        }
        let (remote_state, negotiated) = (self.session.remote_state(), self.session.negotiated());
        let before = (self.report.remote_state, self.report.negotiated);
        self.report.state = self.session.state();
        self.report.diagnostic = self.session.diagnostic();
        (self.report.remote_state, self.report.negotiated) = (remote_state, negotiated);
        change.is_some() || before != (remote_state, negotiated)
    }

    fn outgoing(&self, packet: Packet) -> Outgoing {
        Outgoing {
            packet,
            local: self.target.local,
            remote: self.target.remote,
            index: self.target.index,
        }
    }

    fn goodbye(&mut self, now: Duration) -> Vec<Outgoing> {
        self.session.shut();
        let last = self
            .session
            .transmit(now, 0)
            .filter(|_| self.target.index != 0);
        let last = last.map(|packet| self.outgoing(packet));
        last.into_iter().cycle().take(GOODBYES).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_bfd::Timers;

    const NOW: Duration = Duration::from_secs(1);

    fn target(last: u8, link: &str, index: u32) -> Target {
        Target {
            local: IpAddr::from([10, 0, 0, 1]),
            remote: IpAddr::from([10, 0, 0, last]),
            link: link.to_owned(),
            index,
            timers: Timers {
                interval: Duration::from_millis(300),
                multiplier: 3,
            },
        }
    }

    /// Peers a and b on interfaces 1 and 2.
    fn sessions() -> Sessions {
        let mut sessions = Sessions::new(7);
        let targets = [("a", target(2, "one", 1)), ("b", target(3, "two", 2))];
        let targets = targets.map(|(peer, target)| (peer.into(), target));
        assert_eq!(sessions.configure(targets.into(), NOW), []);
        sessions
    }

    fn said(state: State, your_discriminator: u32) -> Packet {
        let mut peer = Session::new(target(2, "", 0).timers, NonZeroU32::MIN);
        Packet {
            state,
            your_discriminator,
            ..peer.transmit(NOW, 0).unwrap()
        }
    }

    fn state(sessions: &Sessions, peer: &str) -> State {
        sessions.reports(None)[&PeerId::from(peer)].state
    }

    #[test]
    fn a_packet_counts_for_its_session_over_its_interface_and_between_its_addresses() {
        let ours = sessions().all[&PeerId::from("a")]
            .session
            .discriminator()
            .get();
        let from = |source: u8, destination: u8, index| Origin {
            source: IpAddr::from([10, 0, 0, source]),
            destination: IpAddr::from([10, 0, 0, destination]),
            index,
        };
        let table = [
            (from(2, 1, 1), 0, true),
            (from(2, 1, 1), ours, true),
            (from(2, 1, 2), 0, false),
            (from(2, 1, 2), ours, false),
            (from(3, 1, 1), ours, false),
            (from(3, 1, 1), 0, false),
            (from(2, 9, 1), 0, false),
            (from(2, 1, 1), ours ^ 1, false),
            (from(9, 1, 1), 0, false),
        ];
        for (origin, discriminator, counts) in table {
            let mut sessions = sessions();
            sessions.receive(&said(State::Down, discriminator), origin, NOW);
            let expected = if counts { State::Init } else { State::Down };
            assert_eq!(state(&sessions, "a"), expected, "{origin:?}");
            assert_eq!(state(&sessions, "b"), State::Down, "{origin:?}");
        }
    }

    #[test]
    fn nothing_is_sent_without_the_interface_and_all_of_it_over_that() {
        let mut sessions = sessions();
        let targets = |index| {
            let targets = [("a", target(2, "one", index)), ("b", target(3, "two", 2))];
            targets.map(|(peer, target)| (peer.into(), target)).into()
        };
        assert_eq!(sessions.configure(targets(0), NOW), []);
        let mut out = Vec::new();
        sessions.due(NOW, &mut out);
        let to: Vec<_> = out.iter().map(|(_, it)| (it.remote, it.index)).collect();
        assert_eq!(to, [(IpAddr::from([10, 0, 0, 3]), 2)]);
        let reports = sessions.reports(None);
        let problem = reports[&PeerId::from("a")].problem.clone();
        assert_eq!(problem.unwrap(), "there is no interface one");
        // It is back, as another one.
        assert_eq!(sessions.configure(targets(9), NOW), []);
        let origin = Origin {
            source: IpAddr::from([10, 0, 0, 2]),
            destination: IpAddr::from([10, 0, 0, 1]),
            index: 9,
        };
        sessions.receive(&said(State::Down, 0), origin, NOW);
        assert_eq!(state(&sessions, "a"), State::Init);
    }

    #[test]
    fn who_stays_is_not_disturbed_and_who_goes_is_told() {
        let mut sessions = sessions();
        let origin = Origin {
            source: IpAddr::from([10, 0, 0, 2]),
            destination: IpAddr::from([10, 0, 0, 1]),
            index: 1,
        };
        sessions.receive(&said(State::Init, 0), origin, NOW);
        assert_eq!(state(&sessions, "a"), State::Up);
        let mut faster = target(2, "one", 1);
        faster.timers.multiplier = 5;
        let goodbyes = sessions.configure([("a".into(), faster)].into(), NOW);
        assert_eq!(goodbyes.len(), GOODBYES);
        assert!(goodbyes.iter().all(|it| it.index == 2));
        assert_eq!(goodbyes[0].packet.state, State::AdminDown);
        assert_eq!(state(&sessions, "a"), State::Up);
        // Another address is another session.
        let moved = target(4, "one", 1);
        let goodbyes = sessions.configure([("a".into(), moved)].into(), NOW);
        assert_eq!(goodbyes[0].remote, IpAddr::from([10, 0, 0, 2]));
        assert_eq!(state(&sessions, "a"), State::Down);
        assert!(!sessions.all.is_empty());
        assert_eq!(sessions.stop(NOW).len(), GOODBYES);
        assert!(sessions.all.is_empty());
    }

    #[test]
    fn who_wakes_up_for_one_packet_sends_what_may_go_and_no_burst() {
        let ms = Duration::from_millis;
        let (counted, end) = (NOW + ms(3800), NOW + ms(5000));
        for count in [2u32, 500] {
            let mut sessions = Sessions::new(7);
            let far = |n: u32| IpAddr::from([10, 1, (n >> 8) as u8, n as u8]);
            let targets = (0..count).map(|n| {
                let target = Target {
                    remote: far(n),
                    ..target(0, "many", n + 1)
                };
                (PeerId::from(format!("{n}").as_str()), target)
            });
            sessions.configure(targets.collect(), NOW);
            let hears = |sessions: &mut Sessions, n: u32, state, now| {
                let origin = Origin {
                    source: far(n),
                    destination: IpAddr::from([10, 0, 0, 1]),
                    index: n + 1,
                };
                sessions.receive(&said(state, 0), origin, now);
            };
            let (mut now, mut out, mut wakes) = (NOW, Vec::new(), 0);
            // They come up one after the other.
            for n in 0..count {
                now = NOW + ms(40 * u64::from(n) % 300);
                hears(&mut sessions, n, State::Init, now);
                sessions.due(now, &mut out);
            }
            let mut last: BTreeMap<PeerId, Duration> = BTreeMap::new();
            while let Some(due) = sessions.deadline().filter(|due| *due <= end) {
                now = now.max(due);
                (0..count).for_each(|n| hears(&mut sessions, n, State::Up, now));
                out.clear();
                sessions.due(now, &mut out);
                wakes += usize::from(now > counted);
                assert!(now < counted || out.len() < 3 * TOGETHER, "{}", out.len());
                for (peer, _) in out.drain(..) {
                    let before = last.insert(peer, now);
                    let interval = before.map_or(ms(300), |before| now - before);
                    assert!((ms(225)..=ms(300)).contains(&interval), "{interval:?}");
                }
            }
            assert_eq!(last.len(), count as usize);
            // In four or five rounds.
            let groups = (count as usize).div_ceil(TOGETHER);
            assert!(wakes <= 5 * 2 * groups, "{wakes}");
        }
    }

    #[test]
    fn its_word_is_waited_for_by_who_is_about_to_be_up() {
        let mut sessions = sessions();
        assert!(!sessions.expectant());
        let origin = Origin {
            source: IpAddr::from([10, 0, 0, 2]),
            destination: IpAddr::from([10, 0, 0, 1]),
            index: 1,
        };
        sessions.receive(&said(State::Down, 0), origin, NOW);
        assert!(sessions.expectant());
        sessions.receive(&said(State::Up, 0), origin, NOW);
        assert!(!sessions.expectant());
    }
}
