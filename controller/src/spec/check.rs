//! What must fit together in a specification.

use super::place::{At, Place, SpecError};
use super::tunnel;
use super::{
    Family, Foreign, Gateway, MeshSpec, OuterAddress, Router, Site, Whereabouts, foreign_check,
};
use ipnet::IpNet;
use std::collections::HashMap;

/// Everything that does not fit.
pub(super) fn check(spec: &MeshSpec) -> Vec<SpecError> {
    let claims = claims(spec);
    let mut errors = names(spec);
    errors.extend(overlaps(&claims));
    errors.extend(endpoints_twice(spec));
    errors.extend(locals(spec));
    errors.extend(endpoints_inside(spec, &claims));
    errors.extend(no_common_family(spec));
    errors.extend(tables_of_vrfs(spec));
    errors.extend(routers(spec, &claims));
    errors.extend(tunnel::check(spec));
    errors.extend(foreign_check::check(spec));
    errors
}

pub(super) fn error(place: Place, reason: String) -> SpecError {
    SpecError { place, reason }
}

/// A prefix and who has it.
struct Claim<'s> {
    net: IpNet,
    place: Place,
    owner: Owner<'s>,
}

#[derive(Clone, Copy)]
enum Owner<'s> {
    Site(&'s Site),
    Foreign(&'s Foreign),
    Interconnect,
}

impl Owner<'_> {
    fn is(self, other: Self) -> bool {
        match (self, other) {
            (Self::Site(a), Self::Site(b)) => a.name == b.name,
            (Self::Foreign(a), Self::Foreign(b)) => a.name == b.name,
            _ => false,
        }
    }
}

impl Claim<'_> {
    fn owner(&self) -> String {
        match self.owner {
            Owner::Site(site) => format!("site {}", site.name.value),
            Owner::Foreign(foreign) => format!("foreign {}", foreign.name.value),
            Owner::Interconnect => "the interconnect".to_owned(),
        }
    }

    fn is_of(&self, site: &Site) -> bool {
        self.owner.is(Owner::Site(site))
    }
}

fn claims(spec: &MeshSpec) -> Vec<Claim<'_>> {
    let of_sites = spec.sites.iter().flat_map(|site| {
        site.prefixes.iter().map(move |net| Claim {
            net: net.value,
            place: net.place,
            owner: Owner::Site(site),
        })
    });
    let of_foreign = spec.foreign.iter().flat_map(|foreign| {
        foreign.prefixes.iter().map(move |net| Claim {
            net: net.value,
            place: net.place,
            owner: Owner::Foreign(foreign),
        })
    });
    let interconnect = Claim {
        net: IpNet::V6(spec.interconnect.value),
        place: spec.interconnect.place,
        owner: Owner::Interconnect,
    };
    of_sites.chain(of_foreign).chain([interconnect]).collect()
}

/// Names that are one when case is ignored, as it is in certificates and by some file systems.
fn names(spec: &MeshSpec) -> Vec<SpecError> {
    let sites: Vec<_> = spec.sites.iter().map(|site| ("site", &site.name)).collect();
    let gateways: Vec<_> = spec
        .gateways()
        .map(|(_, gateway)| ("gateway", &gateway.name))
        .collect();
    let mut errors = Vec::new();
    for names in [sites, gateways] {
        let mut seen: HashMap<String, &At<String>> = HashMap::new();
        for (what, name) in names {
            match seen.get(&name.to_ascii_lowercase()) {
                Some(first) => errors.push(error(
                    name.place,
                    format!(
                        "{what} {} is already {} on line {}: names are unique in the whole mesh, whatever their case",
                        name.value, first.value, first.place.line
                    ),
                )),
                None => {
                    seen.insert(name.to_ascii_lowercase(), name);
                }
            }
        }
    }
    errors
}

/// Prefixes of two owners that overlap, and those written twice.
fn overlaps(claims: &[Claim]) -> Vec<SpecError> {
    let mut sorted: Vec<&Claim> = claims.iter().collect();
    sorted.sort_by_key(|claim| (claim.net, claim.place));
    let mut covering: Vec<&Claim> = Vec::new();
    let mut errors = Vec::new();
    for claim in sorted {
        while covering
            .pop_if(|outer| !outer.net.contains(&claim.net))
            .is_some()
        {}
        let foreign = |outer: &&&Claim| !outer.owner.is(claim.owner);
        let twice = |outer: &&&Claim| outer.net == claim.net;
        let by_other = covering.iter().rev().find(foreign);
        if let Some(outer) = by_other.or(covering.iter().rev().find(twice)) {
            let (first, second) = if outer.place < claim.place {
                (*outer, claim)
            } else {
                (claim, *outer)
            };
            let cure = if by_other.is_none() {
                "remove one"
            } else {
                match (first.owner, second.owner) {
                    (Owner::Interconnect, _) | (_, Owner::Interconnect) => {
                        "choose another interconnect"
                    }
                    (Owner::Site(_), Owner::Site(_)) => "a prefix belongs to one site",
                    _ => "a prefix belongs to one site or foreign peer",
                }
            };
            errors.push(error(
                second.place,
                format!(
                    "{} of {} overlaps {} of {} on line {}: {cure}",
                    second.net,
                    second.owner(),
                    first.net,
                    first.owner(),
                    first.place.line
                ),
            ));
        }
        covering.push(claim);
    }
    errors
}

fn endpoints(spec: &MeshSpec) -> impl Iterator<Item = (&Site, &Gateway, &At<OuterAddress>)> {
    spec.gateways().flat_map(|(site, gateway)| {
        let of_gateway = gateway.endpoints.iter();
        of_gateway.map(move |endpoint| (site, gateway, endpoint))
    })
}

fn endpoints_twice(spec: &MeshSpec) -> Vec<SpecError> {
    let mut seen: HashMap<&OuterAddress, (&Gateway, Place)> = HashMap::new();
    let mut errors = Vec::new();
    for (_, gateway, endpoint) in endpoints(spec) {
        match seen.get(&endpoint.value) {
            Some((first, place)) => errors.push(error(
                endpoint.place,
                format!(
                    "{} is already an endpoint of gateway {} on line {}: every endpoint has its own address",
                    endpoint.value, first.name.value, place.line
                ),
            )),
            None => {
                seen.insert(&endpoint.value, (gateway, endpoint.place));
            }
        }
    }
    errors
}

/// Own addresses by which endpoints behind NAT cannot be told apart, or that no packet to them can have.
fn locals(spec: &MeshSpec) -> Vec<SpecError> {
    let mut errors = Vec::new();
    for (_, gateway) in spec.gateways() {
        for (number, (endpoint, local)) in gateway.locals.iter().enumerate() {
            let (address, own) = (local.value, OuterAddress::Literal(local.value));
            if own.family() != endpoint.family() {
                errors.push(error(
                    local.place,
                    format!(
                        "local {address} is not of the family of endpoint {endpoint}: give the host's own {} address behind it",
                        endpoint.family()
                    ),
                ));
            }
            let before = gateway.locals.iter().take(number);
            let mut same = before.filter(|(_, it)| it.value == address);
            let other = match same.next() {
                Some((other, _)) => other,
                None if own != *endpoint && gateway.endpoints.iter().any(|it| it.value == own) => {
                    &own
                }
                None => continue,
            };
            errors.push(error(
                local.place,
                format!(
                    "local {address} is also that of endpoint {other} of gateway {}: the host tells its endpoints apart by them, so give it an address for each",
                    gateway.name.value
                ),
            ));
        }
    }
    errors
}

/// Packets to an endpoint that a mesh prefix covers would go into the tunnel that carries them,
/// wherever the private side has no namespace of its own.
fn endpoints_inside(spec: &MeshSpec, claims: &[Claim]) -> Vec<SpecError> {
    let exposed = |owner: Owner<'_>| {
        spec.gateways()
            .find(|(own, gateway)| gateway.overlay.is_none() && !owner.is(Owner::Site(own)))
    };
    let mut errors = Vec::new();
    let far = spec.foreign.iter().flat_map(|foreign| {
        let tunnels = foreign.tunnels.iter();
        tunnels.map(|it| (format!("foreign {}", foreign.name.value), &it.remote))
    });
    let own =
        endpoints(spec).map(|(_, it, endpoint)| (format!("gateway {}", it.name.value), endpoint));
    for (whose, endpoint) in own.chain(far) {
        let OuterAddress::Literal(address) = endpoint.value else {
            continue;
        };
        let covering = claims.iter().find(|claim| claim.net.contains(&address));
        let Some(claim) = covering else { continue };
        let Some((_, other)) = exposed(claim.owner) else {
            continue;
        };
        errors.push(error(
            endpoint.place,
            format!(
                "endpoint {address} of {whose} lies in {} of {} (line {}), which gateway {} routes into its tunnels: leave it out of the prefix, or give gateways an overlay",
                claim.net,
                claim.owner(),
                claim.place.line,
                other.name.value
            ),
        ));
    }
    errors
}

/// Gateways of different sites that no tunnel can join. One error per gateway is enough.
fn no_common_family(spec: &MeshSpec) -> Vec<SpecError> {
    let only = |family: Family| {
        spec.gateways().filter(move |(_, gateway)| {
            let mut endpoints = gateway.endpoints.iter().peekable();
            endpoints.peek().is_some() && endpoints.all(|e| e.family() == family)
        })
    };
    let mut errors = Vec::new();
    for (family, other) in [(Family::Ipv4, Family::Ipv6), (Family::Ipv6, Family::Ipv4)] {
        for (site, gateway) in only(family) {
            let apart = only(other).find(|(far, _)| far.name != site.name);
            let Some((far, peer)) = apart else { continue };
            // The pair is reported once, at whichever stands later.
            if peer.name.place > gateway.name.place {
                continue;
            }
            errors.push(error(
                gateway.name.place,
                format!(
                    "gateway {} has {family} endpoints only and gateway {} of site {} (line {}) {other} only: give one of them an endpoint of the other family",
                    gateway.name.value, peer.name.value, far.name.value, peer.name.place.line
                ),
            ));
        }
    }
    errors
}

/// A VRF has a routing table of its own.
fn tables_of_vrfs(spec: &MeshSpec) -> Vec<SpecError> {
    let in_vrf = |gateway: &Gateway| {
        let overlay = gateway.overlay.as_ref();
        overlay.is_some_and(|overlay| overlay.starts_with("vrf:"))
    };
    let both = |gateway: &&Gateway| in_vrf(gateway) && gateway.spread.table.is_some();
    let gateways = spec.gateways().map(|(_, gateway)| gateway);
    let said = |gateway: &Gateway| {
        let reason = format!(
            "gateway {} has a VRF for its overlay, which has a routing table of its own: write table at those gateways that have none",
            gateway.name.value
        );
        error(gateway.name.place, reason)
    };
    gateways.filter(both).map(said).collect()
}

fn routers(spec: &MeshSpec, claims: &[Claim]) -> Vec<SpecError> {
    let mut errors = Vec::new();
    for (site, gateway) in spec.gateways() {
        let mut seen: HashMap<&Whereabouts, Place> = HashMap::new();
        for Router {
            whereabouts,
            asn,
            role,
            bfd,
            ..
        } in &gateway.routers
        {
            if role.is_some() && *asn == site.asn {
                let reason = format!(
                    "router {} of gateway {} is in the gateway's own AS {asn}, within which there are no roles (RFC 9234): remove role",
                    whereabouts.value, gateway.name.value
                );
                errors.push(error(whereabouts.place, reason));
            }
            if let (Whereabouts::Range(net), Some(bfd)) = (&whereabouts.value, bfd) {
                let reason = format!(
                    "bfd with range {net} of gateway {}: who connects from there is not known before; give the router's address, or remove bfd",
                    gateway.name.value
                );
                errors.push(error(bfd.place, reason));
            }
            if let Some(first) = seen.insert(&whereabouts.value, whereabouts.place) {
                let reason = format!(
                    "router {} of gateway {} already stands on line {}: remove one",
                    whereabouts.value, gateway.name.value, first.line
                );
                errors.push(error(whereabouts.place, reason));
            }
            let net = match &whereabouts.value {
                Whereabouts::Address(address) => IpNet::from(*address),
                Whereabouts::Range(net) => *net,
                Whereabouts::LinkLocal(..) | Whereabouts::Interface(_) => continue,
            };
            let foreign = claims
                .iter()
                .find(|claim| overlap(&claim.net, &net) && !claim.is_of(site));
            if let Some(claim) = foreign {
                let reason = format!(
                    "router {} of gateway {} lies in {} of {} (line {}): a router is on the gateway's own LAN",
                    whereabouts.value,
                    gateway.name.value,
                    claim.net,
                    claim.owner(),
                    claim.place.line
                );
                errors.push(error(whereabouts.place, reason));
            }
        }
        errors.extend(ranges(gateway));
    }
    errors
}

/// Whoever connects from two ranges would be two routers.
fn ranges(gateway: &Gateway) -> Vec<SpecError> {
    let range = |router: &Router| match router.whereabouts.value {
        Whereabouts::Range(net) => Some((net, router.whereabouts.place)),
        _ => None,
    };
    let ranges: Vec<(IpNet, Place)> = gateway.routers.iter().filter_map(range).collect();
    let mut errors = Vec::new();
    for (i, (net, place)) in ranges.iter().enumerate() {
        let before = ranges.iter().take(i);
        let mut others = before.filter(|(other, _)| other != net && overlap(other, net));
        if let Some((other, first)) = others.next() {
            let reason = format!(
                "range {net} of gateway {} overlaps {other} on line {}: who connects from both would be two routers",
                gateway.name.value, first.line
            );
            errors.push(error(*place, reason));
        }
    }
    errors
}

pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
