//! What must fit together of foreign peers.

use super::check::{error, overlap};
use super::health;
use super::place::{At, Place, SpecError};
use super::provider;
use super::term::MOST_TERMS;
use super::{Foreign, ForeignTunnel, Inside, MeshSpec, OuterAddress};
use ipnet::IpNet;
use routemesh_proto::Secret;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Everything that does not fit.
pub(super) fn check(spec: &MeshSpec) -> Vec<SpecError> {
    let mut errors = names(spec);
    for foreign in &spec.foreign {
        errors.extend(sites(spec, foreign));
        errors.extend(uncarried(foreign));
        errors.extend(provider::check(spec, foreign));
        errors.extend(terms(foreign));
        for tunnel in &foreign.tunnels {
            errors.extend(ends(spec, tunnel));
            errors.extend(outside(foreign, tunnel));
            errors.extend(equal(tunnel));
            errors.extend(health::check(spec, foreign, tunnel));
        }
    }
    errors.extend(sessions(spec));
    errors.extend(twice(spec));
    errors.extend(identities(spec));
    errors
}

/// Foreign peers stand beside sites and gateways in reports.
fn names(spec: &MeshSpec) -> Vec<SpecError> {
    let sites = spec.sites.iter().map(|it| ("site", &it.name));
    let gateways = spec.gateways().map(|(_, it)| ("gateway", &it.name));
    let all = sites.chain(gateways);
    let mut seen: HashMap<String, (&str, &At<String>)> = all
        .map(|(what, name)| (name.to_ascii_lowercase(), (what, name)))
        .collect();
    let mut errors = Vec::new();
    for Foreign { name, .. } in &spec.foreign {
        let twin = seen.insert(name.to_ascii_lowercase(), ("foreign", name));
        if let Some((what, first)) = twin {
            let reason = format!(
                "foreign {} has the name of {what} {} on line {}: choose another",
                name.value, first.value, first.place.line
            );
            errors.push(error(name.place, reason));
        }
    }
    errors
}

fn sites(spec: &MeshSpec, foreign: &Foreign) -> Vec<SpecError> {
    let known: HashSet<&str> = spec.sites.iter().map(|it| it.name.as_str()).collect();
    let written = foreign.sites.iter().flatten();
    let unknown = written.filter(|it| !known.contains(it.as_str()));
    unknown
        .map(|it| error(it.place, format!("there is no site {}", it.value)))
        .collect()
}

/// Terms are of BGP, and those of a tunnel and of its peer are one list.
fn terms(foreign: &Foreign) -> Vec<SpecError> {
    let of_tunnels = foreign.tunnels.iter().map(|it| &it.terms);
    let all = of_tunnels.chain([&foreign.terms]);
    let places: Vec<Place> = all.filter_map(|it| it.place).collect();
    if foreign.asn.is_none() {
        let reason = format!(
            "import and export are of BGP: give foreign {} an \"as\", or leave them out",
            foreign.name.value
        );
        let each = places.into_iter();
        return each.map(|place| error(place, reason.clone())).collect();
    }
    let many = foreign.tunnels.iter().filter(|it| {
        let most = foreign.import_of(it).len().max(foreign.export_of(it).len());
        // One more says that a standby is one.
        most >= MOST_TERMS
    });
    many.map(|it| {
        let reason = format!(
            "this tunnel's terms and those of foreign {} are more than {} together",
            foreign.name.value,
            MOST_TERMS - 1
        );
        error(it.terms.place.unwrap_or(it.gateway.place), reason)
    })
    .collect()
}

/// The two ends of a tunnel.
fn ends(spec: &MeshSpec, tunnel: &ForeignTunnel) -> Vec<SpecError> {
    let name = &tunnel.gateway;
    let Some((_, gateway)) = spec.gateway(name) else {
        let reason = format!("there is no gateway {}", name.value);
        return vec![error(name.place, reason)];
    };
    let family = tunnel.remote.family();
    let fitting = gateway.endpoints.iter();
    let fitting: Vec<_> = fitting.filter(|it| it.family() == family).collect();
    match &tunnel.local {
        Some(local) if local.family() != family => {
            let reason = format!("{} and {} are of two families", local.value, *tunnel.remote);
            vec![error(local.place, reason)]
        }
        Some(local) if !fitting.iter().any(|it| it.value == local.value) => {
            let reason = format!("{} is no endpoint of gateway {}", local.value, name.value);
            vec![error(local.place, reason)]
        }
        Some(_) => Vec::new(),
        None => match fitting.as_slice() {
            [] => {
                let reason = format!(
                    "gateway {} has no {family} endpoint, and {} is {family}",
                    name.value, *tunnel.remote
                );
                vec![error(tunnel.remote.place, reason)]
            }
            [_] => Vec::new(),
            [first, ..] => {
                let reason = format!(
                    "gateway {} has several {family} endpoints: say which, like local = \"{}\"",
                    name.value,
                    first.text()
                );
                vec![error(name.place, reason)]
            }
        },
    }
}

/// Selectors that let through what the peer does not own, or that join no two of one family.
fn outside(foreign: &Foreign, tunnel: &ForeignTunnel) -> Vec<SpecError> {
    let mut errors = Vec::new();
    for selectors in &tunnel.selectors {
        for net in &selectors.remote {
            if !foreign.prefixes.iter().any(|own| overlap(own, net)) {
                let reason = format!(
                    "{} is nothing of what foreign {} has: add it to its prefixes",
                    net.value, foreign.name.value
                );
                errors.push(error(net.place, reason));
            }
        }
        let fits = |net: &At<IpNet>, others: &[At<IpNet>]| {
            let v4 = net.addr().is_ipv4();
            others.iter().any(|it| it.addr().is_ipv4() == v4)
        };
        let (local, remote) = (&selectors.local, &selectors.remote);
        let both = [(local, remote), (remote, local)];
        let alone = both
            .into_iter()
            .flat_map(|(some, others)| some.iter().filter(|it| !fits(it, others)));
        for net in alone {
            let reason = format!(
                "{} has nothing of its family on the other side of these selectors",
                net.value
            );
            errors.push(error(net.place, reason));
        }
    }
    errors
}

/// Two CHILD_SAs that carry the same.
fn equal(tunnel: &ForeignTunnel) -> Vec<SpecError> {
    let mut seen = HashSet::new();
    let all = tunnel.selectors.iter();
    let twice = all.filter(|it| !seen.insert(it.text()));
    let places = twice.filter_map(|it| it.local.first().or(it.remote.first()));
    places
        .map(|it| {
            let reason = "an entry before has the same selectors: leave one out";
            error(it.place, reason.to_owned())
        })
        .collect()
}

/// What the peer owns and no tunnel of it carries.
fn uncarried(foreign: &Foreign) -> Vec<SpecError> {
    let carries = |net: &IpNet| {
        let mut all = foreign.tunnels.iter().flat_map(|it| &it.selectors);
        all.any(|it| it.remote.is_empty() || it.remote.iter().any(|remote| overlap(remote, net)))
    };
    let lost = foreign.prefixes.iter().filter(|net| !carries(net));
    lost.map(|net| {
        let reason = format!(
            "no tunnel to foreign {} carries {}: add it to the selectors of one",
            foreign.name.value, net.value
        );
        error(net.place, reason)
    })
    .collect()
}

/// The addresses within a tunnel, which BGP goes between where there is BGP.
fn sessions(spec: &MeshSpec) -> Vec<SpecError> {
    let mut errors = Vec::new();
    let mut seen: HashMap<&str, Vec<&At<Inside>>> = HashMap::new();
    let all = spec.foreign.iter();
    let all = all.flat_map(|foreign| foreign.tunnels.iter().map(move |it| (foreign, it)));
    for (foreign, tunnel) in all {
        errors.extend(own_as(spec, foreign, tunnel));
        let Some(inside) = &tunnel.inside else {
            if foreign.asn.is_some() {
                let reason = format!(
                    "foreign {} speaks BGP, and this tunnel has no addresses for it: inside = \"169.254.10.2/30\", \
                     or whatever the other side has given you",
                    foreign.name.value
                );
                errors.push(error(tunnel.gateway.place, reason));
            }
            continue;
        };
        let narrow = tunnel.selectors.iter().find_map(|it| it.local.first());
        if let Some(narrow) = narrow {
            let reason =
                "a tunnel that has addresses within carries everything: leave selectors out";
            errors.push(error(narrow.place, reason.to_owned()));
        }
        let before = seen.entry(&tunnel.gateway).or_default();
        errors.extend(addresses(spec, tunnel, inside, before));
        before.push(inside);
    }
    errors
}

fn own_as(spec: &MeshSpec, foreign: &Foreign, tunnel: &ForeignTunnel) -> Option<SpecError> {
    let asn = foreign.asn.as_ref()?;
    let (site, _) = spec.gateway(&tunnel.gateway)?;
    (site.asn == asn.value).then(|| {
        let reason = format!(
            "{} is also the AS of gateway {}: a foreign peer has its own",
            asn.value, tunnel.gateway.value
        );
        error(asn.place, reason)
    })
}

/// The addresses inside a tunnel are on its interface only: whatever else had them would be cut off.
fn addresses(
    spec: &MeshSpec,
    tunnel: &ForeignTunnel,
    inside: &At<Inside>,
    before: &[&At<Inside>],
) -> Vec<SpecError> {
    let both = inside.own.trunc();
    let near = |net: &IpNet| net.contains(&both) || both.contains(net);
    let sites = spec.sites.iter().map(|it| ("site", &it.name, &it.prefixes));
    let foreign = spec.foreign.iter();
    let foreign = foreign.map(|it| ("foreign", &it.name, &it.prefixes));
    let owners = sites.chain(foreign);
    let owned = owners.filter_map(|(what, name, prefixes)| {
        let net = prefixes.iter().find(|it| near(it))?;
        let (name, line) = (&name.value, net.place.line);
        Some(format!("{} of {what} {name} on line {line}", net.value))
    });
    let pool = Some(&spec.interconnect).filter(|it| near(&IpNet::from(it.value)));
    let pool = pool.map(|it| format!("{}, the interconnect", it.value));
    let endpoints = spec.gateways().filter_map(|(_, gateway)| {
        let mut endpoints = gateway.endpoints.iter();
        let address = endpoints.find(|it| {
            let address = it.text().parse::<IpAddr>();
            address.is_ok_and(|it| both.contains(&it))
        })?;
        Some(format!(
            "{}, an endpoint of gateway {}",
            address.text(),
            gateway.name.value
        ))
    });
    let tunnels = before.iter().filter(|it| near(&it.own.trunc()));
    let tunnels = tunnels.map(|it| {
        let (gateway, line) = (&tunnel.gateway.value, it.place.line);
        format!(
            "{}, inside another tunnel of gateway {gateway} on line {line}",
            it.own
        )
    });
    let others = owned.chain(pool).chain(endpoints).chain(tunnels);
    others
        .map(|other| {
            let reason = format!(
                "{both}, which the tunnel has inside, overlaps {other}: choose addresses that nobody else has, \
                 like 169.254.10.2/30"
            );
            error(inside.place, reason)
        })
        .collect()
}

/// Two IKE connections between the same two addresses would be one, and one to an endpoint of ours
/// goes to no foreign peer.
fn twice(spec: &MeshSpec) -> Vec<SpecError> {
    let mut seen: HashMap<(&str, &OuterAddress, &OuterAddress), Place> = HashMap::new();
    let mut errors = Vec::new();
    for tunnel in spec.foreign.iter().flat_map(|it| &it.tunnels) {
        let remote = &tunnel.remote;
        let own = spec.gateways().find(|(_, it)| {
            let mut endpoints = it.endpoints.iter();
            endpoints.any(|it| it.value == remote.value)
        });
        if let Some((_, own)) = own {
            let reason = format!(
                "{} is an endpoint of gateway {}, which is no foreign peer",
                remote.value, own.name.value
            );
            errors.push(error(remote.place, reason));
        }
        let Some((_, gateway)) = spec.gateway(&tunnel.gateway) else {
            continue;
        };
        let Some(local) = tunnel.endpoint(gateway) else {
            continue;
        };
        let ends = (gateway.name.as_str(), &local.value, &remote.value);
        if let Some(first) = seen.insert(ends, remote.place) {
            let reason = format!(
                "the tunnel from {} to {} already stands on line {}: write several selectors in one \
                 tunnel for several CHILD_SAs",
                local.value, remote.value, first.line
            );
            errors.push(error(remote.place, reason));
        }
    }
    errors
}

/// A gateway finds a tunnel's key by the identity of its far side, and by its own: where one identity
/// is several tunnels', they have one key, and none of them is our side's.
fn identities(spec: &MeshSpec) -> Vec<SpecError> {
    let tunnels = || spec.foreign.iter().flat_map(|it| &it.tunnels);
    let mut own: HashMap<(&str, String), &ForeignTunnel> = HashMap::new();
    for tunnel in tunnels() {
        let Some((_, gateway)) = spec.gateway(&tunnel.gateway) else {
            continue;
        };
        if let Some(identity) = tunnel.own_identity(gateway) {
            let identity = identity.to_ascii_lowercase();
            own.entry((&gateway.name, identity)).or_insert(tunnel);
        }
    }
    let mut seen: HashMap<(&str, String), (&Secret, Place)> = HashMap::new();
    let mut errors = Vec::new();
    for tunnel in tunnels() {
        let place = tunnel.remote.place;
        let identity = tunnel.far_identity();
        let key = (tunnel.gateway.as_str(), identity.to_ascii_lowercase());
        if let Some(other) = own.get(&key) {
            let reason = format!(
                "{identity} is the identity of gateway {} in the tunnel on line {}, and of the far side here: \
                 choose another local_id or remote_id",
                tunnel.gateway.value, other.remote.place.line
            );
            errors.push(error(place, reason));
        }
        let (psk, first) = *seen.entry(key).or_insert((&tunnel.psk.value, place));
        if *psk != tunnel.psk.value {
            let reason = format!(
                "{identity} has another psk in the tunnel of gateway {} on line {}, and charon knows keys by the \
                 identity: write the same psk, or another remote_id",
                tunnel.gateway.value, first.line
            );
            errors.push(error(place, reason));
        }
    }
    errors
}
