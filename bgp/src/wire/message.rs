//! The messages of BGP-4 as values: what a peer said, or what we are about to say.
//!
//! Nothing here knows bytes; [`decode`](super::decode) and [`encode`](super::encode) do.

use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address family, always with SAFI unicast (RFC 4760).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1.
    Ipv4,
    /// AFI 2.
    Ipv6,
}

impl Family {
    /// The family a prefix belongs to.
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipv4,
            IpNet::V6(_) => Self::Ipv6,
        }
    }
}

/// One BGP message (RFC 4271 section 4, RFC 2918).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// RFC 4271 section 4.2.
    Open(Open),
    /// RFC 4271 section 4.3, with the families of RFC 4760.
    Update(Update),
    /// RFC 4271 section 4.5.
    Notification(Notification),
    /// RFC 4271 section 4.4.
    Keepalive,
    /// RFC 2918: the peer asks for its Adj-RIB-Out again.
    RouteRefresh(Family),
}

/// The first message of each side (RFC 4271 section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The speaker's AS: that of the 4-octet capability where it is present (RFC 6793).
    pub asn: u32,
    /// Proposed hold time in seconds; 0 means none, 1 and 2 are refused.
    pub hold_time: u16,
    /// BGP identifier (RFC 6286: any nonzero value).
    pub router_id: Ipv4Addr,
    /// What the speaker can do (RFC 5492).
    pub capabilities: Capabilities,
}

/// Capabilities that we know (RFC 5492); others are ignored on receipt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Multiprotocol families (RFC 4760). Empty means the capability was absent, which stands for IPv4.
    pub families: BTreeSet<Family>,
    /// IPv4 unicast with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// RFC 2918.
    pub route_refresh: bool,
    /// AS numbers of four octets (RFC 6793).
    pub four_octet_as: bool,
    /// RFC 4724.
    pub graceful_restart: Option<GracefulRestart>,
}

/// The graceful restart capability (RFC 4724 section 3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R: the speaker has restarted.
    pub restarting: bool,
    /// Seconds within which the session will be back; 12 bits.
    pub restart_time: u16,
    /// Families that restart gracefully, and whether the speaker kept forwarding for each (F).
    pub families: Vec<(Family, bool)>,
}

/// Routes that come and go (RFC 4271 section 4.3). The path attributes hold for all of `reach`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Prefixes withdrawn, of either family.
    pub withdrawn: Vec<IpNet>,
    /// Prefixes announced: at most one entry per way to carry them (plain IPv4 NLRI, MP_REACH_NLRI).
    pub reach: Vec<Reach>,
    /// Attributes of the announced prefixes, next hop excepted. Default when nothing is announced.
    pub attributes: Attributes,
    /// Set when this message is an End-of-RIB marker (RFC 4724 section 2); the rest is then empty.
    pub end_of_rib: Option<Family>,
}

/// Prefixes of one family announced with one next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Where to send traffic for them. IPv4 prefixes may have an IPv6 next hop (RFC 8950).
    pub next_hop: NextHop,
    /// All of one family.
    pub prefixes: Vec<IpNet>,
}

/// A next hop as received: an address, and for IPv6 perhaps a link-local one beside it (RFC 2545).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// The global address, or the only one.
    pub address: IpAddr,
    /// The link-local address that came with it.
    pub link_local: Option<Ipv6Addr>,
}

/// Path attributes, next hop and MP attributes excepted: one value may serve many prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attributes {
    /// RFC 4271 section 5.1.1.
    pub origin: Origin,
    /// RFC 4271 section 5.1.2, always with 4-octet AS numbers (AS4_PATH already merged, RFC 6793).
    pub as_path: AsPath,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF, iBGP only.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR: AS and address.
    pub aggregator: Option<(u32, Ipv4Addr)>,
    /// RFC 1997.
    pub communities: Vec<u32>,
    /// RFC 4456.
    pub originator_id: Option<Ipv4Addr>,
    /// RFC 4456.
    pub cluster_list: Vec<Ipv4Addr>,
    /// RFC 4360, each as eight bytes in network order.
    pub extended_communities: Vec<[u8; 8]>,
    /// RFC 8092.
    pub large_communities: Vec<[u32; 3]>,
    /// Unknown transitive attributes, carried on with the Partial bit (RFC 4271 section 9).
    pub unknown: Vec<UnknownAttribute>,
}

/// ORIGIN, in the order of preference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// 0.
    #[default]
    Igp,
    /// 1.
    Egp,
    /// 2.
    Incomplete,
}

/// AS_PATH as segments, nearest AS first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AsPath(pub Vec<Segment>);

/// One segment of an AS_PATH.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// AS_SET: counts as one hop.
    Set(Vec<u32>),
    /// AS_SEQUENCE.
    Sequence(Vec<u32>),
}

impl AsPath {
    /// Hops for the decision process (RFC 4271 section 9.1.2.2 a).
    pub fn length(&self) -> usize {
        self.0
            .iter()
            .map(|segment| match segment {
                Segment::Set(_) => 1,
                Segment::Sequence(ases) => ases.len(),
            })
            .sum()
    }

    /// Whether the path went through `asn`: a loop, if it is ours (RFC 4271 section 9.1.2).
    pub fn contains(&self, asn: u32) -> bool {
        self.0.iter().any(|segment| match segment {
            Segment::Set(ases) | Segment::Sequence(ases) => ases.contains(&asn),
        })
    }

    /// The neighbouring AS, for MED comparison; `None` for a path that began in our AS.
    pub fn first(&self) -> Option<u32> {
        match self.0.first() {
            Some(Segment::Sequence(ases)) => ases.first().copied(),
            _ => None,
        }
    }
}

/// An optional transitive attribute that we do not know but must carry on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnknownAttribute {
    /// Type code.
    pub code: u8,
    /// The value, at most 65,535 bytes.
    pub value: Vec<u8>,
}

/// Why a session ends (RFC 4271 section 4.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// What the error is about.
    pub data: Vec<u8>,
}
