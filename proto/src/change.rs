//! How one config becomes the next: [`diff`] and [`patch`] are each other's inverse.

use crate::{Change, Config, Site, Status, StatusChange, Tunnel};
use prost::Message;
use std::collections::BTreeMap;

/// A change that does not fit the config at hand. The cure is to ask for the whole config.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("change from generation {from} does not fit the config of generation {held}")]
pub struct ChangeError {
    from: u64,
    held: u64,
}

impl Config {
    /// What two configs of equal content have in common, generation included.
    ///
    /// FNV-1a over the encoding, whose field order is fixed: it tells equal from different, it
    /// protects against nobody.
    pub fn digest(&self) -> String {
        let hash = self
            .encode_to_vec()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        format!("{hash:016x}")
    }

    fn header(&self) -> Config {
        // The long lists are not to be copied.
        let Self {
            generation: _,
            gateway,
            site,
            asn,
            router_id,
            overlay,
            announce,
            hold_time,
            sites: _,
            routers,
            tunnels: _,
            bfd,
            firewall,
            services,
            ipsec_from,
            drain,
            hash,
            resilient,
            table,
            metric,
            identity,
        } = self;
        Config {
            generation: 0,
            gateway: gateway.clone(),
            site: site.clone(),
            asn: *asn,
            router_id: router_id.clone(),
            overlay: overlay.clone(),
            announce: announce.clone(),
            hold_time: *hold_time,
            sites: Vec::new(),
            routers: routers.clone(),
            tunnels: Vec::new(),
            bfd: *bfd,
            firewall: firewall.clone(),
            services: services.clone(),
            ipsec_from: ipsec_from.clone(),
            drain: *drain,
            hash: hash.clone(),
            resilient: *resilient,
            table: *table,
            metric: *metric,
            identity: identity.clone(),
        }
    }

    fn sites_by_name(&self) -> BTreeMap<&str, &Site> {
        self.sites.iter().map(|it| (it.name.as_str(), it)).collect()
    }

    fn by_number(&self) -> BTreeMap<u32, &Tunnel> {
        self.tunnels.iter().map(|t| (t.number, t)).collect()
    }
}

impl Change {
    /// It leads to what was there before.
    pub fn is_nothing(&self) -> bool {
        let Self {
            from,
            generation,
            header,
            tunnels,
            removed,
            sites,
            removed_sites,
        } = self;
        from == generation
            && header.is_none()
            && tunnels.is_empty()
            && removed.is_empty()
            && sites.is_empty()
            && removed_sites.is_empty()
    }
}

/// The change that turns `old` into `new`.
pub fn diff(old: &Config, new: &Config) -> Change {
    let header = new.header();
    let (tunnels, removed) = changed(&old.tunnels, &new.tunnels, |it| it.number);
    let (sites, removed_sites) = changed(&old.sites, &new.sites, |it| it.name.clone());
    Change {
        from: old.generation,
        generation: new.generation,
        header: (header != old.header()).then_some(header),
        tunnels,
        removed,
        sites,
        removed_sites,
    }
}

/// The config after `change`; tunnels come out ordered by number, and sites by name.
pub fn patch(old: &Config, change: &Change) -> Result<Config, ChangeError> {
    if change.from != old.generation {
        return Err(ChangeError {
            from: change.from,
            held: old.generation,
        });
    }
    let mut tunnels = old.by_number();
    for number in &change.removed {
        tunnels.remove(number);
    }
    tunnels.extend(change.tunnels.iter().map(|t| (t.number, t)));
    let mut sites = old.sites_by_name();
    for name in &change.removed_sites {
        sites.remove(name.as_str());
    }
    sites.extend(change.sites.iter().map(|it| (it.name.as_str(), it)));
    Ok(Config {
        generation: change.generation,
        tunnels: tunnels.into_values().cloned().collect(),
        sites: sites.into_values().cloned().collect(),
        ..change.header.clone().unwrap_or_else(|| old.header())
    })
}

/// The change that turns one report into another; tunnels and routes may come to stand in another order.
pub fn status_diff(old: &Status, new: &Status) -> StatusChange {
    let head = Status {
        tunnels: Vec::new(),
        routes: Vec::new(),
        ..new.clone()
    };
    let same = head
        == Status {
            tunnels: Vec::new(),
            routes: Vec::new(),
            ..old.clone()
        };
    let (tunnels, removed_tunnels) = changed(&old.tunnels, &new.tunnels, |it| it.number);
    let (routes, removed_routes) = changed(&old.routes, &new.routes, |it| it.prefix.clone());
    StatusChange {
        head: (!same).then_some(head),
        tunnels,
        removed_tunnels,
        routes,
        removed_routes,
    }
}

/// What is new or other, and the keys of what is gone.
fn changed<T: Clone + PartialEq, K: Ord>(
    old: &[T],
    new: &[T],
    key: impl Fn(&T) -> K,
) -> (Vec<T>, Vec<K>) {
    let mut gone: BTreeMap<K, &T> = old.iter().map(|it| (key(it), it)).collect();
    let changed = new.iter().filter(|it| gone.remove(&key(it)) != Some(it));
    let changed = changed.cloned().collect();
    (changed, gone.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config() -> impl Strategy<Value = Config> {
        let tunnels = proptest::collection::btree_map(0u32..6, "[ab]", 0..5);
        let sites = proptest::collection::btree_map("[a-d]", any::<bool>(), 0..4);
        (1u64..4, "[xy]", tunnels, sites).prop_map(|(generation, overlay, tunnels, sites)| Config {
            generation,
            overlay,
            sites: sites
                .into_iter()
                .map(|(name, barred)| Site {
                    name,
                    barred,
                    ..Site::default()
                })
                .collect(),
            tunnels: tunnels
                .into_iter()
                .map(|(number, peer)| Tunnel {
                    number,
                    peer,
                    ..Tunnel::default()
                })
                .collect(),
            ..Config::default()
        })
    }

    proptest! {
        #[test]
        fn patch_undoes_diff(old in config(), new in config()) {
            let change = diff(&old, &new);
            prop_assert_eq!(patch(&old, &change), Ok(new));
        }

        #[test]
        fn only_what_changed_travels(mut old in config(), peer in "[cd]") {
            old.tunnels.push(Tunnel { number: 9, ..Tunnel::default() });
            let mut new = old.clone();
            new.generation += 1;
            new.tunnels.last_mut().unwrap().peer = peer;
            new.sites.push(Site { name: "new".to_owned(), ..Site::default() });
            let change = diff(&old, &new);
            prop_assert_eq!((change.tunnels.len(), change.sites.len()), (1, 1));
            prop_assert_eq!((change.header, change.removed), (None, vec![]));
        }
    }

    #[test]
    fn a_change_from_another_generation_is_refused() {
        let change = Change {
            from: 2,
            ..Change::default()
        };
        let held = Config {
            generation: 1,
            ..Config::default()
        };
        assert_eq!(patch(&held, &change), Err(ChangeError { from: 2, held: 1 }));
    }

    #[test]
    fn a_config_is_also_toml() {
        let text = "gateway = \"V1-1\"\n[[tunnels]]\nnumber = 3\npeer = \"V2-1\"\n";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(config.tunnels[0].peer, "V2-1");
        let again: Config = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
        assert!(toml::from_str::<Config>("gatewey = \"V1-1\"").is_err());
    }
}
