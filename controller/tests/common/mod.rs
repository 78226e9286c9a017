//! A controller with real certificates, for the tests that speak to it.

// Each test program uses a part of it.
#![allow(dead_code)]

use routemesh_controller::ca::{self, Authority, Peer, Role};
use routemesh_controller::serve::{State, serve};
use routemesh_controller::store::Store;
use routemesh_proto::agents_client::AgentsClient;
use routemesh_proto::controller_message::Message;
use routemesh_proto::operators_client::OperatorsClient;
use routemesh_proto::{
    AgentMessage, ApplyReply, ApplyRequest, BgpStatus, Change, Config, ControllerMessage,
    GetTopologyRequest, Hello, Identity, KeyKind, Pieces, Route, Status, Topology, TunnelStatus,
    agent_message, patch, split,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

pub const DAY: Duration = Duration::from_secs(86_400);

pub mod etcd;

pub const TWO_SITES: &str = r#"
[mesh]
as = 65000
interconnect = "fd00:ff::/64"
[sites.one]
prefixes = ["10.0.1.0/24"]
[sites.one.gateways.A]
endpoints = ["2001:db8::a"]
overlay = "private"
[sites.two]
prefixes = ["10.0.2.0/24"]
[sites.two.gateways.B]
endpoints = ["2001:db8::b"]
"#;

pub const THIRD_SITE: &str = r#"
[sites.three]
prefixes = ["10.0.3.0/24"]
[sites.three.gateways.C]
endpoints = ["2001:db8::c"]
"#;

pub fn three_sites() -> String {
    format!("{TWO_SITES}{THIRD_SITE}")
}

/// A controller's directory and the identities that it issued.
pub struct Pki {
    pub dir: TempDir,
}

impl Pki {
    pub fn new() -> Self {
        let pki = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        ca::init(&pki.controller(), KeyKind::EcdsaP384, 5 * DAY).unwrap();
        pki
    }

    pub fn controller(&self) -> std::path::PathBuf {
        self.dir.path().join("controller")
    }

    pub fn identity(&self, role: Role, name: &str) -> Identity {
        let out = self.dir.path().join(format!("{role}-{name}"));
        if !out.exists() {
            ca::issue(&self.controller(), &Peer::new(role, name), &out, 5 * DAY).unwrap();
        }
        Identity::load(&out).unwrap()
    }

    pub fn gateway(&self, name: &str) -> Identity {
        self.identity(Role::Gateway, name)
    }
}

/// A running controller.
pub struct Controller {
    pub state: Arc<State>,
    pub url: String,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Controller {
    pub async fn start(dir: &Path) -> Self {
        Self::start_with(dir, |_| Store::open(dir).unwrap()).await
    }

    /// With a store, given where the controller is.
    pub async fn start_with(dir: &Path, store: impl FnOnce(&str) -> Store) -> Self {
        let authority = Authority::new(dir, 30 * DAY);
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::new(store(&url)).unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let served = state.clone();
        let server = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            serve(listener, authority, served, stopped).await.unwrap();
        });
        Self {
            state,
            url,
            stop,
            server,
        }
    }

    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(Duration::from_secs(10), self.server)
            .await
            .expect("a stop does not wait for agents")
            .unwrap();
    }

    pub fn operators(&self, pki: &Pki) -> OperatorsClient<Channel> {
        self.operators_as(pki, "ann")
    }

    pub fn operators_as(&self, pki: &Pki, name: &str) -> OperatorsClient<Channel> {
        let identity = pki.identity(Role::Operator, name);
        OperatorsClient::new(identity.dial(&self.url).unwrap())
    }

    pub async fn apply(&self, pki: &Pki, text: &str) -> Result<ApplyReply, tonic::Status> {
        let request = ApplyRequest {
            text: text.to_owned(),
            file: "mesh.toml".to_owned(),
            ..ApplyRequest::default()
        };
        let reply = self.operators(pki).apply(request).await;
        reply.map(tonic::Response::into_inner)
    }

    pub async fn topology(&self, pki: &Pki) -> Topology {
        let reply = self
            .operators(pki)
            .get_topology(GetTopologyRequest::default())
            .await;
        reply.unwrap().into_inner()
    }
}

/// An agent that does nothing but speak.
pub struct Agent {
    pub say: mpsc::Sender<AgentMessage>,
    pub hear: Streaming<ControllerMessage>,
    pub pieces: Pieces,
    pub has: Option<Config>,
}

impl Agent {
    pub async fn attach(
        identity: &Identity,
        url: &str,
        has: Option<Config>,
    ) -> Result<Self, tonic::Status> {
        Self::attach_with_key(identity, url, has, "").await
    }

    pub async fn attach_with_key(
        identity: &Identity,
        url: &str,
        has: Option<Config>,
        key: &str,
    ) -> Result<Self, tonic::Status> {
        let (say, said) = mpsc::channel(4);
        let hello = agent_message::Message::Hello(Hello {
            generation: has.as_ref().map_or(0, |config| config.generation),
            digest: has.as_ref().map_or(String::new(), Config::digest),
            version: "test".to_owned(),
            wireguard_key: key.to_owned(),
        });
        let hello = AgentMessage {
            message: Some(hello),
        };
        say.send(hello).await.unwrap();
        let mut client = AgentsClient::new(identity.dial(url).unwrap());
        let hear = client.attach(ReceiverStream::new(said)).await?.into_inner();
        let pieces = Pieces::default();
        Ok(Self {
            say,
            hear,
            pieces,
            has,
        })
    }

    pub async fn next(&mut self) -> Result<Option<Message>, tonic::Status> {
        loop {
            let next = timeout(Duration::from_secs(20), self.hear.message());
            let Some(message) = next.await.expect("something comes")? else {
                return Ok(None);
            };
            if let Some(whole) = self.pieces.whole(message).unwrap() {
                return Ok(whole.message);
            }
        }
    }

    /// Takes a whole config.
    pub async fn config(&mut self) -> Config {
        match self.next().await.unwrap() {
            Some(Message::Config(config)) => {
                self.has = Some(config.clone());
                config
            }
            other => panic!("not a config: {other:?}"),
        }
    }

    /// Takes a change.
    pub async fn change(&mut self) -> Change {
        match self.next().await.unwrap() {
            Some(Message::Change(change)) => {
                self.has = Some(patch(self.has.as_ref().unwrap(), &change).unwrap());
                change
            }
            other => panic!("not a change: {other:?}"),
        }
    }

    pub async fn hears_nothing(&mut self) {
        let next = timeout(Duration::from_millis(300), self.hear.message());
        assert!(next.await.is_err(), "nothing was to come");
    }

    pub async fn report(&self, status: Status) {
        let status = AgentMessage {
            message: Some(agent_message::Message::Status(status)),
        };
        for message in split(status) {
            self.say.send(message).await.unwrap();
        }
    }
}

pub fn all_up(config: &Config) -> Status {
    let up = |number| TunnelStatus {
        number,
        ike: "up".to_owned(),
        interface: "up".to_owned(),
        bgp: Some(BgpStatus {
            state: "Established".to_owned(),
            ..BgpStatus::default()
        }),
        ..TunnelStatus::default()
    };
    Status {
        generation: config.generation,
        tunnels: config.tunnels.iter().map(|t| up(t.number)).collect(),
        routes: vec![Route {
            prefix: "10.0.9.0/24".to_owned(),
            paths: vec![],
        }],
        ..Status::default()
    }
}

pub async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..1200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never came true");
}
