//! UPDATEs filled with prefixes, as many of each as it takes.
//!
//! A message carries prefixes in one place only, and MP_REACH_NLRI or MP_UNREACH_NLRI comes first
//! among the attributes: so a receiver finds the prefixes whatever else is wrong (RFC 7606 section 5.1).

use super::attribute::{EXTENDED_LENGTH, MP_REACH_NLRI, MP_UNREACH_NLRI, OPTIONAL};
use super::frame::{EXTENDED_MAX_LENGTH, HEADER_LENGTH, Kind, MAX_LENGTH};
use super::{Context, Family, NextHop, nlri};
use ipnet::IpNet;

/// Where the length of the message stands.
pub(super) const LENGTH: usize = 16;
/// Where the length of the withdrawn routes stands.
const WITHDRAWN_LENGTH: usize = HEADER_LENGTH;
/// Where the length of the attributes stands when no routes are withdrawn.
const ATTRIBUTES_LENGTH: usize = HEADER_LENGTH + 2;
/// Where the length of the first attribute stands then, in two bytes.
const FIRST_ATTRIBUTE_LENGTH: usize = ATTRIBUTES_LENGTH + 4;

/// Appends the header of a message, with a length yet to be filled in.
pub(super) fn write_header(kind: Kind, out: &mut Vec<u8>) {
    out.extend([0xff; LENGTH]);
    out.extend([0, 0, kind.code()]);
}

/// The longest message that the peer takes.
pub(super) fn max_length(context: &Context) -> usize {
    match context.extended_messages.send {
        true => EXTENDED_MAX_LENGTH,
        false => MAX_LENGTH,
    }
}

/// The beginning of an UPDATE, up to and with a zero length of the withdrawn routes.
fn beginning() -> Vec<u8> {
    let mut head = Vec::with_capacity(64);
    write_header(Kind::Update, &mut head);
    head.extend([0, 0]);
    head
}

/// An UPDATE without its prefixes.
pub(super) struct Shape<'a> {
    /// What stands before the prefixes. Length fields do not count the prefixes yet.
    head: Vec<u8>,
    /// What stands after them.
    tail: &'a [u8],
    /// Where the length fields stand that count the prefixes.
    lengths: &'static [usize],
    /// The longest message that the peer takes.
    max_length: usize,
    /// The prefixes have path identifiers (RFC 7911).
    path_ids: bool,
}

impl<'a> Shape<'a> {
    /// Withdraws prefixes of IPv4 outside the attributes, and of IPv6 in MP_UNREACH_NLRI.
    pub(super) fn withdraw(family: Family, context: &Context) -> Self {
        let mut head = beginning();
        if family == Family::Ipv4 {
            let no_attributes = &[0, 0];
            let lengths = &[LENGTH, WITHDRAWN_LENGTH];
            return Self::new(head, no_attributes, lengths, family, context);
        }
        head.extend([0, 7, OPTIONAL | EXTENDED_LENGTH, MP_UNREACH_NLRI, 0, 3]);
        head.extend(nlri::afi(family).to_be_bytes());
        head.push(nlri::UNICAST);
        let lengths = &[LENGTH, ATTRIBUTES_LENGTH, FIRST_ATTRIBUTE_LENGTH];
        Self::new(head, &[], lengths, family, context)
    }

    /// Announces prefixes of IPv4 outside `attributes`, which hold their next hop.
    pub(super) fn announce(attributes: &[u8], context: &Context) -> Self {
        let mut head = beginning();
        head.extend(saturate(attributes.len()).to_be_bytes());
        head.extend(attributes);
        Self::new(head, &[], &[LENGTH], Family::Ipv4, context)
    }

    /// Announces prefixes in MP_REACH_NLRI, with `attributes` for the rest.
    pub(super) fn announce_mp(
        family: Family,
        next_hop: &NextHop,
        attributes: &'a [u8],
        context: &Context,
    ) -> Self {
        let mut value = nlri::afi(family).to_be_bytes().to_vec();
        value.push(nlri::UNICAST);
        nlri::write_next_hop(next_hop, &mut value);
        value.push(0); // reserved
        let mut head = beginning();
        head.extend(saturate(4 + value.len() + attributes.len()).to_be_bytes());
        head.extend([OPTIONAL | EXTENDED_LENGTH, MP_REACH_NLRI]);
        head.extend(saturate(value.len()).to_be_bytes());
        head.extend(value);
        let lengths = &[LENGTH, ATTRIBUTES_LENGTH, FIRST_ATTRIBUTE_LENGTH];
        Self::new(head, attributes, lengths, family, context)
    }

    fn new(
        mut head: Vec<u8>,
        tail: &'a [u8],
        lengths: &'static [usize],
        family: Family,
        context: &Context,
    ) -> Self {
        let length = head.len() + tail.len();
        grow(&mut head, LENGTH, length);
        Self {
            head,
            tail,
            lengths,
            max_length: max_length(context),
            path_ids: context.add_path.of(family).send,
        }
    }

    /// Appends as many messages as it takes to carry `prefixes`. Returns those that fit into none,
    /// because the attributes leave too little room.
    pub(super) fn pack(
        &self,
        prefixes: impl Iterator<Item = (u32, IpNet)>,
        out: &mut Vec<u8>,
    ) -> Vec<(u32, IpNet)> {
        let empty = self.head.len() + self.tail.len();
        let room = self.max_length.saturating_sub(empty);
        let path_id_size = if self.path_ids { 4 } else { 0 };
        let mut unfit = Vec::new();
        let mut start = None;
        let mut used = 0;
        for (path_id, prefix) in prefixes {
            let size = path_id_size + nlri::prefix_size(&prefix);
            if size > room {
                unfit.push((path_id, prefix));
                continue;
            }
            if used + size > room
                && let Some(start) = start.take()
            {
                self.finish(start, used, out);
            }
            if start.is_none() {
                start = Some(out.len());
                used = 0;
                out.extend_from_slice(&self.head);
            }
            if self.path_ids {
                out.extend_from_slice(&path_id.to_be_bytes());
            }
            nlri::write_prefix(&prefix, out);
            used += size;
        }
        if let Some(start) = start {
            self.finish(start, used, out);
        }
        unfit
    }

    /// Completes the message that began at `start` and holds `used` bytes of prefixes.
    fn finish(&self, start: usize, used: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(self.tail);
        for field in self.lengths {
            grow(out, start + field, used);
        }
    }
}

/// Adds `by` to a length field of two bytes.
pub(super) fn grow(bytes: &mut [u8], field: usize, by: usize) {
    let field = bytes.get_mut(field..).and_then(<[u8]>::first_chunk_mut);
    if let Some(field) = field {
        let length = usize::from(u16::from_be_bytes(*field)) + by;
        *field = saturate(length).to_be_bytes();
    }
}

/// A length as a field holds it. What exceeds 16 bits exceeds every message, and is never sent.
fn saturate(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}
