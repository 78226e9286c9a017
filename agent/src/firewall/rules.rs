//! What the kernel's packet filter is to hold, in nft's words. Pure.
//!
//! A packet's way through it costs the same however many tunnels there are: interfaces are found by
//! hash, prefixes in sorted sets of their site. What differs by tunnel is in sets and maps only.

use crate::config::{Config, Mode, Tunnel};
use ipnet::IpNet;
use routemesh_proto::Transport;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;

/// The table, in each namespace and of family `inet`.
pub const TABLE: &str = "routemesh";
/// Sets that packets fill. What is in them is no matter of comparison.
pub const DYNAMIC: [&str; 2] = ["asked_ip4", "asked_ip6"];

/// Before the host's own filter, whose base chains are at `filter`: what is refused here is counted
/// here, and what passes here is judged there as well.
const PRIORITY: &str = "filter - 10";

/// Packets and bytes of a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A counter of the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// IKE, ESP or WireGuard from an address that is no endpoint.
    Stranger,
    /// Of a tunnel, by interface.
    Tunnel(String, Reason),
}

/// Why a packet of a tunnel is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// From the tunnel, and the far site does not own its source.
    Spoofed,
    /// From the tunnel, and this site does not own its destination.
    NotHere,
    /// From the tunnel to this gateway, for no service that is open.
    Closed,
    /// To the tunnel, and this site does not own its source.
    NotOurs,
    /// To the tunnel, and the far site does not own its destination.
    NotThere,
}

impl Reason {
    /// All.
    pub const ALL: [Self; 5] = [
        Self::Spoofed,
        Self::NotHere,
        Self::Closed,
        Self::NotOurs,
        Self::NotThere,
    ];

    fn key(self) -> &'static str {
        match self {
            Self::Spoofed => "spoofed",
            Self::NotHere => "not_here",
            Self::Closed => "closed",
            Self::NotOurs => "not_ours",
            Self::NotThere => "not_there",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Spoofed => "in: source not of the far site",
            Self::NotHere => "in: destination not of this site",
            Self::Closed => "in: no open service of the gateway",
            Self::NotOurs => "out: source not of this site",
            Self::NotThere => "out: destination not of the far site",
        }
    }
}

const STRANGER: &str = "ipsec_stranger";

impl Counter {
    /// Its name in the table.
    pub fn name(&self) -> String {
        match self {
            Self::Stranger => STRANGER.to_owned(),
            Self::Tunnel(link, reason) => format!("{link}_{}", reason.key()),
        }
    }

    /// For people: what it counts.
    pub fn text(&self) -> &'static str {
        match self {
            Self::Stranger => "IKE, ESP or WireGuard from an address that is no endpoint",
            Self::Tunnel(_, reason) => reason.text(),
        }
    }

    /// The counter of this name.
    pub fn named(name: &str) -> Option<Self> {
        if name == STRANGER {
            return Some(Self::Stranger);
        }
        let (link, key) = name.split_once('_')?;
        let reason = Reason::ALL.into_iter().find(|it| it.key() == key)?;
        Some(Self::Tunnel(link.to_owned(), reason))
    }
}

/// One namespace's table, without the values of its counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    counters: BTreeSet<Counter>,
    body: String,
}

impl Table {
    /// The whole transaction: the table as it is to be, whatever was there, but for what its
    /// counters have counted.
    pub fn script(&self, counted: &BTreeMap<Counter, Count>) -> String {
        let mut script = format!("{}\ntable inet {TABLE} {{\n", remove());
        for counter in &self.counters {
            let Count { packets, bytes } = counted.get(counter).copied().unwrap_or_default();
            let name = counter.name();
            let line = format!("\tcounter {name} {{ packets {packets} bytes {bytes} }}\n");
            script.push_str(&line);
        }
        script.push_str(&self.body);
        script.push_str("}\n");
        script
    }

    /// Both in one.
    pub fn with(mut self, other: Self) -> Self {
        self.counters.extend(other.counters);
        self.body.push_str(&other.body);
        self
    }

    fn set(&mut self, name: &str, kind: &str, elements: &[impl Display]) {
        self.block(&format!("set {name}"), kind, elements);
    }

    fn map(&mut self, name: &str, kind: &str, elements: &[impl Display]) {
        self.block(&format!("map {name}"), kind, elements);
    }

    fn block(&mut self, what: &str, kind: &str, elements: &[impl Display]) {
        self.body
            .push_str(&format!("\t{what} {{\n\t\ttype {kind}\n"));
        if !elements.is_empty() {
            let elements: Vec<String> = elements.iter().map(ToString::to_string).collect();
            let elements = elements.join(",\n\t\t\t");
            let line = format!("\t\telements = {{\n\t\t\t{elements}\n\t\t}}\n");
            self.body.push_str(&line);
        }
        self.body.push_str("\t}\n");
    }

    /// Sets of both families.
    fn prefixes(&mut self, name: &str, prefixes: &[IpNet]) {
        // nft takes no two elements that overlap.
        let prefixes = IpNet::aggregate(&prefixes.to_vec());
        let (four, six): (Vec<IpNet>, _) = prefixes.iter().partition(|net| net.addr().is_ipv4());
        self.set(&format!("{name}_ip4"), "ipv4_addr; flags interval", &four);
        self.set(&format!("{name}_ip6"), "ipv6_addr; flags interval", &six);
    }

    fn chain(&mut self, name: &str, rules: &[&str]) {
        self.body.push_str(&format!("\tchain {name} {{\n"));
        for rule in rules {
            self.body.push_str(&format!("\t\t{rule}\n"));
        }
        self.body.push_str("\t}\n");
    }

    fn base_chain(&mut self, name: &str, hook: &str, rules: &[String]) {
        let hook = format!("type filter hook {hook} priority {PRIORITY}; policy accept;");
        let rules = rules.iter().map(String::as_str);
        let rules: Vec<&str> = [hook.as_str()].into_iter().chain(rules).collect();
        self.chain(name, &rules);
    }
}

/// Removes the table, if it is there.
pub fn remove() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}")
}

fn refuse(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "drop",
        Mode::Observe | Mode::Off => "accept",
    }
}

/// For the side of the public addresses: IKE, ESP and WireGuard come from endpoints only. `known` are the
/// addresses of those that are not written as an address.
pub fn underlay(config: &Config, known: &BTreeSet<IpAddr>) -> Table {
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
    let wireguard: BTreeMap<u16, IpAddr> = config
        .tunnels
        .values()
        .filter_map(|it| it.wireguard.as_ref())
        .map(|it| (it.local.port(), it.local.ip()))
        .collect();
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
/// far end. What it sends is from the tunnel's endpoint, and is routed by that: a rule of the host about
/// what comes from an address sees it.
fn wireguard_ports(table: &mut Table, ports: &BTreeMap<u16, IpAddr>) {
    let all: Vec<&u16> = ports.keys().collect();
    table.set("wireguard_ports", "inet_service", &all);
    let mut output = vec![format!(
        "type route hook output priority {PRIORITY}; policy accept;"
    )];
    for (v4, name, ip) in [(true, "ip4", "ip"), (false, "ip6", "ip6")] {
        let of_family = ports.iter().filter(|(_, address)| address.is_ipv4() == v4);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overlay;
    use crate::state_dir::read_config;
    use std::path::Path;

    /// `RENEW_GOLDEN=1` writes them anew: read the difference before it is committed.
    #[test]
    fn what_the_table_holds_is_as_was_read() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let blue = || Overlay::Vrf("blue".into());
        let examples = [
            ("three-sites", "V1-1", Overlay::Own),
            ("as-per-site", "rome-1", Overlay::Own),
            ("as-per-site", "rome-1", blue()),
            ("oracle", "home-1", Overlay::Own),
            ("oracle", "home-1", blue()),
            ("oracle", "shop-1", Overlay::Own),
            ("aws", "office-1", Overlay::Own),
            ("wireguard", "lyon-1", Overlay::Own),
            ("wireguard", "oslo-2", Overlay::Own),
        ];
        for (example, gateway, place) in examples {
            let file = root.join(format!("../tests/golden/{example}/{gateway}.toml"));
            let mut config = Config::try_from(&read_config(&file).unwrap()).unwrap();
            let vrf = if place.is_vrf() { "-vrf" } else { "" };
            config.overlay = place;
            let known = ["198.51.100.7".parse().unwrap()].into();
            let leftovers = ["rm999".to_owned()].into();
            let table = underlay(&config, &known).with(overlay(&config, &leftovers));
            let now = table.script(&BTreeMap::new());
            let golden = root.join(format!("src/firewall/golden/{example}-{gateway}{vrf}.nft"));
            if std::env::var_os("RENEW_GOLDEN").is_some() {
                std::fs::write(&golden, &now).unwrap();
            }
            let kept = std::fs::read_to_string(&golden).unwrap();
            assert!(kept == now, "{} is another by now", golden.display());
        }
    }

    #[test]
    fn a_counter_is_known_by_its_name() {
        let tunnel = |reason| Counter::Tunnel("rm16777215".into(), reason);
        let all = Reason::ALL
            .map(tunnel)
            .into_iter()
            .chain([Counter::Stranger]);
        for counter in all {
            let name = counter.name();
            assert!(name.len() < 128, "NFT_OBJ_MAXNAMELEN");
            assert_eq!(Counter::named(&name), Some(counter));
        }
        assert_eq!(Counter::named("rm3_other"), None);
    }
}
