//! The gateway daemon: makes a rendered configuration true on one host.
//!
//! Configuration, Loc-RIB and link state become a desired [`state::State`]; kernel and charon are
//! observed as another; the difference is planned as ordered operations and applied. It never
//! decides what the mesh should be (the controller does) and never touches what it did not make.

pub mod kernel;
pub mod state;
pub mod vici;
