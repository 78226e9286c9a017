//! `meshctl`: the operator's command line.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod client;
mod mtu;
mod table;
mod tunnels;

use clap::{Args, Parser, Subcommand, ValueEnum};
use client::{CallError, Client};
use routemesh_proto::{ApplyReply, DrainRequest, ProposalError, Topology};
use serde::Serialize;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use table::Look;

/// A specification may be this long, in bytes.
const LONGEST_TEXT: u64 = 8 << 20;

/// Looks after a Routemesh: applies its specification, shows what became of it.
#[derive(Parser)]
#[command(name = "meshctl", version)]
struct Cli {
    /// The controller, like https://[2001:db8::7]:7179.
    #[arg(long, env = "MESHCTL_CONTROLLER", value_name = "URL", global = true)]
    controller: Option<String>,
    /// Directory with ca.pem, cert.pem and key.pem of an operator.
    #[arg(long, env = "MESHCTL_IDENTITY", value_name = "DIR", global = true)]
    identity: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put a specification in force, or say what is wrong with it and change nothing.
    Apply {
        /// The specification; - for standard input.
        file: PathBuf,
    },
    /// Show every tunnel from both ends, and every prefix with its paths.
    ///
    /// An edge is up only if both ends say so, and lately.
    #[command(after_help = "Exit status: 0 if every tunnel is up, 2 if one is not, 1 on errors.")]
    Topology(Output),
    /// Let traffic leave a gateway, or the tunnels between two, without loss.
    ///
    /// It lasts until undrain, also over apply and restarts. `meshctl topology` says when traffic is gone.
    Drain(Drain),
    /// Let traffic come back to what was drained.
    Undrain(Drain),
    /// List things.
    #[command(subcommand)]
    Get(Get),
    /// Show the routes of one gateway.
    Routes {
        /// Its name.
        gateway: String,
        /// Show its BGP peers, and what they announced that is not used, and why.
        #[arg(long)]
        rejected: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show what is wrong with a gateway and its host, and what to do.
    #[command(after_help = "Exit status: 0 if nothing is, 2 if something is, 1 on errors.")]
    Doctor {
        /// Its name.
        gateway: String,
        #[command(flatten)]
        output: Output,
    },
    /// Reckon the MTU of a tunnel from its ESP proposal. Needs no controller.
    Mtu {
        /// In strongSwan's words, as in `proposals` of `[mesh.esp]`.
        #[arg(default_value = "aes256gcm16-ecp384")]
        proposals: Vec<String>,
        /// MTU of the path between the endpoints.
        #[arg(long, value_name = "BYTES", default_value = "1500", value_parser = clap::value_parser!(u32).range(68..=65535))]
        path: u32,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Subcommand)]
enum Get {
    /// Every gateway, its generation and what is wrong there.
    Gateways(Output),
    /// Every tunnel's ends: addresses outside and inside, sessions, MTU, and what its SAs are known by.
    Tunnels {
        /// Only the ends at this gateway.
        gateway: Option<String>,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Args, Clone)]
struct Drain {
    /// The gateway.
    gateway: String,
    /// Only its tunnels to this gateway.
    peer: Option<String>,
}

#[derive(Args, Clone, Copy)]
struct Output {
    /// For people or for programs.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("meshctl: {0}")]
    Call(#[from] CallError),
    /// Shown as it came: lines of file:line:column: reason.
    #[error("{0}")]
    Spec(String),
    #[error("meshctl: cannot read {file}: {reason}")]
    Read { file: String, reason: String },
    #[error("meshctl: cannot write: {0}")]
    Write(#[from] io::Error),
    #[error("meshctl: cannot show this as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("meshctl: {0}")]
    Usage(&'static str),
    #[error("meshctl: there is no gateway {0}: `meshctl get gateways` lists them")]
    NoGateway(String),
    #[error("meshctl: {0}")]
    Proposal(#[from] ProposalError),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(code) => code,
        // Whoever reads has seen enough.
        Err(Failure::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let _ = writeln!(io::stderr(), "{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let look = Look::of_terminal(io::stdout().is_terminal());
    let client = || connect(cli.controller.as_deref(), cli.identity.as_deref());
    match cli.command {
        Command::Apply { file } => {
            let (name, text) = read(&file)?;
            let reply = client()?
                .apply(name, text)
                .await
                .map_err(|error| match error {
                    CallError::Invalid(text) => Failure::Spec(text),
                    other => other.into(),
                })?;
            print(&format!("{}\n", applied(&reply)))?;
        }
        Command::Topology(Output { output }) => {
            let topology = client()?.topology().await?;
            show(output, &topology, |topology| {
                table::topology(topology, look)
            })?;
            if !all_up(&topology) {
                return Ok(ExitCode::from(2));
            }
        }
        Command::Drain(what) => drain(&client()?, what, false).await?,
        Command::Undrain(what) => drain(&client()?, what, true).await?,
        Command::Get(Get::Gateways(Output { output })) => {
            let gateways = client()?.topology().await?.gateways;
            show(output, &gateways, |gateways| {
                table::gateways(gateways, look)
            })?;
        }
        Command::Get(Get::Tunnels {
            gateway,
            output: Output { output },
        }) => {
            let topology = client()?.topology().await?;
            if let Some(name) = &gateway
                && !topology.gateways.iter().any(|it| it.name == *name)
            {
                return Err(Failure::NoGateway(name.clone()));
            }
            let ends = tunnels::ends(&topology, gateway.as_deref());
            show(output, &ends, |ends| table::tunnels(ends, look))?;
        }
        Command::Routes {
            gateway,
            rejected,
            output: Output { output },
        } => {
            let routes = client()?.routes(gateway).await?;
            show(output, &routes, |routes| match rejected {
                true => table::rejected(routes, look),
                false => table::routes(routes, look),
            })?;
        }
        Command::Doctor {
            gateway,
            output: Output { output },
        } => {
            let gateways = client()?.topology().await?.gateways;
            let mut named = gateways.into_iter().filter(|it| it.name == gateway);
            let view = named.next().ok_or(Failure::NoGateway(gateway))?;
            show(output, &view, |view| table::doctor(view, look))?;
            let fails = view.findings.iter().any(|it| it.severity == "fails");
            if fails || view.verdict != "ok" {
                return Ok(ExitCode::from(2));
            }
        }
        Command::Mtu {
            proposals,
            path,
            output: Output { output },
        } => {
            let sizes = mtu::sizes(&proposals, path)?;
            show(output, &sizes, |sizes| table::mtu(sizes, look))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn connect(controller: Option<&str>, identity: Option<&Path>) -> Result<Client, Failure> {
    let controller = controller.ok_or(Failure::Usage(
        "which controller? Give --controller URL or set MESHCTL_CONTROLLER, like https://[2001:db8::7]:7179",
    ))?;
    let identity = identity.ok_or(Failure::Usage(
        "who asks? Give --identity DIR or set MESHCTL_IDENTITY; `mesh-controller issue --operator NAME --out DIR` makes one",
    ))?;
    Ok(Client::new(controller, identity)?)
}

fn read(file: &Path) -> Result<(String, String), Failure> {
    let (name, mut source): (_, Box<dyn Read>) = if file == Path::new("-") {
        ("<stdin>".to_owned(), Box::new(io::stdin()))
    } else {
        let name = file.display().to_string();
        match std::fs::File::open(file) {
            Ok(file) => (name, Box::new(file)),
            Err(error) => {
                let reason = error.to_string();
                return Err(Failure::Read { file: name, reason });
            }
        }
    };
    let mut bytes = Vec::new();
    let read = source
        .by_ref()
        .take(LONGEST_TEXT + 1)
        .read_to_end(&mut bytes);
    let text = match read {
        Err(error) => Err(error.to_string()),
        Ok(_) if bytes.len() as u64 > LONGEST_TEXT => {
            Err(format!("it has more than {LONGEST_TEXT} bytes"))
        }
        Ok(_) => String::from_utf8(bytes).map_err(|error| {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            format!("line {} is not UTF-8", line + 1)
        }),
    };
    match text {
        Ok(text) => Ok((name, text)),
        Err(reason) => Err(Failure::Read { file: name, reason }),
    }
}

async fn drain(client: &Client, what: Drain, undo: bool) -> Result<(), Failure> {
    let Drain { gateway, peer } = what;
    let request = DrainRequest {
        gateway,
        peer: peer.unwrap_or_default(),
        undo,
    };
    let reply = client.drain(request).await?;
    let unchanged = if reply.unchanged { "unchanged, " } else { "" };
    print(&format!("{unchanged}generation {}\n", reply.generation))
}

fn applied(reply: &ApplyReply) -> String {
    if reply.unchanged {
        return format!("unchanged (generation {})", reply.generation);
    }
    format!(
        "generation {}: {}, {}, {}",
        reply.generation,
        table::count(reply.sites, "site"),
        table::count(reply.gateways, "gateway"),
        table::count(reply.tunnels, "tunnel")
    )
}

fn all_up(topology: &Topology) -> bool {
    topology.edges.iter().all(|edge| edge.verdict == "up")
}

fn show<T: Serialize>(
    format: Format,
    value: &T,
    table: impl Fn(&T) -> String,
) -> Result<(), Failure> {
    let text = match format {
        Format::Table => table(value),
        Format::Json => serde_json::to_string_pretty(value)? + "\n",
    };
    print(&text)
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
