//! `mesh-agent`: the gateway daemon's command line.

use clap::{ArgGroup, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use routemesh_agent::ask::Logs;
use routemesh_agent::charon;
use routemesh_agent::config::Config;
use routemesh_agent::control::{self, InForce};
use routemesh_agent::kernel::Kernel;
use routemesh_agent::memory;
use routemesh_agent::metrics;
use routemesh_agent::preflight::{self, Needs};
use routemesh_agent::problem::problem;
use routemesh_agent::reconcile;
use routemesh_agent::renewal;
use routemesh_agent::run::{self, Host};
use routemesh_agent::service;
use routemesh_agent::state_dir::{StateDir, ask_to_drain, read_config};
use routemesh_agent::vici::Vici;
use routemesh_agent::wireguard::PrivateKey;
use routemesh_logs::Format;
use routemesh_proto::{Identity, KeyKind, Status, Token};
use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};
use tracing_subscriber::Layer;

/// Runs one gateway of a Routemesh mesh: tunnels, BGP and routes as its config says.
#[derive(Parser)]
#[command(name = "mesh-agent", version)]
struct Cli {
    /// What to log: error, warn, info, debug, trace; or by module: info,routemesh_agent::bgp=debug.
    #[arg(long, global = true, default_value = "info", env = "MESH_AGENT_LOG")]
    log: String,
    /// How to log; without it, to systemd's journal where standard error leads there, else for people.
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "MESH_AGENT_LOG_FORMAT"
    )]
    log_format: Option<Format>,
    /// Send what is logged also to a collector of OpenTelemetry (OTLP over gRPC), e.g. http://[::1]:4317.
    #[arg(long, global = true, value_name = "URL", env = "MESH_AGENT_OTLP")]
    otlp: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway until stopped. Stopping (SIGTERM) leaves kernel and charon as they are, so
    /// that traffic flows on; `down` removes everything.
    #[command(group = ArgGroup::new("source").required(true))]
    Run {
        /// The controller, e.g. https://[2001:db8::1]:7179; of several all, with commas between.
        #[arg(long, group = "source", env = "MESH_AGENT_CONTROLLER")]
        controller: Option<String>,
        /// Take the config from this file, without a controller.
        #[arg(long, group = "source", env = "MESH_AGENT_CONFIG")]
        config: Option<PathBuf>,
        /// Directory with ca.pem, cert.pem and key.pem, as `mesh-agent enroll` writes it.
        #[arg(
            long,
            default_value = "/etc/routemesh/identity",
            env = "MESH_AGENT_IDENTITY"
        )]
        identity: PathBuf,
        /// Serve figures for Prometheus at this address and port, e.g. [::1]:7180; without it, nowhere.
        #[arg(long, value_name = "ADDRESS:PORT", env = "MESH_AGENT_METRICS")]
        metrics: Option<String>,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Make a key on this host, and get a certificate for it with a token of `meshctl token create`. The key
    /// never leaves the host.
    Enroll {
        /// The token; - for standard input, which no other user of the host sees.
        token: String,
        /// Directory for ca.pem, cert.pem and key.pem; it is made.
        #[arg(long, default_value = "/etc/routemesh/identity")]
        identity: PathBuf,
        /// What kind of key to make: ecdsa-p384 or ed25519.
        #[arg(long, default_value_t)]
        key: KeyKind,
        /// Replace an identity that is there. Restart the agent afterwards.
        #[arg(long)]
        replace: bool,
    },
    /// Let traffic leave the gateway before it stops, e.g. for a reboot: all BGP peers are asked to use
    /// any other way (RFC 8326). It still forwards what reaches it.
    Drain {
        /// Directory of the running agent.
        #[arg(
            long,
            default_value = "/var/lib/routemesh",
            env = "MESH_AGENT_STATE_DIR"
        )]
        state_dir: PathBuf,
        /// Seconds to give it before this command ends.
        #[arg(long, default_value_t = 5)]
        wait: u64,
    },
    /// Let traffic come back after `drain`. What the controller drains stays so.
    Undrain {
        /// Directory of the running agent.
        #[arg(
            long,
            default_value = "/var/lib/routemesh",
            env = "MESH_AGENT_STATE_DIR"
        )]
        state_dir: PathBuf,
    },
    /// Tell what this host lacks or does wrong, and what to do. Changes nothing; needs root.
    #[command(
        after_help = "Exit status: 0 if the mesh can work, 1 if something that it needs is missing."
    )]
    Preflight {
        /// Judge by this config; without one, by what every mesh needs.
        #[arg(long)]
        config: Option<PathBuf>,
        /// charon's VICI socket.
        #[arg(long, default_value = "/run/charon.vici", env = "MESH_AGENT_VICI")]
        vici: PathBuf,
    },
    /// Write manual pages, and completions for shells, into a directory: for packages.
    #[command(hide = true)]
    Manual {
        /// It is there.
        dir: PathBuf,
    },
    /// Remove all that the agent made, and nothing else. The agent must not be running.
    Down {
        #[command(flatten)]
        host: HostArgs,
    },
}

#[derive(clap::Args)]
struct HostArgs {
    /// Directory for the cached config and the lock.
    #[arg(
        long,
        default_value = "/var/lib/routemesh",
        env = "MESH_AGENT_STATE_DIR"
    )]
    state_dir: PathBuf,
    /// charon's VICI socket.
    #[arg(long, default_value = "/run/charon.vici", env = "MESH_AGENT_VICI")]
    vici: PathBuf,
}

fn main() -> ExitCode {
    memory::frugal();
    let cli = Cli::parse();
    let options = routemesh_logs::Options {
        level: cli.log,
        format: cli.log_format,
        otlp: cli.otlp,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(async {
                let version = env!("CARGO_PKG_VERSION");
                let logs = Logs::new();
                let also = Some(logs.clone().boxed());
                let _logging = routemesh_logs::start("mesh-agent", version, &options, also)?;
                command(cli.command, logs).await
            });
            // A resolver that does not answer is not waited for.
            runtime.shutdown_timeout(Duration::from_secs(1));
            ended
        }
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mesh-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn command(command: Command, logs: Logs) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Run {
            controller,
            config,
            identity,
            metrics,
            host,
        } => {
            let figures = match metrics {
                Some(address) => Some(routemesh_metrics::listen(&address).await?),
                None => None,
            };
            let from = Source { controller, config };
            run(from, &identity, figures, host, logs).await
        }
        Command::Preflight { config, vici } => preflight(config.as_deref(), vici).await,
        Command::Down { host } => down(host).await,
        Command::Drain { state_dir, wait } => {
            ask_to_drain(&state_dir, true)?;
            if StateDir::open(&state_dir).is_ok() {
                eprintln!(
                    "mesh-agent: no agent runs with {}: the next one will start drained",
                    state_dir.display()
                );
            }
            tokio::time::sleep(Duration::from_secs(wait)).await;
            Ok(ExitCode::SUCCESS)
        }
        Command::Enroll {
            token,
            identity,
            key,
            replace,
        } => enroll(&token, &identity, key, replace).await,
        Command::Manual { dir } => {
            clap_mangen::generate_to(Cli::command(), &dir)?;
            for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                clap_complete::generate_to(shell, &mut Cli::command(), "mesh-agent", &dir)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Undrain { state_dir } => {
            ask_to_drain(&state_dir, false)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn enroll(
    token: &str,
    dir: &Path,
    key: KeyKind,
    replace: bool,
) -> Result<ExitCode, Box<dyn Error>> {
    if dir.join("cert.pem").exists() && !replace {
        let dir = dir.display();
        return Err(format!("{dir} has an identity: --replace puts another in its place").into());
    }
    let token: Token = match token {
        "-" => {
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .take(8192)
                .read_to_string(&mut text)?;
            text.parse()?
        }
        text => text.parse()?,
    };
    Identity::probe(dir)?;
    routemesh_proto::enroll(&token, key).await?.save(dir)?;
    println!("enrolled as {token}: {}", dir.display());
    println!(
        "next: mesh-agent run --controller {}",
        token.controllers.join(",")
    );
    Ok(ExitCode::SUCCESS)
}

/// Where the config comes from: one of both.
struct Source {
    controller: Option<String>,
    config: Option<PathBuf>,
}

async fn run(
    Source { controller, config }: Source,
    identity_dir: &Path,
    figures: Option<TcpListener>,
    host: HostArgs,
    logs: Logs,
) -> Result<ExitCode, Box<dyn Error>> {
    let identity = Identity::load(identity_dir)?;
    let state_dir = Arc::new(StateDir::open(&host.state_dir)?);
    let first = match config.as_deref() {
        Some(path) => {
            let raw = read_config(path).map_err(|error| {
                format!("{error}\n(a specification of a whole mesh goes to `meshctl apply`)")
            })?;
            let new = InForce::new(raw).map_err(|e| format!("{}: {e}", path.display()))?;
            leave_old_overlay(&state_dir, &new, &host.vici).await?;
            // Also for `down`, which has nothing else to tell it where the private side is.
            state_dir.save(&new.raw)?;
            Some(new)
        }
        None => cached(&state_dir),
    };
    let mut chance = [0; 32];
    getrandom::fill(&mut chance)?;
    // Without a key everything else goes on: the disk of a gateway may be full, and it boots nevertheless.
    let key = state_dir.wireguard_key(chance).map_err(|error| {
        warn!("no key for WireGuard: {error}");
        problem("key for WireGuard", &error)
    });
    let public_key = key.as_ref().ok().map(PrivateKey::public);
    if let Some(public_key) = public_key {
        info!("public key for WireGuard: {public_key}");
    }
    let (in_force, configs) = watch::channel(first);
    let (refused, refusals) = watch::channel(None);
    let (status, reports) = watch::channel(Status::default());
    let (holds, identities) = watch::channel(identity);
    let (bgp, inquiries) = watch::channel(None);
    let host = Host {
        identity: identities,
        renewed: controller.is_some(),
        vici: host.vici,
        state_dir: state_dir.clone(),
        key,
        bgp,
    };
    if let Some(listener) = figures {
        let reports = reports.clone();
        let page = move || metrics::page(&reports.borrow());
        tokio::spawn(routemesh_metrics::serve(listener, page));
    }
    let gateway = run::run(host, configs, refusals, status);
    let stream = async {
        match &controller {
            Some(address) => {
                let chance = || RandomState::new().build_hasher().finish();
                let (dialled, channels) = watch::channel(holds.borrow().dial(address)?);
                let keeper = renewal::Keeper {
                    dir: identity_dir.to_owned(),
                    controller: address.clone(),
                    holds,
                    dialled,
                };
                let own = control::Own {
                    state: state_dir,
                    key: public_key,
                    bgp: inquiries,
                    logs,
                };
                tokio::select! {
                    () = keeper.run(chance) => {}
                    () = control::run(channels, own, in_force, refused, reports, chance) => {}
                }
                Ok(())
            }
            // The senders live as long as the daemon.
            None => {
                let _keep = (in_force, refused, reports, holds);
                std::future::pending().await
            }
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ended: Result<(), Box<dyn Error>> = tokio::select! {
        () = gateway => Ok(()),
        failed = stream => failed,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    ended?;
    service::stopping();
    info!("stopping; tunnels and routes stay, `mesh-agent down` removes them");
    Ok(ExitCode::SUCCESS)
}

/// Takes down what an earlier run with another private side left there, where this one would not
/// look for it.
async fn leave_old_overlay(
    state_dir: &StateDir,
    new: &InForce,
    vici: &Path,
) -> Result<(), Box<dyn Error>> {
    let Some(old) = cached(state_dir) else {
        return Ok(());
    };
    if old.config.overlay == new.config.overlay {
        return Ok(());
    }
    // Not before the new one is there: until then the old one's routes keep traffic from the default route.
    Kernel::open(&new.config.overlay)?;
    info!("the overlay has changed: leaving {}", old.config.overlay);
    let vici = Vici::new(vici.to_owned());
    let problems = reconcile::down(&old.config, &vici, state_dir).await?;
    let (of_charon, others): (Vec<_>, Vec<_>) =
        problems.iter().partition(|it| it.object == charon::OBJECT);
    // It is not waited for: what it still has then, the first look at it finds and mends.
    for problem in of_charon {
        warn!("{}: {}", problem.object, problem.reason);
    }
    match others.first() {
        None => Ok(()),
        Some(problem) => Err(format!("{}: {}", problem.object, problem.reason).into()),
    }
}

/// The cached config, if there is a sound one: a gateway boots without its controller.
fn cached(state_dir: &StateDir) -> Option<InForce> {
    let loaded = state_dir.load().map_err(|error| error.to_string());
    let parsed = loaded.and_then(|kept| {
        if let Some(damaged) = kept.damaged {
            warn!("{damaged}; until then, the one before it is used");
        }
        let parsed = kept.config.map(InForce::new).transpose();
        parsed.map_err(|error| format!("cached config: {error}"))
    });
    match parsed {
        Ok(Some(cached)) => {
            info!(
                generation = cached.raw.generation,
                "starting with the cached config"
            );
            Some(cached)
        }
        Ok(None) => None,
        Err(error) => {
            warn!("starting without the cached config: {error}");
            None
        }
    }
}

async fn preflight(config: Option<&Path>, vici: PathBuf) -> Result<ExitCode, Box<dyn Error>> {
    let needs = match config {
        Some(path) => {
            let raw = read_config(path)?;
            let config = Config::try_from(&raw);
            Needs::of(&config.map_err(|error| format!("{}: {error}", path.display()))?)
        }
        None => Needs::default(),
    };
    let facts = preflight::look(&Vici::new(vici), &needs).await;
    let findings = preflight::verdict(&facts, &needs);
    print!("{}", preflight::text(&facts, &findings));
    match findings.iter().any(|it| it.severity == preflight::FAILS) {
        true => Ok(ExitCode::FAILURE),
        false => Ok(ExitCode::SUCCESS),
    }
}

async fn down(host: HostArgs) -> Result<ExitCode, Box<dyn Error>> {
    let state_dir = StateDir::open(&host.state_dir)?;
    let Some(raw) = state_dir.load()?.config else {
        println!("nothing to remove: no agent has run with this state directory");
        return Ok(ExitCode::SUCCESS);
    };
    let config = Config::try_from(&raw)?;
    let vici = Vici::new(host.vici);
    let problems = reconcile::down(&config, &vici, &state_dir).await?;
    for problem in &problems {
        eprintln!("{}: {}", problem.object, problem.reason);
    }
    if !problems.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    state_dir.forget()?;
    println!("all that the agent made is gone");
    Ok(ExitCode::SUCCESS)
}
