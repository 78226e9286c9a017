//! The specification: text -> [`MeshSpec`]. Nothing of it counts before all of it is right.
//!
//! `read` takes the text apart value by value, `check` looks at
//! what must fit together; both go on after an error, so that the operator sees all at once.

mod bfd;
mod check;
mod foreign;
mod foreign_check;
mod health;
pub mod keys;
mod options;
mod place;
mod provider;
mod read;
mod reader;
mod redact;
mod router;
mod spread;
mod term;
mod tunnel;
mod values;

pub use foreign::{Foreign, ForeignTunnel, Inside, Selectors, Terms};
pub use health::Health;
pub use options::{Options, Setting, render as render_options};
pub use place::{At, Place, SpecError, SpecErrors};
pub use provider::Provider;
pub use redact::redact;
pub use router::{Router, Whereabouts};
pub(crate) use spread::PREFERENCE;
pub use tunnel::Tunnels;
pub use values::check_name;

use crate::admission::Admissions;
use crate::ca::Role;
use ipnet::{IpNet, Ipv6Net};
use routemesh_proto::{Bfd, Service};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// A specification's text may be this long, in bytes.
pub const LONGEST_TEXT: usize = 8 << 20;

/// The whole mesh, as its operator wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSpec {
    /// AS of every site that has none of its own.
    pub asn: u32,
    /// Where tunnels take their inner addresses from.
    pub interconnect: At<Ipv6Net>,
    /// How tunnels are made, where it is not said of those between two gateways.
    pub tunnel: TunnelKind,
    /// How SAs are made and kept.
    pub options: Options,
    /// BGP hold time in seconds.
    pub hold_time: u16,
    /// BFD over every tunnel.
    pub bfd: Option<Bfd>,
    /// Sites, in the order of the file.
    pub sites: Vec<Site>,
    /// Tunnels that are other than the rest, by the names of their gateways, sorted.
    pub tunnels: BTreeMap<[String; 2], Tunnels>,
    /// Gateways that are not ours, in the order of the file.
    pub foreign: Vec<Foreign>,
}

/// How tunnels are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelKind {
    /// XFRM interfaces.
    Xfrm,
    /// VTI, for kernels before 4.19.
    Vti,
    /// WireGuard instead of IPsec.
    WireGuard,
}

/// A place that owns prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub name: At<String>,
    /// Its AS.
    pub asn: u32,
    /// What it owns.
    pub prefixes: Vec<At<IpNet>>,
    /// How the SAs of its tunnels are made and kept, where that is other than the mesh's.
    pub options: Options,
    /// Its VPN hosts, in the order of the file.
    pub gateways: Vec<Gateway>,
}

/// A VPN host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its name, and identity in certificates and IKE.
    pub name: At<String>,
    /// Its outer addresses, one per uplink.
    pub endpoints: Vec<At<OuterAddress>>,
    /// The host's own addresses behind one-to-one NAT, by endpoint.
    pub locals: Vec<(OuterAddress, At<IpAddr>)>,
    /// Network namespace of its private side, where it is another, or `vrf:` and a VRF's name.
    pub overlay: Option<String>,
    /// BGP peers on its LAN.
    pub routers: Vec<Router>,
    /// Kernel route protocols that it announces.
    pub announce: Vec<String>,
    /// How it spreads flows over several ways.
    pub spread: Spread,
    /// How much the others prefer it to the other gateways of its site.
    pub preference: Option<u32>,
    /// The others' traffic beside that of the other gateways of its site.
    pub weight: Option<u16>,
    /// What becomes of packets that the mesh does not allow.
    pub firewall: Firewall,
    /// What of the gateway itself other sites may use.
    pub services: Vec<Service>,
    /// Whence it takes IKE and ESP besides the other gateways' endpoints.
    pub ipsec_from: Vec<IpNet>,
    /// How often its name was revoked. Of this the file says nothing: [`MeshSpec::admitted`] does.
    pub admission: u32,
}

/// By what flows are told apart where there are several ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hash {
    /// Addresses.
    L3,
    /// Addresses, protocol and ports.
    #[default]
    L4,
    /// Those of the packet within, where there is one.
    Inner,
}

/// How a gateway routes: in which place, and how it spreads flows over several ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// By what flows are told apart.
    pub hash: Hash,
    /// Flows stay where they are when ways come or go.
    pub resilient: bool,
    /// The routing table of the mesh's routes, where it is not the main one.
    pub table: Option<u32>,
    /// Their metric, where it is not the usual one.
    pub metric: Option<u32>,
}

/// What becomes of packets that the mesh does not allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Firewall {
    /// They are dropped and counted.
    #[default]
    Enforce,
    /// They are counted.
    Observe,
    /// Nobody looks.
    Off,
}

/// Where a gateway is reached from outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OuterAddress {
    /// An address.
    Literal(IpAddr),
    /// A host name, which charon resolves to an address of this family.
    Host(String, Family),
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Gateway {
    /// The host's own address that stands for one of its endpoints, where that is said.
    pub fn local(&self, endpoint: &OuterAddress) -> Option<IpAddr> {
        let mut locals = self.locals.iter();
        let (_, local) = locals.find(|(of, _)| of == endpoint)?;
        Some(local.value)
    }
}

impl OuterAddress {
    /// Endpoints of one family can be joined by a tunnel.
    pub fn family(&self) -> Family {
        match self {
            Self::Literal(IpAddr::V4(_)) => Family::Ipv4,
            Self::Literal(IpAddr::V6(_)) => Family::Ipv6,
            Self::Host(_, family) => *family,
        }
    }

    /// As charon takes it.
    pub fn text(&self) -> String {
        match self {
            Self::Literal(address) => crate::text::address(*address),
            Self::Host(name, _) => name.clone(),
        }
    }
}

/// As endpoints are told apart: a host name's two families are two endpoints.
impl fmt::Display for OuterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(address) => address.fmt(f),
            Self::Host(name, family) => write!(f, "{name} ({family})"),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Off => "off",
        })
    }
}

impl fmt::Display for TunnelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xfrm => "xfrm",
            Self::Vti => "vti",
            Self::WireGuard => "wireguard",
        })
    }
}

impl MeshSpec {
    /// Every gateway with its site, in the order of the file.
    pub fn gateways(&self) -> impl Iterator<Item = (&Site, &Gateway)> {
        let of_site = |site| std::iter::repeat(site);
        self.sites
            .iter()
            .flat_map(move |site| of_site(site).zip(&site.gateways))
    }

    /// What is left of it without the gateways that were revoked, as if they were not in the file: their
    /// sites still own what they own. Those that were admitted again have another identity than before.
    #[must_use]
    pub fn admitted(mut self, admissions: &Admissions) -> Self {
        let revoked = admissions.revoked_gateways();
        let stays = |name: &str| !revoked.contains(name);
        for site in &mut self.sites {
            site.gateways.retain(|it| stays(&it.name));
            for gateway in &mut site.gateways {
                gateway.admission = admissions.of(Role::Gateway, &gateway.name).number;
            }
        }
        self.tunnels
            .retain(|names, _| names.iter().all(|name| stays(name)));
        for foreign in &mut self.foreign {
            foreign.tunnels.retain(|it| stays(&it.gateway));
        }
        self
    }

    /// One gateway with its site.
    pub fn gateway(&self, name: &str) -> Option<(&Site, &Gateway)> {
        self.gateways()
            .find(|(_, gateway)| *gateway.name.value == *name)
    }
}

/// Reads and checks a specification; `file` is its name in errors.
pub fn parse(file: &str, text: &str) -> Result<MeshSpec, SpecErrors> {
    let fail = |errors| SpecErrors::new(file, errors);
    if text.len() > LONGEST_TEXT {
        return Err(fail(vec![SpecError {
            place: Place { line: 1, column: 1 },
            reason: format!(
                "{} bytes of text: a specification has at most {LONGEST_TEXT}",
                text.len()
            ),
        }]));
    }
    let (spec, mut errors) = read::read(text);
    if let Some(spec) = &spec {
        errors.extend(check::check(spec));
    }
    match spec {
        Some(spec) if errors.is_empty() => Ok(spec),
        _ => Err(fail(errors)),
    }
}
