//! What one mesh changes of another: (before, after) -> what a tired operator reads before `apply`. Pure.

mod fields;
mod summary;

pub use summary::summary;

use crate::mesh::Mesh;
use crate::render::render;
use crate::step::Step;
use fields::fields;
use routemesh_proto::{Config, Counts, GatewayPlan, Plan, Site, SitePlan, Tunnel, TunnelPlan};
use std::collections::{BTreeMap, BTreeSet};

/// So many gateways are listed, and of each so many tunnels; all are counted.
const GATEWAYS: usize = 2_000;
const TUNNELS: usize = 100;

const ADD: &str = "add";
const REMOVE: &str = "remove";
const CHANGE: &str = "change";

/// What `after` changes; without a `before`, all of it.
pub fn plan(before: Option<&Mesh>, after: &Mesh) -> Plan {
    let step = before.map(|before| Step::new(before, after));
    plan_step(before, after, &step.unwrap_or_else(Step::everything))
}

/// The same, where it is known whom it concerns: others are not looked at but for what may be other.
pub fn plan_step(before: Option<&Mesh>, after: &Mesh, step: &Step) -> Plan {
    let mut plan = Plan {
        generation: before.map_or(0, |mesh| mesh.generation),
        sites: sites(before, after),
        gateway_counts: Some(Counts::default()),
        tunnel_counts: Some(Counts::default()),
        ..Plan::default()
    };
    let names = before.into_iter().chain([after]).flat_map(|mesh| {
        let gateways = mesh.spec.gateways();
        gateways.map(|(_, gateway)| gateway.name.as_str())
    });
    let mut counted = Counted::default();
    let mut gateways = Counts::default();
    for name in names.collect::<BTreeSet<_>>() {
        // One at a time: all configs of a large mesh together are large.
        let parts = before.and_then(|before| step.parts(before, after, name));
        let (old, new) = match parts {
            Some((old, new)) => (Some(old), Some(new)),
            None => {
                let old = before.and_then(|mesh| config(mesh, name));
                (old, config(after, name))
            }
        };
        let Some(planned) = gateway(old, new, &mut counted) else {
            continue;
        };
        count(&mut gateways, &planned.change);
        if plan.gateways.len() < GATEWAYS {
            plan.gateways.push(planned);
        }
    }
    plan.gateway_counts = Some(gateways);
    plan.tunnel_counts = Some(counted.counts());
    plan
}

/// Tunnels whose end was added, removed or changed: most have two.
#[derive(Default)]
struct Counted {
    numbers: BTreeMap<&'static str, BTreeSet<u32>>,
}

impl Counted {
    fn note(&mut self, change: &'static str, number: u32) {
        self.numbers.entry(change).or_default().insert(number);
    }

    fn counts(&self) -> Counts {
        let of = |change| self.numbers.get(change).map_or(0, |it| it.len() as u64);
        Counts {
            added: of(ADD),
            removed: of(REMOVE),
            changed: of(CHANGE),
        }
    }
}

fn count(counts: &mut Counts, change: &str) {
    match change {
        ADD => counts.added += 1,
        REMOVE => counts.removed += 1,
        _ => counts.changed += 1,
    }
}

/// Of a gateway that the specification has.
fn config(mesh: &Mesh, name: &str) -> Option<Config> {
    mesh.gateway(name)?;
    render(mesh, name)
}

fn gateway(
    before: Option<Config>,
    after: Option<Config>,
    all: &mut Counted,
) -> Option<GatewayPlan> {
    let (change, one) = match (&before, &after) {
        (Some(before), Some(after)) if same(before, after) => return None,
        (Some(_), Some(after)) => (CHANGE, after),
        (None, Some(after)) => (ADD, after),
        (Some(before), None) => (REMOVE, before),
        (None, None) => return None,
    };
    let mut planned = GatewayPlan {
        name: one.gateway.clone(),
        site: one.site.clone(),
        change: change.to_owned(),
        ..GatewayPlan::default()
    };
    if let (Some(before), Some(after)) = (&before, &after) {
        planned.fields = fields(&header(before, after), &header(after, before));
    }
    let by_number = |config: Option<Config>| -> BTreeMap<u32, Tunnel> {
        let tunnels = config.into_iter().flat_map(|config| config.tunnels);
        tunnels.map(|tunnel| (tunnel.number, tunnel)).collect()
    };
    let (before, after) = (by_number(before), by_number(after));
    let mut counts = Counts::default();
    for number in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let Some((change, planned_tunnel)) = tunnel(before.get(number), after.get(number)) else {
            continue;
        };
        count(&mut counts, change);
        all.note(change, *number);
        if planned.tunnels.len() < TUNNELS {
            planned.tunnels.push(planned_tunnel);
        }
    }
    planned.counts = Some(counts);
    let nothing = planned.fields.is_empty() && planned.tunnels.is_empty() && change == CHANGE;
    (!nothing).then_some(planned)
}

fn same(before: &Config, after: &Config) -> bool {
    before.tunnels == after.tunnels && header(before, after) == header(after, before)
}

/// A config less what is told elsewhere: tunnels, and what sites own.
fn header(config: &Config, other: &Config) -> Config {
    let theirs: BTreeSet<&str> = other.sites.iter().map(|it| it.name.as_str()).collect();
    let sites = config.sites.iter();
    let sites = sites.filter(|it| theirs.contains(it.name.as_str()));
    let mut sites: Vec<Site> = sites
        .map(|it| Site {
            prefixes: Vec::new(),
            ..it.clone()
        })
        .collect();
    // Their order says nothing.
    sites.sort_by(|one, other| one.name.cmp(&other.name));
    Config {
        generation: 0,
        tunnels: Vec::new(),
        sites,
        ..config.clone()
    }
}

fn tunnel(before: Option<&Tunnel>, after: Option<&Tunnel>) -> Option<(&'static str, TunnelPlan)> {
    let planned = |tunnel: &Tunnel, change: &'static str| {
        let planned = TunnelPlan {
            number: tunnel.number,
            peer: tunnel.peer.clone(),
            change: change.to_owned(),
            fields: Vec::new(),
        };
        (change, planned)
    };
    match (before, after) {
        (Some(before), Some(after)) if before == after => None,
        (Some(before), Some(after)) => {
            let (change, mut planned) = planned(after, CHANGE);
            planned.fields = fields(before, after);
            Some((change, planned))
        }
        (None, Some(after)) => Some(planned(after, ADD)),
        (Some(before), None) => Some(planned(before, REMOVE)),
        (None, None) => None,
    }
}

/// What owns prefixes: by kind and name.
type Owners = BTreeMap<(&'static str, String), BTreeSet<String>>;

fn owners(mesh: &Mesh) -> Owners {
    let sites = mesh.spec.sites.iter();
    let sites = sites.map(|it| (("site", it.name.value.clone()), &it.prefixes));
    let foreign = mesh.spec.foreign.iter();
    let foreign = foreign.map(|it| (("foreign peer", it.name.value.clone()), &it.prefixes));
    sites
        .chain(foreign)
        .map(|(owner, prefixes)| {
            (
                owner,
                prefixes.iter().map(|it| it.value.to_string()).collect(),
            )
        })
        .collect()
}

fn sites(before: Option<&Mesh>, after: &Mesh) -> Vec<SitePlan> {
    let (before, after) = (before.map(owners).unwrap_or_default(), owners(after));
    let none = BTreeSet::new();
    let mut sites = Vec::new();
    for owner in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let (old, new) = (before.get(owner), after.get(owner));
        if old == new {
            continue;
        }
        let change = match (old, new) {
            (None, _) => ADD,
            (_, None) => REMOVE,
            _ => CHANGE,
        };
        let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
        sites.push(SitePlan {
            kind: owner.0.to_owned(),
            name: owner.1.clone(),
            change: change.to_owned(),
            added: new.difference(old).cloned().collect(),
            removed: old.difference(new).cloned().collect(),
        });
    }
    sites
}

#[cfg(test)]
mod tests;
