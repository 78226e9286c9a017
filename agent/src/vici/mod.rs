//! charon over VICI: its commands, its events, and what to do about missing SAs.
//!
//! [`Vici`] commands and [`events()`] listens, each over a connection of its own; the library
//! beneath them, rsvici, is fenced in by [`fence`]. [`heal`] decides, and touches nothing.

mod audit;
mod commands;
mod definition;
mod error;
mod events;
mod fence;
pub mod heal;
mod message;
mod refusal;
mod sas;

pub use audit::{Audit, Kernel, Suspects, audit};
pub use commands::{Secret, Version, Vici};
pub use definition::{Auth, Bind, Child, Definition};
pub use definition::{CHILD_SEPARATOR, is_current, link};
pub use error::{Call, Error};
pub use events::{Event, events};
pub use message::{Message, TooLong};
pub use sas::{ChildSa, ChildState, IkeSa, IkeState};
