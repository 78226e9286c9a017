//! The prefixes that are announced: the first N of a row of equal ones, so that a prefix is a number.

use clap::ValueEnum;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// More are not to be had of one row.
pub const MOST: u32 = 1 << 20;
/// IPv4 prefixes are the /28s of this network.
pub const COVER_IPV4: &str = "10.0.0.0/8";
/// IPv6 prefixes are the /64s of this network.
pub const COVER_IPV6: &str = "fd10::/32";

/// The address family of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Family {
    /// IPv4 over an IPv4 session.
    Ipv4,
    /// IPv6 over an IPv6 session.
    Ipv6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

impl Family {
    /// Of a session between these addresses.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// Bits of a prefix.
    pub fn length(self) -> u8 {
        match self {
            Self::Ipv4 => 28,
            Self::Ipv6 => 64,
        }
    }

    /// The address of host `host` in prefix `number`.
    pub fn address(self, number: u32, host: u8) -> IpAddr {
        match self {
            Self::Ipv4 => {
                let host = u32::from(host & 15);
                IpAddr::V4(Ipv4Addr::from_bits((10 << 24) | (number << 4) | host))
            }
            Self::Ipv6 => {
                let high = (0xfd10_u128) << 112 | u128::from(number) << 64;
                IpAddr::V6(Ipv6Addr::from_bits(high | u128::from(host)))
            }
        }
    }

    /// The octets of prefix `number`, as BGP and netlink want them: those of an IPv4 prefix, or of
    /// an IPv6 address.
    pub fn octets(self, number: u32) -> Vec<u8> {
        match self.address(number, 0) {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }
    }

    /// Which prefix it is that has these octets and this length, if it is one of ours.
    pub fn number(self, octets: &[u8], length: u8) -> Option<u32> {
        if length != self.length() {
            return None;
        }
        let number = match self {
            Self::Ipv4 => {
                let bits = u32::from_be_bytes(*octets.first_chunk()?);
                (bits >> 24 == 10).then_some((bits >> 4) & (MOST - 1))?
            }
            Self::Ipv6 => {
                let high = u64::from_be_bytes(*octets.first_chunk()?);
                u32::try_from(high.checked_sub(0xfd10 << 48)?).ok()?
            }
        };
        (number < MOST).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_number_and_back() {
        for family in [Family::Ipv4, Family::Ipv6] {
            for number in [0, 1, 999, 70_000, MOST - 1] {
                let octets = family.octets(number);
                assert_eq!(family.number(&octets, family.length()), Some(number));
                assert_eq!(family.number(&octets, 20), None);
            }
        }
        assert_eq!(Family::Ipv4.number(&[11, 0, 0, 0], 28), None);
        assert_eq!(
            Family::Ipv4.address(1_000_000, 1).to_string(),
            "10.244.36.1"
        );
        assert_eq!(
            Family::Ipv6.address(0x1_0002, 1).to_string(),
            "fd10:0:1:2::1"
        );
    }
}
