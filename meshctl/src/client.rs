//! Calls to the controller, each with a time limit, and errors that say what to do.

use crate::progress::waiting;
use crate::reach::cure;
use routemesh_proto::asks_client::AsksClient;
use routemesh_proto::certificates_client::CertificatesClient;
use routemesh_proto::operators_client::OperatorsClient;
use routemesh_proto::trust_client::TrustClient;
use routemesh_proto::{
    ApplyReply, ApplyRequest, Audit, AuditRequest, BackupPiece, BackupRequest, CanaryRequest,
    CanaryView, CapturePiece, CaptureRequest, CreateTokenReply, CreateTokenRequest, Diagnosis,
    Diff, DiffRequest, DoctorRequest, DrainReply, DrainRequest, Echo, Event, EventsRequest,
    GetRoutesRequest, GetTopologyRequest, History, HistoryRequest, Identity, IdentityError,
    IssuedCertificate, LogLine, LogsRequest, PingRequest, Plan, PlanRequest, RenewRequest,
    RevokeReply, RevokeRequest, RollbackRequest, Routes, Topology, Trace, TraceRequest, Validity,
};
use std::error::Error;
use std::future::Future;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

/// A call may take this long.
const LIMIT: Duration = Duration::from_secs(10);
/// What makes the controller render the mesh may: people see that it goes on.
const WORK_LIMIT: Duration = Duration::from_secs(60);
/// A piece of a backup may: before the first, the controller copies its database.
pub(crate) const PIECE_LIMIT: Duration = Duration::from_secs(600);
/// What gateways are asked for first.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The view of a large mesh.
const LARGEST_REPLY: usize = 1 << 30;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The controller says what is wrong with what was sent.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Refused(String),
    /// The controller, and not whoever asks, has done something wrong, or its host.
    #[error(
        "the controller at {controller} could not: {reason} (more is in its log: journalctl -u routemesh-controller)"
    )]
    Broken { controller: String, reason: String },
    #[error("the controller at {controller} cannot be reached: {reason}; {cure}")]
    Unreachable {
        controller: String,
        reason: String,
        /// What to do.
        cure: &'static str,
    },
    #[error(
        "the controller at {controller} did not answer within {} s; is it there, and not overloaded?",
        limit.as_secs()
    )]
    Late { controller: String, limit: Duration },
}

/// A controller, seen by an operator.
pub(crate) struct Client {
    controller: String,
    /// From when to when our certificate is good.
    own: Option<Validity>,
    /// Somebody else has the terminal.
    quiet: bool,
    operators: OperatorsClient<Channel>,
    trust: TrustClient<Channel>,
    asks: AsksClient<Channel>,
    certificates: CertificatesClient<Channel>,
}

impl Client {
    pub(crate) fn new(controller: &str, identity: &Path) -> Result<Self, CallError> {
        let identity = Identity::load(identity)?;
        let channel = identity.dial(controller)?;
        Ok(Self {
            controller: controller.to_owned(),
            own: identity.validity().ok(),
            quiet: false,
            trust: TrustClient::new(channel.clone()).max_decoding_message_size(LARGEST_REPLY),
            certificates: CertificatesClient::new(channel.clone()),
            asks: AsksClient::new(channel.clone()).max_decoding_message_size(LARGEST_REPLY),
            operators: OperatorsClient::new(channel).max_decoding_message_size(LARGEST_REPLY),
        })
    }

    /// Says nothing of its own on the terminal.
    pub(crate) fn quietly(self) -> Self {
        Self {
            quiet: true,
            ..self
        }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &str {
        &self.controller
    }

    pub(crate) async fn create_token(
        &self,
        request: CreateTokenRequest,
    ) -> Result<CreateTokenReply, CallError> {
        let mut trust = self.trust.clone();
        self.call(trust.create_token(request)).await
    }

    pub(crate) async fn revoke(&self, request: RevokeRequest) -> Result<RevokeReply, CallError> {
        let mut trust = self.trust.clone();
        self.call(trust.revoke(request)).await
    }

    pub(crate) async fn audit(&self, request: AuditRequest) -> Result<Audit, CallError> {
        let mut trust = self.trust.clone();
        self.call(trust.get_audit(request)).await
    }

    pub(crate) async fn renew(
        &self,
        request: RenewRequest,
    ) -> Result<IssuedCertificate, CallError> {
        let mut certificates = self.certificates.clone();
        self.call(certificates.renew(request)).await
    }

    pub(crate) async fn apply(&self, request: ApplyRequest) -> Result<ApplyReply, CallError> {
        let mut operators = self.operators.clone();
        self.call_within(WORK_LIMIT, operators.apply(request)).await
    }

    pub(crate) async fn plan(&self, file: String, text: String) -> Result<Plan, CallError> {
        let mut operators = self.operators.clone();
        let call = operators.get_plan(PlanRequest { text, file });
        self.call_within(WORK_LIMIT, call).await
    }

    pub(crate) async fn diff(&self, from: u64, to: u64) -> Result<Diff, CallError> {
        let mut operators = self.operators.clone();
        let call = operators.get_diff(DiffRequest { from, to });
        self.call_within(WORK_LIMIT, call).await
    }

    pub(crate) async fn history(&self, limit: u32) -> Result<History, CallError> {
        let mut operators = self.operators.clone();
        self.call(operators.get_history(HistoryRequest { limit }))
            .await
    }

    pub(crate) async fn rollback(&self, request: RollbackRequest) -> Result<ApplyReply, CallError> {
        let mut operators = self.operators.clone();
        self.call_within(WORK_LIMIT, operators.rollback(request))
            .await
    }

    pub(crate) async fn canary(&self, generation: u64) -> Result<CanaryView, CallError> {
        let mut operators = self.operators.clone();
        self.call(operators.get_canary(CanaryRequest { generation }))
            .await
    }

    /// The pieces of a backup, each to be waited for by itself.
    pub(crate) async fn backup(&self) -> Result<Pieces<'_, BackupPiece>, CallError> {
        let mut operators = self.operators.clone();
        let pieces = self.call(operators.backup(BackupRequest {})).await?;
        Ok(self.pieces(pieces))
    }

    fn pieces<T>(&self, pieces: Streaming<T>) -> Pieces<'_, T> {
        let client = self;
        Pieces { client, pieces }
    }

    pub(crate) async fn doctor(&self, request: DoctorRequest) -> Result<Diagnosis, CallError> {
        let mut asks = self.asks.clone();
        self.call_within(ANSWER_LIMIT, asks.doctor(request)).await
    }

    pub(crate) async fn trace(&self, request: TraceRequest) -> Result<Trace, CallError> {
        let mut asks = self.asks.clone();
        self.call_within(ANSWER_LIMIT, asks.trace(request)).await
    }

    pub(crate) async fn ping(&self, request: PingRequest) -> Result<Pieces<'_, Echo>, CallError> {
        let mut asks = self.asks.clone();
        Ok(self.pieces(self.call(asks.ping(request)).await?))
    }

    pub(crate) async fn capture(
        &self,
        request: CaptureRequest,
    ) -> Result<Pieces<'_, CapturePiece>, CallError> {
        let mut asks = self.asks.clone();
        Ok(self.pieces(self.call(asks.capture(request)).await?))
    }

    pub(crate) async fn logs(
        &self,
        request: LogsRequest,
    ) -> Result<Pieces<'_, LogLine>, CallError> {
        let mut asks = self.asks.clone();
        Ok(self.pieces(self.call(asks.get_logs(request)).await?))
    }

    pub(crate) async fn events(
        &self,
        request: EventsRequest,
    ) -> Result<Pieces<'_, Event>, CallError> {
        let mut asks = self.asks.clone();
        Ok(self.pieces(self.call(asks.get_events(request)).await?))
    }

    pub(crate) async fn topology(
        &self,
        request: GetTopologyRequest,
    ) -> Result<Topology, CallError> {
        let mut operators = self.operators.clone();
        self.call(operators.get_topology(request)).await
    }

    pub(crate) async fn drain(&self, request: DrainRequest) -> Result<DrainReply, CallError> {
        let mut operators = self.operators.clone();
        self.call(operators.drain(request)).await
    }

    pub(crate) async fn routes(&self, gateway: String) -> Result<Routes, CallError> {
        let mut operators = self.operators.clone();
        self.call(operators.get_routes(GetRoutesRequest { gateway }))
            .await
    }

    async fn call<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        self.call_within(LIMIT, call).await
    }

    fn unreachable(&self, status: &Status) -> CallError {
        let reason = causes(status);
        CallError::Unreachable {
            controller: self.controller.clone(),
            cure: cure(&reason, self.own, SystemTime::now()),
            reason,
        }
    }

    async fn call_within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        self.call_as(self.quiet, limit, call).await
    }

    /// `quiet`: whoever waits knows for what.
    async fn call_as<T>(
        &self,
        quiet: bool,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        let controller = || self.controller.clone();
        let call = tokio::time::timeout(limit, call);
        let ended = match quiet {
            true => call.await,
            false => waiting("waiting for the controller", call).await,
        };
        match ended {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(match status.code() {
                Code::InvalidArgument => CallError::Invalid(status.message().to_owned()),
                // These come from the transport, whose own words are in the causes.
                Code::Unavailable | Code::Unknown => self.unreachable(&status),
                // Of a connection that ended under it.
                Code::Cancelled if status.source().is_some() => self.unreachable(&status),
                Code::DeadlineExceeded | Code::Cancelled => CallError::Late {
                    controller: controller(),
                    limit,
                },
                Code::Unimplemented => CallError::Refused(
                    "the controller does not know this call: it is of another version".to_owned(),
                ),
                Code::Internal | Code::DataLoss => CallError::Broken {
                    controller: controller(),
                    reason: causes(&status),
                },
                _ => CallError::Refused(status.message().to_owned()),
            }),
            Err(_) => Err(CallError::Late {
                controller: controller(),
                limit,
            }),
        }
    }
}

/// An answer on its way.
pub(crate) struct Pieces<'c, T> {
    client: &'c Client,
    pieces: Streaming<T>,
}

impl<T> Pieces<'_, T> {
    /// The next piece, if it comes within this time; `None` after the last.
    pub(crate) async fn next(&mut self, limit: Duration) -> Result<Option<T>, CallError> {
        let next = self.pieces.message();
        let next = async { next.await.map(Response::new) };
        self.client.call_as(true, limit, next).await
    }
}

/// A status with everything beneath it, each thing said once.
fn causes(status: &Status) -> String {
    let mut all = vec![status.message().to_owned()];
    let mut source = status.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !all.iter().any(|earlier| earlier.contains(&text)) {
            all.push(text);
        }
        source = error.source();
    }
    all.retain(|text| !text.is_empty());
    all.join(": ")
}
