//! `meshctl import`.

use crate::failure::Failure;
use crate::import::{self, Draft, Kind, Note, Source};
use crate::output::{Format, Output};
use crate::{input, output};
use clap::Args;
use serde::Serialize;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "\
KIND is swanctl, ipsec.conf or bird, and holds for the files behind it; ipsec.secrets goes with ipsec.conf. All \
files of one directory are of one host, or those of one NAME=FILE:

    meshctl import swanctl paris/swanctl.conf oslo/swanctl.conf bird paris/bird.conf oslo/bird.conf
    meshctl import ipsec.conf V1-1=/tmp/a.conf V1-1=/tmp/a.secrets --out mesh.toml

Far ends whose files are not given are taken for foreign peers. What could not be carried over is told on standard \
error, line by line. Nothing is sent anywhere.")]
pub(crate) struct Import {
    /// What the files are, and the files.
    #[arg(required = true, value_names = ["KIND", "FILE"], num_args = 1..)]
    what: Vec<String>,
    /// Write the draft there, and pre-shared keys into files beside it. Without, it goes to standard output, and
    /// no key is written.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// What `import` shows.
#[derive(Serialize)]
struct Drafted<'d> {
    text: &'d str,
    /// Files of pre-shared keys that it names.
    keys: Vec<&'d str>,
    /// What could not be carried over.
    notes: &'d [Note],
}

impl Import {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let sources = sources(&self.what)?;
        let draft = import::import(&sources)?;
        let keys: Vec<&str> = draft.keys.iter().map(|(file, _)| file.as_str()).collect();
        if let Some(file) = &self.out {
            write(file, &draft)?;
        }
        match (self.output.output, &self.out) {
            (Format::Json, _) => {
                let drafted = Drafted {
                    text: &draft.text,
                    keys,
                    notes: &draft.notes,
                };
                output::put(&output::json(&drafted)?)?;
                return Ok(ExitCode::SUCCESS);
            }
            (Format::Table, None) => output::print(&draft.text)?,
            (Format::Table, Some(_)) => {}
        }
        let mut told = io::stderr().lock();
        for note in &draft.notes {
            match note.line {
                0 => writeln!(told, "{}: {}", note.file, note.text)?,
                line => writeln!(told, "{}:{line}: {}", note.file, note.text)?,
            }
        }
        if self.out.is_none() && !keys.is_empty() {
            writeln!(
                told,
                "meshctl: with --out the keys would be written, too: {}",
                keys.join(", ")
            )?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn sources(what: &[String]) -> Result<Vec<Source>, Failure> {
    let mut kind = None;
    let mut sources = Vec::new();
    for word in what {
        if let Some(named) = Kind::named(word) {
            kind = Some(named);
            continue;
        }
        let kind = kind.ok_or(Failure::Usage(
            "what kind of file? Write swanctl, ipsec.conf or bird before it; a file of such a name is ./ipsec.conf",
        ))?;
        let (host, file) = match word.split_once('=') {
            Some((host, file)) => (Some(host.to_owned()), file),
            None => (None, word.as_str()),
        };
        sources.push(Source {
            kind,
            host,
            file: file.to_owned(),
            text: input::text(Path::new(file))?,
        });
    }
    match sources.is_empty() {
        true => Err(Failure::Usage("which files? Write them behind their kind")),
        false => Ok(sources),
    }
}

/// Writes files that are not there yet: a draft that somebody has worked on is not lost.
fn write(file: &Path, draft: &Draft) -> Result<(), Failure> {
    let directory = file.parent().unwrap_or(Path::new(""));
    if !directory.as_os_str().is_empty() {
        fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    }
    for (key, secret) in &draft.keys {
        let line = format!("{}\n", secret.expose());
        new_file(&directory.join(key), &line, 0o600)?;
    }
    new_file(file, &draft.text, 0o644)
}

fn new_file(file: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(mode).open(file);
    let written = opened.and_then(|mut open| open.write_all(text.as_bytes()));
    written.map_err(|error| failed(file, &error))
}

fn failed(file: &Path, error: &io::Error) -> Failure {
    Failure::WriteFile {
        file: file.display().to_string(),
        reason: error.to_string(),
    }
}
