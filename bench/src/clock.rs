//! One clock for all processes of a trial.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Time on CLOCK_MONOTONIC, which all processes of a machine share.
pub fn now() -> Duration {
    // Cannot fail: every Linux has this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}
