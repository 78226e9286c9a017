//! (mesh, gateway) -> exactly what that gateway must run. Pure: equal in, equal out.

use crate::ca::ike_name;
use crate::canary;
use crate::drain::Drain;
use crate::ids::{
    Abroad, End, abroad_of, interconnect, joined, router_id, tunnel_number, wireguard_port,
};
use crate::mesh::Mesh;
use crate::spec::{
    At, Foreign, Gateway, Hash, MeshSpec, PREFERENCE, Router, Site, TunnelKind, Whereabouts,
    render_options,
};
use crate::text;
use ipnet::IpNet;
use routemesh_proto as proto;

/// A tunnel, from the end with the smaller id to the other.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'m> {
    /// The tunnel's number.
    pub number: u32,
    /// The end with the smaller id: even address, initiates IKE.
    pub a: End<'m>,
    /// The other.
    pub b: End<'m>,
}

/// The tunnel of two ends, if there is one.
pub(crate) fn pair<'m>(x: &End<'m>, y: &End<'m>) -> Option<Pair<'m>> {
    if !joined(x, y) {
        return None;
    }
    let (a, b) = if x.id < y.id { (*x, *y) } else { (*y, *x) };
    let number = u32::try_from(tunnel_number(a.id, b.id)).ok()?;
    Some(Pair { number, a, b })
}

/// Every tunnel of the mesh, by number.
pub fn pairs(mesh: &Mesh) -> Vec<Pair<'_>> {
    let ends: Vec<End> = mesh.ends().collect();
    let mut pairs: Vec<Pair> = ends
        .iter()
        .enumerate()
        .flat_map(|(i, x)| ends[i + 1..].iter().filter_map(|y| pair(x, y)))
        .collect();
    pairs.sort_by_key(|pair| pair.number);
    pairs
}

/// The config of one gateway: `None` for one that was never in a specification, and a config
/// without tunnels for one that has left.
pub fn render(mesh: &Mesh, gateway: &str) -> Option<proto::Config> {
    match &mesh.trial {
        Some(trial) => canary::config(mesh, trial, gateway),
        None => of_spec(mesh, gateway),
    }
}

/// As the mesh's specification has it, whoever runs that already.
pub(crate) fn of_spec(mesh: &Mesh, gateway: &str) -> Option<proto::Config> {
    match mesh.gateway(gateway) {
        Some((site, gateway)) => Some(proto::Config {
            tunnels: tunnels(mesh, site, gateway),
            ..header(mesh, site, gateway)
        }),
        None => mesh.retired.get(gateway).map(|idle| proto::Config {
            generation: mesh.generation,
            ..idle.clone()
        }),
    }
}

/// A gateway's config without its tunnels.
pub(crate) fn header(mesh: &Mesh, site: &Site, gateway: &Gateway) -> proto::Config {
    proto::Config {
        sites: owners(&mesh.spec, site),
        ..header_without_sites(mesh, site, gateway)
    }
}

/// A gateway's config without its tunnels and sites.
pub(crate) fn header_without_sites(mesh: &Mesh, site: &Site, gateway: &Gateway) -> proto::Config {
    let spec = &mesh.spec;
    let lowest = mesh.ids.lowest(&gateway.name).unwrap_or_default();
    proto::Config {
        generation: mesh.generation,
        gateway: gateway.name.value.clone(),
        site: site.name.value.clone(),
        asn: site.asn,
        router_id: router_id(lowest).to_string(),
        overlay: gateway.overlay.clone().unwrap_or_default(),
        announce: gateway.announce.clone(),
        hold_time: u32::from(spec.hold_time),
        bfd: spec.bfd,
        sites: Vec::new(),
        routers: gateway
            .routers
            .iter()
            .map(|it| router(it, behind(site, gateway)))
            .collect(),
        tunnels: Vec::new(),
        firewall: gateway.firewall.to_string(),
        services: gateway.services.iter().map(ToString::to_string).collect(),
        ipsec_from: gateway.ipsec_from.iter().map(ToString::to_string).collect(),
        drain: mesh.drains.contains(&Drain::gateway(&gateway.name)),
        hash: match gateway.spread.hash {
            Hash::L3 => "l3".to_owned(),
            Hash::L4 => String::new(),
            Hash::Inner => "inner".to_owned(),
        },
        resilient: gateway.spread.resilient,
        table: gateway.spread.table.unwrap_or_default(),
        metric: gateway.spread.metric.unwrap_or_default(),
        identity: identity(gateway),
    }
}

/// By what IKE knows a gateway, where that is not its name.
fn identity(gateway: &Gateway) -> String {
    match gateway.admission {
        0 => String::new(),
        again => ike_name(&gateway.name, again),
    }
}

/// All tunnels of a gateway, by number.
fn tunnels(mesh: &Mesh, site: &Site, gateway: &Gateway) -> Vec<proto::Tunnel> {
    let mut tunnels = tunnels_to(mesh, gateway, mesh.ends());
    tunnels.extend(foreign_tunnels(mesh, site, gateway));
    tunnels.sort_by_key(|tunnel| tunnel.number);
    tunnels
}

/// A gateway's tunnels to some of the mesh's ends.
pub(crate) fn tunnels_to<'m>(
    mesh: &'m Mesh,
    gateway: &Gateway,
    far: impl Iterator<Item = End<'m>>,
) -> Vec<proto::Tunnel> {
    let own: Vec<End> = mesh.ends_of(&gateway.name).collect();
    far.flat_map(|far| own.iter().filter_map(move |own| tunnel(mesh, own, &far)))
        .collect()
}

/// Sites, and what else owns prefixes, by name: to those who may not reach them they are barred as well.
fn owners(spec: &MeshSpec, site: &Site) -> Vec<proto::Site> {
    owners_of(spec, site, |_| true)
}

/// Some of them.
pub(crate) fn owners_of(
    spec: &MeshSpec,
    site: &Site,
    wanted: impl Fn(&str) -> bool,
) -> Vec<proto::Site> {
    let sites = spec.sites.iter().filter(|it| wanted(&it.name));
    let sites = sites.map(|it| proto::Site {
        name: it.name.value.clone(),
        prefixes: texts(&it.prefixes),
        barred: false,
    });
    let foreign = spec.foreign.iter().filter(|it| wanted(&it.name));
    let foreign = foreign.map(|it| proto::Site {
        name: it.name.value.clone(),
        prefixes: texts(&it.prefixes),
        barred: !it.admits(&site.name),
    });
    let mut owners: Vec<proto::Site> = sites.chain(foreign).collect();
    owners.sort_by(|one, other| one.name.cmp(&other.name));
    owners
}

fn texts(prefixes: &[At<IpNet>]) -> Vec<String> {
    prefixes.iter().map(|net| net.value.to_string()).collect()
}

/// How much less it is preferred than the best gateway of its site.
pub(crate) fn behind(site: &Site, gateway: &Gateway) -> u32 {
    let preference = |gateway: &Gateway| gateway.preference.unwrap_or(PREFERENCE);
    let best = site.gateways.iter().map(preference).max();
    best.map_or(0, |best| best.saturating_sub(preference(gateway)))
}

/// What is told; by a standby with a worse MED, which the terms may change.
fn export(mut terms: Vec<proto::Term>, behind: u32) -> Vec<proto::Term> {
    if behind > 0 {
        let term = |action: &str| proto::Term {
            action: action.to_owned(),
            ..proto::Term::default()
        };
        // Without terms, everything is told.
        if terms.is_empty() {
            terms.push(term("accept"));
        }
        let worse = proto::Term {
            add_med: Some(behind),
            ..term("next")
        };
        terms.insert(0, worse);
    }
    terms
}

fn router(router: &Router, behind: u32) -> proto::Router {
    let mut rendered = proto::Router {
        asn: router.asn,
        password: match &router.password {
            Some(password) => password.expose().to_owned(),
            None => String::new(),
        },
        ttl_security: router.ttl_security.map_or(0, u32::from),
        role: router.role.unwrap_or_default().to_owned(),
        max_prefixes: router.max_prefixes.unwrap_or_default(),
        add_path: router.add_path,
        long_lived: router.long_lived.unwrap_or_default(),
        bfd: router.bfd.as_ref().map(|bfd| bfd.value),
        import: router.import.clone(),
        export: export(router.export.clone(), behind),
        ..proto::Router::default()
    };
    let whereabouts = router.whereabouts.to_string();
    match router.whereabouts.value {
        Whereabouts::Address(_) | Whereabouts::LinkLocal(..) => rendered.address = whereabouts,
        Whereabouts::Interface(_) => rendered.interface = whereabouts,
        Whereabouts::Range(_) => rendered.range = whereabouts,
    }
    rendered
}

/// Where one gateway of a site has a weight, the others have one as well.
pub(crate) fn weight(site: &Site, gateway: &Gateway) -> u32 {
    match site.gateways.iter().any(|it| it.weight.is_some()) {
        true => gateway.weight.unwrap_or(1).into(),
        false => 0,
    }
}

/// And so it is with preferences: what a router of a standby says does not put that before the others.
pub(crate) fn preference(site: &Site, gateway: &Gateway) -> u32 {
    match site.gateways.iter().any(|it| it.preference.is_some()) {
        true => gateway.preference.unwrap_or(PREFERENCE),
        false => 0,
    }
}

fn tunnel(mesh: &Mesh, own: &End, far: &End) -> Option<proto::Tunnel> {
    let spec = &mesh.spec;
    let pair = pair(own, far)?;
    let initiate = pair.a.id == own.id;
    let (even, odd) = interconnect(spec.interconnect.value, pair.number);
    let ends = [(own.site, own.gateway), (far.site, far.gateway)];
    let kind = spec.kind(own.gateway, far.gateway);
    let ipsec = kind != TunnelKind::WireGuard;
    let options = ipsec.then(|| render_options(&spec.options(ends)));
    let (ike, esp) = options.unzip();
    let wireguard = match ipsec {
        true => None,
        false => Some(wireguard(mesh, own, far)?),
    };
    let (local, remote) = if initiate { (even, odd) } else { (odd, even) };
    Some(proto::Tunnel {
        number: pair.number,
        peer: far.gateway.name.value.clone(),
        peer_site: far.site.name.value.clone(),
        peer_asn: far.site.asn,
        kind: kind.to_string(),
        local_endpoint: own.endpoint.text(),
        local: local_address(own),
        remote_endpoint: far.endpoint.text(),
        local_address: text::ipv6(local),
        remote_address: text::ipv6(remote),
        initiate,
        drain: is_drained(mesh, own.gateway, &far.gateway.name),
        ike,
        esp,
        preference: preference(far.site, far.gateway),
        weight: weight(far.site, far.gateway),
        foreign: None,
        behind_here: behind_gateway(spec, own.gateway, far.site),
        behind_there: behind_gateway(spec, far.gateway, own.site),
        wireguard,
        peer_identity: identity(far.gateway),
    })
}

/// The host's own address behind an endpoint, where that is said.
fn local_address(own: &End) -> String {
    let local = own.gateway.local(own.endpoint);
    local.map(text::address).unwrap_or_default()
}

/// A tunnel whose far end has told no key yet is rendered all the same, and waits.
fn wireguard(mesh: &Mesh, own: &End, far: &End) -> Option<proto::WireGuard> {
    let key = mesh.keys.get(&far.gateway.name.value);
    Some(proto::WireGuard {
        public_key: key.map_or(String::new(), ToString::to_string),
        listen_port: wireguard_port(&mesh.ids, own, far)?.into(),
        remote_port: wireguard_port(&mesh.ids, far, own)?.into(),
    })
}

/// There may be millions of tunnels to ask this of, and mostly nothing is drained.
fn is_drained(mesh: &Mesh, own: &Gateway, far: &str) -> bool {
    !mesh.drains.is_empty() && mesh.drains.contains(&Drain::between(&own.name, far))
}

/// The foreign peers that a gateway has tunnels to and that another site may reach.
fn behind_gateway(spec: &MeshSpec, gateway: &Gateway, site: &Site) -> Vec<String> {
    let reached = |it: &&Foreign| it.is_held_by(&gateway.name) && it.admits(&site.name);
    let reached = spec.foreign.iter().filter(reached);
    reached.map(|it| it.name.value.clone()).collect()
}

/// A gateway's tunnels to foreign peers.
fn foreign_tunnels<'m>(
    mesh: &'m Mesh,
    site: &'m Site,
    gateway: &'m Gateway,
) -> impl Iterator<Item = proto::Tunnel> + 'm {
    let own: Vec<Abroad> = abroad_of(&mesh.spec, &mesh.ids, (site, gateway));
    // CHILD_SAs of one tunnel have one IKE_SA, which is named after the first of them.
    let numbers = own.iter().map(|it| {
        let of_same = own
            .iter()
            .filter(|other| std::ptr::eq(other.tunnel, it.tunnel));
        of_same.map(Abroad::number).min().unwrap_or_default()
    });
    let firsts: Vec<u64> = numbers.collect();
    let rendered = own.into_iter().zip(firsts);
    rendered.filter_map(|(it, first)| foreign_tunnel(mesh, &it, first))
}

fn foreign_tunnel(mesh: &Mesh, it: &Abroad, first: u64) -> Option<proto::Tunnel> {
    let Abroad {
        own,
        peer,
        tunnel,
        selectors,
        ..
    } = it;
    let (local, remote) = (own.endpoint.text(), tunnel.remote.text());
    let inside = tunnel.inside.as_ref().map(|it| it.value);
    let sites = mesh.spec.sites.iter();
    let admitted = sites.filter(|site| peer.admits(&site.name));
    let (ike, esp) = render_options(&peer.options_of(tunnel));
    Some(proto::Tunnel {
        number: u32::try_from(it.number()).ok()?,
        peer: peer.name.value.clone(),
        peer_site: peer.name.value.clone(),
        // A VTI interface cannot tell CHILD_SAs between the same two addresses apart.
        kind: TunnelKind::Xfrm.to_string(),
        initiate: true,
        ike: Some(ike),
        esp: Some(esp),
        preference: tunnel.preference.unwrap_or_default(),
        weight: tunnel.weight.map_or(0, u32::from),
        foreign: Some(proto::Foreign {
            connection: u32::try_from(first).ok()?,
            local_id: tunnel.own_identity(own.gateway)?,
            remote_id: tunnel.far_identity(),
            psk: tunnel.psk.expose().to_owned(),
            local_selectors: texts(&selectors.local),
            remote_selectors: texts(&selectors.remote),
            sites: admitted.map(|site| site.name.value.clone()).collect(),
            prefix_length: inside.map_or(0, |it| it.own.prefix_len().into()),
            max_prefixes: peer.max_prefixes.unwrap_or_default(),
            hold_time: peer.hold_time().map_or(0, u32::from),
            ping: peer.ping(tunnel, selectors),
            bfd: peer.bfd.as_ref().map(|bfd| bfd.value),
            import: peer.import_of(tunnel),
            export: match peer.asn {
                Some(_) => export(peer.export_of(tunnel), peer.behind(tunnel)),
                None => Vec::new(),
            },
        }),
        drain: is_drained(mesh, own.gateway, &peer.name),
        peer_asn: peer.asn.as_ref().map_or(0, |asn| asn.value),
        local_address: inside.map_or(String::new(), |it| it.own.addr().to_string()),
        remote_address: inside.map_or(String::new(), |it| it.far.to_string()),
        local_endpoint: local,
        local: local_address(own),
        remote_endpoint: remote,
        ..proto::Tunnel::default()
    })
}
