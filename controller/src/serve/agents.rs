//! Agents: each gets its own config and then what changes, and says what it sees.

use super::access::caller;
use super::state::State;
use super::steps::Latest;
use crate::admission::Admissions;
use crate::ca::Peer;
use crate::mesh::Mesh;
use crate::render::render;
use routemesh_proto::agents_server::Agents;
use routemesh_proto::{AgentMessage, ControllerMessage, Hello, agent_message, controller_message};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};
use tracing::{info, warn};

/// An agent that does not say Hello by then is none.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct AgentsService {
    state: Arc<State>,
    /// Ends the stream of each gateway when it is dropped.
    attached: Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>,
    stopped: watch::Receiver<bool>,
}

impl AgentsService {
    pub(super) fn new(state: Arc<State>, stopped: watch::Receiver<bool>) -> Self {
        Self {
            state,
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
        let peer = caller(&request)?;
        let gateway = peer.name.clone();
        let (only, replaced) = oneshot::channel();
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached.insert(gateway.clone(), only);
        drop(attached);
        let (out, messages) = mpsc::channel(1);
        let stream = Stream {
            mesh: self.state.mesh(),
            state: self.state.clone(),
            gateway,
            peer,
            inbound: request.into_inner(),
            has: None,
        };
        let stopped = self.stopped.clone();
        tokio::spawn(async move {
            let gateway = stream.gateway.clone();
            let end = stream.run(&out, replaced, stopped).await;
            info!("{gateway} detached: {}", end.message());
            let _ = out.send(Err(end)).await;
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

struct Stream {
    state: Arc<State>,
    mesh: watch::Receiver<Option<Arc<Mesh>>>,
    gateway: String,
    peer: Peer,
    inbound: Streaming<AgentMessage>,
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
        let (mut admissions, peer) = (self.state.admissions(), self.peer.clone());
        loop {
            tokio::select! {
                _ = &mut replaced => {
                    return Status::aborted("the gateway has attached once more: is its certificate used twice?");
                }
                () = is_set(&mut stopped) => {
                    return Status::unavailable("the controller is stopping");
                }
                () = is_revoked(&mut admissions, &peer) => {
                    return Status::permission_denied(format!("{peer} was revoked"));
                }
                changed = self.mesh.changed() => match changed {
                    Ok(()) => due = true,
                    Err(_) => return Status::unavailable("the controller is stopping"),
                },
                message = self.inbound.message() => match message {
                    Ok(Some(AgentMessage { message: Some(message) })) => match message {
                        agent_message::Message::Status(status) => {
                            self.state.report(&self.gateway, status);
                        }
                        agent_message::Message::Change(change) => {
                            if !self.state.report_change(&self.gateway, change) {
                                return Status::failed_precondition(
                                    "a change of a status that was never told",
                                );
                            }
                        }
                        agent_message::Message::Hello(hello) => {
                            self.greet(hello).await;
                            due = true;
                        }
                    },
                    // From a later version, maybe.
                    Ok(Some(AgentMessage { message: None })) => {}
                    Ok(None) => return Status::ok("the agent left"),
                    Err(error) => return error,
                },
                // Made when there is room for it, so that only the latest is ever made.
                room = out.reserve(), if due => match room {
                    Ok(room) => {
                        due = false;
                        if let Some(message) = self.next().await {
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
        info!(
            "{} attached: version {version:?}, generation {generation}{behind}",
            self.gateway
        );
        if !wireguard_key.is_empty() {
            match wireguard_key.parse() {
                Ok(key) => self.state.key(&self.gateway, key),
                Err(error) => warn!("{} told a key that is none: {error}", self.gateway),
            }
        }
    }

    /// What to tell the agent: the difference, if only of the generation, so that nobody takes it
    /// for behind.
    async fn next(&mut self) -> Option<ControllerMessage> {
        self.mesh.borrow_and_update();
        let Latest { count, mesh, since } = self.state.steps.latest(self.has)?;
        if self.has == Some(count) {
            return None;
        }
        let gateway = self.gateway.clone();
        let message = match since {
            Some((before, step)) => {
                let whole = step.is_whole(&gateway);
                let change = move || step.change(&before, &mesh, &gateway);
                let change = match whole {
                    true => self.work(change).await?,
                    false => change(),
                };
                change.map(controller_message::Message::Change)
            }
            None => {
                let config = self.work(move || render(&mesh, &gateway)).await?;
                config.map(controller_message::Message::Config)
            }
        };
        self.has = message.is_some().then_some(count);
        match message? {
            controller_message::Message::Change(change) if change.is_nothing() => None,
            message => Some(ControllerMessage {
                message: Some(message),
            }),
        }
    }

    /// Milliseconds of work, which are not to hold up others: a thousand agents may need it at once.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let _place = self.state.work.acquire().await.ok()?;
        tokio::task::spawn_blocking(work).await.ok()
    }
}

async fn is_revoked(admissions: &mut watch::Receiver<Arc<Admissions>>, peer: &Peer) {
    // It cannot change any more once the sender is gone: the controller is stopping.
    if admissions.wait_for(|all| !all.admit(peer)).await.is_err() {
        std::future::pending().await
    }
}

async fn is_set(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
