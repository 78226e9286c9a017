//! Every key of a specification. The reader takes these and no others, and `docs/spec.md` is made from them.

#[rustfmt::skip]
mod table;

pub use table::SECTIONS;
pub(super) use table::{
    BFD, ENDPOINT, ESP, FOREIGN, FOREIGN_TUNNEL, GATEWAY, HEALTH_TABLE, IKE, MESH, ROOT, ROUTER,
    SELECTORS, SITE, TERM, TUNNELS,
};

use std::fmt::Write as _;

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What it may be, for people.
    pub takes: &'static str,
    /// What holds without it; empty for what has to be written.
    pub without: &'static str,
    /// What it is for.
    pub says: &'static str,
    /// A value, in TOML.
    pub example: &'static str,
}

/// A table of the specification.
#[derive(Debug)]
pub struct Section {
    /// How it is written.
    pub head: &'static str,
    /// What it is.
    pub says: &'static str,
    /// What may stand in it.
    pub keys: &'static [Key],
}

/// The reference, in Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# The specification, key by key\n\n\
         Made from the keys that the controller knows; what holds without a key is in the third column, and where that is empty the \
         key has to be written. A key that is not here is refused, with its line. The `examples/` show them at work.\n",
    );
    for Section { head, says, keys } in &SECTIONS {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n## {head}\n\n{says}\n\n| key | takes | without it | |\n|---|---|---|---|\n"
        );
        for Key {
            name,
            takes,
            without,
            says,
            ..
        } in *keys
        {
            let _ = writeln!(text, "| `{name}` | {takes} | {without} | {says} |");
        }
    }
    text
}
