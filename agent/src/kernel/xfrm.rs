//! IPsec in the kernel: SAs and policies as charon made them. Read, and never made: only what a
//! charon that is gone has left is deleted.
//!
//! `XFRM_MSG_GETAE` is never sent: for an SA with an `if_id` it can make a kernel panic.

use super::Error;
use super::socket::{Channel, Refusal, Request, enlarge};
use super::wire::{address, attribute, messages, octets, put_attribute, u16_at, u32_at};
use crate::state::ours;
use netlink_sys::protocols::NETLINK_XFRM;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use nix::libc;
use std::net::IpAddr;

// `linux/xfrm.h`.
const NEWSA: u16 = 0x10;
const DELSA: u16 = 0x11;
const GETSA: u16 = 0x12;
const NEWPOLICY: u16 = 0x13;
const DELPOLICY: u16 = 0x14;
const GETPOLICY: u16 = 0x15;
const FLUSHSA: u16 = 0x1c;
const FLUSHPOLICY: u16 = 0x1d;
const GROUP_SA: u32 = 3;
const GROUP_POLICY: u32 = 4;
/// `struct xfrm_usersa_info` and where things are in it.
const SA: usize = 224;
const SA_TO: usize = 56;
const SA_SPI: usize = 72;
const SA_PROTOCOL: usize = 76;
const SA_FROM: usize = 80;
const SA_PACKETS: usize = 168;
const SA_REPLAYED: usize = 196;
const SA_FORGED: usize = 200;
const SA_REQID: usize = 208;
const SA_FAMILY: usize = 212;
/// `struct xfrm_userpolicy_info` and where things are in it.
const POLICY: usize = 168;
const POLICY_FAMILY: usize = 40;
const POLICY_DIRECTION: usize = 160;
/// Attributes.
const ALGORITHMS: [u16; 4] = [1, 2, 18, 20];
const MARK: u16 = 21;
const IF_ID: u16 = 31;

const RECEIVE_BUFFER: usize = 1 << 20;
const DATAGRAM: usize = 64 * 1024;

/// An ESP SA.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sa {
    /// The outer source.
    pub from: IpAddr,
    /// The outer destination.
    pub to: IpAddr,
    /// Its SPI.
    pub spi: u32,
    /// What charon numbers the two SAs and the policies of a tunnel by.
    pub reqid: u32,
    /// Its `if_id` or mark, if that is of a tunnel of ours. What a VTI tunnel receives by has none.
    pub number: Option<u32>,
    /// As it was given: needed to delete it. With an `if_id` it has none.
    pub mark: Option<[u8; 8]>,
}

impl Sa {
    #[cfg(test)]
    pub(crate) fn new(from: IpAddr, to: IpAddr, spi: u32, reqid: u32, number: Option<u32>) -> Self {
        Self {
            from,
            to,
            spi,
            reqid,
            number,
            mark: None,
        }
    }
}

/// What an SA has carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Which.
    pub sa: Sa,
    /// Packets that went through it.
    pub packets: u64,
    /// Packets refused as repeated, or as too old.
    pub replayed: u32,
    /// Packets refused for their check value.
    pub forged: u32,
}

/// A policy of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Policy {
    /// Its `if_id` or mark.
    pub number: u32,
    /// `XFRM_POLICY_IN`, `_OUT`, `_FWD`.
    pub direction: u8,
    /// Of what it applies to.
    pub family: u16,
}

/// IPsec in the process's own namespace, the underlay.
pub struct Xfrm {
    channel: Channel,
}

impl Xfrm {
    /// Opens a socket. A kernel without IPsec refuses.
    pub fn open() -> Result<Self, Error> {
        match Channel::open(NETLINK_XFRM) {
            Ok(channel) => Ok(Self { channel }),
            Err(refusal) => Err(refused("open a netlink socket for IPsec", refusal)),
        }
    }

    /// The SAs, but for those that are still being negotiated and have no keys.
    pub async fn sas(&self) -> Result<Vec<Sa>, Error> {
        let sas = self.channel.dump(listing(GETSA), sa).await;
        sas.map_err(|refusal| refused("list SAs", refusal))
    }

    /// The same, with what they have carried.
    pub async fn counts(&self) -> Result<Vec<Count>, Error> {
        let counts = self.channel.dump(listing(GETSA), count).await;
        counts.map_err(|refusal| refused("list SAs", refusal))
    }

    /// The policies of ours.
    pub async fn policies(&self) -> Result<Vec<Policy>, Error> {
        let policies = self.channel.dump(listing(GETPOLICY), policy).await;
        policies.map_err(|refusal| refused("list policies", refusal))
    }

    /// Deletes an SA. Well if it is gone.
    pub async fn delete(&self, sa: &Sa) -> Result<(), Error> {
        match self.channel.send_one(deletion(sa)).await {
            Err(refusal) if refusal.errno != Errno::ESRCH => Err(refused("delete an SA", refusal)),
            _ => Ok(()),
        }
    }
}

fn refused(what: &'static str, refusal: Refusal) -> Error {
    Error::Refused { what, refusal }
}

fn listing(kind: u16) -> Request {
    Request {
        kind,
        flags: 0,
        body: Vec::new(),
    }
}

/// `struct xfrm_usersa_id`, and the mark, without which one that has one is not found.
fn deletion(sa: &Sa) -> Request {
    let mut body = octets(sa.to);
    body.resize(16, 0);
    body.extend(sa.spi.to_be_bytes());
    let family = if sa.to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    body.extend((family as u16).to_ne_bytes());
    body.extend([libc::IPPROTO_ESP as u8, 0]);
    if let Some(mark) = sa.mark {
        put_attribute(&mut body, MARK, &mark);
    }
    Request {
        kind: DELSA,
        flags: 0,
        body,
    }
}

fn sa(kind: u16, body: &[u8]) -> Option<Sa> {
    if kind != NEWSA || body.get(SA_PROTOCOL) != Some(&(libc::IPPROTO_ESP as u8)) {
        return None;
    }
    let attributes = body.get(SA..)?;
    let keyed = ALGORITHMS.map(|kind| attribute(attributes, kind));
    keyed.iter().any(Option::is_some).then_some(())?;
    let length = match i32::from(u16_at(body, SA_FAMILY)?) {
        libc::AF_INET => 4,
        _ => 16,
    };
    let address = |at: usize| address(body.get(at..at + length)?);
    Some(Sa {
        from: address(SA_FROM)?,
        to: address(SA_TO)?,
        spi: u32::from_be_bytes(*body.get(SA_SPI..)?.first_chunk()?),
        reqid: u32_at(body, SA_REQID)?,
        number: number(attributes),
        mark: attribute(attributes, MARK).and_then(|mark| mark.try_into().ok()),
    })
}

fn count(kind: u16, body: &[u8]) -> Option<Count> {
    let sa = sa(kind, body)?;
    Some(Count {
        sa,
        packets: u64::from_ne_bytes(*body.get(SA_PACKETS..)?.first_chunk()?),
        replayed: u32_at(body, SA_REPLAYED)?,
        forged: u32_at(body, SA_FORGED)?,
    })
}

fn policy(kind: u16, body: &[u8]) -> Option<Policy> {
    if kind != NEWPOLICY {
        return None;
    }
    Some(Policy {
        number: number(body.get(POLICY..)?)?,
        direction: *body.get(POLICY_DIRECTION)?,
        family: u16_at(body, POLICY_FAMILY)?,
    })
}

/// The tunnel's, by which both kinds of tunnels know what is theirs.
fn number(attributes: &[u8]) -> Option<u32> {
    let of = |kind| attribute(attributes, kind).and_then(|value| u32_at(value, 0));
    let ours = |number: &u32| (ours::IF_ID..ours::IF_ID + (1 << 24)).contains(number);
    [IF_ID, MARK].into_iter().filter_map(of).find(ours)
}

/// So many notifications are skipped at most.
const MOST: usize = 100_000;

/// Tells of SAs and policies that were deleted, by whomever.
pub struct Deletions {
    socket: TokioSocket,
    datagram: Vec<u8>,
}

impl Deletions {
    /// Starts to listen. Within a tokio runtime only.
    pub fn listen() -> Result<Self, Error> {
        let open = || -> std::io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(NETLINK_XFRM)?;
            enlarge(socket.socket_ref(), RECEIVE_BUFFER)?;
            let groups = 1 << (GROUP_SA - 1) | 1 << (GROUP_POLICY - 1);
            socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
            Ok(socket)
        };
        match open() {
            Ok(socket) => Ok(Self {
                socket,
                datagram: Vec::with_capacity(DATAGRAM),
            }),
            Err(error) => Err(refused("listen for changes of SAs", error.into())),
        }
    }

    /// Waits for the next; also when some may have been missed. Dropping the future loses nothing.
    pub async fn next(&mut self) -> std::io::Result<()> {
        loop {
            self.datagram.clear();
            match self.socket.recv(&mut self.datagram).await {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(()),
                Err(error) => return Err(error),
            }
            let deletion = |kind| matches!(kind, DELSA | DELPOLICY | FLUSHSA | FLUSHPOLICY);
            if messages(&self.datagram).any(|message| deletion(message.kind)) {
                self.skip();
                return Ok(());
            }
        }
    }

    /// What has come by now is answered by one look: a connection that is closed is eight deletions.
    fn skip(&mut self) {
        for _ in 0..MOST {
            self.datagram.clear();
            let socket = self.socket.socket_ref();
            if socket.recv(&mut self.datagram, libc::MSG_DONTWAIT).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An SA as the kernel tells of it.
    fn told(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![0; SA];
        let [from, to] = ["2001:db8::1", "2001:db8::2"].map(|it| octets(it.parse().unwrap()));
        body[SA_FROM..SA_FROM + 16].copy_from_slice(&from);
        body[SA_TO..SA_TO + 16].copy_from_slice(&to);
        body[SA_SPI..SA_SPI + 4].copy_from_slice(&[0xc1, 2, 3, 4]);
        body[SA_PROTOCOL] = 50;
        body[SA_REQID..SA_REQID + 4].copy_from_slice(&7u32.to_ne_bytes());
        body[SA_FAMILY..SA_FAMILY + 2].copy_from_slice(&10u16.to_ne_bytes());
        for (kind, value) in attributes {
            put_attribute(&mut body, *kind, value);
        }
        body
    }

    #[test]
    fn an_sa_is_known_by_its_tunnel() {
        let key = (18, &[0u8; 8][..]);
        let number = |id: u32| id.to_ne_bytes();
        let ours = sa(NEWSA, &told(&[key, (IF_ID, &number(0x5200_0007))])).unwrap();
        assert_eq!((ours.spi, ours.reqid), (0xc102_0304, 7));
        assert_eq!(ours.number, Some(0x5200_0007));
        assert_eq!(ours.to, "2001:db8::2".parse::<IpAddr>().unwrap());

        let mark = [number(0x5200_0008), [0xff; 4]].concat();
        let marked = sa(NEWSA, &told(&[key, (MARK, &mark)])).unwrap();
        assert_eq!(marked.number, Some(0x5200_0008));
        let body = deletion(&marked).body;
        assert_eq!(body[16..20], [0xc1, 2, 3, 4]);
        assert_eq!(attribute(&body[24..], MARK), Some(&mark[..]));

        let mut counted = told(&[key]);
        counted[SA_PACKETS..SA_PACKETS + 8].copy_from_slice(&1000u64.to_ne_bytes());
        let count = count(NEWSA, &counted).unwrap();
        assert_eq!((count.packets, count.replayed, count.forged), (1000, 0, 0));

        let strange = sa(NEWSA, &told(&[key, (IF_ID, &number(7))])).unwrap();
        assert_eq!(strange.number, None);
        // Only its SPI is reserved so far.
        assert_eq!(sa(NEWSA, &told(&[(IF_ID, &number(0x5200_0007))])), None);
    }

    proptest! {
        #[test]
        fn anything_can_be_read(kind in 0x10u16..0x20, body in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = (count(kind, &body), policy(kind, &body));
        }
    }
}
