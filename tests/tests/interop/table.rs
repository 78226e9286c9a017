//! The table in docs/interop.md: a row for each capability, a column for each daemon.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;

use routemesh_tests::lab::error::{LabError, Result};

use crate::CAPABILITIES;
use crate::daemon::Kind;

const BEGIN: &str = "<!-- written by tests/tests/interop -->\n";
const END: &str = "<!-- end -->\n";

/// Fails where the daemon's column is not what was found, or replaces it.
pub fn compare(kind: Kind, found: &[(&str, String)]) -> Result<()> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/interop.md"));
    let io = || LabError::io(path.display().to_string());
    // The other daemons' tests may do the same now.
    let lock = File::open(&path).map_err(io())?;
    lock.lock().map_err(io())?;
    let text = fs::read_to_string(&path).map_err(io())?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (table, after) = rest.split_once(END)?;
        Some((before, table, after))
    });
    let Some((before, table, after)) = parts else {
        let what = format!("{}: no table between {BEGIN:?} and {END:?}", path.display());
        return Err(LabError::Unexpected(what));
    };
    let mut columns = read(table);
    let column = found
        .iter()
        .map(|(name, cell)| ((*name).to_owned(), cell.clone()));
    let heading = format!("{} {}", kind.name(), kind.version()?);
    columns.insert(kind.name(), (heading, column.collect()));
    let now = render(&columns);
    if now == table {
        return Ok(());
    }
    if std::env::var_os("RENEW_GOLDEN").is_none() {
        let what = "docs/interop.md is not what was found: RENEW_GOLDEN=1 renews it; found:";
        return Err(LabError::Unexpected(format!("{what}\n{now}")));
    }
    fs::write(&path, format!("{before}{BEGIN}{now}{END}{after}")).map_err(io())
}

/// A daemon with its version, and its cells by capability.
type Column = (String, BTreeMap<String, String>);

fn read(table: &str) -> BTreeMap<&'static str, Column> {
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = table.lines();
    let headings = lines.next().map(cells).unwrap_or_default();
    let rows: Vec<Vec<String>> = lines.skip(1).map(cells).collect();
    let column = |kind: Kind| {
        let at = headings
            .iter()
            .position(|h| h.split(' ').next() == Some(kind.name()))?;
        let cells = rows
            .iter()
            .filter_map(|row| Some((row.first()?.clone(), row.get(at)?.clone())));
        Some((kind.name(), (headings[at].clone(), cells.collect())))
    };
    Kind::ALL.into_iter().filter_map(column).collect()
}

fn render(columns: &BTreeMap<&str, Column>) -> String {
    let mut text = String::from("|");
    let ordered: Vec<_> = Kind::ALL
        .iter()
        .map(|kind| columns.get(kind.name()))
        .collect();
    for (kind, column) in Kind::ALL.iter().zip(&ordered) {
        let heading = column.map_or(kind.name(), |(heading, _)| heading.as_str());
        text += &format!(" | {heading}");
    }
    text += &format!(" |\n|---{}|\n", "|---".repeat(ordered.len()));
    for capability in CAPABILITIES {
        text += &format!("| {}", capability.name);
        for column in &ordered {
            let cell = column.and_then(|(_, cells)| cells.get(capability.name));
            text += &format!(" | {}", cell.map_or("?", String::as_str));
        }
        text += " |\n";
    }
    text
}
