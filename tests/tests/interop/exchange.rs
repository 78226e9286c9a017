//! Sessions, and prefixes with their attributes both ways.

use routemesh_tests::lab::error::Result;
use routemesh_tests::lab::report::wait_until;

use crate::bird::{self, FEEDER, LONG};
use crate::daemon::{Family, Kind, LARGE_MARK, MARK, Route, Setup};
use crate::lan::{DAEMON6, DEADLINE, Lan, expect, fed_prefix, own_prefix, set};
use crate::{Trial, Verdict};

pub fn external6(trial: &Trial) -> Result<Verdict> {
    both_ways(trial, Setup::PLAIN)
}

pub fn internal6(trial: &Trial) -> Result<Verdict> {
    let setup = Setup {
        internal: true,
        ..Setup::PLAIN
    };
    both_ways(trial, setup)
}

pub fn external4(trial: &Trial) -> Result<Verdict> {
    let setup = Setup {
        transport: Family::V4,
        ..Setup::PLAIN
    };
    both_ways(trial, setup)
}

pub fn internal4(trial: &Trial) -> Result<Verdict> {
    let setup = Setup {
        internal: true,
        transport: Family::V4,
        ..Setup::PLAIN
    };
    both_ways(trial, setup)
}

/// What the feeder announced reaches the daemon, what the daemon announced reaches our kernel and
/// the feeder, with all attributes that are to be passed on; and it goes again when withdrawn.
fn both_ways(trial: &Trial, setup: Setup) -> Result<Verdict> {
    let mut lan = trial.up(setup)?;
    for family in lan.families().to_vec() {
        told_to_the_daemon(&lan, &setup, family)?;
        told_by_the_daemon(&lan, &setup, family)?;
    }
    for family in lan.families().to_vec() {
        let own = own_prefix(family);
        lan.daemon.withdraw(own)?;
        lan.gateway.unrouted(own)?;
    }
    lan.feeder.withdraw()?;
    for family in lan.families() {
        let fed = fed_prefix(*family);
        wait_until(&format!("{fed} gone at the daemon"), DEADLINE, || {
            expect(lan.daemon.heard(fed)?.is_empty(), || "still there".into())
        })?;
    }
    lan.passed();
    Ok(Verdict::Yes)
}

fn told_to_the_daemon(lan: &Lan, setup: &Setup, family: Family) -> Result<()> {
    let heard = lan.told(fed_prefix(family))?;
    let as_path: &[u32] = match setup.internal {
        true => &[65002, 65333],
        false => &[65000, 65002, 65333],
    };
    let good = heard.as_path == as_path
        && heard.communities == set(&["65002:7", "65002:8"])
        && heard.large_communities == set(&["65002:1:2"])
        && heard.next_hop == setup.remote();
    expect(good, || format!("the daemon was told {heard:?}"))?;
    if setup.internal {
        // RFC 4271 section 5.1.5: from an external peer, to all internal ones; the MED with it.
        let good = heard.local_pref == Some(100) && heard.med == Some(40);
        expect(good, || format!("the daemon was told {heard:?}"))?;
    }
    Ok(())
}

fn told_by_the_daemon(lan: &Lan, setup: &Setup, family: Family) -> Result<()> {
    let own = own_prefix(family);
    let via = lan.gateway.routed(own)?;
    let good = via.keys().eq([setup.local()]);
    expect(good, || format!("the kernel sends {own} to {via:?}"))?;
    lan.feeder.hears(own, |heard| {
        let as_path: &[u32] = match setup.internal {
            true => &[65000],
            false => &[65000, 65001],
        };
        let good = heard.as_path == as_path
            && heard.communities == set(&[MARK])
            && heard.large_communities == set(&[LARGE_MARK]);
        expect(good, || format!("the feeder was told {heard:?}"))
    })
}

/// IPv4 prefixes over the IPv6 session, next hops IPv6 on both sides.
pub fn extended_next_hop(trial: &Trial) -> Result<Verdict> {
    if trial.kind == Kind::Openbgpd {
        return Ok(Verdict::No("it does not offer it"));
    }
    let lan = trial.up(Setup::PLAIN)?;
    let via = lan.gateway.routed(own_prefix(Family::V4))?;
    expect(via.keys().all(|hop| hop.contains(':')), || {
        format!("{via:?}")
    })?;
    let heard = lan.told(fed_prefix(Family::V4))?;
    expect(heard.next_hop.contains(':'), || format!("{heard:?}"))?;
    lan.passed();
    Ok(Verdict::Yes)
}

/// The daemon asks for all again, and gets it.
pub fn refresh(trial: &Trial) -> Result<Verdict> {
    if trial.kind == Kind::Gobgp {
        return Ok(Verdict::No("it keeps all it was told, and never asks"));
    }
    refreshed(trial)?.passed();
    Ok(Verdict::Yes)
}

/// The same, and our answer has a beginning and an end.
pub fn enhanced_refresh(trial: &Trial) -> Result<Verdict> {
    if trial.kind == Kind::Gobgp {
        return Ok(Verdict::No("it keeps all it was told, and never asks"));
    }
    let lan = refreshed(trial)?;
    for (mark, name) in [(1, "beginning"), (2, "end")] {
        // IPv6 unicast.
        let message = [&[0xff; 16][..], &[0, 23, 5, 0, 2, mark, 1]].concat();
        wait_until(&format!("the {name} in the capture"), DEADLINE, || {
            expect(lan.gateway.captured(&message)?, || "not there".into())
        })?;
    }
    lan.passed();
    Ok(Verdict::Yes)
}

fn refreshed(trial: &Trial) -> Result<Lan> {
    let mut lan = trial.up(Setup::PLAIN)?;
    // Nothing is under way any more when a prefix that came later is there.
    lan.gateway.originate("2001:db8:2:3::/64")?;
    wait_until("a later prefix", DEADLINE, || {
        lan.told("2001:db8:2:3::/64").map(drop)
    })?;
    let before = lan.daemon.updates()?;
    lan.daemon.refresh()?;
    wait_until("all prefixes again", DEADLINE, || {
        let now = lan.daemon.updates()?;
        expect(now > before, || format!("{now} updates, as before"))
    })?;
    lan.exchanged()?;
    Ok(lan)
}

/// An UPDATE of more than 4,096 bytes comes from the feeder and goes to the daemon.
pub fn long_message(trial: &Trial) -> Result<Verdict> {
    if matches!(trial.kind, Kind::Gobgp | Kind::Openbgpd) {
        return Ok(Verdict::No("it does not offer it"));
    }
    let lan = trial.up(Setup::PLAIN)?;
    let prefix = lan.feeder.announce_long()?;
    wait_until("a long message at the daemon", DEADLINE, || {
        let count = match trial.kind {
            // It shows the first of them only, but counts them.
            Kind::Bird => bird::large_communities(&lan.daemon.host, prefix)?,
            _ => lan.told(prefix)?.large_communities.len(),
        };
        expect(count == LONG, || format!("{count} large communities"))
    })?;
    lan.passed();
    Ok(Verdict::Yes)
}

/// What both routers announce goes over both; what one takes back goes over the other.
pub fn ecmp(trial: &Trial) -> Result<Verdict> {
    let mut lan = trial.up(Setup::PLAIN)?;
    let prefix = lan.feeder.announce_shared()?;
    lan.daemon.announce(Route::plain(prefix))?;
    lan.gateway.sends(prefix, &[(DAEMON6, 1), (FEEDER, 1)])?;
    lan.daemon.withdraw(prefix)?;
    lan.gateway.sends(prefix, &[(FEEDER, 1)])?;
    lan.passed();
    Ok(Verdict::Yes)
}
