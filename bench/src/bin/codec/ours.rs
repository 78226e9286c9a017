//! The codec of Routemesh.

use crate::{Case, Work};
use ipnet::IpNet;
use routemesh_bench::prefix::Family;
use routemesh_bgp::wire::{self, AsPath, Attributes, Context, Message, NextHop};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const CONTEXT: Context = Context {
    four_octet_as: true,
    internal: true,
    ..Context::UNKNOWN
};

fn family_of(family: Family) -> wire::Family {
    match family {
        Family::Ipv4 => wire::Family::Ipv4,
        Family::Ipv6 => wire::Family::Ipv6,
    }
}

fn attributes() -> Attributes {
    Attributes {
        as_path: AsPath(vec![64_500, 64_501]),
        local_pref: Some(100),
        ..Attributes::default()
    }
}

fn next_hop(family: Family) -> NextHop {
    let address = match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2)),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 2)),
    };
    NextHop {
        address,
        link_local: None,
    }
}

fn write(family: Family, attributes: &Attributes, prefixes: &[IpNet], out: &mut Vec<u8>) {
    let next_hop = next_hop(family);
    let prefixes = prefixes.iter().map(|prefix| (0, *prefix));
    wire::announce(
        family_of(family),
        &next_hop,
        attributes,
        prefixes,
        &CONTEXT,
        out,
    );
}

/// One UPDATE, which is what all the others read.
pub fn bytes(family: Family, prefixes: &[IpNet]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(family, &attributes(), prefixes, &mut bytes);
    bytes
}

/// How many prefixes an UPDATE announces, each looked at.
pub fn count(bytes: &[u8]) -> usize {
    let Ok(Some(decoded)) = wire::decode(bytes, &CONTEXT) else {
        return 0;
    };
    let Message::Update(update) = &decoded.message else {
        return 0;
    };
    black_box(&update.attributes);
    let mut count = 0;
    for (next_hop, prefixes) in update.reach() {
        black_box(next_hop);
        for prefix in prefixes {
            black_box(prefix);
            count += 1;
        }
    }
    count
}

pub fn decode(case: &Case) -> Option<Work<'_>> {
    Some(Box::new(|| count(black_box(&case.bytes))))
}

pub fn encode(case: &Case) -> Option<Work<'_>> {
    let attributes = attributes();
    let mut out = Vec::with_capacity(4096);
    Some(Box::new(move || {
        out.clear();
        write(
            case.family,
            black_box(&attributes),
            black_box(&case.prefixes),
            &mut out,
        );
        black_box(&out).len()
    }))
}
