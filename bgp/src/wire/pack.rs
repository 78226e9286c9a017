//! UPDATEs filled with prefixes, as many of each as it takes.
//!
//! A message carries prefixes in one place only, and MP_REACH_NLRI or MP_UNREACH_NLRI comes first
//! among the attributes: so a receiver finds the prefixes whatever else is wrong (RFC 7606 section 5.1).

use super::attribute::{EXTENDED_LENGTH, MP_REACH_NLRI, MP_UNREACH_NLRI, OPTIONAL};
use super::frame::{EXTENDED_MAX_LENGTH, HEADER_LENGTH, Kind, MAX_LENGTH};
use super::{Attributes, Context, Family, NextHop, encode_attributes, nlri};
use ipnet::IpNet;
use std::net::Ipv4Addr;

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
    out.extend_from_slice(&[0xff; LENGTH]);
    out.extend_from_slice(&[0, 0, kind.code()]);
}

/// The longest message that the peer takes.
pub(super) fn max_length(context: &Context) -> usize {
    match context.extended_messages.send {
        true => EXTENDED_MAX_LENGTH,
        false => MAX_LENGTH,
    }
}

/// An UPDATE without its prefixes.
pub(super) struct Shape {
    /// All of it. Length fields do not count the prefixes yet.
    bytes: Vec<u8>,
    /// Where the prefixes go.
    at: usize,
    /// Where the length fields stand that count the prefixes.
    lengths: &'static [usize],
    /// The longest message that the peer takes.
    max_length: usize,
    /// The prefixes have path identifiers (RFC 7911).
    path_ids: bool,
}

impl Shape {
    /// Withdraws prefixes of IPv4 outside the attributes, and of IPv6 in MP_UNREACH_NLRI.
    pub(super) fn withdraw(family: Family, context: &Context) -> Self {
        let mut shape = Self::new(family, context);
        match family {
            Family::Ipv4 => {
                shape.lengths = &[LENGTH, WITHDRAWN_LENGTH];
                shape.at = WITHDRAWN_LENGTH + 2;
                shape.bytes.extend_from_slice(&[0, 0]);
            }
            Family::Ipv6 => {
                shape.multiprotocol(MP_UNREACH_NLRI, family);
                shape.end_multiprotocol();
            }
        }
        shape.complete()
    }

    /// Announces prefixes of IPv4 outside the attributes.
    pub(super) fn announce(next_hop: Ipv4Addr, attributes: &Attributes, context: &Context) -> Self {
        let mut shape = Self::new(Family::Ipv4, context);
        shape.bytes.extend_from_slice(&[0, 0]);
        encode_attributes::write(attributes, Some(next_hop), context, &mut shape.bytes);
        shape.end_attributes();
        shape.at = shape.bytes.len();
        shape.complete()
    }

    /// Announces prefixes in MP_REACH_NLRI.
    pub(super) fn announce_mp(
        family: Family,
        next_hop: &NextHop,
        attributes: &Attributes,
        context: &Context,
    ) -> Self {
        let mut shape = Self::new(family, context);
        shape.multiprotocol(MP_REACH_NLRI, family);
        nlri::write_next_hop(next_hop, &mut shape.bytes);
        shape.bytes.push(0); // reserved
        shape.end_multiprotocol();
        encode_attributes::write(attributes, None, context, &mut shape.bytes);
        shape.end_attributes();
        shape.complete()
    }

    /// The beginning, up to and with a zero length of the withdrawn routes.
    fn new(family: Family, context: &Context) -> Self {
        // Enough for most attributes.
        let mut bytes = Vec::with_capacity(256);
        write_header(Kind::Update, &mut bytes);
        bytes.extend_from_slice(&[0, 0]);
        Self {
            bytes,
            at: 0,
            lengths: &[LENGTH],
            max_length: max_length(context),
            path_ids: context.add_path.of(family).send,
        }
    }

    /// Begins the attributes with one that is to hold the prefixes.
    fn multiprotocol(&mut self, code: u8, family: Family) {
        self.lengths = &[LENGTH, ATTRIBUTES_LENGTH, FIRST_ATTRIBUTE_LENGTH];
        let [high, low] = nlri::afi(family).to_be_bytes();
        let flags = OPTIONAL | EXTENDED_LENGTH;
        let attribute = [0, 0, flags, code, 0, 0, high, low, nlri::UNICAST];
        self.bytes.extend_from_slice(&attribute);
    }

    fn end_multiprotocol(&mut self) {
        self.at = self.bytes.len();
        let length = self.at - FIRST_ATTRIBUTE_LENGTH - 2;
        grow(&mut self.bytes, FIRST_ATTRIBUTE_LENGTH, length);
        self.end_attributes();
    }

    /// Sets the length of the attributes to what there is now.
    fn end_attributes(&mut self) {
        let length = saturate(self.bytes.len() - ATTRIBUTES_LENGTH - 2);
        set(&mut self.bytes, ATTRIBUTES_LENGTH, length);
    }

    fn complete(mut self) -> Self {
        let length = saturate(self.bytes.len());
        set(&mut self.bytes, LENGTH, length);
        self
    }

    /// Appends as many messages as it takes to carry `prefixes`. Returns those that fit into none,
    /// because the attributes leave too little room.
    pub(super) fn pack(
        &self,
        prefixes: impl Iterator<Item = (u32, IpNet)>,
        out: &mut Vec<u8>,
    ) -> Vec<(u32, IpNet)> {
        let (head, tail) = self.bytes.split_at(self.at);
        let room = self.max_length.saturating_sub(self.bytes.len());
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
                self.finish(start, used, tail, out);
            }
            if start.is_none() {
                start = Some(out.len());
                used = 0;
                out.extend_from_slice(head);
            }
            if self.path_ids {
                out.extend_from_slice(&path_id.to_be_bytes());
            }
            nlri::write_prefix(&prefix, out);
            used += size;
        }
        if let Some(start) = start {
            self.finish(start, used, tail, out);
        }
        unfit
    }

    /// Completes the message that began at `start` and holds `used` bytes of prefixes.
    fn finish(&self, start: usize, used: usize, tail: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(tail);
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

fn set(bytes: &mut [u8], field: usize, length: u16) {
    let field = bytes.get_mut(field..).and_then(<[u8]>::first_chunk_mut);
    if let Some(field) = field {
        *field = length.to_be_bytes();
    }
}

/// A length as a field holds it. What exceeds 16 bits exceeds every message, and is never sent.
fn saturate(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}
