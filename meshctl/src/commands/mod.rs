//! What the commands do, a file for each family of them.

mod change;
mod history;
mod look;
mod trust;

pub(crate) use change::{Apply, Drain, Plan, Rollback, apply, drain, plan, rollback};
pub(crate) use history::{Diff, History, backup, diff, history};
pub(crate) use look::{Mtu, Routes, Whole, doctor, gateways, mtu, routes, topology, tunnels};
pub(crate) use trust::{Audit, Enroll, Revoke, Tokens, audit, enroll, renew, revoke, token};

use std::process::ExitCode;

/// There is something to see to: a tunnel is not up, a gateway is not well, a plan has changes.
const SOMETHING: u8 = 2;

fn unless(something: bool) -> ExitCode {
    match something {
        true => ExitCode::from(SOMETHING),
        false => ExitCode::SUCCESS,
    }
}
