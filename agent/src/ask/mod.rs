//! Questions that people ask of this gateway: they come over the stream to the controller, and are answered
//! piece by piece beside everything else.
//!
//! Few at once, each with an end in time, with sockets of their own: nothing that carries traffic waits for one.

mod capture;
mod ike;
mod learnt;
mod logs;
mod ping;
mod route;
mod walk;

pub use logs::Logs;

use crate::bgp::Inquiry;
use crate::config::{Config, Tunnel};
use crate::control::InForce;
use crate::kernel;
use crate::netns;
use routemesh_proto::{self as proto, agent_message, answer, ask};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Questions at a time.
const AT_ONCE: usize = 4;
/// Pieces on their way to the controller.
const QUEUE: usize = 4;
/// No question takes longer, whatever was asked for.
const LONGEST: Duration = Duration::from_secs(600);
/// For the start and the end of what is asked for by time.
const MARGIN: Duration = Duration::from_secs(10);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the gateway has no config yet")]
    NoConfig,
    #[error("the gateway has no tunnel {0}: meshctl get tunnels lists them")]
    NoTunnel(u32),
    #[error("{0:?} is no address")]
    Address(String),
    #[error("say what to ping: a tunnel, or an address")]
    NoTarget,
    #[error("tunnel {0} has no addresses within: say what to ping through it")]
    NoInside(u32),
    #[error("{0:?} is no protocol: tcp, udp, or a number")]
    Protocol(String),
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    #[error(transparent)]
    Netns(#[from] netns::Error),
    #[error("cannot look up {name}: {source}")]
    Name {
        name: String,
        source: std::io::Error,
    },
    #[error("cannot capture: {0}; it needs CAP_NET_RAW")]
    Capture(std::io::Error),
}

/// What is needed to answer.
#[derive(Clone)]
pub struct Desk {
    /// The config in force.
    pub in_force: watch::Receiver<Option<InForce>>,
    /// The BGP speaker, while there is one.
    pub bgp: watch::Receiver<Option<Inquiry>>,
    /// What was logged lately.
    pub logs: Logs,
}

impl Desk {
    fn in_force(&self) -> Result<InForce, Error> {
        self.in_force.borrow().clone().ok_or(Error::NoConfig)
    }

    fn config(&self) -> Result<Config, Error> {
        self.in_force().map(|held| held.config)
    }
}

fn tunnel(config: &Config, number: u32) -> Result<&Tunnel, Error> {
    config.tunnels.get(&number).ok_or(Error::NoTunnel(number))
}

/// Where the pieces of one answer go. Waits where the controller is slow.
#[derive(Clone)]
struct Reply {
    id: u64,
    out: mpsc::Sender<proto::AgentMessage>,
}

impl Reply {
    /// Nobody reads once the stream has ended, and with it this.
    async fn send(&self, piece: answer::Piece) {
        let _ = self.out.send(self.message(Some(piece), None)).await;
    }

    fn message(
        &self,
        piece: Option<answer::Piece>,
        ended: Option<Result<(), String>>,
    ) -> proto::AgentMessage {
        let answer = proto::Answer {
            id: self.id,
            piece,
            last: ended.is_some(),
            error: ended.and_then(Result::err).unwrap_or_default(),
        };
        proto::AgentMessage {
            message: Some(agent_message::Message::Answer(answer)),
        }
    }
}

/// The questions that came over one stream. They end with it.
pub(crate) struct Asked {
    desk: Desk,
    out: mpsc::Sender<proto::AgentMessage>,
    running: BTreeMap<u64, AbortHandle>,
    tasks: JoinSet<()>,
}

impl Asked {
    /// None yet, and where the answers come out.
    pub(crate) fn new(desk: Desk) -> (Self, mpsc::Receiver<proto::AgentMessage>) {
        let (out, answers) = mpsc::channel(QUEUE);
        let asked = Self {
            desk,
            out,
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        (asked, answers)
    }

    /// Begins to answer, or ends it. Returns at once.
    pub(crate) fn take(&mut self, proto::Ask { id, question }: proto::Ask) {
        while self.tasks.try_join_next().is_some() {}
        self.running.retain(|_, task| !task.is_finished());
        let reply = Reply {
            id,
            out: self.out.clone(),
        };
        let refused = match question {
            Some(ask::Question::Stop(proto::Stop {})) => {
                if let Some(task) = self.running.remove(&id) {
                    task.abort();
                }
                return;
            }
            None => "this gateway's agent does not know the question: it is of an earlier version",
            Some(_) if self.running.len() >= AT_ONCE => {
                "this gateway is being asked other things: try again in a while"
            }
            Some(question) => {
                let desk = self.desk.clone();
                let task = self.tasks.spawn(answer(desk, question, reply));
                self.running.insert(id, task);
                return;
            }
        };
        // Without room for it, the controller asks no longer when its time is up.
        let refused = reply.message(None, Some(Err(refused.to_owned())));
        let _ = self.out.try_send(refused);
    }
}

async fn answer(desk: Desk, question: ask::Question, reply: Reply) {
    let _ = reply.out.send(reply.message(None, None)).await;
    let limit = limit(&question);
    let done = timeout(limit, pieces(&desk, question, &reply)).await;
    let ended = match done {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
    };
    let _ = reply.out.send(reply.message(None, Some(ended))).await;
}

fn limit(question: &ask::Question) -> Duration {
    let asked_for = match question {
        ask::Question::Capture(it) => u64::from(it.seconds),
        ask::Question::Logs(it) => u64::from(it.follow),
        _ => 30,
    };
    LONGEST.min(Duration::from_secs(asked_for)) + MARGIN
}

async fn pieces(desk: &Desk, question: ask::Question, reply: &Reply) -> Result<(), Error> {
    match question {
        ask::Question::Stop(_) => Ok(()),
        ask::Question::Ping(it) => ping::answer(desk, it, reply).await,
        ask::Question::Walk(it) => walk::answer(desk, it, reply).await,
        ask::Question::Lookup(it) => route::answer(desk, it, reply).await,
        ask::Question::Capture(it) => capture::answer(desk, it, reply).await,
        ask::Question::Logs(it) => logs::answer(desk, it, reply).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk() -> Desk {
        let (_, in_force) = watch::channel(None);
        let (_, bgp) = watch::channel(None);
        Desk {
            in_force,
            bgp,
            logs: Logs::new(),
        }
    }

    fn said(message: proto::AgentMessage) -> proto::Answer {
        match message.message {
            Some(agent_message::Message::Answer(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn ask(id: u64, question: ask::Question) -> proto::Ask {
        proto::Ask {
            id,
            question: Some(question),
        }
    }

    fn follow() -> ask::Question {
        ask::Question::Logs(proto::AskLogs {
            lines: 1,
            follow: 60,
            ..proto::AskLogs::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_begins_at_once_and_ends_with_its_reason() {
        let (mut asked, mut answers) = Asked::new(desk());
        asked.take(ask(7, ask::Question::Walk(proto::AskWalk::default())));
        let first = said(answers.recv().await.unwrap());
        assert_eq!((first.id, first.last), (7, false));
        let last = said(answers.recv().await.unwrap());
        assert!(last.last && last.error.contains("no config"), "{last:?}");

        // What a later controller may ask.
        let unknown = proto::Ask {
            id: 8,
            question: None,
        };
        asked.take(unknown);
        let last = said(answers.recv().await.unwrap());
        assert!(last.last && last.error.contains("earlier version"));
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_few_at_once_until_one_is_stopped() {
        let (mut asked, mut answers) = Asked::new(desk());
        for id in 0..4 {
            asked.take(ask(id, follow()));
            assert_eq!(said(answers.recv().await.unwrap()).id, id);
        }
        asked.take(ask(4, follow()));
        let refused = said(answers.recv().await.unwrap());
        assert!(refused.error.contains("asked other things"), "{refused:?}");
        asked.take(ask(2, ask::Question::Stop(proto::Stop {})));
        tokio::task::yield_now().await;
        asked.take(ask(5, follow()));
        assert_eq!(said(answers.recv().await.unwrap()).id, 5);
    }
}
