//! What is asked of gateways now.

use super::unless;
use crate::client::Client;
use crate::context::Context;
use crate::doctor;
use crate::failure::Failure;
use crate::output::{Format, Output, line, print, put, show};
use crate::table::{self, Look};
use clap::{Args, Subcommand};
use routemesh_proto::{
    CaptureRequest, Diagnosis, DoctorRequest, Echo, Event, EventsRequest, GatewayView,
    GetTopologyRequest, LogLine, LogsRequest, PingRequest, TraceRequest,
};
use serde::Serialize;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

#[derive(Subcommand)]
pub(crate) enum Ask {
    /// Say why something does not work: climb from the network outside up to the routes, and stop at the first
    /// rung that is broken, with the likely cause and what to do.
    #[command(
        after_help = "Exit status: 0 if nothing is broken, 2 if something is or could not be asked, 1 on errors."
    )]
    Doctor(Doctor),
    /// Show where a gateway sends packets to an address, why, and how the answers come back.
    #[command(
        after_help = "Exit status: 0 if there is a way there and back, 2 if not, 1 on errors."
    )]
    Trace(Trace),
    /// Ping from a gateway: through a tunnel, or as its routes lead.
    #[command(after_help = "Exit status: 0 if there was an answer, 2 if not, 1 on errors.")]
    Ping(Ping),
    /// Capture packets of a tunnel at a gateway, into a file or, with -w -, for Wireshark's standard input.
    ///
    /// Who captures what is noted (`meshctl audit`).
    Capture(Capture),
    /// Show what a gateway's agent logged lately.
    Logs(Logs),
    /// Show what changed in the mesh: tunnels, gateways, generations, drains, refused prefixes.
    Events(Events),
}

#[derive(Args)]
pub(crate) struct Doctor {
    /// Only what is of this gateway.
    gateway: Option<String>,
    /// Only the tunnels between the two.
    peer: Option<String>,
    /// Show the rungs that hold as well.
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct Trace {
    /// Where the packets are.
    gateway: String,
    /// Where they go.
    address: String,
    /// Whence they come, where that is not the gateway itself.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// tcp, udp or a protocol's number: with the ports, it decides which of several ways a flow takes.
    #[arg(long)]
    protocol: Option<String>,
    /// The flow's ports, from and to.
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"], requires = "protocol")]
    ports: Option<Vec<u16>>,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct Ping {
    /// Whence.
    gateway: String,
    /// A gateway or foreign peer, through the tunnel to it; or an address.
    target: String,
    /// To an address through the tunnel to this one, whatever the routes are.
    #[arg(long, value_name = "PEER")]
    through: Option<String>,
    /// Of several tunnels between the two.
    #[arg(long, value_name = "NUMBER")]
    tunnel: Option<u32>,
    /// From this address of the gateway's.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// So many times.
    #[arg(long, short, default_value = "4", value_parser = clap::value_parser!(u32).range(1..=20))]
    count: u32,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct Capture {
    /// Where.
    gateway: String,
    /// At the far end of the tunnel.
    peer: String,
    /// Of several tunnels between the two.
    #[arg(long, value_name = "NUMBER")]
    tunnel: Option<u32>,
    /// What goes between the endpoints (ESP and IKE or WireGuard, ICMP) rather than what goes through the tunnel.
    #[arg(long)]
    outside: bool,
    /// The file, in the pcap format; - for standard output.
    #[arg(long, short, value_name = "FILE")]
    write: PathBuf,
    /// End after so many packets.
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    packets: u32,
    /// End after so many bytes.
    #[arg(long, default_value = "16777216", value_parser = clap::value_parser!(u64).range(1..=67_108_864))]
    bytes: u64,
    /// End after so many seconds.
    #[arg(long, default_value = "30", value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Bytes of each packet; all of it without this.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    snap: Option<u32>,
    /// For people, on standard error; or for programs, on standard output.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,
}

/// What `capture` shows.
#[derive(Serialize)]
struct Captured {
    file: PathBuf,
    bytes: usize,
    /// Packets that came too fast.
    dropped: u32,
}

#[derive(Args)]
pub(crate) struct Logs {
    /// Whose.
    gateway: String,
    /// The last lines.
    #[arg(long, short = 'n', default_value = "50", value_parser = clap::value_parser!(u32).range(..=2000))]
    lines: u32,
    /// And those that come.
    #[arg(long, short)]
    follow: bool,
    /// error, warn, info: these and worse ones.
    #[arg(long, value_parser = ["error", "warn", "info", "debug", "trace"])]
    level: Option<String>,
    /// Only lines that have this in them, like rm3 for a tunnel.
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct Events {
    /// Only what is about this gateway.
    #[arg(long, value_name = "NAME")]
    gateway: Option<String>,
    /// And those that come.
    #[arg(long, short)]
    follow: bool,
    /// Only those after the one of this number.
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    after: u64,
    #[command(flatten)]
    output: Output,
}

impl Ask {
    pub(crate) async fn run(self, context: &Context, look: Look) -> Result<ExitCode, Failure> {
        let client = context.client()?;
        match self {
            Self::Doctor(args) => doctor(&client, args, look).await,
            Self::Trace(args) => trace(&client, args).await,
            Self::Ping(args) => ping(&client, args).await,
            Self::Capture(args) => capture(&client, args).await,
            Self::Logs(args) => logs(&client, args).await,
            Self::Events(args) => events(&client, args).await,
        }
    }
}

/// All that `doctor` has found.
#[derive(Serialize)]
struct Findings {
    gateways: Vec<GatewayView>,
    diagnosis: Diagnosis,
}

async fn doctor(client: &Client, args: Doctor, look: Look) -> Result<ExitCode, Failure> {
    let request = GetTopologyRequest {
        gateways_only: true,
        ..GetTopologyRequest::default()
    };
    let mut gateways = client.topology(request).await?.gateways;
    let named: Vec<&String> = args.gateway.iter().chain(&args.peer).collect();
    if let Some(name) = args.gateway.as_ref()
        && !gateways.iter().any(|it| it.name == *name)
    {
        return Err(Failure::NoGateway(name.clone()));
    }
    let well = |view: &GatewayView| {
        view.verdict == "ok" && !view.findings.iter().any(|it| it.severity == "fails")
    };
    match named.is_empty() {
        true => gateways.retain(|view| !well(view) || !view.findings.is_empty()),
        false => gateways.retain(|view| named.contains(&&view.name)),
    }
    let request = DoctorRequest {
        gateway: args.gateway.unwrap_or_default(),
        peer: args.peer.unwrap_or_default(),
        all: args.all,
    };
    let diagnosis = client.doctor(request).await?;
    let findings = Findings {
        gateways,
        diagnosis,
    };
    show(args.output.output, &findings, |found| {
        let mut parts: Vec<String> = Vec::new();
        if !found.gateways.is_empty() {
            parts.push(table::doctor(&found.gateways, look));
        }
        parts.push(doctor::diagnosis(&found.diagnosis, args.all));
        parts.join("\n")
    })?;
    let ill = !findings.gateways.iter().all(well);
    Ok(unless(ill || doctor::is_ill(&findings.diagnosis)))
}

async fn trace(client: &Client, args: Trace) -> Result<ExitCode, Failure> {
    let port = |n: usize| {
        let ports = args.ports.as_deref().unwrap_or_default();
        u32::from(ports.get(n).copied().unwrap_or_default())
    };
    let request = TraceRequest {
        source_port: port(0),
        target_port: port(1),
        gateway: args.gateway.clone(),
        target: args.address,
        source: args.from.unwrap_or_default(),
        protocol: args.protocol.unwrap_or_default(),
    };
    let trace = client.trace(request).await?;
    show(args.output.output, &trace, |trace| {
        doctor::trace(&args.gateway, trace)
    })?;
    Ok(unless(!trace.problems.is_empty()))
}

async fn ping(client: &Client, args: Ping) -> Result<ExitCode, Failure> {
    let (peer, target) = aim(args.target, args.through)?;
    let request = PingRequest {
        gateway: args.gateway,
        peer,
        target,
        source: args.from.unwrap_or_default(),
        count: args.count,
        tunnel: args.tunnel,
    };
    let table = args.output.output == Format::Table;
    let mut echoes: Vec<Echo> = Vec::new();
    let mut pieces = client.ping(request).await?;
    while let Some(echo) = pieces.next(Duration::from_secs(30)).await? {
        if table {
            print(&doctor::echo(&echo))?;
        }
        echoes.push(echo);
    }
    match table {
        true => print(&doctor::echoes(&echoes))?,
        false => show(Format::Json, &echoes, |_| String::new())?,
    }
    Ok(unless(!echoes.iter().any(|it| it.micros.is_some())))
}

/// The peer whose tunnel it goes through, and the address it goes to; empty for none.
fn aim(target: String, through: Option<String>) -> Result<(String, String), Failure> {
    match (target.parse::<std::net::IpAddr>(), through) {
        (Ok(_), through) => Ok((through.unwrap_or_default(), target)),
        (Err(_), None) => Ok((target, String::new())),
        (Err(_), Some(_)) => Err(Failure::Usage(
            "--through is for an address: the way to a gateway or foreign peer is the tunnel to it",
        )),
    }
}

/// For whoever captures only: it has what people send to each other.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(path)?;
    // It may have been there before; and no pipe, which is somebody else's to guard.
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

async fn capture(client: &Client, args: Capture) -> Result<ExitCode, Failure> {
    let to_stdout = args.write == Path::new("-");
    if to_stdout && args.output == Format::Json {
        return Err(Failure::Usage(
            "standard output cannot have both: -w FILE, or no -o json",
        ));
    }
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "a capture is no text: -w FILE, or -w - and a pipe, like `| wireshark -k -i -`",
        ));
    }
    let request = CaptureRequest {
        gateway: args.gateway,
        peer: args.peer,
        tunnel: args.tunnel,
        outside: args.outside,
        packets: args.packets,
        bytes: args.bytes,
        seconds: args.seconds,
        snap: args.snap.unwrap_or_default(),
    };
    let mut pieces = client.capture(request).await?;
    let failed = |error: io::Error| Failure::WriteFile {
        file: args.write.display().to_string(),
        reason: error.to_string(),
    };
    let mut out: Option<Box<dyn Write>> = to_stdout.then(|| Box::new(io::stdout()) as _);
    let (mut written, mut dropped, patience) =
        (0, 0, Duration::from_secs(u64::from(args.seconds) + 20));
    while let Some(piece) = pieces.next(patience).await? {
        let out = match &mut out {
            Some(out) => out,
            // What was there stays, until there is something to put in its place.
            none => none.insert(Box::new(create(&args.write).map_err(failed)?)),
        };
        let done = out.write_all(&piece.data).and_then(|()| out.flush());
        match done {
            // Wireshark has been closed.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            done => done.map_err(failed)?,
        }
        written += piece.data.len();
        dropped += piece.dropped;
    }
    if args.output == Format::Json {
        let captured = Captured {
            file: args.write,
            bytes: written,
            dropped,
        };
        show(Format::Json, &captured, |_| String::new())?;
        return Ok(ExitCode::SUCCESS);
    }
    let dropped = match dropped {
        0 => String::new(),
        n => format!("; {n} packets came too fast, and are not in it: --snap takes less of each"),
    };
    let file = args.write.display();
    let _ = writeln!(io::stderr(), "{written} bytes, {file}{dropped}");
    Ok(ExitCode::SUCCESS)
}

async fn logs(client: &Client, args: Logs) -> Result<ExitCode, Failure> {
    let mut request = LogsRequest {
        gateway: args.gateway,
        lines: args.lines,
        follow: args.follow,
        level: args.level.unwrap_or_default(),
        text: args.text.unwrap_or_default(),
    };
    let each = |it: &LogLine| {
        let at = UNIX_EPOCH.checked_add(Duration::from_millis(it.at));
        let at = humantime::format_rfc3339_millis(at.unwrap_or(UNIX_EPOCH));
        let (level, text) = (line(&it.level.to_uppercase()), line(&it.text));
        format!("{at} {level:<5} {text}\n")
    };
    loop {
        let pieces = client.logs(request.clone()).await?;
        stream(pieces, args.output.output, args.follow, each).await?;
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        // A question ends after a while.
        request.lines = 0;
    }
}

async fn events(client: &Client, args: Events) -> Result<ExitCode, Failure> {
    let request = EventsRequest {
        gateway: args.gateway.unwrap_or_default(),
        after: args.after,
        follow: args.follow,
    };
    let pieces = client.events(request).await?;
    let each = |event: &Event| {
        let Event {
            number,
            at,
            kind,
            text,
            ..
        } = event;
        format!("{number:>6} {at} {kind:<10} {}\n", line(text))
    };
    stream(pieces, args.output.output, args.follow, each).await?;
    Ok(ExitCode::SUCCESS)
}

/// Shows pieces as they come; as JSON a list of them, or, where it has no end, one a line.
async fn stream<T: Serialize>(
    mut pieces: crate::client::Pieces<'_, T>,
    format: Format,
    follow: bool,
    each: impl Fn(&T) -> String,
) -> Result<(), Failure> {
    let mut all = Vec::new();
    let patience = match follow {
        true => Duration::from_secs(365 * 24 * 3600),
        false => Duration::from_secs(30),
    };
    while let Some(piece) = pieces.next(patience).await? {
        match (format, follow) {
            (Format::Json, false) => all.push(piece),
            (Format::Json, true) => put(&(serde_json::to_string(&piece)? + "\n"))?,
            _ => print(&each(&piece))?,
        }
    }
    match (format, follow) {
        (Format::Json, false) => show(format, &all, |_| String::new()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_leads_to_an_address_and_not_to_another_peer() {
        let aim = |target: &str, through: Option<&str>| {
            aim(target.to_owned(), through.map(str::to_owned)).ok()
        };
        let pair = |peer: &str, target: &str| Some((peer.to_owned(), target.to_owned()));
        assert_eq!(aim("V2-1", None), pair("V2-1", ""));
        assert_eq!(aim("10.0.2.1", None), pair("", "10.0.2.1"));
        assert_eq!(aim("10.0.2.1", Some("V2-1")), pair("V2-1", "10.0.2.1"));
        assert_eq!(aim("V2-1", Some("V3-1")), None);
    }

    #[test]
    fn a_capture_is_for_nobody_else() {
        let path = std::env::temp_dir().join(format!("rm-captured-{}", std::process::id()));
        std::fs::write(&path, "what was there").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        // Whatever was there, and for how many.
        for _ in 0..2 {
            create(&path).unwrap();
            let found = std::fs::metadata(&path).unwrap();
            assert_eq!(
                (found.permissions().mode() & 0o777, found.len()),
                (0o600, 0)
            );
            std::fs::remove_file(&path).unwrap();
        }
    }
}
