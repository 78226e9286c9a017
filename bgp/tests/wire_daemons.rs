//! Bytes that five independent daemons made, beside what they mean: see `vectors/daemons/README.md`.

mod meaning;

use meaning::meaning;
use routemesh_bgp::wire::*;
use std::path::Path;

/// What the peers of the capture had negotiated, by their names in it.
fn context(session: &str) -> Context {
    let modern = Context {
        four_octet_as: true,
        extended_next_hop: true,
        enhanced_route_refresh: true,
        ..Context::UNKNOWN
    };
    match session {
        "external" => modern,
        "paths" => Context {
            add_path: PerFamily {
                ipv4: Directions::BOTH,
                ipv6: Directions::BOTH,
            },
            ..modern
        },
        "internal" => Context {
            internal: true,
            ..modern
        },
        "old" => Context::UNKNOWN,
        other => panic!("no session {other:?}"),
    }
}

struct Vector {
    /// Where it stands, for people.
    name: String,
    context: Context,
    bytes: Vec<u8>,
    meaning: String,
}

/// Reads a file of paragraphs: the session, the bytes, the meaning.
fn vectors(daemon: &str) -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/daemons");
    let path = folder.join(daemon).with_extension("txt");
    let text = std::fs::read_to_string(&path).expect(daemon);
    let paragraphs = text.split("\n\n").enumerate();
    paragraphs
        .map(|(number, paragraph)| {
            let mut lines = paragraph.lines().filter(|line| !line.starts_with('#'));
            let mut line = || lines.next().expect("a line");
            let session = line();
            Vector {
                name: format!("{daemon} {number} ({session})"),
                context: context(session),
                bytes: bytes(line()),
                meaning: line().to_owned(),
            }
        })
        .collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .map(|digit| digit.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    let pairs = digits.chunks(2);
    pairs.map(|pair| pair[0] << 4 | pair[1]).collect()
}

const DAEMONS: [&str; 5] = ["bird", "exabgp", "frr", "gobgp", "openbgpd"];

#[test]
fn what_daemons_say_is_understood() {
    for vector in DAEMONS.into_iter().flat_map(vectors) {
        let Vector { name, bytes, .. } = vector;
        let decoded = decode(&bytes, &vector.context).expect(&name);
        let decoded = decoded.expect("complete");
        assert_eq!(decoded.length, bytes.len(), "{name}");
        assert_eq!(decoded.faults, [], "{name}");
        let message = decoded.message.to_owned();
        assert_eq!(meaning(&message), vector.meaning, "{name}");
    }
}

/// Our own bytes for it mean the same.
#[test]
fn it_can_be_said_again() {
    for vector in DAEMONS.into_iter().flat_map(vectors) {
        let decoded = decode(&vector.bytes, &vector.context).expect(&vector.name);
        let message = decoded.expect("complete").message.to_owned();
        let mut ours = Vec::new();
        encode(&message, &vector.context, &mut ours);
        let again = decode(&ours, &vector.context).expect(&vector.name);
        let again = again.expect("complete");
        assert_eq!(again.length, ours.len(), "one message: {}", vector.name);
        let said = meaning(&again.message.to_owned());
        assert_eq!(said, vector.meaning, "{}", vector.name);
    }
}

/// The messages that have only one form, to the byte.
#[test]
fn what_has_one_form_is_the_same_to_the_byte() {
    let mut compared = 0;
    for vector in DAEMONS.into_iter().flat_map(vectors) {
        let decoded = decode(&vector.bytes, &vector.context).expect(&vector.name);
        let message = decoded.expect("complete").message.to_owned();
        if let Message::Notification(_) | Message::RouteRefresh(..) | Message::Keepalive = message {
            let mut ours = Vec::new();
            encode(&message, &vector.context, &mut ours);
            assert_eq!(ours, vector.bytes, "{}", vector.name);
            compared += 1;
        }
    }
    assert!(compared >= 10, "only {compared}");
}
