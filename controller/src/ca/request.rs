//! A signing request (PKCS#10, RFC 2986), as somebody sent it.

use rcgen::{
    CertificateSigningRequestParams, DnType, DnValue, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    PublicKey, PublicKeyData,
};

/// A request may have so many bytes; one of ours has less than 300.
const LONGEST: usize = 4096;

/// Why a request is not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not one, or not signed by its own key.
    #[error("that is no signing request (PKCS#10), or its signature is wrong")]
    Unreadable,
    /// Another kind of key.
    #[error("the key is neither ECDSA P-384 nor Ed25519")]
    Key,
}

/// What counts of a request.
#[derive(Debug)]
pub struct Requested {
    /// The common name.
    pub name: String,
    /// To be certified; whoever asked has the other half of it.
    pub key: PublicKey,
}

impl Requested {
    /// Reads a request, DER.
    pub fn parse(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > LONGEST {
            return Err(RequestError::Unreadable);
        }
        let params = CertificateSigningRequestParams::from_der(&der.into())
            .map_err(|_| RequestError::Unreadable)?;
        let key = params.public_key;
        // The algorithm is that of the signature, so the key's length tells the curve.
        let known = [(&PKCS_ECDSA_P384_SHA384, 97), (&PKCS_ED25519, 32)];
        let mut known = known.iter();
        if !known.any(|(algorithm, length)| {
            *key.algorithm() == **algorithm && key.der_bytes().len() == *length
        }) {
            return Err(RequestError::Key);
        }
        let name = match params.params.distinguished_name.get(&DnType::CommonName) {
            Some(DnValue::Utf8String(name)) => name.clone(),
            Some(DnValue::PrintableString(name)) => name.as_str().to_owned(),
            _ => String::new(),
        };
        Ok(Self { name, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
    use routemesh_proto::{KeyKind, Request};

    #[test]
    fn only_a_request_that_its_own_key_signed() {
        for kind in [KeyKind::EcdsaP384, KeyKind::Ed25519] {
            let request = Request::new("V1-1", kind).unwrap();
            assert_eq!(Requested::parse(request.der()).unwrap().name, "V1-1");
            let whole = Requested::parse(request.der()).unwrap();
            // Whatever is changed in it: what its key has signed still says the same, or it is refused.
            for at in 0..request.der().len() {
                let mut other = request.der().to_vec();
                other[at] ^= 1;
                if let Ok(same) = Requested::parse(&other) {
                    assert_eq!(
                        (same.name, same.key),
                        (whole.name.clone(), whole.key.clone())
                    );
                }
                assert!(Requested::parse(&other[..at]).is_err(), "{kind} {at}");
            }
        }
        let weak = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let request = CertificateParams::default().serialize_request(&weak);
        let refused = Requested::parse(request.unwrap().der());
        assert_eq!(refused.unwrap_err(), RequestError::Key);
        assert_eq!(
            Requested::parse(&[0x30; 9000]).unwrap_err(),
            RequestError::Unreadable
        );
    }
}
