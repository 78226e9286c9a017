//! Counts what crosses the public switch, kind by kind, and whatever is there in clear.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use super::error::{LabError, Result};
use super::host::Host;
use super::probe::MARK;

/// What a frame is. Nothing is left out: what fits nowhere is `Other`, with a description.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// IPsec.
    Esp,
    /// IKE, plain or behind NAT traversal.
    Ike,
    /// WireGuard.
    WireGuard,
    /// An agent or an operator and the controller.
    Controller,
    /// Neighbour discovery and multicast listeners, of public addresses.
    Neighbour,
    /// A public address that has nobody at a port.
    PortUnreachable,
    /// Private addresses or a probe's datagram in clear: must never be.
    Clear(String),
    /// Anything else.
    Other(String),
}

/// Frames by the port of the switch that they entered by (an interface index) and kind.
pub type Counts = BTreeMap<Kind, usize>;

/// A capture under way.
#[derive(Debug)]
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Counts>,
}

impl Sniffer {
    /// Starts to listen on every port of the host's switch.
    pub fn start(host: &Host) -> Result<Self> {
        let failed = |what: &str| LabError::os(format!("{}: {what}", host.name()));
        let socket = host.enter(|| {
            socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
        })?;
        let socket = socket.map_err(failed("capture"))?;
        // A capture that drops proves nothing.
        setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).map_err(failed("buffer"))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 100_000))
            .map_err(failed("time-out"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        Ok(Self {
            stop,
            thread: std::thread::spawn(move || listen(&socket, &stopped)),
        })
    }

    /// Ends it and gives the counts.
    pub fn stop(self) -> Result<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = |_| LabError::Unexpected("the sniffer panicked".into());
        self.thread.join().map_err(panicked)
    }
}

/// How many frames were in clear.
pub fn in_clear(counts: &Counts) -> usize {
    let clear = |(kind, count): (&Kind, &usize)| matches!(kind, Kind::Clear(_)).then_some(*count);
    counts.iter().filter_map(clear).sum()
}

fn listen(socket: &OwnedFd, stop: &AtomicBool) -> Counts {
    const OUTGOING: u8 = 4;
    let mut counts = Counts::new();
    let mut frame = [0; 2048];
    loop {
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) {
            // A frame shows once where it enters the switch and once where it leaves.
            Ok((length, Some(from))) if from.pkttype() != OUTGOING => {
                let kind = classify(&frame[..length.min(frame.len())]);
                *counts.entry(kind).or_default() += 1;
            }
            Ok(_) => {}
            Err(_) if stop.load(Ordering::Relaxed) => return counts,
            Err(_) => {}
        }
        // Under load there may never be a pause to see the stop in.
        if stop.load(Ordering::Relaxed) {
            return counts;
        }
    }
}

/// Says what an Ethernet frame is.
pub fn classify(frame: &[u8]) -> Kind {
    if frame.windows(MARK.len()).any(|window| window == MARK) {
        return Kind::Clear("a probe's datagram".into());
    }
    let Some((header, packet)) = frame.split_at_checked(14) else {
        return Kind::Other("a truncated frame".into());
    };
    match (u16::from_be_bytes([header[12], header[13]]), packet) {
        (0x86dd, packet) => ipv6(packet),
        (0x0800, packet) => ipv4(packet),
        (0x0806, _) => Kind::Other("ARP".into()),
        (ether_type, _) => Kind::Other(format!("ether type {ether_type:#06x}")),
    }
}

fn ipv4(packet: &[u8]) -> Kind {
    let Some(header) = packet.first_chunk::<20>() else {
        return Kind::Other("truncated IPv4".into());
    };
    let address = |at: usize| {
        let octets = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        IpAddr::V4(Ipv4Addr::from(octets))
    };
    let rest = packet.get(usize::from(header[0] & 15) * 4..).unwrap_or(&[]);
    transport(address(12), address(16), header[9], rest)
}

fn ipv6(packet: &[u8]) -> Kind {
    let Some((header, mut rest)) = packet.split_first_chunk::<40>() else {
        return Kind::Other("truncated IPv6".into());
    };
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let mut next = header[6];
    // Hop-by-hop options stand before multicast listener reports, fragments before long IKE.
    while let (0 | 44, [following, length, ..]) = (next, rest) {
        let skip = if next == 0 {
            (usize::from(*length) + 1) * 8
        } else {
            8
        };
        next = *following;
        rest = rest.get(skip..).unwrap_or(&[]);
    }
    transport(address(8), address(24), next, rest)
}

fn transport(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> Kind {
    if private(from) || private(to) {
        return Kind::Clear(format!("{from} to {to}, protocol {protocol}"));
    }
    let ports = segment.first_chunk::<4>();
    let ports =
        ports.map(|p| [(p[0], p[1]), (p[2], p[3])].map(|(a, b)| u16::from_be_bytes([a, b])));
    let either = |wanted: &[u16]| ports.is_some_and(|p| p.iter().any(|port| wanted.contains(port)));
    match protocol {
        50 => Kind::Esp,
        17 if either(&[500, 4500]) => Kind::Ike,
        // A kind of message of four, and three zeros.
        17 if matches!(segment.get(8..12), Some([1..=4, 0, 0, 0])) => Kind::WireGuard,
        6 if either(&[7179]) => Kind::Controller,
        58 if segment.starts_with(&[1, 4]) => Kind::PortUnreachable,
        58 if matches!(segment.first(), Some(130..=137 | 143)) => {
            // A neighbour is asked for in the message, not in the header: someone who takes the
            // public side for the way to a private address shows here.
            let target = segment
                .get(8..24)
                .and_then(|t| <[u8; 16]>::try_from(t).ok());
            match (segment[0], target.map(|t| IpAddr::V6(Ipv6Addr::from(t)))) {
                (135 | 136, Some(target)) if private(target) => {
                    Kind::Clear(format!("neighbour discovery of {target}"))
                }
                _ => Kind::Neighbour,
            }
        }
        _ => Kind::Other(format!(
            "{from} to {to}, protocol {protocol}, ports {ports:?}"
        )),
    }
}

/// Addresses that the public side has no business to know: the sites' networks, their LANs and
/// the interconnects.
fn private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            v6.is_unique_local() || (a, b) == (0x2001, 0xdb8) && matches!(c, 0xa1..=0xa9 | 0xff)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn frame(from: &str, to: &str, protocol: u8, rest: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, protocol, 64]);
        frame.extend(from.parse::<Ipv6Addr>().unwrap().octets());
        frame.extend(to.parse::<Ipv6Addr>().unwrap().octets());
        frame.extend(rest);
        frame
    }

    #[test]
    fn tells_what_may_be_on_the_public_side_from_what_must_not() {
        let (v1, v2) = ("2001:db8:1::1", "2001:db8:2::2");
        assert_eq!(classify(&frame(v1, v2, 50, &[0; 40])), Kind::Esp);
        assert_eq!(classify(&frame(v1, v2, 17, &[1, 0xf4, 1, 0xf4])), Kind::Ike);
        let wireguard = [0x4e, 0x21, 0x4e, 0x20, 0, 40, 0, 0, 4, 0, 0, 0];
        assert_eq!(classify(&frame(v1, v2, 17, &wireguard)), Kind::WireGuard);
        assert_eq!(
            classify(&frame(v1, v2, 6, &[9, 9, 28, 11])),
            Kind::Controller
        );
        let clear = |frame: &[u8]| matches!(classify(frame), Kind::Clear(_));
        assert!(clear(&frame("2001:db8:a1::1", v2, 50, &[])));
        assert!(clear(&frame(v1, "2001:db8:ff::4", 6, &[0, 179, 9, 9])));
        assert!(clear(&frame(v1, "fd00:1::254", 58, &[128, 0])));
        assert!(clear(&frame(v1, v2, 41, MARK)));
        assert!(!clear(&frame(v1, v2, 41, &[0; 40])));
        let mut solicit = vec![135, 0, 0, 0, 0, 0, 0, 0];
        solicit.extend("2001:db8:a2::1".parse::<Ipv6Addr>().unwrap().octets());
        assert!(clear(&frame(v1, "ff02::1:ff00:1", 58, &solicit)));
        solicit[11] = 2;
        solicit[13] = 2;
        assert_eq!(
            classify(&frame(v1, "ff02::1:ff00:1", 58, &solicit)),
            Kind::Neighbour
        );
    }
}
