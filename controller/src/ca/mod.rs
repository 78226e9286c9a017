//! The mesh's certificate authority: who is a gateway, who an operator, who the controller.
//!
//! One certificate of a gateway serves TLS towards the controller and IKE towards its peers.

mod above;
mod files;
mod request;
mod role;

pub use above::AboveError;
pub use files::{
    Authority, CaError, Step, init, issue, next_step, put_beneath, renew, request, roll_over,
};
pub use request::{RequestError, Requested};
pub use role::{Peer, PeerError, Role, ike_name};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use routemesh_proto::{CONTROLLER_NAME, KeyKind};
use std::fmt;
use std::time::Duration;
use time::OffsetDateTime;

const DAY: Duration = Duration::from_secs(86_400);

/// A private key as PEM (PKCS#8). Only [`SecretPem::expose`] shows it.
pub struct SecretPem(String);

impl SecretPem {
    /// The text, for the file that keeps it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretPem(..)")
    }
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Issued {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its key.
    pub key: SecretPem,
}

/// What a certificate is for.
#[derive(Clone, Debug)]
pub enum Subject<'a> {
    /// The controller, whatever address it is dialled at.
    Controller,
    /// A gateway or an operator.
    Peer(&'a Peer),
}

/// A new authority that lasts for `lifetime`.
pub fn authority(
    kind: KeyKind,
    lifetime: Duration,
    now: OffsetDateTime,
) -> Result<Issued, rcgen::Error> {
    let key = kind.generate()?;
    let mut params = CertificateParams::default();
    // As most others do, so that a CA above it comes to the same.
    let id = digest(&SHA1_FOR_LEGACY_USE_ONLY, key.public_key_raw());
    params.key_identifier_method = KeyIdMethod::PreSpecified(id.as_ref().to_vec());
    // Two meshes' authorities must not look the same to a person.
    let id: String = params
        .key_identifier(&key)
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    params.distinguished_name = name(&format!("Routemesh CA {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, lifetime, now);
    Ok(Issued {
        certificate: params.self_signed(&key)?.pem(),
        key: SecretPem(kind.pem(&key)),
    })
}

/// A certificate and a key for `subject`.
pub fn issue_to(
    authority: &Issued,
    subject: &Subject,
    kind: KeyKind,
    lifetime: Duration,
    now: OffsetDateTime,
) -> Result<Issued, rcgen::Error> {
    let key = kind.generate()?;
    Ok(Issued {
        certificate: certify(authority, subject, &key, lifetime, now)?,
        key: SecretPem(kind.pem(&key)),
    })
}

/// A certificate (PEM) that `key` is `subject`'s, signed by the authority.
pub fn certify(
    authority: &Issued,
    subject: &Subject,
    key: &impl PublicKeyData,
    lifetime: Duration,
    now: OffsetDateTime,
) -> Result<String, rcgen::Error> {
    let authority_key = KeyPair::from_pem(authority.key.expose())?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, authority_key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name(subject));
    params.subject_alt_names = alternative_names(subject)?;
    // ExplicitNoCa also writes the subject key identifier.
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A gateway's certificate must never pass for the controller's.
    params.extended_key_usages = vec![match subject {
        Subject::Controller => ExtendedKeyUsagePurpose::ServerAuth,
        Subject::Peer(_) => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    valid(&mut params, lifetime, now);
    Ok(params.signed_by(key, &issuer)?.pem())
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn common_name<'a>(subject: &'a Subject) -> &'a str {
    match subject {
        Subject::Controller => CONTROLLER_NAME,
        Subject::Peer(peer) => &peer.name,
    }
}

fn alternative_names(subject: &Subject) -> Result<Vec<SanType>, rcgen::Error> {
    match subject {
        Subject::Controller => Ok(vec![SanType::DnsName(CONTROLLER_NAME.try_into()?)]),
        Subject::Peer(peer) => {
            let mut names = vec![SanType::URI(peer.uri().try_into()?)];
            // IKE knows a gateway by this name, and an operator by none.
            if peer.role == Role::Gateway {
                let name = ike_name(&peer.name, peer.admission);
                names.push(SanType::DnsName(name.try_into()?));
            }
            Ok(names)
        }
    }
}

/// From a day ago, because clocks differ; those that do not last for days take that from half their time.
fn valid(params: &mut CertificateParams, lifetime: Duration, now: OffsetDateTime) {
    params.not_before = now - DAY.min(lifetime / 2);
    params.not_after = now + lifetime;
}

#[cfg(test)]
mod tests;
