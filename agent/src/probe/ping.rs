//! Echo requests (RFC 792, RFC 4443) through tunnels at regular intervals, and whether they are answered.
//! What that means is [`liveness`](crate::liveness)'s to say.
//!
//! A request leaves by the tunnel's interface whatever the routes are: a way that is dead has none. Its
//! answer may come by any: a cloud chooses its own tunnel for the way back.

use crate::netns::{self, Netns};
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, sendmsg};
use routemesh_bgp::PeerId;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::trace;

/// Rounds that may wait to be heard of.
const QUEUE: usize = 256;
/// An answer to one of so many requests before counts as well: it may be long under way.
const LATE: u16 = 16;
const REQUEST: u8 = 8;
const REPLY: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;
/// Apart from all other programs' requests, most likely; the rest says which tunnel's it is.
const IDENT: u16 = 0x524d;
/// An IPv4 header at its longest, an echo's, and what it carries.
const LONGEST: usize = 60 + 8 + 4;

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Our address.
    pub source: IpAddr,
    /// The other one.
    pub target: IpAddr,
    /// The interface that requests leave by.
    pub link: String,
    /// Its index; 0 while it is not there.
    pub index: u32,
    /// How often.
    pub interval: Duration,
    /// The tunnel's number: several may ask the same.
    pub number: u32,
}

/// What came of one request, when the next one is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Of the way to this peer.
    pub peer: PeerId,
    /// Whether it was answered, or why it could not be asked at all.
    pub answered: Result<bool, String>,
}

/// All that are asked. Dropped, nobody is any more.
#[derive(Debug)]
pub struct Pings {
    overlay: Netns,
    asked: BTreeMap<PeerId, (Asked, JoinSet<()>)>,
    tell: mpsc::Sender<Round>,
}

impl Pings {
    /// Asks nobody yet.
    pub fn new(overlay: Netns) -> (Self, mpsc::Receiver<Round>) {
        let (tell, rounds) = mpsc::channel(QUEUE);
        let pings = Self {
            overlay,
            asked: BTreeMap::new(),
            tell,
        };
        (pings, rounds)
    }

    /// Asks these and no others. Who was asked before in the same way is not disturbed.
    pub fn configure<'a>(&mut self, wanted: impl Iterator<Item = (&'a PeerId, &'a Asked)>) {
        let mut before = std::mem::take(&mut self.asked);
        for (peer, asked) in wanted {
            let kept = before.remove(peer).filter(|(it, _)| it == asked);
            let entry = kept.unwrap_or_else(|| {
                let mut task = JoinSet::new();
                let rounds = rounds(
                    self.overlay.clone(),
                    peer.clone(),
                    asked.clone(),
                    self.tell.clone(),
                );
                task.spawn(rounds);
                (asked.clone(), task)
            });
            self.asked.insert(peer.clone(), entry);
        }
    }
}

/// Asks for ever.
async fn rounds(overlay: Netns, peer: PeerId, asked: Asked, tell: mpsc::Sender<Round>) {
    let mut due = interval(asked.interval);
    // A host that was busy asks again before it judges.
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    due.tick().await;
    let mut open = None;
    loop {
        let answered = match ask(open.take(), &overlay, &asked) {
            Ok(echo) => {
                let answered = tokio::select! {
                    heard = echo.answer(&asked) => {
                        due.tick().await;
                        heard.is_ok()
                    }
                    _ = due.tick() => false,
                };
                open = Some(echo);
                Ok(answered)
            }
            Err(error) => {
                due.tick().await;
                Err(error.to_string())
            }
        };
        let peer = peer.clone();
        if tell.send(Round { peer, answered }).await.is_err() {
            return;
        }
    }
}

/// Asks once, by what is open or by what it opens. An error is this host's, and the next round opens anew.
fn ask(open: Option<Echo>, overlay: &Netns, asked: &Asked) -> Result<Echo, Error> {
    let mut echo = match open {
        Some(echo) => echo,
        None => Echo::open(overlay, asked)?,
    };
    match echo.ask(asked) {
        Ok(()) => Ok(echo),
        Err(errno @ (Errno::EINVAL | Errno::EADDRNOTAVAIL | Errno::EPERM)) => {
            Err(failed(asked, errno.into()))
        }
        // Where the address is gone, kernels differ in what they say: opening anew tells. What else cannot be
        // sent is lost: without an SA the kernel refuses it.
        Err(errno) => {
            trace!(link = asked.link, "no echo request: {errno}");
            let sequence = echo.sequence;
            Ok(Echo {
                sequence,
                ..Echo::open(overlay, asked)?
            })
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Netns(#[from] netns::Error),
    #[error("no echo from {address} over {link}: {source}; {cure}")]
    Socket {
        address: IpAddr,
        link: String,
        source: io::Error,
        cure: &'static str,
    },
}

fn failed(asked: &Asked, source: io::Error) -> Error {
    Error::Socket {
        address: asked.source,
        link: asked.link.clone(),
        cure: match source.kind() {
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::InvalidInput => {
                "give the gateway that address"
            }
            _ => "it needs CAP_NET_RAW, and no filter of the host in its way",
        },
        source,
    }
}

/// A socket that hears the answers to one address of ours.
pub(crate) struct Echo {
    /// A raw one: reading and writing are the same.
    socket: UdpSocket,
    /// Of the next request.
    sequence: u16,
}

impl Echo {
    pub(crate) fn open(overlay: &Netns, asked: &Asked) -> Result<Self, Error> {
        let (domain, protocol) = match asked.target {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        // Not connected: the kernel would look for a route.
        let open = || -> io::Result<std::net::UdpSocket> {
            let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
            overlay.bind(&socket)?;
            socket.bind(&SocketAddr::new(asked.source, 0).into())?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        };
        let socket = overlay.run(open)?.map_err(|error| failed(asked, error))?;
        Ok(Self {
            socket: UdpSocket::from_std(socket).map_err(|error| failed(asked, error))?,
            sequence: 0,
        })
    }

    pub(crate) fn ask(&mut self, asked: &Asked) -> Result<(), Errno> {
        let packet = request(asked, self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.socket, asked, &packet)
    }

    /// Waits for the answer to one of the last requests.
    pub(crate) async fn answer(&self, asked: &Asked) -> io::Result<()> {
        let mut buffer = [0; LONGEST];
        loop {
            let (length, from) = self.socket.recv_from(&mut buffer).await?;
            let packet = buffer.get(..length).unwrap_or_default();
            if from.ip() == asked.target && is_answer(packet, asked, self.sequence) {
                return Ok(());
            }
        }
    }
}

/// Leaves by the interface, with our address.
fn send(socket: &UdpSocket, asked: &Asked, packet: &[u8]) -> Result<(), Errno> {
    let bytes = [IoSlice::new(packet)];
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
    let sent = match (asked.source, asked.target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let info = in_pktinfo {
                ipi_ifindex: i32::try_from(asked.index).unwrap_or_default(),
                ipi_spec_dst: in_addr {
                    s_addr: u32::from_ne_bytes(source.octets()),
                },
                ipi_addr: in_addr { s_addr: 0 },
            };
            let to = SockaddrIn::from(SocketAddrV4::new(target, 0));
            let info = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(fd, &bytes, &info, flags, Some(&to))
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let info = in6_pktinfo {
                ipi6_ifindex: asked.index,
                ipi6_addr: in6_addr {
                    s6_addr: source.octets(),
                },
            };
            let to = SockaddrIn6::from(SocketAddrV6::new(target, 0, 0, 0));
            let info = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(fd, &bytes, &info, flags, Some(&to))
        }
        _ => Err(Errno::EAFNOSUPPORT),
    };
    sent.map(drop)
}

fn request(asked: &Asked, sequence: u16) -> Vec<u8> {
    let kind = match asked.target {
        IpAddr::V4(_) => REQUEST,
        IpAddr::V6(_) => REQUEST_V6,
    };
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(IDENT.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(asked.number.to_be_bytes());
    // Of ICMPv6 the kernel reckons the checksum (RFC 3542 section 3.1).
    if kind == REQUEST {
        let sum = checksum(&packet).to_be_bytes();
        packet.splice(2..4, sum);
    }
    packet
}

/// Whether this is the answer to one of the requests before `next`.
fn is_answer(packet: &[u8], asked: &Asked, next: u16) -> bool {
    let (kind, packet) = match asked.target {
        // A raw socket of IPv4 tells the header too.
        IpAddr::V4(_) => {
            let words = packet.first().map_or(0, |first| first & 0xf);
            (REPLY, packet.get(usize::from(words) * 4..))
        }
        IpAddr::V6(_) => (REPLY_V6, Some(packet)),
    };
    let head = packet.and_then(|packet| packet.first_chunk::<12>());
    let Some([of, 0, _, _, ident @ .., s1, s2, n1, n2, n3, n4]) = head else {
        return false;
    };
    let age = next.wrapping_sub(u16::from_be_bytes([*s1, *s2]));
    let number = u32::from_be_bytes([*n1, *n2, *n3, *n4]);
    *of == kind
        && *ident == IDENT.to_be_bytes()
        && number == asked.number
        && (1..=LATE).contains(&age)
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high, ..] => u32::from(*high) << 8,
        [] => 0,
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded & 0xffff).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(target: &str) -> Asked {
        Asked {
            source: "10.1.0.1".parse().unwrap(),
            target: target.parse().unwrap(),
            link: "rm7".into(),
            index: 7,
            interval: Duration::from_secs(1),
            number: 7,
        }
    }

    /// As the other end makes of a request.
    fn reply(asked: &Asked, sequence: u16) -> Vec<u8> {
        let mut packet = request(asked, sequence);
        packet[0] = if asked.target.is_ipv4() {
            REPLY
        } else {
            REPLY_V6
        };
        let header = if asked.target.is_ipv4() { 20 } else { 0 };
        let mut all = vec![0; header];
        if let Some(first) = all.first_mut() {
            *first = 0x45;
        }
        all.extend(packet);
        all
    }

    #[test]
    fn a_checksum_is_as_the_rfc_has_it() {
        // RFC 1071 section 3: the sum of these words is ddf2.
        let words = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&words), !0xddf2);
        let packet = request(&asked("10.9.0.1"), 5);
        assert_eq!(
            checksum(&packet),
            0,
            "with its checksum it comes to nothing"
        );
    }

    #[test]
    fn an_answer_is_to_a_late_request_of_this_tunnel() {
        for target in ["10.9.0.1", "fd00::1"] {
            let asked = asked(target);
            let other = Asked {
                number: 8,
                ..asked.clone()
            };
            for (sequence, expected) in [(5, true), (0, true), (6, false), (0xfff0, false)] {
                let found = is_answer(&reply(&asked, sequence), &asked, 6);
                assert_eq!(found, expected, "{target} {sequence}");
            }
            assert!(!is_answer(&reply(&other, 5), &asked, 6), "another tunnel's");
            let mut request = reply(&asked, 5);
            let kind = request.len() - 12;
            request[kind] = if asked.target.is_ipv4() {
                REQUEST
            } else {
                REQUEST_V6
            };
            assert!(!is_answer(&request, &asked, 6), "a request");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(packet in prop::collection::vec(any::<u8>(), 0..LONGEST), v6: bool, next: u16) {
            let asked = asked(if v6 { "fd00::1" } else { "10.9.0.1" });
            is_answer(&packet, &asked, next);
        }
    }
}
