//! Bidirectional Forwarding Detection (RFC 5880, RFC 5881): the control packet and the asynchronous
//! session, as functions of what is received and of the time.
//!
//! Not here, since nothing of ours asks for it: Demand mode (RFC 5880 section 6.6), the Echo function
//! (section 6.4) and authentication (section 6.7). We say so in every packet, and what a peer asks of
//! that kind is answered as the RFC wants it answered by who does not do it. Over a tunnel, IPsec
//! authenticates; on a LAN, the TTL of 255 that the driver checks (RFC 5881 section 5).

mod packet;
mod session;

pub use packet::{Diagnostic, LENGTH, Malformed, Packet, State};
pub use session::{Cause, Change, Negotiated, Session, Timers};
