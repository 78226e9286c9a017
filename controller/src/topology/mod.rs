//! Intended against observed: (mesh, reports) -> what `meshctl topology` shows. Pure; time comes
//! in as the age of each report.

mod drain;
mod edge;
mod prefix;

use crate::ids::abroad;
use crate::mesh::Mesh;
use crate::render::pairs;
use crate::spec::{Gateway, Site};
use routemesh_proto as proto;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A report older than this says nothing about now. Agents report at least every 10 s.
pub const FRESH: Duration = Duration::from_secs(30);

/// What a gateway last said, and how long ago.
#[derive(Clone, Debug)]
pub struct Report {
    /// What.
    pub status: Arc<proto::Status>,
    /// How long ago.
    pub age: Duration,
}

impl Report {
    fn is_fresh(&self) -> bool {
        self.age <= FRESH
    }
}

/// The last report of each gateway.
pub type Reports = BTreeMap<String, Report>;

/// The mesh as it should be, beside what its gateways say.
pub fn topology(mesh: &Mesh, reports: &Reports) -> proto::Topology {
    proto::Topology {
        generation: mesh.generation,
        gateways: mesh
            .spec
            .gateways()
            .map(|(site, gateway)| gateway_view(mesh, site, gateway, reports))
            .collect(),
        edges: edges(mesh, reports),
        prefixes: prefix::prefixes(mesh, reports),
    }
}

/// Tunnels between gateways, then those to foreign peers.
fn edges(mesh: &Mesh, reports: &Reports) -> Vec<proto::Edge> {
    let pairs = pairs(mesh).into_iter();
    let mut edges: Vec<proto::Edge> = pairs.map(|it| edge::edge(mesh, &it, reports)).collect();
    let abroad = abroad(&mesh.spec, &mesh.ids);
    edges.extend(
        abroad
            .iter()
            .filter_map(|it| edge::abroad(mesh, it, reports)),
    );
    edges
}

fn gateway_view(
    mesh: &Mesh,
    site: &Site,
    gateway: &Gateway,
    reports: &Reports,
) -> proto::GatewayView {
    let report = reports.get(&gateway.name.value);
    let (verdict, reason) = gateway_verdict(mesh.generation, report);
    let status = report.map(|report| report.status.as_ref());
    let (drain, drain_reason) = drain::gateway(mesh, &gateway.name, reports);
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
    }
}

fn gateway_verdict(generation: u64, report: Option<&Report>) -> (&'static str, String) {
    let Some(report) = report else {
        let reason = "has not reported yet: is mesh-agent running there?";
        return ("never seen", reason.to_owned());
    };
    let status = &report.status;
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
