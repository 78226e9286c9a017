//! Either side dies and comes back (RFC 4724).

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use routemesh_tests::lab::error::Result;
use routemesh_tests::lab::report::wait_until;

use crate::daemon::{Family, Kind, Setup};
use crate::lan::{DEADLINE, expect, fed_prefix, own_prefix};
use crate::{Trial, Verdict};

const GRACEFUL: Setup = Setup {
    graceful: true,
    ..Setup::PLAIN
};

/// How long the other side is looked at while one is away.
const AWAY: Duration = Duration::from_secs(2);

/// The daemon is killed: our kernel keeps its routes until it is back, without a gap.
pub fn daemon(trial: &Trial) -> Result<Verdict> {
    match trial.kind {
        Kind::Openbgpd => return Ok(Verdict::No("it does not restart gracefully itself")),
        Kind::Exabgp => return Ok(Verdict::No("it forwards nothing")),
        Kind::Bird | Kind::Frr | Kind::Gobgp => {}
    }
    let mut lan = trial.up(GRACEFUL)?;
    let watch = lan.gateway.watch()?;
    lan.daemon.kill()?;
    lan.gateway.says("its paths are kept")?;
    std::thread::sleep(AWAY);
    for family in lan.families() {
        lan.gateway.routed(own_prefix(*family))?;
    }
    let before = lan
        .gateway
        .times(&format!("{} established", GRACEFUL.local()));
    lan.daemon.restart()?;
    lan.gateway
        .says_times(&format!("{} established", GRACEFUL.local()), before + 1)?;
    lan.exchanged()?;
    for family in lan.families() {
        watch.never_deleted(own_prefix(*family), GRACEFUL.local())?;
    }
    lan.passed();
    Ok(Verdict::Yes)
}

/// The daemon resets the session, and our kernel keeps its routes; we fall silent, and it keeps our
/// paths when it has ended the session. Where it does not say that it may be so, ours are gone.
pub fn notification(trial: &Trial) -> Result<Verdict> {
    match trial.kind {
        Kind::Openbgpd => return Ok(Verdict::No("it does not restart gracefully itself")),
        Kind::Exabgp => return Ok(Verdict::No("it forwards nothing")),
        Kind::Bird | Kind::Frr | Kind::Gobgp => {}
    }
    let setup = Setup {
        notifications: true,
        hold_time: 3,
        ..GRACEFUL
    };
    let mut lan = trial.up(setup)?;
    let watch = lan.gateway.watch()?;
    let established = format!("{} established", setup.local());
    let before = lan.gateway.times(&established);
    lan.daemon.reset()?;
    lan.gateway.says_times(&established, before + 1)?;
    lan.exchanged()?;
    let kept = lan.gateway.times("its paths are kept") > 0;
    let keeps = trial.kind != Kind::Bird;
    expect(kept == keeps, || format!("kept: {kept}"))?;
    match trial.kind {
        Kind::Bird => {
            let own = own_prefix(Family::V6);
            wait_until("a route deleted", DEADLINE, || {
                expect(watch.deleted(own, setup.local()), || "never".into())
            })?;
            lan.passed();
            return Ok(Verdict::No("it does not offer it"));
        }
        Kind::Gobgp => {
            // Its capability, with the F bit, without which what was kept goes (RFC 4724 section 4.2).
            let forwards = [64, 10, 0x40, 60, 0, 1, 1, 0x80, 0, 2, 1, 0x80];
            expect(!lan.gateway.captured(&forwards)?, || "the F bit".into())?;
            lan.passed();
            let reason = "it says, once it is back, that it does not forward";
            return Ok(Verdict::No(reason));
        }
        _ => {}
    }
    for family in lan.families() {
        watch.never_deleted(own_prefix(*family), GRACEFUL.local())?;
    }
    lan.gateway.signal(Signal::SIGSTOP)?;
    lan.daemon_says("hold timer expired")?;
    for family in lan.families() {
        lan.told(fed_prefix(*family))?;
    }
    lan.gateway.signal(Signal::SIGCONT)?;
    lan.gateway.says_times(&established, before + 2)?;
    lan.exchanged()?;
    lan.passed();
    Ok(Verdict::Yes)
}

/// The daemon is killed and does not come back in its restart time: our kernel keeps its routes still.
pub fn long_lived(trial: &Trial) -> Result<Verdict> {
    match trial.kind {
        Kind::Openbgpd | Kind::Exabgp => return Ok(Verdict::No("it does not offer it")),
        Kind::Bird | Kind::Frr | Kind::Gobgp => {}
    }
    let mut lan = trial.up(Setup {
        long_lived: true,
        router: "long_lived = 60",
        ..GRACEFUL
    })?;
    let watch = lan.gateway.watch()?;
    lan.daemon.kill()?;
    lan.gateway.says("its paths are a last resort")?;
    for family in lan.families() {
        lan.gateway.routed(own_prefix(*family))?;
        watch.never_deleted(own_prefix(*family), GRACEFUL.local())?;
    }
    lan.daemon.restart()?;
    lan.exchanged()?;
    lan.passed();
    Ok(Verdict::Yes)
}

/// The agent is killed: the daemon keeps our paths until it is back.
pub fn agent(trial: &Trial) -> Result<Verdict> {
    if trial.kind == Kind::Exabgp {
        return Ok(Verdict::No("it keeps nothing"));
    }
    let mut lan = trial.up(GRACEFUL)?;
    let kept = |lan: &crate::lan::Lan| {
        let mut families = lan.families().iter();
        families.try_for_each(|family| lan.told(fed_prefix(*family)).map(drop))
    };
    let established = format!("{} established", GRACEFUL.local());
    let before = lan.gateway.times(&established);
    lan.gateway.kill();
    let until = Instant::now() + AWAY;
    while Instant::now() < until {
        kept(&lan)?;
        std::thread::sleep(Duration::from_millis(100));
    }
    lan.gateway.run()?;
    while lan.gateway.times(&established) == before {
        kept(&lan)?;
        lan.check()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let until = Instant::now() + AWAY;
    while Instant::now() < until {
        kept(&lan)?;
        std::thread::sleep(Duration::from_millis(100));
    }
    lan.exchanged()?;
    expect(lan.gateway.times(&established) == before + 1, || {
        "not one session".into()
    })?;
    lan.passed();
    Ok(Verdict::Yes)
}
