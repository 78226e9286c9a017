//! Network namespaces, and VRFs in them: naming one, and running code inside it.

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use socket2::Socket;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where `ip netns` keeps the named ones.
const DIRECTORIES: [&str; 2] = ["/run/netns", "/var/run/netns"];
const OWN: &str = "/proc/thread-self/ns/net";
const UNNAMED: &str = "of this process";

/// A network namespace, held open: it lives at least as long as this value. It may stand for one VRF
/// in it, to which sockets are then bound.
#[derive(Clone, Debug)]
pub struct Netns {
    name: Option<String>,
    vrf: Option<Arc<str>>,
    file: Arc<File>,
    /// Device and inode.
    identity: (u64, u64),
}

/// Why a network namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a file name.
    #[error(
        "{0:?} cannot name a network namespace: give the NAME of `ip netns add NAME`, not a path"
    )]
    Name(String),
    /// There is none of this name.
    #[error("network namespace {0} does not exist; create it with: ip netns add {0}")]
    Missing(String),
    /// It exists and cannot be opened.
    #[error("network namespace {name} cannot be opened at {path}: {source}")]
    Open {
        /// Which.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It was opened and cannot be entered.
    #[error(
        "network namespace {name} cannot be entered: {errno}; \
         the process needs CAP_SYS_ADMIN, and {name} must be made by: ip netns add {name}"
    )]
    Enter {
        /// Which.
        name: String,
        /// What the system said.
        errno: Errno,
    },
    /// No thread to enter it with.
    #[error("no thread could be started to enter network namespace {name}: {source}")]
    Thread {
        /// Which.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The code that ran inside panicked.
    #[error("code running in network namespace {0} panicked")]
    Panicked(String),
}

impl Netns {
    /// The namespace of the calling thread, which is the process's own unless it changed it.
    pub fn current() -> Result<Self, Error> {
        Self::open(None, PathBuf::from(OWN))
    }

    /// The name it was opened by; `None` for the process's own.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The namespace that `ip netns add` gave this name.
    pub fn named(name: &str) -> Result<Self, Error> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(Error::Name(name.into()));
        }
        for directory in DIRECTORIES {
            match Self::open(Some(name), PathBuf::from(directory).join(name)) {
                Err(Error::Open { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                result => return result,
            }
        }
        Err(Error::Missing(name.into()))
    }

    /// The VRF of this name in it.
    pub fn with_vrf(self, name: &str) -> Self {
        let vrf = Some(name.into());
        Self { vrf, ..self }
    }

    /// Binds a socket to the VRF, where it stands for one: it then hears what comes by the VRF's
    /// interfaces, nothing else, and what it sends is routed by the VRF's table.
    pub fn bind(&self, socket: &Socket) -> io::Result<()> {
        match &self.vrf {
            Some(vrf) => socket.bind_device(Some(vrf.as_bytes())),
            None => Ok(()),
        }
    }

    fn open(name: Option<&str>, path: PathBuf) -> Result<Self, Error> {
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        match opened {
            Ok((metadata, file)) => Ok(Self {
                name: name.map(Into::into),
                vrf: None,
                identity: (metadata.dev(), metadata.ino()),
                file: Arc::new(file),
            }),
            Err(source) => Err(Error::Open {
                name: name.unwrap_or(UNNAMED).into(),
                path,
                source,
            }),
        }
    }

    /// Whether both are of one namespace, whatever their names.
    pub fn is(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Makes it the namespace of the calling thread, for good.
    pub fn enter(&self) -> Result<(), Error> {
        // Entering takes a privilege that staying does not.
        if Self::current()?.is(self) {
            return Ok(());
        }
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Enter {
            name: self.to_string(),
            errno,
        })
    }

    /// Runs `code` on a thread of its own inside this namespace and returns what it returns.
    ///
    /// Sockets opened there belong to the namespace for good and may be used from anywhere. Blocks
    /// the caller for as long as `code` takes.
    pub fn run<T: Send>(&self, code: impl FnOnce() -> T + Send) -> Result<T, Error> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name(format!("netns {self}"))
                .spawn_scoped(scope, || {
                    self.enter()?;
                    Ok(code())
                })
                .map_err(|source| Error::Thread {
                    name: self.to_string(),
                    source,
                })?;
            thread
                .join()
                .unwrap_or_else(|_| Err(Error::Panicked(self.to_string())))
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_deref().unwrap_or(UNNAMED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_no_name() {
        for name in ["", ".", "..", "/run/netns/x", "../x", "a\0b"] {
            assert!(
                matches!(Netns::named(name), Err(Error::Name(_))),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_missing_namespace_says_how_to_make_it() {
        let error = Netns::named("rm-no-such")
            .expect_err("not there")
            .to_string();
        assert!(error.contains("ip netns add rm-no-such"), "{error}");
    }

    #[test]
    fn a_panic_inside_is_an_error_outside() {
        let netns = Netns::current().expect("one has a namespace");
        let result: Result<(), Error> = netns.run(|| panic!("on purpose"));
        assert!(matches!(result, Err(Error::Panicked(_))));
    }
}
