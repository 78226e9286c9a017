use super::*;
use routemesh_proto::GatewayView;
use std::fmt::Write;
use std::path::Path;

fn gateway(name: &str, site: &str, verdict: &str) -> GatewayView {
    GatewayView {
        name: name.to_owned(),
        site: site.to_owned(),
        verdict: verdict.to_owned(),
        ..GatewayView::default()
    }
}

fn edge(a: &GatewayView, b: &GatewayView, verdict: &str, reason: &str) -> Edge {
    let end = |view: &GatewayView| {
        Some(End {
            gateway: view.name.clone(),
            site: view.site.clone(),
            ..End::default()
        })
    };
    Edge {
        a: end(a),
        b: end(b),
        verdict: verdict.to_owned(),
        reason: reason.to_owned(),
        kind: "xfrm".to_owned(),
        ..Edge::default()
    }
}

/// Every state, several tunnels between two gateways, a foreign peer, and names that are trouble in every language.
fn small() -> Topology {
    let paris = gateway("paris-1", "paris", "ok");
    let rome = gateway("rome-1", "rome", "behind");
    let odd = gateway("\"<o>&\\|`#;", "a<b>&\"\\c", "problem");
    let cloud = gateway("cloud", "cloud", "");
    let mut drained = edge(&paris, &rome, "up", "");
    drained.drain = "draining".to_owned();
    let mut abroad = edge(&rome, &cloud, "up", "");
    abroad.kind.clear();
    Topology {
        generation: 4,
        edges: vec![
            drained,
            edge(&paris, &rome, "up", ""),
            edge(&rome, &paris, "down", "paris-1: IKE down (no answer)"),
            edge(&paris, &odd, "down", "a < b"),
            edge(&odd, &rome, "unknown", ""),
            abroad,
        ],
        gateways: vec![paris, rome, odd],
        ..Topology::default()
    }
}

/// Two gateways in each of 30 sites, all tunnels up but those of one gateway.
fn large() -> Topology {
    let all: Vec<GatewayView> = (0..60)
        .map(|i| {
            let verdict = if i == 17 { "stale" } else { "ok" };
            gateway(&format!("gw-{i}"), &format!("site-{}", i / 2), verdict)
        })
        .collect();
    let mut edges = Vec::new();
    for (i, a) in all.iter().enumerate() {
        for b in all.iter().skip(i + 1).filter(|b| b.site != a.site) {
            let of_stale = a.verdict == "stale" || b.verdict == "stale";
            edges.push(edge(a, b, if of_stale { "unknown" } else { "up" }, ""));
        }
    }
    Topology {
        generation: 9,
        gateways: all,
        edges,
        ..Topology::default()
    }
}

/// `examples/three-sites.toml` with V2-1 cut off, and one tunnel that only one end has.
fn three_sites() -> Topology {
    let all: Vec<GatewayView> = [("one", "V1"), ("two", "V2"), ("three", "V3")]
        .iter()
        .flat_map(|(site, name)| [1, 2].map(|i| (site, format!("{name}-{i}"))))
        .map(|(site, name)| gateway(&name, site, if name == "V2-1" { "stale" } else { "ok" }))
        .collect();
    let mut edges = Vec::new();
    for (i, a) in all.iter().enumerate() {
        for b in all.iter().skip(i + 1).filter(|b| b.site != a.site) {
            let verdict = match (&*a.name, &*b.name) {
                ("V2-1", _) | (_, "V2-1") => "down",
                ("V1-2", "V3-2") => "degraded",
                _ => "up",
            };
            edges.push(edge(a, b, verdict, ""));
        }
    }
    Topology {
        generation: 7,
        gateways: all,
        edges,
        ..Topology::default()
    }
}

/// As `RENEW_GOLDEN=1` last wrote it.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/picture/golden")
        .join(name);
    if std::env::var_os("RENEW_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{}", path.display());
}

#[test]
fn tunnels_between_two_gateways_are_one_line() {
    let topology = small();
    let picture = Picture::of(&topology);
    let said: Vec<String> = picture.links.iter().map(Link::words).collect();
    let expected = [
        "rome-1 – cloud: up",
        "rome-1 – \"<o>&\\|`#;: unknown",
        "paris-1 – rome-1: degraded, 2 of 3 up, drained (paris-1: IKE down (no answer))",
        "paris-1 – \"<o>&\\|`#;: down (a < b)",
    ];
    assert_eq!(said, expected);
    assert_eq!(picture.title, "3 of 6 tunnels up, generation 4");
    assert!(picture.sites[3].foreign);
}

#[test]
fn several_states_are_one() {
    use State::{Degraded, Down, Unknown, Up};
    let table = [
        (Up, Up, Up),
        (Up, Down, Degraded),
        (Unknown, Up, Degraded),
        (Down, Unknown, Down),
        (Degraded, Down, Down),
        (Unknown, Degraded, Degraded),
    ];
    for (one, other, both) in table {
        assert_eq!(one.and(other), both, "{one:?} {other:?}");
        assert_eq!(other.and(one), both, "{other:?} {one:?}");
    }
}

#[test]
fn pictures_are_as_they_were_looked_at() {
    let topology = small();
    let picture = Picture::of(&topology);
    golden("small.svg", &svg(&picture));
    golden("small.dot", &dot(&picture));
    golden("small.mmd", &mermaid(&picture));
    // README shows it.
    golden(
        "../../../../docs/topology.svg",
        &svg(&Picture::of(&three_sites())),
    );
}

/// What another program says to a picture.
fn read_by(program: &str, arguments: &[&str], picture: &str) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut reader = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} (tests/tools installs it): {error}"));
    let mut stdin = reader.stdin.take().unwrap();
    let picture = picture.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(picture.as_bytes()));
    let output = reader.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && complaint.is_empty(),
        "{complaint}"
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn other_programs_read_the_pictures() {
    let topology = small();
    let picture = Picture::of(&topology);
    let placed = read_by("dot", &["-Tplain"], &dot(&picture));
    let of_kind = |kind: &str| placed.lines().filter(|it| it.starts_with(kind)).count();
    assert_eq!((of_kind("node "), of_kind("edge ")), (4, 4));
    assert!(placed.contains(r#""✕ \"<o>&\\|`#;""#), "{placed}");
    let large = large();
    for drawing in [
        svg(&picture),
        svg(&Picture::of(&large)),
        svg(&Picture::of(&Topology::default())),
    ] {
        let names = "//*[local-name()='text' and @class='']/text()";
        read_by("xmllint", &["--noout", "-"], &drawing);
        if drawing.contains("paris") {
            let found = read_by("xmllint", &["--xpath", names, "-"], &drawing);
            assert!(found.contains("paris-1"), "{found}");
        }
    }
}

#[test]
fn nothing_touches_in_a_drawing_of_whatever_size() {
    for sites in [1, 2, 3, 4, 7, 30, 120] {
        let mut topology = Topology::default();
        for site in 0..sites {
            for number in 0..=(site % 5) {
                let mut name = String::new();
                let _ = write!(name, "gateway-{site}-{number}");
                let site = format!("site-{site}");
                topology.gateways.push(gateway(&name, &site, "ok"));
            }
        }
        let picture = Picture::of(&topology);
        let layout = layout::layout(&picture, 600.0, 70.0);
        let cards = &layout.cards;
        assert_eq!(cards.len(), sites);
        for (i, card) in cards.iter().enumerate() {
            let layout::Rect { x, y, w, h } = card.frame;
            assert!(x >= 0.0 && y >= 0.0 && x + w <= layout.width && y + h <= layout.height);
            for chip in &card.chips {
                assert!(chip.x >= x && chip.x + chip.w <= x + w && chip.y + chip.h <= y + h);
            }
            for other in cards.iter().skip(i + 1).map(|it| it.frame) {
                let beside = x + w <= other.x || other.x + other.w <= x;
                let above = y + h <= other.y || other.y + other.h <= y;
                assert!(beside || above, "{sites} sites: {:?} {other:?}", card.frame);
            }
        }
    }
}

#[test]
fn nothing_at_all_is_a_picture_too() {
    let topology = Topology::default();
    let picture = Picture::of(&topology);
    assert!(svg(&picture).ends_with("</svg>\n"));
    assert!(dot(&picture).ends_with("}\n"));
    assert!(mermaid(&picture).starts_with("flowchart"));
}

#[test]
fn what_is_not_up_is_drawn_even_where_not_all_can_be() {
    let topology = large();
    let picture = Picture::of(&topology);
    assert_eq!(picture.links.len(), 1740);
    let (shown, left_out) = picture.shown(500);
    assert_eq!((shown.len(), left_out), (500, 1240));
    let unknown = shown.iter().filter(|it| it.state == State::Unknown).count();
    assert_eq!(unknown, 58);
    if let Some(dir) = std::env::var_os("PICTURES") {
        let write = |name: &str, text: String| std::fs::write(Path::new(&dir).join(name), text);
        write("large.svg", svg(&picture)).unwrap();
        write("large.dot", dot(&picture)).unwrap();
        write("large.mmd", mermaid(&picture)).unwrap();
    }
}
