//! The rungs from IKE to ESP: keys, and whether packets pass by them.

use super::below::{WAKE, silent};
use super::{Evidence, Found, State};
use std::collections::BTreeSet;

/// Clocks that differ by more make certificates invalid that are not.
const SKEW: u64 = 60_000;
/// What a far end says that does not know who asks.
const REFUSED: &str = "AUTHENTICATION_FAILED";
/// What an end says of a certificate that is of another time.
const UNTIMELY: &str = "not valid at this host's time";
/// Packets, of which at least one should have arrived.
const ENOUGH: u64 = 3;

/// Words of `ike_reason` that are about a CHILD_SA, for which IKE itself has to be well.
pub(super) fn is_of_child(reason: &str) -> bool {
    ["ESP proposals", "TS_UNACCEPTABLE", "traffic selectors"]
        .iter()
        .any(|words| reason.contains(words))
}

pub(super) fn ike(evidence: &Evidence) -> Found {
    let mut found = Found::default();
    for end in &evidence.ends {
        let Some(status) = end.status else {
            continue;
        };
        let (name, state, reason) = (end.name, &status.ike, &status.ike_reason);
        match reason.as_str() {
            "" => found.note(format!("{name}: {state}")),
            reason => found.note(format!("{name}: {state}: {reason}")),
        }
        match state.as_str() {
            "up" | "narrowed" => {}
            "charon unreachable" => found.breaks(
                format!("charon does not run on {name}, or does not answer its agent"),
                format!("on {name}, start strongSwan; mesh-agent's --vici has to name its socket"),
            ),
            "no key" => found.breaks(
                format!("{name} does not know the far gateway's WireGuard key"),
                "the far agent tells it when it connects: see that it is connected".to_owned(),
            ),
            "no handshake" => found.breaks(
                format!("{name} has no handshake of WireGuard: UDP is dropped on the way, or the far end is down"),
                "let the tunnels' UDP ports pass between the endpoints (docs/wireguard.md)".to_owned(),
            ),
            // What either end says of a CHILD_SA comes after IKE.
            _ if evidence.blames_child() => {}
            // The other end may know more.
            _ => found.is(State::Unknown),
        }
    }
    if found.state != State::Unknown {
        return found.or_unknown();
    }
    let reasons: Vec<(&str, &str)> = evidence
        .ends
        .iter()
        .filter_map(|end| Some((end.name, end.status?.ike_reason.as_str())))
        .filter(|(_, reason)| !reason.is_empty())
        .collect();
    let skew = skew(evidence);
    let (cause, cure) = refusal(evidence, &reasons, skew);
    if let Some(skew) = skew.filter(|skew| *skew > SKEW) {
        found.note(format!("clocks differ by {} s", skew / 1000));
    }
    found.breaks(cause, cure);
    found
}

/// By how much the ends' clocks differ, in milliseconds. Both were looked at within a second or two.
fn skew(evidence: &Evidence) -> Option<u64> {
    let [a, b] = evidence.ends.map(|end| end.footing.map(|it| it.clock));
    Some(a?.abs_diff(b?))
}

/// What IKE's refusals come to. Which end says a thing in full counts first.
fn refusal(evidence: &Evidence, reasons: &[(&str, &str)], skew: Option<u64>) -> (String, String) {
    let said = |words: &str| reasons.iter().find(|(_, reason)| reason.contains(words));
    // That one end has refused says less than why the other does.
    let told = |words: &str| {
        let full = |it: &&(&str, &str)| it.1.contains(words) && !it.1.contains(REFUSED);
        reasons.iter().find(full)
    };
    let certificate = said("certificate").or_else(|| said(REFUSED));
    if certificate.is_some()
        && let Some(skew) = skew.filter(|skew| *skew > SKEW)
    {
        return (
            format!(
                "the ends' clocks differ by {} s, so that a certificate is not valid yet, or not any more",
                skew / 1000
            ),
            "let both hosts keep time (chrony, systemd-timesyncd)".to_owned(),
        );
    }
    if let Some((name, reason)) = told("another identity") {
        return (
            format!("identity: {name} says that {reason}"),
            "let the identity of the certificate be the one that the specification names: `mesh-agent enroll` gets a gateway its own; of a foreign peer, see `remote_id`".to_owned(),
        );
    }
    if let Some((name, reason)) = told("pre-shared key") {
        return (
            format!("authentication: {name} says that {reason}"),
            "give both ends the same pre-shared key and the identities that the other expects"
                .to_owned(),
        );
    }
    if let Some((name, reason)) = told(UNTIMELY) {
        return (
            format!("time: {name} says that {reason}"),
            "let both hosts keep time (chrony, systemd-timesyncd); if they do, `meshctl renew` has certificates made anew".to_owned(),
        );
    }
    if let Some((name, reason)) = told("certificate") {
        return (
            format!("authentication: {name} says that {reason}"),
            "see that both gateways enrolled at the same controller, and that none is revoked (meshctl audit)".to_owned(),
        );
    }
    // What is wrong with a key or a certificate, who refuses it tells its agent; that it knows nobody of that name it
    // tells nobody.
    if let Some((name, reason)) = said(REFUSED)
        && evidence.ends.iter().all(|end| end.status.is_some())
    {
        let mut others = evidence.ends.iter().filter(|end| end.name != *name);
        let other = others.next().map_or("", |end| end.name);
        return (
            format!(
                "identity: {name} says that {reason}; {other} finds nothing wrong with its key or certificate, as where it expects another identity"
            ),
            format!(
                "see that both gateways have the same generation (meshctl get gateways), and on both what charon has loaded (swanctl --list-conns): the identity of {name} has to be the one that {other} expects, and the other way round"
            ),
        );
    }
    if let Some((name, reason)) = said(REFUSED) {
        return (
            format!("authentication: {name} says that {reason}"),
            "the far end's log tells in full why (meshctl logs GATEWAY --text IKE, or charon's own)".to_owned(),
        );
    }
    if let Some((name, reason)) = said("IKE proposals")
        && let Some((other, why)) = silent(evidence)
    {
        return (
            format!(
                "{name} says that {reason}; as {other} does not report ({why}), it may have no connection for {name} at all"
            ),
            format!(
                "{WAKE}; if it does, give both ends a common proposal: `proposals` of [mesh.ike]"
            ),
        );
    }
    if let Some((name, reason)) = said("IKE proposals") {
        return (
            format!("proposals: {name} says that {reason}"),
            "give both ends a common proposal: `proposals` of [mesh.ike], of the site or of the tunnel; a gateway that is behind still has the old one (meshctl get gateways)".to_owned(),
        );
    }
    match reasons.first() {
        Some((name, reason)) => (
            format!("{name} says that {reason}"),
            "charon's log on both hosts tells more (journalctl -u strongswan)".to_owned(),
        ),
        None => (
            "IKE is not up, and has not told why yet".to_owned(),
            "look again in a minute; `meshctl logs GATEWAY` and charon's log on both hosts tell more".to_owned(),
        ),
    }
}

pub(super) fn child(evidence: &Evidence) -> Found {
    let mut found = Found::default();
    for (end, far) in evidence.sides() {
        let (name, reason) = (end.name, end.status.map_or("", |it| it.ike_reason.as_str()));
        if end.status.is_some_and(|it| it.ike == "narrowed") {
            found.note(format!(
                "{name}: the far end took a part of the traffic selectors only"
            ));
            found.breaks(
                format!(
                    "traffic selectors: {} has agreed to a part of what the tunnel is to carry",
                    far.name
                ),
                "let the selectors of both ends be the same".to_owned(),
            );
        }
        if end.status.is_some_and(|it| it.ike != "up") && is_of_child(reason) {
            found.note(format!("{name}: {reason}"));
            let (what, cure) = if reason.contains("ESP proposals") {
                (
                    "proposals",
                    "give both ends a common ESP proposal: `proposals` of [mesh.esp], of the site or of the tunnel",
                )
            } else {
                (
                    "traffic selectors",
                    "let the selectors of both ends be the same",
                )
            };
            found.breaks(
                format!("{what}: {name} says that {reason}"),
                cure.to_owned(),
            );
        }
        let Some(footing) = end.footing.filter(|_| evidence.is_ipsec()) else {
            continue;
        };
        if !footing.sas_problem.is_empty() {
            found.note(format!("{name}: {}", footing.sas_problem));
            found.is(State::Unknown);
            continue;
        }
        let [sends, hears] = [true, false].map(|outbound| end.sas(outbound).count());
        found.note(format!(
            "{name}: {sends} SA out, {hears} in, {} policies",
            footing.policies
        ));
        if sends == 0 || hears == 0 || footing.policies == 0 {
            found.breaks(
                format!("{name}'s kernel lacks SAs or policies of the tunnel, whatever charon says"),
                format!("the agent makes them anew within seconds; if not, see who deletes them (ip xfrm monitor on {name}), and `meshctl logs {name}`"),
            );
        }
    }
    if evidence.ends.iter().all(|end| end.footing.is_some()) {
        for (end, far) in evidence.sides() {
            let spis: BTreeSet<u32> = far.sas(false).map(|sa| sa.spi).collect();
            let any = end.sas(true).next().is_some() && !spis.is_empty();
            if any && !end.sas(true).any(|sa| spis.contains(&sa.spi)) {
                found.breaks(
                    format!("{} sends by SAs that {} does not have", end.name, far.name),
                    "the agents make new ones within seconds; if not, `meshctl logs` of both tell why".to_owned(),
                );
            }
        }
    }
    found.or_unknown()
}

pub(super) fn esp(evidence: &Evidence) -> Found {
    let mut found = Found::default();
    if !evidence.is_ipsec() {
        found.note(
            "WireGuard has its own: its handshake shows that packets pass both ways".to_owned(),
        );
        return found;
    }
    let mut measured = true;
    for (end, far) in evidence.sides() {
        let (name, other) = (end.name, far.name);
        let forged: u64 = end.sas(false).map(|sa| u64::from(sa.forged)).sum();
        if forged > 0 {
            found.note(format!(
                "{name} refused {forged} packets of a wrong check value"
            ));
            found.is(State::Doubtful);
        }
        if end.footing.is_none() {
            continue;
        }
        let spis: BTreeSet<u32> = end.sas(true).map(|sa| sa.spi).collect();
        let sent: u64 = end.sas(true).map(|sa| sa.now).sum();
        if far.footing.is_none() {
            let heard: u64 = end.sas(false).map(|sa| sa.now).sum();
            found.note(format!(
                "{name}: {sent} packets out, {heard} in; {other} cannot be asked"
            ));
            measured &= heard > 0;
            if sent >= ENOUGH && heard == 0 {
                found.breaks(
                    format!("{name} sends ESP, and gets none from {other}"),
                    filtered(other, name),
                );
            }
            continue;
        }
        let same = far.sas(false).filter(|sa| spis.contains(&sa.spi));
        let (heard, ever) = same.fold((0, 0), |(now, ever), sa| (now + sa.now, ever + sa.packets));
        found.note(format!(
            "{name} > {other}: {sent} packets sent meanwhile, {heard} arrived"
        ));
        measured &= heard > 0;
        if sent >= ENOUGH && heard == 0 {
            let ever = if ever == 0 { ", nor ever before" } else { "" };
            found.breaks(
                format!("ESP from {name} to {other} is lost: {name} sent {sent} packets, and {other} got none of them{ever}"),
                filtered(name, other),
            );
        }
    }
    if !measured {
        found.note("not measured: too few packets passed meanwhile".to_owned());
        found.is(State::Unmeasured);
    }
    found.or_unknown()
}

fn filtered(from: &str, to: &str) -> String {
    format!(
        "let ESP (IP protocol 50; UDP 4500 behind a NAT) pass from {from} to {to}: in {to}'s packet filter, its provider's firewall or security group, and what is on the way"
    )
}
