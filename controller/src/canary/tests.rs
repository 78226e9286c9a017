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

#[test]
fn a_gateway_does_not_change_its_site_in_a_trial() {
    // To the site that tries it, away from it, and past it.
    let text = BEFORE
        .replace("gateways.B", "gateways.E")
        .replace("::b", "::e")
        .replace(
            "gateways.A",
            "gateways.B.endpoints = [\"2001:db8::b\"]\ngateways.A",
        );
    for site in ["one", "two", "three"] {
        let (before, after) = (spec::parse("test", BEFORE), spec::parse("test", &text));
        let objection = objection(&before.unwrap(), &after.unwrap(), site).unwrap();
        assert!(
            objection.starts_with("gateway B gets another site"),
            "{objection}"
        );
    }
}

#[test]
fn what_a_trial_leaves_to_nobody_is_not_tried() {
    // Of sites one to three and of the foreign peer, beside one each that stays.
    let spec = |owned: [&str; 4]| {
        let list = |n: usize, of: &str| {
            let own = format!("172.16.{n}.0/24 {of}");
            let quoted: Vec<String> = own.split_whitespace().map(|it| format!("{it:?}")).collect();
            quoted.join(", ")
        };
        let [sites @ .., foreign] = owned;
        let mut text = "[mesh]\nas = 65000\ninterconnect = \"fd00:ff::/64\"\n".to_owned();
        for (n, (site, owned)) in ["one", "two", "three"].iter().zip(sites).enumerate() {
            text += &format!("[sites.{site}]\nprefixes = [{}]\n", list(n, owned));
            text += &format!("gateways.G{n}.endpoints = [\"192.0.2.{}\"]\n", n + 1);
        }
        text += &format!(
            "[foreign.cloud]\nprefixes = [{}]\nas = 65100\n",
            list(9, foreign)
        );
        text += "[[foreign.cloud.tunnels]]\ngateway = \"G0\"\nremote = \"198.51.100.1\"\n";
        text += "psk = \"the.shared.secret\"\ninside = \"169.254.10.2/30\"\n";
        spec::parse("test", &text).unwrap_or_else(|errors| panic!("{errors}"))
    };
    let (one, two, three, cloud) = ("10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.9.0.0/16");
    let before = spec([one, two, three, cloud]);
    let table: [([&str; 4], Option<&str>); 12] = [
        ([one, two, three, cloud], None),
        // Whole prefixes, to the site that tries it.
        (["10.1.0.0/16 10.2.0.0/16", "", three, cloud], None),
        (["10.1.0.0/16 10.2.0.0/15", "", "", cloud], None),
        // New and gone ones, and what a site splits for itself.
        (
            ["10.1.0.0/17 10.1.128.0/17", "10.7.0.0/16", "", cloud],
            None,
        ),
        // From the site that tries it, in whole and in part.
        (
            ["", "10.2.0.0/16 10.1.0.0/16", three, cloud],
            Some("10.1.0.0/16 of site one becomes 10.1.0.0/16 of site two"),
        ),
        (
            ["10.1.0.0/17", "10.2.0.0/16 10.1.128.0/17", three, cloud],
            Some("10.1.0.0/16 of site one becomes 10.1.128.0/17 of site two"),
        ),
        (
            ["", "10.2.0.0/16 10.0.0.0/15", three, cloud],
            Some("10.1.0.0/16 of site one becomes 10.0.0.0/15 of site two"),
        ),
        // A part of a prefix, to it.
        (
            ["10.1.0.0/16 10.2.128.0/17", "10.2.0.0/17", three, cloud],
            Some("10.2.0.0/16 of site two becomes 10.2.128.0/17 of site one"),
        ),
        // Past it.
        (
            [one, "10.2.0.0/16 10.3.0.0/16", "", cloud],
            Some("10.3.0.0/16 of site three becomes 10.3.0.0/16 of site two"),
        ),
        // To a foreign peer and from one.
        (
            ["", two, three, "10.9.0.0/16 10.1.0.0/16"],
            Some("10.1.0.0/16 of site one becomes 10.1.0.0/16 of foreign peer cloud"),
        ),
        (
            ["10.1.0.0/16 10.9.0.0/16", two, three, ""],
            Some("10.9.0.0/16 of foreign peer cloud becomes 10.9.0.0/16 of site one"),
        ),
        (
            [one, two, "", "10.9.0.0/16 10.3.0.0/16"],
            Some("10.3.0.0/16 of site three becomes 10.3.0.0/16 of foreign peer cloud"),
        ),
    ];
    for (after, expected) in table {
        let found = objection(&before, &spec(after), "one");
        match (&found, expected) {
            (None, None) => {}
            (Some(found), Some(expected)) => {
                assert!(found.contains(expected), "{after:?}: {found}")
            }
            _ => panic!("{after:?}: {found:?}"),
        }
    }
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
        ..Topology::default()
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
