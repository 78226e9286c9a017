//! The rungs up to the interface: what is there before two gateways can agree on keys.

use super::{End, Evidence, Found, State, of};

pub(super) const WAKE: &str = "see whether the host is up and mesh-agent runs there (systemctl status routemesh-agent), and whether it reaches the controller";

/// An end of ours that says nothing of now, and why.
pub(super) fn silent<'e>(evidence: &Evidence<'e>) -> Option<(&'e str, &'e str)> {
    let ours = evidence.ends.iter().filter(|end| !end.foreign);
    let mut silent = ours.filter(|end| end.status.is_none());
    let end = silent.next()?;
    Some((end.name, end.unasked.unwrap_or("its last report is old")))
}

pub(super) fn agents(evidence: &Evidence) -> Found {
    let mut found = Found::default();
    for end in evidence.ends.iter().filter(|end| !end.foreign) {
        match (end.status, end.footing, end.unasked) {
            (Some(_), Some(_), _) => found.note(format!("{} reports and answers", end.name)),
            (Some(_), None, None) => found.note(format!("{} reports", end.name)),
            (None, Some(_), _) => {
                found.note(format!(
                    "{} answers, and does not report the tunnel",
                    end.name
                ));
                found.is(State::Doubtful);
            }
            (_, None, why) => {
                let why = why.unwrap_or("no report lately");
                found.note(format!("{}: {why}", end.name));
                found.is(State::Doubtful);
            }
        }
    }
    if !evidence.ends.iter().any(End::is_heard) {
        let names = evidence.ends.iter().filter(|end| !end.foreign);
        let names: Vec<&str> = names.map(|end| end.name).collect();
        let cause = format!("{}: nobody says anything of the tunnel", names.join(", "));
        found.breaks(cause, WAKE.to_owned());
    }
    found
}

pub(super) fn outside(evidence: &Evidence) -> Found {
    let mut found = Found::default();
    for (end, far) in evidence.sides() {
        let Some(outside) = end.footing.and_then(|it| it.outside.as_ref()) else {
            continue;
        };
        let (name, local, remote) = (end.name, &outside.local, &outside.remote);
        if !outside.problem.is_empty() {
            found.note(format!("{name}: {}", outside.problem));
            found.breaks(
                format!("{name} has no way to {}'s endpoint: {}", far.name, outside.problem),
                format!(
                    "on {name}, see `ip route get {remote} from {local}`: give the host that route or address, or correct the endpoints in the specification"
                ),
            );
            continue;
        }
        let via = match outside.via.as_str() {
            "" => String::new(),
            via => format!(" via {via}"),
        };
        let mut line = format!("{name}: {local} > {remote} by {}{via}", outside.interface);
        if let Some(ping) = &outside.ping {
            line += &format!(", ping {}", of(ping));
            if ping.answered == 0 {
                line += " (a hint only: pings may be filtered)";
                found.is(State::Doubtful);
            }
        }
        found.note(line);
    }
    found.or_unknown()
}

/// What an end knows of the far one's ports.
fn ports(end: &End) -> Option<[(u16, bool); 2]> {
    let outside = end.footing?.outside.as_ref()?;
    Some([(500, outside.port_500?), (4500, outside.port_4500?)])
}

pub(super) fn udp(evidence: &Evidence) -> Found {
    let mut found = Found::default();
    if !evidence.is_ipsec() {
        found.note("WireGuard has no IKE; its own handshake is the next but one".to_owned());
        return found;
    }
    let up = evidence.ike_is_up();
    let answered = evidence.ends.iter().any(is_answered);
    for (end, far) in evidence.sides() {
        let Some(ports) = ports(end) else {
            continue;
        };
        let mute: Vec<String> = ports
            .iter()
            .filter(|(_, answers)| !answers)
            .map(|(port, _)| port.to_string())
            .collect();
        if mute.is_empty() {
            found.note(format!(
                "{} answers {} to IKE at UDP 500 and 4500",
                far.name, end.name
            ));
            continue;
        }
        let mute = mute.join(" and ");
        found.note(format!(
            "{} does not answer {} at UDP {mute}",
            far.name, end.name
        ));
        let said = |end: &End, words: &str| {
            end.status
                .is_some_and(|it| it.ike == words || it.ike_reason.contains(words))
        };
        let unreachable = said(far, "charon unreachable");
        // One of another maker may keep silent to what it does not like.
        let taciturn = far.foreign && !said(end, MUTE);
        if up || taciturn || answered && !unreachable {
            found.is(State::Doubtful);
            continue;
        }
        let (cause, cure) = unanswered(evidence, end, far, &mute);
        found.breaks(cause, cure);
    }
    if up {
        found.note("IKE is up".to_owned());
    }
    found.or_unknown()
}

/// What an agent says of a far end that says nothing.
const MUTE: &str = "does not answer";

/// What came of IKE says that the far end has answered: UDP passes, whatever a probe finds.
fn is_answered(end: &End) -> bool {
    let reason = end.status.map_or("", |it| it.ike_reason.as_str());
    let unheard = [MUTE, "does not resolve"];
    !reason.is_empty() && !unheard.iter().any(|words| reason.contains(words))
}

/// Why nobody answers at these ports.
fn unanswered(evidence: &Evidence, end: &End, far: &End, mute: &str) -> (String, String) {
    if far.status.is_some_and(|it| it.ike == "charon unreachable") {
        return (
            format!("charon does not run on {}", far.name),
            format!(
                "on {}, start strongSwan, and see why it ended (journalctl -u strongswan -u strongswan-starter)",
                far.name
            ),
        );
    }
    let remote = end.footing.and_then(|it| it.outside.as_ref());
    let remote = remote.map_or("", |it| it.remote.as_str());
    let pinged = |end: &End| {
        let outside = end.footing.and_then(|it| it.outside.as_ref());
        let ping = outside.and_then(|it| it.ping.as_ref());
        ping.is_some_and(|it| it.answered > 0)
    };
    let answered_back = ports(far).is_some_and(|ports| ports.iter().all(|(_, answers)| *answers));
    let nobody = !evidence.ends.iter().any(pinged);
    if nobody && !answered_back {
        let away = match silent(evidence) {
            Some((name, _)) if name == far.name => ", and its agent does not report either",
            _ => "",
        };
        return (
            format!(
                "nothing comes back from {} ({remote}), no ping either{away}: it is down, or the network between is",
                far.name
            ),
            format!(
                "see whether {} is up and its uplink works; on {}, `traceroute {remote}` shows how far packets get",
                far.name, end.name
            ),
        );
    }
    let also = if answered_back {
        format!(
            " ({} gets answers from {}, so it is that way only)",
            far.name, end.name
        )
    } else {
        " (pings pass)".to_owned()
    };
    (
        format!(
            "UDP {mute} towards {} ({remote}) is dropped on the way, or its charon does not run{also}",
            far.name
        ),
        format!(
            "let UDP 500 and 4500 to {remote} pass: in {}'s packet filter (nft list ruleset), its provider's firewall or security group, and what is on the way",
            far.name
        ),
    )
}

pub(super) fn interface(evidence: &Evidence) -> Found {
    let mut found = Found::default();
    for end in &evidence.ends {
        let name = end.name;
        let link = format!("rm{}", evidence.number);
        let reported = end.status.map_or("", |it| it.interface.as_str());
        let why = || -> String {
            let mut problems = end.problems_of(evidence.number);
            let about = problems.find(|it| !it.object.starts_with("mtu of"));
            about.map_or(String::new(), |it| {
                format!(": {}: {}", it.object, it.reason)
            })
        };
        let missing = match end.footing {
            Some(footing) => footing.interface.is_none(),
            None => reported == "missing",
        };
        if missing && end.is_heard() {
            found.note(format!("{name}: there is no interface {link}{}", why()));
            found.breaks(
                format!("{name} cannot make the tunnel's interface{}", why()),
                format!("`meshctl doctor {name}` and `mesh-agent preflight` on the host say what it lacks"),
            );
            continue;
        }
        let Some(it) = end.footing.and_then(|footing| footing.interface.as_ref()) else {
            if reported == "up" {
                found.note(format!("{name}: {link} up"));
            }
            continue;
        };
        let address = it
            .addresses
            .iter()
            .any(|own| own.split('/').next() == Some(end.address));
        let state = if it.up { "up" } else { "down" };
        found.note(format!(
            "{name}: {link} {state}, {}, {}",
            it.known_by,
            it.addresses.join(" ")
        ));
        if !it.known {
            found.breaks(
                format!("{name}'s {link} is bound to {}, which is not the tunnel's", it.known_by),
                format!("on {name}, delete what has the name {link} (ip link delete {link}): the agent makes it anew"),
            );
        }
        if !it.up {
            found.breaks(
                format!("{name}'s {link} is set down, and the agent has not set it up again"),
                format!("on {name}, see who sets it down (networkd, NetworkManager: docs/coexistence.md), and mesh-agent's log"),
            );
        }
        if !end.address.is_empty() && !address {
            found.breaks(
                format!("{name}'s {link} lacks its address {}", end.address),
                format!(
                    "on {name}, see who removes it (networkd, NetworkManager), and mesh-agent's log"
                ),
            );
        }
    }
    found.or_unknown()
}
