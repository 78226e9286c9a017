//! What a speaker is told about itself and its peers.

use crate::policy::Policy;
use crate::wire::{Family, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

/// A moment: the time passed since some arbitrary start, the same for all calls.
pub type Time = Duration;

/// A peer's name in the configuration, e.g. "V2-1" or "router fd00:1::254". Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub Arc<str>);

impl From<&str> for PeerId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for PeerId {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A TCP connection, numbered by whoever drives the speaker; a number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// A speaker and all its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// Our AS.
    pub asn: u32,
    /// Our BGP identifier; also our cluster id when we reflect routes (RFC 4456).
    pub router_id: Ipv4Addr,
    /// How long peers may keep our routes while we restart (RFC 4724), at most 4,095 s.
    pub restart_time: Duration,
    /// How long after the start the peers' End-of-RIB are waited for (RFC 4724 section 4.1,
    /// Selection_Deferral_Timer).
    pub deferral_time: Duration,
    /// The peers.
    pub peers: BTreeMap<PeerId, PeerConfig>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its AS; ours means iBGP.
    pub asn: u32,
    /// Our address of the session, and the next hop of all we announce over it.
    pub local: IpAddr,
    /// Its address.
    pub remote: IpAddr,
    /// The hold time we propose: zero (never) or at least 3 s.
    pub hold_time: Duration,
    /// Families to exchange, as far as the peer has them too.
    pub families: BTreeSet<Family>,
    /// What is taken from the peer. What is not shows up in
    /// [`Speaker::rejected`](crate::Speaker::rejected). `None`: nothing from an eBGP peer
    /// (RFC 8212), everything from an iBGP peer.
    pub import: Option<Policy>,
    /// What the peer is told, by the same rule.
    pub export: Option<Policy>,
    /// A route reflection client (RFC 4456): an iBGP router on the LAN, which is told what was
    /// learnt by iBGP, and whose routes the other iBGP peers are told. Means nothing in eBGP.
    pub client: bool,
    /// One of a full mesh: what one of it says, no other one is told, as in iBGP (RFC 4271 section 9.2),
    /// whatever their ASes.
    pub meshed: bool,
    /// The session ends when the peer announces more prefixes, refused ones included. 0: no limit.
    pub max_prefixes: usize,
    /// What we are to the peer (RFC 9234), in eBGP.
    pub role: Option<Role>,
    /// Never connect to the peer, only accept: the peer may be one of many in a range of addresses.
    pub passive: bool,
    /// Offer to exchange several paths per prefix, both ways (RFC 7911).
    pub add_path: bool,
    /// Offer that NOTIFICATIONs and an expired hold timer restart gracefully too (the N bit of
    /// RFC 8538). Not where a silent peer means a dead link: its paths would be kept.
    pub graceful_notification: bool,
    /// How long paths of the peer, and ours at the peer, are kept as a last resort when its restart
    /// time is over (RFC 9494); zero: not at all.
    pub long_lived: Duration,
    /// Our paths are about to go: the peer is asked to use any other (RFC 8326).
    pub drain: bool,
}

impl PeerConfig {
    /// What the peer may be told, in force: RFC 8212 included.
    pub(crate) fn export_policy(&self, own_as: u32) -> Policy {
        match &self.export {
            None if self.asn == own_as => Policy::accept(),
            policy => policy.clone().unwrap_or_default(),
        }
    }

    /// A peer with which both families are exchanged, without a policy and anything that is
    /// optional.
    pub fn new(asn: u32, local: IpAddr, remote: IpAddr) -> Self {
        Self {
            asn,
            local,
            remote,
            hold_time: Duration::from_secs(90),
            families: BTreeSet::from([Family::Ipv4, Family::Ipv6]),
            import: None,
            export: None,
            client: false,
            meshed: false,
            max_prefixes: 0,
            role: None,
            passive: false,
            add_path: false,
            graceful_notification: false,
            long_lived: Duration::ZERO,
            drain: false,
        }
    }
}
