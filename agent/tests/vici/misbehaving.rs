//! Sockets that do what charon's should not, and what it does when it stops.
//!
//! Every wait is bounded, by the limits under test and once more by [`within`].

use routemesh_agent::vici::{Error, Event, Secret, Vici, events};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::Receiver;
use tokio::time::{sleep, timeout};

/// Limit of the commands in these tests.
const LIMIT: Duration = Duration::from_millis(300);

const RESPONSE: u8 = 1;
const EVENT_CONFIRM: u8 = 5;
const EVENT: u8 = 7;

/// A directory for the socket, the socket, and the end of it that plays charon.
fn bind() -> (TempDir, PathBuf, UnixListener) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("charon.vici");
    let listener = UnixListener::bind(&socket).unwrap();
    (dir, socket, listener)
}

/// Fails the test if it takes longer than anything here should.
async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(5), what)
        .await
        .expect("this should have been bounded")
}

/// Packet type, name of a command or event if it has one, and the rest.
type Packet = (u8, String, Vec<u8>);

async fn receive(stream: &mut UnixStream) -> Option<Packet> {
    let length = stream.read_u32().await.ok()?;
    let mut packet = vec![0; length as usize];
    stream.read_exact(&mut packet).await.ok()?;
    let kind = packet[0];
    let n = packet[1] as usize;
    let name = String::from_utf8(packet[2..2 + n].to_vec()).unwrap();
    Some((kind, name, packet[2 + n..].to_vec()))
}

/// A packet with its length.
fn packet(kind: u8, name: Option<&str>, message: &[u8]) -> Vec<u8> {
    let mut body = vec![kind];
    if let Some(name) = name {
        body.push(name.len() as u8);
        body.extend(name.as_bytes());
    }
    body.extend(message);
    let mut packet = (body.len() as u32).to_be_bytes().to_vec();
    packet.extend(body);
    packet
}

/// `name = value` on the wire.
fn text(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![3, name.len() as u8];
    out.extend(name.as_bytes());
    out.extend((value.len() as u16).to_be_bytes());
    out.extend(value.as_bytes());
    out
}

/// `name { content }` on the wire.
fn section(name: &str, content: &[u8]) -> Vec<u8> {
    let mut out = vec![1, name.len() as u8];
    out.extend(name.as_bytes());
    out.extend(content);
    out.push(2);
    out
}

fn version(version: &str) -> Vec<u8> {
    packet(
        RESPONSE,
        None,
        &[text("daemon", "charon"), text("version", version)].concat(),
    )
}

/// Answers one `version`.
async fn answer_version(stream: &mut UnixStream, answer: &str) {
    let (kind, name, _) = receive(stream).await.unwrap();
    assert_eq!((kind, name.as_str()), (0, "version"));
    stream.write_all(&version(answer)).await.unwrap();
}

/// Confirms the five registrations.
async fn confirm_registrations(stream: &mut UnixStream) -> Vec<String> {
    let mut names = Vec::new();
    while names.len() < 5 {
        let (kind, name, _) = receive(stream).await.unwrap();
        assert_eq!(kind, 3);
        names.push(name);
        stream
            .write_all(&packet(EVENT_CONFIRM, None, &[]))
            .await
            .unwrap();
    }
    names.sort();
    names
}

fn child_up(name: &str) -> Vec<u8> {
    let message = [text("up", "yes"), section(name, &text("uniqueid", "1"))].concat();
    packet(EVENT, Some("child-updown"), &message)
}

async fn next(events: &mut Receiver<Event>) -> Event {
    within(events.recv()).await.unwrap()
}

#[tokio::test]
async fn nobody_at_the_socket_is_an_error_that_says_what_to_do() {
    let vici = Vici::new("/nonexistent/charon.vici".into()).with_limit(LIMIT);
    let error = within(vici.version()).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }));
    let text = error.to_string();
    assert!(
        text.starts_with("/nonexistent/charon.vici: version: "),
        "{text}"
    );
    assert!(text.contains("is strongSwan's charon running"), "{text}");
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test]
async fn a_close_with_a_pending_request_is_an_error_at_once() {
    let (_dir, socket, listener) = bind();
    let vici = Vici::new(socket).with_limit(Duration::from_secs(60));
    let charon = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        receive(&mut stream).await.unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        answer_version(&mut stream, "next").await;
        stream
    };
    let client = async {
        let error = vici.version().await.unwrap_err();
        assert!(matches!(error, Error::Lost { .. }), "{error}");
        assert!(error.to_string().contains("end of file"), "{error}");
        assert_eq!(vici.version().await.unwrap().version, "next");
    };
    within(async { tokio::join!(charon, client) }).await;
}

#[tokio::test]
async fn a_closed_connection_costs_no_processor_time() {
    let (_dir, socket, listener) = bind();
    let vici = Vici::new(socket).with_limit(LIMIT);
    let charon = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        answer_version(&mut stream, "1").await;
    };
    let (_, answer) = within(async { tokio::join!(charon, vici.version()) }).await;
    answer.unwrap();

    let before = processor_time();
    sleep(Duration::from_secs(1)).await;
    let used = processor_time() - before;
    assert!(
        used < Duration::from_millis(100),
        "{used:?} in a second of waiting"
    );
}

/// Processor time of this thread: the test's runtime has no other.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_restart_between_two_commands_is_not_noticed() {
    let (_dir, socket, listener) = bind();
    let vici = Vici::new(socket).with_limit(LIMIT);
    let charon = async {
        for answer in ["1", "2"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            answer_version(&mut stream, answer).await;
        }
    };
    let client = async {
        assert_eq!(vici.version().await.unwrap().version, "1");
        sleep(Duration::from_millis(50)).await;
        assert_eq!(vici.version().await.unwrap().version, "2");
    };
    within(async { tokio::join!(charon, client) }).await;
}

#[tokio::test]
async fn answers_may_come_byte_by_byte() {
    let (_dir, socket, listener) = bind();
    let vici = Vici::new(socket).with_limit(Duration::from_secs(2));
    let charon = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        for answer in ["1", "2", "3"] {
            receive(&mut stream).await.unwrap();
            for byte in version(answer) {
                stream.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
        stream
    };
    let client = async {
        // At once: the second and third wait for their turn while the first is in pieces.
        let answers = tokio::join!(vici.version(), vici.version(), vici.version());
        let mut versions = [answers.0, answers.1, answers.2].map(|answer| answer.unwrap().version);
        versions.sort();
        assert_eq!(versions, ["1", "2", "3"]);
    };
    within(async { tokio::join!(charon, client) }).await;
}

#[tokio::test]
async fn an_answer_that_never_comes_is_given_up_on() {
    let (_dir, socket, listener) = bind();
    let vici = Vici::new(socket).with_limit(LIMIT);
    let charon = async {
        let (mut silent, _) = listener.accept().await.unwrap();
        receive(&mut silent).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        answer_version(&mut stream, "another connection").await;
        // Too late, and on a connection that nobody reads any more.
        let _ = silent.write_all(&version("late")).await;
        answer_version(&mut stream, "the same connection").await;
    };
    let client = async {
        let started = Instant::now();
        let error = vici.version().await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        assert!(started.elapsed() >= LIMIT);
        assert_eq!(vici.version().await.unwrap().version, "another connection");
        assert_eq!(vici.version().await.unwrap().version, "the same connection");
    };
    within(async { tokio::join!(charon, client) }).await;
}

#[tokio::test]
async fn a_cancelled_call_leaves_no_answer_to_the_next() {
    let (_dir, socket, listener) = bind();
    let vici = Vici::new(socket).with_limit(Duration::from_secs(60));
    let charon = async {
        let (mut first, _) = listener.accept().await.unwrap();
        receive(&mut first).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        let _ = first
            .write_all(&version("meant for the cancelled call"))
            .await;
        let (mut second, _) = listener.accept().await.unwrap();
        answer_version(&mut second, "right").await;
    };
    let client = async {
        assert!(
            timeout(Duration::from_millis(50), vici.version())
                .await
                .is_err()
        );
        sleep(Duration::from_millis(100)).await;
        assert_eq!(vici.version().await.unwrap().version, "right");
    };
    within(async { tokio::join!(charon, client) }).await;
}

#[tokio::test]
async fn an_absurd_length_is_refused_unallocated() {
    for length in [u32::MAX, 512 * 1024 + 1, 0] {
        let (_dir, socket, listener) = bind();
        let vici = Vici::new(socket).with_limit(Duration::from_secs(60));
        let charon = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            receive(&mut stream).await.unwrap();
            stream.write_all(&length.to_be_bytes()).await.unwrap();
            stream
        };
        let (_stream, answer) = within(async { tokio::join!(charon, vici.version()) }).await;
        let error = answer.unwrap_err();
        assert!(matches!(error, Error::Lost { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains(&format!("a packet of {length} bytes")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn answers_of_any_bytes_are_errors_at_worst() {
    let bodies: [&[u8]; 8] = [
        b"\x01",                           // empty: no version, but a message
        b"\x01\xff\xff\xff",               // no such element
        b"\x01\x03\x07ver",                // cut short
        b"\x01\x02\x02\x02\x06\x06",       // ends of what never began
        b"\x01\x04\x01a\x01\x01b\x02\x06", // a section in a list
        b"\x03\x00",                       // a packet type that only clients send
        b"\x63",                           // no packet type at all
        b"\x07\x09cut",                    // an event whose name is cut short
    ];
    for body in bodies {
        let (_dir, socket, listener) = bind();
        let vici = Vici::new(socket).with_limit(LIMIT);
        let charon = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            receive(&mut stream).await.unwrap();
            stream
                .write_all(&(body.len() as u32).to_be_bytes())
                .await
                .unwrap();
            stream.write_all(body).await.unwrap();
            stream
        };
        let _ = within(async { tokio::join!(charon, vici.version()) }).await;
    }
}

/// One `version` that is answered by these bytes.
async fn answered_by(bytes: Vec<u8>) {
    let (_dir, socket, listener) = bind();
    let vici = Vici::new(socket).with_limit(Duration::from_millis(20));
    let charon = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        receive(&mut stream).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        stream
    };
    let _ = within(async { tokio::join!(charon, vici.version()) }).await;
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    /// Packets of a right length and any content, then anything at all: nothing panics or hangs.
    #[test]
    fn answers_of_random_bytes_are_errors_at_worst(
        packets in proptest::collection::vec(
            (0..9u8, proptest::collection::vec(0..9u8, 0..60)), 0..4),
        rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..20),
    ) {
        let mut bytes = Vec::new();
        for (kind, message) in packets {
            bytes.extend(packet(kind, None, &message));
        }
        bytes.extend(rest);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(answered_by(bytes));
    }
}

#[tokio::test]
async fn sections_nested_without_end_do_not_exhaust_the_stack() {
    let (_dir, socket, listener) = bind();
    let vici = Vici::new(socket).with_limit(LIMIT);
    let charon = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        receive(&mut stream).await.unwrap();
        let deep = b"\x01\x01a".repeat(170_000);
        stream
            .write_all(&packet(RESPONSE, None, &deep))
            .await
            .unwrap();
        stream
    };
    let (_stream, answer) = within(async { tokio::join!(charon, vici.version()) }).await;
    assert!(matches!(answer, Err(Error::Unexpected { .. })));
}

#[tokio::test]
async fn events_that_nobody_asked_for_do_not_disturb_commands() {
    let (_dir, socket, listener) = bind();
    let vici = Vici::new(socket).with_limit(Duration::from_secs(2));
    let charon = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        for answer in ["1", "2"] {
            receive(&mut stream).await.unwrap();
            for _ in 0..500 {
                stream.write_all(&child_up("rm1-x")).await.unwrap();
            }
            stream.write_all(&version(answer)).await.unwrap();
        }
        stream
    };
    let client = async {
        assert_eq!(vici.version().await.unwrap().version, "1");
        assert_eq!(vici.version().await.unwrap().version, "2");
    };
    within(async { tokio::join!(charon, client) }).await;
}

#[tokio::test]
async fn a_list_skips_what_cannot_be_read_and_what_is_not_ours() {
    let (_dir, socket, listener) = bind();
    let vici = Vici::new(socket).with_limit(LIMIT);
    let charon = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        receive(&mut stream).await.unwrap();
        stream
            .write_all(&packet(EVENT_CONFIRM, None, &[]))
            .await
            .unwrap();
        receive(&mut stream).await.unwrap();
        let child = section(
            "children",
            &section("0123456789abcdef", &text("mode", "TUNNEL")),
        );
        for message in [
            section("rm7-v2", &child),
            b"\xff".to_vec(),
            section("home", &child),
            section("rm-x", &child),
        ] {
            stream
                .write_all(&packet(EVENT, Some("list-conn"), &message))
                .await
                .unwrap();
        }
        stream
            .write_all(&packet(RESPONSE, None, &[]))
            .await
            .unwrap();
        receive(&mut stream).await.unwrap();
        stream
            .write_all(&packet(EVENT_CONFIRM, None, &[]))
            .await
            .unwrap();
        stream
    };
    let (_stream, connections) = within(async { tokio::join!(charon, vici.connections()) }).await;
    let connections = connections.unwrap();
    assert_eq!(connections.keys().collect::<Vec<_>>(), ["rm7-v2"]);
    assert_eq!(connections["rm7-v2"].digest, "0123456789abcdef");
}

#[tokio::test]
async fn what_does_not_fit_is_not_sent() {
    let (_dir, socket, _listener) = bind();
    let vici = Vici::new(socket).with_limit(LIMIT);
    let error = within(vici.load_key(&Secret::new("x".repeat(65_536))))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooLong { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("data has 65536 bytes, 65535 at most"),
        "{error}"
    );
    assert!(!error.to_string().contains("xxx"));
}

#[tokio::test]
async fn events_go_on_after_one_that_makes_no_sense() {
    let (_dir, socket, listener) = bind();
    let mut events = events(socket);
    let (mut stream, _) = within(listener.accept()).await.unwrap();
    let names = within(confirm_registrations(&mut stream)).await;
    assert_eq!(
        names,
        [
            "child-rekey",
            "child-updown",
            "ike-rekey",
            "ike-updown",
            "log"
        ]
    );
    assert_eq!(next(&mut events).await, Event::Resync);

    stream.write_all(&child_up("rm1-v2")).await.unwrap();
    assert_eq!(
        next(&mut events).await,
        Event::ConnectionUp("rm1-v2".into())
    );
    // Nothing that a message can be: it may have been about anything.
    stream
        .write_all(&packet(EVENT, Some("child-updown"), b"\xff\xff"))
        .await
        .unwrap();
    assert_eq!(next(&mut events).await, Event::Resync);
    // Not ours, then ours again, over the same connection.
    stream.write_all(&child_up("home")).await.unwrap();
    let down = packet(EVENT, Some("ike-updown"), &section("rm1-v2", &[]));
    stream.write_all(&down).await.unwrap();
    assert_eq!(
        next(&mut events).await,
        Event::ConnectionDown("rm1-v2".into())
    );
    let rekey = packet(EVENT, Some("child-rekey"), &section("rm1-v2", &[]));
    stream.write_all(&rekey).await.unwrap();
    assert_eq!(next(&mut events).await, Event::Rekeyed("rm1-v2".into()));

    // Of the log, what says why there is no SA of ours; what cannot be read of it says nothing.
    let line = |name: &str, msg: &str| {
        let message = [text("ikesa-name", name), text("msg", msg)].concat();
        packet(EVENT, Some("log"), &message)
    };
    let failed = "received AUTHENTICATION_FAILED notify error";
    let lines = [
        packet(EVENT, Some("log"), b"\xff\xff"),
        line("home", failed),
        line("rm1-v2", "sending packet"),
        line("rm1-v2", failed),
    ];
    stream.write_all(&lines.concat()).await.unwrap();
    let refused = next(&mut events).await;
    assert!(
        matches!(&refused, Event::Refused { connection, reason }
            if connection == "rm1-v2" && reason.contains("AUTHENTICATION_FAILED")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn confirmations_may_come_byte_by_byte_between_registrations() {
    let (_dir, socket, listener) = bind();
    let mut events = events(socket);
    let (mut stream, _) = within(listener.accept()).await.unwrap();
    // The first half of a confirmation while the other registrations are being written.
    within(receive(&mut stream)).await.unwrap();
    let confirmation = packet(EVENT_CONFIRM, None, &[]);
    stream.write_all(&confirmation[..2]).await.unwrap();
    for _ in 0..4 {
        within(receive(&mut stream)).await.unwrap();
    }
    for byte in [
        &confirmation[2..],
        &confirmation,
        &confirmation,
        &confirmation,
        &confirmation,
    ]
    .concat()
    {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(next(&mut events).await, Event::Resync);
    for byte in child_up("rm1-v2") {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(
        next(&mut events).await,
        Event::ConnectionUp("rm1-v2".into())
    );
}

#[tokio::test]
async fn events_are_listened_to_again_after_charon_was_away() {
    let (_dir, socket, listener) = bind();
    let mut events = events(socket.clone());
    let (mut stream, _) = within(listener.accept()).await.unwrap();
    within(confirm_registrations(&mut stream)).await;
    assert_eq!(next(&mut events).await, Event::Resync);

    drop((stream, listener));
    std::fs::remove_file(&socket).unwrap();
    assert_eq!(next(&mut events).await, Event::Lost);
    sleep(Duration::from_millis(500)).await;

    let listener = UnixListener::bind(&socket).unwrap();
    let (mut stream, _) = within(listener.accept()).await.unwrap();
    within(confirm_registrations(&mut stream)).await;
    assert_eq!(next(&mut events).await, Event::Resync);
    stream.write_all(&child_up("rm1-v2")).await.unwrap();
    assert_eq!(
        next(&mut events).await,
        Event::ConnectionUp("rm1-v2".into())
    );
}

#[tokio::test]
async fn an_unread_flood_of_events_ends_in_one_resync() {
    let (_dir, socket, listener) = bind();
    let mut events = events(socket);
    let (mut stream, _) = within(listener.accept()).await.unwrap();
    within(confirm_registrations(&mut stream)).await;
    // charon is never held up, however little is read at the other end.
    let flood = child_up("rm1-v2");
    within(async {
        for _ in 0..3_000 {
            stream.write_all(&flood).await.unwrap();
        }
    })
    .await;
    sleep(LIMIT).await;
    let mut count = 0;
    let mut last = None;
    while let Ok(event) = timeout(LIMIT, events.recv()).await {
        last = event;
        count += 1;
    }
    assert!(count < 1000, "{count} events were kept");
    assert_eq!(last, Some(Event::Resync));
    stream.write_all(&flood).await.unwrap();
    assert_eq!(
        next(&mut events).await,
        Event::ConnectionUp("rm1-v2".into())
    );
}

#[tokio::test]
async fn nobody_listens_any_more_once_the_receiver_is_gone() {
    let (_dir, socket, listener) = bind();
    let events = events(socket);
    let (mut stream, _) = within(listener.accept()).await.unwrap();
    within(confirm_registrations(&mut stream)).await;
    drop(events);
    let closed = async { while receive(&mut stream).await.is_some() {} };
    within(closed).await;
}
