//! About meshctl itself: the meshes that it knows, completions, manual pages.

use crate::context::{Context, Contexts, Home};
use crate::failure::Failure;
use crate::output::{Output, put, show};
use crate::table::{self, Look};
use clap::{Command, Subcommand};
use clap_complete::Shell;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Own {
    /// Know several meshes by names: where the controller of each is, and who asks.
    #[command(subcommand)]
    Context(Which),
    /// Print what a shell needs to complete meshctl's commands: `source <(meshctl completions bash)`.
    Completions {
        /// bash, elvish, fish, powershell, zsh.
        shell: Shell,
    },
    /// Write the manual pages.
    Man {
        /// Into this directory, which is there.
        #[arg(long)]
        dir: PathBuf,
    },
}

#[derive(Subcommand)]
pub(crate) enum Which {
    /// List the contexts, the one in use with a star.
    List(Output),
    /// Use a context whenever nothing else is said. Rewrites the file, without its comments.
    Use {
        /// Its name.
        name: String,
    },
    /// Show what is in effect, and why.
    Show(Output),
}

/// What `context list` lists.
#[derive(Serialize)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) controller: String,
    pub(crate) identity: PathBuf,
    pub(crate) in_use: bool,
}

/// What `context show` shows.
#[derive(Serialize)]
pub(crate) struct Shown {
    pub(crate) controller: Option<crate::context::Chosen<String>>,
    pub(crate) identity: Option<crate::context::Chosen<PathBuf>>,
    /// The context that is named, but is not there.
    pub(crate) unknown: Option<String>,
    pub(crate) file: Option<PathBuf>,
}

impl Own {
    pub(crate) fn run(
        self,
        context: Context,
        program: Command,
        look: Look,
    ) -> Result<ExitCode, Failure> {
        match self {
            Self::Context(Which::List(Output { output })) => {
                let Contexts { context, contexts } = home()?.read()?;
                let listed = contexts.into_iter().map(|(name, entry)| Listed {
                    in_use: context.as_ref() == Some(&name),
                    name,
                    controller: entry.controller,
                    identity: entry.identity,
                });
                let listed: Vec<Listed> = listed.collect();
                show(output, &listed, |it| table::contexts(it, look))?;
            }
            Self::Context(Which::Use { name }) => {
                let home = home()?;
                let mut contexts = home.read()?;
                if !contexts.contexts.contains_key(&name) {
                    return Err(Failure::NoContext(name));
                }
                contexts.context = Some(name);
                home.write(&contexts)?;
            }
            Self::Context(Which::Show(Output { output })) => {
                let shown = Shown {
                    controller: context.controller,
                    identity: context.identity,
                    unknown: context.unknown,
                    file: Home::find().map(|it| it.file()),
                };
                show(output, &shown, |it| table::context(it, look))?;
            }
            Self::Completions { shell } => {
                let mut program = program;
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut program, "meshctl", &mut text);
                put(&String::from_utf8_lossy(&text))?;
            }
            Self::Man { dir } => man(program, &dir)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn home() -> Result<Home, Failure> {
    Home::find().ok_or(Failure::Usage(
        "where are your files? Neither XDG_CONFIG_HOME nor HOME is set",
    ))
}

fn man(program: Command, dir: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(program, dir).map_err(|error| Failure::WriteFile {
        file: dir.display().to_string(),
        reason: error.to_string(),
    })
}
