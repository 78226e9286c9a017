//! An operator's own CA above the mesh's authority.
//!
//! It certifies the authority's key and name, and so whatever the authority signs leads up to the operator's root, for
//! whoever trusts that one. Within the mesh nobody does: to gateways, controllers and people the authority's
//! self-signed certificate stays the one anchor, so that no other authority beneath the same root can make a gateway.
//! charon would take no other anchor: one that somebody else signed needs its root beside it, trusted for every
//! connection of the host.

use super::{Issued, Peer, Role, Subject, issue_to, name};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair, KeyUsagePurpose};
use routemesh_proto::{CONTROLLER_NAME, Identity, KeyKind};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

/// From the authority to the root there are no more than so many.
const MOST: usize = 8;

/// Why what an operator's CA has made is no good.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AboveError {
    /// Not PEM, or too much of it.
    #[error("that is not one to {MOST} certificates (PEM)")]
    Unreadable,
    /// Of another key.
    #[error(
        "none of these certificates is of the authority's key: let your CA sign what `mesh-controller request` prints"
    )]
    NotOurs,
    /// Of another name.
    #[error(
        "your CA has made {found:?} of the subject {wanted:?}: nothing that the authority signs would lead to it; \
         let your CA take the request's subject as it is"
    )]
    Subject {
        /// In the certificate.
        found: String,
        /// In the request.
        wanted: String,
    },
    /// Its key has another identifier.
    #[error(
        "your CA has given the authority's key the identifier {found}, and what the authority signs names {wanted}: let your \
         CA take the request's subjectKeyIdentifier (openssl: -copy_extensions copy)"
    )]
    KeyId {
        /// In the certificate.
        found: String,
        /// In the request.
        wanted: String,
    },
    /// It may sign nothing.
    #[error(
        "the certificate of {0} is not an authority's: it needs basicConstraints CA:TRUE, and keyUsage keyCertSign"
    )]
    NoAuthority(String),
    /// Nothing above it.
    #[error(
        "what signed the certificate of {0} is missing: put the certificates above it into the same file, up to your root"
    )]
    Alone(String),
    /// It may have no authority beneath it.
    #[error(
        "the path length of {0} does not allow the mesh's authority beneath it: sign with another, or let it be larger"
    )]
    Length(String),
    /// It may certify some names only.
    #[error(
        "{0} has name constraints, and the names of gateways and people are in no domain: sign without"
    )]
    Names(String),
    /// For whatever else.
    #[error("who trusts your root would not take what the authority signs: {0}")]
    Refused(rustls::Error),
}

/// A certificate on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Above {
    pem: String,
    der: CertificateDer<'static>,
}

impl Above {
    fn new(pem: String) -> Result<Self, AboveError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes());
        let der = der.map_err(|_| AboveError::Unreadable)?;
        Ok(Self { pem, der })
    }

    fn read(&self) -> Result<X509Certificate<'_>, AboveError> {
        let read = X509Certificate::from_der(&self.der);
        read.map(|(_, it)| it).map_err(|_| AboveError::Unreadable)
    }
}

/// A request that an operator's CA certifies the authority of this key: PKCS#10, PEM.
pub(super) fn request(authority: &Issued, key: &KeyPair) -> Result<String, AboveError> {
    let own = Above::new(authority.certificate.clone())?;
    let own = own.read()?;
    let common = own.subject().iter_common_name().next();
    let common = common.and_then(|it| it.as_str().ok());
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common.ok_or(AboveError::Unreadable)?);
    if let Some(id) = key_id(&own) {
        let length = u8::try_from(id.len()).map_err(|_| AboveError::Unreadable)?;
        let octets = [&[0x04, length], id].concat();
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 14], octets);
        params.custom_extensions.push(extension);
    }
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let request = params.serialize_request(key);
    let text = request.and_then(|request| request.pem());
    text.map_err(|error| AboveError::Refused(rustls::Error::General(error.to_string())))
}

/// By what certificates name the key that signed them.
fn key_id<'a>(certificate: &X509Certificate<'a>) -> Option<&'a [u8]> {
    let mut all = certificate.extensions().iter();
    all.find_map(|it| match it.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

/// The way from an authority up, as far as these certificates lead: its own one first. Empty where there is none.
pub(super) fn way(authority: &Issued, all: &str) -> Result<Vec<Above>, AboveError> {
    let all = Identity::new(all.to_owned(), String::new(), String::new()).authorities();
    let all = all.into_iter().take(4 * MOST).map(Above::new);
    let all = all.collect::<Result<Vec<_>, _>>()?;
    let own = Above::new(authority.certificate.clone())?;
    let own = own.read()?;
    let mut way: Vec<Above> = Vec::new();
    let mut next = None;
    for above in &all {
        let it = above.read()?;
        if it.public_key().raw == own.public_key().raw && it.issuer() != it.subject() {
            next = Some(above);
        }
    }
    while let Some(last) = next {
        way.push(last.clone());
        let it = last.read()?;
        next = None;
        if it.issuer() == it.subject() || way.len() >= MOST {
            break;
        }
        for above in &all {
            let issuer = above.read()?;
            let signed = issuer.subject().as_raw() == it.issuer().as_raw()
                && it.verify_signature(Some(issuer.public_key())).is_ok();
            if signed && !way.contains(above) {
                next = Some(above);
            }
        }
    }
    Ok(way)
}

/// Whether whoever trusts the last of them takes what the authority signs.
pub(super) fn check(
    authority: &Issued,
    way: &[Above],
    now: OffsetDateTime,
) -> Result<(), AboveError> {
    let [own, .., root] = way else {
        return Err(match way.first() {
            Some(own) => AboveError::Alone(own.read()?.subject().to_string()),
            None => AboveError::NotOurs,
        });
    };
    let ours = Above::new(authority.certificate.clone())?;
    let (found, wanted) = (own.read()?, ours.read()?);
    // To the octet, as most who compare names do.
    if found.subject().as_raw() != wanted.subject().as_raw() {
        return Err(AboveError::Subject {
            found: found.subject().to_string(),
            wanted: wanted.subject().to_string(),
        });
    }
    // Who looks at neither takes any; OpenSSL takes no other.
    if let (Some(found), Some(wanted)) = (key_id(&found), key_id(&wanted))
        && found != wanted
    {
        let digits = |id: &[u8]| id.iter().map(|it| format!("{it:02x}")).collect();
        return Err(AboveError::KeyId {
            found: digits(found),
            wanted: digits(wanted),
        });
    }
    for (beneath, above) in way.iter().enumerate() {
        let it = above.read()?;
        let of = || it.subject().to_string();
        let constraints = it.basic_constraints().map_err(|_| AboveError::Unreadable)?;
        let constraints = constraints.map(|it| it.value);
        let usage = it.key_usage().map_err(|_| AboveError::Unreadable)?;
        let signs = usage.is_none_or(|it| it.value.key_cert_sign());
        if !constraints.is_some_and(|it| it.ca) || !signs {
            return Err(AboveError::NoAuthority(of()));
        }
        let length = constraints.and_then(|it| it.path_len_constraint);
        if length.is_some_and(|most| beneath > most as usize) {
            return Err(AboveError::Length(of()));
        }
        if it.name_constraints().ok().flatten().is_some() {
            return Err(AboveError::Names(of()));
        }
    }
    try_out(authority, way, root, now)
}

/// Certifies a controller and a gateway, and verifies that as others would.
fn try_out(
    authority: &Issued,
    way: &[Above],
    root: &Above,
    now: OffsetDateTime,
) -> Result<(), AboveError> {
    let refused = AboveError::Refused;
    let general =
        |error: &dyn std::fmt::Display| refused(rustls::Error::General(error.to_string()));
    let mut roots = RootCertStore::empty();
    roots.add(root.der.clone()).map_err(refused)?;
    let (roots, provider) = (Arc::new(roots), Arc::new(default_provider()));
    let gateway = Peer::new(Role::Gateway, "gateway");
    let [controller, gateway] = [Subject::Controller, Subject::Peer(&gateway)].map(|subject| {
        let minute = Duration::from_secs(60);
        let tried = issue_to(authority, &subject, KeyKind::Ed25519, minute, now);
        let tried = tried.map_err(|error| general(&error))?;
        CertificateDer::from_pem_slice(tried.certificate.as_bytes())
            .map_err(|error| general(&error))
    });
    let seconds = u64::try_from(now.unix_timestamp()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let between: Vec<_> = way.iter().map(|it| it.der.clone()).collect();
    let name = ServerName::try_from(CONTROLLER_NAME).map_err(|error| general(&error))?;
    WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| general(&error))?
        .verify_server_cert(&controller?, &between, &name, &[], now)
        .map_err(refused)?;
    WebPkiClientVerifier::builder_with_provider(roots, provider)
        .build()
        .map_err(|error| general(&error))?
        .verify_client_cert(&gateway?, &between, now)
        .map_err(refused)?;
    Ok(())
}

/// Until when all of them are good.
pub(super) fn until(way: &[Above]) -> Option<OffsetDateTime> {
    let ends = way
        .iter()
        .filter_map(|it| Some(it.read().ok()?.validity().not_after.to_datetime()));
    ends.min()
}

/// What is shown of it to whoever trusts the root: all but that. PEM.
pub(super) fn shown(way: &[Above]) -> String {
    let below = |it: &&Above| it.read().is_ok_and(|it| it.issuer() != it.subject());
    way.iter().filter(below).map(|it| &*it.pem).collect()
}

/// All of it, PEM.
pub(super) fn text(way: &[Above]) -> String {
    way.iter().map(|it| &*it.pem).collect()
}
