//! Router advertisements (RFC 4861 section 4.2): by them an unnumbered router knows that we are there.
//! FRR neither connects to nor accepts whom it has not heard.

use crate::netns::Netns;
use nix::ifaddrs::getifaddrs;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Says once, from our link-local address `local` on the interface `scope`, that we are there.
pub fn advertise(netns: &Netns, local: Ipv6Addr, scope: u32) -> io::Result<()> {
    let make = || -> io::Result<_> {
        let protocol = Some(Protocol::ICMPV6);
        let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking(), protocol)?;
        Ok((socket, hardware_address(scope)?))
    };
    let (socket, hardware) = netns.run(make).map_err(io::Error::other)??;
    // Less would have been forwarded (RFC 4861 section 6.1.2).
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_loop_v6(false)?;
    socket.bind(&SockAddr::from(SocketAddrV6::new(local, 0, 0, scope)))?;
    let everybody = SockAddr::from(SocketAddrV6::new(ALL_NODES, 0, 0, scope));
    socket.send_to(&message(hardware), &everybody)?;
    Ok(())
}

/// Of the interface of this index in the calling thread's namespace; `None` where it has none of
/// Ethernet's kind.
fn hardware_address(index: u32) -> io::Result<Option<[u8; 6]>> {
    let addresses = getifaddrs()?.filter_map(|entry| entry.address);
    let mut ours = addresses.filter_map(|address| {
        let link = address.as_link_addr()?;
        (link.ifindex() == index as usize).then(|| link.addr())
    });
    Ok(ours.next().flatten())
}

/// A router lifetime of zero: nobody is to take us for a default router. Whoever runs another sender
/// of advertisements on the same interface must not want to be one either.
fn message(hardware: Option<[u8; 6]>) -> Vec<u8> {
    // Type and code, a checksum that the kernel fills in, hop limit and flags, and then three times:
    // not said.
    let mut message = vec![134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    if let Some(hardware) = hardware {
        // Without it Linux remembers nobody (source link-layer address, 8 bytes).
        message.extend([1, 1]);
        message.extend(hardware);
    }
    message
}
