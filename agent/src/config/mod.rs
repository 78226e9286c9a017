//! The configuration as the agent uses it: [`proto::Config`] with every address parsed and every
//! reference checked, once, before any of it counts.

mod abroad;
mod bfd;
mod options;
mod overlay;
mod router;
mod term;
mod wireguard;

pub use abroad::{Abroad, Inside, Ping, Session};
pub use options::{EspOptions, IkeOptions, Offload};
pub use overlay::Overlay;
pub use router::{MAX_PREFIXES, Router, Whereabouts};
pub use wireguard::WireGuard;

use crate::state::{LinkKind, Place, ours};
use ipnet::IpNet;
use routemesh_bfd::Timers;
use routemesh_bgp::MAX_WEIGHT;
use routemesh_proto::{self as proto, Service};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Tunnel numbers stay below this: 24 bits of `if_id`.
const TUNNELS: u32 = 1 << 24;

/// What this gateway must run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The specification's generation.
    pub generation: u64,
    /// By what IKE knows this gateway.
    pub identity: String,
    /// This gateway.
    pub gateway: String,
    /// Its site.
    pub site: String,
    /// Its AS.
    pub asn: u32,
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// Where the private side is.
    pub overlay: Overlay,
    /// Route protocols of other programs that are announced.
    pub announce: BTreeSet<u8>,
    /// BGP hold time.
    pub hold_time: Duration,
    /// BFD over every tunnel.
    pub bfd: Option<Timers>,
    /// Which site owns what; this site included.
    pub sites: BTreeMap<String, Vec<IpNet>>,
    /// Those of them that are foreign peers which this site may not reach.
    pub barred: BTreeSet<String>,
    /// Traffic is to leave the gateway (RFC 8326).
    pub drain: bool,
    /// BGP peers on the LAN.
    pub routers: Vec<Router>,
    /// Tunnels by number.
    pub tunnels: BTreeMap<u32, Tunnel>,
    /// Where the routes that carry traffic belong.
    pub place: Place,
    /// By what flows are told apart, to be spread over several tunnels.
    pub hash: Hash,
    /// Flows stay with their tunnels when others come or go.
    pub resilient: bool,
    /// What becomes of packets that the mesh does not allow.
    pub firewall: Mode,
    /// What of this gateway itself other sites may use.
    pub services: BTreeSet<Service>,
    /// Whence IKE and ESP are taken besides the tunnels' far endpoints.
    pub ipsec_from: Vec<IpNet>,
}

/// What of a packet says which flow it belongs to (`fib_multipath_hash_policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// Its addresses.
    L3,
    /// Its addresses, protocol and ports.
    L4,
    /// Those of the addresses of the packet within it, where it is itself a tunnel's.
    Inner,
}

/// What becomes of packets that the mesh does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are dropped and counted.
    Enforce,
    /// They are counted.
    Observe,
    /// Nobody looks.
    Off,
}

/// One end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Everything else of it derives from this.
    pub number: u32,
    /// The gateway at the far end.
    pub peer: String,
    /// By what IKE knows it.
    pub peer_identity: String,
    /// The peer's site.
    pub peer_site: String,
    /// Outer address of this end, literal or host name.
    pub local_endpoint: String,
    /// Outer address of the far end, literal or host name.
    pub remote_endpoint: String,
    /// The address of this host that stands for this end's, where that is said.
    pub local: Option<IpAddr>,
    /// How the interface finds its SAs, if it is not WireGuard's.
    pub kind: LinkKind,
    /// What it has if it is.
    pub wireguard: Option<WireGuard>,
    /// Who is there.
    pub far: Far,
    /// This end initiates IKE.
    pub initiate: bool,
    /// Traffic is to leave the tunnel (RFC 8326).
    pub drain: bool,
    /// Of its IKE_SA.
    pub ike: IkeOptions,
    /// Of its CHILD_SAs.
    pub esp: EspOptions,
    /// LOCAL_PREF of what comes through it, where not the far end's.
    pub preference: Option<u32>,
    /// Its share of the traffic beside other tunnels, where all have one.
    pub weight: Option<u16>,
    /// Foreign peers that are reached through this gateway, and that the far site may reach.
    pub behind_here: Vec<String>,
    /// Foreign peers that are reached through the far gateway, and that this site may reach.
    pub behind_there: Vec<String>,
}

/// Who is at the far end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Far {
    /// A gateway of the mesh, with which there is BGP.
    Gateway {
        /// Interconnect address of this end.
        local: Ipv6Addr,
        /// Interconnect address of the far end.
        remote: Ipv6Addr,
        /// The peer's AS.
        asn: u32,
    },
    /// One that is not ours: a foreign peer's.
    Abroad(Box<Abroad>),
}

/// Whither routes through a tunnel lead that has no addresses within: nobody has to have it, as the
/// interface leads to one neighbour only and never asks for it.
const NEIGHBOUR: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

impl Tunnel {
    /// The address of this host that its packets come from and go to, literal or host name, as far as the
    /// config says: behind NAT, the host may have another ([`Nat`](crate::nat::Nat)).
    pub fn here(&self) -> String {
        let local = self.local.map(|it| it.to_string());
        local.unwrap_or_else(|| self.local_endpoint.clone())
    }

    /// The family of its outer addresses, where one of them is no host name.
    pub fn is_ipv4(&self) -> Option<bool> {
        let ends = [&self.local_endpoint, &self.remote_endpoint];
        let mut literals = ends.iter().filter_map(|it| it.parse::<IpAddr>().ok());
        let known = literals.next().or(self.local);
        known.map(|it| it.is_ipv4())
    }

    /// Interconnect addresses of both ends, where the far end is a gateway of the mesh.
    pub fn interconnect(&self) -> Option<(Ipv6Addr, Ipv6Addr)> {
        match &self.far {
            Far::Gateway { local, remote, .. } => Some((*local, *remote)),
            Far::Abroad(_) => None,
        }
    }

    /// The address of this end within, with its prefix.
    pub fn address(&self) -> Option<IpNet> {
        match &self.far {
            Far::Gateway { local, .. } => IpNet::new((*local).into(), 127).ok(),
            Far::Abroad(abroad) => abroad.inside.map(|it| it.own),
        }
    }

    /// The address of the far end within.
    pub fn far_address(&self) -> Option<IpAddr> {
        match &self.far {
            Far::Gateway { remote, .. } => Some((*remote).into()),
            Far::Abroad(abroad) => abroad.inside.map(|it| it.far),
        }
    }

    /// Whither routes through it lead.
    pub fn neighbour(&self) -> IpAddr {
        let interconnect = self.interconnect();
        interconnect.map_or(NEIGHBOUR, |(_, remote)| remote).into()
    }

    /// What is other where the far end is no gateway of the mesh.
    pub fn abroad(&self) -> Option<&Abroad> {
        match &self.far {
            Far::Abroad(abroad) => Some(abroad),
            Far::Gateway { .. } => None,
        }
    }

    /// BGP goes over it.
    pub fn has_bgp(&self) -> bool {
        match &self.far {
            Far::Gateway { .. } => true,
            Far::Abroad(abroad) => abroad.session.is_some(),
        }
    }

    /// It has SAs, and charon makes them.
    pub fn is_ipsec(&self) -> bool {
        !matches!(self.kind, LinkKind::WireGuard { .. })
    }

    /// Name of its IKE connection, which is that of several tunnels where they have one IKE_SA.
    pub fn connection(&self) -> String {
        let number = self.abroad().map_or(self.number, |it| it.connection);
        format!("{}{number}-{}", ours::CONNECTION_PREFIX, self.peer)
    }

    /// Interface name.
    pub fn link(&self) -> String {
        format!("{}{}", ours::LINK_PREFIX, self.number)
    }

    /// Name of its BGP peer.
    pub fn name(&self) -> String {
        format!("{}{}-{}", ours::CONNECTION_PREFIX, self.number, self.peer)
    }
}

impl Config {
    /// What this gateway's site owns: all that it may announce.
    pub fn owned(&self) -> &[IpNet] {
        self.prefixes_of(&self.site)
    }

    /// What `site` owns: all that its gateways may announce. Empty for a site that is not in the mesh.
    pub fn prefixes_of(&self, site: &str) -> &[IpNet] {
        self.sites.get(site).map_or(&[], Vec::as_slice)
    }

    /// What may be on the far side of a tunnel.
    pub fn beyond(&self, tunnel: &Tunnel) -> Vec<IpNet> {
        let sites = std::iter::once(&tunnel.peer_site).chain(&tunnel.behind_there);
        let prefixes = sites.flat_map(|it| self.prefixes_of(it));
        prefixes.copied().collect()
    }

    /// What may be on this side of a tunnel.
    pub fn before(&self, tunnel: &Tunnel) -> Vec<IpNet> {
        let of = |site: &String| self.prefixes_of(site).to_vec();
        match tunnel.abroad() {
            Some(abroad) => abroad.sites.iter().flat_map(of).collect(),
            None => {
                let behind = tunnel.behind_here.iter();
                let sites = std::iter::once(&self.site).chain(behind);
                sites.flat_map(of).collect()
            }
        }
    }

    /// What others own that this site may reach.
    pub fn reachable(&self) -> Vec<IpNet> {
        let others = self.sites.iter().filter(|(name, _)| **name != self.site);
        let open = others.filter(|(name, _)| !self.barred.contains(*name));
        open.flat_map(|(_, prefixes)| prefixes).copied().collect()
    }

    /// What is reached through a tunnel without anybody's saying so.
    pub fn statics(&self, tunnel: &Tunnel) -> BTreeSet<IpNet> {
        let abroad = tunnel.abroad().filter(|it| it.session.is_none());
        let carries = |it: &Abroad| it.carries(self.prefixes_of(&tunnel.peer_site));
        abroad.map(carries).unwrap_or_default()
    }

    /// Whether routers are looked for on an interface.
    pub fn is_unnumbered(&self) -> bool {
        let mut routers = self.routers.iter();
        routers.any(|router| matches!(router.whereabouts, Whereabouts::Interface(_)))
    }

    /// What all other sites own.
    pub fn elsewhere(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.sites
            .iter()
            .filter(|(name, _)| **name != self.site)
            .flat_map(|(_, prefixes)| prefixes.iter().copied())
    }
}

/// A configuration that cannot be run; the one in force stays.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// A field does not parse.
    #[error("{object}: {field} is {value:?}, which is not {expected}")]
    Field {
        /// The tunnel, router or site; "config" for the whole.
        object: String,
        /// Name in routemesh.proto.
        field: &'static str,
        /// As given.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Two objects claim the same thing.
    #[error("{object} stands twice")]
    Twice {
        /// What does.
        object: String,
    },
}

/// Parses fields of one object and says whose they are when they are wrong.
struct Fields<'a> {
    object: &'a str,
}

impl Fields<'_> {
    fn wrong(&self, field: &'static str, value: &str, expected: &'static str) -> ConfigError {
        ConfigError::Field {
            object: self.object.to_owned(),
            field,
            value: value.to_owned(),
            expected,
        }
    }

    fn parse<T: std::str::FromStr>(
        &self,
        field: &'static str,
        value: &str,
        expected: &'static str,
    ) -> Result<T, ConfigError> {
        value
            .parse()
            .map_err(|_| self.wrong(field, value, expected))
    }

    /// A name that may stand in a connection's name and in a certificate.
    fn name(&self, field: &'static str, value: &str) -> Result<String, ConfigError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if value.is_empty() || value.len() > 63 || !value.chars().all(plain) {
            return Err(self.wrong(field, value, "a name of at most 63 letters, digits, - or ."));
        }
        Ok(value.to_owned())
    }

    /// By what IKE knows a gateway: by its name, unless something else is said.
    fn identity(
        &self,
        field: &'static str,
        value: &str,
        name: &str,
    ) -> Result<String, ConfigError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        match value {
            "" => Ok(name.to_owned()),
            given if given.len() <= 80 && given.chars().all(plain) => Ok(given.to_owned()),
            other => Err(self.wrong(field, other, "an IKE identity")),
        }
    }

    /// The name of a network interface.
    fn interface(&self, field: &'static str, value: &str) -> Result<String, ConfigError> {
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
        if value.is_empty() || value.len() > 15 || value.contains(odd) || value.starts_with('.') {
            return Err(self.wrong(field, value, "the name of an interface"));
        }
        Ok(value.to_owned())
    }

    fn asn(&self, field: &'static str, value: u32) -> Result<u32, ConfigError> {
        if value == 0 {
            return Err(self.wrong(field, "0", "an AS number (RFC 7607)"));
        }
        Ok(value)
    }
}

impl TryFrom<&proto::Config> for Config {
    type Error = ConfigError;

    fn try_from(raw: &proto::Config) -> Result<Self, ConfigError> {
        let fields = Fields { object: "config" };
        if raw.hold_time < 3 || raw.hold_time > u32::from(u16::MAX) {
            let value = raw.hold_time.to_string();
            return Err(fields.wrong("hold_time", &value, "3 to 65535 seconds"));
        }
        let mut sites = BTreeMap::new();
        for site in &raw.sites {
            let (name, prefixes) = parse_site(site)?;
            if sites.insert(name.clone(), prefixes).is_some() {
                return Err(ConfigError::Twice {
                    object: format!("site {name}"),
                });
            }
        }
        let mut tunnels = BTreeMap::new();
        for tunnel in &raw.tunnels {
            let tunnel = parse_tunnel(tunnel)?;
            if let Some(twin) = tunnels.insert(tunnel.number, tunnel) {
                return Err(ConfigError::Twice {
                    object: format!("tunnel {}", twin.number),
                });
            }
        }
        let mut routers = Vec::new();
        for router in &raw.routers {
            let router = router::parse(router)?;
            if routers
                .iter()
                .any(|r: &Router| r.whereabouts == router.whereabouts)
            {
                return Err(ConfigError::Twice {
                    object: format!("router {}", router.name()),
                });
            }
            routers.push(router);
        }
        Ok(Self {
            generation: raw.generation,
            gateway: fields.name("gateway", &raw.gateway)?,
            identity: fields.identity("identity", &raw.identity, &raw.gateway)?,
            site: fields.name("site", &raw.site)?,
            asn: fields.asn("asn", raw.asn)?,
            router_id: fields.parse("router_id", &raw.router_id, "an IPv4 address")?,
            overlay: overlay::overlay(&fields, raw)?,
            announce: parse_announce(&fields, &raw.announce)?,
            hold_time: Duration::from_secs(u64::from(raw.hold_time)),
            bfd: bfd::parse(&fields, raw.bfd)?,
            sites,
            barred: {
                let barred = raw.sites.iter().filter(|it| it.barred);
                barred.map(|it| it.name.clone()).collect()
            },
            drain: raw.drain,
            routers,
            tunnels,
            place: overlay::place(&fields, raw)?,
            hash: match raw.hash.as_str() {
                "" | "l4" => Hash::L4,
                "l3" => Hash::L3,
                "inner" => Hash::Inner,
                other => return Err(fields.wrong("hash", other, "l3, l4 or inner")),
            },
            resilient: raw.resilient,
            firewall: match raw.firewall.as_str() {
                "" | "enforce" => Mode::Enforce,
                "observe" => Mode::Observe,
                "off" => Mode::Off,
                other => return Err(fields.wrong("firewall", other, "enforce, observe or off")),
            },
            services: raw
                .services
                .iter()
                .map(|text| {
                    let expected = "a service like tcp/22 or udp/5000-5010";
                    fields.parse("services", text, expected)
                })
                .collect::<Result<_, _>>()?,
            ipsec_from: raw
                .ipsec_from
                .iter()
                .map(|text| fields.parse("ipsec_from", text, "a prefix"))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn parse_announce(fields: &Fields, names: &[String]) -> Result<BTreeSet<u8>, ConfigError> {
    let parse = |name: &String| {
        proto::route_protocol(name)
            .filter(|number| *number != ours::PROTOCOL)
            .ok_or_else(|| fields.wrong("announce", name, "a route protocol of another program"))
    };
    names.iter().map(parse).collect()
}

fn parse_site(raw: &proto::Site) -> Result<(String, Vec<IpNet>), ConfigError> {
    let object = format!("site {}", raw.name);
    let fields = Fields { object: &object };
    let prefix = |text: &String| -> Result<IpNet, ConfigError> {
        let net: IpNet = fields.parse("prefixes", text, "a prefix")?;
        Ok(net.trunc())
    };
    Ok((
        fields.name("name", &raw.name)?,
        raw.prefixes.iter().map(prefix).collect::<Result<_, _>>()?,
    ))
}

fn parse_tunnel(raw: &proto::Tunnel) -> Result<Tunnel, ConfigError> {
    let object = format!("tunnel {} to {}", raw.number, raw.peer);
    let fields = Fields { object: &object };
    if raw.number >= TUNNELS {
        let value = raw.number.to_string();
        return Err(fields.wrong("number", &value, "below 16777216"));
    }
    let id = ours::IF_ID + raw.number;
    let local: Option<IpAddr> = match raw.local.as_str() {
        "" => None,
        text => Some(fields.parse("local", text, "an address of this host")?),
    };
    let here = match local {
        Some(_) => &raw.local,
        None => &raw.local_endpoint,
    };
    let literal = "a literal address, which VTI needs";
    let kind = match raw.kind.as_str() {
        "xfrm" => LinkKind::Xfrm { if_id: id },
        "vti" => LinkKind::Vti {
            local: fields.parse("local_endpoint", here, literal)?,
            remote: fields.parse("remote_endpoint", &raw.remote_endpoint, literal)?,
            key: id,
        },
        "wireguard" => LinkKind::WireGuard { group: id },
        other => return Err(fields.wrong("kind", other, "xfrm, vti or wireguard")),
    };
    let wireguard = match kind {
        LinkKind::WireGuard { .. } => Some(wireguard::parse(&fields, raw, here)?),
        LinkKind::Xfrm { .. } | LinkKind::Vti { .. } => None,
    };
    for (field, endpoint) in [
        ("local_endpoint", &raw.local_endpoint),
        ("remote_endpoint", &raw.remote_endpoint),
    ] {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
        if endpoint.is_empty() || endpoint.len() > 253 || !endpoint.chars().all(plain) {
            return Err(fields.wrong(field, endpoint, "an address or a host name"));
        }
    }
    let far = match &raw.foreign {
        None => Far::Gateway {
            local: fields.parse("local_address", &raw.local_address, "an IPv6 address")?,
            remote: fields.parse("remote_address", &raw.remote_address, "an IPv6 address")?,
            asn: fields.asn("peer_asn", raw.peer_asn)?,
        },
        Some(_) if !matches!(kind, LinkKind::Xfrm { .. }) => {
            return Err(fields.wrong("kind", &raw.kind, "xfrm, as it is for foreign peers"));
        }
        Some(foreign) => Far::Abroad(Box::new(abroad::parse(&fields, raw, foreign)?)),
    };
    Ok(Tunnel {
        number: raw.number,
        peer: fields.name("peer", &raw.peer)?,
        peer_identity: fields.identity("peer_identity", &raw.peer_identity, &raw.peer)?,
        peer_site: fields.name("peer_site", &raw.peer_site)?,
        local_endpoint: raw.local_endpoint.clone(),
        remote_endpoint: raw.remote_endpoint.clone(),
        local,
        kind,
        wireguard,
        far,
        initiate: raw.initiate,
        drain: raw.drain,
        ike: options::ike(&fields, raw.ike.as_ref())?,
        esp: options::esp(&fields, raw.esp.as_ref())?,
        preference: Some(raw.preference).filter(|preference| *preference > 0),
        weight: match raw.weight {
            0 => None,
            weight => match u16::try_from(weight) {
                Ok(weight) if weight <= MAX_WEIGHT => Some(weight),
                _ => return Err(fields.wrong("weight", &weight.to_string(), "1 to 256")),
            },
        },
        behind_here: raw.behind_here.clone(),
        behind_there: raw.behind_there.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_proto::Secret;

    fn raw() -> proto::Config {
        proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            tunnels: vec![proto::Tunnel {
                number: 3,
                peer: "V2-1".into(),
                peer_site: "two".into(),
                peer_asn: 65000,
                kind: "xfrm".into(),
                local_endpoint: "192.0.2.1".into(),
                remote_endpoint: "vpn.example.net".into(),
                local_address: "2001:db8:ff::6".into(),
                remote_address: "2001:db8:ff::7".into(),
                initiate: true,
                ..proto::Tunnel::default()
            }],
            routers: vec![router("10.0.1.254", "", "")],
            ..proto::Config::default()
        }
    }

    fn router(address: &str, interface: &str, range: &str) -> proto::Router {
        proto::Router {
            address: address.into(),
            interface: interface.into(),
            range: range.into(),
            asn: 65001,
            password: "hunter2".into(),
            ..proto::Router::default()
        }
    }

    #[test]
    fn options_are_the_agents_own_where_none_are_given() {
        let mut raw = raw();
        let given = |raw: &proto::Config| {
            let config = Config::try_from(raw);
            config.map(|it| (it.tunnels[&3].ike.clone(), it.tunnels[&3].esp.clone()))
        };
        let own = (IkeOptions::default(), EspOptions::default());
        assert_eq!(given(&raw), Ok(own.clone()));
        raw.tunnels[0].ike = Some(proto::IkeOptions::default());
        raw.tunnels[0].esp = Some(proto::EspOptions::default());
        assert_eq!(given(&raw), Ok(own.clone()));
        raw.tunnels[0].esp = Some(proto::EspOptions {
            rekey_time: Some(60),
            ..proto::EspOptions::default()
        });
        let rekey_time = Duration::from_secs(60);
        let expected = EspOptions {
            rekey_time,
            ..own.1
        };
        assert_eq!(given(&raw), Ok((own.0, expected)));
        for replay_window in [0, 31, 4097] {
            raw.tunnels[0].esp = Some(proto::EspOptions {
                replay_window: Some(replay_window),
                ..proto::EspOptions::default()
            });
            assert!(given(&raw).is_err());
        }
        raw.tunnels[0].esp = None;
        for dpd_delay in [0, u32::MAX] {
            raw.tunnels[0].ike = Some(proto::IkeOptions {
                dpd_delay: Some(dpd_delay),
                ..proto::IkeOptions::default()
            });
            assert!(given(&raw).is_err());
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let config = Config::try_from(&raw()).unwrap();
        let password = config.routers[0].password.as_ref().map(Secret::expose);
        assert_eq!(password, Some("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
        let mut raw = raw();
        raw.routers[0].password = "hunter2".repeat(12);
        let error = Config::try_from(&raw).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn names_derive_from_the_number() {
        let config = Config::try_from(&raw()).unwrap();
        let tunnel = &config.tunnels[&3];
        assert_eq!(
            (tunnel.link(), tunnel.name()),
            ("rm3".into(), "rm3-V2-1".into())
        );
        assert_eq!(tunnel.kind, LinkKind::Xfrm { if_id: 0x5200_0003 });
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_name() {
        type Spoil = fn(&mut proto::Config);
        let cases: [(Spoil, &str); 26] = [
            (|c| c.firewall = "on".into(), "config: firewall is \"on\""),
            (
                |c| c.services = vec!["ssh".into()],
                "config: services is \"ssh\"",
            ),
            (
                |c| c.ipsec_from = vec!["office".into()],
                "config: ipsec_from is \"office\"",
            ),
            (|c| c.asn = 0, "config: asn is \"0\""),
            (|c| c.hold_time = 2, "config: hold_time is \"2\""),
            (|c| c.gateway = "a/b".into(), "config: gateway is \"a/b\""),
            (|c| c.router_id = "x".into(), "config: router_id is \"x\""),
            (|c| c.overlay = "../x".into(), "config: overlay is \"../x\""),
            (|c| c.overlay = "vrf:".into(), "config: overlay is \"\""),
            (
                |c| (c.overlay, c.table) = ("vrf:x".into(), 10),
                "config: table is \"10\"",
            ),
            (|c| c.table = 255, "config: table is \"255\""),
            (|c| c.metric = u32::MAX, "config: metric is \"4294967295\""),
            (
                |c| c.announce = vec!["82".into()],
                "config: announce is \"82\"",
            ),
            (
                |c| c.tunnels[0].kind = "gre".into(),
                "tunnel 3 to V2-1: kind is \"gre\"",
            ),
            (
                |c| c.tunnels[0].kind = "vti".into(),
                "tunnel 3 to V2-1: remote_endpoint is \"vpn",
            ),
            (
                |c| c.tunnels[0].number = 1 << 24,
                "tunnel 16777216 to V2-1: number is",
            ),
            (
                |c| c.tunnels.push(c.tunnels[0].clone()),
                "tunnel 3 stands twice",
            ),
            (
                |c| c.routers.push(c.routers[0].clone()),
                "router 10.0.1.254 stands twice",
            ),
            (
                |c| c.routers[0].address = "fe80::1%a/b".into(),
                "router fe80::1%a/b: address is \"a/b\"",
            ),
            (
                |c| c.routers[0].address = "fd00::1%lan0".into(),
                "router fd00::1%lan0: address is \"fd00::1%lan0\"",
            ),
            (
                |c| c.routers[0].interface = "lan0".into(),
                "router 10.0.1.254 lan0: address is \"10.0.1.254\", which is not the only one",
            ),
            (
                |c| c.routers[0] = router("", "lan0", "10.0.0.0/8"),
                "router lan0 10.0.0.0/8: interface is \"lan0\", which is not the only one",
            ),
            (
                |c| c.routers[0] = router("", "", "10.0.0.0"),
                "router 10.0.0.0: range is \"10.0.0.0\"",
            ),
            (
                |c| c.routers[0].ttl_security = 255,
                "router 10.0.1.254: ttl_security is \"255\"",
            ),
            (
                |c| c.routers[0].role = "client".into(),
                "router 10.0.1.254: role is \"client\"",
            ),
            (
                |c| c.routers[0].password = "x".repeat(81),
                "router 10.0.1.254: password is \"81 bytes long\"",
            ),
        ];
        for (spoil, expected) in cases {
            let mut raw = raw();
            spoil(&mut raw);
            let error = Config::try_from(&raw).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error} is not {expected}");
        }
    }
}
