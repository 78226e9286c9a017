//! Bytes to messages, with the error handling of RFC 7606.

use super::{Message, Notification};

/// What decoding depends on: the outcome of the OPEN exchange and the kind of peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Both sides have 4-octet AS numbers (RFC 6793).
    pub four_octet_as: bool,
    /// Both sides take IPv4 with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// The peer is in our AS.
    pub internal: bool,
}

/// A whole message taken from the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The message, after the repairs of RFC 7606: what was to be treated as withdrawn is in `withdrawn`.
    pub message: Message,
    /// Its length in the stream, to be dropped from the front.
    pub length: usize,
    /// Attributes that were wrong, and what was done about each.
    pub faults: Vec<Fault>,
}

/// One malformed attribute (RFC 7606).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Attribute type code.
    pub attribute: u8,
    /// What was done.
    pub action: Action,
    /// What was wrong, for people.
    pub reason: &'static str,
}

/// What RFC 7606 asks for, short of a session reset, which is an `Err` of [`decode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The attribute was dropped, the routes kept.
    Discard,
    /// All routes of the message were withdrawn.
    TreatAsWithdraw,
}

/// Takes one message from the front of `stream`. `Ok(None)`: not all of it is there yet.
/// An error is the NOTIFICATION with which the session has to end.
pub fn decode(stream: &[u8], context: &Context) -> Result<Option<Decoded>, Notification> {
    let _ = (stream, context);
    Ok(None)
}
