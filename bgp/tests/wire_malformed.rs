//! Malformed UPDATEs, and what RFC 4271 and RFC 7606 ask for in each case.

use ipnet::IpNet;
use routemesh_bgp::wire::Action::{Discard, TreatAsWithdraw};
use routemesh_bgp::wire::notification::{code, update};
use routemesh_bgp::wire::*;

const INTERNAL: Context = Context {
    four_octet_as: true,
    extended_next_hop: true,
    internal: true,
    ..Context::UNKNOWN
};
const EXTERNAL: Context = Context {
    internal: false,
    ..INTERNAL
};
const TWO_OCTETS: Context = Context {
    four_octet_as: false,
    ..INTERNAL
};
const NO_EXTENDED_NEXT_HOP: Context = Context {
    extended_next_hop: false,
    ..INTERNAL
};

// Attributes as they should be.
const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9];
const AS_PATH_TWO_OCTETS: &[u8] = &[0x40, 2, 4, 2, 1, 0x5b, 0xa0];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 10, 0, 0, 1];
const MP_REACH: &[u8] = &[
    0x80, 14, 26, 0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 32, 0x20,
    1, 0xd, 0xb8,
];
const MP_UNREACH: &[u8] = &[0x80, 15, 8, 0, 2, 1, 32, 0x20, 1, 0xd, 0xb8];

/// 10.1.0.0/16.
const PREFIX: &[u8] = &[16, 10, 1];

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend((19 + body.len() as u16).to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

fn update_bytes(withdrawn: &[u8], attributes: &[u8], prefixes: &[u8]) -> Vec<u8> {
    let mut body = (withdrawn.len() as u16).to_be_bytes().to_vec();
    body.extend(withdrawn);
    body.extend((attributes.len() as u16).to_be_bytes());
    body.extend(attributes);
    body.extend(prefixes);
    framed(2, &body)
}

fn decode_update(bytes: &[u8], context: &Context) -> Result<(Update, Vec<Fault>), Notification> {
    let decoded = decode(bytes, context)?.expect("complete");
    assert_eq!(decoded.length, bytes.len());
    match decoded.message {
        Message::Update(update) => Ok((update.to_update(), decoded.faults)),
        other => panic!("not an UPDATE: {other:?}"),
    }
}

fn prefixes(list: &[&str]) -> Vec<(u32, IpNet)> {
    let parse = |text: &&str| (0, text.parse().expect("a prefix"));
    list.iter().map(parse).collect()
}

/// What is expected of an UPDATE that announces 10.1.0.0/16 and has one more attribute.
#[derive(Clone, Copy)]
enum Expected {
    /// No error.
    Good,
    /// The routes stay, and this is said of the attribute.
    Discarded(&'static str),
    /// The routes go, and this is said of the attribute.
    Withdrawn(&'static str),
    /// The session goes: the subcode, and whether the attribute is told.
    Reset(u8, bool),
}
use Expected::{Discarded, Good, Reset, Withdrawn};

/// One attribute in an otherwise good UPDATE.
type Case = (&'static str, Context, &'static [u8], Expected);

/// RFC 7606 section 7 in its order, then the attributes defined elsewhere.
#[rustfmt::skip]
const ATTRIBUTES: &[Case] = &[
    // 7.1 ORIGIN
    ("ORIGIN of no length", INTERNAL, &[0x40, 1, 0], Withdrawn("wrong length")),
    ("ORIGIN too long", INTERNAL, &[0x40, 1, 2, 0, 0], Withdrawn("wrong length")),
    ("ORIGIN undefined", INTERNAL, &[0x40, 1, 1, 3], Withdrawn("undefined")),
    ("ORIGIN optional", INTERNAL, &[0xc0, 1, 1, 0], Withdrawn("wrong flags")),
    ("ORIGIN not transitive", INTERNAL, &[0, 1, 1, 0], Withdrawn("wrong flags")),
    ("ORIGIN with a length in two bytes", INTERNAL, &[0x50, 1, 0, 1, 0], Good),
    ("ORIGIN with unused flags", INTERNAL, &[0x4f, 1, 1, 0], Good),
    // 7.2 AS_PATH
    ("AS_PATH empty", INTERNAL, &[0x40, 2, 0], Good),
    ("AS_PATH of an unknown kind", INTERNAL, &[0x40, 2, 6, 5, 1, 0, 0, 0, 1], Withdrawn("unknown segment type")),
    ("AS_PATH of a confederation", EXTERNAL, &[0x40, 2, 6, 3, 1, 0, 0, 0, 1], Withdrawn("unknown segment type")),
    ("AS_PATH beyond its end", INTERNAL, &[0x40, 2, 6, 2, 2, 0, 0, 0, 1], Withdrawn("segment too long")),
    ("AS_PATH with a byte left", INTERNAL, &[0x40, 2, 7, 2, 1, 0, 0, 0, 1, 2], Withdrawn("segment too long")),
    ("AS_PATH with an empty segment", INTERNAL, &[0x40, 2, 2, 2, 0], Withdrawn("empty segment")),
    ("AS_PATH of the other width", TWO_OCTETS, &[0x40, 2, 6, 2, 1, 0, 0, 0, 1], Withdrawn("segment too long")),
    // RFC 9774 section 3
    ("AS_PATH with AS_SET", INTERNAL, &[0x40, 2, 12, 2, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 2], Withdrawn("AS_SET")),
    ("AS_PATH with AS_CONFED_SET", INTERNAL, &[0x40, 2, 6, 4, 1, 0, 0, 0, 1], Withdrawn("AS_SET")),
    ("AS4_PATH with AS_SET", TWO_OCTETS, &[0xc0, 17, 6, 1, 1, 0, 1, 0, 0], Withdrawn("AS_SET")),
    ("AS_PATH with AS 0", INTERNAL, &[0x40, 2, 6, 2, 1, 0, 0, 0, 0], Withdrawn("AS 0")),
    ("AS_PATH optional", INTERNAL, &[0xc0, 2, 0], Withdrawn("wrong flags")),
    // 7.3 NEXT_HOP
    ("NEXT_HOP too short", INTERNAL, &[0x40, 3, 3, 10, 0, 0], Withdrawn("wrong length")),
    ("NEXT_HOP too long", INTERNAL, &[0x40, 3, 5, 10, 0, 0, 1, 0], Withdrawn("wrong length")),
    ("NEXT_HOP of no length", INTERNAL, &[0x40, 3, 0], Withdrawn("wrong length")),
    ("NEXT_HOP unspecified", INTERNAL, &[0x40, 3, 4, 0, 0, 0, 0], Withdrawn("not the address of a host")),
    ("NEXT_HOP multicast", INTERNAL, &[0x40, 3, 4, 224, 0, 0, 1], Withdrawn("not the address of a host")),
    ("NEXT_HOP broadcast", INTERNAL, &[0x40, 3, 4, 255, 255, 255, 255], Withdrawn("not the address of a host")),
    ("NEXT_HOP optional", INTERNAL, &[0xc0, 3, 4, 10, 0, 0, 1], Withdrawn("wrong flags")),
    // 7.4 MULTI_EXIT_DISC
    ("MED too short", INTERNAL, &[0x80, 4, 3, 0, 0, 0], Withdrawn("wrong length")),
    ("MED too long", INTERNAL, &[0x80, 4, 5, 0, 0, 0, 0, 0], Withdrawn("wrong length")),
    ("MED well-known", INTERNAL, &[0x40, 4, 4, 0, 0, 0, 0], Withdrawn("wrong flags")),
    ("MED of no length", INTERNAL, &[0x80, 4, 0], Withdrawn("wrong length")),
    ("MED transitive", EXTERNAL, &[0xc0, 4, 4, 0, 0, 0, 0], Withdrawn("wrong flags")),
    // 7.5 LOCAL_PREF
    ("LOCAL_PREF too short", INTERNAL, &[0x40, 5, 3, 0, 0, 0], Withdrawn("wrong length")),
    ("LOCAL_PREF of no length", INTERNAL, &[0x40, 5, 0], Withdrawn("wrong length")),
    ("LOCAL_PREF too long", INTERNAL, &[0x40, 5, 5, 0, 0, 0, 0, 0], Withdrawn("wrong length")),
    ("LOCAL_PREF optional", INTERNAL, &[0xc0, 5, 4, 0, 0, 0, 0], Withdrawn("wrong flags")),
    ("LOCAL_PREF from outside", EXTERNAL, &[0x40, 5, 4, 0, 0, 0, 1], Discarded("from an external peer")),
    ("LOCAL_PREF from outside, malformed", EXTERNAL, &[0xc0, 5, 1, 0], Discarded("from an external peer")),
    // 7.6 ATOMIC_AGGREGATE
    ("ATOMIC_AGGREGATE", INTERNAL, &[0x40, 6, 0], Good),
    ("ATOMIC_AGGREGATE with a value", INTERNAL, &[0x40, 6, 1, 0], Discarded("wrong length")),
    ("ATOMIC_AGGREGATE optional", INTERNAL, &[0xc0, 6, 0], Withdrawn("wrong flags")),
    // 7.7 AGGREGATOR
    ("AGGREGATOR", INTERNAL, &[0xc0, 7, 8, 0, 0, 0, 1, 10, 0, 0, 1], Good),
    ("AGGREGATOR of two octets", TWO_OCTETS, &[0xc0, 7, 6, 0, 1, 10, 0, 0, 1], Good),
    ("AGGREGATOR of the other width", INTERNAL, &[0xc0, 7, 6, 0, 1, 10, 0, 0, 1], Discarded("wrong length")),
    ("AGGREGATOR of the other width", TWO_OCTETS, &[0xc0, 7, 8, 0, 0, 0, 1, 10, 0, 0, 1], Discarded("wrong length")),
    ("AGGREGATOR of AS 0", INTERNAL, &[0xc0, 7, 8, 0, 0, 0, 0, 10, 0, 0, 1], Discarded("AS 0")),
    ("AGGREGATOR not transitive", INTERNAL, &[0x80, 7, 8, 0, 0, 0, 1, 10, 0, 0, 1], Withdrawn("wrong flags")),
    ("AGGREGATOR of no length", INTERNAL, &[0xc0, 7, 0], Discarded("wrong length")),
    ("AGGREGATOR well-known", TWO_OCTETS, &[0x40, 7, 6, 0, 1, 10, 0, 0, 1], Withdrawn("wrong flags")),
    // 7.8 COMMUNITIES
    ("COMMUNITIES of no length", INTERNAL, &[0xc0, 8, 0], Withdrawn("wrong length")),
    ("COMMUNITIES not of four bytes", INTERNAL, &[0xc0, 8, 6, 0, 0, 0, 0, 0, 0], Withdrawn("wrong length")),
    ("COMMUNITIES not transitive", INTERNAL, &[0x80, 8, 4, 0, 0, 0, 0], Withdrawn("wrong flags")),
    ("COMMUNITIES partial", INTERNAL, &[0xe0, 8, 4, 0, 0, 0, 0], Good),
    ("COMMUNITIES well-known", INTERNAL, &[0x40, 8, 4, 0, 0, 0, 0], Withdrawn("wrong flags")),
    // 7.9 ORIGINATOR_ID
    ("ORIGINATOR_ID too short", INTERNAL, &[0x80, 9, 3, 10, 0, 0], Withdrawn("wrong length")),
    ("ORIGINATOR_ID too long", INTERNAL, &[0x80, 9, 5, 10, 0, 0, 1, 1], Withdrawn("wrong length")),
    ("ORIGINATOR_ID of no length", INTERNAL, &[0x80, 9, 0], Withdrawn("wrong length")),
    ("ORIGINATOR_ID transitive", INTERNAL, &[0xc0, 9, 4, 10, 0, 0, 1], Withdrawn("wrong flags")),
    ("ORIGINATOR_ID from outside", EXTERNAL, &[0x80, 9, 4, 10, 0, 0, 1], Discarded("from an external peer")),
    ("ORIGINATOR_ID from outside, malformed", EXTERNAL, &[0x80, 9, 0], Discarded("from an external peer")),
    // 7.10 CLUSTER_LIST
    ("CLUSTER_LIST of no length", INTERNAL, &[0x80, 10, 0], Withdrawn("wrong length")),
    ("CLUSTER_LIST not of four bytes", INTERNAL, &[0x80, 10, 5, 1, 2, 3, 4, 5], Withdrawn("wrong length")),
    ("CLUSTER_LIST from outside", EXTERNAL, &[0x80, 10, 4, 1, 2, 3, 4], Discarded("from an external peer")),
    ("CLUSTER_LIST from outside, malformed", EXTERNAL, &[0xc0, 10, 3, 1, 2, 3], Discarded("from an external peer")),
    ("CLUSTER_LIST transitive", INTERNAL, &[0xc0, 10, 4, 1, 2, 3, 4], Withdrawn("wrong flags")),
    // 7.11 MP_REACH_NLRI
    ("MP_REACH_NLRI too short", INTERNAL, &[0x80, 14, 4, 0, 2, 1, 0], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_REACH_NLRI of no length", INTERNAL, &[0x80, 14, 0], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_REACH_NLRI with a next hop beyond its end", INTERNAL, &[0x80, 14, 7, 0, 2, 1, 16, 0, 0, 0], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_REACH_NLRI with a next hop of another family", INTERNAL, &[0x80, 14, 9, 0, 2, 1, 4, 10, 0, 0, 1, 0], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_REACH_NLRI without a next hop", INTERNAL, &[0x80, 14, 5, 0, 2, 1, 0, 0], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_REACH_NLRI with a next hop of a VPN", INTERNAL, &[0x80, 14, 29, 0, 2, 1, 24, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_REACH_NLRI with two next hops of a VPN", INTERNAL, &[0x80, 14, 53, 0, 1, 1, 48, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_REACH_NLRI with a prefix too long for IPv6", INTERNAL, &[0x80, 14, 39, 0, 2, 1, 16, 0x20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 129, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_REACH_NLRI well-known", INTERNAL, &[0x40, 14, 9, 0, 1, 1, 4, 10, 0, 0, 1, 0], Reset(update::ATTRIBUTE_FLAGS, true)),
    ("MP_REACH_NLRI with something reserved", INTERNAL, &[0x80, 14, 9, 0, 1, 1, 4, 10, 0, 0, 1, 7], Good),
    ("MP_REACH_NLRI with an IPv6 next hop for IPv4", NO_EXTENDED_NEXT_HOP, &[0x80, 14, 21, 0, 1, 1, 16, 0x20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_REACH_NLRI with a prefix too long for IPv4", INTERNAL, &[0x80, 14, 15, 0, 1, 1, 4, 10, 0, 0, 1, 0, 33, 1, 2, 3, 4, 5], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_REACH_NLRI with a prefix beyond its end", INTERNAL, &[0x80, 14, 11, 0, 1, 1, 4, 10, 0, 0, 1, 0, 16, 1], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_REACH_NLRI transitive", INTERNAL, &[0xc0, 14, 9, 0, 1, 1, 4, 10, 0, 0, 1, 0], Reset(update::ATTRIBUTE_FLAGS, true)),
    ("MP_REACH_NLRI beyond the attributes", INTERNAL, &[0x80, 14, 200, 0, 1, 1, 4], Reset(update::MALFORMED_ATTRIBUTES, false)),
    ("MP_REACH_NLRI of another family", INTERNAL, &[0x80, 14, 7, 0, 25, 65, 0, 0, 1, 2], Good),
    ("MP_REACH_NLRI without prefixes", INTERNAL, &[0x80, 14, 9, 0, 1, 1, 4, 10, 0, 0, 1, 0], Good),
    // 7.12 MP_UNREACH_NLRI
    ("MP_UNREACH_NLRI too short", INTERNAL, &[0x80, 15, 2, 0, 2], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_UNREACH_NLRI of no length", INTERNAL, &[0x80, 15, 0], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_UNREACH_NLRI with a prefix beyond its end", INTERNAL, &[0x80, 15, 5, 0, 2, 1, 16, 0x20], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_UNREACH_NLRI transitive", INTERNAL, &[0xc0, 15, 3, 0, 2, 1], Reset(update::ATTRIBUTE_FLAGS, true)),
    ("MP_UNREACH_NLRI with a prefix too long for IPv6", INTERNAL, &[0x80, 15, 21, 0, 2, 1, 129, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Reset(update::OPTIONAL_ATTRIBUTE, true)),
    ("MP_UNREACH_NLRI well-known", INTERNAL, &[0x40, 15, 3, 0, 2, 1], Reset(update::ATTRIBUTE_FLAGS, true)),
    ("MP_UNREACH_NLRI beyond the attributes", INTERNAL, &[0x80, 15, 4, 0, 2, 1], Reset(update::MALFORMED_ATTRIBUTES, false)),
    ("MP_UNREACH_NLRI of another family", INTERNAL, &[0x80, 15, 4, 0, 25, 65, 9], Good),
    // 7.14 EXTENDED_COMMUNITIES
    ("EXTENDED_COMMUNITIES of no length", INTERNAL, &[0xc0, 16, 0], Withdrawn("wrong length")),
    ("EXTENDED_COMMUNITIES not of eight bytes", INTERNAL, &[0xc0, 16, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0], Withdrawn("wrong length")),
    ("EXTENDED_COMMUNITIES of unknown type", INTERNAL, &[0xc0, 16, 8, 0xee, 0xee, 0, 0, 0, 0, 0, 0], Good),
    ("EXTENDED_COMMUNITIES not transitive", INTERNAL, &[0x80, 16, 8, 0, 2, 0, 0, 0, 0, 0, 0], Withdrawn("wrong flags")),
    // 7.13, 7.15 and 7.16: unknown to us, whatever is in it
    ("Traffic Engineering", INTERNAL, &[0x80, 24, 1, 0], Good),
    ("IPV6_EXTENDED_COMMUNITIES", INTERNAL, &[0xc0, 25, 1, 0], Good),
    ("ATTR_SET", INTERNAL, &[0xc0, 128, 1, 0], Good),
    // RFC 6793 section 6: AS4_PATH and AS4_AGGREGATOR
    ("AS4_PATH among four octets", INTERNAL, &[0xc0, 17, 6, 2, 1, 0, 1, 0, 0], Discarded("from a peer with 4-octet AS numbers")),
    ("AS4_PATH of no length", TWO_OCTETS, &[0xc0, 17, 0], Discarded("no AS in it")),
    ("AS4_PATH beyond its end", TWO_OCTETS, &[0xc0, 17, 6, 2, 2, 0, 1, 0, 0], Discarded("segment too long")),
    ("AS4_PATH with AS 0", TWO_OCTETS, &[0xc0, 17, 6, 2, 1, 0, 0, 0, 0], Discarded("AS 0")),
    ("AS4_PATH of an unknown kind", TWO_OCTETS, &[0xc0, 17, 6, 7, 1, 0, 1, 0, 0], Discarded("unknown segment type")),
    ("AS4_PATH with a segment of a confederation", TWO_OCTETS, &[0xc0, 17, 12, 3, 1, 0, 1, 0, 0, 2, 1, 0, 1, 0, 0], Good),
    ("AS4_PATH not transitive", TWO_OCTETS, &[0x80, 17, 6, 2, 1, 0, 1, 0, 0], Withdrawn("wrong flags")),
    ("AS4_AGGREGATOR among four octets", INTERNAL, &[0xc0, 18, 8, 0, 1, 0, 0, 10, 0, 0, 1], Discarded("from a peer with 4-octet AS numbers")),
    ("AS4_AGGREGATOR too short", TWO_OCTETS, &[0xc0, 18, 7, 0, 1, 0, 0, 10, 0, 0], Discarded("wrong length")),
    ("AS4_AGGREGATOR of AS 0", TWO_OCTETS, &[0xc0, 18, 8, 0, 0, 0, 0, 10, 0, 0, 1], Discarded("AS 0")),
    ("AS4_AGGREGATOR well-known", TWO_OCTETS, &[0x40, 18, 8, 0, 1, 0, 0, 10, 0, 0, 1], Withdrawn("wrong flags")),
    // RFC 8092 section 6
    ("LARGE_COMMUNITIES of no length", INTERNAL, &[0xc0, 32, 0], Withdrawn("wrong length")),
    ("LARGE_COMMUNITIES not of twelve bytes", INTERNAL, &[0xc0, 32, 8, 0, 0, 0, 0, 0, 0, 0, 0], Withdrawn("wrong length")),
    ("LARGE_COMMUNITIES not transitive", INTERNAL, &[0x80, 32, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Withdrawn("wrong flags")),
    // RFC 9234 section 5
    ("ONLY_TO_CUSTOMER", EXTERNAL, &[0xc0, 35, 4, 0, 0, 0, 1], Good),
    ("ONLY_TO_CUSTOMER of no length", EXTERNAL, &[0xc0, 35, 0], Withdrawn("wrong length")),
    ("ONLY_TO_CUSTOMER too short", EXTERNAL, &[0xc0, 35, 3, 0, 0, 1], Withdrawn("wrong length")),
    ("ONLY_TO_CUSTOMER too long", INTERNAL, &[0xc0, 35, 5, 0, 0, 0, 1, 0], Withdrawn("wrong length")),
    ("ONLY_TO_CUSTOMER not transitive", INTERNAL, &[0x80, 35, 4, 0, 0, 0, 1], Withdrawn("wrong flags")),
    // RFC 4271 sections 5 and 6.3: unknown attributes
    ("unknown and transitive", INTERNAL, &[0xc0, 99, 2, 1, 2], Good),
    ("unknown and not transitive", INTERNAL, &[0x80, 99, 2, 1, 2], Good),
    ("unknown and well-known", INTERNAL, &[0x40, 99, 2, 1, 2], Reset(update::UNRECOGNIZED_WELL_KNOWN, true)),
    // RFC 7606 section 4
    ("longer than the attributes", INTERNAL, &[0xc0, 99, 3, 1, 2], Withdrawn("longer than the attributes together")),
    ("longer than the message", INTERNAL, &[0xd0, 8, 0xff, 0xff, 1, 2], Withdrawn("longer than the attributes together")),
    ("too short for a length", INTERNAL, &[0xc0, 8], Withdrawn("longer than the attributes together")),
    ("too short for a long length", INTERNAL, &[0xd0, 8, 1], Withdrawn("longer than the attributes together")),
    ("too short for a code", INTERNAL, &[0xc0], Withdrawn("longer than the attributes together")),
];

/// The good attributes that a plain announcement needs, but not `without`.
fn good_attributes(context: &Context, without: u8) -> Vec<u8> {
    let path = match context.four_octet_as {
        true => AS_PATH,
        false => AS_PATH_TWO_OCTETS,
    };
    let all = [ORIGIN, path, NEXT_HOP].into_iter();
    all.filter(|attribute| attribute[1] != without)
        .flatten()
        .copied()
        .collect()
}

#[test]
fn each_malformed_attribute_has_its_action() {
    for (name, context, attribute, expected) in ATTRIBUTES {
        let code = attribute.get(1).copied().unwrap_or(0);
        let mut attributes = good_attributes(context, code);
        attributes.extend(*attribute);
        let result = decode_update(&update_bytes(&[], &attributes, PREFIX), context);
        let fault = |action, reason| {
            Ok(vec![Fault {
                attribute: code,
                action,
                reason,
            }])
        };
        let faults = match expected {
            Good => Ok(vec![]),
            Discarded(reason) => fault(Discard, *reason),
            Withdrawn(reason) => fault(TreatAsWithdraw, *reason),
            Reset(subcode, told) => {
                let data: &[u8] = if *told { attribute } else { &[] };
                Err(Notification::new(code::UPDATE, *subcode, data))
            }
        };
        let found = result.clone().map(|(_, faults)| faults);
        assert_eq!(found, faults, "{name}");
        if let Ok((update, _)) = result {
            let withdrawn = matches!(expected, Withdrawn(_));
            check_prefix(name, &update, withdrawn);
        }
    }
}

/// Wherever the attributes are wrong, the prefix after them is found.
fn check_prefix(name: &str, update: &Update, withdrawn: bool) {
    let prefix = prefixes(&["10.1.0.0/16"]);
    if withdrawn {
        assert_eq!(update.withdrawn, prefix, "{name}");
        assert_eq!(update.reach, [], "{name}");
        assert_eq!(update.attributes, Attributes::default(), "{name}");
    } else {
        assert_eq!(update.withdrawn, [], "{name}");
        assert_eq!(update.reach.len(), 1, "{name}");
        assert_eq!(update.reach[0].prefixes, prefix, "{name}");
    }
}

/// RFC 7606 section 5.2: without prefixes to withdraw, an error may have hidden them.
#[test]
fn without_prefixes_a_malformed_attribute_ends_the_session() {
    for (name, context, attribute, expected) in ATTRIBUTES {
        let mut attributes = MP_UNREACH.to_vec();
        // One MP_UNREACH_NLRI only, and next hops that no prefix uses do not matter.
        if attribute.get(1) == Some(&15) || name.starts_with("NEXT_HOP") {
            continue;
        }
        attributes.extend(*attribute);
        let result = decode_update(&update_bytes(&[], &attributes, &[]), context);
        match expected {
            Withdrawn(_) | Reset(..) => assert!(result.is_err(), "{name}"),
            Good | Discarded(_) => {
                let (update, _) = result.expect(name);
                assert_eq!(update.withdrawn, prefixes(&["2001:db8::/32"]), "{name}");
            }
        }
    }
}

/// What cannot be withdrawn was never taken.
#[test]
fn prefixes_of_another_family_need_no_withdrawal() {
    let foreign: &[u8] = &[0x80, 14, 7, 0, 25, 65, 0, 0, 1, 2];
    let attributes = [foreign, &[0x40, 1, 1, 9]].concat();
    let result = decode_update(&update_bytes(&[], &attributes, &[]), &INTERNAL);
    let (update, faults) = result.expect("no reset");
    assert_eq!(update, Update::default());
    assert_eq!(
        (faults[0].attribute, faults[0].action),
        (1, TreatAsWithdraw)
    );
}

/// The values of discarded attributes are gone, too.
#[test]
fn discarded_attributes_leave_nothing_behind() {
    for (name, context, attribute, expected) in ATTRIBUTES {
        if !matches!(expected, Discarded(_)) {
            continue;
        }
        let good = good_attributes(context, 0);
        let with = [&good, *attribute].concat();
        let attributes = |bytes: &[u8]| {
            let (update, _) =
                decode_update(&update_bytes(&[], bytes, PREFIX), context).expect(name);
            update.attributes
        };
        assert_eq!(attributes(&with), attributes(&good), "{name}");
    }
}

#[test]
fn mandatory_attributes_are_needed_by_announcements_only() {
    for (missing, with_mp) in [(1, false), (2, false), (3, false), (1, true), (2, true)] {
        let mut attributes = good_attributes(&INTERNAL, missing);
        let mut lost = prefixes(&["10.1.0.0/16"]);
        let mut plain = PREFIX;
        if with_mp {
            attributes.extend(MP_REACH);
            lost = prefixes(&["2001:db8::/32"]);
            plain = &[];
        }
        let bytes = update_bytes(&[], &attributes, plain);
        let (update, faults) = decode_update(&bytes, &INTERNAL).expect("no reset");
        assert_eq!(update.withdrawn, lost);
        assert_eq!(update.reach, []);
        assert_eq!(faults.len(), 1);
        assert_eq!(
            (faults[0].attribute, faults[0].action),
            (missing, TreatAsWithdraw)
        );
    }
    let (update, faults) = decode_update(&update_bytes(PREFIX, &[], &[]), &INTERNAL).expect("good");
    assert_eq!(update.withdrawn, prefixes(&["10.1.0.0/16"]));
    assert_eq!(faults, []);
}

/// RFC 4760 section 3.
#[test]
fn next_hop_is_ignored_where_only_mp_reach_announces() {
    let attributes = [MP_REACH, ORIGIN, AS_PATH, &[0x40, 3, 4, 0, 0, 0, 0]].concat();
    let (update, faults) =
        decode_update(&update_bytes(&[], &attributes, &[]), &INTERNAL).expect("good");
    assert_eq!(faults, []);
    assert_eq!(update.reach[0].prefixes, prefixes(&["2001:db8::/32"]));
}

#[test]
fn a_next_hop_of_no_host_costs_the_routes_of_the_message() {
    let mut mp_reach = MP_REACH.to_vec();
    mp_reach[7..23].fill(0);
    let attributes = [ORIGIN, AS_PATH, NEXT_HOP, &mp_reach].concat();
    let bytes = update_bytes(&[8, 11], &attributes, PREFIX);
    let (update, faults) = decode_update(&bytes, &INTERNAL).expect("no reset");
    let all = ["11.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"];
    assert_eq!(update.withdrawn, prefixes(&all));
    assert_eq!(update.reach, []);
    assert_eq!(
        (faults[0].attribute, faults[0].action),
        (14, TreatAsWithdraw)
    );
}

/// RFC 7606 section 3 (g).
#[test]
fn of_repeated_attributes_the_first_counts() {
    let twice = [ORIGIN, &[0x40, 1, 1, 2], AS_PATH, NEXT_HOP].concat();
    let (update, faults) =
        decode_update(&update_bytes(&[], &twice, PREFIX), &INTERNAL).expect("no reset");
    assert_eq!(update.attributes.origin, Origin::Igp);
    assert_eq!(update.reach.len(), 1);
    assert_eq!((faults[0].attribute, faults[0].action), (1, Discard));

    // Whether known or not.
    let unknown: &[u8] = &[0xc0, 99, 1, 7, 0xc0, 99, 1, 8];
    let twice = [ORIGIN, AS_PATH, NEXT_HOP, unknown].concat();
    let (update, faults) =
        decode_update(&update_bytes(&[], &twice, PREFIX), &INTERNAL).expect("no reset");
    let first = UnknownAttribute {
        code: 99,
        value: vec![7],
    };
    assert_eq!(update.attributes.unknown, [first]);
    assert_eq!((faults[0].attribute, faults[0].action), (99, Discard));

    for multiprotocol in [MP_REACH, MP_UNREACH] {
        let twice = [multiprotocol, multiprotocol, ORIGIN, AS_PATH].concat();
        let result = decode_update(&update_bytes(&[], &twice, &[]), &INTERNAL);
        let expected = Notification::new(code::UPDATE, update::MALFORMED_ATTRIBUTES, []);
        assert_eq!(result, Err(expected));
    }
}

/// RFC 7606 section 3 (h).
#[test]
fn the_strongest_action_wins() {
    // Discard, then withdraw, then discard.
    let bad: &[u8] = &[0x40, 6, 1, 0, 0x80, 4, 1, 0, 0xc0, 7, 1, 0];
    let attributes = [ORIGIN, AS_PATH, NEXT_HOP, bad].concat();
    let (update, faults) =
        decode_update(&update_bytes(&[], &attributes, PREFIX), &INTERNAL).expect("no reset");
    check_prefix("discard and withdraw", &update, true);
    let actions: Vec<Action> = faults.iter().map(|fault| fault.action).collect();
    assert_eq!(actions, [Discard, TreatAsWithdraw, Discard]);
    // A reset after both.
    let worse = [&attributes, &[0, 200, 0][..]].concat();
    assert!(decode_update(&update_bytes(&[], &worse, PREFIX), &INTERNAL).is_err());
}

/// A peer cannot fill the log with one message, nor hide what it cost.
#[test]
fn only_so_many_faults_are_told() {
    let twice = [0xc0, 7, 1, 0].repeat(500);
    let attributes = [ORIGIN, AS_PATH, NEXT_HOP, &twice, &[0x80, 4, 1, 0]].concat();
    let (update, faults) =
        decode_update(&update_bytes(&[], &attributes, PREFIX), &INTERNAL).expect("no reset");
    check_prefix("many faults", &update, true);
    assert_eq!(faults.len(), 17);
    let last = &faults[16];
    assert_eq!((last.attribute, last.action), (4, TreatAsWithdraw));
}

#[test]
fn prefixes_that_cannot_be_read_end_the_session() {
    let good = good_attributes(&INTERNAL, 0);
    let invalid = Err(Notification::new(code::UPDATE, update::INVALID_NETWORK, []));
    for field in [&[33, 1, 2, 3, 4, 5][..], &[24, 1, 2], &[8, 10, 255]] {
        let bytes = update_bytes(&[], &good, field);
        assert_eq!(decode_update(&bytes, &INTERNAL), invalid, "{field:?}");
        let bytes = update_bytes(field, &[], &[]);
        assert_eq!(decode_update(&bytes, &INTERNAL), invalid, "{field:?}");
    }
}

/// RFC 7606 section 3 (b).
#[test]
fn fields_longer_than_the_message_end_the_session() {
    let malformed = Err(Notification::new(
        code::UPDATE,
        update::MALFORMED_ATTRIBUTES,
        [],
    ));
    let bodies: [&[u8]; 5] = [
        &[0, 1, 0, 0],
        &[0, 0, 0, 1],
        &[0xff, 0xff, 0, 0],
        &[0, 0, 0xff, 0xff, 0x40, 1, 1, 0],
        &[0, 3, 8, 10, 0, 0],
    ];
    for body in bodies {
        let result = decode_update(&framed(2, body), &INTERNAL);
        assert_eq!(result, malformed, "{body:?}");
    }
}

/// RFC 4724 section 2: only what carries nothing else is a marker.
#[test]
fn end_of_rib_is_not_seen_where_there_is_none() {
    let empty_unreach: &[u8] = &[0x80, 15, 3, 0, 2, 1];
    let ends = |withdrawn: &[u8], attributes: &[&[u8]], prefixes: &[u8]| {
        let bytes = update_bytes(withdrawn, &attributes.concat(), prefixes);
        let (update, _) = decode_update(&bytes, &INTERNAL).expect("good");
        update.end_of_rib
    };
    assert_eq!(ends(&[], &[], &[]), Some(Family::Ipv4));
    assert_eq!(ends(&[], &[empty_unreach], &[]), Some(Family::Ipv6));
    assert_eq!(
        ends(&[], &[&[0x80, 15, 3, 0, 1, 1]], &[]),
        Some(Family::Ipv4)
    );
    assert_eq!(ends(&[], &[&[0x80, 15, 3, 0, 1, 2]], &[]), None);
    assert_eq!(ends(PREFIX, &[empty_unreach], &[]), None);
    assert_eq!(ends(PREFIX, &[], &[]), None);
    assert_eq!(ends(&[], &[empty_unreach, ORIGIN], &[]), None);
    assert_eq!(ends(&[], &[MP_UNREACH], &[]), None);
    let announcement = [empty_unreach, ORIGIN, AS_PATH, NEXT_HOP];
    assert_eq!(ends(&[], &announcement, PREFIX), None);
}

/// RFC 6793 section 4.2.3: AS4_PATH counts only where AGGREGATOR, too, hides its AS.
#[test]
fn as4_attributes_are_ignored_where_aggregator_tells_its_as() {
    let as4: &[u8] = &[
        0xc0, 17, 6, 2, 1, 0, 1, 0, 0, 0xc0, 18, 8, 0, 1, 0, 0, 9, 9, 9, 9,
    ];
    let paths = |aggregator: &[u8]| {
        let attributes = [ORIGIN, AS_PATH_TWO_OCTETS, NEXT_HOP, aggregator, as4].concat();
        let bytes = update_bytes(&[], &attributes, PREFIX);
        let (update, faults) = decode_update(&bytes, &TWO_OCTETS).expect("good");
        assert_eq!(faults, []);
        (
            update.attributes.as_path.first(),
            update.attributes.aggregator,
        )
    };
    let hidden = [0xc0, 7, 6, 0x5b, 0xa0, 8, 8, 8, 8];
    let told = [0xc0, 7, 6, 0, 5, 8, 8, 8, 8];
    assert_eq!(paths(&hidden), (Some(65536), Some((65536, [9; 4].into()))));
    assert_eq!(paths(&told), (Some(23456), Some((5, [8; 4].into()))));
    assert_eq!(paths(&[]), (Some(65536), None));
}

#[test]
fn communities_come_once() {
    let twice = |size: usize| [vec![2; size], vec![1; size], vec![2; size]].concat();
    let lists = [
        [&[0xc0, 8, 12][..], &twice(4)].concat(),
        [&[0xc0, 16, 24][..], &twice(8)].concat(),
        [&[0xc0, 32, 36][..], &twice(12)].concat(),
    ]
    .concat();
    let attributes = [ORIGIN, AS_PATH, NEXT_HOP, &lists].concat();
    let (update, faults) =
        decode_update(&update_bytes(&[], &attributes, PREFIX), &INTERNAL).expect("good");
    assert_eq!(faults, []);
    let found = update.attributes;
    assert_eq!(found.communities, [0x0202_0202, 0x0101_0101]);
    assert_eq!(found.extended_communities, [[2; 8], [1; 8]]);
    assert_eq!(
        found.large_communities,
        [[0x0202_0202; 3], [0x0101_0101; 3]]
    );
}

#[test]
fn unknown_transitive_attributes_are_kept_in_order_of_code() {
    let unknown: &[u8] = &[0xc0, 99, 1, 9, 0x80, 98, 0, 0xe0, 97, 1, 7];
    let attributes = [unknown, ORIGIN, AS_PATH, NEXT_HOP].concat();
    let (update, _) =
        decode_update(&update_bytes(&[], &attributes, PREFIX), &INTERNAL).expect("good");
    let kept = [(97, 7), (99, 9)].map(|(code, byte)| UnknownAttribute {
        code,
        value: vec![byte],
    });
    assert_eq!(update.attributes.unknown, kept);
}

const ADD_PATH: Context = Context {
    add_path: PerFamily {
        ipv4: Directions::BOTH,
        ipv6: Directions::BOTH,
    },
    ..INTERNAL
};

/// RFC 7911 section 3: each prefix has four bytes before it, which are part of it.
#[test]
fn prefixes_with_path_identifiers() {
    let good = good_attributes(&ADD_PATH, 0);
    let two = [0, 0, 0, 7, 16, 10, 1, 0xff, 0xff, 0xff, 0xff, 16, 10, 1];
    let (update, _) = decode_update(&update_bytes(&two, &good, &two), &ADD_PATH).expect("good");
    let prefix: IpNet = "10.1.0.0/16".parse().expect("a prefix");
    let expected = [(7, prefix), (u32::MAX, prefix)];
    assert_eq!(update.withdrawn, expected);
    assert_eq!(update.reach[0].prefixes, expected);

    let invalid = Err(Notification::new(code::UPDATE, update::INVALID_NETWORK, []));
    // Cut in the identifier, after it, in the prefix; too long; and none at all.
    let fields: [&[u8]; 5] = [
        &[0, 0, 0],
        &[0, 0, 0, 7],
        &[0, 0, 0, 7, 16, 10],
        &[0, 0, 0, 7, 33, 10, 1, 2, 3, 4],
        PREFIX,
    ];
    for field in fields {
        let bytes = update_bytes(&[], &good, field);
        assert_eq!(decode_update(&bytes, &ADD_PATH), invalid, "{field:?}");
        let bytes = update_bytes(field, &[], &[]);
        assert_eq!(decode_update(&bytes, &ADD_PATH), invalid, "{field:?}");
        let length = 3 + field.len() as u8;
        let unreach = [&[0x80, 15, length, 0, 1, 1], field].concat();
        let bytes = update_bytes(&[], &unreach, &[]);
        let told = Notification::new(code::UPDATE, update::OPTIONAL_ATTRIBUTE, unreach);
        assert_eq!(decode_update(&bytes, &ADD_PATH), Err(told), "{field:?}");
    }
    // A peer that was not asked for identifiers, and one of whose families has none.
    assert!(decode_update(&update_bytes(&two, &[], &[]), &INTERNAL).is_err());
    let only_ipv6 = Context {
        add_path: PerFamily {
            ipv6: Directions::BOTH,
            ..PerFamily::default()
        },
        ..INTERNAL
    };
    let (update, _) = decode_update(&update_bytes(PREFIX, &[], &[]), &only_ipv6).expect("good");
    assert_eq!(update.withdrawn, prefixes(&["10.1.0.0/16"]));
}

/// RFC 7606 with RFC 7911: what is treated as withdrawn keeps its identifiers.
#[test]
fn the_very_paths_are_withdrawn() {
    let attributes = [&good_attributes(&ADD_PATH, 1), &[0x40, 1, 1, 9][..]].concat();
    let bytes = update_bytes(&[], &attributes, &[0, 0, 0, 7, 16, 10, 1]);
    let (update, _) = decode_update(&bytes, &ADD_PATH).expect("no reset");
    let prefix: IpNet = "10.1.0.0/16".parse().expect("a prefix");
    assert_eq!(update.withdrawn, [(7, prefix)]);
}

/// RFC 8654: 13,000 times 0.0.0.0/32 in one message.
#[test]
fn a_long_message_is_read_to_its_end() {
    let extended = Context {
        extended_messages: Directions::BOTH,
        ..INTERNAL
    };
    let prefixes = [32, 0, 0, 0, 0].repeat(13_000);
    let attributes = good_attributes(&extended, 0);
    let (update, _) =
        decode_update(&update_bytes(&[], &attributes, &prefixes), &extended).expect("good");
    assert_eq!(update.reach[0].prefixes.len(), 13_000);
}

/// The frame tells the type of a message that is not worth decoding, or cannot be.
#[test]
fn a_message_that_cannot_be_decoded_is_still_of_a_type() {
    let bytes = update_bytes(&[], &[0x40, 1], &[33, 1]);
    assert!(decode(&bytes, &INTERNAL).is_err());
    let frame = Frame::read(&bytes, &INTERNAL).expect("a frame");
    let frame = frame.expect("complete");
    assert_eq!((frame.kind, frame.len()), (Kind::Update, bytes.len()));
}
