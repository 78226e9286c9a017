//! A bounded capture of the packets of one tunnel, as a file in the pcap format
//! (draft-ietf-opsawg-pcap): within it, or of its ESP and IKE, or WireGuard, outside.

use super::{Desk, Error, Reply, tunnel, walk};
use crate::config::Tunnel;
use crate::kernel::Kernel;
use crate::netns::Netns;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{MsgFlags, recv};
use routemesh_proto::{self as proto, answer};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

/// At most, whatever is asked for.
const PACKETS: u32 = 100_000;
const BYTES: u64 = 64 << 20;
const SECONDS: u32 = 600;
/// Bytes of a packet.
const SNAP: u32 = 65_535;
/// A piece goes when it is as large as this, or as old.
const PIECE: usize = 16 << 10;
const OLD: Duration = Duration::from_millis(250);
/// `LINKTYPE_RAW`: packets begin with their IP header.
const RAW: u32 = 101;
/// `ETH_P_ALL`.
const ALL: u16 = 3;

pub(super) async fn answer(
    desk: &Desk,
    asked: proto::AskCapture,
    reply: &Reply,
) -> Result<(), Error> {
    let config = desk.config()?;
    let tunnel = tunnel(&config, asked.tunnel)?;
    let kernel = Kernel::open(&config.overlay)?;
    let socket = if asked.outside {
        let (_, remote) = walk::ends(&config, tunnel).await?;
        open(kernel.underlay(), None, Some(remote))?
    } else {
        open(kernel.overlay(), Some(&tunnel.link()), None)?
    };
    // Not of UDP; waiting for packets is the same.
    let socket = UdpSocket::from_std(socket.into()).map_err(Error::Capture)?;
    let or = |asked: u32, most: u32| if asked == 0 { most } else { asked.min(most) };
    let bytes = if asked.bytes == 0 {
        BYTES
    } else {
        asked.bytes.min(BYTES)
    };
    let outside = asked.outside.then(|| Ports::of(tunnel));
    let snap = or(asked.snap, SNAP);
    let mut file = File::new(outside, snap, or(asked.packets, PACKETS), bytes);
    file.begin();
    let end = Instant::now() + Duration::from_secs(or(asked.seconds, SECONDS).into());
    // The header at once: whoever reads shows that it has begun.
    let mut due = Instant::now();
    while !file.is_full() {
        tokio::select! {
            ready = socket.readable() => {
                ready.map_err(Error::Capture)?;
                let before = file.waiting.len();
                match socket.try_io(Interest::READABLE, || file.read(socket.as_raw_fd())) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(Error::Capture(error)),
                    Ok(()) if before == 0 => due = Instant::now() + OLD,
                    Ok(()) => {}
                }
            }
            () = sleep_until(due), if !file.waiting.is_empty() => file.send(reply).await,
            () = sleep_until(end) => break,
        }
        if file.waiting.len() >= PIECE {
            file.send(reply).await;
        }
    }
    file.send(reply).await;
    let dropped = dropped(socket.as_raw_fd()).map_err(Error::Capture)?;
    if dropped > 0 {
        let data = Vec::new();
        let piece = proto::CapturePiece { data, dropped };
        reply.send(answer::Piece::Capture(piece)).await;
    }
    Ok(())
}

/// Packets that came faster than they were read, since this was last asked (packet(7)).
fn dropped(socket: RawFd) -> io::Result<u32> {
    let mut counts = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` octets into `counts`, whose size it is.
    let done = unsafe {
        let counts: *mut libc::tpacket_stats = &raw mut counts;
        let (level, name) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
        libc::getsockopt(socket, level, name, counts.cast(), &raw mut length)
    };
    match done {
        0 => Ok(counts.tp_drops),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What is written of a file.
struct File {
    /// Of what goes between the endpoints, these.
    outside: Option<Ports>,
    snap: u32,
    /// Still to come, at most.
    packets: u32,
    room: u64,
    /// Not sent yet.
    waiting: Vec<u8>,
    /// For one packet.
    buffer: Vec<u8>,
}

impl File {
    fn new(outside: Option<Ports>, snap: u32, packets: u32, room: u64) -> Self {
        Self {
            outside,
            snap,
            packets,
            room,
            waiting: Vec::new(),
            buffer: vec![0; usize::try_from(snap).unwrap_or_default()],
        }
    }

    fn begin(&mut self) {
        self.waiting.extend(0xa1b2_c3d4u32.to_le_bytes());
        self.waiting.extend([2, 0, 4, 0]);
        self.waiting.extend([0; 8]);
        self.waiting.extend(self.snap.to_le_bytes());
        self.waiting.extend(RAW.to_le_bytes());
    }

    fn is_full(&self) -> bool {
        self.packets == 0 || self.room == 0
    }

    /// One packet, if there is one.
    fn read(&mut self, socket: RawFd) -> io::Result<()> {
        let flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
        let length = recv(socket, &mut self.buffer, flags)?;
        let at = SystemTime::now().duration_since(UNIX_EPOCH);
        // Lent for the while.
        let buffer = std::mem::take(&mut self.buffer);
        let packet = buffer.get(..length).unwrap_or(&buffer);
        if self.outside.is_none_or(|ports| ports.has(packet)) {
            self.add(at.unwrap_or_default(), packet, length);
        }
        self.buffer = buffer;
        Ok(())
    }

    fn add(&mut self, at: Duration, packet: &[u8], length: usize) {
        let number = |it: usize| u32::try_from(it).unwrap_or(u32::MAX).to_le_bytes();
        let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
        self.waiting.extend(seconds.to_le_bytes());
        self.waiting.extend(at.subsec_micros().to_le_bytes());
        self.waiting.extend(number(packet.len()));
        self.waiting.extend(number(length));
        self.waiting.extend(packet);
        self.packets = self.packets.saturating_sub(1);
        let taken = u64::try_from(packet.len()).unwrap_or(u64::MAX);
        self.room = self.room.saturating_sub(taken);
    }

    async fn send(&mut self, reply: &Reply) {
        let waiting = std::mem::take(&mut self.waiting);
        for data in waiting.chunks(2 * PIECE) {
            let data = data.to_vec();
            let piece = proto::CapturePiece { data, dropped: 0 };
            reply.send(answer::Piece::Capture(piece)).await;
        }
    }
}

/// Of UDP, by which a tunnel goes outside.
#[derive(Clone, Copy, Debug)]
enum Ports {
    /// IKE's, beside ESP.
    Ipsec,
    /// Those of the tunnel's ends.
    WireGuard([u16; 2]),
}

impl Ports {
    fn of(tunnel: &Tunnel) -> Self {
        match &tunnel.wireguard {
            Some(it) => Self::WireGuard([it.local.port(), it.remote.port()]),
            None => Self::Ipsec,
        }
    }

    /// What goes by these, and what ICMP says of it: nothing else between two endpoints is the tunnel's.
    fn has(self, packet: &[u8]) -> bool {
        match self {
            Self::Ipsec => is_among(packet, [500, 4500], true),
            Self::WireGuard(ports) => is_among(packet, ports, false),
        }
    }
}

fn is_among(packet: &[u8], ports: [u16; 2], esp: bool) -> bool {
    let ports = ports.map(u16::to_be_bytes);
    let version = packet.first().map_or(0, |first| first >> 4);
    let (protocol, payload) = match version {
        4 => {
            let words = packet.first().map_or(0, |first| first & 0xf);
            (packet.get(9), packet.get(usize::from(words) * 4..))
        }
        6 => (packet.get(6), packet.get(40..)),
        _ => (None, None),
    };
    match protocol.map(|it| i32::from(*it)) {
        Some(libc::IPPROTO_ESP | libc::IPPROTO_AH) => esp,
        Some(
            libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6
            // Fragments.
            | libc::IPPROTO_FRAGMENT,
        ) => true,
        Some(libc::IPPROTO_UDP) => {
            let both = payload.and_then(|it| it.first_chunk::<4>());
            both.is_some_and(|[a, b, c, d]| ports.contains(&[*a, *b]) || ports.contains(&[*c, *d]))
        }
        _ => false,
    }
}

/// A socket that hears one interface, or all packets from and to one address.
fn open(netns: &Netns, link: Option<&str>, remote: Option<IpAddr>) -> Result<Socket, Error> {
    let open = || -> io::Result<Socket> {
        let index = match link {
            Some(link) => if_nametoindex(link)?,
            None => 0,
        };
        // Of no protocol, it hears nothing until it is bound.
        let socket = Socket::new_raw(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))?;
        if let Some(remote) = remote {
            socket.attach_filter(&filter(remote))?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&place(index)?)?;
        Ok(socket)
    };
    netns.run(open)?.map_err(Error::Capture)
}

/// `struct sockaddr_ll` for all protocols of an interface, or of all for 0.
fn place(index: u32) -> io::Result<SockAddr> {
    let write = |storage: *mut socket2::SockAddrStorage, length: *mut libc::socklen_t| {
        let address = storage.cast::<libc::sockaddr_ll>();
        // SAFETY: the storage is zeroed, aligned for and larger than every kind of socket address.
        unsafe {
            (*address).sll_family = libc::AF_PACKET as libc::sa_family_t;
            (*address).sll_protocol = ALL.to_be();
            (*address).sll_ifindex = i32::try_from(index).unwrap_or_default();
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        }
        Ok(())
    };
    // SAFETY: what is written is a whole `sockaddr_ll`, and its length.
    unsafe { SockAddr::try_init(write) }.map(|((), address)| address)
}

/// Packets from or to an address, for the kernel's own machine (`linux/filter.h`): others are not copied.
fn filter(remote: IpAddr) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_OCTET: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let (version, addresses, octets) = match remote {
        IpAddr::V4(it) => (0x40, [12u32, 16], it.octets().to_vec()),
        IpAddr::V6(it) => (0x60, [8, 24], it.octets().to_vec()),
    };
    let words: Vec<u32> = octets
        .chunks_exact(4)
        .filter_map(|word| Some(u32::from_be_bytes(*word.first_chunk()?)))
        .collect();
    let whole = RETURN_ALL;
    // Steps of one address, with the one that accepts.
    let block = 2 * words.len() as u8 + 1;
    let mut program = vec![
        SockFilter::new(LOAD_OCTET, 0, 0, 0),
        SockFilter::new(AND, 0, 0, 0xf0),
        SockFilter::new(JUMP_EQUAL, 0, 2 * block, version),
    ];
    for at in addresses {
        for (n, word) in (0u8..).zip(&words) {
            let left = block - 2 * (n + 1);
            program.push(SockFilter::new(LOAD_WORD, 0, 0, at + 4 * u32::from(n)));
            program.push(SockFilter::new(JUMP_EQUAL, 0, left, *word));
        }
        program.push(SockFilter::new(RETURN, 0, 0, whole));
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}

/// As much of a packet as there is.
const RETURN_ALL: u32 = 0x4_0000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(version: u8, protocol: u8, ports: [u16; 2]) -> Vec<u8> {
        let mut packet = match version {
            4 => vec![0x45; 20],
            _ => vec![0x60; 40],
        };
        packet[if version == 4 { 9 } else { 6 }] = protocol;
        packet.extend(ports.map(u16::to_be_bytes).concat());
        packet
    }

    #[test]
    fn outside_it_is_what_the_tunnel_goes_by_and_no_more() {
        let wireguard = Ports::WireGuard([51_820, 51_821]);
        for version in [4, 6] {
            for (of, protocol, ports, wanted) in [
                (Ports::Ipsec, 50, [0, 0], true),
                (Ports::Ipsec, 17, [500, 500], true),
                (Ports::Ipsec, 17, [40000, 4500], true),
                (Ports::Ipsec, 17, [40000, 53], false),
                (Ports::Ipsec, 17, [51_820, 51_821], false),
                (Ports::Ipsec, 6, [500, 500], false),
                (wireguard, 17, [51_820, 51_821], true),
                (wireguard, 17, [51_821, 40000], true),
                (wireguard, 17, [500, 500], false),
                (wireguard, 50, [0, 0], false),
                (wireguard, 1, [0, 0], true),
            ] {
                let found = of.has(&packet(version, protocol, ports));
                assert_eq!(found, wanted, "{of:?} {version} {protocol} {ports:?}");
            }
        }
    }

    #[test]
    fn a_file_ends_when_it_is_full() {
        let mut file = File::new(None, 4, 2, 100);
        file.begin();
        assert_eq!(file.waiting.len(), 24);
        assert_eq!(file.waiting[20..], [101, 0, 0, 0]);
        file.add(Duration::from_micros(1_000_002), &[0x45, 0, 0, 9], 9);
        let record = [
            1, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 0x45, 0, 0, 9,
        ];
        assert_eq!(file.waiting[24..], record);
        assert!(!file.is_full());
        file.add(Duration::ZERO, &[0x45], 1);
        assert!(file.is_full());
    }

    #[test]
    fn packets_are_read_whole_or_as_far_as_wanted() {
        use std::os::unix::net::UnixDatagram;
        let (from, to) = UnixDatagram::pair().unwrap();
        let mut file = File::new(None, 4, 9, 100);
        for packet in [&[0x45, 1, 2, 3, 4, 5][..], &[0x60, 1]] {
            from.send(packet).unwrap();
            file.read(to.as_raw_fd()).unwrap();
        }
        // After each header of 16 octets: what was wanted of it, and what there was.
        assert_eq!(file.waiting[8..20], [4, 0, 0, 0, 6, 0, 0, 0, 0x45, 1, 2, 3]);
        assert_eq!(file.waiting[28..], [2, 0, 0, 0, 2, 0, 0, 0, 0x60, 1]);
    }

    proptest! {
        #[test]
        fn nothing_panics(packet: Vec<u8>) {
            Ports::Ipsec.has(&packet);
        }
    }
}
