//! Speakers that talk to each other over a simulated network, under virtual time.

#![allow(clippy::unwrap_used)]

mod convergence;
mod extensions;
mod mesh;
mod model;
mod network;
mod restart;
mod routes;
mod sessions;
mod simulation;
mod solo;
mod statics;
mod table;
mod tcp;
