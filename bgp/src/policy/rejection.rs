//! Why a path is not used.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Why a path that a peer announced is not used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rejection {
    /// The prefix is not inside any prefix that the peer may announce.
    NotAuthorized,
    /// An eBGP peer for which no policy is configured (RFC 8212).
    NoPolicy,
    /// A term of the policy says so.
    Policy(Arc<str>),
    /// No term of the policy accepts it.
    NoTerm,
    /// No unicast destination lives in the prefix.
    Martian,
    /// Our AS is in the AS_PATH (RFC 4271 section 9.1.2).
    AsLoop(u32),
    /// The AS_PATH of an eBGP peer does not begin with its AS (RFC 4271 section 6.3).
    FirstAs {
        /// The peer's AS.
        expected: u32,
        /// What the path begins with, if anything.
        found: Option<u32>,
    },
    /// The path began at this very speaker (RFC 4456 section 8).
    OriginatorLoop,
    /// The path was reflected by this very speaker before (RFC 4456 section 8).
    ClusterLoop,
    /// A path meant for customers only, by this AS, came from where it cannot (RFC 9234).
    RouteLeak(u32),
    /// The next hop is ourselves, or not the address of one host (RFC 4271 section 6.3).
    NextHop(IpAddr),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAuthorized => write!(f, "the peer may not announce this prefix"),
            Self::NoPolicy => write!(f, "no import policy for this eBGP peer"),
            Self::Policy(reason) => write!(f, "{reason}"),
            Self::NoTerm => write!(f, "no import term accepts it"),
            Self::Martian => write!(f, "not a unicast destination"),
            Self::AsLoop(asn) => write!(f, "AS loop: our AS {asn} is in the path"),
            Self::FirstAs {
                expected,
                found: Some(found),
            } => write!(
                f,
                "the path begins with AS {found}, not the peer's {expected}"
            ),
            Self::FirstAs { expected, .. } => {
                write!(f, "the path does not begin with the peer's AS {expected}")
            }
            Self::OriginatorLoop => write!(f, "reflection loop: we are the originator"),
            Self::ClusterLoop => write!(f, "reflection loop: our cluster id is in the list"),
            Self::RouteLeak(asn) => write!(f, "route leak: only for customers of AS {asn}"),
            Self::NextHop(address) => write!(f, "unusable next hop {address}"),
        }
    }
}
