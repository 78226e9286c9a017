//! What goes out over one connection: counted, and watched for a peer that takes nothing
//! (RFC 9687).

use crate::config::{ConnId, Time};
use crate::interface::Output;
use std::collections::VecDeque;
use std::time::Duration;

/// The shortest SendHoldTime (RFC 9687 section 4.4).
const SEND_HOLD: Duration = Duration::from_secs(8 * 60);

/// The sending side of a connection.
#[derive(Debug)]
pub(crate) struct Outbound {
    conn: ConnId,
    /// Since when something that was handed out waits for the kernel to take it.
    waiting: Option<Time>,
    /// A KEEPALIVE is among it.
    keepalive_waits: bool,
    /// Messages sent, and those of them that are UPDATEs.
    pub(crate) messages: u64,
    pub(crate) updates: u64,
}

impl Outbound {
    pub(crate) fn new(conn: ConnId) -> Self {
        Self {
            conn,
            waiting: None,
            keepalive_waits: false,
            messages: 0,
            updates: 0,
        }
    }

    /// Hands out whole messages.
    pub(crate) fn send(&mut self, bytes: Vec<u8>, now: Time, outputs: &mut VecDeque<Output>) {
        for kind in kinds(&bytes) {
            self.messages += 1;
            self.updates += u64::from(kind == UPDATE);
            self.keepalive_waits |= kind == KEEPALIVE;
        }
        self.waiting.get_or_insert(now);
        let conn = self.conn;
        outputs.push_back(Output::Send { conn, bytes });
    }

    /// The kernel has taken all that was handed out.
    pub(crate) fn writable(&mut self) {
        self.waiting = None;
        self.keepalive_waits = false;
    }

    /// Whether a KEEPALIVE waits to be taken: another one behind it would tell the peer nothing,
    /// and towards a stuck peer they would pile up.
    pub(crate) fn keepalive_waits(&self) -> bool {
        self.keepalive_waits
    }

    /// When the peer has taken nothing for too long: the larger of eight minutes and twice the
    /// hold time, never without a hold time (RFC 9687 section 4.4).
    pub(crate) fn deadline(&self, hold_time: Duration) -> Option<Time> {
        let send_hold = SEND_HOLD.max(hold_time * 2);
        let waiting = self.waiting.filter(|_| !hold_time.is_zero());
        waiting.map(|since| since + send_hold)
    }
}

/// Message types (RFC 4271 section 4.1).
const UPDATE: u8 = 2;
const KEEPALIVE: u8 = 4;

/// The types of messages that we have encoded.
fn kinds(mut bytes: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let [length @ .., kind] = bytes.get(16..19)? else {
            return None;
        };
        let length = length.try_into().map_or(0, u16::from_be_bytes);
        bytes = bytes.get(usize::from(length)..)?;
        Some(*kind)
    })
}
