//! The texts of a policy's terms, which the controller checks and the agent uses.

use ipnet::IpNet;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A text that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct TextError {
    /// The text.
    pub text: String,
    /// What it should be.
    pub expected: &'static str,
}

pub(crate) fn wrong(text: &str, expected: &'static str) -> TextError {
    let text = text.chars().take(60).collect();
    TextError { text, expected }
}

/// A prefix and how long the prefixes inside it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixRange {
    /// The prefix.
    pub net: IpNet,
    /// The shortest length.
    pub at_least: u8,
    /// The longest.
    pub at_most: u8,
}

impl FromStr for PrefixRange {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let form = "a prefix with bounds of its length: write \"10.0.0.0/8\" for it alone, or \
                    \"10.0.0.0/8 ge 16 le 24\"";
        let words: Vec<&str> = text.split_whitespace().collect();
        let (net, bounds) = words.split_first().ok_or_else(|| wrong(text, form))?;
        let net: IpNet = net.parse().map_err(|_| wrong(text, form))?;
        let own = net.prefix_len();
        let bound = |text: &str| text.parse::<u8>().ok();
        let bounds = match bounds {
            [] => Some((own, own)),
            ["ge", least] => bound(least).map(|least| (least, net.max_prefix_len())),
            ["le", most] => bound(most).map(|most| (own, most)),
            ["ge", least, "le", most] => bound(least).zip(bound(most)),
            _ => None,
        };
        let (at_least, at_most) = bounds.ok_or_else(|| wrong(text, form))?;
        if net.trunc() != net {
            return Err(wrong(text, "a prefix: it has bits set beyond its length"));
        }
        if own > at_least || at_least > at_most || at_most > net.max_prefix_len() {
            let expected = "possible: lengths go up from the prefix's own by ge to le, and not \
                            beyond 32 for IPv4 and 128 for IPv6";
            return Err(wrong(text, expected));
        }
        Ok(Self {
            net,
            at_least,
            at_most,
        })
    }
}

/// A community of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Community {
    /// RFC 1997.
    Standard(u32),
    /// RFC 8092.
    Large([u32; 3]),
    /// RFC 4360, as eight bytes in network order.
    Extended([u8; 8]),
}

/// Those that have names (RFC 1997, 7999, 8326, 9494).
const NAMED: [(&str, u32); 7] = [
    ("graceful-shutdown", 0xffff_0000),
    ("llgr-stale", 0xffff_0006),
    ("no-llgr", 0xffff_0007),
    ("blackhole", 0xffff_029a),
    ("no-export", 0xffff_ff01),
    ("no-advertise", 0xffff_ff02),
    ("no-export-subconfed", 0xffff_ff03),
];

impl FromStr for Community {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let expected = "a community: write \"65000:100\", \"65000:1:2\", \"target:65000:100\", \
                        \"origin:65000:100\", \"no-export\", or 0x and 16 hexadecimal digits";
        if let Some((_, number)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(Self::Standard(*number));
        }
        let parts: Vec<&str> = text.split(':').collect();
        let found = match parts.as_slice() {
            ["target", first, second] => extended(2, first, second).map(Self::Extended),
            ["origin", first, second] => extended(3, first, second).map(Self::Extended),
            [asn, value] => standard(asn, value).map(Self::Standard),
            [asn, one, two] => large(asn, one, two).map(Self::Large),
            [raw] => raw_bytes(raw).map(Self::Extended),
            _ => None,
        };
        found.ok_or_else(|| wrong(text, expected))
    }
}

/// Digits alone: `parse` takes a sign as well.
fn number<T: FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

fn standard(asn: &str, value: &str) -> Option<u32> {
    let (asn, value): (u16, u16) = (number(asn)?, number(value)?);
    Some(u32::from(asn) << 16 | u32::from(value))
}

fn large(asn: &str, one: &str, two: &str) -> Option<[u32; 3]> {
    Some([number(asn)?, number(one)?, number(two)?])
}

/// A route target or origin of a two-octet AS, an IPv4 address or a four-octet AS (RFC 4360, 5668).
fn extended(subtype: u8, first: &str, second: &str) -> Option<[u8; 8]> {
    let long = |kind, [a, b, c, d]: [u8; 4]| {
        let [x, y] = number::<u16>(second)?.to_be_bytes();
        Some([kind, subtype, a, b, c, d, x, y])
    };
    if let Ok(address) = first.parse::<Ipv4Addr>() {
        return long(0x01, address.octets());
    }
    if let Some(asn) = number::<u16>(first) {
        let ([a, b], [w, x, y, z]) = (asn.to_be_bytes(), number::<u32>(second)?.to_be_bytes());
        return Some([0x00, subtype, a, b, w, x, y, z]);
    }
    long(0x02, number::<u32>(first)?.to_be_bytes())
}

fn raw_bytes(text: &str) -> Option<[u8; 8]> {
    let digits = text.strip_prefix("0x").filter(|digits| {
        digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })?;
    u64::from_str_radix(digits, 16).ok().map(u64::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let table = [
            ("10.0.1.0/24", Some((24, 24))),
            ("10.0.0.0/8 ge 16", Some((16, 32))),
            ("10.0.0.0/8 le 24", Some((8, 24))),
            ("10.0.0.0/8  ge 16  le 24", Some((16, 24))),
            ("0.0.0.0/0 le 32", Some((0, 32))),
            ("2001:db8::/32 le 128", Some((32, 128))),
            ("", None),
            ("10.0.1.0", None),
            ("10.0.1.1/24", None),
            ("10.0.1.0/24 le", None),
            ("10.0.1.0/24 le 28 ge 26", None),
            ("10.0.1.0/24 ge 20", None),
            ("10.0.1.0/24 le 33", None),
            ("10.0.0.0/8 ge 24 le 16", None),
            ("10.0.1.0/24 le 256", None),
            ("2001:db8::/32 le 129", None),
        ];
        for (text, expected) in table {
            let found = text.parse::<PrefixRange>().ok();
            assert_eq!(
                found.map(|it| (it.at_least, it.at_most)),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn communities_are_read() {
        let table = [
            ("65000:100", Some(Community::Standard(0xfde8_0064))),
            ("no-export", Some(Community::Standard(0xffff_ff01))),
            ("graceful-shutdown", Some(Community::Standard(0xffff_0000))),
            (
                "4200000000:1:2",
                Some(Community::Large([4_200_000_000, 1, 2])),
            ),
            (
                "target:65000:100",
                Some(Community::Extended([0, 2, 0xfd, 0xe8, 0, 0, 0, 100])),
            ),
            (
                "origin:192.0.2.1:100",
                Some(Community::Extended([1, 3, 192, 0, 2, 1, 0, 100])),
            ),
            (
                "target:4200000000:1",
                Some(Community::Extended([2, 2, 0xfa, 0x56, 0xea, 0, 0, 1])),
            ),
            (
                "0x4004fde84d9c4000",
                Some(Community::Extended([
                    0x40, 4, 0xfd, 0xe8, 0x4d, 0x9c, 0x40, 0,
                ])),
            ),
            ("65536:1", None),
            ("65000:65536", None),
            ("+1:1", None),
            ("1:", None),
            ("1:2:3:4", None),
            ("target:4200000000:65536", None),
            ("0x4004", None),
            ("no-exports", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Community>().ok(), expected, "{text}");
        }
    }
}
