//! Which ways to peers are dead: the signs of it, and when a way that lives again is to be trusted.
//! Pure.
//!
//! The first sign acts. A way that comes back after a death is held: BGP stays away from it until it
//! has been steady for a while, twice as long with every death, so that one that flaps moves no
//! traffic. A way that never died is never held.

use crate::bfd::{Report, Reports};
use routemesh_bfd::{Cause, Change, Diagnostic, State};
use routemesh_bgp::PeerId;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a way is held after its first death; doubled with each,
const FIRST_HOLD: Duration = Duration::from_secs(1);
/// up to this.
const LONGEST_HOLD: Duration = Duration::from_secs(60);
/// After so long alive, its deaths are forgotten.
const FORGET: Duration = Duration::from_secs(300);
/// A far end that stays silent for so long may have no BFD any more: it may show by other means that it
/// lives (RFC 5882 section 4.3.1).
const LAPSE: Duration = Duration::from_secs(60);

/// How much later than its session ended a restarting far end may have spoken last.
const GRACE: Duration = Duration::from_secs(1);

/// Time since any fixed moment.
type Time = Duration;

/// What somebody has seen of a way, besides BFD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// Whether its interface can carry packets.
    Interface(bool),
    /// Whether charon has an SA for it.
    Sa(bool),
    /// Whether echo requests through it are answered.
    Echo(bool),
}

/// What there is of a peer besides BFD: what BGP has, as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bgp {
    /// A session.
    Established,
    /// Paths of a session that ended, kept for a peer that restarts (RFC 4724).
    Kept,
    /// Neither.
    Nothing,
    /// A way without BGP: an SA, and BFD alone says whether anybody is behind it.
    Static,
}

/// What is to be done about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its paths go at once, and no connection is made or taken.
    Dead,
    /// Connections may be made again.
    Alive,
}

/// Where a way is, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Alive, dead, or held for so long.
    pub state: Life,
    /// Why it died last; empty for never, or long ago.
    pub reason: String,
    /// How often it died since it was last steady.
    pub deaths: u32,
}

/// See [`Standing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Usable.
    Alive,
    /// Not.
    Dead,
    /// Alive again, and not used before this time.
    Held(Time),
}

/// All ways that somebody has seen something of.
#[derive(Debug, Default)]
pub struct Liveness {
    ways: BTreeMap<PeerId, Way>,
}

#[derive(Debug)]
struct Way {
    life: Life,
    /// Since when.
    since: Time,
    interface: bool,
    sa: bool,
    echo: bool,
    bfd: Bfd,
    /// BGP's session ended as by a restart of the far end.
    restarted: Option<Time>,
    deaths: u32,
    reason: String,
}

/// What BFD says.
#[derive(Debug, Default)]
struct Bfd {
    /// As in [`Report::downs`].
    downs: u64,
    /// It found the way dead; until then at most.
    dead_until: Option<Time>,
    /// Nothing but BFD would show that the far end lives.
    alone: bool,
}

impl Bfd {
    /// Until when silence since then counts.
    fn lapse(&self, since: Time) -> Time {
        match self.alone {
            true => Time::MAX,
            false => since + LAPSE,
        }
    }
}

impl Default for Way {
    fn default() -> Self {
        Self {
            life: Life::Alive,
            since: Time::ZERO,
            interface: true,
            sa: true,
            echo: true,
            bfd: Bfd::default(),
            restarted: None,
            deaths: 0,
            reason: String::new(),
        }
    }
}

/// Why a BFD session that went down means that the way is dead; `None` if it does not.
///
/// BFD of our agents ends with the agent, and says so (C = 0, RFC 5880 section 4.1). So while BGP waits
/// for a peer that restarts, silence says nothing of the way (RFC 5882 section 4.3), unless the far end
/// claims that its BFD outlives its BGP. And a far end that says that it is down says why: because it
/// does not hear us, which is a dead way; because it has just begun, or because an operator wants it,
/// which is none (RFC 5882 section 4.2).
pub fn death(change: &Change, bgp: Bgp) -> Option<String> {
    let counts = match bgp {
        Bgp::Established | Bgp::Static => true,
        Bgp::Kept => change.independent,
        Bgp::Nothing => false,
    };
    let reason = match change.cause {
        Cause::Silence => "BFD: nothing is heard of the far end".to_owned(),
        Cause::Neighbor {
            state: State::AdminDown,
            ..
        } => return None,
        Cause::Neighbor { diagnostic, .. } => match diagnostic {
            Diagnostic::NONE | Diagnostic::NEIGHBOR_DOWN | Diagnostic::ADMINISTRATIVELY_DOWN => {
                return None;
            }
            Diagnostic::TIME_EXPIRED => "BFD: the far end does not hear us".to_owned(),
            other => format!("BFD: the far end says: {other}"),
        },
    };
    counts.then_some(reason)
}

impl Liveness {
    /// Forgets all ways but those to `peers`.
    pub fn keep(&mut self, wanted: impl Fn(&PeerId) -> bool) {
        self.ways.retain(|peer, _| wanted(peer));
    }

    /// Somebody has seen something.
    pub fn sign(&mut self, peer: &PeerId, sign: Sign, now: Time) -> Option<Verdict> {
        let way = self.ways.entry(peer.clone()).or_default();
        let (known, good, reason) = match sign {
            Sign::Interface(good) => (&mut way.interface, good, "its interface is down"),
            Sign::Sa(good) => (&mut way.sa, good, "its last SA is gone"),
            Sign::Echo(good) => (&mut way.echo, good, "its pings are not answered"),
        };
        let before = std::mem::replace(known, good) == good;
        match good {
            // No need to wait before the next attempt.
            _ if before => (good && way.life == Life::Alive).then_some(Verdict::Alive),
            false => way.dies(reason.to_owned(), now),
            true => way.revives(now),
        }
    }

    /// An earlier run had not used this way, as of one that is dead. So it is until BFD or echo requests,
    /// as far as it has them, say otherwise.
    pub fn doubt(&mut self, peer: &PeerId, bfd: bool, echo: bool, now: Time) {
        let way = self.ways.entry(peer.clone()).or_default();
        if bfd {
            way.bfd.alone = true;
            way.bfd.dead_until = Some(Time::MAX);
        }
        way.echo &= !echo;
        let reason = "it was not in use before the agent's start, and nothing is heard of it since";
        way.dies(reason.to_owned(), now);
    }

    /// BGP's hold timer expired, and nothing is kept of the peer.
    pub fn silent(&mut self, peer: &PeerId, now: Time) -> Option<Verdict> {
        let way = self.ways.entry(peer.clone()).or_default();
        let verdict = way.dies("BGP's hold timer expired".to_owned(), now);
        way.revives(now);
        verdict
    }

    /// BGP's session ended, and the peer's paths are kept: it restarts.
    pub fn restarts(&mut self, peer: &PeerId, now: Time) {
        let way = self.ways.entry(peer.clone()).or_default();
        way.restarted = Some(now);
    }

    /// BFD reports. `bgp` says what BGP has of a peer.
    pub fn bfd(
        &mut self,
        reports: &Reports,
        bgp: impl Fn(&PeerId) -> Bgp,
        now: Time,
    ) -> Vec<(PeerId, Verdict)> {
        let mut verdicts = Vec::new();
        for (peer, report) in reports {
            // Most of the time one of them is another.
            if !self.ways.contains_key(peer) && report.downs == 0 {
                continue;
            }
            let way = self.ways.entry(peer.clone()).or_default();
            let verdict = way.hears(report, || bgp(peer), now);
            verdicts.extend(verdict.map(|verdict| (peer.clone(), verdict)));
        }
        // Whoever has no BFD any more is not dead by it.
        for (peer, way) in &mut self.ways {
            if way.bfd.dead_until.is_some() && !reports.contains_key(peer) {
                way.bfd.dead_until = None;
                way.revives(now);
            }
        }
        verdicts
    }

    /// Lets those go whose time is over: they are alive.
    pub fn timeout(&mut self, now: Time) -> Vec<(PeerId, Verdict)> {
        let mut alive = Vec::new();
        for (peer, way) in &mut self.ways {
            if way.bfd.dead_until.take_if(|until| *until <= now).is_some() {
                way.revives(now);
            }
            if matches!(way.life, Life::Held(until) if until <= now) {
                way.becomes(Life::Alive, now);
                alive.push((peer.clone(), Verdict::Alive));
            }
        }
        alive
    }

    /// When [`Liveness::timeout`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        let deadline = |way: &Way| {
            let held = match way.life {
                Life::Held(until) => Some(until),
                Life::Alive | Life::Dead => None,
            };
            held.into_iter().chain(way.bfd.dead_until).min()
        };
        self.ways.values().filter_map(deadline).min()
    }

    /// No connection may be made or taken.
    pub fn bars(&self, peer: &PeerId) -> bool {
        let way = self.ways.get(peer);
        way.is_some_and(|way| way.life != Life::Alive)
    }

    /// How it stands with a way of which something was seen.
    pub fn standing(&self, peer: &PeerId, now: Time) -> Option<Standing> {
        self.ways.get(peer).map(|way| way.standing(now))
    }

    /// How it stands with all of these.
    pub fn standings(&self, now: Time) -> BTreeMap<PeerId, Standing> {
        let ways = self.ways.iter();
        ways.map(|(peer, way)| (peer.clone(), way.standing(now)))
            .collect()
    }
}

impl Way {
    fn standing(&self, now: Time) -> Standing {
        let steady = self.is_steady(now);
        Standing {
            state: self.life,
            reason: if steady {
                String::new()
            } else {
                self.reason.clone()
            },
            deaths: if steady { 0 } else { self.deaths },
        }
    }

    fn is_steady(&self, now: Time) -> bool {
        self.life == Life::Alive && now >= self.since + FORGET
    }

    fn becomes(&mut self, life: Life, now: Time) {
        (self.life, self.since) = (life, now);
    }

    fn dies(&mut self, reason: String, now: Time) -> Option<Verdict> {
        if self.life == Life::Dead {
            return None;
        }
        if self.is_steady(now) {
            self.deaths = 0;
        }
        self.deaths = self.deaths.saturating_add(1);
        self.reason = reason;
        self.becomes(Life::Dead, now);
        Some(Verdict::Dead)
    }

    /// A sign of death is gone; perhaps the last.
    fn revives(&mut self, now: Time) -> Option<Verdict> {
        let well = self.interface && self.sa && self.echo && self.bfd.dead_until.is_none();
        if well && self.life == Life::Dead {
            let doubled = 1u32.checked_shl(self.deaths.saturating_sub(1)).unwrap_or(0);
            let hold = match doubled {
                0 => LONGEST_HOLD,
                factor => FIRST_HOLD.saturating_mul(factor).min(LONGEST_HOLD),
            };
            self.becomes(Life::Held(now + hold), now);
        }
        // One that was not dead is as good as new: no need to wait before the next attempt.
        (well && self.life == Life::Alive).then_some(Verdict::Alive)
    }

    fn hears(&mut self, report: &Report, bgp: impl Fn() -> Bgp, now: Time) -> Option<Verdict> {
        let mut verdict = None;
        if report.downs != self.bfd.downs {
            self.bfd.downs = report.downs;
            // A far end that is back sooner than its silence was noticed has a session again, and its BFD
            // begins anew.
            let grace = report.negotiated.detection_time + GRACE;
            let bgp = match self.restarted {
                Some(at) if now <= at + grace => Bgp::Kept,
                _ => bgp(),
            };
            let change = report.last_down.as_ref();
            if let Some(reason) = change.and_then(|change| death(change, bgp)) {
                self.bfd.alone = bgp == Bgp::Static;
                self.bfd.dead_until = Some(self.bfd.lapse(now));
                verdict = self.dies(reason, now);
            }
        }
        let lapse = self.bfd.lapse(report.since);
        if let Some(until) = &mut self.bfd.dead_until {
            let over = match (report.state, report.remote_state) {
                (State::Up, _) | (_, State::AdminDown) => true,
                // Something is heard, which is not silence.
                (State::Init, _) => {
                    *until = Time::MAX;
                    false
                }
                (State::Down | State::AdminDown, _) => {
                    *until = lapse;
                    false
                }
            };
            if over {
                self.bfd.dead_until = None;
                self.revives(now);
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use routemesh_bfd::Negotiated;

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn peer() -> PeerId {
        "rm1-V2-1".into()
    }

    fn change(cause: Cause, independent: bool) -> Change {
        Change {
            from: State::Up,
            to: State::Down,
            cause,
            independent,
        }
    }

    fn neighbor(state: State, diagnostic: u8, knows_us: bool) -> Cause {
        Cause::Neighbor {
            state,
            diagnostic: Diagnostic(diagnostic),
            knows_us,
        }
    }

    /// What each way of going down means, by what BGP has: a session, kept paths, nothing.
    #[test]
    fn what_is_a_death() {
        use State::{AdminDown, Down};
        let table = [
            // The far end is silent: with a session the way is dead; without one, the agent is away.
            (Cause::Silence, false, [true, false, false]),
            // It said that its BFD would not end with its agent.
            (Cause::Silence, true, [true, true, false]),
            // It does not hear us. By then it may have forgotten us.
            (neighbor(Down, 1, true), false, [true, false, false]),
            (neighbor(Down, 1, false), false, [true, false, false]),
            (neighbor(Down, 1, false), true, [true, true, false]),
            // It has found the way dead by other means.
            (neighbor(Down, 2, true), false, [true, false, false]),
            (neighbor(Down, 4, true), false, [true, false, false]),
            (neighbor(Down, 5, true), false, [true, false, false]),
            (neighbor(Down, 6, true), false, [true, false, false]),
            (neighbor(Down, 8, true), false, [true, false, false]),
            (neighbor(Down, 9, true), false, [true, false, false]),
            (neighbor(Down, 31, true), false, [true, false, false]),
            // It has just begun: its agent is back before we noticed.
            (neighbor(Down, 0, false), false, [false, false, false]),
            (neighbor(Down, 0, true), true, [false, false, false]),
            // It repeats what we said, or an operator's word.
            (neighbor(Down, 3, true), false, [false, false, false]),
            (neighbor(Down, 7, true), false, [false, false, false]),
            (neighbor(AdminDown, 7, true), false, [false, false, false]),
            (neighbor(AdminDown, 1, true), true, [false, false, false]),
        ];
        for (cause, independent, expected) in table {
            let alone = death(&change(cause, independent), Bgp::Static).is_some();
            assert_eq!(alone, expected[0], "{cause:?} {independent} without BGP");
            for (bgp, expected) in [Bgp::Established, Bgp::Kept, Bgp::Nothing]
                .into_iter()
                .zip(expected)
            {
                let found = death(&change(cause, independent), bgp).is_some();
                assert_eq!(found, expected, "{cause:?} {independent} {bgp:?}");
            }
        }
    }

    fn report(state: State, downs: u64, since: Time) -> Reports {
        let report = Report {
            state,
            remote_state: State::Down,
            since,
            negotiated: Negotiated {
                interval: s(1),
                detection_time: s(3),
            },
            diagnostic: Diagnostic::TIME_EXPIRED,
            downs,
            last_down: (downs > 0).then(|| change(Cause::Silence, false)),
            problem: None,
        };
        [(peer(), report)].into()
    }

    fn heard(liveness: &mut Liveness, state: State, downs: u64, now: Time) -> Option<Verdict> {
        let reports = report(state, downs, now);
        let verdicts = liveness.bfd(&reports, |_| Bgp::Established, now);
        verdicts.first().map(|(_, verdict)| *verdict)
    }

    fn life(liveness: &Liveness, now: Time) -> (Life, u32) {
        let standing = &liveness.standings(now)[&peer()];
        (standing.state, standing.deaths)
    }

    #[test]
    fn the_first_start_is_not_held() {
        let mut liveness = Liveness::default();
        assert_eq!(heard(&mut liveness, State::Down, 0, s(0)), None);
        assert_eq!(heard(&mut liveness, State::Up, 0, s(1)), None);
        assert!(!liveness.bars(&peer()));
        // It is worth trying to connect.
        let sign = Sign::Interface(true);
        assert_eq!(liveness.sign(&peer(), sign, s(1)), Some(Verdict::Alive));
        assert_eq!(liveness.deadline(), None);
    }

    #[test]
    fn the_first_sign_acts_and_all_must_be_gone() {
        let mut liveness = Liveness::default();
        assert_eq!(
            heard(&mut liveness, State::Down, 1, s(0)),
            Some(Verdict::Dead)
        );
        let sa = |liveness: &mut Liveness, good, now| liveness.sign(&peer(), Sign::Sa(good), now);
        assert_eq!(sa(&mut liveness, false, s(1)), None, "it is dead already");
        assert!(liveness.bars(&peer()));
        assert_eq!(heard(&mut liveness, State::Up, 1, s(5)), None);
        assert_eq!(life(&liveness, s(5)), (Life::Dead, 1));
        assert_eq!(sa(&mut liveness, true, s(6)), None);
        assert_eq!(life(&liveness, s(6)), (Life::Held(s(7)), 1));
        assert!(liveness.bars(&peer()));
        assert_eq!(liveness.timeout(s(6)), []);
        assert_eq!(liveness.timeout(s(7)), [(peer(), Verdict::Alive)]);
        assert!(!liveness.bars(&peer()));
    }

    #[test]
    fn who_flaps_is_held_longer_and_forgiven_when_steady() {
        let mut liveness = Liveness::default();
        let mut now = s(0);
        for (n, hold) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
            let deaths = u64::try_from(n).unwrap() + 1;
            assert_eq!(
                heard(&mut liveness, State::Down, deaths, now),
                Some(Verdict::Dead)
            );
            heard(&mut liveness, State::Up, deaths, now);
            assert_eq!(liveness.deadline(), Some(now + s(hold)));
            now += s(hold);
            assert_eq!(liveness.timeout(now), [(peer(), Verdict::Alive)]);
            // Not steady for long enough.
            now += FORGET - s(1);
        }
        now += s(1);
        assert_eq!(life(&liveness, now), (Life::Alive, 0));
        heard(&mut liveness, State::Down, 9, now);
        assert_eq!(life(&liveness, now), (Life::Dead, 1));
    }

    #[test]
    fn a_death_while_held_is_one_more() {
        let mut liveness = Liveness::default();
        heard(&mut liveness, State::Down, 1, s(0));
        heard(&mut liveness, State::Up, 1, s(1));
        assert_eq!(
            heard(&mut liveness, State::Down, 2, s(1)),
            Some(Verdict::Dead)
        );
        assert_eq!(liveness.timeout(s(2)), []);
        heard(&mut liveness, State::Up, 2, s(2));
        assert_eq!(life(&liveness, s(2)), (Life::Held(s(4)), 2));
    }

    #[test]
    fn a_far_end_without_bfd_is_not_dead_for_ever() {
        let mut liveness = Liveness::default();
        heard(&mut liveness, State::Down, 1, s(0));
        assert_eq!(liveness.deadline(), Some(LAPSE));
        // It is heard, and does not hear us: that can go on.
        heard(&mut liveness, State::Init, 1, s(10));
        assert_eq!(liveness.timeout(s(1000)), []);
        heard(&mut liveness, State::Down, 1, s(1000));
        assert_eq!(liveness.timeout(s(1060)), []);
        assert_eq!(life(&liveness, s(1060)).0, Life::Held(s(1061)));
        // It says that it wants none.
        let mut liveness = Liveness::default();
        heard(&mut liveness, State::Down, 1, s(0));
        let mut reports = report(State::Down, 1, s(1));
        if let Some(report) = reports.get_mut(&peer()) {
            report.remote_state = State::AdminDown;
        }
        liveness.bfd(&reports, |_| Bgp::Nothing, s(1));
        assert_eq!(life(&liveness, s(1)).0, Life::Held(s(2)));
        // Nobody wants it here.
        let mut liveness = Liveness::default();
        heard(&mut liveness, State::Down, 1, s(0));
        liveness.bfd(&Reports::new(), |_| Bgp::Nothing, s(1));
        assert_eq!(life(&liveness, s(1)).0, Life::Held(s(2)));
    }

    #[test]
    fn a_way_without_bgp_is_dead_until_bfd_hears_of_it() {
        let mut liveness = Liveness::default();
        let mut heard = |state, downs, now| {
            let reports = report(state, downs, now);
            liveness.bfd(&reports, |_| Bgp::Static, now);
            liveness.timeout(now + LAPSE);
            life(&liveness, now + LAPSE)
        };
        assert_eq!(heard(State::Down, 1, s(10)), (Life::Dead, 1));
        assert_eq!(heard(State::Down, 1, s(1000)), (Life::Dead, 1));
        assert_eq!(heard(State::Init, 1, s(2000)), (Life::Dead, 1));
        assert_eq!(heard(State::Up, 1, s(3000)), (Life::Alive, 1));
    }

    #[test]
    fn a_way_in_doubt_is_dead_until_all_that_it_has_say_otherwise() {
        for (bfd, echo) in [(true, false), (false, true), (true, true)] {
            let mut liveness = Liveness::default();
            liveness.doubt(&peer(), bfd, echo, s(0));
            liveness.sign(&peer(), Sign::Sa(true), s(1));
            let mut reports = report(State::Down, 0, s(1));
            if !bfd {
                reports.clear();
            }
            liveness.bfd(&reports, |_| Bgp::Static, s(1));
            liveness.timeout(s(1000));
            assert_eq!(life(&liveness, s(1000)).0, Life::Dead, "{bfd} {echo}");
            if bfd {
                let reports = report(State::Up, 0, s(1000));
                liveness.bfd(&reports, |_| Bgp::Static, s(1000));
                assert_eq!(life(&liveness, s(1000)).0 == Life::Dead, echo);
            }
            if echo {
                liveness.sign(&peer(), Sign::Echo(true), s(1000));
            }
            liveness.timeout(s(1001));
            assert_eq!(life(&liveness, s(1001)).0, Life::Alive, "{bfd} {echo}");
        }
    }

    #[test]
    fn a_way_whose_pings_are_lost_says_so_and_is_held_when_they_come_back() {
        let mut liveness = Liveness::default();
        let echo =
            |liveness: &mut Liveness, good, now| liveness.sign(&peer(), Sign::Echo(good), now);
        assert_eq!(echo(&mut liveness, false, s(3)), Some(Verdict::Dead));
        let standing = liveness.standing(&peer(), s(3)).unwrap();
        assert_eq!(standing.reason, "its pings are not answered");
        // A new SA is none: they are still not answered.
        liveness.sign(&peer(), Sign::Sa(false), s(4));
        liveness.sign(&peer(), Sign::Sa(true), s(5));
        assert_eq!(life(&liveness, s(5)), (Life::Dead, 1));
        assert_eq!(echo(&mut liveness, true, s(6)), None);
        assert_eq!(life(&liveness, s(6)), (Life::Held(s(7)), 1));
        assert_eq!(liveness.timeout(s(7)), [(peer(), Verdict::Alive)]);
    }

    #[test]
    fn silence_after_a_restart_is_none_even_where_bgp_is_back_before_it_is_noticed() {
        for (restarted, dies) in [(s(0), false), (s(4), false), (s(5), true), (s(10), true)] {
            let mut liveness = Liveness::default();
            liveness.restarts(&peer(), s(10) - restarted);
            // 3 s of detection time, and 1 s.
            let verdict = heard(&mut liveness, State::Down, 1, s(10));
            assert_eq!(verdict.is_some(), dies, "{restarted:?} before");
        }
    }

    #[test]
    fn an_expired_hold_timer_is_a_death_that_is_over_at_once() {
        let mut liveness = Liveness::default();
        assert_eq!(liveness.silent(&peer(), s(9)), Some(Verdict::Dead));
        assert_eq!(life(&liveness, s(9)), (Life::Held(s(10)), 1));
    }

    #[derive(Clone, Debug)]
    enum Happening {
        Sign(Sign),
        Bfd(State, bool),
        Silent,
        Wait(u64),
    }

    fn happening() -> impl Strategy<Value = Happening> {
        let states = prop::sample::select(vec![State::Down, State::Init, State::Up]);
        prop_oneof![
            any::<bool>().prop_map(|good| Happening::Sign(Sign::Interface(good))),
            any::<bool>().prop_map(|good| Happening::Sign(Sign::Sa(good))),
            any::<bool>().prop_map(|good| Happening::Sign(Sign::Echo(good))),
            (states, any::<bool>()).prop_map(|(state, down)| Happening::Bfd(state, down)),
            Just(Happening::Silent),
            (0u64..100).prop_map(Happening::Wait),
        ]
    }

    proptest! {
        /// Whatever happens: who is barred was told so, and is alive in the end if all is well.
        #[test]
        fn verdicts_and_bars_agree(happenings in prop::collection::vec(happening(), 0..60)) {
            let mut liveness = Liveness::default();
            let (mut now, mut downs, mut dead) = (s(0), 0, false);
            let signs = [Sign::Interface(true), Sign::Sa(true), Sign::Echo(true)];
            let end = [Happening::Bfd(State::Up, false), Happening::Wait(60)];
            let end = signs.map(Happening::Sign).into_iter().chain(end);
            for happening in happenings.into_iter().chain(end) {
                let mut verdicts = Vec::new();
                match happening {
                    Happening::Sign(sign) => verdicts.extend(liveness.sign(&peer(), sign, now)),
                    Happening::Bfd(state, down) => {
                        downs += u64::from(down && state != State::Up);
                        verdicts.extend(heard(&mut liveness, state, downs, now));
                    }
                    Happening::Silent => verdicts.extend(liveness.silent(&peer(), now)),
                    Happening::Wait(seconds) => now += s(seconds),
                }
                verdicts.extend(liveness.timeout(now).into_iter().map(|(_, verdict)| verdict));
                for verdict in verdicts {
                    dead = verdict == Verdict::Dead;
                }
                prop_assert_eq!(liveness.bars(&peer()), dead);
                prop_assert!(liveness.deadline().is_none_or(|due| due > now));
            }
            prop_assert!(!dead);
        }
    }
}
