//! The kernel over netlink: what is observed of it, what is applied to it, what it tells by itself.
//!
//! Nothing here decides: [`Kernel::observe`] returns values, [`Kernel::apply`] carries out [`Op`]s
//! in the order given, [`Kernel::events`] says when to look again. All of the machinery is one
//! kind of blocking netlink socket ([`socket`]), driven from tokio's blocking threads and bounded
//! in time; messages are encoded and decoded by pure functions.

mod apply;
mod link;
mod monitor;
mod nexthop;
mod observe;
mod op;
mod route;
mod socket;
mod sysctl;
mod wire;

pub use apply::{OpError, Reason};
pub use monitor::{Event, Events};
pub use observe::Observed;
pub use op::Op;
pub use socket::Refusal;
pub use sysctl::{Setting, forwarding, tunnels};

use crate::netns::{self, Netns};
use socket::Channel;

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

/// The kernel, in the underlay and in the overlay.
pub struct Kernel {
    underlay: Channel,
    /// The same channel where both are one namespace.
    overlay: Channel,
    netns: Netns,
    own: Netns,
    same: bool,
}

impl Kernel {
    /// Opens request sockets in the process's own namespace, the underlay, and in the overlay: the
    /// namespace of this name, or the same where there is none.
    pub fn open(overlay: Option<&str>) -> Result<Self, Error> {
        let own = Netns::current()?;
        let netns = match overlay {
            Some(name) => Netns::named(name)?,
            None => own.clone(),
        };
        let same = own.is(&netns);
        let open = |netns: &Netns| {
            let opened = netns.run(Channel::open)?;
            opened.map_err(|refusal| Error::Refused {
                what: "open a netlink socket",
                refusal,
            })
        };
        let underlay = open(&own)?;
        let overlay = if same {
            underlay.clone()
        } else {
            open(&netns)?
        };
        Ok(Self {
            underlay,
            overlay,
            netns,
            own,
            same,
        })
    }

    /// The overlay's namespace, for the sockets that belong there.
    pub fn overlay(&self) -> &Netns {
        &self.netns
    }
}
