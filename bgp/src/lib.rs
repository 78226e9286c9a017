//! A BGP-4 speaker as a pure state machine: bytes, connections and time go in; bytes, connections
//! wanted and routes come out.
//!
//! It never opens a socket, reads a clock, draws a random number, touches a file or knows of
//! tokio, netlink or the mesh's configuration. Whoever drives it passes `now` with every call.

pub mod wire;
