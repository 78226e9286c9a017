//! In which fields two messages differ, whatever fields they have: a new one is told of without a word here.

use routemesh_proto::{FieldPlan, is_secret};
use serde::Serialize;
use std::collections::BTreeSet;
use toml::{Table, Value};

/// A value is told up to this length, in characters.
const LONGEST: usize = 200;
/// What has a name is told apart by it, not by its place.
const NAMES: [&str; 4] = ["name", "address", "interface", "range"];

/// The fields that differ, by name.
pub(super) fn fields<T: Serialize>(before: &T, after: &T) -> Vec<FieldPlan> {
    let value = |message: &T| Value::try_from(message).ok();
    let mut fields = Vec::new();
    compare(
        "",
        value(before).as_ref(),
        value(after).as_ref(),
        &mut fields,
    );
    fields
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, fields: &mut Vec<FieldPlan>) {
    if before == after {
        return;
    }
    if let (Some(old), Some(new)) = (parts(before), parts(after)) {
        let keys: BTreeSet<&String> = old.iter().chain(&new).map(|(key, _)| key).collect();
        let find = |parts: &[(String, &'_ Value)], key: &str| {
            let mut found = parts.iter().filter(|(it, _)| it == key);
            found.next().map(|(_, value)| (*value).clone())
        };
        for key in keys {
            let below = match path {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            compare(
                &below,
                find(&old, key).as_ref(),
                find(&new, key).as_ref(),
                fields,
            );
        }
        return;
    }
    let secret = path.rsplit('.').next().is_some_and(is_secret);
    let shown = |value: Option<&Value>, instead: &str| match value.map(text).unwrap_or_default() {
        text if secret && !text.is_empty() => instead.to_owned(),
        text => text,
    };
    let (before, after) = (shown(before, "(secret)"), shown(after, "(another secret)"));
    // Absent and empty are one.
    if before != after {
        fields.push(FieldPlan {
            name: path.to_owned(),
            before,
            after,
        });
    }
}

/// What a table or a list of tables is made of; nothing is as good as an empty one. `None` for
/// what has no parts.
fn parts(value: Option<&Value>) -> Option<Vec<(String, &Value)>> {
    match value {
        None => Some(Vec::new()),
        Some(Value::Table(table)) => Some(table.iter().map(|(k, v)| (k.clone(), v)).collect()),
        Some(Value::Array(list)) => list.iter().enumerate().map(named).collect(),
        Some(_) => None,
    }
}

fn named((place, value): (usize, &Value)) -> Option<(String, &Value)> {
    let name = |table: &Table| {
        let names = NAMES.iter().filter_map(|key| table.get(*key)?.as_str());
        names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .next()
    };
    let table = value.as_table()?;
    let name = name(table).unwrap_or_else(|| (place + 1).to_string());
    Some((name, value))
}

fn text(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_proto::{Bfd, Config, EspOptions, Foreign, Router, Term, Tunnel};

    fn told(fields: &[FieldPlan]) -> Vec<String> {
        let words = |it: &FieldPlan| format!("{}: {} -> {}", it.name, it.before, it.after);
        fields.iter().map(words).collect()
    }

    #[test]
    fn fields_are_told_where_they_are() {
        let before = Config {
            overlay: "private".into(),
            routers: vec![
                Router {
                    address: "10.0.1.2".into(),
                    asn: 1,
                    ..Router::default()
                },
                Router {
                    address: "10.0.1.1".into(),
                    asn: 1,
                    ..Router::default()
                },
            ],
            services: vec!["tcp/22".into()],
            ..Config::default()
        };
        let after = Config {
            overlay: "inside".into(),
            bfd: Some(Bfd {
                interval: 300,
                multiplier: 3,
            }),
            routers: vec![Router {
                asn: 2,
                import: vec![Term {
                    action: "accept".into(),
                    ..Term::default()
                }],
                ..before.routers[1].clone()
            }],
            services: vec!["tcp/22".into(), "udp/53".into()],
            ..before.clone()
        };
        let expected = [
            "bfd.interval:  -> 300",
            "bfd.multiplier:  -> 3",
            "overlay: private -> inside",
            "routers.10.0.1.1.asn: 1 -> 2",
            "routers.10.0.1.1.import.1.action:  -> accept",
            "routers.10.0.1.2.address: 10.0.1.2 -> ",
            "routers.10.0.1.2.asn: 1 -> ",
            "services: tcp/22 -> tcp/22 udp/53",
        ];
        assert_eq!(told(&fields(&before, &after)), expected);
        assert!(fields(&before, &before).is_empty());
    }

    #[test]
    fn a_secret_changes_unseen() {
        let with = |psk: &str, rekey| Tunnel {
            foreign: Some(Foreign {
                psk: psk.into(),
                ..Foreign::default()
            }),
            esp: Some(EspOptions {
                rekey_time: rekey,
                ..EspOptions::default()
            }),
            ..Tunnel::default()
        };
        let told = told(&fields(
            &with("hunter2", None),
            &with("swordfish", Some(60)),
        ));
        let expected = [
            "esp.rekey_time:  -> 60",
            "foreign.psk: (secret) -> (another secret)",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn long_values_are_cut() {
        let with = |text: String| Tunnel {
            peer: text,
            ..Tunnel::default()
        };
        let fields = fields(&with("x".into()), &with("ä".repeat(1_000)));
        assert_eq!(fields[0].after.chars().count(), LONGEST + 1);
    }
}
