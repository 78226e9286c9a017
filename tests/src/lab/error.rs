//! What can go wrong in the lab.

use std::time::Duration;

/// A lab operation that failed, with what is needed to see why.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The kernel lacks what the lab is made of.
    #[error("this kernel has no XFRM interfaces, VTI or ESP: run this through tests/vm/run")]
    Kernel,
    /// A system call or a file.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A command that ended badly or not at all.
    #[error("{host}: `{command}` {outcome}\n{output}")]
    Command {
        /// The host that it ran on.
        host: String,
        /// Its words.
        command: String,
        /// "exit status: 1", "still running after 30 s".
        outcome: String,
        /// What it said.
        output: String,
    },
    /// A daemon that ended by itself: no use in waiting for it.
    #[error("{host}: {name} ended: {status}\n{output}")]
    Died {
        /// The host that it ran on.
        host: String,
        /// The daemon.
        name: String,
        /// How it ended.
        status: String,
        /// Its last lines.
        output: String,
    },
    /// A wait that ended without what it waited for.
    #[error("waited {after:?} for {what}; last seen: {last}")]
    Timeout {
        /// What was awaited.
        what: String,
        /// How long.
        after: Duration,
        /// The state when patience ended.
        last: String,
    },
    /// Something is not as it must be.
    #[error("{0}")]
    Unexpected(String),
}

/// What a lab operation gives.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

impl LabError {
    /// Names what was tried when a system call failed.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// The same for nix's error.
    pub fn os(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let what = what.into();
        move |errno| Self::Io {
            what,
            source: errno.into(),
        }
    }
}
