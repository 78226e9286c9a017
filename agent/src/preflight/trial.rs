//! What the kernel can do, found out by trying it in a network namespace that nobody else sees and
//! that is gone afterwards. Needs root.

use super::Ability;
use netlink_sys::protocols::{NETLINK_ROUTE, NETLINK_XFRM};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// What came of it, by what was tried; the reason where it does not work.
pub type Tried = BTreeMap<Ability, Result<(), String>>;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Tries these. Blocks for as long as that takes, which is bounded. An error is that none could be tried.
pub fn all(abilities: &BTreeSet<Ability>) -> Result<Tried, String> {
    let abilities = abilities.clone();
    let (done, result) = channel();
    // The thread's namespace ends with it.
    let thread = std::thread::Builder::new().name("preflight".into());
    let spawned = thread.spawn(move || {
        let tried = match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => Ok(abilities.iter().map(|it| (*it, one(*it))).collect()),
            Err(errno) => Err(format!(
                "no network namespace can be made to try it in ({errno}): run as root"
            )),
        };
        let _ = done.send(tried);
    });
    spawned.map_err(|error| error.to_string())?;
    let answer = result.recv_timeout(TIMEOUT);
    answer.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
}

fn one(ability: Ability) -> Result<(), String> {
    let done = match ability {
        Ability::XfrmInterface => link("xfrm", &attribute(2, &1u32.to_ne_bytes())),
        Ability::Vti => link("vti", &vti(&[192, 0, 2, 1], &[192, 0, 2, 2])),
        Ability::Vti6 => {
            let end = |last| {
                let mut address = [0; 16];
                (address[0], address[15]) = (0xfd, last);
                address
            };
            link("vti6", &vti(&end(1), &end(2)))
        }
        Ability::WireGuard => link("wireguard", &[]),
        Ability::Vrf => link("vrf", &attribute(1, &1000u32.to_ne_bytes())),
        Ability::Nexthops => nexthop().and_then(|()| group(&[])),
        Ability::ResilientGroups => {
            let buckets = attribute(1, &8u16.to_ne_bytes());
            let kind = attribute(3, &1u16.to_ne_bytes());
            // `NLA_F_NESTED`, on which the kernel insists here.
            let buckets = attribute(0x8000 | 12, &buckets);
            nexthop().and_then(|()| group(&[kind, buckets].concat()))
        }
        Ability::Esp => esp(),
        Ability::Nftables => return nft(),
    };
    done.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) => errno.to_string(),
        None => error.to_string(),
    })
}

/// linux/rtnetlink.h, linux/if_link.h.
fn link(kind: &str, data: &[u8]) -> io::Result<()> {
    let info = [attribute(1, kind.as_bytes()), attribute(2, data)].concat();
    let name = format!("try-{kind}\0");
    let attributes = [attribute(3, name.as_bytes()), attribute(18, &info)].concat();
    ask(NETLINK_ROUTE, 16, &[&[0; 16][..], &attributes].concat())
}

/// linux/if_tunnel.h: addresses, and a key both ways, as ours have.
fn vti(local: &[u8], remote: &[u8]) -> Vec<u8> {
    let key = 1u32.to_be_bytes();
    [
        attribute(2, &key),
        attribute(3, &key),
        attribute(4, local),
        attribute(5, remote),
    ]
    .concat()
}

/// linux/nexthop.h: one that drops, which is of the loopback interface: that has to be up.
fn nexthop() -> io::Result<()> {
    let up = [0u32, 1, 1, 1].map(u32::to_ne_bytes).concat();
    ask(NETLINK_ROUTE, 19, &up)?;
    let header = [10, 0, 0, 0, 0, 0, 0, 0];
    let attributes = [attribute(1, &1u32.to_ne_bytes()), attribute(4, &[])].concat();
    match ask(NETLINK_ROUTE, 104, &[&header[..], &attributes].concat()) {
        Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => Ok(()),
        result => result,
    }
}

/// A group of it; resilient or not is said by more attributes.
fn group(more: &[u8]) -> io::Result<()> {
    let id = if more.is_empty() { 2u32 } else { 3 };
    let member = [&1u32.to_ne_bytes()[..], &[0; 4]].concat();
    let attributes = [attribute(1, &id.to_ne_bytes()), attribute(2, &member)].concat();
    ask(
        NETLINK_ROUTE,
        104,
        &[&[0; 8][..], &attributes, more].concat(),
    )
}

/// linux/xfrm.h: an SA in tunnel mode with AES-GCM, as ours.
fn esp() -> io::Result<()> {
    let mut info = [0u8; 224];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = info.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    // The selector is of all of IPv4; then destination, SPI, protocol, source.
    put(40, &2u16.to_ne_bytes());
    put(56, &[192, 0, 2, 2]);
    put(72, &0x1000u32.to_be_bytes());
    put(76, &[50]);
    put(80, &[192, 0, 2, 1]);
    // No limits.
    put(96, &[0xff; 32]);
    // Family, mode.
    put(212, &2u16.to_ne_bytes());
    put(214, &[1]);
    let mut algorithm = b"rfc4106(gcm(aes))".to_vec();
    algorithm.resize(64, 0);
    algorithm.extend(288u32.to_ne_bytes());
    algorithm.extend(128u32.to_ne_bytes());
    algorithm.extend([7; 36]);
    let body = [&info[..], &attribute(18, &algorithm)].concat();
    ask(NETLINK_XFRM, 16, &body)
}

fn nft() -> Result<(), String> {
    let mut nft = Command::new("nft");
    nft.args(["add", "table", "inet", "routemesh-try"]);
    nft.stdin(Stdio::null()).stdout(Stdio::null());
    match nft.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.lines().next().unwrap_or("it failed").to_owned())
        }
        Err(error) => Err(format!("the program nft does not run: {error}")),
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Has the kernel make something that is not there yet, and waits for what it says.
fn ask(protocol: isize, kind: u16, body: &[u8]) -> io::Result<()> {
    const HEADER: usize = 16;
    /// `NLM_F_REQUEST | NLM_F_ACK | NLM_F_EXCL | NLM_F_CREATE`.
    const FLAGS: u16 = 0x605;
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
    let length = u32::try_from(HEADER + body.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend([kind.to_ne_bytes(), FLAGS.to_ne_bytes()].concat());
    message.extend([1u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat());
    message.extend(body);
    socket.send_to(&message, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let errno = answer.get(HEADER..).and_then(|rest| rest.first_chunk());
    match errno.map(|it| i32::from_ne_bytes(*it)) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
        None => Err(io::Error::other("the kernel's answer is too short")),
    }
}
