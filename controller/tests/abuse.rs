//! Strangers and holders of certificates who mean no good: whatever they do, agents are served, operators
//! are answered, and what is refused is counted.

#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{Agent, Controller, Pki, TWO_SITES, eventually};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use routemesh_controller::ca::{self, Peer, Role};
use routemesh_proto::certificates_client::CertificatesClient;
use routemesh_proto::operators_client::OperatorsClient;
use routemesh_proto::trust_client::TrustClient;
use routemesh_proto::{
    ApplyRequest, AuditRequest, AuthoritiesRequest, CONTROLLER_NAME, CreateTokenRequest,
    GetTopologyRequest, HistoryRequest, Identity, KeyKind, RenewRequest, RevokeRequest, Token,
    enroll,
};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};
use tonic::Code;
use tonic::transport::Channel;

/// For anything that is to work all the while.
const PATIENCE: Duration = Duration::from_secs(30);

/// Trusts the controller, and shows a certificate or nothing.
fn connector(ca: &str, own: Option<&Identity>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca.as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            let chain = CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(own.expose_key().as_bytes()).unwrap();
            config.with_client_auth_cert(vec![chain], key).unwrap()
        }
    };
    config.alpn_protocols.push(b"h2".to_vec());
    Arc::new(config).into()
}

/// A holder of a certificate with HTTP/2 in its hands; it reads nothing of `window` bytes and more.
async fn http(url: &str, own: &Identity, window: u32) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(url.trim_start_matches("https://")).await;
    let connector = connector(&own.ca, Some(own));
    let name = CONTROLLER_NAME.try_into().unwrap();
    let stream = connector.connect(name, stream.unwrap()).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window);
    let (requests, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    requests.ready().await.unwrap()
}

fn call(name: &str, headers: &[(&'static str, String)]) -> Request<()> {
    let mut request = Request::post(format!("https://{CONTROLLER_NAME}/routemesh.v1.{name}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    request.body(()).unwrap()
}

/// A message's flag and length, as gRPC has them.
fn prefix(compressed: bool, length: u32) -> Vec<u8> {
    [&[u8::from(compressed)][..], &length.to_be_bytes()].concat()
}

/// How a call ended, by its headers or its trailers.
async fn code(answer: h2::client::ResponseFuture) -> Code {
    let answer = timeout(PATIENCE, answer).await.unwrap().unwrap();
    let of = |headers: &HeaderMap| {
        let status = headers.get("grpc-status")?.to_str().ok()?;
        Some(Code::from_bytes(status.as_bytes()))
    };
    if let Some(code) = of(answer.headers()) {
        return code;
    }
    let mut body = answer.into_body();
    while body.data().await.is_some() {}
    of(&body.trailers().await.unwrap().unwrap()).unwrap()
}

async fn answers(operators: &mut OperatorsClient<Channel>) {
    let request = operators.get_topology(GetTopologyRequest::default());
    timeout(PATIENCE, request).await.expect("in time").unwrap();
}

fn mesh(round: usize) -> String {
    TWO_SITES.replace("10.0.2.0/24", &format!("10.0.{}.0/24", 10 + round))
}

async fn refusals(pki: &Pki, controller: &Controller) -> Vec<(String, u64)> {
    let viewer = pki.identity(Role::Viewer, "eve");
    let mut trust = TrustClient::new(viewer.dial(&controller.url).unwrap());
    let audit = trust.get_audit(AuditRequest { limit: 1 }).await.unwrap();
    let all = audit.into_inner().refusals.into_iter();
    all.map(|it| (it.reason, it.count)).collect()
}

async fn is_counted(pki: &Pki, controller: &Controller, reason: &str, least: u64) {
    eventually(async || {
        let all = refusals(pki, controller).await;
        all.iter()
            .any(|(it, count)| it == reason && *count >= least)
    })
    .await;
}

#[tokio::test]
async fn half_a_request_and_sixteen_more_harm_nobody_else() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    let mallory = pki.identity(Role::Operator, "mallory");
    let mut halves = Vec::new();
    // Over several connections, as one holder may have.
    for _ in 0..4 {
        let mut requests = http(&controller.url, &mallory, 65_535).await;
        for _ in 0..4 {
            let request = call("Operators/Apply", &[]);
            let (answer, mut body) = requests.send_request(request, false).unwrap();
            let half = [prefix(false, 8 << 20), vec![b'#'; 10_000]].concat();
            body.send_data(half.into(), false).unwrap();
            halves.push((answer, body));
        }
    }
    // They are there when the next is one too many.
    eventually(async || {
        let mut requests = http(&controller.url, &mallory, 65_535).await;
        let request = call("Operators/GetHistory", &[]);
        let (answer, mut body) = requests.send_request(request, false).unwrap();
        body.send_data(prefix(false, 0).into(), true).unwrap();
        code(answer).await == Code::ResourceExhausted
    })
    .await;
    is_counted(&pki, &controller, "too many calls", 1).await;
    let mut a = Agent::attach(&pki.gateway("A"), &controller.url, None)
        .await
        .unwrap();
    a.config().await;
    controller.apply(&pki, &mesh(1)).await.unwrap();
    a.change().await;
    // Whoever ends what was begun may call again.
    drop(halves);
    let mut operators = controller.operators_as(&pki, "mallory");
    eventually(async || {
        let request = GetTopologyRequest::default();
        operators.get_topology(request).await.is_ok()
    })
    .await;
    controller.stop().await;
}

#[tokio::test]
async fn bombs_large_headers_and_slow_readers_are_refused_or_wait_alone() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    let mallory = pki.identity(Role::Operator, "mallory");
    let mut requests = http(&controller.url, &mallory, 65_535).await;

    // Nothing that is compressed is unpacked.
    let headers = [("grpc-encoding", "gzip".to_owned())];
    let request = call("Operators/Apply", &headers);
    let (answer, mut body) = requests.send_request(request, false).unwrap();
    let bomb = [prefix(true, 30), vec![0x1f; 30]].concat();
    body.send_data(bomb.into(), true).unwrap();
    assert_eq!(code(answer).await, Code::Unimplemented);

    // More than any specification, and more than there is.
    for length in [9 << 20, u32::MAX] {
        let (answer, mut body) = requests
            .send_request(call("Operators/Apply", &[]), false)
            .unwrap();
        body.send_data(prefix(false, length).into(), false).unwrap();
        assert_eq!(code(answer).await, Code::OutOfRange, "{length}");
    }

    let headers = [("x-large", "x".repeat(100_000))];
    let (answer, _) = requests
        .send_request(call("Operators/GetHistory", &headers), true)
        .unwrap();
    let refused = timeout(PATIENCE, answer).await.unwrap();
    assert!(refused.map_or(true, |it| it.status() == 431));

    // One who asks for much and reads nothing.
    let mut slow = http(&controller.url, &mallory, 0).await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let request = call("Operators/GetTopology", &[]);
        let (answer, mut body) = slow.send_request(request, false).unwrap();
        body.send_data(prefix(false, 0).into(), true).unwrap();
        waiting.push((answer, body));
    }
    let mut ann = controller.operators(&pki);
    answers(&mut ann).await;
    controller.apply(&pki, &mesh(1)).await.unwrap();
    drop(waiting);
    controller.stop().await;
}

#[tokio::test]
async fn what_is_refused_is_counted() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    // Of the wrong role.
    let viewer = pki.identity(Role::Viewer, "vera");
    let mut operators = OperatorsClient::new(viewer.dial(&controller.url).unwrap());
    let refused = operators.apply(ApplyRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    is_counted(&pki, &controller, "wrong role", 1).await;
    // Run out.
    let out = pki.dir.path().join("short");
    let peer = Peer::new(Role::Operator, "late");
    ca::issue(&pki.controller(), &peer, &out, Duration::from_secs(1)).unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let late = Identity::load(&out).unwrap();
    let mut operators = OperatorsClient::new(late.dial(&controller.url).unwrap());
    operators
        .get_history(HistoryRequest::default())
        .await
        .unwrap_err();
    is_counted(&pki, &controller, "certificate expired", 1).await;
    // Of another authority.
    let elsewhere = Pki::new();
    let mut stranger = elsewhere.identity(Role::Admin, "root");
    stranger.ca = pki.gateway("A").ca;
    let mut operators = OperatorsClient::new(stranger.dial(&controller.url).unwrap());
    operators
        .get_history(HistoryRequest::default())
        .await
        .unwrap_err();
    is_counted(&pki, &controller, "unknown authority", 1).await;
    // A server's certificate is none to call with.
    let server = Identity::load(&pki.controller()).unwrap();
    let mut operators = OperatorsClient::new(server.dial(&controller.url).unwrap());
    let history = operators.get_history(HistoryRequest::default());
    history.await.unwrap_err();
    is_counted(&pki, &controller, "bad certificate", 1).await;
    // No TLS at all.
    let address = controller.url.trim_start_matches("https://");
    let mut plain = tokio::net::TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    is_counted(&pki, &controller, "handshake failed", 1).await;
    // Revoked; for another; no request; a call that there is not; too large.
    let (ann, root) = (pki.gateway("A"), pki.identity(Role::Admin, "root"));
    let mut certificates = CertificatesClient::new(ann.dial(&controller.url).unwrap());
    for (request, reason) in [
        (vec![0; 1 << 20], "message too large"),
        (b"junk".to_vec(), "bad request"),
        (
            routemesh_proto::Request::new("B", KeyKind::Ed25519)
                .unwrap()
                .der()
                .to_vec(),
            "request for another",
        ),
    ] {
        certificates
            .renew(RenewRequest { request })
            .await
            .unwrap_err();
        is_counted(&pki, &controller, reason, 1).await;
    }
    let mut trust = TrustClient::new(root.dial(&controller.url).unwrap());
    let revoked = RevokeRequest {
        name: "A".to_owned(),
        person: false,
    };
    trust.revoke(revoked).await.unwrap();
    certificates
        .get_authorities(AuthoritiesRequest {})
        .await
        .unwrap_err();
    is_counted(&pki, &controller, "revoked", 1).await;
    let mut requests = http(&controller.url, &root, 65_535).await;
    let unheard = call("Operators/Unheard", &[]);
    let (answer, mut body) = requests.send_request(unheard, false).unwrap();
    body.send_data(prefix(false, 0).into(), true).unwrap();
    answer.await.unwrap();
    is_counted(&pki, &controller, "unknown call", 1).await;
    // A token that was used, has run out, is of another, or none.
    let mut token = async |lifetime| {
        let request = CreateTokenRequest {
            role: "gateway".to_owned(),
            name: "B".to_owned(),
            lifetime,
        };
        let made = trust.create_token(request).await.unwrap().into_inner();
        Token {
            controllers: vec![controller.url.clone()],
            authority: made.authority,
            role: "gateway".to_owned(),
            name: "B".to_owned(),
            secret: made.secret,
        }
    };
    let (good, short) = (token(60).await, token(1).await);
    let of_another = Token {
        name: "C".to_owned(),
        ..good.clone()
    };
    let guessed = Token {
        secret: vec![1; 32],
        ..good.clone()
    };
    enroll(&of_another, KeyKind::Ed25519).await.unwrap_err();
    enroll(&good, KeyKind::Ed25519).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for (refused, reason) in [
        (good, "token used"),
        (short, "token expired"),
        (guessed, "token unknown"),
    ] {
        enroll(&refused, KeyKind::Ed25519).await.unwrap_err();
        is_counted(&pki, &controller, reason, 1).await;
    }
    is_counted(&pki, &controller, "token of another", 1).await;
    // All of it is among the figures too.
    let figures = routemesh_controller::serve::page(&controller.state)
        .text()
        .unwrap();
    let reasons = refusals(&pki, &controller).await;
    assert!(reasons.len() >= 13, "{reasons:?}");
    for (reason, count) in reasons {
        let line = format!("controller_refusals_total{{reason=\"{reason}\"}} {count}\n");
        assert!(figures.contains(&line), "{line} in {figures}");
    }
    controller.stop().await;
}

#[tokio::test]
async fn holders_may_ask_what_calls_there_are_and_everybody_for_health() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    let ask = async |own: &Identity| {
        let mut requests = http(&controller.url, own, 1 << 20).await;
        let request = Request::post(format!(
            "https://{CONTROLLER_NAME}/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
        let (answer, mut body) = requests
            .send_request(request.body(()).unwrap(), false)
            .unwrap();
        // list_services, field 7, of nothing.
        let list = [prefix(false, 2), vec![0x3a, 0]].concat();
        body.send_data(list.into(), true).unwrap();
        let mut said = Vec::new();
        let mut answer = answer.await.unwrap().into_body();
        while let Some(piece) = answer.data().await {
            said.extend(piece.unwrap());
        }
        String::from_utf8_lossy(&said).into_owned()
    };
    let said = ask(&pki.gateway("A")).await;
    for service in ["routemesh.v1.Operators", "grpc.health.v1.Health"] {
        assert!(said.contains(service), "{said}");
    }
    let connector = connector(&pki.gateway("A").ca, None);
    let stream = TcpStream::connect(controller.url.trim_start_matches("https://")).await;
    let name = CONTROLLER_NAME.try_into().unwrap();
    let stream = connector.connect(name, stream.unwrap()).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut requests: SendRequest<Bytes> = requests.ready().await.unwrap();
    let mut health = async |service: &str, expected| {
        let request = Request::post(format!("https://{CONTROLLER_NAME}{service}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let (answer, mut body) = requests
            .send_request(request.body(()).unwrap(), false)
            .unwrap();
        body.send_data(prefix(false, 0).into(), true).unwrap();
        assert_eq!(code(answer).await, expected, "{service}");
    };
    health("/grpc.health.v1.Health/Check", Code::Ok).await;
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    health(reflection, Code::Unauthenticated).await;
    // Nor is it a way to have megabytes kept.
    let request = Request::post(format!(
        "https://{CONTROLLER_NAME}/grpc.health.v1.Health/Check"
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers");
    let (answer, mut body) = requests
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    body.send_data(prefix(false, 1 << 20).into(), false)
        .unwrap();
    assert_eq!(code(answer).await, Code::OutOfRange);
    controller.stop().await;
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_mesh-controller");

/// The program, with so many files at most.
struct Program {
    child: Child,
    address: String,
    metrics: String,
}

impl Program {
    fn start(pki: &Pki, files: u32) -> Self {
        let run = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
        let mut child = Command::new("sh")
            .args(["-c", &run, PROGRAM, "run", "--listen", "[::1]:0"])
            .args(["--metrics", "[::1]:0", "--dir"])
            .arg(pki.controller())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut next = |what: &str| {
            let found = lines.find_map(|line| Some(line.unwrap().split_once(what)?.1.to_owned()));
            found.expect("it says where it listens")
        };
        let (metrics, address) = (next("figures at "), next("listening on "));
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address,
            metrics,
        }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What Prometheus would read.
    async fn figures(&self) -> String {
        let mut stream = TcpStream::connect(&self.metrics).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn apply(operators: &mut OperatorsClient<Channel>, text: String) {
    let request = ApplyRequest {
        text,
        file: "mesh.toml".to_owned(),
        ..ApplyRequest::default()
    };
    let applied = timeout(PATIENCE, operators.apply(request)).await;
    applied.expect("in time").unwrap();
}

/// Connections that say nothing, or half of something; fewer where this process may have no more files.
async fn mute(address: &str, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for n in 0..count {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            break;
        };
        if n % 2 == 0 {
            // The beginning of a handshake.
            let _ = stream.write_all(&[0x16, 3, 1, 2, 0]).await;
        }
        all.push(stream);
    }
    all
}

#[tokio::test]
async fn ten_thousand_connections_stop_nobody() {
    let pki = Pki::new();
    let program = Program::start(&pki, 8192);
    let url = program.url();
    let mut ann = OperatorsClient::new(pki.identity(Role::Operator, "ann").dial(&url).unwrap());
    apply(&mut ann, mesh(0)).await;
    let mut a = Agent::attach(&pki.gateway("A"), &url, None).await.unwrap();
    a.config().await;
    let mut all = Vec::new();
    for round in 1..=4 {
        all.push(mute(&program.address, 2_500).await);
        // Who is connected goes on, and who comes now is let in.
        apply(&mut ann, mesh(round)).await;
        a.change().await;
        let bob = pki.identity(Role::Operator, &format!("bob{round}"));
        answers(&mut OperatorsClient::new(bob.dial(&url).unwrap())).await;
    }
    let figures = program.figures().await;
    // By how fast this machine is.
    let reasons = ["too many handshakes", "handshake too slow"].map(|reason| {
        let name = "routemesh_controller_refusals_total";
        figures.contains(&format!("{name}{{reason=\"{reason}\"}}"))
    });
    assert!(reasons.contains(&true), "{figures}");
    drop(all);
}

#[tokio::test]
async fn a_controller_with_few_files_serves_all_the_same() {
    let pki = Pki::new();
    let program = Program::start(&pki, 256);
    let url = program.url();
    let mut ann = OperatorsClient::new(pki.identity(Role::Operator, "ann").dial(&url).unwrap());
    apply(&mut ann, mesh(0)).await;
    let mut a = Agent::attach(&pki.gateway("A"), &url, None).await.unwrap();
    a.config().await;
    let all = mute(&program.address, 1_000).await;
    apply(&mut ann, mesh(1)).await;
    a.change().await;
    let bob = pki.identity(Role::Operator, "bob");
    answers(&mut OperatorsClient::new(bob.dial(&url).unwrap())).await;
    drop(all);
}
