//! Routers that have made themselves known on a link: neighbours that sent router advertisements.

use super::observe::list;
use super::socket::Request;
use super::wire::{address, attribute, u32_at};
use super::{Error, Kernel};
use nix::libc;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// `struct ndmsg`: family, padding, interface (4), state (8), flags (10), type.
const HEADER: usize = 12;
const INTERFACE: usize = 4;
const FLAGS: usize = 10;
const NDA_DST: u16 = 1;

impl Kernel {
    /// The link-local addresses of the routers on each of the overlay's interfaces, by its index.
    pub async fn routers(&self) -> Result<BTreeMap<u32, BTreeSet<Ipv6Addr>>, Error> {
        let mut routers: BTreeMap<u32, BTreeSet<Ipv6Addr>> = BTreeMap::new();
        for (index, router) in list(&self.overlay, "list neighbours", dump(), decode).await? {
            routers.entry(index).or_default().insert(router);
        }
        Ok(routers)
    }
}

fn dump() -> Request {
    let mut body = vec![0; HEADER];
    body.splice(..1, [libc::AF_INET6 as u8]);
    Request {
        kind: libc::RTM_GETNEIGH,
        flags: 0,
        body,
    }
}

/// The interface and the address of a router. The kernel marks as such who has sent a router
/// advertisement, whether or not it takes routes from it.
pub(super) fn decode(kind: u16, body: &[u8]) -> Option<(u32, Ipv6Addr)> {
    let is_router = body.get(FLAGS)? & libc::NTF_ROUTER != 0;
    if kind != libc::RTM_NEWNEIGH || !is_router {
        return None;
    }
    match address(attribute(body.get(HEADER..)?, NDA_DST)?)? {
        IpAddr::V6(router) if router.is_unicast_link_local() => {
            Some((u32_at(body, INTERFACE)?, router))
        }
        _ => None,
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;
    use crate::kernel::wire::put_attribute;
    use proptest::prelude::*;

    /// A neighbour on interface 7.
    fn neighbour(flags: u8, destination: &[u8]) -> Vec<u8> {
        let mut body = vec![10, 0, 0, 0, 7, 0, 0, 0, 4, 0, flags, 1];
        put_attribute(&mut body, 2, &[2, 0, 0, 0, 0, 1]);
        put_attribute(&mut body, NDA_DST, destination);
        body
    }

    #[test]
    fn only_routers_and_only_their_link_local_addresses() {
        let router: Ipv6Addr = "fe80::1".parse().unwrap();
        let global: Ipv6Addr = "fd00::1".parse().unwrap();
        let of = |flags, address: &[u8]| decode(libc::RTM_NEWNEIGH, &neighbour(flags, address));
        assert_eq!(of(0x80, &router.octets()), Some((7, router)));
        assert_eq!(of(0, &router.octets()), None);
        assert_eq!(of(0x80, &global.octets()), None);
        assert_eq!(of(0x80, &[10, 0, 0, 1]), None);
        let gone = decode(libc::RTM_DELNEIGH, &neighbour(0x80, &router.octets()));
        assert_eq!(gone, None);
    }

    proptest! {
        #[test]
        fn nothing_panics(kind in 28u16..31, body: Vec<u8>) {
            let _ = decode(kind, &body);
        }
    }
}
