//! Many gateways and large configs: who is slow, or comes with a thousand others, is in nobody's way.

#![allow(clippy::unwrap_used)]

use routemesh_proto::{
    AgentMessage, Piece, Pieced, Route, Status, StatusChange, TunnelStatus, agent_message,
    controller_message, split,
};
use std::fmt::Write;
use tokio::task::JoinSet;
use tonic::Code;

mod common;

use common::{Agent, Controller, Pki, all_up, eventually};

/// Each has a site.
fn mesh(gateways: usize) -> String {
    let mut text = "[mesh]\nas = 65000\ninterconnect = \"fd00:ff::/64\"\n".to_owned();
    for gateway in 0..gateways {
        writeln!(
            text,
            "[sites.site-{gateway}]\nprefixes = [\"10.0.{gateway}.0/24\"]\n\
             gateways.gw-{gateway}.endpoints = [\"2001:db8::{:x}\"]",
            gateway + 1
        )
        .unwrap();
    }
    text
}

/// Enough for a config to travel packed.
const MANY: usize = 200;

#[tokio::test]
async fn what_is_large_travels_in_pieces_and_arrives_whole() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, &mesh(MANY)).await.unwrap();
    let attach = async |name: &str, has| {
        let attached = Agent::attach(&pki.gateway(name), &controller.url, has).await;
        attached.unwrap()
    };
    let mut a = attach("gw-0", None).await;
    let first = a.hear.message().await.unwrap().unwrap();
    assert!(first.piece().is_some());
    let whole = a.pieces.whole(first).unwrap().unwrap();
    let Some(controller_message::Message::Config(config)) = whole.message else {
        panic!("not a config");
    };
    // What cannot be packed well takes several.
    let routes = (0..4_000_u64).map(|n| Route {
        prefix: n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string(),
        paths: Vec::new(),
    });
    let status = Status {
        routes: routes.collect(),
        ..all_up(&config)
    };
    let message = AgentMessage {
        message: Some(agent_message::Message::Status(status.clone())),
    };
    assert!(split(message).len() > 2);
    a.report(status).await;
    let up = |number| TunnelStatus {
        number,
        ..TunnelStatus::default()
    };
    let reported = async |tunnels: usize| {
        let report = controller.state.last_report("gw-0");
        report.is_some_and(|it| it.kept.tunnels().len() == tunnels)
    };
    eventually(async || reported(MANY - 1).await).await;
    // What changes is small, and is taken up after the report that it changes.
    let change = AgentMessage {
        message: Some(agent_message::Message::Change(StatusChange {
            tunnels: vec![up(1 << 20)],
            ..StatusChange::default()
        })),
    };
    a.say.send(change).await.unwrap();
    eventually(async || reported(MANY).await).await;
    // It has what it was told in pieces.
    drop(a);
    let mut a = attach("gw-0", Some(config)).await;
    a.hears_nothing().await;
    controller.stop().await;
}

#[tokio::test]
async fn pieces_of_nothing_end_their_stream_only() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, &mesh(2)).await.unwrap();
    let identity = pki.gateway("gw-0");
    let mut well = Agent::attach(&pki.gateway("gw-1"), &controller.url, None)
        .await
        .unwrap();
    well.config().await;
    let piece = |data: &[u8], last| AgentMessage {
        message: Some(agent_message::Message::Piece(Piece {
            data: data.to_vec(),
            last,
        })),
    };
    let bomb = routemesh_proto::pack(&vec![0; 33 << 20]);
    let endless: Vec<AgentMessage> = (0..200).map(|_| piece(&[7; 60 << 10], false)).collect();
    let many = [
        (vec![piece(&[1, 2, 3], true)], Code::InvalidArgument),
        (vec![piece(&bomb, true)], Code::InvalidArgument),
        (endless, Code::InvalidArgument),
        (vec![piece(&[0; 65 << 10], true)], Code::OutOfRange),
    ];
    for (pieces, code) in many {
        let mut agent = Agent::attach(&identity, &controller.url, None)
            .await
            .unwrap();
        agent.config().await;
        for piece in pieces {
            // Its stream may have ended by now.
            let _ = agent.say.send(piece).await;
        }
        let end = agent.next().await;
        assert!(
            matches!(&end, Err(status) if status.code() == code),
            "{end:?}"
        );
    }
    controller.apply(&pki, &mesh(3)).await.unwrap();
    assert_eq!(well.change().await.tunnels.len(), 1);
    controller.stop().await;
}

/// All at once, and among them some that stop listening in the middle of their config, or never begin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_at_once_are_served_and_who_does_not_listen_delays_nobody() {
    const LISTENING: usize = 60;
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, &mesh(MANY)).await.unwrap();
    let mut deaf = Vec::new();
    for gateway in LISTENING..LISTENING + 10 {
        let identity = pki.gateway(&format!("gw-{gateway}"));
        let agent = Agent::attach(&identity, &controller.url, None).await;
        deaf.push(agent.unwrap());
    }
    let mut coming = JoinSet::new();
    for gateway in 0..LISTENING {
        let (identity, url) = (
            pki.gateway(&format!("gw-{gateway}")),
            controller.url.clone(),
        );
        coming.spawn(async move {
            let mut agent = Agent::attach(&identity, &url, None).await.unwrap();
            let config = agent.config().await;
            agent.report(all_up(&config)).await;
            agent
        });
    }
    let mut agents = coming.join_all().await;
    controller.apply(&pki, &mesh(MANY + 1)).await.unwrap();
    for agent in &mut agents {
        let change = agent.change().await;
        assert_eq!((change.tunnels.len(), change.sites.len()), (1, 1));
        assert_eq!(agent.has.as_ref().unwrap().tunnels.len(), MANY);
    }
    // Those are told the same once they listen.
    for agent in &mut deaf {
        agent.config().await;
        while agent.has.as_ref().unwrap().generation < 2 {
            agent.change().await;
        }
        assert_eq!(agent.has.as_ref().unwrap().tunnels.len(), MANY);
    }
    controller.stop().await;
}
