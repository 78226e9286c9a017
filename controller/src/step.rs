//! From one generation of the mesh to another: whom it concerns, found out once, and then what to tell
//! each gateway, at a cost that grows with what has changed and not with the mesh. Pure.

use crate::drain::Drain;
use crate::ids::foreign_owner;
use crate::mesh::Mesh;
use crate::render::{
    behind, header_without_sites, owners_of, preference, render, tunnels_to, weight,
};
use crate::spec::{At, Foreign, Gateway, MeshSpec, Site, TunnelKind};
use ipnet::IpNet;
use routemesh_proto::{Change, Config, diff};
use std::collections::{BTreeMap, BTreeSet};

/// Whom a step from one generation to another concerns.
///
/// Of a tunnel between two gateways that are not in `gateways`, nothing has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Everybody, in everything.
    all: bool,
    /// Everybody, in what is neither a tunnel nor a site.
    headers: bool,
    /// Everybody, in what these own.
    owners: BTreeSet<String>,
    /// These, in everything; and the others in their tunnels to these.
    gateways: BTreeSet<String>,
}

impl Step {
    /// The step between two generations, whichever was first.
    pub fn new(before: &Mesh, after: &Mesh) -> Self {
        // Whoever adds a field has to say here whom it concerns.
        let MeshSpec {
            asn: _, // As each site has it.
            interconnect,
            tunnel,
            options,
            hold_time,
            bfd,
            sites: _,
            tunnels: _,
            foreign: _,
        } = before.spec.as_ref();
        let (from, to) = (&before.spec, &after.spec);
        // Who runs what in a trial is another question.
        let trial = before.trial.is_some() || after.trial.is_some();
        if trial
            || *interconnect != to.interconnect
            || *tunnel != to.tunnel
            || *options != to.options
        {
            return Self::everything();
        }
        let mut gateways = changed(before, after);
        gateways.extend(changed(after, before));
        gateways.extend(tunnels_written(from, to));
        gateways.extend(tunnels_written(to, from));
        let drains = before.drains.symmetric_difference(&after.drains);
        for (gateway, peer) in drains.map(Drain::names) {
            gateways.insert(gateway.to_owned());
            gateways.extend(peer.map(str::to_owned));
        }
        gateways.extend(holders(before, after));
        if from.has(TunnelKind::WireGuard) || to.has(TunnelKind::WireGuard) {
            gateways.extend(keys_told(before, after));
            gateways.extend(keys_told(after, before));
        }
        let (was, is) = (owners(from), owners(to));
        let mut owners = other_owners(&was, &is);
        owners.extend(other_owners(&is, &was));
        Self {
            all: false,
            headers: *hold_time != to.hold_time || *bfd != to.bfd,
            owners,
            gateways,
        }
    }

    /// A step that concerns everybody in everything.
    pub fn everything() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// Whether what to tell this gateway takes the whole of its config, before and after.
    pub fn is_whole(&self, gateway: &str) -> bool {
        self.all || self.gateways.contains(gateway)
    }

    /// What a gateway that has its config of `before` is to be told, for it to have that of `after`:
    /// as [`diff`] of the two says. `None` for one that was never in a specification.
    pub fn change(&self, before: &Mesh, after: &Mesh, gateway: &str) -> Option<Change> {
        Some(match self.parts(before, after, gateway) {
            Some((old, new)) => diff(&old, &new),
            None => diff(&render(before, gateway)?, &render(after, gateway)?),
        })
    }

    /// Of both configs of a gateway, what may not be the same in both; `None` where that is everything.
    pub fn parts(&self, before: &Mesh, after: &Mesh, gateway: &str) -> Option<(Config, Config)> {
        if self.is_whole(gateway) {
            return None;
        }
        let (was, is) = (before.gateway(gateway)?, after.gateway(gateway)?);
        Some((self.part(before, was), self.part(after, is)))
    }

    /// Of a gateway's config, what may be other than before.
    fn part(&self, mesh: &Mesh, (site, gateway): (&Site, &Gateway)) -> Config {
        let far = self.gateways.iter().flat_map(|name| mesh.ends_of(name));
        let mut tunnels = tunnels_to(mesh, gateway, far);
        tunnels.sort_by_key(|tunnel| tunnel.number);
        let sites = match self.owners.is_empty() {
            true => Vec::new(),
            false => owners_of(&mesh.spec, site, |name| self.owners.contains(name)),
        };
        let header = match self.headers {
            true => header_without_sites(mesh, site, gateway),
            false => Config {
                generation: mesh.generation,
                gateway: gateway.name.value.clone(),
                site: site.name.value.clone(),
                ..Config::default()
            },
        };
        Config {
            tunnels,
            sites,
            ..header
        }
    }
}

/// Gateways of `before` that `after` does not have just so.
fn changed(before: &Mesh, after: &Mesh) -> BTreeSet<String> {
    let gateways = before.spec.gateways();
    let changed = gateways.filter(|(site, gateway)| {
        let other = after.gateway(&gateway.name);
        let same = other.is_some_and(|other| same((site, gateway), other));
        !same || before.ids.of(&gateway.name) != after.ids.of(&gateway.name)
    });
    changed
        .map(|(_, gateway)| gateway.name.value.clone())
        .collect()
}

fn same((site, gateway): (&Site, &Gateway), (other, same): (&Site, &Gateway)) -> bool {
    let Site {
        name,
        asn,
        prefixes: _, // In everybody's header.
        options,
        gateways: _, // What of the others matters is below.
    } = site;
    gateway == same
        && (name, asn, options) == (&other.name, &other.asn, &other.options)
        && preference(site, gateway) == preference(other, same)
        && weight(site, gateway) == weight(other, same)
        && behind(site, gateway) == behind(other, same)
}

/// The gateways of entries of `[[tunnels]]` that the other does not have just so.
fn tunnels_written(from: &MeshSpec, to: &MeshSpec) -> BTreeSet<String> {
    let entries = from.tunnels.iter();
    let changed = entries.filter(|(names, tunnels)| to.tunnels.get(*names) != Some(tunnels));
    changed.flat_map(|(names, _)| names.clone()).collect()
}

/// Gateways whose keys are not the same in the other.
fn keys_told(before: &Mesh, after: &Mesh) -> BTreeSet<String> {
    let keys = before.keys.iter();
    let changed = keys.filter(|(gateway, key)| after.keys.get(*gateway) != Some(key));
    changed.map(|(gateway, _)| gateway.clone()).collect()
}

/// The gateways that hold tunnels to foreign peers, if these have changed. Of foreign peers there are few.
fn holders(before: &Mesh, after: &Mesh) -> BTreeSet<String> {
    let sites = |mesh: &Mesh| -> Vec<String> {
        let sites = mesh.spec.sites.iter();
        sites.map(|site| site.name.value.clone()).collect()
    };
    let same_ids = |it: &Foreign| {
        let owner = foreign_owner(&it.name);
        before.ids.of(&owner) == after.ids.of(&owner)
    };
    let (was, is) = (&before.spec.foreign, &after.spec.foreign);
    if was.is_empty() && is.is_empty() {
        return BTreeSet::new();
    }
    // They are told which sites may reach the peers.
    if was == is && was.iter().all(same_ids) && sites(before) == sites(after) {
        return BTreeSet::new();
    }
    let tunnels = was.iter().chain(is).flat_map(|it| &it.tunnels);
    tunnels.map(|it| it.gateway.value.clone()).collect()
}

/// Of what owns prefixes, all that anybody is told of it.
type Owners<'m> = BTreeMap<&'m str, (&'m [At<IpNet>], Option<&'m Foreign>)>;

fn owners(spec: &MeshSpec) -> Owners<'_> {
    let sites = spec.sites.iter();
    let sites = sites.map(|it| (it.name.as_str(), (it.prefixes.as_slice(), None)));
    let foreign = spec.foreign.iter();
    let foreign = foreign.map(|it| (it.name.as_str(), (it.prefixes.as_slice(), Some(it))));
    sites.chain(foreign).collect()
}

/// Those that the other does not have just so.
fn other_owners(one: &Owners, other: &Owners) -> BTreeSet<String> {
    let changed = one
        .iter()
        .filter(|(name, owner)| other.get(*name) != Some(owner));
    changed.map(|(name, _)| (*name).to_owned()).collect()
}
