//! What the kernel's packet filter is to hold, in nft's words. Pure.
//!
//! A packet's way through it costs the same however many tunnels there are: interfaces are found by
//! hash, prefixes in sorted sets of their site. What differs by tunnel is in sets and maps only.

mod overlay;
mod underlay;

pub use overlay::overlay;
pub use underlay::underlay;

use crate::config::Mode;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overlay};
    use crate::nat::Nat;
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
            let table =
                underlay(&config, &Nat::default(), &known).with(overlay(&config, &leftovers));
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
