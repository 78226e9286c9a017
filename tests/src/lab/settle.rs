//! Waiting until the mesh is as the specification has it.

use std::time::{Duration, Instant};

use super::Lab;
use super::error::Result;
use super::mesh::Mesh;
use super::report::{say, wait_until};
use super::topology::{Gateway, prefixes, router};

/// How long a mesh may take from cold, with every processor emulated and shared.
pub const COLD: Duration = Duration::from_secs(180);
/// How long anything else may take to settle: the hold time, twice, and some seconds for
/// retries and an emulated processor.
pub const SETTLE: Duration = Duration::from_secs(60);

/// Waits until the mesh of these gateways is complete: all tunnel ends, all paths, all routers.
/// `kind` is that of the interfaces, in the kernel's words.
pub fn await_full(
    lab: &Lab,
    mesh: &mut Mesh<'_>,
    kind: &str,
    present: &[Gateway],
    deadline: Duration,
) -> Result<()> {
    let end = Instant::now() + deadline;
    let left = || end.saturating_duration_since(Instant::now());
    let mut ends = 0;
    for &gateway in present {
        let name = gateway.name();
        let mut tunnels = lab.tunnels_of(gateway);
        tunnels.retain(|tunnel| present.contains(&tunnel.peer(gateway)));
        wait_until(&format!("all tunnels of {name}"), left(), || {
            mesh.check()?;
            lab.check_ends(gateway, kind, &tunnels)
        })?;
        ends += tunnels.len();
    }
    say(format_args!("{ends} tunnel ends up: interface, IPsec, BGP"));
    let mut absent = lab.topology().gateways();
    absent.retain(|gateway| !present.contains(gateway));
    await_paths(lab, &absent, left())?;
    say("every gateway and router has every path");
    Ok(())
}

/// Waits until every gateway and router has the paths that are right without the absent ones.
pub fn await_paths(lab: &Lab, absent: &[Gateway], deadline: Duration) -> Result<()> {
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
