//! Who somebody is: a directory with a certificate, its key and the mesh's certificate authorities.

mod enroll;
mod files;
mod one_of;
mod request;
mod token;
mod validity;

pub use enroll::{EnrollError, enroll, fingerprint};
pub use files::save_file;
pub use request::{KeyKind, Request};
pub use token::TokenError;
pub use validity::Validity;

use crate::{CONTROLLER_NAME, CertificateStatus};
use one_of::OneOf;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};
use x509_parser::pem::Pem;

/// A certificate with its key, and the authorities that vouch for the others of the mesh.
///
/// The directory holds `ca.pem`, `cert.pem` and `key.pem`; `mesh-agent enroll`, `meshctl enroll` and
/// `mesh-controller issue` write it.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The mesh's certificate authorities, PEM: the first one signs.
    pub ca: String,
    /// The certificate, PEM.
    pub certificate: String,
    key: String,
}

/// Why an identity cannot be used, or a controller not be dialled with it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is missing or unreadable.
    #[error("cannot read {}: {source}; `mesh-agent enroll` (for an operator, `meshctl enroll`) writes ca.pem, cert.pem and key.pem", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key can be read by others than its owner.
    #[error("{} can be read by others (mode {mode:o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not dialled with TLS.
    #[error(
        "cannot dial {0}: the address of a controller begins with https://, like https://[2001:db8::1]:7179"
    )]
    Scheme(String),
    /// Certificate, key or authority are not what TLS takes.
    #[error("the identity cannot be used: {}; do cert.pem, key.pem and ca.pem belong together?", causes(.0))]
    Tls(#[source] tonic::transport::Error),
    /// They cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate is of another key.
    #[error("cert.pem and key.pem do not belong together")]
    Mismatch,
    /// Not a certificate.
    #[error("cert.pem or ca.pem is no certificate")]
    Certificate,
    /// No key, or none can be made.
    #[error("the key cannot be used: {0}")]
    Key(#[from] rcgen::Error),
    /// Not an address.
    #[error("cannot dial {address}: {source}; an address looks like https://[2001:db8::1]:7179")]
    Dial {
        /// The address as given.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// Of PEM texts: authorities, certificate, key.
    pub fn new(ca: String, certificate: String, key: String) -> Self {
        Self {
            ca,
            certificate,
            key,
        }
    }

    /// Reads the three files of `dir`. Where a crash came between the new key and its certificate, the
    /// latter is put in its place.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let read = |path: PathBuf| {
            std::fs::read_to_string(&path).map_err(|source| IdentityError::Read { path, source })
        };
        let certificate = dir.join("cert.pem");
        let mut identity = Self {
            ca: read(dir.join("ca.pem"))?,
            certificate: read(certificate.clone())?,
            key: read(dir.join("key.pem"))?,
        };
        private(&dir.join("key.pem"))?;
        if !identity.belongs_together()
            && let Ok(new) = read(files::new_of(&certificate))
        {
            let old = std::mem::replace(&mut identity.certificate, new);
            match identity.belongs_together() {
                true => files::put_in_place(&certificate).map_err(write_error(&certificate))?,
                false => identity.certificate = old,
            }
        }
        Ok(identity)
    }

    /// Makes the directory, and sees that a key can be written: before a token is spent on what would be lost.
    pub fn probe(dir: &Path) -> Result<(), IdentityError> {
        files::private_dir(dir).map_err(write_error(dir))?;
        let key = dir.join("key.pem");
        let probed = files::prepare(&key, "", 0o600)
            .and_then(|()| std::fs::remove_file(files::new_of(&key)));
        probed.map_err(write_error(&key))
    }

    /// Writes the three files, the key for its owner only. A crash leaves one identity or the other.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        files::private_dir(dir).map_err(write_error(dir))?;
        // Whoever has the new certificate must know the new authority; the old one is still among them.
        self.save_authorities(dir)?;
        let (key, certificate) = (dir.join("key.pem"), dir.join("cert.pem"));
        files::prepare(&certificate, &self.certificate, 0o600)
            .map_err(write_error(&certificate))?;
        save_file(&key, &self.key, 0o600).map_err(write_error(&key))?;
        files::put_in_place(&certificate).map_err(write_error(&certificate))
    }

    /// Writes `ca.pem` only.
    pub fn save_authorities(&self, dir: &Path) -> Result<(), IdentityError> {
        let path = dir.join("ca.pem");
        save_file(&path, &self.ca, 0o600).map_err(write_error(&path))
    }

    /// The private key, PEM. A secret: for charon and TLS only, never to be printed.
    pub fn expose_key(&self) -> &str {
        &self.key
    }

    /// The authorities, one PEM text each: the first one signs.
    pub fn authorities(&self) -> Vec<String> {
        certificates(&self.ca)
            .map(|der| enroll::pem("CERTIFICATE", &der))
            .collect()
    }

    /// The holder's name, as the certificate has it.
    pub fn name(&self) -> Result<String, IdentityError> {
        let der = self.der()?;
        let (_, certificate) =
            x509_parser::parse_x509_certificate(&der).map_err(|_| IdentityError::Certificate)?;
        let mut names = certificate.subject().iter_common_name();
        let name = names.next().and_then(|name| name.as_str().ok());
        name.map(str::to_owned).ok_or(IdentityError::Certificate)
    }

    /// What a report says of it.
    pub fn status(&self) -> Option<CertificateStatus> {
        let Validity { from, to } = self.validity().ok()?;
        let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
        let der = self.der().ok()?;
        let signed = |authority: &Vec<u8>| signed_by(&der, authority).unwrap_or_default();
        let signer = certificates(&self.ca).find(signed);
        Some(CertificateStatus {
            from: seconds(from),
            to: seconds(to),
            trusts: certificates(&self.ca).map(|it| digits(&it)).collect(),
            signer: signer.map(|it| digits(&it)).unwrap_or_default(),
        })
    }

    /// From when to when the certificate is good.
    pub fn validity(&self) -> Result<Validity, IdentityError> {
        Validity::of(&self.der()?).ok_or(IdentityError::Certificate)
    }

    /// Whether the authority that signs now has signed the certificate; another one did if it has been
    /// replaced.
    pub fn is_of_first_authority(&self) -> bool {
        let issued = || signed_by(&self.der().ok()?, &certificates(&self.ca).next()?);
        issued().unwrap_or_default()
    }

    fn der(&self) -> Result<Vec<u8>, IdentityError> {
        let first = certificates(&self.certificate).next();
        first.ok_or(IdentityError::Certificate)
    }

    /// The certificate is of this key.
    fn belongs_together(&self) -> bool {
        let same = || {
            let key = rcgen::KeyPair::from_pem(&self.key).ok()?;
            let der = self.der().ok()?;
            let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
            let public = &certificate.public_key().subject_public_key.data;
            Some(**public == *key.public_key_raw())
        };
        same().unwrap_or_default()
    }

    /// A channel to the controller at `address`, or to one of several with commas between their addresses,
    /// dialled when first used and again when lost: whichever answers first, from a random one on.
    ///
    /// HTTP/2 pings notice within 15 s that the other side is gone.
    pub fn dial(&self, address: &str) -> Result<Channel, IdentityError> {
        dial(address, &self.ca, Some((&self.certificate, &self.key)))
    }
}

/// Whether an authority has signed a certificate, both DER.
fn signed_by(certificate: &[u8], authority: &[u8]) -> Option<bool> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let (_, authority) = x509_parser::parse_x509_certificate(authority).ok()?;
    let key = Some(authority.public_key());
    Some(certificate.verify_signature(key).is_ok())
}

/// A certificate's fingerprint as text.
fn digits(der: &[u8]) -> String {
    fingerprint(der)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A channel to a controller that `authorities` vouch for, or to one of several.
fn dial(
    address: &str,
    authorities: &str,
    own: Option<(&str, &str)>,
) -> Result<Channel, IdentityError> {
    let mut tls = ClientTlsConfig::new()
        .domain_name(CONTROLLER_NAME)
        .ca_certificate(Certificate::from_pem(authorities));
    if let Some((certificate, key)) = own {
        tls = tls.identity(tonic::transport::Identity::from_pem(certificate, key));
    }
    let endpoints = address.split(',').map(|one| endpoint(one.trim(), &tls));
    let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
    let uris: Vec<Uri> = endpoints.iter().map(|it| it.uri().clone()).collect();
    match endpoints.into_iter().next() {
        Some(only) if uris.len() == 1 => Ok(only.connect_lazy()),
        Some(first) => {
            let one_of = OneOf::new(uris);
            let first = first.connect_timeout(one_of.patience());
            Ok(first.connect_with_connector_lazy(one_of))
        }
        None => Err(IdentityError::Scheme(address.to_owned())),
    }
}

fn endpoint(address: &str, tls: &ClientTlsConfig) -> Result<Endpoint, IdentityError> {
    // Anything else would be dialled in clear, and whoever answers be believed.
    if !address.starts_with("https://") {
        return Err(IdentityError::Scheme(address.to_owned()));
    }
    let dial = |source| IdentityError::Dial {
        address: address.to_owned(),
        source,
    };
    Endpoint::from_shared(address.to_owned())
        .map_err(dial)?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .tls_config(tls.clone())
        .map_err(IdentityError::Tls)
}

/// The certificates of a PEM text, DER; what is something else is left out.
fn certificates(pem: &str) -> impl Iterator<Item = Vec<u8>> {
    let all = Pem::iter_from_buffer(pem.as_bytes()).filter_map(Result::ok);
    all.filter(|it| it.label == "CERTIFICATE")
        .map(|it| it.contents)
}

fn write_error(path: &Path) -> impl Fn(std::io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Write {
        path: path.clone(),
        source,
    }
}

/// An error and the causes beneath it, where the reason is.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn private(path: &Path) -> Result<(), IdentityError> {
    use std::os::unix::fs::PermissionsExt;
    let read = |source| IdentityError::Read {
        path: path.to_owned(),
        source,
    };
    let mode = std::fs::metadata(path).map_err(read)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An identity that signed itself.
    fn identity(kind: KeyKind) -> Identity {
        let key = kind.generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["V1-1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Identity {
            ca: certificate.clone(),
            certificate,
            key: kind.pem(&key),
        }
    }

    #[test]
    fn a_crash_leaves_one_identity_or_the_other() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("identity");
        let (old, new) = (identity(KeyKind::EcdsaP384), identity(KeyKind::Ed25519));
        old.save(&at).unwrap();
        assert!(Identity::load(&at).unwrap() == old);
        let mode = |name: &str| at.join(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("key.pem"), 0o600);
        // Between the key and the certificate.
        files::prepare(&at.join("cert.pem"), &new.certificate, 0o600).unwrap();
        assert!(Identity::load(&at).unwrap() == old);
        save_file(&at.join("key.pem"), new.expose_key(), 0o600).unwrap();
        let loaded = Identity::load(&at).unwrap();
        assert!(loaded.key == new.key && loaded.certificate == new.certificate);
        assert!(!at.join("cert.pem.new").exists());
        // What never belonged together is not made to.
        old.save(&at).unwrap();
        std::fs::write(at.join("key.pem"), new.expose_key()).unwrap();
        assert!(Identity::load(&at).unwrap().certificate == old.certificate);
    }

    #[test]
    fn a_directory_is_probed_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("identity");
        Identity::probe(&at).unwrap();
        assert_eq!(at.read_dir().unwrap().count(), 0);
        std::fs::write(at.join("file"), "").unwrap();
        // Root may write in any directory, so it is a file.
        let refused = Identity::probe(&at.join("file"));
        assert!(matches!(refused, Err(IdentityError::Write { .. })));
    }

    #[test]
    fn an_answer_has_to_certify_the_key_that_was_made() {
        let own = identity(KeyKind::Ed25519);
        let request = Request::new("V1-1", KeyKind::Ed25519).unwrap();
        let answer = crate::IssuedCertificate {
            certificate: own.certificate.clone(),
            authorities: own.ca.clone(),
        };
        let refused = request.answered(answer);
        assert!(matches!(refused, Err(IdentityError::Mismatch)));
        assert!(own.is_of_first_authority() && own.authorities().len() == 1);
        let status = own.status().unwrap();
        assert_eq!(status.trusts, [status.signer]);
    }

    #[tokio::test]
    async fn a_controller_is_never_dialled_in_clear() {
        let identity = Identity {
            ca: String::new(),
            certificate: String::new(),
            key: String::new(),
        };
        for address in ["http://[::1]:7179", "[::1]:7179", "ftp://x", "HTTP://x"] {
            let refused = identity.dial(address);
            assert!(
                matches!(refused, Err(IdentityError::Scheme(_))),
                "{address}"
            );
        }
    }
}
