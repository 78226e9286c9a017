//! The rungs above ESP: what makes routes of a tunnel that carries packets.

use super::{End, Evidence, Found, State, of};
use ipnet::IpNet;
use routemesh_proto::{BgpStatus, Lookup};
use std::net::IpAddr;

/// Refused prefixes that are shown.
const SHOWN: usize = 5;

pub(super) fn interconnect(evidence: &Evidence) -> Found {
    let mut found = Found::default();
    let [a, b] = &evidence.ends;
    if (a.foreign || b.foreign) && a.address.is_empty() && b.address.is_empty() {
        found.note("the tunnel has no addresses within".to_owned());
        return found;
    }
    for (end, far) in evidence.sides() {
        let Some(echoes) = end.footing.and_then(|it| it.inside.as_ref()) else {
            continue;
        };
        found.note(format!(
            "{} > {}: ping {}",
            end.name,
            far.address,
            of(echoes)
        ));
        if echoes.sent == 0 || echoes.answered > 0 {
            continue;
        }
        // It may be pings only that somebody filters.
        if evidence.bgp_is_up() {
            found.is(State::Doubtful);
            continue;
        }
        let addressless = far.footing.is_none() && !far.foreign;
        let cause = match (echoes.problem.as_str(), addressless) {
            ("", true) => format!(
                "{} does not answer through the tunnel, and cannot be asked itself",
                far.name
            ),
            ("", false) => format!(
                "packets through the tunnel are not answered by {} ({}), though ESP passes",
                far.name, far.address
            ),
            (problem, _) => format!("{} cannot send through the tunnel: {problem}", end.name),
        };
        found.breaks(
            cause,
            format!("on {}, see whether a packet filter drops ICMP on the tunnel's interface (nft list ruleset), and `meshctl capture {} {}` for what comes", far.name, far.name, end.name),
        );
    }
    found.or_unknown()
}

pub(super) fn mtu(evidence: &Evidence) -> Found {
    let mut found = Found::default();
    for end in &evidence.ends {
        if let Some(mtu) = end.status.map(|it| it.mtu).filter(|mtu| *mtu > 0) {
            found.note(format!("{}: {mtu}", end.name));
        }
        let mut problems = end.problems_of(evidence.number);
        if let Some(it) = problems.find(|it| it.object.starts_with("mtu of")) {
            found.note(format!("{}: {}", end.name, it.reason));
            let (cause, cure) = it.reason.split_once(": let ").unwrap_or((&it.reason, ""));
            let cure = match cure {
                "" => String::new(),
                cure => format!("let {cure}"),
            };
            found.breaks(format!("{}: {cause}", end.name), cure);
        }
    }
    // What the agent finds by itself says how large they may be; small ones pass, or a rung below is broken.
    for (end, far) in evidence.sides() {
        let Some(whole) = end.footing.and_then(|it| it.whole.as_ref()) else {
            continue;
        };
        let (name, size) = (end.name, whole.size);
        if whole.came_back {
            found.note(format!("{name}: {size} bytes came back from {}", far.name));
            continue;
        }
        found.note(format!(
            "{name}: {size} bytes did not come back from {}",
            far.name
        ));
        // Without pings, none of any size comes back.
        if answers(end) {
            found.breaks(
                format!("small packets come back from {} to {name}, and those of {size} bytes do not", far.name),
                format!("look again in a minute, when {name} has found how large they may be; let ICMP \"packet too big\" pass between the gateways"),
            );
        }
    }
    let measured = |end: &End| {
        end.footing
            .is_some_and(|it| it.whole.is_some_and(|it| it.came_back))
    };
    // Each way is in both: there and back.
    let measured = evidence.ends.iter().any(measured);
    if found.state == State::Holds && !found.evidence.is_empty() && !measured {
        found.note("not measured: it is what is configured".to_owned());
        found.is(State::Unmeasured);
    }
    found.or_unknown()
}

/// Pings of its come back through the tunnel.
fn answers(end: &End) -> bool {
    let inside = end.footing.and_then(|it| it.inside.as_ref());
    inside.is_some_and(|it| it.answered > 0)
}

pub(super) fn bfd(evidence: &Evidence) -> Found {
    let mut found = Found::default();
    let state = |end: &End| Some(end.status?.bfd.as_ref()?.state.clone());
    for (end, far) in evidence.sides() {
        let Some(status) = end.status else {
            continue;
        };
        let name = end.name;
        if let Some(bfd) = &status.bfd {
            let mut line = format!("{name}: {}", bfd.state);
            if !bfd.diagnostic.is_empty() && bfd.state != "Up" {
                line += &format!(" ({})", bfd.diagnostic);
            }
            found.note(line);
            if !bfd.problem.is_empty() {
                found.breaks(
                    format!(
                        "{name} can send or receive no packet of BFD: {}",
                        bfd.problem
                    ),
                    format!("`meshctl logs {name}` tells more"),
                );
            } else if bfd.state == "AdminDown" {
                found.breaks(
                    format!("BFD is switched off at {name}: its agent is ending, or begins"),
                    "look again in a minute".to_owned(),
                );
            } else if bfd.state != "Up" {
                // Init: the far end is heard, and says that it hears nothing.
                let deaf = match (bfd.state.as_str(), state(far).as_deref()) {
                    ("Init", _) => Some((far.name, name)),
                    (_, Some("Init")) => Some((name, far.name)),
                    _ => None,
                };
                let cause = match deaf {
                    Some((deaf, other)) => format!(
                        "{deaf} gets no packet of BFD from {other}, though pings pass the tunnel"
                    ),
                    None => format!(
                        "{name} and {} do not get each other's packets of BFD, though pings pass the tunnel",
                        far.name
                    ),
                };
                let at = deaf.map_or(far.name, |(deaf, _)| deaf);
                found.breaks(
                    cause,
                    format!("let UDP port 3784 pass on the tunnel's interface in {at}'s own packet filter (nft list ruleset)"),
                );
            }
        }
        let Some(liveness) = &status.liveness else {
            continue;
        };
        // Without its session, what BGP says of the way is told a rung higher.
        let by_bgp = liveness.reason.starts_with("BGP") && !evidence.bgp_is_up();
        match liveness.state.as_str() {
            "dead" | "held" if by_bgp => {
                found.note(format!("{name}: {}: {}", liveness.state, liveness.reason));
            }
            "dead" => {
                found.note(format!("{name}: dead: {}", liveness.reason));
                found.breaks(
                    format!("{name} takes the way for dead: {}", liveness.reason),
                    format!("`meshctl events --gateway {name}` shows since when, `meshctl logs {name}` why"),
                );
            }
            "held" => {
                found.note(format!("{name}: held for {} s more", liveness.held));
                found.breaks(
                    format!(
                        "{name} does not trust the way yet: it went down {} times lately ({})",
                        liveness.deaths, liveness.reason
                    ),
                    format!(
                        "wait {} s; `meshctl events --gateway {name}` shows how often it goes down",
                        liveness.held
                    ),
                );
            }
            _ => {}
        }
    }
    if found.evidence.is_empty() {
        found.note("no BFD is asked for".to_owned());
    }
    found
}

pub(super) fn bgp(evidence: &Evidence) -> Found {
    let mut found = Found::default();
    for (end, far) in evidence.sides() {
        let Some(status) = end.status else {
            continue;
        };
        let name = end.name;
        let Some(bgp) = &status.bgp else {
            match far.foreign || end.foreign {
                true => found.note(format!("{name}: none, prefixes are static")),
                false => {
                    found.note(format!("{name}: not started"));
                    found.breaks(
                        format!("{name} has not started BGP over the tunnel"),
                        format!("`meshctl logs {name}` tells more"),
                    );
                }
            }
            continue;
        };
        let mut line = format!("{name}: {}", bgp.state);
        for (what, text) in [
            ("last ended", &bgp.last_error),
            ("last NOTIFICATION", &bgp.last_notification),
        ] {
            if !text.is_empty() && bgp.state != "Established" {
                line += &format!(", {what}: {text}");
            }
        }
        found.note(line);
        if bgp.state != "Established" {
            let (cause, cure) = without_session(end, far, bgp);
            found.breaks(cause, cure);
        }
    }
    found.or_unknown()
}

fn without_session(end: &End, far: &End, bgp: &BgpStatus) -> (String, String) {
    let (name, other) = (end.name, far.name);
    let said = format!("{} {}", bgp.last_error, bgp.last_notification);
    let filter = format!(
        "let TCP port 179 pass on the tunnel's interface in both hosts' own packet filters (nft list ruleset on {name} and {other}); `meshctl logs {name} --text BGP` tells more"
    );
    if said.to_lowercase().contains("bad peer as") {
        return (
            format!("the ends do not agree on {other}'s AS: {}", said.trim()),
            "let the AS of the specification be the one that the far end has".to_owned(),
        );
    }
    if said.to_lowercase().contains("maximum number of prefixes") {
        return (
            format!("more prefixes were announced than may be: {}", said.trim()),
            "raise `max_prefixes`, or let the far end announce less".to_owned(),
        );
    }
    if said.to_lowercase().contains("hold timer") {
        return (
            format!(
                "{name} and {other} do not hear each other's BGP any more, though pings pass the tunnel: the hold timer has run out"
            ),
            filter,
        );
    }
    match said.trim() {
        "" => (
            format!(
                "{name} and {other} do not come to a session of BGP, though pings pass the tunnel: TCP port 179 is dropped, or the far agent does not listen"
            ),
            filter,
        ),
        said => (format!("the session of BGP ended: {said}"), filter),
    }
}

pub(super) fn prefixes(evidence: &Evidence) -> Found {
    let mut found = Found::default();
    for (end, far) in evidence.sides() {
        let Some(bgp) = end.status.and_then(|it| it.bgp.as_ref()) else {
            continue;
        };
        let name = end.name;
        found.note(format!(
            "{name}: {} received, {} accepted, {} rejected, {} advertised",
            bgp.received, bgp.accepted, bgp.rejected, bgp.advertised
        ));
        let tunnel = format!("rm{}-{}", evidence.number, far.name);
        let refused = end.rejected.iter();
        let refused: Vec<_> = refused
            .filter(|it| it.peer == tunnel || it.peer == far.name)
            .collect();
        for it in refused.iter().take(SHOWN) {
            found.note(format!(
                "{name} rejects {} of {}: {}",
                it.prefix, far.name, it.reason
            ));
        }
        let mine = bgp.rejected > 0;
        match refused.first().filter(|_| mine) {
            // The terms of a foreign peer's import are there to reject.
            Some(_) if far.foreign => found.is(State::Doubtful),
            Some(it) => found.breaks(
                format!("{name} rejects {} of {}: {}", it.prefix, far.name, it.reason),
                format!("let {}'s site own it in the specification, or let nobody at that site announce it", far.name),
            ),
            None => {}
        }
        let announced = far.announced.map(<[String]>::len);
        if bgp.received == 0
            && let Some(announced @ 1..) = announced
        {
            found.note(format!(
                "{name} has got none of the {announced} that {} has to announce",
                far.name
            ));
            found.is(State::Doubtful);
        }
        if bgp.received == 0 && announced == Some(0) {
            found.breaks(
                format!("{} has nothing to announce: none of its site's prefixes is there", far.name),
                format!("see whether {}'s LAN is up and its routers announce what the site owns (meshctl routes {})", far.name, far.name),
            );
        }
    }
    if found.evidence.is_empty() && evidence.ends.iter().any(|end| end.foreign) {
        found.note("static".to_owned());
    }
    found.or_unknown()
}

/// What the first end does with what the second announces.
pub(super) fn routes(evidence: &Evidence) -> Found {
    let [a, b] = &evidence.ends;
    way(evidence, a, b)
}

/// And the other way round.
pub(super) fn back(evidence: &Evidence) -> Found {
    let [a, b] = &evidence.ends;
    way(evidence, b, a)
}

fn way(evidence: &Evidence, end: &End, far: &End) -> Found {
    let mut found = Found::default();
    if end.foreign {
        found.note(format!("not measured: {} cannot be asked", end.name));
        found.is(State::Unmeasured);
    }
    let Some(footing) = end.footing else {
        return found.or_unknown();
    };
    let problem = |lookup: &Lookup| {
        let object = format!("route {}", lookup.prefix);
        let known = end.problems.iter().find(|it| it.object == object);
        known
            .map(|it| format!(" ({})", it.reason))
            .unwrap_or_default()
    };
    for lookup in &footing.routes {
        let (name, target) = (end.name, &lookup.target);
        if !lookup.problem.is_empty() {
            found.note(format!("{name}: {target}: {}", lookup.problem));
            found.is(State::Unknown);
            continue;
        }
        let announced = is_announced(far, target);
        let line = format!(
            "{name}: {}{}",
            describe(lookup, evidence.number),
            problem(lookup)
        );
        found.note(line);
        let by_tunnel = lookup.hops.iter().any(|hop| hop.tunnel.is_some());
        let ours = lookup.protocol == "routemesh";
        // What the far end does not announce has no way through it, and nobody said that it should.
        if by_tunnel || announced == Some(false) {
            continue;
        }
        match (lookup.kind.as_str(), ours) {
            ("unicast" | "local", _) => found.breaks(
                format!("{name} sends {target} by a route of somebody else's, not into the mesh: {}", describe(lookup, evidence.number)),
                format!("on {name}, remove the {} route {} or give it a worse metric than the mesh's (docs/coexistence.md)", lookup.protocol, lookup.prefix),
            ),
            ("none", _) => found.breaks(
                format!("{name}'s kernel has no route to {target}, though {} announces it", far.name),
                format!("`meshctl logs {name} --level warn` tells why it is not installed"),
            ),
            // Nobody announces it to this end, or it is not taken.
            (_, true) => {
                if announced == Some(true) {
                    found.breaks(
                        format!("{name} has no way to {target}: {} announces it, and the path is not used", far.name),
                        format!("`meshctl routes {name} --rejected` and `meshctl trace {name} {target}` tell why"),
                    );
                } else {
                    found.is(State::Doubtful);
                }
            }
            // The kernel tells how it refuses, and not always by which route.
            (kind, false) if lookup.prefix.is_empty() => found.breaks(
                format!("{name} has a {kind} route of somebody else's that swallows {target}"),
                format!("on {name}, `ip route show table all type {kind}` lists it: remove it"),
            ),
            (kind, false) => found.breaks(
                format!(
                    "{name} has a {kind} route {} (protocol {}) that swallows {target}",
                    lookup.prefix, lookup.protocol
                ),
                format!("on {name}, remove it: ip route delete {kind} {}", lookup.prefix),
            ),
        }
    }
    if far.foreign && found.evidence.is_empty() {
        found.note(format!("{} cannot be asked", far.name));
    }
    found.or_unknown()
}

/// Whether an end announces what an address is in; `None` where that is not known.
fn is_announced(end: &End, target: &str) -> Option<bool> {
    let target: IpAddr = target.parse().ok()?;
    let mut announced = end
        .announced?
        .iter()
        .filter_map(|it| it.parse::<IpNet>().ok());
    Some(announced.any(|prefix| prefix.contains(&target)))
}

/// A route in a line.
pub(crate) fn describe(lookup: &Lookup, number: u32) -> String {
    let Lookup {
        target,
        prefix,
        kind,
        protocol,
        hops,
        ..
    } = lookup;
    if prefix.is_empty() {
        return format!("{target}: {kind}");
    }
    let hops: Vec<String> = hops
        .iter()
        .map(|hop| {
            let to = [hop.peer.as_str(), hop.address.as_str()];
            let to = to.into_iter().find(|it| !it.is_empty());
            let mine = if hop.tunnel == Some(number) { "*" } else { "" };
            match to {
                Some(to) => format!("{}{mine} to {to}", hop.interface),
                None => format!("{}{mine}", hop.interface),
            }
        })
        .collect();
    let hops = hops.join(", ");
    let kind = if kind == "unicast" { "" } else { kind };
    let words = [kind, &hops].into_iter().filter(|it| !it.is_empty());
    let words = words.collect::<Vec<_>>().join(" ");
    format!("{prefix} ({protocol}): {words}")
}
