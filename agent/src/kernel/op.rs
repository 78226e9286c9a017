//! One change to the kernel, as a value: what planning makes and applying does.

use crate::state::{
    Group, LinkKind, Member, Nexthop, NexthopId, RouteKey, Side, Target, WireGuard,
};
use ipnet::IpNet;
use std::fmt;

/// A change to make. Each is idempotent: where it is already so, it succeeds.
///
/// The three `Put`s say with `replace` whether the object was observed as ours. Without it they only
/// create, and what is there already, unless it is ours and the same, is a conflict: the kernel
/// would otherwise replace a stranger's route that has the same prefix and metric, or a stranger's
/// nexthop that has the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Creates a tunnel interface in the underlay, down.
    AddLink {
        /// Its name.
        name: String,
        /// What it is.
        kind: LinkKind,
        /// Inner MTU.
        mtu: u32,
    },
    /// Moves a tunnel interface of ours from the underlay to the overlay. It arrives down and bare.
    MoveLink {
        /// Its name.
        name: String,
    },
    /// Sets a tunnel interface of ours, in the overlay, up or down, and its MTU.
    SetLink {
        /// Its name.
        name: String,
        /// Administratively up.
        up: bool,
        /// Inner MTU.
        mtu: u32,
    },
    /// Gives a WireGuard interface of ours, in the overlay, its key, port and peer.
    SetWireGuard {
        /// Its name.
        name: String,
        /// What it is to have.
        wireguard: Box<WireGuard>,
        /// Without what it had of peers: what was agreed on with them ends.
        anew: bool,
    },
    /// Deletes a tunnel interface of ours.
    DelLink {
        /// Its name.
        name: String,
        /// Where it is.
        side: Side,
    },
    /// Adds an address to a tunnel interface of ours, in the overlay.
    AddAddress {
        /// The interface.
        link: String,
        /// Address with prefix length.
        address: IpNet,
    },
    /// Takes an address from a tunnel interface of ours, in the overlay.
    DelAddress {
        /// The interface.
        link: String,
        /// Address with prefix length.
        address: IpNet,
    },
    /// Creates a nexthop, or changes the one of ours that has its id.
    PutNexthop {
        /// Its id.
        id: NexthopId,
        /// What it is to be.
        nexthop: Nexthop,
        /// It exists and is ours.
        replace: bool,
    },
    /// Deletes a nexthop; every group it is in shrinks.
    DelNexthop {
        /// Its id.
        id: NexthopId,
    },
    /// Creates a nexthop group, or changes the one of ours that has its id.
    PutGroup {
        /// Its id.
        id: NexthopId,
        /// What it is to be.
        group: Group,
        /// It exists and is ours.
        replace: bool,
    },
    /// Deletes a nexthop group, and with it the routes over it.
    DelGroup {
        /// Its id.
        id: NexthopId,
    },
    /// Creates a route, or changes the one of ours that has its key, in
    /// one step: no packet sees it missing.
    PutRoute {
        /// Which route.
        key: RouteKey,
        /// What it is to do.
        target: Target,
        /// It exists and is ours.
        replace: bool,
    },
    /// Deletes a route of ours; a stranger's with the same key stays.
    DelRoute {
        /// Which route.
        key: RouteKey,
    },
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLink {
                name,
                kind: LinkKind::Xfrm { if_id },
                mtu,
            } => {
                write!(f, "add link {name} type xfrm if_id {if_id:#x} mtu {mtu}")
            }
            Self::AddLink {
                name,
                kind: LinkKind::Vti { local, remote, key },
                mtu,
            } => {
                let kind = if local.is_ipv4() { "vti" } else { "vti6" };
                write!(
                    f,
                    "add link {name} type {kind} local {local} remote {remote} key {key:#x} mtu {mtu}"
                )
            }
            Self::AddLink {
                name,
                kind: LinkKind::WireGuard { group },
                mtu,
            } => {
                write!(
                    f,
                    "add link {name} type wireguard group {group:#x} mtu {mtu}"
                )
            }
            Self::SetWireGuard {
                name, wireguard, ..
            } => {
                write!(f, "set wireguard {name} listen-port {}", wireguard.port)?;
                match &wireguard.peer {
                    Some(peer) => {
                        let (key, endpoint) = (peer.public_key, peer.endpoint);
                        write!(f, " peer {key} endpoint {endpoint}")
                    }
                    None => Ok(()),
                }
            }
            Self::MoveLink { name } => write!(f, "move link {name} to the overlay"),
            Self::SetLink { name, up, mtu } => {
                write!(
                    f,
                    "set link {name} {} mtu {mtu}",
                    if *up { "up" } else { "down" }
                )
            }
            Self::DelLink {
                name,
                side: Side::Overlay,
            } => write!(f, "delete link {name}"),
            Self::DelLink {
                name,
                side: Side::Underlay,
            } => {
                write!(f, "delete link {name} in the underlay")
            }
            Self::AddAddress { link, address } => write!(f, "add address {address} dev {link}"),
            Self::DelAddress { link, address } => write!(f, "delete address {address} dev {link}"),
            Self::PutNexthop {
                id,
                nexthop: Nexthop { gateway, link },
                replace,
            } => {
                write!(
                    f,
                    "{} nexthop {id} via {gateway} dev {link}",
                    verb(*replace)
                )
            }
            Self::DelNexthop { id } => write!(f, "delete nexthop {id}"),
            Self::PutGroup { id, group, replace } => {
                let kind = if group.resilient { "resilient " } else { "" };
                write!(f, "{} {kind}nexthop group {id} of", verb(*replace))?;
                for Member { id, weight } in &group.members {
                    write!(f, " {id}*{weight}")?;
                }
                Ok(())
            }
            Self::DelGroup { id } => write!(f, "delete nexthop group {id}"),
            Self::PutRoute {
                key,
                target,
                replace,
            } => {
                write!(f, "{} route {key} ", verb(*replace))?;
                match target {
                    Target::Group(id) => write!(f, "via group {id}"),
                    Target::Unreachable => write!(f, "unreachable"),
                }
            }
            Self::DelRoute { key } => write!(f, "delete route {key}"),
        }
    }
}

fn verb(replace: bool) -> &'static str {
    if replace { "replace" } else { "add" }
}
