//! What the kernel has: ours as the maps of [`State`](crate::state::State), and of the rest what
//! decisions need.

use super::link::{self, Address, Interface};
use super::nexthop::{self, Kind};
use super::route::{self, Route};
use super::socket::{Channel, Refusal, Request};
use super::{Error, Kernel};
use crate::state::{Group, Link, Nexthop, NexthopId, RouteKey, Side, Target, ours};
use crate::wireguard::Handshakes;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use nix::errno::Errno;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use tokio::sync::mpsc;

/// By family, for listings of routes.
const FAMILIES: [(&str, AddressFamily); 2] = [
    ("list IPv4 routes", AddressFamily::Inet),
    ("list IPv6 routes", AddressFamily::Inet6),
];
/// Pieces of a listing that may wait.
const PIECES: usize = 4;

/// The kernel's state at one time, or nearly: the listings are taken one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Our tunnel interfaces, as in [`State::links`](crate::state::State::links).
    pub links: BTreeMap<String, Link>,
    /// Our nexthops, as in [`State::nexthops`](crate::state::State::nexthops).
    pub nexthops: BTreeMap<NexthopId, Nexthop>,
    /// Our groups, as in [`State::groups`](crate::state::State::groups).
    pub groups: BTreeMap<NexthopId, Group>,
    /// Our routes, as in [`State::routes`](crate::state::State::routes). One of a shape we never
    /// make has the target group 0.
    pub routes: BTreeMap<RouteKey, Target>,
    /// What the overlay's interfaces reach without a router, from which own address and through
    /// which interface; sorted, without loopback and link-local addresses.
    pub connected: Vec<(IpNet, IpAddr, String)>,
    /// The overlay interfaces that have link-local addresses: the index of each, and the lowest.
    pub link_local: BTreeMap<String, (u32, Ipv6Addr)>,
    /// Unicast routes of the overlay's own table that are not ours, with their protocol: what may
    /// be announced. Of several to one destination, that of the best metric. Without those that
    /// cannot carry packets now (no carrier), link-local and multicast ones, and our interconnects.
    pub foreign: BTreeMap<IpNet, u8>,
    /// All overlay interfaces: the index of each, and whether it is up and has a carrier.
    pub link_state: BTreeMap<String, (u32, bool)>,
    /// All addresses of the underlay's interfaces.
    pub outer: BTreeSet<IpAddr>,
    /// Ids in our range that strangers hold.
    pub taken: BTreeSet<NexthopId>,
    /// When WireGuard interfaces last agreed on keys.
    pub handshakes: Handshakes,
}

impl Kernel {
    /// Lists everything, with the routes of these tables beside the overlay's own. Causes no
    /// [event](super::Event).
    pub async fn observe(&self, tables: &BTreeSet<u32>) -> Result<Observed, Error> {
        let mut observed = self.objects().await?;
        let mut foreign = Foreign::new(&observed.links, self.table());
        let mut listing = self.routes(tables);
        while let Some(piece) = listing.recv().await {
            for route in piece? {
                match route.is_ours() {
                    true => observed.add_route(&route),
                    false => foreign.add(&route),
                }
            }
        }
        observed.foreign = foreign.best();
        Ok(observed)
    }

    /// Lists what is ours, with our routes of these tables.
    pub(super) async fn ours(&self, tables: &BTreeSet<u32>) -> Result<Observed, Error> {
        let mut observed = self.objects().await?;
        for table in tables {
            for (what, family) in FAMILIES {
                let dump = route::dump_ours(family, *table);
                let routes = list(&self.overlay, what, dump, route::decode).await?;
                let ours = routes.iter().filter(|route| route.is_ours());
                ours.for_each(|route| observed.add_route(route));
            }
        }
        Ok(observed)
    }

    /// Lists the routes of the overlay's own table and of these, ours and others, in pieces. What is
    /// written meanwhile is in it or not. After an error nothing more comes.
    pub fn routes(&self, tables: &BTreeSet<u32>) -> mpsc::Receiver<Result<Vec<Route>, Error>> {
        let (pieces, listing) = mpsc::channel(PIECES);
        let channel = self.listings.clone();
        let mut tables = tables.clone();
        tables.insert(self.table());
        let dumps = FAMILIES.into_iter().flat_map(move |(what, family)| {
            let dumps = tables.clone().into_iter();
            dumps.map(move |table| (what, route::dump(family, table)))
        });
        tokio::spawn(async move {
            for (what, dump) in dumps {
                let (sender, mut some) = mpsc::channel(PIECES);
                let dumped = channel.stream(dump, route::decode, sender);
                let passed = async {
                    while let Some(piece) = some.recv().await {
                        let _ = pieces.send(Ok(piece)).await;
                    }
                };
                match tokio::join!(dumped, passed).0 {
                    Err(refusal) if refusal.errno != Errno::ENOENT => {
                        // Whoever asked may have gone.
                        let _ = pieces.send(Err(Error::Refused { what, refusal })).await;
                        return;
                    }
                    // A table that does not exist yet is empty.
                    _ => {}
                }
            }
        });
        listing
    }

    /// The overlay's tables in which there are routes of ours: none of them is without `unreachable`
    /// ones, of which there are few. The kernel goes through all routes of all tables to find them:
    /// for the start and the end, not for every day.
    pub async fn tables(&self) -> Result<BTreeSet<u32>, Error> {
        let mut tables = BTreeSet::new();
        for (what, family) in FAMILIES {
            let dump = route::dump_barriers(family);
            let ours = list(&self.listings, what, dump, route::decode).await?;
            tables.extend(ours.iter().filter(|it| it.is_ours()).map(|it| it.key.table));
        }
        Ok(tables)
    }

    /// Lists everything but routes.
    pub async fn objects(&self) -> Result<Observed, Error> {
        let interfaces = list(&self.overlay, "list links", link::dump(), link::decode).await?;
        let interfaces: Interfaces = interfaces.into_iter().map(|i| (i.index, i)).collect();
        let addresses = addresses(&self.overlay).await?;
        let nexthops = list(
            &self.overlay,
            "list nexthops",
            nexthop::dump(),
            nexthop::decode,
        )
        .await?;
        let mut observed = Observed::default();
        observed.add_nexthops(nexthops, &interfaces);
        let inside = |interface: &Interface| self.vrf.as_ref().is_none_or(|it| it.has(interface));
        let (inside, outside) = interfaces.into_iter().partition(|(_, it)| inside(it));
        observed.add_links(Side::Overlay, &inside, &addresses);
        observed.add_neighbourhood(&inside, &addresses);
        observed.add_links(Side::Underlay, &outside, &addresses);
        if self.same {
            observed.outer = own(&addresses);
        } else {
            let what = "list links in the underlay";
            let interfaces = list(&self.underlay, what, link::dump(), link::decode).await?;
            let interfaces: Interfaces = interfaces.into_iter().map(|i| (i.index, i)).collect();
            let addresses = self::addresses(&self.underlay).await?;
            observed.add_links(Side::Underlay, &interfaces, &addresses);
            observed.outer = own(&addresses);
        }
        observed.handshakes = self.look_at_wireguard(&mut observed.links).await?;
        Ok(observed)
    }
}

type Interfaces = BTreeMap<u32, Interface>;
type Addresses = BTreeMap<u32, Vec<Address>>;

/// A listing; of a table that does not exist yet, it is empty.
pub(super) async fn list<T: Send + 'static>(
    channel: &Channel,
    what: &'static str,
    request: Request,
    decode: fn(u16, &[u8]) -> Option<T>,
) -> Result<Vec<T>, Error> {
    match channel.dump(request, decode).await {
        Err(Refusal {
            errno: Errno::ENOENT,
            ..
        }) => Ok(Vec::new()),
        result => result.map_err(|refusal| Error::Refused { what, refusal }),
    }
}

/// By interface index.
async fn addresses(channel: &Channel) -> Result<Addresses, Error> {
    let request = link::dump_addresses();
    let mut addresses = Addresses::new();
    for address in list(channel, "list addresses", request, link::decode_address).await? {
        addresses.entry(address.index).or_default().push(address);
    }
    Ok(addresses)
}

fn own(addresses: &Addresses) -> BTreeSet<IpAddr> {
    let all = addresses.values().flatten();
    all.map(|address| address.own.addr()).collect()
}

impl Observed {
    fn add_route(&mut self, route: &Route) {
        match self.routes.entry(route.key) {
            Entry::Vacant(place) => drop(place.insert(route.target())),
            // The kernel can hold more than one of a key; we never make such.
            Entry::Occupied(mut place) => drop(place.insert(Target::Group(NexthopId(0)))),
        }
    }

    /// Where a link of ours is in both namespaces, the overlay's counts: call with that first.
    fn add_links(&mut self, side: Side, interfaces: &Interfaces, addresses: &Addresses) {
        for (index, interface) in interfaces {
            let Some(kind) = interface.ours.clone() else {
                continue;
            };
            let own = addresses.get(index).into_iter().flatten();
            self.links
                .entry(interface.name.clone())
                .or_insert_with(|| Link {
                    side,
                    kind,
                    up: interface.up,
                    mtu: interface.mtu,
                    addresses: own
                        .map(|a| a.own)
                        .filter(|own| !is_link_local(own))
                        .collect(),
                    wireguard: None,
                });
        }
    }

    fn add_neighbourhood(&mut self, interfaces: &Interfaces, addresses: &Addresses) {
        for (index, interface) in interfaces {
            self.link_state
                .insert(interface.name.clone(), (*index, interface.usable));
            if interface.loopback {
                continue;
            }
            let own = || addresses.get(index).into_iter().flatten();
            let link_local = own().filter_map(|address| match address.own.addr() {
                IpAddr::V6(own) if own.is_unicast_link_local() => Some(own),
                _ => None,
            });
            if let Some(lowest) = link_local.min() {
                self.link_local
                    .insert(interface.name.clone(), (*index, lowest));
            }
            for address in own().filter(|address| !is_nowhere(&address.on_link)) {
                let own = address.own.addr();
                self.connected
                    .push((address.on_link, own, interface.name.clone()));
            }
        }
        self.connected.sort();
        self.connected.dedup();
    }

    fn add_nexthops(&mut self, nexthops: Vec<nexthop::Entry>, interfaces: &Interfaces) {
        for entry in nexthops {
            if !entry.is_ours() {
                self.taken
                    .extend(ours::NEXTHOPS.contains(&entry.id.0).then_some(entry.id));
                continue;
            }
            let name = |index| {
                let found = interfaces.get(&index);
                found
                    .map(|interface| interface.name.clone())
                    .unwrap_or_default()
            };
            match entry.kind {
                Kind::Group(group) => {
                    self.groups.insert(entry.id, group);
                }
                Kind::Via(gateway, index) => {
                    self.nexthops.insert(
                        entry.id,
                        Nexthop {
                            gateway,
                            link: name(index),
                        },
                    );
                }
                // Nothing anybody desires, so that it is replaced.
                Kind::Other => {
                    let gateway = Ipv6Addr::UNSPECIFIED.into();
                    self.nexthops.insert(
                        entry.id,
                        Nexthop {
                            gateway,
                            link: String::new(),
                        },
                    );
                }
            }
        }
    }
}

/// Routes of other programs that may be announced: of several to one destination, the one of the
/// best metric.
#[derive(Debug, Default)]
pub struct Foreign {
    table: u32,
    interconnects: BTreeSet<IpNet>,
    best: BTreeMap<IpNet, (u32, u8)>,
}

impl Foreign {
    /// None yet of this table. Our own links' subnets are nobody else's.
    pub fn new(links: &BTreeMap<String, Link>, table: u32) -> Self {
        let addresses = links.values().flat_map(|link| &link.addresses);
        Self {
            table,
            interconnects: addresses.map(IpNet::trunc).collect(),
            best: BTreeMap::new(),
        }
    }

    /// One more, not ours; those of the table count.
    pub fn add(&mut self, route: &Route) {
        let here = route.key.table == self.table;
        if here && route.is_announceable() && !self.interconnects.contains(&route.key.prefix) {
            let candidate = (route.key.metric, route.protocol);
            let held = self.best.entry(route.key.prefix).or_insert(candidate);
            *held = candidate.min(*held);
        }
    }

    /// Destinations and protocols.
    pub fn best(self) -> BTreeMap<IpNet, u8> {
        let best = self.best.into_iter();
        best.map(|(prefix, (_, protocol))| (prefix, protocol))
            .collect()
    }
}

impl Route {
    fn is_announceable(&self) -> bool {
        let prefix = &self.key.prefix;
        let address = prefix.network();
        let nowhere = is_link_local(prefix) || address.is_multicast() || address.is_loopback();
        self.kind == nix::libc::RTN_UNICAST && !self.dead && !nowhere
    }
}

/// Reaches nobody else: of a VRF, its loopback addresses.
fn is_nowhere(prefix: &IpNet) -> bool {
    is_link_local(prefix) || prefix.addr().is_loopback()
}

fn is_link_local(prefix: &IpNet) -> bool {
    match prefix.addr() {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
