//! Several paths to one prefix: from one router (RFC 7911), with shares by their bandwidth, and one
//! that is about to go (RFC 8326).

use routemesh_tests::lab::error::Result;
use routemesh_tests::lab::report::wait_until;

use crate::bird::{FEEDER, SHARED_PREFIX};
use crate::daemon::{Kind, More, Route, SECOND_HOP, Setup};
use crate::lan::{DAEMON6, DEADLINE, Lan, expect, set};
use crate::{Trial, Verdict};

const ADD_PATH: Setup = Setup {
    add_path: true,
    router: "add_path = true",
    ..Setup::PLAIN
};

/// The daemon announces two paths with different next hops: the kernel has both, and one when the
/// other is taken back.
pub fn from_the_daemon(trial: &Trial) -> Result<Verdict> {
    let mut lan = trial.up(ADD_PATH)?;
    let route = Route::plain(SHARED_PREFIX);
    lan.daemon.announce(route.clone())?;
    let second = Route::with(SHARED_PREFIX, More::SecondPath);
    lan.daemon.announce(second)?;
    lan.gateway
        .sends(SHARED_PREFIX, &[(DAEMON6, 1), (SECOND_HOP, 1)])?;
    lan.daemon.replace(route)?;
    lan.gateway.sends(SHARED_PREFIX, &[(DAEMON6, 1)])?;
    lan.daemon.withdraw(SHARED_PREFIX)?;
    lan.gateway.unrouted(SHARED_PREFIX)?;
    lan.passed();
    Ok(Verdict::Yes)
}

/// The feeder announces two paths: the daemon has both, and one when the other is taken back.
pub fn to_the_daemon(trial: &Trial) -> Result<Verdict> {
    let lan = trial.up(ADD_PATH)?;
    let has = |lan: &Lan, expected: &[&str]| {
        wait_until(&format!("{expected:?} at the daemon"), DEADLINE, || {
            let heard = lan.daemon.heard(SHARED_PREFIX)?;
            let mut found: Vec<_> = heard.iter().map(|it| it.communities.clone()).collect();
            found.sort();
            let expected = expected.iter().map(|community| set(&[community]));
            expect(found.iter().cloned().eq(expected), || format!("{found:?}"))
        })
    };
    lan.feeder.announce_shared()?;
    lan.feeder.announce_second()?;
    has(&lan, &["65002:11", "65002:12"])?;
    lan.feeder.withdraw_shared()?;
    has(&lan, &["65002:12"])?;
    lan.passed();
    Ok(Verdict::Yes)
}

/// The daemon's path has four times the bandwidth of the feeder's, and so four times its weight.
pub fn bandwidth(trial: &Trial) -> Result<Verdict> {
    if trial.kind == Kind::Openbgpd {
        // bgpd.conf(5), ATTRIBUTE SET, lists those that it has.
        return Ok(Verdict::No("it has no name for it"));
    }
    let mut lan = trial.up(Setup::PLAIN)?;
    lan.feeder.announce_shared()?;
    lan.daemon.announce(Route::plain(SHARED_PREFIX))?;
    lan.gateway
        .sends(SHARED_PREFIX, &[(DAEMON6, 1), (FEEDER, 1)])?;
    let fast = Route::with(SHARED_PREFIX, More::Bandwidth);
    lan.daemon.replace(fast)?;
    lan.gateway
        .sends(SHARED_PREFIX, &[(DAEMON6, 4), (FEEDER, 1)])?;
    lan.passed();
    Ok(Verdict::Yes)
}

/// The daemon says that its path is about to go: traffic goes by the feeder's, and by the daemon's as
/// long as there is no other.
pub fn shutdown(trial: &Trial) -> Result<Verdict> {
    let mut lan = trial.up(Setup::PLAIN)?;
    lan.feeder.announce_shared()?;
    lan.daemon.announce(Route::plain(SHARED_PREFIX))?;
    lan.gateway
        .sends(SHARED_PREFIX, &[(DAEMON6, 1), (FEEDER, 1)])?;
    lan.daemon
        .replace(Route::with(SHARED_PREFIX, More::Shutdown))?;
    lan.gateway.sends(SHARED_PREFIX, &[(FEEDER, 1)])?;
    lan.feeder.withdraw_shared()?;
    lan.gateway.sends(SHARED_PREFIX, &[(DAEMON6, 1)])?;
    lan.passed();
    Ok(Verdict::Yes)
}
