use super::*;
use crate::drain::Drain;
use crate::ids;
use crate::report::Kept;
use proto::{BgpStatus, LivenessStatus, Path, Problem, Route, Status, TunnelStatus};
use std::sync::Arc;

const SPEC: &str = r#"
[mesh]
as = 65000
interconnect = "fd00:ff::/64"
[sites.one]
prefixes = ["10.0.1.0/24", "10.1.0.0/16"]
gateways.A.endpoints = ["2001:db8::1"]
[sites.two]
prefixes = ["10.0.2.0/24"]
gateways.B.endpoints = ["2001:db8::2"]
"#;

fn of(spec: crate::spec::MeshSpec) -> Mesh {
    let ids = ids::assign(&ids::Ids::default(), &spec).unwrap();
    Mesh::new(4, String::new().into(), spec, ids)
}

fn mesh() -> Mesh {
    let spec = crate::spec::parse("test", SPEC).unwrap();
    of(spec)
}

/// An end's view in short: IKE, interface, BGP, its last error, each as in routemesh.proto.
fn tunnel(view: &str) -> Status {
    let mut words = view.split(',').map(|word| word.trim().to_owned());
    let mut word = || words.next().unwrap_or_default();
    let (ike, interface, state) = (word(), word(), word());
    let bgp = (!state.is_empty()).then(|| BgpStatus {
        state,
        last_error: word(),
        ..BgpStatus::default()
    });
    Status {
        generation: 4,
        tunnels: vec![TunnelStatus {
            number: 0,
            ike,
            interface,
            bgp,
            ..TunnelStatus::default()
        }],
        ..Status::default()
    }
}

fn everything(mesh: &Mesh, reports: &Reports) -> proto::Topology {
    topology(mesh, reports, &Wanted::default())
}

fn report(status: Status, seconds: u64) -> Report {
    Report {
        kept: Arc::new(Kept::new(status)),
        age: Duration::from_secs(seconds),
    }
}

/// What an end says, and how many seconds ago.
type View = Option<(&'static str, u64)>;

#[test]
fn a_way_that_is_dead_or_held_says_why() {
    let table = [
        ("alive", 0, 0, "BGP Active"),
        ("dead", 0, 1, "dead: silence"),
        ("held", 1, 1, "held for 1 s: it went down once (silence)"),
        ("held", 7, 4, "held for 7 s: it went down 4 times (silence)"),
    ];
    for (state, held, deaths, reason) in table {
        let mut way = tunnel("up, up, Active");
        way.tunnels[0].liveness = Some(LivenessStatus {
            state: state.to_owned(),
            reason: "silence".to_owned(),
            held,
            deaths,
        });
        let reports = [("A", way.clone()), ("B", way)];
        let reports = reports.map(|(name, status)| (name.to_owned(), report(status, 0)));
        let edge = &everything(&mesh(), &reports.into()).edges[0];
        assert_eq!(edge.reason, format!("both: {reason}"));
    }
}

#[test]
fn verdicts_of_a_tunnel() {
    const UP: &str = "up, up, Established";
    // A's view and its age, B's view and its age, the verdict, the reason.
    #[rustfmt::skip]
    let table: &[(View, View, &str, &str)] = &[
        (Some((UP, 0)), Some((UP, 0)), "up", ""),
        (Some((UP, 30)), Some((UP, 29)), "up", ""),
        (Some((UP, 31)), Some((UP, 0)), "unknown", "A: last report 31 s ago"),
        (Some((UP, 0)), Some((UP, 600)), "unknown", "B: last report 10 min ago"),
        (Some((UP, 7_300)), Some((UP, 7_300)), "unknown", "both: last report 2 h ago"),
        (None, None, "unknown", "both: never reported"),
        (None, Some((UP, 0)), "unknown", "A: never reported"),
        (None, Some(("connecting, up, Idle", 0)), "down", "A: never reported; B: IKE connecting"),
        (Some(("connecting, up, Idle", 0)), Some((UP, 45)), "down", "B: last report 45 s ago; A: IKE connecting"),
        (Some(("down, missing, Idle", 0)), Some(("connecting, up, Idle", 0)), "down", "A: interface missing; B: IKE connecting"),
        (Some(("charon unreachable, up, Idle", 0)), Some((UP, 0)), "degraded", "A: charon unreachable"),
        (Some(("up, down, Idle", 0)), Some((UP, 0)), "degraded", "A: interface down"),
        (Some((UP, 0)), Some(("up, up, Active", 0)), "degraded", "B: BGP Active"),
        (Some((UP, 0)), Some(("up, up, Idle, hold timer expired", 0)), "degraded", "B: BGP Idle (hold timer expired)"),
        (Some(("up, up", 0)), Some((UP, 0)), "degraded", "A: BGP not started"),
        (Some(("up, up, Connect", 0)), Some(("up, up, Connect", 0)), "down", "both: BGP Connect"),
    ];
    for (a, b, verdict, reason) in table {
        let side = |name: &str, view: &View| {
            view.map(|(view, age)| (name.to_owned(), report(tunnel(view), age)))
        };
        let reports = side("A", a).into_iter().chain(side("B", b)).collect();
        let topology = everything(&mesh(), &reports);
        let edge = &topology.edges[0];
        assert_eq!(
            (edge.verdict.as_str(), edge.reason.as_str()),
            (*verdict, *reason),
            "{a:?} {b:?}"
        );
    }
}

#[test]
fn a_tunnel_that_an_end_does_not_run_yet() {
    let old = Status {
        generation: 3,
        ..Status::default()
    };
    let reports = [
        ("A".to_owned(), report(old, 1)),
        ("B".to_owned(), report(tunnel("up, up, Established"), 1)),
    ];
    let topology = everything(&mesh(), &reports.into());
    let edge = &topology.edges[0];
    assert_eq!(edge.verdict, "degraded");
    assert_eq!(edge.reason, "A: does not run this tunnel (generation 3)");
    assert_eq!(edge.a.as_ref().unwrap().address, "fd00:ff::");
    assert_eq!(edge.b.as_ref().unwrap().address, "fd00:ff::1");
}

#[test]
fn verdicts_of_a_gateway() {
    let problem = Problem {
        object: "route 10.0.2.0/24".to_owned(),
        reason: "no room".to_owned(),
    };
    let status = |generation, problems: &[Problem]| Status {
        generation,
        problems: problems.to_vec(),
        ..Status::default()
    };
    let table = [
        (
            None,
            "never seen",
            "has not reported yet: is mesh-agent running there?",
        ),
        (Some((status(4, &[]), 30)), "ok", ""),
        (Some((status(4, &[]), 31)), "stale", "last report 31 s ago"),
        (
            Some((status(3, &[]), 0)),
            "behind",
            "runs generation 3, not 4",
        ),
        (Some((status(0, &[]), 0)), "behind", "runs no config yet"),
        (
            Some((status(5, &[]), 0)),
            "behind",
            "runs generation 5, not 4",
        ),
        (
            Some((status(4, std::slice::from_ref(&problem)), 0)),
            "problem",
            "route 10.0.2.0/24: no room",
        ),
        (
            Some((status(3, &[problem.clone(), problem]), 0)),
            "behind",
            "runs generation 3, not 4: route 10.0.2.0/24: no room (and 1 more)",
        ),
    ];
    for (seen, verdict, reason) in table {
        let seen = seen.map(|(status, age)| ("A".to_owned(), report(status, age)));
        let topology = everything(&mesh(), &seen.into_iter().collect());
        let view = &topology.gateways[0];
        assert_eq!(
            (view.verdict.as_str(), view.reason.as_str()),
            (verdict, reason)
        );
    }
}

#[test]
fn what_a_cut_list_leaves_out_is_not_taken_for_missing() {
    let announcing = Status {
        announced: vec!["10.0.1.0/24".to_owned()],
        announced_total: 20_000,
        ..Status::default()
    };
    let reaching = Status {
        routes_total: 20_000,
        ..Status::default()
    };
    let reports = [
        ("A".to_owned(), report(announcing, 1)),
        ("B".to_owned(), report(reaching, 1)),
    ];
    let topology = everything(&mesh(), &reports.into());
    let rows = topology.prefixes.iter();
    let rows: Vec<_> = rows
        .map(|row| (row.prefix.as_str(), row.paths.len()))
        .collect();
    // Nobody says that 10.1.0.0/16 of the same site is not announced, nor that B reaches nothing.
    assert_eq!(rows, [("10.0.1.0/24", 0), ("10.0.2.0/24", 1)]);
}

#[test]
fn what_is_drained_is_so_when_nobody_sends_anything_through_it() {
    let routes = |via: &str, interface: &str| Status {
        generation: 4,
        routes: vec![Route {
            prefix: "10.0.1.0/24".to_owned(),
            paths: vec![Path {
                via: via.to_owned(),
                interface: interface.to_owned(),
                ..Path::default()
            }],
        }],
        ..Status::default()
    };
    let idle = |generation| Status {
        generation,
        ..Status::default()
    };
    let local = Status {
        drain: true,
        ..idle(4)
    };
    let cut = Status {
        routes_total: 5000,
        ..routes("C", "rm1")
    };
    let unknown = "B lists 1 of its 5000 routes, none of them through it";
    let whole = || Some(Drain::gateway("A"));
    let tunnel = || Some(Drain::between("B", "A"));
    let through = "B sends 10.0.1.0/24 through it";
    // What is asked for, what A reports, what B reports and how long ago; what comes of it at A and
    // at the tunnel.
    #[rustfmt::skip]
    let table = [
        (None, idle(4), Some((routes("A", "rm0"), 0)), ("", ""), ("", "")),
        (whole(), idle(4), Some((routes("A", "rm0"), 0)), ("draining", through), ("", "")),
        (whole(), idle(3), Some((idle(4), 0)), ("draining", "A runs generation 3"), ("", "")),
        (whole(), idle(4), None, ("draining", "B has not reported yet"), ("", "")),
        (whole(), idle(4), Some((idle(4), 60)), ("draining", "B last reported 60 s ago"), ("", "")),
        (whole(), idle(4), Some((idle(4), 0)), ("drained", ""), ("", "")),
        (whole(), idle(4), Some((cut, 0)), ("draining", unknown), ("", "")),
        (None, local.clone(), Some((routes("A", "rm0"), 0)), ("draining", through), ("", "")),
        (None, local, Some((routes("C", "rm1"), 0)), ("drained", ""), ("", "")),
        (tunnel(), idle(4), Some((routes("A", "rm0"), 0)), ("", ""), ("draining", through)),
        (tunnel(), idle(4), Some((idle(3), 0)), ("", ""), ("draining", "B runs generation 3")),
        (tunnel(), idle(4), Some((routes("A", "rm7"), 0)), ("", ""), ("drained", "")),
    ];
    for (drain, a, b, gateway, edge) in table {
        let mut mesh = mesh();
        mesh.drains.extend(drain);
        let b = b.map(|(status, age)| ("B".to_owned(), report(status, age)));
        let reports = [("A".to_owned(), report(a, 0))].into_iter().chain(b);
        let topology = everything(&mesh, &reports.collect());
        let (at, of) = (&topology.gateways[0], &topology.edges[0]);
        let context = format!("{:?} {gateway:?} {edge:?}", mesh.drains);
        assert_eq!(
            (at.drain.as_str(), at.drain_reason.as_str()),
            gateway,
            "{context}"
        );
        assert_eq!(
            (of.drain.as_str(), of.drain_reason.as_str()),
            edge,
            "{context}"
        );
    }
}

#[test]
fn prefixes_with_their_paths() {
    let announcing = Status {
        announced: vec!["10.0.1.0/24".to_owned(), "10.1.7.0/24".to_owned()],
        ..Status::default()
    };
    let path = |via: &str| Path {
        via: via.to_owned(),
        ..Path::default()
    };
    let reaching = Status {
        routes: vec![Route {
            prefix: "10.0.1.0/24".to_owned(),
            paths: vec![path("A")],
        }],
        ..Status::default()
    };
    let reports = [
        ("A".to_owned(), report(announcing, 1)),
        ("B".to_owned(), report(reaching, 1)),
    ];
    let topology = everything(&mesh(), &reports.into());
    let rows: Vec<_> = topology
        .prefixes
        .iter()
        .map(|row| {
            let via = row
                .paths
                .iter()
                .map(|p| format!("{} via {:?}", p.gateway, p.via));
            (
                row.prefix.as_str(),
                row.announced_by.join(" "),
                via.collect::<Vec<_>>().join(", "),
            )
        })
        .collect();
    let row = |prefix, by: &str, paths: &str| (prefix, by.to_owned(), paths.to_owned());
    assert_eq!(
        rows,
        [
            row("10.0.1.0/24", "A", "B via [\"A\"]"),
            // A more specific of 10.1.0.0/16, which is not announced itself.
            row("10.1.7.0/24", "A", "B via []"),
            row("10.0.2.0/24", "", "A via []"),
        ]
    );
}

/// As [`SPEC`], with a foreign peer that A holds a tunnel to and that only site one may reach.
fn mesh_with_a_foreign_peer() -> Mesh {
    let foreign = r#"
[sites.three]
prefixes = ["10.0.3.0/24"]
gateways.C.endpoints = ["2001:db8::3"]
[foreign.cloud]
prefixes = ["10.9.0.0/16"]
sites = ["one", "two"]
[[foreign.cloud.tunnels]]
gateway = "A"
remote = "2001:db8::99"
psk = "long enough for a key"
"#;
    let spec = crate::spec::parse("test", &format!("{SPEC}{foreign}")).unwrap();
    of(spec)
}

#[test]
fn a_tunnel_to_a_foreign_peer_is_up_if_our_end_says_so() {
    let mesh = mesh_with_a_foreign_peer();
    // A, B and C have ids 0 to 2, the far end 3.
    let number = 3;
    let of = |ike: &str, seconds| {
        let (ike, reason) = ike.split_once(": ").unwrap_or((ike, ""));
        let mut status = tunnel(&format!("{ike}, up"));
        status.tunnels[0].number = number;
        status.tunnels[0].ike_reason = reason.to_owned();
        let reports = Reports::from([("A".to_owned(), report(status, seconds))]);
        let edges = everything(&mesh, &reports).edges;
        let edge = edges
            .into_iter()
            .find(|edge| edge.number == number)
            .unwrap();
        let b = edge.b.unwrap();
        assert_eq!(
            (b.gateway.as_str(), b.endpoint.as_str()),
            ("cloud", "2001:db8::99")
        );
        (edge.verdict, edge.reason)
    };
    let said = |verdict: &str, reason: &str| (verdict.to_owned(), reason.to_owned());
    assert_eq!(of("up", 1), said("up", ""));
    assert_eq!(of("down", 1), said("down", "A: IKE down"));
    assert_eq!(
        of("down: refused", 1),
        said("down", "A: IKE down (refused)")
    );
    let narrowed = said("down", "A: IKE narrowed (a part only)");
    assert_eq!(of("narrowed: a part only", 1), narrowed);
    assert_eq!(of("up", 40), said("unknown", "A: last report 40 s ago"));
}

#[test]
fn a_tunnel_to_a_foreign_peer_is_drained_when_our_end_sends_nothing_through_it() {
    let mut mesh = mesh_with_a_foreign_peer();
    let of = |mesh: &Mesh, interface: &str| {
        let path = Path {
            interface: interface.to_owned(),
            ..Path::default()
        };
        let status = Status {
            generation: mesh.generation,
            routes: vec![Route {
                prefix: "10.9.0.0/16".to_owned(),
                paths: vec![path],
            }],
            routes_total: 1,
            ..Status::default()
        };
        let reports = Reports::from([("A".to_owned(), report(status, 0))]);
        let edges = everything(mesh, &reports).edges;
        edges.into_iter().find(|it| it.number == 3).unwrap().drain
    };
    assert_eq!(of(&mesh, "rm3"), "");
    mesh.drains.insert(Drain::between("cloud", "A"));
    assert_eq!(of(&mesh, "rm3"), "draining");
    assert_eq!(of(&mesh, "rm0"), "drained");
}

#[test]
fn a_foreign_prefix_is_announced_by_who_holds_tunnels_and_concerns_who_may_reach_it() {
    let mesh = mesh_with_a_foreign_peer();
    let holder = Status {
        announced: vec!["10.9.0.0/16".into()],
        ..tunnel("up, up, Established")
    };
    let reports = ["A", "B", "C"].map(|name| {
        let status = if name == "A" {
            holder.clone()
        } else {
            tunnel("up, up, Established")
        };
        (name.to_owned(), report(status, 1))
    });
    let prefixes = everything(&mesh, &Reports::from(reports)).prefixes;
    let row = prefixes.iter().find(|row| row.site == "cloud").unwrap();
    assert_eq!(
        (row.prefix.as_str(), &row.announced_by),
        ("10.9.0.0/16", &vec!["A".to_owned()])
    );
    let concerned: Vec<&str> = row.paths.iter().map(|it| it.gateway.as_str()).collect();
    assert_eq!(concerned, ["B"]);
}

#[test]
fn of_one_gateway_or_site_only_its_own_is_shown() {
    let mesh = mesh_with_a_foreign_peer();
    let reports = ["A", "B", "C"].map(|name| {
        let mut status = tunnel("up, up, Established");
        // A's tunnel to the foreign peer, which has no BGP.
        status.tunnels.push(TunnelStatus {
            number: 3,
            ike: "up".to_owned(),
            interface: "up".to_owned(),
            ..TunnelStatus::default()
        });
        (name.to_owned(), report(status, 1))
    });
    let reports = Reports::from(reports);
    let shown = |gateway: Option<&str>, site: Option<&str>| {
        let wanted = Wanted {
            gateway: gateway.map(str::to_owned),
            site: site.map(str::to_owned),
            ..Wanted::default()
        };
        let view = topology(&mesh, &reports, &wanted);
        let gateways: Vec<String> = view.gateways.into_iter().map(|it| it.name).collect();
        let edges: Vec<(u32, String)> = view
            .edges
            .into_iter()
            .map(|it| (it.number, it.verdict))
            .collect();
        let counts = view.edge_counts.unwrap();
        (gateways.join(" "), edges, (counts.up, counts.down))
    };
    let edge = |number, verdict: &str| (number, verdict.to_owned());
    // Between A and B, A and C, B and C, and A and the foreign peer.
    let all = vec![
        edge(0, "up"),
        edge(1, "down"),
        edge(2, "down"),
        edge(3, "up"),
    ];
    assert_eq!(shown(None, None), ("A B C".to_owned(), all, (2, 2)));
    let of_c = vec![edge(1, "down"), edge(2, "down")];
    assert_eq!(
        shown(Some("C"), None),
        ("C".to_owned(), of_c.clone(), (0, 2))
    );
    assert_eq!(shown(None, Some("three")), ("C".to_owned(), of_c, (0, 2)));
    let of_a = vec![edge(0, "up"), edge(1, "down"), edge(3, "up")];
    assert_eq!(
        shown(Some("A"), Some("one")),
        ("A".to_owned(), of_a, (2, 1))
    );
    let only = Wanted {
        gateways_only: true,
        ..Wanted::default()
    };
    let view = topology(&mesh, &reports, &only);
    assert_eq!((view.gateways.len(), view.edges.len()), (3, 0));
    let nowhere = Wanted {
        site: Some("four".to_owned()),
        ..Wanted::default()
    };
    assert!(nowhere.check(&mesh).is_err());
    let of_states = |states: &[&str]| Wanted {
        states: states.iter().map(|it| (*it).to_owned()).collect(),
        ..Wanted::default()
    };
    let numbers = |states: &[&str]| {
        let view = topology(&mesh, &reports, &of_states(states));
        let counts = view.edge_counts.unwrap();
        assert_eq!((counts.up, counts.down, view.prefixes.len()), (2, 2, 0));
        view.edges.iter().map(|it| it.number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&["up"]), [0, 3]);
    assert_eq!(numbers(&["unknown", "down"]), [1, 2]);
    assert!(of_states(&["up", "degraded"]).check(&mesh).is_ok());
    let refused = of_states(&["broken"]).check(&mesh).unwrap_err();
    assert!(refused.contains("up, degraded, down, unknown"), "{refused}");
}
