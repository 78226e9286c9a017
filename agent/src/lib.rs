//! The gateway daemon: makes a rendered configuration true on one host.
//!
//! Configuration, Loc-RIB and link state become a desired [`state::State`]; kernel and charon are
//! observed as another; the difference is planned as ordered operations and applied. It never
//! decides what the mesh should be (the controller does) and never touches what it did not make.
//!
//! | module | |
//! |---|---|
//! | [`config`], [`peers`], [`mtu`], [`drain`], [`desired`], [`plan`], [`dataplane`], [`repairs`], [`status`], [`wireguard`], [`metrics`], [`vici::audit()`], [`vici::heal`] | decide: pure functions over values |
//! | [`ask`], [`kernel`], [`ipsec`], [`netns`], [`vici`], [`bgp`], [`probe`], [`control`], [`renewal`], [`service`], [`state_dir`] | observe and apply: decide nothing |
//! | [`reconcile`], [`charon`], [`run`] | one pass over the kernel, the loop over charon, and the reasons for the next |

pub mod ask;
pub mod bfd;
pub mod bgp;
pub mod charon;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod desired;
pub mod drain;
pub mod fib;
pub mod firewall;
pub mod ipsec;
pub mod kernel;
pub mod liveness;
pub mod memory;
pub mod metrics;
#[cfg(test)]
mod model;
pub mod mtu;
pub mod nat;
pub mod netns;
pub mod peers;
pub mod plan;
pub mod preflight;
pub mod probe;
pub mod problem;
pub mod reconcile;
pub mod renewal;
pub mod repairs;
pub mod run;
pub mod service;
pub mod state;
pub mod state_dir;
pub mod status;
mod telling;
pub mod vici;
pub mod wireguard;
