//! `mesh-controller`: makes the mesh's certificates, and serves it.

use clap::{ArgGroup, Args, Parser, Subcommand};
use routemesh_controller::ca::{self, Peer, Role};
use routemesh_controller::serve::{self, State};
use routemesh_controller::store::{self, Store};
use routemesh_proto::Identity;
use std::error::Error;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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
    /// Make an identity (ca.pem, cert.pem, key.pem) for a gateway or an operator.
    Issue(Issue),
    /// Make the controller a new certificate before the old one runs out. Restart it afterwards.
    Renew(Init),
    /// Make a database of what `meshctl backup` wrote, in a directory that has none.
    Restore(Restore),
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
    /// How long the controller's certificate lasts.
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
    /// For this operator.
    #[arg(long, value_name = "NAME", group = "whose")]
    operator: Option<String>,
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
    #[arg(long, default_value = "/var/lib/routemesh-controller")]
    dir: PathBuf,
    /// Address and port to serve at.
    #[arg(long, default_value = "[::]:7179")]
    listen: String,
    /// What to log: error, warn, info, debug, trace, or by module as RUST_LOG has it.
    #[arg(long, default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Init(args) => ca::init(&args.dir, args.days).map_err(Into::into),
        Command::Renew(args) => ca::renew(&args.dir, args.days).map_err(Into::into),
        Command::Issue(args) => issue(&args),
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
    let (role, name) = match (&args.gateway, &args.operator) {
        (Some(name), _) => (Role::Gateway, name.clone()),
        (None, Some(name)) => (Role::Operator, name.clone()),
        (None, None) => return Err("give --gateway NAME or --operator NAME".into()),
    };
    Ok(ca::issue(
        &args.dir,
        &Peer { role, name },
        &args.out,
        args.days,
    )?)
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
    let identity = Identity::load(&args.dir).map_err(|error| {
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
    serve::serve(listener, &identity, Arc::new(state), stop).await?;
    Ok(())
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
