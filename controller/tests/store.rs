//! One suite for both stores, and from the one to the other.

#![allow(clippy::unwrap_used)]

mod common;

use common::etcd::{Certificates, Cluster, losing};
use routemesh_controller::admission::Admission;
use routemesh_controller::ca::Role;
use routemesh_controller::drain::{Drain, Drains};
use routemesh_controller::ids::Ids;
use routemesh_controller::mesh::{Keys, Retired};
use routemesh_controller::store::{
    Change, Deed, Kind, Revision, Store, StoreError, Token, migrate,
};
use routemesh_proto::{Canary, Config};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn ids(id: u32) -> Ids {
    let mut ids = Ids::default();
    ids.insert("V1".to_owned(), "2001:db8::1".to_owned(), id);
    ids
}

fn made(text: &str) -> Revision {
    Revision {
        generation: 0,
        file: "a.toml".to_owned(),
        text: text.into(),
        operator: "ann".to_owned(),
        at: at(1),
        kind: Kind::Drain,
        summary: "what".to_owned(),
        drains: Drains::from([Drain::gateway("V1"), Drain::between("V3", "V2")]),
        canary: Some(Canary {
            site: "one".to_owned(),
            before: 7,
            up: vec![3, 500],
        }),
    }
}

fn save(store: &mut Store, expected: u64, text: &str) -> Result<u64, StoreError> {
    let change = Change {
        revision: made(text),
        ids: &ids(7),
        retired: &Retired::new(),
    };
    store.save(expected, &change)
}

fn deed(number: u64) -> Deed {
    Deed {
        at: at(number),
        who: "ann".to_owned(),
        what: "revoke".to_owned(),
        detail: format!("gateway V{number}"),
    }
}

fn token() -> Token {
    Token {
        digest: [5; 32],
        role: Role::Gateway,
        name: "V1".to_owned(),
        expires: at(60),
        used: None,
    }
}

/// What a store has to do; it is opened as often as wanted.
fn conform(mut open: impl FnMut() -> Store) {
    let mut store = open();
    assert_eq!(
        (store.generation().unwrap(), store.current().unwrap()),
        (0, None)
    );
    assert_eq!(store.ids().unwrap(), Ids::default());
    assert!(store.retired().unwrap().is_empty() && store.history(9).unwrap().is_empty());

    // Generations, with all that goes with them; the second is longer than one value of etcd.
    let idle = Config {
        gateway: "V9".to_owned(),
        ..Config::default()
    };
    let retired = Retired::from([("V9".to_owned(), idle)]);
    let change = Change {
        revision: made("one"),
        ids: &ids(7),
        retired: &retired,
    };
    assert_eq!(store.save(0, &change).unwrap(), 1);
    assert_eq!(store.retired().unwrap(), retired);
    let long = "long ".repeat(700_000);
    assert_eq!(save(&mut store, 1, &long).unwrap(), 2);
    for expected in [0, 1, 3] {
        let moved = save(&mut store, expected, "three").unwrap_err();
        assert!(
            matches!(moved, StoreError::Moved { found: 2, .. }),
            "{moved}"
        );
    }
    drop(store);
    let mut store = open();
    assert_eq!(store.generation().unwrap(), 2);
    let current = store.current().unwrap().unwrap();
    assert_eq!(
        current,
        Revision {
            generation: 2,
            ..made(&long)
        }
    );
    assert_eq!(
        store.revision(1).unwrap().unwrap(),
        Revision {
            generation: 1,
            ..made("one")
        }
    );
    assert_eq!(store.revision(3).unwrap(), None);
    assert_eq!(store.ids().unwrap(), ids(7));
    assert!(store.retired().unwrap().is_empty());
    let history = store.history(9).unwrap();
    let told: Vec<_> = history
        .iter()
        .map(|it| (it.generation, it.text.expose(), &it.canary))
        .collect();
    assert_eq!(told, [(2, "", &None), (1, "", &None)]);
    assert_eq!(store.history(1).unwrap().len(), 1);

    // A key replaces the one before.
    let keys = |byte: u8| Keys::from([("V1".to_owned(), [byte; 32].into())]);
    store.save_keys(&keys(7)).unwrap();
    store.save_keys(&keys(8)).unwrap();
    assert_eq!(store.keys().unwrap(), keys(8));

    // A token is good once, and readmits whom it is for.
    let token = token();
    let admission = |revoked| Admission { number: 3, revoked };
    let first = Admission::default();
    assert_eq!(store.token(&[5; 32]).unwrap(), None);
    assert!(!store.use_token(&token, &deed(2)).unwrap());
    store
        .save_admission(Role::Gateway, "V1", first, admission(true), None)
        .unwrap();
    // Whoever has seen it otherwise changes nothing.
    for before in [first, admission(false)] {
        let late = store.save_admission(Role::Gateway, "V1", before, admission(false), None);
        assert!(matches!(late, Err(StoreError::Overtaken)), "{late:?}");
    }
    store.add_token(&token, at(0)).unwrap();
    assert!(store.add_token(&token, at(0)).is_err());
    assert_eq!(store.token(&[5; 32]).unwrap().unwrap(), token);
    assert_eq!(
        store.admissions().unwrap().of(Role::Gateway, "V1"),
        admission(true)
    );
    assert!(store.use_token(&token, &deed(2)).unwrap());
    assert!(!store.use_token(&token, &deed(3)).unwrap());
    // And so it is on record, once.
    assert_eq!(store.deeds(9).unwrap(), [deed(2)]);
    assert_eq!(store.token(&[5; 32]).unwrap().unwrap().used, Some(at(2)));
    assert_eq!(
        store.admissions().unwrap().of(Role::Gateway, "V1"),
        admission(false)
    );
    // A key for WireGuard goes with the gateway that is revoked, and its tokens that nobody has used: more than
    // fit into one of etcd's transactions, and not those of a person of that name.
    let other = |number: u8, role| Token {
        digest: [number; 32],
        role,
        ..token.clone()
    };
    for number in 100..220 {
        store
            .add_token(&other(number, Role::Gateway), at(0))
            .unwrap();
    }
    store.add_token(&other(6, Role::Viewer), at(0)).unwrap();
    let (held, gone) = (admission(false), admission(true));
    store
        .save_admission(Role::Gateway, "V1", held, gone, Some(&deed(3)))
        .unwrap();
    assert!(store.keys().unwrap().is_empty());
    let tokens = store.tokens().unwrap().into_iter();
    let mut left: Vec<u8> = tokens.map(|it| it.digest[0]).collect();
    left.sort_unstable();
    assert_eq!(left, [5, 6]);
    // What was done, the latest first.
    (4..7).for_each(|number| store.note(&deed(number)).unwrap());
    assert_eq!(store.deeds(2).unwrap(), [deed(6), deed(5)]);
    let all = store.deeds(u32::MAX).unwrap();
    assert_eq!(all, [6, 5, 4, 3, 2].map(deed));
    // It is remembered for a while after it has run out.
    let other = Token {
        digest: [7; 32],
        ..token
    };
    store.add_token(&other, at(60 + 40 * 86_400)).unwrap();
    assert_eq!(store.token(&[5; 32]).unwrap(), None);
}

#[test]
fn sqlite_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conform(|| Store::open(dir.path()).unwrap());
}

#[test]
fn etcd_conforms() {
    let cluster = Cluster::start(1);
    conform(|| Store::etcd(&cluster.urls(), None, None).unwrap());
}

#[test]
fn there_and_back() {
    let cluster = Cluster::start(1);
    let (first, last) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut from = Store::open(first.path()).unwrap();
    for generation in 0..3 {
        save(&mut from, generation, &format!("text {generation}")).unwrap();
    }
    let first = Admission::default();
    let admission = |number, revoked| Admission { number, revoked };
    for (role, name, now) in [
        (Role::Operator, "ann", admission(3, true)),
        (Role::Gateway, "V1", admission(1, false)),
    ] {
        from.save_admission(role, name, first, now, None).unwrap();
    }
    // One that was used, and one by which somebody who was revoked may come back.
    let tokens = [(1, Some(at(5))), (2, None)].map(|(number, used)| Token {
        digest: [number; 32],
        role: Role::Operator,
        name: "ann".to_owned(),
        expires: at(60),
        used,
    });
    for token in &tokens {
        from.add_token(token, at(0)).unwrap();
    }
    from.save_keys(&Keys::from([("V1".to_owned(), [7; 32].into())]))
        .unwrap();
    for number in 0..3 {
        from.note(&deed(number)).unwrap();
    }
    let mut etcd = Store::etcd(&cluster.urls(), None, None).unwrap();
    let mut said = Vec::new();
    assert_eq!(
        migrate(&from, &mut etcd, |done, of| said.push((done, of))).unwrap(),
        3
    );
    assert_eq!(said, [(1, 3), (2, 3), (3, 3)]);
    let again = migrate(&from, &mut etcd, |_, _| {});
    assert!(matches!(again, Err(StoreError::NotEmpty { found: 3 })));
    let mut back = Store::open(last.path()).unwrap();
    assert_eq!(migrate(&etcd, &mut back, |_, _| {}).unwrap(), 3);
    for generation in 1..=3 {
        let revision = back.revision(generation).unwrap();
        assert!(revision.as_ref().is_some_and(|it| it.canary.is_some()));
        assert_eq!(revision, from.revision(generation).unwrap());
    }
    assert_eq!(
        (back.ids().unwrap(), back.keys().unwrap()),
        (from.ids().unwrap(), from.keys().unwrap())
    );
    assert_eq!(back.admissions().unwrap(), from.admissions().unwrap());
    assert_eq!(back.deeds(9).unwrap(), from.deeds(9).unwrap());
    let mut all = back.tokens().unwrap();
    all.sort_by_key(|it| it.digest);
    assert_eq!(all, tokens);
    assert_eq!(save(&mut back, 3, "next").unwrap(), 4);
}

/// What an attempt left that came no further than this is not mixed with another.
#[test]
fn a_store_with_anything_in_it_is_no_place_to_migrate_to() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = Store::open(one.path()).unwrap();
    let mut to = Store::open(two.path()).unwrap();
    to.note(&deed(1)).unwrap();
    let refused = migrate(&from, &mut to, |_, _| {});
    assert!(matches!(refused, Err(StoreError::NotEmpty { found: 0 })));
}

/// Nobody takes a mesh that is damaged for none, and gives its ids to others.
#[test]
fn what_is_missing_is_not_taken_for_nothing() {
    let cluster = Cluster::start(1);
    let mut store = Store::etcd(&cluster.urls(), None, None).unwrap();
    save(&mut store, 0, &"long ".repeat(400_000)).unwrap();
    let mut delete = Command::new("etcdctl");
    delete.env("ETCDCTL_API", "3");
    let deleted = delete
        .args(["--endpoints", &cluster.urls(), "del", "--prefix"])
        .arg("/routemesh/blob/")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(deleted.stdout).unwrap(), "4\n");
    let missing = [store.ids().map(drop), store.current().map(drop)];
    for missing in missing {
        assert!(
            matches!(missing, Err(StoreError::Damaged { .. })),
            "{missing:?}"
        );
    }
}

/// A store that lacks what is in force would give its number and its ids to something else.
#[test]
fn a_generation_that_is_not_whole_is_not_left_out() {
    let cluster = Cluster::start(1);
    let mut store = Store::etcd(&cluster.urls(), None, None).unwrap();
    save(&mut store, 0, &"long ".repeat(400_000)).unwrap();
    let ctl = |args: &[&str]| {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3");
        command.args(["--endpoints", &cluster.urls()]).args(args);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    // Nothing else has a second piece.
    let keys = ctl(&["get", "--prefix", "--keys-only", "/routemesh/blob/"]);
    let second = keys.lines().find(|it| it.ends_with("/0001")).unwrap();
    assert_eq!(ctl(&["del", second]), "1\n");
    let dir = tempfile::tempdir().unwrap();
    let migrated = migrate(&store, &mut Store::open(dir.path()).unwrap(), |_, _| {});
    assert!(
        matches!(migrated, Err(StoreError::NotWhole { generation: 1 })),
        "{migrated:?}"
    );
}

#[test]
fn of_many_at_once_one_is_first() {
    let cluster = Cluster::start(1);
    let urls = cluster.urls();
    let racers: Vec<_> = (0..8)
        .map(|racer: u32| {
            let urls = urls.clone();
            std::thread::spawn(move || {
                let mut store = Store::etcd(&urls, None, None).unwrap();
                let mut won = 0;
                while won < 5 {
                    let in_force = store.generation().unwrap();
                    // What goes with it is whole, whatever others do meanwhile.
                    if in_force > 0 {
                        assert_eq!(store.ids().unwrap(), self::ids(7));
                    }
                    match save(&mut store, in_force, &format!("by {racer}")) {
                        Ok(generation) => {
                            assert_eq!(generation, in_force + 1);
                            won += 1;
                        }
                        Err(StoreError::Moved { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    racers.into_iter().for_each(|racer| racer.join().unwrap());
    let store = Store::etcd(&urls, None, None).unwrap();
    let history = store.history(u32::MAX).unwrap();
    let generations: Vec<u64> = history.iter().map(|it| it.generation).collect();
    assert_eq!(generations, (1..=40).rev().collect::<Vec<_>>());
    // And each has its text, whole.
    for generation in 1..=40 {
        let revision = store.revision(generation).unwrap().unwrap();
        assert!(revision.text.expose().starts_with("by "), "{generation}");
    }
}

/// etcd does it, and says so to nobody.
#[test]
fn what_was_done_is_known_though_the_answer_is_lost() {
    // As long as it takes to ask again; and longer than anybody waits.
    for lost in [300, 6_500].map(Duration::from_millis) {
        let cluster = Cluster::start(1);
        let urls = cluster.urls();
        let open = |words| Store::etcd(&losing(&urls, words, lost), None, None).unwrap();
        let mut straight = Store::etcd(&urls, None, None).unwrap();
        let token = token();
        straight.add_token(&token, at(0)).unwrap();
        // Nobody's tokens go with it, as the others change some meanwhile.
        let admitted = Admission {
            number: 1,
            revoked: false,
        };
        let mut saves = open(&["/routemesh/head", "/routemesh/revision/"]);
        let mut enrolls = open(&["/routemesh/token/", "/routemesh/deed/"]);
        let mut revokes = open(&["/routemesh/admission/person/ann", "/routemesh/deed/"]);
        std::thread::scope(|scope| {
            scope.spawn(move || assert_eq!(save(&mut saves, 0, "one").unwrap(), 1));
            scope.spawn(move || assert!(enrolls.use_token(&token, &deed(1)).unwrap()));
            scope.spawn(move || {
                let first = Admission::default();
                revokes
                    .save_admission(Role::Admin, "ann", first, admitted, Some(&deed(2)))
                    .unwrap();
            });
        });
        assert_eq!(straight.generation().unwrap(), 1);
        assert_eq!(straight.deeds(9).unwrap(), [deed(2), deed(1)]);
    }
}

/// Over TLS with certificates on both sides, and with etcd's own authentication: whoever is not its user
/// reads and writes nothing.
#[test]
fn etcd_knows_us_by_our_certificate() {
    let pki = Certificates::new();
    let (server, user, other) = (
        pki.issue("etcd"),
        pki.issue("routemesh"),
        pki.issue("mallory"),
    );
    let path = |dir: &Path, file: &str| dir.join(file).to_str().unwrap().to_owned();
    let cluster = Cluster::start_with(1, &pki.options());
    let urls = cluster.urls();
    let ctl = |args: &[&str]| {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &urls]);
        command.args(["--cacert", &path(&server, "ca.pem")]);
        // The first user is called so.
        let root = pki.issue("root");
        command.args([
            "--cert",
            &path(&root, "cert.pem"),
            "--key",
            &path(&root, "key.pem"),
        ]);
        let done = command.args(args).output().unwrap();
        assert!(
            done.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    };
    ctl(&["user", "add", "root", "--no-password"]);
    ctl(&["user", "grant-role", "root", "root"]);
    ctl(&["role", "add", "mesh"]);
    ctl(&[
        "role",
        "grant-permission",
        "mesh",
        "--prefix=true",
        "readwrite",
        "/routemesh/",
    ]);
    ctl(&["user", "add", "routemesh", "--no-password"]);
    ctl(&["user", "grant-role", "routemesh", "mesh"]);
    ctl(&["auth", "enable"]);
    let mut store = Store::etcd(&urls, Some(&user), None).unwrap();
    assert_eq!(save(&mut store, 0, "one").unwrap(), 1);
    let refused = Store::etcd(&urls, Some(&other), None).unwrap().generation();
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("the common name of cert.pem"), "{refused}");
    // Never in clear, and never without a certificate.
    for (urls, identity) in [
        ("http://192.0.2.1:2379", Some(user.as_path())),
        (&*urls, None),
    ] {
        let refused = Store::etcd(urls, identity, None).err().unwrap().to_string();
        assert!(
            refused.contains("https") || refused.contains("--etcd-identity"),
            "{refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_hear_of_each_other() {
    let cluster = Cluster::start(1);
    let open = |own| Store::etcd(&cluster.urls(), None, Some(own)).unwrap();
    let (mut one, mut two) = (open("https://one"), open("https://two"));
    let (_others_of_one, mut others) = (one.others().unwrap(), two.others().unwrap());
    let there = timeout(PATIENCE, others.controllers.wait_for(|it| !it.is_empty()));
    let there = there.await.unwrap().unwrap().clone();
    assert_eq!(there, ["https://one".to_owned()].into(), "and not itself");
    // Nobody takes away meanwhile what they have in force.
    let dir = tempfile::tempdir().unwrap();
    let migrated = migrate(&two, &mut Store::open(dir.path()).unwrap(), |_, _| {});
    assert!(
        matches!(&migrated, Err(StoreError::Running(there)) if there.contains("https://one")),
        "{migrated:?}"
    );
    // How it was is looked at first.
    let quiet = Duration::from_millis(500);
    while timeout(quiet, others.changed.changed()).await.is_ok() {}
    let mut hears = async |what: &str| {
        let heard = timeout(PATIENCE, others.changed.changed()).await;
        heard.unwrap_or_else(|_| panic!("{what}")).unwrap();
    };
    save(&mut one, 0, "one").unwrap();
    hears("a generation").await;
    let revoked = Admission {
        number: 1,
        revoked: true,
    };
    one.save_admission(Role::Gateway, "V1", Admission::default(), revoked, None)
        .unwrap();
    hears("a revocation").await;
    let keys = Keys::from([("V2".to_owned(), [7; 32].into())]);
    one.save_keys(&keys).unwrap();
    hears("a key").await;
    // One that is gone is known to be so when its lease has run out.
    drop(one);
    let gone = others.controllers.wait_for(|it| it.is_empty());
    assert!(timeout(PATIENCE, gone).await.is_ok());
}
