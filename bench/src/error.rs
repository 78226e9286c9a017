//! What can go wrong in a benchmark.

use std::time::Duration;

/// Why a trial has no figure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call or a file.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A program that ended badly.
    #[error("{program}: {said}")]
    Program {
        /// Which.
        program: String,
        /// What it said, and how it ended.
        said: String,
    },
    /// Something did not come about in time.
    #[error("{what}: not within {after:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
    /// What the kernel holds is not what was measured.
    #[error("{0}")]
    Wrong(String),
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

/// The result of most that is done here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Says what was tried, for `map_err`.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// The same for system calls through nix.
    pub fn os(what: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Self {
        let what = what.into();
        move |errno| Self::Io {
            what,
            source: errno.into(),
        }
    }
}
