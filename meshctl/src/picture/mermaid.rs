//! Mermaid's language, which many places that show Markdown draw.

use super::{Health, Picture};
use crate::state::State;
use std::fmt::Write;

/// Mermaid draws nothing where there are more, unless its page says otherwise (`maxEdges`).
const MOST: usize = 500;

/// The picture as a flowchart.
pub(crate) fn mermaid(picture: &Picture) -> String {
    let mut out = format!("flowchart LR\n  %% {}\n", plain(&picture.title));
    let (links, left_out) = picture.shown(MOST);
    if left_out > 0 {
        let _ = writeln!(out, "  %% {left_out} lines that are up are left out");
    }
    for (number, site) in picture.sites.iter().enumerate() {
        let _ = writeln!(out, "  subgraph s{number}[{}]", quoted(&site.title()));
        for (gateway, it) in site.gateways.iter().enumerate() {
            let (sign, class) = match it.health {
                Health::Well => ("", "well"),
                Health::Doubtful => ("△ ", "doubtful"),
                Health::Ill => ("✕ ", "ill"),
                Health::NotAsked => ("", "other"),
            };
            let drained = if it.drained { " (drained)" } else { "" };
            let label = quoted(&format!("{sign}{}{drained}", it.name));
            let _ = writeln!(out, "    g{number}_{gateway}({label}):::{class}");
        }
        out += "  end\n";
    }
    for link in links {
        let [(a, x), (b, y)] = link.ends;
        let (line, sign) = match link.state {
            State::Up => ("---", ""),
            State::Degraded => ("-.-", "△ "),
            State::Down => ("-.-", "✕ "),
            State::Unknown => ("-.-", "? "),
        };
        let label = format!("{sign}{}", link.label().unwrap_or_default());
        let label = match label.trim_end() {
            "" => String::new(),
            label => format!("|{}|", quoted(label)),
        };
        let _ = writeln!(out, "  g{a}_{x} {line}{label} g{b}_{y}");
    }
    for (class, state) in [
        ("well", State::Up),
        ("doubtful", State::Degraded),
        ("ill", State::Down),
        ("other", State::Unknown),
    ] {
        let _ = writeln!(out, "  classDef {class} stroke:{}", state.colour());
    }
    for state in State::ALL {
        let of_state = links.iter().enumerate().filter(|(_, it)| it.state == state);
        let numbers: Vec<String> = of_state.map(|(number, _)| number.to_string()).collect();
        if !numbers.is_empty() {
            let pattern = match state {
                State::Up => "",
                State::Degraded => ",stroke-dasharray:9 6",
                State::Down => ",stroke-dasharray:2 6",
                State::Unknown => ",stroke-dasharray:9 5 1 5",
            };
            let _ = writeln!(
                out,
                "  linkStyle {} stroke:{},stroke-width:2px{pattern}",
                numbers.join(","),
                state.colour()
            );
        }
    }
    out
}

/// A string in which Mermaid finds neither Markdown nor HTML.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in plain(text).chars() {
        match letter {
            '#' | '&' | '<' | '>' | '"' | '`' | '*' | '\\' | '|' | ';' => {
                let _ = write!(out, "#{};", u32::from(letter));
            }
            other => out.push(other),
        }
    }
    out + "\""
}

fn plain(text: &str) -> String {
    let kept = text.chars();
    kept.map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}
