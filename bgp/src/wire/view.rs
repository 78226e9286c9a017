//! An UPDATE as received. Its prefixes stay bytes, checked once, and become values as they are used.

use super::nlri::Nlri;
use super::{Attributes, Family, NextHop, Reach, Update};
use ipnet::IpNet;

/// A received UPDATE, after the repairs of RFC 7606. [`UpdateView::to_update`] makes it a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateView<'a> {
    /// The withdrawn routes before the attributes, and those of MP_UNREACH_NLRI.
    pub(super) withdrawn: Nlri<'a>,
    pub(super) unreach: Nlri<'a>,
    /// What is announced after the attributes, and in MP_REACH_NLRI: never an empty list.
    pub(super) plain: Option<(NextHop, Nlri<'a>)>,
    pub(super) reach: Option<(NextHop, Nlri<'a>)>,
    /// What is announced is to be treated as withdrawn.
    pub(super) lost: bool,
    /// Attributes of the announced prefixes, next hop excepted. Default when nothing is announced.
    pub attributes: Attributes,
    /// Set when this message is an End-of-RIB marker (RFC 4724 section 2); the rest is then empty.
    pub end_of_rib: Option<Family>,
}

impl<'a> UpdateView<'a> {
    /// Prefixes withdrawn, of either family, with their path identifiers: zero where the family has
    /// none. They come before the announcements.
    pub fn withdrawn(&self) -> impl Iterator<Item = (u32, IpNet)> + use<'a> {
        let lost = |reach: Option<(_, Nlri<'a>)>| match (self.lost, reach) {
            (true, Some((_, prefixes))) => prefixes,
            _ => Nlri::default(),
        };
        let fields = [
            self.withdrawn,
            self.unreach,
            lost(self.plain),
            lost(self.reach),
        ];
        fields.into_iter().flatten()
    }

    /// Prefixes announced, by next hop: never an empty list.
    pub fn reach(&self) -> impl Iterator<Item = (NextHop, Nlri<'a>)> + use<'a> {
        let reach = match self.lost {
            true => [None, None],
            false => [self.plain, self.reach],
        };
        reach.into_iter().flatten()
    }

    /// The same, without the message it came in.
    pub fn to_update(&self) -> Update {
        let reach = self.reach().map(|(next_hop, prefixes)| Reach {
            next_hop,
            prefixes: prefixes.into_iter().collect(),
        });
        Update {
            withdrawn: self.withdrawn().collect(),
            reach: reach.collect(),
            attributes: self.attributes.clone(),
            end_of_rib: self.end_of_rib,
        }
    }
}
