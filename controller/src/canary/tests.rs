use super::*;
use crate::ids::{self, Ids};
use crate::render::render;
use crate::spec;
use routemesh_proto::{Edge, GatewayView, Problem};
use std::sync::Arc;

const BEFORE: &str = r#"
[mesh]
as = 65000
interconnect = "fd00:ff::/64"
[sites.one]
prefixes = ["10.0.1.0/24"]
gateways.A.endpoints = ["2001:db8::a"]
[sites.two]
prefixes = ["10.0.2.0/24", "10.0.20.0/24"]
gateways.B.endpoints = ["2001:db8::b"]
[sites.three]
prefixes = ["10.0.3.0/24"]
gateways.C.endpoints = ["2001:db8::c"]
[sites.four]
prefixes = ["10.0.4.0/24"]
gateways.D.endpoints = ["2001:db8::d"]
"#;

fn mesh(known: &Ids, text: &str) -> Mesh {
    let spec = spec::parse("test", text).unwrap_or_else(|errors| panic!("{errors}"));
    let ids = ids::assign(known, &spec).unwrap();
    Mesh::new(4, text.into(), spec, ids)
}

fn tried(text: &str) -> (Mesh, Mesh) {
    let before = mesh(&Ids::default(), BEFORE);
    let mut after = mesh(&before.ids, text);
    after.generation = 5;
    after.trial = Some(Arc::new(Trial {
        site: "one".to_owned(),
        before: before.clone(),
        up: BTreeSet::from([0, 1]),
    }));
    (before, after)
}

#[test]
fn one_site_runs_the_new_and_the_others_the_old() {
    // Other times for SAs, a prefix moves to the site, D's overlay is another, C leaves and E joins.
    let text = BEFORE
        .replace(
            "[sites.one]",
            "[mesh.esp]\nrekey_time = \"30m\"\n[sites.one]",
        )
        .replace("\"10.0.1.0/24\"", "\"10.0.1.0/24\", \"10.0.20.0/24\"")
        .replace(", \"10.0.20.0/24\"]\ngateways.B", "]\ngateways.B")
        .replace(
            "gateways.D.end",
            "gateways.D.overlay = \"inside\"\ngateways.D.end",
        )
        .replace("gateways.C", "gateways.E")
        .replace("::c", "::e");
    let (before, after) = tried(&text);
    let config = |name: &str| render(&after, name).unwrap();
    assert_eq!(config("A"), of_spec(&after, "A").unwrap());
    // B keeps all but its tunnel to A.
    let (was, is, new) = (
        of_spec(&before, "B").unwrap(),
        config("B"),
        of_spec(&after, "B").unwrap(),
    );
    let to =
        |config: &Config, peer: &str| config.tunnels.iter().find(|it| it.peer == peer).cloned();
    assert_eq!(to(&is, "A"), to(&new, "A"));
    assert_ne!(to(&is, "A"), to(&was, "A"));
    for peer in ["C", "D", "E"] {
        assert_eq!(to(&is, peer), to(&was, peer), "{peer}");
    }
    let owned = |config: &Config, site: &str| {
        let mut sites = config.sites.iter();
        sites
            .find(|it| it.name == site)
            .map(|it| it.prefixes.join(" "))
    };
    assert_eq!(owned(&is, "one").unwrap(), "10.0.1.0/24 10.0.20.0/24");
    assert_eq!(owned(&is, "two").unwrap(), "10.0.2.0/24");
    assert_eq!(is.generation, 5);
    assert_eq!(config("D").overlay, "");
    // Who leaves stays for now, without tunnels to the site that does not have it any more.
    assert_eq!(
        (to(&config("C"), "A"), to(&config("C"), "B")),
        (None, to(&of_spec(&before, "C").unwrap(), "B"))
    );
    // Who joins waits.
    assert_eq!(render(&after, "E"), None);
    // Both ends of every tunnel that both have are alike.
    for x in ["A", "B", "C", "D"] {
        for tunnel in config(x).tunnels.iter().filter(|it| it.peer != "E") {
            let other = to(&config(&tunnel.peer), x).unwrap();
            assert_eq!(
                (&other.esp, &other.ike, other.number),
                (&tunnel.esp, &tunnel.ike, tunnel.number)
            );
        }
    }
}

#[test]
fn what_all_have_to_know_at_once_cannot_be_tried() {
    let spec = |text: &str| spec::parse("test", text).unwrap();
    let before = spec(BEFORE);
    assert_eq!(objection(&before, &before, "one"), None);
    assert!(
        objection(&before, &before, "five")
            .unwrap()
            .contains("\"five\"")
    );
    let without = spec(&BEFORE.replace("sites.one", "sites.five"));
    assert!(objection(&before, &without, "one").is_some());
    assert!(objection(&before, &without, "five").is_some());
    let other_as = spec(&BEFORE.replace("as = 65000", "as = 65001"));
    assert!(
        objection(&before, &other_as, "one")
            .unwrap()
            .contains("another AS")
    );
}

fn view(gateways: &[(&str, &str, &str)], edges: &[(u32, &str)]) -> Topology {
    let gateway = |(name, site, verdict): &(&str, &str, &str)| GatewayView {
        name: (*name).to_owned(),
        site: (*site).to_owned(),
        verdict: (*verdict).to_owned(),
        reason: "why".to_owned(),
        ..GatewayView::default()
    };
    let edge = |(number, verdict): &(u32, &str)| Edge {
        number: *number,
        verdict: (*verdict).to_owned(),
        reason: "why".to_owned(),
        ..Edge::default()
    };
    Topology {
        generation: 5,
        gateways: gateways.iter().map(gateway).collect(),
        edges: edges.iter().map(edge).collect(),
        prefixes: Vec::new(),
    }
}

#[test]
fn what_was_well_has_to_be_so() {
    let (_, after) = tried(BEFORE);
    let trial = after.trial.unwrap();
    let well = [("A", "one", "ok"), ("B", "two", "ok")];
    let up = [(0, "up"), (1, "up")];
    let table: [(&[_], &[_], Option<&str>); 8] = [
        (&well, &up, None),
        // Gone, not worse: nobody is to run it any more.
        (&well, &[(0, "up")], None),
        // It was not up before.
        (&well, &[(0, "up"), (7, "down")], None),
        (
            &well,
            &[(0, "up"), (1, "degraded")],
            Some("tunnel 1 is degraded: why"),
        ),
        (&[("A", "one", "problem")], &up, Some("A is problem: why")),
        (&[("A", "one", "stale")], &up, Some("A is stale: why")),
        (
            &[("A", "one", "ok"), ("B", "two", "behind")],
            &up,
            Some("B is behind: why"),
        ),
        // Away since before, or with a problem of its own, or not there before.
        (
            &[
                ("A", "one", "ok"),
                ("B", "two", "stale"),
                ("C", "two", "problem"),
                ("X", "two", "behind"),
            ],
            &up,
            None,
        ),
    ];
    for (gateways, edges, expected) in table {
        let fault = fault(&trial, &view(gateways, edges));
        assert_eq!(
            fault.map(|it| it.words).as_deref(),
            expected,
            "{gateways:?} {edges:?}"
        );
    }
    let mut refused = view(&well, &up);
    refused.gateways[1].problems.push(Problem {
        object: "config of generation 5".to_owned(),
        reason: "no such option".to_owned(),
    });
    let fault = fault(&trial, &refused).unwrap();
    assert_eq!(
        (fault.words.as_str(), fault.lasting),
        ("B refuses it: no such option", true)
    );
}

#[test]
fn a_trial_ends_on_or_back_and_never_neither() {
    let begun = Instant::now();
    let at = |seconds| begun + Duration::from_secs(seconds);
    let bad = |lasting| {
        Some(Fault {
            words: "no".to_owned(),
            lasting,
        })
    };
    let waits = |verdict| matches!(verdict, Verdict::Wait(_));
    let steady = STEADY.as_secs();
    let mut progress = Progress::new(5, begun);
    assert!(waits(progress.judge(bad(false), at(1))));
    assert_eq!(progress.said, "no");
    assert!(waits(progress.judge(None, at(10))));
    assert!(waits(progress.judge(None, at(9 + steady))));
    // A relapse begins it anew.
    assert!(waits(progress.judge(bad(false), at(10 + steady))));
    assert!(waits(progress.judge(None, at(11 + steady))));
    assert!(waits(progress.judge(None, at(10 + 2 * steady))));
    assert_eq!(progress.judge(None, at(11 + 2 * steady)), Verdict::On);
    let mut progress = Progress::new(5, begun);
    assert_eq!(
        progress.judge(bad(true), at(1)),
        Verdict::Back("no".to_owned())
    );
    let patience = PATIENCE.as_secs();
    // What is well when patience ends has its time, and no more.
    assert!(waits(progress.judge(None, at(patience - 1))));
    assert!(waits(progress.judge(None, at(patience + 1))));
    assert_eq!(
        progress.judge(bad(false), at(patience + 2)),
        Verdict::Back(format!("after {patience} s, no"))
    );
}
