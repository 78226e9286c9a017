//! A controller with real certificates, for the tests that speak to it.

// Each test program uses a part of it.
#![allow(dead_code)]

use routemesh_controller::ca::{self, Peer, Role};
use routemesh_controller::serve::{State, serve};
use routemesh_controller::store::Store;
use routemesh_proto::operators_client::OperatorsClient;
use routemesh_proto::{ApplyReply, ApplyRequest, GetTopologyRequest, Identity, Topology};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::Channel;

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
        ca::init(&pki.controller(), 5).unwrap();
        pki
    }

    pub fn controller(&self) -> std::path::PathBuf {
        self.dir.path().join("controller")
    }

    pub fn identity(&self, role: Role, name: &str) -> Identity {
        let out = self.dir.path().join(format!("{role}-{name}"));
        if !out.exists() {
            let name = name.to_owned();
            ca::issue(&self.controller(), &Peer { role, name }, &out, 5).unwrap();
        }
        Identity::load(&out).unwrap()
    }

    pub fn gateway(&self, name: &str) -> Identity {
        self.identity(Role::Gateway, name)
    }
}

/// A running controller.
pub struct Controller {
    pub url: String,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Controller {
    pub async fn start(dir: &Path) -> Self {
        let identity = Identity::load(dir).unwrap();
        let state = Arc::new(State::new(Store::open(dir).unwrap()).unwrap());
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            serve(listener, &identity, state, stopped).await.unwrap();
        });
        Self { url, stop, server }
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
            expect: None,
        };
        let reply = self.operators(pki).apply(request).await;
        reply.map(tonic::Response::into_inner)
    }

    pub async fn topology(&self, pki: &Pki) -> Topology {
        let reply = self
            .operators(pki)
            .get_topology(GetTopologyRequest {})
            .await;
        reply.unwrap().into_inner()
    }
}
