//! Router advertisements (RFC 4861 section 4.2): by them an unnumbered router knows that we are there.
//! FRR neither connects to nor accepts whom it has not heard.

use crate::netns::{self, Netns};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};

/// Type and code, a checksum that the kernel fills in, hop limit and flags, and then three times: not
/// said. A router lifetime of zero means that nobody is to take us for a default router.
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Says once, from our link-local address `local` on the interface `scope`, that we are there.
pub fn advertise(netns: &Netns, local: Ipv6Addr, scope: u32) -> io::Result<()> {
    let make = || {
        Socket::new(
            Domain::IPV6,
            Type::RAW.nonblocking(),
            Some(Protocol::ICMPV6),
        )
    };
    let socket: Socket = netns
        .run(make)
        .map_err(|error: netns::Error| io::Error::other(error))??;
    // Less would have been forwarded (RFC 4861 section 6.1.2).
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_loop_v6(false)?;
    socket.bind(&SockAddr::from(SocketAddrV6::new(local, 0, 0, scope)))?;
    let everybody = SockAddr::from(SocketAddrV6::new(ALL_NODES, 0, 0, scope));
    socket.send_to(&ADVERTISEMENT, &everybody)?;
    Ok(())
}
