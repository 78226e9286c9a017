//! A tunnel's verdict: up only if both ends say so, and lately.

use super::{Report, Reports, Wanted, ago, drain};
use crate::ids::{Abroad, End, abroad, interconnect};
use crate::mesh::Mesh;
use crate::render::{Pair, pair};
use crate::report::Look;
use crate::spec::Inside;
use routemesh_proto as proto;
use std::collections::{BTreeMap, BTreeSet, HashMap};
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

/// What an end reports of a tunnel. Reports are unpacked for those tunnels only that are shown.
type Statuses<'m> = HashMap<(&'m str, u32), proto::TunnelStatus>;

/// The first thing that is wrong at an end; `bgp`: it is to have a session.
fn fault(
    bgp: bool,
    report: Option<&Report>,
    tunnel: Option<&proto::TunnelStatus>,
) -> Option<Fault> {
    let Some(report) = report else {
        return Some(Fault::NeverReported);
    };
    if !report.is_fresh() {
        return Some(Fault::Stale(ago(report.age)));
    }
    let Some(tunnel) = tunnel else {
        return Some(Fault::NotRunning(report.kept.head().generation));
    };
    of_status(bgp, tunnel)
}

/// The same in words, of what an end reports now.
pub(super) fn why_not(bgp: bool, tunnel: &proto::TunnelStatus) -> Option<String> {
    of_status(bgp, tunnel).map(|fault| fault.words())
}

fn of_status(bgp: bool, tunnel: &proto::TunnelStatus) -> Option<Fault> {
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

/// Whether an end is well; `None` for one that says nothing about now.
fn is_well(number: u32, bgp: bool, report: Option<&Report>) -> Option<bool> {
    let report = report.filter(|report| report.is_fresh())?;
    let look = report.kept.look(number);
    Some(look == Some(Look::Well) || (!bgp && look == Some(Look::NoSession)))
}

/// A tunnel's verdict by both ends, without the reason.
fn judged(a: Option<bool>, b: Option<bool>) -> &'static str {
    match (a, b) {
        (Some(true), Some(true)) => "up",
        (Some(true), None) | (None, Some(true)) | (None, None) => "unknown",
        (Some(true), Some(false)) | (Some(false), Some(true)) => "degraded",
        // One end that speaks and says no is enough to know.
        (Some(false), _) | (_, Some(false)) => "down",
    }
}

/// Looks at every tunnel between gateways, unpacking nothing.
fn for_each<'m>(
    mesh: &'m Mesh,
    reports: &Reports,
    wanted: &Wanted,
    mut tell: impl FnMut(Pair<'m>, &'static str),
) {
    let ends: Vec<(End, bool, Option<&Report>)> = mesh
        .ends()
        .map(|end| {
            let wanted = wanted.has(end.site, end.gateway);
            (end, wanted, reports.get(&end.gateway.name.value))
        })
        .collect();
    for (i, (x, wanted_x, of_x)) in ends.iter().enumerate() {
        for (y, wanted_y, of_y) in ends.iter().skip(i + 1) {
            if let Some(pair) = pair(x, y).filter(|_| *wanted_x || *wanted_y) {
                let look = |report| is_well(pair.number, true, report);
                tell(pair, judged(look(*of_x), look(*of_y)));
            }
        }
    }
}

/// The numbers of all tunnels that are up.
pub(super) fn up(mesh: &Mesh, reports: &Reports) -> BTreeSet<u32> {
    let mut up = BTreeSet::new();
    for_each(mesh, reports, &Wanted::default(), |pair, verdict| {
        if verdict == "up" {
            up.insert(pair.number);
        }
    });
    for it in abroad(&mesh.spec, &mesh.ids) {
        let report = reports.get(&it.own.gateway.name.value);
        if let Ok(number) = u32::try_from(it.number())
            && is_well(number, it.peer.asn.is_some(), report) == Some(true)
        {
            up.insert(number);
        }
    }
    up
}

/// Gateways of a site, and those with tunnels to it, of which nothing is known now.
pub(super) fn unheard<'m>(mesh: &'m Mesh, reports: &Reports, site: &str) -> BTreeSet<&'m str> {
    let of_site = mesh.spec.sites.iter().filter(|it| it.name.value == site);
    let mut all: BTreeSet<&str> = of_site
        .flat_map(|it| it.gateways.iter().map(|gateway| gateway.name.as_str()))
        .collect();
    for_each(mesh, reports, &Wanted::default(), |pair, _| {
        if [pair.a, pair.b].iter().any(|it| it.site.name.value == site) {
            all.extend([pair.a, pair.b].map(|it| it.gateway.name.as_str()));
        }
    });
    all.retain(|name| !reports.get(*name).is_some_and(Report::is_fresh));
    all
}

/// What a tunnel can be.
pub(super) const VERDICTS: [&str; 4] = ["up", "degraded", "down", "unknown"];

/// So many tunnels are listed.
const MOST: usize = 20_000;

/// Tunnels between gateways, then those to foreign peers, and how many there are.
pub(super) fn edges(
    mesh: &Mesh,
    reports: &Reports,
    wanted: &Wanted,
) -> (Vec<proto::Edge>, proto::EdgeCounts) {
    let mut counts = proto::EdgeCounts::default();
    let (mut well, mut unwell) = (Vec::new(), Vec::new());
    for_each(mesh, reports, wanted, |pair, verdict| {
        count(&mut counts, verdict);
        if !wanted.shows(verdict) {
            return;
        }
        if verdict != "up" {
            unwell.push(pair);
        } else if well.len() <= MOST {
            well.push(pair);
        }
    });
    let abroad = abroad(&mesh.spec, &mesh.ids).into_iter();
    let abroad: Vec<Abroad> = abroad
        .filter(|it| wanted.has(it.own.site, it.own.gateway))
        .collect();
    // Of those there are few.
    let mut pairs = unwell;
    if well.len() + pairs.len() <= MOST {
        pairs.extend(well);
    }
    pairs.sort_by_key(|pair| pair.number);
    pairs.truncate(MOST);
    let mut shown: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    let between = pairs.iter().flat_map(|pair| {
        let names = [&pair.a, &pair.b].map(|end| end.gateway.name.as_str());
        names.map(|name| (name, pair.number))
    });
    let foreign = abroad.iter().filter_map(|it| {
        let number = u32::try_from(it.number()).ok()?;
        Some((it.own.gateway.name.as_str(), number))
    });
    for (gateway, number) in between.chain(foreign) {
        shown.entry(gateway).or_default().insert(number);
    }
    let mut statuses = Statuses::new();
    for (gateway, numbers) in shown {
        if let Some(report) = reports.get(gateway) {
            let tunnels = report.kept.tunnels_of(&numbers).into_iter();
            statuses.extend(tunnels.map(|it| ((gateway, it.number), it)));
        }
    }
    let between = pairs.iter();
    let mut edges: Vec<proto::Edge> = between
        .map(|pair| edge(mesh, pair, reports, &statuses))
        .collect();
    for it in &abroad {
        if let Some(edge) = foreign_edge(mesh, it, reports, &statuses) {
            count(&mut counts, &edge.verdict);
            if wanted.shows(&edge.verdict) {
                edges.push(edge);
            }
        }
    }
    (edges, counts)
}

fn count(counts: &mut proto::EdgeCounts, verdict: &str) {
    *match verdict {
        "up" => &mut counts.up,
        "degraded" => &mut counts.degraded,
        "down" => &mut counts.down,
        _ => &mut counts.unknown,
    } += 1;
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

fn edge(mesh: &Mesh, pair: &Pair, reports: &Reports, statuses: &Statuses) -> proto::Edge {
    let (even, odd) = interconnect(mesh.spec.interconnect.value, pair.number);
    let look = |end: &End| {
        let name = end.gateway.name.as_str();
        fault(true, reports.get(name), statuses.get(&(name, pair.number)))
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
        a: Some(view(pair.number, &pair.a, even, reports, statuses)),
        b: Some(view(pair.number, &pair.b, odd, reports, statuses)),
        drain: drain.to_owned(),
        drain_reason,
        kind: mesh.spec.kind(pair.a.gateway, pair.b.gateway).to_string(),
    }
}

/// A tunnel to a foreign peer, of which only our end reports.
fn foreign_edge(
    mesh: &Mesh,
    it: &Abroad,
    reports: &Reports,
    statuses: &Statuses,
) -> Option<proto::Edge> {
    let (drain, drain_reason) = drain::abroad(mesh, it, reports);
    let number = u32::try_from(it.number()).ok()?;
    let gateway = &it.own.gateway.name;
    let report = reports.get(&gateway.value);
    let status = statuses.get(&(gateway.as_str(), number));
    let fault = fault(it.peer.asn.is_some(), report, status);
    let verdict = match &fault {
        None => "up",
        Some(fault) if fault.is_silence() => "unknown",
        Some(_) => "down",
    };
    let reason = fault.map(|fault| format!("{}: {}", gateway.value, fault.words()));
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
            status: status.cloned(),
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

fn view(
    number: u32,
    end: &End,
    address: Ipv6Addr,
    reports: &Reports,
    statuses: &Statuses,
) -> proto::End {
    let name = end.gateway.name.as_str();
    let report = reports.get(name);
    proto::End {
        gateway: end.gateway.name.value.clone(),
        site: end.site.name.value.clone(),
        endpoint: end.endpoint.text(),
        address: address.to_string(),
        status: statuses.get(&(name, number)).cloned(),
        fresh: report.is_some_and(Report::is_fresh),
    }
}
