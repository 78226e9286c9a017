//! Pre-shared keys in files of their own, so that a specification can be shared without them.
//!
//! The controller keeps the text that it is given, and may be on another host: so it is `meshctl` that puts
//! the keys into the text, each on the line where its file is named. What it says of a line holds
//! for the operator's own file.

use crate::failure::Failure;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file is no key if it is longer.
const LONGEST_KEY: u64 = 4096;

/// A tunnel's `psk_file`.
struct Named {
    key: Range<usize>,
    value: Range<usize>,
    path: String,
}

/// The specification with the keys of the files that it names, which are found from where it is.
pub(crate) fn inline(name: &str, text: String, directory: &Path) -> Result<String, Failure> {
    let mut named = named(&text);
    named.sort_by_key(|it| it.key.start);
    let secrets = named.iter().map(|Named { key, path, .. }| {
        secret(&directory.join(path)).map_err(|reason| {
            let before = text.get(..key.start).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let file = format!("{name}:{line}: {path}");
            Failure::Read { file, reason }
        })
    });
    let secrets: Vec<String> = secrets.collect::<Result<_, _>>()?;
    let mut inlined = text;
    // From the end, so that the places before stay where they are.
    for (Named { key, value, .. }, secret) in named.into_iter().zip(secrets).rev() {
        inlined.replace_range(value, &secret);
        inlined.replace_range(key, "psk");
    }
    Ok(inlined)
}

/// What is no specification is the controller's to complain of.
fn named(text: &str) -> Vec<Named> {
    let Ok(root) = DeTable::parse(text) else {
        return Vec::new();
    };
    let peers = root.get_ref().get("foreign").and_then(table);
    let peers = peers.into_iter().flatten();
    let tunnels = peers.filter_map(|(_, peer)| match table(peer)?.get("tunnels")?.get_ref() {
        DeValue::Array(tunnels) => Some(tunnels),
        _ => None,
    });
    let file = |tunnel| {
        let (key, value) = table(tunnel)?.get_key_value("psk_file")?;
        match value.get_ref() {
            DeValue::String(path) => Some(Named {
                key: key.span(),
                value: value.span(),
                path: path.to_string(),
            }),
            _ => None,
        }
    };
    tunnels.flatten().filter_map(file).collect()
}

fn table<'v, 't>(value: &'v Spanned<DeValue<'t>>) -> Option<&'v DeTable<'t>> {
    match value.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

/// A file's first line, as TOML has it.
fn secret(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(format!(
            "others than its owner may use it: `chmod 600 {}`",
            path.display()
        ));
    }
    let mut text = String::new();
    let read = file.take(LONGEST_KEY + 1).read_to_string(&mut text);
    let length = read.map_err(|error| error.to_string())?;
    if length as u64 > LONGEST_KEY {
        return Err(format!(
            "it has more than {LONGEST_KEY} bytes, and is no key"
        ));
    }
    let key = text.strip_suffix('\n').unwrap_or(&text);
    let key = key.strip_suffix('\r').unwrap_or(key);
    if key.is_empty() || key.contains(char::is_control) {
        return Err("it is not one line of text".to_owned());
    }
    Ok(format!(
        "\"{}\"",
        key.replace('\\', "\\\\").replace('"', "\\\"")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    fn with_key(directory: &Path, key: &str, mode: u32) {
        let path = directory.join("one.key");
        write(&path, key).unwrap();
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    const SPEC: &str = "# ü\n[foreign.oracle]\n[[foreign.oracle.tunnels]]\npsk_file = \"one.key\" # of tunnel 1\n\
                        [foreign.aws]\ntunnels = [{ gateway = \"a\", psk_file = 'one.key' }]\n";

    #[test]
    fn keys_stand_in_the_text_where_their_files_were_named() {
        let directory = tempfile::tempdir().unwrap();
        with_key(directory.path(), "a \"key\" with \\ and ü\n", 0o600);
        let text = inline("mesh.toml", SPEC.to_owned(), directory.path()).unwrap();
        let key = r#"psk = "a \"key\" with \\ and ü""#;
        let expected = SPEC
            .replace("psk_file = \"one.key\"", key)
            .replace("psk_file = 'one.key'", key);
        assert_eq!(text, expected);
        let table: toml::Table = text.parse().unwrap();
        let psk = table["foreign"]["oracle"]["tunnels"][0]["psk"].as_str();
        assert_eq!(psk, Some("a \"key\" with \\ and ü"));
    }

    #[test]
    fn what_names_no_file_is_as_it_was() {
        for text in ["", "[mesh]\nas = 1\n", "psk_file = \"x\"", "not TOML ["] {
            let inlined = inline("mesh.toml", text.to_owned(), Path::new("/nowhere"));
            assert_eq!(inlined.unwrap(), text);
        }
    }

    #[test]
    fn a_key_is_a_line_that_only_its_owner_may_read() {
        let directory = tempfile::tempdir().unwrap();
        let refused = |text: &str| {
            let failure = inline("mesh.toml", text.to_owned(), directory.path()).unwrap_err();
            failure.to_string()
        };
        let missing = refused(SPEC);
        assert!(missing.contains("mesh.toml:4: one.key"), "{missing}");
        for (key, mode, reason) in [
            ("a key", 0o640, "chmod 600"),
            ("a key", 0o604, "chmod 600"),
            ("", 0o600, "not one line"),
            ("two\nlines\n", 0o600, "not one line"),
        ] {
            with_key(directory.path(), key, mode);
            let said = refused(SPEC);
            assert!(said.contains(reason), "{key:?} {mode:o}: {said}");
        }
    }
}
