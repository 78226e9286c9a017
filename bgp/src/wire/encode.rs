//! Messages to bytes.

use super::{Context, Message};

/// Appends `message` to `out` as one message of at most 4,096 bytes, or as several where an
/// UPDATE has more prefixes than fit into one.
pub fn encode(message: &Message, context: &Context, out: &mut Vec<u8>) {
    let _ = (message, context, out);
}
