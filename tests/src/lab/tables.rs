//! Kernel tables, read without a word of ours in between.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use serde_json::Value;

use super::error::{LabError, Result};
use super::host::Host;

/// The route protocol that marks a route or nexthop as ours.
const PROTOCOL: &str = "82";

/// A security association in the kernel.
#[derive(Debug)]
pub(super) struct Association {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) spi: String,
    pub(super) if_id: Option<u32>,
}

impl Association {
    pub(super) fn outward(&self, own: &str) -> bool {
        self.from == own
    }
}

/// `ip xfrm state`, which has no JSON: an unindented `src A dst B` begins each.
pub(super) fn associations(host: &Host) -> Result<Vec<Association>> {
    let mut found: Vec<Association> = Vec::new();
    for line in host.run(&["ip", "xfrm", "state"])?.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let after = |key: &str| {
            let at = words.iter().position(|word| *word == key)?;
            words.get(at + 1).map(|word| (*word).to_owned())
        };
        if line.starts_with("src ") {
            found.push(Association {
                from: after("src").unwrap_or_default(),
                to: after("dst").unwrap_or_default(),
                spi: String::new(),
                if_id: None,
            });
        } else if let Some(last) = found.last_mut() {
            if let Some(spi) = after("spi") {
                last.spi = spi;
            }
            if let Some(id) = after("if_id") {
                last.if_id = u32::from_str_radix(id.trim_start_matches("0x"), 16).ok();
            }
        }
    }
    // An acquire in progress is no association yet: it has no key and SPI 0.
    found.retain(|sa| sa.spi != "0x00000000" && !sa.spi.is_empty());
    Ok(found)
}

/// Our routes of both families, in the main table or in that of a VRF.
pub(super) fn routes(host: &Host, vrf: Option<&str>) -> Result<Vec<Value>> {
    let place = vrf.map_or(vec![], |vrf| vec!["vrf", vrf]);
    let mut all = Vec::new();
    for family in ["-4", "-6"] {
        let words = [&[family, "route", "show", "proto", PROTOCOL], &place[..]];
        all.extend(host.ip(&words.concat())?);
    }
    Ok(all)
}

/// Established TCP connections over IPv6 with port 179 at one end: own address and far address.
pub(super) fn established(host: &Host) -> Result<BTreeSet<(String, String)>> {
    let table = host.enter(|| std::fs::read_to_string("/proc/thread-self/net/tcp6"))?;
    let table = table.map_err(LabError::io("/proc/thread-self/net/tcp6"))?;
    let mut pairs = BTreeSet::new();
    for line in table.lines().skip(1) {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, own, far, "01", ..] = words[..] else {
            continue;
        };
        let (Some(own), Some(far)) = (endpoint(own), endpoint(far)) else {
            continue;
        };
        if own.1 == 179 || far.1 == 179 {
            pairs.insert((own.0.to_string(), far.0.to_string()));
        }
    }
    Ok(pairs)
}

/// An address and port of `/proc/net/tcp6`: four words in the machine's byte order.
fn endpoint(text: &str) -> Option<(Ipv6Addr, u16)> {
    let (address, port) = text.split_once(':')?;
    let mut octets = [0; 16];
    for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
        let word = u32::from_str_radix(address.get(index * 8..index * 8 + 8)?, 16).ok()?;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    Some((octets.into(), u16::from_str_radix(port, 16).ok()?))
}
