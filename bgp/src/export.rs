//! The rules of announcing: which peer may be told of a path, and with which attributes.

use crate::config::PeerId;
use crate::decision::{DEFAULT_LOCAL_PREF, LLGR_STALE};
use crate::import::GRACEFUL_SHUTDOWN;
use crate::policy::{Matched, Policy, Verdict};
use crate::table::{Learnt, Winner};
use crate::wire::{Attributes, Context, Family, NextHop, PerFamily, Role};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// Well-known communities (RFC 1997).
const NO_EXPORT: u32 = 0xffff_ff01;
const NO_ADVERTISE: u32 = 0xffff_ff02;
const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;

/// A peer as the receiver of announcements, for the time of one session.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) peer: PeerId,
    /// Our AS.
    pub(crate) asn: u32,
    /// Our BGP identifier and cluster id.
    pub(crate) router_id: Ipv4Addr,
    /// The peer is in our AS.
    pub(crate) internal: bool,
    /// The peer is a route reflection client.
    pub(crate) client: bool,
    /// The peer is one of a full mesh.
    pub(crate) meshed: bool,
    /// Our address of the session.
    pub(crate) local: IpAddr,
    /// What both sides exchange.
    pub(crate) families: BTreeSet<Family>,
    /// What we are to the peer (RFC 9234), in eBGP.
    pub(crate) role: Option<Role>,
    /// Our paths are about to go (RFC 8326).
    pub(crate) drain: bool,
    /// The peer keeps paths for long as a last resort (RFC 9494).
    pub(crate) long_lived: PerFamily<bool>,
    pub(crate) context: Context,
}

/// What decides who may be told of a path, beside who the peer is: the same for many peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Audience {
    /// It takes several paths to a prefix (RFC 7911), of which others than the best may be for it.
    several: bool,
    internal: bool,
    client: bool,
    meshed: bool,
    role: Option<Role>,
}

impl Audience {
    /// Whether there is a prefix and a peer of this kind that may be told of such a path to it: from
    /// iBGP to iBGP only by reflection (RFC 4456 section 6), within a full mesh never; as the communities allow (RFC 1997).
    pub(crate) fn may_have(&self, winner: Winner<'_>) -> bool {
        let Winner::Learnt(path) = winner else {
            return true;
        };
        self.several || self.may_have_learnt(path)
    }

    fn may_have_learnt(&self, path: Learnt<'_>) -> bool {
        let source = &path.source;
        if source.internal && self.internal && !source.client && !self.client {
            return false;
        }
        if source.meshed && self.meshed {
            return false;
        }
        let communities = &path.attributes.communities;
        let confined = communities.contains(&NO_ADVERTISE)
            || !self.internal
                && (communities.contains(&NO_EXPORT) || communities.contains(&NO_EXPORT_SUBCONFED));
        // RFC 9234 section 5, egress: what is for customers only goes nowhere else.
        let upwards = [Role::Customer, Role::Peer, Role::RouteServerClient].map(Some);
        let leak = path.attributes.only_to_customer.is_some() && upwards.contains(&self.role);
        !confined && !leak
    }
}

impl Target {
    pub(crate) fn audience(&self) -> Audience {
        let add_path = &self.context.add_path;
        Audience {
            several: add_path.ipv4.send || add_path.ipv6.send,
            internal: self.internal,
            client: self.client,
            meshed: self.meshed,
            role: self.role,
        }
    }

    /// Whether the peer takes several paths to a prefix (RFC 7911).
    pub(crate) fn tells_several(&self) -> bool {
        self.audience().several
    }

    /// Always ourselves. `None`: the family cannot be announced over this session. IPv4 goes over
    /// IPv6 only where both can (RFC 8950); over an IPv4 session there is no next hop for IPv6.
    pub(crate) fn next_hop(&self, family: Family) -> Option<NextHop> {
        let possible = match (family, self.local) {
            (Family::Ipv4, IpAddr::V4(_)) | (Family::Ipv6, IpAddr::V6(_)) => true,
            (Family::Ipv4, IpAddr::V6(_)) => self.context.extended_next_hop,
            (Family::Ipv6, IpAddr::V4(_)) => false,
        };
        possible.then_some(NextHop {
            address: self.local,
            link_local: None,
        })
    }

    /// Whether the peer may be told of a prefix.
    pub(crate) fn wants(&self, prefix: &IpNet, winner: Winner<'_>, policy: &Policy) -> bool {
        self.matched(prefix, winner, policy).is_some()
    }

    /// The same, with the terms of the policy that change something about it.
    pub(crate) fn matched(
        &self,
        prefix: &IpNet,
        winner: Winner<'_>,
        policy: &Policy,
    ) -> Option<Matched> {
        let family = Family::of(prefix);
        let possible = self.may_have(winner)
            && self.families.contains(&family)
            && self.next_hop(family).is_some()
            && (!is_last_resort(winner) || *self.long_lived.of(family));
        let verdict = match winner {
            _ if !possible => return None,
            Winner::Local => policy.evaluate(prefix, &Attributes::default()),
            Winner::Learnt(path) => policy.evaluate(prefix, path.attributes),
        };
        match verdict {
            Verdict::Accept(matched) => Some(matched),
            Verdict::Reject(_) => None,
        }
    }

    /// Never back to where it came from, and only to whom it is for.
    fn may_have(&self, winner: Winner<'_>) -> bool {
        let Winner::Learnt(path) = winner else {
            return true;
        };
        self.audience().may_have_learnt(path) && path.source.peer != self.peer
    }

    /// The attributes as the peer gets them (RFC 4271 section 5.1, RFC 4456 section 8).
    pub(crate) fn attributes(
        &self,
        winner: Winner<'_>,
        matched: Matched,
        policy: &Policy,
    ) -> Attributes {
        let mut attributes = match winner {
            Winner::Local => Attributes::default(),
            Winner::Learnt(path) => path.attributes.as_ref().clone(),
        };
        if self.internal {
            attributes.local_pref.get_or_insert(DEFAULT_LOCAL_PREF);
            if let Winner::Learnt(path) = winner
                && path.source.internal
            {
                self.reflect(&mut attributes, path);
            }
        } else {
            // RFC 4271 section 5.1.2.
            attributes.as_path.0.insert(0, self.asn);
            attributes.local_pref = None;
            // RFC 4271 section 5.1.4: MED is not passed on to another AS.
            attributes.med = None;
            attributes.originator_id = None;
            attributes.cluster_list.clear();
            // RFC 4360 section 6: bit 0x40 of the type says non-transitive.
            let transitive =
                |community: &[u8; 8]| matches!(community, [kind, ..] if kind & 0x40 == 0);
            attributes.extended_communities.retain(transitive);
            // RFC 9234 section 5, egress: whoever gets it is to pass it on to customers only.
            if let Some(Role::Provider | Role::Peer | Role::RouteServer) = self.role {
                attributes.only_to_customer.get_or_insert(self.asn);
            }
        }
        policy.apply(matched, &mut attributes, self.asn);
        // RFC 9494 section 4.3: no policy takes that away.
        if is_last_resort(winner) && !attributes.communities.contains(&LLGR_STALE) {
            attributes.communities.push(LLGR_STALE);
        }
        if self.drain {
            // RFC 8326 section 4. Inside the AS the preference says so as well; to another AS, of which
            // many have no policy for the community, the MED does as far as it can.
            if !attributes.communities.contains(&GRACEFUL_SHUTDOWN) {
                attributes.communities.push(GRACEFUL_SHUTDOWN);
            }
            match self.internal {
                true => attributes.local_pref = Some(0),
                false => attributes.med = Some(u32::MAX),
            }
        }
        attributes
    }

    fn reflect(&self, attributes: &mut Attributes, path: Learnt<'_>) {
        let originator = &mut attributes.originator_id;
        originator.get_or_insert(path.source.router_id);
        attributes.cluster_list.insert(0, self.router_id);
    }
}

/// Whether the path was kept for long after its peer had gone, here or elsewhere: others are told so,
/// and those who do not know what it means are not told of the path (RFC 9494 section 4.3).
fn is_last_resort(winner: Winner<'_>) -> bool {
    let Winner::Learnt(path) = winner else {
        return false;
    };
    path.long_lived || path.attributes.communities.contains(&LLGR_STALE)
}
