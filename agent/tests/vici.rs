//! charon over VICI: against a socket that misbehaves, and against the real charon.

#![allow(clippy::unwrap_used)]

#[path = "vici/charon.rs"]
mod charon;
#[path = "vici/misbehaving.rs"]
mod misbehaving;
mod space;
#[path = "vici/tunnel.rs"]
mod tunnel;
