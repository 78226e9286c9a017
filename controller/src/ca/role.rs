//! Who somebody is and what they may do: written in the certificate as the URI
//! `routemesh:gateway/NAME`, `routemesh:operator/NAME`, … among its alternative names.
//!
//! A URI holds role and name in one value that nothing else means, where a subject's parts (CN,
//! OU) can stand several times and be taken for other things; charon ignores it.
//!
//! Who was revoked and admitted again is somebody else to everybody: the URI ends in `/1` then, in `/2`
//! after the next time, and a gateway's name for IKE in `_1`. So whatever was certified before is of no
//! use, with any key and by any clock, and nobody has to be told a list.

use crate::spec::check_name;
use std::fmt;
use std::str::FromStr;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

const SCHEME: &str = "routemesh:";

/// What the holder of a certificate may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Gets the gateway's config, and reports for it.
    Gateway,
    /// Sees everything.
    Viewer,
    /// Also applies specifications, and drains.
    Operator,
    /// Also says who is who.
    Admin,
    /// Another controller before the same store: hears what gateways report, and nothing else. None is enrolled or
    /// revoked: whoever holds the authority's key makes its own certificate.
    Controller,
}

impl Role {
    /// Whether one who has this role may do what that role may. A gateway is no more and no less than that, and neither is
    /// a controller.
    pub fn includes(self, least: Role) -> bool {
        match (self, least) {
            (Self::Gateway | Self::Controller, _) | (_, Self::Gateway | Self::Controller) => {
                self == least
            }
            (own, least) => own >= least,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateway => "gateway",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Controller => "controller",
        })
    }
}

impl FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "gateway" => Ok(Self::Gateway),
            "viewer" => Ok(Self::Viewer),
            "operator" => Ok(Self::Operator),
            "admin" => Ok(Self::Admin),
            "controller" => Ok(Self::Controller),
            _ => Err("a role is gateway, viewer, operator or admin"),
        }
    }
}

/// Who somebody is, as the authority says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it may do.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// How often the name was revoked before.
    pub admission: u32,
}

/// A certificate that does not say who holds it.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeerError {
    /// Not a certificate.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// No role in it, or several.
    #[error("the certificate names no single role: `meshctl token create` leads to one that does")]
    NoRole,
}

/// By what IKE knows a gateway.
pub fn ike_name(gateway: &str, admission: u32) -> String {
    match admission {
        0 => gateway.to_owned(),
        // No gateway's own name has this character.
        again => format!("{gateway}_{again}"),
    }
}

impl Peer {
    /// One who was never revoked.
    pub fn new(role: Role, name: &str) -> Self {
        Self {
            role,
            name: name.to_owned(),
            admission: 0,
        }
    }

    /// The URI that stands in its certificate.
    pub fn uri(&self) -> String {
        let Self {
            role,
            name,
            admission,
        } = self;
        match admission {
            0 => format!("{SCHEME}{role}/{name}"),
            again => format!("{SCHEME}{role}/{name}/{again}"),
        }
    }

    /// Who holds a certificate that TLS has verified.
    pub fn from_certificate(der: &[u8]) -> Result<Self, PeerError> {
        let (_, certificate) = parse_x509_certificate(der).map_err(|_| PeerError::Unreadable)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| PeerError::Unreadable)?
            .ok_or(PeerError::NoRole)?;
        let mut ours = names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix(SCHEME),
                _ => None,
            });
        match (ours.next(), ours.next()) {
            (Some(text), None) => Self::parse(text).ok_or(PeerError::NoRole),
            _ => Err(PeerError::NoRole),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (role, name) = text.split_once('/')?;
        let (name, admission) = match name.split_once('/') {
            Some((name, again)) => (name, again.parse().ok()?),
            None => (name, 0),
        };
        check_name(name).ok()?;
        Some(Self {
            role: role.parse().ok()?,
            name: name.to_owned(),
            admission,
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}
