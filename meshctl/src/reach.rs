//! Why a controller cannot be reached, by name, and what to do. The words are those of the operating system and of rustls,
//! which come through the transport as text.

use routemesh_proto::Validity;
use std::time::SystemTime;

/// It let us connect, and hung up: with TLS 1.3, that is how a certificate is refused.
const HUNG_UP: [&str; 5] = [
    "alert: ",
    "connection closed",
    "Connection reset",
    "roken pipe",
    "closed connection",
];
const RUN_OUT: &str =
    "your certificate has run out, by this host's clock: enroll again with a new token";
const OF_THE_FUTURE: &str = "by this host's clock your certificate is of the future: is `date` right here, and on the controller's host?";

/// What stands in a reason, and what to do then; the first that is found counts.
const CURES: [(&[&str], &str); 10] = [
    (
        &["Connection refused"],
        "nobody listens there: is mesh-controller running, and is the port right?",
    ),
    (
        &["lookup address", "Name or service not known", "dns error"],
        "nobody knows that name here: is it right, and does the resolver work?",
    ),
    (
        &[
            "Network is unreachable",
            "No route to host",
            "Host is unreachable",
        ],
        "this host has no way there: look at `ip route get` with the address",
    ),
    // Of its certificate, as this host sees it.
    (
        &["not valid yet", "NotValidYet"],
        "by this host's clock its certificate is of the future: is `date` right here?",
    ),
    (
        &["certificate expired", "invalid peer certificate: Expired"],
        "by this host's clock its certificate has run out: is `date` right here? If so, `mesh-controller renew` there",
    ),
    (
        &["UnknownIssuer", "BadSignature"],
        "another authority vouches for it: is the identity of the same mesh? If the authority was replaced, enroll again",
    ),
    (
        &["NotValidForName"],
        "who answers there is no controller of a Routemesh: is the address right?",
    ),
    // Of ours, as the controller sees it.
    (
        &["alert: CertificateExpired"],
        "your certificate has run out, by the controller's clock: is `date` right there? If so, enroll again with a new token",
    ),
    (
        &HUNG_UP,
        "it hung up, as it does on certificates that it does not take: is the identity of the same mesh, and not revoked? Else enroll again",
    ),
    (
        &[
            "corrupt message",
            "InvalidContentType",
            "deadline has elapsed",
            "timed out",
        ],
        "nobody who speaks TLS answers there in time: are address and port right, and does a firewall let you through?",
    ),
];

/// What to do about it, with a certificate of this validity.
pub(crate) fn cure(reason: &str, own: Option<Validity>, now: SystemTime) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|it| reason.contains(it));
    match own.filter(|_| has(&HUNG_UP)) {
        Some(own) if now > own.to => return RUN_OUT,
        Some(own) if now < own.from => return OF_THE_FUTURE,
        _ => {}
    }
    let mut fitting = CURES.iter().filter(|(words, _)| has(words));
    fitting.next().map_or(
        "is mesh-controller running there, and is the identity of the same mesh?",
        |(_, cure)| *cure,
    )
}
