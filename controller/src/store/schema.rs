//! The database's tables, and how an older file becomes a newer one.

use rusqlite::Connection;

/// Steps from nothing to the present. A step that was released never changes: add another.
const STEPS: [&str; 6] = [
    "
    CREATE TABLE spec (
        generation INTEGER PRIMARY KEY AUTOINCREMENT,
        file TEXT NOT NULL,
        text TEXT NOT NULL,
        operator TEXT NOT NULL,
        applied_at INTEGER NOT NULL -- milliseconds since 1970, as all times
    ) STRICT;
    CREATE TABLE endpoint (
        id INTEGER PRIMARY KEY,
        gateway TEXT NOT NULL,
        address TEXT NOT NULL,
        UNIQUE (gateway, address)
    ) STRICT;
    CREATE TABLE retired (
        gateway TEXT PRIMARY KEY,
        config BLOB NOT NULL -- routemesh.v1.Config
    ) STRICT;
    CREATE TABLE report (
        gateway TEXT PRIMARY KEY,
        status BLOB NOT NULL, -- a report as report::Kept has it
        received_at INTEGER NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE drain (
        gateway TEXT NOT NULL,
        peer TEXT NOT NULL, -- empty: the whole gateway
        PRIMARY KEY (gateway, peer)
    ) STRICT;
",
    "
    CREATE TABLE wireguard (
        gateway TEXT PRIMARY KEY,
        key TEXT NOT NULL -- public, in base64
    ) STRICT;
",
    "
    ALTER TABLE spec ADD COLUMN kind TEXT NOT NULL DEFAULT 'apply';
    ALTER TABLE spec ADD COLUMN summary TEXT NOT NULL DEFAULT '';
    -- What was drained: a line for each, a gateway or two.
    ALTER TABLE spec ADD COLUMN drains TEXT NOT NULL DEFAULT '';
    UPDATE spec SET drains =
        (SELECT coalesce(group_concat(trim(gateway || ' ' || peer), char(10)), '') FROM drain)
        WHERE generation = (SELECT max(generation) FROM spec);
    DROP TABLE drain;
",
    "
    CREATE TABLE token (
        digest BLOB PRIMARY KEY, -- SHA-256 of the secret
        role TEXT NOT NULL,
        name TEXT NOT NULL,
        expires_at INTEGER NOT NULL,
        used_at INTEGER
    ) STRICT;
    CREATE TABLE admission (
        kind TEXT NOT NULL, -- gateway, person
        name TEXT NOT NULL,
        number INTEGER NOT NULL,
        revoked INTEGER NOT NULL,
        PRIMARY KEY (kind, name)
    ) STRICT;
    -- What was done that made no generation.
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        who TEXT NOT NULL,
        what TEXT NOT NULL,
        detail TEXT NOT NULL
    ) STRICT;
",
    "
    ALTER TABLE spec ADD COLUMN canary BLOB; -- routemesh.v1.Canary, of a trial
",
];

/// The schema that this program knows.
pub(super) const VERSION: u32 = STEPS.len() as u32;

/// Sets the connection up and takes the missing steps; returns the file's schema, which a later
/// program may have taken beyond ours.
pub(super) fn prepare(connection: &mut Connection) -> rusqlite::Result<u32> {
    prepare_as(connection, VERSION)
}

/// The same, as the program of that schema did.
pub(super) fn prepare_as(connection: &mut Connection, known: u32) -> rusqlite::Result<u32> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS migration (
            version INTEGER PRIMARY KEY,
            taken_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
        ) STRICT",
    )?;
    let sql = "SELECT coalesce(max(version), 0) FROM migration";
    let found: u32 = connection.query_row(sql, [], |row| row.get(0))?;
    for (version, step) in (1..)
        .zip(STEPS)
        .filter(|(version, _)| (found + 1..=known).contains(version))
    {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.execute("INSERT INTO migration (version) VALUES (?)", [version])?;
        transaction.commit()?;
    }
    Ok(found.max(known))
}
