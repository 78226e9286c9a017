//! Path attribute codes and flags (RFC 4271 section 4.3), and one attribute as it stands in a message.

use super::reader::Reader;

pub(super) const ORIGIN: u8 = 1;
pub(super) const AS_PATH: u8 = 2;
pub(super) const NEXT_HOP: u8 = 3;
pub(super) const MULTI_EXIT_DISC: u8 = 4;
pub(super) const LOCAL_PREF: u8 = 5;
pub(super) const ATOMIC_AGGREGATE: u8 = 6;
pub(super) const AGGREGATOR: u8 = 7;
pub(super) const COMMUNITIES: u8 = 8;
pub(super) const ORIGINATOR_ID: u8 = 9;
pub(super) const CLUSTER_LIST: u8 = 10;
pub(super) const MP_REACH_NLRI: u8 = 14;
pub(super) const MP_UNREACH_NLRI: u8 = 15;
pub(super) const EXTENDED_COMMUNITIES: u8 = 16;
pub(super) const AS4_PATH: u8 = 17;
pub(super) const AS4_AGGREGATOR: u8 = 18;
pub(super) const LARGE_COMMUNITIES: u8 = 32;
pub(super) const ONLY_TO_CUSTOMER: u8 = 35;

/// Set for optional attributes, clear for well-known ones.
pub(super) const OPTIONAL: u8 = 0x80;
/// Carried on to other speakers.
pub(super) const TRANSITIVE: u8 = 0x40;
/// Somebody on the way did not know the attribute.
pub(super) const PARTIAL: u8 = 0x20;
/// The length has two bytes.
pub(super) const EXTENDED_LENGTH: u8 = 0x10;

/// What stands for an AS number that does not fit into two bytes (RFC 6793).
pub(super) const AS_TRANS: u16 = 23456;

/// The Optional and Transitive flags of an attribute that we know; `None` for any other.
pub(super) fn flags(code: u8) -> Option<u8> {
    match code {
        ORIGIN | AS_PATH | NEXT_HOP | LOCAL_PREF | ATOMIC_AGGREGATE => Some(TRANSITIVE),
        MULTI_EXIT_DISC | ORIGINATOR_ID | CLUSTER_LIST | MP_REACH_NLRI | MP_UNREACH_NLRI => {
            Some(OPTIONAL)
        }
        AGGREGATOR | COMMUNITIES | EXTENDED_COMMUNITIES | AS4_PATH | AS4_AGGREGATOR
        | LARGE_COMMUNITIES | ONLY_TO_CUSTOMER => Some(OPTIONAL | TRANSITIVE),
        _ => None,
    }
}

/// One attribute of a received message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute<'a> {
    pub(super) flags: u8,
    pub(super) code: u8,
    pub(super) value: &'a [u8],
    /// All of it, as a NOTIFICATION about it wants.
    pub(super) bytes: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// `None`, and nothing taken, where the attribute is longer than what is left.
    pub(super) fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let mut rest = *reader;
        let flags = rest.u8()?;
        let code = rest.u8()?;
        let length = match flags & EXTENDED_LENGTH {
            0 => usize::from(rest.u8()?),
            _ => usize::from(rest.u16()?),
        };
        let value = rest.take(length)?;
        let bytes = reader.take(reader.len() - rest.len())?;
        Some(Self {
            flags,
            code,
            value,
            bytes,
        })
    }
}
