//! What this host can do, against what is asked of it. The verdicts are pure; [`offload`] and what
//! reads a version are the edge.

pub mod offload;
mod options;
mod version;

pub use options::{Host, refusal};
pub use version::{Release, Version};
