//! Generations: what each was, who made it, when and how. The newest is in force.

use super::StoreError;
use super::sqlite::{Sqlite, decode, millis};
use crate::drain::{Drain, Drains};
use crate::ids::Ids;
use crate::mesh::Retired;
use prost::Message;
use routemesh_proto::{Canary, Secret};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So many generations are kept, the newest,
pub const KEPT: u32 = 1_000;
/// and of these as many as have so many bytes of text together, but always the one in force.
pub const KEPT_BYTES: u64 = 256 << 20;

/// What made a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Another specification.
    Apply,
    /// Something was drained,
    Drain,
    /// or is no longer.
    Undrain,
    /// The specification of an earlier generation came back.
    Rollback,
    /// One site tries another specification,
    Canary,
    /// and then everybody follows.
    Promote,
    /// A gateway was revoked,
    Revoke,
    /// and enrolled again.
    Admit,
}

const KINDS: [Kind; 8] = [
    Kind::Apply,
    Kind::Drain,
    Kind::Undrain,
    Kind::Rollback,
    Kind::Canary,
    Kind::Promote,
    Kind::Revoke,
    Kind::Admit,
];

impl Kind {
    /// As it was written. A later program's kinds are in a later schema.
    pub(super) fn named(name: &str) -> Self {
        let mut kinds = KINDS.into_iter();
        kinds
            .find(|it| it.to_string() == name)
            .unwrap_or(Self::Apply)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Apply => "apply",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::Rollback => "rollback",
            Self::Canary => "canary",
            Self::Promote => "promote",
            Self::Revoke => "revoke",
            Self::Admit => "admit",
        })
    }
}

/// A generation as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Its number.
    pub generation: u64,
    /// The name of the specification's file.
    pub file: String,
    /// The specification. It may hold passwords.
    pub text: Secret,
    /// Who made it.
    pub operator: String,
    /// When.
    pub at: SystemTime,
    /// How.
    pub kind: Kind,
    /// What came of it, for people.
    pub summary: String,
    /// What was drained.
    pub drains: Drains,
    /// Of a trial.
    pub canary: Option<Canary>,
}

/// A generation to be, and what goes with it.
#[derive(Clone, Debug)]
pub struct Change<'c> {
    /// All but its generation and time, which the store gives.
    pub revision: Revision,
    /// The ids that were ever given.
    pub ids: &'c Ids,
    /// Who left.
    pub retired: &'c Retired,
}

/// What is kept of generations.
pub trait Revisions {
    /// The generation in force; 0 for none.
    fn generation(&self) -> Result<u64, StoreError>;
    /// What is in force.
    fn current(&self) -> Result<Option<Revision>, StoreError>;
    /// One generation, if it is still kept.
    fn revision(&self, generation: u64) -> Result<Option<Revision>, StoreError>;
    /// The newest generations, the newest first, without their texts and trials.
    fn history(&self, limit: u32) -> Result<Vec<Revision>, StoreError>;
    /// Keeps a generation and what goes with it, all or nothing, and numbers it, if `expected` is in
    /// force until then. On disk when this returns.
    fn save(&mut self, expected: u64, change: &Change) -> Result<u64, StoreError>;
    /// Keeps a generation of another store, by the number that it has, which is above all here.
    fn import(&mut self, change: &Change) -> Result<(), StoreError>;
}

impl Revisions for Sqlite {
    fn generation(&self) -> Result<u64, StoreError> {
        let sql = "SELECT coalesce(max(generation), 0) FROM spec";
        let row = self.connection.query_row(sql, [], |row| row.get(0));
        row.map(i64::unsigned_abs).map_err(self.fail())
    }

    fn current(&self) -> Result<Option<Revision>, StoreError> {
        let sql = "SELECT * FROM spec ORDER BY generation DESC LIMIT 1";
        let row = self.connection.query_row(sql, [], revision);
        row.optional().map_err(self.fail())
    }

    fn revision(&self, generation: u64) -> Result<Option<Revision>, StoreError> {
        let sql = "SELECT * FROM spec WHERE generation = ?";
        let row = self
            .connection
            .query_row(sql, [generation.cast_signed()], revision);
        row.optional().map_err(self.fail())
    }

    fn history(&self, limit: u32) -> Result<Vec<Revision>, StoreError> {
        let fill = || {
            let mut statement = self.connection.prepare(
                "SELECT generation, file, '' AS text, operator, applied_at, kind, summary, drains,
                 NULL AS canary FROM spec ORDER BY generation DESC LIMIT ?",
            )?;
            let rows = statement.query_map([limit], revision)?;
            rows.collect::<rusqlite::Result<_>>()
        };
        fill().map_err(self.fail())
    }

    fn save(&mut self, expected: u64, change: &Change) -> Result<u64, StoreError> {
        let fail = self.fail();
        let save = |transaction: Transaction| {
            let sql = "SELECT coalesce(max(generation), 0) FROM spec";
            let found: i64 = transaction.query_row(sql, [], |row| row.get(0))?;
            if found.unsigned_abs() != expected {
                return Ok(Err(found.unsigned_abs()));
            }
            let generation = insert(&transaction, change, None)?;
            transaction.commit()?;
            Ok(Ok(generation))
        };
        let saved = self.connection.transaction().and_then(save).map_err(fail)?;
        saved.map_err(|found| StoreError::Moved { expected, found })
    }

    fn import(&mut self, change: &Change) -> Result<(), StoreError> {
        let fail = self.fail();
        let number = change.revision.generation.cast_signed();
        let import = |transaction: Transaction| {
            insert(&transaction, change, Some(number))?;
            transaction.commit()
        };
        self.connection.transaction().and_then(import).map_err(fail)
    }
}

/// By this number, or by the next.
fn insert(
    transaction: &Transaction,
    change: &Change,
    number: Option<i64>,
) -> rusqlite::Result<u64> {
    let Revision {
        file,
        text,
        operator,
        kind,
        summary,
        drains,
        canary,
        ..
    } = &change.revision;
    let drains: Vec<String> = drains.iter().map(ToString::to_string).collect();
    transaction.execute(
        "INSERT INTO spec (generation, file, text, operator, applied_at, kind, summary, drains, canary)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            number,
            file,
            text.expose(),
            operator,
            millis(change.revision.at),
            kind.to_string(),
            summary,
            drains.join("\n"),
            canary.as_ref().map(Message::encode_to_vec)
        ],
    )?;
    let generation = transaction.last_insert_rowid();
    for (gateway, address, id) in change.ids.iter() {
        transaction
            .prepare_cached(
                "INSERT INTO endpoint (gateway, address, id) VALUES (?, ?, ?)
                 ON CONFLICT (gateway, address) DO NOTHING",
            )?
            .execute(params![gateway, address, id])?;
    }
    transaction.execute("DELETE FROM retired", [])?;
    for (gateway, config) in change.retired {
        transaction
            .prepare_cached("INSERT INTO retired (gateway, config) VALUES (?, ?)")?
            .execute(params![gateway, config.encode_to_vec()])?;
    }
    forget(transaction, KEPT, KEPT_BYTES)?;
    Ok(generation.unsigned_abs())
}

/// Keeps the newest generations, as many as fit both.
pub(super) fn forget(connection: &Connection, kept: u32, bytes: u64) -> rusqlite::Result<()> {
    connection.execute(
        "DELETE FROM spec WHERE generation IN (
             SELECT generation FROM (
                 SELECT generation,
                        row_number() OVER newest AS place,
                        sum(octet_length(text)) OVER newest AS bytes
                 FROM spec WINDOW newest AS (ORDER BY generation DESC))
             WHERE place > 1 AND (place > ? OR bytes > ?))",
        params![kept, bytes.cast_signed()],
    )?;
    Ok(())
}

fn revision(row: &Row) -> rusqlite::Result<Revision> {
    let kind: String = row.get("kind")?;
    let drains: String = row.get("drains")?;
    Ok(Revision {
        generation: row.get::<_, i64>("generation")?.unsigned_abs(),
        file: row.get("file")?,
        text: Secret::from(row.get::<_, String>("text")?),
        operator: row.get("operator")?,
        at: UNIX_EPOCH + Duration::from_millis(row.get::<_, i64>("applied_at")?.unsigned_abs()),
        kind: Kind::named(&kind),
        summary: row.get("summary")?,
        drains: drains.lines().map(Drain::from).collect(),
        canary: match row.get::<_, Option<Vec<u8>>>("canary")? {
            Some(bytes) => Some(decode(bytes)?),
            None => None,
        },
    })
}
