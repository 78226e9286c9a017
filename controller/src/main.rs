//! `mesh-controller`: makes the mesh's certificates, and serves it.

use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use nix::fcntl::OFlag;
use routemesh_controller::ca::{self, Authority, Peer, Role, Step};
use routemesh_controller::rollover::left_behind;
use routemesh_controller::serve::{self, State};
use routemesh_controller::store::{self, Store, StoreError};
use routemesh_logs::Format;
use routemesh_proto::operators_client::OperatorsClient;
use routemesh_proto::{GetTopologyRequest, HistoryRequest, KeyKind};
use sd_notify::{NotifyState, notify};
use std::error::Error;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic::Code;
use tracing::{debug, info, warn};

/// Between two signs of life to systemd, whose watchdog waits for a minute.
const BEAT: Duration = Duration::from_secs(10);

/// Before the next attempt to read from an etcd that does not answer.
const WAIT: Duration = Duration::from_secs(2);

/// Of what a controller says of its gateways, as for `meshctl`.
const LARGEST_VIEW: usize = 1 << 30;

/// A file with an authority's certificates is no longer than this.
const LARGEST_CERTIFICATES: u64 = 64 << 10;

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
    /// Print a signing request (PKCS#10) of the authority, for a CA of your own to certify; of the next authority where a
    /// rollover has made one that does not sign yet.
    Request(Request),
    /// Put the authority beneath a CA of your own: take what that has made of the request.
    Certificate(Certificate),
    /// Copy everything but reports from one store to another that is empty, while no controller runs.
    Migrate(Migrate),
    /// Write manual pages, and completions for shells, into a directory: for packages.
    #[command(hide = true)]
    Manual {
        /// It is there.
        dir: PathBuf,
    },
    /// Serve agents and operators.
    Run(Run),
}

#[derive(Args)]
struct Migrate {
    /// Whence: sqlite:DIR or etcd:URL,URL.
    #[arg(long, value_name = "STORE")]
    from: String,
    /// Whither; it has to be empty.
    #[arg(long, value_name = "STORE")]
    to: String,
    #[command(flatten)]
    etcd: EtcdIdentity,
}

#[derive(Args, Clone)]
struct EtcdIdentity {
    /// Directory with ca.pem, cert.pem and key.pem for etcd; its user there is the certificate's common name.
    #[arg(long, value_name = "DIR", env = "MESH_CONTROLLER_ETCD_IDENTITY")]
    etcd_identity: Option<PathBuf>,
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
struct Request {
    /// The controller's directory.
    #[arg(long, default_value = "/var/lib/routemesh-controller")]
    dir: PathBuf,
}

#[derive(Args)]
struct Certificate {
    /// The controller's directory.
    #[arg(long, default_value = "/var/lib/routemesh-controller")]
    dir: PathBuf,
    /// The authority's certificate and those above it, up to the root: PEM.
    file: PathBuf,
}

#[derive(Args)]
struct Rollover {
    /// The controller's directory.
    #[arg(long, default_value = "/var/lib/routemesh-controller")]
    dir: PathBuf,
    /// What kind of key the next authority has: ecdsa-p384 or ed25519.
    #[arg(long, default_value_t)]
    key: KeyKind,
    /// The running controller, which knows whether all gateways are ready for the second step and the third.
    #[arg(long, value_name = "URL", default_value = "https://[::1]:7179")]
    controller: String,
    /// How long to wait for gateways that are not ready.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Take the step all the same: gateways that are not ready have to enroll again.
    #[arg(long)]
    force: bool,
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
    /// Where everything is kept: sqlite:DIR, or etcd:URL,URL; by default in the controller's directory.
    #[arg(long, value_name = "STORE", env = "MESH_CONTROLLER_STORE")]
    store: Option<String>,
    #[command(flatten)]
    etcd: EtcdIdentity,
    /// Where other controllers before the same etcd reach this one, like https://c1.example.net:7179.
    #[arg(long, value_name = "URL", env = "MESH_CONTROLLER_ADVERTISE")]
    advertise: Option<String>,
    /// Address and port to serve at.
    #[arg(long, default_value = "[::]:7179", env = "MESH_CONTROLLER_LISTEN")]
    listen: String,
    /// How long certificates last that are given for tokens and renewed, and the controller's own: 30d, 12h.
    /// Their holders renew them by themselves in the second half of it.
    #[arg(long, default_value = "30d", value_parser = lifetime, env = "MESH_CONTROLLER_LIFETIME")]
    lifetime: Duration,
    /// What to log: error, warn, info, debug, trace; or by module: info,routemesh_controller::serve=debug.
    #[arg(long, default_value = "info", env = "MESH_CONTROLLER_LOG")]
    log: String,
    /// Serve figures for Prometheus at this address and port, without TLS: [::1]:7181.
    #[arg(long, value_name = "ADDRESS", env = "MESH_CONTROLLER_METRICS")]
    metrics: Option<String>,
    /// How to log; without it, to systemd's journal where standard error leads there, else for people.
    #[arg(long, value_name = "FORMAT", env = "MESH_CONTROLLER_LOG_FORMAT")]
    log_format: Option<Format>,
    /// Send what is logged also to a collector of OpenTelemetry (OTLP over gRPC), e.g. http://[::1]:4317.
    #[arg(long, value_name = "URL", env = "MESH_CONTROLLER_OTLP")]
    otlp: Option<String>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Init(args) => init(&args),
        Command::Renew(args) => renew(&args),
        Command::Issue(args) => issue(&args),
        Command::Request(args) => request(&args),
        Command::Certificate(args) => certificate(&args),
        Command::Rollover(args) => rollover(&args),
        Command::Restore(args) => restore(&args),
        Command::Migrate(args) => migrate(&args),
        Command::Run(args) => run(&args),
        Command::Manual { dir } => manual(&dir),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-controller: {error}");
            ExitCode::FAILURE
        }
    }
}

fn manual(dir: &Path) -> Result<(), Box<dyn Error>> {
    clap_mangen::generate_to(Cli::command(), dir)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "mesh-controller", dir)?;
    }
    Ok(())
}

fn init(args: &Init) -> Result<(), Box<dyn Error>> {
    ca::init(&args.dir, args.key, days(args.days))?;
    Ok(hand_over(&args.dir)?)
}

fn renew(args: &Renew) -> Result<(), Box<dyn Error>> {
    ca::renew(&args.dir, days(args.days))?;
    Ok(hand_over(&args.dir)?)
}

/// What root has written into the directory of another user becomes that user's: under systemd the controller is not
/// root, and could not read it.
fn hand_over(dir: &Path) -> io::Result<()> {
    let owner = fs::metadata(dir)?;
    let root = fs::metadata("/proc/self")?.uid() == 0;
    if !root || owner.uid() == 0 {
        return Ok(());
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    for entry in fs::read_dir(dir)? {
        let mut open = fs::OpenOptions::new();
        let opened = open.read(true).custom_flags(flags.bits());
        // A link, or gone meanwhile.
        let Ok(file) = opened.open(entry?.path()) else {
            continue;
        };
        let it = file.metadata()?;
        // Not what the other user may have led here from elsewhere.
        if it.is_file() && it.uid() == 0 && it.nlink() == 1 {
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(())
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

fn request(args: &Request) -> Result<(), Box<dyn Error>> {
    print!("{}", ca::request(&args.dir)?);
    Ok(())
}

fn certificate(args: &Certificate) -> Result<(), Box<dyn Error>> {
    let file = std::fs::File::open(&args.file);
    let mut text = String::new();
    let read = file.and_then(|file| file.take(LARGEST_CERTIFICATES).read_to_string(&mut text));
    read.map_err(|error| format!("cannot read {}: {error}", args.file.display()))?;
    let until = ca::put_beneath(&args.dir, &text, SystemTime::now().into())?;
    hand_over(&args.dir)?;
    println!(
        "the authority leads to your CA until {}: have it certified again in time",
        until.date()
    );
    Ok(())
}

/// Waits a while until no gateway is left behind by a step.
#[tokio::main]
async fn all_ready(args: &Rollover, step: Step, authority: &str) -> Result<(), Box<dyn Error>> {
    let asking = Authority::new(&args.dir, days(1));
    let asking = asking.for_a_day(
        &Peer::new(Role::Viewer, "rollover"),
        SystemTime::now().into(),
    )?;
    let operators = OperatorsClient::new(asking.dial(&args.controller)?);
    let mut operators = operators.max_decoding_message_size(LARGEST_VIEW);
    let began = Instant::now();
    loop {
        let request = GetTopologyRequest {
            gateways_only: true,
            ..GetTopologyRequest::default()
        };
        let gateways = match operators.get_topology(request).await {
            Ok(answer) => answer.into_inner().gateways,
            // There is no mesh yet, or one that this version cannot read.
            Err(status) if status.code() == Code::FailedPrecondition => {
                let request = HistoryRequest { limit: 1 };
                let history = operators.get_history(request).await?.into_inner();
                if !history.revisions.is_empty() {
                    return Err(format!(
                        "the controller knows of no gateway, and yet there is a mesh: {}",
                        status.message()
                    )
                    .into());
                }
                Vec::new()
            }
            Err(status) if status.code() == Code::Unavailable && began.elapsed() < args.wait => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(status) => {
                return Err(format!(
                    "whether all gateways are ready is not known, as the controller at {} says: {}; --controller names \
                     another address of it, --force goes on without",
                    args.controller,
                    status.message()
                )
                .into());
            }
        };
        let behind = left_behind(step, authority, &gateways);
        if behind.is_empty() {
            return Ok(());
        }
        if began.elapsed() >= args.wait {
            let (all, first) = (behind.len(), behind.len().min(20));
            let shown = behind[..first].join("\n  ");
            return Err(format!(
                "{all} gateways are not ready:\n  {shown}\nrun this again when they are (agents ask within ten minutes; --wait 15m waits for them), revoke \
                 those that are gone, or leave them behind by --force"
            )
            .into());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn rollover(args: &Rollover) -> Result<(), Box<dyn Error>> {
    // Two that wait for the same step would take that and the next one, which nobody is ready for.
    let dir = fs::File::open(&args.dir)
        .map_err(|error| format!("cannot read {}: {error}", args.dir.display()))?;
    dir.try_lock().map_err(|_| {
        format!(
            "another rollover is at work in {}: let it end first",
            args.dir.display()
        )
    })?;
    let (step, authority) = ca::next_step(&args.dir)?;
    if step != Step::Trusted && !args.force {
        all_ready(args, step, &authority)?;
    }
    let step = ca::roll_over(&args.dir, args.key)?;
    hand_over(&args.dir)?;
    println!(
        "{}",
        match step {
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

/// `advertise`: where others reach the controller that it is for.
fn store_at(
    place: &str,
    etcd: &EtcdIdentity,
    advertise: Option<&str>,
) -> Result<Store, StoreError> {
    match place.split_once(':') {
        Some(("sqlite", dir)) => Store::open(Path::new(dir)),
        Some(("etcd", urls)) => Store::etcd(urls, etcd.etcd_identity.as_deref(), advertise),
        _ => Err(StoreError::Unknown(place.to_owned())),
    }
}

fn migrate(args: &Migrate) -> Result<(), Box<dyn Error>> {
    let from = store_at(&args.from, &args.etcd, None)?;
    let mut to = store_at(&args.to, &args.etcd, None)?;
    let said = |done: usize, all: usize| {
        if done.is_multiple_of(100) || done == all {
            eprintln!("{done} of {all} generations");
        }
    };
    let generation = store::migrate(&from, &mut to, said)?;
    if let Some(("sqlite", dir)) = args.to.split_once(':') {
        hand_over(Path::new(dir))?;
    }
    println!("generation {generation} is in {}", args.to);
    Ok(())
}

/// The controller's state, as its store has it. An etcd without quorum is waited for, as agents need nothing.
async fn state(args: &Run) -> Result<State, Box<dyn Error>> {
    let place = args.store.clone();
    let place = place.unwrap_or_else(|| format!("sqlite:{}", args.dir.display()));
    if place.starts_with("etcd:") && args.advertise.is_none() {
        return Err(
            "say where other controllers reach this one: --advertise https://HOST:PORT".into(),
        );
    }
    loop {
        let (place, etcd, advertise) = (place.clone(), args.etcd.clone(), args.advertise.clone());
        let open = move || {
            let store = store_at(&place, &etcd, advertise.as_deref());
            store.and_then(State::new)
        };
        match tokio::task::spawn_blocking(open).await? {
            Ok(state) => return Ok(state),
            Err(error @ StoreError::Etcd { .. }) => {
                warn!("waiting, agents go on without a controller: {error}");
                let waiting = "waiting for etcd".to_owned();
                let _ = notify(false, &[NotifyState::Status(&waiting)]);
                tokio::time::sleep(WAIT).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn restore(args: &Restore) -> Result<(), Box<dyn Error>> {
    let generation = store::restore(&args.dir, &args.file)?;
    hand_over(&args.dir)?;
    println!("generation {generation} is back: start mesh-controller");
    Ok(())
}

#[tokio::main]
async fn run(args: &Run) -> Result<(), Box<dyn Error>> {
    let logs = routemesh_logs::Options {
        level: args.log.clone(),
        format: args.log_format,
        otlp: args.otlp.clone(),
    };
    let version = env!("CARGO_PKG_VERSION");
    let _logging = routemesh_logs::start("mesh-controller", version, &logs, None)?;
    let authority = Authority::new(&args.dir, args.lifetime);
    authority.bundle().map_err(|error| {
        let dir = args.dir.display();
        format!("{error}; for the controller: mesh-controller init --dir {dir}")
    })?;
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let mut stop = Box::pin(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    });
    tokio::spawn(alive());
    let state = tokio::select! {
        state = state(args) => state?,
        () = &mut stop => return Ok(()),
    };
    let state = Arc::new(state);
    if let Some(address) = &args.metrics {
        let listener = routemesh_metrics::listen(address).await?;
        info!("figures at {}", listener.local_addr()?);
        let state = state.clone();
        let page = move || serve::page(&state);
        tokio::spawn(routemesh_metrics::serve(listener, page));
    }
    // Not before: whoever knows several controllers finds another at once.
    let listener = TcpListener::bind(&args.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;
    info!("listening on {}", listener.local_addr()?);
    let _ = notify(false, &[NotifyState::Status("serving")]);
    serve::serve(listener, authority, state, stop).await?;
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
