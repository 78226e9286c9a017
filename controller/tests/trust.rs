//! Enrolment, renewal, revocation and roles, over real TLS.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Agent, Controller, Pki, TWO_SITES};
use routemesh_controller::ca::Role;
use routemesh_proto::certificates_client::CertificatesClient;
use routemesh_proto::trust_client::TrustClient;
use routemesh_proto::{
    CreateTokenRequest, EnrollError, Identity, KeyKind, RenewRequest, Request, Token, enroll,
};
use std::time::Duration;
use tonic::Code;
use tonic::transport::Channel;

fn administrator(pki: &Pki, controller: &Controller) -> TrustClient<Channel> {
    let identity = pki.identity(Role::Admin, "root");
    TrustClient::new(identity.dial(&controller.url).unwrap())
}

async fn token(
    pki: &Pki,
    controller: &Controller,
    role: &str,
    name: &str,
    lifetime: u64,
) -> Result<Token, tonic::Status> {
    let request = CreateTokenRequest {
        role: role.to_owned(),
        name: name.to_owned(),
        lifetime,
    };
    let mut administrator = administrator(pki, controller);
    let reply = administrator.create_token(request).await?.into_inner();
    Ok(Token {
        controllers: vec![controller.url.clone()],
        authority: reply.authority,
        role: role.to_owned(),
        name: name.to_owned(),
        secret: reply.secret,
    })
}

fn refusal(result: Result<Identity, EnrollError>) -> String {
    match result {
        Err(EnrollError::Refused(reason)) => reason,
        Err(other) => panic!("not refused by the controller: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test]
async fn a_token_makes_a_gateway_and_is_good_for_one_time() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    for kind in [KeyKind::EcdsaP384, KeyKind::Ed25519] {
        let token = token(&pki, &controller, "gateway", "A", 600).await.unwrap();
        // As it is handed over.
        let token: Token = token.expose().parse().unwrap();
        let other = Token {
            name: "B".to_owned(),
            ..token.clone()
        };
        let reason = refusal(enroll(&other, kind).await);
        assert_eq!(reason, "the token is for gateway A, and not for \"B\"");
        let identity = enroll(&token, kind).await.unwrap();
        let dir = pki.dir.path().join("enrolled");
        identity.save(&dir).unwrap();
        let mut agent = Agent::attach(&Identity::load(&dir).unwrap(), &controller.url, None)
            .await
            .unwrap();
        assert_eq!(agent.config().await.gateway, "A");
        // Again, by whomever.
        let reason = refusal(enroll(&token, kind).await);
        assert!(reason.contains("of gateway A was used"), "{reason}");
    }
    // One that nobody gave out.
    let token = token(&pki, &controller, "gateway", "A", 600).await.unwrap();
    let guessed = Token {
        secret: vec![7; 32],
        ..token.clone()
    };
    let reason = refusal(enroll(&guessed, KeyKind::Ed25519).await);
    assert!(reason.contains("knows no such token"), "{reason}");
    // A controller of another authority is told nothing: the token stays good.
    let elsewhere = Pki::new();
    let stranger = Controller::start(&elsewhere.controller()).await;
    let misled = Token {
        controllers: vec![stranger.url.clone()],
        ..token.clone()
    };
    let refused = enroll(&misled, KeyKind::Ed25519).await;
    assert!(matches!(refused, Err(EnrollError::Unreachable { .. })));
    // The first that answers is asked.
    let roundabout = Token {
        controllers: vec!["https://[::1]:1".to_owned(), controller.url.clone()],
        ..token
    };
    enroll(&roundabout, KeyKind::Ed25519).await.unwrap();
    stranger.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn a_token_runs_out_and_outlives_a_restart() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    let short = token(&pki, &controller, "gateway", "A", 1).await.unwrap();
    let mut long = token(&pki, &controller, "operator", "bob", 600)
        .await
        .unwrap();
    controller.stop().await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let controller = Controller::start(&pki.controller()).await;
    let short = Token {
        controllers: vec![controller.url.clone()],
        ..short
    };
    let reason = refusal(enroll(&short, KeyKind::Ed25519).await);
    assert!(reason.contains("has run out"), "{reason}");
    long.controllers = vec![controller.url.clone()];
    enroll(&long, KeyKind::Ed25519).await.unwrap();
    for (role, name, lifetime) in [
        ("king", "A", 60),
        ("gateway", "../A", 60),
        ("gateway", "A", 0),
        ("gateway", "A", 700_000),
    ] {
        let refused = token(&pki, &controller, role, name, lifetime).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument, "{role}");
    }
    controller.stop().await;
}

#[tokio::test]
async fn roles_are_what_the_certificate_says() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    let viewer = token(&pki, &controller, "viewer", "eve", 60).await.unwrap();
    let viewer = enroll(&viewer, KeyKind::EcdsaP384).await.unwrap();
    let channel = viewer.dial(&controller.url).unwrap();
    let mut operators = routemesh_proto::operators_client::OperatorsClient::new(channel.clone());
    operators
        .get_topology(routemesh_proto::GetTopologyRequest {})
        .await
        .unwrap();
    let request = routemesh_proto::ApplyRequest {
        text: TWO_SITES.to_owned(),
        file: String::new(),
        ..Default::default()
    };
    let refused = operators.apply(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let operator = pki.identity(Role::Operator, "ann");
    for identity in [viewer, operator, pki.gateway("A")] {
        let mut trust = TrustClient::new(identity.dial(&controller.url).unwrap());
        let refused = trust.create_token(CreateTokenRequest::default()).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
    controller.stop().await;
}

#[tokio::test]
async fn whoever_has_a_certificate_gets_the_next_for_a_new_key() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    let old = pki.gateway("A");
    let mut client = CertificatesClient::new(old.dial(&controller.url).unwrap());
    let request = Request::renewing(&old).unwrap();
    let asked = RenewRequest {
        request: request.der().to_vec(),
    };
    let answer = client.renew(asked).await.unwrap().into_inner();
    let new = request.answered(answer).unwrap();
    assert!(new.expose_key() != old.expose_key() && new.is_of_first_authority());
    Agent::attach(&new, &controller.url, None).await.unwrap();
    // For oneself only, and with a request that is one.
    let other = Request::new("B", KeyKind::Ed25519).unwrap();
    for (request, code) in [
        (other.der().to_vec(), Code::PermissionDenied),
        (b"junk".to_vec(), Code::InvalidArgument),
        (vec![0; 1 << 20], Code::OutOfRange),
    ] {
        let refused = client.renew(RenewRequest { request }).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    controller.stop().await;
}
