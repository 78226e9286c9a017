//! What the controller sees, in figures for Prometheus; `docs/metrics.md` lists them. Pure.

use routemesh_metrics::{Labels, Page};
use routemesh_proto::{Topology, Validity};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Work of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// How often it was done.
    pub count: u64,
    /// How long it took in all.
    pub time: Duration,
}

/// A certificate's time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose: "controller", "authority".
    pub of: &'static str,
    /// From when to when.
    pub validity: Validity,
}

/// How the mesh is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Gateways by verdict, as `meshctl topology` has it.
    pub gateways: BTreeMap<String, u64>,
    /// Tunnels by verdict.
    pub tunnels: BTreeMap<&'static str, u64>,
    /// Seconds since each gateway's last report.
    pub reported: BTreeMap<String, u64>,
}

impl Survey {
    /// Of what an operator would be shown.
    pub fn of(topology: &Topology) -> Self {
        // Those that there are none of as well: an alert needs a value.
        let verdicts = ["ok", "stale", "behind", "problem", "never seen"];
        let mut gateways: BTreeMap<String, u64> =
            verdicts.into_iter().map(|it| (it.to_owned(), 0)).collect();
        for view in &topology.gateways {
            *gateways.entry(view.verdict.clone()).or_default() += 1;
        }
        let reported = topology.gateways.iter();
        let reported = reported.filter_map(|view| Some((view.name.clone(), view.reported?)));
        let counts = topology.edge_counts.unwrap_or_default();
        Self {
            gateways,
            tunnels: BTreeMap::from([
                ("up", counts.up),
                ("degraded", counts.degraded),
                ("down", counts.down),
                ("unknown", counts.unknown),
            ]),
            reported: reported.collect(),
        }
    }
}

/// All that is known.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// In force; 0 for none.
    pub generation: u64,
    /// Agents that are attached.
    pub agents: u64,
    /// Connections by kind.
    pub connections: [(&'static str, u64); 3],
    /// What was refused, by reason.
    pub refusals: BTreeMap<&'static str, u64>,
    /// What was done, by what it is.
    pub work: BTreeMap<&'static str, Work>,
    /// How often the store failed.
    pub store_errors: u64,
    /// The controller's own, and the authority's.
    pub certificates: Vec<Certificate>,
    /// Not at first: it takes a while.
    pub survey: Option<Survey>,
}

/// The figures of a controller.
pub fn page(seen: &Seen) -> Page {
    let mut page = Page::default();
    let version = label("version", env!("CARGO_PKG_VERSION"));
    page.gauge(
        "controller_info",
        "Version of mesh-controller",
        [(version, 1)],
    );
    page.gauge(
        "controller_generation",
        "Generation in force; 0 for none",
        [(Labels::new(), seen.generation)],
    );
    page.gauge(
        "controller_agents",
        "Agents that are attached",
        [(Labels::new(), seen.agents)],
    );
    let connections = seen.connections.iter();
    page.gauge(
        "controller_connections",
        "Connections, by what is known of who is at the other end",
        connections.map(|(kind, count)| (label("kind", kind), *count)),
    );
    let refusals = seen.refusals.iter();
    page.counter(
        "controller_refusals",
        "Calls and connections that were refused",
        refusals.map(|(reason, count)| (label("reason", reason), *count)),
    );
    page.counter(
        "controller_store_errors",
        "How often something could not be kept or read",
        [(Labels::new(), seen.store_errors)],
    );
    let work = seen.work.iter();
    page.counter(
        "controller_work",
        "What was done that takes a processor a while",
        work.clone()
            .map(|(what, work)| (label("work", what), work.count)),
    );
    page.seconds(
        "controller_work_seconds",
        "For how long that took processors and the disk",
        work.map(|(what, work)| (label("work", what), work.time)),
    );
    certificates(&mut page, &seen.certificates);
    if let Some(survey) = &seen.survey {
        mesh(&mut page, survey);
    }
    page
}

fn certificates(page: &mut Page, all: &[Certificate]) {
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    page.gauge(
        "certificate_expires_seconds",
        "When the certificate runs out, in seconds since 1970",
        all.iter()
            .map(|it| (label("of", it.of), seconds(it.validity.to))),
    );
    let lifetime = |it: &Certificate| {
        seconds(it.validity.to) - seconds(it.validity.from).min(seconds(it.validity.to))
    };
    page.gauge(
        "certificate_lifetime_seconds",
        "For how long it is good in all",
        all.iter().map(|it| (label("of", it.of), lifetime(it))),
    );
}

fn mesh(page: &mut Page, survey: &Survey) {
    let gateways = survey.gateways.iter();
    page.gauge(
        "controller_gateways",
        "Gateways by verdict, as `meshctl topology` has it",
        gateways.map(|(verdict, count)| (label("verdict", verdict), *count)),
    );
    let tunnels = survey.tunnels.iter();
    page.gauge(
        "controller_tunnels",
        "Tunnels by verdict",
        tunnels.map(|(verdict, count)| (label("verdict", verdict), *count)),
    );
    let reported = survey.reported.iter();
    page.gauge(
        "controller_report_age_seconds",
        "Since the gateway's last report",
        reported.map(|(gateway, age)| (label("gateway", gateway), *age)),
    );
}

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_proto::{EdgeCounts, GatewayView};
    use std::collections::BTreeSet;

    /// With a value for every figure.
    fn seen() -> Seen {
        let view = |name: &str, verdict: &str, reported| GatewayView {
            name: name.to_owned(),
            verdict: verdict.to_owned(),
            reported,
            ..GatewayView::default()
        };
        let topology = Topology {
            gateways: vec![
                view("A", "ok", Some(3)),
                view("B", "stale", Some(99)),
                view("C", "never seen", None),
            ],
            edge_counts: Some(EdgeCounts {
                up: 2,
                unknown: 1,
                ..EdgeCounts::default()
            }),
            ..Topology::default()
        };
        let day = Duration::from_secs(86_400);
        Seen {
            generation: 7,
            agents: 2,
            connections: [("handshake", 5), ("no certificate", 6), ("certificate", 8)],
            refusals: BTreeMap::from([("revoked", 4)]),
            work: BTreeMap::from([(
                "apply",
                Work {
                    count: 3,
                    time: Duration::from_millis(1500),
                },
            )]),
            store_errors: 1,
            certificates: vec![Certificate {
                of: "controller",
                validity: Validity {
                    from: UNIX_EPOCH + day,
                    to: UNIX_EPOCH + 31 * day,
                },
            }],
            survey: Some(Survey::of(&topology)),
        }
    }

    #[test]
    fn what_is_seen_becomes_figures() {
        let text = page(&seen()).text().unwrap();
        for line in [
            "controller_generation{} 7",
            "controller_agents{} 2",
            r#"controller_connections{kind="no certificate"} 6"#,
            r#"controller_refusals_total{reason="revoked"} 4"#,
            "controller_store_errors_total{} 1",
            r#"controller_work_total{work="apply"} 3"#,
            r#"controller_work_seconds_total{work="apply"} 1.5"#,
            r#"certificate_expires_seconds{of="controller"} 2678400"#,
            r#"certificate_lifetime_seconds{of="controller"} 2592000"#,
            r#"controller_gateways{verdict="stale"} 1"#,
            r#"controller_gateways{verdict="problem"} 0"#,
            r#"controller_tunnels{verdict="up"} 2"#,
            r#"controller_tunnels{verdict="down"} 0"#,
            r#"controller_report_age_seconds{gateway="B"} 99"#,
        ] {
            let line = format!("\nroutemesh_{line}\n");
            assert!(format!("\n{text}").contains(&line), "{line} in {text}");
        }
    }

    #[test]
    fn the_page_about_them_has_them_all() {
        let text = page(&seen()).text().unwrap();
        let told: BTreeSet<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(['{', ' ']).next()?.strip_prefix("routemesh_"))
            .collect();
        let docs = include_str!("../../docs/metrics.md");
        let (_, section) = docs.split_once("## Of the controller").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let listed: BTreeSet<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `routemesh_")?.split(['{', '`']).next())
            .collect();
        assert_eq!(told, listed);
    }
}
