//! The terms of a router's import and export: how they are written.

use super::keys;
use super::place::quote;
use super::reader::{Reader, Table, Value};
use super::values;
use routemesh_proto::{Community, PrefixRange, Term};

/// As many as an agent takes, less the one with which a standby makes its MED worse.
pub(super) const MOST_TERMS: usize = 63;
/// Values of one condition or change.
const MOST_VALUES: usize = 1024;

/// Which way the paths go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Import,
    Export,
}

impl Direction {
    fn key(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Export => "export",
        }
    }
}

/// What a term that rejects has no use for.
const CHANGES: [&str; 8] = [
    "set_preference",
    "set_med",
    "add_med",
    "set_communities",
    "remove_communities",
    "add_communities",
    "set_weight",
    "prepend",
];

impl<'t> Reader<'t> {
    pub(super) fn terms(&mut self, router: &Table<'_, 't>, direction: Direction) -> Vec<Term> {
        let key = direction.key();
        let Some(value) = router.get(key) else {
            return Vec::new();
        };
        let cure = "leave it out to let everything pass that the mesh allows";
        let written = self.array(key, value, MOST_TERMS, Some(cure));
        let terms = written.into_iter();
        terms
            .filter_map(|value| self.term(value, direction))
            .collect()
    }

    fn term(&mut self, value: &Value<'t>, direction: Direction) -> Option<Term> {
        let place = self.lines.place(value.span().start);
        let what = format!("a term of {}", direction.key());
        let table = self.table(what, place, value.get_ref(), keys::TERM)?;
        let family = table.get("family");
        let family = family.and_then(|value| self.text("family", value, values::family));
        let clear = table.get("set_communities").is_some();
        let mut add = self.texts(&table, "set_communities", community);
        add.extend(self.texts(&table, "add_communities", community));
        let term = Term {
            prefixes: self.texts(&table, "prefixes", range),
            family: family.map_or(String::new(), |it| it.to_string().to_lowercase()),
            communities: self.texts(&table, "communities", community),
            origin_as: self.ases(&table, "origin_as"),
            through_as: self.ases(&table, "through_as"),
            neighbour_as: self.ases(&table, "neighbour_as"),
            longest_path: self.within(&table, "longest_path", 0, u32::MAX),
            set_preference: self.within(&table, "set_preference", 0, u32::MAX),
            set_med: self.within(&table, "set_med", 0, u32::MAX),
            add_med: self.within(&table, "add_med", 0, u32::MAX),
            clear_communities: clear,
            remove_communities: self.texts(&table, "remove_communities", community),
            add_communities: add,
            set_weight: self
                .within(&table, "set_weight", 1, 256)
                .unwrap_or_default(),
            prepend: self.within(&table, "prepend", 1, 16).unwrap_or_default(),
            action: self.action(&table)?,
            reason: self.reason(&table),
        };
        self.sensible(&table, &term, direction);
        Some(term)
    }

    fn action(&mut self, table: &Table<'_, 't>) -> Option<String> {
        let cure = "write action = \"accept\", \"reject\", or \"next\" for the next term";
        let value = self.required(table, "action", cure)?;
        let action = self.text("action", value, |text| match text {
            "accept" | "reject" | "next" => Ok(text.to_owned()),
            other => Err(format!("{} is not an action: {cure}", quote(other))),
        });
        action.map(|action| action.value)
    }

    fn reason(&mut self, table: &Table<'_, 't>) -> String {
        let reason = table.get("reason").and_then(|value| {
            self.text("reason", value, |text| {
                let odd = text.is_empty() || text.len() > 128 || text.contains(char::is_control);
                match odd {
                    true => Err("reason is a line of 1 to 128 bytes".to_owned()),
                    false => Ok(text.to_owned()),
                }
            })
        });
        reason.map_or(String::new(), |reason| reason.value)
    }

    /// What cannot have been meant.
    fn sensible(&mut self, table: &Table<'_, 't>, term: &Term, direction: Direction) {
        let changes = CHANGES.into_iter().find(|key| table.get(key).is_some());
        match (term.action.as_str(), changes) {
            ("reject", Some(key)) => {
                let reason = format!("a term that rejects changes nothing: remove {key}");
                self.wrong(table.place, reason);
            }
            ("accept" | "next", _) if !term.reason.is_empty() => {
                let reason = "only a term that rejects has a reason: remove it, or write action = \
                              \"reject\"";
                self.wrong(table.place, reason);
            }
            ("next", None) => {
                let reason = "a term that changes nothing and goes on to the next does nothing: \
                              remove it";
                self.wrong(table.place, reason);
            }
            _ => {}
        }
        if term.set_med.is_some() && term.add_med.is_some() {
            self.wrong(table.place, "set_med and add_med: write one of the two");
        }
        if term.set_weight > 0 && direction == Direction::Export {
            let reason = "set_weight is about traffic that we send: write it in import";
            self.wrong(table.place, reason);
        }
    }

    fn texts(
        &mut self,
        table: &Table<'_, 't>,
        key: &str,
        check: impl Fn(&str) -> Result<String, String>,
    ) -> Vec<String> {
        let Some(value) = table.get(key) else {
            return Vec::new();
        };
        // "Instead of all communities, none" makes sense; "a community of none" does not.
        let cure = (key != "set_communities").then_some("leave it out, or name one");
        let written = self.array(key, value, MOST_VALUES, cure);
        let read = |value| self.text(key, value, &check);
        let read = written.into_iter().filter_map(read);
        read.map(|text| text.value).collect()
    }

    fn ases(&mut self, table: &Table<'_, 't>, key: &str) -> Vec<u32> {
        let Some(value) = table.get(key) else {
            return Vec::new();
        };
        let cure = "leave it out, or name one";
        let written = self.array(key, value, MOST_VALUES, Some(cure));
        let asn = |number: u64| {
            u32::try_from(number)
                .ok()
                .filter(|asn| *asn > 0)
                .ok_or_else(|| format!("{number} is not an AS number"))
        };
        let read = written.into_iter();
        read.filter_map(|value| self.number(key, value, asn))
            .collect()
    }

    fn within(&mut self, table: &Table<'_, 't>, key: &str, least: u32, most: u32) -> Option<u32> {
        self.number(key, table.get(key)?, |number| {
            u32::try_from(number)
                .ok()
                .filter(|number| (least..=most).contains(number))
                .ok_or_else(|| format!("{key} is {number}: {least} to {most}"))
        })
    }
}

fn range(text: &str) -> Result<String, String> {
    let range: Result<PrefixRange, _> = text.parse();
    range
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

fn community(text: &str) -> Result<String, String> {
    let community: Result<Community, _> = text.parse();
    community
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}
