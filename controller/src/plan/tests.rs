use super::*;
use crate::drain::{Drain, Drains};
use crate::ids::{self, Ids};
use crate::spec;

const BEFORE: &str = r#"
[mesh]
as = 65000
interconnect = "fd00:ff::/64"
[sites.one]
prefixes = ["10.0.1.0/24"]
gateways.A.endpoints = ["2001:db8::a"]
[sites.two]
prefixes = ["10.0.2.0/24"]
gateways.B.endpoints = ["2001:db8::b"]
"#;

fn mesh(known: &Ids, text: &str) -> Mesh {
    let spec = spec::parse("test", text).unwrap_or_else(|errors| panic!("{errors}"));
    let ids = ids::assign(known, &spec).unwrap();
    Mesh::new(4, text.into(), spec, ids)
}

/// In a word for each.
fn told(plan: &Plan) -> Vec<String> {
    let fields = |fields: &[routemesh_proto::FieldPlan]| -> String {
        let words =
            |it: &routemesh_proto::FieldPlan| format!(" {}:{}>{}", it.name, it.before, it.after);
        fields.iter().map(words).collect()
    };
    let mut told = Vec::new();
    for it in &plan.sites {
        let (added, removed) = (it.added.join(","), it.removed.join(","));
        told.push(format!(
            "{} {} {} +{added} -{removed}",
            it.change, it.kind, it.name
        ));
    }
    for it in &plan.gateways {
        told.push(format!("{} {}{}", it.change, it.name, fields(&it.fields)));
        for it in &it.tunnels {
            told.push(format!(
                "  {} {} {}{}",
                it.change,
                it.number,
                it.peer,
                fields(&it.fields)
            ));
        }
    }
    told
}

fn counts(added: u64, removed: u64, changed: u64) -> Option<Counts> {
    Some(Counts {
        added,
        removed,
        changed,
    })
}

#[test]
fn the_same_changes_nothing() {
    let before = mesh(&Ids::default(), BEFORE);
    let after = mesh(&before.ids, &format!("# only a word\n{BEFORE}"));
    let plan = plan(Some(&before), &after);
    assert_eq!(told(&plan), [""; 0]);
    assert_eq!((plan.generation, plan.tunnel_counts), (4, counts(0, 0, 0)));
}

#[test]
fn the_first_of_all_adds_everything() {
    let plan = plan(None, &mesh(&Ids::default(), BEFORE));
    let expected = [
        "add site one +10.0.1.0/24 -",
        "add site two +10.0.2.0/24 -",
        "add A",
        "  add 0 B",
        "add B",
        "  add 0 A",
    ];
    assert_eq!(told(&plan), expected);
    assert_eq!(plan.generation, 0);
    assert_eq!(plan.gateway_counts, counts(2, 0, 0));
    // A tunnel has two ends and is one.
    assert_eq!(plan.tunnel_counts, counts(1, 0, 0));
}

#[test]
fn each_gateway_is_told_what_changes_there() {
    let before = mesh(&Ids::default(), BEFORE);
    // B leaves with its site, C joins, A's side changes, and who owns what.
    let text = BEFORE
        .replace(
            "gateways.A.end",
            "gateways.A.overlay = \"inside\"\ngateways.A.end",
        )
        .replace("\"10.0.1.0/24\"", "\"10.0.1.0/24\", \"10.0.7.0/24\"")
        .replace("sites.two", "sites.three")
        .replace("gateways.B", "gateways.C")
        .replace("::b", "::c");
    let after = mesh(&before.ids, &text);
    let it = plan(Some(&before), &after);
    let expected = [
        "change site one +10.0.7.0/24 -",
        "add site three +10.0.2.0/24 -",
        "remove site two + -10.0.2.0/24",
        "change A overlay:>inside",
        "  remove 0 B",
        "  add 1 C",
        "remove B",
        "  remove 0 A",
        "add C",
        "  add 1 A",
    ];
    assert_eq!(told(&it), expected);
    assert_eq!(it.gateway_counts, counts(1, 1, 1));
    assert_eq!(it.tunnel_counts, counts(1, 1, 0));
    // And back.
    let back = plan(Some(&after), &before);
    assert_eq!(back.tunnel_counts, counts(1, 1, 0));
    assert_eq!(back.gateway_counts, counts(1, 1, 1));
}

#[test]
fn options_and_drains_are_told_with_their_values() {
    let before = mesh(&Ids::default(), BEFORE);
    let text = BEFORE.replace(
        "[sites.one]",
        "[mesh.esp]\nrekey_time = \"30m\"\n[sites.one]",
    );
    let mut after = mesh(&before.ids, &text);
    after.drains = Drains::from([Drain::gateway("A")]);
    let it = plan(Some(&before), &after);
    let lines = told(&it);
    assert_eq!(lines[0], "change A drain:>true", "{lines:?}");
    assert!(
        lines[1].starts_with("  change 0 B esp.rekey_time:"),
        "{lines:?}"
    );
    assert_eq!(lines[2], "change B");
    assert_eq!(it.tunnel_counts, counts(0, 0, 1));
}

#[test]
fn a_summary_is_one_line() {
    let before = mesh(&Ids::default(), BEFORE).spec;
    assert_eq!(summary(None, &before), "2 sites, 2 gateways, 1 tunnel");
    assert_eq!(
        summary(Some(&before), &before),
        "other settings, the same gateways"
    );
    let more = (3..10).map(|n| format!("[sites.s{n}]\nprefixes = [\"10.0.{n}.0/24\"]\ngateways.G{n}.endpoints = [\"2001:db8::{n}\"]\n"));
    let text = BEFORE.replace("gateways.B", "gateways.C") + &more.collect::<String>();
    let after = mesh(&Ids::default(), &text).spec;
    assert_eq!(
        summary(Some(&before), &after),
        "C, G3, G4, G5, G6 and 3 more joined; B left; 1 -> 36 tunnels"
    );
}
