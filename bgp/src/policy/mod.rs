//! Policy as a value, and its evaluation as a pure function.
//!
//! A [`Policy`] is a list of [`Term`]s, asked in order; the first that accepts or rejects decides, and
//! what no term accepts is rejected. Before any of them stands what the peer is authorized to
//! announce or to hear at all: no term can widen it.
//!
//! Conditions on attributes are the same for all prefixes of an UPDATE, so they are looked at once:
//! [`Policy::on`] takes the attributes, and the [`Judge`] that it gives takes prefix after prefix.

mod import;
mod prefix;
mod rejection;
mod term;
#[cfg(test)]
mod tests;

pub(crate) use import::{ImportJudge, ImportRules};
pub use prefix::{PrefixRange, PrefixSet};
pub use rejection::Rejection;
pub use term::{Changes, Community, Conditions, Med, Term, Then};

use crate::wire::Attributes;
use ipnet::IpNet;
use std::sync::Arc;

/// How many terms a policy may have: a set of them is one u64.
pub const MAX_TERMS: usize = 64;

/// A policy with more than [`MAX_TERMS`] terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyTerms;

/// What may be learnt from a peer, or told to it. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Nothing else is accepted, whatever the terms say.
    authorized: Option<Arc<PrefixSet>>,
    terms: Arc<[Term]>,
    /// Those that change something.
    changing: Matched,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is used, after the changes of these terms.
    Accept(Matched),
    /// It is not used.
    Reject(Rejection),
}

/// Terms that matched and change something, for [`Policy::apply`]. Where two are equal, one policy
/// makes the same of equal attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Matched(u64);

impl Matched {
    /// Whether nothing changes.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn of(terms: &[Term], is: impl Fn(&Term) -> bool) -> Self {
        let bits = terms.iter().zip(0..u64::BITS);
        let set = bits.filter(|(term, _)| is(term));
        Self(set.fold(0, |all, (_, bit)| all | 1 << bit))
    }

    /// The positions, ascending.
    fn positions(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let at = left.trailing_zeros() as usize;
            left &= left.checked_sub(1)?;
            Some(at)
        })
    }
}

impl Policy {
    /// A policy of these terms; without any, it rejects everything.
    pub fn new(terms: Vec<Term>) -> Result<Self, TooManyTerms> {
        if terms.len() > MAX_TERMS {
            return Err(TooManyTerms);
        }
        Ok(Self {
            authorized: None,
            changing: Matched::of(&terms, |term| !term.changes.is_empty()),
            terms: terms.into(),
        })
    }

    /// A policy that accepts everything.
    pub fn accept() -> Self {
        Self {
            terms: [Term::default()].into(),
            ..Self::default()
        }
    }

    /// The same, but nothing that is not equal to or inside one of `prefixes`.
    #[must_use]
    pub fn within(self, prefixes: &[IpNet]) -> Self {
        Self {
            authorized: Some(PrefixSet::inside(prefixes).into()),
            ..self
        }
    }

    /// Looks at the conditions on attributes.
    pub fn on(&self, attributes: &Attributes) -> Judge<'_> {
        Judge {
            policy: self,
            left: Matched::of(&self.terms, |term| term.conditions.hold_with(attributes)),
        }
    }

    /// What becomes of one path to one prefix.
    pub fn evaluate(&self, prefix: &IpNet, attributes: &Attributes) -> Verdict {
        self.on(attributes).judge(prefix)
    }

    /// The positions of the terms that match a path, up to the one that accepts or rejects it.
    pub fn trail(&self, prefix: &IpNet, attributes: &Attributes) -> Vec<usize> {
        self.on(attributes).decide(prefix).1.positions().collect()
    }

    /// Makes the changes of the terms that matched. `own_as` is what is prepended.
    pub fn apply(&self, matched: Matched, attributes: &mut Attributes, own_as: u32) {
        for term in self.terms_of(matched) {
            term.changes.apply(attributes, own_as);
        }
    }

    /// The share of the traffic that the terms that matched give a path: the last one counts.
    pub fn weight(&self, matched: Matched) -> Option<u16> {
        let weights = self.terms_of(matched).map(|term| term.changes.weight);
        weights.flatten().last()
    }

    fn terms_of(&self, matched: Matched) -> impl Iterator<Item = &Term> {
        matched.positions().filter_map(|at| self.terms.get(at))
    }
}

/// A policy that has seen a path's attributes and waits for its prefixes.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'p> {
    policy: &'p Policy,
    /// Terms whose conditions on the attributes hold.
    left: Matched,
}

impl Judge<'_> {
    /// What becomes of a path to `prefix`.
    pub fn judge(&self, prefix: &IpNet) -> Verdict {
        self.decide(prefix).0
    }

    /// And which terms matched.
    fn decide(&self, prefix: &IpNet) -> (Verdict, Matched) {
        let authorized = self.policy.authorized.as_ref();
        if authorized.is_some_and(|it| !it.holds(prefix)) {
            let verdict = Verdict::Reject(Rejection::NotAuthorized);
            return (verdict, Matched::default());
        }
        let mut matched = 0;
        for at in self.left.positions() {
            let Some(term) = self.policy.terms.get(at) else {
                break;
            };
            if !term.conditions.hold_for(prefix) {
                continue;
            }
            matched |= 1 << at;
            let verdict = match &term.then {
                Then::Accept => Verdict::Accept(Matched(matched & self.policy.changing.0)),
                Then::Reject(reason) => Verdict::Reject(Rejection::Policy(reason.clone())),
                Then::Next => continue,
            };
            return (verdict, Matched(matched));
        }
        (Verdict::Reject(Rejection::NoTerm), Matched(matched))
    }
}
