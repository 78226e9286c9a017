//! Several controllers before one etcd: the real programs, killed as hosts fail, and what agents, operators
//! and administrators see of it.

#![allow(clippy::unwrap_used)]

mod common;

use common::etcd::{Certificates, Cluster, free_port, waiting};
use common::{Agent, Controller, Pki, TWO_SITES, all_up, eventually, three_sites};
use routemesh_controller::admission::Admission;
use routemesh_controller::ca::{self, Role};
use routemesh_controller::canary::STEADY;
use routemesh_controller::store::{Change, Store, StoreError};
use routemesh_proto::controller_message::Message;
use routemesh_proto::operators_client::OperatorsClient;
use routemesh_proto::trust_client::TrustClient;
use routemesh_proto::{
    AgentMessage, ApplyReply, ApplyRequest, BackupRequest, CanaryRequest, Config, DrainRequest,
    GatewayView, GetTopologyRequest, HistoryRequest, PlanRequest, RevokeRequest, Status,
    StatusChange, agent_message,
};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic::Code;
use tonic::transport::Channel;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mesh-controller");
const DAY: Duration = Duration::from_secs(86_400);

/// A controller on a host of its own, or as good as that.
struct Host {
    dir: PathBuf,
    url: String,
    listen: String,
    process: Option<Child>,
    log: Arc<Mutex<String>>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Host {
    /// With the mesh's authority, and a certificate of its own.
    fn new(pki: &Pki, name: &str) -> Self {
        let dir = pki.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        for file in ["ca.pem", "ca-key.pem"] {
            std::fs::copy(pki.controller().join(file), dir.join(file)).unwrap();
        }
        ca::renew(&dir, 5 * DAY).unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        Self {
            dir,
            url: format!("https://{listen}"),
            listen,
            process: None,
            log: Arc::default(),
        }
    }

    fn start(&mut self, store: &Etcd) {
        let mut process = Command::new(PROGRAM)
            .args(["run", "--dir", self.dir.to_str().unwrap()])
            .args(["--listen", &self.listen, "--advertise", &self.url])
            .args(["--store", &store.place, "--etcd-identity"])
            .arg(&store.identity)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        self.process = Some(process);
        let log = self.log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                log.lock().unwrap().push_str(&(line + "\n"));
            }
        });
    }

    /// As a host that loses its power: nobody is told.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        self.log.lock().unwrap().clear();
    }

    async fn says(&self, words: &str) {
        let said = async || self.log.lock().unwrap().contains(words);
        for _ in 0..600 {
            if said().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{words:?} is not in:\n{}", self.log.lock().unwrap());
    }

    fn operators(&self, pki: &Pki) -> OperatorsClient<Channel> {
        OperatorsClient::new(pki.identity(Role::Operator, "ann").dial(&self.url).unwrap())
    }

    async fn apply(
        &self,
        pki: &Pki,
        text: &str,
        expect: Option<u64>,
    ) -> Result<ApplyReply, tonic::Status> {
        let request = ApplyRequest {
            text: text.to_owned(),
            file: "mesh.toml".to_owned(),
            expect,
            ..ApplyRequest::default()
        };
        let reply = self.operators(pki).apply(request).await;
        reply.map(tonic::Response::into_inner)
    }

    /// How a gateway looks from here.
    async fn sees(&self, pki: &Pki, gateway: &str) -> GatewayView {
        let request = GetTopologyRequest::default();
        let topology = self.operators(pki).get_topology(request).await.unwrap();
        let mut all = topology.into_inner().gateways.into_iter();
        all.find(|it| it.name == gateway).unwrap()
    }
}

/// Where etcd is, and by what it knows us.
struct Etcd {
    place: String,
    identity: PathBuf,
}

impl Etcd {
    fn of(cluster: &Cluster, pki: &Certificates) -> Self {
        Self {
            place: format!("etcd:{}", cluster.urls()),
            identity: pki.issue("routemesh"),
        }
    }
}

fn version(version: &str, config: &Config) -> Status {
    Status {
        version: version.to_owned(),
        ..all_up(config)
    }
}

async fn change(agent: &Agent, head: Status) {
    let change = StatusChange {
        head: Some(head),
        ..StatusChange::default()
    };
    let message = Some(agent_message::Message::Change(change));
    agent.say.send(AgentMessage { message }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_is_lost_and_then_etcd_is() {
    let (pki, of_etcd) = (Pki::new(), Certificates::new());
    let mut cluster = Cluster::start_with(3, &of_etcd.options());
    let store = Etcd::of(&cluster, &of_etcd);
    let (mut one, mut two) = (Host::new(&pki, "one"), Host::new(&pki, "two"));
    one.start(&store);
    two.start(&store);
    one.says("listening on").await;
    two.says("listening on").await;

    // What is applied at one reaches the agents of the other.
    let applied = one.apply(&pki, TWO_SITES, Some(0)).await.unwrap();
    assert_eq!(applied.generation, 1);
    let mut far = Agent::attach(&pki.gateway("B"), &two.url, None)
        .await
        .unwrap();
    assert_eq!(far.config().await.generation, 1);
    let both = format!("{},{}", one.url, two.url);
    let mut near = Agent::attach(&pki.gateway("A"), &one.url, None)
        .await
        .unwrap();
    let config = near.config().await;
    assert_eq!(
        one.apply(&pki, &three_sites(), None)
            .await
            .unwrap()
            .generation,
        2
    );
    assert_eq!(far.change().await.generation, 2);
    near.change().await;
    // Of two who saw the same, one is first.
    let late = two.apply(&pki, TWO_SITES, Some(1)).await.unwrap_err();
    assert_eq!(late.code(), Code::Aborted, "{late}");

    // What an agent tells the one, the other shows, whole and as it changes.
    near.report(version("first", &config)).await;
    eventually(async || two.sees(&pki, "A").await.version == "first").await;
    change(&near, version("second", &config)).await;
    eventually(async || two.sees(&pki, "A").await.version == "second").await;

    // Who is revoked at one loses the stream at the other.
    let admin = pki.identity(Role::Admin, "root").dial(&one.url).unwrap();
    let revoke = RevokeRequest {
        name: "B".to_owned(),
        person: false,
    };
    TrustClient::new(admin).revoke(revoke).await.unwrap();
    let end = loop {
        match far.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a word"),
            Err(end) => break end,
        }
    };
    assert_eq!(end.code(), Code::PermissionDenied, "{end}");

    // The controller is lost; its agent, which knows both, goes to the other, and has what is in force.
    one.kill();
    assert!(near.next().await.is_err() || near.next().await.is_err());
    let mut near = Agent::attach(&pki.gateway("A"), &both, near.has)
        .await
        .unwrap();
    near.report(version("third", &config)).await;
    eventually(async || two.sees(&pki, "A").await.version == "third").await;
    two.says(&format!("the controller at {} is gone", one.url))
        .await;
    // It comes back, and learns of it from there.
    one.start(&store);
    one.says("listening on").await;
    eventually(async || one.sees(&pki, "A").await.version == "third").await;

    // etcd loses a member, and goes on; then most of them.
    cluster.kill(0);
    let drain = |undo| DrainRequest {
        gateway: "A".to_owned(),
        peer: String::new(),
        undo,
    };
    let drained = one.operators(&pki).drain(drain(false)).await.unwrap();
    let generation = drained.into_inner().generation;
    while near.has.as_ref().unwrap().generation < generation {
        match near.next().await.unwrap() {
            Some(Message::Config(config)) => near.has = Some(config),
            Some(Message::Change(change)) => {
                let has = near.has.take().unwrap();
                near.has = Some(routemesh_proto::patch(&has, &change).unwrap());
            }
            Some(Message::Piece(_) | Message::Ask(_)) | None => {}
        }
    }
    cluster.kill(1);
    let refused = [
        one.apply(&pki, TWO_SITES, None).await.map(drop),
        two.operators(&pki).drain(drain(true)).await.map(drop),
    ];
    for refused in refused {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        let text = refused.message();
        assert!(
            text.contains("nothing can be changed until that is mended"),
            "{text}"
        );
    }
    // All is still read, and reports still come.
    let plan = PlanRequest {
        text: TWO_SITES.to_owned(),
        file: "mesh.toml".to_owned(),
    };
    let plan = one.operators(&pki).get_plan(plan).await.unwrap();
    assert_eq!(plan.into_inner().generation, generation);
    let mut operators = two.operators(&pki);
    let history = operators.get_history(HistoryRequest { limit: 1 }).await;
    let history = history.unwrap().into_inner().revisions;
    assert_eq!(history[0].generation, generation);
    near.report(version("fourth", &config)).await;
    eventually(async || two.sees(&pki, "A").await.version == "fourth").await;
    eventually(async || one.sees(&pki, "A").await.version == "fourth").await;
    // One that starts meanwhile waits for it.
    one.kill();
    one.start(&store);
    one.says("waiting, agents go on without a controller: etcd at")
        .await;
    // It is back, and nobody has to do anything.
    cluster.revive(0);
    one.says("listening on").await;
    eventually(async || one.apply(&pki, TWO_SITES, None).await.is_ok()).await;
    eventually(async || {
        two.sees(&pki, "A").await.reason.contains("behind") || {
            let request = GetTopologyRequest::default();
            let topology = two.operators(&pki).get_topology(request).await.unwrap();
            topology.into_inner().generation > generation
        }
    })
    .await;

    // Backups are etcd's.
    let backup = two.operators(&pki).backup(BackupRequest {}).await;
    let refused = backup.err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("etcdctl snapshot save"),
        "{refused}"
    );
    // Over to one controller, with SQLite again, when the others are gone.
    one.kill();
    two.kill();
    let alone = pki.dir.path().join("alone");
    std::fs::create_dir(&alone).unwrap();
    let migrates = async || {
        let migrated = Command::new(PROGRAM)
            .args(["migrate", "--from", &store.place, "--etcd-identity"])
            .arg(&store.identity)
            .args(["--to", &format!("sqlite:{}", alone.display())])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&migrated.stderr).into_owned();
        assert!(
            migrated.status.success() || said.contains("a controller uses it"),
            "{said}"
        );
        migrated.status.success()
    };
    for _ in 0..120 {
        if migrates().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(Path::new(&alone).join("mesh.db").exists());
}

/// A controller that revokes a gateway may come no further than that: the others do the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_another_revoked_is_in_no_mesh() {
    let pki = Pki::new();
    let cluster = Cluster::start(1);
    let open = |url: &str| Store::etcd(&cluster.urls(), None, Some(url)).unwrap();
    let controller = Controller::start_with(&pki.controller(), open).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    let mut near = Agent::attach(&pki.gateway("A"), &controller.url, None)
        .await
        .unwrap();
    assert_eq!(near.config().await.tunnels.len(), 1);
    let mut other = Store::etcd(&cluster.urls(), None, None).unwrap();
    let (admitted, revoked) = (
        Admission::default(),
        Admission {
            number: 1,
            revoked: true,
        },
    );
    other
        .save_admission(Role::Gateway, "B", admitted, revoked, None)
        .unwrap();
    let left = near.change().await;
    assert_eq!((left.generation, left.tunnels.len()), (1, 0));
    // A person is in no mesh: nobody is told anything.
    other
        .save_admission(Role::Viewer, "bob", admitted, revoked, None)
        .unwrap();
    near.hears_nothing().await;
    controller.stop().await;
}

/// Another controller makes generations all the time: the revocation comes after one of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_meets_the_changes_of_others() {
    let pki = Pki::new();
    let cluster = Cluster::start(1);
    let open = |url: &str| Store::etcd(&cluster.urls(), None, Some(url)).unwrap();
    let controller = Controller::start_with(&pki.controller(), open).await;
    controller.apply(&pki, &three_sites()).await.unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let urls = cluster.urls();
    let other = std::thread::spawn(move || {
        let mut store = Store::etcd(&urls, None, None).unwrap();
        // With a pause in which somebody else may be first.
        while stopped.recv_timeout(Duration::from_millis(200)).is_err() {
            let revision = store.current().unwrap().unwrap();
            let (ids, retired) = (store.ids().unwrap(), store.retired().unwrap());
            let known = revision.generation;
            let change = Change {
                revision,
                ids: &ids,
                retired: &retired,
            };
            match store.save(known, &change) {
                Ok(_) | Err(StoreError::Moved { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    let admin = pki.identity(Role::Admin, "root");
    for name in ["B", "C"] {
        let mut trust = TrustClient::new(admin.dial(&controller.url).unwrap());
        let name = name.to_owned();
        let request = RevokeRequest {
            name,
            person: false,
        };
        trust.revoke(request).await.unwrap();
    }
    stop.send(()).unwrap();
    other.join().unwrap();
    let left = controller.topology(&pki).await.gateways;
    assert_eq!(left.len(), 1);
    controller.stop().await;
}

/// What another controller is told is heard from itself, which may be before etcd says that there is such a gateway.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_reports_before_the_others_know_of_it() {
    let pki = Pki::new();
    let cluster = Cluster::start(1);
    let far = Host::new(&pki, "far");
    let open = |url: &str| Store::etcd(&cluster.urls(), None, Some(url)).unwrap();
    let near = Controller::start_with(&pki.controller(), open).await;
    let shut = Arc::<AtomicBool>::default();
    let open = |url: &str| {
        let late = waiting(&cluster.urls(), &shut);
        Store::etcd(&late, None, Some(url)).unwrap()
    };
    let far = Controller::start_with(&far.dir, open).await;
    let seen = async |gateway: &str| {
        let request = GetTopologyRequest::default();
        let topology = far.operators(&pki).get_topology(request).await;
        let gateways = topology.map(|it| it.into_inner().gateways);
        let mut all = gateways.into_iter().flatten();
        all.any(|it| it.name == gateway && it.version == "here")
    };
    // Once it has heard of the one, it follows.
    near.apply(&pki, TWO_SITES).await.unwrap();
    let report = async |gateway: &str| {
        let identity = pki.gateway(gateway);
        let mut agent = Agent::attach(&identity, &near.url, None).await.unwrap();
        let config = agent.config().await;
        agent.report(version("here", &config)).await;
        agent
    };
    let _a = report("A").await;
    eventually(async || seen("A").await).await;

    shut.store(true, Ordering::Relaxed);
    near.apply(&pki, &three_sites()).await.unwrap();
    let _c = report("C").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    shut.store(false, Ordering::Relaxed);
    eventually(async || seen("C").await).await;
    far.stop().await;
    near.stop().await;
}

/// A trial is looked after by all controllers: the other one ends it when the one where it began is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_trial_outlives_the_controller_where_it_began() {
    let (pki, of_etcd) = (Pki::new(), Certificates::new());
    let cluster = Cluster::start_with(1, &of_etcd.options());
    let store = Etcd::of(&cluster, &of_etcd);
    let (mut one, two) = (Host::new(&pki, "one"), Host::new(&pki, "two"));
    one.start(&store);
    one.says("listening on").await;
    let open = |url: &str| {
        let store = Store::etcd(&cluster.urls(), Some(&store.identity), Some(url));
        store.unwrap()
    };
    let two = Controller::start_with(&two.dir, open).await;
    one.apply(&pki, TWO_SITES, None).await.unwrap();
    let (both, a) = (format!("{},{}", one.url, two.url), pki.gateway("A"));
    let mut agents = Vec::new();
    for (name, url) in [("A", &one.url), ("B", &two.url)] {
        let identity = pki.gateway(name);
        let mut agent = Agent::attach(&identity, url, None).await.unwrap();
        let config = agent.config().await;
        agent.report(all_up(&config)).await;
        agents.push(agent);
    }
    let all_up_at_two = async || {
        let edges = two.topology(&pki).await.edges;
        edges.iter().all(|edge| edge.verdict == "up")
    };
    eventually(all_up_at_two).await;
    let text = TWO_SITES.replace("as = 65000", "as = 65000\nhold_time = 30");
    let request = ApplyRequest {
        text,
        file: "mesh.toml".to_owned(),
        canary: "one".to_owned(),
        ..ApplyRequest::default()
    };
    let trial = one.operators(&pki).apply(request).await.unwrap();
    let trial = trial.into_inner().generation;
    for agent in &mut agents {
        agent.change().await;
    }
    one.kill();
    // What is tried runs where it is to, and says so to the controller that is left.
    let near = agents.remove(0).has;
    let near = Agent::attach(&a, &both, near).await.unwrap();
    for agent in [&near, &agents[0]] {
        agent.report(all_up(agent.has.as_ref().unwrap())).await;
    }
    let how = async || {
        let request = CanaryRequest { generation: trial };
        let view = two.operators(&pki).get_canary(request).await.unwrap();
        view.into_inner()
    };
    eventually(all_up_at_two).await;
    two.state.tend(Instant::now()).unwrap();
    assert_eq!(how().await.state, "trying");
    let later = Instant::now() + STEADY + Duration::from_secs(1);
    two.state.tend(later).unwrap();
    assert_eq!(how().await.state, "promoted");
    // Whoever looks after it and comes too late has nothing to say.
    two.state.tend(later).unwrap();
    two.stop().await;
}
