//! Where something stands in a specification, and what is wrong there.

use std::fmt;
use std::ops::{Deref, Range};

/// A line and a column, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// A value, and where it was written.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub place: Place,
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Two are equal when their values are, wherever they stand.
impl<T: PartialEq> PartialEq for At<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for At<T> {}

/// One thing that is wrong: where, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpecError {
    /// Where.
    pub place: Place,
    /// Why, and what to do.
    pub reason: String,
}

/// Everything that is wrong with a specification, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecErrors {
    file: String,
    errors: Vec<SpecError>,
}

impl std::error::Error for SpecErrors {}

impl SpecErrors {
    /// What is wrong in `file`.
    pub fn new(file: &str, mut errors: Vec<SpecError>) -> Self {
        errors.sort();
        errors.dedup();
        Self {
            file: file.to_owned(),
            errors,
        }
    }

    /// As lines of `file:line:column: reason`, as many as `fits` takes one after the other; a
    /// last line counts those left out.
    pub fn lines(&self, mut fits: impl FnMut(&str) -> bool) -> String {
        let mut lines = Vec::new();
        for SpecError { place, reason } in &self.errors {
            let line = format!("{}:{}:{}: {reason}", self.file, place.line, place.column);
            if !lines.is_empty() && !fits(&line) {
                let rest = self.errors.len() - lines.len();
                lines.push(format!("… and {rest} more"));
                break;
            }
            lines.push(line);
        }
        lines.join("\n")
    }
}

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines(|_| true))
    }
}

/// The beginnings of a text's lines, to turn offsets into places.
pub(super) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            starts: std::iter::once(0).chain(after_breaks).collect(),
        }
    }

    pub(super) fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line.saturating_sub(1)];
        let before = self.text.get(start..offset).unwrap_or_default();
        Place {
            line,
            column: before.chars().count() + 1,
        }
    }

    pub(super) fn text_at(&self, span: Range<usize>) -> &'t str {
        self.text.get(span).unwrap_or_default()
    }
}

/// A piece of somebody's text as it may stand in a message: quoted, escaped, not too long.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}", format!("{}…", &text[..end])),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_lines_and_columns() {
        let lines = Lines::new("ab\n\nüc\n");
        let place = |offset| {
            let Place { line, column } = lines.place(offset);
            (line, column)
        };
        assert_eq!(place(0), (1, 1));
        assert_eq!(place(1), (1, 2));
        assert_eq!(place(3), (2, 1));
        assert_eq!(place(6), (3, 2));
        assert_eq!(place(99), (4, 1));
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let error = |line| SpecError {
            place: Place { line, column: 1 },
            reason: "no".to_owned(),
        };
        let errors = SpecErrors::new("f", vec![error(2), error(1), error(2), error(3)]);
        assert_eq!(errors.to_string(), "f:1:1: no\nf:2:1: no\nf:3:1: no");
        let mut room = 1;
        let short = errors.lines(|_| {
            room -= 1;
            room >= 0
        });
        assert_eq!(short, "f:1:1: no\nf:2:1: no\n… and 1 more");
    }
}
