//! Who did what.

use super::{Look, table};
use routemesh_proto::Audit;

/// What was done, the latest first; and what was refused.
pub(crate) fn audit(audit: &Audit, look: Look) -> String {
    let mut entries = table(look, &["WHEN", "WHO", "WHAT", "DETAIL", "GENERATION"]);
    for it in &audit.entries {
        let generation = match it.to {
            0 => String::new(),
            to => format!("{} -> {to}", it.from),
        };
        entries.add_row([&it.at, &it.who, &it.what, &it.detail, &generation]);
    }
    let mut text = entries.trim_fmt() + "\n";
    if !audit.refusals.is_empty() {
        let mut refused = table(look, &["REFUSED SINCE THE CONTROLLER'S START", "TIMES"]);
        for it in &audit.refusals {
            refused.add_row([it.reason.clone(), it.count.to_string()]);
        }
        text = format!("{text}\n{}\n", refused.trim_fmt());
    }
    text
}
