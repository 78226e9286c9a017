//! What let a path in, or keeps it out: the rules of the config, laid beside what the speaker made of them. Pure.

use crate::bgp::setup::link_of;
use crate::config::{Config, Tunnel, Whereabouts};
use ipnet::IpNet;
use routemesh_bgp::{Heard, Known, Rejection};
use routemesh_proto as proto;
use serde_json::{Map, Value};
use std::net::IpAddr;

/// Paths that are told.
const PATHS: usize = 64;
/// Prefixes that are named.
const NAMED: usize = 4;
/// Characters of a term.
const TERM: usize = 200;

/// Where a path came from, and what of it may be let in.
struct Origin<'c> {
    tunnel: Option<&'c Tunnel>,
    /// Whose prefixes may come from there, the nearest first.
    owners: Vec<&'c str>,
    /// The peer's import; empty where all of that passes.
    import: &'c [proto::Term],
    /// Terms that the agent puts before it.
    before: usize,
}

/// All that is known of an address.
pub(super) fn learnt(config: &Config, raw: &proto::Config, known: &[Known]) -> Vec<proto::Learnt> {
    let of = |it: &Known| {
        let own = it.originated.then(|| own(config, it.prefix));
        let paths = it.paths.iter();
        let paths = paths.map(|heard| path(config, raw, it.prefix, heard));
        own.into_iter().chain(paths).collect::<Vec<_>>()
    };
    known.iter().flat_map(of).take(PATHS).collect()
}

fn own(config: &Config, prefix: IpNet) -> proto::Learnt {
    let within = longest(config.owned(), prefix).map(|it| it.to_string());
    let site = &config.site;
    proto::Learnt {
        prefix: prefix.to_string(),
        state: "own".to_owned(),
        rule: format!(
            "{site}, the site here, owns {}, and `announce` has the protocol of its route",
            within.as_deref().unwrap_or_default()
        ),
        within: within.unwrap_or_default(),
        owner: site.clone(),
        ..proto::Learnt::default()
    }
}

fn path(config: &Config, raw: &proto::Config, prefix: IpNet, heard: &Heard) -> proto::Learnt {
    let origin = origin(config, raw, &heard.peer.0);
    let owned = origin.owners.iter().find_map(|owner| {
        let within = longest(config.prefixes_of(owner), prefix)?;
        Some((*owner, within))
    });
    // What is wrong with a path comes before what the terms say of it.
    let judged = matches!(
        heard.rejected,
        None | Some(Rejection::Policy(_) | Rejection::NoTerm)
    );
    let terms: Vec<usize> = match judged && !origin.import.is_empty() {
        true => {
            let terms = heard.terms.iter();
            terms
                .filter_map(|at| at.checked_sub(origin.before))
                .collect()
        }
        false => Vec::new(),
    };
    let state = match (&heard.rejected, heard.used) {
        (Some(_), _) => "rejected",
        (None, true) => "used",
        (None, false) => "unused",
    };
    let rule = match &heard.rejected {
        Some(Rejection::NotAuthorized) => format!(
            "it is within nothing that may come from there: {}",
            allowed(config, &origin)
        ),
        Some(why @ Rejection::Policy(_)) if !terms.is_empty() => {
            format!("{}: {why}", decided(&terms, origin.import, "rejects"))
        }
        Some(why) => why.to_string(),
        None => accepted(&origin, owned, &terms),
    };
    proto::Learnt {
        prefix: prefix.to_string(),
        peer: heard.peer.to_string(),
        state: state.to_owned(),
        within: owned.map_or(String::new(), |(_, within)| within.to_string()),
        owner: owned.map_or(String::new(), |(owner, _)| owner.to_owned()),
        terms: terms.iter().map(|at| number(*at)).collect(),
        rule,
    }
}

fn origin<'c>(config: &'c Config, raw: &'c proto::Config, peer: &str) -> Origin<'c> {
    let of_tunnel = |it: &&Tunnel| it.name() == peer;
    if let Some(tunnel) = config.tunnels.values().find(of_tunnel) {
        let raw = raw.tunnels.iter().find(|it| it.number == tunnel.number);
        let abroad = raw.and_then(|it| it.foreign.as_ref());
        let behind = tunnel.behind_there.iter();
        let owners = std::iter::once(&tunnel.peer_site).chain(behind);
        return Origin {
            tunnel: Some(tunnel),
            owners: owners.map(String::as_str).collect(),
            import: abroad.map_or(&[], |it| &it.import),
            // What the tunnel is worth.
            before: 1,
        };
    }
    let routers = config.routers.iter().zip(&raw.routers);
    let found = routers.filter_map(|(router, raw)| Some((near(&router.whereabouts, peer)?, raw)));
    let router = found.max_by_key(|(near, _)| *near);
    Origin {
        tunnel: None,
        owners: vec![&config.site],
        import: router.map_or(&[], |(_, raw)| &raw.import),
        before: 0,
    }
}

/// How exactly a router is meant, if it is.
fn near(whereabouts: &Whereabouts, peer: &str) -> Option<u8> {
    let address: Option<IpAddr> = peer.parse().ok();
    match whereabouts {
        Whereabouts::Address(_) | Whereabouts::LinkLocal(..) => {
            (whereabouts.to_string() == peer).then_some(u8::MAX)
        }
        Whereabouts::Interface(link) => (link_of(peer) == Some(link)).then_some(0),
        Whereabouts::Range(range) => {
            let within = address.is_some_and(|it| range.contains(&it));
            within.then_some(range.prefix_len())
        }
    }
}

fn accepted(origin: &Origin<'_>, owned: Option<(&str, IpNet)>, terms: &[usize]) -> String {
    let mut rule = match (owned, origin.tunnel) {
        (Some((owner, within)), None) => format!("{owner}, the site here, owns {within}"),
        (Some((owner, within)), Some(tunnel)) if owner == tunnel.peer_site => {
            format!("{owner}, at the far end, owns {within}")
        }
        (Some((owner, within)), Some(tunnel)) => {
            format!("{owner}, behind {}, owns {within}", tunnel.peer)
        }
        // A config that is just being replaced.
        (None, _) => "the config in force does not say why".to_owned(),
    };
    if !terms.is_empty() {
        rule += &format!("; {}", decided(terms, origin.import, "accepts"));
    }
    let Some(tunnel) = origin.tunnel else {
        return rule;
    };
    if !tunnel.has_bgp() {
        rule += "; without BGP, for as long as the tunnel is alive";
    }
    for (word, value) in [
        ("preference", tunnel.preference),
        ("weight", tunnel.weight.map(u32::from)),
    ] {
        if let Some(value) = value {
            rule += &format!("; {word} {value} by the specification");
        }
    }
    rule
}

/// What the last of the terms that match does.
fn decided(terms: &[usize], import: &[proto::Term], does: &str) -> String {
    let numbers: Vec<String> = terms.iter().map(|at| number(*at).to_string()).collect();
    let words = terms.last().and_then(|at| import.get(*at)).map(written);
    let words = words.unwrap_or_default();
    match numbers.as_slice() {
        [one] => format!("term {one} of its import {does} it: {words}"),
        several => format!(
            "terms {} of its import match, and the last one {does} it: {words}",
            several.join(", ")
        ),
    }
}

/// As a person writes it.
fn written(term: &proto::Term) -> String {
    let keys = |term: &proto::Term| -> Map<String, Value> {
        let value = serde_json::to_value(term).unwrap_or_default();
        value.as_object().cloned().unwrap_or_default()
    };
    let (mut keys, unset) = (keys(term), keys(&proto::Term::default()));
    let action = keys.remove("action");
    let keys = keys
        .into_iter()
        .filter(|(key, value)| unset.get(key) != Some(value));
    let keys = keys.map(|(key, value)| format!("{key} = {value}"));
    let action = action.map(|it| format!("action = {it}"));
    let text = keys.chain(action).collect::<Vec<_>>().join(", ");
    match text.char_indices().nth(TERM) {
        None => format!("{{ {text} }}"),
        Some((end, _)) => format!("{{ {} …", text.get(..end).unwrap_or_default()),
    }
}

fn allowed(config: &Config, origin: &Origin<'_>) -> String {
    let all = origin.owners.iter().flat_map(|it| config.prefixes_of(it));
    let named: Vec<String> = all.clone().take(NAMED).map(ToString::to_string).collect();
    match all.count() - named.len() {
        0 if named.is_empty() => "nothing may".to_owned(),
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn longest(prefixes: &[IpNet], prefix: IpNet) -> Option<IpNet> {
    let around = prefixes.iter().filter(|it| it.contains(&prefix));
    around.max_by_key(|it| it.prefix_len()).copied()
}

/// People count from 1.
fn number(at: usize) -> u32 {
    u32::try_from(at + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_bgp::PeerId;

    fn term(action: &str) -> proto::Term {
        proto::Term {
            action: action.into(),
            ..proto::Term::default()
        }
    }

    /// Site one, with a router of its own terms and a range; a tunnel to site two, behind which is a cloud;
    /// and one to another cloud, with terms.
    fn config() -> (Config, proto::Config) {
        let site = |name: &str, prefixes: &[&str]| proto::Site {
            name: name.into(),
            prefixes: prefixes.iter().map(|it| (*it).into()).collect(),
            ..proto::Site::default()
        };
        let marked = proto::Term {
            communities: vec!["64801:666".into()],
            set_preference: Some(50),
            ..term("accept")
        };
        let tunnel = |number, peer: &str, site: &str| proto::Tunnel {
            number,
            peer: peer.into(),
            peer_site: site.into(),
            peer_asn: 65000,
            kind: "xfrm".into(),
            local_endpoint: "192.0.2.1".into(),
            remote_endpoint: "198.51.100.1".into(),
            local_address: "2001:db8:ff::2".into(),
            remote_address: "2001:db8:ff::3".into(),
            preference: 200,
            ..proto::Tunnel::default()
        };
        let raw = proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            sites: vec![
                site("one", &["10.0.0.0/16", "10.0.1.0/24"]),
                site("two", &["10.2.0.0/16"]),
                site("aws", &["10.8.0.0/16"]),
                site("gcp", &["10.9.0.0/16"]),
            ],
            routers: vec![
                proto::Router {
                    range: "10.0.1.0/24".into(),
                    asn: 65001,
                    ..proto::Router::default()
                },
                proto::Router {
                    address: "10.0.1.254".into(),
                    asn: 65001,
                    import: vec![term("next"), marked],
                    ..proto::Router::default()
                },
            ],
            tunnels: vec![
                proto::Tunnel {
                    behind_there: vec!["aws".into()],
                    ..tunnel(3, "V2-1", "two")
                },
                proto::Tunnel {
                    foreign: Some(proto::Foreign {
                        local_id: "a".into(),
                        remote_id: "b".into(),
                        psk: "a secret of both".into(),
                        prefix_length: 127,
                        import: vec![term("accept")],
                        ..proto::Foreign::default()
                    }),
                    ..tunnel(4, "gcp", "gcp")
                },
            ],
            ..proto::Config::default()
        };
        (Config::try_from(&raw).unwrap(), raw)
    }

    fn told(prefix: &str, peer: &str, rejected: Option<Rejection>, terms: &[usize]) -> String {
        let (config, raw) = config();
        let heard = Heard {
            peer: PeerId::from(peer),
            used: true,
            rejected,
            terms: terms.to_vec(),
        };
        let known = Known {
            prefix: prefix.parse().unwrap(),
            originated: false,
            paths: vec![heard],
        };
        let [one] = &learnt(&config, &raw, &[known])[..] else {
            panic!("one path, one answer")
        };
        let proto::Learnt {
            state, owner, rule, ..
        } = one;
        format!("{state} {owner} {:?}: {rule}", one.terms)
    }

    #[test]
    fn a_tunnel_lets_in_what_is_owned_beyond_it() {
        for (prefix, peer, expected) in [
            (
                "10.2.3.0/24",
                "rm3-V2-1",
                "used two []: two, at the far end, owns 10.2.0.0/16; preference 200 by the specification",
            ),
            (
                "10.8.0.0/16",
                "rm3-V2-1",
                "used aws []: aws, behind V2-1, owns 10.8.0.0/16; preference 200 by the specification",
            ),
        ] {
            // Its only term is the agent's.
            assert_eq!(told(prefix, peer, None, &[0]), expected);
        }
        assert_eq!(
            told(
                "10.0.0.0/8",
                "rm3-V2-1",
                Some(Rejection::NotAuthorized),
                &[]
            ),
            "rejected  []: it is within nothing that may come from there: 10.2.0.0/16, 10.8.0.0/16"
        );
    }

    #[test]
    fn the_term_that_decided_is_named_as_it_was_written() {
        assert_eq!(
            told("10.9.0.0/16", "rm4-gcp", None, &[0, 1]),
            "used gcp [1]: gcp, at the far end, owns 10.9.0.0/16; term 1 of its import accepts it: \
             { action = \"accept\" }; preference 200 by the specification"
        );
        assert_eq!(
            told("10.0.1.128/25", "10.0.1.254", None, &[0, 1]),
            "used one [1, 2]: one, the site here, owns 10.0.1.0/24; terms 1, 2 of its import match, and \
             the last one accepts it: { communities = [\"64801:666\"], set_preference = 50, action = \"accept\" }"
        );
        // Another in its range has none.
        assert_eq!(
            told("10.0.1.128/25", "10.0.1.253", None, &[0]),
            "used one []: one, the site here, owns 10.0.1.0/24"
        );
        let rejection = |why| told("10.0.1.128/25", "10.0.1.254", Some(why), &[1]);
        assert_eq!(
            rejection(Rejection::Policy("not today".into())),
            "rejected one [2]: term 2 of its import rejects it: \
             { communities = [\"64801:666\"], set_preference = 50, action = \"accept\" }: not today"
        );
        assert_eq!(
            rejection(Rejection::AsLoop(65000)),
            "rejected one []: AS loop: our AS 65000 is in the path"
        );
        let none = told("10.0.1.128/25", "10.0.1.254", Some(Rejection::NoTerm), &[0]);
        assert_eq!(none, "rejected one [1]: no import term accepts it");
    }

    #[test]
    fn what_begins_here_is_told_and_all_has_an_end() {
        let (config, raw) = config();
        let heard = Heard {
            peer: PeerId::from("rm3-V2-1"),
            used: false,
            rejected: None,
            terms: Vec::new(),
        };
        let known = Known {
            prefix: "10.0.1.0/24".parse().unwrap(),
            originated: true,
            paths: vec![heard; 100],
        };
        let found = learnt(&config, &raw, &[known]);
        assert_eq!(found.len(), PATHS);
        let states = [&found[0], &found[1]].map(|it| it.state.as_str());
        assert_eq!(states, ["own", "unused"]);
        assert_eq!(
            found[0].rule,
            "one, the site here, owns 10.0.1.0/24, and `announce` has the protocol of its route"
        );
        let long = proto::Term {
            prefixes: vec!["10.0.0.0/8 ge 16".into(); 100],
            ..term("accept")
        };
        let written = written(&long);
        assert!(written.len() < 220 && written.ends_with('…'), "{written}");
    }
}
