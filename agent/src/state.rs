//! What there is to keep true on a gateway, as one ordered value: [`State`].
//!
//! Desired and observed are the same type, so that comparing them is all that planning does, and
//! `plan(x, x)` is empty. Only what is ours appears here: an object of somebody else is invisible
//! to every pass, and so survives it.

use crate::fib::Fib;
use crate::kernel::Op;
use crate::wireguard::PrivateKey;
use ipnet::IpNet;
use routemesh_proto::PublicKey;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The marks by which an object is known to be ours, in kernel and charon.
pub mod ours {
    /// `rtm_protocol` of our routes and nexthops (`R`; unassigned in iproute2's `rt_protos`).
    pub const PROTOCOL: u8 = 82;
    /// Nexthop and nexthop group ids lie in this range.
    pub const NEXTHOPS: std::ops::RangeInclusive<u32> = 0x5200_0000..=0x52ff_ffff;
    /// `if_id` (XFRM), key and mark (VTI) or interface group (WireGuard) of tunnel 0; a tunnel's own is
    /// this plus its number.
    pub const IF_ID: u32 = routemesh_proto::FIRST_KEY;
    /// Tunnel interfaces are named by this and the tunnel's number.
    pub const LINK_PREFIX: &str = "rm";
    /// charon connections are named by this, the tunnel's number, a dash and the peer.
    pub const CONNECTION_PREFIX: &str = "rm";
    /// Metric of the routes that carry traffic, unless the specification says another.
    pub const METRIC: u32 = 50;
    /// The main table (`RT_TABLE_MAIN`), where routes are unless the specification says another.
    pub const TABLE: u32 = 254;
    /// Metric of the `unreachable` routes that catch what no tunnel serves: the worst there is.
    pub const METRIC_UNREACHABLE: u32 = u32::MAX;

    /// The name of a peer or a connection, where it is that of a tunnel: for who looks for one in the log.
    pub fn tunnel(name: &str) -> Option<&str> {
        let number = name.strip_prefix(LINK_PREFIX)?;
        number
            .starts_with(|c: char| c.is_ascii_digit())
            .then_some(name)
    }
}

/// Everything of ours in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Tunnel interfaces by name.
    pub links: BTreeMap<String, Link>,
    /// Single nexthops by id.
    pub nexthops: BTreeMap<NexthopId, Nexthop>,
    /// Nexthop groups by id, never empty.
    pub groups: BTreeMap<NexthopId, Group>,
    /// Where the routes that carry traffic belong.
    pub place: Place,
    /// Routes that carry traffic: those in their place.
    pub routes: Fib,
    /// The others: `unreachable` ones, and those that were in place before it was another.
    pub barriers: BTreeMap<RouteKey, Target>,
}

impl State {
    /// What an operation that was carried out has made of this.
    pub fn done(&mut self, op: &Op) {
        match op {
            Op::AddLink { name, kind, mtu } => {
                let link = Link {
                    side: Side::Underlay,
                    kind: kind.clone(),
                    up: false,
                    mtu: *mtu,
                    addresses: BTreeSet::new(),
                    wireguard: None,
                };
                self.links.insert(name.clone(), link);
            }
            Op::MoveLink { name } => self.change(name, |link| {
                (link.side, link.up) = (Side::Overlay, false);
                link.addresses.clear();
            }),
            Op::SetLink { name, up, mtu } => {
                self.change(name, |link| (link.up, link.mtu) = (*up, *mtu));
            }
            Op::SetWireGuard {
                name, wireguard, ..
            } => self.change(name, |link| link.wireguard = Some(*wireguard.clone())),
            Op::DelLink { name, .. } => self.forget_link(name),
            Op::AddAddress { link, address } => {
                self.change(link, |link| {
                    link.addresses.insert(*address);
                });
            }
            Op::DelAddress { link, address } => {
                self.change(link, |link| {
                    link.addresses.remove(address);
                });
            }
            Op::PutNexthop { id, nexthop, .. } => {
                self.nexthops.insert(*id, nexthop.clone());
            }
            Op::PutGroup { id, group, .. } => {
                self.groups.insert(*id, group.clone());
            }
            Op::DelNexthop { id } | Op::DelGroup { id } => self.forget_nexthops(&[*id].into()),
            Op::PutRoute { key, target, .. } => match target {
                Target::Group(group) if self.place.holds(key) => {
                    self.routes.insert(&key.prefix, *group);
                }
                target => drop(self.barriers.insert(*key, *target)),
            },
            Op::DelRoute { key } => match self.place.holds(key) {
                true => drop(self.routes.remove(&key.prefix)),
                false => drop(self.barriers.remove(key)),
            },
        }
    }

    fn change(&mut self, link: &str, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.get_mut(link) {
            change(link);
        }
    }

    /// Routes that carry traffic belong elsewhere from now on. Those that there are stay until the
    /// others are in place.
    pub fn move_to(&mut self, place: Place) {
        let before = std::mem::replace(&mut self.place, place);
        let routes = std::mem::take(&mut self.routes);
        let old = routes
            .iter()
            .map(|(prefix, group)| (before.key(prefix), Target::Group(group)));
        self.barriers.extend(old);
        // They may have been there once before.
        let back = self.barriers.extract_if(.., |key, target| {
            place.holds(key) && matches!(target, Target::Group(_))
        });
        for (key, target) in back {
            if let Target::Group(group) = target {
                self.routes.insert(&key.prefix, group);
            }
        }
    }

    /// What the kernel does by itself when nexthops or groups go: groups shrink, empty groups go,
    /// and with them their routes.
    pub fn forget_nexthops(&mut self, ids: &BTreeSet<NexthopId>) {
        self.nexthops.retain(|id, _| !ids.contains(id));
        self.groups.retain(|id, group| {
            group.members.retain(|member| !ids.contains(&member.id));
            !group.members.is_empty() && !ids.contains(id)
        });
        self.forget_stranded();
    }

    /// Routes go with their group; those that have none of ours are none of this.
    pub fn forget_stranded(&mut self) {
        let groups = &self.groups;
        let stays = |id: NexthopId| groups.contains_key(&id) || id == NexthopId(0);
        // The walk over all routes, only where there is something to find.
        if !self.routes.groups().all(stays) {
            self.routes.retain(|_, group| stays(group));
        }
        self.barriers.retain(|_, target| match target {
            Target::Group(group) => stays(*group),
            Target::Unreachable => true,
        });
    }

    /// What the kernel does by itself when an interface goes: its nexthops go.
    pub fn forget_link(&mut self, name: &str) {
        self.links.remove(name);
        let over = self.nexthops.iter().filter(|(_, n)| n.link == name);
        let ids = over.map(|(id, _)| *id).collect();
        self.forget_nexthops(&ids);
    }
}

/// A tunnel interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where it is: made in the underlay, it belongs in the overlay.
    pub side: Side,
    /// What it is and how it finds its SAs.
    pub kind: LinkKind,
    /// Administratively up.
    pub up: bool,
    /// Inner MTU; path MTU discovery takes off what ESP needs.
    pub mtu: u32,
    /// Addresses with prefix length, link-local ones excepted.
    pub addresses: BTreeSet<IpNet>,
    /// What WireGuard has for it: of that kind, in the overlay, and as we make it.
    pub wireguard: Option<WireGuard>,
}

/// What a WireGuard interface has, and what can be changed on a living one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireGuard {
    /// The gateway's.
    pub private_key: PrivateKey,
    /// UDP port, on all addresses of the underlay.
    pub port: u16,
    /// `None` while its key is not known: nothing passes.
    pub peer: Option<Peer>,
}

/// The far end of a WireGuard tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub public_key: PublicKey,
    /// Where it is.
    pub endpoint: SocketAddr,
}

/// One of the two network namespaces, which may be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Public addresses and charon.
    Underlay,
    /// Private routing and BGP.
    Overlay,
}

/// How an interface is bound to its SAs. Cannot be changed on a living interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// An XFRM interface.
    Xfrm {
        /// Of the interface and of its SAs and policies.
        if_id: u32,
    },
    /// A VTI (both addresses IPv4: `vti`) or VTI6 (`vti6`).
    Vti {
        /// Outer source.
        local: IpAddr,
        /// Outer destination.
        remote: IpAddr,
        /// ikey and okey, and the mark of its SAs and policies.
        key: u32,
    },
    /// A WireGuard interface, without any SAs.
    WireGuard {
        /// Of interfaces; nobody's traffic goes by it. A mark that an interface has from the start.
        group: u32,
    },
}

/// The id of a nexthop or of a nexthop group: one number space in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NexthopId(pub u32);

impl fmt::Display for NexthopId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where to send packets: a neighbour on an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nexthop {
    /// The neighbour: the far interconnect address, or a router on the LAN.
    pub gateway: IpAddr,
    /// Interface name in the overlay.
    pub link: String,
}

/// What a nexthop group is: groups that are equal serve routes equally.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Its nexthops.
    pub members: BTreeSet<Member>,
    /// A flow stays with its nexthop when others come or go, as far as that can be.
    pub resilient: bool,
}

/// A nexthop's place in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// A single nexthop.
    pub id: NexthopId,
    /// Share of the flows, 1 to 256.
    pub weight: u16,
}

/// Where the routes that carry traffic belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The routing table.
    pub table: u32,
    /// Their metric.
    pub metric: u32,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            table: ours::TABLE,
            metric: ours::METRIC,
        }
    }
}

impl Place {
    /// Whether the route carries traffic, or should.
    pub fn holds(&self, key: &RouteKey) -> bool {
        (key.table, key.metric) == (self.table, self.metric)
    }

    /// The route to a prefix.
    pub fn key(&self, prefix: IpNet) -> RouteKey {
        RouteKey {
            prefix,
            table: self.table,
            metric: self.metric,
        }
    }

    /// The one that catches what no tunnel serves.
    pub fn barrier(&self, prefix: IpNet) -> RouteKey {
        RouteKey {
            metric: ours::METRIC_UNREACHABLE,
            ..self.key(prefix)
        }
    }
}

/// What makes a route one route: the kernel holds one per table, destination and metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Destination.
    pub prefix: IpNet,
    /// The routing table it is in.
    pub table: u32,
    /// Priority: the smaller wins.
    pub metric: u32,
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} metric {}", self.prefix, self.metric)?;
        match self.table {
            ours::TABLE => Ok(()),
            table => write!(f, " table {table}"),
        }
    }
}

/// What a route does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Spreads them over a group.
    Group(NexthopId),
    /// Refuses them with an ICMP error: nothing in clear, ever.
    Unreachable,
}

/// An IKE connection with its children, as charon is to have it.
///
/// charon does not tell all of what it was given (proposals, certificates), so its children are named
/// by [`Connection::digest`]: a connection of another content has other children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// FNV-1a over everything that was loaded, as 16 hexadecimal digits.
    pub digest: String,
    /// Numbers of the tunnels that it carries besides the one that it is named after.
    pub more: BTreeSet<u32>,
}
