use super::*;
use routemesh_proto::agents_server::{Agents, AgentsServer};
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::task::JoinSet;
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Streaming, async_trait};

const HOUR: Duration = Duration::from_secs(3600);
const LONGEST: Duration = Duration::from_secs(15);

/// A controller, there or away, without a network between.
#[derive(Clone, Default)]
struct Controller {
    /// What it has; 0 while it is away.
    generation: Arc<AtomicU64>,
    /// When somebody tried to connect.
    attempts: Arc<Mutex<Vec<Instant>>>,
    wires: Arc<Mutex<JoinSet<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn config(generation: u64) -> proto::Config {
    proto::Config {
        generation,
        gateway: "V1-1".into(),
        site: "one".into(),
        asn: 65000,
        router_id: "198.18.0.1".into(),
        hold_time: 9,
        sites: vec![proto::Site {
            name: "one".into(),
            prefixes: vec!["10.0.0.0/24".into()],
            ..proto::Site::default()
        }],
        ..proto::Config::default()
    }
}

impl Controller {
    fn comes(&self, generation: u64) {
        self.generation.store(generation, Ordering::SeqCst);
    }

    fn goes(&self) {
        self.comes(0);
        lock(&self.wires).abort_all();
    }

    fn channel(&self) -> Channel {
        Endpoint::from_static("http://controller").connect_with_connector_lazy(self.clone())
    }
}

impl<U> Service<U> for Controller {
    type Response = hyper_util::rt::TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = BoxFuture<Self::Response, io::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: U) -> Self::Future {
        lock(&self.attempts).push(Instant::now());
        if self.generation.load(Ordering::SeqCst) == 0 {
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        }
        let ((ours, mut near), (mut far, theirs)) = (duplex(1 << 16), duplex(1 << 16));
        let service = AgentsServer::new(self.clone());
        let incoming = tokio_stream::once(Ok::<_, io::Error>(theirs));
        let served = Server::builder().add_service(service);
        tokio::spawn(served.serve_with_incoming(incoming));
        lock(&self.wires).spawn(async move {
            let _ = copy_bidirectional(&mut near, &mut far).await;
        });
        Box::pin(async { Ok(hyper_util::rt::TokioIo::new(ours)) })
    }
}

#[async_trait]
impl Agents for Controller {
    type AttachStream = ReceiverStream<Result<proto::ControllerMessage, tonic::Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<proto::AgentMessage>>,
    ) -> Result<Response<Self::AttachStream>, tonic::Status> {
        let (out, messages) = mpsc::channel(1);
        let config = config(self.generation.load(Ordering::SeqCst));
        let message = Some(controller_message::Message::Config(config));
        let _ = out.try_send(Ok(proto::ControllerMessage { message }));
        tokio::spawn(async move {
            let mut inbound = request.into_inner();
            while let Ok(Some(_)) = inbound.message().await {}
            drop(out);
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

/// In virtual time: the agent has a config from the controller, loses it for an hour, and gets the next.
#[tokio::test(start_paused = true)]
async fn an_hour_without_the_controller_changes_nothing_and_is_over_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(StateDir::open(dir.path()).unwrap());
    let (in_force, mut configs) = watch::channel(None);
    let (refused, refusals) = watch::channel(None);
    let (_status, statuses) = watch::channel(proto::Status::default());
    let controller = Controller::default();
    let mut n = 0u64;
    let chance = move || {
        n += 71;
        n
    };
    let channel = controller.channel();
    let (_dialled, channels) = watch::channel(channel);
    let own = Own {
        state,
        key: Some([7; 32].into()),
        bgp: watch::channel(None).1,
        logs: Logs::new(),
    };
    let agent = run(channels, own, in_force, refused, statuses, chance);
    let _agent = tokio::spawn(agent);
    let generation = |it: &Option<InForce>| it.as_ref().map(|it| it.raw.generation);

    controller.comes(1);
    configs.changed().await.unwrap();
    assert_eq!(generation(&configs.borrow_and_update()), Some(1));
    sleep(HOUR).await;
    assert_eq!(lock(&controller.attempts).len(), 1, "it stays connected");

    controller.goes();
    let began = Instant::now();
    sleep(HOUR).await;
    assert!(!configs.has_changed().unwrap(), "what is in force stays");
    assert_eq!(*refusals.borrow(), None);
    let attempts: Vec<Instant> = lock(&controller.attempts).split_off(1);
    let pauses = std::iter::once(began)
        .chain(attempts.iter().copied())
        .zip(&attempts);
    let pauses: Vec<Duration> = pauses.map(|(a, b)| *b - a).collect();
    // Soon at first, then seldom.
    assert!(pauses[0] <= Duration::from_secs(1), "{pauses:?}");
    let (first, later) = pauses.split_at(PAUSES.len());
    assert!(first.is_sorted(), "{first:?}");
    let bounds = LONGEST * 3 / 4 - Duration::from_millis(1)..=LONGEST + Duration::from_millis(1);
    assert!(later.iter().all(|it| bounds.contains(it)), "{later:?}");
    let different: BTreeSet<_> = later.iter().map(Duration::as_millis).collect();
    assert!(different.len() > 100, "{different:?}");

    controller.comes(2);
    let back = Instant::now();
    configs.changed().await.unwrap();
    assert_eq!(generation(&configs.borrow_and_update()), Some(2));
    assert!(back.elapsed() <= LONGEST, "{:?}", back.elapsed());
}

#[test]
fn agents_do_not_come_back_together() {
    let pauses = |chance| -> Vec<Duration> { (0..8).map(|n| pause(n, chance)).collect() };
    let longest: Vec<Duration> = [1, 2, 4, 8, 15, 15, 15, 15].map(Duration::from_secs).into();
    assert_eq!(pauses(256), longest);
    let shortest = longest.iter().map(|it| *it * 3 / 4);
    assert_eq!(pauses(0), shortest.collect::<Vec<_>>());
    assert_eq!(pauses(u64::MAX).len(), 8);
}
