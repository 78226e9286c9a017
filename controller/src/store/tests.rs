use super::*;
use std::os::unix::fs::PermissionsExt;

fn ids(id: u32) -> Ids {
    let mut ids = Ids::default();
    ids.insert("V1".to_owned(), "2001:db8::1".to_owned(), id);
    ids
}

#[test]
fn everything_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!(store.current().unwrap(), None);
    let idle = Config {
        gateway: "V9".to_owned(),
        ..Config::default()
    };
    let retired = Retired::from([("V9".to_owned(), idle)]);
    let drains = Drains::from([Drain::gateway("V1"), Drain::between("V3", "V2")]);
    assert_eq!(
        store
            .save("ann", "a.toml", "one", &ids(7), &retired, &drains)
            .unwrap(),
        1
    );
    let report = StoredReport {
        gateway: "V1".to_owned(),
        status: Status {
            generation: 1,
            ..Status::default()
        },
        at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
    };
    store.save_reports(std::slice::from_ref(&report)).unwrap();
    let keys = |byte: u8| Keys::from([("V1".to_owned(), [byte; 32].into())]);
    store.save_keys(&keys(7)).unwrap();
    store.save_keys(&keys(8)).unwrap();
    drop(store);

    let mut store = Store::open(dir.path()).unwrap();
    let revision = store.current().unwrap().unwrap();
    assert_eq!((revision.generation, revision.text.expose()), (1, "one"));
    assert_eq!(store.ids().unwrap(), ids(7));
    assert_eq!(store.retired().unwrap(), retired);
    assert_eq!(store.drains().unwrap(), drains);
    assert_eq!(store.keys().unwrap(), keys(8));
    assert_eq!(store.reports().unwrap(), [report]);
    assert_eq!(
        store
            .save(
                "ann",
                "a.toml",
                "two",
                &ids(7),
                &Retired::new(),
                &Drains::new()
            )
            .unwrap(),
        2
    );
    assert!(store.retired().unwrap().is_empty());
    assert!(store.drains().unwrap().is_empty());
}

#[test]
fn an_id_once_given_is_not_given_to_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    store
        .save("", "", "one", &ids(7), &Retired::new(), &Drains::new())
        .unwrap();
    let mut other = Ids::default();
    other.insert("V2".to_owned(), "2001:db8::2".to_owned(), 7);
    assert!(
        store
            .save("", "", "two", &other, &Retired::new(), &Drains::new())
            .is_err()
    );
    assert_eq!(store.current().unwrap().unwrap().text.expose(), "one");
}

#[test]
fn only_one_controller_at_a_time_and_nobody_else_reads() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert!(matches!(
        Store::open(dir.path()),
        Err(StoreError::InUse { .. })
    ));
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
    drop(store);
    Store::open(dir.path()).unwrap();
}

#[test]
fn a_file_from_the_future_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let sql = "INSERT INTO migration (version) VALUES (99)";
    store.connection.execute(sql, []).unwrap();
    drop(store);
    assert!(matches!(
        Store::open(dir.path()),
        Err(StoreError::TooNew { found: 99, .. })
    ));
}
