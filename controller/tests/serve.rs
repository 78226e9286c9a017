//! The real server over real TLS, and agents and operators that speak the real protocol.

#![allow(clippy::unwrap_used)]

use routemesh_controller::ca::Role;
use routemesh_proto::operators_client::OperatorsClient;
use routemesh_proto::{
    ApplyRequest, Config, DrainRequest, GetRoutesRequest, GetTopologyRequest, Identity, PublicKey,
};
use std::sync::Arc;
use tonic::Code;

mod common;

use common::{Agent, Controller, Pki, TWO_SITES, all_up, eventually, three_sites};

#[tokio::test]
async fn a_gateway_gets_its_config_and_then_what_changes() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    let mut a = Agent::attach(&pki.gateway("A"), &controller.url, None)
        .await
        .unwrap();
    // No mesh, no config.
    a.hears_nothing().await;
    let reply = controller.apply(&pki, TWO_SITES).await.unwrap();
    assert_eq!((reply.generation, reply.gateways, reply.tunnels), (1, 2, 1));
    let config = a.config().await;
    assert_eq!((config.gateway.as_str(), config.tunnels.len()), ("A", 1));
    // The same text again is nothing new.
    assert!(controller.apply(&pki, TWO_SITES).await.unwrap().unchanged);
    a.hears_nothing().await;
    // A gateway more: one tunnel more, and the site that it belongs to.
    controller.apply(&pki, &three_sites()).await.unwrap();
    let change = a.change().await;
    assert_eq!((change.from, change.generation), (1, 2));
    assert_eq!((change.tunnels.len(), change.removed.len()), (1, 0));
    let sites: Vec<&str> = change.sites.iter().map(|it| it.name.as_str()).collect();
    assert_eq!((change.header, sites), (None, vec!["three"]));
    // What concerns only others still tells the generation.
    let text = three_sites().replace("overlay = \"private\"", "overlay = \"inside\"");
    let mut b = Agent::attach(&pki.gateway("B"), &controller.url, None)
        .await
        .unwrap();
    b.config().await;
    controller.apply(&pki, &text).await.unwrap();
    let change = b.change().await;
    assert_eq!((change.generation, change.tunnels.len()), (3, 0));
    assert_eq!(change.header, None);
    assert_eq!(a.change().await.header.unwrap().overlay, "inside");
    controller.stop().await;
}

#[tokio::test]
async fn a_key_is_passed_to_the_far_end_and_kept() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    let spec = TWO_SITES.replacen("[mesh]", "[mesh]\ntunnel = \"wireguard\"", 1);
    controller.apply(&pki, &spec).await.unwrap();
    let [first, second] = [7, 8].map(|byte| PublicKey::from([byte; 32]).to_string());
    let far_key = |config: &Config| {
        let wireguard = config.tunnels[0].wireguard.as_ref();
        wireguard.unwrap().public_key.clone()
    };
    let of_a = async |url: &str, key: &str| {
        let attached = Agent::attach_with_key(&pki.gateway("A"), url, None, key).await;
        let mut a = attached.unwrap();
        a.config().await;
        a
    };
    let a = of_a(&controller.url, "no key").await;
    let mut b = Agent::attach(&pki.gateway("B"), &controller.url, None)
        .await
        .unwrap();
    let config = b.config().await;
    assert_eq!(far_key(&config), "");
    drop(a);
    let a = of_a(&controller.url, &first).await;
    let change = b.change().await;
    assert_eq!(
        (change.from, change.generation, change.tunnels.len()),
        (1, 1, 1)
    );
    assert_eq!(far_key(b.has.as_ref().unwrap()), first);
    // The same once more is nothing new.
    drop(a);
    let a = of_a(&controller.url, &first).await;
    b.hears_nothing().await;
    drop((a, b));
    controller.stop().await;

    // As far as agents are concerned, nothing happened.
    let controller = Controller::start(&pki.controller()).await;
    let mut b = Agent::attach(&pki.gateway("B"), &controller.url, None)
        .await
        .unwrap();
    assert_eq!(far_key(&b.config().await), first);
    let _a = of_a(&controller.url, &second).await;
    b.change().await;
    assert_eq!(far_key(b.has.as_ref().unwrap()), second);
    controller.stop().await;
}

#[tokio::test]
async fn whoever_is_current_gets_nothing() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    let identity = pki.gateway("A");
    let mut a = Agent::attach(&identity, &controller.url, None)
        .await
        .unwrap();
    let config = a.config().await;
    drop(a);
    let has = Some(config.clone());
    let mut a = Agent::attach(&identity, &controller.url, has)
        .await
        .unwrap();
    a.hears_nothing().await;
    // The next change still starts from what it has.
    controller.apply(&pki, &three_sites()).await.unwrap();
    a.change().await;
    drop(a);
    // One that was away is told what it lacks.
    let has = Some(config.clone());
    let mut a = Agent::attach(&identity, &controller.url, has)
        .await
        .unwrap();
    let change = a.change().await;
    assert_eq!((change.from, change.generation), (1, 2));
    let peers = change.tunnels.iter().map(|it| it.peer.as_str());
    assert!(peers.eq(["C"]));
    drop(a);
    // What only looks alike is replaced whole.
    let other = Config {
        overlay: "elsewhere".to_owned(),
        ..config
    };
    let mut a = Agent::attach(&identity, &controller.url, Some(other))
        .await
        .unwrap();
    assert_eq!(a.config().await.generation, 2);
    controller.stop().await;
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, &three_sites()).await.unwrap();
    // B leaves: ids of A and C must stay what they are.
    let without_b = three_sites()
        .replace("gateways.B", "gateways.D")
        .replace("::b", "::d");
    controller.apply(&pki, &without_b).await.unwrap();
    let mut agents = Vec::new();
    for name in ["A", "C", "D"] {
        let mut agent = Agent::attach(&pki.gateway(name), &controller.url, None)
            .await
            .unwrap();
        let config = agent.config().await;
        agent.report(all_up(&config)).await;
        agents.push(agent);
    }
    let up = async |controller: &Controller| {
        let edges = controller.topology(&pki).await.edges;
        edges.len() == 3 && edges.iter().all(|edge| edge.verdict == "up")
    };
    eventually(async || up(&controller).await).await;
    let before = controller.topology(&pki).await;
    controller.stop().await;
    // Agents are told nothing: their streams end, that is all.
    let end = agents[0].next().await;
    assert!(
        matches!(&end, Err(status) if status.code() == Code::Unavailable),
        "{end:?}"
    );

    let controller = Controller::start(&pki.controller()).await;
    let after = controller.topology(&pki).await;
    assert!(up(&controller).await);
    assert_eq!(
        (before.generation, before.edges),
        (after.generation, after.edges)
    );
    let routes = GetRoutesRequest {
        gateway: "A".to_owned(),
    };
    let routes = controller.operators(&pki).get_routes(routes).await.unwrap();
    assert_eq!(routes.into_inner().routes[0].prefix, "10.0.9.0/24");
    let has = agents.remove(0).has;
    let mut a = Agent::attach(&pki.gateway("A"), &controller.url, has)
        .await
        .unwrap();
    a.hears_nothing().await;
    assert!(controller.apply(&pki, &without_b).await.unwrap().unchanged);
    // B comes back to the numbers that it had.
    let reply = controller.apply(&pki, &three_sites()).await.unwrap();
    assert_eq!(reply.generation, 3);
    let change = a.change().await;
    assert_eq!(
        (change.tunnels[0].peer.as_str(), change.tunnels[0].number),
        ("B", 0)
    );
    controller.stop().await;
}

#[tokio::test]
async fn what_is_drained_stays_so_until_somebody_undrains_it_or_it_is_gone() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, &three_sites()).await.unwrap();
    let mut a = Agent::attach(&pki.gateway("A"), &controller.url, None)
        .await
        .unwrap();
    let config = a.config().await;
    assert!(!config.drain && config.tunnels.iter().all(|tunnel| !tunnel.drain));
    let drain = async |controller: &Controller, gateway: &str, peer: &str, undo| {
        let request = DrainRequest {
            gateway: gateway.to_owned(),
            peer: peer.to_owned(),
            undo,
        };
        let reply = controller.operators(&pki).drain(request).await;
        reply.map(tonic::Response::into_inner)
    };
    let reply = drain(&controller, "A", "", false).await.unwrap();
    assert_eq!((reply.generation, reply.unchanged), (2, false));
    assert!(a.change().await.header.unwrap().drain);
    let reply = drain(&controller, "A", "", false).await.unwrap();
    assert_eq!((reply.generation, reply.unchanged), (2, true));
    // Whichever end is named first.
    drain(&controller, "C", "A", false).await.unwrap();
    let change = a.change().await;
    let drained: Vec<_> = change.tunnels.iter().map(|t| (&*t.peer, t.drain)).collect();
    assert_eq!(drained, [("C", true)]);
    for (gateway, peer) in [("X", ""), ("A", "X"), ("A", "A")] {
        let refused = drain(&controller, gateway, peer, false).await.unwrap_err();
        assert_eq!(
            refused.code(),
            Code::NotFound,
            "{gateway} {peer}: {refused}"
        );
    }

    // A restart forgets nothing, nor does another specification; without C there is no tunnel to it.
    controller.stop().await;
    let controller = Controller::start(&pki.controller()).await;
    assert_eq!(controller.topology(&pki).await.generation, 3);
    controller.apply(&pki, TWO_SITES).await.unwrap();
    controller.apply(&pki, &three_sites()).await.unwrap();
    let mut a = Agent::attach(&pki.gateway("A"), &controller.url, None)
        .await
        .unwrap();
    let config = a.config().await;
    assert!(config.drain && config.tunnels.iter().all(|tunnel| !tunnel.drain));
    let view = controller.topology(&pki).await;
    assert_eq!(view.gateways[0].drain, "draining");
    drain(&controller, "A", "", true).await.unwrap();
    assert!(!a.change().await.header.unwrap().drain);

    // A foreign peer is no gateway, but the tunnels to it can be drained by who holds them.
    let foreign = "\n[sites.four]\nprefixes = [\"10.0.4.0/24\"]\ngateways.D.endpoints = [\"2001:db8::4\"]\n\
                   [foreign.cloud]\nprefixes = [\"10.9.0.0/16\"]\n[[foreign.cloud.tunnels]]\n\
                   gateway = \"D\"\nremote = \"2001:db8::99\"\npsk = \"long enough for a key\"\n";
    let spec = format!("{TWO_SITES}{foreign}");
    controller.apply(&pki, &spec).await.unwrap();
    for (gateway, peer) in [("cloud", ""), ("A", "cloud"), ("cloud", "D")] {
        let refused = drain(&controller, gateway, peer, false).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{gateway} {peer}");
    }
    drain(&controller, "D", "cloud", false).await.unwrap();
    let edges = controller.topology(&pki).await.edges;
    let drained = edges.iter().filter(|it| !it.drain.is_empty());
    let drained: Vec<_> = drained.flat_map(|it| it.b.clone()).collect();
    assert_eq!(drained.len(), 1);
    assert_eq!(drained[0].gateway, "cloud");
    controller.stop().await;
}

#[tokio::test]
async fn who_leaves_the_mesh_takes_its_tunnels_down() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, &three_sites()).await.unwrap();
    let mut c = Agent::attach(&pki.gateway("C"), &controller.url, None)
        .await
        .unwrap();
    c.config().await;
    let mut a = Agent::attach(&pki.gateway("A"), &controller.url, None)
        .await
        .unwrap();
    a.config().await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    assert_eq!(c.change().await.removed.len(), 2);
    assert_eq!(a.change().await.removed.len(), 1);
    drop(c);
    // One that was away learns it when it comes back, also from another controller process.
    controller.stop().await;
    let controller = Controller::start(&pki.controller()).await;
    let mut c = Agent::attach(&pki.gateway("C"), &controller.url, None)
        .await
        .unwrap();
    let idle = c.config().await;
    assert!(idle.tunnels.is_empty() && idle.sites.is_empty());
    assert_eq!((idle.gateway.as_str(), idle.generation), ("C", 2));
    // One that never was in it is left alone.
    let mut x = Agent::attach(&pki.gateway("X"), &controller.url, None)
        .await
        .unwrap();
    x.hears_nothing().await;
    controller.stop().await;
}

#[tokio::test]
async fn a_second_stream_of_a_gateway_replaces_the_first() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    let mut first = Agent::attach(&pki.gateway("A"), &controller.url, None)
        .await
        .unwrap();
    first.config().await;
    let mut second = Agent::attach(&pki.gateway("A"), &controller.url, None)
        .await
        .unwrap();
    second.config().await;
    let end = first.next().await;
    assert!(
        matches!(&end, Err(status) if status.code() == Code::Aborted),
        "{end:?}"
    );
    controller.apply(&pki, &three_sites()).await.unwrap();
    second.change().await;
    controller.stop().await;
}

#[tokio::test]
async fn one_that_does_not_listen_delays_nobody_and_gets_the_latest() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    let mut deaf = Agent::attach(&pki.gateway("B"), &controller.url, None)
        .await
        .unwrap();
    let mut a = Agent::attach(&pki.gateway("A"), &controller.url, None)
        .await
        .unwrap();
    for round in 0..20 {
        let overlay = format!("overlay = \"o{round}\"");
        let text = TWO_SITES.replace("overlay = \"private\"", &overlay);
        controller.apply(&pki, &text).await.unwrap();
        if round == 0 {
            a.config().await;
        } else {
            a.change().await;
        }
    }
    assert_eq!(a.has.unwrap().overlay, "o19");
    deaf.config().await;
    while deaf.has.as_ref().unwrap().generation < 20 {
        deaf.change().await;
    }
    controller.stop().await;
}

#[tokio::test]
async fn bad_specifications_change_nothing() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    let bad = TWO_SITES
        .replace("10.0.2.0/24", "10.0.1.0/24")
        .replace("overlay", "overlai");
    let error = controller.apply(&pki, &bad).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(
        error.message(),
        "mesh.toml:9:1: \"overlai\" is not a key of gateway \"A\": did you mean \"overlay\"?\n\
         mesh.toml:11:13: 10.0.1.0/24 of site two overlaps 10.0.1.0/24 of site one on line 6: a prefix belongs to one site"
    );
    // However many there are, the answer comes through.
    let many: String = (0..9_000).map(|n| format!("k{n} = \"\u{e4}\"\n")).collect();
    let error = controller.apply(&pki, &many).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().starts_with("mesh.toml:1:1: "), "{error}");
    assert!(error.message().contains("… and "), "{error}");
    assert_eq!(controller.topology(&pki).await.generation, 1);
    let far_too_long = "#".repeat(routemesh_controller::spec::LONGEST_TEXT + (1 << 20));
    assert!(controller.apply(&pki, &far_too_long).await.is_err());
    controller.stop().await;
}

#[tokio::test]
async fn the_certificate_decides_who_may_what() {
    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    // An operator is no gateway, and a gateway no operator.
    let operator = pki.identity(Role::Operator, "ann");
    let refused = Agent::attach(&operator, &controller.url, None)
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let gateway = pki.gateway("A").dial(&controller.url).unwrap();
    let mut as_operator = OperatorsClient::new(gateway);
    let request = ApplyRequest::default();
    let refused = as_operator.apply(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = as_operator
        .get_topology(GetTopologyRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = as_operator
        .get_routes(GetRoutesRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = as_operator
        .drain(DrainRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // The controller's own certificate is for serving only.
    let own = Identity::load(&pki.controller()).unwrap();
    assert!(Agent::attach(&own, &controller.url, None).await.is_err());
    // Another mesh's certificate, shown by somebody who trusts this controller's authority.
    let other = Pki::new();
    let mut stranger = other.gateway("A");
    stranger.ca = pki.gateway("A").ca;
    assert!(
        Agent::attach(&stranger, &controller.url, None)
            .await
            .is_err()
    );
    // And a client that does not trust this controller speaks to nobody.
    assert!(
        Agent::attach(&other.gateway("A"), &controller.url, None)
            .await
            .is_err()
    );
    // A client that says nothing holds up nobody.
    let address = controller.url.trim_start_matches("https://");
    let _mute: Vec<_> = {
        let mut mute = Vec::new();
        for _ in 0..20 {
            mute.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        mute
    };
    controller.apply(&pki, TWO_SITES).await.unwrap();
    controller.stop().await;
}

#[tokio::test]
async fn nothing_older_than_tls_1_3() {
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

    let pki = Pki::new();
    let controller = Controller::start(&pki.controller()).await;
    let identity = pki.gateway("A");
    let mut roots = RootCertStore::empty();
    let pem = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    roots.add(pem(&identity.ca)).unwrap();
    for (version, works) in [(&version::TLS12, false), (&version::TLS13, true)] {
        let key = PrivateKeyDer::from_pem_slice(identity.expose_key().as_bytes()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(vec![pem(&identity.certificate)], key)
            .unwrap();
        let address = controller.url.trim_start_matches("https://");
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = routemesh_proto::CONTROLLER_NAME.try_into().unwrap();
        let connected = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await;
        assert_eq!(connected.is_ok(), works, "{version:?}");
    }
    controller.stop().await;
}
