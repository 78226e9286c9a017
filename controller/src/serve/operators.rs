//! Operators: apply a specification, look at the mesh.

use super::require;
use super::state::{ApplyError, State};
use crate::ca::Role;
use crate::drain::Drain;
use crate::mesh::Mesh;
use crate::render::pairs;
use crate::spec::SpecErrors;
use crate::topology::topology;
use routemesh_proto::operators_server::Operators;
use routemesh_proto::{
    ApplyReply, ApplyRequest, DrainReply, DrainRequest, GetRoutesRequest, GetTopologyRequest,
    Routes, Topology,
};
use std::sync::Arc;
use tonic::{Request, Response, Status, async_trait};
use tracing::error;

/// An error's text travels in a header, and clients commonly take 16 KiB of those.
const LONGEST_ERROR: usize = 12 << 10;

pub(super) struct OperatorsService {
    state: Arc<State>,
}

impl OperatorsService {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    #[allow(clippy::result_large_err)]
    fn mesh(&self) -> Result<Arc<Mesh>, Status> {
        let mesh = self.state.mesh().borrow().clone();
        mesh.ok_or_else(|| {
            Status::failed_precondition("there is no mesh yet: meshctl apply FILE makes one")
        })
    }
}

#[async_trait]
impl Operators for OperatorsService {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyReply>, Status> {
        let operator = require(&request, Role::Operator)?;
        let ApplyRequest { text, file } = request.into_inner();
        if file.len() > 1024 || file.chars().any(char::is_control) {
            return Err(Status::invalid_argument("that is no name of a file"));
        }
        let state = self.state.clone();
        let applied =
            tokio::task::spawn_blocking(move || state.apply(&operator, &file, &text)).await;
        match applied {
            Ok(Ok(reply)) => Ok(Response::new(reply)),
            Ok(Err(ApplyError::Spec(errors))) => Err(Status::invalid_argument(bounded(&errors))),
            Ok(Err(ApplyError::Store(error))) => {
                error!("cannot apply: {error}");
                Err(Status::internal(format!("nothing was changed: {error}")))
            }
            Err(panic) => {
                error!("cannot apply: {panic}");
                Err(Status::internal("the controller failed; its log says more"))
            }
        }
    }

    async fn get_topology(
        &self,
        request: Request<GetTopologyRequest>,
    ) -> Result<Response<Topology>, Status> {
        require(&request, Role::Operator)?;
        let mesh = self.mesh()?;
        let reports = self.state.reports();
        let view = tokio::task::spawn_blocking(move || topology(&mesh, &reports)).await;
        let view =
            view.map_err(|_| Status::internal("the controller failed; its log says more"))?;
        Ok(Response::new(view))
    }

    async fn get_routes(
        &self,
        request: Request<GetRoutesRequest>,
    ) -> Result<Response<Routes>, Status> {
        require(&request, Role::Operator)?;
        let gateway = request.into_inner().gateway;
        if self.mesh()?.spec.gateway(&gateway).is_none() {
            let text =
                format!("no gateway {gateway:?} is in the mesh: meshctl get gateways lists them");
            return Err(Status::not_found(text));
        }
        let mut reports = self.state.reports();
        let Some(report) = reports.remove(&gateway) else {
            let text = format!("{gateway} has not reported yet: is mesh-agent running there?");
            return Err(Status::not_found(text));
        };
        let status = report.status.as_ref().clone();
        Ok(Response::new(Routes {
            gateway,
            reported: report.age.as_secs(),
            routes: status.routes,
            announced: status.announced,
            rejected: status.rejected,
            announced_total: status.announced_total,
            routes_total: status.routes_total,
            rejected_total: status.rejected_total,
            tunnels: status.tunnels,
            routers: status.routers,
        }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        let operator = require(&request, Role::Operator)?;
        let DrainRequest {
            gateway,
            peer,
            undo,
        } = request.into_inner();
        let mesh = self.mesh()?;
        let drain = named(&mesh, &gateway, &peer).map_err(Status::not_found)?;
        let state = self.state.clone();
        let drained =
            tokio::task::spawn_blocking(move || state.drain(&operator, drain, undo)).await;
        match drained {
            Ok(Ok(Some(reply))) => Ok(Response::new(reply)),
            Ok(Ok(None)) => Err(Status::failed_precondition("there is no mesh yet")),
            Ok(Err(error)) => {
                error!("cannot drain: {error}");
                Err(Status::internal(format!("nothing was changed: {error}")))
            }
            Err(panic) => {
                error!("cannot drain: {panic}");
                Err(Status::internal("the controller failed; its log says more"))
            }
        }
    }
}

/// What an operator means, if the mesh has it.
fn named(mesh: &Mesh, gateway: &str, peer: &str) -> Result<Drain, String> {
    let names = [Some(gateway), Some(peer).filter(|peer| !peer.is_empty())];
    for name in names.into_iter().flatten() {
        if mesh.spec.gateway(name).is_none() {
            return Err(format!(
                "no gateway {name:?} is in the mesh: meshctl get gateways lists them"
            ));
        }
    }
    match peer {
        "" => Ok(Drain::gateway(gateway)),
        peer => {
            let drain = Drain::between(gateway, peer);
            // It can be undone though its tunnels are gone by now.
            if mesh.drains.contains(&drain) {
                return Ok(drain);
            }
            let is = |a: &str, b: &str| Drain::between(a, b) == drain;
            let mut pairs = pairs(mesh).into_iter();
            match pairs.any(|pair| is(&pair.a.gateway.name, &pair.b.gateway.name)) {
                true => Ok(drain),
                false => Err(format!(
                    "there is no tunnel between {gateway} and {peer}: meshctl topology lists them"
                )),
            }
        }
    }
}

/// As many errors as a header takes, where most of what is not a letter counts three times.
fn bounded(errors: &SpecErrors) -> String {
    let mut room = LONGEST_ERROR;
    errors.lines(|line| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric();
        let weight: usize = line.bytes().map(|b| if plain(b) { 1 } else { 3 }).sum();
        let fits = weight + 3 <= room;
        room = room.saturating_sub(weight + 3);
        fits
    })
}
