//! A tunnel's verdict: up only if both ends say so, and lately.

use super::{Report, Reports, ago, drain};
use crate::ids::{Abroad, End, interconnect};
use crate::mesh::Mesh;
use crate::render::Pair;
use crate::spec::Inside;
use routemesh_proto as proto;
use std::net::{IpAddr, Ipv6Addr};

/// What is wrong at one end, from the bottom of the ladder: what stands first causes the rest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    NeverReported,
    Stale(String),
    NotRunning(u64),
    Interface(String),
    Ike {
        state: String,
        reason: String,
    },
    /// Dead by whatever sign, or not steady for long enough.
    Way(String),
    Bgp {
        state: String,
        last_error: String,
    },
}

/// What an end says of its keys that is not a state of IKE.
const NOT_OF_IKE: [&str; 3] = ["charon unreachable", "no handshake", "no key"];

impl Fault {
    fn words(&self) -> String {
        match self {
            Self::NeverReported => "never reported".to_owned(),
            Self::Stale(age) => format!("last report {age} ago"),
            Self::NotRunning(generation) => {
                format!("does not run this tunnel (generation {generation})")
            }
            Self::Interface(state) => format!("interface {state}"),
            Self::Ike { state, .. } if NOT_OF_IKE.contains(&state.as_str()) => state.clone(),
            Self::Ike { state, reason } if reason.is_empty() => format!("IKE {state}"),
            Self::Ike { state, reason } => format!("IKE {state} ({reason})"),
            Self::Way(words) => words.clone(),
            Self::Bgp { state, last_error } if last_error.is_empty() => format!("BGP {state}"),
            Self::Bgp { state, last_error } => format!("BGP {state} ({last_error})"),
        }
    }

    fn is_silence(&self) -> bool {
        matches!(self, Self::NeverReported | Self::Stale(_))
    }
}

/// The first thing that is wrong at an end; `bgp`: it is to have a session.
fn fault(number: u32, bgp: bool, report: Option<&Report>) -> Option<Fault> {
    let Some(report) = report else {
        return Some(Fault::NeverReported);
    };
    if !report.is_fresh() {
        return Some(Fault::Stale(ago(report.age)));
    }
    let Some(tunnel) = find(number, report) else {
        return Some(Fault::NotRunning(report.status.generation));
    };
    // IKE needs the interface before it, and gives it its carrier.
    if tunnel.interface == "missing" {
        return Some(Fault::Interface(tunnel.interface.clone()));
    }
    if tunnel.ike != "up" {
        return Some(Fault::Ike {
            state: tunnel.ike.clone(),
            reason: tunnel.ike_reason.clone(),
        });
    }
    if tunnel.interface != "up" {
        return Some(Fault::Interface(tunnel.interface.clone()));
    }
    if let Some(words) = tunnel.liveness.as_ref().and_then(liveness) {
        return Some(Fault::Way(words));
    }
    match &tunnel.bgp {
        _ if !bgp => None,
        Some(bgp) if bgp.state == "Established" => None,
        Some(bgp) => Some(Fault::Bgp {
            state: bgp.state.clone(),
            last_error: bgp.last_error.clone(),
        }),
        None => Some(Fault::Bgp {
            state: "not started".to_owned(),
            last_error: String::new(),
        }),
    }
}

/// What is wrong with a way that is not alive.
fn liveness(status: &proto::LivenessStatus) -> Option<String> {
    let proto::LivenessStatus {
        state,
        reason,
        held,
        deaths,
    } = status;
    match state.as_str() {
        "dead" => Some(format!("dead: {reason}")),
        "held" => {
            let times = if *deaths == 1 {
                "once"
            } else {
                &format!("{deaths} times")
            };
            Some(format!(
                "held for {held} s: it went down {times} ({reason})"
            ))
        }
        _ => None,
    }
}

fn find(number: u32, report: &Report) -> Option<&proto::TunnelStatus> {
    let mut tunnels = report.status.tunnels.iter();
    tunnels.find(|tunnel| tunnel.number == number)
}

fn verdict(a: (&str, Option<Fault>), b: (&str, Option<Fault>)) -> (&'static str, String) {
    let says = |(gateway, fault): &(&str, Fault)| format!("{gateway}: {}", fault.words());
    match (a, b) {
        ((_, None), (_, None)) => ("up", String::new()),
        ((_, None), (name, Some(fault))) | ((name, Some(fault)), (_, None)) => {
            let verdict = if fault.is_silence() {
                "unknown"
            } else {
                "degraded"
            };
            (verdict, says(&(name, fault)))
        }
        ((a, Some(x)), (b, Some(y))) => {
            // One end that speaks and says no is enough to know.
            let silent = x.is_silence() && y.is_silence();
            let verdict = if silent { "unknown" } else { "down" };
            let reason = if x.words() == y.words() {
                format!("both: {}", x.words())
            } else {
                let mut both = [(a, x), (b, y)];
                both.sort_by(|one, other| one.1.cmp(&other.1));
                both.iter().map(says).collect::<Vec<_>>().join("; ")
            };
            (verdict, reason)
        }
    }
}

pub(super) fn edge(mesh: &Mesh, pair: &Pair, reports: &Reports) -> proto::Edge {
    let (even, odd) = interconnect(mesh.spec.interconnect.value, pair.number);
    let look = |end: &End| {
        let name = end.gateway.name.as_str();
        fault(pair.number, true, reports.get(name))
    };
    let (verdict, reason) = verdict(
        (&pair.a.gateway.name, look(&pair.a)),
        (&pair.b.gateway.name, look(&pair.b)),
    );
    let (drain, drain_reason) = drain::tunnel(mesh, pair, reports);
    proto::Edge {
        number: pair.number,
        verdict: verdict.to_owned(),
        reason,
        a: Some(view(pair.number, &pair.a, even, reports)),
        b: Some(view(pair.number, &pair.b, odd, reports)),
        drain: drain.to_owned(),
        drain_reason,
        kind: mesh.spec.kind(pair.a.gateway, pair.b.gateway).to_string(),
    }
}

/// A tunnel to a foreign peer, of which only our end reports.
pub(super) fn abroad(mesh: &Mesh, it: &Abroad, reports: &Reports) -> Option<proto::Edge> {
    let (drain, drain_reason) = drain::abroad(mesh, it, reports);
    let number = u32::try_from(it.number()).ok()?;
    let gateway = &it.own.gateway.name;
    let report = reports.get(&gateway.value);
    let fault = fault(number, it.peer.asn.is_some(), report);
    let verdict = match &fault {
        None => "up",
        Some(fault) if fault.is_silence() => "unknown",
        Some(_) => "down",
    };
    let reason = fault.map(|fault| format!("{}: {}", gateway.value, fault.words()));
    let status = report.and_then(|report| find(number, report)).cloned();
    let address = |of: fn(&Inside) -> IpAddr| {
        let inside = it.tunnel.inside.as_ref();
        inside.map_or(String::new(), |inside| of(inside).to_string())
    };
    Some(proto::Edge {
        number,
        verdict: verdict.to_owned(),
        reason: reason.unwrap_or_default(),
        a: Some(proto::End {
            gateway: gateway.value.clone(),
            site: it.own.site.name.value.clone(),
            endpoint: it.own.endpoint.text(),
            address: address(|it| it.own.addr()),
            status,
            fresh: report.is_some_and(Report::is_fresh),
        }),
        b: Some(proto::End {
            gateway: it.peer.name.value.clone(),
            site: it.peer.name.value.clone(),
            endpoint: it.tunnel.remote.text(),
            address: address(|it| it.far),
            ..proto::End::default()
        }),
        drain: drain.to_owned(),
        drain_reason,
        ..proto::Edge::default()
    })
}

fn view(number: u32, end: &End, address: Ipv6Addr, reports: &Reports) -> proto::End {
    let report = reports.get(&end.gateway.name.value);
    proto::End {
        gateway: end.gateway.name.value.clone(),
        site: end.site.name.value.clone(),
        endpoint: end.endpoint.text(),
        address: address.to_string(),
        status: report.and_then(|report| find(number, report)).cloned(),
        fresh: report.is_some_and(Report::is_fresh),
    }
}
