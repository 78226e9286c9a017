//! A report in figures, for Prometheus; `docs/metrics.md` lists them. Pure.

use routemesh_metrics::{Labels, Page};
use routemesh_proto::{BgpStatus, Invalid, Status, TunnelStatus};

/// The figures of a gateway.
pub fn page(status: &Status) -> Page {
    let mut page = Page::default();
    gateway(&mut page, status);
    tunnels(&mut page, &status.tunnels);
    sessions(&mut page, status);
    page
}

fn gateway(page: &mut Page, status: &Status) {
    let version = label("version", &status.version);
    page.gauge("agent_info", "Version of mesh-agent", [(version, 1)]);
    let listed = [
        (
            "config_generation",
            "Generation of the config in force; 0 for none",
            status.generation,
        ),
        (
            "drain",
            "1 while all peers are asked to use any other way",
            u64::from(status.drain),
        ),
        (
            "routes",
            "Routes of the mesh in the kernel that carry traffic",
            status.routes_total,
        ),
        (
            "announced_prefixes",
            "Prefixes of this site that are announced to the mesh",
            status.announced_total,
        ),
        (
            "rejected_prefixes",
            "Prefixes that peers announce and that are refused",
            status.rejected_total,
        ),
        (
            "problems",
            "Objects that could not be made as they should be; `meshctl get gateways` names them",
            status.problems.len() as u64,
        ),
    ];
    for (name, help, value) in listed {
        page.gauge(name, help, [(Labels::new(), value)]);
    }
    let own = status.certificate.iter();
    let of = || label("of", "gateway");
    page.gauge(
        "certificate_expires_seconds",
        "When the certificate runs out, in seconds since 1970",
        own.clone().map(|it| (of(), it.to)),
    );
    page.gauge(
        "certificate_lifetime_seconds",
        "For how long it is good in all",
        own.map(|it| (of(), it.to.saturating_sub(it.from))),
    );
    let found = ["fails", "risk"].map(|severity| {
        let findings = status.findings.iter();
        let count = findings.filter(|it| it.severity == severity).count();
        (label("severity", severity), count as u64)
    });
    let help = "What is wrong with the host; `meshctl doctor` tells";
    page.gauge("host_findings", help, found);
    let repairs = status.repairs.iter();
    page.counter(
        "repairs",
        "Objects that somebody else changed or deleted, and that were put back",
        repairs.map(|it| (label("object", &it.object), it.count)),
    );
    page.counter(
        "invalid_packets",
        "Packets outside of tunnels that the mesh does not allow",
        status.invalid.iter().map(|it| invalid(Labels::new(), it)),
    );
}

fn tunnels(page: &mut Page, tunnels: &[TunnelStatus]) {
    for (name, help, value) in OF_TUNNELS {
        let has = |it| value(it).map(|value| (of_tunnel(it), value));
        page.gauge(name, help, tunnels.iter().filter_map(has));
    }
    let downs = |it: &TunnelStatus| it.bfd.as_ref().map(|bfd| (of_tunnel(it), bfd.downs));
    page.counter(
        "tunnel_bfd_downs",
        "How often BFD heard the far end no more",
        tunnels.iter().filter_map(downs),
    );
    let dropped = |it: &'_ TunnelStatus| -> Vec<(Labels, u64)> {
        let all = it.invalid.iter();
        all.map(|dropped| invalid(of_tunnel(it), dropped)).collect()
    };
    page.counter(
        "tunnel_invalid_packets",
        "Packets in the tunnel that the mesh does not allow",
        tunnels.iter().flat_map(dropped),
    );
}

type Figure<T, V> = (&'static str, &'static str, fn(&T) -> V);

const OF_TUNNELS: [Figure<TunnelStatus, Option<u64>>; 7] = [
    (
        "tunnel_up",
        "1 while the tunnel carries traffic: SA, interface, BFD and BGP session are up, and have been for long enough",
        |it| Some(u64::from(up(it))),
    ),
    (
        "tunnel_ike_up",
        "1 while there are an IKE_SA and an installed CHILD_SA",
        |it| Some(u64::from(it.ike == "up")),
    ),
    (
        "tunnel_interface_up",
        "1 while the interface can carry packets",
        |it| Some(u64::from(it.interface == "up")),
    ),
    ("tunnel_bfd_up", "1 while BFD hears the far end", |it| {
        it.bfd.as_ref().map(|bfd| u64::from(bfd.state == "Up"))
    }),
    (
        "tunnel_mtu_bytes",
        "The largest packet that the tunnel carries",
        |it| Some(u64::from(it.mtu)).filter(|mtu| *mtu > 0),
    ),
    (
        "tunnel_held_seconds",
        "For how long the tunnel, alive again, is not used yet",
        |it| it.liveness.as_ref().map(|it| it.held),
    ),
    (
        "tunnel_deaths",
        "How often the tunnel died since it was last steady",
        |it| it.liveness.as_ref().map(|it| u64::from(it.deaths)),
    ),
];

/// As an end of an edge in `meshctl topology` is.
fn up(tunnel: &TunnelStatus) -> bool {
    let session = tunnel.bgp.as_ref().is_none_or(|it| established(it) == 1);
    let liveness = tunnel.liveness.as_ref();
    let alive = liveness.is_none_or(|it| it.state == "alive");
    tunnel.ike == "up" && tunnel.interface == "up" && session && alive
}

fn sessions(page: &mut Page, status: &Status) {
    let over_tunnels = status.tunnels.iter();
    let over_tunnels = over_tunnels.filter_map(|it| Some((of_tunnel(it), it.bgp.as_ref()?)));
    let with_routers = status.routers.iter();
    let with_routers =
        with_routers.filter_map(|it| Some((label("peer", &it.address), it.bgp.as_ref()?)));
    let sessions: Vec<(Labels, &BgpStatus)> = over_tunnels.chain(with_routers).collect();
    let values = |value: fn(&BgpStatus) -> u64| {
        let all = sessions.iter();
        all.map(move |(labels, session)| (labels.clone(), value(session)))
    };
    for (name, help, value) in OF_SESSIONS {
        page.gauge(name, help, values(value));
    }
    for (name, help, value) in COUNTED {
        page.counter(name, help, values(value));
    }
    let faults = sessions.iter().flat_map(|(labels, session)| {
        session.faults.iter().map(|fault| {
            let mut labels = labels.clone();
            labels.extend(label("action", &fault.action));
            (labels, fault.count)
        })
    });
    page.counter(
        "bgp_malformed_attributes",
        "Malformed attributes, by what was done about them (RFC 7606)",
        faults,
    );
}

const OF_SESSIONS: [Figure<BgpStatus, u64>; 6] = [
    ("bgp_up", "1 while the session is established", established),
    (
        "bgp_received_prefixes",
        "Prefixes that the peer announces",
        |it| it.received.into(),
    ),
    (
        "bgp_accepted_prefixes",
        "Prefixes of these that may be used",
        |it| it.accepted.into(),
    ),
    (
        "bgp_rejected_prefixes",
        "Prefixes of these that are refused",
        |it| it.rejected.into(),
    ),
    (
        "bgp_advertised_prefixes",
        "Prefixes that the peer is told",
        |it| it.advertised.into(),
    ),
    (
        "bgp_max_prefixes",
        "The session ends when more are announced; 0 for no limit",
        |it| it.max_prefixes.into(),
    ),
];

const COUNTED: [Figure<BgpStatus, u64>; 3] = [
    ("bgp_sessions", "Sessions that were established", |it| {
        it.sessions
    }),
    ("bgp_received_messages", "Messages from the peer", |it| {
        it.messages_received
    }),
    ("bgp_sent_messages", "Messages to the peer", |it| {
        it.messages_sent
    }),
];

fn established(session: &BgpStatus) -> u64 {
    u64::from(session.state == "Established")
}

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

fn of_tunnel(tunnel: &TunnelStatus) -> Labels {
    let mut labels = label("peer", &tunnel.peer);
    labels.push(("interface", format!("rm{}", tunnel.number)));
    labels
}

fn invalid(mut labels: Labels, invalid: &Invalid) -> (Labels, u64) {
    labels.extend(label("reason", &invalid.reason));
    (labels, invalid.packets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_proto::{
        BfdStatus, CertificateStatus, Fault, Finding, LivenessStatus, Problem, Repair, RouterStatus,
    };
    use std::collections::BTreeSet;

    /// With a value for every figure.
    fn status() -> Status {
        let session = |state: &str| BgpStatus {
            state: state.to_owned(),
            received: 7,
            accepted: 5,
            rejected: 2,
            advertised: 3,
            max_prefixes: 100,
            sessions: 4,
            messages_received: 11,
            messages_sent: 12,
            faults: vec![Fault {
                attribute: 2,
                action: "treat as withdraw".to_owned(),
                count: 9,
            }],
            ..BgpStatus::default()
        };
        let dropped = || Invalid {
            reason: "in: not for us".to_owned(),
            packets: 21,
        };
        let tunnel = |number, ike: &str, state: &str| TunnelStatus {
            number,
            peer: "V2-1".to_owned(),
            ike: ike.to_owned(),
            interface: "up".to_owned(),
            bgp: Some(session("Established")),
            bfd: Some(BfdStatus {
                state: "Up".to_owned(),
                downs: 2,
                ..BfdStatus::default()
            }),
            liveness: Some(LivenessStatus {
                state: state.to_owned(),
                held: 8,
                deaths: 3,
                ..LivenessStatus::default()
            }),
            invalid: vec![dropped()],
            mtu: 1426,
            ..TunnelStatus::default()
        };
        Status {
            generation: 6,
            version: "0.1.0".to_owned(),
            tunnels: vec![
                tunnel(4, "up", "alive"),
                tunnel(5, "up", "held"),
                tunnel(6, "down", "alive"),
            ],
            routers: vec![RouterStatus {
                address: "fd00:1::254".to_owned(),
                bgp: Some(session("Active")),
                ..RouterStatus::default()
            }],
            problems: vec![Problem::default()],
            announced_total: 13,
            routes_total: 14,
            rejected_total: 15,
            invalid: vec![dropped()],
            drain: true,
            certificate: Some(CertificateStatus {
                from: 1_000,
                to: 9_000,
                ..CertificateStatus::default()
            }),
            repairs: vec![Repair {
                object: "route".to_owned(),
                count: 16,
            }],
            findings: vec![Finding {
                severity: "risk".to_owned(),
                ..Finding::default()
            }],
            ..Status::default()
        }
    }

    #[test]
    fn a_report_becomes_figures() {
        let text = page(&status()).text().unwrap();
        for line in [
            r#"agent_info{version="0.1.0"} 1"#,
            "config_generation{} 6",
            "drain{} 1",
            "routes{} 14",
            "announced_prefixes{} 13",
            "rejected_prefixes{} 15",
            "problems{} 1",
            r#"certificate_expires_seconds{of="gateway"} 9000"#,
            r#"certificate_lifetime_seconds{of="gateway"} 8000"#,
            r#"host_findings{severity="fails"} 0"#,
            r#"host_findings{severity="risk"} 1"#,
            r#"repairs_total{object="route"} 16"#,
            r#"invalid_packets_total{reason="in: not for us"} 21"#,
            r#"tunnel_up{peer="V2-1",interface="rm4"} 1"#,
            r#"tunnel_up{peer="V2-1",interface="rm5"} 0"#,
            r#"tunnel_up{peer="V2-1",interface="rm6"} 0"#,
            r#"tunnel_ike_up{peer="V2-1",interface="rm6"} 0"#,
            r#"tunnel_bfd_downs_total{peer="V2-1",interface="rm4"} 2"#,
            r#"tunnel_mtu_bytes{peer="V2-1",interface="rm4"} 1426"#,
            r#"tunnel_invalid_packets_total{peer="V2-1",interface="rm4",reason="in: not for us"} 21"#,
            r#"bgp_up{peer="V2-1",interface="rm4"} 1"#,
            r#"bgp_up{peer="fd00:1::254"} 0"#,
            r#"bgp_accepted_prefixes{peer="V2-1",interface="rm4"} 5"#,
            r#"bgp_malformed_attributes_total{peer="V2-1",interface="rm4",action="treat as withdraw"} 9"#,
        ] {
            let line = format!("\nroutemesh_{line}\n");
            assert!(format!("\n{text}").contains(&line), "{line} in {text}");
        }
    }

    #[test]
    fn the_page_about_them_has_them_all() {
        let text = page(&status()).text().unwrap();
        let told: BTreeSet<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(['{', ' ']).next())
            .collect();
        let docs = include_str!("../../docs/metrics.md");
        let (_, section) = docs.split_once("## Of a gateway").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let listed: BTreeSet<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `routemesh_")?.split(['{', '`']).next())
            .collect();
        let told: BTreeSet<&str> = told
            .iter()
            .filter_map(|name| name.strip_prefix("routemesh_"))
            .collect();
        assert_eq!(told, listed);
    }
}
