//! Tunnels to gateways that are not ours, as the config has them.

use super::{ConfigError, Fields, MAX_PREFIXES, TUNNELS, bfd, term};
use ipnet::IpNet;
use routemesh_bfd::Timers;
use routemesh_bgp::Policy;
use routemesh_proto::{self as proto, Secret};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// What is other in a tunnel to a gateway that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abroad {
    /// Of several tunnels with one IKE_SA, the one of the lowest number.
    pub connection: u32,
    /// Our IKE identity.
    pub local_id: String,
    /// The far gateway's.
    pub remote_id: String,
    /// Pre-shared key.
    pub psk: Secret,
    /// What the tunnel carries on this side; empty for everything.
    pub local_selectors: Vec<IpNet>,
    /// What it carries on the far side; empty for everything.
    pub remote_selectors: Vec<IpNet>,
    /// Who may use it.
    pub sites: BTreeSet<String>,
    /// Both ends' addresses within, where they have any: always with BGP or BFD.
    pub inside: Option<Inside>,
    /// BGP with it; without, its prefixes are static.
    pub session: Option<Session>,
    /// BFD with it.
    pub bfd: Option<Timers>,
    /// What is pinged through the tunnel.
    pub ping: Option<Ping>,
}

/// Addresses within a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// Ours, and the prefix that both are in.
    pub own: IpNet,
    /// The far end's.
    pub far: IpAddr,
}

/// Who must answer, for a tunnel to be alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Our address.
    pub source: IpAddr,
    /// The other one.
    pub target: IpAddr,
    /// How often it is asked.
    pub interval: Duration,
    /// So many times without an answer, and the tunnel is dead.
    pub lost: u32,
}

/// BGP with a gateway that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its AS.
    pub asn: u32,
    /// What we propose, where it is not the mesh's.
    pub hold_time: Option<Duration>,
    /// The session ends when it announces more prefixes.
    pub max_prefixes: usize,
    /// What is taken from it, as far as it owns it, and what that is worth.
    pub import: Policy,
    /// What it is told, as far as those own it who may reach it.
    pub export: Policy,
}

impl Abroad {
    /// What of these prefixes the tunnel carries.
    pub fn carries(&self, prefixes: &[IpNet]) -> BTreeSet<IpNet> {
        let common = |net: &IpNet| -> Vec<IpNet> {
            let selectors = &self.remote_selectors;
            if selectors.is_empty() || selectors.iter().any(|it| it.contains(net)) {
                return vec![*net];
            }
            let within = selectors.iter().filter(|it| net.contains(*it));
            within.copied().collect()
        };
        prefixes.iter().flat_map(common).collect()
    }
}

pub(super) fn parse(
    fields: &Fields,
    tunnel: &proto::Tunnel,
    raw: &proto::Foreign,
) -> Result<Abroad, ConfigError> {
    if raw.connection >= TUNNELS {
        let value = raw.connection.to_string();
        return Err(fields.wrong("connection", &value, "below 16777216"));
    }
    let id = |field, text: &String| {
        let odd = |c: char| c.is_control();
        match text.is_empty() || text.contains(odd) || text.starts_with('%') {
            true => Err(fields.wrong(field, text, "an IKE identity")),
            false => Ok(text.clone()),
        }
    };
    if raw.psk.is_empty() {
        return Err(fields.wrong("psk", "", "a pre-shared key"));
    }
    let selectors = |field, written: &[String]| -> Result<Vec<IpNet>, ConfigError> {
        let parse = |text: &String| {
            let net: IpNet = fields.parse(field, text, "a prefix")?;
            Ok(net.trunc())
        };
        written.iter().map(parse).collect()
    };
    let inside = match raw.prefix_length {
        0 => None,
        length => Some(inside(fields, tunnel, length)?),
    };
    let session = match tunnel.peer_asn {
        0 => None,
        asn => Some(session(fields, tunnel, raw, asn)?),
    };
    let bfd = bfd::parse(fields, raw.bfd)?;
    if inside.is_none() && (session.is_some() || bfd.is_some()) {
        let expected = "that of the addresses within, which BGP and BFD go between";
        return Err(fields.wrong("prefix_length", "0", expected));
    }
    Ok(Abroad {
        connection: raw.connection,
        local_id: id("local_id", &raw.local_id)?,
        remote_id: id("remote_id", &raw.remote_id)?,
        psk: Secret::from(raw.psk.as_str()),
        local_selectors: selectors("local_selectors", &raw.local_selectors)?,
        remote_selectors: selectors("remote_selectors", &raw.remote_selectors)?,
        sites: raw.sites.iter().cloned().collect(),
        inside,
        session,
        bfd,
        ping: match &raw.ping {
            None => None,
            Some(raw) => Some(ping(fields, raw)?),
        },
    })
}

fn inside(fields: &Fields, tunnel: &proto::Tunnel, length: u32) -> Result<Inside, ConfigError> {
    let expected = "an address";
    let own: IpAddr = fields.parse("local_address", &tunnel.local_address, expected)?;
    let far: IpAddr = fields.parse("remote_address", &tunnel.remote_address, expected)?;
    let short = u8::try_from(length).ok();
    let own = short.and_then(|length| IpNet::new(own, length).ok());
    let near = |net: &IpNet| net.contains(&far) && net.addr() != far;
    match own.filter(near) {
        Some(own) => Ok(Inside { own, far }),
        None => {
            let expected = "that of a prefix of both addresses";
            Err(fields.wrong("prefix_length", &length.to_string(), expected))
        }
    }
}

fn ping(fields: &Fields, raw: &proto::Ping) -> Result<Ping, ConfigError> {
    let expected = "an address";
    let target: IpAddr = fields.parse("ping.target", &raw.target, expected)?;
    let source: IpAddr = fields.parse("ping.source", &raw.source, expected)?;
    if source.is_ipv4() != target.is_ipv4() {
        let expected = "of the family of what is pinged";
        return Err(fields.wrong("ping.source", &raw.source, expected));
    }
    if !(100..=60_000).contains(&raw.interval) {
        let expected = "100 to 60000 milliseconds";
        return Err(fields.wrong("ping.interval", &raw.interval.to_string(), expected));
    }
    if !(1..=20).contains(&raw.lost) {
        return Err(fields.wrong("ping.lost", &raw.lost.to_string(), "1 to 20"));
    }
    Ok(Ping {
        source,
        target,
        interval: Duration::from_millis(raw.interval.into()),
        lost: raw.lost,
    })
}

fn session(
    fields: &Fields,
    tunnel: &proto::Tunnel,
    raw: &proto::Foreign,
    asn: u32,
) -> Result<Session, ConfigError> {
    let hold_time = match raw.hold_time {
        0 => None,
        seconds @ 3..=0xffff => Some(Duration::from_secs(seconds.into())),
        other => return Err(fields.wrong("hold_time", &other.to_string(), "3 to 65535 seconds")),
    };
    Ok(Session {
        asn,
        hold_time,
        max_prefixes: match raw.max_prefixes {
            0 => MAX_PREFIXES,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        },
        import: term::policy(fields, "import", &import(tunnel, &raw.import))?,
        export: term::policy(fields, "export", &raw.export)?,
    })
}

/// What the tunnel is worth, which the terms may change; and by one that traffic is to leave, the paths are the
/// last choice (RFC 8326), which the far end does not say. Every term marks them, as any may be the last that
/// applies and clear what those before it said.
fn import(tunnel: &proto::Tunnel, terms: &[proto::Term]) -> Vec<proto::Term> {
    let term = |action: &str| proto::Term {
        action: action.to_owned(),
        ..proto::Term::default()
    };
    let first = proto::Term {
        set_preference: Some(tunnel.preference).filter(|it| *it > 0),
        set_weight: tunnel.weight,
        ..term("next")
    };
    let mut all = vec![first];
    match terms {
        [] => all.push(term("accept")),
        some => all.extend(some.iter().zip(1..).map(numbered)),
    }
    if tunnel.drain {
        for term in &mut all {
            term.add_communities.push("graceful-shutdown".to_owned());
        }
    }
    all
}

/// A term that says who it is where it rejects: people do not count the one before.
fn numbered((term, number): (&proto::Term, u32)) -> proto::Term {
    let mut term = term.clone();
    if term.action == "reject" && term.reason.is_empty() {
        term.reason = format!("import term {number} rejects it");
    }
    term
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_bgp::policy::Verdict;
    use routemesh_bgp::wire::Attributes;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_session_is_between_two_addresses_of_one_prefix() {
        let parse = |local: &str, remote: &str, prefix_length, hold_time| {
            let foreign = proto::Foreign {
                local_id: "a".into(),
                remote_id: "b".into(),
                psk: "a secret of both".into(),
                prefix_length,
                hold_time,
                ..proto::Foreign::default()
            };
            let tunnel = proto::Tunnel {
                peer_asn: 64512,
                local_address: local.into(),
                remote_address: remote.into(),
                ..proto::Tunnel::default()
            };
            let fields = Fields { object: "a tunnel" };
            let parsed = super::parse(&fields, &tunnel, &foreign);
            parsed.map(|it| it.inside.unwrap().own.to_string())
        };
        let own = "169.254.10.2".to_owned() + "/30";
        assert_eq!(parse("169.254.10.2", "169.254.10.1", 30, 0), Ok(own));
        for (local, remote, length, hold_time) in [
            ("169.254.10.2", "169.254.10.5", 30, 0),
            ("169.254.10.2", "169.254.10.2", 30, 0),
            ("169.254.10.2", "fd00::1", 30, 0),
            ("169.254.10.2", "169.254.10.1", 33, 0),
            ("169.254.10.2", "169.254.10.1", 300, 0),
            ("169.254.10.2", "169.254.10.1", 30, 2),
            ("169.254.10.2", "", 30, 0),
            ("169.254.10.2", "169.254.10.1", 0, 0),
        ] {
            let parsed = parse(local, remote, length, hold_time);
            assert!(parsed.is_err(), "{local} {remote} {length} {hold_time}");
        }
    }

    /// What an import of a tunnel to the cloud makes of its word for 10.9.0.0/16: preference, weight, and
    /// whether it is marked as about to go.
    fn worth(tunnel: &proto::Tunnel, terms: &[proto::Term]) -> (Option<u32>, Option<u16>, bool) {
        let fields = Fields { object: "a tunnel" };
        let policy = term::policy(&fields, "import", &import(tunnel, terms)).unwrap();
        let mut path = Attributes::default();
        let Verdict::Accept(matched) = policy.evaluate(&"10.9.0.0/16".parse().unwrap(), &path)
        else {
            panic!("nothing refuses it")
        };
        policy.apply(matched, &mut path, 65000);
        let leaving = path.communities.contains(&0xffff_0000);
        (path.local_pref, policy.weight(matched), leaving)
    }

    #[test]
    fn terms_have_the_last_word_on_a_tunnels_worth_but_not_on_its_drain() {
        let plain = proto::Tunnel {
            preference: 90,
            weight: 3,
            ..proto::Tunnel::default()
        };
        let drained = proto::Tunnel {
            drain: true,
            ..plain.clone()
        };
        let better = proto::Term {
            set_preference: Some(200),
            action: "accept".into(),
            ..proto::Term::default()
        };
        let better = [better];
        assert_eq!(worth(&proto::Tunnel::default(), &[]), (None, None, false));
        assert_eq!(worth(&plain, &[]), (Some(90), Some(3), false));
        assert_eq!(worth(&plain, &better), (Some(200), Some(3), false));
        assert_eq!(worth(&drained, &better), (Some(200), Some(3), true));
        let clears = proto::Term {
            clear_communities: true,
            action: "accept".into(),
            ..proto::Term::default()
        };
        let removes = proto::Term {
            remove_communities: vec!["graceful-shutdown".into()],
            action: "next".into(),
            ..proto::Term::default()
        };
        assert!(worth(&drained, std::slice::from_ref(&clears)).2);
        assert!(worth(&drained, &[removes, clears.clone()]).2);
        assert!(!worth(&plain, &[clears]).2);
    }

    #[test]
    fn who_is_pinged_is_of_the_family_of_our_address() {
        let parse = |source: &str, target: &str, interval, lost| {
            let foreign = proto::Foreign {
                local_id: "a".into(),
                remote_id: "b".into(),
                psk: "a secret of both".into(),
                ping: Some(proto::Ping {
                    target: target.into(),
                    source: source.into(),
                    interval,
                    lost,
                }),
                ..proto::Foreign::default()
            };
            let fields = Fields { object: "a tunnel" };
            super::parse(&fields, &proto::Tunnel::default(), &foreign).map(|it| it.ping)
        };
        let ping = Ping {
            source: "10.1.0.1".parse().unwrap(),
            target: "10.9.0.1".parse().unwrap(),
            interval: Duration::from_millis(500),
            lost: 3,
        };
        assert_eq!(parse("10.1.0.1", "10.9.0.1", 500, 3), Ok(Some(ping)));
        for (source, target, interval, lost) in [
            ("", "10.9.0.1", 1000, 3),
            ("fd00::1", "10.9.0.1", 1000, 3),
            ("10.1.0.1", "there", 1000, 3),
            ("10.1.0.1", "10.9.0.1", 99, 3),
            ("10.1.0.1", "10.9.0.1", 1000, 0),
        ] {
            let parsed = parse(source, target, interval, lost);
            assert!(parsed.is_err(), "{source} {target} {interval} {lost}");
        }
    }

    #[test]
    fn what_a_tunnel_carries_is_what_its_selectors_and_its_peer_have_in_common() {
        let owned = nets(&["10.9.0.0/16", "10.10.0.0/16", "2001:db8:9::/48"]);
        let table: [(&[&str], &[&str]); 4] = [
            (&[], &["10.9.0.0/16", "10.10.0.0/16", "2001:db8:9::/48"]),
            (&["10.0.0.0/8"], &["10.9.0.0/16", "10.10.0.0/16"]),
            (
                &["10.9.1.0/24", "10.9.2.0/24"],
                &["10.9.1.0/24", "10.9.2.0/24"],
            ),
            (&["2001:db8:9::/48"], &["2001:db8:9::/48"]),
        ];
        for (selectors, expected) in table {
            let abroad = Abroad {
                connection: 1,
                local_id: String::new(),
                remote_id: String::new(),
                psk: Secret::default(),
                local_selectors: Vec::new(),
                remote_selectors: nets(selectors),
                sites: BTreeSet::new(),
                inside: None,
                session: None,
                bfd: None,
                ping: None,
            };
            let expected: BTreeSet<IpNet> = nets(expected).into_iter().collect();
            assert_eq!(abroad.carries(&owned), expected, "{selectors:?}");
        }
    }
}
