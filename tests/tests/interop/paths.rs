//! Several paths to one prefix: from one router (RFC 7911), with shares by their bandwidth, and one
//! that is about to go (RFC 8326).

use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::report::wait_until;

use crate::bird::{FEEDER, SHARED_PREFIX};
use crate::daemon::{Kind, More, Route, SECOND_HOP, Setup};
use crate::lan::{DAEMON6, DEADLINE, Lan, expect, fed_prefix, set};
use crate::{Trial, Verdict};

/// As the daemons call GRACEFUL_SHUTDOWN.
const SHUTDOWN: [&str; 3] = ["65535:0", "gracefulShutdown", "GRACEFUL_SHUTDOWN"];

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

/// The gateway is drained: the daemon hears so of every prefix, and in eBGP that its MED is the worst;
/// undrained, all is as before. The session goes on.
pub fn drain(trial: &Trial) -> Result<Verdict> {
    for internal in [false, true] {
        let setup = Setup {
            internal,
            ..Setup::PLAIN
        };
        let mut lan = trial.up(setup)?;
        let hears = |lan: &Lan, drained: bool| {
            for family in lan.families() {
                let fed = fed_prefix(*family);
                wait_until(&format!("{fed} drained: {drained}"), DEADLINE, || {
                    let heard = lan.told(fed)?;
                    let marked = heard
                        .communities
                        .iter()
                        .any(|it| SHUTDOWN.contains(&it.as_str()));
                    let worst = match internal {
                        true => heard.local_pref == Some(0),
                        false => heard.med == Some(u32::MAX),
                    };
                    let good = (marked, worst) == (drained, drained);
                    expect(good, || format!("{heard:?}"))
                })?;
            }
            Ok::<_, LabError>(())
        };
        let sessions = |lan: &Lan| lan.gateway.times(&format!("{} established", setup.local()));
        hears(&lan, false)?;
        // A daemon that starts may need a second attempt.
        let before = sessions(&lan);
        lan.gateway.drain("drain")?;
        hears(&lan, true)?;
        lan.gateway.drain("undrain")?;
        hears(&lan, false)?;
        let after = sessions(&lan);
        expect(after == before, || {
            format!("{before} sessions, then {after}")
        })?;
        lan.check()?;
        lan.passed();
    }
    Ok(Verdict::Yes)
}
