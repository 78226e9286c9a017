//! Whether a network interface can do ESP itself, asked of its driver.

use nix::libc;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

/// linux/ethtool.h.
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const FEATURES: u32 = 4;
const STRING: usize = 32;
/// There are some sixty.
const MOST: usize = 1024;
/// A block: available, requested, active, never changed.
const BLOCK: usize = 16;
const ACTIVE: usize = 8;

/// Whether the interface with this address does ESP; `None` where that is not known: for a host name,
/// or without such an interface.
pub fn at(endpoint: &str) -> Option<bool> {
    let address: IpAddr = endpoint.parse().ok()?;
    let interfaces = nix::ifaddrs::getifaddrs().ok()?;
    let has = |it: &nix::ifaddrs::InterfaceAddress| {
        let own = it.address?;
        let v4 = own.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
        v4.or_else(|| own.as_sockaddr_in6().map(|it| IpAddr::from(it.ip())))
    };
    let mut of_address = interfaces.filter(|it| has(it) == Some(address));
    is_active(&of_address.next()?.interface_name, "esp-hw-offload").ok()
}

fn is_active(interface: &str, feature: &str) -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // cmd, reserved, mask of 64 bits, one number for each bit of the mask.
    let mut info = numbers(&[GSSET_INFO, 0]);
    info.extend((1u64 << FEATURES).to_ne_bytes());
    info.extend(numbers(&[0]));
    ethtool(&socket, interface, &mut info)?;
    let count = (number(&info, 16) as usize).min(MOST);
    // cmd, set, length, strings.
    let mut strings = numbers(&[GSTRINGS, FEATURES, count as u32]);
    strings.resize(12 + count * STRING, 0);
    ethtool(&socket, interface, &mut strings)?;
    let is_it = |string: &[u8]| {
        let name = string.split(|byte| *byte == 0).next();
        name == Some(feature.as_bytes())
    };
    let mut names = strings.get(12..).unwrap_or_default().chunks(STRING);
    let Some(bit) = names.position(is_it) else {
        return Ok(false);
    };
    // cmd, number of blocks, blocks of 32 features each.
    let blocks = count.div_ceil(32);
    let mut features = numbers(&[GFEATURES, blocks as u32]);
    features.resize(8 + blocks * BLOCK, 0);
    ethtool(&socket, interface, &mut features)?;
    let active = number(&features, 8 + bit / 32 * BLOCK + ACTIVE);
    Ok(active & (1 << (bit % 32)) != 0)
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|it| it.to_ne_bytes()).collect()
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let number = bytes.get(at..).and_then(|rest| rest.first_chunk());
    number.map_or(0, |it| u32::from_ne_bytes(*it))
}

/// `SIOCETHTOOL`: the request begins with its command, and is where the answer goes.
fn ethtool(socket: &Socket, interface: &str, request: &mut [u8]) -> io::Result<()> {
    // SAFETY: an `ifreq` of zeros is one without a name.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = ifreq.ifr_name.len() - 1;
    for (to, from) in ifreq.ifr_name.iter_mut().zip(interface.bytes().take(room)) {
        *to = from.cast_signed() as libc::c_char;
    }
    ifreq.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
    // SAFETY: the kernel reads and writes no more of the request than the counts in it say, and it is
    // as large as these ask for; it lives until the call returns.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut ifreq) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_segments_and_does_no_esp() {
        assert_eq!(at("127.0.0.1"), Some(false));
        assert_eq!(at("vpn.example.net"), None);
        assert_eq!(at("192.0.2.77"), None);
        // The same question, with an answer that is yes.
        assert!(is_active("lo", "tx-tcp-segmentation").unwrap());
        assert!(is_active("no-such-link", "tx-tcp-segmentation").is_err());
    }
}
