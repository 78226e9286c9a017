//! The mesh's certificate authority: who is a gateway, who an operator, who the controller.
//!
//! One certificate of a gateway serves TLS towards the controller and IKE towards its peers.

mod files;
mod role;

pub use files::{CaError, init, issue, renew};
pub use role::{Peer, PeerError, Role};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, SanType,
};
use routemesh_proto::CONTROLLER_NAME;
use std::fmt;
use time::{Duration, OffsetDateTime};

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

/// A new authority that lasts `days`.
pub fn authority(days: u32, now: OffsetDateTime) -> Result<Issued, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
    let mut params = CertificateParams::default();
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
    valid(&mut params, days, now);
    Ok(Issued {
        certificate: params.self_signed(&key)?.pem(),
        key: SecretPem(key.serialize_pem()),
    })
}

/// A certificate for `subject` that lasts `days`, signed by the authority.
pub fn certify(
    authority: &Issued,
    subject: &Subject,
    days: u32,
    now: OffsetDateTime,
) -> Result<Issued, rcgen::Error> {
    let authority_key = KeyPair::from_pem(authority.key.expose())?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, authority_key)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
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
    valid(&mut params, days, now);
    Ok(Issued {
        certificate: params.signed_by(&key, &issuer)?.pem(),
        key: SecretPem(key.serialize_pem()),
    })
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
                names.push(SanType::DnsName(peer.name.as_str().try_into()?));
            }
            Ok(names)
        }
    }
}

/// From a day ago, because clocks differ.
fn valid(params: &mut CertificateParams, days: u32, now: OffsetDateTime) {
    params.not_before = now - Duration::DAY;
    params.not_after = now + Duration::days(i64::from(days));
}

#[cfg(test)]
mod tests;
