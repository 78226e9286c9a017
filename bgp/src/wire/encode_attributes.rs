//! Path attributes to bytes (RFC 4271 section 4.3), in ascending order of their codes.

use super::attribute::{self, EXTENDED_LENGTH, OPTIONAL, PARTIAL, TRANSITIVE};
use super::decode_attributes::{may_repeat, remove_repeated};
use super::{Attributes, Context, Origin, as_path};
use std::net::Ipv4Addr;

/// Attributes being written, and what their form depends on.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    attributes: &'a Attributes,
    context: &'a Context,
}

/// Appends the path attributes for announced prefixes, with NEXT_HOP where the prefixes are to stand
/// outside the attributes. They may be longer than any message.
pub(super) fn write(
    attributes: &Attributes,
    next_hop: Option<Ipv4Addr>,
    context: &Context,
    out: &mut Vec<u8>,
) {
    let mut writer = Writer {
        out,
        attributes,
        context,
    };
    writer.path(next_hop);
    writer.preferences();
    writer.aggregation();
    writer.optional();
}

impl Writer<'_> {
    fn path(&mut self, next_hop: Option<Ipv4Addr>) {
        let origin = match self.attributes.origin {
            Origin::Igp => 0,
            Origin::Egp => 1,
            Origin::Incomplete => 2,
        };
        self.known(attribute::ORIGIN, &[origin]);
        self.as_path(attribute::AS_PATH, self.context.four_octet_as);
        if let Some(next_hop) = next_hop {
            self.known(attribute::NEXT_HOP, &next_hop.octets());
        }
    }

    fn preferences(&mut self) {
        if let Some(med) = self.attributes.med {
            self.known(attribute::MULTI_EXIT_DISC, &med.to_be_bytes());
        }
        // Never to an external peer (RFC 4271 section 5.1.5).
        if let Some(local_pref) = self.attributes.local_pref.filter(|_| self.context.internal) {
            self.known(attribute::LOCAL_PREF, &local_pref.to_be_bytes());
        }
    }

    fn aggregation(&mut self) {
        if self.attributes.atomic_aggregate {
            self.known(attribute::ATOMIC_AGGREGATE, &[]);
        }
        if let Some((asn, address)) = self.attributes.aggregator {
            if self.context.four_octet_as {
                let value = [asn.to_be_bytes(), address.octets()];
                self.known(attribute::AGGREGATOR, value.as_flattened());
            } else {
                let [high, low] = as_path::two_octets(asn).to_be_bytes();
                let [a, b, c, d] = address.octets();
                self.known(attribute::AGGREGATOR, &[high, low, a, b, c, d]);
            }
        }
    }

    fn optional(&mut self) {
        let attributes = self.attributes;
        let communities = &attributes.communities;
        self.set(attribute::COMMUNITIES, communities, |it| it.to_be_bytes());
        // Both say where in our AS a route has been (RFC 4456 section 8).
        if self.context.internal {
            if let Some(originator) = attributes.originator_id {
                self.known(attribute::ORIGINATOR_ID, &originator.octets());
            }
            self.list(
                attribute::CLUSTER_LIST,
                &attributes.cluster_list,
                Ipv4Addr::octets,
            );
        }
        self.unknown(0..=attribute::EXTENDED_COMMUNITIES);
        let communities = &attributes.extended_communities;
        self.set(attribute::EXTENDED_COMMUNITIES, communities, |it| *it);
        if !self.context.four_octet_as {
            self.as4();
        }
        self.unknown(attribute::EXTENDED_COMMUNITIES..=attribute::LARGE_COMMUNITIES);
        self.large_communities();
        self.unknown(attribute::LARGE_COMMUNITIES..=attribute::ONLY_TO_CUSTOMER);
        if let Some(asn) = attributes.only_to_customer {
            self.known(attribute::ONLY_TO_CUSTOMER, &asn.to_be_bytes());
        }
        self.unknown(attribute::ONLY_TO_CUSTOMER..=u8::MAX);
    }

    /// What two octets could not express (RFC 6793 section 4.2.2).
    fn as4(&mut self) {
        if as_path::needs_as4(&self.attributes.as_path) {
            self.as_path(attribute::AS4_PATH, true);
        }
        if let Some((asn, address)) = self.attributes.aggregator
            && u16::try_from(asn).is_err()
        {
            let value = [asn.to_be_bytes(), address.octets()];
            self.known(attribute::AS4_AGGREGATOR, value.as_flattened());
        }
    }

    fn large_communities(&mut self) {
        let communities = &self.attributes.large_communities;
        self.set(attribute::LARGE_COMMUNITIES, communities, |community| {
            let mut bytes = [0; 12];
            for (to, number) in bytes.chunks_exact_mut(4).zip(community) {
                to.copy_from_slice(&number.to_be_bytes());
            }
            bytes
        });
    }

    /// Unknown attributes with codes in a range. One with a code that we do know is no such thing,
    /// and left out.
    fn unknown(&mut self, codes: std::ops::RangeInclusive<u8>) {
        for unknown in &self.attributes.unknown {
            if codes.contains(&unknown.code) && attribute::flags(unknown.code).is_none() {
                // We are one of those who did not know it (RFC 4271 section 9).
                let flags = OPTIONAL | TRANSITIVE | PARTIAL;
                self.attribute(flags, unknown.code, &unknown.value);
            }
        }
    }

    /// A list in which each item goes once.
    fn set<T: Copy + Ord, const N: usize>(
        &mut self,
        code: u8,
        items: &[T],
        bytes: impl Fn(&T) -> [u8; N],
    ) {
        if may_repeat(items) {
            let mut items = items.to_vec();
            remove_repeated(&mut items);
            self.list(code, &items, bytes);
        } else {
            self.list(code, items, bytes);
        }
    }

    /// A list, unless it is empty.
    fn list<T, const N: usize>(&mut self, code: u8, items: &[T], bytes: impl Fn(&T) -> [u8; N]) {
        if !items.is_empty() {
            self.known_header(code, N * items.len());
            for item in items {
                self.out.extend_from_slice(&bytes(item));
            }
        }
    }

    fn as_path(&mut self, code: u8, four_octet_as: bool) {
        let path = &self.attributes.as_path;
        self.known_header(code, as_path::size(path, four_octet_as));
        as_path::write(path, four_octet_as, self.out);
    }

    fn known(&mut self, code: u8, value: &[u8]) {
        self.known_header(code, value.len());
        self.out.extend_from_slice(value);
    }

    fn attribute(&mut self, flags: u8, code: u8, value: &[u8]) {
        self.header(flags, code, value.len());
        self.out.extend_from_slice(value);
    }

    #[inline]
    fn known_header(&mut self, code: u8, length: usize) {
        self.header(attribute::flags(code).unwrap_or(OPTIONAL), code, length);
    }

    #[inline]
    fn header(&mut self, flags: u8, code: u8, length: usize) {
        match u8::try_from(length) {
            Ok(length) => self.out.extend_from_slice(&[flags, code, length]),
            Err(_) => {
                // What exceeds 16 bits exceeds every message, and is never sent.
                let length = u16::try_from(length).unwrap_or(u16::MAX);
                let [high, low] = length.to_be_bytes();
                let header = [flags | EXTENDED_LENGTH, code, high, low];
                self.out.extend_from_slice(&header);
            }
        }
    }
}
