//! Ways without a session, and what is reached by those that are alive. Decides, and does nothing.

use crate::liveness::Sign;
use routemesh_bgp::{PeerId, Reach};
use std::collections::{BTreeMap, BTreeSet};

/// What the speaker is to be told of each way where that is other than it was.
pub type Changes = Vec<(PeerId, Reach)>;

/// What is known of the ways.
#[derive(Debug, Default)]
pub struct Statics {
    /// Those with an SA.
    carried: BTreeSet<PeerId>,
    /// What the speaker was told.
    told: BTreeMap<PeerId, Reach>,
}

impl Statics {
    /// The kernel still forwards by these ways: they have an SA until somebody says otherwise.
    pub fn inherited(ways: impl Iterator<Item = PeerId>) -> Self {
        Self {
            carried: ways.collect(),
            told: BTreeMap::new(),
        }
    }

    /// Somebody has seen something of a way. Whether that says anything of its life: one that never
    /// had an SA is not dead for want of one.
    pub fn sign(&mut self, way: &PeerId, sign: Sign) -> bool {
        match sign {
            Sign::Sa(true) => {
                self.carried.insert(way.clone());
                true
            }
            Sign::Sa(false) => self.carried.remove(way),
            Sign::Interface(_) | Sign::Echo(_) => true,
        }
    }

    /// It has an SA.
    pub fn carries(&self, way: &PeerId) -> bool {
        self.carried.contains(way)
    }

    /// What changes, with these `wanted`; by ways that are barred, nothing is reached.
    pub fn changes(
        &mut self,
        wanted: &BTreeMap<PeerId, Reach>,
        bars: impl Fn(&PeerId) -> bool,
    ) -> Changes {
        self.carried.retain(|way| wanted.contains_key(way));
        let alive = |way: &PeerId| self.carried.contains(way) && !bars(way);
        let reached = wanted.iter().filter(|(way, reach)| {
            let empty = reach.prefixes.is_empty();
            !empty && alive(way)
        });
        let now: BTreeMap<PeerId, Reach> = reached
            .map(|(way, reach)| (way.clone(), reach.clone()))
            .collect();
        let before = std::mem::replace(&mut self.told, now);
        let gone = before.keys().filter(|way| !self.told.contains_key(way));
        let gone = gone.map(|way| (way.clone(), Reach::default()));
        let other = self
            .told
            .iter()
            .filter(|(way, reach)| before.get(way) != Some(reach));
        gone.chain(other.map(|(way, reach)| (way.clone(), reach.clone())))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach() -> Reach {
        Reach {
            prefixes: ["10.9.0.0/16".parse().unwrap()].into(),
            ..Reach::default()
        }
    }

    fn wanted() -> BTreeMap<PeerId, Reach> {
        [("one".into(), reach()), ("two".into(), reach())].into()
    }

    fn free(_: &PeerId) -> bool {
        false
    }

    #[test]
    fn a_way_is_used_while_it_has_an_sa_and_is_not_dead() {
        let (mut statics, wanted) = (Statics::default(), wanted());
        let one = PeerId::from("one");
        let up = vec![(one.clone(), reach())];
        let down = vec![(one.clone(), Reach::default())];
        assert_eq!(statics.changes(&wanted, free), []);
        assert!(!statics.sign(&one, Sign::Sa(false)), "it never had one");
        assert!(statics.sign(&one, Sign::Sa(true)));
        assert_eq!(statics.changes(&wanted, free), up);
        assert_eq!(statics.changes(&wanted, free), [], "once");
        assert_eq!(statics.changes(&wanted, |way| *way == one), down);
        assert_eq!(statics.changes(&wanted, free), up);
        assert!(statics.sign(&one, Sign::Sa(false)));
        assert_eq!(statics.changes(&wanted, free), down);
    }

    #[test]
    fn a_way_that_is_wanted_no_more_goes_and_is_forgotten() {
        let mut statics = Statics::inherited(wanted().into_keys());
        assert_eq!(statics.changes(&wanted(), free).len(), 2);
        let fewer = [("two".into(), reach())].into();
        let gone = [("one".into(), Reach::default())];
        assert_eq!(statics.changes(&fewer, free), gone);
        assert_eq!(statics.changes(&wanted(), free), [], "its SA is another");
    }
}
