//! charon over VICI: against a socket that misbehaves, and against the real charon.

#![allow(clippy::unwrap_used)]

#[path = "vici/charon.rs"]
mod charon;
#[path = "vici/misbehaving.rs"]
mod misbehaving;
#[path = "vici/refused.rs"]
mod refused;
mod space;
#[path = "vici/tunnel.rs"]
mod tunnel;
