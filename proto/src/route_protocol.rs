//! Route protocol names, as `ip route` prints them.

/// Names and numbers of iproute2's `rt_protos` that a gateway may be told to announce.
const NAMES: [(&str, u8); 20] = [
    ("babel", 42),
    ("bgp", 186),
    ("bird", 12),
    ("boot", 3),
    ("dhcp", 16),
    ("dnrouted", 13),
    ("eigrp", 192),
    ("gated", 8),
    ("isis", 187),
    ("kernel", 2),
    ("keepalived", 18),
    ("mrt", 10),
    ("ntk", 15),
    ("openr", 99),
    ("ospf", 188),
    ("ra", 9),
    ("rip", 189),
    ("static", 4),
    ("xorp", 14),
    ("zebra", 11),
];

/// The `rtm_protocol` number of a name from iproute2's `rt_protos`, or of a number as text.
pub fn route_protocol(name: &str) -> Option<u8> {
    let known = NAMES.iter().find(|(known, _)| *known == name);
    known
        .map(|(_, number)| *number)
        .or_else(|| name.parse().ok().filter(|number| *number > 0))
}

/// The name of an `rtm_protocol` number, or that number as text.
pub fn route_protocol_name(number: u8) -> String {
    let known = NAMES.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}
