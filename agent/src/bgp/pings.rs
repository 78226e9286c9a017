//! What rounds of echo requests say of the ways to peers. Decides, and does nothing.
//!
//! A way is lost after so many rounds in a row without an answer, and found again with the first one.
//! Rounds are counted and not time, so that a host that was stopped for a while judges nobody for it.

use routemesh_bgp::PeerId;
use std::collections::BTreeMap;

/// All ways that are asked.
#[derive(Debug, Default)]
pub struct Pings {
    ways: BTreeMap<PeerId, Tally>,
}

#[derive(Debug)]
struct Tally {
    /// So many without an answer, and it is lost.
    patience: u32,
    missed: u32,
    lost: bool,
    /// It was not asked since it was doubted.
    doubted: bool,
    /// Why nobody can be asked.
    problem: Option<String>,
}

impl Pings {
    /// Makes these all that are asked, each with how many may be lost. Says who is not lost any more, as
    /// nobody asks.
    pub fn configure(&mut self, wanted: &BTreeMap<PeerId, u32>) -> Vec<PeerId> {
        let gone = self.ways.extract_if(.., |way, _| !wanted.contains_key(way));
        let found = gone.filter(|(_, tally)| tally.lost).map(|(way, _)| way);
        let found = found.collect();
        for (way, patience) in wanted {
            let new = || Tally {
                patience: 0,
                missed: 0,
                lost: false,
                doubted: false,
                problem: None,
            };
            self.ways.entry(way.clone()).or_insert_with(new).patience = *patience;
        }
        found
    }

    /// Takes this way for lost until it is asked.
    pub fn doubt(&mut self, way: &PeerId) {
        if let Some(tally) = self.ways.get_mut(way) {
            (tally.lost, tally.doubted) = (true, true);
        }
    }

    /// What came of a round. `carried`: there is something that would carry it. Whether the way is there,
    /// where that is other than it was.
    pub fn round(
        &mut self,
        way: &PeerId,
        answered: Result<bool, String>,
        carried: bool,
    ) -> Option<bool> {
        let tally = self.ways.get_mut(way)?;
        let doubted = std::mem::take(&mut tally.doubted);
        // What this host cannot do says nothing of the way.
        let answered = match answered {
            Ok(answered) => answered,
            Err(problem) => {
                tally.problem = Some(problem);
                // Nobody is dead because he cannot be asked.
                tally.lost &= !doubted;
                return doubted.then_some(true);
            }
        };
        tally.problem = None;
        match (answered, carried) {
            (true, _) => {
                tally.missed = 0;
                std::mem::take(&mut tally.lost).then_some(true)
            }
            // It is dead for other reasons, and begins anew.
            (false, false) => {
                tally.missed = 0;
                None
            }
            (false, true) => {
                tally.missed = tally.missed.saturating_add(1);
                let lost = tally.missed >= tally.patience && !tally.lost;
                tally.lost |= lost;
                lost.then_some(false)
            }
        }
    }

    /// Whom it cannot ask, and why.
    pub fn problems(&self) -> BTreeMap<PeerId, String> {
        let problem = |(way, tally): (&PeerId, &Tally)| Some((way.clone(), tally.problem.clone()?));
        self.ways.iter().filter_map(problem).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn way() -> PeerId {
        "rm4-oracle".into()
    }

    fn asked(patience: u32) -> Pings {
        let mut pings = Pings::default();
        assert_eq!(pings.configure(&[(way(), patience)].into()), []);
        pings
    }

    #[test]
    fn a_way_is_lost_after_so_many_and_found_with_the_first() {
        let mut pings = asked(3);
        let table = [
            (false, true, None),
            (false, true, None),
            (true, true, None),
            (false, true, None),
            (false, true, None),
            (false, true, Some(false)),
            (false, true, None),
            (true, true, Some(true)),
            (true, true, None),
            // Without an SA nothing is missed.
            (false, true, None),
            (false, true, None),
            (false, false, None),
            (false, true, None),
            (false, true, None),
            (false, true, Some(false)),
            // Nor is it found by an SA alone.
            (false, false, None),
            (false, true, None),
            (true, false, Some(true)),
        ];
        for (n, (answered, carried, expected)) in table.into_iter().enumerate() {
            let said = pings.round(&way(), Ok(answered), carried);
            assert_eq!(said, expected, "round {n}");
        }
        assert_eq!(pings.round(&"another".into(), Ok(false), true), None);
    }

    #[test]
    fn who_is_asked_no_more_is_not_lost() {
        let mut pings = asked(1);
        assert_eq!(pings.round(&way(), Ok(false), true), Some(false));
        let fewer = BTreeMap::new();
        assert_eq!(pings.configure(&fewer), [way()]);
        assert_eq!(pings.configure(&fewer), []);
    }

    #[test]
    fn what_cannot_be_asked_is_no_sign_and_is_told() {
        let mut pings = asked(1);
        let problem = "no such address".to_owned();
        for _ in 0..5 {
            assert_eq!(pings.round(&way(), Err(problem.clone()), true), None);
        }
        assert_eq!(pings.problems(), [(way(), problem)].into());
        pings.round(&way(), Ok(true), true);
        assert_eq!(pings.problems(), BTreeMap::new());
    }

    #[test]
    fn who_is_doubted_is_lost_until_he_answers_or_cannot_be_asked() {
        let mut pings = asked(3);
        pings.doubt(&way());
        for carried in [false, true, true, true, true] {
            assert_eq!(pings.round(&way(), Ok(false), carried), None);
        }
        let problem = || Err("no such address".to_owned());
        assert_eq!(pings.round(&way(), problem(), true), None);
        assert_eq!(pings.round(&way(), Ok(true), true), Some(true));
        pings.doubt(&way());
        assert_eq!(pings.round(&way(), problem(), true), Some(true));
        assert_eq!(pings.round(&way(), Ok(true), true), None);
    }

    proptest! {
        /// Whatever comes, "lost" and "found" take turns, and an answer is never "lost".
        #[test]
        fn lost_and_found_take_turns(
            rounds in prop::collection::vec(any::<(bool, bool)>(), 0..200), patience in 1_u32..5,
        ) {
            let mut pings = asked(patience);
            let mut there = true;
            for (answered, carried) in rounds {
                if let Some(now) = pings.round(&way(), Ok(answered), carried) {
                    prop_assert_eq!(now, !there);
                    prop_assert_eq!(now, answered);
                    there = now;
                }
            }
            prop_assert!(!there || pings.round(&way(), Ok(true), true).is_none());
        }
    }
}
