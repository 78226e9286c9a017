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
    let text = match format {
        Format::Table => table(value),
        Format::Json => serde_json::to_string_pretty(value)? + "\n",
    };
    print(&text)
}

pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
