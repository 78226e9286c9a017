//! Bytes to messages, with the error handling of RFC 7606.

use super::frame::{Frame, Kind};
use super::reader::Reader;
use super::{Directions, Family, Message, Notification, PerFamily, Refresh, UpdateView};
use super::{decode_update, nlri, open};

/// What decoding and encoding depend on: the outcome of the OPEN exchange and the kind of peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Both sides have 4-octet AS numbers (RFC 6793).
    pub four_octet_as: bool,
    /// Both sides take IPv4 with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// The peer is in our AS.
    pub internal: bool,
    /// Messages may have 65,535 bytes (RFC 8654): those we take, since we said so, and those the
    /// peer takes.
    pub extended_messages: Directions,
    /// Both sides mark the beginning and end of a refresh (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// Prefixes have path identifiers (RFC 7911).
    pub add_path: PerFamily<Directions>,
}

impl Context {
    /// What holds before the OPENs, with an external peer.
    pub const UNKNOWN: Self = Self {
        four_octet_as: false,
        extended_next_hop: false,
        internal: false,
        extended_messages: Directions::NEITHER,
        enhanced_route_refresh: false,
        add_path: PerFamily {
            ipv4: Directions::NEITHER,
            ipv6: Directions::NEITHER,
        },
    };
}

/// A whole message taken from the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The message, after the repairs of RFC 7606: what was to be treated as withdrawn is withdrawn.
    pub message: Message<UpdateView<'a>>,
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

/// What RFC 7606 asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The attribute was dropped, the routes kept.
    Discard,
    /// All routes of the message were withdrawn.
    TreatAsWithdraw,
    /// The session ends. Not among the faults of a message, but an `Err` of [`decode`].
    SessionReset,
}

/// Takes one message from the front of `stream`: [`Frame::read`] and [`Frame::decode`] in one.
#[inline]
pub fn decode<'a>(
    stream: &'a [u8],
    context: &Context,
) -> Result<Option<Decoded<'a>>, Notification> {
    match Frame::read(stream, context)? {
        Some(frame) => frame.decode(context).map(Some),
        None => Ok(None),
    }
}

impl<'a> Frame<'a> {
    /// What the message means. An error is the NOTIFICATION with which the session has to end.
    ///
    /// Within an UPDATE, withdrawals come before announcements. What is of a family that we do not
    /// have leaves nothing behind: such a ROUTE-REFRESH (RFC 2918 section 4) or UPDATE is an empty
    /// [`UpdateView`], which asks for nothing. So is a ROUTE-REFRESH of an unknown subtype (RFC 7313
    /// section 5).
    #[inline]
    pub fn decode(&self, context: &Context) -> Result<Decoded<'a>, Notification> {
        let mut faults = Vec::new();
        let message = match self.kind {
            Kind::Open => Message::Open(open::read(self.body)?),
            Kind::Update => {
                let mut view = UpdateView::default();
                decode_update::read(self.body, context, &mut view, &mut faults)?;
                Message::Update(view)
            }
            Kind::Notification => Message::Notification(read_notification(self.body)),
            Kind::RouteRefresh => match read_route_refresh(self.body, context) {
                Some((family, refresh)) => Message::RouteRefresh(family, refresh),
                None => Message::Update(UpdateView::default()),
            },
            Kind::Keepalive => Message::Keepalive,
        };
        Ok(Decoded {
            message,
            length: self.len(),
            faults,
        })
    }
}

/// Never an error: one NOTIFICATION is not answered with another (RFC 4271 section 6.4).
fn read_notification(body: &[u8]) -> Notification {
    let mut reader = Reader::new(body);
    let code = reader.u8().unwrap_or(0);
    let subcode = reader.u8().unwrap_or(0);
    Notification::new(code, subcode, reader.rest())
}

/// `None`: to be ignored.
fn read_route_refresh(body: &[u8], context: &Context) -> Option<(Family, Refresh)> {
    let mut reader = Reader::new(body);
    let (afi, subtype, safi) = (reader.u16()?, reader.u8()?, reader.u8()?);
    let refresh = match subtype {
        // Without RFC 7313 the field is reserved.
        _ if !context.enhanced_route_refresh => Refresh::Request,
        0 => Refresh::Request,
        1 => Refresh::Begin,
        2 => Refresh::End,
        _ => return None,
    };
    Some((nlri::family(afi, safi)?, refresh))
}
