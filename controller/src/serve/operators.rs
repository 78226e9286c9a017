//! Operators: apply a specification, look at the mesh.

use super::access::caller;
use super::state::{ApplyError, State, places};
use crate::drain::Drain;
use crate::ids::joined;
use crate::mesh::Mesh;
use crate::spec::SpecErrors;
use crate::store::StoreError;
use crate::topology::{Wanted, topology};
use ipnet::IpNet;
use routemesh_proto::operators_server::Operators;
use routemesh_proto::{
    ApplyReply, ApplyRequest, BackupPiece, BackupRequest, CanaryRequest, CanaryView, Diff,
    DiffRequest, DrainReply, DrainRequest, GetRoutesRequest, GetTopologyRequest, History,
    HistoryRequest, Plan, PlanRequest, RollbackRequest, Routes, Topology,
};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};
use tracing::{error, info, warn};

/// An error's text travels in a header, and clients commonly take 16 KiB of those.
const LONGEST_ERROR: usize = 12 << 10;
/// A piece of a backup, in bytes.
const PIECE: u64 = 64 << 10;

pub(super) struct OperatorsService {
    state: Arc<State>,
    /// A backup takes as much of the disk again.
    backing_up: Arc<Semaphore>,
    /// Places for what looks through all of the mesh: any number of people leave a processor to the rest.
    looking: Arc<Semaphore>,
}

impl OperatorsService {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self {
            state,
            backing_up: Arc::new(Semaphore::new(1)),
            looking: Arc::new(Semaphore::new(places())),
        }
    }

    /// The same, for what takes a processor for long.
    async fn look<T: Send + 'static>(
        &self,
        what: &'static str,
        look: impl FnOnce(&State) -> Result<T, ApplyError> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let place = self.looking.clone().acquire_owned().await;
        let place = place.map_err(|_| Status::unavailable("the controller is ending"))?;
        let look = move |state: &State| {
            // Also where nobody waits for the answer any more.
            let _place = place;
            look(state)
        };
        self.work(what, look).await
    }

    /// Does what takes its time, where it holds up nobody; `what` is its name in the log.
    async fn work<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&State) -> Result<T, ApplyError> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let state = self.state.clone();
        let work = move || {
            let began = Instant::now();
            let done = work(&state);
            state.figures.worked(what, began.elapsed());
            if let Err(ApplyError::Store(_)) = done {
                state.figures.store_failed();
            }
            done
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(done)) => Ok(Response::new(done)),
            Ok(Err(failure)) => Err(status(what, failure)),
            Err(panic) => {
                error!("cannot {what}: {panic}");
                Err(Status::internal("the controller failed; its log says more"))
            }
        }
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
        let operator = caller(&request)?.name;
        let ApplyRequest {
            text,
            file,
            expect,
            canary,
        } = request.into_inner();
        check_file(&file)?;
        self.work("apply", move |state| match canary.as_str() {
            "" => state.apply(&operator, &file, &text, expect),
            site => state.try_at(site, &operator, (&file, &text), expect),
        })
        .await
    }

    async fn get_topology(
        &self,
        request: Request<GetTopologyRequest>,
    ) -> Result<Response<Topology>, Status> {
        let GetTopologyRequest {
            gateway,
            site,
            gateways_only,
            states,
        } = request.into_inner();
        let mesh = self.mesh()?;
        let named = |name: String| Some(name).filter(|name| !name.is_empty());
        let wanted = Wanted {
            gateway: named(gateway),
            site: named(site),
            gateways_only,
            states,
        };
        wanted.check(&mesh).map_err(Status::not_found)?;
        self.look("look", move |state| {
            Ok(topology(&mesh, &state.reports(), &wanted))
        })
        .await
    }

    async fn get_routes(
        &self,
        request: Request<GetRoutesRequest>,
    ) -> Result<Response<Routes>, Status> {
        let gateway = request.into_inner().gateway;
        if self.mesh()?.gateway(&gateway).is_none() {
            let text =
                format!("no gateway {gateway:?} is in the mesh: meshctl get gateways lists them");
            return Err(Status::not_found(text));
        }
        let Some(report) = self.state.last_report(&gateway) else {
            let text = format!("{gateway} has not reported yet: is mesh-agent running there?");
            return Err(Status::not_found(text));
        };
        let status = report.kept.head().clone();
        let mut routes = report.kept.routes();
        routes.sort_by_cached_key(|route| route.prefix.parse::<IpNet>().ok());
        let mut tunnels = report.kept.tunnels();
        tunnels.sort_by_key(|tunnel| tunnel.number);
        Ok(Response::new(Routes {
            gateway,
            reported: report.age.as_secs(),
            routes,
            announced: status.announced,
            rejected: status.rejected,
            announced_total: status.announced_total,
            routes_total: status.routes_total,
            rejected_total: status.rejected_total,
            tunnels,
            routers: status.routers,
        }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        let operator = caller(&request)?.name;
        let DrainRequest {
            gateway,
            peer,
            undo,
        } = request.into_inner();
        let mesh = self.mesh()?;
        let drain = named(&mesh, &gateway, &peer).map_err(Status::not_found)?;
        let drained = self.work("drain", move |state| state.drain(&operator, drain, undo));
        let reply = drained.await?.into_inner();
        let reply = reply.ok_or_else(|| Status::failed_precondition("there is no mesh yet"))?;
        Ok(Response::new(reply))
    }

    async fn get_plan(&self, request: Request<PlanRequest>) -> Result<Response<Plan>, Status> {
        let PlanRequest { text, file } = request.into_inner();
        check_file(&file)?;
        self.look("plan", move |state| state.plan(&file, &text))
            .await
    }

    async fn get_diff(&self, request: Request<DiffRequest>) -> Result<Response<Diff>, Status> {
        let DiffRequest { from, to } = request.into_inner();
        self.look("compare", move |state| state.diff(from, to))
            .await
    }

    async fn get_history(
        &self,
        request: Request<HistoryRequest>,
    ) -> Result<Response<History>, Status> {
        let HistoryRequest { limit } = request.into_inner();
        self.work("list", move |state| Ok(state.history(limit)?))
            .await
    }

    async fn rollback(
        &self,
        request: Request<RollbackRequest>,
    ) -> Result<Response<ApplyReply>, Status> {
        let operator = caller(&request)?.name;
        let RollbackRequest { generation, expect } = request.into_inner();
        self.work("roll back", move |state| {
            state.rollback(&operator, generation, expect)
        })
        .await
    }

    async fn get_canary(
        &self,
        request: Request<CanaryRequest>,
    ) -> Result<Response<CanaryView>, Status> {
        let CanaryRequest { generation } = request.into_inner();
        self.work("look", move |state| state.canary(generation))
            .await
    }

    type BackupStream = ReceiverStream<Result<BackupPiece, Status>>;

    async fn backup(
        &self,
        request: Request<BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let operator = caller(&request)?.name;
        let busy = || Status::resource_exhausted("another backup is being made: wait for its end");
        let only = self.backing_up.clone().try_acquire_owned();
        let only = only.map_err(|_| busy())?;
        let backup = self.work("back up", |state| state.backup()).await?;
        let backup = backup.into_inner();
        info!("a backup by {operator}");
        let (out, pieces) = mpsc::channel(4);
        // The copy takes its time. It goes on, and is the only one, where nobody waits for it any more.
        tokio::task::spawn_blocking(move || {
            let _only = only;
            match backup.copy() {
                Ok(copy) => send(copy, &out),
                Err(error) => {
                    error!("cannot back up: {error}");
                    let _ = out.blocking_send(Err(Status::internal(error.to_string())));
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(pieces)))
    }
}

/// Why something was not done, as gRPC says it; `what` is its name in the log.
pub(super) fn status(what: &str, failure: ApplyError) -> Status {
    let text = failure.to_string();
    match failure {
        ApplyError::Spec(errors) => Status::invalid_argument(bounded(&errors)),
        ApplyError::Moved(_)
        | ApplyError::Store(StoreError::Moved { .. } | StoreError::Overtaken) => {
            Status::aborted(text)
        }
        ApplyError::Canary(_) | ApplyError::NoBackup => Status::failed_precondition(text),
        ApplyError::Gone(_) => Status::not_found(text),
        // Not unavailable, which would be the controller itself.
        ApplyError::Store(StoreError::Etcd { .. }) => {
            warn!("cannot {what}: {text}");
            Status::failed_precondition(text)
        }
        ApplyError::Store(_) | ApplyError::Revoked { .. } => {
            error!("cannot {what}: {text}");
            Status::internal(text)
        }
    }
}

/// Sends a file piece by piece, as fast as they are taken.
fn send(mut file: File, out: &mpsc::Sender<Result<BackupPiece, Status>>) {
    loop {
        let mut data = Vec::new();
        let read = file.by_ref().take(PIECE).read_to_end(&mut data);
        let piece = match read {
            Ok(0) => return,
            Ok(_) => Ok(BackupPiece { data }),
            Err(error) => Err(Status::internal(format!(
                "the backup is not whole: {error}"
            ))),
        };
        let last = piece.is_err();
        if out.blocking_send(piece).is_err() || last {
            return;
        }
    }
}

#[allow(clippy::result_large_err)]
fn check_file(file: &str) -> Result<(), Status> {
    match file.len() > 1024 || file.chars().any(char::is_control) {
        true => Err(Status::invalid_argument("that is no name of a file")),
        false => Ok(()),
    }
}

/// What an operator means, if the mesh has it.
fn named(mesh: &Mesh, gateway: &str, peer: &str) -> Result<Drain, String> {
    let foreign = mesh.spec.foreign.iter().find(|it| it.name.value == peer);
    let far = Some(peer).filter(|peer| !peer.is_empty() && foreign.is_none());
    for name in [Some(gateway), far].into_iter().flatten() {
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
            let held = foreign.is_some_and(|it| it.is_held_by(gateway));
            let mut own = mesh.ends_of(gateway);
            match held || own.any(|own| mesh.ends_of(peer).any(|far| joined(&own, &far))) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use tonic::Code;

    #[tokio::test]
    async fn what_takes_long_waits_for_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(Store::open(dir.path()).unwrap()).unwrap();
        let text = "[mesh]\nas = 65000\ninterconnect = \"fd00:ff::/64\"\n[sites.one]\nprefixes = [\"10.0.1.0/24\"]\n\
            gateways.A.endpoints = [\"2001:db8::a\"]\n";
        state.apply("ann", "test", text, None).unwrap();
        let service = OperatorsService::new(Arc::new(state));
        let plan = || {
            Request::new(PlanRequest {
                text: text.to_owned(),
                file: "test".to_owned(),
            })
        };
        service.get_plan(plan()).await.unwrap();
        // There will be no place any more.
        service.looking.close();
        let topology = service
            .get_topology(Request::new(GetTopologyRequest::default()))
            .await;
        let diff = Request::new(DiffRequest { from: 1, to: 1 });
        let refused = [
            topology.map(drop),
            service.get_diff(diff).await.map(drop),
            service.get_plan(plan()).await.map(drop),
        ];
        for it in refused {
            assert_eq!(it.map_err(|it| it.code()), Err(Code::Unavailable));
        }
    }
}
