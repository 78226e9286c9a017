//! What says besides the SA that the far end of a foreign peer's tunnel is there: echo requests, and BFD.

use super::check::error;
use super::keys;
use super::place::{At, SpecError, quote};
use super::reader::{Reader, Value};
use super::{Foreign, ForeignTunnel, Gateway, MeshSpec, Selectors, Site, values};
use routemesh_proto::Ping;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use toml::de::DeValue;

/// Who is asked through a tunnel, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Addresses on the far side; the far end's own within where there are none.
    pub ping: Vec<At<IpAddr>>,
    /// Our address, where it is not ours within.
    pub source: Option<At<IpAddr>>,
    /// Milliseconds.
    pub interval: u32,
    /// So many in a row without an answer, and the tunnel is dead.
    pub lost: u32,
}

const INTERVAL: u32 = 1000;
const INTERVALS: RangeInclusive<u32> = 100..=60_000;
const LOST: u32 = 3;
const LOSTS: RangeInclusive<u32> = 1..=20;
/// So many may be written.
const MOST: usize = 16;

impl Foreign {
    /// What holds for a tunnel: what is written of it, else of the peer.
    fn health_of<'s>(&'s self, tunnel: &'s ForeignTunnel) -> Option<&'s At<Health>> {
        let written = tunnel.health.as_ref().or(self.health.as_ref());
        written.and_then(Option::as_ref)
    }

    /// Who is asked through a CHILD_SA: the first one that it carries.
    pub fn ping(&self, tunnel: &ForeignTunnel, selectors: &Selectors) -> Option<Ping> {
        let health = &self.health_of(tunnel)?.value;
        let inside = tunnel.inside.as_ref().map(|it| it.value);
        let written = health.ping.iter().map(|it| it.value);
        let by_default = inside.map(|it| it.far).filter(|_| health.ping.is_empty());
        let ends = written.chain(by_default).filter_map(|target| {
            let within = inside.filter(|it| it.far == target);
            let within = within.map(|it| it.own.addr());
            let source = health.source.as_ref().map(|it| it.value);
            let source = source.filter(|it| it.is_ipv4() == target.is_ipv4());
            Some((source.or(within)?, target))
        });
        let mut carried = ends.filter(|(source, target)| selectors.carry(*source, *target));
        carried.next().map(|(source, target)| Ping {
            target: target.to_string(),
            source: source.to_string(),
            interval: health.interval,
            lost: health.lost,
        })
    }
}

impl<'t> Reader<'t> {
    /// `true`, `false`, or a table. The outer `None`: nothing is written.
    pub(super) fn health(&mut self, value: &Value<'t>) -> Option<Option<At<Health>>> {
        let place = self.lines.place(value.span().start);
        let mut health = Health {
            ping: Vec::new(),
            source: None,
            interval: INTERVAL,
            lost: LOST,
        };
        match value.get_ref() {
            DeValue::Boolean(wanted) => {
                let value = health;
                return Some(wanted.then_some(At { value, place }));
            }
            DeValue::Table(_) => {}
            _ => {
                let reason = "health is true, false, or a table: \
                              health = { ping = \"10.9.0.1\", source = \"10.1.0.1\", interval = \"1s\", lost = 3 }";
                self.wrong(place, reason);
                return None;
            }
        }
        let table = self.table(
            "health".to_owned(),
            place,
            value.get_ref(),
            keys::HEALTH_TABLE,
        )?;
        if let Some(value) = table.get("ping") {
            let targets = match value.get_ref() {
                DeValue::Array(_) => {
                    let cure =
                        "name an address on the far side, or leave it out for the far end's within";
                    self.array("ping", value, MOST, Some(cure))
                }
                _ => vec![value],
            };
            let read = targets.into_iter();
            let read = read.filter_map(|value| self.text("ping", value, address));
            health.ping = read.collect();
        }
        let source = table.get("source");
        health.source = source.and_then(|value| self.text("source", value, address));
        let interval = table.get("interval");
        let interval = interval.and_then(|value| {
            let parse = |text: &str| values::millis("interval", text, INTERVALS);
            self.text("interval", value, parse)
        });
        health.interval = interval.map_or(INTERVAL, |it| it.value);
        let lost = table.get("lost");
        let lost = lost.and_then(|value| self.number("lost", value, losses));
        health.lost = lost.unwrap_or(LOST);
        Some(Some(At {
            value: health,
            place,
        }))
    }
}

/// Tunnels often have link-local ones of IPv4 within.
fn address(text: &str) -> Result<IpAddr, String> {
    let address = text.parse::<IpAddr>().ok();
    let fits = |it: &IpAddr| !it.is_unspecified() && !it.is_multicast() && !it.is_loopback();
    let address = address.filter(fits);
    address.ok_or_else(|| format!("{} is not the address of a host", quote(text)))
}

fn losses(number: u64) -> Result<u32, String> {
    let lost = u32::try_from(number).ok();
    lost.filter(|lost| LOSTS.contains(lost)).ok_or_else(|| {
        format!("lost is {number}: how many pings in a row may have no answer, 1 to 20")
    })
}

/// What does not fit.
pub(super) fn check(spec: &MeshSpec, foreign: &Foreign, tunnel: &ForeignTunnel) -> Vec<SpecError> {
    let mut errors = Vec::new();
    let Some((site, gateway)) = spec.gateway(&tunnel.gateway) else {
        return errors;
    };
    if let Some(bfd) = foreign.bfd.as_ref().filter(|_| tunnel.inside.is_none()) {
        let reason = format!(
            "BFD goes between addresses within: the tunnel on line {} has none, like inside = \"169.254.10.2/30\"",
            tunnel.gateway.place.line
        );
        errors.push(error(bfd.place, reason));
    }
    let Some(health) = foreign.health_of(tunnel) else {
        return errors;
    };
    if health.ping.is_empty() && tunnel.inside.is_none() {
        let reason = format!(
            "whom to ping through the tunnel on line {}: write ping = \"10.9.0.1\", an address on the far side, or \
             give the tunnel addresses within",
            tunnel.gateway.place.line
        );
        errors.push(error(health.place, reason));
    }
    if let Some(source) = &health.source {
        errors.extend(foreign_source(site, tunnel, source));
    }
    for target in &health.ping {
        errors.extend(unfit(foreign, tunnel, gateway, &health.value, target));
    }
    let asked = |selectors| foreign.ping(tunnel, selectors).is_some();
    if errors.is_empty() && !tunnel.selectors.iter().any(asked) {
        let reason = format!(
            "no CHILD_SA of the tunnel on line {} carries pings from there to what is pinged: look at its selectors",
            tunnel.gateway.place.line
        );
        errors.push(error(health.place, reason));
    }
    errors
}

/// Answers come to an address of the gateway, which is one of its site's.
fn foreign_source(site: &Site, tunnel: &ForeignTunnel, source: &At<IpAddr>) -> Option<SpecError> {
    let within = tunnel.inside.as_ref().map(|it| it.own.addr());
    let owned = site.prefixes.iter().any(|net| net.contains(&source.value));
    let known = owned || within == Some(source.value);
    (!known).then(|| {
        let reason = format!(
            "{} is none of site {}: pings come from an address of gateway {} there",
            source.value, site.name.value, tunnel.gateway.value
        );
        error(source.place, reason)
    })
}

fn unfit(
    foreign: &Foreign,
    tunnel: &ForeignTunnel,
    gateway: &Gateway,
    health: &Health,
    target: &At<IpAddr>,
) -> Option<SpecError> {
    let far = tunnel.inside.as_ref().map(|it| it.far);
    if far == Some(target.value) {
        return None;
    }
    let in_vrf = gateway
        .overlay
        .as_ref()
        .is_some_and(|it| it.starts_with("vrf:"));
    let reason = if !foreign
        .prefixes
        .iter()
        .any(|net| net.contains(&target.value))
    {
        format!(
            "{} is nothing of what foreign {} has, and not the far end's address within: its answers would be refused",
            target.value, foreign.name.value
        )
    } else if target.is_ipv6() {
        // An IPv4 request goes by the interface even where no route says so.
        format!(
            "{} is an IPv6 address behind the far end: while the tunnel is dead there is no route to it; give the \
             tunnel addresses within, and ping the far end's",
            target.value
        )
    } else if in_vrf {
        format!(
            "{} is behind the far end, and gateway {} has its private side in a VRF: while the tunnel is dead there \
             is no route to it; give the tunnel addresses within, and ping the far end's",
            target.value, gateway.name.value
        )
    } else if health.source.is_none() {
        format!(
            "{} is pinged from an address of the gateway's site: say which, like source = \"10.1.0.1\"",
            target.value
        )
    } else {
        return None;
    };
    Some(error(target.place, reason))
}
