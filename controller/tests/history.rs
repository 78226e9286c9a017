//! Changes as operators make them beside each other, and how they get back.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Controller, Pki, TWO_SITES, three_sites};
use routemesh_controller::store::{Store, restore};
use routemesh_proto::{
    ApplyRequest, BackupRequest, DiffRequest, DrainRequest, HistoryRequest, PlanRequest,
    RollbackRequest,
};
use tonic::Code;

fn request(text: &str, expect: Option<u64>) -> ApplyRequest {
    ApplyRequest {
        text: text.to_owned(),
        file: "mesh.toml".to_owned(),
        expect,
        ..ApplyRequest::default()
    }
}

#[tokio::test]
async fn two_operators_do_not_overwrite_each_other() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    let (mut ann, mut bob) = (
        controller.operators_as(&pki, "ann"),
        controller.operators_as(&pki, "bob"),
    );
    let refused = ann.apply(request(TWO_SITES, Some(1))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    assert!(
        refused.message().contains("there is no mesh yet"),
        "{refused}"
    );
    ann.apply(request(TWO_SITES, Some(0))).await.unwrap();
    // Both look at generation 1; Bob is first, and drains as well.
    bob.apply(request(&three_sites(), Some(1))).await.unwrap();
    let drain = DrainRequest {
        gateway: "B".to_owned(),
        ..DrainRequest::default()
    };
    bob.drain(drain).await.unwrap();
    let text = TWO_SITES.replace("private", "inside");
    let refused = ann.apply(request(&text, Some(1))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    let lines: Vec<&str> = refused.message().lines().collect();
    assert_eq!(
        lines[0],
        "nothing was changed: generation 3 is in force, not 1"
    );
    assert!(
        lines[1].starts_with("  3 by bob at 20") && lines[1].ends_with(": drain (B)"),
        "{lines:?}"
    );
    assert!(lines[2].starts_with("  2 by bob at 20"), "{lines:?}");
    assert!(
        lines[2].ends_with(": apply (C joined; 1 -> 3 tunnels)"),
        "{lines:?}"
    );
    assert!(lines[3].contains("meshctl diff 1 3"), "{lines:?}");
    assert_eq!(controller.topology(&pki).await.generation, 3);
    ann.apply(request(&text, Some(3))).await.unwrap();
    controller.stop().await;
}

#[tokio::test]
async fn a_plan_says_what_apply_does_and_changes_nothing() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    let mut ann = controller.operators(&pki);
    let plan = |text: String| PlanRequest {
        text,
        file: "mesh.toml".to_owned(),
    };
    let planned = ann
        .get_plan(plan(three_sites()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(planned.generation, 1);
    let gateways: Vec<_> = planned
        .gateways
        .iter()
        .map(|it| (&*it.name, &*it.change))
        .collect();
    assert_eq!(gateways, [("A", "change"), ("B", "change"), ("C", "add")]);
    assert_eq!(planned.tunnel_counts.unwrap().added, 2);
    assert_eq!(controller.topology(&pki).await.generation, 1);
    // What it does is what the history has afterwards.
    controller.apply(&pki, &three_sites()).await.unwrap();
    let diff = ann
        .get_diff(DiffRequest { from: 1, to: 2 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(diff.plan.unwrap(), planned);
    let wrong = ann.get_plan(plan("[mesh".to_owned())).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(wrong.message().starts_with("mesh.toml:1:"), "{wrong}");
    controller.stop().await;
}

#[tokio::test]
async fn what_was_comes_back() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    let secret = TWO_SITES.replace(
        "overlay = \"private\"",
        "overlay = \"private\"\nrouters = [{ address = \"10.0.1.9\", as = 65000, password = \"hunter2\" }]",
    );
    controller.apply(&pki, &secret).await.unwrap();
    controller.apply(&pki, &three_sites()).await.unwrap();
    let mut ann = controller.operators(&pki);
    let rollback = |generation, expect| RollbackRequest { generation, expect };
    let refused = ann.rollback(rollback(1, Some(1))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    let refused = ann.rollback(rollback(9, None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let reply = ann
        .rollback(rollback(1, Some(2)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (reply.generation, reply.gateways, reply.unchanged),
        (3, 2, false)
    );
    assert!(
        ann.rollback(rollback(1, None))
            .await
            .unwrap()
            .into_inner()
            .unchanged
    );
    let history = ann.get_history(HistoryRequest { limit: 0 }).await.unwrap();
    let history = history.into_inner().revisions;
    let told: Vec<_> = history
        .iter()
        .map(|it| (it.generation, &*it.kind, &*it.summary))
        .collect();
    let expected = [
        (3, "rollback", "to generation 1: C left; 3 -> 1 tunnels"),
        (2, "apply", "C joined; 1 -> 3 tunnels"),
        (1, "apply", "2 sites, 2 gateways, 1 tunnel"),
    ];
    assert_eq!(told, expected);
    assert!(
        history
            .iter()
            .all(|it| it.operator == "ann" && it.at.ends_with('Z'))
    );
    let one = ann.get_history(HistoryRequest { limit: 1 }).await.unwrap();
    assert_eq!(one.into_inner().revisions, history[..1]);

    let diff = ann
        .get_diff(DiffRequest { from: 1, to: 2 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (diff.from.as_ref(), diff.to.as_ref()),
        (history.get(2), history.get(1))
    );
    assert!(
        diff.from_text.contains("password = \"(secret)\""),
        "{}",
        diff.from_text
    );
    assert!(!format!("{diff:?}").contains("hunter2"));
    let refused = ann
        .get_diff(DiffRequest { from: 1, to: 7 })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    controller.stop().await;
}

#[tokio::test]
async fn a_backup_is_answered_before_it_is_made() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    // It cannot be made, which the answer does not know yet.
    std::fs::create_dir(pki.controller().join("backup.db")).unwrap();
    let mut ann = controller.operators(&pki);
    let mut pieces = ann.backup(BackupRequest {}).await.unwrap().into_inner();
    let refused = pieces.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("backup.db"), "{refused}");
    controller.stop().await;
}

#[tokio::test]
async fn a_mesh_that_this_version_does_not_accept_is_replaced() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    controller.stop().await;
    let file = pki.controller().join("mesh.db");
    let database = rusqlite::Connection::open(file).unwrap();
    let sql = "UPDATE spec SET text = text || 'from another version'";
    database.execute(sql, []).unwrap();
    drop(database);
    let controller = Controller::start(&pki.controller()).await;
    let mut ann = controller.operators(&pki);
    let plan = PlanRequest {
        text: TWO_SITES.to_owned(),
        file: "mesh.toml".to_owned(),
    };
    // All of it is new to the mesh, of which the store has a generation all the same.
    let planned = ann.get_plan(plan).await.unwrap().into_inner();
    assert_eq!(planned.generation, 1);
    assert_eq!(planned.gateway_counts.unwrap().added, 2);
    let reply = ann
        .apply(request(TWO_SITES, Some(planned.generation)))
        .await;
    assert_eq!(reply.unwrap().into_inner().generation, 2);
    controller.stop().await;
}

#[tokio::test]
async fn a_backup_is_made_while_changes_go_on() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    // More than one piece.
    let long = format!("{TWO_SITES}\n#{}\n", "x".repeat(200_000));
    controller.apply(&pki, &long).await.unwrap();
    let mut pieces = controller
        .operators(&pki)
        .backup(BackupRequest {})
        .await
        .unwrap()
        .into_inner();
    controller.apply(&pki, &three_sites()).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        assert!(piece.data.len() <= 64 << 10);
        bytes.extend(piece.data);
    }
    controller.stop().await;
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("backup");
    std::fs::write(&file, bytes).unwrap();
    let dir = temp.path().join("restored");
    std::fs::create_dir(&dir).unwrap();
    assert_eq!(restore(&dir, &file).unwrap(), 1);
    let kept = Store::open(&dir).unwrap().current().unwrap().unwrap();
    assert_eq!(kept.text.expose(), long);
}
