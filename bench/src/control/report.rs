//! What a gateway of a mesh that is well reports.

use prost::Message;
use prost::bytes::Bytes;
use routemesh_proto::{
    AgentMessage, BfdStatus, BgpStatus, Config, LivenessStatus, Path, Route, Status, StatusChange,
    Tunnel, TunnelStatus, agent_message,
};

/// Everything: all tunnels are up, and every prefix of every other site is reached through its gateways.
pub fn whole(config: &Config) -> Status {
    let mut ways: std::collections::BTreeMap<&str, Vec<&Tunnel>> = Default::default();
    for tunnel in &config.tunnels {
        ways.entry(&tunnel.peer_site).or_default().push(tunnel);
    }
    let others = config.sites.iter().filter(|it| it.name != config.site);
    let routes = others.flat_map(|site| {
        let ways = ways.get(site.name.as_str()).cloned().unwrap_or_default();
        let paths: Vec<Path> = ways.into_iter().map(path).collect();
        site.prefixes.iter().map(move |prefix| Route {
            prefix: prefix.clone(),
            paths: paths.clone(),
        })
    });
    let own = config.sites.iter().filter(|it| it.name == config.site);
    let announced: Vec<String> = own.flat_map(|it| it.prefixes.clone()).collect();
    let routes: Vec<Route> = routes.collect();
    Status {
        generation: config.generation,
        version: "bench".to_owned(),
        tunnels: config.tunnels.iter().map(tunnel).collect(),
        announced_total: announced.len() as u64,
        announced,
        routes_total: routes.len() as u64,
        // As many as an agent lists.
        routes: routes.into_iter().take(1_000).collect(),
        ..Status::default()
    }
}

fn path(tunnel: &Tunnel) -> Path {
    Path {
        via: tunnel.peer.clone(),
        interface: format!("rm{}", tunnel.number),
        address: tunnel.remote_address.clone(),
        weight: 1,
    }
}

fn tunnel(tunnel: &Tunnel) -> TunnelStatus {
    up(tunnel.number, &tunnel.peer, 0)
}

fn up(number: u32, peer: &str, round: usize) -> TunnelStatus {
    let count = u64::from(number);
    let round = round as u64;
    TunnelStatus {
        number,
        peer: peer.to_owned(),
        ike: "up".to_owned(),
        interface: "up".to_owned(),
        bgp: Some(BgpStatus {
            state: "Established".to_owned(),
            seconds: 86_400 + count % 1_000 + round,
            received: 2,
            accepted: 2,
            advertised: 2,
            max_prefixes: 100_000,
            sessions: 1 + count % 3,
            messages_received: 28_800 + count % 977,
            messages_sent: 28_800 + count % 983,
            ..BgpStatus::default()
        }),
        bfd: Some(BfdStatus {
            state: "Up".to_owned(),
            remote_state: "Up".to_owned(),
            seconds: 86_400 + count % 1_000 + round,
            interval: 300,
            detection_time: 900,
            downs: count % 3,
            ..BfdStatus::default()
        }),
        liveness: Some(LivenessStatus {
            state: if round.is_multiple_of(2) {
                "alive"
            } else {
                "dead"
            }
            .to_owned(),
            ..LivenessStatus::default()
        }),
        mtu: 1400,
        ..TunnelStatus::default()
    }
}

/// A tunnel has changed.
pub fn change(number: u32, peer: &str, round: usize) -> Bytes {
    let change = StatusChange {
        tunnels: vec![up(number, peer, round)],
        ..StatusChange::default()
    };
    let message = AgentMessage {
        message: Some(agent_message::Message::Change(change)),
    };
    message.encode_to_vec().into()
}
