//! What is reported: observed state in the words of routemesh.proto. Pure.

use crate::bgp::View;
use crate::charon::installed;
use crate::config::{Config, Tunnel, Whereabouts};
use crate::firewall::{Count, Counter, Reason};
use crate::liveness::Life;
use crate::repairs::Repairs;
use crate::state::{Nexthop, NexthopId, State};
use crate::vici::{IkeSa, IkeState};
use crate::wireguard::{Handshakes, is_fresh};
use ipnet::IpNet;
use routemesh_bfd::Diagnostic;
use routemesh_bgp::wire::Action;
use routemesh_proto as proto;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Everything a report is made of.
pub struct Facts<'a> {
    /// The config in force.
    pub config: &'a Config,
    /// The kernel as the pass found it.
    pub state: &'a State,
    /// Interfaces that can carry packets.
    pub usable: &'a BTreeSet<String>,
    /// When WireGuard interfaces last agreed on keys.
    pub handshakes: &'a Handshakes,
    /// charon's SAs; `None` where it does not answer.
    pub sas: Option<&'a [IkeSa]>,
    /// Why connections have none, as far as charon knows.
    pub refusals: &'a BTreeMap<String, String>,
    /// BGP's view.
    pub view: &'a View,
    /// The prefixes that begin here.
    pub originated: &'a BTreeSet<IpNet>,
    /// Packets that the mesh does not allow.
    pub invalid: &'a BTreeMap<Counter, Count>,
    /// What somebody else undid, and was done again.
    pub repairs: Repairs,
    /// What could not be done.
    pub problems: Vec<proto::Problem>,
    /// Time since the speaker's start, as in its `since`.
    pub now: Duration,
}

/// How many prefixes one report lists as announced, and how many as routes: there may be a million.
const LISTED: usize = 1_000;

/// The report.
pub fn status(facts: Facts) -> proto::Status {
    let rejected = facts.view.rejected.iter();
    let (announced, announced_total) = announced(&facts);
    let (routes, routes_total) = routes(&facts);
    proto::Status {
        generation: facts.config.generation,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tunnels: facts
            .config
            .tunnels
            .values()
            .map(|t| tunnel(&facts, t))
            .collect(),
        routers: routers(&facts)
            .into_iter()
            .map(|name| router(&facts, name))
            .collect(),
        announced,
        routes,
        rejected: rejected
            .map(|(peer, prefix, reason)| proto::Rejected {
                peer: peer.clone(),
                prefix: prefix.to_string(),
                reason: reason.clone(),
            })
            .collect(),
        announced_total,
        routes_total,
        rejected_total: facts.view.peers.values().map(|it| it.rejected as u64).sum(),
        invalid: invalid(&facts, [Counter::Stranger]),
        repairs: repairs(facts.repairs),
        problems: facts.problems,
        // The host's, which the daemon adds.
        findings: Vec::new(),
        certificate: None,
        drain: facts.config.drain,
    }
}

fn tunnel(facts: &Facts, tunnel: &Tunnel) -> proto::TunnelStatus {
    let link = tunnel.link();
    let observed = facts.state.links.get(&link);
    let interface = match observed {
        None => "missing",
        Some(_) if facts.usable.contains(&link) => "up",
        Some(_) => "down",
    };
    let handshake = facts.handshakes.get(&link).copied();
    let ike = match &tunnel.wireguard {
        None => ike(facts, tunnel),
        Some(it) if it.peer.is_none() => "no key",
        Some(_) if is_fresh(handshake) => "up",
        Some(_) => "no handshake",
    };
    let of_link = |reason| Counter::Tunnel(link.clone(), reason);
    proto::TunnelStatus {
        number: tunnel.number,
        peer: tunnel.peer.clone(),
        ike: ike.to_owned(),
        ike_reason: ike_reason(facts, tunnel, ike),
        interface: interface.to_owned(),
        bgp: tunnel.has_bgp().then(|| bgp(facts, &tunnel.name())),
        bfd: bfd(facts, &tunnel.name()),
        liveness: Some(liveness(facts, &tunnel.name())),
        mtu: observed.map_or(0, |link| link.mtu),
        handshake: handshake.map(|age| age.as_secs()),
        invalid: invalid(facts, Reason::ALL.map(of_link)),
    }
}

fn repairs(repairs: Repairs) -> Vec<proto::Repair> {
    let some = repairs.each().into_iter().filter(|(_, count)| *count > 0);
    some.map(|(object, count)| proto::Repair {
        object: object.to_owned(),
        count,
    })
    .collect()
}

/// Of these counters, those that have counted.
fn invalid(facts: &Facts, counters: impl IntoIterator<Item = Counter>) -> Vec<proto::Invalid> {
    let tell = |counter: Counter| {
        let count = facts.invalid.get(&counter)?;
        (count.packets > 0).then(|| proto::Invalid {
            reason: counter.text().to_owned(),
            packets: count.packets,
        })
    };
    counters.into_iter().filter_map(tell).collect()
}

fn ike(facts: &Facts, tunnel: &Tunnel) -> &'static str {
    let Some(sas) = facts.sas else {
        return "charon unreachable";
    };
    let name = tunnel.connection();
    let mine = || sas.iter().filter(|sa| sa.connection == name);
    let reached = facts.config.statics(tunnel);
    let installed = || mine().flat_map(|sa| installed(sa, tunnel));
    if installed().any(|child| child.takes(reached.iter())) {
        "up"
    } else if installed().next().is_some() {
        "narrowed"
    } else if mine().any(|sa| sa.state != IkeState::Closing) {
        "connecting"
    } else {
        "down"
    }
}

/// Why it is not up.
fn ike_reason(facts: &Facts, tunnel: &Tunnel, ike: &str) -> String {
    match ike {
        "up" | "charon unreachable" => String::new(),
        "narrowed" => "the far end has agreed to a part of its prefixes only".to_owned(),
        _ => facts
            .refusals
            .get(&tunnel.connection())
            .cloned()
            .unwrap_or_default(),
    }
}

/// Who is a peer on the LAN, and who should be.
fn routers(facts: &Facts) -> BTreeSet<String> {
    let tunnels: BTreeSet<String> = facts.config.tunnels.values().map(Tunnel::name).collect();
    let peers = facts.view.peers.keys();
    let peers = peers.filter(|name| !tunnels.contains(*name)).cloned();
    let mut routers: BTreeSet<String> = peers.collect();
    for router in &facts.config.routers {
        // A range of which nobody has come is nothing to report.
        if matches!(
            router.whereabouts,
            Whereabouts::Address(_) | Whereabouts::LinkLocal(..)
        ) {
            routers.insert(router.name());
        }
    }
    routers
}

fn router(facts: &Facts, address: String) -> proto::RouterStatus {
    proto::RouterStatus {
        bgp: Some(bgp(facts, &address)),
        bfd: bfd(facts, &address),
        liveness: Some(liveness(facts, &address)),
        address,
    }
}

fn bgp(facts: &Facts, peer: &str) -> proto::BgpStatus {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    match facts.view.peers.get(peer) {
        Some(it) => proto::BgpStatus {
            state: format!("{:?}", it.state),
            seconds: facts.now.saturating_sub(it.since).as_secs(),
            received: count(it.received),
            accepted: count(it.accepted),
            rejected: count(it.rejected),
            advertised: count(it.advertised),
            last_error: it.last_error.clone().unwrap_or_default(),
            max_prefixes: count(it.max_prefixes),
            sessions: it.counts.established,
            messages_received: it.counts.messages_received,
            messages_sent: it.counts.messages_sent,
            faults: it.counts.faults.iter().map(fault).collect(),
            last_notification: it
                .last_notification
                .as_ref()
                .map_or(String::new(), ToString::to_string),
        },
        None => proto::BgpStatus {
            state: "Idle".to_owned(),
            last_error: "its address is on no subnet of this gateway".to_owned(),
            ..proto::BgpStatus::default()
        },
    }
}

fn bfd(facts: &Facts, peer: &str) -> Option<proto::BfdStatus> {
    let report = facts.view.bfd.get(&peer.into())?;
    let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let never = report.diagnostic == Diagnostic::NONE;
    Some(proto::BfdStatus {
        state: report.state.to_string(),
        remote_state: report.remote_state.to_string(),
        seconds: facts.now.saturating_sub(report.since).as_secs(),
        interval: millis(report.negotiated.interval),
        detection_time: millis(report.negotiated.detection_time),
        diagnostic: if never {
            String::new()
        } else {
            report.diagnostic.to_string()
        },
        downs: report.downs,
        problem: report.problem.clone().unwrap_or_default(),
    })
}

fn liveness(facts: &Facts, peer: &str) -> proto::LivenessStatus {
    let standing = facts.view.standings.get(&peer.into());
    let (state, held) = match standing.map(|standing| standing.state) {
        None | Some(Life::Alive) => ("alive", Duration::ZERO),
        Some(Life::Dead) => ("dead", Duration::ZERO),
        Some(Life::Held(until)) => ("held", until.saturating_sub(facts.now)),
    };
    proto::LivenessStatus {
        state: state.to_owned(),
        reason: standing.map_or(String::new(), |standing| standing.reason.clone()),
        held: u64::try_from(held.as_millis().div_ceil(1000)).unwrap_or(u64::MAX),
        deaths: standing.map_or(0, |standing| standing.deaths),
    }
}

fn fault(((attribute, action), count): (&(u8, Action), &u64)) -> proto::Fault {
    let action = match action {
        Action::Discard => "attribute discard",
        Action::TreatAsWithdraw => "treat as withdraw",
        Action::SessionReset => "session reset",
    };
    proto::Fault {
        attribute: (*attribute).into(),
        action: action.to_owned(),
        count: *count,
    }
}

/// What goes to the other gateways: what begins here, and what the LAN's routers gave.
fn announced(facts: &Facts) -> (Vec<String>, u64) {
    let config = facts.config;
    let behind = config.tunnels.values().flat_map(|it| &it.behind_here);
    let behind: BTreeSet<&String> = behind.collect();
    let behind = behind.into_iter().flat_map(|it| config.prefixes_of(it));
    let owned: Vec<&IpNet> = config.owned().iter().chain(behind).collect();
    let learnt = facts.state.routes.iter().map(|(prefix, _)| prefix);
    let learnt = learnt.filter(|prefix| owned.iter().any(|own| own.contains(prefix)));
    let (listed, total) = first(learnt.chain(facts.originated.iter().copied()));
    (listed.iter().map(ToString::to_string).collect(), total)
}

fn routes(facts: &Facts) -> (Vec<proto::Route>, u64) {
    let peers: BTreeMap<String, &str> = facts
        .config
        .tunnels
        .values()
        .map(|t| (t.link(), t.peer.as_str()))
        .collect();
    let path = |(nexthop, weight): (&Nexthop, u16)| proto::Path {
        via: match peers.get(&nexthop.link) {
            Some(peer) => (*peer).to_owned(),
            None => nexthop.gateway.to_string(),
        },
        interface: nexthop.link.clone(),
        address: nexthop.gateway.to_string(),
        weight: weight.into(),
    };
    let members = |group| {
        let group = facts.state.groups.get(&group).into_iter();
        let members = group.flat_map(|group| &group.members);
        members.filter_map(|m| Some((facts.state.nexthops.get(&m.id)?, m.weight)))
    };
    let route = |(prefix, group): (IpNet, NexthopId)| proto::Route {
        prefix: prefix.to_string(),
        paths: members(group).map(path).collect(),
    };
    let (listed, total) = first(facts.state.routes.iter());
    (listed.into_iter().map(route).collect(), total)
}

/// The first in order, as many as a report lists, and how many there are in all.
fn first<T: Ord>(all: impl Iterator<Item = T>) -> (BTreeSet<T>, u64) {
    let (mut first, mut total) = (BTreeSet::new(), 0);
    for one in all {
        total += 1;
        if first.len() < LISTED || first.last().is_some_and(|last| one < *last) {
            first.insert(one);
        }
        if first.len() > LISTED {
            first.pop_last();
        }
    }
    (first, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let most = u64::try_from(LISTED).unwrap();
        let (listed, total) = first((0..most + 5).rev());
        assert!(listed.into_iter().eq(0..most));
        assert_eq!(total, most + 5);
        let (listed, total) = first([3, 1, 2].into_iter());
        assert!(listed.into_iter().eq([1, 2, 3]));
        assert_eq!(total, 3);
    }
}
