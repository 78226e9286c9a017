//! A change in one line, for the history.

use crate::ids::{gateway_names, tunnel_count};
use crate::spec::MeshSpec;

/// So many names are told of those who join or leave.
const NAMES: usize = 5;

/// What a specification does to the one before.
pub fn summary(before: Option<&MeshSpec>, after: &MeshSpec) -> String {
    let now = gateway_names(after);
    let Some(before) = before else {
        let count = |n: u64, what| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        return [
            count(after.sites.len() as u64, "site"),
            count(now.len() as u64, "gateway"),
            count(tunnel_count(after), "tunnel"),
        ]
        .join(", ");
    };
    let was = gateway_names(before);
    let names = |verb: &str, names: Vec<&str>| match names.as_slice() {
        [] => None,
        all if all.len() > NAMES => {
            let (first, rest) = all.split_at(NAMES);
            Some(format!(
                "{} and {} more {verb}",
                first.join(", "),
                rest.len()
            ))
        }
        all => Some(format!("{} {verb}", all.join(", "))),
    };
    let (old, new) = (tunnel_count(before), tunnel_count(after));
    let parts = [
        names("joined", now.difference(&was).copied().collect()),
        names("left", was.difference(&now).copied().collect()),
        (old != new).then(|| format!("{old} -> {new} tunnels")),
    ];
    match parts.into_iter().flatten().collect::<Vec<_>>() {
        parts if parts.is_empty() => "other settings, the same gateways".to_owned(),
        parts => parts.join("; "),
    }
}
