//! Whether traffic has left what is drained, as far as the gateways report.

use super::{Reports, ago};
use crate::drain::Drain;
use crate::ids::Abroad;
use crate::mesh::Mesh;
use crate::render::Pair;
use routemesh_proto as proto;

/// The state in the words of routemesh.proto, and its reason.
pub(super) type Drained = (&'static str, String);

/// A gateway is drained when no other sends anything through it.
pub(super) fn gateway(mesh: &Mesh, name: &str, reports: &Reports) -> Drained {
    let asked = mesh.drains.contains(&Drain::gateway(name));
    let own = reports.get(name).filter(|report| report.is_fresh());
    if !asked && !own.is_some_and(|report| report.status.drain) {
        return Default::default();
    }
    let names = mesh.spec.gateways().map(|(_, it)| it.name.as_str());
    state(names, |it| match it == name {
        true => told(mesh, it, asked, reports),
        false => uses(it, reports, |path| path.via == name),
    })
}

/// A tunnel is drained when neither end sends anything through it.
pub(super) fn tunnel(mesh: &Mesh, pair: &Pair, reports: &Reports) -> Drained {
    let (a, b) = (pair.a.gateway.name.as_str(), pair.b.gateway.name.as_str());
    if !mesh.drains.contains(&Drain::between(a, b)) {
        return Default::default();
    }
    // ARCHITECTURE.md, invariant 3.
    let interface = format!("rm{}", pair.number);
    state([a, b].into_iter(), |it| {
        let waits = told(mesh, it, true, reports);
        waits.or_else(|| uses(it, reports, |path| path.interface == interface))
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
        waits.or_else(|| uses(gateway, reports, |path| path.interface == interface))
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
    let behind = asked && report.is_fresh() && report.status.generation != mesh.generation;
    behind.then(|| format!("{gateway} runs generation {}", report.status.generation))
}

/// What a gateway still sends that way, or why that is not known.
fn uses(
    gateway: &str,
    reports: &Reports,
    through: impl Fn(&proto::Path) -> bool,
) -> Option<String> {
    let Some(report) = reports.get(gateway) else {
        return Some(format!("{gateway} has not reported yet"));
    };
    if !report.is_fresh() {
        return Some(format!("{gateway} last reported {} ago", ago(report.age)));
    }
    let proto::Status {
        routes,
        routes_total,
        ..
    } = &*report.status;
    if let Some(route) = routes.iter().find(|it| it.paths.iter().any(&through)) {
        return Some(format!("{gateway} sends {} through it", route.prefix));
    }
    // What is not listed may still go that way.
    let cut = *routes_total > routes.len() as u64;
    cut.then(|| {
        let listed = routes.len();
        format!("{gateway} lists {listed} of its {routes_total} routes, none of them through it")
    })
}
