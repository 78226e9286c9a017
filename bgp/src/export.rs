//! What a peer is told: the Adj-RIB-Out of one session, and the rules of announcing.
//!
//! Changed prefixes are collected in a set, so a prefix that changes ten times while the peer is
//! slow is sent once, as it then is. A batch of them is packed into UPDATEs, one per set of
//! attributes, only when the connection can take it: see [`Input::Writable`](crate::Input).

use crate::config::PeerId;
use crate::decision::DEFAULT_LOCAL_PREF;
use crate::policy::{Policy, Verdict};
use crate::rib::{Interner, Path, Rib, Winner};
use crate::wire::{
    Attributes, Context, Family, Message, NextHop, Update, announce, encode, withdraw,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// How many bytes of updates are handed out for a connection before it has to be writable again.
pub(crate) const WINDOW: usize = 64 * 1024;

/// How many prefixes are looked at together: enough to fill messages, few enough that a batch of
/// ordinary attributes stays within the window.
const BATCH: usize = 2048;

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
    /// Our address of the session.
    pub(crate) local: IpAddr,
    /// What both sides exchange.
    pub(crate) families: BTreeSet<Family>,
    pub(crate) context: Context,
}

impl Target {
    /// Always ourselves. `None`: the family cannot be announced over this session. IPv4 goes over
    /// IPv6 only where both can (RFC 8950); over an IPv4 session there is no next hop for IPv6.
    fn next_hop(&self, family: Family) -> Option<NextHop> {
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
    fn wants(&self, prefix: &IpNet, winner: Winner<'_>, allowed: &Policy) -> bool {
        let family = Family::of(prefix);
        self.families.contains(&family)
            && self.next_hop(family).is_some()
            && self.may_have(winner)
            && matches!(self.evaluate(prefix, winner, allowed), Verdict::Accept(_))
    }

    fn evaluate(&self, prefix: &IpNet, winner: Winner<'_>, policy: &Policy) -> Verdict {
        match winner {
            Winner::Local => policy.evaluate(prefix, &Attributes::default()),
            Winner::Learnt(path) => policy.evaluate(prefix, &path.attributes),
        }
    }

    /// Never back to where it came from; from iBGP to iBGP only by reflection (RFC 4456 section
    /// 6); as the communities allow (RFC 1997).
    fn may_have(&self, winner: Winner<'_>) -> bool {
        let Winner::Learnt(path) = winner else {
            return true;
        };
        let source = &path.source;
        let reflected = source.internal && self.internal;
        let communities = &path.attributes.communities;
        let confined = communities.contains(&NO_ADVERTISE)
            || !self.internal
                && (communities.contains(&NO_EXPORT) || communities.contains(&NO_EXPORT_SUBCONFED));
        source.peer != self.peer && !confined && (!reflected || source.client || self.client)
    }

    /// The attributes as the peer gets them (RFC 4271 section 5.1, RFC 4456 section 8).
    fn attributes(&self, winner: Winner<'_>) -> Attributes {
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
        }
        attributes
    }

    fn reflect(&self, attributes: &mut Attributes, path: &Path) {
        let originator = &mut attributes.originator_id;
        originator.get_or_insert(path.source.router_id);
        attributes.cluster_list.insert(0, self.router_id);
    }
}

/// What one session's peer was told, and what it is yet to be told.
#[derive(Debug)]
pub(crate) struct AdjRibOut {
    target: Target,
    /// What the peer was told; `None`: it is to be told again (RFC 2918).
    sent: BTreeMap<IpNet, Option<Arc<Attributes>>>,
    pending: BTreeSet<IpNet>,
    /// Families whose first full announcement is not complete yet.
    end_of_rib: BTreeSet<Family>,
    /// False while we wait for the peers' routes after our own restart.
    open: bool,
    /// Bytes handed out since the connection was last known to be writable.
    unsent: usize,
}

impl AdjRibOut {
    pub(crate) fn new(target: Target) -> Self {
        Self {
            target,
            sent: BTreeMap::new(),
            pending: BTreeSet::new(),
            end_of_rib: BTreeSet::new(),
            open: false,
            unsent: 0,
        }
    }

    /// Begins to announce: all there is, then End-of-RIB.
    pub(crate) fn open(&mut self, rib: &Rib, allowed: &Policy) {
        if !self.open {
            self.open = true;
            self.end_of_rib = self.target.families.clone();
            self.review(rib, allowed);
        }
    }

    /// Looks at all prefixes again, as after a change of policy.
    pub(crate) fn review(&mut self, rib: &Rib, allowed: &Policy) {
        if self.open {
            let wanted = rib
                .winners()
                .filter(|(prefix, winner)| self.target.wants(prefix, *winner, allowed))
                .map(|(prefix, _)| prefix);
            self.pending.extend(wanted);
            self.pending.extend(self.sent.keys());
        }
    }

    /// A prefix has another winner, or none.
    pub(crate) fn changed(&mut self, prefix: IpNet, winner: Option<Winner<'_>>, allowed: &Policy) {
        let wanted = || winner.is_some_and(|it| self.target.wants(&prefix, it, allowed));
        if self.open && (self.sent.contains_key(&prefix) || wanted()) {
            self.pending.insert(prefix);
        }
    }

    /// The peer asks for all of a family again (RFC 2918), End-of-RIB excepted.
    pub(crate) fn refresh(&mut self, family: Family) {
        for (prefix, sent) in &mut self.sent {
            if Family::of(prefix) == family {
                *sent = None;
                self.pending.insert(*prefix);
            }
        }
    }

    /// The connection has taken all that was handed out.
    pub(crate) fn writable(&mut self) {
        self.unsent = 0;
    }

    /// Whether [`AdjRibOut::next`] has something for the peer.
    pub(crate) fn ready(&self) -> bool {
        self.unsent < WINDOW && !(self.pending.is_empty() && self.end_of_rib.is_empty())
    }

    /// The next UPDATEs, as bytes. Empty when a batch turned out to change nothing.
    pub(crate) fn next(&mut self, rib: &Rib, allowed: &Policy, interner: &mut Interner) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (withdrawn, announced) = self.batch(rib, allowed, interner);
        for family in [Family::Ipv4, Family::Ipv6] {
            let of_family = withdrawn.iter().filter(|it| Family::of(it) == family);
            let without_ids = of_family.map(|prefix| (0, *prefix));
            withdraw(family, without_ids, &self.target.context, &mut bytes);
        }
        for prefix in withdrawn {
            self.sent.remove(&prefix);
        }
        for ((family, attributes), prefixes) in announced {
            let Some(next_hop) = self.target.next_hop(family) else {
                continue;
            };
            if self.unsent + bytes.len() >= WINDOW {
                // Prefixes without common attributes make many bytes: they wait their turn.
                self.pending.extend(prefixes);
                continue;
            }
            for prefix in &prefixes {
                self.sent.insert(*prefix, Some(attributes.clone()));
            }
            let without_ids = prefixes.into_iter().map(|prefix| (0, prefix));
            let context = &self.target.context;
            announce(
                family,
                &next_hop,
                &attributes,
                without_ids,
                context,
                &mut bytes,
            );
        }
        if self.pending.is_empty() {
            for family in std::mem::take(&mut self.end_of_rib) {
                let update = Update {
                    end_of_rib: Some(family),
                    ..Update::default()
                };
                encode(&Message::Update(update), &self.target.context, &mut bytes);
            }
        }
        self.unsent += bytes.len();
        bytes
    }

    /// Takes pending prefixes and sorts them: to be withdrawn, to be announced by attributes.
    fn batch(&mut self, rib: &Rib, allowed: &Policy, interner: &mut Interner) -> Batch {
        let mut withdrawn = Vec::new();
        let mut announced: BTreeMap<(Family, Arc<Attributes>), Vec<IpNet>> = BTreeMap::new();
        // Neighbouring prefixes mostly come from the same message: what the last one was turned
        // into serves the next.
        let mut last: Option<(Winner<'_>, Arc<Attributes>)> = None;
        for _ in 0..BATCH {
            let Some(prefix) = self.pending.pop_first() else {
                break;
            };
            let winner = rib.winner(&prefix);
            let wanted = winner.filter(|winner| self.target.wants(&prefix, *winner, allowed));
            let told = self.sent.get(&prefix);
            let Some(winner) = wanted else {
                if told.is_some() {
                    withdrawn.push(prefix);
                }
                continue;
            };
            let attributes = match &last {
                Some((before, attributes)) if alike(*before, winner) => attributes.clone(),
                _ => interner.intern(self.target.attributes(winner)),
            };
            if told != Some(&Some(attributes.clone())) {
                let group = announced.entry((Family::of(&prefix), attributes.clone()));
                group.or_default().push(prefix);
            }
            last = Some((winner, attributes));
        }
        (withdrawn, announced)
    }

    /// What the peer was told and not told to forget.
    pub(crate) fn sent(&self) -> impl Iterator<Item = (IpNet, Arc<Attributes>)> {
        let sent = self.sent.iter();
        sent.filter_map(|(prefix, attributes)| Some((*prefix, attributes.clone()?)))
    }

    pub(crate) fn count(&self) -> usize {
        self.sent.len()
    }
}

type Batch = (Vec<IpNet>, BTreeMap<(Family, Arc<Attributes>), Vec<IpNet>>);

/// Whether two winners are announced with the same attributes, as far as can be seen at once.
fn alike(one: Winner<'_>, other: Winner<'_>) -> bool {
    match (one, other) {
        (Winner::Local, Winner::Local) => true,
        (Winner::Learnt(one), Winner::Learnt(other)) => {
            Arc::ptr_eq(&one.attributes, &other.attributes) && one.source == other.source
        }
        _ => false,
    }
}
