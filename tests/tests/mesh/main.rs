//! The whole mesh, from specification to packets, seen from outside: three sites, two gateways
//! each, with real strongSwan, BIRD and kernel.
//!
//! Each test brings up a lab of its own; run them one at a time, through `tests/vm/run`.

mod disturb;
mod steady;

use std::time::{Duration, Instant};

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::Result;
use routemesh_tests::lab::mesh::{Mesh, THREE_SITES};
use routemesh_tests::lab::probe::{Probe, ProbeReport};
use routemesh_tests::lab::report::{measured, say, wait_until};
use routemesh_tests::lab::topology::{Gateway, prefixes, private4, private6, router};

/// How long a mesh may take from cold, with every processor emulated and shared.
const COLD: Duration = Duration::from_secs(180);
/// How long anything else may take to settle: the hold time, twice, and some seconds for
/// retries and an emulated processor.
const SETTLE: Duration = Duration::from_secs(60);

/// `V2-1` and the like.
const fn gateway(site: usize, member: usize) -> Gateway {
    Gateway { site, member }
}

/// A mesh of the three sites, waited for until every tunnel carries every prefix.
fn mesh_up<'lab>(lab: &'lab Lab, spec: &str, kind: &str) -> Result<Mesh<'lab>> {
    let start = Instant::now();
    let mut mesh = Mesh::start(lab, spec)?;
    await_full(lab, &mut mesh, kind, &lab.topology().gateways(), COLD)?;
    say(format_args!(
        "mesh is up, {:.0} s after its start",
        start.elapsed().as_secs_f64()
    ));
    Ok(mesh)
}

/// Waits until the mesh of these gateways is complete: all ends, all paths, all routers.
fn await_full(
    lab: &Lab,
    mesh: &mut Mesh<'_>,
    kind: &str,
    present: &[Gateway],
    deadline: Duration,
) -> Result<()> {
    let end = Instant::now() + deadline;
    let left = || end.saturating_duration_since(Instant::now());
    for &gateway in present {
        let name = gateway.name();
        let mut tunnels = lab.tunnels_of(gateway);
        tunnels.retain(|tunnel| present.contains(&tunnel.peer(gateway)));
        wait_until(&format!("all tunnels of {name}"), left(), || {
            mesh.check()?;
            lab.check_ends(gateway, kind, &tunnels)
        })?;
    }
    let absent = lab.topology().gateways();
    let absent: Vec<_> = absent
        .into_iter()
        .filter(|g| !present.contains(g))
        .collect();
    await_paths(lab, &absent, left())
}

/// Waits until every gateway and router has the paths that are right without the absent ones.
fn await_paths(lab: &Lab, absent: &[Gateway], deadline: Duration) -> Result<()> {
    let end = Instant::now() + deadline;
    let left = || end.saturating_duration_since(Instant::now());
    let mut present = lab.topology().gateways();
    present.retain(|gateway| !absent.contains(gateway));
    for &gateway in &present {
        let expected = lab.expected_paths(gateway, &present);
        wait_until(&format!("paths of {}", gateway.name()), left(), || {
            lab.check_paths(gateway, &expected)
        })?;
    }
    for site in lab.topology().site_numbers() {
        let wanted = present.iter().filter(|g| g.site == site).count();
        for other in lab.topology().site_numbers().filter(|s| *s != site) {
            for prefix in prefixes(other) {
                wait_until(&format!("paths of {}", router(site)), left(), || {
                    lab.check_router(site, &prefix, wanted)
                })?;
            }
        }
    }
    Ok(())
}

/// Probes both ways and both families between two sites.
struct Traffic(Vec<Probe>);

/// Datagrams a second of each of the four probes.
const RATE: u32 = 100;
/// Flows of each of the four probes.
const FLOWS: usize = 16;

impl Traffic {
    fn start(lab: &Lab, one: usize, other: usize) -> Result<Self> {
        let mut probes = Vec::new();
        for (from, to) in [(one, other), (other, one)] {
            for address in [private6, private4] {
                probes.push(Probe::start(
                    (lab.router(from), &address(from)),
                    (lab.router(to), &address(to)),
                    FLOWS,
                    RATE,
                )?);
            }
        }
        Ok(Self(probes))
    }

    /// Ends it, says and records what each probe measured, and gives the sum.
    fn stop(self, what: &str) -> Result<Total> {
        let reports: Result<Vec<_>> = self.0.into_iter().map(Probe::stop).collect();
        let reports = reports?;
        for report in &reports {
            say(format_args!("  {report}"));
        }
        let total = Total::of(&reports);
        let gap = total.longest_gap.as_secs_f64();
        measured(
            what,
            format_args!(
                "{} of {} packets lost, longest gap {gap:.2} s",
                total.lost, total.sent
            ),
        );
        Ok(total)
    }
}

/// All probes together.
struct Total {
    sent: usize,
    lost: usize,
    longest_gap: Duration,
    last_loss: Duration,
}

impl Total {
    fn of(reports: &[ProbeReport]) -> Self {
        let durations = |pick: fn(&ProbeReport) -> Duration| reports.iter().map(pick).max();
        Self {
            sent: reports.iter().map(|r| r.sent).sum(),
            lost: reports.iter().map(|r| r.lost).sum(),
            longest_gap: durations(|r| r.longest_gap).unwrap_or_default(),
            last_loss: durations(|r| r.last_loss.unwrap_or_default()).unwrap_or_default(),
        }
    }
}

/// The example's specification with tunnels of another kind.
fn spec_with_vti() -> String {
    THREE_SITES.replacen("[mesh]\n", "[mesh]\ntunnel = \"vti\"\n", 1)
}

/// The example's specification with a third gateway at site three.
fn spec_with_v3_3() -> String {
    let fourth = r#"
[sites.three.gateways.V3-3]
endpoints = ["2001:db8:3::3"]
overlay = "V3-3-private"
routers = [{ address = "fd00:3::254", as = 65003 }]
"#;
    format!("{THREE_SITES}{fourth}")
}
