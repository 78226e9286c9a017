//! What an agent keeps on disk: the config in force, so that it boots without a controller, and a
//! lock, so that two agents never run the same gateway.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use routemesh_proto::Config;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file by which an agent is asked to drain its gateway.
const DRAINED: &str = "drained";

/// A state directory, held by this process alone for as long as the value lives.
#[derive(Debug)]
pub struct StateDir {
    dir: PathBuf,
    _lock: Flock<File>,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another agent has it.
    #[error("another mesh-agent runs with state directory {}; stop it first", .0.display())]
    Locked(PathBuf),
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A config that is torn, was edited, or is something else.
    #[error("{} is not a gateway's config: line {line}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// Why. The line itself may hold a password.
        reason: String,
    },
    /// A config that has no text form: never for one that was received.
    #[error("cannot write the config as TOML: {0}")]
    Unwritable(#[from] toml::ser::Error),
}

impl StateDir {
    /// Makes the directory where it is missing, and locks it.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let io = |source| StateError::Io {
            path: dir.to_owned(),
            source,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join("lock"))
            .map_err(io)?;
        let lock =
            Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(
                |(_, errno)| match errno {
                    Errno::EWOULDBLOCK => StateError::Locked(dir.to_owned()),
                    other => io(other.into()),
                },
            )?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// The config that was last saved.
    pub fn load(&self) -> Result<Option<Config>, StateError> {
        match read_config(&self.config()) {
            Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Replaces the saved config: after a crash there is the old one or the new one, whole.
    pub fn save(&self, config: &Config) -> Result<(), StateError> {
        let text = toml::to_string(config)?;
        let new = self.dir.join("config.toml.new");
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, self.config())?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| StateError::Io {
            path: new.clone(),
            source,
        })
    }

    /// Forgets the saved config.
    pub fn forget(&self) -> Result<(), StateError> {
        match std::fs::remove_file(self.config()) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError::Io {
                path: self.config(),
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Whether somebody has asked on this host that traffic leaves the gateway (`mesh-agent drain`).
    pub fn drained(&self) -> bool {
        self.dir.join(DRAINED).exists()
    }

    /// charon's id of the private key that we loaded into it, to know it again. It is no secret,
    /// and losing it costs one more load.
    pub fn key_id(&self) -> Option<String> {
        std::fs::read_to_string(self.key()).ok()
    }

    /// Remembers the id of the key.
    pub fn save_key_id(&self, id: &str) {
        let _ = std::fs::write(self.key(), id);
    }

    fn key(&self) -> PathBuf {
        self.dir.join("key-id")
    }

    fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }
}

/// Asks the agent that runs with the directory, or the next one, to drain the gateway, or not to.
pub fn ask_to_drain(dir: &Path, drain: bool) -> Result<(), StateError> {
    let path = dir.join(DRAINED);
    let done = match drain {
        true => File::create(&path).map(drop),
        false => match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        },
    };
    done.map_err(|source| StateError::Io { path, source })
}

/// Reads a config from a TOML file, a saved one or one written by hand.
pub fn read_config(path: &Path) -> Result<Config, StateError> {
    let text = std::fs::read_to_string(path).map_err(|source| StateError::Io {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| {
        let before = text.get(..error.span().unwrap_or_default().start);
        StateError::Damaged {
            path: path.to_owned(),
            line: before.unwrap_or_default().matches('\n').count() + 1,
            reason: error.message().replace('\n', ", "),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert_eq!(state.load().unwrap(), None);
        let config = Config {
            generation: 7,
            gateway: "V1-1".into(),
            ..Config::default()
        };
        state.save(&config).unwrap();
        assert_eq!(state.load().unwrap(), Some(config));
        let file = std::fs::metadata(dir.path().join("config.toml")).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
        state.forget().unwrap();
        state.forget().unwrap();
        assert_eq!(state.load().unwrap(), None);
    }

    #[test]
    fn a_running_agent_can_be_asked_to_drain() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        for (drain, drained) in [(false, false), (true, true), (true, true), (false, false)] {
            ask_to_drain(dir.path(), drain).unwrap();
            assert_eq!(state.drained(), drained);
        }
        let missing = ask_to_drain(&dir.path().join("missing"), true).unwrap_err();
        assert!(missing.to_string().contains("missing"), "{missing}");
    }

    #[test]
    fn two_agents_cannot_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let held = StateDir::open(dir.path()).unwrap();
        let second = StateDir::open(dir.path());
        assert!(matches!(second, Err(StateError::Locked(_))));
        drop(held);
        StateDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_torn_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let torn = "generation = 1\n[[routers]]\npassword = \"hunter2\" \"\n";
        std::fs::write(dir.path().join("config.toml"), torn).unwrap();
        let error = state.load().unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("config.toml is not a gateway's config: line 3: "),
            "{text}"
        );
        assert!(!format!("{text} {error:?}").contains("hunter2"), "{text}");
    }
}
