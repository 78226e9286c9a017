//! What the controller logs, read where it is written.

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// For anything that is waited for.
const DEADLINE: Duration = Duration::from_secs(30);

fn controller(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-controller"));
    command.args(words).arg("--dir").arg(dir);
    command.env_remove("JOURNAL_STREAM");
    command
}

/// It runs with these options; and what it writes to standard error.
async fn run(dir: &Path, options: &[&str]) -> (Child, Lines<BufReader<ChildStderr>>) {
    let init = controller(dir, &["init"]).status().await.expect("runs");
    assert!(init.success());
    let mut child = controller(dir, &["run", "--listen", "[::1]:0"])
        .args(options)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("runs");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    (child, lines)
}

async fn next(lines: &mut Lines<BufReader<ChildStderr>>) -> String {
    let line = timeout(DEADLINE, lines.next_line()).await;
    line.expect("in time").expect("read").expect("a line")
}

#[tokio::test]
async fn lines_are_for_people_or_json() {
    let dir = tempfile::tempdir().expect("made");
    let (_child, mut lines) = run(dir.path(), &[]).await;
    let line = next(&mut lines).await;
    assert!(line.contains(" INFO listening on [::1]:"), "{line}");

    let dir = tempfile::tempdir().expect("made");
    let (_child, mut lines) = run(dir.path(), &["--log-format", "json"]).await;
    let line = next(&mut lines).await;
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line["level"], "INFO");
    let message = line["message"].as_str().expect("a message");
    assert!(message.starts_with("listening on [::1]:"), "{message}");
    assert!(line["timestamp"].is_string());

    let dir = tempfile::tempdir().expect("made");
    let (_child, mut lines) = run(dir.path(), &["--log", "loud"]).await;
    let line = next(&mut lines).await;
    assert!(line.contains("--log loud: one of error, warn"), "{line}");
}

struct Collector(mpsc::Sender<ExportLogsServiceRequest>);

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let _ = self.0.send(request.into_inner()).await;
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

async fn collector() -> (SocketAddr, mpsc::Receiver<ExportLogsServiceRequest>) {
    let listener = TcpListener::bind("[::1]:0").await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let (out, told) = mpsc::channel(16);
    let service = LogsServiceServer::new(Collector(out));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, told)
}

#[tokio::test]
async fn a_collector_is_told_what_is_logged_and_by_whom() {
    let (address, mut told) = collector().await;
    let dir = tempfile::tempdir().expect("made");
    let url = format!("http://{address}");
    // What sends the lines logs lines of its own.
    let options = ["--otlp", &url, "--log", "debug,h2=trace"];
    let (mut child, mut lines) = run(dir.path(), &options).await;
    while !next(&mut lines).await.contains("listening on") {}
    let first = timeout(DEADLINE, told.recv()).await.expect("in time");
    let first = first.expect("a request");
    let resource = first.resource_logs[0].resource.clone();
    let resource = resource.expect("a resource").attributes;
    let attribute = |key: &str| {
        let found = resource.iter().find(|it| it.key == key);
        text(found.and_then(|it| it.value.as_ref()?.value.as_ref()))
    };
    assert_eq!(attribute("service.name"), "mesh-controller");
    assert_eq!(attribute("service.version"), env!("CARGO_PKG_VERSION"));
    assert!(!attribute("host.name").is_empty());

    // The last lines come when it ends.
    let pid = child.id().expect("it runs").to_string();
    Command::new("kill").arg(&pid).status().await.expect("runs");
    let mut all = records(first);
    while !all.iter().any(|(_, _, text)| text.contains("stopping")) {
        let more = timeout(DEADLINE, told.recv()).await.expect("in time");
        all.extend(records(more.expect("a request")));
    }
    child.wait().await.expect("waited");
    while let Ok(more) = told.try_recv() {
        all.extend(records(more));
    }
    assert!(
        all.iter()
            .any(|(_, level, text)| level == "INFO" && text.starts_with("listening on")),
        "{all:?}"
    );
    let ours = |module: &str| module.starts_with("routemesh_") || module.starts_with("mesh_");
    assert!(all.iter().all(|(module, _, _)| ours(module)), "{all:?}");
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

/// Module, level and text of each line.
fn records(request: ExportLogsServiceRequest) -> Vec<(String, String, String)> {
    let scopes = request.resource_logs.into_iter();
    let scopes = scopes.flat_map(|of_one| of_one.scope_logs);
    let lines = scopes.flat_map(|scope| {
        let module = scope.scope.map(|scope| scope.name).unwrap_or_default();
        let lines = scope.log_records.into_iter();
        lines.map(move |line| {
            let said = text(line.body.as_ref().and_then(|body| body.value.as_ref()));
            (module.clone(), line.severity_text, said)
        })
    });
    lines.collect()
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nothing_up() {
    let dir = tempfile::tempdir().expect("made");
    let (mut child, mut lines) = run(dir.path(), &["--otlp", "http://[::1]:1"]).await;
    assert!(next(&mut lines).await.contains("listening on"));
    let pid = child.id().expect("it runs").to_string();
    Command::new("kill").arg(&pid).status().await.expect("runs");
    let ended = timeout(DEADLINE, child.wait()).await.expect("in time");
    assert!(ended.expect("waited").success());

    let dir = tempfile::tempdir().expect("made");
    let (_child, mut lines) = run(dir.path(), &["--otlp", "https://[::1]:1"]).await;
    let line = next(&mut lines).await;
    assert!(
        line.contains("--otlp https://[::1]:1: a collector on this host"),
        "{line}"
    );
}
