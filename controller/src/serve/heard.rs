//! What the gateways of this controller report, told to the other controllers before the same store, so that
//! each knows of all: [`super::follow`] is the other end.

use super::state::State;
use prost::Message;
use routemesh_proto::controllers_server::Controllers;
use routemesh_proto::heard::Report;
use routemesh_proto::{self as proto, FollowRequest, StatusChange};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

/// So many changes may wait for a controller that is slow. One that misses any begins anew.
const WAITING: usize = 4096;
/// A change of more octets does not wait: the report is told whole instead.
const LARGEST: usize = 16 << 10;

/// What was reported just now.
#[derive(Debug)]
pub(super) struct Heard(broadcast::Sender<(Arc<str>, Option<Arc<StatusChange>>)>);

impl Default for Heard {
    fn default() -> Self {
        Self(broadcast::Sender::new(WAITING))
    }
}

impl Heard {
    /// Somebody wants to know.
    pub(super) fn wanted(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// There is a whole report, or one that has changed too much.
    pub(super) fn whole(&self, gateway: &str) {
        if self.wanted() {
            let _ = self.0.send((gateway.into(), None));
        }
    }

    /// A report has changed.
    pub(super) fn change(&self, gateway: &str, change: StatusChange) {
        match change.encoded_len() > LARGEST {
            true => self.whole(gateway),
            false => drop(self.0.send((gateway.into(), Some(change.into())))),
        }
    }
}

impl State {
    /// The last report of a gateway, as another controller is told.
    fn tell(&self, gateway: &str) -> Option<proto::Heard> {
        let report = self.last_report(gateway)?;
        let whole = proto::Status {
            tunnels: report.kept.tunnels(),
            routes: report.kept.routes(),
            ..report.kept.head().clone()
        };
        Some(proto::Heard {
            gateway: gateway.to_owned(),
            age: u64::try_from(report.age.as_millis()).unwrap_or(u64::MAX),
            report: Some(Report::Whole(whole)),
        })
    }
}

pub(super) struct ControllersService {
    pub(super) state: Arc<State>,
    pub(super) stopped: watch::Receiver<bool>,
}

#[async_trait]
impl Controllers for ControllersService {
    type FollowStream = ReceiverStream<Result<proto::Heard, Status>>;

    async fn follow(
        &self,
        _: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (out, stream) = mpsc::channel(4);
        let (state, mut stopped) = (self.state.clone(), self.stopped.clone());
        tokio::spawn(async move {
            let end = tokio::select! {
                end = tell(state, &out) => end,
                () = out.closed() => return,
                _ = stopped.wait_for(|stopped| *stopped) => {
                    Status::unavailable("the controller is stopping")
                }
            };
            let _ = out.send(Err(end)).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Tells all that is reported, until it cannot.
async fn tell(state: Arc<State>, out: &mpsc::Sender<Result<proto::Heard, Status>>) -> Status {
    let gone = || Status::cancelled("the connection is gone");
    // Before the first look, so that nothing is missed in between. What is told twice is the same.
    let mut heard = state.heard.0.subscribe();
    // To be told whole. What changes meanwhile is taken up before the next of them, or too much of it would wait.
    let own = state.reports.own().into_iter();
    let mut due: BTreeSet<Arc<str>> = own.map(Arc::from).collect();
    loop {
        let next = match heard.try_recv() {
            Err(TryRecvError::Empty) => match due.pop_first() {
                Some(gateway) if send(&state, &gateway, out).await => continue,
                Some(_) => return gone(),
                None => heard.recv().await,
            },
            Err(TryRecvError::Lagged(missed)) => Err(RecvError::Lagged(missed)),
            Err(TryRecvError::Closed) => Err(RecvError::Closed),
            Ok(next) => Ok(next),
        };
        let sent = match next {
            Ok((gateway, None)) => {
                due.insert(gateway);
                true
            }
            // It will be told with all else.
            Ok((gateway, Some(_))) if due.contains(&gateway) => true,
            Ok((gateway, Some(change))) => {
                let heard = proto::Heard {
                    gateway: gateway.to_string(),
                    age: 0,
                    report: Some(Report::Change(change.as_ref().clone())),
                };
                out.send(Ok(heard)).await.is_ok()
            }
            Err(RecvError::Lagged(_)) => return Status::aborted("too slow: begin anew"),
            Err(RecvError::Closed) => return Status::unavailable("the controller is stopping"),
        };
        if !sent {
            return gone();
        }
    }
}

async fn send(
    state: &Arc<State>,
    gateway: &str,
    out: &mpsc::Sender<Result<proto::Heard, Status>>,
) -> bool {
    // Unpacking takes a while, and waits for its place.
    let Ok(room) = out.reserve().await else {
        return false;
    };
    let Ok(_place) = state.work.acquire().await else {
        return false;
    };
    let (state, gateway) = (state.clone(), gateway.to_owned());
    let unpacked = tokio::task::spawn_blocking(move || state.tell(&gateway)).await;
    if let Ok(Some(heard)) = unpacked {
        room.send(Ok(heard));
    }
    true
}
