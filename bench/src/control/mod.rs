//! The control plane at size: a controller, and agents that do nothing but speak, as many as wanted.
//!
//! The controller is a process of its own; [`fleet`] speaks the real protocol to it over real TLS with a
//! certificate for each gateway, [`mesh`] writes the specification, [`report`] what gateways of such a
//! mesh say, and [`trial`] takes the times, [`table`] and [`plot`] show them.

pub mod fleet;
pub mod mesh;
pub mod plot;
pub mod raw;
pub mod report;
pub mod table;
pub mod trial;
