//! A copy of the database while it is in use, and a database from a copy.

use super::sqlite::private_file;
use super::{StoreError, schema};
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A reader of the database beside the store: writing goes on meanwhile.
#[derive(Clone, Debug)]
pub struct Backup {
    dir: PathBuf,
}

impl Backup {
    /// Of the store in `dir`.
    pub(super) fn of(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self { dir }
    }

    /// A copy of all that was acknowledged before. It has no name any more, and is gone when it is
    /// closed. One at a time, please. Blocks on the disk.
    pub fn copy(&self) -> Result<File, StoreError> {
        let fail = |source| StoreError::Database {
            path: self.dir.clone(),
            source,
        };
        let path = self.dir.join("backup.db");
        let open = |source| StoreError::Open {
            path: path.clone(),
            source,
        };
        // One that a crash left behind.
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(open(error));
        }
        // SQLite takes an empty file, and gives one of its own making to everybody.
        let copy = private_file(&path)?;
        let file = self.dir.join("mesh.db");
        let copied = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .and_then(|connection| connection.execute("VACUUM INTO ?", [path.to_str()]));
        fs::remove_file(&path).map_err(open)?;
        copied.map_err(fail)?;
        Ok(copy)
    }
}

/// Makes a store in `dir`, which has none, of a copy. Returns the generation in force there.
pub fn restore(dir: &Path, copy: &Path) -> Result<u64, StoreError> {
    let no = |reason: String| StoreError::NoBackup {
        path: copy.to_owned(),
        reason,
    };
    let lock = private_file(&dir.join("lock"))?;
    lock.try_lock().map_err(|_| StoreError::InUse {
        path: dir.to_owned(),
    })?;
    // What a database left behind beside it, SQLite would write into the restored one.
    for name in ["mesh.db", "mesh.db-wal", "mesh.db-shm"] {
        let there = dir.join(name);
        // Also a link to nowhere.
        if there.symlink_metadata().is_ok() {
            return Err(no(format!(
                "{} is there already: stop the controller, and move mesh.db away with its -wal and -shm",
                there.display()
            )));
        }
    }
    let target = dir.join("mesh.db");
    let mut from = File::open(copy).map_err(|error| no(error.to_string()))?;
    // Under another name until it is known to be good and is on disk.
    let path = dir.join("restore.db");
    let mut to = private_file(&path)?;
    let kept = to
        .set_len(0)
        .and_then(|()| copy_all(&mut from, &mut to))
        .and_then(|()| to.sync_all())
        .map_err(|error| no(error.to_string()))
        .and_then(|()| check(&path).map_err(no))
        .and_then(|generation| {
            let renamed = fs::rename(&path, &target);
            let synced = renamed.and_then(|()| File::open(dir)?.sync_all());
            synced
                .map(|()| generation)
                .map_err(|error| no(error.to_string()))
        });
    if kept.is_err() {
        let _ = fs::remove_file(&path);
    }
    kept
}

fn copy_all(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    io::copy(from, to).map(drop)
}

/// The generation in force, if all of the copy is there and this program knows it.
fn check(path: &Path) -> Result<u64, String> {
    let look = |connection: Connection| {
        let sound: String =
            connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        let sql = "SELECT coalesce(max(version), 0) FROM migration";
        let version: u32 = connection.query_row(sql, [], |row| row.get(0))?;
        let sql = "SELECT coalesce(max(generation), 0) FROM spec";
        let generation: i64 = connection.query_row(sql, [], |row| row.get(0))?;
        Ok((sound, version, generation.unsigned_abs()))
    };
    let looked = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).and_then(look);
    match looked {
        Err(error) => Err(format!("it is no backup of a mesh: {error}")),
        Ok((sound, ..)) if sound != "ok" => Err(format!("it is damaged: {sound}")),
        Ok((_, found, _)) if found > schema::VERSION => Err(format!(
            "it has schema {found} and this mesh-controller knows up to {}: install the newer version",
            schema::VERSION
        )),
        Ok((_, _, generation)) => Ok(generation),
    }
}
