//! charon over VICI.
