//! Tokens that were given out, and names that were revoked.

use super::StoreError;
use super::sqlite::{Sqlite, millis};
use crate::admission::{Admission, Admissions, Kind};
use crate::ca::Role;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a token is remembered after it has run out, to tell whoever tries what became of it.
pub(super) const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);

/// So many deeds are kept.
pub(super) const DEEDS: i64 = 10_000;

/// What somebody did, for the log that people read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// When.
    pub at: SystemTime,
    /// Who.
    pub who: String,
    /// In a word.
    pub what: String,
    /// To whom.
    pub detail: String,
}

/// A token, by the digest of its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the secret, which is not kept.
    pub digest: [u8; 32],
    /// For whom.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Not good after.
    pub expires: SystemTime,
    /// When it was used.
    pub used: Option<SystemTime>,
}

/// What is kept of tokens and of who was revoked.
pub trait Trust {
    /// Keeps a new token, and forgets those that nobody asks for any more.
    fn add_token(&mut self, token: &Token, now: SystemTime) -> Result<(), StoreError>;
    /// All that are remembered.
    fn tokens(&self) -> Result<Vec<Token>, StoreError>;
    /// The token of that digest.
    fn token(&self, digest: &[u8; 32]) -> Result<Option<Token>, StoreError>;
    /// Notes that a token was used, and that somebody has enrolled by its name. Nothing happens and
    /// `false` is returned if it was used before. The deed is noted with it, and says when. On disk when this returns.
    fn use_token(&mut self, token: &Token, deed: &Deed) -> Result<bool, StoreError>;
    /// Notes what somebody did, and forgets the oldest of many.
    fn note(&mut self, deed: &Deed) -> Result<(), StoreError>;
    /// What was done, the latest first.
    fn deeds(&self, limit: u32) -> Result<Vec<Deed>, StoreError>;
    /// Names that were revoked.
    fn admissions(&self) -> Result<Admissions, StoreError>;
    /// Notes what became of a name, if it is still as it was before. Where it is revoked, its tokens are good for
    /// nothing any more, and a gateway's key for WireGuard is forgotten. The deed is noted with it. On disk when
    /// this returns.
    fn save_admission(
        &mut self,
        role: Role,
        name: &str,
        before: Admission,
        after: Admission,
        deed: Option<&Deed>,
    ) -> Result<(), StoreError>;
}

impl Trust for Sqlite {
    fn add_token(&mut self, token: &Token, now: SystemTime) -> Result<(), StoreError> {
        let fail = self.fail();
        let mut add = || {
            let transaction = self.connection.transaction()?;
            transaction.execute(
                "DELETE FROM token WHERE expires_at < ?",
                [millis(now - REMEMBERED)],
            )?;
            transaction.execute(
                "INSERT INTO token (digest, role, name, expires_at, used_at) VALUES (?, ?, ?, ?, ?)",
                params![
                    token.digest,
                    token.role.to_string(),
                    token.name,
                    millis(token.expires),
                    token.used.map(millis)
                ],
            )?;
            transaction.commit()
        };
        add().map_err(fail)
    }

    fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let fill = || {
            let sql = "SELECT digest, role, name, expires_at, used_at FROM token";
            let mut statement = self.connection.prepare(sql)?;
            let rows = statement.query_map([], read)?;
            rows.collect::<rusqlite::Result<_>>()
        };
        fill().map_err(self.fail())
    }

    fn token(&self, digest: &[u8; 32]) -> Result<Option<Token>, StoreError> {
        let sql = "SELECT digest, role, name, expires_at, used_at FROM token WHERE digest = ?";
        let row = self.connection.query_row(sql, [digest], read);
        row.optional().map_err(self.fail())
    }

    fn use_token(&mut self, token: &Token, deed: &Deed) -> Result<bool, StoreError> {
        let fail = self.fail();
        let mut spend = || {
            let transaction = self.connection.transaction()?;
            let used = transaction.execute(
                "UPDATE token SET used_at = ? WHERE digest = ? AND used_at IS NULL",
                params![millis(deed.at), token.digest],
            )?;
            transaction.execute(
                "UPDATE admission SET revoked = 0 WHERE kind = ? AND name = ? AND ?",
                params![kind(token.role.into()), token.name, used == 1],
            )?;
            if used == 1 {
                note(&transaction, deed)?;
            }
            transaction.commit()?;
            Ok(used == 1)
        };
        spend().map_err(fail)
    }

    fn note(&mut self, deed: &Deed) -> Result<(), StoreError> {
        let fail = self.fail();
        let mut keep = || {
            let transaction = self.connection.transaction()?;
            note(&transaction, deed)?;
            transaction.commit()
        };
        keep().map_err(fail)
    }

    fn deeds(&self, limit: u32) -> Result<Vec<Deed>, StoreError> {
        let fill = || {
            let sql = "SELECT at, who, what, detail FROM audit ORDER BY number DESC LIMIT ?";
            let mut statement = self.connection.prepare(sql)?;
            let rows = statement.query_map([limit], |row| {
                let millis = row.get::<_, i64>(0)?.unsigned_abs();
                Ok(Deed {
                    at: UNIX_EPOCH + Duration::from_millis(millis),
                    who: row.get(1)?,
                    what: row.get(2)?,
                    detail: row.get(3)?,
                })
            })?;
            rows.collect::<rusqlite::Result<_>>()
        };
        fill().map_err(self.fail())
    }

    fn admissions(&self) -> Result<Admissions, StoreError> {
        let fill = || {
            let mut all = Admissions::default();
            let sql = "SELECT kind, name, number, revoked FROM admission";
            let mut statement = self.connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let kind = match row.get::<_, String>(0)?.as_str() {
                    "gateway" => Kind::Gateway,
                    _ => Kind::Person,
                };
                let admission = Admission {
                    number: row.get(2)?,
                    revoked: row.get(3)?,
                };
                all.insert(kind, row.get(1)?, admission);
            }
            Ok(all)
        };
        fill().map_err(self.fail())
    }

    fn save_admission(
        &mut self,
        role: Role,
        name: &str,
        before: Admission,
        after: Admission,
        deed: Option<&Deed>,
    ) -> Result<(), StoreError> {
        let fail = self.fail();
        let kind = kind(role.into());
        let mut save = || {
            let transaction = self.connection.transaction()?;
            let sql = "SELECT number, revoked FROM admission WHERE kind = ? AND name = ?";
            let found = transaction.query_row(sql, params![kind, name], |row| {
                let (number, revoked) = (row.get(0)?, row.get(1)?);
                Ok(Admission { number, revoked })
            });
            if found.optional()?.unwrap_or_default() != before {
                return Ok(false);
            }
            let Admission { number, revoked } = after;
            transaction.execute(
                "INSERT INTO admission (kind, name, number, revoked) VALUES (?, ?, ?, ?)
                 ON CONFLICT (kind, name) DO UPDATE SET
                 number = excluded.number, revoked = excluded.revoked",
                params![kind, name, number, revoked],
            )?;
            if revoked {
                transaction.execute(
                    "DELETE FROM token WHERE name = ? AND (role = 'gateway') = ? AND used_at IS NULL",
                    params![name, role == Role::Gateway],
                )?;
            }
            if revoked && role == Role::Gateway {
                transaction.execute("DELETE FROM wireguard WHERE gateway = ?", [name])?;
            }
            if let Some(deed) = deed {
                note(&transaction, deed)?;
            }
            transaction.commit()?;
            Ok(true)
        };
        match save().map_err(fail)? {
            true => Ok(()),
            false => Err(StoreError::Overtaken),
        }
    }
}

fn note(transaction: &Transaction, deed: &Deed) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO audit (at, who, what, detail) VALUES (?, ?, ?, ?)",
        params![millis(deed.at), deed.who, deed.what, deed.detail],
    )?;
    let oldest = transaction.last_insert_rowid().saturating_sub(DEEDS);
    transaction.execute("DELETE FROM audit WHERE number <= ?", [oldest])?;
    Ok(())
}

pub(super) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Gateway => "gateway",
        Kind::Person => "person",
        Kind::Controller => "controller",
    }
}

fn read(row: &Row) -> rusqlite::Result<Token> {
    let time = |millis: i64| UNIX_EPOCH + Duration::from_millis(millis.unsigned_abs());
    Ok(Token {
        digest: row.get(0)?,
        role: row.get::<_, String>(1)?.parse().map_err(unknown)?,
        name: row.get(2)?,
        expires: time(row.get(3)?),
        used: row.get::<_, Option<i64>>(4)?.map(time),
    })
}

fn unknown(reason: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, reason.into())
}
