use super::*;
use routemesh_proto::fingerprint;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use x509_parser::prelude::*;

fn peer(role: Role, name: &str) -> Peer {
    Peer::new(role, name)
}

fn der(pem: &str) -> Vec<u8> {
    parse_x509_pem(pem.as_bytes()).unwrap().1.contents
}

fn issued(subject: &Subject) -> (Issued, Issued) {
    let now = OffsetDateTime::now_utc();
    let authority = authority(KeyKind::EcdsaP384, 10 * DAY, now).unwrap();
    let issued = issue_to(&authority, subject, KeyKind::EcdsaP384, 5 * DAY, now).unwrap();
    (authority, issued)
}

#[test]
fn a_gateway_certificate_is_what_charon_and_tls_want() {
    let gateway = peer(Role::Gateway, "V1-1");
    let (authority, issued) = issued(&Subject::Peer(&gateway));
    let (ca, cert) = (der(&authority.certificate), der(&issued.certificate));
    assert_eq!(Peer::from_certificate(&cert), Ok(gateway));
    let (_, ca) = parse_x509_certificate(&ca).unwrap();
    let (_, cert) = parse_x509_certificate(&cert).unwrap();
    cert.verify_signature(Some(ca.public_key())).unwrap();
    assert_eq!(cert.subject().to_string(), "CN=V1-1");
    assert_eq!(cert.issuer(), ca.subject());
    assert!(!cert.is_ca() && ca.is_ca());
    let constraints = ca.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical);
    let usage = ca.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign());
    let usage = cert.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let extended = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && !extended.server_auth && !extended.any);
    let names = &cert
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert!(names.contains(&GeneralName::DNSName("V1-1")));
    let key_id = |x509: &X509Certificate, wanted: fn(&ParsedExtension) -> Option<Vec<u8>>| {
        let mut all = x509.extensions().iter();
        all.find_map(|extension| wanted(extension.parsed_extension()))
    };
    let own = |extension: &ParsedExtension| match extension {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    };
    let issuers = |extension: &ParsedExtension| match extension {
        ParsedExtension::AuthorityKeyIdentifier(id) => Some(id.key_identifier.as_ref()?.0.to_vec()),
        _ => None,
    };
    assert!(key_id(&cert, own).is_some());
    assert_eq!(key_id(&cert, issuers), key_id(&ca, own));
    let age = cert.validity().not_before.to_datetime() - OffsetDateTime::now_utc();
    assert!(age.whole_hours() <= -23);
    assert!(issued.key.expose().contains("BEGIN PRIVATE KEY"));
    assert!(!format!("{issued:?}").contains("BEGIN PRIVATE KEY"));
}

#[test]
fn an_operator_is_nobody_to_ike() {
    let operator = peer(Role::Operator, "V1-1");
    let (_, issued) = issued(&Subject::Peer(&operator));
    let cert = der(&issued.certificate);
    assert_eq!(Peer::from_certificate(&cert), Ok(operator));
    let (_, cert) = parse_x509_certificate(&cert).unwrap();
    let names = &cert
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(**names, [GeneralName::URI("routemesh:operator/V1-1")]);
}

#[test]
fn the_controller_has_its_name_and_no_role() {
    let (_, issued) = issued(&Subject::Controller);
    let cert = der(&issued.certificate);
    assert_eq!(Peer::from_certificate(&cert), Err(PeerError::NoRole));
    assert_eq!(Peer::from_certificate(b"junk"), Err(PeerError::Unreadable));
    let (_, cert) = parse_x509_certificate(&cert).unwrap();
    let names = &cert
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(**names, [GeneralName::DNSName(CONTROLLER_NAME)]);
}

#[test]
fn directories_are_private_and_never_overwritten() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, out) = (temp.path().join("controller"), temp.path().join("V1-1"));
    init(&dir, KeyKind::EcdsaP384, 5 * DAY).unwrap();
    issue(&dir, &peer(Role::Gateway, "V1-1"), &out, 5 * DAY).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&out)), (0o700, 0o700));
    for key in [
        dir.join("ca-key.pem"),
        dir.join("key.pem"),
        out.join("key.pem"),
    ] {
        assert_eq!(mode(&key), 0o600);
    }
    routemesh_proto::Identity::load(&dir).unwrap();
    routemesh_proto::Identity::load(&out).unwrap();
    assert!(matches!(
        init(&dir, KeyKind::EcdsaP384, 5 * DAY),
        Err(CaError::Exists { .. })
    ));
    let again = issue(&dir, &peer(Role::Gateway, "V1-1"), &out, 5 * DAY);
    assert!(matches!(again, Err(CaError::Exists { .. })));
    for name in ["../V1", CONTROLLER_NAME, "10.0.0.1", ""] {
        let refused = issue(
            &dir,
            &peer(Role::Gateway, name),
            &temp.path().join("x"),
            5 * DAY,
        );
        assert!(matches!(refused, Err(CaError::Name(_))), "{name}");
    }
}

#[test]
fn the_controllers_certificate_is_renewed_and_the_authority_is_not() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("controller");
    init(&dir, KeyKind::EcdsaP384, 5 * DAY).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let before = ["ca.pem", "ca-key.pem", "cert.pem", "key.pem"].map(read);
    renew(&dir, 5 * DAY).unwrap();
    let after = ["ca.pem", "ca-key.pem", "cert.pem", "key.pem"].map(read);
    assert_eq!(before[..2], after[..2]);
    assert!(before[2] != after[2] && before[3] != after[3]);
    // An authority whose certificate was lost is not written over.
    std::fs::remove_file(dir.join("ca.pem")).unwrap();
    assert!(matches!(
        init(&dir, KeyKind::EcdsaP384, 5 * DAY),
        Err(CaError::Exists { .. })
    ));
    assert_eq!(read("ca-key.pem"), before[1]);
}

#[test]
fn a_rollover_that_was_interrupted_is_taken_again() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("controller");
    init(&dir, KeyKind::Ed25519, 5 * DAY).unwrap();
    let authority = Authority::new(&dir, 5 * DAY);
    let step = || roll_over(&dir, KeyKind::Ed25519).unwrap();
    let path = |name: &str| dir.join(name);
    // An operator's own root is trusted beside: that is no rollover.
    let root = super::authority(KeyKind::Ed25519, 5 * DAY, OffsetDateTime::now_utc()).unwrap();
    let first = std::fs::read_to_string(path("ca.pem")).unwrap();
    std::fs::write(path("ca.pem"), first + &root.certificate).unwrap();
    assert_eq!(step(), Step::Trusted);
    let trusted = authority.bundle().unwrap();
    assert!(trusted.contains(&root.certificate.replace("\r\n", "\n")));
    // Before the certificates were put in order.
    let next = std::fs::read(path("ca-next-key.pem")).unwrap();
    std::fs::write(path("ca-key.pem"), next).unwrap();
    let signs_first = || {
        let pem = authority.bundle().unwrap();
        fingerprint(&der(&pem)) == authority.fingerprint().unwrap()
    };
    assert!(signs_first());
    let own = authority.own(OffsetDateTime::now_utc()).unwrap();
    assert!(own.is_of_first_authority());
    assert_eq!((step(), signs_first()), (Step::Signs, true));
    assert_eq!((step(), signs_first()), (Step::Alone, true));
    assert_eq!(authority.bundle().unwrap().matches("BEGIN").count(), 1);
    assert_eq!(step(), Step::Trusted);
}
