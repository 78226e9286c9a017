//! `meshctl`: the operator's command line.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod client;
mod commands;
mod context;
mod doctor;
mod failure;
mod import;
mod input;
mod keys;
mod mtu;
mod output;
mod picture;
mod progress;
mod reach;
mod renewal;
mod state;
mod table;
mod tunnels;
mod watch;

use clap::{CommandFactory, Parser, Subcommand};
use context::{Context, Flags};
use failure::Failure;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use table::Look;

/// Looks after a Routemesh: applies its specification, shows what became of it.
#[derive(Parser)]
#[command(name = "meshctl", version)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

/// A family of commands each, with a file in `commands/`.
#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Change(commands::Change),
    /// Draft a specification from the files of a mesh that was made by hand. Needs no controller.
    Import(commands::Import),
    #[command(flatten)]
    View(commands::View),
    #[command(flatten)]
    Ask(commands::Ask),
    #[command(flatten)]
    Past(commands::Past),
    #[command(flatten)]
    Trust(commands::Trust),
    #[command(flatten)]
    Own(commands::Own),
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
            let _ = writeln!(io::stderr(), "{}", output::plain(&failure.to_string()));
            ExitCode::FAILURE
        }
    }
}

async fn run(Cli { flags, command }: Cli) -> Result<ExitCode, Failure> {
    let look = Look::of_terminal(io::stdout().is_terminal());
    let context = Context::find(flags)?;
    let code = match command {
        Command::Change(it) => it.run(&context, look).await?,
        Command::View(it) => it.run(&context, look).await?,
        Command::Ask(it) => it.run(&context, look).await?,
        Command::Past(it) => it.run(&context, look).await?,
        Command::Trust(it) => it.run(&context, look).await?,
        Command::Import(it) => return it.run(),
        Command::Own(it) => return it.run(context, Cli::command(), look),
    };
    renewal::when_due(&context).await;
    Ok(code)
}
