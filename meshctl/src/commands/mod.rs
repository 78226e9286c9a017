//! What the commands do, a file for each family of them.

mod ask;
mod change;
mod import;
mod own;
mod past;
mod trust;
mod view;

pub(crate) use ask::Ask;
pub(crate) use change::Change;
pub(crate) use import::Import;
pub(crate) use own::{Listed, Own, Shown};
pub(crate) use past::Past;
pub(crate) use trust::Trust;
pub(crate) use view::View;

use std::process::ExitCode;

/// There is something to see to: a tunnel is not up, a gateway is not well, a plan has changes.
const SOMETHING: u8 = 2;

fn unless(something: bool) -> ExitCode {
    match something {
        true => ExitCode::from(SOMETHING),
        false => ExitCode::SUCCESS,
    }
}
