use super::*;
use crate::drain::{Drain, Drains};
use routemesh_proto::Canary;
use routemesh_proto::Config;
use rusqlite::Connection;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, UNIX_EPOCH};

fn ids(id: u32) -> Ids {
    let mut ids = Ids::default();
    ids.insert("V1".to_owned(), "2001:db8::1".to_owned(), id);
    ids
}

fn made(text: &str, drains: &Drains) -> Revision {
    Revision {
        generation: 0,
        file: "a.toml".to_owned(),
        text: text.into(),
        operator: "ann".to_owned(),
        at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        kind: Kind::Apply,
        summary: format!("as in {}", text.chars().take(9).collect::<String>()),
        drains: drains.clone(),
        canary: None,
    }
}

fn save(store: &mut Sqlite, expected: u64, text: &str, ids: &Ids) -> Result<u64, StoreError> {
    let change = Change {
        revision: made(text, &Drains::new()),
        ids,
        retired: &Retired::new(),
    };
    store.save(expected, &change)
}

#[test]
fn everything_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Sqlite::open(dir.path()).unwrap();
    assert_eq!(store.current().unwrap(), None);
    let idle = Config {
        gateway: "V9".to_owned(),
        ..Config::default()
    };
    let retired = Retired::from([("V9".to_owned(), idle)]);
    let drains = Drains::from([Drain::gateway("V1"), Drain::between("V3", "V2")]);
    let change = Change {
        revision: Revision {
            kind: Kind::Canary,
            canary: Some(Canary {
                site: "one".to_owned(),
                before: 0,
                up: vec![3, 500],
            }),
            ..made("one", &drains)
        },
        ids: &ids(7),
        retired: &retired,
    };
    assert_eq!(store.save(0, &change).unwrap(), 1);
    let report = StoredReport {
        gateway: "V1".to_owned(),
        kept: b"kept".to_vec(),
        at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
    };
    store.save_reports(std::slice::from_ref(&report)).unwrap();
    let keys = |byte: u8| Keys::from([("V1".to_owned(), [byte; 32].into())]);
    store.save_keys(&keys(7)).unwrap();
    store.save_keys(&keys(8)).unwrap();
    drop(store);

    let mut store = Sqlite::open(dir.path()).unwrap();
    let first = Revision {
        generation: 1,
        ..change.revision
    };
    assert_eq!(store.current().unwrap().unwrap(), first);
    assert_eq!(store.ids().unwrap(), ids(7));
    assert_eq!(store.retired().unwrap(), retired);
    assert_eq!(store.keys().unwrap(), keys(8));
    assert_eq!(store.reports().unwrap(), [report]);
    assert_eq!(save(&mut store, 1, "two", &ids(7)).unwrap(), 2);
    assert!(store.retired().unwrap().is_empty());
    assert!(store.current().unwrap().unwrap().drains.is_empty());
    // What was before is still known.
    assert_eq!(store.revision(1).unwrap().unwrap(), first);
    assert_eq!(store.revision(3).unwrap(), None);
    let history = store.history(9).unwrap();
    let known: Vec<_> = history
        .iter()
        .map(|it| (it.generation, &*it.summary))
        .collect();
    assert_eq!(known, [(2, "as in two"), (1, "as in one")]);
    assert!(history.iter().all(|it| it.text.expose().is_empty()));
    assert_eq!(store.history(1).unwrap().len(), 1);
}

#[test]
fn whoever_comes_second_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Sqlite::open(dir.path()).unwrap();
    for (expected, found) in [(1, 0), (u64::MAX, 0)] {
        let moved = save(&mut store, expected, "one", &ids(7)).unwrap_err();
        assert!(matches!(moved, StoreError::Moved { found: it, .. } if it == found));
    }
    assert_eq!(save(&mut store, 0, "one", &ids(7)).unwrap(), 1);
    let moved = save(&mut store, 0, "two", &ids(8)).unwrap_err();
    assert!(matches!(
        moved,
        StoreError::Moved {
            expected: 0,
            found: 1
        }
    ));
    assert_eq!(store.current().unwrap().unwrap().text.expose(), "one");
    assert_eq!(store.ids().unwrap(), ids(7));
}

#[test]
fn no_more_is_kept_than_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Sqlite::open(dir.path()).unwrap();
    for generation in 0..9 {
        save(&mut store, generation, "four", &ids(7)).unwrap();
    }
    let kept = |store: &Sqlite| -> Vec<u64> {
        let history = store.history(u32::MAX).unwrap();
        history.iter().map(|it| it.generation).collect()
    };
    let forget = |store: &Sqlite, kept, bytes| {
        revision::forget(&store.connection, kept, bytes).unwrap();
    };
    forget(&store, 9, 36);
    assert_eq!(kept(&store).len(), 9);
    forget(&store, 7, 1_000);
    assert_eq!(kept(&store), [9, 8, 7, 6, 5, 4, 3]);
    forget(&store, 7, 12);
    assert_eq!(kept(&store), [9, 8, 7]);
    // What is in force stays, and no number is given again.
    forget(&store, 0, 0);
    assert_eq!(kept(&store), [9]);
    assert_eq!(save(&mut store, 9, "four", &ids(7)).unwrap(), 10);
    assert_eq!(kept(&store), [10, 9]);
    let sql = format!(
        "WITH RECURSIVE n(i) AS (SELECT 11 UNION ALL SELECT i + 1 FROM n WHERE i < {})
         INSERT INTO spec (generation, file, text, operator, applied_at) SELECT i, '', '', '', 0 FROM n",
        KEPT + 20
    );
    store.connection.execute(&sql, []).unwrap();
    save(&mut store, u64::from(KEPT) + 20, "four", &ids(7)).unwrap();
    assert_eq!(kept(&store).len(), KEPT as usize);
}

#[test]
fn an_older_file_keeps_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    // As the version before the history left it.
    let mut connection = Connection::open(dir.path().join("mesh.db")).unwrap();
    schema::prepare_as(&mut connection, 3).unwrap();
    let sql = "
        INSERT INTO drain VALUES ('V1', ''), ('V2', 'V3');
        INSERT INTO spec (file, text, operator, applied_at) VALUES ('a', 'one', 'ann', 5), ('b', 'two', 'bob', 6);";
    connection.execute_batch(sql).unwrap();
    drop(connection);
    let store = Sqlite::open(dir.path()).unwrap();
    let drains = Drains::from([Drain::gateway("V1"), Drain::between("V3", "V2")]);
    let current = store.current().unwrap().unwrap();
    assert_eq!((current.text.expose(), current.drains), ("two", drains));
    let first = store.revision(1).unwrap().unwrap();
    assert_eq!((first.text.expose(), first.drains.len()), ("one", 0));
    assert_eq!((first.kind, &*first.operator), (Kind::Apply, "ann"));
}

#[test]
fn a_copy_becomes_a_store_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Sqlite::open(dir.path()).unwrap();
    save(&mut store, 0, "one", &ids(7)).unwrap();
    save(&mut store, 1, "two", &ids(7)).unwrap();
    let mut copy = store.backup().unwrap().copy().unwrap();
    // What comes later is not in it.
    save(&mut store, 2, "three", &ids(7)).unwrap();
    let file = dir.path().join("copy");
    std::io::copy(&mut copy, &mut File::create(&file).unwrap()).unwrap();
    assert!(!dir.path().join("backup.db").exists());

    let other = tempfile::tempdir().unwrap();
    assert_eq!(restore(other.path(), &file).unwrap(), 2);
    let mut restored = Sqlite::open(other.path()).unwrap();
    assert_eq!(restored.current().unwrap().unwrap().text.expose(), "two");
    assert_eq!(restored.ids().unwrap(), ids(7));
    assert_eq!(save(&mut restored, 2, "four", &ids(7)).unwrap(), 3);
    let mode = std::fs::metadata(other.path().join("mesh.db")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o077, 0);

    drop(restored);
    // Never over one that is there, and never half of one.
    let refused = restore(other.path(), &file).unwrap_err();
    assert!(
        refused.to_string().contains("is there already"),
        "{refused}"
    );
    // Nor beside what one left behind, or while a controller could make one.
    let fourth = tempfile::tempdir().unwrap();
    for name in ["mesh.db-wal", "mesh.db-shm"] {
        let left = fourth.path().join(name);
        std::fs::write(&left, "").unwrap();
        let refused = restore(fourth.path(), &file).unwrap_err();
        assert!(refused.to_string().contains(name), "{refused}");
        std::fs::remove_file(left).unwrap();
    }
    let lock = sqlite::private_file(&fourth.path().join("lock")).unwrap();
    lock.try_lock().unwrap();
    let refused = restore(fourth.path(), &file);
    assert!(matches!(refused, Err(StoreError::InUse { .. })));
    let whole = std::fs::read(&file).unwrap();
    let torn = dir.path().join("torn");
    for half in [
        &whole[..whole.len() / 2],
        &whole[..100],
        b"",
        b"not a database at all",
    ] {
        std::fs::write(&torn, half).unwrap();
        let third = tempfile::tempdir().unwrap();
        assert!(
            restore(third.path(), &torn).is_err(),
            "{} bytes",
            half.len()
        );
        let left = std::fs::read_dir(third.path()).unwrap();
        let left: Vec<_> = left.map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
    }
}

#[test]
fn an_id_once_given_is_not_given_to_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Sqlite::open(dir.path()).unwrap();
    save(&mut store, 0, "one", &ids(7)).unwrap();
    let mut other = Ids::default();
    other.insert("V2".to_owned(), "2001:db8::2".to_owned(), 7);
    assert!(save(&mut store, 1, "two", &other).is_err());
    assert_eq!(store.current().unwrap().unwrap().text.expose(), "one");
}

#[test]
fn only_one_controller_at_a_time_and_nobody_else_reads() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(dir.path()).unwrap();
    assert!(matches!(
        Sqlite::open(dir.path()),
        Err(StoreError::InUse { .. })
    ));
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
    drop(store);
    Sqlite::open(dir.path()).unwrap();
}

#[test]
fn a_file_from_the_future_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(dir.path()).unwrap();
    let sql = "INSERT INTO migration (version) VALUES (99)";
    store.connection.execute(sql, []).unwrap();
    drop(store);
    assert!(matches!(
        Sqlite::open(dir.path()),
        Err(StoreError::TooNew { found: 99, .. })
    ));
}
