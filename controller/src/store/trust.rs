//! Tokens that were given out, and names that were revoked.

use super::{Store, StoreError, millis};
use crate::admission::{Admission, Admissions, Kind};
use crate::ca::Role;
use rusqlite::{OptionalExtension, params};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a token is remembered after it has run out, to tell whoever tries what became of it.
const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);

/// So many deeds are kept.
const DEEDS: i64 = 10_000;

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

impl Store {
    /// Keeps a new token, and forgets those that nobody asks for any more.
    pub fn add_token(&mut self, token: &Token, now: SystemTime) -> Result<(), StoreError> {
        let fail = self.fail();
        let mut add = || {
            let transaction = self.connection.transaction()?;
            transaction.execute(
                "DELETE FROM token WHERE expires_at < ?",
                [millis(now - REMEMBERED)],
            )?;
            transaction.execute(
                "INSERT INTO token (digest, role, name, expires_at) VALUES (?, ?, ?, ?)",
                params![
                    token.digest,
                    token.role.to_string(),
                    token.name,
                    millis(token.expires)
                ],
            )?;
            transaction.commit()
        };
        add().map_err(fail)
    }

    /// The token of that digest.
    pub fn token(&self, digest: &[u8; 32]) -> Result<Option<Token>, StoreError> {
        let sql = "SELECT role, name, expires_at, used_at FROM token WHERE digest = ?";
        let row = self.connection.query_row(sql, [digest], |row| {
            let time = |millis: i64| UNIX_EPOCH + Duration::from_millis(millis.unsigned_abs());
            Ok(Token {
                digest: *digest,
                role: row.get::<_, String>(0)?.parse().map_err(unknown)?,
                name: row.get(1)?,
                expires: time(row.get(2)?),
                used: row.get::<_, Option<i64>>(3)?.map(time),
            })
        });
        row.optional().map_err(self.fail())
    }

    /// Notes that a token was used, and that somebody has enrolled by its name. Nothing happens and
    /// `false` is returned if it was used before. On disk when this returns.
    pub fn use_token(&mut self, token: &Token, now: SystemTime) -> Result<bool, StoreError> {
        let fail = self.fail();
        let mut note = || {
            let transaction = self.connection.transaction()?;
            let used = transaction.execute(
                "UPDATE token SET used_at = ? WHERE digest = ? AND used_at IS NULL",
                params![millis(now), token.digest],
            )?;
            transaction.execute(
                "UPDATE admission SET revoked = 0 WHERE kind = ? AND name = ? AND ?",
                params![kind(token.role.into()), token.name, used == 1],
            )?;
            transaction.commit()?;
            Ok(used == 1)
        };
        note().map_err(fail)
    }

    /// Notes what somebody did, and forgets the oldest of many.
    pub fn note(&mut self, deed: &Deed) -> Result<(), StoreError> {
        let fail = self.fail();
        let mut note = || {
            let transaction = self.connection.transaction()?;
            transaction.execute(
                "INSERT INTO audit (at, who, what, detail) VALUES (?, ?, ?, ?)",
                params![millis(deed.at), deed.who, deed.what, deed.detail],
            )?;
            let oldest = transaction.last_insert_rowid().saturating_sub(DEEDS);
            transaction.execute("DELETE FROM audit WHERE number <= ?", [oldest])?;
            transaction.commit()
        };
        note().map_err(fail)
    }

    /// What was done, the latest first.
    pub fn deeds(&self, limit: u32) -> Result<Vec<Deed>, StoreError> {
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

    /// Names that were revoked.
    pub fn admissions(&self) -> Result<Admissions, StoreError> {
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

    /// Notes that a name is revoked, whose tokens are good for nothing any more; of a gateway, the key for
    /// WireGuard is forgotten. On disk when this returns.
    pub fn save_admission(
        &mut self,
        role: Role,
        name: &str,
        admission: Admission,
    ) -> Result<(), StoreError> {
        let sql = "INSERT INTO admission (kind, name, number, revoked) VALUES (?, ?, ?, ?)
                   ON CONFLICT (kind, name) DO UPDATE SET
                   number = excluded.number, revoked = excluded.revoked";
        let Admission { number, revoked } = admission;
        let fail = self.fail();
        let mut save = || {
            let transaction = self.connection.transaction()?;
            let values = params![kind(role.into()), name, number, revoked];
            transaction.execute(sql, values)?;
            if revoked {
                transaction.execute(
                    "DELETE FROM token WHERE name = ? AND (role = 'gateway') = ? AND used_at IS NULL",
                    params![name, role == Role::Gateway],
                )?;
            }
            if revoked && role == Role::Gateway {
                transaction.execute("DELETE FROM wireguard WHERE gateway = ?", [name])?;
            }
            transaction.commit()
        };
        save().map_err(fail)
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Gateway => "gateway",
        Kind::Person => "person",
    }
}

fn unknown(reason: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, reason.into())
}
