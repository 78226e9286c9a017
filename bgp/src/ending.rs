//! How sessions end, and what that means for the paths (RFC 4724 section 4.2, RFC 8538).

use crate::wire::Notification;
use crate::wire::notification::{cease, code};
use std::fmt;

/// So much data of a NOTIFICATION is remembered: more than a hard reset with the longest text has.
const DATA: usize = 512;

/// How a session, or a connection on its way to one, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The connection was closed or broke without a NOTIFICATION.
    Closed,
    /// We ended it with this NOTIFICATION.
    Sent(Notification),
    /// The peer ended it with this NOTIFICATION.
    Received(Notification),
    /// The link to the peer was declared dead.
    Dead,
    /// The peer opened a new connection: it has restarted, and this one was dead
    /// (RFC 4724 section 4.2).
    Superseded,
}

impl Ending {
    /// Whether the peer's forwarding may be assumed to go on, so that its paths are kept where
    /// graceful restart was negotiated: after a NOTIFICATION or an expired hold timer only if both
    /// sides say so (`graceful_notification`, RFC 8538), and never after a hard reset. Losing a
    /// collision ends a connection, not the peer.
    pub(crate) fn keeps_paths(&self, graceful_notification: bool) -> bool {
        match self {
            Self::Closed | Self::Superseded => true,
            Self::Dead => false,
            _ if self.is_collision() => true,
            Self::Sent(notification) => graceful_notification && !is_for_good(notification),
            Self::Received(notification) => graceful_notification && !notification.is_hard_reset(),
        }
    }

    /// The NOTIFICATION that ends the connection, if one does. Where a NOTIFICATION alone would
    /// make the peer keep our paths, what is for good becomes a hard reset (RFC 8538 section 3.1).
    pub(crate) fn last_word(&self, graceful_notification: bool) -> Option<Notification> {
        let notification = match self {
            Self::Sent(notification) => notification.clone(),
            // RFC 9384: if anything still arrives there, the peer need not wait for its hold timer.
            Self::Dead => Notification::cease(cease::BFD_DOWN),
            _ => return None,
        };
        match graceful_notification && is_for_good(&notification) {
            true => Some(notification.into_hard_reset()),
            false => Some(notification),
        }
    }

    /// What is remembered and told of it: long data is cut. Nothing that people read of a NOTIFICATION
    /// is longer, but with RFC 8654 a peer can send 65 KB.
    pub(crate) fn in_short(mut self) -> Self {
        if let Self::Sent(notification) | Self::Received(notification) = &mut self {
            notification.data.truncate(DATA);
            notification.data.shrink_to_fit();
        }
        self
    }

    /// Whether the peer may have restarted, or be about to.
    pub fn is_restart(&self) -> bool {
        matches!(self, Self::Closed | Self::Superseded)
    }

    /// Whether nothing was heard of the peer for the hold time.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Sent(it) if it.code == code::HOLD_TIMER_EXPIRED)
    }

    pub(crate) fn is_collision(&self) -> bool {
        match self {
            Self::Sent(notification) | Self::Received(notification) => {
                notification.code == code::CEASE && notification.subcode == cease::COLLISION
            }
            _ => false,
        }
    }

    /// Whether one side found fault with the other, so that trying again at once is of no use.
    pub(crate) fn is_error(&self) -> bool {
        match self {
            Self::Sent(notification) | Self::Received(notification) => !matches!(
                notification.code,
                code::CEASE | code::HOLD_TIMER_EXPIRED | code::SEND_HOLD_TIMER_EXPIRED
            ),
            _ => false,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => write!(f, "connection closed"),
            Self::Sent(notification) => write!(f, "{notification} (sent)"),
            Self::Received(notification) => write!(f, "{notification} (received)"),
            Self::Dead => write!(f, "link to the peer is dead"),
            Self::Superseded => write!(f, "peer restarted and opened a new connection"),
        }
    }
}

/// Whether what we end with this is not to be waited for: as RFC 8538 section 5.1 suggests, and a
/// dead link, over which no packet goes.
fn is_for_good(notification: &Notification) -> bool {
    notification.code == code::CEASE
        && matches!(
            notification.subcode,
            cease::MAXIMUM_PREFIXES
                | cease::ADMINISTRATIVE_SHUTDOWN
                | cease::PEER_DECONFIGURED
                | cease::BFD_DOWN
        )
}
