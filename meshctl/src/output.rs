//! What goes to standard output: tables for people, JSON for programs.

use crate::failure::Failure;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::io::{self, Write};

#[derive(Args, Clone, Copy)]
pub(crate) struct Output {
    /// For people or for programs.
    #[arg(long, short, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

/// Shows a value as it was asked for.
pub(crate) fn show<T: Serialize>(
    format: Format,
    value: &T,
    table: impl Fn(&T) -> String,
) -> Result<(), Failure> {
    match format {
        Format::Table => print(&table(value)),
        Format::Json => put(&json(value)?),
    }
}

pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Text for people.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    put(&plain(text))
}

/// Text for programs, as it is.
pub(crate) fn put(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// What tables are coloured with: bold, red, green and yellow, and their ends.
const STYLES: [&str; 10] = [
    "0", "1", "22", "31", "32", "33", "39", "38;5;9", "38;5;10", "38;5;11",
];

/// Without what commands a terminal, or turns text around, but for lines and our own colours: gateways tell
/// what others sent them.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(found) = rest.find(commands) {
        let (before, from) = rest.split_at(found);
        out.push_str(before);
        let style = STYLES.iter().find_map(|style| {
            let after = from.strip_prefix("\u{1b}[")?.strip_prefix(style)?;
            after.strip_prefix('m')
        });
        let mut after = from.chars();
        match (style, after.next()) {
            (Some(after), _) => out.push_str(from.strip_suffix(after).unwrap_or_default()),
            (None, Some(one)) => out.extend(one.escape_default()),
            (None, None) => {}
        }
        rest = style.unwrap_or(after.as_str());
    }
    out + rest
}

/// The same, in one line and without colours.
pub(crate) fn line(text: &str) -> String {
    let escaped = |one: char| -> String {
        match commands(one) || one == '\n' || one == '\t' {
            true => one.escape_default().collect(),
            false => one.to_string(),
        }
    };
    text.chars().map(escaped).collect()
}

fn commands(one: char) -> bool {
    match one {
        '\n' | '\t' => false,
        // The other way round.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        one => one.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_commands_no_terminal() {
        for (text, expected) in [
            ("", ""),
            ("rm3\tup\nrm4 …", "rm3\tup\nrm4 …"),
            (
                "\u{1b}[38;5;9mdown\u{1b}[39m\u{1b}[0m",
                "\u{1b}[38;5;9mdown\u{1b}[39m\u{1b}[0m",
            ),
            ("\u{1b}[8mhidden", "\\u{1b}[8mhidden"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("a\r\u{8}b\u{9b}2J\u{7f}", "a\\r\\u{8}b\\u{9b}2J\\u{7f}"),
            ("\u{202e}pu", "\\u{202e}pu"),
            ("\u{1b}", "\\u{1b}"),
        ] {
            assert_eq!(plain(text), expected, "{text:?}");
        }
        assert_eq!(line("one\ntwo\u{1b}[1m"), "one\\ntwo\\u{1b}[1m");
        assert_eq!(line("V1-1 ≥ 3"), "V1-1 ≥ 3");
    }
}
