//! `mesh-controller`: makes the mesh's certificates, and serves it.

use clap::{ArgGroup, Args, Parser, Subcommand};
use routemesh_controller::ca::{self, Authority, Peer, Role, Step};
use routemesh_controller::serve::{self, State};
use routemesh_controller::store::{self, Store};
use routemesh_proto::KeyKind;
use sd_notify::{NotifyState, notify};
use std::error::Error;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{debug, info};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Between two signs of life to systemd, whose watchdog waits for a minute.
const BEAT: Duration = Duration::from_secs(10);

/// The control plane of a Routemesh.
#[derive(Parser)]
#[command(name = "mesh-controller", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a certificate authority, and the controller's own certificate.
    Init(Init),
    /// Make an identity (ca.pem, cert.pem, key.pem) here, for a gateway or a person. Those who can reach the
    /// controller enroll with a token of `meshctl token create` instead, and their keys never travel.
    Issue(Issue),
    /// Make the controller a new certificate now. A running one does so by itself when it is due, and takes
    /// up this one.
    Renew(Renew),
    /// Make a database of what `meshctl backup` wrote, in a directory that has none.
    Restore(Restore),
    /// Replace the authority, step by step: each call takes the next of three. A running controller takes
    /// it up by itself.
    Rollover(Rollover),
    /// Serve agents and operators.
    Run(Run),
}

#[derive(Args)]
struct Restore {
    /// The controller's directory.
    #[arg(long, default_value = "/var/lib/routemesh-controller")]
    dir: PathBuf,
    /// The backup.
    file: PathBuf,
}

#[derive(Args)]
struct Init {
    /// The controller's directory.
    #[arg(long, default_value = "/var/lib/routemesh-controller")]
    dir: PathBuf,
    /// What kind of key the authority has: ecdsa-p384 or ed25519.
    #[arg(long, default_value_t)]
    key: KeyKind,
    /// How long the controller's certificate lasts.
    #[arg(long, default_value_t = 730, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

#[derive(Args)]
struct Rollover {
    /// The controller's directory.
    #[arg(long, default_value = "/var/lib/routemesh-controller")]
    dir: PathBuf,
    /// What kind of key the next authority has: ecdsa-p384 or ed25519.
    #[arg(long, default_value_t)]
    key: KeyKind,
}

#[derive(Args)]
struct Renew {
    /// The controller's directory.
    #[arg(long, default_value = "/var/lib/routemesh-controller")]
    dir: PathBuf,
    /// How long the certificate lasts.
    #[arg(long, default_value_t = 730, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

#[derive(Args)]
#[command(group = ArgGroup::new("whose").required(true))]
struct Issue {
    /// The controller's directory.
    #[arg(long, default_value = "/var/lib/routemesh-controller")]
    dir: PathBuf,
    /// For this gateway, as it is called in the specification.
    #[arg(long, value_name = "NAME", group = "whose")]
    gateway: Option<String>,
    /// For one who sees everything.
    #[arg(long, value_name = "NAME", group = "whose")]
    viewer: Option<String>,
    /// For one who also applies specifications, and drains.
    #[arg(long, value_name = "NAME", group = "whose")]
    operator: Option<String>,
    /// For one who also says who is who.
    #[arg(long, value_name = "NAME", group = "whose")]
    admin: Option<String>,
    /// Directory for the three files; it is made.
    #[arg(long)]
    out: PathBuf,
    /// How long the certificate lasts.
    #[arg(long, default_value_t = 730, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

#[derive(Args)]
struct Run {
    /// The controller's directory.
    #[arg(
        long,
        default_value = "/var/lib/routemesh-controller",
        env = "MESH_CONTROLLER_DIR"
    )]
    dir: PathBuf,
    /// Address and port to serve at.
    #[arg(long, default_value = "[::]:7179", env = "MESH_CONTROLLER_LISTEN")]
    listen: String,
    /// How long certificates last that are given for tokens and renewed, and the controller's own: 30d, 12h.
    /// Their holders renew them by themselves in the second half of it.
    #[arg(long, default_value = "30d", value_parser = lifetime, env = "MESH_CONTROLLER_LIFETIME")]
    lifetime: Duration,
    /// What to log: error, warn, info, debug, trace, or by module as RUST_LOG has it.
    #[arg(long, default_value = "info", env = "MESH_CONTROLLER_LOG")]
    log: String,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Init(args) => ca::init(&args.dir, args.key, days(args.days)).map_err(Into::into),
        Command::Renew(args) => ca::renew(&args.dir, days(args.days)).map_err(Into::into),
        Command::Issue(args) => issue(&args),
        Command::Rollover(args) => rollover(&args),
        Command::Restore(args) => restore(&args),
        Command::Run(args) => run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-controller: {error}");
            ExitCode::FAILURE
        }
    }
}

fn issue(args: &Issue) -> Result<(), Box<dyn Error>> {
    let asked = [
        (Role::Gateway, &args.gateway),
        (Role::Viewer, &args.viewer),
        (Role::Operator, &args.operator),
        (Role::Admin, &args.admin),
    ];
    let mut asked = asked.into_iter();
    let peer = asked.find_map(|(role, name)| Some(Peer::new(role, name.as_deref()?)));
    let peer = peer.ok_or("give --gateway NAME or --operator NAME")?;
    Ok(ca::issue(&args.dir, &peer, &args.out, days(args.days))?)
}

fn rollover(args: &Rollover) -> Result<(), Box<dyn Error>> {
    println!(
        "{}",
        match ca::roll_over(&args.dir, args.key)? {
            Step::Trusted =>
                "1 of 3: another authority is trusted beside the one that signs\n\
             agents learn of it within ten minutes; people by `meshctl renew`; then run this again",
            Step::Signs =>
                "2 of 3: the new authority signs, and the old one is still trusted\n\
             agents renew within ten minutes; people by `meshctl renew`; then run this again",
            Step::Alone =>
                "3 of 3: the old authority is trusted no more\n\
             whoever still has a certificate of it has to enroll again",
        }
    );
    Ok(())
}

fn days(days: u32) -> Duration {
    Duration::from_secs(86_400) * days
}

/// From seconds, for tests, to ten years.
fn lifetime(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match (Duration::from_secs(10)..=days(3650)).contains(&time) {
        true => Ok(time),
        false => Err("a certificate lasts from 10s to 3650d".to_owned()),
    }
}

fn restore(args: &Restore) -> Result<(), Box<dyn Error>> {
    let generation = store::restore(&args.dir, &args.file)?;
    println!("generation {generation} is back: start mesh-controller");
    Ok(())
}

#[tokio::main]
async fn run(args: &Run) -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_new(directives(&args.log)).map_err(|error| {
        format!(
            "--log {}: {error}; one of error, warn, info, debug, trace",
            args.log
        )
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let authority = Authority::new(&args.dir, args.lifetime);
    authority.bundle().map_err(|error| {
        let dir = args.dir.display();
        format!("{error}; for the controller: mesh-controller init --dir {dir}")
    })?;
    let state = State::new(Store::open(&args.dir)?)?;
    let listener = TcpListener::bind(&args.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    info!("listening on {}", listener.local_addr()?);
    tokio::spawn(alive());
    serve::serve(listener, authority, Arc::new(state), stop).await?;
    Ok(())
}

/// Tells systemd, where the controller is a service of its (sd_notify(3)).
async fn alive() {
    let mut beat = tokio::time::interval(BEAT);
    loop {
        beat.tick().await;
        if let Err(error) = notify(false, &[NotifyState::Ready, NotifyState::Watchdog]) {
            debug!("systemd cannot be told anything: {error}");
        }
    }
}

/// A level alone is ours; libraries speak up when something is wrong, or when they are named.
fn directives(log: &str) -> String {
    match log.parse::<LevelFilter>() {
        Ok(level) => format!("warn,mesh_controller={level},routemesh_controller={level}"),
        // A word alone that is no level would be taken for a module, and all else be silent.
        Err(_) if log.contains('=') => log.to_owned(),
        Err(_) => format!("{log}="),
    }
}
