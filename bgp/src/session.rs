//! One TCP connection to a peer, from the OPEN on: the states OpenSent, OpenConfirm and
//! Established of RFC 4271 section 8, its hold and keepalive timers, and what the OPENs negotiated.
//!
//! The states before there is a connection, and what several connections have to do with each
//! other, belong to `peer`.

use crate::config::{ConnId, Time};
use crate::interface::Output;
use crate::outbound::Outbound;
use crate::wire::notification::{cease, code, open, state_machine};
use crate::wire::{
    Context, Decoded, Family, Fault, Frame, GracefulRestart, Kind, Message, Notification, Open,
    Refresh, UpdateView, encode,
};
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long an OPEN is waited for (RFC 4271 section 8.2.2 suggests "a large value" of 4 minutes),
/// and the KEEPALIVE after it where no hold time was negotiated. No session depends on such a
/// connection, but it keeps us from trying again: shorter than the RFC's, and never shorter than
/// the hold time.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// graceful restart was negotiated. Losing a collision ends a connection, not the peer.
    pub(crate) fn keeps_paths(&self) -> bool {
        matches!(self, Self::Closed | Self::Superseded) || self.is_collision()
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

/// The state of a connection. Ordered by progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    OpenSent,
    OpenConfirm,
    /// Since then.
    Established(Time),
}

/// What both sides can do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Negotiated {
    pub(crate) context: Context,
    pub(crate) families: BTreeSet<Family>,
    pub(crate) route_refresh: bool,
    /// Zero: neither hold nor keepalive timer.
    pub(crate) hold_time: Duration,
    /// The peer's capability. Ours is always there.
    pub(crate) graceful_restart: Option<GracefulRestart>,
}

impl Negotiated {
    /// Families that the peer restarts gracefully, as far as its F bit is what is asked for.
    pub(crate) fn restarting_families(&self, asked: impl Fn(bool) -> bool) -> BTreeSet<Family> {
        let listed = self.graceful_restart.iter().flat_map(|it| &it.families);
        let listed = listed.filter(|(_, forwarding)| asked(*forwarding));
        let listed: BTreeSet<Family> = listed.map(|(family, _)| *family).collect();
        &listed & &self.families
    }

    /// Whether the peer restarts gracefully in at least one family.
    pub(crate) fn graceful(&self) -> bool {
        !self.restarting_families(|_| true).is_empty()
    }
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
    /// The peer wants our routes again.
    Refresh(Family),
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

    /// Takes back what [`Session::next`] has left: all of `stream` but the first `used` bytes.
    pub(crate) fn keep(&mut self, mut stream: Vec<u8>, used: usize) {
        stream.drain(..used.min(stream.len()));
        self.stream = stream;
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
                Message::Open(open) => {
                    return Some(match self.negotiate(&open) {
                        Ok(()) => Incoming::Opened,
                        Err(notification) => Incoming::Ended(Ending::Sent(notification)),
                    });
                }
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
                    if refresh == Refresh::Request {
                        return Some(Incoming::Refresh(family));
                    }
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
            | (Phase::OpenConfirm, Kind::Keepalive)
            | (Phase::Established(_), Kind::Keepalive | Kind::Update | Kind::RouteRefresh) => {
                frame.decode(context).map(Some)
            }
            (Phase::OpenSent, _) => unexpected(state_machine::IN_OPEN_SENT),
            // Here an OPEN's own error goes first (RFC 4271 section 8.2.2, event 22).
            (Phase::OpenConfirm, Kind::Open) => frame
                .decode(context)
                .and_then(|_| unexpected(state_machine::IN_OPEN_CONFIRM)),
            (Phase::OpenConfirm, _) => unexpected(state_machine::IN_OPEN_CONFIRM),
            (Phase::Established(_), _) => unexpected(state_machine::IN_ESTABLISHED),
        }
    }

    /// Checks the peer's OPEN (RFC 4271 section 6.2) and settles what both sides can do.
    fn negotiate(&mut self, theirs: &Open) -> Result<(), Notification> {
        let refuse = |subcode, data: &[u8]| Err(Notification::new(code::OPEN, subcode, data));
        if theirs.asn != self.peer_asn || theirs.asn == 0 {
            return refuse(open::BAD_PEER_AS, &[]);
        }
        // RFC 6286 section 2.2: within an AS identifiers are unique; between two they need not be.
        let internal = self.peer_asn == self.offer.asn;
        let own = internal && theirs.router_id == self.offer.router_id;
        if own || theirs.router_id.is_unspecified() {
            return refuse(open::BAD_IDENTIFIER, &[]);
        }
        if matches!(theirs.hold_time, 1 | 2) {
            return refuse(open::UNACCEPTABLE_HOLD_TIME, &[]);
        }
        let (ours, can) = (&self.offer.capabilities, &theirs.capabilities);
        let theirs_or_ipv4 = match can.families.is_empty() {
            true => BTreeSet::from([Family::Ipv4]),
            false => can.families.clone(),
        };
        let families = &ours.families & &theirs_or_ipv4;
        if families.is_empty() {
            // RFC 5492 section 3, with the capability that we miss: multiprotocol, AFI, SAFI 1.
            let missing = match ours.families.first() {
                Some(Family::Ipv6) => [1, 4, 0, 2, 0, 1],
                _ => [1, 4, 0, 1, 0, 1],
            };
            return refuse(open::UNSUPPORTED_CAPABILITY, &missing);
        }
        let hold_time = self.offer.hold_time.min(theirs.hold_time);
        self.router_id = theirs.router_id;
        self.negotiated = Negotiated {
            context: Context {
                four_octet_as: ours.four_octet_as && can.four_octet_as,
                extended_next_hop: ours.extended_next_hop && can.extended_next_hop,
                ..self.negotiated.context
            },
            families,
            route_refresh: ours.route_refresh && can.route_refresh,
            hold_time: Duration::from_secs(hold_time.into()),
            graceful_restart: can.graceful_restart.clone(),
        };
        Ok(())
    }

    /// Answers the peer's OPEN with a KEEPALIVE: OpenConfirm.
    pub(crate) fn confirm(&mut self, now: Time, outputs: &mut VecDeque<Output>) {
        self.phase = Phase::OpenConfirm;
        self.send(&Message::Keepalive, now, outputs);
        let hold_time = self.negotiated.hold_time;
        if hold_time.is_zero() {
            self.hold_deadline = Some(now + OPEN_TIMEOUT);
        } else {
            self.hold(now);
            self.keepalive_deadline = Some(now + hold_time / 3);
        }
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
        let notification = match ending {
            Ending::Sent(notification) => Some(notification.clone()),
            // RFC 9384: if anything still arrives there, the peer need not wait for its hold timer.
            Ending::Dead => Some(Notification::cease(cease::BFD_DOWN)),
            _ => None,
        };
        if let Some(notification) = notification {
            self.send(&Message::Notification(notification), now, outputs);
        }
        if *ending != Ending::Closed {
            let conn = self.conn;
            outputs.push_back(Output::Close { conn });
        }
    }
}

fn unexpected<T>(subcode: u8) -> Result<T, Notification> {
    Err(Notification::unexpected_message(subcode))
}
