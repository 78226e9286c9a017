//! A mesh -> the text of a specification.

use super::super::{Child, Neighbour, Options};
use super::options::Sas;
use super::{Foreign, Gateway, Mesh, Site, Tunnel};
use std::fmt::Write as _;
use toml::Value;

/// The text. `hosts` is what the made-up prefix is made from, so that the same files give the same.
pub(super) fn text(mesh: &Mesh, hosts: &str) -> String {
    let mut text = String::new();
    let out = &mut text;
    line(
        out,
        "# Drafted from hosts' own files by `meshctl import`. Read it, then try `meshctl plan`.",
    );
    line(out, "");
    line(out, "[mesh]");
    pair(out, "as", &i64::from(mesh.asn).into());
    line(
        out,
        "# Addresses inside the tunnels: made up. Nothing else may have them.",
    );
    pair(out, "interconnect", &interconnect(hosts).into());
    if mesh.vti {
        line(out, "# As it was; without this line, XFRM interfaces.");
        pair(out, "tunnel", &"vti".into());
    }
    sas(out, "mesh", &mesh.agreed.all);
    for site in &mesh.sites {
        self::site(out, site);
    }
    for (between, options) in &mesh.agreed.between {
        line(out, "\n[[tunnels]]");
        pair(out, "between", &list(between));
        inline(out, options);
    }
    for foreign in &mesh.foreign {
        self::foreign(out, foreign);
    }
    text
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn pair(out: &mut String, key: &str, value: &Value) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{key} = {value}");
}

fn list<T: ToString>(items: &[T]) -> Value {
    Value::Array(
        items
            .iter()
            .map(|it| Value::String(it.to_string()))
            .collect(),
    )
}

/// A key of a table's name: names with dots are quoted.
fn key(name: &str) -> String {
    let bare = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    match bare {
        true => name.to_owned(),
        false => Value::String(name.to_owned()).to_string(),
    }
}

fn options(out: &mut String, table: &str, options: &Options) {
    if options.is_empty() {
        return;
    }
    line(out, &format!("\n[{table}]"));
    for (key, value) in options {
        pair(out, key, value);
    }
}

fn sas(out: &mut String, of: &str, sas: &Sas) {
    options(out, &format!("{of}.ike"), &sas.ike);
    options(out, &format!("{of}.esp"), &sas.esp);
}

fn inline(out: &mut String, sas: &Sas) {
    for (kind, options) in [("ike", &sas.ike), ("esp", &sas.esp)] {
        for (key, value) in options {
            pair(out, &format!("{kind}.{key}"), value);
        }
    }
}

fn prefixes(out: &mut String, prefixes: &[ipnet::IpNet], of: &str) {
    if prefixes.is_empty() {
        line(out, &format!("# TODO: what {of}, like \"10.0.1.0/24\"."));
    }
    pair(out, "prefixes", &list(prefixes));
}

fn site(out: &mut String, site: &Site) {
    let table = format!("sites.{}", key(&site.name));
    line(out, &format!("\n[{table}]"));
    if let Some(asn) = site.asn {
        pair(out, "as", &i64::from(asn).into());
    }
    prefixes(out, &site.prefixes, "this site owns");
    for gateway in &site.gateways {
        self::gateway(out, &table, gateway);
    }
}

fn gateway(out: &mut String, site: &str, gateway: &Gateway) {
    line(out, &format!("\n[{site}.gateways.{}]", key(&gateway.name)));
    if gateway.endpoints.is_empty() {
        line(out, "# TODO: its public address.");
    }
    let endpoints = gateway.endpoints.iter().map(|it| endpoint(it)).collect();
    pair(out, "endpoints", &Value::Array(endpoints));
    if gateway.bird {
        line(
            out,
            "# What BIRD goes on to learn by other protocols than BGP: docs/ospf.md.",
        );
        pair(out, "announce", &list(&["bird"]));
    }
    if !gateway.routers.is_empty() {
        line(out, "routers = [");
        for router in &gateway.routers {
            line(out, &format!("    {{ {} }},", self::router(router)));
        }
        line(out, "]");
    }
}

fn router(router: &Neighbour) -> String {
    let (key, value) = match (&router.address, &router.interface) {
        (Some(address), Some(interface)) => ("address", format!("{address}%{interface}")),
        (Some(address), None) => ("address", address.to_string()),
        (None, interface) => ("interface", interface.clone().unwrap_or_default()),
    };
    let asn = router.asn.unwrap_or_default();
    format!("{key} = {}, as = {asn}", Value::String(value))
}

fn foreign(out: &mut String, foreign: &Foreign) {
    let table = format!("foreign.{}", key(&foreign.name));
    line(out, &format!("\n[{table}]"));
    line(
        out,
        "# A cloud's values are filled in by `provider` (docs/foreign.md).",
    );
    if let Some(asn) = foreign.asn {
        pair(out, "as", &i64::from(asn).into());
    }
    prefixes(out, &foreign.prefixes, "is behind it");
    sas(out, &table, &foreign.agreed.all);
    for tunnel in &foreign.tunnels {
        self::tunnel(out, &table, tunnel);
    }
}

fn tunnel(out: &mut String, peer: &str, tunnel: &Tunnel) {
    line(out, &format!("\n[[{peer}.tunnels]]"));
    pair(out, "gateway", &tunnel.gateway.as_str().into());
    for (key, value) in [
        ("local", &tunnel.local),
        ("remote", &Some(tunnel.remote.clone())),
    ] {
        if let Some(value) = value {
            pair(out, key, &endpoint(value));
        }
    }
    pair(out, "psk_file", &tunnel.key_file.as_str().into());
    for (key, id) in [
        ("local_id", &tunnel.local_id),
        ("remote_id", &tunnel.remote_id),
    ] {
        if let Some(id) = id {
            pair(out, key, &id.as_str().into());
        }
    }
    if let Some(inside) = tunnel.inside {
        pair(out, "inside", &inside.to_string().into());
        return;
    }
    let narrow: Vec<&Child> = tunnel
        .children
        .iter()
        .filter(|it| !it.local.is_empty() || !it.remote.is_empty())
        .collect();
    if narrow.is_empty() {
        return;
    }
    line(out, "selectors = [");
    for child in narrow {
        let (local, remote) = (list(&child.local), list(&child.remote));
        line(
            out,
            &format!("    {{ local = {local}, remote = {remote} }},"),
        );
    }
    line(out, "]");
}

fn endpoint(address: &str) -> Value {
    match address.parse::<std::net::IpAddr>() {
        Ok(_) => address.into(),
        Err(_) => {
            let host = [("host", address), ("family", "ipv4")];
            Value::Table(
                host.into_iter()
                    .map(|(key, value)| (key.to_owned(), value.into()))
                    .collect(),
            )
        }
    }
}

/// A unique local prefix (RFC 4193) from a digest of the text: FNV-1a, 64 bits.
fn interconnect(text: &str) -> String {
    let digest = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| {
            (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let [a, b, c, d, e, ..] = digest.to_be_bytes();
    format!("fd{a:02x}:{b:02x}{c:02x}:{d:02x}{e:02x}:ff::/64")
        .parse::<ipnet::Ipv6Net>()
        .map_or_else(|_| "fd00:ff::/64".to_owned(), |net| net.to_string())
}
