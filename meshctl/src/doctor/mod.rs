//! What was asked of gateways, as text for people.

use crate::output::line;
use crate::table::count;
use routemesh_proto::{Diagnosis, Echo, Hop, Ladder, Lookup, Rung, Trace, Unasked};

/// Whether something is broken, or could not be found out.
pub(crate) fn is_ill(diagnosis: &Diagnosis) -> bool {
    let broken = |it: &Ladder| !it.broken.is_empty();
    diagnosis.more > 0 || !diagnosis.unasked.is_empty() || diagnosis.ladders.iter().any(broken)
}

/// Tunnels whose rungs all hold in one line, then each of the others with its ladder; `all`: its rungs that hold
/// as well.
pub(crate) fn diagnosis(diagnosis: &Diagnosis, all: bool) -> String {
    let Diagnosis {
        ladders,
        well,
        by_report,
        more,
        unasked,
        filtered,
    } = diagnosis;
    let tunnels = |n: u64| count(u32::try_from(n).unwrap_or(u32::MAX), "tunnel");
    let mut out = String::new();
    if *well > 0 || ladders.is_empty() {
        let by_report = match by_report {
            0 => String::new(),
            n => format!(" ({n} of them judged by their reports only)"),
        };
        out += &format!("{}: all rungs hold{by_report}\n", tunnels(*well));
        if *filtered > 0 {
            out += &format!(
                "{} of them: pings or probes of IKE are filtered outside, which harms nothing\n",
                filtered
            );
        }
    }
    for Unasked { gateway, reason } in unasked {
        out += &format!("{gateway} was not asked: {}\n", line(reason));
    }
    for it in ladders {
        out += &ladder(it, all);
    }
    if *more > 0 {
        out += &format!("\n{} more are not well, and not shown\n", tunnels(*more));
    }
    out
}

fn ladder(ladder: &Ladder, all: bool) -> String {
    let Ladder {
        tunnel,
        a,
        b,
        rungs,
        broken,
        cause,
        cure,
    } = ladder;
    let mut out = format!("\nrm{tunnel} {a} - {b}: {}\n", verdict(broken, rungs));
    let told = |rung: &&Rung| all || !is_held(rung);
    let short = |rung: &Rung| match rung.state.as_str() {
        "unmeasured" => format!("{} (not measured)", rung.name),
        _ => rung.name.clone(),
    };
    let held = rungs.iter().filter(|rung| !told(rung));
    let held: Vec<String> = held.map(short).collect();
    if !held.is_empty() {
        out += &format!("  {:<8} {}\n", "holds", held.join(", "));
    }
    for Rung {
        name,
        state,
        evidence,
    } in rungs.iter().filter(told)
    {
        let state = match state.as_str() {
            "broken" => "BROKEN",
            // Its evidence says that nobody has measured it.
            "unmeasured" => "holds",
            state => state,
        };
        let mut first = format!("  {state:<8} {name:<13}");
        if evidence.is_empty() {
            out += first.trim_end();
            out.push('\n');
        }
        for it in evidence {
            out += &format!("{first} {}\n", line(it));
            first = format!("  {:<8} {:<13}", "", "");
        }
    }
    for (word, text) in [("why", cause), ("do", cure)] {
        if !text.is_empty() {
            out += &format!("  {word:<8} {}\n", line(text));
        }
    }
    out
}

fn is_held(rung: &Rung) -> bool {
    ["holds", "unmeasured"].contains(&rung.state.as_str())
}

/// What is not as it should be.
fn verdict(broken: &str, rungs: &[Rung]) -> String {
    if !broken.is_empty() {
        return format!("broken at {broken}");
    }
    let at = |state: &str| -> Option<String> {
        let rungs = rungs.iter().filter(|rung| rung.state == state);
        let names: Vec<&str> = rungs.map(|rung| rung.name.as_str()).collect();
        (!names.is_empty()).then(|| format!("{state} at {}", names.join(", ")))
    };
    let words: Vec<String> = ["doubtful", "unknown"].into_iter().filter_map(at).collect();
    match words.as_slice() {
        [] => "all rungs hold".to_owned(),
        words => words.join("; "),
    }
}

/// The way there and back.
pub(crate) fn trace(gateway: &str, trace: &Trace) -> String {
    let Trace {
        prefix,
        owner,
        announced_by,
        policy,
        there,
        far,
        onward,
        back,
        problems,
    } = trace;
    let target = there.as_ref().map_or("", |it| it.target.as_str());
    let mut out = match owner.as_str() {
        "" => format!("{target} is nobody's in the mesh\n"),
        owner => {
            let by = match announced_by.as_slice() {
                [] => "announced by nobody".to_owned(),
                by => format!("announced by {}", by.join(", ")),
            };
            format!("{target} is in {prefix} of {owner}, {by}\n")
        }
    };
    for it in policy {
        out += &format!("  {}\n", line(it));
    }
    for (title, lookup) in [
        (gateway.to_owned(), there),
        (far.clone(), onward),
        (format!("{far}, back to"), back),
    ] {
        if let Some(lookup) = lookup {
            out += &way(&title, lookup);
        }
    }
    for problem in problems {
        out += &format!("! {}\n", line(problem));
    }
    out
}

fn way(title: &str, lookup: &Lookup) -> String {
    let Lookup {
        target,
        prefix,
        kind,
        protocol,
        metric,
        group,
        hops,
        taken,
        problem,
        ..
    } = lookup;
    let route = match (problem.as_str(), prefix.as_str()) {
        ("", "") => kind.clone(),
        ("", prefix) => {
            let group = match group {
                0 => String::new(),
                group => format!(", nexthop {group:#x}"),
            };
            format!("{kind} {prefix} ({protocol}, metric {metric}{group})")
        }
        (problem, _) => line(problem),
    };
    let mut out = format!("{title} {target}: {route}\n");
    let is = |hop: &Hop| {
        let taken = taken.as_ref();
        taken.is_some_and(|it| it.interface == hop.interface && it.address == hop.address)
    };
    // What the kernel names as the way may be of no group.
    let only: Vec<&Hop> = taken.iter().filter(|_| hops.is_empty()).collect();
    for hop in hops.iter().chain(only) {
        let mark = if is(hop) { '>' } else { ' ' };
        let words = [hop.peer.as_str(), hop.address.as_str()];
        let words = words.into_iter().filter(|it| !it.is_empty());
        let weight = match hops.len() {
            0 | 1 => String::new(),
            _ => format!(" weight {}", hop.weight),
        };
        out += &format!(
            "  {mark} {} {}{weight}\n",
            hop.interface,
            words.collect::<Vec<_>>().join(" ")
        );
    }
    out
}

/// One echo request and what came of it.
pub(crate) fn echo(echo: &Echo) -> String {
    let Echo {
        sequence,
        target,
        micros,
        problem,
    } = echo;
    match (micros, problem.as_str()) {
        (Some(micros), _) => format!("{target} {sequence}: {}\n", milliseconds(*micros)),
        (None, "") => format!("{target} {sequence}: no answer\n"),
        (None, problem) => format!("{target} {sequence}: not sent: {}\n", line(problem)),
    }
}

fn milliseconds(micros: u32) -> String {
    format!("{}.{:03} ms", micros / 1000, micros % 1000)
}

/// The sum of them.
pub(crate) fn echoes(echoes: &[Echo]) -> String {
    let mut took: Vec<u32> = echoes.iter().filter_map(|it| it.micros).collect();
    took.sort_unstable();
    let sum = format!("{} of {} answered", took.len(), echoes.len());
    match (took.first(), took.get(took.len() / 2), took.last()) {
        (Some(least), Some(middle), Some(most)) => format!(
            "{sum}; least {}, middle {}, most {}\n",
            milliseconds(*least),
            milliseconds(*middle),
            milliseconds(*most)
        ),
        _ => format!("{sum}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(name: &str, state: &str, evidence: &[&str]) -> Rung {
        Rung {
            name: name.into(),
            state: state.into(),
            evidence: evidence.iter().map(|it| (*it).into()).collect(),
        }
    }

    #[test]
    fn what_holds_is_short_and_what_is_broken_says_why() {
        let broken = Ladder {
            tunnel: 3,
            a: "V1-1".into(),
            b: "V2-1".into(),
            rungs: vec![
                rung("agents", "holds", &["both report"]),
                rung("outside", "doubtful", &["ping 0 of 2", "ping 2 of 2"]),
                rung("udp", "broken", &["no answer"]),
            ],
            broken: "udp".into(),
            cause: "UDP 500 is dropped".into(),
            cure: "let it pass".into(),
        };
        let all = Diagnosis {
            ladders: vec![broken],
            well: 11,
            ..Diagnosis::default()
        };
        let expected = "11 tunnels: all rungs hold

rm3 V1-1 - V2-1: broken at udp
  holds    agents
  doubtful outside       ping 0 of 2
                         ping 2 of 2
  BROKEN   udp           no answer
  why      UDP 500 is dropped
  do       let it pass
";
        assert_eq!(diagnosis(&all, false), expected);
        assert!(diagnosis(&all, true).contains("holds    agents        both report"));
        let filtered = Diagnosis {
            well: 12,
            filtered: 3,
            ..Diagnosis::default()
        };
        assert_eq!(
            diagnosis(&filtered, false),
            "12 tunnels: all rungs hold\n3 of them: pings or probes of IKE are filtered outside, which harms nothing\n"
        );
        let none = Diagnosis {
            well: 1,
            by_report: 1,
            ..Diagnosis::default()
        };
        assert_eq!(
            diagnosis(&none, false),
            "1 tunnel: all rungs hold (1 of them judged by their reports only)\n"
        );
    }

    #[test]
    fn what_is_not_sure_is_told_and_breaks_nothing() {
        let ladder = |rungs: Vec<Rung>| Ladder {
            tunnel: 3,
            a: "V1-1".into(),
            b: "V2-1".into(),
            rungs,
            ..Ladder::default()
        };
        let doubtful = Diagnosis {
            ladders: vec![ladder(vec![
                rung("agents", "holds", &["both report"]),
                rung("outside", "doubtful", &["ping\n0 of 2\u{1b}[2J"]),
                rung("esp", "unknown", &[]),
            ])],
            ..Diagnosis::default()
        };
        let expected = "
rm3 V1-1 - V2-1: doubtful at outside; unknown at esp
  holds    agents
  doubtful outside       ping\\n0 of 2\\u{1b}[2J
  unknown  esp
";
        assert_eq!(diagnosis(&doubtful, false), expected);
        assert!(!is_ill(&doubtful));
        let held = Diagnosis {
            ladders: vec![ladder(vec![
                rung("agents", "holds", &["both report"]),
                rung("mtu", "unmeasured", &["V1-1: 1426", "not measured"]),
            ])],
            well: 1,
            ..Diagnosis::default()
        };
        let short = diagnosis(&held, false);
        let expected = "1 tunnel: all rungs hold

rm3 V1-1 - V2-1: all rungs hold
  holds    agents, mtu (not measured)
";
        assert_eq!(short, expected);
        let long = diagnosis(&held, true);
        assert!(
            long.contains("holds    mtu           V1-1: 1426\n"),
            "{long}"
        );
        let more = Diagnosis {
            more: 1,
            ..Diagnosis::default()
        };
        assert!(is_ill(&more));
    }

    #[test]
    fn a_way_shows_the_hop_that_is_taken() {
        let hop = |interface: &str, peer: &str| Hop {
            interface: interface.into(),
            address: "2001:db8:ff::7".into(),
            weight: 1,
            peer: peer.into(),
            ..Hop::default()
        };
        let there = Lookup {
            target: "10.0.2.7".into(),
            prefix: "10.0.2.0/24".into(),
            kind: "unicast".into(),
            protocol: "routemesh".into(),
            metric: 50,
            hops: vec![hop("rm3", "V2-1"), hop("rm6", "V2-2")],
            taken: Some(hop("rm6", "")),
            ..Lookup::default()
        };
        let found = Trace {
            prefix: "10.0.2.0/24".into(),
            owner: "two".into(),
            announced_by: vec!["V2-1".into(), "V2-2".into()],
            there: Some(there),
            problems: vec!["no way back".into()],
            ..Trace::default()
        };
        let expected = "10.0.2.7 is in 10.0.2.0/24 of two, announced by V2-1, V2-2
V1-1 10.0.2.7: unicast 10.0.2.0/24 (routemesh, metric 50)
    rm3 V2-1 2001:db8:ff::7 weight 1
  > rm6 V2-2 2001:db8:ff::7 weight 1
! no way back
";
        assert_eq!(trace("V1-1", &found), expected);
    }

    #[test]
    fn echoes_come_to_a_sum() {
        let echo = |sequence, micros| Echo {
            sequence,
            target: "fd00::1".into(),
            micros,
            problem: String::new(),
        };
        let all = [echo(1, Some(1500)), echo(2, None), echo(3, Some(500))];
        assert_eq!(super::echo(&all[0]), "fd00::1 1: 1.500 ms\n");
        assert_eq!(
            echoes(&all),
            "2 of 3 answered; least 0.500 ms, middle 1.500 ms, most 1.500 ms\n"
        );
        assert_eq!(echoes(&all[1..2]), "0 of 1 answered\n");
    }
}
