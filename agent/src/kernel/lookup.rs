//! Where the kernel sends a packet, in its own words: the route that matches, the members of its group, and
//! the one that a flow takes. For people who ask; no decision waits for it.

use super::link;
use super::nexthop::{self, Kind};
use super::socket::{Channel, Refusal, Request};
use super::wire::{address, attribute, octets, put_attribute, u16_at, u32_at};
use super::{Error, Kernel};
use crate::state::{LinkKind, NexthopId, Side};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::libc;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// `struct rtmsg`.
const HEADER: usize = 12;
/// The route is told, rather than the way that comes of it.
const RTM_F_FIB_MATCH: u32 = 0x2000;
const RTA_NH_ID: u16 = 30;
const RTA_VIA: u16 = 18;
const RTA_IP_PROTO: u16 = 27;
const RTA_SPORT: u16 = 28;
const RTA_DPORT: u16 = 29;
/// `struct rtnexthop`.
const HOP: usize = 8;
/// Members that are looked up, of however large a group.
const MEMBERS: usize = 256;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Whither.
    pub target: IpAddr,
    /// Whence; none for the host's own choice.
    pub source: Option<IpAddr>,
    /// Index of the interface that it comes in by; none for the host's own packets.
    pub from: Option<u32>,
    /// Protocol and ports, where they count.
    pub ports: Option<(u8, u16, u16)>,
}

impl Flow {
    /// The host's own, without more.
    pub fn to(target: IpAddr) -> Self {
        Self {
            target,
            source: None,
            from: None,
            ports: None,
        }
    }
}

/// A neighbour on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The interface's name.
    pub link: String,
    /// The neighbour's address; none where the target itself is on the link.
    pub gateway: Option<IpAddr>,
    /// Its share.
    pub weight: u16,
}

/// A route that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Its destination.
    pub prefix: IpNet,
    /// Of `rtm_type`.
    pub kind: u8,
    /// Who made it.
    pub protocol: u8,
    /// Where it is.
    pub table: u32,
    /// Its metric.
    pub metric: u32,
    /// The nexthop object or group that it goes through.
    pub nexthop: Option<NexthopId>,
    /// Where it leads.
    pub hops: Vec<Hop>,
}

/// What the kernel does with a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// By this route; `None` where the kernel says nothing but how it refuses.
    pub route: Option<Match>,
    /// The hop that it takes, and the host's own address that it would have; or how the kernel refuses.
    pub taken: Result<(Hop, Option<IpAddr>), Errno>,
}

impl Kernel {
    /// Looks a flow up.
    pub async fn look_up(&self, side: Side, mut flow: Flow) -> Result<Way, Error> {
        let refused = |refusal| Error::Refused {
            what: "look up a route",
            refusal,
        };
        let channel = match side {
            Side::Underlay => &self.underlay,
            Side::Overlay => &self.overlay,
        };
        // What the VRF's own programs send is looked up by it.
        let vrf = self.vrf.as_ref().filter(|_| side == Side::Overlay);
        let out = vrf.filter(|_| flow.from.is_none()).map(|vrf| vrf.index);
        if let Some(source) = flow.source.filter(|_| flow.from.is_none())
            && !is_own(channel, source, out).await.map_err(refused)?
        {
            flow.from = towards(channel, source, out).await;
        }
        let out = out.filter(|_| flow.from.is_none());
        let route = match channel.get(request(&flow, out, true), matched).await {
            Ok(found) => found,
            Err(refusal) if says_no(refusal.errno) => None,
            Err(refusal) => return Err(refused(refusal)),
        };
        let route = match route {
            Some((route, hops)) => Some(resolve(channel, route, hops).await.map_err(refused)?),
            None => None,
        };
        let taken = match channel.get(request(&flow, out, false), taken).await {
            Ok(Some((hop, own))) => Ok((name(channel, hop).await.map_err(refused)?, own)),
            Ok(None) => Err(Errno::ENODATA),
            Err(refusal) if says_no(refusal.errno) => Err(refusal.errno),
            Err(refusal) => return Err(refused(refusal)),
        };
        Ok(Way { route, taken })
    }

    /// The overlay's interfaces by name.
    pub async fn interfaces(&self) -> Result<BTreeMap<String, Interface>, Error> {
        let refused = |refusal| Error::Refused {
            what: "list interfaces",
            refusal,
        };
        let links = self.overlay.dump(link::dump(), link::decode).await;
        let addresses = self
            .overlay
            .dump(link::dump_addresses(), link::decode_address)
            .await;
        let mut interfaces: BTreeMap<u32, (String, Interface)> = BTreeMap::new();
        for link in links.map_err(refused)? {
            let interface = Interface {
                index: link.index,
                up: link.up,
                usable: link.usable,
                mtu: link.mtu,
                ours: link.ours,
                addresses: Vec::new(),
            };
            interfaces.insert(link.index, (link.name, interface));
        }
        for address in addresses.map_err(refused)? {
            if let Some((_, interface)) = interfaces.get_mut(&address.index) {
                interface.addresses.push(address.own);
            }
        }
        Ok(interfaces.into_values().collect())
    }
}

/// An interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number for it.
    pub index: u32,
    /// Administratively.
    pub up: bool,
    /// Up, and with a carrier.
    pub usable: bool,
    /// Its MTU.
    pub mtu: u32,
    /// What it is, if it is a tunnel interface of ours.
    pub ours: Option<LinkKind>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
}

/// Whether an address is one of the host's own.
async fn is_own(channel: &Channel, own: IpAddr, out: Option<u32>) -> Result<bool, Refusal> {
    let local = |kind: u16, body: &[u8]| -> Option<bool> {
        let [_, _, _, _, _, _, _, of, ..] = body else {
            return None;
        };
        (kind == libc::RTM_NEWROUTE).then_some(*of == libc::RTN_LOCAL)
    };
    match channel
        .get(request(&Flow::to(own), out, false), local)
        .await
    {
        Ok(found) => Ok(found.unwrap_or_default()),
        Err(refusal) if says_no(refusal.errno) => Ok(false),
        Err(refusal) => Err(refusal),
    }
}

/// The interface that an address is behind: what comes from there comes in by it.
async fn towards(channel: &Channel, source: IpAddr, out: Option<u32>) -> Option<u32> {
    let found = channel.get(request(&Flow::to(source), out, false), taken);
    found.await.ok().flatten().map(|(hop, _)| hop.index)
}

async fn resolve(
    channel: &Channel,
    mut route: Match,
    mut hops: Vec<Raw>,
) -> Result<Match, Refusal> {
    // The kernel leaves out what a nexthop object says itself (`nexthop_compat_mode`).
    if let Some(id) = route.nexthop.filter(|_| hops.is_empty()) {
        let entry = channel.get(nexthop::get(id), nexthop::decode).await?;
        match entry.map(|entry| entry.kind) {
            Some(Kind::Via(gateway, index)) => hops.push(Raw::via(gateway, index, 1)),
            Some(Kind::Group(group)) => {
                for member in group.members.iter().take(MEMBERS) {
                    let entry = channel
                        .get(nexthop::get(member.id), nexthop::decode)
                        .await?;
                    if let Some(Kind::Via(gateway, index)) = entry.map(|entry| entry.kind) {
                        hops.push(Raw::via(gateway, index, member.weight));
                    }
                }
            }
            Some(Kind::Other) | None => {}
        }
    }
    for hop in hops {
        route.hops.push(name(channel, hop).await?);
    }
    Ok(route)
}
/// The kernel's way to say that there is none.
fn says_no(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::EINVAL
            | Errno::EACCES
            | Errno::ENODEV
            | Errno::EXDEV
            | Errno::ESRCH
    )
}

/// A hop with its interface's index.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Raw {
    index: u32,
    gateway: Option<IpAddr>,
    weight: u16,
}

impl Raw {
    fn via(gateway: IpAddr, index: u32, weight: u16) -> Self {
        Self {
            index,
            gateway: Some(gateway),
            weight,
        }
    }
}

async fn name(channel: &Channel, hop: Raw) -> Result<Hop, Refusal> {
    let link = channel
        .get(link::get_index(hop.index), link::decode)
        .await?;
    Ok(Hop {
        link: link.map(|link| link.name).unwrap_or_default(),
        gateway: hop.gateway,
        weight: hop.weight,
    })
}

fn request(flow: &Flow, out: Option<u32>, route: bool) -> Request {
    let target = octets(flow.target);
    let family = match flow.target {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    let same = |source: &IpAddr| source.is_ipv4() == flow.target.is_ipv4();
    let source = flow.source.filter(same).map(octets).unwrap_or_default();
    let bits = |address: &[u8]| (address.len() * 8) as u8;
    let mut body = vec![family as u8, bits(&target), bits(&source)];
    body.resize(HEADER - 4, 0);
    let flags = if route { RTM_F_FIB_MATCH } else { 0 };
    body.extend(flags.to_ne_bytes());
    put_attribute(&mut body, libc::RTA_DST, &target);
    if !source.is_empty() {
        put_attribute(&mut body, libc::RTA_SRC, &source);
    }
    if let Some(index) = flow.from {
        put_attribute(&mut body, libc::RTA_IIF, &index.to_ne_bytes());
    }
    if let Some(index) = out {
        put_attribute(&mut body, libc::RTA_OIF, &index.to_ne_bytes());
    }
    if let Some((protocol, from, to)) = flow.ports {
        put_attribute(&mut body, RTA_IP_PROTO, &[protocol]);
        put_attribute(&mut body, RTA_SPORT, &from.to_be_bytes());
        put_attribute(&mut body, RTA_DPORT, &to.to_be_bytes());
    }
    Request {
        kind: libc::RTM_GETROUTE,
        flags: 0,
        body,
    }
}

/// The way that a flow takes, and the host's own address for it.
fn taken(kind: u16, body: &[u8]) -> Option<(Raw, Option<IpAddr>)> {
    let attributes = body.get(HEADER..)?;
    let own = attribute(attributes, libc::RTA_PREFSRC).and_then(address);
    let hop = Raw {
        index: u32_at(attribute(attributes, libc::RTA_OIF)?, 0)?,
        gateway: neighbour(attributes),
        weight: 1,
    };
    (kind == libc::RTM_NEWROUTE).then_some((hop, own))
}

/// A route, and the hops that it has in itself.
fn matched(kind: u16, body: &[u8]) -> Option<(Match, Vec<Raw>)> {
    let [family, length, _, _, table, protocol, _, route_type, ..] = *body else {
        return None;
    };
    if kind != libc::RTM_NEWROUTE {
        return None;
    }
    let attributes = body.get(HEADER..)?;
    let number = |kind| u32_at(attribute(attributes, kind)?, 0);
    let nowhere: IpAddr = match i32::from(family) {
        libc::AF_INET => [0; 4].into(),
        _ => [0; 16].into(),
    };
    let target = match attribute(attributes, libc::RTA_DST) {
        Some(bytes) => address(bytes)?,
        None => nowhere,
    };
    let hops = match attribute(attributes, libc::RTA_MULTIPATH) {
        Some(hops) => several(hops),
        None => number(libc::RTA_OIF)
            .map(|index| Raw {
                index,
                gateway: neighbour(attributes),
                weight: 1,
            })
            .into_iter()
            .collect(),
    };
    let route = Match {
        prefix: IpNet::new(target, length).ok()?,
        kind: route_type,
        protocol,
        table: number(libc::RTA_TABLE).unwrap_or(table.into()),
        metric: number(libc::RTA_PRIORITY).unwrap_or(0),
        nexthop: number(RTA_NH_ID).map(NexthopId),
        hops: Vec::new(),
    };
    Some((route, hops))
}

/// `RTA_GATEWAY`, or `RTA_VIA` for a neighbour of the other family.
fn neighbour(attributes: &[u8]) -> Option<IpAddr> {
    let via = || address(attribute(attributes, RTA_VIA)?.get(2..)?);
    let gateway = attribute(attributes, libc::RTA_GATEWAY).and_then(address);
    gateway.or_else(via)
}

fn several(mut bytes: &[u8]) -> Vec<Raw> {
    let mut hops = Vec::new();
    while let Some(length) = u16_at(bytes, 0).map(usize::from) {
        let Some((index, inner)) = u32_at(bytes, 4).zip(bytes.get(HOP..length)) else {
            break;
        };
        hops.push(Raw {
            index,
            gateway: neighbour(inner),
            weight: u16::from(bytes.get(3).copied().unwrap_or_default()) + 1,
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(flags: [u8; 8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = flags.to_vec();
        body.resize(HEADER, 0);
        for (kind, value) in attributes {
            put_attribute(&mut body, *kind, value);
        }
        body
    }

    #[test]
    fn a_route_is_told_with_its_group_or_its_hops() {
        let head = [2, 24, 0, 0, 254, 82, 0, libc::RTN_UNICAST];
        let target = (libc::RTA_DST, &[10, 0, 2, 0][..]);
        let id = 0x5200_0058u32.to_ne_bytes();
        let grouped = answer(head, &[target, (RTA_NH_ID, &id)]);
        let (route, hops) = matched(libc::RTM_NEWROUTE, &grouped).unwrap();
        assert_eq!(route.prefix, "10.0.2.0/24".parse().unwrap());
        assert_eq!((route.protocol, route.table, route.metric), (82, 254, 0));
        assert_eq!(
            (route.nexthop, hops),
            (Some(NexthopId(0x5200_0058)), vec![])
        );

        // Two hops: one over a neighbour of the other family, one of its own.
        let mut two = Vec::new();
        let mut via = vec![10, 0];
        via.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        for (weight, index, kind, value) in [
            (0, 7u32, RTA_VIA, &via[..]),
            (4, 9, libc::RTA_GATEWAY, &[192, 0, 2, 1]),
        ] {
            let mut hop = vec![0, 0, 0, weight];
            hop.extend(index.to_ne_bytes());
            put_attribute(&mut hop, kind, value);
            let length = u16::try_from(hop.len()).unwrap().to_ne_bytes();
            hop.splice(..2, length);
            two.extend(hop);
        }
        let several = answer(head, &[target, (libc::RTA_MULTIPATH, &two)]);
        let (_, hops) = matched(libc::RTM_NEWROUTE, &several).unwrap();
        let hop = |index, gateway: &str, weight| Raw::via(gateway.parse().unwrap(), index, weight);
        assert_eq!(hops, [hop(7, "fe80::1", 1), hop(9, "192.0.2.1", 5)]);
    }

    #[test]
    fn ports_are_in_the_order_of_the_network() {
        let flow = Flow {
            ports: Some((6, 40000, 443)),
            ..Flow::to("10.0.2.1".parse().unwrap())
        };
        let body = request(&flow, None, false).body;
        let attributes = &body[HEADER..];
        assert_eq!(attribute(attributes, RTA_IP_PROTO), Some(&[6][..]));
        assert_eq!(attribute(attributes, RTA_DPORT), Some(&[1, 187][..]));
    }

    proptest! {
        #[test]
        fn nothing_panics(body: Vec<u8>) {
            let _ = matched(libc::RTM_NEWROUTE, &body);
            let _ = taken(libc::RTM_NEWROUTE, &body);
            let _ = several(&body);
        }
    }
}
