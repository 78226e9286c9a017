//! The file with the meshes that somebody looks after: `routemesh/meshctl.toml` where the XDG base directory
//! specification puts a program's configuration.

use crate::failure::Failure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Nobody looks after so many meshes that it takes more bytes.
const LONGEST_FILE: u64 = 1 << 20;

/// All meshes that are known by a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context: Option<String>,
    pub(crate) contexts: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) controller: String,
    /// As `--identity`; where it is not absolute, from where the file is.
    pub(crate) identity: PathBuf,
}

/// Where the file is.
pub(crate) struct Home(PathBuf);

impl Home {
    /// None where nobody is at home.
    pub(crate) fn find() -> Option<Self> {
        let absolute = |name: &str| {
            let path = PathBuf::from(std::env::var_os(name)?);
            path.is_absolute().then_some(path)
        };
        let config = absolute("XDG_CONFIG_HOME");
        let config = config.or_else(|| Some(absolute("HOME")?.join(".config")))?;
        Some(Self(config.join("routemesh")))
    }

    /// Where an identity is put that is known by this name.
    pub(crate) fn identity(&self, context: &str) -> PathBuf {
        self.0.join(context)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.join("meshctl.toml")
    }

    /// Nothing where there is no file.
    pub(crate) fn read(&self) -> Result<Contexts, Failure> {
        let path = self.file();
        let wrong = |reason: String| Failure::Read {
            file: path.display().to_string(),
            reason,
        };
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(Contexts::default()),
            Err(error) => return Err(wrong(error.to_string())),
        };
        let mut text = String::new();
        let read = file.take(LONGEST_FILE).read_to_string(&mut text);
        read.map_err(|error| wrong(error.to_string()))?;
        let mut contexts: Contexts =
            toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        for entry in contexts.contexts.values_mut() {
            entry.identity = self.0.join(&entry.identity);
        }
        Ok(contexts)
    }

    pub(crate) fn write(&self, contexts: &Contexts) -> Result<(), Failure> {
        let path = self.file();
        let written = toml::to_string(contexts)
            .map_err(io::Error::other)
            .and_then(|text| {
                fs::create_dir_all(&self.0)?;
                routemesh_proto::save_file(&path, &text, 0o600)
            });
        written.map_err(|error| Failure::WriteFile {
            file: path.display().to_string(),
            reason: error.to_string(),
        })
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// A name that is also that of a directory.
pub(crate) fn is_name(name: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    !name.is_empty()
        && !name.starts_with('.')
        && name.chars().all(fits)
        && Path::new(name).file_name().is_some()
}
