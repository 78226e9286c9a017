//! Packets through the daemon's namespace, to random ones of its prefixes, and where they came out.

use crate::clock;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::prefix::Family;
use crate::process::{pause, wait};
use crate::watch::{Count, Watch};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// So many packets are sent every so often: 40,000 a second.
const BURST: u32 = 4;
const EVERY: Duration = Duration::from_micros(100);
const PORT: u16 = 9;
/// In a prefix, from 1.
const HOSTS: u8 = 14;
const UDP: u8 = 17;
/// Packets at a peer by which a stream is seen to be up.
const ENOUGH: u64 = 2_000;
const DEADLINE: Duration = Duration::from_secs(10);
/// After this long without a packet at a peer there will be none.
const QUIET: Duration = Duration::from_millis(500);

/// What came to one peer.
#[derive(Default)]
struct Arrivals {
    packets: AtomicU64,
    /// When the last of them was sent, in nanoseconds.
    last_sent: AtomicU64,
}

/// A stream of packets. Dropped, it ends.
pub struct Probe {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    arrivals: [Arc<Arrivals>; 2],
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Probe {
    /// Starts the stream to the first `count` prefixes, and waits until it comes to both peers.
    pub fn start(lab: &Lab, family: Family, count: u32) -> Result<Self> {
        let mut probe = Self {
            stop: Arc::default(),
            threads: Vec::new(),
            arrivals: Default::default(),
        };
        for (space, arrivals) in lab.peers.iter().zip(&probe.arrivals) {
            let socket = space.enter(|| capture(family).map_err(Error::io("a capture")))?;
            let (stop, arrivals) = (probe.stop.clone(), arrivals.clone());
            let thread = std::thread::spawn(move || receive(&socket, family, &arrivals, &stop));
            probe.threads.push(thread);
        }
        let any = match family {
            Family::Ipv4 => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            Family::Ipv6 => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        let bind = || UdpSocket::bind(any).map_err(Error::io("a socket"));
        let socket = lab.source.enter(bind)?;
        let stop = probe.stop.clone();
        let thread = std::thread::spawn(move || send(&socket, family, count, &stop));
        probe.threads.push(thread);
        wait("packets at both peers", DEADLINE, || {
            let packets = |one: &Arc<Arrivals>| one.packets.load(Ordering::Relaxed);
            Ok(probe
                .arrivals
                .iter()
                .all(|one| packets(one) > ENOUGH)
                .then_some(()))
        })?;
        Ok(probe)
    }

    /// Waits until no packet comes any more to this peer and the kernel has `left` of the routes; when the
    /// last packet was sent that went there.
    pub fn until_quiet(
        &self,
        peer: usize,
        watch: &mut Watch,
        left: Count,
        since: Duration,
        deadline: Duration,
    ) -> Result<Duration> {
        loop {
            pause(Duration::from_millis(20))?;
            watch.catch_up()?;
            let last = self.last_sent(peer);
            // Of the last few routes out of a million, packets come seldom.
            let settled = watch.count() == left;
            if settled && clock::now().saturating_sub(last.max(since)) > QUIET {
                watch.verify(left)?;
                return Ok(last);
            }
            if clock::now() - since > deadline {
                return Err(Error::Timeout {
                    what: "no packet to the lost peer".to_owned(),
                    after: deadline,
                });
            }
        }
    }

    /// Waits until packets come to this peer that were sent later; when such a one was sent.
    pub fn again(&self, peer: usize, since: Duration, deadline: Duration) -> Result<Duration> {
        wait("packets to the peer again", deadline, || {
            let last = self.last_sent(peer);
            Ok((last > since).then_some(last))
        })
    }

    /// When the last packet was sent that came to this peer.
    fn last_sent(&self, peer: usize) -> Duration {
        let last = self
            .arrivals
            .get(peer)
            .map_or(0, |one| one.last_sent.load(Ordering::Acquire));
        Duration::from_nanos(last)
    }
}

fn send(socket: &UdpSocket, family: Family, count: u32, stop: &AtomicBool) {
    // The default adds half of what is slept here.
    let _ = nix::sys::prctl::set_timerslack(1_000);
    let mut random = 1_u64;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            // Knuth's MMIX generator; the high bits are the random ones.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let number = ((random >> 32) * u64::from(count)) >> 32;
            // Many hosts, so that both paths are taken of a single prefix as well.
            let host = 1 + (random >> 16) as u8 % HOSTS;
            let to = family.address(number as u32, host);
            let now = clock::now().as_nanos() as u64;
            // A packet that cannot be sent is one that does not arrive.
            let _ = socket.send_to(&now.to_be_bytes(), SocketAddr::new(to, PORT));
        }
        std::thread::sleep(EVERY);
    }
}

fn capture(family: Family) -> std::io::Result<Socket> {
    let kind = match family {
        Family::Ipv4 => libc::ETH_P_IP,
        Family::Ipv6 => libc::ETH_P_IPV6,
    };
    let protocol = Protocol::from(i32::from((kind as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    socket.set_recv_buffer_size(1 << 24)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket)
}

fn receive(socket: &Socket, family: Family, arrivals: &Arrivals, stop: &AtomicBool) {
    // Where the next protocol and the payload stand in a packet.
    let (protocol, payload) = match family {
        Family::Ipv4 => (9, 28),
        Family::Ipv6 => (6, 48),
    };
    let mut buffer = [MaybeUninit::uninit(); 128];
    while !stop.load(Ordering::Relaxed) {
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let packet = buffer.iter().take(length);
        // SAFETY: so many octets were received into it.
        let packet: Vec<u8> = packet.map(|octet| unsafe { octet.assume_init() }).collect();
        let sent = packet.get(payload..).and_then(<[u8]>::first_chunk);
        // What else comes is BFD's, and has no time in it.
        let port = packet.get(payload - 6..).and_then(<[u8]>::first_chunk);
        if let Some(sent) = sent
            && packet.get(protocol) == Some(&UDP)
            && port.copied().map(u16::from_be_bytes) == Some(PORT)
        {
            arrivals
                .last_sent
                .fetch_max(u64::from_be_bytes(*sent), Ordering::Release);
            arrivals.packets.fetch_add(1, Ordering::Relaxed);
        }
    }
}
