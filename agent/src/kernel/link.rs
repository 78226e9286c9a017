//! Link and address messages: building ours, reading everybody's.

use super::socket::Request;
use super::wire::{address, attribute, attributes, string, u32_at};
use crate::state::{LinkKind, ours};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVti, LinkVti6, LinkWireguard, LinkXfrm};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_XFRM_IF_ID: u16 = 2;
const IFLA_VRF_TABLE: u16 = 1;
const IFLA_VTI_IKEY: u16 = 2;
const IFLA_VTI_OKEY: u16 = 3;
const IFLA_VTI_LOCAL: u16 = 4;
const IFLA_VTI_REMOTE: u16 = 5;
const NUMBERS: std::ops::RangeInclusive<u32> = ours::IF_ID..=ours::IF_ID + 0x00ff_ffff;

/// An interface as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    /// Administratively.
    pub up: bool,
    /// Up, and with a carrier.
    pub usable: bool,
    pub loopback: bool,
    /// The index of what it is a part of: a bridge, a bond, a VRF.
    pub master: Option<u32>,
    /// The routing table, if it is a VRF.
    pub table: Option<u32>,
    /// What it is, if it is a tunnel interface of ours.
    pub ours: Option<LinkKind>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub index: u32,
    /// The interface's own, with prefix length.
    pub own: IpNet,
    /// What it makes reachable on the link.
    pub on_link: IpNet,
}

/// Creates a tunnel interface.
pub(super) fn add(name: &str, kind: &LinkKind, mtu: u32) -> Option<Request> {
    let message = match *kind {
        LinkKind::Xfrm { if_id } => LinkMessageBuilder::<LinkXfrm>::new(name)
            .if_id(if_id)
            .mtu(mtu)
            .build(),
        LinkKind::Vti {
            local: IpAddr::V4(local),
            remote: IpAddr::V4(remote),
            key,
        } => {
            let vti = LinkVti::new(name)
                .local(local)
                .remote(remote)
                .ikey(key)
                .okey(key);
            vti.mtu(mtu).build()
        }
        LinkKind::Vti {
            local: IpAddr::V6(local),
            remote: IpAddr::V6(remote),
            key,
        } => {
            let vti = LinkVti6::new(name)
                .local(local)
                .remote(remote)
                .ikey(key)
                .okey(key);
            vti.mtu(mtu).build()
        }
        LinkKind::WireGuard { group } => LinkMessageBuilder::<LinkWireguard>::new(name)
            .link_group(group)
            .mtu(mtu)
            .build(),
        // One outer address of each family: no such tunnel.
        LinkKind::Vti { .. } => return None,
    };
    Some(Request::new(
        RouteNetlinkMessage::NewLink(message),
        NLM_F_CREATE | NLM_F_EXCL,
    ))
}

/// Moves an interface to another namespace.
pub(super) fn transfer(index: u32, namespace: BorrowedFd<'_>) -> Request {
    let message = LinkUnspec::new_with_index(index).setns_by_fd(namespace.as_raw_fd());
    Request::new(RouteNetlinkMessage::SetLink(message.build()), 0)
}

/// Makes an interface a part of another, and sets it down: what is set up before would lose its IPv6
/// addresses, and everybody's nexthops, on the way.
pub(super) fn enslave(index: u32, master: u32) -> Request {
    let message = LinkUnspec::new_with_index(index).controller(master).down();
    Request::new(RouteNetlinkMessage::SetLink(message.build()), 0)
}

pub(super) fn set(index: u32, up: bool, mtu: u32) -> Request {
    let message = LinkUnspec::new_with_index(index).mtu(mtu);
    let message = if up { message.up() } else { message.down() };
    Request::new(RouteNetlinkMessage::SetLink(message.build()), 0)
}

pub(super) fn delete(index: u32) -> Request {
    Request::new(
        RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(index).build()),
        0,
    )
}

/// Asks for one interface.
pub(super) fn get(name: &str) -> Request {
    Request::new(
        RouteNetlinkMessage::GetLink(LinkUnspec::new_with_name(name).build()),
        0,
    )
}

/// Asks for one interface by its index.
pub(super) fn get_index(index: u32) -> Request {
    Request::new(
        RouteNetlinkMessage::GetLink(LinkUnspec::new_with_index(index).build()),
        0,
    )
}

/// Asks for all interfaces, without their counters.
pub(super) fn dump() -> Request {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    Request::new(RouteNetlinkMessage::GetLink(message), 0)
}

fn address_message(index: u32, address: &IpNet) -> AddressMessage {
    let v6 = address.addr().is_ipv6();
    let mut message = AddressMessage::default();
    message.header.family = if v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
    ];
    message
}

pub(super) fn add_address(index: u32, address: &IpNet) -> Request {
    let mut message = address_message(index, address);
    if address.addr().is_ipv6() {
        // Nobody else is in the tunnel, and a tentative address cannot be bound to.
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    Request::new(
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

pub(super) fn delete_address(index: u32, address: &IpNet) -> Request {
    Request::new(
        RouteNetlinkMessage::DelAddress(address_message(index, address)),
        0,
    )
}

/// Asks for all addresses.
pub(super) fn dump_addresses() -> Request {
    Request::new(
        RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        0,
    )
}

pub(super) fn decode(kind: u16, body: &[u8]) -> Option<Interface> {
    // The bridge says in link messages of its own family what a port does.
    let plain = i32::from(*body.first()?) == libc::AF_UNSPEC;
    if !matches!(kind, libc::RTM_NEWLINK | libc::RTM_DELLINK) || !plain {
        return None;
    }
    let (index, flags) = (u32_at(body, 4)?, u32_at(body, 8)?);
    let attributes = body.get(LINK_HEADER..)?;
    let name = string(attribute(attributes, libc::IFLA_IFNAME)?);
    let is = |flag: i32| flags & flag.cast_unsigned() != 0;
    let info = attribute(attributes, libc::IFLA_LINKINFO);
    let number = |kind| attribute(attributes, kind).and_then(|value| u32_at(value, 0));
    Some(Interface {
        index,
        mtu: number(libc::IFLA_MTU)?,
        up: is(libc::IFF_UP),
        usable: kind == libc::RTM_NEWLINK && is(libc::IFF_UP) && is(libc::IFF_LOWER_UP),
        loopback: is(libc::IFF_LOOPBACK),
        master: number(libc::IFLA_MASTER),
        table: info.and_then(vrf_table),
        ours: info
            .filter(|_| is_our_name(&name))
            .and_then(|info| tunnel(info, number(libc::IFLA_GROUP))),
        name,
    })
}

fn vrf_table(info: &[u8]) -> Option<u32> {
    let is_vrf = string(attribute(info, IFLA_INFO_KIND)?) == "vrf";
    let table = attribute(attribute(info, IFLA_INFO_DATA)?, IFLA_VRF_TABLE)?;
    is_vrf.then(|| u32_at(table, 0))?
}

/// Our prefix and a number.
fn is_our_name(name: &str) -> bool {
    let number = name.strip_prefix(ours::LINK_PREFIX).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
}

/// What a link is, if it is of a kind and a number of ours. WireGuard's have their number as their group.
fn tunnel(info: &[u8], group: Option<u32>) -> Option<LinkKind> {
    let kind = string(attribute(info, IFLA_INFO_KIND)?);
    if kind == "wireguard" {
        let group = group.filter(|group| NUMBERS.contains(group))?;
        return Some(LinkKind::WireGuard { group });
    }
    let data = attribute(info, IFLA_INFO_DATA)?;
    match kind.as_str() {
        "xfrm" => {
            let if_id = u32_at(attribute(data, IFLA_XFRM_IF_ID)?, 0)?;
            NUMBERS.contains(&if_id).then_some(LinkKind::Xfrm { if_id })
        }
        "vti" | "vti6" => {
            let key = |kind| Some(u32::from_be(u32_at(attribute(data, kind)?, 0)?));
            let end = |kind| attribute(data, kind).and_then(address);
            let (ikey, okey) = (key(IFLA_VTI_IKEY)?, key(IFLA_VTI_OKEY)?);
            NUMBERS.contains(&ikey).then_some(LinkKind::Vti {
                local: end(IFLA_VTI_LOCAL)?,
                remote: end(IFLA_VTI_REMOTE)?,
                // Both keys are the same on what we make; another is nothing anybody desires.
                key: if ikey == okey { ikey } else { 0 },
            })
        }
        _ => None,
    }
}

pub(super) fn decode_address(kind: u16, body: &[u8]) -> Option<Address> {
    if kind != libc::RTM_NEWADDR {
        return None;
    }
    let length = *body.get(1)?;
    let index = u32_at(body, 4)?;
    let (mut local, mut peer) = (None, None);
    for (kind, value) in attributes(body.get(ADDRESS_HEADER..)?) {
        match kind {
            libc::IFA_LOCAL => local = address(value),
            libc::IFA_ADDRESS => peer = address(value),
            _ => {}
        }
    }
    let (own, on_link) = (local.or(peer)?, peer.or(local)?);
    Some(Address {
        index,
        own: IpNet::new(own, length).ok()?,
        on_link: IpNet::new(on_link, length).ok()?.trunc(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NUMBER: u32 = ours::IF_ID + 4;

    fn vti(local: &str, remote: &str) -> LinkKind {
        let parse = |text: &str| text.parse().expect("an address");
        LinkKind::Vti {
            local: parse(local),
            remote: parse(remote),
            key: NUMBER,
        }
    }

    fn read_back(name: &str, kind: &LinkKind) -> Interface {
        let request = add(name, kind, 1400).expect("a tunnel of one family");
        decode(request.kind, &request.body).expect("a link")
    }

    #[test]
    fn what_is_added_is_read_back() {
        let kinds = [
            LinkKind::Xfrm { if_id: NUMBER },
            vti("192.0.2.1", "192.0.2.2"),
            vti("2001:db8::1", "2001:db8::2"),
            LinkKind::WireGuard { group: NUMBER },
        ];
        for kind in kinds {
            let interface = read_back("rm4", &kind);
            assert_eq!((interface.name.as_str(), interface.mtu), ("rm4", 1400));
            assert_eq!(interface.ours, Some(kind));
            assert!(!interface.up && !interface.usable);
        }
    }

    #[test]
    fn a_tunnel_of_two_families_is_refused() {
        assert_eq!(add("rm4", &vti("192.0.2.1", "2001:db8::2"), 1400), None);
    }

    #[test]
    fn ours_is_by_name_kind_and_number() {
        let ours = LinkKind::Xfrm { if_id: NUMBER };
        for name in ["rm", "rm4a", "rma", "wan0", "r4", "RM4", "rm-4", "rm+4"] {
            assert_eq!(read_back(name, &ours).ours, None, "{name}");
        }
        for if_id in [0, 4, ours::IF_ID - 1, 0x5300_0000] {
            let group = if_id;
            for kind in [LinkKind::Xfrm { if_id }, LinkKind::WireGuard { group }] {
                assert_eq!(read_back("rm4", &kind).ours, None, "{if_id:#x}");
            }
        }
    }

    #[test]
    fn a_bridge_speaking_of_its_port_is_not_a_link() {
        let mut request = add("rm4", &LinkKind::Xfrm { if_id: NUMBER }, 1400).expect("a link");
        request.body[0] = libc::AF_BRIDGE as u8;
        assert_eq!(decode(libc::RTM_DELLINK, &request.body), None);
    }

    #[test]
    fn an_address_is_read_back() {
        for text in ["10.255.0.0/31", "2001:db8:ff::5/127"] {
            let own: IpNet = text.parse().expect("an address");
            let request = add_address(9, &own);
            let expected = Address {
                index: 9,
                own,
                on_link: own.trunc(),
            };
            assert_eq!(decode_address(request.kind, &request.body), Some(expected));
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(kind in 14u16..24, body: Vec<u8>) {
            let _ = (decode(kind, &body), decode_address(kind, &body));
        }
    }
}
