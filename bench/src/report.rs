//! Figures of many rounds: medians, ratios, goals, as tables for people and lines for programs.

use crate::prefix::Family;
use crate::subject::Subject;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

/// What is measured of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// First UPDATE sent until the kernel holds all ECMP routes, in seconds.
    Install,
    /// A peer's connection reset until the last packet left on its path, in seconds. Of the kernel
    /// alone: the group that all routes share is replaced by one with a member less.
    Lose,
    /// Of the kernel alone: a nexthop is deleted, and with it a member of the group, in seconds.
    Delete,
    /// First withdrawal sent until the kernel holds no route, in seconds.
    Withdraw,
    /// Resident memory with all paths of both peers, in octets.
    Memory,
    /// A peer falls silent, until the last packet left on its path, in seconds; with BFD of so many
    /// milliseconds between packets.
    Silent(u32),
    /// It goes on, until packets go to it again, in seconds.
    Returned(u32),
    /// With nothing to do but BFD: share of a processor.
    IdleProcessor(u32),
    /// With nothing to do but BFD: resident memory, in octets.
    IdleMemory(u32),
    /// What of that is the process's own, and no page of its program or of a library.
    IdleAnonymous(u32),
    /// The same with so many peers, and with BFD of 300 ms or none.
    ManyProcessor(u32, bool),
    /// See there.
    ManyMemory(u32, bool),
    /// The longest of the agent's passes meanwhile, in seconds.
    Pass(u32),
}

impl Figure {
    /// What is measured of a subject.
    pub fn of(subject: Subject) -> Vec<Self> {
        match subject {
            Subject::Raw => vec![Self::Install, Self::Withdraw, Self::Lose, Self::Delete],
            _ => vec![Self::Install, Self::Memory, Self::Withdraw, Self::Lose],
        }
    }

    fn name(self) -> String {
        let name = match self {
            Self::Install => "install",
            Self::Lose => "lose a peer",
            Self::Delete => "delete a nexthop",
            Self::Withdraw => "withdraw",
            Self::Memory => "memory",
            Self::Silent(interval) => return format!("silent peer, BFD {interval} ms x 3"),
            Self::Returned(interval) => return format!("it returns, BFD {interval} ms x 3"),
            Self::IdleProcessor(interval) => return format!("idle, BFD {interval} ms: processor"),
            Self::IdleMemory(interval) => return format!("idle, BFD {interval} ms: memory"),
            Self::IdleAnonymous(interval) => {
                return format!("idle, BFD {interval} ms: memory of its own");
            }
            Self::ManyProcessor(peers, true) => return format!("{peers} idle peers: processor"),
            Self::ManyProcessor(peers, false) => {
                return format!("{peers} idle peers, no BFD: processor");
            }
            Self::ManyMemory(peers, true) => return format!("{peers} idle peers: memory"),
            Self::ManyMemory(peers, false) => return format!("{peers} idle peers, no BFD: memory"),
            Self::Pass(peers) => return format!("{peers} idle peers: longest pass"),
        };
        name.to_owned()
    }

    /// A value of this kind as people read it.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Memory | Self::IdleMemory(_) | Self::IdleAnonymous(_) | Self::ManyMemory(..) => {
                format!("{:.1} MB", value / 1e6)
            }
            Self::IdleProcessor(_) | Self::ManyProcessor(..) => format!("{:.2} %", value * 1e2),
            _ if value < 0.01 => format!("{:.2} ms", value * 1e3),
            _ if value < 1.0 => format!("{:.0} ms", value * 1e3),
            _ => format!("{value:.2} s"),
        }
    }
}

/// One cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// What.
    pub figure: Figure,
    /// Of which family.
    pub family: Family,
    /// Of how many prefixes.
    pub count: u32,
    /// Of whom.
    pub subject: Subject,
}

/// All samples of a run; a step that did not come to its end is a sample without a value.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<Key, Vec<Option<f64>>>);

/// A median, or the reason that there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Median {
    /// Nobody measured it.
    Unknown,
    /// Most rounds came to no end.
    Failed,
    /// The value in the middle; a round that failed counts as infinitely long.
    Value(f64),
}

/// The value in the middle, the lower one of two.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

impl Samples {
    /// Adds one.
    pub fn add(&mut self, key: Key, value: Option<f64>) {
        self.0.entry(key).or_default().push(value);
    }

    /// The median of a cell.
    pub fn median(&self, key: Key) -> Median {
        let Some(samples) = self.0.get(&key) else {
            return Median::Unknown;
        };
        let values: Vec<f64> = samples.iter().map(|v| v.unwrap_or(f64::INFINITY)).collect();
        match median(&values) {
            None => Median::Unknown,
            Some(value) if value.is_infinite() => Median::Failed,
            Some(value) => Median::Value(value),
        }
    }

    /// Of how many rounds the medians are: "5 rounds with 1,000 prefixes, 2 with 1,000,000".
    pub fn rounds(&self) -> String {
        let mut fewest: BTreeMap<u32, usize> = BTreeMap::new();
        for (key, samples) in &self.0 {
            let rounds = fewest.entry(key.count).or_insert(samples.len());
            *rounds = samples.len().min(*rounds);
        }
        let texts = fewest.iter().enumerate().map(|(at, (count, rounds))| {
            let (count, word) = (thousands(*count), if at == 0 { " rounds" } else { "" });
            let prefixes = if at == 0 { " prefixes" } else { "" };
            format!("{rounds}{word} with {count}{prefixes}")
        });
        texts.collect::<Vec<_>>().join(", ")
    }

    /// Every sample, a line for a cell: figure, family, prefixes, subject, median, then all rounds.
    pub fn lines(&self) -> String {
        let mut lines = String::from("figure\tfamily\tprefixes\tsubject\tmedian\trounds\n");
        for (key, samples) in &self.0 {
            let Key {
                figure,
                family,
                count,
                subject,
            } = key;
            let median = match self.median(*key) {
                Median::Value(value) => plain(Some(value)),
                _ => plain(None),
            };
            let rounds: Vec<String> = samples.iter().copied().map(plain).collect();
            let rounds = rounds.join(" ");
            let figure = figure.name();
            let _ = writeln!(
                lines,
                "{figure}\t{family}\t{count}\t{subject}\t{median}\t{rounds}"
            );
        }
        lines
    }

    /// The table that people read.
    pub fn table(&self) -> String {
        let mut table = String::from(
            "| figure | prefixes | Routemesh | BIRD 2 | FRR | kernel alone | of BIRD | of the kernel | goal |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        let rows: BTreeSet<(Figure, Family, u32)> = self
            .0
            .keys()
            .map(|key| (key.figure, key.family, key.count))
            .collect();
        for (figure, family, count) in rows {
            let cell = |subject| {
                self.median(Key {
                    figure,
                    family,
                    count,
                    subject,
                })
            };
            let subjects = [
                Subject::Routemesh,
                Subject::Bird,
                Subject::Frr,
                Subject::Raw,
            ];
            let texts = subjects.map(|subject| match cell(subject) {
                Median::Unknown => String::new(),
                Median::Failed => "timeout".into(),
                Median::Value(value) => figure.text(value),
            });
            let ratio = |of: Subject| match (cell(Subject::Routemesh), cell(of)) {
                (Median::Value(own), Median::Value(other)) if other > 0.0 => Some(own / other),
                _ => None,
            };
            let (bird, kernel) = (ratio(Subject::Bird), ratio(Subject::Raw));
            let show = |ratio: Option<f64>| ratio.map_or(String::new(), |r| format!("{r:.3}"));
            let _ = writeln!(
                table,
                "| {} | {} {family} | {} | {} | {} | {} |",
                figure.name(),
                thousands(count),
                texts.join(" | "),
                show(bird),
                show(kernel),
                self.goals(figure, family, count, bird, kernel).join("; "),
            );
        }
        table
    }

    /// What was aimed at in a row, and whether it was hit.
    fn goals(
        &self,
        figure: Figure,
        family: Family,
        count: u32,
        bird: Option<f64>,
        kernel: Option<f64>,
    ) -> Vec<String> {
        let goal = |name: &str, limit: f64, found: Option<f64>| {
            let found = found?;
            let word = if found <= limit { "met" } else { "**missed**" };
            Some(format!("{name} ≤ {limit}: {word}"))
        };
        let own = |count| {
            let subject = Subject::Routemesh;
            match self.median(Key {
                figure,
                family,
                count,
                subject,
            }) {
                Median::Value(value) => Some(value),
                _ => None,
            }
        };
        let goals = match (figure, family) {
            (Figure::Install, _) => vec![goal("BIRD", 0.35, bird), goal("kernel", 1.3, kernel)],
            (Figure::Lose, Family::Ipv4) if count == 100_000 => vec![goal("BIRD", 0.02, bird)],
            (Figure::Lose, Family::Ipv4) if count == 1_000_000 => {
                let ratio = own(1_000).and_then(|small| Some(own(count)? / small));
                vec![goal("at 1,000", 2.0, ratio)]
            }
            (Figure::Lose, Family::Ipv4) | (Figure::Delete, _) => vec![],
            (Figure::Lose, Family::Ipv6) => vec![goal("kernel", 1.3, kernel)],
            (Figure::Withdraw, _) => vec![goal("BIRD", 0.5, bird)],
            (Figure::Memory, _) if count == 100_000 => vec![goal("BIRD", 1.0, bird)],
            (Figure::Memory, _) => vec![],
            (Figure::Silent(_), _) if count > 1 => {
                let growth = own(1).and_then(|one| Some((own(count)? - one) * 1e3));
                vec![goal("ms more than with 1", 10.0, growth)]
            }
            (Figure::ManyProcessor(..), _) => vec![goal("share", 0.01, own(count))],
            (Figure::ManyMemory(..), _) => vec![goal("bytes", 64e6, own(count))],
            (Figure::Pass(_), _) => vec![goal("seconds", 0.25, own(count))],
            (Figure::Returned(_), _) => vec![goal("2 s and 1 s of hold-up", 3.0, own(count))],
            (Figure::Silent(50), _) => vec![goal("seconds", 0.2, own(1))],
            (
                Figure::Silent(_)
                | Figure::IdleProcessor(_)
                | Figure::IdleMemory(_)
                | Figure::IdleAnonymous(_),
                _,
            ) => vec![goal("BIRD", 1.0, bird)],
        };
        goals.into_iter().flatten().collect()
    }
}

fn plain(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| match value >= 1000.0 {
        true => format!("{value:.0}"),
        false => format!("{value:.6}"),
    })
}

/// 1000000 as 1,000,000.
pub fn thousands(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_value_in_the_middle_and_failures_are_the_longest() {
        let key = Key {
            figure: Figure::Install,
            family: Family::Ipv4,
            count: 1_000,
            subject: Subject::Bird,
        };
        let mut samples = Samples::default();
        assert_eq!(samples.median(key), Median::Unknown);
        for value in [None, Some(3.0), Some(1.0)] {
            samples.add(key, value);
        }
        assert_eq!(samples.median(key), Median::Value(3.0));
        samples.add(key, None);
        samples.add(key, None);
        assert_eq!(samples.median(key), Median::Failed);
        samples.add(Key { count: 9, ..key }, None);
        assert_eq!(samples.rounds(), "1 rounds with 9 prefixes, 5 with 1,000");
    }

    #[test]
    fn a_row_says_whether_its_goals_are_met() {
        let mut samples = Samples::default();
        for (subject, value) in [
            (Subject::Routemesh, 0.4),
            (Subject::Bird, 1.6),
            (Subject::Raw, 0.25),
        ] {
            let (figure, family, count) = (Figure::Install, Family::Ipv6, 100_000);
            samples.add(
                Key {
                    figure,
                    family,
                    count,
                    subject,
                },
                Some(value),
            );
        }
        let table = samples.table();
        let row = "| install | 100,000 IPv6 | 400 ms | 1.60 s |  | 250 ms | 0.250 | 1.600 | \
                   BIRD ≤ 0.35: met; kernel ≤ 1.3: **missed** |";
        assert!(table.contains(row), "{table}");
    }
}
