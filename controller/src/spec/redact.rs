//! A specification's text without its secrets.

use routemesh_proto::is_secret;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The text with another value for every password and key, for people to look at.
pub fn redact(text: &str) -> String {
    let Ok(table) = DeTable::parse(text) else {
        // It was accepted once, so this is a version that reads TOML otherwise.
        return "# not shown: this version cannot read it\n".to_owned();
    };
    let mut secrets = Vec::new();
    in_table(table.get_ref(), &mut secrets);
    secrets.sort_by_key(|span| span.start);
    let mut shown = String::with_capacity(text.len());
    let mut rest = 0;
    for span in secrets {
        shown += text.get(rest..span.start).unwrap_or_default();
        shown += "\"(secret)\"";
        rest = span.end;
    }
    shown + text.get(rest..).unwrap_or_default()
}

fn in_table(table: &DeTable, secrets: &mut Vec<Range<usize>>) {
    for (key, value) in table {
        // Somebody's name may be that of a secret.
        let is_table = matches!(value.get_ref(), DeValue::Table(_));
        match is_secret(key.get_ref()) && !is_table {
            true => secrets.push(value.span()),
            false => in_value(value, secrets),
        }
    }
}

fn in_value(value: &Spanned<DeValue>, secrets: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => in_table(table, secrets),
        DeValue::Array(array) => array.iter().for_each(|it| in_value(it, secrets)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown_however_it_is_written() {
        let text = "a = 1 # kept\n\
            [[routers]]\npassword = \"hunter2\" # why\n\
            [x.y]\npsk = '''hunter2\nmore'''\nz = [{ psk = \"hunter2\", b = 2 }]\n\"password\" = 12345\n\
            [foreign.password]\npsk = \"hunter2\"\n";
        let shown = redact(text);
        assert!(
            !shown.contains("hunter2") && !shown.contains("12345"),
            "{shown}"
        );
        assert!(shown.starts_with("a = 1 # kept\n[[routers]]\npassword = \"(secret)\" # why\n"));
        assert!(
            shown.contains("z = [{ psk = \"(secret)\", b = 2 }]"),
            "{shown}"
        );
        assert_eq!(redact("a = \"b\"\n"), "a = \"b\"\n");
        assert!(!redact("psk = \"hunter2\" = ").contains("hunter2"));
    }
}
