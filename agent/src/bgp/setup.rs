//! What BGP is to run with, who of those that connect is a peer, and who may be listened to. Pure.

use crate::bfd::Target;
use crate::probe::ping::Asked;
use ipnet::IpNet;
use routemesh_bgp::{PeerConfig, PeerId, PeerState, PeerStatus, Reach, SpeakerConfig};
use routemesh_proto::Secret;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// Peers that one range has at most at once.
pub const PER_RANGE: usize = 64;

/// What BGP is to run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The speaker, and all peers that there are now.
    pub speaker: SpeakerConfig,
    /// How each of these peers is reached; by default where none is given.
    pub transports: BTreeMap<PeerId, Transport>,
    /// What is reached by ways without a session, while they are alive.
    pub reaches: BTreeMap<PeerId, Reach>,
    /// With whom to have BFD, and how.
    pub bfd: BTreeMap<PeerId, Target>,
    /// Who is asked by echo requests whether a way is alive, and how many may be lost.
    pub pings: BTreeMap<PeerId, (Asked, u32)>,
    /// Who becomes a peer by connecting.
    pub ranges: Vec<Range>,
    /// The peers that are there because they connected from a range.
    pub guests: BTreeSet<PeerId>,
}

/// What TCP has to know of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// The interface that its link-local address is on, by index; 0 for other addresses.
    pub scope: u32,
    /// GTSM (RFC 5082): how many hops away it may be; not checked if `None`.
    pub hops: Option<u8>,
    /// TCP MD5 (RFC 2385).
    pub password: Option<Secret>,
}

impl Transport {
    /// The smallest TTL with which a packet of the peer arrives.
    pub fn minimum_ttl(&self) -> u8 {
        self.hops.map_or(0, |hops| u8::MAX - hops.saturating_sub(1))
    }
}

/// Peers that are known by where they connect from: a prefix, or any link-local address of an
/// interface. Each is a peer for as long as it is connected or its paths are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where they are.
    pub prefix: IpNet,
    /// The interface, where `prefix` is that of link-local addresses.
    pub link: Option<String>,
    /// Our addresses that they may connect to.
    pub locals: BTreeSet<IpAddr>,
    /// What each is; its addresses have no meaning here.
    pub peer: PeerConfig,
    /// How each is reached.
    pub transport: Transport,
}

/// The two addresses of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Ours.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// As in [`Transport::scope`].
    pub scope: u32,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// No peer is there.
    #[error("no peer is configured there")]
    Unknown,
    /// Its range has as many peers as it may.
    #[error("{0} has {PER_RANGE} peers already, the most that a range can have")]
    Full(IpNet),
}

/// What a listener must ask of whoever connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// The smallest TTL of all its peers; each one's own is set on its connection.
    pub minimum_ttl: u8,
    /// Passwords, by whom they are asked of.
    pub passwords: BTreeMap<IpNet, Secret>,
}

impl Range {
    fn admits(&self, ends: Ends) -> bool {
        self.transport.scope == ends.scope
            && self.prefix.contains(&ends.remote)
            && self.locals.contains(&ends.local)
    }
}

impl From<SpeakerConfig> for Setup {
    fn from(speaker: SpeakerConfig) -> Self {
        Self {
            speaker,
            transports: BTreeMap::new(),
            reaches: BTreeMap::new(),
            bfd: BTreeMap::new(),
            pings: BTreeMap::new(),
            ranges: Vec::new(),
            guests: BTreeSet::new(),
        }
    }
}

impl Setup {
    /// Adds a peer; the first one of a name stays.
    pub fn add(&mut self, name: String, peer: PeerConfig, transport: Transport) {
        let id = PeerId::from(name);
        self.transports.entry(id.clone()).or_insert(transport);
        self.speaker.peers.entry(id).or_insert(peer);
    }

    /// How a peer is reached.
    pub fn transport(&self, peer: &PeerId) -> Transport {
        self.transports.get(peer).cloned().unwrap_or_default()
    }

    fn ends(&self, id: &PeerId, peer: &PeerConfig) -> Ends {
        Ends {
            local: peer.local,
            remote: peer.remote,
            scope: self.transports.get(id).map_or(0, |it| it.scope),
        }
    }

    /// The range of the longest prefix.
    fn range(&self, ends: Ends) -> Option<&Range> {
        let ranges = self.ranges.iter().filter(|range| range.admits(ends));
        ranges.max_by_key(|range| range.prefix.prefix_len())
    }

    /// The peer whose connection it is; one who comes from a range is added.
    pub fn admit(&mut self, ends: Ends) -> Result<PeerId, Stranger> {
        let mut peers = self.speaker.peers.iter();
        if let Some((id, _)) = peers.find(|(id, peer)| self.ends(id, peer) == ends) {
            return Ok(id.clone());
        }
        let range = self.range(ends).ok_or(Stranger::Unknown)?.clone();
        let in_range = |id: &&PeerId| {
            let peer = self.speaker.peers.get(id);
            peer.is_some_and(|peer| range.admits(self.ends(id, peer)))
        };
        if self.guests.iter().filter(in_range).count() >= PER_RANGE {
            return Err(Stranger::Full(range.prefix));
        }
        Ok(self.add_guest(ends, range))
    }

    fn add_guest(&mut self, ends: Ends, range: Range) -> PeerId {
        let id = PeerId::from(name(ends.remote, range.link.as_deref()));
        let peer = PeerConfig {
            local: ends.local,
            remote: ends.remote,
            passive: true,
            ..range.peer
        };
        self.speaker.peers.insert(id.clone(), peer);
        self.transports.insert(id.clone(), range.transport);
        self.guests.insert(id.clone());
        id
    }

    /// Keeps those peers of `before` that a range still admits and that are `alive`, as guests.
    pub fn take_over(&mut self, before: &Setup, alive: &BTreeSet<PeerId>) {
        for (id, peer) in &before.speaker.peers {
            let ends = before.ends(id, peer);
            if alive.contains(id)
                && !self.speaker.peers.contains_key(id)
                && let Some(range) = self.range(ends).cloned()
            {
                self.add_guest(ends, range);
            }
        }
    }

    /// Forgets the guests that are not `alive`.
    pub fn dismiss(&mut self, alive: &BTreeSet<PeerId>) {
        for id in &self.guests - alive {
            self.guests.remove(&id);
            self.speaker.peers.remove(&id);
            self.transports.remove(&id);
        }
    }

    /// Where routers are to hear of us, so that they connect or let us connect: our link-local address
    /// and the index of its interface.
    pub fn unnumbered(&self) -> impl Iterator<Item = (Ipv6Addr, u32)> {
        let on_links = self.ranges.iter().filter(|range| range.link.is_some());
        on_links.flat_map(|range| {
            let v6 = range.locals.iter().filter_map(|local| match local {
                IpAddr::V6(local) => Some(*local),
                IpAddr::V4(_) => None,
            });
            v6.map(|local| (local, range.transport.scope))
        })
    }

    /// Where to listen (address and scope), and what to ask there.
    pub fn listeners(&self) -> BTreeMap<(IpAddr, u32), Demands> {
        let mut listeners: BTreeMap<(IpAddr, u32), Demands> = BTreeMap::new();
        let mut add = |local: IpAddr, remote: IpNet, transport: &Transport| {
            let first = Demands {
                minimum_ttl: u8::MAX,
                ..Demands::default()
            };
            let demands = listeners.entry((local, transport.scope)).or_insert(first);
            demands.minimum_ttl = demands.minimum_ttl.min(transport.minimum_ttl());
            if let Some(password) = &transport.password {
                demands.passwords.insert(remote, password.clone());
            }
        };
        let static_peers = self.speaker.peers.iter();
        for (id, peer) in static_peers.filter(|(id, _)| !self.guests.contains(id)) {
            add(peer.local, peer.remote.into(), &self.transport(id));
        }
        for range in &self.ranges {
            for local in &range.locals {
                add(*local, range.prefix, &range.transport);
            }
        }
        listeners
    }
}

/// A LAN peer's name: its address, with the interface where that is needed to find it.
pub fn name(address: IpAddr, link: Option<&str>) -> String {
    match link {
        Some(link) => format!("{address}%{link}"),
        None => address.to_string(),
    }
}

/// The interface in a peer's [`name`], where there is one.
pub fn link_of(name: &str) -> Option<&str> {
    name.split_once('%').map(|(_, link)| link)
}

/// The peers that are connected, are being kept out after an error, or whose paths are kept.
pub fn alive(peers: impl Iterator<Item = PeerStatus>) -> BTreeSet<PeerId> {
    let away = |peer: &PeerStatus| {
        matches!(peer.state, PeerState::Connect | PeerState::Active) && peer.stale.is_empty()
    };
    peers.filter(|peer| !away(peer)).map(|it| it.peer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ends(remote: &str) -> Ends {
        let (remote, scope) = match remote.split_once('%') {
            Some((address, scope)) => (ip(address), scope.parse().unwrap()),
            None => (ip(remote), 0),
        };
        let local = match (remote.is_ipv4(), scope) {
            (true, _) => ip("172.16.1.1"),
            (false, 0) => ip("fd00:1::1"),
            (false, _) => ip("fe80::1"),
        };
        Ends {
            local,
            remote,
            scope,
        }
    }

    fn transport(scope: u32, hops: Option<u8>, password: &str) -> Transport {
        Transport {
            scope,
            hops,
            password: (!password.is_empty()).then(|| password.into()),
        }
    }

    fn range(prefix: &str, local: &str, asn: u32, transport: Transport) -> Range {
        let prefix: IpNet = prefix.parse().unwrap();
        Range {
            prefix,
            link: (transport.scope != 0).then(|| "lan0".to_owned()),
            locals: BTreeSet::from([ip(local)]),
            peer: PeerConfig::new(asn, prefix.addr(), prefix.addr()),
            transport,
        }
    }

    /// One peer of its own address; a range with a narrower one in it; an interface, number 7.
    fn setup() -> Setup {
        let speaker = SpeakerConfig {
            asn: 65000,
            router_id: "192.0.2.1".parse().unwrap(),
            restart_time: Duration::from_secs(120),
            deferral_time: Duration::from_secs(30),
            peers: BTreeMap::new(),
        };
        let mut setup = Setup::from(speaker);
        let peer = PeerConfig::new(65001, ip("172.16.1.1"), ip("172.16.1.2"));
        setup.add("172.16.1.2".into(), peer, transport(0, Some(2), "two"));
        setup.ranges = vec![
            range("172.16.0.0/16", "172.16.1.1", 65002, transport(0, None, "")),
            range(
                "172.16.1.128/25",
                "172.16.1.1",
                65003,
                transport(0, Some(1), "narrow"),
            ),
            range("fe80::/10", "fe80::1", 65004, transport(7, Some(1), "")),
        ];
        setup
    }

    fn admit(setup: &mut Setup, remote: &str) -> Result<(String, u32, bool), Stranger> {
        let id = setup.admit(ends(remote))?;
        let peer = &setup.speaker.peers[&id];
        assert_eq!(peer.remote, ends(remote).remote);
        assert_eq!(peer.local, ends(remote).local);
        Ok((id.to_string(), peer.asn, peer.passive))
    }

    #[test]
    fn whose_connection_it_is() {
        let mut setup = setup();
        let table = [
            ("172.16.1.2", Ok(("172.16.1.2", 65001, false))),
            ("172.16.1.3", Ok(("172.16.1.3", 65002, true))),
            ("172.16.1.200", Ok(("172.16.1.200", 65003, true))),
            // Again: no second peer.
            ("172.16.1.200", Ok(("172.16.1.200", 65003, true))),
            ("fe80::2%7", Ok(("fe80::2%lan0", 65004, true))),
            ("fe80::2%8", Err(Stranger::Unknown)),
            ("172.17.0.1", Err(Stranger::Unknown)),
            ("fd00:1::2", Err(Stranger::Unknown)),
        ];
        for (remote, expected) in table {
            let expected = expected.map(|(name, asn, passive)| (name.to_owned(), asn, passive));
            assert_eq!(admit(&mut setup, remote), expected, "{remote}");
        }
        assert_eq!((setup.speaker.peers.len(), setup.guests.len()), (4, 3));
        // Not to any address of ours: the session's own is the next hop that is announced.
        let elsewhere = Ends {
            local: ip("10.0.0.1"),
            ..ends("172.16.1.9")
        };
        assert_eq!(setup.admit(elsewhere), Err(Stranger::Unknown));
    }

    #[test]
    fn a_full_range_takes_nobody_and_another_still_does() {
        let mut setup = setup();
        for last in 3..3 + PER_RANGE {
            admit(&mut setup, &format!("172.16.1.{last}")).unwrap();
        }
        let full = Err(Stranger::Full("172.16.0.0/16".parse().unwrap()));
        assert_eq!(admit(&mut setup, "172.16.2.1"), full);
        admit(&mut setup, "172.16.1.3").expect("who is there already");
        admit(&mut setup, "172.16.1.2").expect("not of the range");
        admit(&mut setup, "172.16.1.200").expect("of another range");
        setup.dismiss(&BTreeSet::new());
        admit(&mut setup, "172.16.2.1").expect("room again");
    }

    #[test]
    fn guests_stay_while_they_live_and_are_admitted() {
        let mut before = setup();
        for remote in ["172.16.1.3", "172.16.1.4", "172.16.1.200", "fe80::2%7"] {
            admit(&mut before, remote).unwrap();
        }
        let ids = |names: &[&str]| names.iter().map(|name| PeerId::from(*name)).collect();
        let alive: BTreeSet<PeerId> =
            ids(&["172.16.1.2", "172.16.1.3", "172.16.1.200", "fe80::2%lan0"]);

        let mut same = setup();
        same.take_over(&before, &alive);
        assert_eq!(
            same.guests,
            ids(&["172.16.1.200", "172.16.1.3", "fe80::2%lan0"])
        );

        // The narrow range is gone, and so is the peer with an address of its own.
        let mut next = setup();
        next.ranges.remove(1);
        next.speaker.peers.clear();
        next.take_over(&before, &alive);
        assert_eq!(next.guests, alive);
        let peers = &next.speaker.peers;
        assert!(peers.values().all(|p| p.passive && p.asn != 65003));

        next.dismiss(&ids(&["172.16.1.3"]));
        assert_eq!(next.guests, ids(&["172.16.1.3"]));
        assert_eq!((peers_of(&next), next.transports.len()), (1, 1));
    }

    fn peers_of(setup: &Setup) -> usize {
        setup.speaker.peers.len()
    }

    #[test]
    fn a_listener_asks_everyone_for_what_each_must_show() {
        let mut setup = setup();
        admit(&mut setup, "172.16.1.200").unwrap();
        let listeners = setup.listeners();
        assert_eq!(listeners.len(), 2);
        let v4 = &listeners[&(ip("172.16.1.1"), 0)];
        // Somebody in the wide range may be far away.
        assert_eq!(v4.minimum_ttl, 0);
        let passwords = [("172.16.1.2/32", "two"), ("172.16.1.128/25", "narrow")];
        let passwords = passwords.map(|(net, text)| (net.parse().unwrap(), text.into()));
        assert_eq!(v4.passwords, passwords.into());
        let v6 = &listeners[&(ip("fe80::1"), 7)];
        assert_eq!((v6.minimum_ttl, v6.passwords.len()), (255, 0));

        setup.ranges.remove(0);
        assert_eq!(
            setup.listeners()[&(ip("172.16.1.1"), 0)].minimum_ttl,
            254,
            "two hops away at most"
        );
    }

    #[test]
    fn hops_become_a_smallest_ttl() {
        let minimum = |hops| transport(0, hops, "").minimum_ttl();
        assert_eq!(
            [None, Some(0), Some(1), Some(2), Some(254), Some(255)].map(minimum),
            [0, 255, 255, 254, 2, 1]
        );
    }
}
