//! Certificates: for a token, and for whoever has one that is still good.

use super::access::caller;
use super::state::State;
use super::trust::{TokenRefused, broken};
use crate::ca::{Authority, CaError, Peer, Requested};
use routemesh_proto::certificates_server::Certificates;
use routemesh_proto::{
    Authorities, AuthoritiesRequest, EnrollRequest, IssuedCertificate, RenewRequest, fingerprint,
};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, async_trait};
use tracing::{debug, error, info, warn};

pub(super) struct CertificatesService {
    pub(super) state: Arc<State>,
    pub(super) authority: Authority,
    /// Enrolments that are looked at together: strangers ask for them.
    pub(super) turns: Arc<Semaphore>,
}

#[async_trait]
impl Certificates for CertificatesService {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<IssuedCertificate>, Status> {
        let EnrollRequest { secret, request } = request.into_inner();
        let state = self.state.clone();
        let turn = self.turns.clone().acquire_owned().await;
        let turn = turn.map_err(|_| Status::unavailable("the controller stops"))?;
        let work = move || {
            let _turn = turn;
            state.use_token(&fingerprint(&secret), &request, SystemTime::now())
        };
        let used = tokio::task::spawn_blocking(work).await;
        let (peer, requested) = match used.map_err(broken)? {
            Ok(Ok(enrolled)) => enrolled,
            Ok(Err(refused)) => {
                let reason = refused.reason();
                self.state.figures.refusals.count(reason);
                let text = refused.to_string();
                return Err(match refused {
                    // Anybody can have that as often as they like.
                    TokenRefused::Unknown => {
                        debug!("an enrolment is refused: {text}");
                        Status::permission_denied(text)
                    }
                    TokenRefused::Request(_) => Status::invalid_argument(text),
                    _ => {
                        warn!("an enrolment is refused: {text}");
                        Status::permission_denied(text)
                    }
                });
            }
            Err(error) => {
                self.state.figures.store_failed();
                error!("nobody can enroll: {error}");
                return Err(Status::internal(error.to_string()));
            }
        };
        info!("{peer} enrolls");
        self.certify(peer, requested).await
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<IssuedCertificate>, Status> {
        let peer = caller(&request)?;
        let requested = self.requested(&request.get_ref().request)?;
        if requested.name != peer.name {
            self.state.figures.refusals.count("request for another");
            let text = format!("{peer} cannot ask for the certificate of another");
            return Err(Status::permission_denied(text));
        }
        info!("{peer} renews its certificate");
        self.certify(peer, requested).await
    }

    async fn get_authorities(
        &self,
        _: Request<AuthoritiesRequest>,
    ) -> Result<Response<Authorities>, Status> {
        let authority = self.authority.clone();
        let read = tokio::task::spawn_blocking(move || authority.bundle()).await;
        let pem = read.map_err(broken)?.map_err(|error| {
            error!("the authorities cannot be told: {error}");
            Status::internal(error.to_string())
        })?;
        Ok(Response::new(Authorities { pem }))
    }
}

impl CertificatesService {
    #[allow(clippy::result_large_err)]
    fn requested(&self, der: &[u8]) -> Result<Requested, Status> {
        Requested::parse(der).map_err(|error| {
            self.state.figures.refusals.count("bad request");
            Status::invalid_argument(error.to_string())
        })
    }

    async fn certify(
        &self,
        peer: Peer,
        requested: Requested,
    ) -> Result<Response<IssuedCertificate>, Status> {
        let authority = self.authority.clone();
        let work = move || -> Result<IssuedCertificate, CaError> {
            Ok(IssuedCertificate {
                certificate: authority.certify(&peer, &requested, SystemTime::now().into())?,
                authorities: authority.bundle()?,
            })
        };
        match tokio::task::spawn_blocking(work).await.map_err(broken)? {
            Ok(issued) => Ok(Response::new(issued)),
            Err(error) => {
                error!("no certificate can be made: {error}");
                Err(Status::internal(format!(
                    "the controller cannot make certificates: {error}"
                )))
            }
        }
    }
}

impl TokenRefused {
    fn reason(&self) -> &'static str {
        match self {
            Self::Unknown => "token unknown",
            Self::Request(_) => "bad request",
            Self::Used { .. } => "token used",
            Self::Expired { .. } => "token expired",
            Self::Other { .. } => "token of another",
        }
    }
}
