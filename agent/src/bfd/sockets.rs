//! The sockets of BFD over one hop (RFC 5881), of one address family each.
//!
//! All sessions of a family send from one port, where RFC 5881 section 4 says that each session
//! SHOULD have its own: five hundred sockets would buy nothing, as no peer tells sessions apart by it.
//!
//! What says once more that all is well, which is nearly every packet, comes to a socket of its own. It
//! has the time of its arrival on it and may wait there until there is something else to do: who wakes up
//! for every packet wakes up twice as often.

use super::sessions::{Origin, Outgoing};
use crate::netns::{self, Netns};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{self, in_addr, in_pktinfo, in6_addr, in6_pktinfo};
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
use std::time::Duration;

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
    /// For what may change something.
    news: Socket,
    /// For what does not.
    routine: Socket,
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
        let make = || -> io::Result<_> { Ok([socket(family)?, socket(family)?, socket(family)?]) };
        let [news, routine, sending] = overlay.run(make)?.map_err(failed)?;
        for socket in [&news, &routine, &sending] {
            overlay.bind(socket).map_err(failed)?;
        }
        // In the order of their numbers in the filter.
        for receiving in [&news, &routine] {
            receiving.set_reuse_port(true).map_err(failed)?;
            receiving
                .bind(&family.any(PORT).into())
                .map_err(|error| match error.kind() {
                    io::ErrorKind::AddrInUse => Error::Taken(family),
                    _ => failed(error),
                })?;
            ask_for_origins(receiving, family).map_err(|errno| failed(errno.into()))?;
        }
        sort_out(&news).map_err(|errno| failed(errno.into()))?;
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
            news,
            routine,
            sending,
            space: cmsg_space!(in6_pktinfo, i32, libc::timespec),
        })
    }

    pub(super) fn family(&self) -> Family {
        self.family
    }

    /// To wait for: what may change something, and what does not.
    pub(super) fn readable(&self) -> [BorrowedFd<'_>; 2] {
        [self.news.as_fd(), self.routine.as_fd()]
    }

    /// The next packet that is one, and came over one hop; `None` when none waits any more. What is to
    /// be discarded is skipped, but not for ever.
    pub(super) fn receive(&mut self) -> Option<Result<Arrival, Discarded>> {
        // Longer ones are cut, which takes nothing from what is read of them.
        let mut bytes = [0; LENGTH + 32];
        let mut from = |socket: &Socket| match self.family {
            Family::V4 => receive::<SockaddrIn>(socket.as_raw_fd(), &mut bytes, &mut self.space),
            Family::V6 => receive::<SockaddrIn6>(socket.as_raw_fd(), &mut bytes, &mut self.space),
        };
        let received = match from(&self.routine) {
            Err(Errno::EAGAIN) => from(&self.news),
            received => received,
        };
        let (length, received) = match received {
            Ok(received) => received,
            Err(Errno::EAGAIN) => return None,
            Err(_) => return Some(Err(Discarded)),
        };
        let origin = received.origin().filter(|_| received.ttl == TTL);
        let packet = bytes.get(..length).map(Packet::decode);
        Some(match (origin, packet) {
            (Some(origin), Some(Ok(packet))) => Ok(Arrival {
                packet,
                origin,
                stamp: received.stamp,
            }),
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

/// A packet that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) packet: Packet,
    pub(super) origin: Origin,
    /// When the kernel got it, by the wall clock.
    pub(super) stamp: Option<Duration>,
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
    stamp: Option<Duration>,
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
            ControlMessageOwned::ScmTimestampns(stamp) => {
                let seconds = u64::try_from(stamp.tv_sec()).ok();
                let nanos = u32::try_from(stamp.tv_nsec()).ok();
                received.stamp = seconds.zip(nanos).map(|(s, ns)| Duration::new(s, ns));
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
    setsockopt(socket, sockopt::ReceiveTimestampns, &true)?;
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

/// Has the kernel choose between the two sockets that are bound to the port, by their order: the second
/// gets what says "up" and neither asks nor answers anything.
fn sort_out(socket: &Socket) -> Result<(), Errno> {
    /// The octet with the state and the bits P and F (RFC 5880 section 4.1).
    const OCTET: u32 = 1;
    const STATE_POLL_FINAL: u32 = 0xf0;
    const UP: u32 = 3 << 6;
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    // One too short for the first step is news, by the kernel's rule: nothing is loaded, 0 returned.
    let mut program = [
        step(libc::BPF_LD | libc::BPF_ABS | libc::BPF_B, 0, 0, OCTET),
        step(
            libc::BPF_ALU | libc::BPF_AND | libc::BPF_K,
            0,
            0,
            STATE_POLL_FINAL,
        ),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, UP),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 1),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    setsockopt(socket, sockopt::AttachReusePortCbpf, &program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use routemesh_bfd::{Session, State, Timers};
    use std::net::UdpSocket;
    use std::num::NonZeroU32;
    use std::process::Command;

    /// In a namespace of its own, which takes root.
    #[test]
    fn what_says_once_more_that_all_is_well_has_a_socket_of_its_own() {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.expect("ip runs").success());
        let here = Netns::current().expect("a namespace");
        let timers = Timers {
            interval: Duration::from_millis(300),
            multiplier: 3,
        };
        let some = Session::new(timers, NonZeroU32::MIN).transmit(Duration::ZERO, 0);
        let some = some.expect("news");
        let up = Packet {
            state: State::Up,
            your_discriminator: 1,
            ..some
        };
        let table = [
            (some, false),
            (up, true),
            (Packet { poll: true, ..up }, false),
            (
                Packet {
                    is_final: true,
                    ..up
                },
                false,
            ),
            (Packet { demand: true, ..up }, true),
            (
                Packet {
                    state: State::Init,
                    ..up
                },
                false,
            ),
            (
                Packet {
                    state: State::AdminDown,
                    ..up
                },
                false,
            ),
        ];
        for (family, from) in [(Family::V4, "127.0.0.1:0"), (Family::V6, "[::1]:0")] {
            let mut sockets = Sockets::open(&here, family, 7).expect("sockets");
            let peer = UdpSocket::bind(from).expect("a socket");
            let to = SocketAddr::new(peer.local_addr().expect("bound").ip(), PORT);
            let waits = |socket: &Socket| {
                socket
                    .peek(&mut [std::mem::MaybeUninit::uninit(); 1])
                    .is_ok()
            };
            for (packet, is_routine) in table {
                peer.send_to(&packet.encode(), to).expect("sent");
                let found = [waits(&sockets.news), waits(&sockets.routine)];
                assert_eq!(found, [!is_routine, is_routine], "{packet:?}");
                // Its TTL is not 255.
                assert!(matches!(sockets.receive(), Some(Err(Discarded))));
                assert!(sockets.receive().is_none());
            }
            // Too short to be anything.
            peer.send_to(&[0x20], to).expect("sent");
            assert!(waits(&sockets.news));
            assert!(matches!(sockets.receive(), Some(Err(Discarded))));
            // One that counts has the time of its arrival.
            let socket = socket2::SockRef::from(&peer);
            let set = match family {
                Family::V4 => socket.set_ttl_v4(255),
                Family::V6 => socket.set_unicast_hops_v6(255),
            };
            set.expect("set");
            peer.send_to(&up.encode(), to).expect("sent");
            match sockets.receive() {
                Some(Ok(arrival)) => assert!(arrival.packet == up && arrival.stamp.is_some()),
                _ => panic!("not received"),
            }
        }
    }
}
