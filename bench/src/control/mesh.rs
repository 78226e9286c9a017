//! A mesh of many gateways, two to a site.

use std::fmt::Write;

/// Gateways `1..=gateways`, of which some stand in the last site by themselves.
pub fn specification(gateways: usize) -> String {
    let mut text = String::from("[mesh]\nas = 65000\ninterconnect = \"fd00:ff::/64\"\n");
    for first in (0..gateways).step_by(2) {
        let site = first / 2;
        let _ = write!(
            text,
            "[sites.site-{site}]\nprefixes = [\"10.{}.{}.0/24\", \"2001:db8:1:{site:x}::/64\"]\n",
            site / 256,
            site % 256
        );
        for gateway in first..gateways.min(first + 2) {
            let _ = writeln!(
                text,
                "[sites.site-{site}.gateways.{}]\nendpoints = [\"2001:db8:2::{:x}\"]\noverlay = \"private\"",
                name(gateway),
                gateway + 1
            );
        }
    }
    text
}

/// The name of a gateway, counted from 0.
pub fn name(gateway: usize) -> String {
    format!("gw-{gateway}")
}
