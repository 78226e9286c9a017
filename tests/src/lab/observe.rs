//! The mesh as it looks from outside: kernel tables, sockets, BIRD. Never from our own status.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Lab;
use super::error::{LabError, Result};
use super::tables::{associations, established, routes};
use super::topology::{Gateway, prefixes, private4, private6, router};

/// The first of our interface ids.
const IF_ID: u32 = 0x5200_0000;
/// The metric of routes that carry traffic.
const METRIC: u64 = 50;
/// The metric of routes that keep traffic off the default route.
const LAST_METRIC: u64 = 0xffff_ffff;

/// A tunnel that the lab's specification asks for. `a` has the smaller endpoint id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// The pair index of the endpoint ids.
    pub number: usize,
    /// The end with the smaller id.
    pub a: Gateway,
    /// The other end.
    pub b: Gateway,
}

impl Tunnel {
    /// The interface, on both sides.
    pub fn interface(self) -> String {
        format!("rm{}", self.number)
    }

    /// The interconnect address of one end.
    pub fn address(self, end: Gateway) -> String {
        let number = 2 * self.number + usize::from(end == self.b);
        match number {
            0 => "2001:db8:ff::".to_owned(),
            _ => format!("2001:db8:ff::{number:x}"),
        }
    }

    /// The other end.
    pub fn peer(self, end: Gateway) -> Gateway {
        if end == self.a { self.b } else { self.a }
    }
}

/// Paths by prefix: the gateways, or the router on the LAN, that traffic goes to.
pub type Paths = BTreeMap<String, BTreeSet<String>>;

impl Lab {
    /// All tunnels of a full mesh between sites.
    pub fn tunnels(&self) -> Vec<Tunnel> {
        let gateways = self.topology().gateways();
        let mut tunnels = Vec::new();
        for (id_b, &b) in gateways.iter().enumerate() {
            for (id_a, &a) in gateways[..id_b].iter().enumerate() {
                if a.site != b.site {
                    let number = id_b * (id_b - 1) / 2 + id_a;
                    tunnels.push(Tunnel { number, a, b });
                }
            }
        }
        tunnels
    }

    /// The tunnels that end at a gateway.
    pub fn tunnels_of(&self, gateway: Gateway) -> Vec<Tunnel> {
        let mut tunnels = self.tunnels();
        tunnels.retain(|tunnel| tunnel.a == gateway || tunnel.b == gateway);
        tunnels
    }

    /// Checks all of a gateway's tunnel ends: interface of that kind, up and addressed; a security
    /// association each way, but for WireGuard; an established BGP session.
    pub fn check_ends(&self, gateway: Gateway, kind: &str, tunnels: &[Tunnel]) -> Result<()> {
        let overlay = self.overlay(gateway);
        let links = overlay.ip(&["address"])?;
        let sas = associations(self.underlay(gateway))?;
        let sessions = established(overlay)?;
        for tunnel in tunnels {
            let name = tunnel.interface();
            let missing =
                |what: String| LabError::Unexpected(format!("{}: {what}", overlay.name()));
            let link = links
                .iter()
                .find(|link| link["ifname"] == name.as_str())
                .ok_or_else(|| missing(format!("no interface {name}")))?;
            if link["linkinfo"]["info_kind"] != kind {
                return Err(missing(format!("{name} is not of kind {kind}: {link}")));
            }
            let flags = link["flags"].as_array().cloned().unwrap_or_default();
            if !flags.contains(&"UP".into()) {
                return Err(missing(format!("{name} is not up")));
            }
            let (own, far) = (
                tunnel.address(gateway),
                tunnel.address(tunnel.peer(gateway)),
            );
            let mut addresses = link["addr_info"].as_array().into_iter().flatten();
            if !addresses.any(|a| a["local"] == own.as_str() && a["prefixlen"] == 127) {
                return Err(missing(format!("{name} has no address {own}/127")));
            }
            if kind == "wireguard" {
                // Without keys there is no session.
            } else if kind == "xfrm" {
                let id = IF_ID + u32::try_from(tunnel.number).unwrap_or(u32::MAX);
                for direction in ["out", "in"] {
                    let found = sas.iter().any(|sa| {
                        sa.if_id == Some(id)
                            && sa.outward(&gateway.public()) == (direction == "out")
                    });
                    if !found {
                        return Err(missing(format!("no SA {direction} with if_id {id:#x}")));
                    }
                }
            } else {
                let far = tunnel.peer(gateway).public();
                for (from, to) in [(gateway.public(), far.clone()), (far, gateway.public())] {
                    if !sas.iter().any(|sa| sa.from == from && sa.to == to) {
                        return Err(missing(format!("no SA from {from} to {to}")));
                    }
                }
            }
            if !sessions.contains(&(own.clone(), far.clone())) {
                return Err(missing(format!("no BGP session {own} to {far}")));
            }
        }
        Ok(())
    }

    /// The routes of ours that carry traffic in a gateway's overlay, resolved through nexthop
    /// objects. IPv4 over anything but an IPv6 next hop is an error.
    pub fn paths(&self, gateway: Gateway) -> Result<Paths> {
        let overlay = self.overlay(gateway);
        let nexthops = overlay.ip(&["nexthop"])?;
        let by_id: BTreeMap<u64, &Value> = nexthops
            .iter()
            .filter_map(|n| Some((n["id"].as_u64()?, n)))
            .collect();
        let mut paths = Paths::new();
        for route in routes(overlay, self.vrf(gateway))? {
            if route["metric"].as_u64() != Some(METRIC) {
                continue;
            }
            let wrong =
                |what: &str| LabError::Unexpected(format!("{}: {what}: {route}", overlay.name()));
            let id = route["nhid"]
                .as_u64()
                .ok_or_else(|| wrong("no nexthop object"))?;
            let object = by_id.get(&id).ok_or_else(|| wrong("unknown nexthop"))?;
            let members: Vec<u64> = match object["group"].as_array() {
                Some(group) => group.iter().filter_map(|m| m["id"].as_u64()).collect(),
                None => vec![id],
            };
            let mut via = BTreeSet::new();
            for id in members {
                let member = by_id.get(&id).ok_or_else(|| wrong("unknown member"))?;
                let address = member["gateway"].as_str().unwrap_or_default();
                let address = address.strip_suffix("/128").unwrap_or(address);
                if !address.contains(':') {
                    return Err(wrong("a next hop that is not IPv6"));
                }
                via.insert(self.who(gateway, address, member["dev"].as_str())?);
            }
            let prefix = route["dst"].as_str().unwrap_or_default().to_owned();
            if paths.insert(prefix, via).is_some() {
                return Err(wrong("two routes of ours for one prefix"));
            }
        }
        Ok(paths)
    }

    /// The name of whoever has an address that a gateway sends to.
    fn who(&self, gateway: Gateway, address: &str, device: Option<&str>) -> Result<String> {
        if address == format!("fd00:{}::254", gateway.site) {
            return Ok(router(gateway.site));
        }
        self.tunnels_of(gateway)
            .into_iter()
            .map(|tunnel| (tunnel, tunnel.peer(gateway)))
            .find(|(tunnel, peer)| {
                tunnel.address(*peer) == address && device == Some(&tunnel.interface())
            })
            .map(|(_, peer)| peer.name())
            .ok_or_else(|| {
                LabError::Unexpected(format!(
                    "{}: next hop {address} on {device:?} is of no tunnel",
                    gateway.name()
                ))
            })
    }

    /// The paths that a gateway must have when of all gateways only `present` are in the mesh:
    /// through all of them at the owning site, and for its own site through the router.
    pub fn expected_paths(&self, gateway: Gateway, present: &[Gateway]) -> Paths {
        let mut paths = Paths::new();
        for site in self.topology().site_numbers() {
            let via: BTreeSet<String> = if site == gateway.site {
                [router(site)].into()
            } else {
                let there = present.iter().filter(|g| g.site == site);
                there.map(|g| g.name()).collect()
            };
            if !via.is_empty() {
                for prefix in prefixes(site) {
                    paths.insert(prefix, via.clone());
                }
            }
        }
        paths
    }

    /// Checks that a gateway's paths are exactly these.
    pub fn check_paths(&self, gateway: Gateway, expected: &Paths) -> Result<()> {
        let paths = self.paths(gateway)?;
        if paths == *expected {
            return Ok(());
        }
        let name = gateway.name();
        Err(LabError::Unexpected(format!(
            "{name} has paths {paths:?}, not {expected:?}"
        )))
    }

    /// Checks that every prefix of another site has its `unreachable` route of last resort.
    pub fn check_fail_closed(&self, gateway: Gateway) -> Result<()> {
        let overlay = self.overlay(gateway);
        let routes = routes(overlay, self.vrf(gateway))?;
        let others = self
            .topology()
            .site_numbers()
            .filter(|s| *s != gateway.site);
        for prefix in others.flat_map(prefixes) {
            let last_resort = |r: &&Value| {
                r["dst"] == prefix.as_str()
                    && r["type"] == "unreachable"
                    && r["metric"].as_u64() == Some(LAST_METRIC)
            };
            if routes.iter().find(last_resort).is_none() {
                return Err(LabError::Unexpected(format!(
                    "{}: no unreachable route for {prefix}",
                    overlay.name()
                )));
            }
        }
        Ok(())
    }

    /// Checks that a router's BIRD and its kernel hold so many paths to a prefix.
    pub fn check_router(&self, site: usize, prefix: &str, wanted: usize) -> Result<()> {
        let name = router(site);
        let in_bird = self.bird(site).paths(prefix)?;
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        let routes = self.router(site).ip(&[family, "route", "show", prefix])?;
        let in_kernel: usize = routes
            .iter()
            .map(|r| r["nexthops"].as_array().map_or(1, Vec::len))
            .sum();
        if (in_bird, in_kernel) == (wanted, wanted) {
            return Ok(());
        }
        Err(LabError::Unexpected(format!(
            "{name}: {prefix}: {in_bird} paths in BIRD, {in_kernel} in the kernel, not {wanted}"
        )))
    }

    /// Pings from one site's private address to another's, in both families.
    pub fn ping(&self, from: usize, to: usize) -> Result<()> {
        for (source, target) in [
            (private6(from), private6(to)),
            (private4(from), private4(to)),
        ] {
            let words = ["ping", "-n", "-c1", "-W2", "-I", &source, &target];
            self.router(from).run(&words)?;
        }
        Ok(())
    }

    /// Packets that a gateway sent into each of its tunnels so far.
    pub fn sent_into_tunnels(&self, gateway: Gateway) -> Result<BTreeMap<String, u64>> {
        let overlay = self.overlay(gateway);
        // The ninth number after the name, of a table that needs no program to be read.
        let table = overlay.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?;
        let table = table.map_err(LabError::io("/proc/thread-self/net/dev"))?;
        let counts = table.lines().filter_map(|line| {
            let (name, numbers) = line.split_once(':')?;
            let sent = numbers.split_whitespace().nth(9)?.parse().ok()?;
            Some((name.trim().to_owned(), sent))
        });
        Ok(counts.filter(|(name, _)| name.starts_with("rm")).collect())
    }

    /// What of a gateway must outlive its agent: interfaces with their numbers and addresses,
    /// nexthops, routes, keys. Two of these can be compared as text.
    pub fn kernel_state(&self, gateway: Gateway) -> Result<BTreeSet<String>> {
        let overlay = self.overlay(gateway);
        let mut state = BTreeSet::new();
        for link in overlay.ip(&["address"])? {
            let name = link["ifname"].as_str().unwrap_or_default();
            if name.starts_with("rm") {
                state.insert(format!("link {name} index {}", link["ifindex"]));
                for address in link["addr_info"].as_array().into_iter().flatten() {
                    state.insert(format!("address {} on {name}", address["local"]));
                }
            }
        }
        for nexthop in overlay.ip(&["nexthop"])? {
            let key = ["id", "group", "gateway", "dev"].map(|key| nexthop[key].to_string());
            state.insert(format!("nexthop {}", key.join(" ")));
        }
        for route in routes(overlay, self.vrf(gateway))? {
            let key = ["dst", "type", "metric", "nhid"].map(|key| route[key].to_string());
            state.insert(format!("route {}", key.join(" ")));
        }
        for sa in associations(self.underlay(gateway))? {
            state.insert(format!("sa {} {} {}", sa.from, sa.to, sa.spi));
        }
        Ok(state)
    }
}
