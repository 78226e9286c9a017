//! The real program, killed the moment after it acknowledged, and in the middle of its work: nothing
//! acknowledged is lost.

#![allow(clippy::unwrap_used)]

use routemesh_proto::operators_client::OperatorsClient;
use routemesh_proto::trust_client::TrustClient;
use routemesh_proto::{
    ApplyReply, ApplyRequest, AuditRequest, CreateTokenRequest, DrainRequest, GetTopologyRequest,
    HistoryRequest, Identity, KeyKind, RevokeRequest, Token, enroll,
};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tonic::transport::Channel;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mesh-controller");

fn run(args: &[&str]) {
    assert!(Command::new(PROGRAM).args(args).status().unwrap().success());
}

/// Starts the controller and waits until it serves.
fn start(dir: &str) -> (Child, String) {
    let mut controller = Command::new(PROGRAM)
        .args(["run", "--dir", dir, "--listen", "[::1]:0"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(controller.stderr.take().unwrap()).lines();
    let address = lines
        .find_map(|line| {
            let line = line.unwrap();
            Some(line.split_once("listening on ")?.1.to_owned())
        })
        .expect("it says when it is ready");
    // Whatever else it says must not block it.
    std::thread::spawn(move || lines.for_each(drop));
    (controller, format!("https://{address}"))
}

fn text(round: u32) -> String {
    format!(
        "[mesh]\nas = 65000\ninterconnect = \"fd00:ff::/64\"\n\
         [sites.one]\nprefixes = [\"10.0.1.0/24\"]\ngateways.A.endpoints = [\"2001:db8::a:{round}\"]\n\
         [sites.two]\nprefixes = [\"10.0.2.0/24\"]\ngateways.B.endpoints = [\"2001:db8::b\"]\n"
    )
}

async fn apply(operators: &mut OperatorsClient<Channel>, text: String) -> ApplyReply {
    let file = "mesh.toml".to_owned();
    let reply = operators
        .apply(ApplyRequest {
            text,
            file,
            ..ApplyRequest::default()
        })
        .await;
    reply.unwrap().into_inner()
}

#[tokio::test]
async fn killed_right_after_the_reply() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    let (dir, operator) = (path("controller"), path("ann"));
    run(&["init", "--dir", &dir]);
    run(&[
        "issue",
        "--dir",
        &dir,
        "--operator",
        "ann",
        "--out",
        &operator,
    ]);
    let identity = Identity::load(Path::new(&operator)).unwrap();
    for round in 1..=10 {
        let (mut controller, url) = start(&dir);
        let mut operators = OperatorsClient::new(identity.dial(&url).unwrap());
        if round > 1 {
            let before = apply(&mut operators, text(round - 1)).await;
            assert!(
                before.unchanged,
                "round {round}: the acknowledged text is in force"
            );
            let view = operators
                .get_topology(GetTopologyRequest::default())
                .await
                .unwrap();
            let view = view.into_inner();
            assert_eq!(view.generation, u64::from(round - 1));
            // A's endpoint was new in each round, so it has the id after B's and all before.
            let (b, a) = (1, u64::from(if round == 2 { 0 } else { round - 1 }));
            let number = a.max(b) * (a.max(b) - 1) / 2 + a.min(b);
            assert_eq!(u64::from(view.edges[0].number), number);
        }
        let reply = apply(&mut operators, text(round)).await;
        controller.kill().unwrap();
        assert_eq!(reply.generation, u64::from(round));
        controller.wait().unwrap();
    }
}

/// Kills it after each word about who is who: a token that was given is good, one that was used is not, and who
/// was revoked stays so.
#[tokio::test]
async fn killed_right_after_it_said_who_is_who() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    let (dir, root) = (path("controller"), path("root"));
    run(&["init", "--dir", &dir]);
    run(&["issue", "--dir", &dir, "--admin", "root", "--out", &root]);
    let admin = Identity::load(Path::new(&root)).unwrap();
    let trust = |url: &str| TrustClient::new(admin.dial(url).unwrap());
    let kill = |mut controller: Child| {
        controller.kill().unwrap();
        controller.wait().unwrap();
    };

    let (controller, url) = start(&dir);
    let request = CreateTokenRequest {
        role: "viewer".to_owned(),
        name: "vic".to_owned(),
        lifetime: 600,
    };
    let given = trust(&url).create_token(request).await.unwrap();
    let given = given.into_inner();
    kill(controller);

    let (controller, url) = start(&dir);
    let token = |url: &str| Token {
        controllers: vec![url.to_owned()],
        authority: given.authority.clone(),
        role: "viewer".to_owned(),
        name: "vic".to_owned(),
        secret: given.secret.clone(),
    };
    let enrolled = enroll(&token(&url), KeyKind::EcdsaP384).await.unwrap();
    kill(controller);

    let (controller, url) = start(&dir);
    let again = enroll(&token(&url), KeyKind::EcdsaP384).await;
    assert!(again.is_err(), "it was used");
    let look = async |url: &str| {
        let mut operators = OperatorsClient::new(enrolled.dial(url).unwrap());
        operators.get_history(HistoryRequest { limit: 1 }).await
    };
    look(&url).await.unwrap();
    let request = RevokeRequest {
        name: "vic".to_owned(),
        person: true,
    };
    trust(&url).revoke(request).await.unwrap();
    kill(controller);

    let (controller, url) = start(&dir);
    let refused = look(&url).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    let audit = trust(&url).get_audit(AuditRequest { limit: 0 }).await;
    let audit = audit.unwrap().into_inner().entries.into_iter();
    let done: Vec<String> = audit.map(|it| it.what).collect();
    assert_eq!(done, ["revoke", "enroll", "token"]);
    kill(controller);
}

/// Kills it while changes follow each other, later every time, so that it is at another place.
#[tokio::test]
async fn killed_in_the_middle_of_changes() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    let (dir, operator) = (path("controller"), path("ann"));
    run(&["init", "--dir", &dir]);
    run(&[
        "issue",
        "--dir",
        &dir,
        "--operator",
        "ann",
        "--out",
        &operator,
    ]);
    let identity = Identity::load(Path::new(&operator)).unwrap();
    // Generation and kind of all that was acknowledged.
    let mut acknowledged: Vec<(u64, &str)> = Vec::new();
    for round in 1..=8 {
        let (mut controller, url) = start(&dir);
        let mut operators = OperatorsClient::new(identity.dial(&url).unwrap());
        let history = operators.get_history(HistoryRequest { limit: 0 }).await;
        let history = history.unwrap().into_inner().revisions;
        let kept = |generation| history.iter().find(|it| it.generation == generation);
        for (generation, kind) in &acknowledged {
            assert_eq!(
                kept(*generation).map(|it| it.kind.as_str()),
                Some(*kind),
                "round {round}: generation {generation}"
            );
        }
        let (acknowledge, mut done) = tokio::sync::mpsc::unbounded_channel();
        let changes = tokio::spawn(async move {
            for change in 0.. {
                let drain = |undo| DrainRequest {
                    gateway: "A".to_owned(),
                    peer: String::new(),
                    undo,
                };
                let request = ApplyRequest {
                    text: text(1 + change % 9),
                    file: "mesh.toml".to_owned(),
                    ..ApplyRequest::default()
                };
                let reply = match change % 3 {
                    0 => operators.apply(request).await.map(|it| {
                        let it = it.into_inner();
                        ("apply", it.generation, it.unchanged)
                    }),
                    which => operators.drain(drain(which == 2)).await.map(|it| {
                        let it = it.into_inner();
                        let kind = if which == 1 { "drain" } else { "undrain" };
                        (kind, it.generation, it.unchanged)
                    }),
                };
                let Ok((kind, generation, unchanged)) = reply else {
                    return;
                };
                if !unchanged {
                    acknowledge.send((generation, kind)).unwrap();
                }
            }
        });
        // At least one, then on to whatever moment.
        acknowledged.push(done.recv().await.unwrap());
        tokio::time::sleep(std::time::Duration::from_millis(7 * round)).await;
        controller.kill().unwrap();
        controller.wait().unwrap();
        changes.await.unwrap();
        while let Some(change) = done.recv().await {
            acknowledged.push(change);
        }
    }
    assert!(acknowledged.len() >= 8);
}
