//! The private side: what may pass between a tunnel and this site, and what of the gateway may be used.

use super::{Counter, DYNAMIC, Reason, Table, refuse};
use crate::config::{Config, Tunnel};
use ipnet::IpNet;
use routemesh_proto::Transport;
use std::collections::{BTreeMap, BTreeSet};

/// For the private side. `leftovers` are interfaces of tunnels that the config does not name any
/// more: nothing passes them.
pub fn overlay(config: &Config, leftovers: &BTreeSet<String>) -> Table {
    let mut table = Table::default();
    let refuse = refuse(config.firewall);
    let vrf = config.overlay.is_vrf();
    // What comes by an interface of a VRF comes by the VRF, for all that sees it after routing.
    let came_by = if vrf { "meta sdifname" } else { "iifname" };
    let sites = sites(config);
    links(&mut table, config, leftovers, &sites);
    let nears = nears(config);
    let owned: Vec<IpNet> = config.sites.values().flatten().copied().collect();
    table.prefixes("own", config.owned());
    table.prefixes("mesh", &owned);
    services(&mut table, config);

    let mut by_number: Vec<_> = sites.iter().collect();
    by_number.sort_by_key(|(_, name)| (name.len(), name.as_str()));
    for (beyond, name) in by_number {
        table.prefixes(name, beyond);
        let (from4, from6) = (
            format!("ip saddr @{name}_ip4 return"),
            format!("ip6 saddr @{name}_ip6 return"),
        );
        table.chain(
            &format!("from_{name}"),
            &[&from4, &from6, "goto is_spoofed"],
        );
        let (to4, to6) = (
            format!("ip daddr @{name}_ip4 return"),
            format!("ip6 daddr @{name}_ip6 return"),
        );
        table.chain(&format!("to_{name}"), &[&to4, &to6, "goto is_not_there"]);
    }
    // A counter that the map does not have ends its rule: the verdict stands by itself.
    let counted = |direction: &str, reason: Reason| {
        format!("counter name {direction} map @count_{}", reason.key())
    };
    table.chain("icmp_errors", &ERRORS);
    table.chain(
        "is_spoofed",
        &[
            "jump icmp_errors",
            &counted(came_by, Reason::Spoofed),
            refuse,
        ],
    );
    table.chain("is_not_here", &[&counted(came_by, Reason::NotHere), refuse]);
    table.chain(
        "is_not_there",
        &[&counted("oifname", Reason::NotThere), refuse],
    );
    table.chain("open_services", &SERVICES);
    table.chain(
        "is_not_ours",
        &[
            "jump icmp_errors",
            &counted("oifname", Reason::NotOurs),
            refuse,
        ],
    );
    let by_source = format!("{came_by} vmap @by_source");
    let into_near = format!("{came_by} vmap @into_near");
    let (mut into, mut out_of) = (Vec::new(), Vec::new());
    if !nears.is_empty() {
        near(&mut table, &nears, &by_source);
        into.push(into_near.as_str());
        out_of.push("oifname vmap @out_of_near");
    }
    let from = [
        "ip daddr != @own_ip4 goto is_not_here",
        "ip6 daddr != @own_ip6 goto is_not_here",
        &by_source,
    ];
    table.chain("from_tunnel", &[into, from.to_vec()].concat());
    let to = [
        "ip saddr @own_ip4 accept",
        "ip6 saddr @own_ip6 accept",
        "goto is_not_ours",
    ];
    let judged = vec!["oifname vmap @by_destination"];
    table.chain("to_tunnel", &[judged, out_of, to.to_vec()].concat());
    table.chain(
        "to_gateway",
        &[
            &format!("{came_by} . ip6 saddr @far_gateways goto from_gateway"),
            &format!("{came_by} . ip saddr @far_gateways_ip4 goto from_gateway"),
            &by_source,
            "goto for_services",
        ],
    );
    table.chain(
        "from_gateway",
        &[
            "tcp dport 179 accept",
            "udp dport 3784 accept",
            "goto for_services",
        ],
    );
    table.chain(
        "for_services",
        &[
            "jump open_services",
            &counted(came_by, Reason::Closed),
            refuse,
        ],
    );
    let mut forward = vec![
        "oifname @tunnel_links tcp flags syn / syn,rst tcp option maxseg size set rt mtu"
            .to_owned(),
        format!("{came_by} @tunnel_links jump from_tunnel"),
    ];
    let mut input = vec![format!("{came_by} @tunnel_links goto to_gateway")];
    if vrf {
        // From a tunnel whose interface somebody has taken out of the VRF, nothing, however the rest is
        // judged: it is among the public ones. Neighbour discovery comes by the interface itself at any time.
        forward.push("iifname @tunnel_links drop".to_owned());
        let others = "icmpv6 type != { nd-neighbor-solicit, nd-neighbor-advert }";
        input.push(format!("iifname @tunnel_links {others} drop"));
        input.push("iifname @tunnel_links meta l4proto != ipv6-icmp drop".to_owned());
    }
    forward.push("oifname @tunnel_links jump to_tunnel".to_owned());
    table.base_chain("overlay_forward", "forward", &forward);
    table.base_chain("overlay_input", "input", &input);
    table.base_chain(
        "overlay_output",
        "output",
        &[
            "oifname @tunnel_links meta l4proto udp udp dport != 3784 jump remember_asked"
                .to_owned(),
        ],
    );
    table
}

/// Errors about packets of ours come from routers on their way, whose addresses are often no
/// site's: without them, path MTU discovery and traceroute fail. From an address that some other
/// site owns they are as forged as any other packet.
const ERRORS: [&str; 3] = [
    "ip saddr != @mesh_ip4 icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
    "ip6 saddr != @mesh_ip6 icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept",
    // What IPv6 does on every link: it means something on this link only.
    "ip6 saddr { ::, fe80::/10 } meta l4proto ipv6-icmp accept",
];

/// Without connection tracking, which would come to life for all that the host forwards: a segment
/// that opens nothing belongs to a connection of ours or is refused by TCP itself, and a datagram
/// that answers one of ours is remembered for.
const SERVICES: [&str; 7] = [
    // IPv6 is put together after this hook, and without its first fragment it never is.
    "frag frag-off != 0 accept",
    "meta l4proto { icmp, ipv6-icmp } accept",
    "tcp flags & (syn | ack) != syn accept",
    "tcp dport @open_tcp accept",
    "udp dport @open_udp accept",
    "ip saddr . udp sport . udp dport @asked_ip4 accept",
    "ip6 saddr . udp sport . udp dport @asked_ip6 accept",
];

/// Names for what is on the far sides of tunnels, that stand for it in the table: site names may hold
/// what nft's may not, and more than one site may be there.
fn sites(config: &Config) -> BTreeMap<Vec<IpNet>, String> {
    let tunnels = config.tunnels.values();
    let mut by_name: Vec<(&str, Vec<IpNet>)> = tunnels
        .map(|it| (it.peer_site.as_str(), config.beyond(it)))
        .collect();
    by_name.sort();
    let mut names = BTreeMap::new();
    for (_, beyond) in by_name {
        let name = format!("site{}", names.len());
        names.entry(beyond).or_insert(name);
    }
    names
}

/// What is on this side of tunnels, where that is other than what this site owns, with a name that
/// stands for it and the interfaces.
fn nears(config: &Config) -> BTreeMap<Vec<IpNet>, (String, Vec<String>)> {
    let mut nears: BTreeMap<Vec<IpNet>, (String, Vec<String>)> = BTreeMap::new();
    for tunnel in config.tunnels.values() {
        let before = config.before(tunnel);
        if before != config.owned() {
            let name = format!("near{}", nears.len());
            let of_new = || (name, Vec::new());
            let (_, links) = nears.entry(before).or_insert_with(of_new);
            links.push(tunnel.link());
        }
    }
    nears
}

/// What these are judged by.
fn near(table: &mut Table, nears: &BTreeMap<Vec<IpNet>, (String, Vec<String>)>, by_source: &str) {
    table.chain("from_there", &[by_source]);
    for (prefixes, (name, _)) in nears {
        table.prefixes(name, prefixes);
        let (to4, to6) = (
            format!("ip daddr @{name}_ip4 goto from_there"),
            format!("ip6 daddr @{name}_ip6 goto from_there"),
        );
        table.chain(&format!("into_{name}"), &[&to4, &to6, "goto is_not_here"]);
        let (from4, from6) = (
            format!("ip saddr @{name}_ip4 accept"),
            format!("ip6 saddr @{name}_ip6 accept"),
        );
        let rules = [&*from4, &*from6, "goto is_not_ours"];
        table.chain(&format!("out_of_{name}"), &rules);
    }
    for direction in ["into", "out_of"] {
        let of = nears.values().flat_map(|(name, links)| {
            let judge = move |link: &String| format!("\"{link}\" : goto {direction}_{name}");
            links.iter().map(judge)
        });
        let elements: Vec<String> = of.collect();
        table.map(&format!("{direction}_near"), "ifname : verdict", &elements);
    }
}

/// What is known of each interface.
fn links(
    table: &mut Table,
    config: &Config,
    leftovers: &BTreeSet<String>,
    sites: &BTreeMap<Vec<IpNet>, String>,
) {
    let tunnels: BTreeMap<String, &Tunnel> = config
        .tunnels
        .values()
        .map(|tunnel| (tunnel.link(), tunnel))
        .collect();
    let leftovers: BTreeSet<&String> = leftovers
        .iter()
        .filter(|link| !tunnels.contains_key(*link))
        .collect();
    let of_each = |tell: &dyn Fn(&str, &Tunnel) -> String| -> Vec<String> {
        tunnels
            .iter()
            .map(|(link, tunnel)| tell(link, tunnel))
            .collect()
    };
    let judged = |direction: &str| -> Vec<String> {
        let judge = |link: &str, tunnel: &Tunnel| {
            let site = sites.get(&config.beyond(tunnel));
            let site = site.map_or("", String::as_str);
            format!("\"{link}\" : jump {direction}_{site}")
        };
        let shut = leftovers
            .iter()
            .map(|link| format!("\"{link}\" : {}", refuse(config.firewall)));
        of_each(&judge).into_iter().chain(shut).collect()
    };
    let names = tunnels.keys().chain(leftovers.iter().copied());
    let names: Vec<String> = names.map(|link| format!("\"{link}\"")).collect();
    table.set("tunnel_links", "ifname", &names);
    let gateways = |v4: bool| -> Vec<String> {
        let gateway = |(link, tunnel): (&String, &&Tunnel)| {
            let far = tunnel.far_address().filter(|it| it.is_ipv4() == v4)?;
            Some(format!("\"{link}\" . {far}"))
        };
        tunnels.iter().filter_map(gateway).collect()
    };
    table.set("far_gateways", "ifname . ipv6_addr", &gateways(false));
    table.set("far_gateways_ip4", "ifname . ipv4_addr", &gateways(true));
    table.map("by_source", "ifname : verdict", &judged("from"));
    table.map("by_destination", "ifname : verdict", &judged("to"));
    for reason in Reason::ALL {
        let counter = |link: &str| Counter::Tunnel(link.to_owned(), reason);
        let elements = of_each(&|link, _| format!("\"{link}\" : \"{}\"", counter(link).name()));
        let map = format!("count_{}", reason.key());
        table.map(&map, "ifname : counter", &elements);
        table
            .counters
            .extend(tunnels.keys().map(|link| counter(link)));
    }
}

/// What is open, and what was asked over the tunnels and is to be answered.
fn services(table: &mut Table, config: &Config) {
    for (transport, name) in [(Transport::Tcp, "tcp"), (Transport::Udp, "udp")] {
        let of = config
            .services
            .iter()
            .filter(|it| it.transport == transport);
        let ports: Vec<String> = of.map(|it| it.ports()).collect();
        let kind = "inet_service; flags interval; auto-merge";
        table.set(&format!("open_{name}"), kind, &ports);
    }
    for (name, address) in DYNAMIC.iter().zip(["ipv4_addr", "ipv6_addr"]) {
        let kind = format!(
            "{address} . inet_service . inet_service; size 65535; flags dynamic,timeout; timeout 1m"
        );
        table.set(name, &kind, &[] as &[&str]);
    }
    table.chain(
        "remember_asked",
        &[
            "update @asked_ip4 { ip daddr . udp dport . udp sport }",
            "update @asked_ip6 { ip6 daddr . udp dport . udp sport }",
        ],
    );
}
