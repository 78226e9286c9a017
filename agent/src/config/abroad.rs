//! Tunnels to gateways that are not ours, as the config has them.

use super::{ConfigError, Fields, MAX_PREFIXES, TUNNELS};
use ipnet::IpNet;
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
    /// BGP with it; without, its prefixes are static.
    pub session: Option<Session>,
}

/// BGP with a gateway that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Our address within the tunnel, and the prefix that both are in.
    pub own: IpNet,
    /// The far end's.
    pub far: IpAddr,
    /// Its AS.
    pub asn: u32,
    /// What we propose, where it is not the mesh's.
    pub hold_time: Option<Duration>,
    /// The session ends when it announces more prefixes.
    pub max_prefixes: usize,
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
    Ok(Abroad {
        connection: raw.connection,
        local_id: id("local_id", &raw.local_id)?,
        remote_id: id("remote_id", &raw.remote_id)?,
        psk: Secret::from(raw.psk.as_str()),
        local_selectors: selectors("local_selectors", &raw.local_selectors)?,
        remote_selectors: selectors("remote_selectors", &raw.remote_selectors)?,
        sites: raw.sites.iter().cloned().collect(),
        session: match tunnel.peer_asn {
            0 => None,
            asn => Some(session(fields, tunnel, raw, asn)?),
        },
    })
}

fn session(
    fields: &Fields,
    tunnel: &proto::Tunnel,
    raw: &proto::Foreign,
    asn: u32,
) -> Result<Session, ConfigError> {
    let expected = "an address";
    let own: IpAddr = fields.parse("local_address", &tunnel.local_address, expected)?;
    let far: IpAddr = fields.parse("remote_address", &tunnel.remote_address, expected)?;
    let length = u8::try_from(raw.prefix_length).ok();
    let own = length.and_then(|length| IpNet::new(own, length).ok());
    let near = |net: &IpNet| net.contains(&far) && net.addr() != far;
    let Some(own) = own.filter(near) else {
        let value = raw.prefix_length.to_string();
        return Err(fields.wrong(
            "prefix_length",
            &value,
            "that of a prefix of both addresses",
        ));
    };
    let hold_time = match raw.hold_time {
        0 => None,
        seconds @ 3..=0xffff => Some(Duration::from_secs(seconds.into())),
        other => return Err(fields.wrong("hold_time", &other.to_string(), "3 to 65535 seconds")),
    };
    Ok(Session {
        own,
        far,
        asn,
        hold_time,
        max_prefixes: match raw.max_prefixes {
            0 => MAX_PREFIXES,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            parsed.map(|it| it.session.unwrap().own.to_string())
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
        ] {
            let parsed = parse(local, remote, length, hold_time);
            assert!(parsed.is_err(), "{local} {remote} {length} {hold_time}");
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
                session: None,
            };
            let expected: BTreeSet<IpNet> = nets(expected).into_iter().collect();
            assert_eq!(abroad.carries(&owned), expected, "{selectors:?}");
        }
    }
}
