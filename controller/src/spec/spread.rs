//! How traffic is spread over several ways, and what a gateway is worth beside the others of its site.

use super::place::quote;
use super::reader::{Reader, Table};
use super::{Hash, Spread};

/// LOCAL_PREF of what nobody has given another (RFC 4271 leaves it open; every daemon says so).
pub(crate) const PREFERENCE: u32 = 100;

impl<'t> Reader<'t> {
    /// `hash`, `groups`, `table` and `metric`, of the mesh or, instead, of a gateway.
    pub(super) fn spread(&mut self, table: &Table<'_, 't>, default: Spread) -> Spread {
        let hash = table.get("hash");
        let hash = hash.and_then(|value| self.text("hash", value, hash_policy));
        let groups = table.get("groups");
        let groups = groups.and_then(|value| self.text("groups", value, resilient));
        let written = table.get("table");
        let number = written.and_then(|value| self.number("table", value, table_number));
        let written = table.get("metric");
        let metric = written.and_then(|value| self.number("metric", value, metric));
        Spread {
            table: number.or(default.table),
            metric: metric.or(default.metric),
            hash: hash.map_or(default.hash, |at| at.value),
            resilient: groups.map_or(default.resilient, |at| at.value),
        }
    }

    /// `preference` and `weight` of a gateway.
    pub(super) fn worth(&mut self, table: &Table<'_, 't>) -> (Option<u32>, Option<u16>) {
        let written = table.get("preference");
        let preference = written.and_then(|value| self.number("preference", value, preference));
        let written = table.get("weight");
        let weight = written.and_then(|value| self.number("weight", value, weight));
        (preference, weight)
    }
}

fn hash_policy(text: &str) -> Result<Hash, String> {
    match text {
        "l3" => Ok(Hash::L3),
        "l4" => Ok(Hash::L4),
        "inner" => Ok(Hash::Inner),
        other => Err(format!(
            "{} is not what flows are told apart by: write \"l3\" (addresses), \"l4\" (ports too) or \
             \"inner\" (of the packet within)",
            quote(other)
        )),
    }
}

fn resilient(text: &str) -> Result<bool, String> {
    match text {
        "plain" => Ok(false),
        "resilient" => Ok(true),
        other => Err(format!(
            "{} is not a kind of nexthop group: write \"plain\" or \"resilient\"",
            quote(other)
        )),
    }
}

fn table_number(number: u64) -> Result<u32, String> {
    match u32::try_from(number) {
        Ok(0 | 253 | 255) | Err(_) => Err(format!(
            "table is {number}: 1 to 4294967295, and not 253 (default) or 255 (local), which are the \
             kernel's own"
        )),
        Ok(number) => Ok(number),
    }
}

fn metric(number: u64) -> Result<u32, String> {
    match u32::try_from(number) {
        Ok(0 | u32::MAX) | Err(_) => Err(format!(
            "metric is {number}: 1 to 4294967294; the worst one is that of the unreachable routes"
        )),
        Ok(number) => Ok(number),
    }
}

fn preference(number: u64) -> Result<u32, String> {
    let reason = || {
        format!(
            "preference is {number}: 1 to 65535, where {PREFERENCE} is that of a gateway without one"
        )
    };
    let number = u16::try_from(number).map_err(|_| reason())?;
    match number {
        0 => Err(reason()),
        number => Ok(number.into()),
    }
}

fn weight(number: u64) -> Result<u16, String> {
    let fits = u16::try_from(number).ok();
    let fits = fits.filter(|weight| (1..=256).contains(weight));
    fits.ok_or_else(|| format!("weight is {number}: 1 to 256 shares of the traffic"))
}
