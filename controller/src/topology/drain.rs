//! Whether traffic has left what is drained, as far as the gateways report.

use super::{Report, Reports, ago};
use crate::drain::Drain;
use crate::ids::Abroad;
use crate::mesh::Mesh;
use crate::render::Pair;
use crate::spec::{Gateway, Site};
use routemesh_proto as proto;
use std::collections::{BTreeMap, BTreeSet};

/// The state in the words of routemesh.proto, and its reason.
pub(super) type Drained = (&'static str, String);

/// Who still sends something through a gateway that is to be drained, and what: by both names. Every
/// gateway's routes are unpacked once for all of those.
pub(super) type Uses = BTreeMap<(String, String), String>;

fn is_asked<'m>(mesh: &Mesh, name: &str, reports: &'m Reports) -> (bool, Option<&'m Report>) {
    let asked = mesh.drains.contains(&Drain::gateway(name));
    let own = reports.get(name).filter(|report| report.is_fresh());
    (
        asked,
        own.filter(|report| asked || report.kept.head().drain),
    )
}

pub(super) fn uses(mesh: &Mesh, reports: &Reports, gateways: &[(&Site, &Gateway)]) -> Uses {
    let names = gateways.iter().map(|(_, it)| it.name.as_str());
    let drained: BTreeSet<&str> = names
        .filter(|name| {
            let (asked, own) = is_asked(mesh, name, reports);
            asked || own.is_some()
        })
        .collect();
    let mut uses = Uses::new();
    if drained.is_empty() {
        return uses;
    }
    for (gateway, report) in reports.iter().filter(|(_, report)| report.is_fresh()) {
        for route in report.kept.routes() {
            for path in &route.paths {
                if drained.contains(path.via.as_str()) {
                    let both = (gateway.clone(), path.via.clone());
                    uses.entry(both).or_insert_with(|| route.prefix.clone());
                }
            }
        }
    }
    uses
}

/// A gateway is drained when no other sends anything through it.
pub(super) fn gateway(mesh: &Mesh, name: &str, reports: &Reports, uses: &Uses) -> Drained {
    let (asked, own) = is_asked(mesh, name, reports);
    if !asked && own.is_none() {
        return Default::default();
    }
    let names = mesh.spec.gateways().map(|(_, it)| it.name.as_str());
    state(names, |it| match it == name {
        true => told(mesh, it, asked, reports),
        false => still(it, reports, |_| {
            uses.get(&(it.to_owned(), name.to_owned())).cloned()
        }),
    })
}

/// A tunnel is drained when neither end sends anything through it.
pub(super) fn tunnel(mesh: &Mesh, pair: &Pair, reports: &Reports) -> Drained {
    let (a, b) = (pair.a.gateway.name.as_str(), pair.b.gateway.name.as_str());
    if mesh.drains.is_empty() || !mesh.drains.contains(&Drain::between(a, b)) {
        return Default::default();
    }
    // ARCHITECTURE.md, invariant 3.
    let interface = format!("rm{}", pair.number);
    state([a, b].into_iter(), |it| {
        let waits = told(mesh, it, true, reports);
        waits.or_else(|| sends(it, &interface, reports))
    })
}

/// What a gateway still sends through one of its interfaces.
fn sends(gateway: &str, interface: &str, reports: &Reports) -> Option<String> {
    let through = |path: &proto::Path| path.interface == interface;
    still(gateway, reports, |report| {
        let routes = report.kept.routes();
        let mut used = routes.iter().filter(|it| it.paths.iter().any(through));
        used.next().map(|route| route.prefix.clone())
    })
}

/// So is one to a foreign peer, of whose end nobody knows, when ours sends nothing.
pub(super) fn abroad(mesh: &Mesh, it: &Abroad, reports: &Reports) -> Drained {
    let gateway = it.own.gateway.name.as_str();
    if !mesh
        .drains
        .contains(&Drain::between(gateway, &it.peer.name))
    {
        return Default::default();
    }
    let interface = format!("rm{}", it.number());
    state([gateway].into_iter(), |gateway| {
        let waits = told(mesh, gateway, true, reports);
        waits.or_else(|| sends(gateway, &interface, reports))
    })
}

fn state<'m>(
    gateways: impl Iterator<Item = &'m str>,
    mut wait: impl FnMut(&'m str) -> Option<String>,
) -> Drained {
    let waits: Vec<String> = gateways.filter_map(&mut wait).collect();
    match waits.as_slice() {
        [] => ("drained", String::new()),
        [only] => ("draining", only.clone()),
        [first, more @ ..] => ("draining", format!("{first} (and {} more)", more.len())),
    }
}

/// Why a gateway may not know yet that it is to drain.
fn told(mesh: &Mesh, gateway: &str, asked: bool, reports: &Reports) -> Option<String> {
    let report = reports.get(gateway)?;
    let generation = report.kept.head().generation;
    let behind = asked && report.is_fresh() && generation != mesh.generation;
    behind.then(|| format!("{gateway} runs generation {generation}"))
}

/// What a gateway still sends that way, or why that is not known.
fn still(
    gateway: &str,
    reports: &Reports,
    used: impl Fn(&Report) -> Option<String>,
) -> Option<String> {
    let Some(report) = reports.get(gateway) else {
        return Some(format!("{gateway} has not reported yet"));
    };
    if !report.is_fresh() {
        return Some(format!("{gateway} last reported {} ago", ago(report.age)));
    }
    if let Some(prefix) = used(report) {
        return Some(format!("{gateway} sends {prefix} through it"));
    }
    // What is not listed may still go that way.
    let (listed, total) = (report.kept.routes().len(), report.kept.head().routes_total);
    (total > listed as u64)
        .then(|| format!("{gateway} lists {listed} of its {total} routes, none of them through it"))
}
