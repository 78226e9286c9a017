//! Nexthop messages (`linux/nexthop.h`), which netlink-packet-route does not have.

use super::socket::Request;
use super::wire::{address, attribute, octets, put_attribute, u16_at, u32_at};
use crate::state::{Member, NexthopId, ours};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use nix::libc::{AF_INET, AF_INET6, AF_UNSPEC};
use std::collections::BTreeSet;
use std::net::IpAddr;

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;

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
    Group(BTreeSet<Member>),
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
    put_attribute(&mut request.body, NHA_OIF, &index.to_ne_bytes());
    put_attribute(&mut request.body, NHA_GATEWAY, &octets(gateway));
    request
}

pub(super) fn put_group(id: NexthopId, members: &BTreeSet<Member>, replace: bool) -> Request {
    let mut request = put(id, AF_UNSPEC, replace);
    let mut entries = Vec::with_capacity(members.len() * GROUP_ENTRY);
    for Member { id, weight } in members {
        entries.extend(id.0.to_ne_bytes());
        entries.extend([weight.clamp(&1, &256).wrapping_sub(1) as u8, 0, 0, 0]);
    }
    put_attribute(&mut request.body, NHA_GROUP, &entries);
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

pub(super) fn decode(kind: u16, body: &[u8]) -> Option<Entry> {
    if kind != RTM_NEWNEXTHOP {
        return None;
    }
    let protocol = *body.get(2)?;
    let attributes = body.get(HEADER..)?;
    let number = |kind| u32_at(attribute(attributes, kind)?, 0);
    let id = NexthopId(number(NHA_ID)?);
    let kind = if let Some(entries) = attribute(attributes, NHA_GROUP) {
        Kind::Group(
            entries
                .chunks_exact(GROUP_ENTRY)
                .filter_map(member)
                .collect(),
        )
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
