//! How sessions end, and that each side understands why.

use nix::sys::signal::Signal;
use routemesh_tests::lab::error::Result;

use crate::daemon::{Kind, Route, Setup};
use crate::lan::own_prefix;
use crate::{Trial, Verdict};

/// `mesh-agent down` says why, and the daemon's operator reads it.
pub fn our_text(trial: &Trial) -> Result<Verdict> {
    if trial.kind == Kind::Exabgp {
        return Ok(Verdict::No("it fails on any text"));
    }
    let mut lan = trial.up(Setup::PLAIN)?;
    lan.gateway.down()?;
    if trial.kind == Kind::Gobgp {
        // It takes no connection for five seconds after the agent's end, and so hears nothing.
        lan.gateway.down()?;
    }
    lan.daemon_says("gateway taken down")?;
    lan.passed();
    Ok(Verdict::Yes)
}

/// The daemon's operator says why, and our log has it; the routes are gone.
pub fn their_text(trial: &Trial) -> Result<Verdict> {
    const TEXT: &str = "maintenance until four";
    let lan = trial.up(Setup::PLAIN)?;
    lan.daemon.shutdown(TEXT)?;
    lan.gateway.says("Administrative Shutdown")?;
    if trial.kind == Kind::Exabgp {
        lan.passed();
        return Ok(Verdict::No("it shuts down without one"));
    }
    lan.gateway.says(TEXT)?;
    for family in lan.families() {
        lan.gateway.unrouted(own_prefix(*family))?;
    }
    lan.passed();
    Ok(Verdict::Yes)
}

const SHORT: Setup = Setup {
    hold_time: 3,
    ..Setup::PLAIN
};

/// The daemon stops without a word: its routes are gone after the hold time.
pub fn daemon_silent(trial: &Trial) -> Result<Verdict> {
    let mut lan = trial.up(SHORT)?;
    lan.daemon.host.signal(Signal::SIGSTOP)?;
    lan.gateway.says("Hold Timer Expired")?;
    for family in lan.families() {
        lan.gateway.unrouted(own_prefix(*family))?;
    }
    lan.daemon.host.signal(Signal::SIGCONT)?;
    lan.exchanged()?;
    lan.passed();
    Ok(Verdict::Yes)
}

/// The agent stops without a word: the daemon ends the session and says so.
pub fn agent_silent(trial: &Trial) -> Result<Verdict> {
    let mut lan = trial.up(SHORT)?;
    lan.gateway.signal(Signal::SIGSTOP)?;
    lan.daemon_says(match trial.kind {
        Kind::Openbgpd => "HoldTimer expired",
        _ => "hold timer expired",
    })?;
    lan.gateway.signal(Signal::SIGCONT)?;
    lan.gateway.says("Hold Timer Expired (received)")?;
    lan.exchanged()?;
    lan.passed();
    Ok(Verdict::Yes)
}

/// The daemon announces more than we take: it hears so, and nothing of it stays.
pub fn our_limit(trial: &Trial) -> Result<Verdict> {
    let setup = Setup {
        // Some announce to us what they have from us.
        router: "max_prefixes = 5",
        ..Setup::PLAIN
    };
    let mut lan = trial.up(setup)?;
    for n in 11..17 {
        let route = Route::plain(&format!("2001:db8:2:{n}::/64"));
        lan.daemon.announce(route)?;
    }
    lan.gateway.says("Maximum Number of Prefixes Reached")?;
    lan.daemon_says(match trial.kind {
        Kind::Openbgpd => "max-prefix exceeded",
        Kind::Exabgp => "\"code\": 6, \"subcode\": 1",
        _ => "maximum number of prefixes reached",
    })?;
    for family in lan.families() {
        lan.gateway.unrouted(own_prefix(*family))?;
    }
    lan.passed();
    Ok(Verdict::Yes)
}

/// We announce more than the daemon takes: it says so.
pub fn their_limit(trial: &Trial) -> Result<Verdict> {
    if trial.kind == Kind::Exabgp {
        return Ok(Verdict::No("it takes any number"));
    }
    let setup = Setup {
        limit: Some(2),
        ..Setup::PLAIN
    };
    let lan = trial.up(setup)?;
    for n in 3..7 {
        lan.gateway.originate(&format!("2001:db8:2:{n}::/64"))?;
    }
    lan.gateway.says("Maximum Number of Prefixes Reached")?;
    lan.passed();
    Ok(Verdict::Yes)
}
