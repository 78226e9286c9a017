//! The far end does not answer any more while its SAs live: only pings show it.

use routemesh_tests::lab::error::Result;

use super::cloud::{Cloud, outer};
use super::{INTERFACES, Lab};

/// The VPN endpoint's own address in the cloud's network, so that it answers by its own tunnel.
fn own(number: usize) -> String {
    format!("10.20.255.{number}")
}

/// The config of home with pings to each endpoint through the CHILD_SA that carries IPv4.
pub fn with_pings(config: String) -> String {
    let mut text = String::new();
    let mut endpoint = None;
    for line in config.lines() {
        for number in [1, 2] {
            if line == format!("remote_endpoint = \"{}\"", outer(number)) {
                endpoint = Some(number);
            }
        }
        text.push_str(line);
        text.push('\n');
        if line == "remote_selectors = [\"10.20.0.0/16\"]"
            && let Some(number) = endpoint.take()
        {
            let (target, source) = (own(number), "192.168.1.1");
            let ping = format!(
                "ping = {{ target = \"{target}\", source = \"{source}\", interval = 1000, lost = 3 }}\n"
            );
            text.push_str(&ping);
        }
    }
    text
}

impl Cloud {
    /// Has an endpoint answer pings, or not any more.
    pub fn answer(&self, number: usize, answers: bool) -> Result<()> {
        let verb = if answers { "add" } else { "del" };
        let line = format!("address {verb} {}/32 dev lo", own(number));
        self.endpoints[number - 1].host.ip_batch(&[line])
    }
}

impl Lab {
    /// IPv4 leaves the tunnel whose far end is silent, and comes back; IPv6, which nobody asks about, stays.
    pub fn silence(&mut self) -> Result<()> {
        let [v4, v6] = INTERFACES;
        for (number, left) in [(1, 1), (2, 0)] {
            self.cloud.answer(number, false)?;
            let what = format!("no answers through tunnel {number}");
            self.await_ways(&what, [&[v4[left]], &v6])?;
            let up = self.home.charon.children()?;
            assert_eq!(up.len() - 1, 4, "every SA of home lives on: {up:?}");
            self.cloud.answer(number, true)?;
            self.await_ways("answers again", [&v4, &v6])?;
        }
        Ok(())
    }
}
