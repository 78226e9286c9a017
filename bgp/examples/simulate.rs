//! A full mesh of speakers under virtual time, in this process: all sessions come up, a quarter of
//! the links fails at random, and all is well again. Prints how long that took, and the memory.
//!
//!     cargo run --release -p routemesh-bgp --example simulate -- [SPEAKERS] [SEED]

#![allow(clippy::unwrap_used)]

#[path = "../tests/speaker/mesh.rs"]
mod mesh;
// The tests use more of it.
#[allow(dead_code)]
#[path = "../tests/speaker/network.rs"]
mod network;
#[allow(dead_code)]
#[path = "../tests/speaker/tcp.rs"]
mod tcp;

use std::time::Instant;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| match arguments.next() {
        Some(text) => text.parse().expect("a number"),
        None => default,
    };
    let (speakers, seed) = (number(200), number(1));
    let start = Instant::now();
    let report = mesh::run(
        u16::try_from(speakers).expect("at most 65535 speakers"),
        seed,
    );
    let sessions = speakers * (speakers - 1) / 2;
    println!("{speakers} speakers, {sessions} sessions, seed {seed}");
    println!(
        "up after {:.1} s of virtual time",
        report.started.as_secs_f64()
    );
    println!(
        "{} ends of sessions lost; all well {:.1} s after the last fault",
        report.lost,
        report.mended.as_secs_f64()
    );
    println!("took {:.1} s", start.elapsed().as_secs_f64());
    if let Some(peak) = peak_memory() {
        let each = peak / speakers;
        println!("peak memory {} MB, {each} kB per speaker", peak / 1024);
    }
}

/// In kB, as the kernel counts it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
