//! WireGuard: this gateway's key, and what is known of the keys that tunnels agreed on. Pure.

use crate::config::Config;
use crate::state::Link;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use routemesh_proto::{NoKey, PublicKey};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Keys that were agreed on so long ago are not used any more (`REJECT_AFTER_TIME`): while anything is
/// sent, and BGP always sends, others come every two minutes.
const FRESH: Duration = Duration::from_secs(180);

/// The time since the last handshake of each interface that ever had one.
pub type Handshakes = BTreeMap<String, Duration>;

/// A gateway's private key. It never leaves the host.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    /// The 32 bytes: for the kernel and for the gateway's own file, never to be printed.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// In base64, as `wg genkey` writes it: as secret as the bytes.
    pub fn expose_text(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// What others know the gateway by.
    pub fn public(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        x25519_dalek::PublicKey::from(&secret).to_bytes().into()
    }
}

/// Any bytes will do (RFC 7748 section 5). They are cut to size as the kernel does it, which tells of a
/// key only what it made of it.
impl From<[u8; 32]> for PrivateKey {
    fn from(mut bytes: [u8; 32]) -> Self {
        let [first, .., last] = &mut bytes;
        *first &= 0b1111_1000;
        *last = *last & 0b0111_1111 | 0b0100_0000;
        Self(bytes)
    }
}

impl FromStr for PrivateKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let key: PublicKey = text.parse()?;
        Ok((*key.bytes()).into())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Whether the two ends have agreed on keys that are in use.
pub fn is_fresh(handshake: Option<Duration>) -> bool {
    handshake.is_some_and(|age| age < FRESH)
}

/// A peer that has moved is followed by the kernel, to wherever its last authentic packet came from:
/// that is as good as its endpoint. Once nothing is heard of it, its endpoint is what was configured.
pub fn follow(links: &mut BTreeMap<String, Link>, handshakes: &Handshakes, config: &Config) {
    for tunnel in config.tunnels.values() {
        let name = tunnel.link();
        let fresh = is_fresh(handshakes.get(&name).copied());
        let known = tunnel.wireguard.as_ref().filter(|_| fresh);
        let observed = links.get_mut(&name).and_then(|it| it.wireguard.as_mut());
        if let (Some(known), Some(observed)) = (known, observed)
            && let Some(peer) = &mut observed.peer
        {
            peer.endpoint = known.remote;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired;
    use crate::mtu;
    use crate::nat::Nat;
    use crate::preflight::{Ability, Needs};
    use crate::state::{LinkKind, Peer, Place, Side, State, WireGuard};
    use crate::state_dir::read_config;
    use routemesh_proto as proto;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// RFC 7748 section 6.1: Alice's.
    #[test]
    fn a_public_key_follows_from_the_private_one() {
        let private: PrivateKey = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
            .parse()
            .unwrap();
        let public = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        assert_eq!(private.public().to_string(), public);
        assert_eq!(private.expose_text().parse(), Ok(private.clone()));
        assert_eq!(format!("{private:?}"), "(secret)");
        let any = PrivateKey::from([0xff; 32]);
        assert_eq!((any.expose()[0], any.expose()[31]), (0xf8, 0x7f));
        assert_eq!("".parse::<PrivateKey>(), Err(NoKey));
    }

    fn example(gateway: &str) -> Config {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = root.join(format!("../tests/golden/wireguard/{gateway}.toml"));
        Config::try_from(&read_config(&file).unwrap()).unwrap()
    }

    #[test]
    fn an_interface_has_what_its_tunnel_says_and_a_peer_once_its_key_is_known() {
        let config = example("lyon-1");
        let place = Place::default();
        let key = PrivateKey::from([1; 32]);
        let desired = desired::desired(&config, place, &BTreeMap::new(), Some(&key));
        let is = |link: &str| desired.links[link].wireguard.clone();
        let first = is("rm2").unwrap();
        assert_eq!((&first.private_key, first.port), (&key, 26_002));
        let peer = first.peer.unwrap();
        assert_eq!(peer.endpoint.to_string(), "198.51.100.20:20001");
        assert!(peer.public_key.bytes().starts_with(b"oslo-1="));
        // Its far end has told no key.
        assert_eq!(is("rm7").map(|it| it.peer), Some(None));
        // IPsec.
        assert_eq!(is("rm15"), None);

        // Without a key none is made, and those that are there stay; IPsec's are as ever.
        let mut keyless = desired::desired(&config, place, &BTreeMap::new(), None);
        assert!(!keyless.links.contains_key("rm2") && keyless.links.contains_key("rm15"));
        assert!(desired::keep_keyless(&mut keyless, &desired, &config));
        assert_eq!(keyless.links, desired.links);

        // What is wanted no more goes without charon, which has nothing for it, wherever it is.
        let mut kept = State::default();
        desired::keep_links(&mut kept, &desired, None);
        assert!(kept.links.keys().eq(["rm15", "rm16"]));
    }

    #[test]
    fn a_path_carries_a_packet_and_60_or_80_bytes() {
        let mtu = |gateway: &str, link: u32| {
            let config = example(gateway);
            let carriers = mtu::carriers(&config, &Nat::default(), &[]);
            let paths = carriers.values().map(|it| (it.ends, 1500)).collect();
            mtu::mtus(&config, &carriers, &paths, &BTreeMap::new()).0[&link]
        };
        assert_eq!(mtu("lyon-1", 2), 1440);
        let over_ipv6 = example("oslo-2").tunnels.into_values();
        let mut over_ipv6 = over_ipv6.filter(|it| it.remote_endpoint.contains(':'));
        assert_eq!(mtu("oslo-2", over_ipv6.next().unwrap().number), 1420);
    }

    #[test]
    fn where_all_tunnels_are_wireguards_nothing_of_ipsec_is_needed() {
        let needs = |gateway: &str| Needs::of(&example(gateway)).abilities;
        let both = [Ability::Esp, Ability::XfrmInterface, Ability::WireGuard];
        assert!(needs("lyon-1").is_superset(&both.into()));
        assert!(needs("oslo-2").contains(&Ability::WireGuard));
        assert!(!needs("oslo-2").contains(&Ability::Esp));
    }

    #[test]
    fn a_peer_that_moved_is_followed_for_as_long_as_it_is_heard() {
        let tunnel = proto::Tunnel {
            number: 3,
            peer: "V2-1".into(),
            peer_site: "two".into(),
            peer_asn: 65000,
            kind: "wireguard".into(),
            local_endpoint: "192.0.2.1".into(),
            remote_endpoint: "192.0.2.2".into(),
            local_address: "2001:db8:ff::6".into(),
            remote_address: "2001:db8:ff::7".into(),
            wireguard: Some(proto::WireGuard {
                public_key: PublicKey::from([7; 32]).to_string(),
                listen_port: 20_001,
                remote_port: 20_000,
            }),
            ..proto::Tunnel::default()
        };
        let raw = proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            tunnels: vec![tunnel],
            ..proto::Config::default()
        };
        let config = Config::try_from(&raw).unwrap();
        let seen_at = |handshake: Option<u64>| {
            let moved = Peer {
                public_key: [7; 32].into(),
                endpoint: "198.51.100.9:4711".parse().unwrap(),
            };
            let link = Link {
                side: Side::Overlay,
                kind: LinkKind::WireGuard { group: 1 },
                up: true,
                mtu: 1420,
                addresses: BTreeSet::new(),
                wireguard: Some(WireGuard {
                    private_key: [1; 32].into(),
                    port: 20_001,
                    peer: Some(moved),
                }),
            };
            let mut links = [("rm3".to_owned(), link)].into();
            let age = handshake.map(|it| ("rm3".to_owned(), Duration::from_secs(it)));
            follow(&mut links, &age.into_iter().collect(), &config);
            let wireguard = links["rm3"].wireguard.clone();
            wireguard.and_then(|it| it.peer).unwrap().endpoint
        };
        for (handshake, endpoint) in [
            (Some(0), "192.0.2.2:20000"),
            (Some(179), "192.0.2.2:20000"),
            (Some(180), "198.51.100.9:4711"),
            (None, "198.51.100.9:4711"),
        ] {
            assert_eq!(seen_at(handshake).to_string(), endpoint, "{handshake:?}");
        }
    }
}
