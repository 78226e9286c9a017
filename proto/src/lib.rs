//! The one contract between controller, agent and meshctl: messages, services, and the few things
//! that both ends must do alike (what a config's digest is, how one config becomes the next, how
//! to dial with an identity).
//!
//! It never decides anything about a mesh.

mod change;
mod esp;
mod identity;
mod key;
mod pieces;
mod policy;
mod proposal;
mod route_protocol;
mod secret;
mod service;

pub use change::{ChangeError, diff, patch, status_diff};
pub use esp::{Esp, Outer};
pub use identity::{
    EnrollError, Identity, IdentityError, KeyKind, Request, TokenError, Validity, enroll,
    fingerprint, save_file,
};
pub use key::{NoKey, PublicKey};
pub use pieces::{Packed, PieceError, Pieced, Pieces, pack, split, unpack};
pub use policy::{Community, PrefixRange, TextError};
pub use proposal::{ProposalError, check_ike};
pub use route_protocol::{route_protocol, route_protocol_name};
pub use secret::{Secret, is_secret};
pub use service::{NoService, Service, Transport};

// There is one message at a time, and most are the large one.
#[allow(missing_docs, clippy::doc_markdown, clippy::large_enum_variant)]
mod v1 {
    tonic::include_proto!("routemesh.v1");
}

pub use v1::*;

/// What calls and messages there are, as a `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/routemesh.bin"));

/// Whether a field has its default value, which is left out of a config's text.
fn unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The name that a controller's certificate carries besides its addresses: agents and operators
/// dial whatever address they were given and expect this name there.
pub const CONTROLLER_NAME: &str = "controller.routemesh";

/// `if_id` (XFRM), key and mark (VTI) or interface group (WireGuard) of tunnel 0; a tunnel's own is this plus its number.
pub const FIRST_KEY: u32 = 0x5200_0000;

/// What IKE proposes where nothing else is asked for, in strongSwan's words.
pub const IKE_PROPOSAL: &str = "aes256gcm16-prfsha384-ecp384";
/// The same for ESP.
pub const ESP_PROPOSAL: &str = "aes256gcm16-ecp384";
