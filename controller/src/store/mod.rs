//! What outlives the controller: specifications, endpoint ids, who left, last reports.
//!
//! One SQLite file in write-ahead mode, synced to disk before anything is acknowledged.

mod backup;
mod revision;
mod schema;
mod trust;

pub use trust::{Deed, Token};

pub use backup::{Backup, restore};
pub use revision::{Change, KEPT, KEPT_BYTES, Kind, Revision};

use crate::ids::Ids;
use crate::mesh::{Keys, Retired};
use prost::Message;
use routemesh_proto::Config;
use rusqlite::{Connection, Transaction, params};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    /// Somebody else was first.
    #[error("generation {found} is in force, not {expected}")]
    Moved {
        /// What was to be in force.
        expected: u64,
        /// What is.
        found: u64,
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

/// The open database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    dir: PathBuf,
    /// Held as long as the store is open.
    _lock: File,
}

impl Store {
    /// Opens the store in `dir`, and creates or migrates it.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let lock = private_file(&dir.join("lock"))?;
        lock.try_lock().map_err(|_| StoreError::InUse {
            path: dir.to_owned(),
        })?;
        let file = dir.join("mesh.db");
        // SQLite gives its other files the permissions of this one.
        drop(private_file(&file)?);
        let fail = |source| StoreError::Database {
            path: dir.to_owned(),
            source,
        };
        let mut connection = Connection::open(&file).map_err(fail)?;
        let found = schema::prepare(&mut connection).map_err(fail)?;
        if found > schema::VERSION {
            return Err(StoreError::TooNew {
                path: dir.to_owned(),
                found,
                known: schema::VERSION,
            });
        }
        Ok(Self {
            connection,
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    fn fail(&self) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
        let path = self.dir.clone();
        move |source| StoreError::Database {
            path: path.clone(),
            source,
        }
    }

    /// All endpoint ids ever given.
    pub fn ids(&self) -> Result<Ids, StoreError> {
        let fill = || {
            let mut ids = Ids::default();
            let mut statement = self
                .connection
                .prepare("SELECT gateway, address, id FROM endpoint")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                ids.insert(row.get(0)?, row.get(1)?, row.get(2)?);
            }
            Ok(ids)
        };
        fill().map_err(self.fail())
    }

    /// Gateways that left.
    pub fn retired(&self) -> Result<Retired, StoreError> {
        let fill = || {
            let mut statement = self
                .connection
                .prepare("SELECT gateway, config FROM retired")?;
            let rows =
                statement.query_map([], |row| Ok((row.get(0)?, decode::<Config>(row.get(1)?)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        fill().map_err(self.fail())
    }

    /// The gateways' public keys for WireGuard.
    pub fn keys(&self) -> Result<Keys, StoreError> {
        let fill = || {
            let mut statement = self
                .connection
                .prepare("SELECT gateway, key FROM wireguard")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<(String, String)>>>()
        };
        let rows = fill().map_err(self.fail())?;
        let parsed = rows.into_iter();
        Ok(parsed
            .filter_map(|(gateway, key)| Some((gateway, key.parse().ok()?)))
            .collect())
    }

    /// Keeps keys, each instead of that gateway's one before.
    pub fn save_keys(&mut self, keys: &Keys) -> Result<(), StoreError> {
        let fail = self.fail();
        let save = |transaction: Transaction| {
            for (gateway, key) in keys {
                transaction
                    .prepare_cached(
                        "INSERT INTO wireguard (gateway, key) VALUES (?, ?)
                         ON CONFLICT (gateway) DO UPDATE SET key = excluded.key",
                    )?
                    .execute(params![gateway, key.to_string()])?;
            }
            transaction.commit()
        };
        self.connection.transaction().and_then(save).map_err(fail)
    }

    /// The last report of every gateway.
    pub fn reports(&self) -> Result<Vec<StoredReport>, StoreError> {
        let fill = || {
            let mut statement = self
                .connection
                .prepare("SELECT gateway, status, received_at FROM report")?;
            let rows = statement.query_map([], |row| {
                let millis = row.get::<_, i64>(2)?.unsigned_abs();
                Ok(StoredReport {
                    gateway: row.get(0)?,
                    kept: row.get(1)?,
                    at: UNIX_EPOCH + Duration::from_millis(millis),
                })
            })?;
            rows.collect::<rusqlite::Result<_>>()
        };
        fill().map_err(self.fail())
    }

    /// Keeps reports, each instead of that gateway's one before.
    pub fn save_reports(&mut self, reports: &[StoredReport]) -> Result<(), StoreError> {
        let fail = self.fail();
        let save = |transaction: Transaction| {
            for report in reports {
                transaction
                    .prepare_cached(
                        "INSERT INTO report (gateway, status, received_at) VALUES (?, ?, ?)
                         ON CONFLICT (gateway) DO UPDATE SET
                         status = excluded.status, received_at = excluded.received_at",
                    )?
                    .execute(params![report.gateway, report.kept, millis(report.at)])?;
            }
            transaction.commit()
        };
        self.connection.transaction().and_then(save).map_err(fail)
    }
}

fn private_file(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| StoreError::Open {
            path: path.to_owned(),
            source,
        })
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn decode<M: Message + Default>(bytes: Vec<u8>) -> rusqlite::Result<M> {
    M::decode(bytes.as_slice()).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, error.into())
    })
}

#[cfg(test)]
mod tests;
