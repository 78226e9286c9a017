//! The authority beneath an operator's own CA, which is openssl's.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Agent, Controller, DAY, Pki, TWO_SITES};
use routemesh_controller::ca::{self, AboveError, Authority, CaError, Peer, Requested, Role, Step};
use routemesh_proto::certificates_client::CertificatesClient;
use routemesh_proto::{CONTROLLER_NAME, Identity, KeyKind, RenewRequest, Request};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;
use tempfile::TempDir;
use time::OffsetDateTime;

/// What an authority's certificate has.
const AUTHORITY: &str =
    "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n";

/// An operator's root, and what it signs.
struct Operator(TempDir);

impl Operator {
    fn new() -> Self {
        let it = Self(tempfile::tempdir().unwrap());
        it.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 90 -keyout root.key -out root.pem -subj /CN=root",
        );
        it
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Whether it succeeded, and what it said.
    fn asks(&self, words: &str) -> (bool, String) {
        let run = Command::new("openssl")
            .args(words.split_whitespace())
            .current_dir(self.0.path())
            .stdin(std::process::Stdio::null())
            .output();
        let run = run.unwrap();
        let said = [run.stdout, run.stderr].concat();
        (run.status.success(), String::from_utf8_lossy(&said).into())
    }

    fn openssl(&self, words: &str) {
        let (done, said) = self.asks(words);
        assert!(done, "openssl {words}: {said}");
    }

    /// Another authority of this name, for one that has made it.
    fn beneath(&self, above: &str, name: &str, extensions: &str) {
        self.openssl(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        self.sign(above, name, extensions, "");
    }

    /// Signs `name.csr`.
    fn sign(&self, above: &str, name: &str, extensions: &str, more: &str) -> String {
        fs::write(self.path("extensions"), extensions).unwrap();
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {above}.pem -CAkey {above}.key -CAcreateserial -days 40 -extfile extensions -out {name}.pem {more}"
        ));
        self.read(&format!("{name}.pem"))
    }

    /// Signs what the controller asks for; with all above it.
    fn certifies(&self, pki: &Pki) -> String {
        fs::write(
            self.path("mesh.csr"),
            ca::request(&pki.controller()).unwrap(),
        )
        .unwrap();
        self.sign("root", "mesh", AUTHORITY, "") + &self.read("root.pem")
    }

    /// Whether whoever trusts the root alone takes a certificate; `way`: what is between.
    fn takes(&self, certificate: &str, way: &str) -> bool {
        fs::write(self.path("leaf.pem"), certificate).unwrap();
        fs::write(self.path("way.pem"), way).unwrap();
        self.asks("verify -CAfile root.pem -untrusted way.pem leaf.pem")
            .0
    }
}

fn put(pki: &Pki, text: &str) -> Result<OffsetDateTime, CaError> {
    ca::put_beneath(&pki.controller(), text, OffsetDateTime::now_utc())
}

#[tokio::test]
async fn what_the_mesh_certifies_leads_to_the_operators_root_and_the_mesh_trusts_no_other_beneath_it()
 {
    let (operator, pki) = (Operator::new(), Pki::new());
    let before = pki.gateway("A");
    let until = put(&pki, &operator.certifies(&pki)).unwrap();
    let way = operator.read("mesh.pem");
    // What was certified before as well, as the key is the same; and nobody has to learn of anything.
    let after = pki.gateway("B");
    assert_eq!(before.ca, after.ca);
    for of in [&before, &after] {
        assert!(operator.takes(&of.certificate, &way));
        assert!(!operator.takes(&of.certificate, ""));
    }

    let controller = Controller::start(&pki.controller()).await;
    controller.apply(&pki, TWO_SITES).await.unwrap();
    let mut a = Agent::attach(&before, &controller.url, None).await.unwrap();
    assert_eq!(a.config().await.gateway, "A");
    // It shows the way itself.
    let address = controller.url.trim_start_matches("https://");
    let asked = format!(
        "s_client -brief -alpn h2 -verify_return_error -verify_hostname {CONTROLLER_NAME} -CAfile root.pem -connect {address}"
    );
    let operator = tokio::task::spawn_blocking(move || {
        operator.openssl(&asked);
        operator
    });
    let operator = operator.await.unwrap();

    // Another authority beneath the same root makes a gateway of that name: it is nobody, shown with its way or without.
    operator.beneath("root", "other", AUTHORITY);
    let request = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout A.key -out A.csr -subj /CN=A";
    operator.openssl(request);
    let names = "subjectAltName=URI:routemesh:gateway/A,DNS:A\nextendedKeyUsage=clientAuth\n";
    let false_a = operator.sign("other", "A", names, "");
    let other = operator.read("other.pem");
    assert!(operator.takes(&false_a, &other));
    for shown in [false_a.clone(), false_a + &other] {
        let false_a = Identity::new(before.ca.clone(), shown, operator.read("A.key"));
        assert!(
            Agent::attach(&false_a, &controller.url, None)
                .await
                .is_err()
        );
    }

    // Nothing outlasts the operator's word.
    let mut client = CertificatesClient::new(before.dial(&controller.url).unwrap());
    let request = Request::renewing(&before).unwrap();
    let der = request.der().to_vec();
    let answer = client.renew(RenewRequest { request: der }).await.unwrap();
    let renewed = request.answered(answer.into_inner()).unwrap();
    assert!(renewed.validity().unwrap().to <= SystemTime::from(until));
    let long = pki.dir.path().join("long");
    let peer = Peer::new(Role::Gateway, "C");
    ca::issue(&pki.controller(), &peer, &long, 400 * DAY).unwrap();
    let ends = Identity::load(&long).unwrap().validity().unwrap().to;
    assert_eq!(OffsetDateTime::from(ends), until);
    let authority = Authority::new(&pki.controller(), 30 * DAY);
    let requested = Requested::parse(Request::new("C", KeyKind::Ed25519).unwrap().der()).unwrap();
    let late = authority.certify(&peer, &requested, until + DAY);
    assert!(matches!(late, Err(CaError::Ended(_))), "{late:?}");
    controller.stop().await;
}

#[test]
fn what_leads_to_no_root_is_refused_and_changes_nothing() {
    let (operator, pki) = (Operator::new(), Pki::new());
    let own = || {
        let dir = pki.controller();
        ["ca.pem", "cert.pem"].map(|name| fs::read_to_string(dir.join(name)).unwrap())
    };
    let before = own();
    let whole = operator.certifies(&pki);
    let root = operator.read("root.pem");
    let refused = |text: &str| match put(&pki, text) {
        Err(CaError::Above(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(""), AboveError::NotOurs);
    assert_eq!(refused(&root), AboveError::NotOurs);
    let subject = "CN=mesh".to_owned();
    operator.beneath(
        "root",
        "middle",
        "basicConstraints=critical,CA:TRUE,pathlen:0\n",
    );
    let middle = operator.read("middle.pem") + &root;
    let of = |extensions: &str, more: &str| operator.sign("root", "mesh", extensions, more);
    let alone = refused(&of(AUTHORITY, ""));
    assert!(matches!(alone, AboveError::Alone(of) if of.starts_with("CN=Routemesh CA ")));
    let renamed = of(AUTHORITY, "-subj /CN=mesh") + &root;
    assert!(matches!(refused(&renamed), AboveError::Subject { found, .. } if found == subject));
    for none in [
        "basicConstraints=CA:FALSE\n",
        "basicConstraints=CA:TRUE\nkeyUsage=digitalSignature\n",
    ] {
        let error = refused(&(of(none, "") + &root));
        assert!(matches!(error, AboveError::NoAuthority(_)), "{error}");
    }
    let beneath = operator.sign("middle", "mesh", AUTHORITY, "") + &middle;
    assert_eq!(
        refused(&beneath),
        AboveError::Length("CN=middle".to_owned())
    );
    let names = format!("{AUTHORITY}nameConstraints=permitted;DNS:example.net\n");
    assert!(matches!(
        refused(&(of(&names, "") + &root)),
        AboveError::Names(_)
    ));
    let other_id = format!("{AUTHORITY}subjectKeyIdentifier=01020304\n");
    let error = refused(&(of(&other_id, "") + &root));
    assert!(matches!(error, AboveError::KeyId { found, .. } if found == "01020304"));
    // One that vouches for servers only.
    let usage = format!("{AUTHORITY}extendedKeyUsage=serverAuth\n");
    assert!(matches!(
        refused(&(of(&usage, "") + &root)),
        AboveError::Refused(_)
    ));
    // A root of that name, of another key.
    let other = Operator::new();
    let error = refused(&(of(AUTHORITY, "") + &other.read("root.pem")));
    assert!(matches!(error, AboveError::Alone(_)), "{error}");
    let late = OffsetDateTime::now_utc() + 50 * DAY;
    let late = ca::put_beneath(&pki.controller(), &whole, late);
    assert!(
        matches!(late, Err(CaError::Above(AboveError::Refused(_)))),
        "{late:?}"
    );
    assert_eq!(before, own());
}

#[test]
fn the_next_authority_signs_only_once_it_is_beneath_the_operators_as_well() {
    let (operator, pki) = (Operator::new(), Pki::new());
    let dir = pki.controller();
    let step = || ca::roll_over(&dir, KeyKind::Ed25519);
    put(&pki, &operator.certifies(&pki)).unwrap();
    assert_eq!(step().unwrap(), Step::Trusted);
    assert!(matches!(step(), Err(CaError::NotBeneath)));
    // The request is the next one's now; the one that signs keeps its way.
    let first = operator.read("mesh.pem");
    put(&pki, &operator.certifies(&pki)).unwrap();
    let second = operator.read("mesh.pem");
    let way = format!("{first}{second}");
    assert!(operator.takes(&pki.gateway("A").certificate, &first));
    assert_eq!(step().unwrap(), Step::Signs);
    let authority = Authority::new(&dir, DAY);
    let own = authority.own(OffsetDateTime::now_utc()).unwrap();
    assert!(own.is_of_first_authority());
    // It shows its own way, and the other is not needed.
    assert_eq!(own.certificate.matches("BEGIN").count(), 2);
    let of_second = pki.gateway("B").certificate;
    assert!(operator.takes(&of_second, &way) && operator.takes(&of_second, &second));
    assert!(!operator.takes(&of_second, &first));
    assert_eq!(step().unwrap(), Step::Alone);
    // Certified again, for longer, nothing else changes.
    let trusted = authority.bundle().unwrap();
    put(&pki, &operator.certifies(&pki)).unwrap();
    assert_eq!(authority.bundle().unwrap(), trusted);
    assert!(operator.takes(&of_second, &operator.read("mesh.pem")));
}
