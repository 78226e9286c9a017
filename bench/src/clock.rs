//! Clocks.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Time on CLOCK_MONOTONIC, which all processes of a machine share.
pub fn now() -> Duration {
    // Cannot fail: every Linux has this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Processor time of the calling thread: other programs' work does not count.
pub fn own() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
