//! Echo requests (RFC 4443) of a wanted size over one interface.

use crate::netns::{self, Netns};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout_at};

const REQUEST: u8 = 128;
const REPLY: u8 = 129;
/// The socket hears one address over one interface: others there have another one, most likely.
const IDENT: u16 = 0x524d;
/// An IPv6 header and that of an echo.
const HEADERS: usize = 48;
/// So many of one size, so far apart: one that comes back is enough.
const TRIES: u16 = 5;
const APART: Duration = Duration::from_millis(300);
/// And so long for the last of them.
const LAST: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Netns(#[from] netns::Error),
    #[error("no echo over {link}: {source}; it needs CAP_NET_RAW")]
    Socket { link: String, source: io::Error },
}

/// A socket on one interface, towards one address.
pub(super) struct Echo {
    /// A raw one: reading and writing are the same.
    socket: UdpSocket,
    sequence: u16,
}

/// What came of packets of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    CameBack,
    Lost,
    /// The kernel would not send it: it has been told that it is too large, or cannot send at all.
    NotSent,
}

impl Echo {
    pub(super) fn open(
        overlay: &Netns,
        link: &str,
        [local, remote]: [Ipv6Addr; 2],
    ) -> Result<Self, Error> {
        let open = || -> io::Result<std::net::UdpSocket> {
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
            socket.bind_device(Some(link.as_bytes()))?;
            setsockopt(&socket, sockopt::Ipv6DontFrag, &true)?;
            let address = |ip| SockAddr::from(SocketAddrV6::new(ip, 0, 0, 0));
            socket.bind(&address(local))?;
            socket.connect(&address(remote))?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        };
        let failed = |source| Error::Socket {
            link: link.to_owned(),
            source,
        };
        let socket = overlay.run(open)?.map_err(failed)?;
        Ok(Self {
            socket: UdpSocket::from_std(socket).map_err(failed)?,
            sequence: 0,
        })
    }

    /// Sends packets of `size` bytes, IPv6 header and all, until one has come back.
    pub(super) async fn ask(&mut self, size: u32) -> Answer {
        let first = self.sequence;
        for n in 1..=TRIES {
            let packet = self.packet(size);
            // One that finds no room is one that is lost.
            let until = Instant::now() + if n == TRIES { LAST } else { APART };
            if let Ok(Err(_)) = timeout_at(until, self.socket.send(&packet)).await {
                return Answer::NotSent;
            }
            self.sequence = self.sequence.wrapping_add(1);
            match timeout_at(until, self.reply(packet.len(), first)).await {
                Ok(Ok(())) => return Answer::CameBack,
                // The interface has gone, or will be.
                Ok(Err(_)) => sleep_until(until).await,
                Err(_) => {}
            }
        }
        Answer::Lost
    }

    /// The kernel reckons the checksum (RFC 3542 section 3.1).
    fn packet(&self, size: u32) -> Vec<u8> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let mut packet = vec![REQUEST, 0, 0, 0];
        packet.extend(IDENT.to_be_bytes());
        packet.extend(self.sequence.to_be_bytes());
        let size = size.clamp(HEADERS, 1 << 16);
        packet.resize(packet.len() + size - HEADERS, 0);
        packet
    }

    /// Waits for the reply to one of the packets since `first`.
    async fn reply(&self, length: usize, first: u16) -> io::Result<()> {
        let sent = self.sequence.wrapping_sub(first);
        // One byte more, so that what is longer shows.
        let mut buffer = vec![0; length + 1];
        loop {
            let received = self.socket.recv(&mut buffer).await?;
            let Some(head) = buffer.first_chunk().filter(|_| received == length) else {
                continue;
            };
            let [kind, code, _, _, ident1, ident2, sequence1, sequence2] = *head;
            let ident = u16::from_be_bytes([ident1, ident2]);
            let sequence = u16::from_be_bytes([sequence1, sequence2]);
            let ours = ident == IDENT && sequence.wrapping_sub(first) < sent;
            if (kind, code) == (REPLY, 0) && ours {
                return Ok(());
            }
        }
    }
}
