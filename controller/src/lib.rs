//! The control plane: keeps the specification, renders what every gateway must run, streams it to
//! the agents, and gathers what they see.
//!
//! ```text
//! text --spec--> MeshSpec --ids, render--> one Config per gateway --serve--> agents
//!                                            agents --serve--> reports --topology--> operators
//! ```
//!
//! [`spec`], [`ids`], [`render`], [`step`], [`plan`], [`canary`], [`topology`], [`doctor`], [`trace`],
//! [`events`] and [`metrics`] are pure; [`store`], [`ca`] and
//! [`serve`] do the I/O.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admission;
pub mod ca;
pub mod canary;
pub mod doctor;
pub mod drain;
pub mod events;
pub mod ids;
pub mod mesh;
pub mod metrics;
pub mod plan;
pub mod render;
pub mod report;
pub mod rollover;
pub mod serve;
pub mod spec;
pub mod step;
pub mod store;
mod text;
pub mod topology;
pub mod trace;
