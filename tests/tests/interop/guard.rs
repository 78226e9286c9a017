//! What guards a session (TCP MD5, GTSM, roles), and the ways to be known.

use routemesh_tests::lab::error::Result;

use crate::daemon::{Kind, Known, Setup};
use crate::lan::expect;
use crate::{Trial, Verdict};

/// With the same secret there is a session; with another, the kernel drops what comes.
pub fn md5(trial: &Trial) -> Result<Verdict> {
    let setup = Setup {
        password: Some("mekmitasdigoat"),
        router: "password = \"mekmitasdigoat\"",
        ..Setup::PLAIN
    };
    trial.up(setup)?.passed();
    let setup = Setup {
        password: Some("mekmitasdigoot"),
        ..setup
    };
    let lan = trial.start(setup)?;
    lan.gateway.counts("TCPMD5Failure")?;
    refused(&lan, &setup)?;
    lan.passed();
    Ok(Verdict::Yes)
}

/// Where both send and want a hop limit of 255 there is a session; where the daemon does not, our
/// kernel drops what comes.
pub fn gtsm(trial: &Trial) -> Result<Verdict> {
    let setup = Setup {
        ttl_security: true,
        router: "ttl_security = 1",
        ..Setup::PLAIN
    };
    trial.up(setup)?.passed();
    let setup = Setup {
        ttl_security: false,
        ..setup
    };
    let lan = trial.start(setup)?;
    lan.gateway.counts("TCPMinTTLDrop")?;
    refused(&lan, &setup)?;
    lan.passed();
    Ok(Verdict::Yes)
}

/// Roles that fit make a session, two providers do not.
pub fn roles(trial: &Trial) -> Result<Verdict> {
    if matches!(trial.kind, Kind::Gobgp | Kind::Exabgp) {
        return Ok(Verdict::No("it has none"));
    }
    let setup = Setup {
        role: Some("customer"),
        router: "role = \"provider\"",
        ..Setup::PLAIN
    };
    trial.up(setup)?.passed();
    let setup = Setup {
        role: Some("provider"),
        ..setup
    };
    let lan = trial.start(setup)?;
    lan.gateway.says("Role Mismatch")?;
    refused(&lan, &setup)?;
    lan.passed();
    Ok(Verdict::Yes)
}

/// By its link-local address.
pub fn link_local(trial: &Trial) -> Result<Verdict> {
    if matches!(trial.kind, Kind::Openbgpd | Kind::Exabgp) {
        return Ok(Verdict::No("it takes no address with an interface"));
    }
    known(trial, Known::LinkLocal)
}

/// Both know the interface only.
pub fn interface(trial: &Trial) -> Result<Verdict> {
    if matches!(trial.kind, Kind::Openbgpd | Kind::Exabgp) {
        return Ok(Verdict::No("it wants an address"));
    }
    known(trial, Known::Interface)
}

/// We know the daemon's network only.
pub fn range(trial: &Trial) -> Result<Verdict> {
    known(trial, Known::Range)
}

fn known(trial: &Trial, known: Known) -> Result<Verdict> {
    let setup = Setup {
        known,
        ..Setup::PLAIN
    };
    trial.up(setup)?.passed();
    Ok(Verdict::Yes)
}

/// No session has come to be.
fn refused(lan: &crate::lan::Lan, setup: &Setup) -> Result<()> {
    let sessions = lan.gateway.times(&format!("{} established", setup.local()));
    expect(sessions == 0, || "a session has come to be".into())
}
