//! One SQLite file in write-ahead mode, synced to disk before anything is acknowledged.

use super::{Backend, Backup, Others, StoreError, StoredReport, schema};
use crate::ids::Ids;
use crate::mesh::{Keys, Retired};
use prost::Message;
use routemesh_proto::Config;
use rusqlite::{Connection, Transaction, params};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The open database.
#[derive(Debug)]
pub struct Sqlite {
    pub(super) connection: Connection,
    pub(super) dir: PathBuf,
    /// Held as long as the store is open.
    _lock: File,
}

impl Sqlite {
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

    pub(super) fn fail(&self) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
        let path = self.dir.clone();
        move |source| StoreError::Database {
            path: path.clone(),
            source,
        }
    }
}

impl Backend for Sqlite {
    fn ids(&self) -> Result<Ids, StoreError> {
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

    fn retired(&self) -> Result<Retired, StoreError> {
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

    fn keys(&self) -> Result<Keys, StoreError> {
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

    fn save_keys(&mut self, keys: &Keys) -> Result<(), StoreError> {
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

    fn reports(&self) -> Result<Vec<StoredReport>, StoreError> {
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

    fn save_reports(&mut self, reports: &[StoredReport]) -> Result<(), StoreError> {
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

    fn backup(&self) -> Option<Backup> {
        Some(Backup::of(&self.dir))
    }

    fn controllers(&self) -> Result<BTreeSet<String>, StoreError> {
        // It would have the lock.
        Ok(BTreeSet::new())
    }

    fn others(&mut self) -> Option<Others> {
        // Nobody else writes.
        None
    }
}

pub(super) fn private_file(path: &Path) -> Result<File, StoreError> {
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

pub(super) fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn decode<M: Message + Default>(bytes: Vec<u8>) -> rusqlite::Result<M> {
    M::decode(bytes.as_slice()).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, error.into())
    })
}
