//! A TOML value and what it should be -> the value, or what is wrong with it and where.

use super::keys::Key;
use super::place::{At, Lines, Place, SpecError, quote};
use super::values;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// How the TOML parser says it.
pub(super) const TWICE: &str = "duplicate key";

/// Collects what is wrong, and goes on.
pub(super) struct Reader<'t> {
    pub(super) lines: Lines<'t>,
    pub(super) errors: Vec<SpecError>,
}

/// A table, and what to call it in messages.
pub(super) struct Table<'r, 't> {
    pub(super) what: String,
    pub(super) place: Place,
    pub(super) entries: &'r DeTable<'t>,
}

impl<'r, 't> Table<'r, 't> {
    pub(super) fn get(&self, key: &str) -> Option<&'r Value<'t>> {
        self.entries.get(key)
    }
}

impl<'t> Reader<'t> {
    fn at<T>(&self, span: Range<usize>, value: T) -> At<T> {
        let place = self.lines.place(span.start);
        At { value, place }
    }

    pub(super) fn wrong(&mut self, place: Place, reason: impl Into<String>) {
        let reason = reason.into();
        self.errors.push(SpecError { place, reason });
    }

    pub(super) fn syntax(&mut self, error: &toml::de::Error) {
        let span = error.span().unwrap_or(0..0);
        let place = self.lines.place(span.start);
        let reason = if error.message() == TWICE {
            let key = self.lines.text_at(span).trim_matches(['"', '\'']);
            format!(
                "{} is written twice: give it another name or remove one",
                quote(key)
            )
        } else if self
            .errors
            .last()
            .is_some_and(|last| last.place.line == place.line)
        {
            // One slip makes all that follows on its line wrong.
            return;
        } else {
            format!("not TOML: {}", error.message().replace('\n', ", "))
        };
        self.wrong(place, reason);
    }

    /// The value if its text is one, or the reason why it is not.
    pub(super) fn text<T>(
        &mut self,
        what: &str,
        value: &Value<'t>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        let place = self.lines.place(value.span().start);
        let parsed = match value.get_ref() {
            DeValue::String(text) => parse(text),
            other => Err(format!(
                "{what} is of type {}: write it as a string in quotes",
                other.type_str()
            )),
        };
        match parsed {
            Ok(value) => Some(At { value, place }),
            Err(reason) => {
                self.wrong(place, reason);
                None
            }
        }
    }

    pub(super) fn flag(&mut self, what: &str, value: &Value<'t>) -> Option<bool> {
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => {
                let place = self.lines.place(value.span().start);
                self.wrong(place, format!("{what} is true or false, without quotes"));
                None
            }
        }
    }

    pub(super) fn number<T>(
        &mut self,
        what: &str,
        value: &Value<'t>,
        parse: impl Fn(u64) -> Result<T, String>,
    ) -> Option<T> {
        let parsed = match value.get_ref() {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| format!("{what} cannot be {number}"))
                .and_then(parse),
            other => Err(format!(
                "{what} is of type {}: write a number without quotes",
                other.type_str()
            )),
        };
        parsed
            .map_err(|reason| self.wrong(self.lines.place(value.span().start), reason))
            .ok()
    }

    /// The elements of an array that is not longer than `most`; `cure` says what to do where it
    /// must not be empty.
    pub(super) fn array<'r>(
        &mut self,
        what: &str,
        value: &'r Value<'t>,
        most: usize,
        cure: Option<&str>,
    ) -> Vec<&'r Value<'t>> {
        let wrong = match (value.get_ref(), cure) {
            (DeValue::Array(values), Some(cure)) if values.is_empty() => {
                format!("{what} is empty: {cure}")
            }
            (DeValue::Array(values), _) if values.len() <= most => return values.iter().collect(),
            (DeValue::Array(values), _) => {
                format!("{what} has {} entries, at most {most}", values.len())
            }
            (other, _) => format!(
                "{what} is of type {}: write a list in brackets",
                other.type_str()
            ),
        };
        self.wrong(self.lines.place(value.span().start), wrong);
        Vec::new()
    }

    pub(super) fn table<'r>(
        &mut self,
        what: String,
        place: Place,
        value: &'r DeValue<'t>,
        known: &[Key],
    ) -> Option<Table<'r, 't>> {
        let DeValue::Table(entries) = value else {
            let kind = value.type_str();
            self.wrong(place, format!("{what} is of type {kind}: write a table"));
            return None;
        };
        self.known(&what, entries, known);
        Some(Table {
            what,
            place,
            entries,
        })
    }

    pub(super) fn required<'r>(
        &mut self,
        table: &Table<'r, 't>,
        key: &str,
        what: &str,
    ) -> Option<&'r Value<'t>> {
        let value = table.get(key);
        if value.is_none() {
            self.wrong(
                table.place,
                format!("{} has no {key:?}: {what}", table.what),
            );
        }
        value
    }

    pub(super) fn known(&mut self, what: &str, entries: &DeTable<'t>, known: &[Key]) {
        let known: Vec<&str> = known.iter().map(|key| key.name).collect();
        for key in entries.keys() {
            if known.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let place = self.lines.place(key.span().start);
            let cure = match nearest(key.get_ref(), &known) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("there are {}", known.join(", ")),
            };
            let key = quote(key.get_ref());
            self.wrong(place, format!("{key} is not a key of {what}: {cure}"));
        }
    }

    /// A table's named entries in the order of the file. A name that cannot be one is reported.
    pub(super) fn named<'r>(
        &mut self,
        what: &str,
        place: Place,
        value: &'r DeValue<'t>,
    ) -> Vec<(At<String>, &'r DeValue<'t>)> {
        let DeValue::Table(entries) = value else {
            let kind = value.type_str();
            self.wrong(place, format!("{what} is of type {kind}: write a table"));
            return Vec::new();
        };
        let mut entries: Vec<_> = entries.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut named = Vec::new();
        for (key, value) in entries {
            let name = self.at(key.span(), key.get_ref().to_string());
            if let Err(reason) = values::check_name(&name) {
                self.wrong(name.place, reason);
            }
            named.push((name, value.get_ref()));
        }
        named
    }
}

/// The known key that somebody may have meant.
fn nearest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    let with_distance = known.iter().map(|key| (distance(written, key), *key));
    with_distance
        .filter(|(distance, key)| *distance <= key.len().div_ceil(3))
        .min()
        .map(|(_, key)| key)
}

/// How many letters to insert, remove or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, other) in b.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, letter) in a.iter().enumerate() {
            let replaced = diagonal + usize::from(*letter != other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[a.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_recognised() {
        let known = ["endpoints", "overlay", "routers"];
        assert_eq!(nearest("endpoint", &known), Some("endpoints"));
        assert_eq!(nearest("ruoters", &known), Some("routers"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
