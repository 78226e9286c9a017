//! Numbers that never change: an endpoint's id is given once and kept for ever, and everything
//! about a tunnel derives from the ids of its two endpoints. Adding a gateway renumbers nothing.

use crate::spec::{
    At, Family, Foreign, ForeignTunnel, Gateway, MeshSpec, OuterAddress, Selectors, Site, SpecError,
};
use ipnet::Ipv6Net;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Tunnel numbers stay below this: 24 bits of `if_id`.
const TUNNELS: u64 = 1 << 24;
/// Ids stay below this, so that each has a BGP identifier.
const IDS: u32 = (1 << 17) - 1;

/// The ids given so far, those of endpoints that are gone included: an agent that was away may
/// still run tunnels by them, so no other endpoint gets them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// By gateway and by the endpoint's address.
    given: BTreeMap<String, BTreeMap<String, u32>>,
    /// Above all that are given.
    next: u32,
}

impl Ids {
    /// The id of a gateway's endpoint.
    pub fn get(&self, gateway: &str, endpoint: &OuterAddress) -> Option<u32> {
        self.given.get(gateway)?.get(&endpoint.to_string()).copied()
    }

    /// The id of the far end of a CHILD_SA to a foreign peer.
    pub fn get_foreign(
        &self,
        peer: &str,
        remote: &OuterAddress,
        selectors: &Selectors,
    ) -> Option<u32> {
        let (owner, address) = foreign_end(peer, remote, selectors);
        self.given.get(&owner)?.get(&address).copied()
    }

    /// The lowest id that a gateway's endpoints ever had. It stays when that endpoint goes.
    pub fn lowest(&self, gateway: &str) -> Option<u32> {
        self.given.get(gateway)?.values().min().copied()
    }

    /// The ids of an owner's ends: of a gateway, or of a foreign peer as [`Ids::iter`] names it.
    pub(crate) fn of(&self, owner: &str) -> Option<&BTreeMap<String, u32>> {
        self.given.get(owner)
    }

    /// Notes an id given earlier.
    pub fn insert(&mut self, gateway: String, address: String, id: u32) {
        self.next = self.next.max(id.saturating_add(1));
        self.given.entry(gateway).or_default().insert(address, id);
    }

    /// All: gateway, address, id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, u32)> {
        self.given.iter().flat_map(|(gateway, endpoints)| {
            let of_gateway = endpoints.iter();
            of_gateway.map(move |(address, id)| (gateway.as_str(), address.as_str(), *id))
        })
    }
}

/// As the far end of a CHILD_SA to a foreign peer is remembered. Its selectors say which it is, in
/// whatever order they stand.
fn foreign_end(peer: &str, remote: &OuterAddress, selectors: &Selectors) -> (String, String) {
    let address = match selectors.text() {
        text if text.is_empty() => remote.to_string(),
        text => format!("{remote} {text}"),
    };
    (foreign_owner(peer), address)
}

/// No gateway's name has a space.
pub(crate) fn foreign_owner(peer: &str) -> String {
    format!("foreign {peer}")
}

/// A CHILD_SA between an endpoint of ours and a foreign peer.
#[derive(Clone, Copy, Debug)]
pub struct Abroad<'m> {
    /// Our end.
    pub own: End<'m>,
    /// The peer.
    pub peer: &'m Foreign,
    /// The tunnel.
    pub tunnel: &'m ForeignTunnel,
    /// Which of the tunnel's CHILD_SAs.
    pub selectors: &'m Selectors,
    /// The id of the far end.
    pub id: u32,
}

impl Abroad<'_> {
    /// The number of its tunnel.
    pub fn number(&self) -> u64 {
        tunnel_number(self.own.id, self.id)
    }
}

/// Every CHILD_SA to foreign peers whose ends have ids, in the order of the file.
pub fn abroad<'m>(spec: &'m MeshSpec, ids: &Ids) -> Vec<Abroad<'m>> {
    let tunnels = spec.foreign.iter().flat_map(|peer| &peer.tunnels);
    let holders: HashSet<&str> = tunnels.map(|it| it.gateway.as_str()).collect();
    let gateways = spec.gateways();
    let holders: HashMap<&str, (&Site, &Gateway)> = gateways
        .map(|(site, gateway)| (gateway.name.as_str(), (site, gateway)))
        .filter(|(name, _)| holders.contains(name))
        .collect();
    children(spec, ids, |name| holders.get(name).copied())
}

/// Those of one gateway.
pub fn abroad_of<'m>(
    spec: &'m MeshSpec,
    ids: &Ids,
    (site, gateway): (&'m Site, &'m Gateway),
) -> Vec<Abroad<'m>> {
    children(spec, ids, |name| {
        (name == gateway.name.value).then_some((site, gateway))
    })
}

fn children<'m>(
    spec: &'m MeshSpec,
    ids: &Ids,
    holder: impl Fn(&str) -> Option<(&'m Site, &'m Gateway)>,
) -> Vec<Abroad<'m>> {
    let mut all = Vec::new();
    for peer in &spec.foreign {
        for tunnel in &peer.tunnels {
            let Some((site, gateway)) = holder(&tunnel.gateway) else {
                continue;
            };
            let Some(endpoint) = tunnel.endpoint(gateway) else {
                continue;
            };
            let Some(own) = ids.get(&gateway.name, endpoint) else {
                continue;
            };
            let own = End {
                site,
                gateway,
                endpoint,
                id: own,
            };
            for selectors in &tunnel.selectors {
                if let Some(id) = ids.get_foreign(&peer.name, &tunnel.remote, selectors) {
                    all.push(Abroad {
                        own,
                        peer,
                        tunnel,
                        selectors,
                        id,
                    });
                }
            }
        }
    }
    all
}

/// An endpoint with all that it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct End<'m> {
    /// Its site.
    pub site: &'m Site,
    /// Its gateway.
    pub gateway: &'m Gateway,
    /// The endpoint.
    pub endpoint: &'m At<OuterAddress>,
    /// Its id.
    pub id: u32,
}

/// Every endpoint that has an id, in the order of the file.
pub fn ends<'m>(spec: &'m MeshSpec, ids: &Ids) -> Vec<End<'m>> {
    let mut ends = Vec::new();
    for (site, gateway) in spec.gateways() {
        for endpoint in &gateway.endpoints {
            if let Some(id) = ids.get(&gateway.name, endpoint) {
                ends.push(End {
                    site,
                    gateway,
                    endpoint,
                    id,
                });
            }
        }
    }
    ends
}

/// A tunnel joins two endpoints of one family at different sites.
pub fn joined(x: &End, y: &End) -> bool {
    x.site.name != y.site.name && x.endpoint.family() == y.endpoint.family()
}

/// The tunnel of two endpoints: the index of their pair among all pairs, b(b-1)/2 + a for a < b.
pub fn tunnel_number(x: u32, y: u32) -> u64 {
    let (a, b) = (u64::from(x.min(y)), u64::from(x.max(y)));
    b * b.saturating_sub(1) / 2 + a
}

/// A tunnel's interconnect addresses: the even one is for the end with the smaller id.
pub fn interconnect(pool: Ipv6Net, tunnel: u32) -> (Ipv6Addr, Ipv6Addr) {
    let even = u128::from(pool.network()) + 2 * u128::from(tunnel);
    (even.into(), (even + 1).into())
}

/// The first UDP port of WireGuard. Those of the first two endpoints are below what Linux hands out by itself,
/// from 32768 on; the others are not, and are to be reserved (docs/wireguard.md).
const WIREGUARD_PORT: u32 = 20_000;
/// As many as there can be far endpoints.
const WIREGUARD_STRIDE: u32 = 6_000;

/// So many endpoints of a family and gateway have ports for every far end.
pub(crate) const WIREGUARD_ENDPOINTS: usize = 7;

/// The UDP port of a WireGuard tunnel at this end. A WireGuard interface has its port on all addresses
/// of its host, so no two tunnels of a gateway may have the same. It derives from the far end's id, and
/// from which of the gateway's endpoints it is, former ones included: one that has changed its address
/// mostly has new ports, so that new tunnels can be made beside the old ones. `None` beyond the last port:
/// [`MeshSpec`] has no gateway with so many endpoints of a family, nor ids so high.
pub fn wireguard_port(ids: &Ids, own: &End, far: &End) -> Option<u16> {
    let given = ids.given.get(own.gateway.name.as_str())?;
    let family = own.endpoint.family();
    let endpoints = own.gateway.endpoints.iter();
    let of_family = endpoints.filter(|it| it.family() == family);
    let mut present: Vec<u32> = of_family
        .filter_map(|it| given.get(&it.to_string()).copied())
        .collect();
    present.sort_unstable();
    let mut taken = [false; WIREGUARD_ENDPOINTS];
    for id in present.into_iter().take(WIREGUARD_ENDPOINTS) {
        let before = given.values().filter(|other| **other < id).count();
        let mut places = (before..).map(|place| place % WIREGUARD_ENDPOINTS);
        let place = places.find(|place| taken.get(*place) == Some(&false))?;
        *taken.get_mut(place)? = true;
        if id == own.id {
            let far = Some(far.id).filter(|id| *id < WIREGUARD_STRIDE)?;
            let place = u32::try_from(place).ok()?;
            return u16::try_from(WIREGUARD_PORT + place * WIREGUARD_STRIDE + far).ok();
        }
    }
    None
}

/// A gateway's BGP identifier, from 198.18.0.0/15, which nobody routes (RFC 2544). Another one would
/// end all its sessions.
pub fn router_id(lowest_id: u32) -> Ipv4Addr {
    let base = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    Ipv4Addr::from(base + (lowest_id + 1) % (1 << 17))
}

/// Gives an id to every endpoint of the specification that has none yet, in its order.
///
/// An endpoint that comes back gets the id that it had.
pub fn assign(known: &Ids, spec: &MeshSpec) -> Result<Ids, Vec<SpecError>> {
    let mut ids = known.clone();
    for (_, gateway) in spec.gateways() {
        for endpoint in &gateway.endpoints {
            let key = (gateway.name.value.clone(), endpoint.to_string());
            give(&mut ids, key, endpoint)?;
        }
    }
    for foreign in &spec.foreign {
        for tunnel in &foreign.tunnels {
            for selectors in &tunnel.selectors {
                let key = foreign_end(&foreign.name, &tunnel.remote, selectors);
                give(&mut ids, key, &tunnel.remote)?;
            }
        }
    }
    let errors = numbers(&ids, spec);
    if errors.is_empty() {
        Ok(ids)
    } else {
        Err(errors)
    }
}

fn give(
    ids: &mut Ids,
    (owner, address): (String, String),
    endpoint: &At<OuterAddress>,
) -> Result<(), Vec<SpecError>> {
    let known = ids.given.get(&owner);
    if known.is_some_and(|it| it.contains_key(&address)) {
        return Ok(());
    }
    if ids.next >= IDS {
        return Err(vec![SpecError {
            place: endpoint.place,
            reason: format!(
                "no endpoint id is left for {}: {IDS} were given",
                endpoint.value
            ),
        }]);
    }
    let id = ids.next;
    ids.insert(owner, address, id);
    Ok(())
}

/// Whether the highest tunnel number fits everything that derives from it.
fn numbers(ids: &Ids, spec: &MeshSpec) -> Vec<SpecError> {
    let too_high = |id: u32, end: &At<OuterAddress>| SpecError {
        place: end.place,
        reason: format!(
            "{} has id {id}, and its tunnels would get numbers of {TUNNELS} and more: a mesh has at most 5792 endpoints, removed ones included",
            end.value
        ),
    };
    let far = abroad(spec, ids);
    let far = far.iter().find(|it| it.number() >= TUNNELS);
    if let Some(far) = far {
        return vec![too_high(far.id, &far.tunnel.remote)];
    }
    let ends = ends(spec, ids);
    let highest = [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .filter_map(|family| highest(&ends, family))
        .max_by_key(|(number, _)| *number);
    let Some((number, end)) = highest else {
        return Vec::new();
    };
    if number >= TUNNELS {
        return vec![too_high(end.id, end.endpoint)];
    }
    let pool = spec.interconnect.value;
    let room = 1_u128 << (127 - u32::from(pool.prefix_len()));
    if u128::from(number) >= room {
        // Enough for this number and for three times as many endpoints.
        let bits = (number.max(1).ilog2() + 5).min(25);
        return vec![SpecError {
            place: spec.interconnect.place,
            reason: format!(
                "{pool} is too small: it has addresses for {room} tunnels, numbered by pairs of endpoints, and this mesh needs number {number}: use a /{} or shorter",
                128 - bits
            ),
        }];
    }
    Vec::new()
}

fn highest<'e, 'm>(ends: &'e [End<'m>], family: Family) -> Option<(u64, &'e End<'m>)> {
    let mut by_id: Vec<&End> = ends
        .iter()
        .filter(|end| end.endpoint.family() == family)
        .collect();
    by_id.sort_by_key(|end| std::cmp::Reverse(end.id));
    // The highest id wins if it has a partner at all, and then its highest partner.
    by_id.iter().enumerate().find_map(|(i, b)| {
        let a = by_id[i + 1..].iter().find(|a| joined(a, b))?;
        Some((tunnel_number(a.id, b.id), *b))
    })
}

/// How many tunnels the specification has.
pub fn tunnel_count(spec: &MeshSpec) -> u64 {
    let of = |site: &Site, family: Family| -> u64 {
        let endpoints = site.gateways.iter().flat_map(|gateway| &gateway.endpoints);
        endpoints.filter(|e| e.family() == family).count() as u64
    };
    let pairs = |family| {
        let counts: Vec<u64> = spec.sites.iter().map(|site| of(site, family)).collect();
        let all: u64 = counts.iter().sum();
        (all * all - counts.iter().map(|n| n * n).sum::<u64>()) / 2
    };
    let children = |tunnel: &ForeignTunnel| tunnel.selectors.len() as u64;
    let foreign = spec.foreign.iter().flat_map(|it| &it.tunnels);
    pairs(Family::Ipv4) + pairs(Family::Ipv6) + foreign.map(children).sum::<u64>()
}

/// Names of all gateways of the specification.
pub fn gateway_names(spec: &MeshSpec) -> BTreeSet<&str> {
    spec.gateways()
        .map(|(_, gateway)| gateway.name.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_its_own_number() {
        let numbers: BTreeSet<u64> = (0..50)
            .flat_map(|b| (0..b).map(move |a| tunnel_number(a, b)))
            .collect();
        assert_eq!(numbers.len(), 50 * 49 / 2);
        assert_eq!(numbers.last(), Some(&(50 * 49 / 2 - 1)));
        assert_eq!(tunnel_number(3, 7), tunnel_number(7, 3));
        assert!(tunnel_number(5790, 5791) < TUNNELS);
    }

    #[test]
    fn a_child_of_a_foreign_peer_has_its_number_wherever_it_stands() {
        let spec = |selectors: &str| {
            let text = format!(
                r#"
[mesh]
as = 65000
interconnect = "fd00:ff::/64"
[sites.one]
prefixes = ["10.1.0.0/16"]
gateways.A.endpoints = ["192.0.2.1"]
[foreign.cloud]
prefixes = ["10.9.0.0/16"]
[[foreign.cloud.tunnels]]
gateway = "A"
remote = "198.51.100.1"
psk = "long enough for a key"
selectors = [{selectors}]
"#
            );
            crate::spec::parse("test", &text).unwrap()
        };
        let one = r#"{ local = ["10.1.1.0/24", "10.1.2.0/24"], remote = ["10.9.0.0/17"] }"#;
        let same = r#"{ local = ["10.1.2.0/24", "10.1.1.0/24"], remote = ["10.9.0.0/17"] }"#;
        let two = r#"{ local = ["10.1.1.0/24"], remote = ["10.9.128.0/17"] }"#;
        let three = r#"{ local = ["10.1.3.0/24"], remote = ["10.9.128.0/17"] }"#;
        let mut ids = Ids::default();
        let mut numbers = |selectors: String| {
            let spec = spec(&selectors);
            ids = assign(&ids, &spec).unwrap();
            let all = abroad(&spec, &ids);
            all.iter().map(Abroad::number).collect::<Vec<_>>()
        };
        let before = numbers(format!("{one}, {two}"));
        assert_ne!(before[0], before[1]);
        let after = numbers(format!("{three}, {two}, {same}"));
        assert_eq!([after[2], after[1]], [before[0], before[1]]);
        assert!(!before.contains(&after[0]));
        assert_eq!(numbers(two.to_owned()), [before[1]]);
    }

    #[test]
    fn an_endpoint_that_changes_its_address_has_new_ports_and_none_that_another_has() {
        let mut ids = Ids::default();
        let mut ports = |changing: u32| {
            let text = format!(
                r#"
[mesh]
as = 65000
interconnect = "fd00:ff::/64"
tunnel = "wireguard"
[sites.one]
prefixes = ["10.1.0.0/16"]
gateways.A.endpoints = ["192.0.2.1", "192.0.2.{changing}"]
[sites.two]
prefixes = ["10.2.0.0/16"]
gateways.B.endpoints = ["198.51.100.1"]
"#
            );
            let spec = crate::spec::parse("test", &text).unwrap();
            ids = assign(&ids, &spec).unwrap();
            let ends = ends(&spec, &ids);
            [0, 1].map(|own| wireguard_port(&ids, &ends[own], &ends[2]).unwrap())
        };
        let [stays, mut before] = ports(101);
        let mut same = 0;
        for changing in 102..130 {
            let now = ports(changing);
            assert!(now[0] == stays && now[1] != stays, "{changing}: {now:?}");
            same += usize::from(now[1] == before);
            before = now[1];
        }
        // Where it begins again with the first.
        assert_eq!(same, 4);
    }

    #[test]
    fn addresses_are_a_pair_of_127() {
        let pool: Ipv6Net = "fd00::/64".parse().unwrap();
        let (even, odd) = interconnect(pool, 3);
        assert_eq!(
            (even.to_string(), odd.to_string()),
            ("fd00::6".to_owned(), "fd00::7".to_owned())
        );
        assert_eq!(router_id(0).to_string(), "198.18.0.1");
        assert_eq!(router_id(255).to_string(), "198.18.1.0");
    }
}
