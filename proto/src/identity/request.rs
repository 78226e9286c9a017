//! A new key, and the request to certify it.

use super::{Identity, IdentityError};
use crate::IssuedCertificate;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};
use std::fmt;
use std::str::FromStr;

/// What kind of key an identity has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA over P-384.
    #[default]
    EcdsaP384,
    /// Ed25519 (RFC 8032).
    Ed25519,
}

impl FromStr for KeyKind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ecdsa-p384" => Ok(Self::EcdsaP384),
            "ed25519" => Ok(Self::Ed25519),
            _ => Err("a key is ecdsa-p384 or ed25519"),
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaP384 => "ecdsa-p384",
            Self::Ed25519 => "ed25519",
        })
    }
}

impl KeyKind {
    /// A new key.
    pub fn generate(self) -> Result<KeyPair, rcgen::Error> {
        match self {
            Self::EcdsaP384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
            Self::Ed25519 => KeyPair::generate_for(&PKCS_ED25519),
        }
    }

    /// PKCS#8 as PEM, as charon reads it: an Ed25519 key in version 1 (RFC 8410), without its public part.
    pub fn pem(self, key: &KeyPair) -> String {
        /// All of it but the key's 32 bytes.
        const V1: [u8; 16] = [
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
            0x04, 0x20,
        ];
        let der = key.serialized_der();
        match (self, der.get(V1.len()..V1.len() + 32)) {
            (Self::Ed25519, Some(seed)) => super::enroll::pem("PRIVATE KEY", &[&V1, seed].concat()),
            _ => key.serialize_pem(),
        }
    }

    /// Of a key as PEM.
    pub fn of_pem(pem: &str) -> Result<Self, rcgen::Error> {
        KeyPair::from_pem(pem).map(|key| Self::of(&key))
    }

    fn of(key: &KeyPair) -> Self {
        match key.is_compatible(&PKCS_ED25519) {
            true => Self::Ed25519,
            false => Self::EcdsaP384,
        }
    }
}

/// A key that is not certified yet.
pub struct Request {
    key: KeyPair,
    kind: KeyKind,
    der: Vec<u8>,
}

impl Request {
    /// Makes a key for `name`.
    pub fn new(name: &str, kind: KeyKind) -> Result<Self, IdentityError> {
        let key = kind.generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let der = params.serialize_request(&key)?.der().to_vec();
        Ok(Self { key, kind, der })
    }

    /// A new key for whoever has this identity, of the same kind.
    pub fn renewing(identity: &Identity) -> Result<Self, IdentityError> {
        let kind = KeyKind::of_pem(identity.expose_key())?;
        Self::new(&identity.name()?, kind)
    }

    /// PKCS#10, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The identity that comes of it. What was answered must certify this key.
    pub fn answered(self, answer: IssuedCertificate) -> Result<Identity, IdentityError> {
        let identity = Identity {
            ca: answer.authorities,
            certificate: answer.certificate,
            key: self.kind.pem(&self.key),
        };
        match identity.belongs_together() {
            true => Ok(identity),
            false => Err(IdentityError::Mismatch),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}
