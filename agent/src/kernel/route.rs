//! Route messages: ours to put and delete, everybody's to read.

use super::socket::Request;
use super::wire::{address, attribute, put_attribute, u32_at};
use crate::state::{NexthopId, RouteKey, Target, ours};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `struct rtmsg`.
const HEADER: usize = 12;
/// Four attributes, one of them an IPv6 address.
const LONGEST: usize = 20 + 8 + 8 + 8;

/// A route as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Table, destination and metric.
    pub key: RouteKey,
    /// Who made it.
    pub protocol: u8,
    /// Of `rtm_type`: unicast, unreachable and the like.
    pub kind: u8,
    /// The nexthop object it goes through.
    pub nexthop: Option<NexthopId>,
    /// Its interface, or its nexthop, cannot carry packets now.
    pub dead: bool,
}

impl Route {
    /// By its protocol.
    pub fn is_ours(&self) -> bool {
        self.protocol == ours::PROTOCOL
    }

    /// What it does; a shape we never make is group 0, which nothing desires.
    pub fn target(&self) -> Target {
        match (self.kind, self.nexthop) {
            (libc::RTN_UNREACHABLE, None) => Target::Unreachable,
            (libc::RTN_UNICAST, Some(id)) => Target::Group(id),
            _ => Target::Group(NexthopId(0)),
        }
    }
}

/// Written octet by octet: these come by the hundred thousand.
fn request(kind: u16, flags: u16, key: &RouteKey, route_type: u8, scope: u8) -> Request {
    let mut body = Vec::with_capacity(HEADER + LONGEST);
    let family = match key.prefix {
        IpNet::V4(_) => libc::AF_INET,
        IpNet::V6(_) => libc::AF_INET6,
    };
    let protocol = ours::PROTOCOL;
    // A number with no place here is in an attribute.
    let table = u8::try_from(key.table).unwrap_or(libc::RT_TABLE_UNSPEC);
    body.extend([family as u8, key.prefix.prefix_len(), 0, 0]);
    body.extend([table, protocol, scope, route_type]);
    body.extend([0; 4]);
    match key.prefix.network() {
        IpAddr::V4(address) => put_attribute(&mut body, libc::RTA_DST, &address.octets()),
        IpAddr::V6(address) => put_attribute(&mut body, libc::RTA_DST, &address.octets()),
    }
    put_attribute(&mut body, libc::RTA_PRIORITY, &key.metric.to_ne_bytes());
    if table == libc::RT_TABLE_UNSPEC {
        put_attribute(&mut body, libc::RTA_TABLE, &key.table.to_ne_bytes());
    }
    Request { kind, flags, body }
}

pub(super) fn put(key: &RouteKey, target: &Target, replace: bool) -> Request {
    let flags = NLM_F_CREATE | if replace { NLM_F_REPLACE } else { NLM_F_EXCL };
    let put = |kind| {
        request(
            libc::RTM_NEWROUTE,
            flags,
            key,
            kind,
            libc::RT_SCOPE_UNIVERSE,
        )
    };
    match target {
        Target::Group(id) => {
            let mut request = put(libc::RTN_UNICAST);
            put_attribute(&mut request.body, RTA_NH_ID, &id.0.to_ne_bytes());
            request
        }
        Target::Unreachable => put(libc::RTN_UNREACHABLE),
    }
}

/// Deletes by destination, metric and protocol, whatever the type and the nexthop.
pub(super) fn delete(key: &RouteKey) -> Request {
    request(
        libc::RTM_DELROUTE,
        0,
        key,
        libc::RTN_UNSPEC,
        libc::RT_SCOPE_NOWHERE,
    )
}

/// Asks for a table of one family.
pub(super) fn dump(family: AddressFamily, table: u32) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.attributes.push(RouteAttribute::Table(table));
    Request::new(RouteNetlinkMessage::GetRoute(message), 0)
}

/// Asks for our routes of one family in a table. The kernel looks at everybody's for that, and tells
/// only these.
pub(super) fn dump_ours(family: AddressFamily, table: u32) -> Request {
    let mut message = of_ours(family);
    message.attributes.push(RouteAttribute::Table(table));
    Request::new(RouteNetlinkMessage::GetRoute(message), 0)
}

/// The same for our `unreachable` routes in all tables.
pub(super) fn dump_barriers(family: AddressFamily) -> Request {
    let mut message = of_ours(family);
    message.header.kind = RouteType::Unreachable;
    Request::new(RouteNetlinkMessage::GetRoute(message), 0)
}

fn of_ours(family: AddressFamily) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.protocol = RouteProtocol::Other(ours::PROTOCOL);
    message
}

pub(super) fn decode(kind: u16, body: &[u8]) -> Option<Route> {
    (kind == libc::RTM_NEWROUTE).then(|| read(body))?
}

/// A route, also one that is told to be gone.
pub(super) fn read(body: &[u8]) -> Option<Route> {
    let &[
        family,
        length,
        source_length,
        tos,
        table,
        protocol,
        _scope,
        route_type,
        ..,
    ] = body
    else {
        return None;
    };
    let flags = u32_at(body, 8)?;
    let attributes = body.get(HEADER..)?;
    let number = |kind| u32_at(attribute(attributes, kind)?, 0);
    let table = number(libc::RTA_TABLE).unwrap_or(table.into());
    // Ours have neither source nor type of service; cached entries are no routes.
    let plain = source_length == 0 && tos == 0 && flags & libc::RTM_F_CLONED == 0;
    if !plain {
        return None;
    }
    let unspecified: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let destination = match attribute(attributes, libc::RTA_DST) {
        Some(bytes) => address(bytes)?,
        None => unspecified,
    };
    Some(Route {
        key: RouteKey {
            prefix: IpNet::new(destination, length).ok()?,
            table,
            metric: number(libc::RTA_PRIORITY).unwrap_or(0),
        },
        protocol,
        kind: route_type,
        nexthop: number(RTA_NH_ID).map(NexthopId),
        dead: flags & u32::from(RTNH_F_DEAD | RTNH_F_LINKDOWN) != 0,
    })
}

const RTA_NH_ID: u16 = 30;
const RTNH_F_DEAD: u8 = 1;
const RTNH_F_LINKDOWN: u8 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Place;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = RouteKey> {
        let prefix = (any::<IpAddr>(), 0u8..=128).prop_map(|(address, length)| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, length.min(most))
                .expect("a length that fits")
                .trunc()
        });
        (prefix, 1u32.., any::<u32>()).prop_map(|(prefix, table, metric)| RouteKey {
            prefix,
            table,
            metric,
        })
    }

    fn target() -> impl Strategy<Value = Target> {
        prop_oneof![
            Just(Target::Unreachable),
            any::<u32>().prop_map(|id| Target::Group(NexthopId(id))),
        ]
    }

    #[test]
    fn a_shape_we_never_make_is_group_0() {
        let key = Place::default().key("10.0.0.0/8".parse().expect("a prefix"));
        let route = |kind, nexthop| Route {
            key,
            protocol: 82,
            kind,
            nexthop,
            dead: false,
        };
        let strange = Target::Group(NexthopId(0));
        assert_eq!(route(libc::RTN_UNICAST, None).target(), strange);
        assert_eq!(route(libc::RTN_BLACKHOLE, None).target(), strange);
        assert_eq!(
            route(libc::RTN_UNREACHABLE, None).target(),
            Target::Unreachable
        );
    }

    #[test]
    fn only_plain_routes_count() {
        let key = Place::default().key("10.0.0.0/8".parse().expect("a prefix"));
        let request = put(&key, &Target::Unreachable, false);
        assert!(decode(request.kind, &request.body).is_some());
        // Source prefix length, type of service, and a cached entry's flag.
        for (at, value) in [(2, 8), (3, 4), (9, 2)] {
            let mut body = request.body.clone();
            body[at] = value;
            assert_eq!(decode(request.kind, &body), None, "octet {at}");
        }
    }

    #[test]
    fn only_creation_is_exclusive() {
        let key = Place::default().key("::/0".parse().expect("a prefix"));
        let flags = |replace| put(&key, &Target::Unreachable, replace).flags;
        assert_eq!(flags(false), NLM_F_CREATE | NLM_F_EXCL);
        assert_eq!(flags(true), NLM_F_CREATE | NLM_F_REPLACE);
    }

    proptest! {
        #[test]
        fn what_is_put_is_read_back(key in key(), target in target()) {
            let request = put(&key, &target, true);
            let route = decode(request.kind, &request.body).expect("a route");
            prop_assert!(route.is_ours() && !route.dead);
            prop_assert_eq!((route.key, route.target()), (key, target));
        }

        #[test]
        fn nothing_panics(kind in 20u16..30, body: Vec<u8>) {
            let _ = decode(kind, &body);
        }
    }
}
