//! charon over VICI: against a socket that misbehaves, and against the real charon.

#[path = "vici/charon.rs"]
mod charon;
#[path = "vici/misbehaving.rs"]
mod misbehaving;
