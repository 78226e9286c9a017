//! What outlives the controller: specifications, endpoint ids, who left, last reports.
//!
//! It is in one SQLite file beside the controller, or in etcd, before which any number of controllers stand.

mod backup;
mod etcd;
mod migrate;
mod revision;
mod schema;
mod sqlite;
mod trust;

pub use trust::{Deed, Token};

pub use backup::{Backup, restore};
pub use migrate::migrate;
pub use revision::{Change, KEPT, KEPT_BYTES, Kind, Revision};

use crate::ids::Ids;
use crate::mesh::{Keys, Retired};
use etcd::Etcd;
use revision::Revisions;
use sqlite::Sqlite;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tokio::sync::watch;
use trust::Trust;

/// Why nothing can be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database says no.
    #[error("the database in {}: {source}; is the disk full or the file damaged?", path.display())]
    Database {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A file cannot be opened.
    #[error("cannot open {}: {source}; run `mesh-controller init` first", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another controller has it.
    #[error("another mesh-controller uses {}: stop that one first", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It was written by a later version.
    #[error("the database in {} has schema {found} and this mesh-controller knows up to {known}: install the newer version", path.display())]
    TooNew {
        /// The directory.
        path: PathBuf,
        /// The file's schema.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// There is something where nothing is to be.
    #[error(
        "there is something already, up to generation {found}: migrate into an empty store \
         (what an attempt left in etcd goes by `etcdctl del --prefix /routemesh/`)"
    )]
    NotEmpty {
        /// What is in force there.
        found: u64,
    },
    /// Controllers use it meanwhile.
    #[error(
        "a controller uses it, at {0}: stop all of them first (one that was stopped is known to be gone after 10 s)"
    )]
    Running(String),
    /// A generation is listed, and not all of it is there.
    #[error(
        "generation {generation} is listed, and not all of it is there: nothing was lost where it comes from; empty what \
         is migrated to, and do it again while no controller runs"
    )]
    NotWhole {
        /// Which.
        generation: u64,
    },
    /// Somebody else was first.
    #[error("generation {found} is in force, not {expected}")]
    Moved {
        /// What was to be in force.
        expected: u64,
        /// What is.
        found: u64,
    },
    /// Another controller changed the same, again and again.
    #[error("another controller changed the same at the same moment: look at it, and do it again")]
    Overtaken,
    /// Not a store.
    #[error("{0} is neither sqlite:DIR nor etcd:URL,URL")]
    Unknown(String),
    /// etcd cannot be used as it was said.
    #[error("cannot use etcd at {urls}: {reason}")]
    Place {
        /// Where.
        urls: String,
        /// Why.
        reason: String,
    },
    /// etcd does not answer, or not so that anything can be kept there.
    #[error(
        "etcd at {urls}: {reason}; nothing can be changed until that is mended, and all traffic goes on"
    )]
    Etcd {
        /// Where.
        urls: String,
        /// Why.
        reason: String,
    },
    /// Something of ours in etcd is not as we write it.
    #[error(
        "what is beneath /routemesh/ in etcd at {urls} is damaged: {what}; was it changed by hand, or by another version?"
    )]
    Damaged {
        /// Where.
        urls: String,
        /// What.
        what: String,
    },
    /// A file is no backup, or a damaged one.
    #[error("{} cannot be restored: {reason}", path.display())]
    NoBackup {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A report and when it came.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredReport {
    /// Who reported.
    pub gateway: String,
    /// What, as [`crate::report::Kept`] has it.
    pub kept: Vec<u8>,
    /// When.
    pub at: SystemTime,
}

/// The other controllers before the same store.
#[derive(Debug)]
pub struct Others {
    /// It changes when one of them may have changed something.
    pub changed: watch::Receiver<()>,
    /// Where this one is.
    pub own: String,
    /// Where they are, those that are there.
    pub controllers: watch::Receiver<BTreeSet<String>>,
}

/// What keeps things. All of it blocks, until what is written cannot be lost any more.
pub trait Backend: Revisions + Trust + fmt::Debug + Send {
    /// All endpoint ids ever given.
    fn ids(&self) -> Result<Ids, StoreError>;
    /// Gateways that left.
    fn retired(&self) -> Result<Retired, StoreError>;
    /// The gateways' public keys for WireGuard.
    fn keys(&self) -> Result<Keys, StoreError>;
    /// Keeps keys, each instead of that gateway's one before.
    fn save_keys(&mut self, keys: &Keys) -> Result<(), StoreError>;
    /// The last report of every gateway; of none, where controllers tell each other what they hear.
    fn reports(&self) -> Result<Vec<StoredReport>, StoreError>;
    /// Keeps reports, each instead of that gateway's one before.
    fn save_reports(&mut self, reports: &[StoredReport]) -> Result<(), StoreError>;
    /// Whence a copy can be made, where that is our work.
    fn backup(&self) -> Option<Backup>;
    /// Where controllers run before it, besides whoever has opened it.
    fn controllers(&self) -> Result<BTreeSet<String>, StoreError>;
    /// The others, from now on; `None` where there can be none.
    fn others(&mut self) -> Option<Others>;
}

/// What outlives the controller, wherever it is kept.
#[derive(Debug)]
pub struct Store(Box<dyn Backend>);

impl Store {
    /// The store in `dir`, which is made or migrated.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self(Box::new(Sqlite::open(dir)?)))
    }

    /// The store in etcd, at these addresses; `identity`: a directory with ca.pem, cert.pem and key.pem; `own`:
    /// where other controllers reach this one, if it is one.
    pub fn etcd(
        urls: &str,
        identity: Option<&Path>,
        own: Option<&str>,
    ) -> Result<Self, StoreError> {
        Ok(Self(Box::new(Etcd::open(urls, identity, own)?)))
    }
}

impl Deref for Store {
    type Target = dyn Backend;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref()
    }
}

impl DerefMut for Store {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0.as_mut()
    }
}

#[cfg(test)]
mod tests;
