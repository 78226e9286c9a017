//! Operators ask gateways: ping, capture, logs, trace, doctor, and what happened.

use super::access::caller;
use super::asks::{Asks, Pieces};
use super::events::Events;
use super::state::{State, lock, places};
use crate::ca::{Peer, Role};
use crate::ids::abroad_of;
use crate::mesh::Mesh;
use crate::render::pair;
use crate::store::Deed;
use routemesh_proto::asks_server::Asks as Service;
use routemesh_proto::{
    AskCapture, AskLogs, AskPing, CapturePiece, CaptureRequest, Diagnosis, DoctorRequest, Echo,
    Event, EventsRequest, LogLine, LogsRequest, PingRequest, Trace, TraceRequest, answer, ask,
};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};
use tracing::{error, info};

/// What whoever follows a log gets at a time, in seconds.
const FOLLOW: u32 = 600;
/// Pieces on their way to whoever asked.
const QUEUE: usize = 4;

pub(super) struct QuestionsService {
    pub(super) state: Arc<State>,
    pub(super) asks: Arc<Asks>,
    pub(super) events: Arc<Events>,
    /// Places for what looks through all of the mesh.
    looking: Arc<Semaphore>,
}

impl QuestionsService {
    pub(super) fn new(state: Arc<State>, asks: Arc<Asks>, events: Arc<Events>) -> Self {
        Self {
            state,
            asks,
            events,
            looking: Arc::new(Semaphore::new(places())),
        }
    }

    /// The mesh, if it has this gateway.
    #[allow(clippy::result_large_err)]
    pub(super) fn mesh_of(&self, gateway: &str) -> Result<Arc<Mesh>, Status> {
        let mesh = self.state.mesh().borrow().clone();
        let mesh = mesh.ok_or_else(|| {
            Status::failed_precondition("there is no mesh yet: meshctl apply FILE makes one")
        })?;
        match gateway.is_empty() || mesh.gateway(gateway).is_some() {
            true => Ok(mesh),
            false => Err(Status::not_found(format!(
                "no gateway {gateway:?} is in the mesh: meshctl get gateways lists them"
            ))),
        }
    }

    /// What takes a processor for a while.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let place = self.looking.clone().acquire_owned().await;
        let place = place.map_err(|_| Status::unavailable("the controller is ending"))?;
        let state = self.state.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let _place = place;
            look(&state)
        });
        looked.await.map_err(|panic| {
            error!("cannot look: {panic}");
            Status::internal("the controller failed; its log says more")
        })
    }

    /// Notes who looked into what, before anything of it is seen.
    async fn note(&self, who: String, what: &str, detail: String) -> Result<(), Status> {
        info!("{what} of {detail} by {who}");
        let deed = Deed {
            at: SystemTime::now(),
            who,
            what: what.to_owned(),
            detail,
        };
        let state = self.state.clone();
        let noted = tokio::task::spawn_blocking(move || lock(&state.store).note(&deed)).await;
        match noted {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Status::internal(error.to_string())),
            Err(panic) => Err(Status::internal(panic.to_string())),
        }
    }
}

/// The tunnels between a gateway and a peer, by number.
fn tunnels(mesh: &Mesh, gateway: &str, peer: &str) -> Vec<u32> {
    let far: Vec<_> = mesh.ends_of(peer).collect();
    let own = mesh.ends_of(gateway);
    let between = own.flat_map(|own| far.iter().filter_map(move |far| pair(&own, far)));
    let mut numbers: Vec<u32> = between.map(|pair| pair.number).collect();
    if let Some(held) = mesh.gateway(gateway) {
        let abroad = abroad_of(&mesh.spec, &mesh.ids, held).into_iter();
        let abroad = abroad.filter(|it| it.peer.name.value == peer);
        numbers.extend(abroad.filter_map(|it| u32::try_from(it.number()).ok()));
    }
    numbers.sort_unstable();
    numbers
}

/// Whether it goes to whatever address is named, rather than to the far end of a tunnel.
#[allow(clippy::result_large_err)]
fn is_free(who: &Peer, request: &PingRequest) -> Result<bool, Status> {
    let free = request.peer.is_empty() || !request.target.is_empty();
    match free && !who.role.includes(Role::Operator) {
        false => Ok(free),
        true => Err(Status::permission_denied(format!(
            "the certificate is of {who}: it may ping the far end of a tunnel (meshctl ping GATEWAY PEER); an address needs one of role operator"
        ))),
    }
}

/// The one that is meant.
#[allow(clippy::result_large_err)]
fn tunnel(mesh: &Mesh, gateway: &str, peer: &str, number: Option<u32>) -> Result<u32, Status> {
    let numbers = tunnels(mesh, gateway, peer);
    match (number, numbers.as_slice()) {
        (Some(number), numbers) if numbers.contains(&number) => Ok(number),
        (None, [one]) => Ok(*one),
        (_, []) => Err(Status::not_found(format!(
            "there is no tunnel between {gateway} and {peer}: meshctl topology lists them"
        ))),
        (_, several) => {
            let several: Vec<String> = several.iter().map(u32::to_string).collect();
            Err(Status::invalid_argument(format!(
                "between {gateway} and {peer} there are tunnels {}: say which, with --tunnel",
                several.join(", ")
            )))
        }
    }
}

/// Passes the pieces on as they come, as fast as they are taken.
fn pass<T: Send + 'static>(
    mut pieces: Pieces,
    of: fn(answer::Piece) -> Option<T>,
) -> Response<ReceiverStream<Result<T, Status>>> {
    let (out, stream) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        loop {
            let piece = tokio::select! {
                piece = pieces.next() => piece,
                // Nobody waits any more.
                () = out.closed() => return,
            };
            let piece = match piece {
                None => return,
                Some(Ok(piece)) => match of(piece) {
                    Some(piece) => Ok(piece),
                    None => continue,
                },
                Some(Err(status)) => Err(status),
            };
            if out.send(piece).await.is_err() {
                return;
            }
        }
    });
    Response::new(ReceiverStream::new(stream))
}

#[async_trait]
impl Service for QuestionsService {
    type PingStream = ReceiverStream<Result<Echo, Status>>;

    async fn ping(
        &self,
        request: Request<PingRequest>,
    ) -> Result<Response<Self::PingStream>, Status> {
        let who = caller(&request)?;
        let free = is_free(&who, request.get_ref())?;
        let PingRequest {
            gateway,
            peer,
            target,
            source,
            count,
            tunnel: number,
        } = request.into_inner();
        let mesh = self.mesh_of(&gateway)?;
        let through = match peer.as_str() {
            "" => None,
            peer => Some(tunnel(&mesh, &gateway, peer, number)?),
        };
        if free {
            let detail = match peer.as_str() {
                "" => format!("{gateway} to {target}"),
                peer => format!("{gateway} to {target}, through {peer}"),
            };
            self.note(who.to_string(), "ping", detail).await?;
        }
        let question = ask::Question::Ping(AskPing {
            tunnel: through,
            target,
            source,
            count,
        });
        let pieces = self.asks.ask(&gateway, question)?;
        Ok(pass(pieces, |piece| match piece {
            answer::Piece::Echo(echo) => Some(echo),
            _ => None,
        }))
    }

    async fn doctor(&self, request: Request<DoctorRequest>) -> Result<Response<Diagnosis>, Status> {
        let DoctorRequest { gateway, peer, all } = request.into_inner();
        let diagnosis = self.diagnose(gateway, peer, all).await?;
        Ok(Response::new(diagnosis))
    }

    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<Trace>, Status> {
        let trace = self.follow(request.into_inner()).await?;
        Ok(Response::new(trace))
    }

    type CaptureStream = ReceiverStream<Result<CapturePiece, Status>>;

    async fn capture(
        &self,
        request: Request<CaptureRequest>,
    ) -> Result<Response<Self::CaptureStream>, Status> {
        let who = caller(&request)?.to_string();
        let CaptureRequest {
            gateway,
            peer,
            tunnel: number,
            outside,
            packets,
            bytes,
            seconds,
            snap,
        } = request.into_inner();
        let mesh = self.mesh_of(&gateway)?;
        let tunnel = tunnel(&mesh, &gateway, &peer, number)?;
        let side = if outside { "outside" } else { "within" };
        let detail = format!("{gateway}, tunnel {tunnel} to {peer}, {side}");
        self.note(who, "capture", detail).await?;
        let question = ask::Question::Capture(AskCapture {
            tunnel,
            outside,
            packets,
            bytes,
            seconds,
            snap,
        });
        let pieces = self.asks.ask(&gateway, question)?;
        Ok(pass(pieces, |piece| match piece {
            answer::Piece::Capture(piece) => Some(piece),
            _ => None,
        }))
    }

    type GetLogsStream = ReceiverStream<Result<LogLine, Status>>;

    async fn get_logs(
        &self,
        request: Request<LogsRequest>,
    ) -> Result<Response<Self::GetLogsStream>, Status> {
        let who = caller(&request)?.to_string();
        let LogsRequest {
            gateway,
            lines,
            follow,
            level,
            text,
        } = request.into_inner();
        self.mesh_of(&gateway)?;
        self.note(who, "logs", gateway.clone()).await?;
        let question = ask::Question::Logs(AskLogs {
            lines,
            follow: if follow { FOLLOW } else { 0 },
            level,
            text,
        });
        let pieces = self.asks.ask(&gateway, question)?;
        Ok(pass(pieces, |piece| match piece {
            answer::Piece::Log(line) => Some(line),
            _ => None,
        }))
    }

    type GetEventsStream = ReceiverStream<Result<Event, Status>>;

    async fn get_events(
        &self,
        request: Request<EventsRequest>,
    ) -> Result<Response<Self::GetEventsStream>, Status> {
        let EventsRequest {
            gateway,
            after,
            follow,
        } = request.into_inner();
        self.mesh_of(&gateway)?;
        self.events.stream(gateway, after, follow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_looks_pings_nothing_but_the_ends_of_tunnels() {
        let ping = |peer: &str, target: &str| PingRequest {
            gateway: "A".to_owned(),
            peer: peer.to_owned(),
            target: target.to_owned(),
            ..PingRequest::default()
        };
        for (role, peer, target, expected) in [
            (Role::Viewer, "B", "", Some(false)),
            (Role::Viewer, "", "10.0.2.1", None),
            (Role::Viewer, "B", "10.0.2.1", None),
            (Role::Viewer, "", "", None),
            (Role::Gateway, "", "10.0.2.1", None),
            (Role::Operator, "B", "", Some(false)),
            (Role::Operator, "B", "10.0.2.1", Some(true)),
            (Role::Admin, "", "10.0.2.1", Some(true)),
        ] {
            let who = Peer::new(role, "x");
            let found = is_free(&who, &ping(peer, target)).ok();
            assert_eq!(found, expected, "{role} {peer:?} {target:?}");
        }
    }
}
