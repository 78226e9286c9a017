//! The kernel over netlink: what is observed of it, what is applied to it, what it tells by itself.
//!
//! Nothing here decides: [`Kernel::observe`] returns values, [`Kernel::apply`] carries out [`Op`]s
//! in the order given, [`Kernel::events`] says when to look again. All of the machinery is one
//! kind of blocking netlink socket ([`socket`]), each on a thread of its own, and bounded
//! in time; messages are encoded and decoded by pure functions.

mod apply;
mod generation;
mod link;
mod lookup;
mod monitor;
mod neighbour;
mod nexthop;
mod observe;
mod op;
mod path;
mod route;
mod rule;
mod socket;
mod sysctl;
mod vrf;
mod wire;
mod wireguard;
mod xfrm;

pub use apply::{Answers, Begun, OpError, Reason};
pub use generation::generation;
pub use lookup::{Flow, Hop, Interface, Match, Way};
pub use monitor::{Event, Events};
pub use observe::{Foreign, Observed};
pub use op::Op;
pub use path::{Ends, Paths};
pub use route::Route;
pub use rule::Lookup;
pub use socket::Refusal;
pub use sysctl::{Setting, forwarding, in_full, tunnels};
pub use xfrm::{Count, Deletions, Policy, Sa, Xfrm};

use crate::config::Overlay;
use crate::netns::{self, Netns};
use crate::state::{Place, ours};
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use socket::Channel;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use vrf::Vrf;

/// Why the kernel could not be reached or observed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The overlay's namespace.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The kernel said no.
    #[error("{what}: {refusal}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// How it was refused.
        refusal: Refusal,
    },
    /// The overlay's VRF.
    #[error(
        "there is no VRF {0}: create it with `ip link add {0} type vrf table N`, N a number of its own, and set it up"
    )]
    NoVrf(String),
    /// Something else has its name.
    #[error("interface {0} is no VRF: give the overlay another name, or the interface")]
    NotVrf(String),
    /// There is one agent per namespace.
    #[error("network namespace {netns} has an agent already ({source}); stop that one first")]
    Claimed {
        /// Where.
        netns: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A kernel setting cannot be written.
    #[error("sysctl {key} cannot be set to {value}: {source}")]
    Sysctl {
        /// Its name, with dots.
        key: String,
        /// What it was to be.
        value: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Kernel settings cannot be reached.
    #[error("sysctl settings could not be written within {0} s")]
    SysctlTimeout(u64),
}

impl Error {
    /// The overlay is not there. What else has a VRF's name is none.
    pub fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::Netns(netns::Error::Missing(_)) | Self::NoVrf(_) | Self::NotVrf(_)
        )
    }
}

/// Name of the abstract socket that stands for the claim.
const CLAIM: &str = "routemesh-agent";

/// The right to be the agent of two namespaces. Abstract sockets belong to their network namespace
/// and go with their process, however it ends.
#[derive(Debug)]
pub struct Claim(
    #[allow(dead_code, reason = "held, not used")] UnixListener,
    #[allow(dead_code, reason = "held, not used")] Option<UnixListener>,
);

/// The kernel, in the underlay and in the overlay.
pub struct Kernel {
    underlay: Channel,
    /// The same channel where both are one namespace.
    overlay: Channel,
    /// Another one there, for long listings beside which writing goes on.
    listings: Channel,
    /// There too, to WireGuard.
    generic: Channel,
    netns: Netns,
    own: Netns,
    same: bool,
    /// The part of it that is the overlay.
    vrf: Option<Vrf>,
}

impl Kernel {
    /// Opens request sockets in the process's own namespace, the underlay, and in the overlay's.
    pub fn open(overlay: &Overlay) -> Result<Self, Error> {
        let own = Netns::current()?;
        let (netns, vrf) = match overlay {
            Overlay::Own => (own.clone(), None),
            Overlay::Netns(name) => (Netns::named(name)?, None),
            Overlay::Vrf(name) => (own.clone().with_vrf(name), Some(Vrf::named(name)?)),
        };
        let same = own.is(&netns);
        let open_to = |netns: &Netns, protocol| {
            let opened = netns.run(|| Channel::open(protocol))?;
            opened.map_err(|refusal| Error::Refused {
                what: "open a netlink socket",
                refusal,
            })
        };
        let open = |netns: &Netns| open_to(netns, NETLINK_ROUTE);
        let underlay = open(&own)?;
        let overlay = if same {
            underlay.clone()
        } else {
            open(&netns)?
        };
        Ok(Self {
            underlay,
            overlay,
            listings: open(&netns)?,
            generic: open_to(&netns, NETLINK_GENERIC)?,
            netns,
            own,
            same,
            vrf,
        })
    }

    /// Makes this process the only agent in both namespaces, for as long as the claim is held: two
    /// would take each other's interfaces, routes and connections for leftovers of their own.
    pub fn claim(&self) -> Result<Claim, Error> {
        let claim = |netns: &Netns| {
            let name = std::os::unix::net::SocketAddr::from_abstract_name(CLAIM);
            let bind = || name.and_then(|name| UnixListener::bind_addr(&name));
            let bound = netns.run(bind)?;
            bound.map_err(|source| Error::Claimed {
                netns: netns.to_string(),
                source,
            })
        };
        let underlay = claim(&self.own)?;
        let overlay = match self.same {
            true => None,
            false => Some(claim(&self.netns)?),
        };
        Ok(Claim(underlay, overlay))
    }

    /// The overlay's name stands for another namespace or VRF by now, or for none.
    pub fn is_orphaned(&self) -> bool {
        let named = self.netns.name().map(Netns::named);
        let gone = named.is_some_and(|named| !named.is_ok_and(|named| named.is(&self.netns)));
        gone || self.vrf.as_ref().is_some_and(|vrf| !vrf.is_there())
    }

    /// The routing table of the overlay's own routes.
    pub fn table(&self) -> u32 {
        self.vrf.as_ref().map_or(ours::TABLE, |vrf| vrf.table)
    }

    /// Where routes that are to be in this place are: a VRF has a table of its own.
    pub fn place(&self, place: Place) -> Place {
        let table = self.vrf.as_ref().map_or(place.table, |vrf| vrf.table);
        Place { table, ..place }
    }

    /// The underlay's namespace.
    pub fn underlay(&self) -> &Netns {
        &self.own
    }

    /// The overlay's namespace, for the sockets that belong there.
    pub fn overlay(&self) -> &Netns {
        &self.netns
    }
}
