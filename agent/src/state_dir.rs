//! What an agent keeps on disk: the config in force, so that it boots without a controller, the one before
//! it, should that be damaged, and a lock, so that two agents never run the same gateway.
//!
//! The first line of a kept config is its format and the SHA-256 of the rest. It protects against what is torn,
//! mixed up or edited, not against root.

use crate::wireguard::PrivateKey;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use routemesh_proto::{Config, NoKey, fingerprint};
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
    /// A file that is torn, was edited, or is something else.
    #[error("{} is not {what}: line {line}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// Where.
        line: usize,
        /// Why. The line itself may hold a password.
        reason: String,
    },
    /// A kept config that is not whole, or not as it was written.
    #[error("{} is damaged or was edited: {reason}; the controller sends another, or remove the file", path.display())]
    Torn {
        /// The file.
        path: PathBuf,
        /// How that shows.
        reason: &'static str,
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

    /// The config that was last saved; where that is damaged, the one before it, and how it is damaged.
    pub fn load(&self) -> Result<Kept, StateError> {
        let damaged = match read_kept(&self.config()) {
            Ok(config) => {
                return Ok(Kept {
                    config,
                    damaged: None,
                });
            }
            Err(damaged) => damaged,
        };
        match read_kept(&self.previous()) {
            Ok(Some(config)) => Ok(Kept {
                config: Some(config),
                damaged: Some(damaged),
            }),
            Ok(None) | Err(_) => Err(damaged),
        }
    }

    /// Replaces the saved config, which is kept beside it: after a crash there is the old one or the new
    /// one, whole.
    pub fn save(&self, config: &Config) -> Result<(), StateError> {
        let text = toml::to_string(config)?;
        let text = format!("{}\n{text}", first_line(&text));
        // One that is damaged is not kept instead of a good one.
        let keeps = matches!(read_kept(&self.config()), Ok(Some(_)));
        self.replace(&self.config(), &text, keeps.then(|| self.previous()))
    }

    /// Replaces a file that only its owner reads, whole or not at all; as it was before, it stays under
    /// another name if it is given one.
    fn replace(
        &self,
        path: &Path,
        text: &str,
        previous: Option<PathBuf>,
    ) -> Result<(), StateError> {
        let new = path.with_added_extension("new");
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            if let Some(previous) = previous {
                remove(&previous)?;
                std::fs::hard_link(path, previous)?;
            }
            std::fs::rename(&new, path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| StateError::Io {
            path: new.clone(),
            source,
        })
    }

    /// Forgets the saved configs.
    pub fn forget(&self) -> Result<(), StateError> {
        for path in [self.config(), self.previous()] {
            remove(&path).map_err(|source| StateError::Io { path, source })?;
        }
        Ok(())
    }

    /// Whether somebody has asked on this host that traffic leaves the gateway (`mesh-agent drain`).
    pub fn drained(&self) -> bool {
        self.dir.join(DRAINED).exists()
    }

    /// The gateway's private key for WireGuard, made of these bytes where there is none yet. To have
    /// another, the file is removed: the format is that of `wg genkey`.
    pub fn wireguard_key(&self, chance: [u8; 32]) -> Result<PrivateKey, StateError> {
        let path = self.dir.join("wireguard.key");
        match std::fs::read_to_string(&path) {
            Ok(text) => text.parse().map_err(|error: NoKey| StateError::Damaged {
                path,
                what: "a private key",
                line: 1,
                reason: format!("{error}; without the file, the gateway gets another key"),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = PrivateKey::from(chance);
                self.replace(&path, &format!("{}\n", key.expose_text()), None)?;
                Ok(key)
            }
            Err(source) => Err(StateError::Io { path, source }),
        }
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

    fn previous(&self) -> PathBuf {
        self.dir.join("config.toml.previous")
    }
}

/// A config that was saved.
#[derive(Debug)]
pub struct Kept {
    /// It; `None` where none was saved.
    pub config: Option<Config>,
    /// Why it is not the last one.
    pub damaged: Option<StateError>,
}

/// Removes a file. Well if it is not there.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Of a kept config: what it is, in which format, and the digest of the rest.
fn first_line(rest: &str) -> String {
    let digest = fingerprint(rest.as_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("# mesh-agent's config, format 1, sha256 {digest}")
}

/// Reads a config that was saved; `None` where none is.
fn read_kept(path: &Path) -> Result<Option<Config>, StateError> {
    let text = match read(path) {
        Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        other => other?,
    };
    let torn = |reason| StateError::Torn {
        path: path.to_owned(),
        reason,
    };
    let (first, rest) = text.split_once('\n').unwrap_or_default();
    if !first.starts_with("# mesh-agent's config, format 1, ") {
        return Err(torn(
            "its first line is not that of a config of this version",
        ));
    }
    if first != first_line(rest) {
        return Err(torn("its digest is not the one in its first line"));
    }
    parse(path, rest).map(Some)
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
    parse(path, &read(path)?)
}

fn read(path: &Path) -> Result<String, StateError> {
    let bytes = std::fs::read(path).map_err(|source| StateError::Io {
        path: path.to_owned(),
        source,
    })?;
    String::from_utf8(bytes).map_err(|_| StateError::Torn {
        path: path.to_owned(),
        reason: "it is no text",
    })
}

fn parse(path: &Path, text: &str) -> Result<Config, StateError> {
    toml::from_str(text).map_err(|error| {
        let before = text.get(..error.span().unwrap_or_default().start);
        StateError::Damaged {
            path: path.to_owned(),
            what: "a gateway's config",
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
        assert_eq!(state.load().unwrap().config, None);
        let config = Config {
            generation: 7,
            gateway: "V1-1".into(),
            ..Config::default()
        };
        state.save(&config).unwrap();
        let kept = state.load().unwrap();
        assert!(kept.config == Some(config) && kept.damaged.is_none());
        let file = std::fs::metadata(dir.path().join("config.toml")).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
        state.forget().unwrap();
        state.forget().unwrap();
        assert_eq!(state.load().unwrap().config, None);
    }

    #[test]
    fn one_that_is_damaged_is_refused_and_the_one_before_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let config = |generation| Config {
            generation,
            gateway: "V1-1".into(),
            ..Config::default()
        };
        let generation = |kept: &Kept| kept.config.as_ref().map(|it| it.generation);
        state.save(&config(1)).unwrap();
        state.save(&config(2)).unwrap();
        let file = dir.path().join("config.toml");
        let whole = std::fs::read_to_string(&file).unwrap();
        assert_eq!(generation(&state.load().unwrap()), Some(2));
        // Torn anywhere, changed anywhere, or without the line that would tell.
        let mut spoiled: Vec<Vec<u8>> = Vec::new();
        for at in 0..whole.len() {
            spoiled.push(whole.as_bytes()[..at].to_vec());
            let mut changed = whole.clone().into_bytes();
            changed[at] ^= 1;
            spoiled.push(changed);
        }
        spoiled.push(whole.split_once('\n').unwrap().1.into());
        spoiled.push(vec![0xff; 100]);
        for bytes in &spoiled {
            std::fs::write(&file, bytes).unwrap();
            let kept = state.load().unwrap();
            assert_eq!(generation(&kept), Some(1));
            let text = kept.damaged.unwrap().to_string();
            assert!(
                text.contains("config.toml is damaged or was edited"),
                "{text}"
            );
        }
        // It does not take the place of the good one either.
        state.save(&config(3)).unwrap();
        std::fs::write(&file, "x").unwrap();
        assert_eq!(generation(&state.load().unwrap()), Some(1));
        std::fs::write(dir.path().join("config.toml.previous"), "x").unwrap();
        assert!(matches!(state.load(), Err(StateError::Torn { .. })));
    }

    #[test]
    fn a_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let key = state.wireguard_key([1; 32]).unwrap();
        assert_eq!(state.wireguard_key([2; 32]).unwrap(), key);
        let path = dir.path().join("wireguard.key");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, "hunter2").unwrap();
        let error = state.wireguard_key([2; 32]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert!(
            error
                .to_string()
                .contains("wireguard.key is not a private key")
        );
        std::fs::remove_file(&path).unwrap();
        assert_ne!(state.wireguard_key([2; 32]).unwrap(), key);
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
        drop(state);
        let file = dir.path().join("config.toml");
        std::fs::write(&file, torn).unwrap();
        let error = read_config(&file).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("config.toml is not a gateway's config: line 3: "),
            "{text}"
        );
        assert!(!format!("{text} {error:?}").contains("hunter2"), "{text}");
    }
}
