//! Which of two connections to a peer stays (RFC 4271 section 6.8), as a pure function.

use crate::config::Time;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How much later than our session a connection may appear and still be one that the peer opened
/// before it knew of that session, rather than after a restart: the time in which an accepted
/// connection may wait to be noticed.
const CONCURRENT: Duration = Duration::from_secs(1);

/// A connection on which the peer's OPEN was confirmed before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Old {
    /// We opened it.
    pub(crate) active: bool,
    /// Since when it is an established session, if it is.
    pub(crate) established: Option<Time>,
    /// The peer restarts gracefully: it negotiated so for at least one family.
    pub(crate) graceful: bool,
}

/// A connection on which the peer's OPEN has just arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct New {
    /// We opened it.
    pub(crate) active: bool,
    /// When it came to be.
    pub(crate) connected: Time,
}

/// What becomes of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The old one stays; the new one ends with Cease.
    KeepOld,
    /// The new one stays; the old one ends with Cease.
    KeepNew,
    /// The new one stays; the old one is dead at the other end, and is closed without a word.
    Supersede,
}

/// `ours` and `theirs` are BGP identifier and AS of the two sides.
///
/// The connections crossed if each side opened one before it knew of the other's. Then the one
/// opened by the side with the higher identifier stays (equal ones: the higher AS, RFC 6286 section
/// 2.3), even when the other got as far as Established here: the peer, who may have seen the OPENs
/// in the other order, decides by the same rule, and so exactly one is left.
///
/// Else the peer opened a connection although it had one: it has restarted, and a peer that
/// restarts gracefully counts on our noticing (RFC 4724 sections 4.2 and 5). An established session
/// with any other peer stays (RFC 4271 section 6.8).
pub(crate) fn resolve(
    old: Old,
    new: New,
    ours: (Ipv4Addr, u32),
    theirs: (Ipv4Addr, u32),
) -> Verdict {
    let in_time = old
        .established
        .is_none_or(|since| new.connected <= since + CONCURRENT);
    if old.active != new.active && in_time {
        let opened_by_the_higher = new.active == (ours > theirs);
        return match opened_by_the_higher {
            true => Verdict::KeepNew,
            false => Verdict::KeepOld,
        };
    }
    match (old.established, old.graceful) {
        (None, _) => Verdict::KeepNew,
        (Some(_), true) => Verdict::Supersede,
        (Some(_), false) => Verdict::KeepOld,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{KeepNew, KeepOld, Supersede};

    const LOW: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 0, 0, 1), 65001);
    const HIGH: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 0, 0, 2), 65001);
    const LOW_WITH_HIGHER_AS: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 0, 0, 1), 65002);

    fn old(active: bool, established: Option<u64>, graceful: bool) -> Old {
        let established = established.map(Duration::from_secs);
        Old {
            active,
            established,
            graceful,
        }
    }

    fn new(active: bool, connected: u64) -> New {
        let connected = Duration::from_secs(connected);
        New { active, connected }
    }

    #[test]
    fn crossed_connections_leave_that_of_the_higher_identifier_on_both_sides() {
        for (ours, theirs) in [(LOW, HIGH), (HIGH, LOW), (LOW, LOW_WITH_HIGHER_AS)] {
            for established in [None, Some(10), Some(11)] {
                for ours_is_new in [true, false] {
                    let verdict = |ours_is_new: bool, ours, theirs| {
                        let old = old(!ours_is_new, established, true);
                        resolve(old, new(ours_is_new, 10), ours, theirs)
                    };
                    let ours_stays = (verdict(ours_is_new, ours, theirs) == KeepNew) == ours_is_new;
                    assert_eq!(ours_stays, ours > theirs);
                    // The peer sees the same two connections, in either order.
                    for theirs_is_new in [true, false] {
                        let verdict = verdict(theirs_is_new, theirs, ours);
                        let theirs_stays = (verdict == KeepNew) == theirs_is_new;
                        assert_ne!(ours_stays, theirs_stays);
                    }
                }
            }
        }
    }

    #[test]
    fn a_connection_that_came_later_means_a_restart_if_the_peer_restarts_gracefully() {
        let table = [
            // old: active, established at, graceful; new: active, connected at
            ((true, Some(10), true), (false, 12), Supersede),
            ((false, Some(10), true), (false, 12), Supersede),
            ((false, Some(10), true), (false, 10), Supersede),
            ((true, Some(10), false), (false, 12), KeepOld),
            ((false, Some(10), false), (false, 12), KeepOld),
            ((false, None, false), (false, 12), KeepNew),
        ];
        for ((old_active, since, graceful), (new_active, connected), expected) in table {
            for (ours, theirs) in [(LOW, HIGH), (HIGH, LOW)] {
                let old = old(old_active, since, graceful);
                let verdict = resolve(old, new(new_active, connected), ours, theirs);
                assert_eq!(verdict, expected, "{old:?}");
            }
        }
    }
}
