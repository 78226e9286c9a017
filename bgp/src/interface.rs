//! What goes into a speaker, and what comes out of it.

use crate::config::{ConnId, PeerId, Time};
use crate::ending::Ending;
use crate::wire::{Action, Family, Fault};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

/// Something that happened outside. Inputs about unknown peers and connections, or that come in
/// the wrong state, are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// There is a TCP connection: one we asked for (`active`) or one the peer opened. It is ours
    /// to close from now on.
    Connected {
        /// The peer whose address it is.
        peer: PeerId,
        /// Its number.
        conn: ConnId,
        /// We opened it.
        active: bool,
    },
    /// The connection of [`Output::Connect`] did not come to be.
    ConnectFailed {
        /// The peer.
        peer: PeerId,
    },
    /// Bytes from a connection, in order, cut anywhere.
    Received {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Everything that was handed out for the connection has been given to the kernel.
    ///
    /// Back-pressure: UPDATEs are handed out until they are 64 KB (and the rest of a batch) more
    /// than at the last `Writable`; then none until the next. Other messages always are.
    Writable {
        /// The connection.
        conn: ConnId,
    },
    /// A connection was closed by the peer, or broke. Not needed after [`Output::Close`].
    Closed {
        /// The connection.
        conn: ConnId,
    },
    /// The link to the peer is dead (link down, BFD, IKE): the session ends at once, and nothing
    /// learnt over it is kept.
    Dead {
        /// The peer.
        peer: PeerId,
    },
    /// The link to the peer works (again): try to connect now rather than at the next retry.
    Alive {
        /// The peer.
        peer: PeerId,
    },
}

/// Something to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a TCP connection to the peer, and give up an attempt that is still under way. Answer
    /// with [`Input::Connected`] or [`Input::ConnectFailed`]; without an answer this is repeated.
    Connect {
        /// The peer.
        peer: PeerId,
    },
    /// Send bytes.
    Send {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Close the connection, after sending what was handed out for it if that works at once.
    Close {
        /// The connection.
        conn: ConnId,
    },
    /// Something worth a line in the log.
    Event(Event),
}

/// Something worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session was established.
    Up {
        /// The peer.
        peer: PeerId,
        /// Its BGP identifier.
        router_id: Ipv4Addr,
        /// The families exchanged.
        families: BTreeSet<Family>,
    },
    /// An established session ended.
    Down {
        /// The peer.
        peer: PeerId,
        /// Why.
        ending: Ending,
        /// Families whose paths are kept for the peer's return (RFC 4724).
        kept: BTreeSet<Family>,
    },
    /// A connection ended before a session was established over it.
    Failed {
        /// The peer.
        peer: PeerId,
        /// Why.
        ending: Ending,
    },
    /// Paths that the peer did not announce again in time, after a lost session or in a refresh
    /// (RFC 7313), or whose link is dead, are gone. Comes before the walk over the table, as
    /// [`Event::Down`] does.
    StaleRemoved {
        /// The peer.
        peer: PeerId,
        /// Of these families.
        families: BTreeSet<Family>,
    },
    /// All routes of a family have arrived from the peer (RFC 4724 section 2).
    EndOfRib {
        /// The peer.
        peer: PeerId,
        /// The family.
        family: Family,
    },
    /// The peer announced three quarters of what it may (see
    /// [`max_prefixes`](crate::PeerConfig::max_prefixes)).
    ManyPrefixes {
        /// The peer.
        peer: PeerId,
        /// So many, refused ones included.
        received: usize,
        /// With more than this the session ends.
        limit: usize,
    },
    /// The peer has more than 64 paths to a prefix (RFC 7911): the others are not looked at. Told once
    /// in a session.
    PathsIgnored {
        /// The peer.
        peer: PeerId,
        /// The prefix.
        prefix: IpNet,
    },
    /// The peer cannot be told of some prefixes: their attributes leave no room for them in a message
    /// (RFC 4271 section 9.2). It was told to forget what it knew of them.
    NotAnnounced {
        /// The peer.
        peer: PeerId,
        /// One of the prefixes.
        prefix: IpNet,
        /// How many there are.
        prefixes: usize,
    },
    /// The peer did not come back in its restart time: the paths kept for it are a last resort from
    /// now on (RFC 9494).
    LongLived {
        /// The peer.
        peer: PeerId,
        /// Paths of these families.
        families: BTreeSet<Family>,
    },
    /// The peer sent a malformed attribute (RFC 7606). Of many within a second not all are told of;
    /// [`Counts::faults`] has all.
    Fault {
        /// The peer.
        peer: PeerId,
        /// What was wrong and what was done.
        fault: Fault,
        /// How many before it were not told of.
        unsaid: u64,
    },
}

/// Where a peer is on the way to a session (RFC 4271 section 8.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerState {
    /// Waiting after an error: connections are neither opened nor accepted.
    Idle,
    /// Opening a connection.
    Connect,
    /// Waiting for the peer to connect, or for the time to try again.
    Active,
    /// Connected; waiting for the peer's OPEN.
    OpenSent,
    /// Waiting for the peer's KEEPALIVE.
    OpenConfirm,
    /// Exchanging routes.
    Established,
}

/// A peer as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub peer: PeerId,
    /// Its state.
    pub state: PeerState,
    /// Since when it has this state.
    pub since: Time,
    /// Prefixes in its Adj-RIB-In: `accepted` and `rejected` ones.
    pub received: usize,
    /// Those that may be used.
    pub accepted: usize,
    /// Those that may not.
    pub rejected: usize,
    /// The session ends when more are received; 0: no limit.
    pub max_prefixes: usize,
    /// Prefixes in its Adj-RIB-Out.
    pub advertised: usize,
    /// Families whose paths are kept from a session that is gone (RFC 4724).
    pub stale: BTreeSet<Family>,
    /// Why the last connection failed or ended, for people.
    pub last_error: Option<String>,
    /// The peer's BGP identifier, while there is a session.
    pub router_id: Option<Ipv4Addr>,
    /// The hold time in force, while there is a session; zero: none.
    pub hold_time: Option<Duration>,
    /// The families exchanged, while there is a session.
    pub families: BTreeSet<Family>,
    /// Families whose End-of-RIB arrived in this session.
    pub end_of_rib: BTreeSet<Family>,
    /// The peer restarts gracefully (RFC 4724) in at least one family of this session.
    pub graceful_restart: bool,
    /// The last NOTIFICATION that was sent or received.
    pub last_notification: Option<Ending>,
    /// What was counted since the peer was configured.
    pub counts: Counts,
}

/// What is counted of a peer, over all its sessions. All of it only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions that were established.
    pub established: u64,
    /// Messages received, of all types.
    pub messages_received: u64,
    /// Messages sent, of all types.
    pub messages_sent: u64,
    /// UPDATEs received.
    pub updates_received: u64,
    /// UPDATEs sent.
    pub updates_sent: u64,
    /// Malformed attributes received, by type code and what was done (RFC 7606). Type code 0 stands
    /// for the attributes as a whole.
    pub faults: BTreeMap<(u8, Action), u64>,
}
