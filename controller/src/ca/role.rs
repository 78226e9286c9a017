//! What a certificate's holder may do: written in the certificate as the URI
//! `routemesh:gateway/NAME` or `routemesh:operator/NAME` among its alternative names.
//!
//! A URI holds role and name in one value that nothing else means, where a subject's parts (CN,
//! OU) can stand several times and be taken for other things; charon ignores it.

use crate::spec::check_name;
use std::fmt;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

const SCHEME: &str = "routemesh:";

/// What the holder of a certificate may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Gets the gateway's config, and reports for it.
    Gateway,
    /// Applies specifications, and sees everything.
    Operator,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateway => "gateway",
            Self::Operator => "operator",
        })
    }
}

/// Who somebody is, as the authority says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it may do.
    pub role: Role,
    /// Its name.
    pub name: String,
}

/// A certificate that does not say who holds it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeerError {
    /// Not a certificate.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// No role in it, or several.
    #[error("the certificate names no single role: `mesh-controller issue` makes one that does")]
    NoRole,
}

impl Peer {
    /// The URI that stands in its certificate.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}/{}", self.role, self.name)
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
        let role = match role {
            "gateway" => Role::Gateway,
            "operator" => Role::Operator,
            _ => return None,
        };
        check_name(name).ok()?;
        Some(Self {
            role,
            name: name.to_owned(),
        })
    }
}
