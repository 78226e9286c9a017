//! What there is to see: sites, the gateways of one or of all, the tunnels of a gateway or of all, a tunnel from
//! both ends.

use crate::state::State;
use crate::table;
use routemesh_proto::{Edge, End, GatewayView, Topology, TunnelStatus};
use std::collections::HashMap;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Page {
    #[default]
    Sites,
    /// Of a site; of all without one.
    Gateways {
        of: Option<String>,
    },
    /// Of a gateway; of all without one.
    Tunnels {
        of: Option<String>,
    },
    Tunnel {
        number: u32,
    },
}

/// A line of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// By which it is known when the mesh has changed.
    pub(super) key: String,
    pub(super) state: Option<State>,
    pub(super) cells: Vec<String>,
    /// What does not fit into a line.
    pub(super) words: String,
}

impl Row {
    /// These letters, small ones, are somewhere in it.
    pub(super) fn has(&self, wanted: &str) -> bool {
        let state = self.state.map(|it| it.name().to_owned());
        let all = self.cells.iter().chain(&state).chain([&self.words]);
        wanted.is_empty() || all.into_iter().any(|it| it.to_lowercase().contains(wanted))
    }
}

impl Page {
    pub(super) fn title(&self) -> String {
        match self {
            Self::Sites => "sites".to_owned(),
            Self::Gateways { of: None } => "gateways".to_owned(),
            Self::Tunnels { of: None } => "tunnels".to_owned(),
            Self::Gateways { of: Some(name) } | Self::Tunnels { of: Some(name) } => name.clone(),
            Self::Tunnel { number } => format!("rm{number}"),
        }
    }

    /// What one comes to from a row.
    pub(super) fn within(&self, key: &str) -> Option<Self> {
        let of = Some(key.to_owned());
        match self {
            Self::Sites => Some(Self::Gateways { of }),
            Self::Gateways { .. } => Some(Self::Tunnels { of }),
            Self::Tunnels { .. } => Some(Self::Tunnel {
                number: key.parse().ok()?,
            }),
            Self::Tunnel { .. } => None,
        }
    }

    /// Titles of columns, and their shares of the width.
    pub(super) fn columns(&self) -> &'static [(&'static str, u16)] {
        match self {
            Self::Sites => &[("SITE", 24), ("GATEWAYS", 14), ("TUNNELS", 30)],
            Self::Gateways { .. } => &[
                ("GATEWAY", 20),
                ("VERDICT", 20),
                ("TUNNELS", 13),
                ("REPORTED", 12),
                ("VERSION", 8),
            ],
            Self::Tunnels { .. } => &[
                ("TUNNEL", 8),
                ("A", 16),
                ("B", 16),
                ("STATE", 18),
                ("BGP", 24),
            ],
            Self::Tunnel { .. } => &[("", 12), ("A", 34), ("B", 34)],
        }
    }
}

/// All that is on a page.
pub(super) fn rows(topology: &Topology, page: &Page) -> Vec<Row> {
    match page {
        Page::Sites => sites(topology),
        Page::Gateways { of } => {
            let all = topology.gateways.iter();
            let of_site = all.filter(|it| of.as_ref().is_none_or(|name| *name == it.site));
            let tallies = tallies(topology, |end| &end.gateway);
            let tally = |name: &str| tallies.get(name).copied().unwrap_or_default();
            of_site.map(|it| gateway(it, tally(&it.name))).collect()
        }
        Page::Tunnels { of } => {
            let is_of = |edge: &&Edge| {
                of.as_ref()
                    .is_none_or(|name| ends(edge).any(|it| it.gateway == *name))
            };
            let mut edges: Vec<&Edge> = topology.edges.iter().filter(is_of).collect();
            edges.sort_by_key(|it| (std::cmp::Reverse(State::of(&it.verdict)), it.number));
            edges.into_iter().map(tunnel).collect()
        }
        Page::Tunnel { number } => {
            let found = topology.edges.iter().find(|it| it.number == *number);
            found.map(both_ends).unwrap_or_default()
        }
    }
}

fn ends(edge: &Edge) -> impl Iterator<Item = &End> {
    [&edge.a, &edge.b].into_iter().flatten()
}

/// Tunnels of one gateway or site.
#[derive(Clone, Copy, Default)]
struct Tally {
    up: usize,
    all: usize,
    together: Option<State>,
}

impl Tally {
    fn count(&mut self, state: State) {
        self.up += usize::from(state == State::Up);
        self.all += 1;
        self.together = Some(self.together.map_or(state, |it| it.and(state)));
    }

    fn words(self) -> String {
        format!("{} of {} up", self.up, self.all)
    }
}

/// All tunnels, each counted once for every name that its ends have.
fn tallies<'t>(topology: &'t Topology, name: fn(&'t End) -> &'t str) -> HashMap<&'t str, Tally> {
    let mut tallies: HashMap<&str, Tally> = HashMap::new();
    for edge in &topology.edges {
        let state = State::of(&edge.verdict);
        let mut before = None;
        for name in ends(edge).map(name).filter(|it| !it.is_empty()) {
            if before != Some(name) {
                tallies.entry(name).or_default().count(state);
            }
            before = Some(name);
        }
    }
    tallies
}

fn sites(topology: &Topology) -> Vec<Row> {
    let tallies = tallies(topology, |end| &end.site);
    // In the order of the specification, which has the gateways of a site together.
    let together = topology
        .gateways
        .chunk_by(|one, next| one.site == next.site);
    let row = |gateways: &[GatewayView]| {
        let name = gateways.first().map_or("", |it| &it.site);
        let ill: Vec<String> = gateways
            .iter()
            .filter(|it| it.verdict != "ok")
            .map(complaint)
            .collect();
        let tally = tallies.get(name).copied().unwrap_or_default();
        let well = gateways.len() - ill.len();
        Row {
            key: name.to_owned(),
            state: tally.together,
            cells: vec![
                name.to_owned(),
                format!("{well} of {} ok", gateways.len()),
                tally.words(),
            ],
            words: ill.join("; "),
        }
    };
    together.map(row).collect()
}

fn complaint(view: &GatewayView) -> String {
    let words = [&view.verdict, &view.reason];
    let words: Vec<&str> = words
        .iter()
        .map(|it| it.as_str())
        .filter(|it| !it.is_empty())
        .collect();
    format!("{}: {}", view.name, words.join(": "))
}

fn gateway(view: &GatewayView, tally: Tally) -> Row {
    let reported = view.reported.map_or("never".to_owned(), table::ago);
    let more = view.problems.iter().skip(1);
    let reason = match view.verdict.as_str() {
        "ok" => None,
        _ => Some(complaint(view)),
    };
    let words = reason
        .into_iter()
        .chain(drained(&view.drain, &view.drain_reason))
        .chain(more.map(|it| format!("{}: {}", it.object, it.reason)));
    Row {
        key: view.name.clone(),
        state: tally.together,
        cells: vec![
            view.name.clone(),
            with(&view.verdict, &view.drain),
            tally.words(),
            reported,
            view.version.clone(),
        ],
        words: words.collect::<Vec<_>>().join("; "),
    }
}

fn drained(drain: &str, reason: &str) -> Option<String> {
    (!reason.is_empty()).then(|| format!("{drain}: {reason}"))
}

fn with(verdict: &str, drain: &str) -> String {
    match drain {
        "" => verdict.to_owned(),
        drain => format!("{verdict}, {drain}"),
    }
}

fn tunnel(edge: &Edge) -> Row {
    let name = |end: &Option<End>| end.as_ref().map_or("-".to_owned(), |it| it.gateway.clone());
    let bgp = |end: &Option<End>| {
        let status = end.as_ref().and_then(|it| it.status.as_ref());
        let bgp = status.and_then(|it| it.bgp.as_ref());
        bgp.map_or("-".to_owned(), |it| it.state.clone())
    };
    let reason = (!edge.reason.is_empty()).then(|| edge.reason.clone());
    let words = reason
        .into_iter()
        .chain(drained(&edge.drain, &edge.drain_reason));
    Row {
        key: edge.number.to_string(),
        state: Some(State::of(&edge.verdict)),
        cells: vec![
            format!("rm{}", edge.number),
            name(&edge.a),
            name(&edge.b),
            with(&edge.verdict, &edge.drain),
            table::both((bgp(&edge.a), bgp(&edge.b))),
        ],
        words: words.collect::<Vec<_>>().join("; "),
    }
}

/// What something is called, and how it is told.
type Labelled<T> = (&'static str, fn(&T) -> String);

/// What both ends say, side by side.
fn both_ends(edge: &Edge) -> Vec<Row> {
    let plain: [Labelled<End>; 4] = [
        ("gateway", |it| it.gateway.clone()),
        ("site", |it| it.site.clone()),
        ("outside", |it| it.endpoint.clone()),
        ("inside", |it| it.address.clone()),
    ];
    let reported: [Labelled<TunnelStatus>; 9] = [
        ("IKE", |it| match it.ike_reason.as_str() {
            "" => it.ike.clone(),
            reason => format!("{}: {reason}", it.ike),
        }),
        ("interface", |it| it.interface.clone()),
        ("MTU", |it| match it.mtu {
            0 => String::new(),
            mtu => mtu.to_string(),
        }),
        ("BFD", table::bfd),
        ("way", |it| {
            let way = it.liveness.as_ref();
            way.map_or(String::new(), |it| it.state.clone())
        }),
        ("BGP", |it| {
            let bgp = it.bgp.as_ref();
            bgp.map_or("-".to_owned(), |it| {
                format!("{} for {}", it.state, table::span(it.seconds))
            })
        }),
        ("accepted", |it| {
            let bgp = it.bgp.as_ref();
            bgp.map_or(String::new(), |it| {
                format!("{} of {}", it.accepted, it.received)
            })
        }),
        ("told", |it| {
            let bgp = it.bgp.as_ref();
            bgp.map_or(String::new(), |it| it.advertised.to_string())
        }),
        ("last error", |it| {
            let bgp = it.bgp.as_ref();
            bgp.map_or(String::new(), |it| it.last_error.clone())
        }),
    ];
    let state = State::of(&edge.verdict);
    let row = |label: &str, a: String, b: String| Row {
        key: label.to_owned(),
        state: (label == "gateway").then_some(state),
        words: match label {
            "gateway" => tunnel(edge).words,
            _ => [&a, &b]
                .into_iter()
                .filter(|it| !it.is_empty())
                .cloned()
                .collect::<Vec<_>>()
                .join(" / "),
        },
        cells: vec![label.to_owned(), a, b],
    };
    let of =
        |end: &Option<End>, show: fn(&End) -> String| end.as_ref().map_or("-".to_owned(), show);
    let said = |end: &Option<End>, show: fn(&TunnelStatus) -> String| {
        let status = end.as_ref().and_then(|it| it.status.as_ref());
        status.map_or("-".to_owned(), show)
    };
    let heard = |end: &Option<End>| {
        let fresh = end.as_ref().is_some_and(|it| it.fresh);
        if fresh { "lately" } else { "not lately" }.to_owned()
    };
    let plain = plain.map(|(label, show)| row(label, of(&edge.a, show), of(&edge.b, show)));
    let reported =
        reported.map(|(label, show)| row(label, said(&edge.a, show), said(&edge.b, show)));
    let heard = row("reported", heard(&edge.a), heard(&edge.b));
    plain.into_iter().chain([heard]).chain(reported).collect()
}
