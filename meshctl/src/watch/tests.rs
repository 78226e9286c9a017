use super::draw::draw;
use super::*;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use routemesh_proto::{
    BfdStatus, BgpStatus, Edge, End, GatewayView, LivenessStatus, Topology, TunnelStatus,
};
use std::path::Path;

fn end(gateway: &str, ike: &str, bgp: &str) -> Option<End> {
    let status = TunnelStatus {
        ike: ike.to_owned(),
        interface: "up".to_owned(),
        mtu: 1426,
        bgp: Some(BgpStatus {
            state: bgp.to_owned(),
            seconds: 7_000,
            received: 3,
            accepted: 2,
            advertised: 4,
            ..BgpStatus::default()
        }),
        bfd: Some(BfdStatus {
            state: "Up".to_owned(),
            detection_time: 900,
            ..BfdStatus::default()
        }),
        liveness: Some(LivenessStatus {
            state: "alive".to_owned(),
            ..LivenessStatus::default()
        }),
        ..TunnelStatus::default()
    };
    Some(End {
        gateway: gateway.to_owned(),
        site: gateway.split('-').next().unwrap_or_default().to_owned(),
        endpoint: "2001:db8:1::1".to_owned(),
        address: "2001:db8:ff::6".to_owned(),
        status: Some(status),
        fresh: ike == "up",
    })
}

fn mesh() -> Box<Topology> {
    let gateway = |name: &str, verdict: &str, reason: &str| GatewayView {
        name: name.to_owned(),
        site: name.split('-').next().unwrap_or_default().to_owned(),
        verdict: verdict.to_owned(),
        reason: reason.to_owned(),
        reported: Some(3),
        version: "0.1.0".to_owned(),
        ..GatewayView::default()
    };
    let edge = |number, a, b, verdict: &str, reason: &str| Edge {
        number,
        a,
        b,
        verdict: verdict.to_owned(),
        reason: reason.to_owned(),
        ..Edge::default()
    };
    let up = |name| end(name, "up", "Established");
    let broken = "rome-1: IKE connecting (the far end does not answer, and has not for so long that it \
                  needs more than one line to be told)";
    Box::new(Topology {
        generation: 4,
        gateways: vec![
            gateway("paris-1", "ok", ""),
            gateway("paris-2", "behind", "runs generation 3, not 4"),
            gateway("rome-1", "problem", "route 10.0.2.0/24: \u{1b}[31mnot ours"),
        ],
        edges: vec![
            edge(1, up("paris-1"), up("rome-1"), "up", ""),
            edge(
                2,
                up("paris-2"),
                end("rome-1", "connecting", "Idle"),
                "down",
                broken,
            ),
        ],
        ..Topology::default()
    })
}

fn plain() -> Look {
    Look::of_terminal(false)
}

fn screen(model: &Model, width: u16, height: u16, now: u64) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let drawn = terminal.draw(|frame| draw(frame, model, Duration::from_secs(now), plain()));
    let buffer = drawn.unwrap().buffer.clone();
    let line = |y| {
        let cells = (0..width).map(|x| buffer[(x, y)].symbol());
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    (0..height).map(line).collect()
}

fn pressed(model: &mut Model, keys: &str) {
    for letter in keys.chars() {
        let code = match letter {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            letter => KeyCode::Char(letter),
        };
        model.press(KeyEvent::new(code, KeyModifiers::NONE));
    }
}

fn looking_at(keys: &str) -> Model {
    let mut model = Model::default();
    model.hear(Ok(mesh()), Duration::from_secs(1));
    pressed(&mut model, keys);
    model
}

/// As `RENEW_GOLDEN=1` last wrote it.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/watch/golden")
        .join(name);
    if std::env::var_os("RENEW_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{}", path.display());
}

#[test]
fn every_page_in_eighty_columns() {
    for (name, keys) in [
        ("sites.txt", "j"),
        ("gateways.txt", "2jj"),
        ("gateways-of-paris.txt", "\nj"),
        ("tunnels.txt", "3"),
        ("tunnels-of-paris-1.txt", "\n\n"),
        ("tunnel.txt", "3\n"),
        ("filter.txt", "3/ROME-1: ike"),
        ("help.txt", "?"),
    ] {
        golden(name, &screen(&looking_at(keys), 80, 24, 3));
    }
}

#[test]
fn a_controller_that_is_away_leaves_the_last_picture_with_its_age() {
    let mut model = Model::default();
    let first = screen(&model, 80, 24, 0);
    assert!(first.starts_with("asking the controller"), "{first}");
    let away = || Err("the controller cannot be reached: refused".to_owned());
    model.hear(away(), Duration::from_secs(1));
    let never = screen(&model, 80, 24, 1);
    assert!(
        never.starts_with("the controller cannot be reached"),
        "{never}"
    );
    model.hear(Ok(mesh()), Duration::from_secs(2));
    model.hear(away(), Duration::from_secs(40));
    let text = screen(&model, 80, 24, 47);
    assert!(
        text.starts_with("45 s OLD: the controller cannot be reached: refused"),
        "{text}"
    );
    assert!(text.contains("paris"), "{text}");
    model.hear(Ok(mesh()), Duration::from_secs(50));
    let text = screen(&model, 80, 24, 50);
    assert!(
        text.starts_with("1 of 2 tunnels up, generation 4, 0 s ago"),
        "{text}"
    );
}

#[test]
fn no_size_and_no_key_is_too_much() {
    let keys = "jjjkG\n\n\n\n\u{1b}\u{1b}\u{1b}\u{1b}/x\n\u{1b}3G\nhhh?x/ü\u{1b}";
    for (width, height) in [(0, 0), (1, 1), (3, 2), (20, 5), (80, 24), (300, 90)] {
        for news in [None, Some(Box::default()), Some(mesh())] {
            let mut model = Model::default();
            if let Some(topology) = news {
                model.hear(Ok(topology), Duration::ZERO);
            }
            for letter in keys.chars() {
                pressed(&mut model, &letter.to_string());
                screen(&model, width, height, 1);
            }
            assert!(!model.is_done());
            pressed(&mut model, "q");
            assert!(model.is_done());
        }
    }
}

/// Two hundred sites of ten gateways, and as many tunnels as a controller lists.
#[test]
fn a_large_mesh_is_counted_right() {
    let gateways = 0..2_000;
    let gateways = gateways.map(|i| GatewayView {
        name: format!("g{i}"),
        site: format!("s{}", i / 10),
        verdict: "ok".to_owned(),
        ..GatewayView::default()
    });
    let end = |i: u32| {
        Some(End {
            gateway: format!("g{i}"),
            site: format!("s{}", i / 10),
            ..End::default()
        })
    };
    let edges = (0..20_000).map(|i| Edge {
        number: i,
        a: end(i % 2_000),
        b: end((i % 2_000 + 1 + i / 2_000) % 2_000),
        verdict: if i == 5 { "down" } else { "up" }.to_owned(),
        ..Edge::default()
    });
    let topology = Topology {
        gateways: gateways.collect(),
        edges: edges.collect(),
        ..Topology::default()
    };
    let mut model = Model::default();
    model.hear(Ok(Box::new(topology)), Duration::ZERO);
    let rows = model.rows();
    // Ten gateways with twenty tunnels each, 45 of which are within the site.
    assert_eq!(rows.len(), 200);
    assert_eq!(rows[0].cells, ["s0", "10 of 10 ok", "154 of 155 up"]);
    pressed(&mut model, "2");
    let rows = model.rows();
    assert_eq!(
        (rows.len(), &*rows[5].cells[2], &*rows[7].cells[2]),
        (2_000, "19 of 20 up", "20 of 20 up")
    );
    pressed(&mut model, "3");
    assert_eq!(model.rows()[0].key, "5");
}

#[test]
fn what_is_marked_stays_marked_when_the_mesh_changes() {
    let mut model = looking_at("3j");
    let marked = |model: &Model| {
        let rows = model.rows();
        let line = model.place().line(&rows);
        rows.get(line).map(|row| row.key.clone())
    };
    assert_eq!(marked(&model).as_deref(), Some("1"));
    let mut other = mesh();
    for edge in &mut other.edges {
        edge.verdict = if edge.number == 1 { "down" } else { "up" }.to_owned();
    }
    model.hear(Ok(other.clone()), Duration::from_secs(2));
    assert_eq!(marked(&model).as_deref(), Some("1"));
    other.edges.retain(|it| it.number != 1);
    model.hear(Ok(other), Duration::from_secs(3));
    assert_eq!(marked(&model).as_deref(), Some("2"));
}

#[test]
fn back_is_where_one_was() {
    let mut model = looking_at("j\n\n");
    let way = |model: &Model| {
        model
            .pages()
            .map(pages::Page::title)
            .collect::<Vec<_>>()
            .join(" > ")
    };
    assert_eq!(way(&model), "sites > rome > rome-1");
    pressed(&mut model, "hh");
    assert_eq!(way(&model), "sites");
    pressed(&mut model, "\n");
    assert_eq!(way(&model), "sites > rome");
    pressed(&mut model, "/zzz\n");
    assert!(model.rows().is_empty());
    pressed(&mut model, "\n\u{1b}");
    assert_eq!(
        (way(&model).as_str(), model.rows().len()),
        ("sites > rome", 1)
    );
}
