//! BGP on the wire: messages as values, and their bytes.

mod decode;
mod encode;
mod message;
mod notification;

pub use decode::*;
pub use encode::*;
pub use message::*;
