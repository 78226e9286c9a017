//! What was, and in which lines one specification differs from another.

use super::{Look, table};
use comfy_table::Color;
use routemesh_proto::{Diff, History};
use similar::TextDiff;
use std::time::Duration;

/// A comparison that takes longer shows more lines than it needs to.
const PATIENCE: Duration = Duration::from_secs(2);

/// Generations, the newest first.
pub(crate) fn history(history: &History, look: Look) -> String {
    let header = ["GENERATION", "WHEN", "WHO", "KIND", "WHAT", "FILE"];
    let mut table = table(look, &header);
    for it in &history.revisions {
        table.add_row([
            it.generation.to_string(),
            it.at.clone(),
            it.operator.clone(),
            it.kind.clone(),
            it.summary.clone(),
            it.file.clone(),
        ]);
    }
    table.trim_fmt() + "\n"
}

/// The lines that differ, as `diff -u` shows them. Empty for none.
pub(crate) fn text_diff(diff: &Diff, look: Look) -> String {
    let name = |revision: &Option<routemesh_proto::Revision>| {
        let revision = revision.clone().unwrap_or_default();
        format!("generation {} {}", revision.generation, revision.file)
    };
    let lines = TextDiff::configure()
        .timeout(PATIENCE)
        .diff_lines(&diff.from_text, &diff.to_text)
        .unified_diff()
        .header(&name(&diff.from), &name(&diff.to))
        .to_string();
    let painted = lines.lines().map(|line| match line.as_bytes().first() {
        Some(b'+') => look.paint(Color::Green, line),
        Some(b'-') => look.paint(Color::Red, line),
        _ => line.to_owned(),
    });
    painted.map(|line| line + "\n").collect()
}
