//! BGP on the wire: messages as values, and their bytes.
//!
//! [`decode`] and [`encode`] frame messages; beneath them one file for each thing that has a shape
//! of its own. Bytes are read only through a checked cursor, so no input can make a read panic.

mod as_path;
mod attribute;
mod decode;
mod decode_attributes;
mod decode_update;
mod encode;
mod encode_attributes;
mod frame;
mod link_bandwidth;
mod message;
mod nlri;
pub mod notification;
mod open;
mod pack;
mod reader;
mod view;

pub use decode::*;
pub use encode::*;
pub use frame::{Frame, Kind};
pub use link_bandwidth::LinkBandwidth;
pub use message::*;
pub use nlri::{Nlri, Prefixes};
pub use view::UpdateView;
