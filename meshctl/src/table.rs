//! What the controller says, as text for people: wide enough for a terminal of 100 columns.

mod context;
mod history;
mod plan;
mod routes;
mod trust;

pub(crate) use context::{context, contexts};
pub(crate) use history::{history, text_diff};
pub(crate) use plan::{is_empty, plan};
pub(crate) use routes::{rejected, routes};
pub(crate) use trust::audit;

use crate::mtu::Sizes;
use crate::state::State;
use crate::tunnels::TunnelEnd;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use routemesh_proto::{
    BgpStatus, Edge, EdgeCounts, End, Finding, GatewayView, Invalid, PrefixPaths, PrefixView,
    Problem, Repair, Topology, TunnelStatus,
};
use std::collections::BTreeMap;

/// How text should look.
#[derive(Clone, Copy)]
pub(crate) struct Look {
    terminal: bool,
    colour: bool,
}

impl Look {
    /// Colour only on a terminal, and not where NO_COLOR is set (no-color.org).
    pub(crate) fn of_terminal(terminal: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            terminal,
            colour: terminal && !refused,
        }
    }

    pub(crate) fn has_colour(self) -> bool {
        self.colour
    }

    /// A line in a colour.
    fn paint(self, colour: Color, line: &str) -> String {
        let code = match colour {
            Color::Red => 31,
            Color::Green => 32,
            _ => 33,
        };
        match self.colour {
            true => format!("\u{1b}[{code}m{line}\u{1b}[0m"),
            false => line.to_owned(),
        }
    }

    #[cfg(test)]
    fn plain() -> Self {
        Self {
            terminal: false,
            colour: false,
        }
    }
}

/// How many of them: "1 site", "3 sites".
pub(crate) fn count(n: u32, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

fn table(look: Look, header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if !look.colour {
        table.force_no_tty();
    } else {
        table.enforce_styling();
    }
    // A terminal's lines are wrapped, a file's are for grep.
    table.set_content_arrangement(if look.terminal {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    });
    let bold = |title: &&str| Cell::new(title).add_attribute(Attribute::Bold);
    table.set_header(header.iter().map(bold).collect::<Vec<_>>());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn verdict(text: &str, drain: &str) -> Cell {
    let colour = match text {
        "up" | "ok" if !drain.is_empty() => Color::Yellow,
        "up" | "ok" => Color::Green,
        "unknown" | "stale" | "behind" | "never seen" | "degraded" => Color::Yellow,
        _ => Color::Red,
    };
    let words = [text, drain].into_iter().filter(|word| !word.is_empty());
    Cell::new(words.collect::<Vec<_>>().join(", ")).fg(colour)
}

/// Why the verdict is what it is, and what keeps traffic from leaving.
fn why(reason: &str, drain: &str, drain_reason: &str) -> Vec<String> {
    let waits = (!drain_reason.is_empty()).then(|| format!("{drain}: {drain_reason}"));
    let reason = (!reason.is_empty()).then(|| reason.to_owned());
    reason.into_iter().chain(waits).collect()
}

/// What fits through tunnels.
pub(crate) fn mtu(sizes: &[Sizes], look: Look) -> String {
    let header = [
        "ESP",
        "OUTER",
        "PATH MTU",
        "TUNNEL MTU",
        "TCP MSS IPV4",
        "TCP MSS IPV6",
    ];
    let mut table = table(look, &header);
    for each in sizes {
        table.add_row([
            each.proposal.clone(),
            each.outer.to_owned(),
            each.path.to_string(),
            each.mtu.to_string(),
            each.mss_ipv4.to_string(),
            each.mss_ipv6.to_string(),
        ]);
    }
    table.trim_fmt() + "\n"
}

/// Tunnels as their ends see them.
pub(crate) fn tunnels(ends: &[TunnelEnd], look: Look) -> String {
    let header = [
        "INTERFACE",
        "GATEWAY",
        "PEER",
        "OUTSIDE",
        "INSIDE",
        "IKE",
        "BFD",
        "BGP",
        "MTU",
        "KNOWN BY",
    ];
    let mut table = table(look, &header);
    for end in ends {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.add_row([
            end.interface.clone(),
            end.gateway.clone(),
            end.peer.clone(),
            end.outside.join(" > "),
            if end.inside[0].is_empty() {
                "-".to_owned()
            } else {
                end.inside.join(" > ")
            },
            match (&end.ike, end.handshake) {
                (Some(ike), Some(seconds)) => format!("{ike} ({seconds} s ago)"),
                (ike, _) => or_none(ike),
            },
            or_none(&end.bfd),
            or_none(&end.bgp),
            end.mtu.map_or("-".to_owned(), |mtu| mtu.to_string()),
            end.known_by.clone(),
        ]);
    }
    table.trim_fmt() + "\n"
}

/// What is wrong with gateways, their hosts last.
pub(crate) fn doctor(views: &[GatewayView], look: Look) -> String {
    let mut out = gateways(views, look);
    let several = views.len() > 1;
    let findings = views.iter().flat_map(|view| {
        let name = if several { view.name.as_str() } else { "" };
        view.findings.iter().map(move |finding| (name, finding))
    });
    for (gateway, finding) in findings {
        if !gateway.is_empty() {
            out += &format!("\n{gateway}");
        }
        let Finding {
            severity,
            object,
            breaks,
            cure,
        } = finding;
        out += &format!("\n{severity:<6} {object}\n       {breaks}\n       -> {cure}\n");
    }
    out
}

/// Tunnels in these states, then prefixes, then what gateways say, then the sum.
pub(crate) fn topology(topology: &Topology, states: &[State], look: Look) -> String {
    let mut parts = Vec::new();
    if !topology.edges.is_empty() {
        parts.push(edges(&topology.edges, look));
    }
    if !topology.prefixes.is_empty() {
        parts.push(prefixes(&topology.prefixes, look));
    }
    let complains = |view: &&GatewayView| {
        let quiet = view.invalid.is_empty() && view.drain.is_empty() && view.repairs.is_empty();
        view.verdict != "ok" || !quiet
    };
    let complaints = topology.gateways.iter().filter(complains);
    let complaints: Vec<GatewayView> = complaints.cloned().collect();
    if !complaints.is_empty() {
        parts.push(gateways(&complaints, look));
    }
    let counts = counts(topology);
    let asked: u64 = states.iter().map(|it| it.counted(&counts)).sum();
    if (topology.edges.len() as u64) < asked || topology.prefixes_cut {
        parts.push(
            "Not everything is listed: --gateway and --site show all that is of one.\n".to_owned(),
        );
    }
    parts.push(sum(topology) + "\n");
    parts.join("\n")
}

/// "1 of 2 tunnels up, generation 4".
pub(crate) fn sum(topology: &Topology) -> String {
    let counts = counts(topology);
    let all: u64 = State::ALL.iter().map(|it| it.counted(&counts)).sum();
    format!(
        "{} of {} up, generation {}",
        counts.up,
        count(u32::try_from(all).unwrap_or(u32::MAX), "tunnel"),
        topology.generation
    )
}

/// Tunnels by state, listed or not.
pub(crate) fn counts(topology: &Topology) -> EdgeCounts {
    // One from before there were counts lists all.
    topology.edge_counts.unwrap_or_else(|| {
        let in_state = |state| {
            let edges = topology.edges.iter();
            edges.filter(|it| State::of(&it.verdict) == state).count() as u64
        };
        EdgeCounts {
            up: in_state(State::Up),
            degraded: in_state(State::Degraded),
            down: in_state(State::Down),
            unknown: in_state(State::Unknown),
        }
    })
}

fn edges(edges: &[Edge], look: Look) -> String {
    let header = [
        "TUNNEL", "A", "B", "VERDICT", "IKE", "BFD", "BGP", "PREFIXES", "REASON",
    ];
    let mut table = table(look, &header);
    for edge in edges {
        let ends = [edge.a.as_ref(), edge.b.as_ref()];
        let name = |end: Option<&End>| end.map_or("-", |end| &end.gateway).to_owned();
        let view = |show: fn(&TunnelStatus) -> String| {
            let of = |end: Option<&End>| {
                let status = end.and_then(|end| end.status.as_ref());
                status.map_or("-".to_owned(), show)
            };
            (of(ends[0]), of(ends[1]))
        };
        let bgp = |status: &TunnelStatus| {
            let state = status.bgp.as_ref().map(|bgp| bgp.state.clone());
            state.unwrap_or_else(|| "-".to_owned())
        };
        let accepted = |status: &TunnelStatus| {
            let accepted = |bgp: &BgpStatus| {
                let refused = (bgp.rejected > 0).then(|| format!("{} refused", bgp.rejected));
                let notes: Vec<String> = refused.into_iter().chain(near_limit(bgp)).collect();
                match notes.as_slice() {
                    [] => bgp.accepted.to_string(),
                    notes => format!("{} ({})", bgp.accepted, notes.join(", ")),
                }
            };
            status.bgp.as_ref().map_or("-".to_owned(), accepted)
        };
        table.add_row(vec![
            Cell::new(edge.number),
            Cell::new(name(ends[0])),
            Cell::new(name(ends[1])),
            verdict(&edge.verdict, &edge.drain),
            Cell::new(both(view(|status| status.ike.clone()))),
            Cell::new(both(view(bfd))),
            Cell::new(both(view(bgp))),
            Cell::new(both(view(accepted))),
            Cell::new(reasons(edge)),
        ]);
    }
    table.trim_fmt() + "\n"
}

/// Its state, and how soon it notices when that is not so any more.
pub(crate) fn bfd(status: &TunnelStatus) -> String {
    match &status.bfd {
        None => "-".to_owned(),
        Some(bfd) if bfd.state == "Up" => format!("Up {} ms", bfd.detection_time),
        Some(bfd) => bfd.state.clone(),
    }
}

/// Why it is not up, what keeps traffic from leaving, and what its ends hold to be invalid.
fn reasons(edge: &Edge) -> String {
    let ends = [edge.a.as_ref(), edge.b.as_ref()].into_iter().flatten();
    let at_end = |end: &End| {
        let packets = end
            .status
            .as_ref()
            .map_or(&[][..], |status| &status.invalid);
        invalid(packets).map(|text| format!("{}: {text}", end.gateway))
    };
    let mut reasons = why(&edge.reason, &edge.drain, &edge.drain_reason);
    reasons.extend(ends.filter_map(at_end));
    reasons.join("\n")
}

fn invalid(packets: &[Invalid]) -> Option<String> {
    let words = |it: &Invalid| format!("{} {}", it.packets, it.reason);
    let words: Vec<String> = packets.iter().map(words).collect();
    (!words.is_empty()).then(|| format!("invalid packets: {}", words.join(", ")))
}

/// What others undid there.
fn repaired(repairs: &[Repair]) -> Option<String> {
    let words = |it: &Repair| format!("{} {}", it.count, it.object);
    let words: Vec<String> = repairs.iter().map(words).collect();
    (!words.is_empty()).then(|| format!("undone by others and repaired: {}", words.join(", ")))
}

/// A warning from three quarters of what the peer may announce, as in the agent's log.
fn near_limit(bgp: &BgpStatus) -> Option<String> {
    let (received, limit) = (u64::from(bgp.received), u64::from(bgp.max_prefixes));
    let near = limit > 0 && 4 * received >= 3 * limit;
    near.then(|| format!("{received} of at most {limit}"))
}

/// What A and B say: once where they agree.
pub(crate) fn both((a, b): (String, String)) -> String {
    if a == b { a } else { format!("{a} / {b}") }
}

fn prefixes(prefixes: &[PrefixView], look: Look) -> String {
    let mut table = table(look, &["PREFIX", "SITE", "ANNOUNCED BY", "PATHS IN USE"]);
    for view in prefixes {
        let announced = if view.announced_by.is_empty() {
            Cell::new("nobody").fg(Color::Red)
        } else {
            Cell::new(view.announced_by.join(" "))
        };
        table.add_row(vec![
            Cell::new(&view.prefix),
            Cell::new(&view.site),
            announced,
            Cell::new(paths(&view.paths)),
        ]);
    }
    table.trim_fmt() + "\n"
}

/// What most gateways do in a few words, and who does otherwise.
fn paths(paths: &[PrefixPaths]) -> String {
    let mut counts: BTreeMap<usize, u32> = BTreeMap::new();
    for path in paths {
        *counts.entry(path.via.len()).or_default() += 1;
    }
    // Of equally many, the better one is the rule.
    let Some((&usual, &gateways)) = counts.iter().max_by_key(|(paths, n)| (**n, **paths)) else {
        return "-".to_owned();
    };
    let usually = match usual {
        0 => format!("{}: unreachable", count(gateways, "gateway")),
        usual => {
            let usual = u32::try_from(usual).unwrap_or(u32::MAX);
            format!("{} x {}", count(gateways, "gateway"), count(usual, "path"))
        }
    };
    let others: Vec<&PrefixPaths> = paths.iter().filter(|p| p.via.len() != usual).collect();
    let mut words = vec![usually];
    words.extend(others.iter().take(6).map(|path| match path.via.as_slice() {
        [] => format!("{}: unreachable", path.gateway),
        via => format!("{}: {}", path.gateway, via.join(" ")),
    }));
    if others.len() > 6 {
        words.push(format!("and {} more", others.len() - 6));
    }
    words.join("; ")
}

/// Gateways, one a line.
pub(crate) fn gateways(gateways: &[GatewayView], look: Look) -> String {
    let header = [
        "GATEWAY",
        "SITE",
        "VERDICT",
        "GENERATION",
        "REPORTED",
        "VERSION",
        "ENDPOINTS",
        "REASON",
    ];
    let mut table = table(look, &header);
    for view in gateways {
        let reported = view.reported.map_or("never".to_owned(), ago);
        let mut reasons = why(&view.reason, &view.drain, &view.drain_reason);
        let more = view.problems.iter().skip(1);
        reasons.extend(more.map(|Problem { object, reason }| format!("{object}: {reason}")));
        reasons.extend(invalid(&view.invalid));
        reasons.extend(repaired(&view.repairs));
        table.add_row(vec![
            Cell::new(&view.name),
            Cell::new(&view.site),
            verdict(&view.verdict, &view.drain),
            Cell::new(view.generation),
            Cell::new(reported),
            Cell::new(&view.version),
            Cell::new(view.endpoints.join(" ")),
            Cell::new(reasons.join("\n")),
        ]);
    }
    table.trim_fmt() + "\n"
}

pub(crate) fn ago(seconds: u64) -> String {
    span(seconds) + " ago"
}

/// In the words of somebody in a hurry.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
