//! How large a packet each tunnel carries: what its path carries, less what its SA adds.
//!
//! An interface of the right size says so itself, at once and in both families, where one that is
//! too large leaves it to path MTU discovery to find out, by packets that are lost.

use crate::charon::installed;
use crate::config::{Config, Tunnel};
use crate::kernel::Ends;
use crate::nat::Nat;
use crate::problem::remark;
use crate::state::Link;
use crate::vici::IkeSa;
use routemesh_proto::{Esp, Outer, Problem};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv6 needs this much of an interface (RFC 8200 section 5), and ours have IPv6 addresses.
pub const IPV6_MINIMUM: u32 = 1280;
/// Before what IP-TFS puts into an ESP packet (RFC 9347 section 6.1): so much less, and no packet has
/// to be cut in two.
const AGGFRAG: u32 = 4;
/// What a path carries where nothing is known of it.
const USUAL: u32 = 1500;

/// WireGuard's header and tag, and UDP's header. It fills packets up to 16 bytes, but not beyond the MTU.
const WIREGUARD: u32 = 16 + 16 + 8;

/// What carries a tunnel's packets: the shape of outer packets, and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carrier {
    /// Outer addresses in use.
    pub ends: Ends,
    shape: Shape,
}

/// What is around a tunnel's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Esp {
        esp: Esp,
        outer: Outer,
        /// Of the payload, before the packet: [`AGGFRAG`] or nothing.
        header: u32,
    },
    WireGuard,
}

/// The carriers of the tunnels that have an SA or need none, by number of the tunnel. Of several SAs, as
/// while one is replaced, the one whose packets are largest.
pub fn carriers(config: &Config, nat: &Nat, sas: &[IkeSa]) -> BTreeMap<u32, Carrier> {
    let of = |tunnel: &Tunnel| {
        if let Some(wireguard) = &tunnel.wireguard {
            let local = match (nat.translates(tunnel), wireguard.local.ip()) {
                (false, local) => local,
                (true, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
                (true, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
            };
            return Some(Carrier {
                ends: (local, wireguard.remote.ip()),
                shape: Shape::WireGuard,
            });
        }
        let name = tunnel.connection();
        let mine = sas.iter().filter(|sa| sa.connection == name);
        let all = mine.flat_map(|sa| {
            let children = installed(sa, tunnel).filter_map(|child| child.esp);
            children.filter_map(|esp| carrier(sa, esp, header(tunnel)))
        });
        all.min_by_key(|carrier| carrier.inner_mtu(USUAL))
    };
    let tunnels = config.tunnels.iter();
    tunnels
        .filter_map(|(number, tunnel)| Some((*number, of(tunnel)?)))
        .collect()
}

fn header(tunnel: &Tunnel) -> u32 {
    if tunnel.esp.iptfs { AGGFRAG } else { 0 }
}

fn carrier(sa: &IkeSa, esp: Esp, header: u32) -> Option<Carrier> {
    let ends: Ends = (sa.local_host.parse().ok()?, sa.remote_host.parse().ok()?);
    let outer = Outer {
        ipv6: ends.1.is_ipv6(),
        udp: sa.nat,
    };
    let shape = Shape::Esp { esp, outer, header };
    Some(Carrier { ends, shape })
}

impl Carrier {
    fn inner_mtu(&self, path: u32) -> u32 {
        match self.shape {
            Shape::Esp { esp, outer, header } => esp.inner_mtu(outer, path).saturating_sub(header),
            Shape::WireGuard => {
                let ip = if self.ends.1.is_ipv4() { 20 } else { 40 };
                path.saturating_sub(WIREGUARD + ip)
            }
        }
    }
}

/// The MTU of each tunnel by its number, and what is wrong with it: of one that is not carried now,
/// as it is observed, or what to begin with.
pub fn mtus(
    config: &Config,
    carriers: &BTreeMap<u32, Carrier>,
    paths: &BTreeMap<Ends, u32>,
    observed: &BTreeMap<String, Link>,
) -> (BTreeMap<u32, u32>, Vec<Problem>) {
    let (mut mtus, mut problems) = (BTreeMap::new(), Vec::new());
    for (number, tunnel) in &config.tunnels {
        let known = carriers.get(number);
        let Some((carrier, path)) = known.and_then(|it| Some((it, paths.get(&it.ends)?))) else {
            let observed = observed.get(&tunnel.link()).map(|link| link.mtu);
            mtus.insert(*number, observed.unwrap_or_else(|| first(tunnel)));
            continue;
        };
        let fits = carrier.inner_mtu(*path);
        if fits < IPV6_MINIMUM {
            let reason = format!(
                "the path from {} to {} carries packets of {path} bytes, which leaves {fits} for the \
                 tunnel; IPv6 needs {IPV6_MINIMUM}, so larger ones are sent in fragments: look for a \
                 link with a small MTU on the way",
                carrier.ends.0, carrier.ends.1
            );
            problems.push(remark(format!("mtu of {}", tunnel.link()), &reason));
        }
        mtus.insert(*number, fits.max(IPV6_MINIMUM));
    }
    (mtus, problems)
}

/// What to begin with, before there is an SA: what passes in any case where the path is a usual one.
fn first(tunnel: &Tunnel) -> u32 {
    if !tunnel.is_ipsec() {
        return USUAL - WIREGUARD - 40;
    }
    let outer = Outer {
        ipv6: true,
        udp: true,
    };
    let proposals = tunnel.esp.proposals.iter();
    let sizes =
        proposals.filter_map(|text| Some(Esp::proposed(text).ok()?.inner_mtu(outer, USUAL)));
    let least = sizes.min().unwrap_or(IPV6_MINIMUM);
    least.saturating_sub(header(tunnel)).max(IPV6_MINIMUM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{LinkKind, Side};
    use crate::vici::{Bind, ChildSa, ChildState, IkeState};
    use routemesh_proto as proto;
    use std::collections::BTreeSet;
    use std::time::Duration;

    const TUNNEL: u32 = 3;
    const IF_ID: u32 = 0x5200_0003;

    fn config() -> Config {
        let raw = proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            tunnels: vec![proto::Tunnel {
                number: TUNNEL,
                peer: "V2-1".into(),
                peer_site: "two".into(),
                peer_asn: 65000,
                kind: "xfrm".into(),
                local_endpoint: "2001:db8::1".into(),
                remote_endpoint: "2001:db8::2".into(),
                local_address: "2001:db8:ff::6".into(),
                remote_address: "2001:db8:ff::7".into(),
                initiate: true,
                esp: Some(proto::EspOptions {
                    proposals: vec!["aes256gcm16-ecp384".into(), "aes128-sha256".into()],
                    ..proto::EspOptions::default()
                }),
                ..proto::Tunnel::default()
            }],
            ..proto::Config::default()
        };
        Config::try_from(&raw).unwrap()
    }

    fn sa(local: &str, remote: &str, nat: bool, children: &[(&str, Option<&str>)]) -> IkeSa {
        let child = |(cipher, integrity): &(&str, Option<&str>)| ChildSa {
            name: "child".into(),
            unique_id: 1,
            state: ChildState::Installed,
            bind: Some(Bind::IfId(IF_ID)),
            selectors: 2,
            remote: Vec::new(),
            spi_in: None,
            spi_out: None,
            bytes_in: 0,
            packets_in: 0,
            bytes_out: 0,
            packets_out: 0,
            installed: Some(Duration::ZERO),
            rekey_in: None,
            algorithms: String::new(),
            esp: Esp::negotiated(cipher, *integrity),
            iptfs: false,
        };
        IkeSa {
            connection: "rm3-V2-1".into(),
            unique_id: 1,
            state: IkeState::Established,
            initiator: true,
            established: Some(Duration::ZERO),
            rekey_in: None,
            local_host: local.into(),
            remote_host: remote.into(),
            remote_id: "V2-1".into(),
            nat,
            algorithms: String::new(),
            making_child: false,
            children: children.iter().map(child).collect(),
        }
    }

    /// The MTU of the tunnel over these SAs and a path of this MTU, and whether that is a problem.
    fn mtu(sas: &[IkeSa], path: u32, observed: Option<u32>) -> (u32, bool) {
        let config = config();
        let carriers = carriers(&config, &Nat::default(), sas);
        let ends: BTreeSet<Ends> = carriers.values().map(|carrier| carrier.ends).collect();
        let paths = ends.into_iter().map(|ends| (ends, path)).collect();
        let link = |mtu| Link {
            side: Side::Overlay,
            kind: LinkKind::Xfrm { if_id: IF_ID },
            up: true,
            mtu,
            addresses: BTreeSet::new(),
            wireguard: None,
        };
        let observed = observed.map(|mtu| ("rm3".to_owned(), link(mtu)));
        let (mtus, problems) = mtus(&config, &carriers, &paths, &observed.into_iter().collect());
        (mtus[&TUNNEL], !problems.is_empty())
    }

    const GCM: (&str, Option<&str>) = ("AES_GCM_16", None);
    const CBC: (&str, Option<&str>) = ("AES_CBC", Some("HMAC_SHA2_256_128"));

    #[test]
    fn an_sa_and_its_path_decide() {
        let (v4, v6) = (["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]);
        let over = |[a, b]: [&str; 2], nat, children: &[_]| [sa(a, b, nat, children)];
        for (sas, path, expected) in [
            (over(v6, false, &[GCM]), 1500, 1426),
            (over(v6, false, &[CBC]), 1500, 1406),
            (over(v4, false, &[GCM]), 1500, 1446),
            (over(v4, true, &[GCM]), 1500, 1438),
            (over(v6, false, &[GCM]), 9000, 8926),
            (over(v6, false, &[GCM]), 1400, 1326),
            // While one replaces the other.
            (over(v6, false, &[GCM, CBC]), 1500, 1406),
        ] {
            assert_eq!(
                mtu(&sas, path, Some(1300)),
                (expected, false),
                "{sas:?} {path}"
            );
        }
    }

    #[test]
    fn iptfs_has_a_header_of_its_own() {
        let mut config = config();
        let sas = [sa("2001:db8::1", "2001:db8::2", false, &[GCM])];
        let fits =
            |config: &Config| carriers(config, &Nat::default(), &sas)[&TUNNEL].inner_mtu(1500);
        assert_eq!(fits(&config), 1426);
        config.tunnels.get_mut(&TUNNEL).unwrap().esp.iptfs = true;
        assert_eq!(fits(&config), 1422);
        assert_eq!(first(&config.tunnels[&TUNNEL]), 1402);
    }

    #[test]
    fn never_less_than_ipv6_needs() {
        let sas = [sa("2001:db8::1", "2001:db8::2", false, &[GCM])];
        assert_eq!(mtu(&sas, 1356, None), (1282, false));
        assert_eq!(mtu(&sas, 1355, None), (1280, true));
        assert_eq!(mtu(&sas, 0, None), (1280, true));
    }

    #[test]
    fn without_an_sa_it_stays() {
        // Within UDP over IPv6, with the proposal that costs more.
        assert_eq!(mtu(&[], 1500, None), (1406, false));
        assert_eq!(mtu(&[], 1500, Some(8926)), (8926, false));
        let unknown = [sa("2001:db8::1", "2001:db8::2", false, &[("ROT13", None)])];
        assert_eq!(mtu(&unknown, 1500, Some(1426)), (1426, false));
        let mut closing = sa("2001:db8::1", "2001:db8::2", false, &[GCM]);
        closing.children[0].state = ChildState::Closing;
        assert_eq!(mtu(&[closing], 9000, Some(1426)), (1426, false));
    }
}
