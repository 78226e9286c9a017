//! The figures of the control plane: kept as lines, shown as a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// All configs of the mesh, rendered and encoded, one after the other.
    Render,
    /// From a mesh of which no agent has anything until all have their configs.
    Start,
    /// One gateway joins a site, until all others have the change.
    Join,
    /// Processor time of the controller for that.
    JoinWork,
    /// One joins with a site of its own.
    JoinSite,
    /// One leaves.
    Leave,
    /// With all connected and all having reported.
    Memory,
    /// From the controller's end until all are back and current.
    Restart,
    /// Of a processor, for 1,000 reports a second.
    Reports,
    /// What `meshctl topology` asks for first.
    Topology,
    /// As it travels.
    TopologySize,
    /// What `meshctl get gateways` asks for.
    Gateways,
    /// What one gateway more would change.
    Plan,
}

/// The order of the table, and of the words in it.
const ALL: [(Figure, &str, &str, Option<f64>); 13] = [
    (
        Figure::Render,
        "render all configs from nothing",
        "s",
        Some(3.0),
    ),
    (
        Figure::Start,
        "all agents come, until all have their configs",
        "s",
        None,
    ),
    (
        Figure::Join,
        "one gateway joins, until all others have the change",
        "s",
        Some(2.0),
    ),
    (
        Figure::JoinWork,
        "the controller's processor time for it",
        "s",
        None,
    ),
    (Figure::JoinSite, "one joins with a new site", "s", None),
    (Figure::Leave, "one leaves", "s", None),
    (
        Figure::Memory,
        "resident memory, all connected and reported",
        "MB",
        Some(512.0),
    ),
    (
        Figure::Restart,
        "controller killed and started, until all are back and current",
        "s",
        Some(30.0),
    ),
    (
        Figure::Reports,
        "1,000 reports a second",
        "% of a processor",
        Some(50.0),
    ),
    (
        Figure::Topology,
        "the topology, as far as it is listed",
        "s",
        None,
    ),
    (Figure::TopologySize, "its size", "MB", None),
    (Figure::Gateways, "the list of gateways", "s", None),
    (Figure::Plan, "a plan of one gateway more", "s", None),
];
/// Goals are for this many gateways.
const LARGEST: usize = 2_000;

impl Figure {
    fn entry(self) -> (&'static str, &'static str, Option<f64>) {
        let entry = ALL.iter().find(|it| it.0 == self);
        entry.map_or(("", "", None), |it| (it.1, it.2, it.3))
    }

    /// A value in its unit.
    pub fn text(self, value: f64) -> String {
        match self.entry().1 {
            "s" if value < 1.0 => format!("{:.0} ms", value * 1000.0),
            "s" => format!("{value:.2} s"),
            "MB" if value < 10.0 => format!("{value:.1} MB"),
            "MB" => format!("{value:.0} MB"),
            _ => format!("{value:.1} %"),
        }
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.entry().0)
    }
}

/// By figure and number of gateways.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<(Figure, usize), f64>);

impl Figures {
    /// Those of lines that [`Figures::lines`] wrote: a run may measure a part.
    pub fn read(text: &str) -> Self {
        let read = |line: &str| {
            let mut fields = line.split('\t');
            let (name, gateways, value) = (fields.next()?, fields.next()?, fields.next()?);
            let figure = ALL.iter().find(|it| it.1 == name)?.0;
            Some(((figure, gateways.parse().ok()?), value.parse().ok()?))
        };
        Self(text.lines().filter_map(read).collect())
    }

    /// One figure a line.
    pub fn lines(&self) -> String {
        let lines = self.0.iter();
        lines
            .map(|((figure, gateways), value)| format!("{figure}\t{gateways}\t{value:.4}\n"))
            .collect()
    }

    /// Notes one; an earlier one is forgotten.
    pub fn set(&mut self, figure: Figure, gateways: usize, value: f64) {
        self.0.insert((figure, gateways), value);
    }

    /// One by the number of gateways.
    pub fn of(&self, figure: Figure) -> Vec<(usize, f64)> {
        let all = self.0.iter().filter(|((it, _), _)| *it == figure);
        all.map(|((_, gateways), value)| (*gateways, *value))
            .collect()
    }

    /// The table.
    pub fn table(&self) -> String {
        let sizes: BTreeSet<usize> = self.0.keys().map(|(_, gateways)| *gateways).collect();
        let mut text = "| figure |".to_owned();
        for size in &sizes {
            let _ = write!(text, " {size} |");
        }
        text += " goal at 2000 |\n|---|";
        text += &"---|".repeat(sizes.len() + 1);
        text.push('\n');
        for (figure, name, _, goal) in ALL {
            let value = |size: usize| self.0.get(&(figure, size));
            if sizes.iter().all(|size| value(*size).is_none()) {
                continue;
            }
            let _ = write!(text, "| {name} |");
            for size in &sizes {
                let shown = value(*size).map_or(String::new(), |it| figure.text(*it));
                let _ = write!(text, " {shown} |");
            }
            let verdict = match (goal, value(LARGEST)) {
                (Some(goal), Some(value)) if *value <= goal => {
                    format!("≤ {}: met", figure.text(goal))
                }
                (Some(goal), Some(_)) => format!("≤ {}: **missed**", figure.text(goal)),
                _ => String::new(),
            };
            let _ = writeln!(text, " {verdict} |");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_two_runs_stand_in_one_table() {
        let mut first = Figures::default();
        first.set(Figure::Join, 250, 0.1);
        let mut second = Figures::read(&first.lines());
        second.set(Figure::Join, 2_000, 2.5);
        second.set(Figure::Memory, 2_000, 300.0);
        let table = second.table();
        assert!(
            table.contains("| 100 ms | 2.50 s | ≤ 2.00 s: **missed** |"),
            "{table}"
        );
        assert!(table.contains("|  | 300 MB | ≤ 512 MB: met |"), "{table}");
    }
}
