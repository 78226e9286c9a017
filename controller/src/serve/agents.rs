//! Agents: each gets its own config and then what changes, and says what it sees.

use super::require;
use super::state::State;
use crate::ca::Role;
use crate::mesh::Mesh;
use crate::render::render;
use routemesh_proto::agents_server::Agents;
use routemesh_proto::{
    AgentMessage, ControllerMessage, Hello, agent_message, controller_message, diff,
};
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
        let gateway = require(&request, Role::Gateway)?;
        let (only, replaced) = oneshot::channel();
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached.insert(gateway.clone(), only);
        drop(attached);
        let (out, messages) = mpsc::channel(1);
        let stream = Stream {
            mesh: self.state.mesh(),
            state: self.state.clone(),
            gateway,
            inbound: request.into_inner(),
            sent: None,
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
    inbound: Streaming<AgentMessage>,
    /// The mesh whose config the agent has.
    sent: Option<Arc<Mesh>>,
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
            }))) => self.greet(&hello),
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
                _ = stopped.wait_for(|stopped| *stopped) => {
                    return Status::unavailable("the controller is stopping");
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
                        agent_message::Message::Hello(hello) => {
                            self.greet(&hello);
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
                        if let Some(message) = self.next() {
                            room.send(Ok(message));
                        }
                    }
                    Err(_) => return Status::cancelled("the connection is gone"),
                },
            }
        }
    }

    /// Finds out whether the agent has the config that is in force.
    fn greet(&mut self, hello: &Hello) {
        let current = self.mesh.borrow_and_update().clone();
        let current = current.filter(|mesh| {
            render(mesh, &self.gateway).is_some_and(|config| {
                config.generation == hello.generation && config.digest() == hello.digest
            })
        });
        let version: String = hello.version.chars().take(40).collect();
        info!(
            "{} attached: version {version:?}, generation {}{}",
            self.gateway,
            hello.generation,
            if current.is_some() {
                ""
            } else {
                ", not current"
            }
        );
        self.sent = current;
        if !hello.wireguard_key.is_empty() {
            match hello.wireguard_key.parse() {
                Ok(key) => self.state.key(&self.gateway, key),
                Err(error) => warn!("{} told a key that is none: {error}", self.gateway),
            }
        }
    }

    fn next(&mut self) -> Option<ControllerMessage> {
        let current = self.mesh.borrow_and_update().clone()?;
        let message = message(self.sent.as_deref(), &current, &self.gateway)?;
        self.sent = Some(current);
        Some(ControllerMessage {
            message: Some(message),
        })
    }
}

/// What to tell a gateway that has the config of `sent`: the difference, if only of the
/// generation, so that nobody takes it for behind.
fn message(
    sent: Option<&Mesh>,
    current: &Mesh,
    gateway: &str,
) -> Option<controller_message::Message> {
    let config = render(current, gateway)?;
    match sent.and_then(|sent| render(sent, gateway)) {
        Some(had) if had == config => None,
        Some(had) => Some(controller_message::Message::Change(diff(&had, &config))),
        None => Some(controller_message::Message::Config(config)),
    }
}
