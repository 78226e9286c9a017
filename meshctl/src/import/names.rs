//! Names that hosts, sites and networks go by in a draft.

use super::Host;
use std::collections::BTreeSet;

/// As a specification takes it: letters, digits, - and ., 63 at most, no address.
pub(super) fn fit(text: &str) -> Option<String> {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') {
            c
        } else {
            '-'
        }
    };
    let name: String = text.chars().map(plain).take(63).collect();
    let name = name.trim_matches(['-', '.']).replace("..", ".");
    let usable = !name.is_empty() && name.parse::<std::net::IpAddr>().is_err();
    usable.then_some(name)
}

/// The name, or one with a number behind it that nobody has.
pub(super) fn unique(name: String, taken: &mut BTreeSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    let free = names.find(|name| !taken.contains(name)).unwrap_or(name);
    taken.insert(free.clone());
    free
}

/// What the names begin with in common: "V1" of "V1-1" and "V1-2". A single one is its own.
pub(super) fn common(names: &[&str]) -> Option<String> {
    let (first, others) = names.split_first()?;
    if others.is_empty() {
        return fit(first);
    }
    let alike = |length: &usize| {
        let begin = first.get(..*length);
        begin.is_some() && others.iter().all(|it| it.get(..*length) == begin)
    };
    let length = (1..=first.len()).rev().find(alike)?;
    let stem = first.get(..length)?;
    fit(stem.trim_end_matches(['-', '_', '.']))
}

/// Directories that every host has.
const COMMON: [&str; 6] = ["", ".", "..", "etc", "swanctl", "bird"];

/// How a host is called: as was said, or as the others call their connection to it, or as it calls itself, or as
/// the directory with its files.
pub(super) fn of_host(host: &Host, others: &[Host]) -> Option<String> {
    let own: BTreeSet<&String> = host.connections.iter().flat_map(|it| &it.local).collect();
    let there = others.iter().flat_map(|it| &it.connections);
    let to_it = there.filter(|it| it.remote.iter().any(|address| own.contains(address)));
    let called: BTreeSet<&str> = to_it.map(|it| it.name.as_str()).collect();
    let called = (called.len() == 1)
        .then(|| called.first().copied())
        .flatten();
    let ids: BTreeSet<&str> = host
        .connections
        .iter()
        .filter_map(|it| it.local_id.as_deref())
        .collect();
    let plain = |id: &&str| !id.contains(['=', ':', '@', '<', ' ']);
    let id = (ids.len() == 1)
        .then(|| ids.first().copied())
        .flatten()
        .filter(plain);
    // Both ends of a connection often have it under the same name, which is then neither's.
    let both = |name: &&str| !host.connections.iter().any(|it| it.name == *name);
    let directory = host
        .directory
        .as_deref()
        .and_then(|it| it.rsplit('/').next());
    let directory = directory.filter(|it| !COMMON.contains(it));
    let names = [host.name.as_deref(), called.filter(both), id, directory];
    names.into_iter().flatten().find_map(fit)
}
