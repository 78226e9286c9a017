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
    /// Not dialled with TLS.
    #[error(
        "cannot dial {0}: the address of a controller begins with https://, like https://[2001:db8::1]:7179"
    )]
    Scheme(String),
    /// Certificate, key or authority are not what TLS takes.
    #[error("the identity cannot be used: {}; do cert.pem, key.pem and ca.pem belong together?", causes(.0))]
    Tls(#[source] tonic::transport::Error),
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
        // Anything else would be dialled in clear, and whoever answers be believed.
        if !address.starts_with("https://") {
            return Err(IdentityError::Scheme(address.to_owned()));
        }
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
            .map_err(IdentityError::Tls)?
            .connect_lazy())
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
