//! A router on the LAN, as the config has it.

use super::{ConfigError, Fields, bfd, term};
use ipnet::IpNet;
use routemesh_bfd::Timers;
use routemesh_bgp::Policy;
use routemesh_bgp::wire::Role;
use routemesh_proto::{self as proto, Secret};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Prefixes that a router may announce where the config names no limit of its own: no site of a
/// mesh announces so many, and whoever does has made a mistake.
pub const MAX_PREFIXES: usize = 100_000;

/// The kernel's longest TCP MD5 key (TCP_MD5SIG_MAXKEYLEN).
const LONGEST_PASSWORD: usize = 80;

/// A BGP peer on the LAN, or a range of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// Where it is.
    pub whereabouts: Whereabouts,
    /// Its AS; ours makes it a route reflection client.
    pub asn: u32,
    /// TCP MD5 (RFC 2385).
    pub password: Option<Secret>,
    /// GTSM (RFC 5082): how many hops away it may be.
    pub ttl_security: Option<u8>,
    /// Our role in the session (RFC 9234).
    pub role: Option<Role>,
    /// The session ends when more prefixes are announced.
    pub max_prefixes: usize,
    /// Exchange several paths per prefix (RFC 7911).
    pub add_path: bool,
    /// How long paths outlive a graceful restart that does not end (RFC 9494); zero: not at all.
    pub long_lived: Duration,
    /// BFD with it.
    pub bfd: Option<Timers>,
    /// What is taken from it, as far as the site owns it.
    pub import: Policy,
    /// What it is told, as far as other sites own it.
    pub export: Policy,
}

/// Where a router is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whereabouts {
    /// At an address on one of our subnets.
    Address(IpAddr),
    /// At a link-local address of an interface.
    LinkLocal(Ipv6Addr, String),
    /// On an interface, at whatever link-local address it has (BGP unnumbered).
    Interface(String),
    /// Anywhere in a prefix: it connects to us, and is never dialled.
    Range(IpNet),
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::LinkLocal(address, link) => write!(f, "{address}%{link}"),
            Self::Interface(link) => f.write_str(link),
            Self::Range(prefix) => prefix.fmt(f),
        }
    }
}

impl Router {
    /// Name of its BGP peer.
    pub fn name(&self) -> String {
        self.whereabouts.to_string()
    }
}

pub(super) fn parse(raw: &proto::Router) -> Result<Router, ConfigError> {
    let whereabouts = [&raw.address, &raw.interface, &raw.range].map(String::as_str);
    let written: Vec<&str> = whereabouts.into_iter().filter(|w| !w.is_empty()).collect();
    let object = format!("router {}", written.join(" "));
    let fields = Fields { object: &object };
    let number = |field, value: u32, expected| {
        u8::try_from(value)
            .ok()
            .filter(|value| *value < u8::MAX)
            .ok_or_else(|| fields.wrong(field, &value.to_string(), expected))
    };
    let hops = number("ttl_security", raw.ttl_security, "0 to 254 hops")?;
    let password = raw.password.as_str();
    if password.len() > LONGEST_PASSWORD {
        // Its value stays out of the error.
        let length = format!("{} bytes long", password.len());
        return Err(fields.wrong("password", &length, "at most 80"));
    }
    Ok(Router {
        whereabouts: parse_whereabouts(&fields, raw)?,
        asn: fields.asn("asn", raw.asn)?,
        password: (!password.is_empty()).then(|| Secret::from(password)),
        ttl_security: Some(hops).filter(|hops| *hops > 0),
        role: parse_role(&fields, &raw.role)?,
        max_prefixes: match raw.max_prefixes {
            0 => MAX_PREFIXES,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        },
        add_path: raw.add_path,
        long_lived: Duration::from_secs(raw.long_lived.into()),
        bfd: bfd::parse(&fields, raw.bfd)?,
        import: term::policy(&fields, "import", &raw.import)?,
        export: term::policy(&fields, "export", &raw.export)?,
    })
}

fn parse_role(fields: &Fields, text: &str) -> Result<Option<Role>, ConfigError> {
    Ok(Some(match text {
        "" => return Ok(None),
        "provider" => Role::Provider,
        "rs" => Role::RouteServer,
        "rs-client" => Role::RouteServerClient,
        "customer" => Role::Customer,
        "peer" => Role::Peer,
        other => {
            let expected = "provider, customer, peer, rs or rs-client";
            return Err(fields.wrong("role", other, expected));
        }
    }))
}

fn parse_whereabouts(fields: &Fields, raw: &proto::Router) -> Result<Whereabouts, ConfigError> {
    let one_of_three = "the only one: write address, interface or range";
    match [&raw.address, &raw.interface, &raw.range].map(String::as_str) {
        [address, "", ""] => match address.split_once('%') {
            Some((text, link)) => {
                let expected = "a link-local IPv6 address with its %interface";
                let address: Ipv6Addr = fields.parse("address", text, expected)?;
                if !address.is_unicast_link_local() {
                    return Err(fields.wrong("address", &raw.address, expected));
                }
                Ok(Whereabouts::LinkLocal(
                    address,
                    fields.interface("address", link)?,
                ))
            }
            None => fields
                .parse("address", address, "an IP address")
                .map(Whereabouts::Address),
        },
        ["", link, ""] => fields
            .interface("interface", link)
            .map(Whereabouts::Interface),
        ["", "", range] => {
            let net: IpNet = fields.parse("range", range, "a prefix")?;
            Ok(Whereabouts::Range(net.trunc()))
        }
        ["", interface, _] => Err(fields.wrong("interface", interface, one_of_three)),
        [address, ..] => Err(fields.wrong("address", address, one_of_three)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(address: &str, interface: &str, range: &str) -> proto::Router {
        proto::Router {
            address: address.into(),
            interface: interface.into(),
            range: range.into(),
            asn: 65001,
            ..proto::Router::default()
        }
    }

    #[test]
    fn a_router_is_at_an_address_on_an_interface_or_in_a_range() {
        let link_local = "fe80::1".parse().unwrap();
        let table = [
            (
                router("fd00:1::254", "", ""),
                Whereabouts::Address("fd00:1::254".parse().unwrap()),
            ),
            (
                router("fe80::1%lan0", "", ""),
                Whereabouts::LinkLocal(link_local, "lan0".into()),
            ),
            (
                router("", "lan0.10", ""),
                Whereabouts::Interface("lan0.10".into()),
            ),
            (
                router("", "", "10.0.1.7/24"),
                Whereabouts::Range("10.0.1.0/24".parse().unwrap()),
            ),
        ];
        for (raw, expected) in table {
            let parsed = parse(&raw).unwrap();
            assert_eq!(parsed.whereabouts, expected);
            let bare = proto::Router {
                asn: 65001,
                ..proto::Router::default()
            };
            let again = match expected {
                Whereabouts::Interface(_) => proto::Router {
                    interface: parsed.name(),
                    ..bare
                },
                Whereabouts::Range(_) => proto::Router {
                    range: parsed.name(),
                    ..bare
                },
                _ => proto::Router {
                    address: parsed.name(),
                    ..bare
                },
            };
            assert_eq!(parse(&again).unwrap().whereabouts, expected);
        }
    }
}
