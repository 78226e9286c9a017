//! Agents: each gets its own config and then what changes, and says what it sees.

use super::access::caller;
use super::asks::{Asks, Seat};
use super::state::State;
use super::steps::Latest;
use crate::mesh::Mesh;
use crate::render::render;
use routemesh_proto::agents_server::Agents;
use routemesh_proto::{
    AgentMessage, Ask, ControllerMessage, Hello, PieceError, Pieces, agent_message,
    controller_message, split,
};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};
use tracing::{info, warn};

/// An agent that does not say Hello by then is none.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct AgentsService {
    state: Arc<State>,
    asks: Arc<Asks>,
    /// Ends the stream of each gateway when it is dropped.
    attached: Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>,
    stopped: watch::Receiver<bool>,
}

impl AgentsService {
    pub(super) fn new(state: Arc<State>, asks: Arc<Asks>, stopped: watch::Receiver<bool>) -> Self {
        Self {
            state,
            asks,
            attached: Arc::default(),
            stopped,
        }
    }
}

#[async_trait]
impl Agents for AgentsService {
    type AttachStream = ReceiverStream<Result<ControllerMessage, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let gateway = caller(&request)?.name;
        let (only, replaced) = oneshot::channel();
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached.insert(gateway.clone(), only);
        drop(attached);
        let (out, messages) = mpsc::channel(1);
        let (seat, questions) = self.asks.attach(&gateway);
        let stream = Stream {
            seat,
            questions,
            mesh: self.state.mesh(),
            state: self.state.clone(),
            gateway,
            inbound: request.into_inner(),
            coming: Pieces::default(),
            going: VecDeque::new(),
            has: None,
        };
        let (stopped, here) = (self.stopped.clone(), self.state.figures.agents.enter());
        tokio::spawn(async move {
            let _here = here;
            let gateway = stream.gateway.clone();
            let end = stream.run(&out, replaced, stopped).await;
            info!(gateway, "{gateway} detached: {}", end.message());
            let _ = out.send(Err(end)).await;
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

struct Stream {
    /// What it is asked, and where its answers go.
    seat: Seat,
    questions: mpsc::Receiver<Ask>,
    state: Arc<State>,
    mesh: watch::Receiver<Option<Arc<Mesh>>>,
    gateway: String,
    inbound: Streaming<AgentMessage>,
    /// Of a message that has not come whole yet.
    coming: Pieces,
    /// What is left of a message that has not gone whole yet.
    going: VecDeque<ControllerMessage>,
    /// Of which mesh the agent has its config, as [`Latest`] counts them.
    has: Option<u64>,
}

impl Stream {
    /// Serves the stream; returns why it ended.
    async fn run(
        mut self,
        out: &mpsc::Sender<Result<ControllerMessage, Status>>,
        mut replaced: oneshot::Receiver<()>,
        mut stopped: watch::Receiver<bool>,
    ) -> Status {
        match tokio::time::timeout(PATIENCE, self.inbound.message()).await {
            Ok(Ok(Some(AgentMessage {
                message: Some(agent_message::Message::Hello(hello)),
            }))) => self.greet(hello).await,
            Ok(Ok(_)) => return Status::invalid_argument("the first message is a Hello"),
            Ok(Err(error)) => return error,
            Err(_) => return Status::deadline_exceeded("no Hello came"),
        }
        let mut due = true;
        loop {
            tokio::select! {
                _ = &mut replaced => {
                    return Status::aborted("the gateway has attached once more: is its certificate used twice?");
                }
                () = is_set(&mut stopped) => {
                    return Status::unavailable("the controller is stopping");
                }
                // Also where the gateway was revoked, which is seen to in [`super::access`].
                () = out.closed() => return Status::cancelled("the connection is gone"),
                changed = self.mesh.changed() => match changed {
                    Ok(()) => due = true,
                    Err(_) => return Status::unavailable("the controller is stopping"),
                },
                message = self.inbound.message() => match message {
                    Ok(Some(AgentMessage { message: Some(message) })) => match message {
                        agent_message::Message::Answer(answer) => self.seat.answered(answer),
                        agent_message::Message::Hello(hello) => {
                            self.greet(hello).await;
                            due = true;
                        }
                        message => if let Err(end) = self.hear(message).await {
                            return end;
                        },
                    },
                    // From a later version, maybe.
                    Ok(Some(AgentMessage { message: None })) => {}
                    Ok(None) => return Status::ok("the agent left"),
                    Err(error) => return error,
                },
                Some(asked) = self.questions.recv(), if self.going.is_empty() => {
                    let message = Some(controller_message::Message::Ask(asked));
                    self.going.push_back(ControllerMessage { message });
                }
                // Made when there is room for it, so that only the latest is ever made.
                room = out.reserve(), if due || !self.going.is_empty() => match room {
                    Ok(room) => {
                        if self.going.is_empty() {
                            due = false;
                            self.going = self.next().await.unwrap_or_default().into();
                        }
                        if let Some(message) = self.going.pop_front() {
                            room.send(Ok(message));
                        }
                    }
                    Err(_) => return Status::cancelled("the connection is gone"),
                },
            }
        }
    }

    /// Finds out whether the agent has a config that is known here, which need not be the latest.
    async fn greet(&mut self, hello: Hello) {
        let Hello {
            generation,
            digest,
            version,
            wireguard_key,
        } = hello;
        let known = self.state.steps.find(generation);
        let gateway = self.gateway.clone();
        let same = move || {
            let (count, mesh) = known?;
            let config = render(&mesh, &gateway)?;
            (config.digest() == digest).then_some(count)
        };
        self.has = self.work(same).await.flatten();
        let current = self.mesh.borrow().as_ref().map(|mesh| mesh.generation);
        let behind = match self.has {
            None => ", not current",
            Some(_) if Some(generation) == current => "",
            Some(_) => ", behind",
        };
        let version: String = version.chars().take(40).collect();
        self.seat.is_of(&version);
        info!(
            gateway = self.gateway,
            "{} attached: version {version:?}, generation {generation}{behind}", self.gateway
        );
        if !wireguard_key.is_empty() {
            match wireguard_key.parse() {
                Ok(key) => self.state.key(&self.gateway, key),
                Err(error) => warn!(
                    gateway = self.gateway,
                    "{} told a key that is none: {error}", self.gateway
                ),
            }
        }
    }

    /// Takes up what the agent says once it has said Hello. An error ends the stream.
    async fn hear(&mut self, message: agent_message::Message) -> Result<(), Status> {
        let agent_message::Message::Piece(piece) = message else {
            return told(&self.state, &self.gateway, message);
        };
        let wrong = |error: PieceError| Status::invalid_argument(error.to_string());
        let Some(packed) = self.coming.add(&piece).map_err(wrong)? else {
            return Ok(());
        };
        // Unpacked it is large: so many are at once as there are places.
        let (state, gateway) = (self.state.clone(), self.gateway.clone());
        let taken = self.work(move || match packed.open::<AgentMessage>() {
            Ok(AgentMessage { message }) => {
                message.map_or(Ok(()), |message| told(&state, &gateway, message))
            }
            Err(error) => Err(wrong(error)),
        });
        let failed = || Err(Status::internal("the controller failed; its log says more"));
        taken.await.unwrap_or_else(failed)
    }

    /// What to tell the agent, as it travels: the difference, if only of the generation, so that nobody
    /// takes it for behind.
    async fn next(&mut self) -> Option<Vec<ControllerMessage>> {
        self.mesh.borrow_and_update();
        let Latest { count, mesh, since } = self.state.steps.latest(self.has)?;
        if self.has == Some(count) {
            return None;
        }
        let gateway = self.gateway.clone();
        let message = match since {
            Some((before, step)) => {
                let whole = step.is_whole(&gateway);
                let change = move || {
                    let change = step.change(&before, &mesh, &gateway)?;
                    Some(match change.is_nothing() {
                        true => Vec::new(),
                        false => travels(controller_message::Message::Change(change)),
                    })
                };
                match whole {
                    true => self.work(change).await?,
                    false => change(),
                }
            }
            None => {
                let config = move || {
                    let config = render(&mesh, &gateway)?;
                    Some(travels(controller_message::Message::Config(config)))
                };
                self.work(config).await?
            }
        };
        self.has = message.is_some().then_some(count);
        message
    }

    /// Milliseconds of work, which are not to hold up others: a thousand agents may need it at once.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let _place = self.state.work.acquire().await.ok()?;
        let began = Instant::now();
        let done = tokio::task::spawn_blocking(work).await.ok();
        self.state.figures.worked("render", began.elapsed());
        done
    }
}

fn travels(message: controller_message::Message) -> Vec<ControllerMessage> {
    split(ControllerMessage {
        message: Some(message),
    })
}

#[allow(clippy::result_large_err)]
fn told(state: &State, gateway: &str, message: agent_message::Message) -> Result<(), Status> {
    match message {
        agent_message::Message::Status(status) => state.report(gateway, status),
        agent_message::Message::Change(change) => {
            if !state.report_change(gateway, change) {
                return Err(Status::failed_precondition(
                    "a change of a status that was never told, or to more than a gateway can have",
                ));
            }
        }
        // None of these is large.
        agent_message::Message::Hello(_)
        | agent_message::Message::Answer(_)
        | agent_message::Message::Piece(_) => {
            return Err(Status::invalid_argument("that does not travel in pieces"));
        }
    }
    Ok(())
}

async fn is_set(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
