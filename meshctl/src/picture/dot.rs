//! Graphviz's language: `meshctl topology -o dot | fdp -Tpdf`.

use super::{Health, Picture};
use crate::state::State;
use std::fmt::Write;

/// The picture for graphviz, whose `fdp` keeps sites together; `dot` takes it too.
pub(crate) fn dot(picture: &Picture) -> String {
    let mut out = format!(
        "graph mesh {{\n  layout=fdp; overlap=false; splines=true; fontname=\"sans-serif\"; label={};\n  \
         node [shape=box, style=rounded, fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10];\n",
        quoted(&picture.title)
    );
    for (number, site) in picture.sites.iter().enumerate() {
        let style = if site.foreign { "dashed" } else { "rounded" };
        let name = quoted(&site.title());
        let _ = writeln!(
            out,
            "  subgraph cluster_{number} {{ label={name}; style={style};"
        );
        for (gateway, it) in site.gateways.iter().enumerate() {
            let (colour, sign) = match it.health {
                Health::Well => (State::Up, ""),
                Health::Doubtful => (State::Degraded, "△ "),
                Health::Ill => (State::Down, "✕ "),
                Health::NotAsked => (State::Unknown, ""),
            };
            let style = if it.drained {
                "rounded,dashed"
            } else {
                "rounded"
            };
            let _ = writeln!(
                out,
                "    g{number}_{gateway} [label={}, color=\"{}\", style=\"{style}\", tooltip={}];",
                quoted(&format!("{sign}{}", it.name)),
                colour.colour(),
                quoted(&it.words)
            );
        }
        out += "  }\n";
    }
    for link in &picture.links {
        let [(a, x), (b, y)] = link.ends;
        let (style, sign) = match link.state {
            State::Up => ("solid", ""),
            State::Degraded => ("dashed", "△ "),
            State::Down => ("dotted", "✕ "),
            State::Unknown => ("dashed", "? "),
        };
        let label = format!("{sign}{}", link.label().unwrap_or_default());
        let _ = writeln!(
            out,
            "  g{a}_{x} -- g{b}_{y} [label={}, style={style}, color=\"{}\", tooltip={}];",
            quoted(label.trim_end()),
            link.state.colour(),
            quoted(&link.words())
        );
    }
    out + "}\n"
}

/// A string in which graphviz finds no escapes of its own.
fn quoted(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
