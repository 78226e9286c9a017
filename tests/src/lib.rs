//! The workspace's own tests, and the lab that they run in.
//!
//! A test says what the topology is and what must hold. `tests/vm/run` decides where it runs:
//! straight in network namespaces, or in a small virtual machine if this kernel lacks ESP.

pub mod lab;
