//! The real charon, in namespaces of its own. No ESP is needed: it never gets to keying.

use routemesh_agent::config::{EspOptions, IkeOptions, Offload};
use routemesh_agent::vici::{self, Auth, Bind, Definition, Error, Event, Secret, Vici, events};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const CHARON: &str = "/usr/lib/ipsec/charon";
/// A start takes two seconds in a machine that is emulated.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running charon; killed when dropped.
pub struct Charon {
    dir: TempDir,
    /// A named network namespace, or nothing for a fresh one.
    netns: Option<String>,
    /// It minds changes of its addresses, which our package tells it not to.
    pub roams: bool,
    child: Option<Child>,
}

impl Charon {
    /// Starts one; needs root and Debian's strongswan-charon.
    pub async fn start(netns: Option<String>) -> Charon {
        let dir = tempfile::tempdir().unwrap();
        let mut charon = Charon {
            dir,
            netns,
            roams: false,
            child: None,
        };
        charon.run().await;
        charon
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("charon.vici")
    }

    /// Runs the daemon and waits until it takes connections.
    pub async fn run(&mut self) {
        let dir = self.dir.path();
        let log = dir.join("log");
        let conf = dir.join("strongswan.conf");
        fs::write(&conf, configuration(&self.socket(), &log, self.roams)).unwrap();
        let _ = fs::remove_file(self.socket());
        // Each program becomes the next, so the process id to kill is charon's.
        let namespaces = match &self.netns {
            Some(name) => format!("ip netns exec {name} unshare --mount"),
            None => "unshare --mount --net".to_owned(),
        };
        // 192.0.2.2 can be sent to, and never answers.
        let silent = match &self.netns {
            Some(_) => "",
            None => "ip address add 192.0.2.1/32 dev lo && ip route add 192.0.2.2/32 dev lo &&",
        };
        let script =
            format!("mount -t tmpfs tmpfs /run && ip link set lo up && {silent} exec \"$0\"");
        let mut words = namespaces.split(' ').chain(["sh", "-c", &script]);
        let child = Command::new(words.next().unwrap())
            .args(words)
            .arg(CHARON)
            .env("STRONGSWAN_CONF", conf)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let started = Instant::now();
        while tokio::net::UnixStream::connect(self.socket())
            .await
            .is_err()
        {
            let log = || fs::read_to_string(&log).unwrap_or_default();
            assert!(
                started.elapsed() < PATIENCE,
                "charon does not start: {}",
                log()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills it without a word.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Charon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What our package brings, and what a test needs besides.
fn configuration(socket: &Path, log: &Path, roams: bool) -> String {
    format!(
        "include {package}
        charon {{
            load = random nonce openssl pem pkcs1 pkcs8 x509 pubkey kdf kernel-netlink socket-default vici updown
            threads = 8
            process_route = {roams}
            filelog {{
                a {{
                    path = {log}
                    default = 1
                }}
            }}
            plugins {{
                kernel-netlink {{
                    roam_events = {roams}
                }}
                vici {{
                    socket = unix://{socket}
                }}
            }}
        }}",
        package = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/strongswan.d/routemesh.conf"),
        log = log.display(),
        socket = socket.display(),
        roams = if roams { "yes" } else { "no" }
    )
}

/// A CA whose key, like all others, is made for a test and gone with it.
pub struct Authority {
    dir: TempDir,
    /// Its certificate.
    pub pem: String,
}

/// The options for a new key and a certificate of it.
const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 2";

impl Authority {
    pub fn new() -> Authority {
        let mut ca = Authority {
            dir: tempfile::tempdir().unwrap(),
            pem: String::new(),
        };
        ca.openssl(&format!(
            "req -x509 {NEW_KEY} -keyout ca.key -out ca.pem -subj /CN=mesh"
        ));
        ca.pem = ca.read("ca.pem");
        ca
    }

    /// A certificate for that name, and its key.
    pub fn issue(&self, name: &str) -> (String, Secret) {
        self.openssl(&format!(
            "req -x509 {NEW_KEY} -CA ca.pem -CAkey ca.key -keyout {name}.key -out {name}.pem \
             -subj /CN={name} -addext subjectAltName=DNS:{name}"
        ));
        (
            self.read(&format!("{name}.pem")),
            Secret::new(self.read(&format!("{name}.key"))),
        )
    }

    /// One that is valid from years to come.
    pub fn issue_early(&self, name: &str) -> (String, Secret) {
        let config = "[ca]\ndefault_ca=a\n[a]\nnew_certs_dir=.\ndatabase=index\nrand_serial=yes\ndefault_md=sha384\n\
                      policy=p\ncopy_extensions=copy\n[p]\ncommonName=supplied\n";
        for (file, text) in [("config", config), ("index", "")] {
            fs::write(self.dir.path().join(file), text).unwrap();
        }
        self.openssl(&format!(
            "req -new {NEW_KEY} -keyout {name}.key -out {name}.csr -subj /CN={name} \
             -addext subjectAltName=DNS:{name}"
        ));
        self.openssl(&format!(
            "ca -batch -notext -config config -cert ca.pem -keyfile ca.key -in {name}.csr -out {name}.pem \
             -startdate 20400101000000Z -enddate 20410101000000Z"
        ));
        (
            self.read(&format!("{name}.pem")),
            Secret::new(self.read(&format!("{name}.key"))),
        )
    }

    fn openssl(&self, arguments: &str) {
        let arguments = arguments.split_whitespace();
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.dir.path())
            .output();
        let output = output.unwrap();
        assert!(
            output.status.success(),
            "openssl: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.path().join(file)).unwrap()
    }
}

/// v1's side of a tunnel to a v2 that is not there, and v1's key.
fn definition(bind: Bind) -> (Definition, Secret) {
    let ca = Authority::new();
    let (own_pem, key) = ca.issue("v1");
    let definition = Definition {
        site: "two".into(),
        local_addrs: vec!["192.0.2.1".into()],
        nat: false,
        remote_addrs: vec!["192.0.2.2".into()],
        local_id: "v1".into(),
        remote_id: "v2".into(),
        auth: Auth::Certificate {
            own_pem,
            ca_pems: vec![ca.pem.clone()],
        },
        children: vec![vici::Child::of_all("rm1-v2".into(), bind)],
        initiate: true,
        ike: IkeOptions {
            dpd_delay: Duration::from_secs(5),
            ..IkeOptions::default()
        },
        esp: EspOptions::default(),
    };
    (definition, key)
}

#[tokio::test]
async fn charon_takes_every_command() {
    let charon = Charon::start(None).await;
    let vici = Vici::new(charon.socket());
    let (xfrm, key) = definition(Bind::IfId(0x5200_0001));

    let version = vici.version().await.unwrap();
    assert_eq!(version.daemon, "charon");
    assert!(
        version.version.starts_with(|c: char| c.is_ascii_digit()),
        "{version:?}"
    );

    // Keys: loading twice is one key, forgetting twice is fine.
    let id = vici.load_key(&key).await.unwrap();
    assert_eq!(vici.load_key(&key).await.unwrap(), id);
    assert_eq!(
        vici.keys().await.unwrap(),
        std::collections::BTreeSet::from([id.clone()])
    );
    vici.unload_key(&id).await.unwrap();
    vici.unload_key(&id).await.unwrap();
    assert!(vici.keys().await.unwrap().is_empty());
    let refused = vici
        .load_key(&Secret::new("no key at all".into()))
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    assert!(!format!("{refused} {refused:?}").contains("no key at all"));

    // Connections of both kinds, and another content under the same name.
    let vti = Definition {
        children: vec![vici::Child::of_all(
            "rm2-v2".into(),
            Bind::Mark(0x5200_0002),
        )],
        ..xfrm.clone()
    };
    vici.load("rm1-v2", &xfrm).await.unwrap();
    vici.load("rm2-v2", &vti).await.unwrap();
    let loaded = vici.connections().await.unwrap();
    assert_eq!(loaded.keys().collect::<Vec<_>>(), ["rm1-v2", "rm2-v2"]);
    assert_eq!(loaded["rm1-v2"].digest, xfrm.digest());
    assert_eq!(loaded["rm2-v2"].digest, vti.digest());
    let changed = Definition {
        esp: EspOptions {
            proposals: vec!["aes128gcm16".into()],
            ..EspOptions::default()
        },
        ..xfrm.clone()
    };
    vici.load("rm1-v2", &changed).await.unwrap();
    assert_eq!(
        vici.connections().await.unwrap()["rm1-v2"].digest,
        changed.digest()
    );

    // Every option that there is.
    let hours = |n: u64| Duration::from_secs(n * 3600);
    let tuned = Definition {
        ike: IkeOptions {
            proposals: vec!["aes256-sha384-prfsha384-ecp384".into()],
            rekey_time: hours(8),
            reauth_time: Some(hours(168)),
            over_time: Some(hours(1)),
            dpd_delay: Duration::from_secs(30),
            mobike: true,
        },
        esp: EspOptions {
            proposals: vec!["aes256gcm16-ecp384-esn-noesn".into()],
            rekey_time: hours(2),
            over_time: Some(hours(1)),
            replay_window: 4096,
            hw_offload: Offload::Crypto,
            policies_fwd_out: true,
            // charon of that age is not told of it: `preflight::refusal`.
            iptfs: false,
        },
        ..xfrm.clone()
    };
    vici.load("rm1-v2", &tuned).await.unwrap();
    let responder = Definition {
        initiate: false,
        ..tuned
    };
    vici.load("rm1-v2", &responder).await.unwrap();
    vici.load("rm1-v2", &changed).await.unwrap();

    // What charon cannot take, it refuses, and what was there stays.
    let broken = Definition {
        auth: Auth::Certificate {
            own_pem: "no certificate".into(),
            ca_pems: vec!["no certificate".into()],
        },
        ..xfrm.clone()
    };
    let refused = vici.load("rm1-v2", &broken).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    assert!(
        refused
            .to_string()
            .contains("load-conn rm1-v2: charon refused"),
        "{refused}"
    );
    assert_eq!(
        vici.connections().await.unwrap()["rm1-v2"].digest,
        changed.digest()
    );

    // Somebody else's connection is neither seen nor touched.
    vici.load("home", &xfrm).await.unwrap();
    assert!(!vici.connections().await.unwrap().contains_key("home"));

    for _ in 0..2 {
        vici.unload("rm1-v2").await.unwrap();
    }
    vici.terminate(77).await.unwrap();
    vici.terminate_child(77).await.unwrap();
    assert_eq!(vici.sas().await.unwrap(), []);
    assert_eq!(vici.connections().await.unwrap().len(), 1);
}

#[tokio::test]
async fn charon_takes_what_foreign_peers_need() {
    let charon = Charon::start(None).await;
    let vici = Vici::new(charon.socket());
    let (xfrm, _) = definition(Bind::IfId(0x5200_0003));

    // Keys: another under the same id, one that is somebody else's, and forgetting twice.
    for key in ["first of the keys", "second of the keys"] {
        vici.load_shared("rm3-oracle", &key.into(), "192.0.2.2")
            .await
            .unwrap();
    }
    let home = "third of the keys".into();
    vici.load_shared("home", &home, "b").await.unwrap();
    assert_eq!(vici.shared().await.unwrap(), ["rm3-oracle".into()].into());
    for _ in 0..2 {
        vici.unload_shared("rm3-oracle").await.unwrap();
    }
    assert!(vici.shared().await.unwrap().is_empty());

    // Two children in one connection, which are recognised.
    let child = |number: u32, local: &str, remote: &str| vici::Child {
        way: format!("rm{number}-oracle"),
        reached: Some(BTreeSet::new()),
        bind: Bind::IfId(0x5200_0000 + number),
        local: vec![local.into()],
        remote: vec![remote.into()],
    };
    let foreign = Definition {
        auth: Auth::Psk("second of the keys".into()),
        children: vec![
            child(3, "10.0.1.0/24", "10.9.0.0/16"),
            child(5, "2001:db8:a1::/64", "2001:db8:9::/48"),
        ],
        ike: IkeOptions {
            proposals: vec!["aes256-sha2_384-ecp384".into()],
            ..IkeOptions::default()
        },
        esp: EspOptions {
            proposals: vec!["aes256gcm16-modp1536".into()],
            ..EspOptions::default()
        },
        ..xfrm
    };
    vici.load("rm3-oracle", &foreign).await.unwrap();
    let loaded = &vici.connections().await.unwrap()["rm3-oracle"];
    assert_eq!(loaded.digest, foreign.digest());
    assert_eq!(loaded.more, [5].into());
}

#[tokio::test]
async fn charon_initiates_and_gives_up_without_holding_anything_up() {
    use routemesh_agent::vici::IkeState;
    let charon = Charon::start(None).await;
    let vici = Vici::new(charon.socket());
    let (definition, key) = definition(Bind::IfId(0x5200_0001));
    vici.load_key(&key).await.unwrap();
    vici.load("rm1-v2", &definition).await.unwrap();

    let started = Instant::now();
    vici.initiate("rm1-v2", &definition.digest()).await.unwrap();
    assert!(
        started.elapsed() < Duration::from_millis(400),
        "{:?}",
        started.elapsed()
    );
    let unknown = vici
        .initiate("rm1-v2", "0000000000000000")
        .await
        .unwrap_err();
    assert!(matches!(unknown, Error::Refused { .. }), "{unknown}");

    let sas = timeout(PATIENCE, async {
        loop {
            let sas = vici.sas().await.unwrap();
            if !sas.is_empty() {
                return sas;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    let sas = sas.await.unwrap();
    assert_eq!(sas.len(), 1);
    assert_eq!(sas[0].connection, "rm1-v2");
    assert_eq!(sas[0].state, IkeState::Connecting);
    assert!(sas[0].initiator);
    assert_eq!(sas[0].established, None);
    assert_eq!(sas[0].remote_host, "192.0.2.2");

    vici.terminate(sas[0].unique_id).await.unwrap();
    timeout(PATIENCE, async {
        while vici
            .sas()
            .await
            .unwrap()
            .iter()
            .any(|sa| sa.unique_id == sas[0].unique_id)
        {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn charon_restarts_and_everything_is_told_and_loaded_again() {
    let mut charon = Charon::start(None).await;
    let vici = Vici::new(charon.socket());
    let (definition, _) = definition(Bind::IfId(0x5200_0001));
    let mut events = events(charon.socket());
    assert_eq!(
        timeout(PATIENCE, events.recv()).await.unwrap(),
        Some(Event::Resync)
    );
    vici.load("rm1-v2", &definition).await.unwrap();

    charon.kill();
    assert_eq!(
        timeout(PATIENCE, events.recv()).await.unwrap(),
        Some(Event::Lost)
    );
    let error = vici.connections().await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");

    charon.run().await;
    assert_eq!(
        timeout(PATIENCE, events.recv()).await.unwrap(),
        Some(Event::Resync)
    );
    assert!(vici.connections().await.unwrap().is_empty());
    vici.load("rm1-v2", &definition).await.unwrap();
    assert_eq!(vici.connections().await.unwrap().len(), 1);
}
