//! The mesh as a picture: sites with their gateways, and a line between two gateways for all the tunnels that
//! they have with each other. Pure: a topology in, a text in some language of drawings out.

mod dot;
mod layout;
mod mermaid;
mod svg;

pub(crate) use dot::dot;
pub(crate) use mermaid::mermaid;
pub(crate) use svg::svg;

use crate::state::State;
use routemesh_proto::{Edge, End, Topology};
use std::collections::BTreeMap;

/// What a picture shows, whatever draws it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Picture<'t> {
    sites: Vec<Site<'t>>,
    /// Those that are not up come last, so that they are drawn over the others.
    links: Vec<Link<'t>>,
    /// "generation 4: 14 of 15 tunnels up".
    title: String,
}

/// A site, or a foreign peer.
#[derive(Debug, PartialEq, Eq)]
struct Site<'t> {
    name: &'t str,
    foreign: bool,
    gateways: Vec<Gateway<'t>>,
}

impl Site<'_> {
    fn title(&self) -> String {
        match self.foreign {
            true => format!("{} (foreign)", self.name),
            false => self.name.to_owned(),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Gateway<'t> {
    name: &'t str,
    health: Health,
    /// For people: its verdict, why, and whether it is drained.
    words: String,
    drained: bool,
}

/// Of a gateway. Nothing is known of a foreign peer, or of one that was not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Well,
    Doubtful,
    Ill,
    NotAsked,
}

/// All tunnels between two gateways, by their places in `sites` and there.
#[derive(Debug, PartialEq, Eq)]
struct Link<'t> {
    ends: [(usize, usize); 2],
    names: [&'t str; 2],
    up: usize,
    all: usize,
    state: State,
    drained: bool,
    /// The first reason of a tunnel that is not up.
    reason: &'t str,
}

impl Link<'_> {
    /// What stands beside the line: nothing, where one tunnel is up.
    fn label(&self) -> Option<String> {
        let count = (self.all > 1).then(|| format!("{} of {} up", self.up, self.all));
        let drained = self.drained.then(|| "drained".to_owned());
        let words: Vec<String> = count.into_iter().chain(drained).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// All that is known of it, in a line.
    fn words(&self) -> String {
        let [a, b] = self.names;
        let what = self.label().unwrap_or_default();
        let parts = [format!("{a} – {b}: {}", self.state.name()), what];
        let mut words = parts.join(", ");
        words.truncate(words.trim_end_matches(", ").len());
        match self.reason {
            "" => words,
            reason => format!("{words} ({reason})"),
        }
    }
}

/// Where gateways are, by name.
type Places<'t> = BTreeMap<&'t str, (usize, usize)>;

impl<'t> Picture<'t> {
    pub(crate) fn of(topology: &'t Topology) -> Self {
        let mut sites = Vec::new();
        let mut places = Places::new();
        for view in &topology.gateways {
            let words = [&view.verdict, &view.drain, &view.reason, &view.drain_reason];
            let words = words.into_iter().filter(|it| !it.is_empty());
            let gateway = Gateway {
                name: &view.name,
                health: match view.verdict.as_str() {
                    "ok" => Health::Well,
                    "problem" => Health::Ill,
                    _ => Health::Doubtful,
                },
                words: words.map(String::as_str).collect::<Vec<_>>().join(", "),
                drained: !view.drain.is_empty(),
            };
            put(&mut sites, &mut places, (&view.site, false), gateway);
        }
        let mut links: BTreeMap<[(usize, usize); 2], Link<'t>> = BTreeMap::new();
        for edge in &topology.edges {
            let (Some(a), Some(b)) = (&edge.a, &edge.b) else {
                continue;
            };
            let ends = [
                place(&mut sites, &mut places, edge, a),
                place(&mut sites, &mut places, edge, b),
            ];
            let (ends, names) = match ends {
                [x, y] if x <= y => ([x, y], [a, b]),
                [x, y] => ([y, x], [b, a]),
            };
            let state = State::of(&edge.verdict);
            let link = links.entry(ends).or_insert_with(|| Link {
                ends,
                names: names.map(|end| end.gateway.as_str()),
                up: 0,
                all: 0,
                state,
                drained: false,
                reason: "",
            });
            link.up += usize::from(state == State::Up);
            link.all += 1;
            link.state = link.state.and(state);
            link.drained |= !edge.drain.is_empty();
            if link.reason.is_empty() {
                link.reason = &edge.reason;
            }
        }
        let mut links: Vec<Link> = links.into_values().collect();
        links.sort_by_key(|it| it.state);
        Self {
            sites,
            links,
            title: crate::table::sum(topology),
        }
    }

    /// As many as can be shown, those that are not up first; and how many are left out.
    fn shown(&self, most: usize) -> (&[Link<'t>], usize) {
        let left_out = self.links.len().saturating_sub(most);
        (self.links.get(left_out..).unwrap_or_default(), left_out)
    }
}

/// A gateway that is known only from a tunnel's end: a foreign peer, or one that was not asked for.
fn place<'t>(
    sites: &mut Vec<Site<'t>>,
    places: &mut Places<'t>,
    edge: &Edge,
    end: &'t End,
) -> (usize, usize) {
    if let Some(place) = places.get(end.gateway.as_str()) {
        return *place;
    }
    // A tunnel between gateways of ours has a kind.
    let foreign = edge.kind.is_empty() && end.site == end.gateway;
    let gateway = Gateway {
        name: &end.gateway,
        health: Health::NotAsked,
        words: match foreign {
            true => "foreign peer".to_owned(),
            false => String::new(),
        },
        drained: false,
    };
    put(sites, places, (&end.site, foreign), gateway)
}

fn put<'t>(
    sites: &mut Vec<Site<'t>>,
    places: &mut Places<'t>,
    (name, foreign): (&'t str, bool),
    gateway: Gateway<'t>,
) -> (usize, usize) {
    let known = sites
        .iter()
        .position(|it| it.name == name && it.foreign == foreign);
    let at = known.unwrap_or(sites.len());
    if known.is_none() {
        sites.push(Site {
            name,
            foreign,
            gateways: Vec::new(),
        });
    }
    let mut place = (at, 0);
    if let Some(site) = sites.get_mut(at) {
        place.1 = site.gateways.len();
        places.insert(gateway.name, place);
        site.gateways.push(gateway);
    }
    place
}

#[cfg(test)]
mod tests;
