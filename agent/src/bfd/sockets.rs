//! The sockets of BFD over one hop (RFC 5881), of one address family each.
//!
//! All sessions of a family send from one port, where RFC 5881 section 4 says that each session
//! SHOULD have its own: five hundred sockets would buy nothing, as no peer tells sessions apart by it.

use super::sessions::{Origin, Outgoing};
use crate::netns::{self, Netns};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, recvmsg,
    sendmsg, setsockopt, sockopt,
};
use routemesh_bfd::{LENGTH, Packet};
use socket2::{Domain, Protocol, Socket, Type};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Where packets go to (RFC 5881 section 4).
const PORT: u16 = 3784;
/// Where they come from.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=u16::MAX;
/// So many of these are tried.
const TRIES: u16 = 64;
/// No router has passed on what arrives with it (RFC 5881 section 5).
const TTL: i32 = 255;
/// Internetwork control, as every routing daemon marks its packets (RFC 4594).
const CS6: u32 = 0xc0;
/// What may wait while the thread does not run, in bytes.
const BUFFER: usize = 4 << 20;

/// The sockets of one family.
#[derive(Debug)]
pub(super) struct Sockets {
    family: Family,
    receiving: Socket,
    sending: Socket,
    /// For ancillary data.
    space: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    fn any(self, port: u16) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::UNSPECIFIED, port).into(),
            Self::V6 => (Ipv6Addr::UNSPECIFIED, port).into(),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("UDP port {PORT} of {0} is taken: is there another BFD daemon in this namespace?")]
    Taken(Family),
    #[error("no UDP socket for {0}: {1}")]
    Socket(Family, io::Error),
    #[error("{0}")]
    Netns(#[from] netns::Error),
}

impl Sockets {
    /// `choice`: a random number.
    pub(super) fn open(overlay: &Netns, family: Family, choice: u64) -> Result<Self, Error> {
        let failed = |error| Error::Socket(family, error);
        let make = || -> io::Result<_> { Ok((socket(family)?, socket(family)?)) };
        let (receiving, sending) = overlay.run(make)?.map_err(failed)?;
        receiving
            .bind(&family.any(PORT).into())
            .map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => Error::Taken(family),
                _ => failed(error),
            })?;
        ask_for_origins(&receiving, family).map_err(|errno| failed(errno.into()))?;
        let ports = *SOURCE_PORTS.end() - *SOURCE_PORTS.start();
        let first = u16::try_from(choice % u64::from(ports)).unwrap_or_default();
        let mut bound = Err(Error::Taken(family));
        for n in 0..TRIES {
            let port = SOURCE_PORTS.start() + (first.wrapping_add(n)) % ports;
            bound = sending.bind(&family.any(port).into()).map_err(failed);
            if bound.is_ok() {
                break;
            }
        }
        bound?;
        Ok(Self {
            family,
            receiving,
            sending,
            space: cmsg_space!(in6_pktinfo, i32),
        })
    }

    pub(super) fn family(&self) -> Family {
        self.family
    }

    /// To wait for.
    pub(super) fn readable(&self) -> BorrowedFd<'_> {
        self.receiving.as_fd()
    }

    /// The next packet that is one, and came over one hop; `None` when none waits any more. What is to
    /// be discarded is skipped, but not for ever.
    pub(super) fn receive(&mut self) -> Option<Result<(Packet, Origin), Discarded>> {
        // Longer ones are cut, which takes nothing from what is read of them.
        let mut bytes = [0; LENGTH + 32];
        let fd = self.receiving.as_raw_fd();
        let received = match self.family {
            Family::V4 => receive::<SockaddrIn>(fd, &mut bytes, &mut self.space),
            Family::V6 => receive::<SockaddrIn6>(fd, &mut bytes, &mut self.space),
        };
        let (length, received) = match received {
            Ok(received) => received,
            Err(Errno::EAGAIN) => return None,
            Err(_) => return Some(Err(Discarded)),
        };
        let origin = received.origin().filter(|_| received.ttl == TTL);
        let packet = bytes.get(..length).map(Packet::decode);
        Some(match (origin, packet) {
            (Some(origin), Some(Ok(packet))) => Ok((packet, origin)),
            _ => Err(Discarded),
        })
    }

    pub(super) fn send(&self, outgoing: &Outgoing) -> Result<(), Errno> {
        let bytes = outgoing.packet.encode();
        let bytes = [IoSlice::new(&bytes)];
        let (fd, flags) = (self.sending.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let index = outgoing.index;
        let sent = match (outgoing.local, outgoing.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                let info = in_pktinfo {
                    ipi_ifindex: i32::try_from(index).unwrap_or_default(),
                    ipi_spec_dst: in_addr {
                        s_addr: u32::from_ne_bytes(local.octets()),
                    },
                    ipi_addr: in_addr { s_addr: 0 },
                };
                let to = SockaddrIn::from(SocketAddrV4::new(remote, PORT));
                let info = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmsg(fd, &bytes, &info, flags, Some(&to))
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                let info = in6_pktinfo {
                    ipi6_ifindex: index,
                    ipi6_addr: in6_addr {
                        s6_addr: local.octets(),
                    },
                };
                let scope = if remote.is_unicast_link_local() {
                    index
                } else {
                    0
                };
                let to = SockaddrIn6::from(SocketAddrV6::new(remote, PORT, 0, scope));
                let info = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmsg(fd, &bytes, &info, flags, Some(&to))
            }
            _ => Err(Errno::EAFNOSUPPORT),
        };
        sent.map(drop)
    }
}

/// What was received is nothing of ours.
pub(super) struct Discarded;

/// What the kernel says of a datagram.
#[derive(Default)]
struct Received {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    index: u32,
    ttl: i32,
}

impl Received {
    fn origin(&self) -> Option<Origin> {
        Some(Origin {
            source: self.source?,
            destination: self.destination?,
            index: self.index,
        })
    }
}

/// An address of either family.
trait Address: SockaddrLike {
    fn ip(&self) -> IpAddr;
}

impl Address for SockaddrIn {
    fn ip(&self) -> IpAddr {
        SockaddrIn::ip(self).into()
    }
}

impl Address for SockaddrIn6 {
    fn ip(&self) -> IpAddr {
        SockaddrIn6::ip(self).into()
    }
}

fn receive<A: Address>(
    fd: i32,
    bytes: &mut [u8],
    space: &mut [u8],
) -> Result<(usize, Received), Errno> {
    let mut buffer = [IoSliceMut::new(bytes)];
    let message = recvmsg::<A>(fd, &mut buffer, Some(space), MsgFlags::MSG_DONTWAIT)?;
    let mut received = Received {
        source: message.address.as_ref().map(Address::ip),
        ..Received::default()
    };
    for item in message.cmsgs()? {
        match item {
            ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
                received.ttl = ttl;
            }
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let octets = info.ipi_addr.s_addr.to_ne_bytes();
                received.destination = Some(IpAddr::from(octets));
                received.index = u32::try_from(info.ipi_ifindex).unwrap_or_default();
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                received.destination = Some(IpAddr::from(info.ipi6_addr.s6_addr));
                received.index = info.ipi6_ifindex;
            }
            _ => {}
        }
    }
    Ok((message.bytes, received))
}

fn socket(family: Family) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking();
    let protocol = Some(Protocol::UDP);
    match family {
        Family::V4 => {
            let socket = Socket::new(Domain::IPV4, kind, protocol)?;
            socket.set_ttl_v4(TTL.unsigned_abs())?;
            socket.set_tos_v4(CS6)?;
            Ok(socket)
        }
        Family::V6 => {
            let socket = Socket::new(Domain::IPV6, kind, protocol)?;
            socket.set_only_v6(true)?;
            socket.set_unicast_hops_v6(TTL.unsigned_abs())?;
            socket.set_tclass_v6(CS6)?;
            Ok(socket)
        }
    }
}

fn ask_for_origins(socket: &Socket, family: Family) -> Result<(), Errno> {
    // Without the privilege, what the kernel gives has to do.
    let _ = setsockopt(socket, sockopt::RcvBufForce, &BUFFER);
    match family {
        Family::V4 => {
            setsockopt(socket, sockopt::Ipv4RecvTtl, &true)?;
            setsockopt(socket, sockopt::Ipv4PacketInfo, &true)
        }
        Family::V6 => {
            setsockopt(socket, sockopt::Ipv6RecvHopLimit, &true)?;
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)
        }
    }
}
