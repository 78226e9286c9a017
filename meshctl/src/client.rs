//! Calls to the controller, each with a time limit, and errors that say what to do.

use routemesh_proto::certificates_client::CertificatesClient;
use routemesh_proto::operators_client::OperatorsClient;
use routemesh_proto::trust_client::TrustClient;
use routemesh_proto::{
    ApplyReply, ApplyRequest, Audit, AuditRequest, BackupPiece, BackupRequest, CanaryRequest,
    CanaryView, CreateTokenReply, CreateTokenRequest, Diff, DiffRequest, DrainReply, DrainRequest,
    GetRoutesRequest, GetTopologyRequest, History, HistoryRequest, Identity, IdentityError,
    IssuedCertificate, Plan, PlanRequest, RenewRequest, RevokeReply, RevokeRequest,
    RollbackRequest, Routes, Topology,
};
use std::error::Error;
use std::future::Future;
use std::path::Path;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

/// A call may take this long.
const LIMIT: Duration = Duration::from_secs(10);
/// A piece of a backup may: before the first, the controller copies its database.
const PIECE_LIMIT: Duration = Duration::from_secs(600);
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
    #[error(
        "the controller at {controller} cannot be reached: {reason}; is mesh-controller running there, and is the identity of the same mesh?"
    )]
    Unreachable { controller: String, reason: String },
    #[error(
        "the controller at {controller} did not answer within {} s; is it there, and not overloaded?",
        limit.as_secs()
    )]
    Late { controller: String, limit: Duration },
}

/// A controller, seen by an operator.
pub(crate) struct Client {
    controller: String,
    operators: OperatorsClient<Channel>,
    trust: TrustClient<Channel>,
    certificates: CertificatesClient<Channel>,
}

impl Client {
    pub(crate) fn new(controller: &str, identity: &Path) -> Result<Self, CallError> {
        let channel = Identity::load(identity)?.dial(controller)?;
        Ok(Self {
            controller: controller.to_owned(),
            trust: TrustClient::new(channel.clone()).max_decoding_message_size(LARGEST_REPLY),
            certificates: CertificatesClient::new(channel.clone()),
            operators: OperatorsClient::new(channel).max_decoding_message_size(LARGEST_REPLY),
        })
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
        self.call(operators.apply(request)).await
    }

    pub(crate) async fn plan(&self, file: String, text: String) -> Result<Plan, CallError> {
        let mut operators = self.operators.clone();
        let call = operators.get_plan(PlanRequest { text, file });
        self.call(call).await
    }

    pub(crate) async fn diff(&self, from: u64, to: u64) -> Result<Diff, CallError> {
        let mut operators = self.operators.clone();
        self.call(operators.get_diff(DiffRequest { from, to }))
            .await
    }

    pub(crate) async fn history(&self, limit: u32) -> Result<History, CallError> {
        let mut operators = self.operators.clone();
        self.call(operators.get_history(HistoryRequest { limit }))
            .await
    }

    pub(crate) async fn rollback(&self, request: RollbackRequest) -> Result<ApplyReply, CallError> {
        let mut operators = self.operators.clone();
        self.call(operators.rollback(request)).await
    }

    pub(crate) async fn canary(&self, generation: u64) -> Result<CanaryView, CallError> {
        let mut operators = self.operators.clone();
        self.call(operators.get_canary(CanaryRequest { generation }))
            .await
    }

    /// The pieces of a backup, each to be waited for by itself.
    pub(crate) async fn backup(&self) -> Result<Pieces<'_>, CallError> {
        let mut operators = self.operators.clone();
        let pieces = self.call(operators.backup(BackupRequest {})).await?;
        let client = self;
        Ok(Pieces { client, pieces })
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

    async fn call_within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        let controller = || self.controller.clone();
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(match status.code() {
                Code::InvalidArgument => CallError::Invalid(status.message().to_owned()),
                // These come from the transport, whose own words are in the causes.
                Code::Unavailable | Code::Unknown => CallError::Unreachable {
                    controller: controller(),
                    reason: causes(&status),
                },
                Code::DeadlineExceeded | Code::Cancelled => CallError::Late {
                    controller: controller(),
                    limit,
                },
                Code::Unimplemented => CallError::Refused(
                    "the controller does not know this call: it is of another version".to_owned(),
                ),
                _ => CallError::Refused(status.message().to_owned()),
            }),
            Err(_) => Err(CallError::Late {
                controller: controller(),
                limit,
            }),
        }
    }
}

/// A backup on its way.
pub(crate) struct Pieces<'c> {
    client: &'c Client,
    pieces: Streaming<BackupPiece>,
}

impl Pieces<'_> {
    /// The next piece; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        let next = self.pieces.message();
        let next = async { next.await.map(Response::new) };
        let piece = self.client.call_within(PIECE_LIMIT, next).await?;
        Ok(piece.map(|piece| piece.data))
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
