//! Texts of a specification -> values. An error is the reason, and says what would be right.

use super::place::quote;
use super::{Family, Firewall, OuterAddress};
use ipnet::{IpNet, Ipv6Net};
use routemesh_proto::{CONTROLLER_NAME, Esp, NoService, Service, check_ike};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Our own route protocol, which the agent never takes from the kernel.
const OWN_PROTOCOL: u8 = 82;

/// What the host routes itself: redirects are its own business, and 0 is none.
const NOT_ANNOUNCED: [u8; 2] = [0, 1];

/// A name that may stand in a certificate, a file's name and a connection's name.
pub fn check_name(name: &str) -> Result<(), String> {
    let rules = "a name is 1 to 63 letters, digits, - or ., begins with a letter or digit and does not end in .";
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name.is_empty()
        || name.len() > 63
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !name.chars().all(plain)
        || name.ends_with('.')
        || name.contains("..")
    {
        return Err(format!("{} cannot be a name: {rules}", quote(name)));
    }
    if name.parse::<IpAddr>().is_ok() {
        return Err(format!("{name} cannot be a name: it is an address"));
    }
    if name.eq_ignore_ascii_case(CONTROLLER_NAME) {
        return Err(format!("{name} cannot be a name: it is the controller's"));
    }
    Ok(())
}

/// The name of a network namespace, or of a VRF.
pub(super) fn overlay(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let (name, longest) = match text.strip_prefix("vrf:") {
        Some(name) => (name, 15),
        None => (text, 63),
    };
    if name.is_empty() || name.len() > longest || !name.chars().all(plain) || name.starts_with('.')
    {
        return Err(format!(
            "{} is not the name of a network namespace (1 to 63 letters, digits, -, _ or .), nor of a VRF (\"vrf:\" and 1 to 15 of these); without either, leave the line out",
            quote(text)
        ));
    }
    Ok(text.to_owned())
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let net: IpNet = match (text.parse(), text.parse::<IpAddr>()) {
        (Ok(net), _) => net,
        (Err(_), Ok(address)) => {
            let alone = IpNet::from(address);
            return Err(format!(
                "{address} is an address: write {alone} for it alone, or the prefix that it is of"
            ));
        }
        _ => {
            return Err(format!(
                "{} is not a prefix: write one like 10.0.1.0/24 or 2001:db8:a1::/64",
                quote(text)
            ));
        }
    };
    if net.trunc() != net {
        return Err(format!(
            "{net} has bits set beyond its length: write {}",
            net.trunc()
        ));
    }
    Ok(net)
}

/// What nobody can own or be reached at, and why.
const SPECIAL: [(&str, &str); 9] = [
    ("0.0.0.0/8", "unspecified"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/3", "multicast or reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("::ffff:0:0/96", "IPv4 in IPv6 notation"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

fn special(net: IpNet) -> Option<&'static str> {
    let covers = |(text, _): &&(&str, &str)| {
        let special = text.parse::<IpNet>().ok();
        special.is_some_and(|special| special.contains(&net))
    };
    SPECIAL.iter().find(covers).map(|(_, why)| *why)
}

/// A prefix that a site owns.
pub(super) fn site_prefix(text: &str) -> Result<IpNet, String> {
    let net = prefix(text)?;
    if net.prefix_len() == 0 {
        return Err(format!(
            "{net} is the default route, which no site owns: name the prefixes of the site"
        ));
    }
    match special(net) {
        Some(why) => Err(format!("{net} is {why}: a site owns unicast prefixes")),
        None => Ok(net),
    }
}

/// A prefix whose addresses may connect to us.
pub(super) fn neighbourhood(text: &str) -> Result<IpNet, String> {
    let net = prefix(text)?;
    match special(net) {
        Some(why) => Err(format!("{net} is {why}: name a subnet of the LAN")),
        None if net.prefix_len() == 0 => {
            Err(format!("{net} is everybody: name a subnet of the LAN"))
        }
        None => Ok(net),
    }
}

/// The prefix that tunnels take their inner addresses from.
pub(super) fn interconnect(text: &str) -> Result<Ipv6Net, String> {
    let example = "write an IPv6 prefix of your own like fd00:ff::/64";
    match prefix(text)? {
        IpNet::V4(net) => Err(format!("{net} is IPv4: {example}")),
        IpNet::V6(net) if special(net.into()).is_some() || net.prefix_len() == 0 => {
            Err(format!("{net} is not a unicast prefix: {example}"))
        }
        IpNet::V6(net) if net.prefix_len() > 127 => {
            Err(format!("{net} holds no pair of addresses: {example}"))
        }
        IpNet::V6(net) => Ok(net),
    }
}

/// A unicast address that needs no interface beside it.
pub(super) fn unicast(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("{} is not an IP address", quote(text)))?;
    match special(IpNet::from(address)) {
        Some(why) => Err(format!(
            "{address} is {why}: give an address that others can reach"
        )),
        None => Ok(address),
    }
}

/// "300ms", "2s", in milliseconds.
pub(super) fn millis(what: &str, text: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    let millis = match text.strip_suffix("ms") {
        Some(millis) => millis.trim_end().parse().ok(),
        None => text
            .strip_suffix('s')
            .and_then(|seconds| seconds.trim_end().parse::<u32>().ok()?.checked_mul(1000)),
    };
    let words = |millis: u32| match millis {
        _ if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        _ => format!("{millis}ms"),
    };
    millis
        .filter(|millis| range.contains(millis))
        .ok_or_else(|| {
            format!(
                "{what} is {}: from {:?} to {:?}, like \"300ms\"",
                quote(text),
                words(*range.start()),
                words(*range.end())
            )
        })
}

/// An endpoint given as a literal.
pub(super) fn endpoint(text: &str) -> Result<OuterAddress, String> {
    let looks_like_host = text.contains(|c: char| c.is_ascii_alphabetic()) && !text.contains(':');
    match unicast(text) {
        Err(_) if looks_like_host => Err(format!(
            "{} is not an address: write a host name as {{ host = {}, family = \"ipv6\" }}",
            quote(text),
            quote(text)
        )),
        other => other.map(OuterAddress::Literal),
    }
}

/// A host name.
pub(super) fn host(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if text.parse::<IpAddr>().is_ok() {
        return Err(format!(
            "{text} is an address: write it as a plain string in endpoints"
        ));
    }
    if text.len() > 253 || !text.split('.').all(label) {
        return Err(format!(
            "{} is not a host name: write one like \"vpn.example.net\", without a dot at the end",
            quote(text)
        ));
    }
    Ok(text.to_ascii_lowercase())
}

/// An address family.
pub(super) fn family(text: &str) -> Result<Family, String> {
    match text {
        "ipv4" => Ok(Family::Ipv4),
        "ipv6" => Ok(Family::Ipv6),
        other => Err(format!(
            "{} is not a family: write \"ipv4\" or \"ipv6\"",
            quote(other)
        )),
    }
}

/// What becomes of packets that the mesh does not allow.
pub(super) fn firewall(text: &str) -> Result<Firewall, String> {
    match text {
        "enforce" => Ok(Firewall::Enforce),
        "observe" => Ok(Firewall::Observe),
        "off" => Ok(Firewall::Off),
        other => Err(format!(
            "{} is not a mode of the firewall: write \"enforce\", \"observe\" or \"off\"",
            quote(other)
        )),
    }
}

/// A port, or several, that a gateway serves.
pub(super) fn service(text: &str) -> Result<Service, String> {
    text.parse().map_err(|NoService| {
        format!(
            "{} is not a service: write one like \"tcp/22\" or \"udp/5000-5010\"",
            quote(text)
        )
    })
}

/// Whence IPsec may come.
pub(super) fn outside(text: &str) -> Result<IpNet, String> {
    let net = prefix(text)?;
    match special(net) {
        // Everybody.
        _ if net.prefix_len() == 0 => Ok(net),
        Some(why) => Err(format!("{net} is {why}: nobody sends from there")),
        None => Ok(net),
    }
}

/// An AS number that a site or router may have.
pub(super) fn asn(number: u64) -> Result<u32, String> {
    let private = "private ones are 64512 to 65534 and 4200000000 to 4294967294";
    match u32::try_from(number) {
        Ok(asn) if !matches!(asn, 0 | 23456 | 65535 | u32::MAX) => Ok(asn),
        _ => Err(format!(
            "{number} is not an AS number that can be used: {private}"
        )),
    }
}

/// Algorithms for IKE, in strongSwan's words.
pub(super) fn ike_proposal(text: &str) -> Result<String, String> {
    match check_ike(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The same for ESP.
pub(super) fn esp_proposal(text: &str) -> Result<String, String> {
    match Esp::proposed(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A kernel route protocol whose routes are announced, by name or number.
pub(super) fn protocol(text: &str) -> Result<String, String> {
    match routemesh_proto::route_protocol(text) {
        Some(OWN_PROTOCOL) => Err(format!(
            "{} is the protocol of Routemesh's own routes, which are never announced again",
            quote(text)
        )),
        Some(number) if !NOT_ANNOUNCED.contains(&number) => Ok(text.to_owned()),
        _ => Err(format!(
            "{} is not a route protocol: write a name of `ip route` (kernel, static, boot, bird, zebra, ospf, babel, isis, rip, bgp, dhcp, ra, …) or a number from 2 to 255",
            quote(text)
        )),
    }
}
