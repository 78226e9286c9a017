//! Enrolment, renewal, revocation and roles, over real TLS.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Agent, Controller, Pki, TWO_SITES, all_up, eventually, three_sites};
use routemesh_controller::ca::{self, Authority, Role, Step};
use routemesh_proto::Status;
use routemesh_proto::asks_client::AsksClient;
use routemesh_proto::certificates_client::CertificatesClient;
use routemesh_proto::controllers_client::ControllersClient;
use routemesh_proto::trust_client::TrustClient;
use routemesh_proto::{
    AuditRequest, AuthoritiesRequest, Config, CreateTokenRequest, EnrollError, EventsRequest,
    FollowRequest, HistoryRequest, Identity, KeyKind, RenewRequest, Request, RevokeReply,
    RevokeRequest, Token, enroll,
};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::timeout;
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
        .get_topology(routemesh_proto::GetTopologyRequest::default())
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

async fn revoke(
    pki: &Pki,
    controller: &Controller,
    name: &str,
    person: bool,
) -> Result<RevokeReply, tonic::Status> {
    let name = name.to_owned();
    let request = RevokeRequest { name, person };
    let reply = administrator(pki, controller).revoke(request).await;
    reply.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn who_is_revoked_does_not_join_in_the_history() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, &three_sites()).await.unwrap();
    revoke(&pki, &controller, "C", false).await.unwrap();
    let text = three_sites().replace("private", "inside");
    controller.apply(&pki, &text).await.unwrap();
    let mut ann = controller.operators(&pki);
    let request = HistoryRequest { limit: 1 };
    let history = ann.get_history(request).await.unwrap().into_inner();
    let said = &history.revisions.first().unwrap().summary;
    assert_eq!(said, "other settings, the same gateways");
    controller.stop().await;
}

#[tokio::test]
async fn who_is_revoked_is_out_of_the_mesh_and_comes_back_as_somebody_else() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, &three_sites()).await.unwrap();
    let stolen = pki.gateway("A");
    let mut a = Agent::attach(&stolen, &controller.url, None).await.unwrap();
    a.config().await;
    let mut b = Agent::attach(&pki.gateway("B"), &controller.url, None)
        .await
        .unwrap();
    assert_eq!(b.config().await.tunnels.len(), 2);
    let early = token(&pki, &controller, "gateway", "A", 3600)
        .await
        .unwrap();
    let reply = revoke(&pki, &controller, "A", false).await.unwrap();
    assert_eq!((reply.generation, reply.unchanged), (2, false));
    // The others lose their tunnels to it, and the stream that it has ends.
    assert_eq!(b.change().await.removed.len(), 1);
    let sites = |config: &Config| config.sites.len();
    assert_eq!(sites(b.has.as_ref().unwrap()), 3, "it is still unreachable");
    let end = loop {
        match a.next().await {
            Err(end) => break end,
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a word"),
        }
    };
    assert_eq!(end.code(), Code::PermissionDenied, "{end}");
    let gone = async |controller: &Controller| {
        let refused = Agent::attach(&stolen, &controller.url, None).await;
        let refused = refused.err().unwrap();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("was revoked"), "{refused}");
        let mut client = CertificatesClient::new(stolen.dial(&controller.url).unwrap());
        let request = Request::renewing(&stolen).unwrap().der().to_vec();
        assert!(client.renew(RenewRequest { request }).await.is_err());
    };
    gone(&controller).await;
    // Whoever got hold of a token before is no better off.
    let refused = refusal(enroll(&early, KeyKind::EcdsaP384).await);
    assert!(refused.contains("knows no such token"), "{refused}");
    let again = revoke(&pki, &controller, "A", false).await.unwrap();
    assert_eq!((again.generation, again.unchanged), (2, true));

    // Neither a restart nor another specification lets it in.
    controller.stop().await;
    let controller = Controller::start(&pki.controller()).await;
    gone(&controller).await;
    let text = three_sites().replace("10.0.3.0/24", "10.0.4.0/24");
    assert_eq!(controller.apply(&pki, &text).await.unwrap().gateways, 2);

    let token = token(&pki, &controller, "gateway", "A", 60).await.unwrap();
    let new = enroll(&token, KeyKind::EcdsaP384).await.unwrap();
    let mut a = Agent::attach(&new, &controller.url, None).await.unwrap();
    let config = a.config().await;
    assert_eq!((&*config.identity, config.tunnels.len()), ("A_1", 2));
    let mut b = Agent::attach(&pki.gateway("B"), &controller.url, b.has)
        .await
        .unwrap();
    b.next().await.unwrap();
    let mut b = Agent::attach(&pki.gateway("B"), &controller.url, None)
        .await
        .unwrap();
    let config = b.config().await;
    let to_a = config.tunnels.iter().find(|it| it.peer == "A").unwrap();
    // So that B's charon does not take the old certificate either.
    assert_eq!(to_a.peer_identity, "A_1");
    gone(&controller).await;
    // One generation is as good as the other to one that has missed both.
    controller.stop().await;
}

/// What is under way ends too, whichever call it is.
#[tokio::test]
async fn who_is_revoked_hears_nothing_more() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    let mut a = Agent::attach(&pki.gateway("A"), &controller.url, None)
        .await
        .unwrap();
    let status = all_up(&a.config().await);
    a.report(status.clone()).await;
    eventually(async || controller.state.last_report("A").is_some()).await;
    let vera = pki.identity(Role::Viewer, "vera");
    let mut vera = AsksClient::new(vera.dial(&controller.url).unwrap());
    let all = EventsRequest {
        follow: true,
        ..EventsRequest::default()
    };
    let mut heard = vera.get_events(all).await.unwrap().into_inner();
    assert!(heard.message().await.unwrap().is_some());
    revoke(&pki, &controller, "vera", true).await.unwrap();
    a.report(status).await;
    let end = timeout(Duration::from_secs(20), async {
        loop {
            match heard.message().await {
                Err(end) => break end,
                Ok(said) => assert!(said.is_some(), "it ended without a word"),
            }
        }
    });
    let end = end.await.expect("it ends");
    assert_eq!(end.code(), Code::PermissionDenied, "{end}");
    assert!(end.message().contains("viewer vera was revoked"), "{end}");
    controller.stop().await;
}

/// However many they are, and whatever people are called.
#[tokio::test]
async fn controllers_hear_each_other_and_may_nothing_else() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    let own = pki.gateway("A");
    let mut a = Agent::attach(&own, &controller.url, None).await.unwrap();
    let status = all_up(&a.config().await);
    a.report(status).await;
    eventually(async || controller.state.last_report("A").is_some()).await;
    let authority = Authority::new(&pki.controller(), Duration::from_secs(3600));
    let dial = |n: u32| {
        let own = format!("https://[2001:db8::{n}]:7179");
        let identity = authority
            .controller(&own, SystemTime::now().into())
            .unwrap();
        (
            identity.name().unwrap(),
            identity.dial(&controller.url).unwrap(),
        )
    };
    let mut following = Vec::new();
    for n in 0..40 {
        let (name, channel) = dial(n);
        if n == 0 {
            // Somebody of that name is somebody else.
            revoke(&pki, &controller, &name, true).await.unwrap();
            revoke(&pki, &controller, &name, false).await.unwrap();
        }
        let follow = ControllersClient::new(channel)
            .follow(FollowRequest {})
            .await;
        let mut heard = follow.unwrap().into_inner();
        assert_eq!(heard.message().await.unwrap().unwrap().gateway, "A");
        following.push(heard);
    }
    let (_, channel) = dial(0);
    let mut operators = routemesh_proto::operators_client::OperatorsClient::new(channel.clone());
    let request = routemesh_proto::GetTopologyRequest::default();
    let looked = operators.get_topology(request).await.map(drop);
    let mut certificates = CertificatesClient::new(channel.clone());
    let told = certificates
        .get_authorities(AuthoritiesRequest {})
        .await
        .map(drop);
    let audit = TrustClient::new(channel)
        .get_audit(AuditRequest::default())
        .await
        .map(drop);
    let admin = pki
        .identity(Role::Admin, "root")
        .dial(&controller.url)
        .unwrap();
    let followed = ControllersClient::new(admin)
        .follow(FollowRequest {})
        .await
        .map(drop);
    for refused in [looked, told, audit, followed] {
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
    let made = token(&pki, &controller, "controller", "x", 60).await;
    assert_eq!(made.unwrap_err().code(), Code::InvalidArgument);
    drop(following);
    controller.stop().await;
}

#[tokio::test]
async fn a_person_is_revoked_in_every_role_and_all_of_it_is_on_record() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    revoke(&pki, &controller, "ann", true).await.unwrap();
    let refused = controller.apply(&pki, &three_sites()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let itself = revoke(&pki, &controller, "root", true).await.unwrap_err();
    assert_eq!(itself.code(), Code::FailedPrecondition);
    let token = token(&pki, &controller, "viewer", "ann", 60).await.unwrap();
    let new = enroll(&token, KeyKind::Ed25519).await.unwrap();
    let mut ann = TrustClient::new(new.dial(&controller.url).unwrap());
    let audit = ann.get_audit(AuditRequest { limit: 0 }).await.unwrap();
    let audit = audit.into_inner();
    let said: Vec<_> = audit
        .entries
        .iter()
        .map(|it| (&*it.who, &*it.what, &*it.detail, it.from, it.to))
        .collect();
    let apply = audit.entries.last().unwrap().detail.clone();
    assert_eq!(
        said,
        [
            ("viewer ann", "enroll", "", 0, 0),
            ("admin root", "token", "viewer ann", 0, 0),
            ("admin root", "revoke", "person ann", 0, 0),
            ("ann", "apply", &*apply, 0, 1),
        ]
    );
    let refused: Vec<_> = audit
        .refusals
        .iter()
        .map(|it| (&*it.reason, it.count))
        .collect();
    assert_eq!(refused, [("revoked", 1)]);
    controller.stop().await;
}

#[tokio::test]
async fn one_authority_follows_another_and_nobody_is_left_behind() {
    let pki = Pki::new();
    let dir = pki.controller();
    let controller = Controller::start(&dir).await;
    let renewed = async |own: &Identity| {
        let mut client = CertificatesClient::new(own.dial(&controller.url).unwrap());
        let request = Request::renewing(own).unwrap();
        let asked = RenewRequest {
            request: request.der().to_vec(),
        };
        request
            .answered(client.renew(asked).await?.into_inner())
            .map_err(|error| tonic::Status::internal(error.to_string()))
    };
    let authorities = async |own: &Identity| {
        let mut client = CertificatesClient::new(own.dial(&controller.url).unwrap());
        let answer = client.get_authorities(AuthoritiesRequest {}).await;
        answer.map(|it| it.into_inner().pem)
    };
    let mut a = pki.gateway("A");
    let behind = a.clone();
    assert_eq!(
        ca::roll_over(&dir, KeyKind::Ed25519).unwrap(),
        Step::Trusted
    );
    a.ca = authorities(&a).await.unwrap();
    assert_eq!(a.authorities().len(), 2);
    assert!(a.is_of_first_authority(), "nothing to renew yet");
    assert_eq!(ca::roll_over(&dir, KeyKind::Ed25519).unwrap(), Step::Signs);
    // The controller takes the new one up by itself, and its own certificate is of it from then on: whoever
    // knew of it in time goes on.
    eventually(async || authorities(&a).await.is_ok_and(|pem| pem != a.ca)).await;
    a.ca = authorities(&a).await.unwrap();
    assert!(!a.is_of_first_authority());
    eventually(async || authorities(&behind).await.is_err()).await;
    let new = renewed(&a).await.unwrap();
    assert!(new.is_of_first_authority());
    assert_eq!(ca::roll_over(&dir, KeyKind::Ed25519).unwrap(), Step::Alone);
    eventually(async || authorities(&a).await.is_err()).await;
    let pem = authorities(&new).await.unwrap();
    assert!(new.ca.starts_with(&pem) && pem.len() < new.ca.len());
    // Tokens are of the new one as well.
    let admin = pki.identity(Role::Admin, "another");
    let mut trust = TrustClient::new(admin.dial(&controller.url).unwrap());
    let made = trust.create_token(CreateTokenRequest {
        role: "gateway".to_owned(),
        name: "B".to_owned(),
        lifetime: 60,
    });
    let made = made.await.unwrap().into_inner();
    let token = Token {
        controllers: vec![controller.url.clone()],
        authority: made.authority,
        role: "gateway".to_owned(),
        name: "B".to_owned(),
        secret: made.secret,
    };
    enroll(&token, KeyKind::EcdsaP384).await.unwrap();
    controller.stop().await;
}

/// The program refuses, by name, to leave anybody behind.
#[tokio::test]
async fn a_rollover_waits_for_every_gateway_that_is_not_revoked() {
    let pki = Pki::new();
    let dir = pki.controller();
    let controller = Controller::start(&dir).await;
    let url = controller.url.clone();
    let step = async |more: &'static str| {
        let (dir, url) = (dir.clone(), url.clone());
        let run = move || {
            std::process::Command::new(env!("CARGO_BIN_EXE_mesh-controller"))
                .args(["rollover", "--controller", &url, "--dir"])
                .arg(dir)
                .args(more.split_whitespace())
                .output()
                .unwrap()
        };
        let run = tokio::task::spawn_blocking(run).await.unwrap();
        let said = [run.stdout, run.stderr].concat();
        (
            run.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    controller.apply(&pki, TWO_SITES).await.unwrap();
    let (mut a, mut b) = (pki.gateway("A"), pki.gateway("B"));
    let mut agent = Agent::attach(&a, &controller.url, None).await.unwrap();
    let status = all_up(&agent.config().await);
    let mut other = Agent::attach(&b, &controller.url, None).await.unwrap();
    let status_b = all_up(&other.config().await);
    let report = async |agent: &Agent, status: &Status, own: &Identity| {
        let certificate = own.status();
        let status = status.clone();
        agent
            .report(Status {
                certificate,
                ..status
            })
            .await;
    };
    report(&agent, &status, &a).await;
    assert!(step("").await.0);
    let trusted = std::fs::read_to_string(dir.join("ca.pem")).unwrap();
    let (done, said) = step("--wait 1s").await;
    assert!(
        !done && said.contains("A does not trust the next authority"),
        "{said}"
    );
    assert!(said.contains("B has not said"), "{said}");
    assert_eq!(
        std::fs::read_to_string(dir.join("ca.pem")).unwrap(),
        trusted
    );
    // What has come just now is waited for.
    (a.ca, b.ca) = (trusted.clone(), trusted);
    report(&agent, &status, &a).await;
    let late = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        report(&other, &status_b, &b).await;
    };
    let ((done, said), ()) = tokio::join!(step("--wait 60s"), late);
    assert!(done, "{said}");
    // Neither has a certificate of the next authority; one is revoked, the other left behind.
    revoke(&pki, &controller, "B", false).await.unwrap();
    let (done, said) = step("--wait 1s").await;
    assert!(
        !done && said.contains("A has a certificate of the old"),
        "{said}"
    );
    assert!(!said.contains("  B "), "{said}");
    let (done, said) = step("--force").await;
    assert!(done && said.contains("3 of 3"), "{said}");
    // And without a controller only by force.
    assert!(step("").await.0);
    controller.stop().await;
    let (done, said) = step("").await;
    assert!(!done && said.contains("--force"), "{said}");
}

/// Hundreds that connect and say nothing, or half of something, with a certificate and without.
#[tokio::test]
async fn who_opens_connections_and_waits_stops_nobody() {
    use tokio::io::AsyncWriteExt;
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    let address = controller.url.trim_start_matches("https://").to_owned();
    let mut mute = Vec::new();
    for n in 0..400 {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        if n % 2 == 0 {
            // The beginning of a handshake.
            stream.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
        }
        mute.push(stream);
    }
    // Handshakes without a certificate: more than there are places.
    let connector = stranger(&pki);
    let name = routemesh_proto::CONTROLLER_NAME;
    let mut strangers = Vec::new();
    for _ in 0..300 {
        let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let stream = connector.connect(name.try_into().unwrap(), stream).await;
        strangers.push(stream.unwrap());
    }
    // One that has a certificate, too often.
    let gateway = pki.gateway("B");
    let mut agents = Vec::new();
    for _ in 0..40 {
        agents.push(
            Agent::attach(&gateway, &controller.url, None)
                .await
                .unwrap(),
        );
    }
    let began = std::time::Instant::now();
    controller.apply(&pki, TWO_SITES).await.unwrap();
    let mut a = Agent::attach(&pki.gateway("A"), &controller.url, None)
        .await
        .unwrap();
    a.config().await;
    let token = token(&pki, &controller, "gateway", "A", 60).await.unwrap();
    enroll(&token, KeyKind::Ed25519).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    // Whoever has had a place longest has lost it.
    let mut first = strangers.swap_remove(0);
    let mut byte = [0; 64];
    let closed = async {
        use tokio::io::AsyncReadExt;
        while first.read(&mut byte).await.is_ok_and(|read| read > 0) {}
    };
    timeout(Duration::from_secs(5), closed)
        .await
        .expect("closed");
    drop((mute, strangers, agents));
    controller.stop().await;
}

/// Trusts the controller, and shows nothing of itself.
fn stranger(pki: &Pki) -> tokio_rustls::TlsConnector {
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};
    let mut roots = RootCertStore::empty();
    let ca = pki.gateway("A").ca;
    roots
        .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols.push(b"h2".to_vec());
    Arc::new(config).into()
}
