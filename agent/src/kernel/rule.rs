//! Policy rules: whether anything is looked up in a table.

use super::observe::list;
use super::socket::Request;
use super::wire::{attribute, u32_at};
use super::{Error, Kernel};
use nix::libc;
use routemesh_bgp::wire::Family;

/// `struct fib_rule_hdr`.
const HEADER: usize = 12;
/// Of the table, in the header.
const TABLE: usize = 4;
const FRA_TABLE: u16 = 15;

impl Kernel {
    /// The families of which no rule of the overlay leads to this table.
    pub async fn without_rule(&self, table: u32) -> Result<Vec<Family>, Error> {
        let mut without = Vec::new();
        for (family, name) in [
            (libc::AF_INET, Family::Ipv4),
            (libc::AF_INET6, Family::Ipv6),
        ] {
            let tables = list(&self.overlay, "list rules", dump(family), decode).await?;
            if !tables.contains(&table) {
                without.push(name);
            }
        }
        Ok(without)
    }
}

fn dump(family: i32) -> Request {
    let mut body = vec![0; HEADER];
    if let Some(first) = body.first_mut() {
        *first = family as u8;
    }
    Request {
        kind: libc::RTM_GETRULE,
        flags: 0,
        body,
    }
}

/// The table that a rule leads to.
fn decode(kind: u16, body: &[u8]) -> Option<u32> {
    if kind != libc::RTM_NEWRULE {
        return None;
    }
    let table = u32::from(*body.get(TABLE)?);
    let longer = attribute(body.get(HEADER..)?, FRA_TABLE);
    Some(longer.and_then(|value| u32_at(value, 0)).unwrap_or(table))
}
