//! Messages cut out of the stream (RFC 4271 section 4.1), before anything in them is looked at.

use super::Context;
use super::Notification;
use super::notification::{code, header, route_refresh};
use super::reader::Reader;

pub(super) const HEADER_LENGTH: usize = 19;
/// The longest message (RFC 4271 section 4.1).
pub(super) const MAX_LENGTH: usize = 4096;
/// The longest message between those who can (RFC 8654): all that the length field can say.
pub(super) const EXTENDED_MAX_LENGTH: usize = 65535;

/// Message types (RFC 4271 section 4.1, RFC 2918).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 1.
    Open,
    /// 2.
    Update,
    /// 3.
    Notification,
    /// 4.
    Keepalive,
    /// 5.
    RouteRefresh,
}

impl Kind {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Open,
            2 => Self::Update,
            3 => Self::Notification,
            4 => Self::Keepalive,
            5 => Self::RouteRefresh,
            _ => return None,
        })
    }
}

/// One whole message of the stream, its header checked and its body not yet looked at: what comes
/// in a state that does not allow it is never decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it claims to be.
    pub kind: Kind,
    /// What follows the header.
    pub(super) body: &'a [u8],
    /// All of it.
    pub(super) bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes one message from the front of `stream`. `Ok(None)`: not all of it is there yet.
    /// An error is the NOTIFICATION with which the session has to end. The header is checked (RFC
    /// 4271 section 6.1) before the rest is there: what is not worth waiting for is refused at once.
    pub fn read(stream: &'a [u8], context: &Context) -> Result<Option<Self>, Notification> {
        let mut reader = Reader::new(stream);
        let fields = (reader.array::<16>(), reader.u16(), reader.u8());
        let (Some(marker), Some(length), Some(code)) = fields else {
            return Ok(None);
        };
        let error = |subcode, data: &[u8]| Err(Notification::new(code::HEADER, subcode, data));
        if marker != [0xff; 16] {
            return error(header::NOT_SYNCHRONIZED, &[]);
        }
        let kind = Kind::from_code(code);
        let data = length.to_be_bytes();
        let length = usize::from(length);
        if !lengths(kind, context).contains(&length) {
            return error(header::BAD_LENGTH, &data);
        }
        let Some(kind) = kind else {
            return error(header::BAD_TYPE, &[code]);
        };
        let Some((bytes, _)) = stream.split_at_checked(length) else {
            return Ok(None);
        };
        let body = bytes.get(HEADER_LENGTH..).unwrap_or_default();
        let frame = Self { kind, body, bytes };
        frame.check_refresh(context)?;
        Ok(Some(frame))
    }

    /// RFC 7313 section 5: a demarcation of another length has an error of its own.
    fn check_refresh(&self, context: &Context) -> Result<(), Notification> {
        let demarcation = matches!(self.body, [_, _, 1 | 2, ..]);
        if self.kind != Kind::RouteRefresh || self.body.len() == 4 {
            return Ok(());
        }
        Err(match context.enhanced_route_refresh && demarcation {
            true => Notification::new(
                code::ROUTE_REFRESH,
                route_refresh::INVALID_LENGTH,
                self.bytes,
            ),
            false => {
                let length = self.bytes.len() as u16;
                Notification::new(code::HEADER, header::BAD_LENGTH, length.to_be_bytes())
            }
        })
    }

    /// Its length in the stream.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// The lengths that a message can have, header included. OPEN and KEEPALIVE stay as they were
/// before RFC 8654 (section 4).
fn lengths(kind: Option<Kind>, context: &Context) -> std::ops::RangeInclusive<usize> {
    let longest = match context.extended_messages.receive {
        true => EXTENDED_MAX_LENGTH,
        false => MAX_LENGTH,
    };
    match kind {
        Some(Kind::Open) => 29..=MAX_LENGTH,
        Some(Kind::Update) => 23..=longest,
        Some(Kind::Notification) => 21..=longest,
        Some(Kind::Keepalive) => HEADER_LENGTH..=HEADER_LENGTH,
        Some(Kind::RouteRefresh) if context.enhanced_route_refresh => 23..=longest,
        Some(Kind::RouteRefresh) => 23..=23,
        None => HEADER_LENGTH..=longest,
    }
}
