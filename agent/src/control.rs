//! The stream to the controller: configs come, status goes.
//!
//! Nothing on the gateway waits for it. A controller that is away changes nothing; a config that
//! cannot be run is refused with its reason in the next status, and the one in force stays.

use crate::ask::{Asked, Desk, Logs};
use crate::bgp::Inquiry;
use crate::config::Config;
use crate::state_dir::StateDir;
use crate::telling::Told;
use futures::StreamExt;
use futures::stream::{iter, select};
use routemesh_proto as proto;
use routemesh_proto::agents_client::AgentsClient;
use routemesh_proto::{agent_message, controller_message};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::{info, warn};

/// Every pass makes a status, which goes out as a sign of life; at most this often.
const BREATH: Duration = Duration::from_millis(250);
/// Seconds between attempts to reach the controller at most; the last number repeats.
const PAUSES: [u32; 5] = [1, 2, 4, 8, 15];

/// The config in force, both as it came and as it is used.
#[derive(Clone, Debug)]
pub struct InForce {
    /// As received and cached.
    pub raw: proto::Config,
    /// The same, parsed.
    pub config: Config,
}

impl InForce {
    /// Parses; an error leaves whatever was in force.
    pub fn new(raw: proto::Config) -> Result<Self, crate::config::ConfigError> {
        let config = Config::try_from(&raw)?;
        Ok(Self { raw, config })
    }
}

/// Why a stream ended, or could not begin.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("{}", chain(.0))]
    Transport(#[from] Box<tonic::Status>),
    #[error("the controller closed the stream")]
    Closed,
    #[error(transparent)]
    Change(#[from] proto::ChangeError),
    #[error(transparent)]
    Piece(#[from] proto::PieceError),
    #[error("the controller sent a change before any config")]
    NothingToChange,
}

/// A status with the causes beneath it: the transport's own words are where the reason is.
fn chain(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// What the gateway has of its own.
pub struct Own {
    /// Where the config is cached.
    pub state: Arc<StateDir>,
    /// For WireGuard.
    pub key: Option<proto::PublicKey>,
    /// The BGP speaker, while there is one.
    pub bgp: watch::Receiver<Option<Inquiry>>,
    /// What was logged lately.
    pub logs: Logs,
}

/// Keeps a stream to the controller for ever, with pauses after failures, and over another channel when
/// there is one. `chance`: random numbers.
pub async fn run(
    mut channels: watch::Receiver<Channel>,
    own: Own,
    in_force: watch::Sender<Option<InForce>>,
    refused: watch::Sender<Option<proto::Problem>>,
    status: watch::Receiver<proto::Status>,
    mut chance: impl FnMut() -> u64,
) {
    let mut failures = 0;
    let mut whole = false;
    loop {
        let begun = Instant::now();
        let link = Link {
            own: &own,
            in_force: &in_force,
            refused: &refused,
        };
        let channel = channels.borrow_and_update().clone();
        let mut client = AgentsClient::new(channel).max_decoding_message_size(64 << 20);
        let error = tokio::select! {
            Err(error) = link.attach(&mut client, status.clone(), whole) => error,
            Ok(()) = channels.changed() => {
                info!("connecting with the new identity");
                continue;
            }
        };
        // After a change that did not fit, say that we have nothing and get it whole.
        whole = matches!(error, StreamError::Change(_) | StreamError::NothingToChange);
        if begun.elapsed() > Duration::from_secs(30) {
            failures = 0;
        }
        let pause = pause(failures, chance());
        failures += 1;
        warn!("no controller: {error}; all goes on as configured, next attempt in {pause:.1?}");
        tokio::select! {
            () = sleep(pause) => {}
            Ok(()) = channels.changed() => {}
        }
    }
}

/// After so many failures, less up to a quarter: all agents lose a controller at the same moment, and are
/// not to come back at the same moment.
fn pause(failures: usize, chance: u64) -> Duration {
    let [.., longest] = PAUSES;
    let seconds = PAUSES.get(failures).copied().unwrap_or(longest);
    let share = 768 + u32::try_from(chance % 257).unwrap_or_default();
    Duration::from_secs(1) * seconds * share / 1024
}

struct Link<'a> {
    own: &'a Own,
    in_force: &'a watch::Sender<Option<InForce>>,
    refused: &'a watch::Sender<Option<proto::Problem>>,
}

impl Link<'_> {
    async fn attach(
        &self,
        client: &mut AgentsClient<Channel>,
        mut status: watch::Receiver<proto::Status>,
        whole: bool,
    ) -> Result<std::convert::Infallible, StreamError> {
        let (out, messages) = mpsc::channel(4);
        let hello = proto::AgentMessage {
            message: Some(agent_message::Message::Hello(self.hello(whole))),
        };
        // The channel is new and empty.
        let _ = out.try_send(hello);
        // Answers have a way of their own, so that they hold up no report, nor reports them. They are small, and
        // may come between the pieces of a report.
        let desk = Desk {
            in_force: self.in_force.subscribe(),
            bgp: self.own.bgp.clone(),
            logs: self.own.logs.clone(),
        };
        let (mut asked, answers) = Asked::new(desk);
        let reports = ReceiverStream::new(messages).flat_map(|it| iter(proto::split(it)));
        let both = select(reports, ReceiverStream::new(answers));
        let mut stream = client.attach(both).await.map_err(Box::new)?.into_inner();
        info!("connected to the controller");
        let mut held = self.in_force.borrow().as_ref().map(|f| f.raw.clone());
        let mut pieces = proto::Pieces::default();
        // This controller has not seen any.
        let (mut told, begun) = (Told::default(), Instant::now());
        status.mark_changed();
        let mut next_report = Instant::now();
        loop {
            let changed = async {
                sleep_until(next_report).await;
                status.changed().await
            };
            tokio::select! {
                message = stream.next() => {
                    let message = message.ok_or(StreamError::Closed)?.map_err(Box::new)?;
                    let Some(message) = pieces.whole(message)? else {
                        continue;
                    };
                    if let Some(controller_message::Message::Ask(ask)) = message.message {
                        asked.take(ask);
                        continue;
                    }
                    if let Some(config) = next_config(held.as_ref(), message)? {
                        held = Some(config.clone());
                        self.adopt(config);
                    }
                    continue;
                }
                Ok(()) = changed => {}
            }
            let report = status.borrow_and_update().clone();
            // Before the first pass there is nothing to report.
            if report != proto::Status::default() {
                let (message, next) = told.next(&report, begun.elapsed());
                let message = Some(message);
                // A full channel means that the controller is slow: the next report replaces this one.
                if out.try_send(proto::AgentMessage { message }).is_ok() {
                    told = next;
                }
            }
            next_report = Instant::now() + BREATH;
        }
    }

    fn hello(&self, whole: bool) -> proto::Hello {
        let held = self.in_force.borrow();
        let held = held.as_ref().filter(|_| !whole);
        proto::Hello {
            generation: held.map_or(0, |f| f.raw.generation),
            digest: held.map(|f| f.raw.digest()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wireguard_key: self.own.key.map(|it| it.to_string()).unwrap_or_default(),
        }
    }

    /// Puts a config in force once it is known to be sound and is on disk.
    fn adopt(&self, raw: proto::Config) {
        let generation = raw.generation;
        let saved = InForce::new(raw)
            .map_err(|error| error.to_string())
            .and_then(|new| match self.own.state.save(&new.raw) {
                Ok(()) => Ok(new),
                Err(error) => Err(error.to_string()),
            });
        match saved {
            Ok(new) => {
                info!(generation, tunnels = new.config.tunnels.len(), "new config");
                self.refused.send_replace(None);
                self.in_force.send_replace(Some(new));
            }
            Err(reason) => {
                warn!(
                    generation,
                    "config refused, the one in force stays: {reason}"
                );
                self.refused.send_replace(Some(proto::Problem {
                    object: format!("config of generation {generation}"),
                    reason,
                }));
            }
        }
    }
}

/// The config after a message of the controller; `None` for a message that carries none.
fn next_config(
    held: Option<&proto::Config>,
    message: proto::ControllerMessage,
) -> Result<Option<proto::Config>, StreamError> {
    match message.message {
        Some(controller_message::Message::Config(config)) => Ok(Some(config)),
        Some(controller_message::Message::Change(change)) => {
            let held = held.ok_or(StreamError::NothingToChange)?;
            Ok(Some(proto::patch(held, &change)?))
        }
        // Questions carry none; pieces of a message have been put together.
        Some(controller_message::Message::Ask(_) | controller_message::Message::Piece(_))
        | None => Ok(None),
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
