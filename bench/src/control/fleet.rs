//! Agents that do nothing but speak.

use super::mesh::name;
use super::raw::{Heard, Raw};
use super::report;
use crate::error::{Error, Result};
use prost::Message;
use prost::bytes::Bytes;
use routemesh_proto::{
    AgentMessage, Config, ControllerMessage, Hello, Identity, agent_message, controller_message,
    patch, split, unpack,
};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

const ATTACH: &str = "/routemesh.v1.Agents/Attach";
/// No message is larger.
const LARGEST: usize = 64 << 20;
/// Seconds between attempts at most, as an agent has it; the last number repeats.
const PAUSES: [u64; 5] = [1, 2, 4, 8, 15];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What everybody waits for: a generation.
#[derive(Debug, Default)]
struct Goal {
    generation: AtomicU64,
    left: AtomicUsize,
    last: Mutex<Option<Instant>>,
    reached: Notify,
}

impl Goal {
    fn heard(&self, before: u64, now: u64) {
        let wanted = self.generation.load(Ordering::SeqCst);
        if before >= wanted || now < wanted {
            return;
        }
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            *lock(&self.last) = Some(Instant::now());
            self.reached.notify_one();
        }
    }
}

#[derive(Debug, Default)]
struct Held {
    generation: u64,
    /// The last whole config, and what came after it, as they came.
    config: Bytes,
    changes: Vec<Bytes>,
    /// Of the config of `settled`, with all changes.
    settled: u64,
    digest: String,
    /// A whole report, as it travels.
    status: Vec<Bytes>,
    /// Tunnels to report changes of.
    tunnels: Vec<(u32, String)>,
}

struct Agent {
    channel: Channel,
    held: Mutex<Held>,
    out: Mutex<Option<mpsc::Sender<Bytes>>>,
    goal: Arc<Goal>,
    seed: u64,
}

/// All of them.
pub struct Fleet {
    agents: Vec<Arc<Agent>>,
    goal: Arc<Goal>,
    tasks: Vec<AbortHandle>,
}

impl Fleet {
    /// The first so many gateways of the mesh; nobody speaks yet.
    pub fn new(count: usize, url: &str, identities: &Path) -> Result<Self> {
        let goal = Arc::<Goal>::default();
        let agent = |number: usize| {
            let wrong = |error| Error::Wrong(format!("identity of {}: {error}", name(number)));
            let identity = Identity::load(&identities.join(name(number))).map_err(wrong)?;
            Ok(Arc::new(Agent {
                channel: identity.dial(url).map_err(wrong)?,
                held: Mutex::default(),
                out: Mutex::default(),
                goal: goal.clone(),
                seed: number as u64,
            }))
        };
        Ok(Self {
            agents: (0..count).map(agent).collect::<Result<_>>()?,
            goal,
            tasks: Vec::new(),
        })
    }

    /// Has all of them attach, and stay.
    pub fn attach(&mut self) {
        for agent in &self.agents {
            let task = tokio::spawn(agent.clone().run());
            self.tasks.push(task.abort_handle());
        }
    }

    /// From now on, everybody is to hear of a generation. Before it can be heard of.
    pub fn expect(&self, generation: u64) {
        let behind = |it: &&Arc<Agent>| lock(&it.held).generation < generation;
        let left = self.agents.iter().filter(behind).count();
        *lock(&self.goal.last) = None;
        self.goal.left.store(left, Ordering::SeqCst);
        self.goal.generation.store(generation, Ordering::SeqCst);
    }

    /// When the last of them had it.
    pub async fn all(&self, limit: Duration) -> Result<Instant> {
        let heard = tokio::time::timeout(limit, async {
            loop {
                if let Some(last) = *lock(&self.goal.last) {
                    return last;
                }
                self.goal.reached.notified().await;
            }
        });
        heard.await.map_err(|_| Error::Timeout {
            what: format!(
                "{} agents without the generation",
                self.goal.left.load(Ordering::SeqCst)
            ),
            after: limit,
        })
    }

    /// Works out, with no hurry, what each is to say when it next attaches.
    pub async fn settle(&self) -> Result<()> {
        let mut works = JoinSet::new();
        for part in self.agents.chunks(self.agents.len().div_ceil(2).max(1)) {
            let part = part.to_vec();
            works.spawn_blocking(move || part.iter().try_for_each(|it| it.settle()));
        }
        for done in works.join_all().await {
            done?;
        }
        Ok(())
    }

    /// Has everybody report everything.
    pub async fn report_all(&self) {
        for agent in &self.agents {
            let status = lock(&agent.held).status.clone();
            for piece in status {
                agent.say(piece).await;
            }
        }
    }

    /// One report after the other, by turns, each of a tunnel that has changed; how many were taken.
    pub async fn report(&self, rate: u32, span: Duration) -> usize {
        let began = Instant::now();
        let mut said = 0_usize;
        while began.elapsed() < span {
            let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as usize;
            while said < due {
                let Some(agent) = self.agents.get(said % self.agents.len()) else {
                    return said;
                };
                let round = said / self.agents.len();
                let change = {
                    let held = lock(&agent.held);
                    let tunnel = held.tunnels.get(round % held.tunnels.len().max(1));
                    tunnel.map(|(number, peer)| report::change(*number, peer, round))
                };
                if let Some(change) = change {
                    agent.say(change).await;
                }
                said += 1;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        said
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Agent {
    async fn run(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            let attached = Instant::now();
            let _ended = self.stream().await;
            lock(&self.out).take();
            if attached.elapsed() > Duration::from_secs(30) {
                failures = 0;
            }
            let seconds = PAUSES.get(failures).or(PAUSES.last()).copied().unwrap_or(1);
            failures += 1;
            // Less up to a quarter, as agents do.
            let share = 768 + (self.seed.wrapping_mul(2_654_435_761) >> 7) % 257;
            tokio::time::sleep(Duration::from_millis(seconds * 1000 * share / 1024)).await;
        }
    }

    async fn stream(&self) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let (out, said) = mpsc::channel(4);
        let (hello, status) = {
            let held = lock(&self.held);
            let same = held.settled == held.generation;
            let hello = Hello {
                generation: if same { held.generation } else { 0 },
                digest: if same {
                    held.digest.clone()
                } else {
                    String::new()
                },
                version: "bench".to_owned(),
                ..Hello::default()
            };
            (agent_message::Message::Hello(hello), held.status.clone())
        };
        let hello = AgentMessage {
            message: Some(hello),
        };
        out.send(hello.encode_to_vec().into()).await?;
        grpc.ready().await?;
        let request = tonic::Request::new(ReceiverStream::new(said));
        let path = PathAndQuery::from_static(ATTACH);
        let mut heard = grpc.streaming(request, path, Raw).await?.into_inner();
        for piece in status {
            out.send(piece).await?;
        }
        *lock(&self.out) = Some(out);
        let mut pieces = Vec::new();
        while let Some(message) = heard.message().await? {
            self.hear(message, &mut pieces)?;
        }
        Ok(())
    }

    fn hear(
        &self,
        message: Bytes,
        pieces: &mut Vec<u8>,
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut heard = Heard::decode(message.clone())?;
        let mut message = message;
        if let Some(piece) = heard.piece {
            pieces.extend(piece.data);
            if !piece.last {
                return Ok(());
            }
            let whole = unpack(&std::mem::take(pieces), LARGEST).ok_or("damaged pieces")?;
            message = whole.into();
            heard = Heard::decode(message.clone())?;
        }
        let Some(generation) = heard.generation() else {
            return Ok(());
        };
        let mut held = lock(&self.held);
        let before = held.generation;
        held.generation = generation;
        if heard.config.is_some() {
            held.config = message;
            held.changes.clear();
        } else {
            held.changes.push(message);
        }
        drop(held);
        self.goal.heard(before, generation);
        Ok(())
    }

    async fn say(&self, message: Bytes) {
        let out = lock(&self.out).clone();
        if let Some(out) = out {
            let _ = out.send(message).await;
        }
    }

    fn settle(&self) -> Result<()> {
        let (whole, changes) = {
            let held = lock(&self.held);
            if held.settled == held.generation {
                return Ok(());
            }
            (held.config.clone(), held.changes.clone())
        };
        let config = merged(whole, &changes)?;
        let (generation, digest) = (config.generation, config.digest());
        let status = AgentMessage {
            message: Some(agent_message::Message::Status(report::whole(&config))),
        };
        let status = split(status).into_iter();
        let status = status.map(|it| it.encode_to_vec().into()).collect();
        let tunnels = config.tunnels.iter().take(64);
        let tunnels = tunnels.map(|it| (it.number, it.peer.clone())).collect();
        let config = ControllerMessage {
            message: Some(controller_message::Message::Config(config)),
        };
        *lock(&self.held) = Held {
            generation,
            config: config.encode_to_vec().into(),
            changes: Vec::new(),
            settled: generation,
            digest,
            status,
            tunnels,
        };
        Ok(())
    }
}

fn merged(whole: Bytes, changes: &[Bytes]) -> Result<Config> {
    let wrong = |error: &dyn std::fmt::Display| Error::Wrong(format!("what was heard: {error}"));
    let decode = |bytes: Bytes| ControllerMessage::decode(bytes).map_err(|error| wrong(&error));
    let Some(controller_message::Message::Config(mut config)) = decode(whole)?.message else {
        return Err(wrong(&"no config"));
    };
    for change in changes {
        if let Some(controller_message::Message::Change(change)) = decode(change.clone())?.message {
            config = patch(&config, &change).map_err(|error| wrong(&error))?;
        }
    }
    Ok(config)
}
