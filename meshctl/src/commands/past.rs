//! What was, and a copy of it.

use super::unless;
use crate::client::{Client, PIECE_LIMIT};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Output, show};
use crate::table::{self, Look};
use clap::{Args, Subcommand};
use routemesh_proto::BackupPiece;
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Past {
    /// Show the generations that are kept: who made them, when and how.
    History(History),
    /// Show how the specification of one generation differs from that of another, and what came of it.
    #[command(after_help = "Exit status: 0 if they are alike, 2 if they are not, 1 on errors.")]
    Diff(Diff),
    /// Copy the controller's database into a file, while it is in use.
    Backup {
        /// The file; one that is there is replaced.
        file: PathBuf,
        #[command(flatten)]
        output: Output,
    },
}

impl Past {
    pub(crate) async fn run(self, context: &Context, look: Look) -> Result<ExitCode, Failure> {
        let client = context.client()?;
        match self {
            Self::History(args) => history(&client, args, look).await?,
            Self::Diff(args) => return diff(&client, args, look).await,
            Self::Backup { file, output } => backup(&client, file, output).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args)]
pub(crate) struct History {
    /// The newest, at most so many; 0 for all.
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct Diff {
    /// The one generation.
    from: u64,
    /// The other.
    to: u64,
    #[command(flatten)]
    output: Output,
}

async fn history(client: &Client, args: History, look: Look) -> Result<(), Failure> {
    let history = client.history(args.limit).await?;
    show(args.output.output, &history, |it| table::history(it, look))
}

async fn diff(client: &Client, args: Diff, look: Look) -> Result<ExitCode, Failure> {
    let diff = client.diff(args.from, args.to).await?;
    show(args.output.output, &diff, |diff| {
        let plan = match &diff.plan {
            Some(plan) => table::plan(plan, look),
            None => "this version of mesh-controller does not accept one of the two: no plan\n"
                .to_owned(),
        };
        match table::text_diff(diff, look) {
            text if text.is_empty() => plan,
            text => format!("{text}\n{plan}"),
        }
    })?;
    let same_plan = diff.plan.as_ref().is_some_and(table::is_empty);
    Ok(unless(!same_plan || diff.from_text != diff.to_text))
}

/// What `backup` shows.
#[derive(Serialize)]
struct BackedUp {
    file: PathBuf,
    bytes: u64,
}

/// Writes the file whole or not at all.
async fn backup(client: &Client, file: PathBuf, output: Output) -> Result<(), Failure> {
    let wrong = |error: io::Error| Failure::WriteFile {
        file: file.display().to_string(),
        reason: error.to_string(),
    };
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let mut out = create(&part).map_err(wrong)?;
    let written = receive(client, &mut out, wrong).await;
    let kept = match written {
        Ok(bytes) => out
            .sync_all()
            .and_then(|()| fs::rename(&part, &file))
            .map(|()| bytes)
            .map_err(wrong),
        Err(failure) => Err(failure),
    };
    if kept.is_err() {
        let _ = fs::remove_file(&part);
    }
    let bytes = kept?;
    show(output.output, &BackedUp { file, bytes }, |it| {
        format!(
            "{} bytes in {}: all generations, passwords and keys of foreign peers included. Not in it: the \
             certificate authority (*.pem in the controller's directory)\n",
            it.bytes,
            it.file.display()
        )
    })
}

async fn receive(
    client: &Client,
    out: &mut File,
    wrong: impl Fn(io::Error) -> Failure,
) -> Result<u64, Failure> {
    let mut bytes = 0;
    let mut pieces = client.backup().await?;
    while let Some(BackupPiece { data }) = pieces.next(PIECE_LIMIT).await? {
        out.write_all(&data).map_err(&wrong)?;
        bytes += data.len() as u64;
    }
    Ok(bytes)
}

/// It holds passwords.
fn create(path: &Path) -> io::Result<File> {
    // One of an attempt that was cut short.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}
