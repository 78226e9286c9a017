//! A drawing that needs no other program: states are told by colour and by shape both, and it has a dark look
//! for who prefers one.

use super::layout::{Layout, Rect, layout};
use super::{Gateway, Health, Link, Picture};
use crate::state::State;
use std::fmt::Write;

/// A drawing of more lines than that says nothing more.
const MOST: usize = 5_000;
/// With more lines than that, those that are up step back, and further with more than that.
const MANY: usize = 40;
const VERY_MANY: usize = 400;

/// For the title above and the legend below.
const MARGIN: f64 = 74.0;
const LEAST_WIDTH: f64 = 680.0;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}
.paper{fill:#fff}.card{fill:#f3f5f7;stroke:#d0d7de}.foreign{stroke-dasharray:5 4}
.chip{fill:#fff;stroke:#8c959f}.site{font-weight:600;stroke:#f3f5f7;stroke-width:4;paint-order:stroke;stroke-linejoin:round}.title{font-size:16px;font-weight:600}
.small{font-size:12px}.note{fill:#656d76}.halo{stroke:#fff;stroke-width:4;paint-order:stroke;stroke-linejoin:round}
.link{fill:none;stroke-linecap:round}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.paper{fill:#0d1117}.card{fill:#161b22;stroke:#30363d}
.site{stroke:#161b22}.chip{fill:#0d1117;stroke:#6e7681}.note{fill:#8d96a0}.halo{stroke:#0d1117}}
";

/// The picture as SVG.
pub(crate) fn svg(picture: &Picture) -> String {
    let Layout {
        cards,
        width,
        height,
    } = layout(picture, LEAST_WIDTH, MARGIN);
    let (links, left_out) = picture.shown(MOST);
    let place = |(site, gateway): (usize, usize)| cards.get(site)?.chips.get(gateway).copied();
    let centre = (width / 2.0, height / 2.0);
    let number = links.len();
    // Where hardly anything is up, signs would hide each other.
    let crowd = links.iter().filter(|it| it.state != State::Up).count() > VERY_MANY;
    let lines = links.iter().filter_map(|link| {
        let [a, b] = link.ends;
        Some((link, Line::between(place(a)?, place(b)?, centre)))
    });
    let lines: Vec<(&Link, Line)> = lines.collect();

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" role=\"img\">\n<title>Routemesh, {}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"100%\" height=\"100%\" rx=\"12\"/>\n",
        escaped(&picture.title)
    );
    for (card, site) in cards.iter().zip(&picture.sites) {
        let class = if site.foreign { "card foreign" } else { "card" };
        out += &rect(card.frame, 10.0, class, "");
        out.push('\n');
    }
    for (link, line) in &lines {
        out += &stroke(link, line, number, crowd);
    }
    for (card, site) in cards.iter().zip(&picture.sites) {
        for (chip, gateway) in card.chips.iter().zip(&site.gateways) {
            out += &self::chip(*chip, gateway);
        }
        let (x, y) = (card.frame.x + 10.0, card.frame.y + 18.0);
        out += &text((x, y), "site", "start", &site.title());
    }
    for (link, line) in lines.iter().filter(|_| !crowd) {
        out += &marks(link, line, number <= MANY);
    }
    out += &text((24.0, 34.0), "title", "start", &picture.title);
    if left_out > 0 {
        let note = format!("{left_out} lines that are up are not drawn");
        out += &text((24.0, 54.0), "small note", "start", &note);
    }
    out += &legend(height - 26.0);
    out + "</svg>\n"
}

/// From gateway to gateway, bent towards the middle so that it passes no other gateway.
struct Line {
    from: (f64, f64),
    bend: (f64, f64),
    to: (f64, f64),
}

impl Line {
    fn between(a: Rect, b: Rect, centre: (f64, f64)) -> Self {
        let (from, to) = (a.centre(), b.centre());
        let middle = ((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0);
        let pull = |middle: f64, centre: f64| centre + (middle - centre) * 0.45;
        Self {
            from,
            bend: (pull(middle.0, centre.0), pull(middle.1, centre.1)),
            to,
        }
    }

    fn middle(&self) -> (f64, f64) {
        let of = |from: f64, bend: f64, to: f64| (from + 2.0 * bend + to) / 4.0;
        (
            of(self.from.0, self.bend.0, self.to.0),
            of(self.from.1, self.bend.1, self.to.1),
        )
    }
}

/// The pattern of a line.
fn dashes(state: State) -> &'static str {
    match state {
        State::Up => "",
        State::Degraded => " stroke-dasharray=\"9 6\"",
        State::Down => " stroke-dasharray=\"1 7\"",
        State::Unknown => " stroke-dasharray=\"9 5 1 5\"",
    }
}

fn stroke(link: &Link, line: &Line, number: usize, crowd: bool) -> String {
    let Line { from, bend, to } = line;
    let (width, faint) = match link.state {
        State::Up if number > VERY_MANY => (1.0, " stroke-opacity=\"0.14\""),
        State::Up if number > MANY => (1.2, " stroke-opacity=\"0.4\""),
        State::Up => (2.0, ""),
        _ if crowd => (1.2, " stroke-opacity=\"0.4\""),
        State::Down => (3.0, ""),
        _ => (2.5, ""),
    };
    format!(
        "<path class=\"link\" d=\"M{:.1} {:.1}Q{:.1} {:.1} {:.1} {:.1}\" stroke=\"{}\" stroke-width=\"{width}\"{}{faint}>\
         <title>{}</title></path>\n",
        from.0,
        from.1,
        bend.0,
        bend.1,
        to.0,
        to.1,
        link.state.colour(),
        dashes(link.state),
        escaped(&link.words())
    )
}

/// A sign of the line's state at its middle, and what is to be said of it.
fn marks(link: &Link, line: &Line, few: bool) -> String {
    let (x, y) = line.middle();
    let label = link.label().filter(|_| few || link.state != State::Up);
    let sign = sign(link.state, (x, y));
    match label {
        Some(label) => sign + &text((x, y + 22.0), "small halo", "middle", &label),
        None => sign,
    }
}

/// Triangle, cross and question mark.
fn sign(state: State, (x, y): (f64, f64)) -> String {
    let colour = state.colour();
    let inside = match state {
        State::Up => return String::new(),
        State::Degraded => "M0 -8L8 6H-8Z",
        State::Down => "M-5 -5L5 5M5 -5L-5 5",
        State::Unknown => "M-3.5 -3A3.5 3.5 0 1 1 0 1V2.5M0 6V6.2",
    };
    let around = match state {
        State::Degraded => "",
        _ => "<circle class=\"paper\" r=\"9\"/>",
    };
    let fill = if state == State::Degraded {
        colour
    } else {
        "none"
    };
    format!(
        "<g transform=\"translate({x:.1} {y:.1})\">{around}<path d=\"{inside}\" fill=\"{fill}\" stroke=\"{colour}\" \
         stroke-width=\"2.5\" stroke-linecap=\"round\" stroke-linejoin=\"round\"/></g>\n"
    )
}

fn chip(at: Rect, gateway: &Gateway) -> String {
    let (x, y) = (at.x + 14.0, at.y + at.h / 2.0);
    let dashed = match gateway.drained {
        true => " stroke-dasharray=\"4 3\"",
        false => "",
    };
    format!(
        "<g>{}{}{}<title>{}</title></g>\n",
        rect(at, at.h / 2.0, "chip", dashed),
        health(gateway.health, (x, y)),
        text((x + 12.0, y + 4.5), "", "start", gateway.name).trim_end(),
        escaped(format!("{}: {}", gateway.name, gateway.words).trim_end_matches(": "))
    )
}

/// A disc, a triangle, a cross, a ring.
fn health(health: Health, (x, y): (f64, f64)) -> String {
    match health {
        Health::Well => format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{}\"/>",
            State::Up.colour()
        ),
        Health::Doubtful => format!(
            "<path d=\"M{x:.1} {:.1}l6 11h-12z\" fill=\"{}\"/>",
            y - 6.0,
            State::Degraded.colour()
        ),
        Health::Ill => format!(
            "<path d=\"M{:.1} {:.1}l9 9m0 -9l-9 9\" stroke=\"{}\" stroke-width=\"2.5\" stroke-linecap=\"round\"/>",
            x - 4.5,
            y - 4.5,
            State::Down.colour()
        ),
        Health::NotAsked => format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>",
            State::Unknown.colour()
        ),
    }
}

/// The states of tunnels, then those of gateways.
fn legend(y: f64) -> String {
    let mut out = String::new();
    let mut x = 24.0;
    for state in State::ALL {
        let _ = writeln!(
            out,
            "<path class=\"link\" d=\"M{x:.1} {y:.1}h44\" stroke=\"{}\" stroke-width=\"2.5\"{}/>",
            state.colour(),
            dashes(state)
        );
        out += &sign(state, (x + 22.0, y));
        out += &text((x + 52.0, y + 4.0), "small", "start", state.name());
        x += 66.0 + state.name().len() as f64 * 7.0;
    }
    x += 16.0;
    let healths = [
        (Health::Well, "well"),
        (Health::Doubtful, "in doubt"),
        (Health::Ill, "problem"),
    ];
    for (health, name) in healths {
        out += &self::health(health, (x, y));
        out += &text((x + 12.0, y + 4.0), "small", "start", name);
        x += 30.0 + name.len() as f64 * 7.0;
    }
    out
}

fn rect(at: Rect, round: f64, class: &str, more: &str) -> String {
    let Rect { x, y, w, h } = at;
    format!(
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"{round:.0}\"{more}/>"
    )
}

fn text((x, y): (f64, f64), class: &str, anchor: &str, words: &str) -> String {
    format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{}</text>\n",
        escaped(words)
    )
}

/// As XML 1.0 has it; what it cannot have at all is left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\u{fffe}' | '\u{ffff}' => {}
            control if control.is_control() => out.push(' '),
            other => out.push(other),
        }
    }
    out
}
