//! What changes the mesh.

use super::unless;
use crate::client::{CallError, Client};
use crate::failure::Failure;
use crate::input::read;
use crate::output::{Output, print, show};
use crate::table::{self, Look, count};
use clap::Args;
use routemesh_proto::{ApplyReply, ApplyRequest, DrainRequest, RollbackRequest};
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args, Clone)]
pub(crate) struct Drain {
    /// The gateway.
    gateway: String,
    /// Only its tunnels to this gateway, or foreign peer.
    peer: Option<String>,
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
}

fn spec_errors(error: CallError) -> Failure {
    match error {
        CallError::Invalid(text) => Failure::Spec(text),
        other => other.into(),
    }
}

/// Shows what changes, asks where somebody can answer, and changes it if nobody else has meanwhile.
pub(crate) async fn apply(client: &Client, args: Apply, look: Look) -> Result<(), Failure> {
    let (file, text) = read(&args.file)?;
    let plan = client.plan(file.clone(), text.clone()).await;
    let plan = plan.map_err(spec_errors)?;
    let changes = !table::is_empty(&plan);
    if changes {
        print(&table::plan(&plan, look))?;
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
    print(&format!("{}\n", applied(&reply)))?;
    match args.canary {
        Some(site) if !reply.unchanged => follow(client, &site, reply.generation).await,
        _ => Ok(()),
    }
}

/// Shows how a trial goes, until its end. It goes on without us.
async fn follow(client: &Client, site: &str, generation: u64) -> Result<(), Failure> {
    print(&format!(
        "site {site} tries it; the controller goes on, or back, by itself\n"
    ))?;
    let mut said = String::new();
    loop {
        let view = client.canary(generation).await?;
        match view.state.as_str() {
            "trying" if view.reason == said => {}
            "trying" => {
                print(&format!("  {}\n", view.reason))?;
                said = view.reason;
            }
            "promoted" => {
                return print(&format!("everywhere, as generation {}\n", view.generation));
            }
            _ => return Err(Failure::RolledBack(view.reason)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn wanted() -> Result<bool, Failure> {
    print("apply? [y/N] ")?;
    let mut answer = String::new();
    // Nobody types more than that.
    io::stdin().lock().take(16).read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

pub(crate) async fn plan(client: &Client, args: Plan, look: Look) -> Result<ExitCode, Failure> {
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

pub(crate) async fn rollback(client: &Client, args: Rollback) -> Result<(), Failure> {
    let Rollback { generation, expect } = args;
    let reply = client
        .rollback(RollbackRequest { generation, expect })
        .await;
    let reply = reply.map_err(spec_errors)?;
    print(&format!("{}\n", applied(&reply)))
}

fn applied(reply: &ApplyReply) -> String {
    if reply.unchanged {
        return format!("unchanged (generation {})", reply.generation);
    }
    format!(
        "generation {}: {}, {}, {}",
        reply.generation,
        count(reply.sites, "site"),
        count(reply.gateways, "gateway"),
        count(reply.tunnels, "tunnel")
    )
}

pub(crate) async fn drain(client: &Client, what: Drain, undo: bool) -> Result<(), Failure> {
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
