//! A token against an identity.
//!
//! Who enrolls knows no authority yet, only the fingerprint of one. So it lets the controller show its
//! certificates in a handshake, takes that authority among them which has the fingerprint, and only then
//! dials as everybody does: the token is shown to nobody else.

use super::{Identity, IdentityError, KeyKind, Request};
use crate::certificates_client::CertificatesClient;
use crate::{CONTROLLER_NAME, EnrollRequest, Token};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{SHA256, digest};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring as ring_provider, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    version,
};
use tonic::codegen::http::Uri;

/// For each step: connecting, the handshake, the call.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nobody was enrolled. The token is still good unless the controller took it: see each.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// Not there, or another: it has not seen the token.
    #[error("{address}: {reason}")]
    Unreachable {
        /// The controller.
        address: String,
        /// Why.
        reason: String,
    },
    /// It was asked, and may have used the token up.
    #[error(
        "{0} was asked and does not answer: if it says later that the token was used, `meshctl token create` makes another"
    )]
    Silent(String),
    /// The controller says no; it has not used the token up.
    #[error("{0}")]
    Refused(String),
    /// The key cannot be made, or what was answered is no good: then the token is used up.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// SHA-256 of a certificate (DER), by which a token names its authority.
pub fn fingerprint(der: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, der).as_ref());
    bytes
}

/// Asks the controllers that the token names, one after the other, for an identity with a new key.
pub async fn enroll(token: &Token, kind: KeyKind) -> Result<Identity, EnrollError> {
    let mut failed = EnrollError::Refused("the token names no controller".to_owned());
    for address in &token.controllers {
        match at(token, kind, address).await {
            Err(error @ EnrollError::Unreachable { .. }) => failed = error,
            other => return other,
        }
    }
    Err(failed)
}

async fn at(token: &Token, kind: KeyKind, address: &str) -> Result<Identity, EnrollError> {
    let unreachable = |reason: String| EnrollError::Unreachable {
        address: address.to_owned(),
        reason,
    };
    let shown = tokio::time::timeout(PATIENCE, authority(address, &token.authority)).await;
    let authority = shown
        .map_err(|_| unreachable("no answer".to_owned()))?
        .map_err(unreachable)?;
    let channel = super::dial(address, &authority, None)?;
    let mut client = CertificatesClient::new(channel);
    let request = Request::new(&token.name, kind)?;
    let call = client.enroll(EnrollRequest {
        secret: token.secret.clone(),
        request: request.der().to_vec(),
    });
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(answer)) => Ok(request.answered(answer.into_inner())?),
        Ok(Err(status)) if status.code() == tonic::Code::Unavailable => {
            Err(unreachable(super::causes(&status)))
        }
        Ok(Err(status)) => Err(EnrollError::Refused(status.message().to_owned())),
        Err(_) => Err(EnrollError::Silent(address.to_owned())),
    }
}

/// The authority of that fingerprint, PEM, if it vouches for the controller at that address.
async fn authority(address: &str, fingerprint: &[u8]) -> Result<String, String> {
    let uri: Uri = address
        .parse()
        .map_err(|error| format!("not an address: {error}"))?;
    let (Some(host), "https") = (uri.host(), uri.scheme_str().unwrap_or_default()) else {
        return Err("an address looks like https://[2001:db8::1]:7179".to_owned());
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(443);
    let provider = Arc::new(ring_provider::default_provider());
    let verifier = Arc::new(ByFingerprint {
        wanted: fingerprint.to_vec(),
        provider: provider.clone(),
        found: OnceLock::new(),
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    config.alpn_protocols.push(b"h2".to_vec());
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("cannot connect: {error}"))?;
    let name = ServerName::try_from(CONTROLLER_NAME).map_err(|error| error.to_string())?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| {
            format!(
                "not the controller that the token is of ({error}); has its authority been replaced since? \
                 `meshctl token create` makes another token"
            )
        })?;
    let found = verifier.found.get().ok_or("no certificate was shown")?;
    Ok(pem("CERTIFICATE", found))
}

/// What is `label`, as PEM (RFC 7468).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let lines: Vec<_> = lines.collect();
    let body = lines.join("\n");
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// Trusts the authority of one fingerprint, which the other side shows with its own certificate.
#[derive(Debug)]
struct ByFingerprint {
    wanted: Vec<u8>,
    provider: Arc<CryptoProvider>,
    found: OnceLock<CertificateDer<'static>>,
}

impl ServerCertVerifier for ByFingerprint {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_wanted = |it: &&CertificateDer| fingerprint(it) == self.wanted[..];
        let Some(authority) = intermediates.iter().find(is_wanted) else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let authority = authority.clone().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let usual =
            WebPkiServerVerifier::builder_with_provider(roots.into(), self.provider.clone())
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        let verified = usual.verify_server_cert(end_entity, &[], name, ocsp, now)?;
        let _ = self.found.set(authority);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
