//! Nexthop messages (`linux/nexthop.h`), which netlink-packet-route does not have.

use super::socket::Request;
use super::wire::{address, attribute, octets, put_attribute, u16_at, u32_at};
use crate::state::{Group, Member, NexthopId, ours};
use netlink_packet_core::{NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use nix::libc::{AF_INET, AF_INET6, AF_UNSPEC};
use std::net::IpAddr;

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_GROUP_TYPE: u16 = 3;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_RES_GROUP: u16 = 12;
const NHA_RES_GROUP_BUCKETS: u16 = 1;
/// Of `NHA_GROUP_TYPE`.
const RESILIENT: u16 = 1;
/// A resilient group spreads flows over so many: the share of a member is right to within one of
/// these. When a bucket that has been in use may move to another member, the kernel's own timers say.
const BUCKETS: u16 = 256;

/// `struct nhmsg`: family, scope, protocol, one reserved octet, flags.
const HEADER: usize = 8;
/// `struct nexthop_grp`: id, weight less one, its high octet on new kernels, two reserved octets.
const GROUP_ENTRY: usize = 8;

/// A nexthop or group as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub id: NexthopId,
    pub protocol: u8,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A neighbour on the interface of this index.
    Via(IpAddr, u32),
    Group(Group),
    /// A blackhole, a bare interface: nothing we make.
    Other,
}

impl Entry {
    pub fn is_ours(&self) -> bool {
        self.protocol == ours::PROTOCOL && ours::NEXTHOPS.contains(&self.id.0)
    }
}

fn header(family: i32, protocol: u8) -> Vec<u8> {
    // The scope stays 0, universe, and so do the flags: dead, linkdown and onlink are not for us.
    vec![family as u8, 0, protocol, 0, 0, 0, 0, 0]
}

fn put(id: NexthopId, family: i32, replace: bool) -> Request {
    let mut body = header(family, ours::PROTOCOL);
    put_attribute(&mut body, NHA_ID, &id.0.to_ne_bytes());
    let flags = NLM_F_CREATE | if replace { NLM_F_REPLACE } else { NLM_F_EXCL };
    Request {
        kind: RTM_NEWNEXTHOP,
        flags,
        body,
    }
}

pub(super) fn put_nexthop(id: NexthopId, gateway: IpAddr, index: u32, replace: bool) -> Request {
    let family = if gateway.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut request = put(id, family, replace);
    put_attribute(&mut request.body, NHA_GATEWAY, &octets(gateway));
    put_attribute(&mut request.body, NHA_OIF, &index.to_ne_bytes());
    request
}

pub(super) fn put_group(id: NexthopId, group: &Group, replace: bool) -> Request {
    let mut request = put(id, AF_UNSPEC, replace);
    let mut entries = Vec::with_capacity(group.members.len() * GROUP_ENTRY);
    for Member { id, weight } in &group.members {
        entries.extend(id.0.to_ne_bytes());
        entries.extend([weight.clamp(&1, &256).wrapping_sub(1) as u8, 0, 0, 0]);
    }
    put_attribute(&mut request.body, NHA_GROUP, &entries);
    // Linux has them since 5.13; one before refuses the attribute.
    if group.resilient {
        let body = &mut request.body;
        put_attribute(body, NHA_GROUP_TYPE, &RESILIENT.to_ne_bytes());
        let mut nested = Vec::new();
        put_attribute(&mut nested, NHA_RES_GROUP_BUCKETS, &BUCKETS.to_ne_bytes());
        put_attribute(body, NHA_RES_GROUP | NLA_F_NESTED, &nested);
    }
    request
}

pub(super) fn delete(id: NexthopId) -> Request {
    let mut body = header(AF_UNSPEC, 0);
    put_attribute(&mut body, NHA_ID, &id.0.to_ne_bytes());
    Request {
        kind: RTM_DELNEXTHOP,
        flags: 0,
        body,
    }
}

/// Asks for all nexthops and groups.
pub(super) fn dump() -> Request {
    Request {
        kind: RTM_GETNEXTHOP,
        flags: 0,
        body: header(AF_UNSPEC, 0),
    }
}

/// Asks for one.
pub(super) fn get(id: NexthopId) -> Request {
    let mut body = header(AF_UNSPEC, 0);
    put_attribute(&mut body, NHA_ID, &id.0.to_ne_bytes());
    Request {
        kind: RTM_GETNEXTHOP,
        flags: 0,
        body,
    }
}

pub(super) fn decode(kind: u16, body: &[u8]) -> Option<Entry> {
    if kind != RTM_NEWNEXTHOP {
        return None;
    }
    let protocol = *body.get(2)?;
    let attributes = body.get(HEADER..)?;
    let number = |kind| u32_at(attribute(attributes, kind)?, 0);
    let id = NexthopId(number(NHA_ID)?);
    let kind = if let Some(entries) = attribute(attributes, NHA_GROUP) {
        let kind = attribute(attributes, NHA_GROUP_TYPE).and_then(|value| u16_at(value, 0));
        let members = entries.chunks_exact(GROUP_ENTRY);
        Kind::Group(Group {
            members: members.filter_map(member).collect(),
            resilient: kind == Some(RESILIENT),
        })
    } else {
        match (
            attribute(attributes, NHA_GATEWAY).and_then(address),
            number(NHA_OIF),
        ) {
            (Some(gateway), Some(index)) => Kind::Via(gateway, index),
            _ => Kind::Other,
        }
    };
    Some(Entry { id, protocol, kind })
}

fn member(entry: &[u8]) -> Option<Member> {
    let id = NexthopId(u32_at(entry, 0)?);
    // Low octet first whatever the machine: two fields, not one number.
    let weight = u16::from_le_bytes(u16_at(entry, 4)?.to_ne_bytes());
    Some(Member {
        id,
        weight: weight.saturating_add(1),
    })
}

/// Bytes are those of iproute2 6.1 and of Linux 6.18, without the message header.
#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TUNNEL: NexthopId = NexthopId(0x5200_0004);
    const OTHER: NexthopId = NexthopId(0x5200_0005);
    const GROUP: NexthopId = NexthopId(0x5200_0058);

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(&String::from_utf8_lossy(pair), 16);
        digits
            .chunks(2)
            .map(|pair| byte(pair).expect("hexadecimal"))
            .collect()
    }

    fn members() -> Group {
        let members = [
            Member {
                id: TUNNEL,
                weight: 1,
            },
            Member {
                id: OTHER,
                weight: 16,
            },
        ];
        Group {
            members: members.into(),
            resilient: false,
        }
    }

    #[test]
    fn nexthop_is_put_as_iproute2_does() {
        // ip nexthop add id 1375731716 via 2001:db8:ff::1 dev d0 proto 82
        let gateway = "2001:db8:ff::1".parse().expect("an address");
        let request = put_nexthop(TUNNEL, gateway, 7, false);
        assert_eq!((request.kind, request.flags), (0x68, 0x600));
        let expected = "0a005200 00000000  08000100 04000052  14000600 20010db8 00ff0000 00000000
                        00000001  08000500 07000000";
        assert_eq!(request.body, hex(expected));
    }

    #[test]
    fn group_is_put_as_iproute2_does() {
        // ip nexthop replace id 1375731800 group 1375731716/1375731717,16 proto 82
        let request = put_group(GROUP, &members(), true);
        assert_eq!((request.kind, request.flags), (0x68, 0x500));
        let expected = "00005200 00000000  08000100 58000052  14000200 04000052 00000000 05000052
                        0f000000";
        assert_eq!(request.body, hex(expected));
    }

    #[test]
    fn resilient_group_is_put_as_iproute2_does() {
        // ip nexthop add id 1375731800 group 1375731716/1375731717,16 type resilient buckets 256
        // proto 82, but for the order of its attributes
        let group = Group {
            resilient: true,
            ..members()
        };
        let request = put_group(GROUP, &group, false);
        let expected = "00005200 00000000  08000100 58000052  14000200 04000052 00000000 05000052
                        0f000000  06000300 01000000  0c000c80 06000100 00010000";
        assert_eq!(request.body, hex(expected));
        let entry = decode(RTM_NEWNEXTHOP, &request.body).expect("a group");
        assert_eq!(entry.kind, Kind::Group(group));
    }

    #[test]
    fn nexthop_is_deleted_as_iproute2_does() {
        // ip nexthop del id 1375731717
        let request = delete(OTHER);
        assert_eq!((request.kind, request.flags), (0x69, 0));
        assert_eq!(request.body, hex("00000000 00000000  08000100 05000052"));
    }

    #[test]
    fn what_the_kernel_lists_is_read() {
        let nexthop = "0afd5200 00000000  08000100 04000052  08000500 07000000  14000600 20010db8
                       00ff0000 00000000 00000001";
        let gateway = "2001:db8:ff::1".parse().expect("an address");
        let expected = Entry {
            id: TUNNEL,
            protocol: 82,
            kind: Kind::Via(gateway, 7),
        };
        assert!(expected.is_ours());
        assert_eq!(decode(RTM_NEWNEXTHOP, &hex(nexthop)), Some(expected));

        let group = "00005200 00000000  08000100 58000052  06000300 00000000  14000200 04000052
                     00000000 05000052 0f000000  08000e00 00000080";
        let expected = Entry {
            id: GROUP,
            protocol: 82,
            kind: Kind::Group(members()),
        };
        assert_eq!(decode(RTM_NEWNEXTHOP, &hex(group)), Some(expected));

        let blackhole = "02000300 00000000  08000100 07000000  04000400";
        let expected = Entry {
            id: NexthopId(7),
            protocol: 3,
            kind: Kind::Other,
        };
        assert!(!expected.is_ours());
        assert_eq!(decode(RTM_NEWNEXTHOP, &hex(blackhole)), Some(expected));
    }

    #[test]
    fn ours_is_by_protocol_and_id() {
        let entry = |id, protocol| Entry {
            id: NexthopId(id),
            protocol,
            kind: Kind::Other,
        };
        assert!(entry(0x5200_0000, 82).is_ours() && entry(0x52ff_ffff, 82).is_ours());
        assert!(!entry(0x5200_0000, 4).is_ours() && !entry(0x5300_0000, 82).is_ours());
    }

    proptest! {
        #[test]
        fn what_is_put_is_read_back(
            id: u32,
            gateway: IpAddr,
            index: u32,
            resilient: bool,
            weights in proptest::collection::btree_map(0u32.., 1u16..=256, 1..40),
        ) {
            let id = NexthopId(id);
            let request = put_nexthop(id, gateway, index, true);
            let kind = Kind::Via(gateway, index);
            let expected = Entry { id, protocol: 82, kind };
            prop_assert_eq!(decode(request.kind, &request.body), Some(expected));

            let member = |(id, weight)| Member { id: NexthopId(id), weight };
            let members = weights.into_iter().map(member).collect();
            let group = Group { members, resilient };
            let request = put_group(id, &group, true);
            let expected = Entry { id, protocol: 82, kind: Kind::Group(group) };
            prop_assert_eq!(decode(request.kind, &request.body), Some(expected));
        }

        #[test]
        fn nothing_panics(kind in 100u16..110, body: Vec<u8>) {
            let _ = decode(kind, &body);
        }
    }
}
