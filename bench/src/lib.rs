//! The benchmark: what `make bench` runs, in parts.
//!
//! [`trial`] takes one daemon through the same steps as every other: two peers announce the same
//! prefixes, withdraw them, announce them again, and one peer is lost. The peers are processes of
//! `bgp-load`; what became of it is seen from outside, by [`watch`] in the kernel and by [`probe`]
//! with packets. [`silence`] has one peer fall silent instead, with BFD between;
//! [`many`] has a daemon do nothing with many peers. [`control`] is about the control plane.

pub mod clock;
pub mod control;
pub mod error;
pub mod far;
pub mod lab;
pub mod load;
pub mod machine;
pub mod many;
pub mod netlink;
pub mod page;
pub mod prefix;
pub mod probe;
pub mod process;
pub mod raw;
pub mod report;
pub mod silence;
pub mod subject;
pub mod trial;
pub mod watch;
