//! Tunnels that traffic is to leave before something is done to them, besides those that an operator
//! drains: make before break, by BGP (RFC 8326). Pure.
//!
//! A tunnel that the config has no more, to a peer that still has others, was replaced: an endpoint got
//! another address, or one of several went. It stays for a while, drained, so that the new one is there
//! before it goes, at both ends, which do not get their configs in the same moment. A peer that is gone
//! altogether loses its tunnels at once.

use crate::config::{Config, Tunnel};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a tunnel that was replaced stays.
pub const STAY: Duration = Duration::from_secs(20);

/// What is left of earlier configs.
#[derive(Debug, Default)]
pub struct Leaving {
    /// The last config's tunnels.
    known: BTreeMap<u32, Tunnel>,
    /// Those that were replaced, and until when they stay.
    replaced: BTreeMap<u32, (Tunnel, Instant)>,
}

impl Leaving {
    /// Adds to a config what stays of earlier ones, and drains that and the connections that are about
    /// to be keyed anew; says when the first of what stays goes.
    pub fn adapt(
        &mut self,
        config: &mut Config,
        yielding: &BTreeSet<String>,
        now: Instant,
    ) -> Option<Instant> {
        if self.known != config.tunnels {
            let known = std::mem::replace(&mut self.known, config.tunnels.clone());
            let until = now + STAY;
            for (number, tunnel) in known {
                self.replaced.entry(number).or_insert((tunnel, until));
            }
            let others = |tunnel: &Tunnel| {
                let mut all = config.tunnels.values();
                all.any(|it| (&it.peer, &it.peer_site) == (&tunnel.peer, &tunnel.peer_site))
            };
            // A foreign peer would not know what to do with it.
            let stays = |number: &u32, it: &Tunnel| {
                !config.tunnels.contains_key(number) && others(it) && it.abroad().is_none()
            };
            self.replaced.retain(|number, (it, _)| stays(number, it));
        }
        self.replaced.retain(|_, (_, until)| *until > now);
        for (number, (tunnel, _)) in &self.replaced {
            config.tunnels.insert(*number, tunnel.clone());
        }
        for (number, tunnel) in &mut config.tunnels {
            tunnel.drain |= self.replaced.contains_key(number);
            tunnel.drain |= yielding.contains(&tunnel.connection());
        }
        self.replaced.values().map(|(_, until)| *until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_proto as proto;

    fn config(tunnels: &[(u32, &str)]) -> Config {
        let tunnel = |(number, peer): &(u32, &str)| proto::Tunnel {
            number: *number,
            peer: (*peer).to_owned(),
            peer_site: "two".into(),
            peer_asn: 65000,
            kind: "xfrm".into(),
            local_endpoint: "192.0.2.1".into(),
            remote_endpoint: "192.0.2.2".into(),
            local_address: format!("fd00::{:x}", 2 * number),
            remote_address: format!("fd00::{:x}", 2 * number + 1),
            ..Default::default()
        };
        let raw = proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            tunnels: tunnels.iter().map(tunnel).collect(),
            ..Default::default()
        };
        Config::try_from(&raw).unwrap()
    }

    /// The tunnels after adapting, and whether they are drained.
    fn after(leaving: &mut Leaving, tunnels: &[(u32, &str)], now: Instant) -> Vec<(u32, bool)> {
        let mut config = config(tunnels);
        leaving.adapt(&mut config, &BTreeSet::new(), now);
        let tunnels = config.tunnels.iter();
        tunnels.map(|(number, it)| (*number, it.drain)).collect()
    }

    #[test]
    fn a_tunnel_that_was_replaced_stays_for_a_while_drained() {
        let now = Instant::now();
        let mut leaving = Leaving::default();
        let (old, new) = ([(1, "V2-1"), (3, "V2-2")], [(1, "V2-1"), (15, "V2-2")]);
        assert_eq!(after(&mut leaving, &old, now), [(1, false), (3, false)]);
        let both = [(1, false), (3, true), (15, false)];
        assert_eq!(after(&mut leaving, &new, now), both);
        let mut raw = config(&new);
        let due = leaving.adapt(&mut raw, &BTreeSet::new(), now + STAY / 2);
        assert_eq!(due, Some(now + STAY));
        // A config that changes nothing of it does not make it stay for longer.
        let more = [(1, "V2-1"), (15, "V2-2"), (20, "V2-3")];
        assert_eq!(after(&mut leaving, &more, now + STAY / 2).len(), 4);
        assert_eq!(after(&mut leaving, &more, now + STAY).len(), 3);
    }

    #[test]
    fn one_that_comes_back_is_as_it_was() {
        let now = Instant::now();
        let mut leaving = Leaving::default();
        let (old, new) = ([(3, "V2-2")], [(15, "V2-2")]);
        after(&mut leaving, &old, now);
        after(&mut leaving, &new, now);
        let back = after(&mut leaving, &old, now);
        assert_eq!(back, [(3, false), (15, true)]);
    }

    #[test]
    fn a_peer_that_is_gone_loses_its_tunnels_at_once() {
        let now = Instant::now();
        let mut leaving = Leaving::default();
        after(&mut leaving, &[(1, "V2-1"), (3, "V2-2")], now);
        after(&mut leaving, &[(1, "V2-1"), (15, "V2-2")], now);
        assert_eq!(after(&mut leaving, &[(1, "V2-1")], now), [(1, false)]);
    }

    #[test]
    fn what_is_about_to_be_keyed_anew_is_drained() {
        let mut config = config(&[(1, "V2-1"), (3, "V2-2")]);
        let yielding = BTreeSet::from(["rm3-V2-2".to_owned()]);
        let due = Leaving::default().adapt(&mut config, &yielding, Instant::now());
        let drained = config.tunnels.values().map(|it| it.drain);
        assert_eq!((drained.collect(), due), (vec![false, true], None));
    }
}
