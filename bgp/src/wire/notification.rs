//! NOTIFICATION codes (RFC 4271 section 6, RFC 4486, RFC 9003) as names, and their text for people.

use super::{Kind, Notification};
use std::fmt;

/// Error codes (RFC 4271 section 4.5).
pub mod code {
    /// Something is wrong with the header of a message.
    pub const HEADER: u8 = 1;
    /// Something is wrong with an OPEN.
    pub const OPEN: u8 = 2;
    /// Something is wrong with an UPDATE.
    pub const UPDATE: u8 = 3;
    /// Nothing was heard from the peer for the hold time.
    pub const HOLD_TIMER_EXPIRED: u8 = 4;
    /// A message came in a state that does not allow it.
    pub const STATE_MACHINE: u8 = 5;
    /// The session ends without an error.
    pub const CEASE: u8 = 6;
    /// Something is wrong with a ROUTE-REFRESH (RFC 7313).
    pub const ROUTE_REFRESH: u8 = 7;
    /// Nothing could be sent to the peer for too long (RFC 9687).
    pub const SEND_HOLD_TIMER_EXPIRED: u8 = 8;
}

/// Subcodes of [`code::HEADER`] (RFC 4271 section 6.1).
pub mod header {
    /// The marker is not all ones.
    pub const NOT_SYNCHRONIZED: u8 = 1;
    /// The length is wrong for the type of message; data: the length.
    pub const BAD_LENGTH: u8 = 2;
    /// The type is unknown; data: the type.
    pub const BAD_TYPE: u8 = 3;
}

/// Subcodes of [`code::OPEN`] (RFC 4271 section 6.2).
pub mod open {
    /// An optional parameter or a capability that we know is malformed.
    pub const UNSPECIFIC: u8 = 0;
    /// The version is not 4; data: the version we have, in two bytes.
    pub const UNSUPPORTED_VERSION: u8 = 1;
    /// The AS is not what was configured, or 0.
    pub const BAD_PEER_AS: u8 = 2;
    /// The BGP identifier is 0 or our own.
    pub const BAD_IDENTIFIER: u8 = 3;
    /// An optional parameter other than capabilities.
    pub const UNSUPPORTED_PARAMETER: u8 = 4;
    /// The hold time is 1 or 2 seconds.
    pub const UNACCEPTABLE_HOLD_TIME: u8 = 6;
    /// A capability that we need is missing (RFC 5492); data: that capability.
    pub const UNSUPPORTED_CAPABILITY: u8 = 7;
    /// The roles of the two sides do not fit (RFC 9234).
    pub const ROLE_MISMATCH: u8 = 11;
}

/// Subcodes of [`code::UPDATE`] (RFC 4271 section 6.3).
pub mod update {
    /// The length fields contradict each other, or an attribute that must be alone came twice.
    pub const MALFORMED_ATTRIBUTES: u8 = 1;
    /// An attribute that claims to be well-known is not; data: the attribute.
    pub const UNRECOGNIZED_WELL_KNOWN: u8 = 2;
    /// A mandatory attribute is missing; data: its type.
    pub const MISSING_WELL_KNOWN: u8 = 3;
    /// The flags of an attribute contradict its type; data: the attribute.
    pub const ATTRIBUTE_FLAGS: u8 = 4;
    /// The length of an attribute contradicts its type; data: the attribute.
    pub const ATTRIBUTE_LENGTH: u8 = 5;
    /// ORIGIN is undefined; data: the attribute.
    pub const INVALID_ORIGIN: u8 = 6;
    /// NEXT_HOP is not the address of a host; data: the attribute.
    pub const INVALID_NEXT_HOP: u8 = 8;
    /// An optional attribute is wrong; data: the attribute.
    pub const OPTIONAL_ATTRIBUTE: u8 = 9;
    /// A prefix is malformed.
    pub const INVALID_NETWORK: u8 = 10;
    /// AS_PATH is malformed.
    pub const MALFORMED_AS_PATH: u8 = 11;
}

/// Subcodes of [`code::STATE_MACHINE`] (RFC 6608).
pub mod state_machine {
    /// Unexpected message in OpenSent.
    pub const IN_OPEN_SENT: u8 = 1;
    /// Unexpected message in OpenConfirm.
    pub const IN_OPEN_CONFIRM: u8 = 2;
    /// Unexpected message in Established.
    pub const IN_ESTABLISHED: u8 = 3;
}

/// Subcodes of [`code::ROUTE_REFRESH`] (RFC 7313 section 5).
pub mod route_refresh {
    /// The length does not fit the subtype; data: the message.
    pub const INVALID_LENGTH: u8 = 1;
}

/// Subcodes of [`code::CEASE`] (RFC 4486).
pub mod cease {
    /// The peer announced more prefixes than allowed.
    pub const MAXIMUM_PREFIXES: u8 = 1;
    /// An operator took the session down; data: a text (RFC 9003).
    pub const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
    /// The peer was removed from the configuration.
    pub const PEER_DECONFIGURED: u8 = 3;
    /// An operator restarted the session; data: a text (RFC 9003).
    pub const ADMINISTRATIVE_RESET: u8 = 4;
    /// The connection was not wanted.
    pub const CONNECTION_REJECTED: u8 = 5;
    /// The configuration changed.
    pub const CONFIGURATION_CHANGE: u8 = 6;
    /// Another connection to the same peer won.
    pub const COLLISION: u8 = 7;
    /// Too little memory or other resources.
    pub const OUT_OF_RESOURCES: u8 = 8;
    /// End without graceful restart; data: code, subcode and data of the real reason (RFC 8538).
    pub const HARD_RESET: u8 = 9;
    /// BFD says that the peer is gone (RFC 9384).
    pub const BFD_DOWN: u8 = 10;
}

/// The longest text of a shutdown: its length has one byte (RFC 9003 section 2).
const MAX_TEXT: usize = 255;

impl Notification {
    /// Any NOTIFICATION.
    pub fn new(code: u8, subcode: u8, data: impl Into<Vec<u8>>) -> Self {
        let data = data.into();
        Self {
            code,
            subcode,
            data,
        }
    }

    /// Hold Timer Expired (RFC 4271 section 6.5).
    pub fn hold_timer_expired() -> Self {
        Self::new(code::HOLD_TIMER_EXPIRED, 0, [])
    }

    /// Finite State Machine Error, with a subcode of [`state_machine`] and the type of the message
    /// (RFC 6608 section 4).
    pub fn unexpected_message(subcode: u8, kind: Kind) -> Self {
        Self::new(code::STATE_MACHINE, subcode, [kind.code()])
    }

    /// Cease with a subcode of [`cease`] and no data.
    pub fn cease(subcode: u8) -> Self {
        Self::new(code::CEASE, subcode, [])
    }

    /// Cease with a text for the operator at the other end (RFC 9003), cut to what fits. Only
    /// [`cease::ADMINISTRATIVE_SHUTDOWN`] and [`cease::ADMINISTRATIVE_RESET`] can have one.
    pub fn cease_with_text(subcode: u8, text: &str) -> Self {
        let (text, _) = text.split_at(text.floor_char_boundary(MAX_TEXT));
        let mut data = vec![text.len() as u8];
        data.extend_from_slice(text.as_bytes());
        Self::new(code::CEASE, subcode, data)
    }

    /// The peer's text about a shutdown or reset (RFC 9003), safe to print: whatever could
    /// steer a terminal or hide other text is replaced, and so are bytes that are not UTF-8.
    /// A text longer than the message is shown as far as it goes.
    pub fn text(&self) -> Option<String> {
        let takes_text = matches!(
            self.subcode,
            cease::ADMINISTRATIVE_SHUTDOWN | cease::ADMINISTRATIVE_RESET
        );
        let (length, text) = self.data.split_first()?;
        if self.code != code::CEASE || !takes_text || *length == 0 || text.is_empty() {
            return None;
        }
        let text = text.get(..usize::from(*length)).unwrap_or(text);
        Some(String::from_utf8_lossy(text).chars().map(safe).collect())
    }

    /// The same as a hard reset: the receiver is not to keep our routes (RFC 8538 section 3.1). Only
    /// for a peer that has the N bit; a hard reset stays what it is.
    pub fn into_hard_reset(self) -> Self {
        if self.is_hard_reset() {
            return self;
        }
        let mut data = vec![self.code, self.subcode];
        data.extend(self.data);
        Self::new(code::CEASE, cease::HARD_RESET, data)
    }

    /// Whether graceful restart must not follow (RFC 8538 section 4).
    pub fn is_hard_reset(&self) -> bool {
        (self.code, self.subcode) == (code::CEASE, cease::HARD_RESET)
    }

    /// What a hard reset wraps (RFC 8538 section 3.1).
    pub fn wrapped(&self) -> Option<Self> {
        match (self.code, self.subcode, self.data.as_slice()) {
            (code::CEASE, cease::HARD_RESET, [code, subcode, data @ ..]) => {
                Some(Self::new(*code, *subcode, data))
            }
            _ => None,
        }
    }

    /// Code and subcode in words, without the data.
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match code_name(self.code) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "Error {}", self.code)?,
        }
        match (subcode_name(self.code, self.subcode), self.subcode) {
            (Some(name), _) => write!(f, ": {name}"),
            (None, 0) => Ok(()),
            (None, subcode) => write!(f, ": subcode {subcode}"),
        }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.describe(f)?;
        // One level only: a hard reset in a hard reset has no meaning.
        let wrapped = self.wrapped();
        if let Some(wrapped) = &wrapped {
            f.write_str(": ")?;
            wrapped.describe(f)?;
        }
        match wrapped.as_ref().unwrap_or(self).text() {
            Some(text) => write!(f, ": ‘{text}’"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Notification {}

/// Replaces control characters, and those that reorder, hide or break what is printed.
fn safe(character: char) -> char {
    match character {
        '\t' | '\n' | '\r' => ' ',
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => char::REPLACEMENT_CHARACTER,
        other if other.is_control() => char::REPLACEMENT_CHARACTER,
        other => other,
    }
}

fn code_name(code: u8) -> Option<&'static str> {
    Some(match code {
        code::HEADER => "Message Header Error",
        code::OPEN => "OPEN Message Error",
        code::UPDATE => "UPDATE Message Error",
        code::HOLD_TIMER_EXPIRED => "Hold Timer Expired",
        code::STATE_MACHINE => "Finite State Machine Error",
        code::CEASE => "Cease",
        code::ROUTE_REFRESH => "ROUTE-REFRESH Message Error",
        code::SEND_HOLD_TIMER_EXPIRED => "Send Hold Timer Expired",
        _ => return None,
    })
}

fn subcode_name(code: u8, subcode: u8) -> Option<&'static str> {
    Some(match (code, subcode) {
        (code::HEADER, header::NOT_SYNCHRONIZED) => "Connection Not Synchronized",
        (code::HEADER, header::BAD_LENGTH) => "Bad Message Length",
        (code::HEADER, header::BAD_TYPE) => "Bad Message Type",
        (code::OPEN, open::UNSUPPORTED_VERSION) => "Unsupported Version Number",
        (code::OPEN, open::BAD_PEER_AS) => "Bad Peer AS",
        (code::OPEN, open::BAD_IDENTIFIER) => "Bad BGP Identifier",
        (code::OPEN, open::UNSUPPORTED_PARAMETER) => "Unsupported Optional Parameter",
        (code::OPEN, open::UNACCEPTABLE_HOLD_TIME) => "Unacceptable Hold Time",
        (code::OPEN, open::UNSUPPORTED_CAPABILITY) => "Unsupported Capability",
        (code::OPEN, open::ROLE_MISMATCH) => "Role Mismatch",
        (code::UPDATE, update::MALFORMED_ATTRIBUTES) => "Malformed Attribute List",
        (code::UPDATE, update::UNRECOGNIZED_WELL_KNOWN) => "Unrecognized Well-known Attribute",
        (code::UPDATE, update::MISSING_WELL_KNOWN) => "Missing Well-known Attribute",
        (code::UPDATE, update::ATTRIBUTE_FLAGS) => "Attribute Flags Error",
        (code::UPDATE, update::ATTRIBUTE_LENGTH) => "Attribute Length Error",
        (code::UPDATE, update::INVALID_ORIGIN) => "Invalid ORIGIN Attribute",
        (code::UPDATE, update::INVALID_NEXT_HOP) => "Invalid NEXT_HOP Attribute",
        (code::UPDATE, update::OPTIONAL_ATTRIBUTE) => "Optional Attribute Error",
        (code::UPDATE, update::INVALID_NETWORK) => "Invalid Network Field",
        (code::UPDATE, update::MALFORMED_AS_PATH) => "Malformed AS_PATH",
        (code::STATE_MACHINE, state_machine::IN_OPEN_SENT) => "Unexpected Message in OpenSent",
        (code::STATE_MACHINE, state_machine::IN_OPEN_CONFIRM) => {
            "Unexpected Message in OpenConfirm"
        }
        (code::STATE_MACHINE, state_machine::IN_ESTABLISHED) => "Unexpected Message in Established",
        (code::CEASE, cease::MAXIMUM_PREFIXES) => "Maximum Number of Prefixes Reached",
        (code::CEASE, cease::ADMINISTRATIVE_SHUTDOWN) => "Administrative Shutdown",
        (code::CEASE, cease::PEER_DECONFIGURED) => "Peer De-configured",
        (code::CEASE, cease::ADMINISTRATIVE_RESET) => "Administrative Reset",
        (code::CEASE, cease::CONNECTION_REJECTED) => "Connection Rejected",
        (code::CEASE, cease::CONFIGURATION_CHANGE) => "Other Configuration Change",
        (code::CEASE, cease::COLLISION) => "Connection Collision Resolution",
        (code::CEASE, cease::OUT_OF_RESOURCES) => "Out of Resources",
        (code::CEASE, cease::HARD_RESET) => "Hard Reset",
        (code::CEASE, cease::BFD_DOWN) => "BFD Down",
        (code::ROUTE_REFRESH, route_refresh::INVALID_LENGTH) => "Invalid Message Length",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_can_read_it() {
        let table = [
            (Notification::hold_timer_expired(), "Hold Timer Expired"),
            (
                Notification::cease_with_text(cease::ADMINISTRATIVE_SHUTDOWN, "maintenance"),
                "Cease: Administrative Shutdown: ‘maintenance’",
            ),
            (
                Notification::cease(cease::ADMINISTRATIVE_SHUTDOWN),
                "Cease: Administrative Shutdown",
            ),
            (
                Notification::new(code::UPDATE, update::INVALID_ORIGIN, [64, 1, 1, 9]),
                "UPDATE Message Error: Invalid ORIGIN Attribute",
            ),
            (
                Notification::new(code::CEASE, cease::HARD_RESET, *b"\x06\x04\x05later"),
                "Cease: Hard Reset: Cease: Administrative Reset: ‘later’",
            ),
            (
                Notification::new(2, 99, []),
                "OPEN Message Error: subcode 99",
            ),
            (Notification::new(99, 0, []), "Error 99"),
        ];
        for (notification, text) in table {
            assert_eq!(notification.to_string(), text);
        }
    }

    #[test]
    fn a_hostile_text_cannot_steer_a_terminal_nor_overrun() {
        let text = |data: &[u8]| {
            Notification::new(code::CEASE, cease::ADMINISTRATIVE_SHUTDOWN, data).text()
        };
        assert_eq!(text(b"\x05\x1b[2J\n"), Some("\u{fffd}[2J ".into()));
        assert_eq!(
            text("\x06a\u{202e}b\0".as_bytes()),
            Some("a\u{fffd}b\u{fffd}".into())
        );
        assert_eq!(text(b"\x02\xff\xfe"), Some("\u{fffd}\u{fffd}".into()));
        assert_eq!(text(b"\xffshort"), Some("short".into()));
        assert_eq!(text(b"\x02abc"), Some("ab".into()));
        assert_eq!(text(b"\x00abc"), None);
        assert_eq!(text(b"\x03"), None);
        assert_eq!(text(b""), None);
    }

    #[test]
    fn a_hard_reset_wraps_once() {
        let inner = Notification::cease_with_text(cease::ADMINISTRATIVE_SHUTDOWN, "bye");
        let hard = inner.clone().into_hard_reset();
        assert_eq!((hard.code, hard.subcode), (code::CEASE, cease::HARD_RESET));
        assert_eq!(hard.data, *b"\x06\x02\x03bye");
        assert_eq!(hard.wrapped(), Some(inner));
        assert_eq!(hard.clone().into_hard_reset(), hard);
        // Without data there is nothing in it.
        assert_eq!(Notification::cease(cease::HARD_RESET).wrapped(), None);
    }

    #[test]
    fn only_shutdown_and_reset_carry_text() {
        let with = |subcode| Notification::new(code::CEASE, subcode, *b"\x02hi").text();
        assert_eq!(with(cease::ADMINISTRATIVE_RESET), Some("hi".into()));
        assert_eq!(with(cease::MAXIMUM_PREFIXES), None);
        assert_eq!(Notification::new(code::OPEN, 2, *b"\x02hi").text(), None);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = "é".repeat(200);
        let notification = Notification::cease_with_text(cease::ADMINISTRATIVE_SHUTDOWN, &long);
        assert_eq!(notification.data.len(), 1 + 254);
        assert_eq!(notification.text(), Some("é".repeat(127)));
    }
}
