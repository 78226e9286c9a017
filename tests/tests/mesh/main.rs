//! The whole mesh, from specification to packets, seen from outside: three sites, two gateways
//! each, with real strongSwan, BIRD and kernel.
//!
//! Each test brings up a lab of its own, which is what takes most of the time; run them one at a time, through `tests/vm/run`.

mod disturb;
mod doctor;
mod down;
mod drain;
mod faults;
mod firewall;
mod identity;
mod matrix;
mod mtu;
mod reference;
mod steady;
mod stranger;
mod wireguard;

use std::time::Instant;

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::Result;
use routemesh_tests::lab::mesh::{Mesh, THREE_SITES};
use routemesh_tests::lab::report::say;
use routemesh_tests::lab::settle::{COLD, await_full};
use routemesh_tests::lab::topology::Gateway;

/// `V2-1` and the like.
const fn gateway(site: usize, member: usize) -> Gateway {
    Gateway { site, member }
}

/// The kind of tunnel that this run of the tests is about, in the specification's word.
fn tunnel() -> String {
    std::env::var("LAB_TUNNEL").unwrap_or_else(|_| "xfrm".into())
}

/// The same in the kernel's word, outer addresses being IPv6.
fn link_kind() -> &'static str {
    match tunnel().as_str() {
        "vti" => "vti6",
        _ => "xfrm",
    }
}

/// The example's specification, with tunnels of this run's kind. An emulated processor that starts
/// dozens of daemons may be silent for longer than BFD is told to wait on a real one.
fn spec() -> String {
    spec_with("bfd = { interval = \"300ms\", multiplier = 10 }")
}

/// The same with another line about the mesh.
fn spec_with(line: &str) -> String {
    spec_of(&tunnel(), line)
}

/// The same with tunnels of any kind.
fn spec_of(tunnel: &str, line: &str) -> String {
    let mesh = format!("[mesh]\ntunnel = \"{tunnel}\"\n{line}\n");
    THREE_SITES.replacen("[mesh]\n", &mesh, 1)
}

/// A mesh of the three sites, waited for until every tunnel carries every prefix.
fn mesh_up<'lab>(lab: &'lab Lab, spec: &str) -> Result<Mesh<'lab>> {
    let start = Instant::now();
    let mut mesh = Mesh::start(lab, spec)?;
    await_full(
        lab,
        &mut mesh,
        link_kind(),
        &lab.topology().gateways(),
        COLD,
    )?;
    let seconds = start.elapsed().as_secs_f64();
    say(format_args!("mesh is up, {seconds:.0} s after its start"));
    Ok(mesh)
}

/// The same with a third gateway at site three.
fn spec_with_v3_3() -> String {
    let third = r#"
[sites.three.gateways.V3-3]
endpoints = ["2001:db8:3::3"]
overlay = "V3-3-private"
routers = [{ address = "fd00:3::254", as = 65003 }]
"#;
    format!("{}{third}", spec())
}
