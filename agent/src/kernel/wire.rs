//! Reading netlink datagrams: messages, fixed fields and attributes, out of anything, without
//! panicking.
//!
//! Only what is needed is read, so that no strange attribute of a foreign object hides ours.

use super::socket::Refusal;
use netlink_packet_core::{NLA_TYPE_MASK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_DONE};
use nix::errno::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Of a netlink message: `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The attributes in `bytes`, as far as they make sense: type and value.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of this type.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

/// Appends an attribute.
pub(super) fn put_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (ATTRIBUTE_HEADER + value.len()) as u16;
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// An address by its length.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

/// An address as the kernel wants it.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A string up to its terminating zero.
pub(super) fn string(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// One message of a datagram.
pub(super) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// The socket that asked for it; 0 is the kernel itself.
    pub port: u32,
    pub body: &'a [u8],
}

impl Message<'_> {
    /// What an acknowledgement, a refusal or the end of a dump says.
    pub fn result(&self) -> Result<(), Refusal> {
        let code = u32_at(self.body, 0).ok_or_else(Refusal::malformed)? as i32;
        if code == 0 || self.kind == NLMSG_DONE && code > 0 {
            return Ok(());
        }
        // A refusal repeats the request, or just its header, before the explanation.
        let explained = match self.kind {
            NLMSG_DONE => 4,
            _ if self.flags & NLM_F_CAPPED != 0 => 4 + HEADER,
            _ => 4 + (u32_at(self.body, 4).unwrap_or(0) as usize).next_multiple_of(4),
        };
        let text = match self.body.get(explained..) {
            Some(rest) if self.flags & NLM_F_ACK_TLVS != 0 => attribute(rest, NLMSGERR_ATTR_MSG),
            _ => None,
        };
        Err(Refusal {
            errno: Errno::from_raw(code.saturating_neg()),
            text: text.map(|text| string(text).trim_end_matches('.').to_owned()),
        })
    }
}

/// The messages of a datagram, as far as they make sense.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        let body = datagram.get(HEADER..length)?;
        let message = Message {
            kind: u16_at(datagram, 4)?,
            flags: u16_at(datagram, 6)?,
            sequence: u32_at(datagram, 8)?,
            port: u32_at(datagram, 12)?,
            body,
        };
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(message)
    })
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;
    use netlink_packet_core::NLMSG_ERROR;
    use proptest::prelude::*;

    #[test]
    fn attributes_come_back_as_put() {
        let mut bytes = Vec::new();
        put_attribute(&mut bytes, 1, b"abc");
        put_attribute(&mut bytes, 0x8002, &7u32.to_ne_bytes());
        put_attribute(&mut bytes, 3, b"");
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(
            found,
            [(1, &b"abc"[..]), (2, &7u32.to_ne_bytes()), (3, b"")]
        );
        assert_eq!(
            attribute(&bytes, 2).and_then(|value| u32_at(value, 0)),
            Some(7)
        );
        assert_eq!(attribute(&bytes, 9), None);
    }

    #[test]
    fn a_length_that_lies_ends_the_list() {
        assert_eq!(attributes(&[0xff, 0xff, 1, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
    }

    /// Linux 6.18, to a group with a member that does not exist, the request not repeated.
    const CAPPED: &[u8] = b"\x3c\0\0\0\x02\0\0\x03\x07\0\0\0\x01\0\0\0\
        \xea\xff\xff\xff\x34\0\0\0\x68\0\x05\x05\x07\0\0\0\0\0\0\0\
        \x17\0\x01\0Invalid nexthop id\0\0";
    /// Linux 6.18, to `ip nexthop add id 7 blackhole`, the request repeated.
    const WHOLE: &[u8] = b"\x5c\0\0\0\x02\0\0\x02\x07\0\0\0\x01\0\0\0\
        \x9c\xff\xff\xff\x24\0\0\0\x68\0\x05\x06\xd7\x85\x02\x6b\0\0\0\0\
        \x02\0\0\0\0\0\0\0\x08\0\x01\0\x07\0\0\0\x04\0\x04\0\
        \x21\0\x01\0Device for nexthop is not up\0\0\0\0";

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let capped = "Invalid nexthop id (EINVAL: Invalid argument)";
        let whole = "Device for nexthop is not up (ENETDOWN: Network is down)";
        for (datagram, words) in [(CAPPED, capped), (WHOLE, whole)] {
            let all: Vec<_> = messages(datagram).collect();
            let [message] = &all[..] else {
                panic!("{} messages", all.len())
            };
            assert_eq!((message.kind, message.sequence, message.port), (2, 7, 1));
            let refusal = message.result().expect_err("a refusal");
            assert_eq!(refusal.to_string(), words);
        }
    }

    #[test]
    fn acknowledgement_and_end_of_dump_are_success() {
        let body = [0; 20];
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            let message = Message {
                kind,
                flags: 0,
                sequence: 1,
                port: 1,
                body: &body,
            };
            assert_eq!(message.result(), Ok(()));
        }
        let message = Message {
            kind: NLMSG_ERROR,
            flags: 0,
            sequence: 1,
            port: 1,
            body: &[],
        };
        assert_eq!(
            message.result().map_err(|refusal| refusal.errno),
            Err(Errno::EBADMSG)
        );
    }

    #[test]
    fn messages_of_one_datagram_are_told_apart() {
        let both = [CAPPED, WHOLE].concat();
        assert_eq!(messages(&both).count(), 2);
        assert_eq!(
            messages(&both[..both.len() - 1]).count(),
            1,
            "the second is cut off"
        );
        assert_eq!(messages(&[0; 64]).count(), 0, "a length of nothing ends it");
    }

    proptest! {
        #[test]
        fn nothing_panics_or_loops(bytes: Vec<u8>) {
            prop_assert!(attributes(&bytes).count() <= bytes.len() / 4);
            let _ = (address(&bytes), string(&bytes), u32_at(&bytes, bytes.len()));
        }

        #[test]
        fn no_datagram_panics_or_loops(bytes: Vec<u8>, flags: u16, kind in 0u16..5) {
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER);
            let _ = Message { kind, flags, sequence: 0, port: 0, body: &bytes }.result();
        }
    }
}
