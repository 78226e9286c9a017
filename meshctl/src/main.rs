//! `meshctl`: the operator's command line.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod client;
mod commands;
mod failure;
mod input;
mod keys;
mod mtu;
mod output;
mod table;
mod tunnels;

use clap::{Parser, Subcommand};
use client::Client;
use commands::{
    Apply, Audit, Diff, Drain, Enroll, History, Mtu, Plan, Revoke, Rollback, Routes, Tokens,
};
use failure::Failure;
use output::Output;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use table::Look;

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
    ///
    /// Shows the plan first, and asks, where standard input is a terminal.
    Apply(Apply),
    /// Show what a specification would change, gateway by gateway; nothing is changed.
    #[command(
        after_help = "Exit status: 0 if nothing would change, 2 if something would, 1 on errors."
    )]
    Plan(Plan),
    /// Show the generations that are kept: who made them, when and how.
    History(History),
    /// Show how the specification of one generation differs from that of another, and what came of it.
    #[command(after_help = "Exit status: 0 if they are alike, 2 if they are not, 1 on errors.")]
    Diff(Diff),
    /// Put the specification of an earlier generation in force again, as a new generation.
    ///
    /// What is drained stays drained.
    Rollback(Rollback),
    /// Copy the controller's database into a file, while it is in use.
    Backup {
        /// The file; one that is there is replaced.
        file: PathBuf,
    },
    /// Show every tunnel from both ends, and every prefix with its paths.
    ///
    /// An edge is up only if both ends say so, and lately.
    #[command(after_help = "Exit status: 0 if every tunnel is up, 2 if one is not, 1 on errors.")]
    Topology(commands::Whole),
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
    Routes(Routes),
    /// Show what is wrong with a gateway and its host, and what to do.
    #[command(after_help = "Exit status: 0 if nothing is, 2 if something is, 1 on errors.")]
    Doctor {
        /// Its name.
        gateway: String,
        #[command(flatten)]
        output: Output,
    },
    /// Give out tokens with which gateways and people enroll.
    #[command(subcommand)]
    Token(Tokens),
    /// Make a key here, and get a certificate for it with a token, into the directory of --identity.
    Enroll(Enroll),
    /// Get another certificate, for a new key, before the one that you have runs out.
    Renew,
    /// Let no certificate of a gateway or a person be good any more. A new token lets it enroll again.
    ///
    /// Every other gateway takes down its tunnels to the one that is revoked, and its routes, at once.
    Revoke(Revoke),
    /// Show who did what, the latest first, and what was refused.
    Audit(Audit),
    /// Reckon the MTU of a tunnel from its ESP proposal. Needs no controller.
    Mtu(Mtu),
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
        Command::Apply(args) => commands::apply(&client()?, args, look).await?,
        Command::Plan(args) => return commands::plan(&client()?, args, look).await,
        Command::History(args) => commands::history(&client()?, args, look).await?,
        Command::Diff(args) => return commands::diff(&client()?, args, look).await,
        Command::Rollback(args) => commands::rollback(&client()?, args).await?,
        Command::Backup { file } => commands::backup(&client()?, &file).await?,
        Command::Topology(args) => return commands::topology(&client()?, args, look).await,
        Command::Drain(what) => commands::drain(&client()?, what, false).await?,
        Command::Undrain(what) => commands::drain(&client()?, what, true).await?,
        Command::Get(Get::Gateways(output)) => {
            commands::gateways(&client()?, output, look).await?;
        }
        Command::Get(Get::Tunnels { gateway, output }) => {
            commands::tunnels(&client()?, gateway, output, look).await?;
        }
        Command::Routes(args) => commands::routes(&client()?, args, look).await?,
        Command::Doctor { gateway, output } => {
            return commands::doctor(&client()?, gateway, output, look).await;
        }
        Command::Token(Tokens::Create(args)) => commands::token(&client()?, args).await?,
        Command::Enroll(args) => commands::enroll(cli.identity.as_deref(), args).await?,
        Command::Renew => commands::renew(&client()?, cli.identity.as_deref()).await?,
        Command::Revoke(args) => commands::revoke(&client()?, args).await?,
        Command::Audit(args) => commands::audit(&client()?, args, look).await?,
        Command::Mtu(args) => commands::mtu(args, look)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn connect(controller: Option<&str>, identity: Option<&Path>) -> Result<Client, Failure> {
    let controller = controller.ok_or(Failure::Usage(
        "which controller? Give --controller URL or set MESHCTL_CONTROLLER, like https://[2001:db8::7]:7179",
    ))?;
    let identity = identity.ok_or(Failure::Usage(
        "who asks? Give --identity DIR or set MESHCTL_IDENTITY; `meshctl enroll TOKEN` makes one, and `mesh-controller issue --admin NAME --out DIR` the first",
    ))?;
    Ok(Client::new(controller, identity)?)
}
