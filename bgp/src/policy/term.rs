//! What a policy says, term by term.

use super::prefix::PrefixSet;
use crate::wire::{Attributes, Family};
use ipnet::IpNet;
use std::sync::Arc;

/// If all conditions hold, the changes are made and the policy goes on as `then` says.
///
/// Conditions look at the path as it came, never at what an earlier term has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Term {
    /// Which paths.
    pub conditions: Conditions,
    /// What becomes of them, if they are accepted in the end.
    pub changes: Changes,
    /// How it goes on.
    pub then: Then,
}

/// How a policy goes on after a term that matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// The path is accepted.
    #[default]
    Accept,
    /// The path is rejected, for this reason.
    Reject(Arc<str>),
    /// The next term is asked.
    Next,
}

/// All that are given must hold; those of several values hold when one of these does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The prefix is one of these.
    pub prefixes: Option<PrefixSet>,
    /// The prefix is of this family.
    pub family: Option<Family>,
    /// The path has one of these.
    pub communities: Vec<Community>,
    /// The AS where the path began is one of these: the last of the AS_PATH.
    pub origin_as: Vec<u32>,
    /// One of these is anywhere in the AS_PATH.
    pub through_as: Vec<u32>,
    /// The AS next to us is one of these: the first of the AS_PATH.
    pub neighbour_as: Vec<u32>,
    /// The AS_PATH is not longer than this.
    pub longest_path: Option<usize>,
}

/// A community of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Community {
    /// RFC 1997.
    Standard(u32),
    /// RFC 8092.
    Large([u32; 3]),
    /// RFC 4360, as eight bytes in network order.
    Extended([u8; 8]),
}

/// What a term changes, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// LOCAL_PREF. Of no use in export to another AS, where it is not told.
    pub preference: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<Med>,
    /// Without any standard and large communities.
    pub clear_communities: bool,
    /// Without these.
    pub remove_communities: Vec<Community>,
    /// With these.
    pub add_communities: Vec<Community>,
    /// The path's share of the traffic beside the others of its prefix, 1 to 256.
    pub weight: Option<u16>,
    /// Our AS so many times more in front of the AS_PATH.
    pub prepend: u8,
}

/// A change of MULTI_EXIT_DISC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Med {
    /// This.
    Set(u32),
    /// So much more, without passing the largest; none counts as zero.
    Add(u32),
}

impl Conditions {
    /// The part that depends on the prefix.
    pub(super) fn hold_for(&self, prefix: &IpNet) -> bool {
        self.family.is_none_or(|it| it == Family::of(prefix))
            && self.prefixes.as_ref().is_none_or(|it| it.holds(prefix))
    }

    /// The part that is the same for all prefixes with the same attributes.
    pub(super) fn hold_with(&self, attributes: &Attributes) -> bool {
        let path = &attributes.as_path;
        let one_of = |wanted: &[u32], found: Option<u32>| {
            wanted.is_empty() || found.is_some_and(|asn| wanted.contains(&asn))
        };
        let through = &self.through_as;
        (self.communities.is_empty() || self.communities.iter().any(|it| it.is_of(attributes)))
            && one_of(&self.origin_as, path.0.last().copied())
            && one_of(&self.neighbour_as, path.first())
            && (through.is_empty() || through.iter().any(|asn| path.contains(*asn)))
            && self.longest_path.is_none_or(|most| path.length() <= most)
    }
}

impl Community {
    fn is_of(&self, attributes: &Attributes) -> bool {
        match self {
            Self::Standard(it) => attributes.communities.contains(it),
            Self::Large(it) => attributes.large_communities.contains(it),
            Self::Extended(it) => attributes.extended_communities.contains(it),
        }
    }

    fn add_to(&self, attributes: &mut Attributes) {
        if self.is_of(attributes) {
            return;
        }
        match *self {
            Self::Standard(it) => attributes.communities.push(it),
            Self::Large(it) => attributes.large_communities.push(it),
            Self::Extended(it) => attributes.extended_communities.push(it),
        }
    }

    fn remove_from(&self, attributes: &mut Attributes) {
        match self {
            Self::Standard(it) => attributes.communities.retain(|other| other != it),
            Self::Large(it) => attributes.large_communities.retain(|other| other != it),
            Self::Extended(it) => attributes.extended_communities.retain(|other| other != it),
        }
    }
}

impl Changes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn apply(&self, attributes: &mut Attributes, own_as: u32) {
        if let Some(preference) = self.preference {
            attributes.local_pref = Some(preference);
        }
        match self.med {
            Some(Med::Set(med)) => attributes.med = Some(med),
            Some(Med::Add(more)) => {
                let med = attributes.med.unwrap_or(0);
                attributes.med = Some(med.saturating_add(more));
            }
            None => {}
        }
        if self.clear_communities {
            attributes.communities.clear();
            attributes.large_communities.clear();
        }
        let remove = &self.remove_communities;
        remove.iter().for_each(|it| it.remove_from(attributes));
        let add = &self.add_communities;
        add.iter().for_each(|it| it.add_to(attributes));
        let prepended = std::iter::repeat_n(own_as, self.prepend.into());
        attributes.as_path.0.splice(..0, prepended);
    }
}
