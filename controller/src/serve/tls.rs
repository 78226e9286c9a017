//! TLS 1.3 with certificates on both sides, and nothing else.

use routemesh_proto::Identity;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, version};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, warn};

/// A client that takes longer has lost its chance.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes under way at once.
const HANDSHAKES: usize = 1024;

/// An identity that TLS cannot use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM.
    #[error("the controller's certificates or key are damaged: {0}")]
    Pem(#[from] pem::Error),
    /// The authority.
    #[error("the certificate authority cannot be used: {0}")]
    Authority(#[from] VerifierBuilderError),
    /// The certificate.
    #[error("the controller's certificate cannot be used: {0}")]
    Certificate(#[from] rustls::Error),
}

fn server_config(identity: &Identity) -> Result<ServerConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(identity.ca.as_bytes()) {
        roots.add(certificate?)?;
    }
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.expose_key().as_bytes())?;
    let provider = Arc::new(default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.alpn_protocols.push(b"h2".to_vec());
    Ok(config)
}

type Connections = ReceiverStream<io::Result<TlsStream<TcpStream>>>;

/// Connections whose handshake is done. Slow ones wait beside each other, not in a row.
pub(super) fn incoming(
    listener: TcpListener,
    identity: &Identity,
    mut stopped: watch::Receiver<bool>,
) -> Result<Connections, TlsError> {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(identity)?));
    let (done, connections) = mpsc::channel(64);
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopped.wait_for(|stopped| *stopped) => return,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: trying at once would only spin.
                    warn!("cannot accept connections: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let (acceptor, done) = (acceptor.clone(), done.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        drop(place);
                        let _ = done.send(Ok(stream)).await;
                    }
                    Ok(Err(error)) => debug!("{from} refused: {error}"),
                    Err(_) => debug!("{from} refused: no handshake within {HANDSHAKE:?}"),
                }
            });
        }
    });
    Ok(ReceiverStream::new(connections))
}
