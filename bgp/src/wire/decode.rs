//! Bytes to messages, with the error handling of RFC 7606.

use super::notification::{code, header};
use super::reader::Reader;
use super::{Message, Notification, Update, decode_update, nlri, open};

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
///
/// Within an UPDATE, withdrawals come before announcements. What is of a family that we do not have
/// leaves nothing behind: such a ROUTE-REFRESH (RFC 2918 section 4) or UPDATE is an empty
/// [`Update`], which asks for nothing.
pub fn decode(stream: &[u8], context: &Context) -> Result<Option<Decoded>, Notification> {
    let mut reader = Reader::new(stream);
    let Some(header) = Header::read(&mut reader)? else {
        return Ok(None);
    };
    let Some(body) = reader.take(header.body_length) else {
        return Ok(None);
    };
    let mut faults = Vec::new();
    let message = match header.kind {
        OPEN => Message::Open(open::read(body)?),
        UPDATE => {
            let (update, wrong) = decode_update::read(body, context)?;
            faults = wrong;
            Message::Update(update)
        }
        NOTIFICATION => Message::Notification(read_notification(body)),
        ROUTE_REFRESH => read_route_refresh(body),
        // The header allows no other.
        _ => Message::Keepalive,
    };
    Ok(Some(Decoded {
        message,
        length: HEADER_LENGTH + header.body_length,
        faults,
    }))
}

/// Message types (RFC 4271 section 4.1, RFC 2918).
pub(super) const OPEN: u8 = 1;
pub(super) const UPDATE: u8 = 2;
pub(super) const NOTIFICATION: u8 = 3;
pub(super) const KEEPALIVE: u8 = 4;
pub(super) const ROUTE_REFRESH: u8 = 5;

pub(super) const HEADER_LENGTH: usize = 19;
/// The longest message (RFC 4271 section 4.1).
pub(super) const MAX_LENGTH: usize = 4096;

/// What stands before every message (RFC 4271 section 4.1).
struct Header {
    kind: u8,
    body_length: usize,
}

impl Header {
    /// Reads and checks a header (RFC 4271 section 6.1), so that a message that is not worth
    /// waiting for is refused before it is complete.
    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, Notification> {
        let fields = (reader.array::<16>(), reader.u16(), reader.u8());
        let (Some(marker), Some(length), Some(kind)) = fields else {
            return Ok(None);
        };
        let error = |subcode, data: &[u8]| Err(Notification::new(code::HEADER, subcode, data));
        if marker != [0xff; 16] {
            return error(header::NOT_SYNCHRONIZED, &[]);
        }
        let lengths = match kind {
            OPEN => 29..=MAX_LENGTH,
            UPDATE => 23..=MAX_LENGTH,
            NOTIFICATION => 21..=MAX_LENGTH,
            KEEPALIVE => HEADER_LENGTH..=HEADER_LENGTH,
            ROUTE_REFRESH => 23..=23,
            _ => HEADER_LENGTH..=MAX_LENGTH,
        };
        if !lengths.contains(&usize::from(length)) {
            return error(header::BAD_LENGTH, &length.to_be_bytes());
        }
        if !(OPEN..=ROUTE_REFRESH).contains(&kind) {
            return error(header::BAD_TYPE, &[kind]);
        }
        Ok(Some(Self {
            kind,
            body_length: usize::from(length) - HEADER_LENGTH,
        }))
    }
}

/// Never an error: one NOTIFICATION is not answered with another (RFC 4271 section 6.4).
fn read_notification(body: &[u8]) -> Notification {
    let mut reader = Reader::new(body);
    let code = reader.u8().unwrap_or(0);
    let subcode = reader.u8().unwrap_or(0);
    Notification::new(code, subcode, reader.rest())
}

fn read_route_refresh(body: &[u8]) -> Message {
    let mut reader = Reader::new(body);
    let (afi, _reserved, safi) = (reader.u16(), reader.u8(), reader.u8());
    let family = afi
        .zip(safi)
        .and_then(|(afi, safi)| nlri::family(afi, safi));
    family.map_or_else(|| Message::Update(Update::default()), Message::RouteRefresh)
}
