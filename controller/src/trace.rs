//! Where packets to an address go, why, and how the answers come back: what the kernels say, beside what the
//! specification and the reports say. Pure.

use crate::doctor::describe;
use crate::mesh::Mesh;
use crate::report::Reports;
use ipnet::IpNet;
use routemesh_proto::{AskLookup, Learnt, Lookup, Trace, TraceRequest};
use std::net::IpAddr;

/// Prefixes of reports that are looked through for one answer.
const REJECTED: usize = 5;
/// Paths of a gateway that are told of for one answer.
const LEARNT: usize = 16;

/// What gateways answered.
#[derive(Clone, Debug, Default)]
pub struct Looks {
    /// Where the gateway sends the target.
    pub there: Lookup,
    /// Where the far gateway does.
    pub onward: Option<Lookup>,
    /// Where the far gateway sends the source.
    pub back: Option<Lookup>,
    /// Why the far gateway did not answer one or the other.
    pub unasked: Vec<String>,
}

/// What to ask the gateway, and then the one at the far end.
pub fn question(asked: &TraceRequest) -> AskLookup {
    let TraceRequest {
        gateway: _,
        target,
        source,
        protocol,
        source_port,
        target_port,
    } = asked.clone();
    AskLookup {
        target,
        source,
        protocol,
        source_port,
        target_port,
    }
}

/// What to ask the far gateway of the way back; `None` where there is no source to go back to.
pub fn back(asked: &TraceRequest, there: &Lookup) -> Option<AskLookup> {
    let source = [&asked.source, &there.source]
        .into_iter()
        .find(|it| !it.is_empty())?;
    Some(AskLookup {
        target: source.clone(),
        // The target may be behind the far gateway, or itself: its own choice does for the way.
        source: String::new(),
        protocol: asked.protocol.clone(),
        source_port: asked.target_port,
        target_port: asked.source_port,
    })
}

/// The gateway at the far end of the tunnel that the flow takes.
pub fn far(mesh: &Mesh, there: &Lookup) -> Option<String> {
    let taken = there.taken.as_ref().filter(|hop| hop.tunnel.is_some())?;
    let ours = mesh.gateway(&taken.peer).is_some();
    ours.then(|| taken.peer.clone())
}

/// The whole.
pub fn trace(
    mesh: &Mesh,
    reports: &Reports,
    gateway: &str,
    target: IpAddr,
    far: Option<String>,
    looks: Looks,
) -> Trace {
    let owned = owner(mesh, target);
    let announced_by: Vec<String> = match &owned {
        Some((owner, _)) => gateways_of(mesh, owner)
            .filter(|name| is_announced(reports, name, target))
            .map(str::to_owned)
            .collect(),
        None => Vec::new(),
    };
    let mut trace = Trace {
        prefix: owned
            .as_ref()
            .map(|(_, prefix)| prefix.to_string())
            .unwrap_or_default(),
        owner: owned.map(|(owner, _)| owner).unwrap_or_default(),
        announced_by,
        far: far.unwrap_or_default(),
        there: Some(looks.there),
        onward: looks.onward,
        back: looks.back,
        ..Trace::default()
    };
    trace.policy = policy(&trace, reports, gateway, target);
    let at_home = gateways_of_site(mesh, &trace.owner).any(|name| name == gateway);
    trace.problems = problems(&trace, gateway, at_home, looks.unasked);
    trace
}

/// Who owns the longest prefix that an address is in.
fn owner(mesh: &Mesh, target: IpAddr) -> Option<(String, IpNet)> {
    let sites = mesh.spec.sites.iter().map(|it| (&it.name, &it.prefixes));
    let foreign = mesh.spec.foreign.iter().map(|it| (&it.name, &it.prefixes));
    let all = sites.chain(foreign).flat_map(|(name, prefixes)| {
        prefixes
            .iter()
            .map(move |prefix| (name.value.clone(), prefix.value))
    });
    let of = all.filter(|(_, prefix)| prefix.contains(&target));
    of.max_by_key(|(_, prefix)| prefix.prefix_len())
}

/// Gateways of a site, or those that hold a foreign peer's tunnels.
fn gateways_of<'m>(mesh: &'m Mesh, owner: &'m str) -> impl Iterator<Item = &'m str> {
    let foreign = mesh.spec.foreign.iter().find(|it| it.name.value == owner);
    let of = mesh.spec.gateways().filter(move |(site, gateway)| {
        site.name.value == owner || foreign.is_some_and(|it| it.is_held_by(&gateway.name.value))
    });
    of.map(|(_, gateway)| gateway.name.value.as_str())
}

/// Gateways of a site.
fn gateways_of_site<'m>(mesh: &'m Mesh, owner: &'m str) -> impl Iterator<Item = &'m str> {
    let of = mesh.spec.gateways();
    let of = of.filter(move |(site, _)| site.name.value == owner);
    of.map(|(_, gateway)| gateway.name.value.as_str())
}

fn is_announced(reports: &Reports, gateway: &str, target: IpAddr) -> bool {
    let report = reports.get(gateway).filter(|report| report.is_fresh());
    let announced = report.into_iter().flat_map(|it| &it.kept.head().announced);
    let mut announced = announced.filter_map(|it| it.parse::<IpNet>().ok());
    announced.any(|prefix| prefix.contains(&target))
}

/// What let the prefix in, or keeps it out.
fn policy(trace: &Trace, reports: &Reports, gateway: &str, target: IpAddr) -> Vec<String> {
    let mut lines = Vec::new();
    if trace.owner.is_empty() {
        lines.push("no site and no foreign peer owns it: no gateway may announce it".to_owned());
    } else {
        lines.push(format!(
            "{} owns {}: its gateways may announce what is within, and nobody else",
            trace.owner, trace.prefix
        ));
    }
    let there = (gateway, trace.there.as_ref());
    let onward = (trace.far.as_str(), trace.onward.as_ref());
    for (name, lookup) in [there, onward] {
        let learnt = lookup.into_iter().flat_map(|it| &it.learnt);
        lines.extend(learnt.take(LEARNT).map(|it| let_in(name, it)));
    }
    if there.1.is_some_and(|it| !it.learnt.is_empty()) {
        return lines;
    }
    // An agent of an earlier version says nothing of it.
    let report = reports.get(gateway).filter(|report| report.is_fresh());
    let rejected = report.into_iter().flat_map(|it| &it.kept.head().rejected);
    let about = rejected.filter(|it| {
        let prefix = it.prefix.parse::<IpNet>();
        prefix.is_ok_and(|prefix| prefix.contains(&target))
    });
    for it in about.take(REJECTED) {
        lines.push(format!(
            "{gateway} rejects {} of {}: {}",
            it.prefix, it.peer, it.reason
        ));
    }
    lines
}

/// What became of a path at a gateway, and by which rule.
fn let_in(gateway: &str, learnt: &Learnt) -> String {
    let Learnt {
        prefix,
        peer,
        state,
        rule,
        ..
    } = learnt;
    let done = match state.as_str() {
        "own" => return format!("{gateway} announces {prefix}: {rule}"),
        "used" => "uses",
        "unused" => "has a better way than",
        _ => "rejects",
    };
    format!("{gateway} {done} {prefix} of {peer}: {rule}")
}

fn problems(trace: &Trace, gateway: &str, at_home: bool, unasked: Vec<String>) -> Vec<String> {
    let mut problems = Vec::new();
    let none = Lookup::default();
    let there = trace.there.as_ref().unwrap_or(&none);
    // An interconnect address is of no site.
    let own = at_home || there.kind == "local" && trace.owner.is_empty();
    if !there.problem.is_empty() {
        problems.push(format!("{gateway}: {}", there.problem));
    } else if let Some(hop) = &there.taken {
        if hop.tunnel.is_none() && !own {
            let owned = match trace.owner.as_str() {
                "" => "nobody in the mesh owns it".to_owned(),
                owner => format!("{owner} owns it"),
            };
            problems.push(format!(
                "{gateway}: it leaves by {}, not by a tunnel, and {owned}: {}",
                hop.interface,
                describe(there, u32::MAX)
            ));
        }
    } else if there.kind != "local" || !own {
        let owned = match (trace.owner.as_str(), trace.announced_by.as_slice()) {
            ("", _) => ", and nobody in the mesh owns it".to_owned(),
            (owner, []) => format!(", and no gateway of {owner} announces it"),
            (_, by) => format!(
                ", though {} announce it: `meshctl doctor {gateway}` says why",
                by.join(", ")
            ),
        };
        problems.push(format!(
            "{gateway} does not send it anywhere ({}){owned}",
            there.kind
        ));
    }
    for (what, lookup) in [("the way on", &trace.onward), ("the way back", &trace.back)] {
        match lookup {
            Some(it) if !it.problem.is_empty() => {
                problems.push(format!("{}, {what}: {}", trace.far, it.problem));
            }
            None if !trace.far.is_empty() && unasked.is_empty() => problems.push(format!(
                "nobody looked at {what}: say with --from whence the packets come"
            )),
            _ => {}
        }
    }
    problems.extend(unasked);
    let told = |it: &&Lookup| it.problem.is_empty();
    if let Some(onward) = trace
        .onward
        .as_ref()
        .filter(told)
        .filter(|it| it.taken.is_none() && it.kind != "local")
    {
        problems.push(format!(
            "{} does not send it on ({})",
            trace.far, onward.kind
        ));
    }
    if let Some(onward) = &trace.onward
        && onward
            .taken
            .as_ref()
            .is_some_and(|hop| hop.tunnel.is_some())
    {
        problems.push(format!(
            "{} sends it into the mesh again: {}",
            trace.far,
            describe(onward, u32::MAX)
        ));
    }
    if let Some(back) = trace.back.as_ref().filter(told) {
        let by = back.taken.as_ref();
        if by.is_none() {
            problems.push(format!(
                "{} has no way back to {} ({})",
                trace.far, back.target, back.kind
            ));
        } else if by.is_some_and(|hop| hop.tunnel.is_none()) {
            problems.push(format!(
                "{} sends answers to {} not through the mesh: {}",
                trace.far,
                back.target,
                describe(back, u32::MAX)
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids;
    use crate::report::{Kept, Report};
    use routemesh_proto::{Hop, Status};
    use std::sync::Arc;
    use std::time::Duration;

    const SPEC: &str = r#"
[mesh]
as = 65000
interconnect = "fd00:ff::/64"
[sites.one]
prefixes = ["10.0.1.0/24"]
gateways.A.endpoints = ["2001:db8::1"]
[sites.two]
prefixes = ["10.8.0.0/16", "10.0.2.0/24"]
gateways.B.endpoints = ["2001:db8::2"]
"#;

    fn mesh() -> Mesh {
        let spec = crate::spec::parse("test", SPEC).unwrap();
        let ids = ids::assign(&ids::Ids::default(), &spec).unwrap();
        Mesh::new(4, String::new().into(), spec, ids)
    }

    fn by(peer: &str, tunnel: Option<u32>) -> Lookup {
        let hop = Hop {
            interface: "rm0".into(),
            peer: peer.into(),
            tunnel,
            ..Hop::default()
        };
        Lookup {
            target: "10.0.2.7".into(),
            prefix: "10.0.2.0/24".into(),
            kind: "unicast".into(),
            protocol: "routemesh".into(),
            taken: Some(hop.clone()),
            hops: vec![hop],
            ..Lookup::default()
        }
    }

    fn announces(prefixes: &[&str]) -> Reports {
        let status = Status {
            announced: prefixes.iter().map(|it| (*it).to_owned()).collect(),
            ..Status::default()
        };
        let report = Report {
            kept: Arc::new(Kept::new(status)),
            age: Duration::ZERO,
        };
        [("B".to_owned(), report)].into_iter().collect()
    }

    fn traced(reports: &Reports, looks: Looks) -> Trace {
        let mesh = mesh();
        let far = far(&mesh, &looks.there);
        let target = "10.0.2.7".parse().unwrap();
        trace(&mesh, reports, "A", target, far, looks)
    }

    #[test]
    fn there_and_back_through_the_mesh_nothing_is_wrong() {
        let looks = Looks {
            there: by("B", Some(0)),
            onward: Some(by("", None)),
            back: Some(by("A", Some(0))),
            unasked: Vec::new(),
        };
        let found = traced(&announces(&["10.0.2.0/24"]), looks);
        assert_eq!(found.problems, Vec::<String>::new());
        assert_eq!(
            (found.prefix.as_str(), found.owner.as_str()),
            ("10.0.2.0/24", "two")
        );
        assert_eq!(found.announced_by, ["B"]);
        assert_eq!(found.far, "B");
    }

    #[test]
    fn what_let_the_prefix_in_is_told_of_both_gateways() {
        let learnt = |prefix: &str, peer: &str, state: &str, rule: &str| Learnt {
            prefix: prefix.into(),
            peer: peer.into(),
            state: state.into(),
            rule: rule.into(),
            ..Learnt::default()
        };
        let with = |lookup: Lookup, learnt: Vec<Learnt>| Lookup { learnt, ..lookup };
        let at_a = vec![
            learnt("10.0.2.0/24", "rm0-B", "used", "two owns it"),
            learnt("10.0.2.0/24", "rm1-B", "unused", "two owns it"),
            learnt("10.0.0.0/8", "rm0-B", "rejected", "not owned"),
        ];
        let at_b = vec![
            learnt("10.0.2.0/24", "", "own", "two owns it"),
            learnt("10.0.2.0/25", "10.0.2.254", "used", "term 2"),
        ];
        let looks = |at_a, at_b| Looks {
            there: with(by("B", Some(0)), at_a),
            onward: Some(with(by("", None), at_b)),
            back: Some(by("A", Some(0))),
            unasked: Vec::new(),
        };
        let found = traced(&Reports::new(), looks(at_a, at_b)).policy;
        let expected = [
            "A uses 10.0.2.0/24 of rm0-B: two owns it",
            "A has a better way than 10.0.2.0/24 of rm1-B: two owns it",
            "A rejects 10.0.0.0/8 of rm0-B: not owned",
            "B announces 10.0.2.0/24: two owns it",
            "B uses 10.0.2.0/25 of 10.0.2.254: term 2",
        ];
        assert_eq!(found[1..], expected);
        let many = vec![learnt("10.0.2.0/24", "rm0-B", "used", "two owns it"); 100];
        let found = traced(&Reports::new(), looks(many, Vec::new())).policy;
        assert_eq!(found.len(), 1 + LEARNT);
    }

    #[test]
    fn what_is_wrong_on_the_way_is_told() {
        let nowhere = |kind: &str| Lookup {
            target: "10.0.2.7".into(),
            kind: kind.into(),
            ..Lookup::default()
        };
        let at_a = |there: Lookup, reports: &Reports| {
            let looks = Looks {
                there,
                ..Looks::default()
            };
            traced(reports, looks).problems.join("; ")
        };
        let nobody = at_a(nowhere("unreachable"), &Reports::new());
        assert!(
            nobody.contains("(unreachable), and no gateway of two announces it"),
            "{nobody}"
        );
        let unused = at_a(nowhere("unreachable"), &announces(&["10.0.0.0/16"]));
        assert!(unused.contains("though B announce it"), "{unused}");

        let beyond = |onward: Lookup, back: Lookup| {
            let looks = Looks {
                there: by("B", Some(0)),
                onward: Some(onward),
                back: Some(back),
                unasked: Vec::new(),
            };
            traced(&announces(&["10.0.2.0/24"]), looks)
                .problems
                .join("; ")
        };
        let again = beyond(by("A", Some(0)), by("A", Some(0)));
        assert!(again.contains("B sends it into the mesh again"), "{again}");
        let lost = beyond(nowhere("blackhole"), nowhere("prohibit"));
        assert!(lost.contains("B does not send it on (blackhole)"), "{lost}");
        assert!(
            lost.contains("B has no way back to 10.0.2.7 (prohibit)"),
            "{lost}"
        );
        let around = beyond(by("", None), by("", None));
        assert!(around.contains("not through the mesh"), "{around}");
        let blind = |problem: &str| Lookup {
            problem: problem.into(),
            ..Lookup::default()
        };
        let failed = beyond(blind("no netlink"), blind("no memory"));
        assert_eq!(
            failed,
            "B, the way on: no netlink; B, the way back: no memory"
        );
    }

    #[test]
    fn what_leaves_the_mesh_at_the_first_gateway_is_told() {
        let at = |gateway: &str, there: Lookup| {
            let looks = Looks {
                there,
                ..Looks::default()
            };
            let target = "10.0.2.7".parse().unwrap();
            let reports = announces(&["10.0.2.0/24"]);
            trace(&mesh(), &reports, gateway, target, None, looks).problems
        };
        let leaks = at("A", by("", None)).join("; ");
        assert!(
            leaks.contains("A: it leaves by rm0, not by a tunnel, and two owns it"),
            "{leaks}"
        );
        // A gateway's own LAN is no tunnel.
        assert_eq!(at("B", by("", None)), Vec::<String>::new());
        let local = Lookup {
            kind: "local".into(),
            ..Lookup::default()
        };
        assert_eq!(at("B", local.clone()), Vec::<String>::new());
        assert_eq!(at("A", local).len(), 1);
    }

    #[test]
    fn a_way_back_that_nobody_looked_at_is_told() {
        let with = |unasked: &[&str]| {
            let looks = Looks {
                there: by("B", Some(0)),
                onward: Some(by("", None)),
                back: None,
                unasked: unasked.iter().map(|it| (*it).to_owned()).collect(),
            };
            traced(&announces(&["10.0.2.0/24"]), looks).problems
        };
        assert_eq!(with(&["B does not answer"]), ["B does not answer"]);
        let [none] = &with(&[])[..] else {
            panic!("{:?}", with(&[]));
        };
        assert!(none.contains("nobody looked at the way back"), "{none}");
    }
}
