//! What can go wrong between us and charon.

use super::message::TooLong;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What was being asked of charon, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// charon's VICI socket.
    pub socket: PathBuf,
    /// The VICI command.
    pub command: &'static str,
    /// The connection, child, SA or key it was about, if any.
    pub object: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.socket.display(), self.command)?;
        if !self.object.is_empty() {
            write!(f, " {}", self.object)?;
        }
        Ok(())
    }
}

/// Why a command was not carried out, or is not known to have been.
///
/// The connection to charon has been dropped with all of them but `Refused` and `TooLong`; the
/// next command opens another one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nobody at the socket.
    #[error("{call}: cannot connect; is strongSwan's charon running, with its vici plugin loaded?")]
    Connect {
        /// What was asked.
        call: Call,
        /// Of `connect`.
        #[source]
        source: std::io::Error,
    },
    /// No complete answer in time. charon may carry it out yet.
    #[error(
        "{call}: no answer within {after:?}; charon is busy (a DNS server that does not answer?) or hangs"
    )]
    Timeout {
        /// What was asked.
        call: Call,
        /// How long was waited.
        after: Duration,
    },
    /// The connection ended, or what came over it was not VICI. charon may have carried it out.
    #[error("{call}: connection lost before the answer: {reason}; did charon stop or restart?")]
    Lost {
        /// What was asked.
        call: Call,
        /// What was seen.
        reason: String,
    },
    /// The exchange went wrong in another way.
    #[error("{call}: failed")]
    Exchange {
        /// What was asked.
        call: Call,
        /// Of the VICI library.
        #[source]
        source: rsvici::Error,
    },
    /// The answer could not be read or lacks what it must have.
    #[error("{call}: unexpected answer: {reason}; is this strongSwan 5.9.8 or newer?")]
    Unexpected {
        /// What was asked.
        call: Call,
        /// What is wrong with it.
        reason: String,
    },
    /// charon says no.
    #[error("{call}: charon refused: {reason}")]
    Refused {
        /// What was asked.
        call: Call,
        /// charon's own words.
        reason: String,
    },
    /// It cannot be said in VICI and was not sent.
    #[error("{call}: not sent: {field}")]
    TooLong {
        /// What was asked.
        call: Call,
        /// The field and its length.
        field: TooLong,
    },
}
