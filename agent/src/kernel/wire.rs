//! Reading netlink messages: fixed fields and attributes, out of anything, without panicking.
//!
//! Only what is needed is read, so that no strange attribute of a foreign object hides ours.

use netlink_packet_core::NLA_TYPE_MASK;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ATTRIBUTE_HEADER: usize = 4;

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

#[cfg(test)]
mod tests {
    use super::*;
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

    proptest! {
        #[test]
        fn nothing_panics_or_loops(bytes: Vec<u8>) {
            prop_assert!(attributes(&bytes).count() <= bytes.len() / 4);
            let _ = (address(&bytes), string(&bytes), u32_at(&bytes, bytes.len()));
        }
    }
}
