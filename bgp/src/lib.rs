//! A BGP-4 speaker as a pure state machine: bytes, connections and time go in; bytes, connections
//! wanted and routes come out.
//!
//! It never opens a socket, reads a clock, draws a random number, touches a file or knows of
//! tokio, netlink or the mesh's configuration. Whoever drives it passes `now` with every call.
//!
//! A [`Speaker`] owns one peer machine (`peer`) per configured peer and one `table` of routes. A
//! peer machine owns the connections to that peer (`connections`, each a `session`), of which a
//! collision leaves one. What a peer says passes `import` and `policy` into the table, `decision`
//! chooses among its paths, `export` says what another peer is told of them, and `adj_rib_out` what it
//! was told.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod adj_rib_out;
mod collision;
mod config;
mod connections;
mod decision;
mod ending;
mod export;
mod faults;
mod identity;
mod import;
mod intake;
mod interface;
mod known;
mod negotiate;
mod outbound;
mod peer;
pub mod policy;
mod reach;
mod record;
mod retry;
mod routes;
mod schedule;
mod session;
mod speaker;
mod table;
mod weight;
pub mod wire;

pub use config::{ConnId, PeerConfig, PeerId, SpeakerConfig, Time};
pub use ending::Ending;
pub use interface::{Counts, Event, Input, Output, PeerState, PeerStatus};
pub use known::{Heard, Known};
pub use policy::{Policy, Rejection};
pub use reach::Reach;
pub use speaker::Speaker;
pub use table::{Hop, Path, Source};
pub use weight::{MAX_WEIGHT, link_bandwidth, weights};
