//! Socket options that neither tokio nor socket2 knows: GTSM (RFC 5082) and TCP MD5 (RFC 2385).

use ipnet::IpNet;
use nix::libc::{self, c_int, c_void, socklen_t};
use routemesh_proto::Secret;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// What everything we send starts with, so that a peer which checks finds it right.
pub const TTL: u8 = 255;
/// The kernel's longest key (TCP_MD5SIG_MAXKEYLEN).
const LONGEST_KEY: usize = libc::TCP_MD5SIG_MAXKEYLEN;
const MD5_FLAG_PREFIX: u8 = 1;
/// Size of `struct sockaddr_storage`.
const ADDRESS: usize = 128;

/// Discards what comes in with a TTL or hop limit below `minimum`; 0 takes everything.
pub fn set_minimum_ttl(socket: &impl AsFd, family: IpAddr, minimum: u8) -> io::Result<()> {
    let (level, option) = match family {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MINTTL),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
    };
    set(socket.as_fd(), level, option, &c_int::from(minimum))
}

/// Has a listener remember how each of its connections began, for [`ttl_of_syn`].
pub fn remember_syn(listener: &impl AsFd) -> io::Result<()> {
    let on: c_int = 1;
    set(listener.as_fd(), libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, &on)
}

/// The TTL or hop limit with which an accepted connection's SYN came in. `None` where its listener
/// does not [remember](remember_syn).
pub fn ttl_of_syn(accepted: &impl AsFd) -> io::Result<Option<u8>> {
    // Room for the longest IPv4 header and the longest TCP header, and for IPv6 with one TCP header.
    let mut packet = [0_u8; 128];
    let mut size = packet.len() as socklen_t;
    let (pointer, socket) = (packet.as_mut_ptr(), accepted.as_fd().as_raw_fd());
    // SAFETY: the kernel writes at most `size` bytes to `pointer`, which is a living buffer of that
    // size, and the descriptor is open for as long as it is borrowed.
    let result = unsafe {
        let pointer = pointer.cast::<c_void>();
        libc::getsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_SAVED_SYN,
            pointer,
            &raw mut size,
        )
    };
    match result {
        0 => Ok(packet.get(..size as usize).and_then(ttl)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The TTL or hop limit of a packet.
fn ttl(packet: &[u8]) -> Option<u8> {
    match packet.first()? >> 4 {
        4 => packet.get(8).copied(),
        6 => packet.get(7).copied(),
        _ => None,
    }
}

/// Signs what is sent to addresses in `peers`, and demands it of what comes from there. `None` ends
/// both; connections that a listener has accepted keep their key.
pub fn set_md5(socket: &impl AsFd, peers: IpNet, key: Option<&Secret>) -> io::Result<()> {
    let key = key.map_or(&[][..], |key| key.expose().as_bytes());
    let mut request = Md5 {
        address: storage(peers.network()),
        flags: MD5_FLAG_PREFIX,
        prefix_length: peers.prefix_len(),
        key_length: key.len() as u16,
        interface: 0,
        key: [0; LONGEST_KEY],
    };
    let Some(room) = request.key.get_mut(..key.len()) else {
        let reason = format!("the kernel takes TCP MD5 passwords of at most {LONGEST_KEY} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    };
    room.copy_from_slice(key);
    let option = libc::TCP_MD5SIG_EXT;
    match set(socket.as_fd(), libc::IPPROTO_TCP, option, &request) {
        // There was none to remove.
        Err(error) if key.is_empty() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            let reason = "this kernel has no TCP MD5 (CONFIG_TCP_MD5SIG)";
            Err(io::Error::new(io::ErrorKind::Unsupported, reason))
        }
        result => result,
    }
}

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct Md5 {
    address: [u8; ADDRESS],
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: c_int,
    key: [u8; LONGEST_KEY],
}

/// An address as `struct sockaddr_in` or `sockaddr_in6`, without a port.
fn storage(address: IpAddr) -> [u8; ADDRESS] {
    // Family, port, and for IPv6 the flow label come before the address.
    let (family, between, octets) = match address {
        IpAddr::V4(address) => (libc::AF_INET, 2, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, 6, address.octets().to_vec()),
    };
    let family = (family as u16).to_ne_bytes().into_iter();
    let bytes = family.chain(std::iter::repeat_n(0, between)).chain(octets);
    let mut storage = [0; ADDRESS];
    storage
        .iter_mut()
        .zip(bytes)
        .for_each(|(at, byte)| *at = byte);
    storage
}

fn set<T>(socket: BorrowedFd, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let pointer = std::ptr::from_ref(value).cast::<c_void>();
    let size = size_of::<T>() as socklen_t;
    // SAFETY: the kernel reads `size` bytes from `pointer`, which is a living `T` of that size, and
    // the descriptor is open for as long as it is borrowed.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer, size) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ttl_is_where_each_family_has_it() {
        let mut v4 = [0; 40];
        (v4[0], v4[8]) = (0x45, 254);
        assert_eq!(ttl(&v4), Some(254));
        let mut v6 = [0; 60];
        (v6[0], v6[7]) = (0x60, 64);
        assert_eq!(ttl(&v6), Some(64));
        assert_eq!(ttl(&v6[..7]), None);
        assert_eq!(ttl(&[]), None);
        assert_eq!(ttl(&[0x50; 40]), None);
    }
}
