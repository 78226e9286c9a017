//! The VRF that is the overlay, where it is one: the operator's, and never changed here.

use super::Error;
use super::link::{self, Interface};
use super::socket::{Refusal, Socket};
use netlink_packet_core::NLM_F_ACK;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

/// A VRF of the agent's own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vrf {
    name: String,
    pub index: u32,
    /// Its routing table: for as long as it lives, the same.
    pub table: u32,
}

impl Vrf {
    pub fn named(name: &str) -> Result<Self, Error> {
        let asked = Socket::open(NETLINK_ROUTE)
            .and_then(|mut socket| socket.ask(&link::get(name), NLM_F_ACK, link::decode));
        let found = match asked {
            Ok(mut found) => found.pop(),
            Err(Refusal {
                errno: Errno::ENODEV,
                ..
            }) => None,
            Err(refusal) => {
                let what = "look for the VRF";
                return Err(Error::Refused { what, refusal });
            }
        };
        let Interface { index, table, .. } = found.ok_or_else(|| Error::NoVrf(name.to_owned()))?;
        Ok(Self {
            name: name.to_owned(),
            index,
            table: table.ok_or_else(|| Error::NotVrf(name.to_owned()))?,
        })
    }

    /// Nobody has deleted it, nor made another of its name.
    pub fn is_there(&self) -> bool {
        if_nametoindex(self.name.as_str()) == Ok(self.index)
    }

    /// It is this interface, or has it as a part.
    pub fn has(&self, interface: &Interface) -> bool {
        interface.index == self.index || interface.master == Some(self.index)
    }
}
