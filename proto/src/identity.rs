//! Who somebody is: a directory with a certificate, its key and the mesh's certificate authority.

use crate::CONTROLLER_NAME;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// A certificate with its key, and the authority that vouches for the others of the mesh.
///
/// The directory holds `ca.pem`, `cert.pem` and `key.pem`; `mesh-controller issue` writes it.
#[derive(Clone)]
pub struct Identity {
    /// The mesh's certificate authority, PEM.
    pub ca: String,
    /// The certificate, PEM.
    pub certificate: String,
    key: String,
}

/// Why an identity cannot be used, or a controller not be dialled with it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is missing or unreadable.
    #[error("cannot read {}: {source}; `mesh-controller issue` writes ca.pem, cert.pem and key.pem", path.display())]
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
    /// Not an address, or a certificate that TLS does not take.
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
    /// Reads the three files of `dir`.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(|source| IdentityError::Read { path, source })
        };
        let identity = Self {
            ca: read("ca.pem")?,
            certificate: read("cert.pem")?,
            key: read("key.pem")?,
        };
        private(&dir.join("key.pem"))?;
        Ok(identity)
    }

    /// The private key, PEM. A secret: for charon and TLS only, never to be printed.
    pub fn expose_key(&self) -> &str {
        &self.key
    }

    /// A channel to the controller at `address`, dialled when first used and again when lost.
    ///
    /// HTTP/2 pings notice within 15 s that the other side is gone.
    pub fn dial(&self, address: &str) -> Result<Channel, IdentityError> {
        let dial = |source| IdentityError::Dial {
            address: address.to_owned(),
            source,
        };
        let tls = ClientTlsConfig::new()
            .domain_name(CONTROLLER_NAME)
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(tonic::transport::Identity::from_pem(
                &self.certificate,
                &self.key,
            ));
        Ok(Endpoint::from_shared(address.to_owned())
            .map_err(dial)?
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .tls_config(tls)
            .map_err(dial)?
            .connect_lazy())
    }
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
