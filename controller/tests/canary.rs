//! A specification that one site tries before the others follow.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Agent, Controller, Pki, TWO_SITES, all_up, eventually, three_sites};
use routemesh_controller::canary::{PATIENCE, STEADY};
use routemesh_proto::{
    ApplyReply, ApplyRequest, CanaryRequest, CanaryView, Config, DrainRequest, End, HistoryRequest,
    RollbackRequest,
};
use std::time::{Duration, Instant};
use tonic::Code;

async fn try_at(
    controller: &Controller,
    pki: &Pki,
    text: &str,
) -> Result<ApplyReply, tonic::Status> {
    let request = ApplyRequest {
        text: text.to_owned(),
        file: "mesh.toml".to_owned(),
        canary: "one".to_owned(),
        ..ApplyRequest::default()
    };
    let reply = controller.operators(pki).apply(request).await;
    reply.map(tonic::Response::into_inner)
}

async fn canary(controller: &Controller, pki: &Pki, generation: u64) -> CanaryView {
    let request = CanaryRequest { generation };
    let view = controller.operators(pki).get_canary(request).await;
    view.unwrap().into_inner()
}

async fn last(controller: &Controller, pki: &Pki) -> String {
    let request = HistoryRequest { limit: 1 };
    let history = controller
        .operators(pki)
        .get_history(request)
        .await
        .unwrap();
    let last = history.into_inner().revisions.remove(0);
    format!(
        "{} {} {}: {}",
        last.generation, last.operator, last.kind, last.summary
    )
}

/// Agents all of whose tunnels are up.
async fn agents(controller: &Controller, pki: &Pki, names: &[&str]) -> Vec<Agent> {
    let mut agents = Vec::new();
    for name in names {
        let mut agent = Agent::attach(&pki.gateway(name), &controller.url, None)
            .await
            .unwrap();
        let config = agent.config().await;
        agent.report(all_up(&config)).await;
        agents.push(agent);
    }
    let up = async || {
        let mut edges = controller.topology(pki).await.edges.into_iter();
        let all = |it: &Option<End>| it.as_ref().is_some_and(|it| names.contains(&&*it.gateway));
        edges.all(|edge| edge.verdict == "up" || !all(&edge.a) || !all(&edge.b))
    };
    eventually(up).await;
    agents
}

/// Takes what comes next and reports all well, with what came.
async fn follow(agents: &mut [Agent]) -> Vec<Config> {
    let mut configs = Vec::new();
    for agent in agents {
        agent.change().await;
        let config = agent.has.clone().unwrap();
        agent.report(all_up(&config)).await;
        configs.push(config);
    }
    configs
}

/// Other settings for everybody.
fn other() -> String {
    three_sites().replace("as = 65000", "as = 65000\nhold_time = 30")
}

#[tokio::test]
async fn the_others_follow_when_all_stays_well() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    let refused = try_at(&controller, &pki, &three_sites()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    controller.apply(&pki, &three_sites()).await.unwrap();
    let mut agents = agents(&controller, &pki, &["A", "B", "C"]).await;
    let reply = try_at(&controller, &pki, &other()).await.unwrap();
    assert_eq!((reply.generation, reply.unchanged), (2, false));
    let configs = follow(&mut agents).await;
    let hold: Vec<_> = configs
        .iter()
        .map(|it| (it.generation, it.hold_time))
        .collect();
    assert_eq!(hold, [(2, 30), (2, 9), (2, 9)]);
    assert_eq!(canary(&controller, &pki, 2).await.state, "trying");

    // Meanwhile nobody changes something else.
    let refused = controller.apply(&pki, &three_sites()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("site one tries generation 2"),
        "{refused}"
    );
    let drain = DrainRequest {
        gateway: "B".to_owned(),
        ..DrainRequest::default()
    };
    let refused = controller.operators(&pki).drain(drain).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);

    // The controller goes away in the middle; the others still stay with what they have.
    controller.stop().await;
    let controller = Controller::start(&pki.controller()).await;
    for (agent, name) in agents.iter_mut().zip(["A", "B", "C"]) {
        let has = agent.has.clone();
        *agent = Agent::attach(&pki.gateway(name), &controller.url, has.clone())
            .await
            .unwrap();
        agent.hears_nothing().await;
        agent.report(all_up(&has.unwrap())).await;
    }
    let well = async || {
        canary(&controller, &pki, 2)
            .await
            .reason
            .contains("all is well")
    };
    eventually(well).await;
    controller
        .state
        .tend(Instant::now() + STEADY + Duration::from_secs(1))
        .unwrap();
    let configs = follow(&mut agents).await;
    let hold: Vec<_> = configs
        .iter()
        .map(|it| (it.generation, it.hold_time))
        .collect();
    assert_eq!(hold, [(3, 30); 3]);
    let view = canary(&controller, &pki, 2).await;
    assert_eq!((&*view.state, view.generation), ("promoted", 3));
    assert_eq!(
        last(&controller, &pki).await,
        "3 ann promote: all was well at site one"
    );
    assert!(controller.apply(&pki, &other()).await.unwrap().unchanged);
    controller.stop().await;
}

#[tokio::test]
async fn who_left_before_a_trial_is_told_so_after_a_restart() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, &three_sites()).await.unwrap();
    controller.apply(&pki, TWO_SITES).await.unwrap();
    let text = TWO_SITES.replace("as = 65000", "as = 65000\nhold_time = 30");
    let _agents = agents(&controller, &pki, &["A", "B"]).await;
    try_at(&controller, &pki, &text).await.unwrap();
    controller.stop().await;
    let controller = Controller::start(&pki.controller()).await;
    let mut gone = Agent::attach(&pki.gateway("C"), &controller.url, None)
        .await
        .unwrap();
    let config = gone.config().await;
    assert_eq!((&*config.gateway, config.tunnels.len()), ("C", 0));
    controller.stop().await;
}

#[tokio::test]
async fn everything_goes_back_when_something_breaks() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, &three_sites()).await.unwrap();
    let mut agents = agents(&controller, &pki, &["A", "B", "C"]).await;
    try_at(&controller, &pki, &other()).await.unwrap();
    let configs = follow(&mut agents).await;
    let mut broken = all_up(&configs[0]);
    broken.tunnels[0].ike = "connecting".to_owned();
    agents[0].report(broken).await;
    let waits = async || {
        canary(&controller, &pki, 2)
            .await
            .reason
            .contains("IKE connecting")
    };
    eventually(waits).await;
    controller.state.tend(Instant::now() + PATIENCE).unwrap();
    let configs = follow(&mut agents).await;
    let hold: Vec<_> = configs
        .iter()
        .map(|it| (it.generation, it.hold_time))
        .collect();
    assert_eq!(hold, [(3, 9); 3]);
    let view = canary(&controller, &pki, 2).await;
    assert_eq!((&*view.state, view.generation), ("rolled back", 3));
    assert!(
        view.reason
            .starts_with("trial at site one: after 180 s, tunnel "),
        "{}",
        view.reason
    );
    assert!(
        last(&controller, &pki)
            .await
            .starts_with("3 ann rollback: trial at site one")
    );
    controller.stop().await;
}

/// A controller that was not told yet what is up would ask for nothing, and find it well.
#[tokio::test]
async fn nothing_is_tried_where_nobody_knows_how_it_is() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, &three_sites()).await.unwrap();
    let agents = agents(&controller, &pki, &["A", "B"]).await;
    let refused = try_at(&controller, &pki, &other()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("no fresh report of C:"),
        "{refused}"
    );
    assert_eq!(controller.topology(&pki).await.generation, 1);
    drop(agents);
    controller.stop().await;
}

#[tokio::test]
async fn an_operator_ends_a_trial_at_once() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, &three_sites()).await.unwrap();
    let mut agents = agents(&controller, &pki, &["A", "B", "C"]).await;
    try_at(&controller, &pki, &other()).await.unwrap();
    follow(&mut agents).await;
    let request = RollbackRequest {
        generation: 1,
        expect: None,
    };
    controller.operators(&pki).rollback(request).await.unwrap();
    let configs = follow(&mut agents).await;
    assert!(
        configs
            .iter()
            .all(|it| it.hold_time == 9 && it.generation == 3)
    );
    controller.state.tend(Instant::now() + PATIENCE).unwrap();
    assert_eq!(canary(&controller, &pki, 2).await.state, "rolled back");
    assert_eq!(controller.topology(&pki).await.generation, 3);
    controller.stop().await;
}
