//! What WireGuard interfaces have besides what all interfaces have: key, port and peer, by generic
//! netlink. An interface is asked for where it is; its socket stays where it was made, which is the
//! underlay.

use super::socket::{Channel, Refusal, Request, Socket};
use super::wire::{address, attribute, attributes, put_attribute, u16_at, u32_at};
use super::{Error, Kernel};
use crate::state::{Link, LinkKind, Peer, Side, WireGuard};
use crate::wireguard::{Handshakes, PrivateKey};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use nix::errno::Errno;
use nix::libc;
use routemesh_proto::PublicKey;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

// `linux/genetlink.h`.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`: command, version, nothing.
const HEADER: usize = 4;
// `linux/wireguard.h`.
const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;
const DEVICE_NAME: u16 = 2;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_FLAGS: u16 = 5;
const DEVICE_PORT: u16 = 6;
const DEVICE_MARK: u16 = 7;
const DEVICE_PEERS: u16 = 8;
const REPLACE_PEERS: u32 = 1;
const PEER_PUBLIC_KEY: u16 = 1;
const PEER_SHARED_KEY: u16 = 2;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_KEEPALIVE: u16 = 5;
const PEER_HANDSHAKE: u16 = 6;
const PEER_ALLOWED: u16 = 9;
const REPLACE_ALLOWED: u32 = 2;
const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_ADDRESS: u16 = 2;
const ALLOWED_LENGTH: u16 = 3;
/// `NLA_F_NESTED`, on which the kernel insists here.
const NESTED: u16 = 0x8000;
/// A listing of one interface after the other is answered within this.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Kernel {
    /// Adds to the interfaces in the overlay what WireGuard has for them, as far as it is of a shape
    /// that we make, and says when each last agreed on keys.
    pub(super) async fn look_at_wireguard(
        &self,
        links: &mut BTreeMap<String, Link>,
    ) -> Result<Handshakes, Error> {
        let here = links.iter().filter(|(_, link)| {
            matches!(link.kind, LinkKind::WireGuard { .. }) && link.side == Side::Overlay
        });
        let names: Vec<String> = here.map(|(name, _)| name.clone()).collect();
        let mut handshakes = Handshakes::new();
        if names.is_empty() {
            return Ok(handshakes);
        }
        let devices = list(&self.generic, names).await;
        let devices = devices.map_err(|refusal| Error::Refused {
            what: "list WireGuard's interfaces",
            refusal,
        })?;
        let now = SystemTime::now();
        for (name, device) in devices {
            let Some(link) = links.get_mut(&name) else {
                continue;
            };
            // A clock that was set back makes none older.
            let age = |at| now.duration_since(at).unwrap_or_default();
            handshakes.extend(device.handshake.map(|at| (name, age(at))));
            link.wireguard = device.usual();
        }
        Ok(handshakes)
    }

    /// Gives a WireGuard interface in the overlay its key, port and peer; `anew` without what it had of
    /// peers, which ends what they agreed on.
    pub(super) async fn set_wireguard(
        &self,
        name: &str,
        wireguard: &WireGuard,
        anew: bool,
    ) -> Result<(), Refusal> {
        let body = set(name, wireguard, anew);
        let set = move |socket: &mut Socket| {
            let kind = family(socket)?;
            let request = Request {
                kind,
                flags: 0,
                body,
            };
            let result = socket.send([request]).pop();
            result.unwrap_or_else(|| Err(Refusal::malformed()))
        };
        self.generic.exchange(TIMEOUT, set).get().await?
    }
}

/// What there is of each; one that is gone meanwhile is left out.
async fn list(channel: &Channel, names: Vec<String>) -> Result<Vec<(String, Device)>, Refusal> {
    let list = move |socket: &mut Socket| {
        let kind = family(socket)?;
        let mut devices = Vec::with_capacity(names.len());
        for name in names {
            let request = Request {
                kind,
                flags: 0,
                body: get(&name),
            };
            match socket.ask(&request, NLM_F_DUMP, decode) {
                Ok(parts) => devices.push((name, Device::of(parts))),
                Err(refusal) if refusal.errno == Errno::ENODEV => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(devices)
    };
    channel.exchange(TIMEOUT, list).get().await?
}

/// The number that the kernel gave WireGuard when its module was loaded.
fn family(socket: &mut Socket) -> Result<u16, Refusal> {
    let mut body = vec![GET_FAMILY, 1, 0, 0];
    put_attribute(&mut body, FAMILY_NAME, b"wireguard\0");
    let request = Request {
        kind: CONTROL,
        flags: 0,
        body,
    };
    let decode = |_, body: &[u8]| u16_at(attribute(body.get(HEADER..)?, FAMILY_ID)?, 0);
    let found = socket.ask(&request, NLM_F_ACK, decode)?;
    found.first().copied().ok_or_else(Refusal::malformed)
}

fn get(name: &str) -> Vec<u8> {
    let mut body = vec![GET_DEVICE, 1, 0, 0];
    put_attribute(&mut body, DEVICE_NAME, &terminated(name));
    body
}

fn set(name: &str, wireguard: &WireGuard, anew: bool) -> Vec<u8> {
    let mut body = vec![SET_DEVICE, 1, 0, 0];
    put_attribute(&mut body, DEVICE_NAME, &terminated(name));
    put_attribute(
        &mut body,
        DEVICE_PRIVATE_KEY,
        wireguard.private_key.expose(),
    );
    let flags = if anew { REPLACE_PEERS } else { 0 };
    put_attribute(&mut body, DEVICE_FLAGS, &flags.to_ne_bytes());
    put_attribute(&mut body, DEVICE_PORT, &wireguard.port.to_ne_bytes());
    put_attribute(&mut body, DEVICE_MARK, &0u32.to_ne_bytes());
    let mut peers = Vec::new();
    if let Some(peer) = &wireguard.peer {
        put_attribute(&mut peers, NESTED, &put_peer(peer, anew));
    }
    put_attribute(&mut body, DEVICE_PEERS | NESTED, &peers);
    body
}

fn put_peer(peer: &Peer, anew: bool) -> Vec<u8> {
    let mut body = Vec::new();
    put_attribute(&mut body, PEER_PUBLIC_KEY, peer.public_key.bytes());
    put_attribute(&mut body, PEER_ENDPOINT, &socket_address(peer.endpoint));
    if anew {
        put_attribute(&mut body, PEER_FLAGS, &REPLACE_ALLOWED.to_ne_bytes());
        // Whatever a packet's addresses are: which may pass is the packet filter's business.
        let mut all = Vec::new();
        for (family, zeros) in [(libc::AF_INET, &[0; 4][..]), (libc::AF_INET6, &[0; 16])] {
            let mut one = Vec::new();
            put_attribute(&mut one, ALLOWED_FAMILY, &(family as u16).to_ne_bytes());
            put_attribute(&mut one, ALLOWED_ADDRESS, zeros);
            put_attribute(&mut one, ALLOWED_LENGTH, &[0]);
            put_attribute(&mut all, NESTED, &one);
        }
        put_attribute(&mut body, PEER_ALLOWED | NESTED, &all);
    }
    body
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// `struct sockaddr_in` or `sockaddr_in6`.
fn socket_address(at: SocketAddr) -> Vec<u8> {
    let family = if at.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let mut bytes = (family as u16).to_ne_bytes().to_vec();
    bytes.extend(at.port().to_be_bytes());
    match at.ip() {
        IpAddr::V4(address) => {
            bytes.extend(address.octets());
            bytes.extend([0; 8]);
        }
        IpAddr::V6(address) => {
            bytes.extend([0; 4]);
            bytes.extend(address.octets());
            bytes.extend([0; 4]);
        }
    }
    bytes
}

fn read_socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    let octets = match i32::from(u16_at(bytes, 0)?) {
        libc::AF_INET => bytes.get(4..8)?,
        libc::AF_INET6 => bytes.get(8..24)?,
        _ => return None,
    };
    Some((address(octets)?, port).into())
}

/// One message about an interface: there are more where it has many peers.
#[derive(Debug, Default)]
struct Device {
    private_key: Option<PrivateKey>,
    port: u16,
    mark: u32,
    peers: usize,
    /// The only one, if it is as we make them.
    peer: Option<Peer>,
    handshake: Option<SystemTime>,
}

impl Device {
    fn of(parts: Vec<Self>) -> Self {
        let more = |one: Self, next: Self| Self {
            peers: one.peers.saturating_add(next.peers),
            ..one
        };
        parts.into_iter().reduce(more).unwrap_or_default()
    }

    /// Without anything that we do not make.
    fn usual(self) -> Option<WireGuard> {
        let as_ours = self.peers == usize::from(self.peer.is_some()) && self.mark == 0;
        Some(WireGuard {
            private_key: self.private_key.filter(|_| as_ours)?,
            port: self.port,
            peer: self.peer,
        })
    }
}

fn decode(_: u16, body: &[u8]) -> Option<Device> {
    let mut device = Device::default();
    for (kind, value) in attributes(body.get(HEADER..)?) {
        match kind {
            DEVICE_PRIVATE_KEY => {
                let key = <[u8; 32]>::try_from(value).ok();
                let key = key.filter(|key| *key != [0; 32]);
                device.private_key = key.map(PrivateKey::from);
            }
            DEVICE_PORT => device.port = u16_at(value, 0)?,
            DEVICE_MARK => device.mark = u32_at(value, 0)?,
            DEVICE_PEERS => {
                for (_, peer) in attributes(value) {
                    device.peers += 1;
                    device.peer = read_peer(peer);
                    device.handshake = attribute(peer, PEER_HANDSHAKE).and_then(read_time);
                }
            }
            _ => {}
        }
    }
    Some(device)
}

/// A peer as we make them.
fn read_peer(bytes: &[u8]) -> Option<Peer> {
    let (mut key, mut endpoint, mut allowed) = (None, None, Vec::new());
    for (kind, value) in attributes(bytes) {
        match kind {
            PEER_PUBLIC_KEY => key = <[u8; 32]>::try_from(value).ok().map(PublicKey::from),
            PEER_SHARED_KEY if value.iter().any(|byte| *byte != 0) => return None,
            PEER_KEEPALIVE if u16_at(value, 0)? != 0 => return None,
            PEER_ENDPOINT => endpoint = read_socket_address(value),
            PEER_ALLOWED => {
                for (_, one) in attributes(value) {
                    let family = u16_at(attribute(one, ALLOWED_FAMILY)?, 0)?;
                    let length = attribute(one, ALLOWED_LENGTH)?.first().copied()?;
                    allowed.push((i32::from(family), length));
                }
            }
            _ => {}
        }
    }
    allowed.sort_unstable();
    let all = allowed == [(libc::AF_INET, 0), (libc::AF_INET6, 0)];
    Some(Peer {
        public_key: key.filter(|_| all)?,
        endpoint: endpoint?,
    })
}

/// `struct __kernel_timespec`; zero is never.
fn read_time(bytes: &[u8]) -> Option<SystemTime> {
    let seconds = i64::from_ne_bytes(*bytes.first_chunk()?);
    let nanos = i64::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
    if (seconds, nanos) == (0, 0) {
        return None;
    }
    let since = Duration::from_secs(u64::try_from(seconds).ok()?)
        + Duration::from_nanos(u64::try_from(nanos).ok()?);
    UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peer(endpoint: &str) -> Peer {
        Peer {
            public_key: [9; 32].into(),
            endpoint: endpoint.parse().unwrap(),
        }
    }

    fn wireguard(peer: Option<Peer>) -> WireGuard {
        WireGuard {
            private_key: [1; 32].into(),
            port: 20_003,
            peer,
        }
    }

    #[test]
    fn what_is_set_is_read_back() {
        let peers = [
            None,
            Some(peer("192.0.2.1:20000")),
            Some(peer("[2001:db8::1]:20000")),
        ];
        for peer in peers {
            let wireguard = wireguard(peer);
            let device = decode(0, &set("rm3", &wireguard, true)).unwrap();
            assert_eq!(device.handshake, None);
            assert_eq!(Device::of(vec![device]).usual(), Some(wireguard));
        }
    }

    #[test]
    fn what_we_do_not_make_is_none() {
        let ours = peer("192.0.2.1:20000");
        let with = |kind: u16, value: &[u8]| {
            let mut body = put_peer(&ours, true);
            put_attribute(&mut body, kind, value);
            body
        };
        assert_eq!(
            read_peer(&with(PEER_KEEPALIVE, &[0, 0])),
            Some(ours.clone())
        );
        assert_eq!(read_peer(&with(PEER_KEEPALIVE, &[25, 0])), None);
        assert_eq!(read_peer(&with(PEER_SHARED_KEY, &[1; 32])), None);
        assert_eq!(read_peer(&put_peer(&ours, false)), None, "nothing allowed");

        let device = |peer: &Peer| decode(0, &set("rm3", &wireguard(Some(peer.clone())), true));
        let [one, two] = [device(&ours), device(&ours)].map(Option::unwrap);
        assert_eq!(Device::of(vec![one, two]).usual(), None, "two peers");
        let marked = Device {
            mark: 1,
            ..device(&ours).unwrap()
        };
        assert_eq!(marked.usual(), None);
        // A new interface.
        assert_eq!(Device::of(Vec::new()).usual(), None);
    }

    #[test]
    fn a_handshake_has_a_time() {
        let time = |seconds: i64, nanos: i64| {
            read_time(&[seconds.to_ne_bytes(), nanos.to_ne_bytes()].concat())
        };
        assert_eq!(time(0, 0), None);
        assert_eq!(time(-1, 0), None);
        let at = UNIX_EPOCH + Duration::new(7, 5);
        assert_eq!(time(7, 5), Some(at));
    }

    proptest! {
        #[test]
        fn nothing_panics(body: Vec<u8>) {
            let _ = (decode(0, &body), read_peer(&body), read_time(&body));
        }
    }
}
