//! The messages of BGP-4 as values: what a peer said, or what we are about to say.
//!
//! Nothing here knows bytes; [`decode`](super::decode) and [`encode`](super::encode) do.

use super::UpdateView;
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

/// Something for each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PerFamily<T> {
    /// For [`Family::Ipv4`].
    pub ipv4: T,
    /// For [`Family::Ipv6`].
    pub ipv6: T,
}

impl<T> PerFamily<T> {
    /// What a family has.
    pub fn of(&self, family: Family) -> &T {
        match family {
            Family::Ipv4 => &self.ipv4,
            Family::Ipv6 => &self.ipv6,
        }
    }

    /// What a family has, to be changed.
    pub fn of_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::Ipv4 => &mut self.ipv4,
            Family::Ipv6 => &mut self.ipv6,
        }
    }
}

/// What is done in one direction, the other, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Directions {
    /// From the peer.
    pub receive: bool,
    /// To the peer.
    pub send: bool,
}

impl Directions {
    /// In no direction.
    pub const NEITHER: Self = Self {
        receive: false,
        send: false,
    };
    /// In both directions.
    pub const BOTH: Self = Self {
        receive: true,
        send: true,
    };
}

/// One BGP message (RFC 4271 section 4, RFC 2918). A received one has an
/// [`UpdateView`](super::UpdateView) for its UPDATE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<U = Update> {
    /// RFC 4271 section 4.2.
    Open(Open),
    /// RFC 4271 section 4.3, with the families of RFC 4760.
    Update(U),
    /// RFC 4271 section 4.5.
    Notification(Notification),
    /// RFC 4271 section 4.4.
    Keepalive,
    /// RFC 2918, RFC 7313.
    RouteRefresh(Family, Refresh),
}

/// What a ROUTE-REFRESH is about: its subtype (RFC 7313 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refresh {
    /// The sender asks for the receiver's Adj-RIB-Out again (RFC 2918).
    Request,
    /// The sender begins to send its Adj-RIB-Out again.
    Begin,
    /// The sender has sent all of it.
    End,
}

impl Message<UpdateView<'_>> {
    /// The same, without the bytes it came in.
    pub fn to_owned(&self) -> Message {
        match self {
            Self::Open(open) => Message::Open(open.clone()),
            Self::Update(update) => Message::Update(update.to_update()),
            Self::Notification(notification) => Message::Notification(notification.clone()),
            Self::Keepalive => Message::Keepalive,
            Self::RouteRefresh(family, refresh) => Message::RouteRefresh(*family, *refresh),
        }
    }
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
    /// RFC 7313.
    pub enhanced_route_refresh: bool,
    /// The speaker takes messages of 65,535 bytes (RFC 8654).
    pub extended_messages: bool,
    /// What the speaker is to the other one (RFC 9234).
    pub role: Option<Role>,
    /// Several paths to a prefix (RFC 7911), as the speaker sees it.
    pub add_path: PerFamily<Directions>,
    /// RFC 9494; only of use beside `graceful_restart`.
    pub long_lived: PerFamily<Option<LongLived>>,
}

/// Long-lived graceful restart of one family (RFC 9494 section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LongLived {
    /// F: the speaker kept forwarding.
    pub forwarding: bool,
    /// How long stale paths may be kept, in seconds; 24 bits.
    pub seconds: u32,
}

/// What the sender of an OPEN is to the receiver (RFC 9234 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// 0: the receiver buys transit from it.
    Provider,
    /// 1: a route server.
    RouteServer,
    /// 2: a client of a route server.
    RouteServerClient,
    /// 3: it buys transit from the receiver.
    Customer,
    /// 4: each carries its customers' traffic for the other.
    Peer,
    /// A value that is not assigned: it agrees with no other.
    Unassigned(u8),
}

/// The graceful restart capability (RFC 4724 section 3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R: the speaker has restarted.
    pub restarting: bool,
    /// Seconds within which the session will be back; 12 bits.
    pub restart_time: u16,
    /// N: sessions restart gracefully after a NOTIFICATION, too, hard resets excepted (RFC 8538).
    pub notification: bool,
    /// Families that restart gracefully, and whether the speaker kept forwarding for each (F).
    pub families: Vec<(Family, bool)>,
}

impl Role {
    /// Whether the other side may have this role (RFC 9234 section 4.2, table 2); if not, the
    /// session is refused with "Role Mismatch".
    pub fn fits(self, other: Self) -> bool {
        use Role::{Customer, Peer, Provider, RouteServer, RouteServerClient};
        matches!(
            (self, other),
            (Provider, Customer)
                | (Customer, Provider)
                | (RouteServer, RouteServerClient)
                | (RouteServerClient, RouteServer)
                | (Peer, Peer)
        )
    }
}

/// Routes that come and go (RFC 4271 section 4.3), as a value. The path attributes hold for all of
/// `reach`. Prefixes have a path identifier before them, which is zero where the family has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Prefixes withdrawn, of either family.
    pub withdrawn: Vec<(u32, IpNet)>,
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
    pub prefixes: Vec<(u32, IpNet)>,
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
    /// Only to customers: the AS that said so first (RFC 9234 section 5).
    pub only_to_customer: Option<u32>,
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

/// AS_PATH, nearest AS first. How it was cut into AS_SEQUENCE segments makes no difference, and
/// a route with an AS_SET is never taken (RFC 9774).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AsPath(pub Vec<u32>);

impl AsPath {
    /// Hops for the decision process (RFC 4271 section 9.1.2.2 a).
    pub fn length(&self) -> usize {
        self.0.len()
    }

    /// Whether the path went through `asn`: a loop, if it is ours (RFC 4271 section 9.1.2).
    pub fn contains(&self, asn: u32) -> bool {
        self.0.contains(&asn)
    }

    /// The neighbouring AS, for MED comparison; `None` for a path that began in our AS.
    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
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

#[cfg(test)]
mod tests {
    use super::Role::*;

    /// RFC 9234 section 4.2, table 2.
    #[test]
    fn only_five_pairs_of_roles_fit() {
        let all = [
            Provider,
            RouteServer,
            RouteServerClient,
            Customer,
            Peer,
            Unassigned(5),
        ];
        let fitting = all.map(|one| all.map(|other| one.fits(other)).iter().position(|it| *it));
        assert_eq!(fitting, [Some(3), Some(2), Some(1), Some(0), Some(4), None]);
        for one in all {
            assert!(all.into_iter().filter(|other| one.fits(*other)).count() <= 1);
        }
    }
}
