//! `make demo` and `make lab`: the mesh from nothing, shown step by step, disturbed and healed.
//!
//!     demo          show it all, end with a summary
//!     demo shell    bring it up and open a shell
//!
//! With `KEEP=1` in the environment the first ends in a shell, too.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::mesh::{Mesh, THREE_SITES};
use routemesh_tests::lab::report::{say, wait_until};
use routemesh_tests::lab::settle::{COLD, SETTLE, await_full, await_paths};
use routemesh_tests::lab::sniff::{Counts, Kind, Sniffer, in_clear};
use routemesh_tests::lab::topology::{Gateway, PUBLIC, Topology, prefixes, private4, private6};
use routemesh_tests::lab::traffic::{Total, Traffic};

const V1_1: Gateway = Gateway { site: 1, member: 1 };
const V2_1: Gateway = Gateway { site: 2, member: 1 };

fn main() -> ExitCode {
    let shell_only = std::env::args().nth(1).is_some_and(|word| word == "shell");
    match if shell_only { look_around() } else { demo() } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThis went wrong: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let start = Instant::now();
    title("Three sites, two gateways each; nothing of Routemesh yet");
    let lab = Lab::start("demo", Topology::three_sites())?;
    let sniffer = Sniffer::start(lab.host(PUBLIC))?;

    title("A controller takes the specification, an agent starts on every gateway");
    let (mut mesh, cold) = bring_up(&lab)?;
    title("meshctl topology");
    wait_until("meshctl to see 12 edges up", COLD, || edges_up(&mesh))?;
    println!("{}", mesh.meshctl(&["topology"])?);

    title("R1 reaches R2 and R3, in both families");
    for site in [2, 3] {
        for (from, to) in [(private6(1), private6(site)), (private4(1), private4(site))] {
            let line = ping(&lab, &from, &to)?;
            println!("    {line}");
        }
    }

    let [prefix, _] = prefixes(2);
    title(&format!(
        "{prefix} at V1-1 has two equal paths, and flows use both"
    ));
    let via = lab.paths(V1_1)?.remove(&prefix).unwrap_or_default();
    let via: Vec<_> = via.into_iter().collect();
    println!("    V1-1 sends {prefix} through {}", via.join(" and "));
    let before = lab.sent_into_tunnels(V1_1)?;
    let traffic = Traffic::start(&lab, 1, 2)?;
    std::thread::sleep(Duration::from_secs(5));
    let steady = traffic.stop("demo: steady state")?;
    let shares = shares(&lab, &before)?;
    println!("    {shares}");

    title("V2-1 is cut off without a word: its port leaves the switch, its link stays up");
    let traffic = Traffic::start(&lab, 1, 2)?;
    std::thread::sleep(Duration::from_secs(2));
    lab.cut(V2_1)?;
    let cut_at = Instant::now();
    await_paths(&lab, &[V2_1], SETTLE)?;
    let around = cut_at.elapsed();
    say("all traffic takes V2-2");
    std::thread::sleep(Duration::from_secs(3));
    let cut = traffic.stop("demo: V2-1 cut off")?;
    println!("    {}", ping(&lab, &private6(1), &private6(2))?);

    title("V2-1 comes back");
    let traffic = Traffic::start(&lab, 1, 2)?;
    lab.mend(V2_1)?;
    let mended = Instant::now();
    await_full(
        &lab,
        &mut mesh,
        "xfrm",
        &lab.topology().gateways(),
        SETTLE * 2,
    )?;
    let back = mended.elapsed();
    let taken_back = traffic.stop("demo: V2-1 put back")?;
    let public = sniffer.stop()?;

    summary(&Summary {
        cold,
        steady,
        shares,
        cut,
        around,
        taken_back,
        back,
        public,
        whole: start.elapsed(),
    });
    if std::env::var_os("KEEP").is_some_and(|keep| keep != "0") {
        shell(&lab)?;
    } else {
        println!("  `make demo KEEP=1` leaves the mesh up, with a shell to look around.\n");
    }
    lab.passed()
}

fn look_around() -> Result<()> {
    let lab = Lab::start("shell", Topology::three_sites())?;
    let (_mesh, _) = bring_up(&lab)?;
    shell(&lab)?;
    lab.passed()
}

/// The mesh up, and how long it took.
fn bring_up(lab: &Lab) -> Result<(Mesh<'_>, Duration)> {
    let mut mesh = Mesh::without_agents(lab, THREE_SITES)?;
    let start = Instant::now();
    say("an agent on every gateway");
    for gateway in lab.topology().gateways() {
        mesh.start_agent(gateway)?;
    }
    await_full(lab, &mut mesh, "xfrm", &lab.topology().gateways(), COLD)?;
    Ok((mesh, start.elapsed()))
}

fn edges_up(mesh: &Mesh<'_>) -> Result<()> {
    let topology = mesh.topology()?;
    let edges = topology["edges"].as_array().cloned().unwrap_or_default();
    let up = edges.iter().filter(|edge| edge["verdict"] == "up").count();
    if up == 12 {
        return Ok(());
    }
    Err(LabError::Unexpected(format!(
        "{up} of {} edges up",
        edges.len()
    )))
}

/// The line of a ping that says how it went.
fn ping(lab: &Lab, from: &str, to: &str) -> Result<String> {
    let mut line = String::new();
    wait_until(&format!("a ping from {from} to {to}"), SETTLE, || {
        let words = ["ping", "-n", "-c1", "-W2", "-I", from, to];
        let text = lab.router(1).run(&words)?;
        line = text.lines().nth(1).unwrap_or_default().to_owned();
        Ok(())
    })?;
    Ok(line)
}

/// How many packets V1-1 has sent since into each tunnel to site two.
fn shares(lab: &Lab, before: &BTreeMap<String, u64>) -> Result<String> {
    let after = lab.sent_into_tunnels(V1_1)?;
    let mut parts = Vec::new();
    for tunnel in lab.tunnels_of(V1_1) {
        let peer = tunnel.peer(V1_1);
        if peer.site == 2 {
            let interface = tunnel.interface();
            let count = |counts: &BTreeMap<String, u64>| counts.get(&interface).copied();
            let sent = count(&after).unwrap_or(0) - count(before).unwrap_or(0);
            if sent == 0 {
                return Err(LabError::Unexpected(format!("no flow used {interface}")));
            }
            parts.push(format!("{sent} packets to {} on {interface}", peer.name()));
        }
    }
    Ok(parts.join(", "))
}

struct Summary {
    cold: Duration,
    steady: Total,
    shares: String,
    cut: Total,
    around: Duration,
    taken_back: Total,
    back: Duration,
    public: Counts,
    whole: Duration,
}

fn summary(it: &Summary) {
    let seconds = |duration: Duration| format!("{:.1} s", duration.as_secs_f64());
    let count = |kind: &Kind| it.public.get(kind).copied().unwrap_or_default();
    title("Measured");
    for (what, value) in [
        ("Agents started to full mesh", seconds(it.cold)),
        ("At rest", it.steady.to_string()),
        ("Shared by two paths at V1-1", it.shares.clone()),
        ("V2-1 cut off", it.cut.to_string()),
        ("  gone from every table after", seconds(it.around)),
        ("V2-1 back", it.taken_back.to_string()),
        ("  two paths everywhere after", seconds(it.back)),
        (
            "On the public side",
            format!(
                "{} ESP, {} IKE, {} of the controller, {} in clear",
                count(&Kind::Esp),
                count(&Kind::Ike),
                count(&Kind::Controller),
                in_clear(&it.public)
            ),
        ),
        ("This demo, from nothing", seconds(it.whole)),
    ] {
        println!("    {what:30} {value}");
    }
    println!();
}

fn title(text: &str) {
    println!("\n\x1b[1m{text}\x1b[0m\n");
}

/// A shell with words to reach every host.
fn shell(lab: &Lab) -> Result<()> {
    let rc = lab.host(PUBLIC).dir().join("shell");
    let text = include_str!("shell.sh").replace(
        "@BIN@",
        concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release"),
    );
    std::fs::write(&rc, text).map_err(LabError::io("shell"))?;
    Command::new("bash")
        .arg("--rcfile")
        .arg(&rc)
        .arg("-i")
        .status()
        .map(drop)
        .map_err(LabError::io("bash"))
}
