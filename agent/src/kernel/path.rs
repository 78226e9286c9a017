//! The MTU of the way to an address: that of its interface, or less where a route says so or path MTU
//! discovery has found out.

use super::link;
use super::socket::Request;
use super::wire::{attribute, octets, put_attribute, u32_at};
use super::{Error, Kernel};
use nix::libc;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// `struct rtmsg`.
const HEADER: usize = 12;
const RTAX_MTU: u16 = 2;

/// The kernel tells nobody when it learns another MTU: it is asked again after this.
const AGAIN: Duration = Duration::from_secs(10);

/// The two ends of a path: here, which may be unspecified, and there.
pub type Ends = (IpAddr, IpAddr);

/// The MTUs of the underlay's paths, as they were looked up.
#[derive(Debug, Default)]
pub struct Paths {
    mtus: BTreeMap<Ends, u32>,
    looked: Option<Instant>,
}

impl Paths {
    /// Looks up these paths, those that are known already no more often than is worth it. Those that
    /// do not exist are left out.
    pub async fn look(&mut self, kernel: &Kernel, ends: BTreeSet<Ends>) -> Result<(), Error> {
        let now = Instant::now();
        if self.looked.is_none_or(|at| at + AGAIN <= now) {
            self.looked = Some(now);
            self.mtus.clear();
        }
        self.mtus.retain(|known, _| ends.contains(known));
        for (local, remote) in ends {
            if let Entry::Vacant(place) = self.mtus.entry((local, remote))
                && let Some(mtu) = kernel.path_mtu(local, remote).await?
            {
                place.insert(mtu);
            }
        }
        Ok(())
    }

    /// What was found.
    pub fn mtus(&self) -> &BTreeMap<Ends, u32> {
        &self.mtus
    }
}

impl Kernel {
    /// The MTU of the underlay's path between two addresses; `None` where there is none.
    pub async fn path_mtu(&self, local: IpAddr, remote: IpAddr) -> Result<Option<u32>, Error> {
        let channel = &self.underlay;
        let refused = |refusal| Error::Refused {
            what: "look up the path to the far endpoint of a tunnel",
            refusal,
        };
        let route = channel.get(request(local, remote), decode).await;
        let (interface, mtu) = match route {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            // No route, or the address is not here now: as good as no path.
            Err(refusal) if is_no_path(refusal.errno) => return Ok(None),
            Err(refusal) => return Err(refused(refusal)),
        };
        if mtu.is_some() {
            return Ok(mtu);
        }
        let link = channel.get(link::get_index(interface), link::decode).await;
        Ok(link.map_err(refused)?.map(|link| link.mtu))
    }
}

fn is_no_path(errno: nix::errno::Errno) -> bool {
    use nix::errno::Errno;
    matches!(
        errno,
        Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EINVAL | Errno::EACCES | Errno::ENODEV
    )
}

fn request(local: IpAddr, remote: IpAddr) -> Request {
    let (whence, remote) = (octets(local), octets(remote));
    let family = match remote.len() {
        4 => libc::AF_INET,
        _ => libc::AF_INET6,
    };
    let bits = |address: &[u8]| (address.len() * 8) as u8;
    let known = !local.is_unspecified();
    let length = if known { bits(&whence) } else { 0 };
    let mut body = vec![family as u8, bits(&remote), length];
    body.resize(HEADER, 0);
    put_attribute(&mut body, libc::RTA_DST, &remote);
    if known {
        put_attribute(&mut body, libc::RTA_SRC, &whence);
    }
    Request {
        kind: libc::RTM_GETROUTE,
        flags: 0,
        body,
    }
}

/// The interface that a route leads to, and the route's own MTU if it has one.
fn decode(kind: u16, body: &[u8]) -> Option<(u32, Option<u32>)> {
    let attributes = body.get(HEADER..)?;
    let interface = u32_at(attribute(attributes, libc::RTA_OIF)?, 0)?;
    let metrics = attribute(attributes, libc::RTA_METRICS);
    let mtu = metrics.and_then(|metrics| u32_at(attribute(metrics, RTAX_MTU)?, 0));
    (kind == libc::RTM_NEWROUTE).then_some((interface, mtu.filter(|mtu| *mtu > 0)))
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_has_an_interface_and_perhaps_an_mtu() {
        let mut body = vec![0; HEADER];
        assert_eq!(decode(libc::RTM_NEWROUTE, &body), None);
        put_attribute(&mut body, libc::RTA_OIF, &7u32.to_ne_bytes());
        assert_eq!(decode(libc::RTM_NEWROUTE, &body), Some((7, None)));
        let mut metrics = Vec::new();
        put_attribute(&mut metrics, RTAX_MTU, &1400u32.to_ne_bytes());
        put_attribute(&mut body, libc::RTA_METRICS, &metrics);
        assert_eq!(decode(libc::RTM_NEWROUTE, &body), Some((7, Some(1400))));
        assert_eq!(decode(libc::RTM_DELROUTE, &body), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(body: Vec<u8>) {
            let _ = decode(libc::RTM_NEWROUTE, &body);
        }
    }
}
