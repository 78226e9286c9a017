//! The program as an operator meets it: what it prints where, and how it ends.

#![allow(clippy::unwrap_used)]

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use routemesh_proto::operators_server::{Operators, OperatorsServer};
use routemesh_proto::{
    ApplyReply, ApplyRequest, CONTROLLER_NAME, DrainReply, DrainRequest, Edge, GetRoutesRequest,
    GetTopologyRequest, Routes, Topology,
};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, async_trait};

/// A controller that knows what to say.
struct Scripted {
    edges: &'static [&'static str],
}

#[async_trait]
impl Operators for Scripted {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyReply>, Status> {
        let ApplyRequest { text, file } = request.into_inner();
        match text.as_str() {
            "bad" => {
                let text = format!("{file}:1:2: no\n{file}:3:4: not that either");
                Err(Status::invalid_argument(text))
            }
            text => Ok(Response::new(ApplyReply {
                generation: 4,
                unchanged: text == "same",
                sites: 3,
                gateways: 6,
                tunnels: 1,
            })),
        }
    }

    async fn get_topology(
        &self,
        _: Request<GetTopologyRequest>,
    ) -> Result<Response<Topology>, Status> {
        let edge = |verdict: &&str| Edge {
            verdict: (*verdict).to_owned(),
            ..Edge::default()
        };
        Ok(Response::new(Topology {
            edges: self.edges.iter().map(edge).collect(),
            ..Topology::default()
        }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        let DrainRequest {
            gateway,
            peer,
            undo,
        } = request.into_inner();
        match (gateway.as_str(), peer.as_str()) {
            ("V1-1", "") => Ok(Response::new(DrainReply {
                generation: 7,
                unchanged: false,
            })),
            ("V1-1", "V2-1") => Ok(Response::new(DrainReply {
                generation: 7,
                unchanged: undo,
            })),
            _ => Err(Status::not_found("no such gateway")),
        }
    }

    async fn get_routes(&self, _: Request<GetRoutesRequest>) -> Result<Response<Routes>, Status> {
        Err(Status::permission_denied("not for you"))
    }
}

/// An operator's directory, and a controller of the same mesh.
struct Mesh {
    dir: TempDir,
    url: String,
}

impl Mesh {
    async fn new(edges: &'static [&'static str]) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new([name.to_owned()]).unwrap();
            (
                params.signed_by(&key, &ca).unwrap().pem(),
                key.serialize_pem(),
            )
        };
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = issue("ann");
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        std::fs::write(dir.path().join("cert.pem"), certificate).unwrap();
        let path = dir.path().join("key.pem");
        std::fs::write(&path, key).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();

        let (certificate, key) = issue(CONTROLLER_NAME);
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(ca.pem()));
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(OperatorsServer::new(Scripted { edges }))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Self { dir, url }
    }

    async fn run(&self, args: &[&str], input: &str) -> (i32, String, String) {
        meshctl(&self.url, self.dir.path(), args, input).await
    }
}

async fn meshctl(url: &str, identity: &Path, args: &[&str], input: &str) -> (i32, String, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(args)
        .env("MESHCTL_CONTROLLER", url)
        .env("MESHCTL_IDENTITY", identity)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = program.stdin.take().unwrap();
    // It may well end without having read anything.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let Output {
        status,
        stdout,
        stderr,
    } = program.wait_with_output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[tokio::test]
async fn apply_says_what_became_of_it() {
    let mesh = Mesh::new(&[]).await;
    let done = |text: &str| (0, text.to_owned(), String::new());
    let summary = "generation 4: 3 sites, 6 gateways, 1 tunnel\n";
    assert_eq!(mesh.run(&["apply", "-"], "good").await, done(summary));
    assert_eq!(
        mesh.run(&["apply", "-"], "same").await,
        done("unchanged (generation 4)\n")
    );
    let file = mesh.dir.path().join("mesh.toml");
    std::fs::write(&file, "bad").unwrap();
    let file = file.to_str().unwrap();
    let errors = format!("{file}:1:2: no\n{file}:3:4: not that either\n");
    assert_eq!(
        mesh.run(&["apply", file], "").await,
        (1, String::new(), errors)
    );
    let (code, _, error) = mesh.run(&["apply", "/nowhere.toml"], "").await;
    assert_eq!(code, 1);
    assert!(
        error.starts_with("meshctl: cannot read /nowhere.toml: "),
        "{error}"
    );
}

#[tokio::test]
async fn topology_ends_with_what_it_found() {
    let mesh = Mesh::new(&["up", "up"]).await;
    let (code, out, _) = mesh.run(&["topology"], "").await;
    assert_eq!(code, 0);
    assert!(
        out.ends_with("\n2 of 2 tunnels up, generation 0\n"),
        "{out}"
    );
    let mesh = Mesh::new(&["up", "degraded"]).await;
    let (code, out, _) = mesh.run(&["topology"], "").await;
    assert_eq!(code, 2);
    assert!(
        out.ends_with("\n1 of 2 tunnels up, generation 0\n"),
        "{out}"
    );
    assert!(!out.contains('\u{1b}'), "colour belongs on a terminal");
    let (code, out, _) = mesh.run(&["topology", "--output", "json"], "").await;
    assert_eq!(code, 2);
    assert!(out.contains("\"verdict\": \"degraded\""), "{out}");
}

#[tokio::test]
async fn drain_and_undrain_say_what_became_of_it() {
    let mesh = Mesh::new(&[]).await;
    let done = |text: &str| (0, text.to_owned(), String::new());
    let table: [(&[&str], _); 3] = [
        (&["drain", "V1-1"], done("generation 7\n")),
        (&["drain", "V1-1", "V2-1"], done("generation 7\n")),
        (
            &["undrain", "V1-1", "V2-1"],
            done("unchanged, generation 7\n"),
        ),
    ];
    for (args, expected) in table {
        assert_eq!(mesh.run(args, "").await, expected, "{args:?}");
    }
    let (code, _, error) = mesh.run(&["drain", "nobody"], "").await;
    assert_eq!((code, error.as_str()), (1, "meshctl: no such gateway\n"));
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let mesh = Mesh::new(&[]).await;
    let refused = mesh.run(&["routes", "V1-1"], "").await;
    let refusal = "meshctl: not for you\n".to_owned();
    assert_eq!(refused, (1, String::new(), refusal));
    let nobody = TcpListener::bind("[::1]:0").await.unwrap();
    let url = format!("https://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let (code, _, error) = meshctl(&url, mesh.dir.path(), &["topology"], "").await;
    assert_eq!(code, 1);
    assert!(
        error.contains(&format!("the controller at {url} cannot be reached")),
        "{error}"
    );
    let other = Mesh::new(&[]).await;
    let (code, _, error) = meshctl(&other.url, mesh.dir.path(), &["topology"], "").await;
    assert_eq!(code, 1);
    assert!(error.contains("same mesh?"), "{error}");
    let (code, _, error) = meshctl(&mesh.url, Path::new("/nowhere"), &["topology"], "").await;
    assert_eq!(code, 1);
    assert!(error.contains("cannot read /nowhere/ca.pem"), "{error}");
}

#[tokio::test]
async fn a_controller_that_says_nothing_is_not_waited_for() {
    let mesh = Mesh::new(&[]).await;
    let silent = TcpListener::bind("[::1]:0").await.unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let (code, _, error) = meshctl(&url, mesh.dir.path(), &["topology"], "").await;
    assert_eq!(code, 1);
    assert!(
        error.starts_with(&format!("meshctl: the controller at {url} ")),
        "{error}"
    );
}

#[tokio::test]
async fn the_mtu_is_reckoned_without_a_controller() {
    let nowhere = Path::new("/nowhere");
    let args = ["mtu", "aes128-sha256", "aes256gcm16-modp1536"];
    let (code, out, error) = meshctl("", nowhere, &args, "").await;
    assert_eq!((code, error.as_str()), (0, ""));
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = out.lines().map(words).collect();
    // The sizes that the reference lab's kernel found.
    assert_eq!(
        rows[1],
        ["aes128-sha256", "IPv6", "1500", "1406", "1366", "1346"]
    );
    assert_eq!(
        rows[5],
        [
            "aes256gcm16-modp1536",
            "IPv6",
            "1500",
            "1426",
            "1386",
            "1366"
        ]
    );
    assert_eq!(rows.len(), 9);
    let args = ["mtu", "aes128", "--path", "1492"];
    let (code, _, error) = meshctl("", nowhere, &args, "").await;
    assert_eq!(code, 1);
    assert!(
        error.starts_with("meshctl: \"aes128\" is not an ESP proposal"),
        "{error}"
    );
}
