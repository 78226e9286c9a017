//! What gateways last said, kept so that there is room for what two thousand of them say of two thousand
//! tunnels each: what is small as it came, the long lists packed, and of every tunnel whether it is well.

mod part;

use part::Part;
use prost::Message;
use prost::bytes::Bytes;
use routemesh_proto::{Route, Status, StatusChange, TunnelStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A report older than this says nothing about now. Agents report at least every 10 s.
pub const FRESH: Duration = Duration::from_secs(30);

/// What a gateway last said, and how long ago.
#[derive(Clone, Debug)]
pub struct Report {
    /// What.
    pub kept: Arc<Kept>,
    /// How long ago.
    pub age: Duration,
}

impl Report {
    /// It says something about now.
    pub fn is_fresh(&self) -> bool {
        self.age <= FRESH
    }
}

/// The last report of each gateway.
pub type Reports = BTreeMap<String, Report>;

/// How an end of a tunnel looks, as it was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing is wrong.
    Well,
    /// Nothing but that it has no BGP session, which not every tunnel has.
    NoSession,
    /// Something is wrong.
    Unwell,
}

impl Look {
    /// Of what an end reports.
    pub fn of(tunnel: &TunnelStatus) -> Self {
        let alive = match &tunnel.liveness {
            Some(liveness) => !matches!(liveness.state.as_str(), "dead" | "held"),
            None => true,
        };
        if tunnel.interface != "up" || tunnel.ike != "up" || !alive {
            return Self::Unwell;
        }
        match &tunnel.bgp {
            Some(bgp) if bgp.state == "Established" => Self::Well,
            _ => Self::NoSession,
        }
    }
}

/// A report as it is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Without tunnels and routes.
    head: Status,
    tunnels: Part<TunnelStatus>,
    routes: Part<Route>,
    /// By number: the number and, in its top bits, the look. Numbers have 24 bits.
    looks: Vec<u32>,
}

const NUMBER: u32 = (1 << 24) - 1;
/// A gateway has no more tunnels, and lists no more routes.
const MOST: usize = 1 << 16;

fn look(tunnel: &TunnelStatus) -> u32 {
    let bits = match Look::of(tunnel) {
        Look::Well => 0,
        Look::NoSession => 1,
        Look::Unwell => 2,
    };
    (tunnel.number & NUMBER) | bits << 24
}

impl Kept {
    /// A whole report.
    pub fn new(mut status: Status) -> Self {
        let tunnels = std::mem::take(&mut status.tunnels);
        let routes = std::mem::take(&mut status.routes);
        Self {
            head: status,
            looks: looks(&tunnels),
            tunnels: Part::new(&tunnels),
            routes: Part::new(&routes),
        }
    }

    /// What has changed since; `false`, and of no more use, where that is more than a gateway can have.
    #[must_use]
    pub fn change(&mut self, change: StatusChange) -> bool {
        let StatusChange {
            head,
            tunnels,
            removed_tunnels,
            routes,
            removed_routes,
        } = change;
        if tunnels.len() + removed_tunnels.len() > MOST
            || routes.len() + removed_routes.len() > MOST
        {
            return false;
        }
        if !removed_tunnels.is_empty() {
            let gone: BTreeSet<u32> = removed_tunnels.iter().map(|it| it & NUMBER).collect();
            self.looks.retain(|look| !gone.contains(&(look & NUMBER)));
        }
        let mut new = BTreeMap::new();
        for tunnel in &tunnels {
            let look = look(tunnel);
            match self.at(tunnel.number) {
                Ok(at) => {
                    if let Some(known) = self.looks.get_mut(at) {
                        *known = look;
                    }
                }
                Err(_) => drop(new.insert(look & NUMBER, look)),
            }
        }
        if !new.is_empty() {
            self.looks.extend(new.into_values());
            // Two runs that are sorted: it merges them.
            self.looks.sort_by_key(|look| look & NUMBER);
        }
        self.tunnels.change(tunnels, removed_tunnels);
        self.routes.change(routes, removed_routes);
        if let Some(head) = head {
            self.head = head;
            self.head.tunnels.clear();
            self.head.routes.clear();
        }
        self.tunnels.fits() && self.routes.fits()
    }

    fn at(&self, number: u32) -> Result<usize, usize> {
        self.looks
            .binary_search_by_key(&(number & NUMBER), |look| look & NUMBER)
    }

    /// All but tunnels and routes.
    pub fn head(&self) -> &Status {
        &self.head
    }

    /// How the gateway's end of a tunnel looks; `None` where it does not run it.
    pub fn look(&self, number: u32) -> Option<Look> {
        let look = self.looks.get(self.at(number).ok()?)?;
        Some(match look >> 24 {
            0 => Look::Well,
            1 => Look::NoSession,
            _ => Look::Unwell,
        })
    }

    /// Numbers of tunnels that look other than before, or that only one of both has.
    pub fn changed_looks(&self, before: &Self) -> Vec<u32> {
        let (was, is) = (&before.looks, &self.looks);
        if was == is {
            return Vec::new();
        }
        let was: BTreeSet<u32> = was.iter().copied().collect();
        let is: BTreeSet<u32> = is.iter().copied().collect();
        let changed = was.symmetric_difference(&is).map(|look| look & NUMBER);
        let changed: BTreeSet<u32> = changed.collect();
        changed.into_iter().collect()
    }

    /// Its tunnels, unpacked.
    pub fn tunnels(&self) -> Vec<TunnelStatus> {
        self.tunnels.all()
    }

    /// Some of its tunnels, unpacked.
    pub fn tunnels_of(&self, numbers: &BTreeSet<u32>) -> Vec<TunnelStatus> {
        self.tunnels.some(numbers)
    }

    /// Its routes, unpacked.
    pub fn routes(&self) -> Vec<Route> {
        self.routes.all()
    }

    /// As octets, for [`Kept::from_octets`].
    pub fn to_octets(&self) -> Vec<u8> {
        let (tunnels, changed_tunnels, removed_tunnels) = self.tunnels.to_stored();
        let (routes, changed_routes, removed_routes) = self.routes.to_stored();
        let stored = Stored {
            head: Some(self.head.clone()),
            tunnels,
            routes,
            looks: self.looks.clone(),
            counts: vec![self.tunnels.count(), self.routes.count()],
            since: Some(StatusChange {
                head: None,
                tunnels: changed_tunnels,
                removed_tunnels,
                routes: changed_routes,
                removed_routes,
            }),
        };
        stored.encode_to_vec()
    }

    /// `None` for what is damaged, or was kept by another version: the gateway will say it again.
    pub fn from_octets(octets: &[u8]) -> Option<Self> {
        let stored = Stored::decode(octets).ok()?;
        let since = stored.since.unwrap_or_default();
        let [tunnels, routes] = stored.counts.try_into().ok()?;
        Some(Self {
            head: stored.head?,
            tunnels: Part::from_stored(
                (stored.tunnels, tunnels),
                since.tunnels,
                since.removed_tunnels,
            ),
            routes: Part::from_stored((stored.routes, routes), since.routes, since.removed_routes),
            // Nothing is unpacked: there are thousands to be read before anybody is served.
            looks: stored.looks,
        })
    }
}

fn looks(tunnels: &[TunnelStatus]) -> Vec<u32> {
    let mut looks: Vec<u32> = tunnels.iter().map(look).collect();
    looks.sort_by_key(|look| look & NUMBER);
    looks.dedup_by_key(|look| *look & NUMBER);
    looks
}

/// A report on disk.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(message, optional, tag = "1")]
    head: Option<Status>,
    #[prost(bytes = "bytes", tag = "2")]
    tunnels: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    routes: Bytes,
    #[prost(message, optional, tag = "4")]
    since: Option<StatusChange>,
    #[prost(fixed32, repeated, tag = "5")]
    looks: Vec<u32>,
    /// Of tunnels and of routes that are packed.
    #[prost(uint32, repeated, tag = "6")]
    counts: Vec<u32>,
}

#[cfg(test)]
mod tests;
