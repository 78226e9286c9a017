//! Intended against observed: (mesh, reports) -> what `meshctl topology` shows. Pure; time comes
//! in as the age of each report.
//!
//! A mesh of 2,000 gateways has two million tunnels. All are looked at, and as many are listed as somebody
//! can read: what is not up comes first, and of one gateway or site there is room for everything.

mod drain;
mod edge;
mod prefix;

pub use crate::report::{FRESH, Report, Reports};

use crate::mesh::Mesh;
use crate::spec::{Gateway, Site};
use routemesh_proto as proto;
use std::collections::BTreeSet;
use std::time::Duration;

/// What somebody wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only what is of this gateway.
    pub gateway: Option<String>,
    /// Only what is of gateways of this site.
    pub site: Option<String>,
    /// No tunnels and no prefixes.
    pub gateways_only: bool,
    /// Only tunnels of one of these verdicts, and no prefixes; all without any.
    pub states: Vec<String>,
}

impl Wanted {
    fn has(&self, site: &Site, gateway: &Gateway) -> bool {
        let is = |wanted: &Option<String>, name: &str| match wanted {
            Some(wanted) => wanted == name,
            None => true,
        };
        is(&self.gateway, &gateway.name) && is(&self.site, &site.name)
    }

    /// Why it cannot be shown.
    pub fn check(&self, mesh: &Mesh) -> Result<(), String> {
        if let Some(name) = &self.gateway
            && mesh.gateway(name).is_none()
        {
            return Err(format!(
                "no gateway {name:?} is in the mesh: meshctl get gateways lists them"
            ));
        }
        let has = |name: &str| mesh.spec.sites.iter().any(|site| *site.name.value == *name);
        match &self.site {
            Some(name) if !has(name) => {
                return Err(format!(
                    "no site {name:?} is in the mesh: meshctl get gateways lists them"
                ));
            }
            _ => {}
        }
        match self
            .states
            .iter()
            .find(|it| !edge::VERDICTS.contains(&it.as_str()))
        {
            Some(state) => Err(format!(
                "no tunnel is ever {state:?}: they are {}",
                edge::VERDICTS.join(", ")
            )),
            None => Ok(()),
        }
    }

    fn shows(&self, verdict: &str) -> bool {
        self.states.is_empty() || self.states.iter().any(|it| it == verdict)
    }

    fn is_all(&self) -> bool {
        self.gateway.is_none() && self.site.is_none()
    }
}

/// The mesh as it should be, beside what its gateways say.
pub fn topology(mesh: &Mesh, reports: &Reports, wanted: &Wanted) -> proto::Topology {
    let gateways = mesh.spec.gateways();
    let gateways: Vec<_> = gateways.filter(|(s, g)| wanted.has(s, g)).collect();
    let uses = drain::uses(mesh, reports, &gateways);
    let view = proto::Topology {
        generation: mesh.generation,
        gateways: gateways
            .into_iter()
            .map(|(site, gateway)| gateway_view(mesh, site, gateway, reports, &uses))
            .collect(),
        ..proto::Topology::default()
    };
    if wanted.gateways_only {
        return view;
    }
    let (edges, counts) = edge::edges(mesh, reports, wanted);
    let (prefixes, prefixes_cut) = match wanted.states.as_slice() {
        [] => prefix::prefixes(mesh, reports, wanted),
        _ => (Vec::new(), false),
    };
    proto::Topology {
        edges,
        edge_counts: Some(counts),
        prefixes,
        prefixes_cut,
        ..view
    }
}

/// What is wrong at an end of a tunnel, as it reports it; `bgp`: it is to have a session.
pub fn why_not(bgp: bool, status: &proto::TunnelStatus) -> Option<String> {
    edge::why_not(bgp, status)
}

/// The numbers of all tunnels that are up, listed or not.
pub fn up(mesh: &Mesh, reports: &Reports) -> BTreeSet<u32> {
    edge::up(mesh, reports)
}

/// Gateways of a site, and those with tunnels to it, of which nothing is known now: what is up there is not
/// known either.
pub fn unheard<'m>(mesh: &'m Mesh, reports: &Reports, site: &str) -> BTreeSet<&'m str> {
    edge::unheard(mesh, reports, site)
}

fn gateway_view(
    mesh: &Mesh,
    site: &Site,
    gateway: &Gateway,
    reports: &Reports,
    uses: &drain::Uses,
) -> proto::GatewayView {
    let report = reports.get(&gateway.name.value);
    let (verdict, reason) = gateway_verdict(mesh.generation, report);
    let status = report.map(|report| report.kept.head());
    let (drain, drain_reason) = drain::gateway(mesh, &gateway.name, reports, uses);
    proto::GatewayView {
        name: gateway.name.value.clone(),
        site: site.name.value.clone(),
        verdict: verdict.to_owned(),
        reason,
        generation: status.map_or(0, |status| status.generation),
        version: status.map_or(String::new(), |status| status.version.clone()),
        reported: report.map(|report| report.age.as_secs()),
        routers: status.map_or(Vec::new(), |status| status.routers.clone()),
        problems: status.map_or(Vec::new(), |status| status.problems.clone()),
        invalid: status.map_or(Vec::new(), |status| status.invalid.clone()),
        repairs: status.map_or(Vec::new(), |status| status.repairs.clone()),
        endpoints: gateway.endpoints.iter().map(|e| e.text()).collect(),
        drain: drain.to_owned(),
        drain_reason,
        findings: status.map_or(Vec::new(), |status| status.findings.clone()),
        certificate: status.and_then(|status| status.certificate.clone()),
    }
}

/// A gateway's verdict by its last report, and why it is not "ok".
pub fn verdict_of_gateway(generation: u64, report: Option<&Report>) -> (&'static str, String) {
    gateway_verdict(generation, report)
}

fn gateway_verdict(generation: u64, report: Option<&Report>) -> (&'static str, String) {
    let Some(report) = report else {
        let reason = "has not reported yet: is mesh-agent running there?";
        return ("never seen", reason.to_owned());
    };
    let status = report.kept.head();
    if !report.is_fresh() {
        let reason = format!("last report {} ago", ago(report.age));
        return ("stale", reason);
    }
    // A problem may well be why it is behind.
    let first = status.problems.first();
    let problem = first.map(|problem| match status.problems.len() {
        1 => format!("{}: {}", problem.object, problem.reason),
        more => format!(
            "{}: {} (and {} more)",
            problem.object,
            problem.reason,
            more - 1
        ),
    });
    match (status.generation == generation, problem) {
        (false, problem) => {
            let has = match status.generation {
                0 => "runs no config yet".to_owned(),
                has => format!("runs generation {has}, not {generation}"),
            };
            let reason = problem.map_or(has.clone(), |problem| format!("{has}: {problem}"));
            ("behind", reason)
        }
        (true, Some(problem)) => ("problem", problem),
        (true, None) => ("ok", String::new()),
    }
}

/// A duration in the words of somebody in a hurry.
fn ago(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
