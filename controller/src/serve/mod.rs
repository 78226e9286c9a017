//! The controller at work: gRPC over mutual TLS 1.3, to agents and operators.

mod access;
mod agents;
mod canary;
mod certificates;
mod history;
mod operators;
mod reports;
mod state;
mod steps;
mod tls;
mod trust;

pub use history::Moved;
pub use state::{ApplyError, State};
pub use tls::TlsError;

use crate::ca::{Authority, CaError};
use access::{Gate, Refusals};
use agents::AgentsService;
use certificates::CertificatesService;
use operators::OperatorsService;
use routemesh_proto::Identity;
use routemesh_proto::agents_server::AgentsServer;
use routemesh_proto::certificates_server::CertificatesServer;
use routemesh_proto::operators_server::OperatorsServer;
use routemesh_proto::trust_server::TrustServer;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::rustls::ServerConfig;
use tonic::transport::Server;
use tracing::{error, info, warn};
use trust::TrustService;

/// Reports and new keys go to disk this often; agents repeat what a crash loses.
const FLUSH: Duration = Duration::from_secs(1);
/// How long connections may take to end once we stop.
const FAREWELL: Duration = Duration::from_secs(5);
/// A report with all its routes, a specification with what gRPC puts around it.
const LARGEST_REPORT: usize = 32 << 20;
/// What has no lists in it.
const LARGEST_SMALL: usize = 16 << 10;
const LARGEST_REQUEST: usize = crate::spec::LONGEST_TEXT + (64 << 10);

/// So many enrolments are looked at together; the others wait.
const ENROLMENTS: usize = 4;

/// Between two looks whether the controller's certificate is due, or another.
const LOOK: Duration = Duration::from_secs(2);
/// A request is answered by then. What comes in pieces for longer is not waited for.
const ANSWER: Duration = Duration::from_secs(60);

/// Why serving ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no identity.
    #[error(transparent)]
    Authority(#[from] CaError),
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
    authority: Authority,
    state: Arc<State>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (stopping, stopped) = watch::channel(false);
    let own = authority.own(SystemTime::now().into())?;
    let (config, configs) = watch::channel(Arc::new(tls::server_config(&own)?));
    let incoming = tls::incoming(listener, configs, stopped.clone());
    let refusals = Refusals::default();
    let gate = Gate {
        admissions: state.admissions(),
        refusals: refusals.clone(),
    };
    let agents = AgentsServer::new(AgentsService::new(state.clone(), stopped.clone()))
        .max_decoding_message_size(LARGEST_REPORT)
        .max_encoding_message_size(usize::MAX);
    let operators = OperatorsServer::new(OperatorsService::new(state.clone()))
        .max_decoding_message_size(LARGEST_REQUEST)
        .max_encoding_message_size(usize::MAX);
    let certificates = CertificatesServer::new(CertificatesService {
        state: state.clone(),
        authority: authority.clone(),
        refusals: refusals.clone(),
        turns: Arc::new(Semaphore::new(ENROLMENTS)),
    })
    .max_decoding_message_size(LARGEST_SMALL);
    let trust = TrustServer::new(TrustService {
        state: state.clone(),
        authority: authority.clone(),
        refusals,
    })
    .max_decoding_message_size(LARGEST_SMALL)
    .max_encoding_message_size(usize::MAX);
    let (_reporter, health) = tonic_health::server::health_reporter();
    let mut stopped_too = stopped.clone();
    let mut server = tokio::spawn(
        Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .max_concurrent_streams(64)
            .http2_max_header_list_size(16 << 10)
            .timeout(ANSWER)
            .layer(gate)
            .add_service(agents)
            .add_service(operators)
            .add_service(certificates)
            .add_service(trust)
            .add_service(health)
            .serve_with_incoming_shutdown(incoming, async move {
                let _ = stopped_too.wait_for(|stopped| *stopped).await;
            }),
    );
    let tend = tokio::spawn(tend(state.clone()));
    let flush = tokio::spawn(flush(state.clone(), stopped.clone()));
    tokio::spawn(keep_certificate(authority, own, config, stopped));
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
    tend.abort();
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

/// Looks after what is tried at one site.
async fn tend(state: Arc<State>) {
    loop {
        tokio::time::sleep(FLUSH).await;
        let state = state.clone();
        let tended = tokio::task::spawn_blocking(move || state.tend(Instant::now())).await;
        if let Ok(Err(error)) = tended {
            warn!("a trial at one site cannot be ended: {error}");
        }
    }
}

async fn flush(state: Arc<State>, mut stopped: watch::Receiver<bool>) {
    loop {
        let last = tokio::select! {
            () = tokio::time::sleep(FLUSH) => false,
            _ = stopped.wait_for(|stopped| *stopped) => true,
        };
        let state = state.clone();
        let flush = move || (state.tell_keys(), state.flush(last));
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

/// Renews the controller's certificate when it is due, and takes up what was renewed beside it.
async fn keep_certificate(
    authority: Authority,
    mut own: Identity,
    config: watch::Sender<Arc<ServerConfig>>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut failed = String::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
        let authority = authority.clone();
        let look = move || authority.own(SystemTime::now().into());
        let seen = match tokio::task::spawn_blocking(look).await {
            Ok(seen) => seen.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let taken = seen.and_then(|new| {
            if new != own {
                let with_new = tls::server_config(&new).map_err(|error| error.to_string())?;
                info!("the controller's certificate or authorities are new");
                config.send_replace(Arc::new(with_new));
                own = new;
            }
            Ok(())
        });
        let problem = taken.err().unwrap_or_default();
        if problem != failed && !problem.is_empty() {
            error!("the controller's certificate stays as it is: {problem}");
        }
        failed = problem;
    }
}
