//! The controller at work: gRPC over mutual TLS 1.3, to agents and operators.

mod access;
mod agents;
mod asks;
mod canary;
mod certificates;
mod diagnose;
mod events;
mod figures;
mod follow;
mod heard;
mod history;
mod operators;
mod questions;
mod reports;
mod state;
mod steps;
mod tls;
mod trust;

pub use history::Moved;
pub use state::{ApplyError, State};
pub use tls::TlsError;

use crate::ca::{Authority, CaError};
use crate::metrics::{self, Certificate, Survey};
use crate::topology::{Wanted, topology};
use access::{Calls, Gate};
use agents::AgentsService;
use asks::Asks;
use certificates::CertificatesService;
use events::Events;
use figures::Figures;
use heard::ControllersService;
use operators::OperatorsService;
use questions::QuestionsService;
use routemesh_metrics::Page;
use routemesh_proto::agents_server::AgentsServer;
use routemesh_proto::asks_server::AsksServer;
use routemesh_proto::certificates_server::CertificatesServer;
use routemesh_proto::controllers_server::ControllersServer;
use routemesh_proto::operators_server::OperatorsServer;
use routemesh_proto::trust_server::TrustServer;
use routemesh_proto::{Identity, Validity};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::rustls::ServerConfig;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tracing::{error, info, warn};
use trust::TrustService;

/// Reports and new keys go to disk this often; agents repeat what a crash loses.
const FLUSH: Duration = Duration::from_secs(1);
/// How long connections may take to end once we stop.
const FAREWELL: Duration = Duration::from_secs(5);
/// From an agent: what is larger comes in pieces.
const LARGEST_PIECE: usize = 64 << 10;
/// A report with all its routes, as another controller passes it on.
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

/// How the mesh is, is looked at no more often than this, for `/metrics`, and so that it takes a twentieth of
/// a processor at most.
const SURVEY: Duration = Duration::from_secs(5);

/// Whose health is told.
const SERVICES: [&str; 4] = [
    "routemesh.v1.Agents",
    "routemesh.v1.Certificates",
    "routemesh.v1.Operators",
    "routemesh.v1.Trust",
];

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
    #[error("the protocol cannot be described: {0}; please report this")]
    Reflection(#[from] tonic_reflection::server::Error),
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
    let incoming = tls::incoming(listener, configs, state.figures.clone(), stopped.clone());
    state.figures.certificates_are(certificates_of(&own));
    let gate = Gate {
        figures: state.figures.clone(),
        admissions: state.admissions(),
        calls: Calls::default(),
    };
    let seen = state.seen();
    let (asks, events) = (Arc::new(Asks::default()), Arc::new(Events::default()));
    let agents = AgentsService::new(state.clone(), asks.clone(), stopped.clone());
    let agents = AgentsServer::new(agents)
        .max_decoding_message_size(LARGEST_PIECE)
        .max_encoding_message_size(usize::MAX);
    let operators = OperatorsServer::new(OperatorsService::new(state.clone()))
        .max_decoding_message_size(LARGEST_REQUEST)
        .max_encoding_message_size(usize::MAX);
    let questions = QuestionsService::new(state.clone(), asks, events.clone());
    let questions = AsksServer::new(questions)
        .max_decoding_message_size(LARGEST_SMALL)
        .max_encoding_message_size(usize::MAX);
    let certificates = CertificatesServer::new(CertificatesService {
        state: state.clone(),
        authority: authority.clone(),
        turns: Arc::new(Semaphore::new(ENROLMENTS)),
    })
    .max_decoding_message_size(LARGEST_SMALL);
    let trust = TrustServer::new(TrustService {
        state: state.clone(),
        authority: authority.clone(),
    })
    .max_decoding_message_size(LARGEST_SMALL)
    .max_encoding_message_size(usize::MAX);
    let controllers = ControllersServer::new(ControllersService {
        state: state.clone(),
        stopped: stopped.clone(),
    })
    .max_decoding_message_size(LARGEST_SMALL)
    .max_encoding_message_size(usize::MAX);
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in SERVICES {
        reporter
            .set_service_status(service, ServingStatus::Serving)
            .await;
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(routemesh_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
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
            .add_service(questions)
            .add_service(certificates)
            .add_service(trust)
            .add_service(controllers)
            .add_service(health.max_decoding_message_size(LARGEST_SMALL))
            .add_service(reflection.max_decoding_message_size(LARGEST_SMALL))
            .serve_with_incoming_shutdown(incoming, async move {
                let _ = stopped_too.wait_for(|stopped| *stopped).await;
            }),
    );
    let tend = tokio::spawn(tend(state.clone()));
    let follow = tokio::spawn(follow::follow(state.clone(), authority.clone()));
    let watch = tokio::spawn(events.watch(state.clone(), seen));
    let flush = tokio::spawn(flush(state.clone(), stopped.clone()));
    let survey = tokio::spawn(survey(state.clone()));
    tokio::spawn(keep_certificate(
        authority,
        own,
        config,
        state.figures.clone(),
        stopped,
    ));
    tokio::select! {
        ended = &mut server => finished(ended)?,
        () = stop => {
            info!("stopping: agents go on without a controller");
            // Whoever spreads the load asks another one from now on.
            for service in SERVICES {
                reporter.set_service_status(service, ServingStatus::NotServing).await;
            }
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
    follow.abort();
    survey.abort();
    let _ = survey.await;
    watch.abort();
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
        let tending = state.clone();
        let tended = tokio::task::spawn_blocking(move || tending.tend(Instant::now())).await;
        if let Ok(Err(error)) = tended {
            state.figures.store_failed();
            warn!("a trial at one site cannot be ended: {error}");
        }
    }
}

async fn flush(state: Arc<State>, mut stopped: watch::Receiver<bool>) {
    let figures = &state.figures;
    loop {
        let last = tokio::select! {
            () = tokio::time::sleep(FLUSH) => false,
            _ = stopped.wait_for(|stopped| *stopped) => true,
        };
        let state = state.clone();
        let flush = move || (state.tell_keys(), state.flush(last));
        if let Ok((told, flushed)) = tokio::task::spawn_blocking(flush).await {
            if let Err(error) = told {
                figures.store_failed();
                warn!("new keys for WireGuard are not passed on: {error}");
            }
            if let Err(error) = flushed {
                figures.store_failed();
                warn!("reports are not kept on disk: {error}");
            }
        }
        if last {
            return;
        }
    }
}

/// Looks how the mesh is, for whoever asks for figures.
async fn survey(state: Arc<State>) {
    loop {
        state.figures.asked.notified().await;
        let began = Instant::now();
        let mesh = state.mesh().borrow().clone();
        if let Some(mesh) = mesh {
            let state = state.clone();
            let look = move || {
                let seen = topology(&mesh, &state.reports(), &Wanted::default());
                state.figures.surveyed(Survey::of(&seen));
            };
            // Whatever became of it, there is another time.
            let _ = tokio::task::spawn_blocking(look).await;
        }
        tokio::time::sleep(SURVEY.max(began.elapsed() * 20)).await;
    }
}

/// The controller's figures, as they are now.
pub fn page(state: &State) -> Page {
    let mesh = state.mesh();
    let generation = mesh.borrow().as_ref().map_or(0, |mesh| mesh.generation);
    metrics::page(&state.figures.seen(generation))
}

/// When the controller's own certificate runs out, and that of the authority that signs, or the first of those above
/// it, which are shown with the controller's own.
fn certificates_of(own: &Identity) -> Vec<Certificate> {
    let validity = |pem: String| {
        let one = Identity::new(String::new(), pem, String::new());
        one.validity().ok()
    };
    let shown = Identity::new(own.certificate.clone(), String::new(), String::new()).authorities();
    let above = shown.into_iter().skip(1);
    let authority = own.authorities().into_iter().take(1).chain(above);
    let authority = authority.filter_map(validity).min_by_key(|it| it.to);
    let all = [
        ("controller", own.validity().ok()),
        ("authority", authority),
    ];
    let known = |(of, validity): (_, Option<Validity>)| {
        Some(Certificate {
            of,
            validity: validity?,
        })
    };
    all.into_iter().filter_map(known).collect()
}

/// Renews the controller's certificate when it is due, and takes up what was renewed beside it.
async fn keep_certificate(
    authority: Authority,
    mut own: Identity,
    config: watch::Sender<Arc<ServerConfig>>,
    figures: Arc<Figures>,
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
                figures.certificates_are(certificates_of(&new));
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
