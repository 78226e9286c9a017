//! The side of the public addresses: who may send what tunnels are made of.

use super::{Counter, PRIORITY, STRANGER, Table, refuse};
use crate::config::{Config, Tunnel};
use crate::nat::Nat;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// For the side of the public addresses: IKE, ESP and WireGuard come from endpoints only. `known` are the
/// addresses of those that are not written as an address.
pub fn underlay(config: &Config, nat: &Nat, known: &BTreeSet<IpAddr>) -> Table {
    let mut table = Table::default();
    table.counters.insert(Counter::Stranger);
    let written = config.tunnels.values();
    let written = written.filter_map(|tunnel| tunnel.remote_endpoint.parse::<IpAddr>().ok());
    let addresses = written.chain(known.iter().copied()).map(IpNet::from);
    let all: Vec<IpNet> = addresses.chain(config.ipsec_from.iter().copied()).collect();
    table.prefixes("endpoints", &all);
    table.chain(
        "from_underlay",
        &[
            "ip saddr @endpoints_ip4 accept",
            "ip6 saddr @endpoints_ip6 accept",
            &format!("counter name {STRANGER}"),
            refuse(config.firewall),
        ],
    );
    let wireguard = config.tunnels.values().filter_map(|tunnel| {
        let local = tunnel.wireguard.as_ref()?.local;
        // Behind NAT it is the routes that say which address stands for the endpoint.
        let own = (!nat.translates(tunnel)).then_some(local.ip());
        Some((local.port(), own))
    });
    let wireguard: BTreeMap<u16, Option<IpAddr>> = wireguard.collect();
    let mut input = Vec::new();
    // Where none of its tunnels needs them, they are the host's own business.
    if config.tunnels.is_empty() || config.tunnels.values().any(Tunnel::is_ipsec) {
        input.push("meta l4proto esp goto from_underlay".to_owned());
        input.push("udp dport { 500, 4500 } goto from_underlay".to_owned());
    }
    if !wireguard.is_empty() {
        input.push("udp dport @wireguard_ports goto from_underlay".to_owned());
        wireguard_ports(&mut table, &wireguard);
    }
    table.base_chain("underlay_input", "input", &input);
    table
}

/// WireGuard leaves it to the routes which address of the host it sends from, until it has heard of the
/// far end. What it sends is from the tunnel's endpoint, where the host has that, and is routed by it: a rule of
/// the host about what comes from an address sees it.
fn wireguard_ports(table: &mut Table, ports: &BTreeMap<u16, Option<IpAddr>>) {
    let all: Vec<&u16> = ports.keys().collect();
    table.set("wireguard_ports", "inet_service", &all);
    let mut output = vec![format!(
        "type route hook output priority {PRIORITY}; policy accept;"
    )];
    for (v4, name, ip) in [(true, "ip4", "ip"), (false, "ip6", "ip6")] {
        let known = ports.iter().filter_map(|(port, own)| Some((port, (*own)?)));
        let of_family = known.filter(|(_, address)| address.is_ipv4() == v4);
        let elements: Vec<String> = of_family
            .map(|(port, address)| format!("{port} : {address}"))
            .collect();
        let kind = if v4 { "ipv4_addr" } else { "ipv6_addr" };
        let map = format!("wireguard_{name}");
        table.map(&map, &format!("inet_service : {kind}"), &elements);
        output.push(format!("{ip} saddr set udp sport map @{map}"));
    }
    let output: Vec<&str> = output.iter().map(String::as_str).collect();
    table.chain("underlay_output", &output);
}
