//! The program as an operator meets it: what it prints where, and how it ends.

#![allow(clippy::unwrap_used)]

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use routemesh_proto::operators_server::{Operators, OperatorsServer};
use routemesh_proto::{
    ApplyReply, ApplyRequest, BackupPiece, BackupRequest, CONTROLLER_NAME, CanaryRequest,
    CanaryView, Counts, Diff, DiffRequest, DrainReply, DrainRequest, Edge, FieldPlan, GatewayPlan,
    GetRoutesRequest, GetTopologyRequest, History, HistoryRequest, Plan, PlanRequest, Revision,
    RollbackRequest, Routes, SitePlan, Topology, TunnelPlan,
};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Mutex;
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
    /// At the trial.
    looks: Mutex<u32>,
}

#[async_trait]
impl Operators for Scripted {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyReply>, Status> {
        let ApplyRequest { text, expect, .. } = request.into_inner();
        match text.as_str() {
            _ if expect != Some(4) => Err(Status::aborted("somebody was first")),
            text => Ok(Response::new(ApplyReply {
                generation: 4,
                unchanged: text == "same",
                sites: 3,
                gateways: 6,
                tunnels: 1,
            })),
        }
    }

    async fn get_plan(&self, request: Request<PlanRequest>) -> Result<Response<Plan>, Status> {
        let PlanRequest { text, file } = request.into_inner();
        match text.as_str() {
            "bad" => {
                let text = format!("{file}:1:2: no\n{file}:3:4: not that either");
                Err(Status::invalid_argument(text))
            }
            "same" => Ok(Response::new(Plan {
                generation: 4,
                ..Plan::default()
            })),
            _ => Ok(Response::new(planned())),
        }
    }

    async fn get_diff(&self, request: Request<DiffRequest>) -> Result<Response<Diff>, Status> {
        let DiffRequest { from, to } = request.into_inner();
        let text = |generation| format!("a\nb\ngeneration {generation}\nc\n");
        let revision = |generation| Revision {
            generation,
            file: "mesh.toml".to_owned(),
            ..Revision::default()
        };
        Ok(Response::new(Diff {
            from: Some(revision(from)),
            to: Some(revision(to)),
            from_text: text(from),
            to_text: text(to),
            plan: Some(match from == to {
                true => Plan::default(),
                false => planned(),
            }),
        }))
    }

    async fn get_history(
        &self,
        request: Request<HistoryRequest>,
    ) -> Result<Response<History>, Status> {
        let limit = u64::from(request.into_inner().limit);
        let revision = |generation| Revision {
            generation,
            at: "2026-11-22T23:14:05Z".to_owned(),
            operator: "ann".to_owned(),
            kind: "drain".to_owned(),
            summary: "V1-1 V2-1".to_owned(),
            file: "mesh.toml".to_owned(),
        };
        let revisions = (1..=limit).rev().map(revision).collect();
        Ok(Response::new(History { revisions }))
    }

    async fn rollback(
        &self,
        request: Request<RollbackRequest>,
    ) -> Result<Response<ApplyReply>, Status> {
        let RollbackRequest { generation, expect } = request.into_inner();
        match (generation, expect) {
            (2, None) => Ok(Response::new(ApplyReply {
                generation: 5,
                sites: 1,
                gateways: 2,
                tunnels: 1,
                unchanged: false,
            })),
            _ => Err(Status::aborted(
                "nothing was changed: generation 4 is in force, not 3",
            )),
        }
    }

    async fn get_canary(
        &self,
        request: Request<CanaryRequest>,
    ) -> Result<Response<CanaryView>, Status> {
        let view = |state: &str, reason: &str| CanaryView {
            state: state.to_owned(),
            reason: reason.to_owned(),
            generation: request.get_ref().generation + 1,
        };
        let mut looks = self.looks.lock().unwrap();
        *looks += 1;
        Ok(Response::new(match (*looks, self.edges) {
            (1, _) => view("trying", "V1-1 is behind"),
            (_, []) => view("promoted", "all was well"),
            _ => view("rolled back", "V1-1 refuses it"),
        }))
    }

    type BackupStream = tokio_stream::Iter<std::vec::IntoIter<Result<BackupPiece, Status>>>;

    async fn backup(
        &self,
        _: Request<BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let data = |text: &str| Ok(BackupPiece { data: text.into() });
        let mut pieces = vec![data("one "), data("two")];
        if !self.edges.is_empty() {
            pieces.push(Err(Status::internal("the disk is gone")));
        }
        Ok(Response::new(tokio_stream::iter(pieces)))
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

/// A gateway joins: the two others get a tunnel each, and one of them another option.
fn planned() -> Plan {
    let field = |name: &str, before: &str, after: &str| FieldPlan {
        name: name.to_owned(),
        before: before.to_owned(),
        after: after.to_owned(),
    };
    let tunnel = |number, peer: &str, change: &str, fields| TunnelPlan {
        number,
        peer: peer.to_owned(),
        change: change.to_owned(),
        fields,
    };
    let gateway = |name: &str, change: &str, tunnels: Vec<TunnelPlan>| GatewayPlan {
        name: name.to_owned(),
        site: "here".to_owned(),
        change: change.to_owned(),
        counts: Some(Counts {
            added: 1,
            removed: 0,
            changed: tunnels.len() as u64 - 1,
        }),
        tunnels,
        fields: Vec::new(),
    };
    let mut first = gateway(
        "V1-1",
        "change",
        vec![
            tunnel(7, "V3-1", "add", vec![]),
            tunnel(
                1,
                "V2-1",
                "change",
                vec![field("esp.rekey_time", "", "1800")],
            ),
        ],
    );
    first.fields.push(field("overlay", "private", "inside"));
    Plan {
        generation: 4,
        sites: vec![SitePlan {
            name: "three".to_owned(),
            kind: "site".to_owned(),
            change: "add".to_owned(),
            added: vec!["10.0.3.0/24".to_owned()],
            removed: Vec::new(),
        }],
        gateways: vec![
            first,
            gateway("V2-1", "change", vec![tunnel(8, "V3-1", "add", vec![])]),
            gateway("V2-2", "change", vec![tunnel(9, "V3-1", "add", vec![])]),
            gateway("V3-1", "add", vec![tunnel(7, "V1-1", "add", vec![])]),
        ],
        gateway_counts: Some(Counts {
            added: 1,
            removed: 0,
            changed: 5,
        }),
        tunnel_counts: Some(Counts {
            added: 3,
            removed: 0,
            changed: 1,
        }),
    }
}

const PLAN: &str = "+ site three  +10.0.3.0/24
~ gateway V1-1 (here)
      overlay: private -> inside
    + tunnel rm7 to V3-1
    ~ tunnel rm1 to V2-1
          esp.rekey_time: (none) -> 1800
~ gateways V2-1, V2-2
    + tunnel to V3-1
+ gateway V3-1 (here) joins, with 1 tunnel
  and 2 more gateways

gateways: 1 to add, 5 to change, 0 to remove; tunnels: 3 to add, 1 to change, 0 to remove
";

/// An operator's directory, and a controller of the same mesh.
struct Mesh {
    dir: TempDir,
    url: String,
}

impl Mesh {
    async fn new(edges: &'static [&'static str]) -> Self {
        Self::with(edges, [1975, 4096], [1975, 4096]).await
    }

    /// The years in which the certificates of the controller and of the operator begin and end.
    async fn with(
        edges: &'static [&'static str],
        controller: [i32; 2],
        operator: [i32; 2],
    ) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issue = |name: &str, [from, to]: [i32; 2]| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new([name.to_owned()]).unwrap();
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
            (
                params.signed_by(&key, &ca).unwrap().pem(),
                key.serialize_pem(),
            )
        };
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = issue("ann", operator);
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        std::fs::write(dir.path().join("cert.pem"), certificate).unwrap();
        let path = dir.path().join("key.pem");
        std::fs::write(&path, key).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();

        let (certificate, key) = issue(CONTROLLER_NAME, controller);
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(ca.pem()));
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(OperatorsServer::new(Scripted {
                edges,
                looks: Mutex::default(),
            }))
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
        .env("XDG_CONFIG_HOME", "/nowhere")
        .env_remove("MESHCTL_CONTEXT")
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
    let summary = format!("{PLAN}generation 4: 3 sites, 6 gateways, 1 tunnel\n");
    assert_eq!(mesh.run(&["apply", "-"], "good").await, done(&summary));
    let (code, out, error) = mesh.run(&["apply", "-", "--expect", "3"], "good").await;
    assert_eq!((code, out.as_str()), (1, PLAN));
    assert_eq!(error, "meshctl: somebody was first\n");
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
async fn a_plan_tells_by_its_end_whether_something_would_change() {
    let mesh = Mesh::new(&[]).await;
    let (code, out, _) = mesh.run(&["plan", "-"], "good").await;
    assert_eq!(
        (code, out),
        (
            2,
            format!("{PLAN}to do just this: meshctl apply - --expect 4\n")
        )
    );
    let (code, out, _) = mesh.run(&["plan", "-"], "same").await;
    assert_eq!((code, out.as_str()), (0, "no changes\n"));
    let (code, out, error) = mesh.run(&["plan", "-"], "bad").await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.starts_with("<stdin>:1:2: no\n"), "{error}");
    let (code, out, _) = mesh.run(&["plan", "-", "--output", "json"], "good").await;
    assert_eq!(code, 2);
    assert!(out.contains("\"name\": \"esp.rekey_time\""), "{out}");
}

#[tokio::test]
async fn a_trial_is_followed_to_its_end() {
    let mesh = Mesh::new(&[]).await;
    let args = ["apply", "-", "--canary", "one"];
    let (code, out, _) = mesh.run(&args, "good").await;
    assert_eq!(code, 0);
    let end = "site one tries it; the controller goes on, or back, by itself\n  V1-1 is behind\neverywhere, as generation 5\n";
    assert!(out.ends_with(end), "{out}");
    let broken = Mesh::new(&["up"]).await;
    let (code, _, error) = broken.run(&args, "good").await;
    assert_eq!(
        (code, error.as_str()),
        (1, "meshctl: rolled back: V1-1 refuses it\n")
    );
}

#[tokio::test]
async fn what_was_is_listed_compared_and_brought_back() {
    let mesh = Mesh::new(&[]).await;
    let (code, out, _) = mesh.run(&["history", "--limit", "2"], "").await;
    let rows: Vec<Vec<&str>> = out
        .lines()
        .map(|it| it.split_whitespace().collect())
        .collect();
    assert_eq!((code, rows.len()), (0, 3));
    let expected = [
        "2",
        "2026-11-22T23:14:05Z",
        "ann",
        "drain",
        "V1-1",
        "V2-1",
        "mesh.toml",
    ];
    assert_eq!(rows[1], expected);
    let (code, out, _) = mesh.run(&["diff", "3", "4"], "").await;
    let lines = "--- generation 3 mesh.toml\n+++ generation 4 mesh.toml\n@@ -1,4 +1,4 @@\n a\n b\n\
        -generation 3\n+generation 4\n c\n";
    assert_eq!((code, out), (2, format!("{lines}\n{PLAN}")));
    let (code, out, _) = mesh.run(&["diff", "3", "3"], "").await;
    assert_eq!((code, out.as_str()), (0, "no changes\n"));
    let (code, out, _) = mesh.run(&["rollback", "2"], "").await;
    let summary = "generation 5: 1 site, 2 gateways, 1 tunnel\n";
    assert_eq!((code, out.as_str()), (0, summary));
    let (code, _, error) = mesh.run(&["rollback", "2", "--expect", "3"], "").await;
    assert_eq!(code, 1);
    assert!(error.contains("generation 4 is in force, not 3"), "{error}");
}

#[tokio::test]
async fn a_backup_is_whole_or_not_there() {
    let mesh = Mesh::new(&[]).await;
    let file = mesh.dir.path().join("backup");
    let path = file.to_str().unwrap().to_owned();
    std::fs::write(&file, "an older one").unwrap();
    let (code, out, error) = mesh.run(&["backup", &path], "").await;
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(out.starts_with("7 bytes in "), "{out}");
    assert_eq!(std::fs::read(&file).unwrap(), b"one two");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "it holds passwords");
    let broken = Mesh::new(&["up"]).await;
    let (code, _, error) = broken.run(&["backup", &path], "").await;
    assert_eq!(code, 1);
    assert!(
        error.contains("could not: the disk is gone (more is in its log"),
        "{error}"
    );
    assert_eq!(std::fs::read(&file).unwrap(), b"one two");
    assert!(!mesh.dir.path().join("backup.part").exists());
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
    for (state, expected) in [("down", 0), ("up,unknown", 0), ("up,degraded", 2)] {
        let (code, _, error) = mesh.run(&["topology", "--state", state], "").await;
        assert_eq!((code, error.as_str()), (expected, ""), "{state}");
    }
    let (code, _, error) = mesh.run(&["topology", "--watch"], "").await;
    assert_eq!(code, 1);
    assert!(error.contains("--watch needs a terminal"), "{error}");
    for (form, begins) in [
        ("svg", "<svg "),
        ("dot", "graph "),
        ("mermaid", "flowchart "),
    ] {
        let (code, out, _) = mesh.run(&["topology", "-o", form], "").await;
        assert_eq!(code, 2);
        assert!(out.starts_with(begins), "{out}");
    }
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
async fn what_keeps_somebody_from_a_controller_is_called_by_its_name() {
    let good = [1975, 4096];
    for (controller, operator, name) in [
        ([1990, 2000], good, "its certificate has run out"),
        ([3000, 4000], good, "its certificate is of the future"),
        (good, [1990, 2000], "your certificate has run out"),
        (good, [3000, 4000], "your certificate is of the future"),
    ] {
        let mesh = Mesh::with(&[], controller, operator).await;
        let (code, _, error) = mesh.run(&["topology"], "").await;
        assert!(code == 1 && error.contains(name), "{name}: {error}");
    }
    let mesh = Mesh::new(&[]).await;
    let talker = TcpListener::bind("[::1]:0").await.unwrap();
    let at = talker.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = talker.accept().await {
            let _ = stream.write_all(b"SSH-2.0-what do you want\r\n").await;
        }
    });
    for (url, name) in [
        (format!("https://{at}"), "nobody who speaks TLS answers"),
        (
            "https://nobody.invalid:7179".to_owned(),
            "nobody knows that name",
        ),
        ("https://[::1]:1".to_owned(), "nobody listens there"),
    ] {
        let (code, _, error) = meshctl(&url, mesh.dir.path(), &["topology"], "").await;
        assert_eq!(code, 1);
        assert!(error.contains(name), "{name}: {error}");
    }
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
