//! A router on a gateway's LAN: what it is, and how it is written.

use super::keys;
use super::place::{At, quote};
use super::reader::{Reader, Table, Value};
use super::term::Direction;
use super::values;
use ipnet::IpNet;
use routemesh_proto::{Bfd, Secret, Term};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// A BGP peer on a gateway's LAN, or a range of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// Where it is.
    pub whereabouts: At<Whereabouts>,
    /// Its AS.
    pub asn: u32,
    /// TCP MD5 (RFC 2385).
    pub password: Option<Secret>,
    /// GTSM (RFC 5082): how many hops away it may be.
    pub ttl_security: Option<u8>,
    /// Our role in the session (RFC 9234).
    pub role: Option<&'static str>,
    /// How many prefixes it may announce, where that is not left to the agent.
    pub max_prefixes: Option<u32>,
    /// Exchange several paths per prefix (RFC 7911).
    pub add_path: bool,
    /// Seconds for which paths outlive a graceful restart that does not end (RFC 9494).
    pub long_lived: Option<u32>,
    /// BFD with it.
    pub bfd: Option<At<Bfd>>,
    /// What is taken from it of what the site owns; without terms, everything.
    pub import: Vec<Term>,
    /// What it is told of what other sites own; without terms, everything.
    pub export: Vec<Term>,
}

/// Where a router is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Whereabouts {
    /// At an address on one of the gateway's subnets.
    Address(IpAddr),
    /// At a link-local address of an interface.
    LinkLocal(Ipv6Addr, String),
    /// On an interface, at whatever link-local address it has (BGP unnumbered).
    Interface(String),
    /// Anywhere in a prefix: it connects to us.
    Range(IpNet),
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::LinkLocal(address, interface) => write!(f, "{address}%{interface}"),
            Self::Interface(interface) => f.write_str(interface),
            Self::Range(prefix) => prefix.fmt(f),
        }
    }
}

/// TCP MD5 keys of the Linux kernel are not longer (TCP_MD5SIG_MAXKEYLEN).
const LONGEST_PASSWORD: usize = 80;

/// The roles of RFC 9234.
const ROLES: [&str; 5] = ["provider", "customer", "peer", "rs", "rs-client"];

impl<'t> Reader<'t> {
    pub(super) fn router(&mut self, value: &Value<'t>) -> Option<Router> {
        let place = self.lines.place(value.span().start);
        let table = self.table("a router".to_owned(), place, value.get_ref(), keys::ROUTER)?;
        let whereabouts = self.whereabouts(&table);
        let asn = self.required(&table, "as", "like as = 65001");
        let asn = asn.and_then(|value| self.number("as", value, values::asn));
        let password = table.get("password");
        let password = password.and_then(|value| self.text("password", value, secret));
        let hops = table.get("ttl_security");
        let hops = hops.and_then(|value| self.number("ttl_security", value, hops_away));
        let role = table.get("role");
        let role = role.and_then(|value| self.text("role", value, role_named));
        let limit = table.get("max_prefixes");
        let limit = limit.and_then(|value| self.number("max_prefixes", value, prefixes));
        let add_path = table.get("add_path");
        let add_path = add_path.and_then(|value| self.flag("add_path", value));
        let long_lived = table.get("long_lived");
        let long_lived = long_lived.and_then(|value| self.number("long_lived", value, seconds));
        let bfd = table.get("bfd").and_then(|value| self.bfd(value));
        let import = self.terms(&table, Direction::Import);
        let export = self.terms(&table, Direction::Export);
        Some(Router {
            whereabouts: whereabouts?,
            asn: asn?,
            password: password.map(|password| password.value),
            ttl_security: hops,
            role: role.map(|role| role.value),
            max_prefixes: limit,
            add_path: add_path.unwrap_or_default(),
            long_lived,
            bfd,
            import,
            export,
        })
    }

    fn whereabouts(&mut self, table: &Table<'_, 't>) -> Option<At<Whereabouts>> {
        type Parse = fn(&str) -> Result<Whereabouts, String>;
        let ways: [(&str, Parse); 3] = [
            ("address", address),
            ("interface", |text| {
                interface(text).map(Whereabouts::Interface)
            }),
            ("range", range),
        ];
        let written = ways
            .into_iter()
            .filter_map(|(key, parse)| Some((key, parse, table.get(key)?)));
        let written: Vec<_> = written.collect();
        match written.as_slice() {
            [(key, parse, value)] => self.text(key, value, parse),
            [] => {
                let reason = "a router has no \"address\": like address = \"10.0.1.254\"; or \
                              interface = \"lan0\" for whichever router is on that interface; or \
                              range = \"10.0.1.0/24\" for all that connect from there";
                self.wrong(table.place, reason);
                None
            }
            [(first, ..), (second, ..), ..] => {
                let reason = format!("a router has {first:?} and {second:?}: write one of the two");
                self.wrong(table.place, reason);
                None
            }
        }
    }
}

fn address(text: &str) -> Result<Whereabouts, String> {
    match text.split_once('%') {
        Some((address, link)) => match address.parse::<Ipv6Addr>() {
            Ok(address) if address.is_unicast_link_local() => {
                Ok(Whereabouts::LinkLocal(address, interface(link)?))
            }
            _ => Err(format!(
                "{} is not a link-local IPv6 address: others need no %interface",
                quote(address)
            )),
        },
        None => match text.parse::<Ipv6Addr>() {
            Ok(address) if address.is_unicast_link_local() => Err(format!(
                "{address} is link-local: say on which interface, like \"{address}%lan0\""
            )),
            _ => values::unicast(text).map(Whereabouts::Address),
        },
    }
}

fn interface(text: &str) -> Result<String, String> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    if text.is_empty() || text.len() > 15 || text.contains(odd) || text.starts_with('.') {
        return Err(format!(
            "{} is not the name of an interface: 1 to 15 letters, digits, -, _ or .",
            quote(text)
        ));
    }
    Ok(text.to_owned())
}

fn range(text: &str) -> Result<Whereabouts, String> {
    values::neighbourhood(text).map(Whereabouts::Range)
}

/// The value never stands in the reason.
fn secret(text: &str) -> Result<Secret, String> {
    if text.is_empty() || text.len() > LONGEST_PASSWORD || text.contains(char::is_control) {
        return Err(format!(
            "password has {} bytes: 1 to {LONGEST_PASSWORD}, without control characters; leave it \
             out for none",
            text.len()
        ));
    }
    Ok(Secret::from(text))
}

fn hops_away(hops: u64) -> Result<u8, String> {
    match u8::try_from(hops) {
        Ok(hops @ 1..=254) => Ok(hops),
        _ => Err(format!(
            "ttl_security is {hops}: 1 for a router on the same subnet, at most 254; leave it out \
             for any distance"
        )),
    }
}

fn role_named(text: &str) -> Result<&'static str, String> {
    let found = ROLES.into_iter().find(|role| *role == text);
    found.ok_or_else(|| {
        format!(
            "{} is not a role: this gateway's own towards the router, one of {}",
            quote(text),
            ROLES.join(", ")
        )
    })
}

/// RFC 9494 section 3.1 has 24 bits for it.
fn seconds(seconds: u64) -> Result<u32, String> {
    match u32::try_from(seconds) {
        Ok(seconds @ 1..=0xff_ffff) => Ok(seconds),
        _ => Err(format!(
            "long_lived is {seconds}: 1 to 16777215 seconds; leave it out to keep nothing for long"
        )),
    }
}

pub(super) fn prefixes(limit: u64) -> Result<u32, String> {
    match u32::try_from(limit) {
        Ok(limit @ 1..) => Ok(limit),
        _ => Err(format!(
            "max_prefixes is {limit}: 1 to 4294967295; leave it out for 100000"
        )),
    }
}
