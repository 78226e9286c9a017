//! One TCP connection to a peer, from the OPEN on: the states OpenSent, OpenConfirm and
//! Established of RFC 4271 section 8, and its hold and keepalive timers.
//!
//! The states before there is a connection, and what several connections have to do with each
//! other, belong to `peer`.

use crate::config::{ConnId, Time};
use crate::ending::Ending;
use crate::interface::Output;
use crate::negotiate::{Negotiated, negotiate};
use crate::outbound::Outbound;
use crate::wire::notification::{code, state_machine};
use crate::wire::{
    Context, Decoded, Family, Fault, Frame, Kind, Message, Notification, Open, Refresh, UpdateView,
    encode,
};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long an OPEN is waited for (RFC 4271 section 8.2.2 suggests "a large value" of 4 minutes),
/// and the KEEPALIVE after it where no hold time was negotiated. No session depends on such a
/// connection, but it keeps us from trying again: shorter than the RFC's, and never shorter than
/// the hold time.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// The state of a connection. Ordered by progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    OpenSent,
    OpenConfirm,
    /// Since then.
    Established(Time),
}

/// What a connection's next message means for its owner.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// An OPEN that we agree with: to be confirmed, unless the connection loses a collision.
    Opened,
    /// The session is up.
    Established,
    /// An UPDATE, and what was wrong with it.
    Update(Box<UpdateView<'a>>, Vec<Fault>),
    /// The peer wants our routes again, or begins or ends to send its own again.
    Refresh(Family, Refresh),
    /// The connection is over.
    Ended(Ending),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) conn: ConnId,
    /// We opened it.
    pub(crate) active: bool,
    /// When it came to be.
    pub(crate) connected: Time,
    pub(crate) phase: Phase,
    pub(crate) negotiated: Negotiated,
    /// The peer's BGP identifier; unspecified before its OPEN.
    pub(crate) router_id: Ipv4Addr,
    offer: Open,
    peer_asn: u32,
    /// Received and not yet decoded: the beginning of a message.
    stream: Vec<u8>,
    hold_deadline: Option<Time>,
    keepalive_deadline: Option<Time>,
    pub(crate) outbound: Outbound,
    /// Messages received, and those of them that are UPDATEs.
    pub(crate) messages: u64,
    pub(crate) updates: u64,
}

impl Session {
    /// A connection that has just come to be: sends our OPEN.
    pub(crate) fn new(
        (conn, active): (ConnId, bool),
        offer: Open,
        peer_asn: u32,
        now: Time,
        outputs: &mut VecDeque<Output>,
    ) -> Self {
        let wait = OPEN_TIMEOUT.max(Duration::from_secs(offer.hold_time.into()));
        let context = Context {
            internal: peer_asn == offer.asn,
            ..Context::default()
        };
        let mut session = Self {
            conn,
            active,
            connected: now,
            phase: Phase::OpenSent,
            negotiated: Negotiated {
                context,
                ..Negotiated::default()
            },
            router_id: Ipv4Addr::UNSPECIFIED,
            offer,
            peer_asn,
            stream: Vec::new(),
            hold_deadline: Some(now + wait),
            keepalive_deadline: None,
            outbound: Outbound::new(conn),
            messages: 0,
            updates: 0,
        };
        session.send(&Message::Open(session.offer.clone()), now, outputs);
        session
    }

    pub(crate) fn established(&self) -> Option<Time> {
        match self.phase {
            Phase::Established(since) => Some(since),
            _ => None,
        }
    }

    pub(crate) fn send(&mut self, message: &Message, now: Time, outputs: &mut VecDeque<Output>) {
        let mut bytes = Vec::new();
        encode(message, &self.negotiated.context, &mut bytes);
        self.outbound.send(bytes, now, outputs);
    }

    /// Takes bytes from the connection. Returns all that are to be decoded, for [`Session::next`]: out
    /// of the session, so that what they mean can be followed while it borrows from them.
    pub(crate) fn receive(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        if self.stream.is_empty() {
            return bytes;
        }
        let mut stream = std::mem::take(&mut self.stream);
        stream.extend_from_slice(&bytes);
        stream
    }

    /// Takes back what [`Session::next`] has left: all of `stream` but the first `used` bytes. They are
    /// copied, so that the buffer of a long read does not stay; unless none was used, since a
    /// message that comes byte by byte would be copied as often.
    pub(crate) fn keep(&mut self, stream: Vec<u8>, used: usize) {
        self.stream = match used {
            0 => stream,
            _ => stream.get(used..).unwrap_or_default().to_vec(),
        };
    }

    /// The next thing that the received bytes mean; `None` when all whole messages are used up.
    pub(crate) fn next<'a>(&mut self, rest: &mut &'a [u8], now: Time) -> Option<Incoming<'a>> {
        loop {
            let Decoded {
                message,
                length,
                faults,
            } = match self.decode(rest) {
                Ok(decoded) => decoded?,
                Err(notification) => return Some(Incoming::Ended(Ending::Sent(notification))),
            };
            *rest = rest.get(length..).unwrap_or_default();
            self.messages += 1;
            self.updates += u64::from(matches!(message, Message::Update(_)));
            match message {
                Message::Notification(notification) => {
                    return Some(Incoming::Ended(Ending::Received(notification)));
                }
                Message::Open(open) => match self.negotiate(&open) {
                    // RFC 4271 section 8.2.2, event 19: one more valid OPEN ends nothing. OpenBGPD
                    // 7.7 first sends the one that was meant for an earlier connection.
                    Ok(()) if self.phase == Phase::OpenConfirm => self.start_timers(now),
                    Ok(()) => return Some(Incoming::Opened),
                    Err(notification) => return Some(Incoming::Ended(Ending::Sent(notification))),
                },
                Message::Keepalive if self.phase == Phase::OpenConfirm => {
                    self.phase = Phase::Established(now);
                    self.hold(now);
                    return Some(Incoming::Established);
                }
                Message::Keepalive => self.hold(now),
                Message::Update(update) => {
                    self.hold(now);
                    return Some(Incoming::Update(Box::new(update), faults));
                }
                Message::RouteRefresh(family, refresh) => {
                    self.hold(now);
                    return Some(Incoming::Refresh(family, refresh));
                }
            }
        }
    }

    /// The first message of `stream`, if it is whole. One that the state does not allow is not looked
    /// at any further (RFC 6608).
    fn decode<'a>(&self, stream: &'a [u8]) -> Result<Option<Decoded<'a>>, Notification> {
        let context = &self.negotiated.context;
        let Some(frame) = Frame::read(stream, context)? else {
            return Ok(None);
        };
        match (self.phase, frame.kind) {
            (_, Kind::Notification)
            | (Phase::OpenSent, Kind::Open)
            | (Phase::OpenConfirm, Kind::Open | Kind::Keepalive)
            | (Phase::Established(_), Kind::Keepalive | Kind::Update | Kind::RouteRefresh) => {
                frame.decode(context).map(Some)
            }
            (Phase::OpenSent, kind) => unexpected(state_machine::IN_OPEN_SENT, kind),
            (Phase::OpenConfirm, kind) => unexpected(state_machine::IN_OPEN_CONFIRM, kind),
            (Phase::Established(_), kind) => unexpected(state_machine::IN_ESTABLISHED, kind),
        }
    }

    fn negotiate(&mut self, theirs: &Open) -> Result<(), Notification> {
        self.negotiated = negotiate(&self.offer, theirs, self.peer_asn)?;
        self.router_id = theirs.router_id;
        Ok(())
    }

    /// Answers the peer's OPEN with a KEEPALIVE: OpenConfirm.
    pub(crate) fn confirm(&mut self, now: Time, outputs: &mut VecDeque<Output>) {
        self.phase = Phase::OpenConfirm;
        self.send(&Message::Keepalive, now, outputs);
        self.start_timers(now);
    }

    /// Starts the timers as the peer's OPEN asks for.
    fn start_timers(&mut self, now: Time) {
        self.hold(now);
        // Without a hold time the KEEPALIVE that makes it a session is waited for all the same.
        self.hold_deadline.get_or_insert(now + OPEN_TIMEOUT);
        let hold_time = self.negotiated.hold_time;
        self.keepalive_deadline = (!hold_time.is_zero()).then(|| now + hold_time / 3);
    }

    /// Starts the hold timer again.
    fn hold(&mut self, now: Time) {
        let hold_time = self.negotiated.hold_time;
        self.hold_deadline = (!hold_time.is_zero()).then(|| now + hold_time);
    }

    /// When [`Session::timeout`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let deadlines = [
            self.hold_deadline,
            self.keepalive_deadline,
            self.send_hold_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn send_hold_deadline(&self) -> Option<Time> {
        let hold_time = self.negotiated.hold_time;
        self.established()
            .and_then(|_| self.outbound.deadline(hold_time))
    }

    /// Does what is due; an ending if the peer said or took nothing for too long.
    pub(crate) fn timeout(&mut self, now: Time, outputs: &mut VecDeque<Output>) -> Option<Ending> {
        if self.hold_deadline.is_some_and(|deadline| deadline <= now) {
            return Some(Ending::Sent(Notification::hold_timer_expired()));
        }
        if self.send_hold_deadline().is_some_and(|it| it <= now) {
            let notification = Notification::new(code::SEND_HOLD_TIMER_EXPIRED, 0, []);
            return Some(Ending::Sent(notification));
        }
        if self
            .keepalive_deadline
            .is_some_and(|deadline| deadline <= now)
        {
            if !self.outbound.keepalive_waits() {
                self.send(&Message::Keepalive, now, outputs);
            }
            self.keepalive_deadline = Some(now + self.negotiated.hold_time / 3);
        }
        None
    }

    /// Says the last word on the connection.
    pub(crate) fn close(&mut self, ending: &Ending, now: Time, outputs: &mut VecDeque<Output>) {
        if let Some(notification) = ending.last_word(self.negotiated.graceful_notification) {
            self.send(&Message::Notification(notification), now, outputs);
        }
        if *ending != Ending::Closed {
            let conn = self.conn;
            outputs.push_back(Output::Close { conn });
        }
    }
}

fn unexpected<T>(subcode: u8, kind: Kind) -> Result<T, Notification> {
    Err(Notification::unexpected_message(subcode, kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Capabilities;

    #[test]
    fn what_was_read_leaves_nothing_but_the_beginning_of_a_message() {
        let offer = Open {
            asn: 1,
            hold_time: 90,
            router_id: Ipv4Addr::LOCALHOST,
            capabilities: Capabilities::default(),
        };
        let mut outputs = VecDeque::new();
        let mut session = Session::new((ConnId(1), true), offer, 1, Time::ZERO, &mut outputs);
        for left in [0, 3] {
            let stream = session.receive(vec![1; 60_000]);
            let used = stream.len() - left;
            session.keep(stream, used);
            assert_eq!(session.stream, vec![1; left]);
            assert!(session.stream.capacity() < 100);
        }
    }
}
