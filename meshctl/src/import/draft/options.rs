//! Which options a mesh has as a whole, and which only some tunnels.

use super::super::{Connection, Note, Options};
use super::note;
use std::collections::BTreeMap;
use toml::Value;

/// Options of `ike` and `esp`, by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sas {
    pub(super) ike: Options,
    pub(super) esp: Options,
}

impl Sas {
    pub(super) fn is_empty(&self) -> bool {
        self.ike.is_empty() && self.esp.is_empty()
    }
}

/// What all have, and what is other between two gateways.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Agreed {
    pub(super) all: Sas,
    pub(super) between: Vec<([String; 2], Sas)>,
}

/// Connections that have to have the same, and the two gateways that they are between.
type Group<'c> = (Option<[String; 2]>, &'c [&'c Connection]);

pub(super) fn agree(groups: Vec<Group>, notes: &mut Vec<Note>) -> Agreed {
    let mut own: Vec<(Option<[String; 2]>, Sas)> = Vec::new();
    for (between, connections) in groups {
        let sas = Sas {
            ike: same(connections, "ike", notes, |it| vec![&it.ike]),
            esp: same(connections, "esp", notes, |it| {
                it.children.iter().map(|it| &it.esp).collect()
            }),
        };
        own.push((between, sas));
    }
    let all = Sas {
        ike: shared(own.iter().map(|(_, sas)| &sas.ike)),
        esp: shared(own.iter().map(|(_, sas)| &sas.esp)),
    };
    let rest = |of: &Options, all: &Options| -> Options {
        of.iter()
            .filter(|(key, _)| !all.contains_key(*key))
            .map(|(key, value)| (*key, value.clone()))
            .collect()
    };
    let between = own.into_iter().filter_map(|(between, sas)| {
        let rest = Sas {
            ike: rest(&sas.ike, &all.ike),
            esp: rest(&sas.esp, &all.esp),
        };
        Some((between?, rest)).filter(|(_, rest)| !rest.is_empty())
    });
    let between = between.collect();
    Agreed { all, between }
}

/// What the connections say alike. What only some say holds for all, but for work that an interface does.
fn same<'c>(
    connections: &[&'c Connection],
    kind: &str,
    notes: &mut Vec<Note>,
    of: impl Fn(&'c Connection) -> Vec<&'c Options>,
) -> Options {
    let mut values: BTreeMap<&'static str, Vec<&Value>> = BTreeMap::new();
    let mut holders = 0;
    for options in connections.iter().flat_map(|it| of(it)) {
        holders += 1;
        for (key, value) in options {
            values.entry(key).or_default().push(value);
        }
    }
    let mut same = Options::new();
    for (key, values) in values {
        let alike = values.windows(2).all(|pair| pair.first() == pair.last());
        let everywhere = values.len() == holders;
        match values.first() {
            Some(value) if alike && (everywhere || key != "hw_offload") => {
                same.insert(key, (*value).clone());
            }
            _ => {
                let words: Vec<String> = values.iter().map(|value| value.to_string()).collect();
                let first = connections.first();
                notes.extend(first.map(|it| note(it, format!(
                    "{kind}.{key} is not the same everywhere ({}) and is left out: both ends of a tunnel have the same (docs/options.md)",
                    words.join(", ")
                ))));
            }
        }
    }
    same
}

fn shared<'o>(mut of: impl Iterator<Item = &'o Options>) -> Options {
    let first = of.next().cloned().unwrap_or_default();
    of.fold(first, |mut shared, options| {
        shared.retain(|key, value| options.get(key) == Some(value));
        shared
    })
}
