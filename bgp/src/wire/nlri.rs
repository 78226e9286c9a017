//! Address families, prefixes and next hops (RFC 4271 section 4.3, RFC 4760, RFC 2545, RFC 8950).

use super::reader::Reader;
use super::{Context, Family, NextHop};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv6Addr};

/// The SAFI for unicast, the only one we have.
pub(super) const UNICAST: u8 = 1;

pub(super) fn afi(family: Family) -> u16 {
    match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 2,
    }
}

/// The family, if it is one of ours.
pub(super) fn family(afi: u16, safi: u8) -> Option<Family> {
    match (afi, safi) {
        (1, UNICAST) => Some(Family::Ipv4),
        (2, UNICAST) => Some(Family::Ipv6),
        _ => None,
    }
}

/// The prefixes of a field, as bytes that were checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nlri<'a> {
    family: Family,
    /// Each prefix has a path identifier before it (RFC 7911).
    path_ids: bool,
    bytes: &'a [u8],
}

/// No prefixes.
impl Default for Nlri<'_> {
    fn default() -> Self {
        Self {
            family: Family::Ipv4,
            path_ids: false,
            bytes: &[],
        }
    }
}

impl<'a> Nlri<'a> {
    /// Checks all prefixes of a received field; `None` where one is longer than its family allows or
    /// than the field (RFC 7606 section 5.3, RFC 7911 section 5).
    pub(super) fn read(family: Family, bytes: &'a [u8], context: &Context) -> Option<Self> {
        let path_ids = context.add_path.of(family).receive;
        let before = if path_ids { PATH_ID } else { 0 };
        let longest = longest(family);
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = rest.get(before).filter(|length| **length <= longest)?;
            rest = rest.get(before + 1 + octets(*length)..)?;
        }
        Some(Self {
            family,
            path_ids,
            bytes,
        })
    }

    /// The family of all of them.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl<'a> IntoIterator for Nlri<'a> {
    type Item = (u32, IpNet);
    type IntoIter = Prefixes<'a>;

    fn into_iter(self) -> Prefixes<'a> {
        Prefixes {
            family: self.family,
            path_ids: self.path_ids,
            rest: self.bytes,
        }
    }
}

/// Prefixes with their path identifiers, zero where there are none. Bits beyond a prefix's length are
/// irrelevant, and cleared.
#[derive(Clone, Debug)]
pub struct Prefixes<'a> {
    family: Family,
    path_ids: bool,
    rest: &'a [u8],
}

impl Iterator for Prefixes<'_> {
    type Item = (u32, IpNet);

    #[inline]
    fn next(&mut self) -> Option<(u32, IpNet)> {
        let mut path_id = 0;
        if self.path_ids {
            let (bytes, rest) = self.rest.split_first_chunk()?;
            path_id = u32::from_be_bytes(*bytes);
            self.rest = rest;
        }
        let (&length, rest) = self.rest.split_first()?;
        let count = octets(length);
        let prefix = match self.family {
            Family::Ipv4 => IpNet::V4(ipv4_net(at_least(rest, count)?, length)?),
            Family::Ipv6 => IpNet::V6(ipv6_net(at_least(rest, count)?, length)?),
        };
        self.rest = rest.get(count..)?;
        Some((path_id, prefix))
    }
}

/// The size of a path identifier (RFC 7911 section 3).
const PATH_ID: usize = 4;

fn longest(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 32,
        Family::Ipv6 => 128,
    }
}

#[inline]
fn octets(prefix_length: u8) -> usize {
    usize::from(prefix_length).div_ceil(8)
}

/// `N` bytes that begin with the first `count` of `bytes`. The others mean nothing: they are what
/// comes next, as a copy of a fixed size is much the faster.
#[inline]
fn at_least<const N: usize>(bytes: &[u8], count: usize) -> Option<[u8; N]> {
    match bytes.first_chunk() {
        Some(next) => Some(*next),
        None => padded(bytes, count),
    }
}

/// The end of a field.
#[cold]
fn padded<const N: usize>(bytes: &[u8], count: usize) -> Option<[u8; N]> {
    let mut padded = [0; N];
    let bytes = bytes.get(..count)?;
    padded.get_mut(..count)?.copy_from_slice(bytes);
    Some(padded)
}

#[inline]
fn ipv4_net(address: [u8; 4], length: u8) -> Option<Ipv4Net> {
    let host = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
    let network = u32::from_be_bytes(address) & !host;
    Ipv4Net::new(network.into(), length).ok()
}

#[inline]
fn ipv6_net(address: [u8; 16], length: u8) -> Option<Ipv6Net> {
    let host = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
    let network = u128::from_be_bytes(address) & !host;
    Ipv6Net::new(network.into(), length).ok()
}

/// How many bytes [`write_prefix`] appends.
pub(super) fn prefix_size(prefix: &IpNet) -> usize {
    1 + octets(prefix.prefix_len())
}

/// Appends a prefix. Bits beyond its length are cleared.
#[inline]
pub(super) fn write_prefix(prefix: &IpNet, out: &mut Vec<u8>) {
    let length = prefix.prefix_len();
    let end = out.len() + 1 + octets(length);
    // All of the address first: a copy of a fixed size is the faster.
    match prefix {
        IpNet::V4(net) => {
            let [a, b, c, d] = net.network().octets();
            out.extend_from_slice(&[length, a, b, c, d]);
        }
        IpNet::V6(net) => {
            let mut bytes = [length; 17];
            let [_, address @ ..] = &mut bytes;
            *address = net.network().octets();
            out.extend_from_slice(&bytes);
        }
    }
    out.truncate(end);
}

/// The next hop of an MP_REACH_NLRI; `None` where its length is not one that the family can have.
/// `extended`: IPv4 may have an IPv6 next hop.
pub(super) fn read_next_hop(family: Family, bytes: &[u8], extended: bool) -> Option<NextHop> {
    let mut reader = Reader::new(bytes);
    match (family, bytes.len()) {
        (Family::Ipv4, 4) => Some(NextHop {
            address: IpAddr::V4(reader.ipv4()?),
            link_local: None,
        }),
        (Family::Ipv4, 16 | 32) if !extended => None,
        (_, 16) => Some(NextHop {
            address: IpAddr::V6(reader.ipv6()?),
            link_local: None,
        }),
        (_, 32) => Some(pair(reader.ipv6()?, reader.ipv6()?)),
        _ => None,
    }
}

/// The two addresses of RFC 2545 section 3, in spite of what is seen in the field: a second one that
/// is no link-local address says nothing, and without a global address the first is unspecified.
fn pair(global: Ipv6Addr, link_local: Ipv6Addr) -> NextHop {
    let link_local = Some(link_local).filter(Ipv6Addr::is_unicast_link_local);
    match link_local {
        Some(only) if global.is_unspecified() => NextHop {
            address: IpAddr::V6(only),
            link_local: None,
        },
        _ => NextHop {
            address: IpAddr::V6(global),
            link_local,
        },
    }
}

/// Whether an address can be that of a host at all (RFC 4271 section 6.3). Whether it can be
/// reached is for others to find out.
pub(super) fn is_host(address: IpAddr) -> bool {
    match address {
        // 240.0.0.0/4 holds the broadcast address, too.
        IpAddr::V4(address) => !address.is_unspecified() && address.octets() < [224, 0, 0, 0],
        IpAddr::V6(address) => !address.is_unspecified() && !address.is_multicast(),
    }
}

/// Appends an MP_REACH_NLRI's next hop with its length before it.
pub(super) fn write_next_hop(next_hop: &NextHop, out: &mut Vec<u8>) {
    match (next_hop.address, next_hop.link_local) {
        (IpAddr::V4(address), _) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        (IpAddr::V6(address), None) => {
            out.push(16);
            out.extend_from_slice(&address.octets());
        }
        (IpAddr::V6(address), Some(link_local)) => {
            out.push(32);
            out.extend(address.octets());
            out.extend(link_local.octets());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn prefixes(family: Family, bytes: &[u8]) -> Option<Vec<String>> {
        let all = Nlri::read(family, bytes, &Context::UNKNOWN)?.into_iter();
        Some(all.map(|(_, prefix)| prefix.to_string()).collect())
    }

    #[test]
    fn bits_beyond_the_length_are_cleared() {
        let read = prefixes(Family::Ipv4, &[20, 10, 1, 0xff, 0, 32, 1, 2, 3, 4]);
        assert_eq!(
            read,
            Some(vec![
                "10.1.240.0/20".into(),
                "0.0.0.0/0".into(),
                "1.2.3.4/32".into()
            ])
        );
        let read = prefixes(Family::Ipv6, &[33, 0x20, 1, 0xd, 0xb8, 0xff]);
        assert_eq!(read, Some(vec!["2001:db8:8000::/33".into()]));
    }

    #[test]
    fn bits_beyond_the_length_are_not_sent() {
        let mut out = Vec::new();
        let address = Ipv4Addr::new(10, 255, 255, 255);
        write_prefix(&Ipv4Net::new_assert(address, 12).into(), &mut out);
        let address = Ipv6Addr::new(0x2001, 0xffff, 0xffff, 0, 0, 0, 0, 1);
        write_prefix(&Ipv6Net::new_assert(address, 20).into(), &mut out);
        assert_eq!(out, [12, 10, 0xf0, 20, 0x20, 0x01, 0xf0]);
    }

    #[test]
    fn lengths_beyond_the_family_or_the_field_are_refused() {
        assert_eq!(prefixes(Family::Ipv4, &[33, 1, 2, 3, 4, 5]), None);
        assert_eq!(prefixes(Family::Ipv4, &[255; 40]), None);
        assert_eq!(prefixes(Family::Ipv4, &[24, 1, 2]), None);
        assert_eq!(prefixes(Family::Ipv6, &[129; 40]), None);
        assert_eq!(prefixes(Family::Ipv6, &[64, 1, 2]), None);
        assert_eq!(prefixes(Family::Ipv6, &[]), Some(vec![]));
    }

    #[test]
    fn next_hops_by_length() {
        let global = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        let local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        let both = [global.octets(), local.octets()].concat();
        let hop = |address: Ipv6Addr, link_local| {
            Some(NextHop {
                address: address.into(),
                link_local,
            })
        };
        let table = [
            (Family::Ipv6, global.octets().to_vec(), hop(global, None)),
            (Family::Ipv6, local.octets().to_vec(), hop(local, None)),
            (Family::Ipv6, both.clone(), hop(global, Some(local))),
            (Family::Ipv4, both, hop(global, Some(local))),
            // As sent by some: no link-local address, no global one, or the link-local one twice.
            (
                Family::Ipv6,
                [global.octets(), [0; 16]].concat(),
                hop(global, None),
            ),
            (
                Family::Ipv6,
                [[0; 16], local.octets()].concat(),
                hop(local, None),
            ),
            (
                Family::Ipv6,
                [local.octets(); 2].concat(),
                hop(local, Some(local)),
            ),
            (Family::Ipv6, vec![1; 4], None),
            (Family::Ipv6, vec![1; 24], None),
            (Family::Ipv4, vec![], None),
        ];
        for (family, bytes, expected) in table {
            assert_eq!(read_next_hop(family, &bytes, true), expected, "{bytes:?}");
        }
        assert_eq!(read_next_hop(Family::Ipv4, &[1; 16], false), None);
        assert_eq!(read_next_hop(Family::Ipv4, &[1; 32], false), None);
        assert!(read_next_hop(Family::Ipv4, &[1; 4], false).is_some());
    }

    #[test]
    fn hosts() {
        let host = |text: &str| text.parse().is_ok_and(is_host);
        assert!(host("10.0.0.1") && host("223.255.255.255") && host("fe80::1"));
        assert!(!host("0.0.0.0") && !host("224.0.0.1") && !host("255.255.255.255"));
        assert!(!host("::") && !host("ff02::1"));
    }
}
