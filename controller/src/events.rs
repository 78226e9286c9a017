//! What happened in the mesh: (what was seen, what is seen) -> events. Pure.

use crate::mesh::Mesh;
use crate::report::{Report, Reports};
use crate::topology::{verdict_of_gateway, why_not};
use routemesh_proto::{Event, TunnelStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Tunnels of one gateway that are told one by one; of more only their number is.
const TUNNELS: usize = 50;
/// Refused prefixes that are told at a time.
const REFUSED: usize = 20;

/// What is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    mesh: Option<Arc<Mesh>>,
    reports: Reports,
}

impl Seen {
    /// As the controller has it.
    pub fn new(mesh: Option<Arc<Mesh>>, reports: Reports) -> Self {
        Self { mesh, reports }
    }
}

/// What changed between two moments. Numbers and times come later.
pub fn changes(before: &Seen, now: &Seen) -> Vec<Event> {
    let Some(mesh) = &now.mesh else {
        return Vec::new();
    };
    let mut events = Vec::new();
    let old = before.mesh.as_deref();
    if old.map(|it| it.generation) != Some(mesh.generation) {
        events.extend(of_generation(old, mesh));
    }
    for (_, gateway) in mesh.spec.gateways() {
        let name = gateway.name.value.as_str();
        let (was, is) = (before.reports.get(name), now.reports.get(name));
        let Some(is) = is else {
            continue;
        };
        of_gateway(name, was, is, mesh.generation, &mut events);
        // A report that is the same one has nothing new in it.
        if was.is_some_and(|was| Arc::ptr_eq(&was.kept, &is.kept)) {
            continue;
        }
        of_tunnels(mesh, name, was, is, &mut events);
        of_refused(name, was, is, &mut events);
    }
    events
}

fn event(kind: &str, gateways: &[&str], text: String) -> Event {
    Event {
        kind: kind.to_owned(),
        gateways: gateways.iter().map(|it| (*it).to_owned()).collect(),
        text,
        ..Event::default()
    }
}

fn of_generation(before: Option<&Mesh>, mesh: &Mesh) -> Vec<Event> {
    let trial = match &mesh.trial {
        Some(trial) => format!(", tried at site {} first", trial.site),
        None => String::new(),
    };
    let mut events = vec![event(
        "generation",
        &[],
        format!("generation {} is in force{trial}", mesh.generation),
    )];
    let Some(before) = before else {
        return events;
    };
    let (was, is) = (&before.drains, &mesh.drains);
    for (drain, what) in is
        .difference(was)
        .map(|it| (it, "drained"))
        .chain(was.difference(is).map(|it| (it, "not drained any more")))
    {
        let text = drain.to_string();
        let names = mesh.spec.gateways().map(|(_, it)| it.name.value.as_str());
        let about: Vec<&str> = names
            .filter(|name| text.split(' ').any(|word| word == *name))
            .collect();
        events.push(event("drain", &about, format!("{text}: {what}")));
    }
    events
}

fn of_gateway(
    name: &str,
    was: Option<&Report>,
    is: &Report,
    generation: u64,
    events: &mut Vec<Event>,
) {
    let verdict = |report: Option<&Report>| verdict_of_gateway(generation, report);
    let (before, _) = verdict(was);
    let (now, reason) = verdict(Some(is));
    // A new generation makes all of them behind for a moment.
    let told = |verdict: &str| matches!(verdict, "stale" | "problem" | "never seen");
    if before == now || !told(before) && !told(now) {
        return;
    }
    let text = match (now, reason.as_str()) {
        (now, "") => format!("{name}: {now}"),
        (now, reason) => format!("{name}: {now}: {reason}"),
    };
    events.push(event("gateway", &[name], text));
}

fn of_tunnels(mesh: &Mesh, name: &str, was: Option<&Report>, is: &Report, events: &mut Vec<Event>) {
    let Some(was) = was else {
        return;
    };
    let changed: BTreeSet<u32> = is.kept.changed_looks(&was.kept).into_iter().collect();
    if changed.len() > TUNNELS {
        let text = format!("{name}: {} tunnels changed", changed.len());
        events.push(event("tunnel", &[name], text));
        return;
    }
    let statuses: BTreeMap<u32, TunnelStatus> = is
        .kept
        .tunnels_of(&changed)
        .into_iter()
        .map(|it| (it.number, it))
        .collect();
    for number in changed {
        let Some(status) = statuses.get(&number) else {
            let text = format!("{name}: tunnel rm{number} is gone");
            events.push(event("tunnel", &[name], text));
            continue;
        };
        let peer = status.peer.as_str();
        let bgp = mesh.gateway(peer).is_some() || status.bgp.is_some();
        let state = match why_not(bgp, status) {
            None => "up".to_owned(),
            Some(reason) => format!("down: {reason}"),
        };
        let text = format!("{name} rm{number} to {peer}: {state}");
        events.push(event("tunnel", &[name, peer], text));
    }
}

fn of_refused(name: &str, was: Option<&Report>, is: &Report, events: &mut Vec<Event>) {
    let of = |report: &Report| -> BTreeSet<(String, String, String)> {
        let rejected = report.kept.head().rejected.iter();
        rejected
            .map(|it| (it.peer.clone(), it.prefix.clone(), it.reason.clone()))
            .collect()
    };
    let before = was.map(of).unwrap_or_default();
    let now = of(is);
    for (peer, prefix, reason) in now.difference(&before).take(REFUSED) {
        let text = format!("{name} rejects {prefix} of {peer}: {reason}");
        events.push(event("refused", &[name], text));
    }
    for (peer, prefix, _) in before.difference(&now).take(REFUSED) {
        let same = now.iter().any(|it| (&it.0, &it.1) == (peer, prefix));
        if !same {
            let text =
                format!("{name}: {prefix} of {peer} is not announced any more, which was rejected");
            events.push(event("refused", &[name], text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;
    use crate::ids;
    use crate::report::Kept;
    use routemesh_proto::{BgpStatus, Rejected, Status};
    use std::time::Duration;

    const SPEC: &str = r#"
[mesh]
as = 65000
interconnect = "fd00:ff::/64"
[sites.one]
prefixes = ["10.0.1.0/24"]
gateways.A.endpoints = ["2001:db8::1"]
[sites.two]
prefixes = ["10.0.2.0/24"]
gateways.B.endpoints = ["2001:db8::2"]
"#;

    fn mesh(generation: u64) -> Mesh {
        let spec = crate::spec::parse("test", SPEC).unwrap();
        let ids = ids::assign(&ids::Ids::default(), &spec).unwrap();
        Mesh::new(generation, String::new().into(), spec, ids)
    }

    fn tunnel(ike: &str, bgp: &str) -> TunnelStatus {
        TunnelStatus {
            peer: "B".into(),
            ike: ike.into(),
            interface: "up".into(),
            bgp: Some(BgpStatus {
                state: bgp.into(),
                ..BgpStatus::default()
            }),
            ..TunnelStatus::default()
        }
    }

    fn report(tunnels: Vec<TunnelStatus>, seconds: u64) -> Report {
        let status = Status {
            generation: 4,
            tunnels,
            ..Status::default()
        };
        Report {
            kept: Arc::new(Kept::new(status)),
            age: Duration::from_secs(seconds),
        }
    }

    fn seen(mesh: Mesh, of_a: Report) -> Seen {
        let reports = [("A".to_owned(), of_a)].into_iter().collect();
        Seen::new(Some(Arc::new(mesh)), reports)
    }

    fn texts(before: &Seen, now: &Seen) -> Vec<String> {
        let found = changes(before, now).into_iter();
        found.map(|it| format!("{} {}", it.kind, it.text)).collect()
    }

    #[test]
    fn a_tunnel_goes_down_with_its_reason_and_comes_back() {
        let up = seen(mesh(4), report(vec![tunnel("up", "Established")], 1));
        let down = seen(mesh(4), report(vec![tunnel("down", "Active")], 1));
        let gone = seen(mesh(4), report(Vec::new(), 1));
        assert_eq!(texts(&up, &up), Vec::<String>::new());
        assert_eq!(texts(&up, &down), ["tunnel A rm0 to B: down: IKE down"]);
        assert_eq!(texts(&down, &up), ["tunnel A rm0 to B: up"]);
        assert_eq!(texts(&up, &gone), ["tunnel A: tunnel rm0 is gone"]);
        let about = changes(&up, &down);
        assert_eq!(about[0].gateways, ["A", "B"]);
        // Of a report that is the first, nothing is known to have changed.
        let first = Seen::new(Some(Arc::new(mesh(4))), Reports::new());
        assert_eq!(texts(&first, &down), ["gateway A: ok"]);
    }

    #[test]
    fn a_silent_gateway_a_generation_and_a_drain_are_told() {
        let fresh = report(Vec::new(), 1);
        let silent = Report {
            age: Duration::from_secs(40),
            ..fresh.clone()
        };
        let (before, after) = (seen(mesh(4), fresh.clone()), seen(mesh(4), silent));
        let stale = "gateway A: stale: last report 40 s ago";
        assert_eq!(texts(&before, &after), [stale]);
        assert_eq!(texts(&after, &before), ["gateway A: ok"]);

        // That all gateways are behind for a moment is no news.
        let mut next = mesh(5);
        next.drains.insert(Drain::gateway("A"));
        let next = seen(next, fresh.clone());
        let expected = ["generation generation 5 is in force", "drain A: drained"];
        assert_eq!(texts(&before, &next), expected);
        let undone = seen(mesh(6), fresh);
        assert_eq!(texts(&next, &undone)[1], "drain A: not drained any more");
    }

    #[test]
    fn refused_prefixes_are_told_once() {
        let with = |rejected: Vec<Rejected>| {
            let status = Status {
                generation: 4,
                rejected,
                ..Status::default()
            };
            let report = Report {
                kept: Arc::new(Kept::new(status)),
                age: Duration::ZERO,
            };
            seen(mesh(4), report)
        };
        let one = Rejected {
            peer: "rm0-B".into(),
            prefix: "192.0.2.0/24".into(),
            reason: "not owned".into(),
        };
        let (none, some) = (with(Vec::new()), with(vec![one.clone()]));
        let told = "refused A rejects 192.0.2.0/24 of rm0-B: not owned";
        assert_eq!(texts(&none, &some), [told]);
        assert_eq!(texts(&some, &with(vec![one])), Vec::<String>::new());
        assert!(texts(&some, &none)[0].contains("not announced any more"));
    }
}
