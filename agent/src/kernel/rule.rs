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
const FRA_L3MDEV: u16 = 19;

/// Where a rule leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// To a routing table.
    Table(u32),
    /// To the table of the VRF that a packet is in: the kernel makes one for all of them, with the first.
    Vrf,
}

impl Kernel {
    /// The families of which no rule of the overlay leads there.
    pub async fn without_rule(&self, lookup: Lookup) -> Result<Vec<Family>, Error> {
        let mut without = Vec::new();
        for (family, name) in [
            (libc::AF_INET, Family::Ipv4),
            (libc::AF_INET6, Family::Ipv6),
        ] {
            let rules = list(&self.overlay, "list rules", dump(family), decode).await?;
            if !rules.contains(&lookup) {
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

/// Where a rule leads.
fn decode(kind: u16, body: &[u8]) -> Option<Lookup> {
    if kind != libc::RTM_NEWRULE {
        return None;
    }
    let (table, attributes) = (u32::from(*body.get(TABLE)?), body.get(HEADER..)?);
    if attribute(attributes, FRA_L3MDEV).is_some_and(|value| value.first() == Some(&1)) {
        return Some(Lookup::Vrf);
    }
    let longer = attribute(attributes, FRA_TABLE).and_then(|value| u32_at(value, 0));
    Some(Lookup::Table(longer.unwrap_or(table)))
}
