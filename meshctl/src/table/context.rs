//! The meshes that somebody looks after.

use super::{Look, table};
use crate::commands::{Listed, Shown};
use crate::context::Chosen;

/// One a line, the one in use with a star.
pub(crate) fn contexts(all: &[Listed], look: Look) -> String {
    let mut table = table(look, &["", "CONTEXT", "CONTROLLER", "IDENTITY"]);
    for it in all {
        table.add_row([
            if it.in_use { "*" } else { "" }.to_owned(),
            it.name.clone(),
            it.controller.clone(),
            it.identity.display().to_string(),
        ]);
    }
    table.trim_fmt() + "\n"
}

/// What is in effect, and what says so.
pub(crate) fn context(shown: &Shown, look: Look) -> String {
    let mut table = table(look, &["", "VALUE", "FROM"]);
    let none = || "-".to_owned();
    let row = |chosen: Option<Chosen<String>>| match chosen {
        Some(it) => [it.value, it.from],
        None => [none(), none()],
    };
    let identity = shown.identity.clone().map(|it| Chosen {
        value: it.value.display().to_string(),
        from: it.from,
    });
    for (name, chosen) in [
        ("controller", shown.controller.clone()),
        ("identity", identity),
    ] {
        let [value, from] = row(chosen);
        table.add_row([name.to_owned(), value, from]);
    }
    if let Some(name) = &shown.unknown {
        table.add_row([
            "context".to_owned(),
            name.clone(),
            "is not there".to_owned(),
        ]);
    }
    let file = shown
        .file
        .as_ref()
        .map_or_else(none, |it| it.display().to_string());
    table.add_row(["file".to_owned(), file, String::new()]);
    table.trim_fmt() + "\n"
}
