//! The controller at work: gRPC over mutual TLS 1.3, to agents and operators.

mod agents;
mod history;
mod operators;
mod state;
mod steps;
mod tls;

pub use history::Moved;
pub use state::{ApplyError, State};
pub use tls::TlsError;

use crate::ca::{Peer, Role};
use agents::AgentsService;
use operators::OperatorsService;
use routemesh_proto::Identity;
use routemesh_proto::agents_server::AgentsServer;
use routemesh_proto::operators_server::OperatorsServer;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::{Request, Status};
use tracing::{info, warn};

/// Reports and new keys go to disk this often; agents repeat what a crash loses.
const FLUSH: Duration = Duration::from_secs(1);
/// How long connections may take to end once we stop.
const FAREWELL: Duration = Duration::from_secs(5);
/// A report with all its routes, a specification with what gRPC puts around it.
const LARGEST_REPORT: usize = 32 << 20;
const LARGEST_REQUEST: usize = crate::spec::LONGEST_TEXT + (64 << 10);

/// Why serving ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The identity is no good for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The transport.
    #[error("cannot serve: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// A defect of ours.
    #[error("the server ended unexpectedly: {0}; please report this")]
    Panicked(tokio::task::JoinError),
}

/// Serves at `listener` until `stop` is done, then ends streams and keeps what was reported.
pub async fn serve(
    listener: TcpListener,
    identity: &Identity,
    state: Arc<State>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (stopping, stopped) = watch::channel(false);
    let incoming = tls::incoming(listener, identity, stopped.clone())?;
    let agents = AgentsServer::new(AgentsService::new(state.clone(), stopped.clone()))
        .max_decoding_message_size(LARGEST_REPORT)
        .max_encoding_message_size(usize::MAX);
    let operators = OperatorsServer::new(OperatorsService::new(state.clone()))
        .max_decoding_message_size(LARGEST_REQUEST)
        .max_encoding_message_size(usize::MAX);
    let mut stopped_too = stopped.clone();
    let mut server = tokio::spawn(
        Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .max_concurrent_streams(64)
            .add_service(agents)
            .add_service(operators)
            .serve_with_incoming_shutdown(incoming, async move {
                let _ = stopped_too.wait_for(|stopped| *stopped).await;
            }),
    );
    let flush = tokio::spawn(flush(state.clone(), stopped));
    tokio::select! {
        ended = &mut server => finished(ended)?,
        () = stop => {
            info!("stopping: agents go on without a controller");
            let _ = stopping.send(true);
            match tokio::time::timeout(FAREWELL, &mut server).await {
                Ok(ended) => finished(ended)?,
                Err(_) => server.abort(),
            }
        }
    }
    let _ = stopping.send(true);
    let _ = flush.await;
    Ok(())
}

fn finished(
    ended: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>,
) -> Result<(), ServeError> {
    match ended {
        Ok(result) => Ok(result?),
        // It was told to end, and did not in time.
        Err(error) if error.is_cancelled() => Ok(()),
        Err(error) => Err(ServeError::Panicked(error)),
    }
}

async fn flush(state: Arc<State>, mut stopped: watch::Receiver<bool>) {
    loop {
        let last = tokio::select! {
            () = tokio::time::sleep(FLUSH) => false,
            _ = stopped.wait_for(|stopped| *stopped) => true,
        };
        let state = state.clone();
        let flush = move || (state.tell_keys(), state.flush());
        if let Ok((told, flushed)) = tokio::task::spawn_blocking(flush).await {
            if let Err(error) = told {
                warn!("new keys for WireGuard are not passed on: {error}");
            }
            if let Err(error) = flushed {
                warn!("reports are not kept on disk: {error}");
            }
        }
        if last {
            return;
        }
    }
}

/// The name of whoever asks, if the certificate gives the role.
#[allow(clippy::result_large_err)]
fn require<T>(request: &Request<T>, role: Role) -> Result<String, Status> {
    let certificates = request.peer_certs();
    let first = certificates.iter().flat_map(|all| all.first()).next();
    let peer = first.map(|certificate| Peer::from_certificate(certificate));
    match peer {
        Some(Ok(peer)) if peer.role == role => Ok(peer.name),
        Some(Ok(peer)) => {
            let text = format!(
                "the certificate is of {} {}: this needs one of a{} {role}",
                peer.role,
                peer.name,
                if role == Role::Operator { "n" } else { "" }
            );
            Err(Status::permission_denied(text))
        }
        Some(Err(error)) => Err(Status::permission_denied(error.to_string())),
        None => Err(Status::unauthenticated("no certificate was shown")),
    }
}
