//! Just enough rtnetlink to see routes and nexthop groups from outside, and to write them at the
//! kernel's own pace.

use crate::error::{Error, Result};
use crate::prefix::Family;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;

const RTA_DST: u16 = 1;
const RTA_MULTIPATH: u16 = 9;
const RTA_NH_ID: u16 = 30;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;

const HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;
const NEXTHOP_HEADER: usize = 8;
const RTN_UNICAST: u8 = 1;
const RT_TABLE_MAIN: u8 = 254;
/// Of routes made here: none of those that anybody else uses.
const PROTOCOL: u8 = 199;

/// As large as the kernel lets it be: what a trial tells must not be lost.
const BUFFER: usize = (i32::MAX / 2) as usize;

/// What the kernel says that concerns a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The prefix of this number has this way now.
    Route(u32, Way),
    /// Of the prefix of this number, so many hops went.
    RouteGone(u32, u16),
    /// A nexthop or group by its id, and how many members it has.
    Nexthop(u32, u16),
    /// It went, and all routes over it.
    NexthopGone(u32),
}

/// How a route goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// There is no route.
    #[default]
    None,
    /// By so many hops of its own.
    Hops(u16),
    /// By a nexthop object.
    Nexthop(u32),
}

/// A route netlink socket.
pub struct Netlink {
    socket: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

/// What one look at the socket brought.
pub enum Received {
    /// All news of a datagram were given.
    Some,
    /// Nothing waits.
    Nothing,
    /// A dump is at its end.
    Done,
    /// An acknowledgement, or an error.
    Answer(i32),
    /// The buffer was too small: news were lost.
    Lost,
}

impl Netlink {
    /// Opens one in the calling thread's namespace.
    pub fn open() -> Result<Self> {
        let kind = (
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
        );
        let socket = socket(kind.0, kind.1, kind.2, SockProtocol::NetlinkRoute);
        let socket = socket.map_err(Error::os("a netlink socket"))?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).map_err(Error::os("a large buffer"))?;
        setsockopt(&socket, sockopt::SndBufForce, &(1 << 22)).map_err(Error::os("a buffer"))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(Error::os("bind"))?;
        let buffer = vec![0; 1 << 17];
        Ok(Self {
            socket,
            buffer,
            sequence: 0,
        })
    }

    /// Asks to be told of routes of a family, and of nexthops.
    pub fn listen(&self, family: Family) -> Result<()> {
        let routes = match family {
            Family::Ipv4 => libc::RTNLGRP_IPV4_ROUTE,
            Family::Ipv6 => libc::RTNLGRP_IPV6_ROUTE,
        };
        for group in [routes, libc::RTNLGRP_NEXTHOP] {
            let socket = socket2::SockRef::from(&self.socket);
            join(&socket, group)?;
        }
        Ok(())
    }

    /// Takes one datagram and gives the news in it.
    pub fn receive(
        &mut self,
        family: Family,
        wait: bool,
        mut tell: impl FnMut(News),
    ) -> Result<Received> {
        let flags = if wait {
            MsgFlags::empty()
        } else {
            MsgFlags::MSG_DONTWAIT
        };
        let length = match recv(self.socket.as_raw_fd(), &mut self.buffer, flags) {
            Ok(length) => length,
            Err(nix::errno::Errno::EAGAIN) => return Ok(Received::Nothing),
            Err(nix::errno::Errno::ENOBUFS) => return Ok(Received::Lost),
            Err(errno) => return Err(Error::os("receive from netlink")(errno)),
        };
        let mut rest = self.buffer.get(..length).unwrap_or_default();
        let mut received = Received::Some;
        while let Some((kind, body, after)) = message(rest) {
            match kind {
                NLMSG_DONE => received = Received::Done,
                NLMSG_ERROR => {
                    let code = body
                        .first_chunk()
                        .map_or(-1, |code| i32::from_ne_bytes(*code));
                    received = Received::Answer(code);
                }
                _ => {
                    if let Some(news) = news(family, kind, body) {
                        tell(news);
                    }
                }
            }
            rest = after;
        }
        Ok(received)
    }

    /// Asks for all nexthops, and then for all routes of a family.
    pub fn dump(&mut self, family: Family, mut tell: impl FnMut(News)) -> Result<()> {
        let mut route = vec![0; ROUTE_HEADER];
        route[0] = number(family);
        for (kind, body) in [
            (RTM_GETNEXTHOP, vec![0; NEXTHOP_HEADER]),
            (RTM_GETROUTE, route),
        ] {
            let mut bytes = Vec::new();
            self.sequence += 1;
            put_message(kind, REQUEST | DUMP, self.sequence, &body, &mut bytes);
            self.send(&bytes)?;
            loop {
                match self.receive(family, true, &mut tell)? {
                    Received::Some | Received::Nothing => {}
                    Received::Done => break,
                    Received::Answer(code) => {
                        return Err(Error::Wrong(format!("dump of {kind}: error {code}")));
                    }
                    Received::Lost => return Err(Error::Wrong("a dump was lost".into())),
                }
            }
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        send(self.socket.as_raw_fd(), bytes, MsgFlags::empty()).map_err(Error::os("send"))?;
        Ok(())
    }

    /// Sends requests in one system call, and waits for the acknowledgement of the last. An error of
    /// any is an error of all.
    pub fn request(&mut self, requests: &Requests) -> Result<()> {
        self.send(&requests.0)?;
        match self.receive(Family::Ipv4, true, |_| {})? {
            Received::Answer(0) => Ok(()),
            Received::Answer(code) => {
                let error = std::io::Error::from_raw_os_error(-code);
                Err(Error::io("a request to the kernel")(error))
            }
            _ => Err(Error::Wrong("no answer to a request".into())),
        }
    }
}

/// Requests that go in one system call; only the last is acknowledged.
#[derive(Default)]
pub struct Requests(Vec<u8>);

impl Requests {
    /// Requests from bodies made by the functions below.
    pub fn new(requests: impl IntoIterator<Item = Request>) -> Self {
        let mut bytes = Vec::new();
        let mut last = 0;
        for (kind, flags, body) in requests {
            last = bytes.len();
            put_message(kind, REQUEST | flags, 1, &body, &mut bytes);
        }
        if let Some(flags) = bytes.get_mut(last + 6..last + 8) {
            let wanted = u16::from_ne_bytes([flags[0], flags[1]]) | ACK;
            flags.copy_from_slice(&wanted.to_ne_bytes());
        }
        Self(bytes)
    }
}

/// Kind, flags and body of a request.
pub type Request = (u16, u16, Vec<u8>);

/// A nexthop by a gateway on an interface.
pub fn put_nexthop(id: u32, gateway: IpAddr, interface: u32) -> Request {
    let (family, octets) = match gateway {
        IpAddr::V4(address) => (Family::Ipv4, address.octets().to_vec()),
        IpAddr::V6(address) => (Family::Ipv6, address.octets().to_vec()),
    };
    let mut body = vec![number(family), 0, PROTOCOL, 0, 0, 0, 0, 0];
    put_attribute(NHA_ID, &id.to_ne_bytes(), &mut body);
    put_attribute(NHA_OIF, &interface.to_ne_bytes(), &mut body);
    put_attribute(NHA_GATEWAY, &octets, &mut body);
    (RTM_NEWNEXTHOP, CREATE, body)
}

/// A group of nexthops of equal weight.
pub fn put_group(id: u32, members: &[u32]) -> Request {
    let mut body = vec![0, 0, PROTOCOL, 0, 0, 0, 0, 0];
    put_attribute(NHA_ID, &id.to_ne_bytes(), &mut body);
    let entry = |id: &u32| [id.to_ne_bytes(), [0; 4]].concat();
    let entries: Vec<u8> = members.iter().flat_map(entry).collect();
    put_attribute(NHA_GROUP, &entries, &mut body);
    (RTM_NEWNEXTHOP, CREATE, body)
}

/// Other members for a group that is there.
pub fn replace_group(id: u32, members: &[u32]) -> Request {
    let (kind, flags, body) = put_group(id, members);
    (kind, flags | REPLACE, body)
}

/// Takes a nexthop away, and out of all groups.
pub fn delete_nexthop(id: u32) -> Request {
    let mut body = vec![0; NEXTHOP_HEADER];
    put_attribute(NHA_ID, &id.to_ne_bytes(), &mut body);
    (RTM_DELNEXTHOP, 0, body)
}

/// A route to prefix `prefix` over a nexthop object.
pub fn put_route(family: Family, prefix: u32, nexthop: u32) -> Request {
    let mut body = route(family, prefix);
    put_attribute(RTA_NH_ID, &nexthop.to_ne_bytes(), &mut body);
    (RTM_NEWROUTE, CREATE, body)
}

/// Takes the route to prefix `prefix` away.
pub fn delete_route(family: Family, prefix: u32) -> Request {
    (RTM_DELROUTE, 0, route(family, prefix))
}

fn route(family: Family, prefix: u32) -> Vec<u8> {
    let length = family.length();
    let mut body = vec![
        number(family),
        length,
        0,
        0,
        RT_TABLE_MAIN,
        PROTOCOL,
        0,
        RTN_UNICAST,
    ];
    body.extend([0; 4]);
    put_attribute(RTA_DST, &family.octets(prefix), &mut body);
    body
}

fn number(family: Family) -> u8 {
    match family {
        Family::Ipv4 => libc::AF_INET as u8,
        Family::Ipv6 => libc::AF_INET6 as u8,
    }
}

fn put_message(kind: u16, flags: u16, sequence: u32, body: &[u8], out: &mut Vec<u8>) {
    out.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend(body);
}

fn put_attribute(kind: u16, value: &[u8], out: &mut Vec<u8>) {
    out.extend(((4 + value.len()) as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The first message's kind and body, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, after))
}

/// The attributes in `bytes`, by kind.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & 0x3fff, value))
    })
}

fn news(family: Family, kind: u16, body: &[u8]) -> Option<News> {
    match kind {
        RTM_NEWROUTE | RTM_DELROUTE => {
            if *body.first()? != number(family) || *body.get(7)? != RTN_UNICAST {
                return None;
            }
            let mut prefix = None;
            let mut way = Way::Hops(1);
            for (attribute, value) in attributes(body.get(ROUTE_HEADER..)?) {
                match attribute {
                    RTA_DST => prefix = family.number(value, *body.get(1)?),
                    // A route over a nexthop object may have its hops told too.
                    RTA_NH_ID => way = Way::Nexthop(u32::from_ne_bytes(*value.first_chunk()?)),
                    RTA_MULTIPATH if !matches!(way, Way::Nexthop(_)) => {
                        way = Way::Hops(hops(value));
                    }
                    _ => {}
                }
            }
            let prefix = prefix?;
            Some(match (kind, way) {
                (RTM_NEWROUTE, way) => News::Route(prefix, way),
                (_, Way::Hops(hops)) => News::RouteGone(prefix, hops),
                _ => News::RouteGone(prefix, u16::MAX),
            })
        }
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => {
            let mut id = None;
            let mut members = 1;
            for (attribute, value) in attributes(body.get(NEXTHOP_HEADER..)?) {
                match attribute {
                    NHA_ID => id = Some(u32::from_ne_bytes(*value.first_chunk()?)),
                    NHA_GROUP => members = u16::try_from(value.len() / 8).ok()?,
                    _ => {}
                }
            }
            Some(match kind {
                RTM_NEWNEXTHOP => News::Nexthop(id?, members),
                _ => News::NexthopGone(id?),
            })
        }
        _ => None,
    }
}

/// How many `struct rtnexthop` there are.
fn hops(mut bytes: &[u8]) -> u16 {
    let mut hops = 0;
    while let Some(length) = bytes.first_chunk() {
        let length = usize::from(u16::from_ne_bytes(*length)).max(8);
        hops += 1;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

fn join(socket: &socket2::SockRef, group: u32) -> Result<()> {
    let group = group as libc::c_int;
    let size = size_of_val(&group) as libc::socklen_t;
    // SAFETY: the option's value is an int, which lives as long as the call.
    let done = unsafe {
        let value = std::ptr::from_ref(&group).cast();
        let level = libc::SOL_NETLINK;
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            libc::NETLINK_ADD_MEMBERSHIP,
            value,
            size,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(Error::io("join a netlink group")(
            std::io::Error::last_os_error(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_is_put_is_understood() {
        for family in [Family::Ipv4, Family::Ipv6] {
            let (kind, _, body) = put_route(family, 70_000, 9);
            let expected = News::Route(70_000, Way::Nexthop(9));
            assert_eq!(news(family, kind, &body), Some(expected));
            let (kind, _, mut body) = delete_route(family, 70_000);
            let expected = News::RouteGone(70_000, 1);
            assert_eq!(news(family, kind, &body), Some(expected));
            // Two hops of its own, of eight and of sixteen octets.
            let hops = [[8, 0, 0, 0, 1, 0, 0, 0].as_slice(), &[16, 0], &[0; 14]].concat();
            put_attribute(RTA_MULTIPATH, &hops, &mut body);
            let expected = News::Route(70_000, Way::Hops(2));
            assert_eq!(news(family, RTM_NEWROUTE, &body), Some(expected));
        }
    }

    #[test]
    fn a_group_that_is_put_is_understood() {
        let (kind, _, body) = put_group(9, &[1, 2]);
        assert_eq!(news(Family::Ipv4, kind, &body), Some(News::Nexthop(9, 2)));
        let (kind, _, body) = put_nexthop(2, IpAddr::from([10, 0, 0, 1]), 3);
        assert_eq!(news(Family::Ipv4, kind, &body), Some(News::Nexthop(2, 1)));
        let (kind, _, body) = delete_nexthop(2);
        assert_eq!(news(Family::Ipv4, kind, &body), Some(News::NexthopGone(2)));
    }
}
