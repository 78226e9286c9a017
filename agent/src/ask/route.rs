//! Where packets go, for people who ask.

use super::{Desk, Error, Reply, learnt, ping::address};
use crate::config::Config;
use crate::control::InForce;
use crate::kernel::{Flow, Hop, Kernel, Match};
use crate::state::{Side, ours};
use nix::errno::Errno;
use nix::libc;
use routemesh_proto::{self as proto, answer, route_protocol_name};
use std::net::IpAddr;

pub(super) async fn answer(
    desk: &Desk,
    asked: proto::AskLookup,
    reply: &Reply,
) -> Result<(), Error> {
    let InForce { config, raw } = desk.in_force()?;
    let kernel = Kernel::open(&config.overlay)?;
    let source = match asked.source.as_str() {
        "" => None,
        text => Some(address(text)?),
    };
    let flow = Flow {
        target: address(&asked.target)?,
        source,
        from: None,
        ports: ports(&asked)?,
    };
    let bgp = desk.bgp.borrow().clone();
    let known = match bgp {
        Some(bgp) => bgp.known(flow.target).await,
        None => Vec::new(),
    };
    let mut found = look_up(&config, &kernel, flow).await;
    found.learnt = learnt::learnt(&config, &raw, &known);
    reply.send(answer::Piece::Lookup(found)).await;
    Ok(())
}

fn ports(asked: &proto::AskLookup) -> Result<Option<(u8, u16, u16)>, Error> {
    let protocol = match asked.protocol.as_str() {
        "" => return Ok(None),
        "tcp" => 6,
        "udp" => 17,
        other => other
            .parse()
            .map_err(|_| Error::Protocol(other.to_owned()))?,
    };
    let port = |port| u16::try_from(port).unwrap_or(u16::MAX);
    Ok(Some((
        protocol,
        port(asked.source_port),
        port(asked.target_port),
    )))
}

/// The overlay's way to an address.
pub(super) async fn look_up(config: &Config, kernel: &Kernel, flow: Flow) -> proto::Lookup {
    let target = flow.target.to_string();
    match kernel.look_up(Side::Overlay, flow).await {
        Ok(way) => {
            let route = way.route.map(|route| of_route(config, route));
            let mut lookup = route.unwrap_or_default();
            lookup.target = target;
            match way.taken {
                Ok((hop, source)) => {
                    lookup.taken = Some(of_hop(config, hop));
                    lookup.source = source.map(|it: IpAddr| it.to_string()).unwrap_or_default();
                }
                Err(errno) if lookup.kind.is_empty() || lookup.kind == "unicast" => {
                    refused(errno).clone_into(&mut lookup.kind);
                }
                Err(_) => {}
            }
            lookup
        }
        Err(error) => proto::Lookup {
            target,
            problem: error.to_string(),
            ..proto::Lookup::default()
        },
    }
}

/// The kind of route that refuses in this way.
fn refused(errno: Errno) -> &'static str {
    match errno {
        Errno::EHOSTUNREACH => "unreachable",
        Errno::EINVAL => "blackhole",
        Errno::EACCES => "prohibit",
        _ => "none",
    }
}

fn of_route(config: &Config, route: Match) -> proto::Lookup {
    let kind = match route.kind {
        libc::RTN_UNICAST => "unicast",
        libc::RTN_LOCAL => "local",
        libc::RTN_BLACKHOLE => "blackhole",
        libc::RTN_UNREACHABLE => "unreachable",
        libc::RTN_PROHIBIT => "prohibit",
        _ => "other",
    };
    let protocol = match route.protocol {
        ours::PROTOCOL => "routemesh".to_owned(),
        other => route_protocol_name(other),
    };
    let hops = route.hops.into_iter().map(|hop| of_hop(config, hop));
    proto::Lookup {
        prefix: route.prefix.to_string(),
        kind: kind.to_owned(),
        protocol,
        table: route.table,
        metric: route.metric,
        group: route.nexthop.map_or(0, |id| id.0),
        hops: hops.collect(),
        ..proto::Lookup::default()
    }
}

fn of_hop(config: &Config, hop: Hop) -> proto::Hop {
    let number = hop.link.strip_prefix(ours::LINK_PREFIX);
    let number = number.and_then(|number| number.parse().ok());
    let tunnel = number.and_then(|number: u32| config.tunnels.get(&number));
    proto::Hop {
        interface: hop.link,
        address: hop.gateway.map(|it| it.to_string()).unwrap_or_default(),
        weight: hop.weight.into(),
        tunnel: tunnel.map(|it| it.number),
        peer: tunnel.map(|it| it.peer.clone()).unwrap_or_default(),
    }
}
