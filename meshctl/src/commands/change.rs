//! What changes the mesh.

use super::unless;
use crate::client::{CallError, Client};
use crate::context::Context;
use crate::failure::Failure;
use crate::input::read;
use crate::output::{Format, Output, plain, print, show};
use crate::table::{self, Look, count};
use clap::{Args, Subcommand};
use routemesh_proto::{ApplyReply, ApplyRequest, DrainRequest, RollbackRequest};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Subcommand)]
pub(crate) enum Change {
    /// Put a specification in force, or say what is wrong with it and change nothing.
    ///
    /// Shows the plan first, and asks, where standard input is a terminal.
    Apply(Apply),
    /// Show what a specification would change, gateway by gateway; nothing is changed.
    #[command(
        after_help = "Exit status: 0 if nothing would change, 2 if something would, 1 on errors."
    )]
    Plan(Plan),
    /// Put the specification of an earlier generation in force again, as a new generation.
    ///
    /// What is drained stays drained.
    Rollback(Rollback),
    /// Let traffic leave a gateway, or the tunnels between two, without loss.
    ///
    /// It lasts until undrain, also over apply and restarts. `meshctl topology` says when traffic is gone.
    Drain(Drain),
    /// Let traffic come back to what was drained.
    Undrain(Drain),
}

impl Change {
    pub(crate) async fn run(self, context: &Context, look: Look) -> Result<ExitCode, Failure> {
        let client = context.client()?;
        match self {
            Self::Apply(args) => apply(&client, args, look).await?,
            Self::Plan(args) => return plan(&client, args, look).await,
            Self::Rollback(args) => rollback(&client, args).await?,
            Self::Drain(what) => drain(&client, what, false).await?,
            Self::Undrain(what) => drain(&client, what, true).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args)]
pub(crate) struct Drain {
    /// The gateway.
    gateway: String,
    /// Only its tunnels to this gateway, or foreign peer.
    peer: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// Between two looks at a trial.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct Apply {
    /// The specification; - for standard input.
    file: PathBuf,
    /// Only if this generation is in force until then (0: none). Otherwise, the one that the plan was made against.
    #[arg(long, value_name = "GENERATION")]
    expect: Option<u64>,
    /// At this site first, then everywhere if all is well for a while; otherwise, back.
    #[arg(long, value_name = "SITE")]
    canary: Option<String>,
    /// Do not ask, where standard input is a terminal.
    #[arg(long, short)]
    yes: bool,
    /// For people or for programs: as JSON, what was changed is told on standard output, and the plan and the
    /// question on standard error.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Args)]
pub(crate) struct Plan {
    /// The specification; - for standard input.
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct Rollback {
    /// As `meshctl history` lists it.
    generation: u64,
    /// Only if this generation is in force until then.
    #[arg(long, value_name = "GENERATION")]
    expect: Option<u64>,
    #[command(flatten)]
    output: Output,
}

fn spec_errors(error: CallError) -> Failure {
    match error {
        CallError::Invalid(text) => Failure::Spec(text),
        other => other.into(),
    }
}

/// Shows what changes, asks where somebody can answer, and changes it if nobody else has meanwhile.
async fn apply(client: &Client, args: Apply, look: Look) -> Result<(), Failure> {
    let (file, text) = read(&args.file)?;
    let plan = client.plan(file.clone(), text.clone()).await;
    let plan = plan.map_err(spec_errors)?;
    let changes = !table::is_empty(&plan);
    if changes {
        let text = table::plan(&plan, look);
        match args.output {
            Format::Table => print(&text)?,
            Format::Json => io::stderr().write_all(plain(&text).as_bytes())?,
        }
    }
    let expect = args.expect.unwrap_or(plan.generation);
    let asks = changes && !args.yes && args.file != Path::new("-") && io::stdin().is_terminal();
    if asks && expect == plan.generation && !wanted()? {
        return Err(Failure::NotWanted);
    }
    let request = ApplyRequest {
        text,
        file,
        expect: Some(expect),
        canary: args.canary.clone().unwrap_or_default(),
    };
    let reply = client.apply(request).await.map_err(spec_errors)?;
    match args.canary {
        Some(site) if !reply.unchanged => {
            if args.output == Format::Table {
                print(&applied(&reply))?;
            }
            follow(client, &site, reply.generation, args.output).await
        }
        _ => show(args.output, &reply, applied),
    }
}

/// Shows how a trial goes, until its end. It goes on without us.
async fn follow(
    client: &Client,
    site: &str,
    generation: u64,
    output: Format,
) -> Result<(), Failure> {
    let say = |text: &str| match output {
        Format::Table => print(text),
        Format::Json => Ok(()),
    };
    say(&format!(
        "site {site} tries it; the controller goes on, or back, by itself\n"
    ))?;
    let mut said = String::new();
    loop {
        let view = client.canary(generation).await?;
        match view.state.as_str() {
            "trying" if view.reason == said => {}
            "trying" => {
                say(&format!("  {}\n", view.reason))?;
                said = view.reason;
            }
            "promoted" => {
                return show(output, &view, |view| {
                    format!("everywhere, as generation {}\n", view.generation)
                });
            }
            _ => return Err(Failure::RolledBack(view.reason)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn wanted() -> Result<bool, Failure> {
    io::stderr().write_all(b"apply? [y/N] ")?;
    let mut answer = String::new();
    // Nobody types more than that.
    io::stdin().lock().take(16).read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn plan(client: &Client, args: Plan, look: Look) -> Result<ExitCode, Failure> {
    let (file, text) = read(&args.file)?;
    let plan = client.plan(file, text).await.map_err(spec_errors)?;
    show(args.output.output, &plan, |plan| {
        let text = table::plan(plan, look);
        match table::is_empty(plan) {
            true => text,
            false => format!(
                "{text}to do just this: meshctl apply {} --expect {}\n",
                args.file.display(),
                plan.generation
            ),
        }
    })?;
    Ok(unless(!table::is_empty(&plan)))
}

async fn rollback(client: &Client, args: Rollback) -> Result<(), Failure> {
    let Rollback {
        generation,
        expect,
        output,
    } = args;
    let reply = client
        .rollback(RollbackRequest { generation, expect })
        .await;
    let reply = reply.map_err(spec_errors)?;
    show(output.output, &reply, applied)
}

fn applied(reply: &ApplyReply) -> String {
    if reply.unchanged {
        return format!("unchanged (generation {})\n", reply.generation);
    }
    format!(
        "generation {}: {}, {}, {}\n",
        reply.generation,
        count(reply.sites, "site"),
        count(reply.gateways, "gateway"),
        count(reply.tunnels, "tunnel")
    )
}

async fn drain(client: &Client, what: Drain, undo: bool) -> Result<(), Failure> {
    let Drain {
        gateway,
        peer,
        output,
    } = what;
    let request = DrainRequest {
        gateway,
        peer: peer.unwrap_or_default(),
        undo,
    };
    let reply = client.drain(request).await?;
    show(output.output, &reply, |reply| {
        let unchanged = if reply.unchanged { "unchanged, " } else { "" };
        format!("{unchanged}generation {}\n", reply.generation)
    })
}
