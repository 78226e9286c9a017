//! The Debian packages, on a clean Debian under systemd: installed, run, upgraded and removed as docs/operations.md says,
//! and beside what else minds a host's network. `make packages-test` makes all that they need.

mod beside;
mod machine;
mod operations;
mod page;
mod shell;
