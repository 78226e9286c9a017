//! The daemon's life: passes, and the reasons for them.

use crate::bgp::Inquiry;
use crate::charon::{Keeper, Seen};
use crate::control::InForce;
use crate::drain::Leaving;
use crate::kernel::{self, Event, Kernel};
use crate::preflight::{self, Release};
use crate::problem::problem;
use crate::reconcile::{self, Gateway, Pass};
use crate::renewal::Held;
use crate::service;
use crate::state_dir::StateDir;
use crate::vici::Vici;
use crate::wireguard::PrivateKey;
use routemesh_proto::{Identity, Problem, Status};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until};
use tracing::{error, info};

/// Between what happens and the pass: what happens meanwhile is dealt with together, and routes that
/// BGP told of are written.
const BREATH: Duration = Duration::from_millis(50);
/// After work on routes, for the report on it.
const REPORT: Duration = Duration::from_millis(200);
/// And at most, for whatever was missed.
const TICK: Duration = Duration::from_secs(10);

/// So often it is looked whether somebody has asked on this host to drain the gateway.
const ASKED: Duration = Duration::from_millis(500);

/// What the daemon is started with.
pub struct Host {
    /// Certificate, key and authority.
    pub identity: watch::Receiver<Identity>,
    /// They are renewed: a controller is known.
    pub renewed: bool,
    /// charon's socket.
    pub vici: PathBuf,
    /// Cache and lock.
    pub state_dir: Arc<StateDir>,
    /// For WireGuard, or why there is none.
    pub key: Result<PrivateKey, Problem>,
    /// Where the BGP speaker can be asked.
    pub bgp: watch::Sender<Option<Inquiry>>,
}

/// Makes every config that comes true, for ever. Ends only with its task.
pub async fn run(
    host: Host,
    mut in_force: watch::Receiver<Option<InForce>>,
    mut refused: watch::Receiver<Option<Problem>>,
    status: watch::Sender<Status>,
) {
    if in_force.borrow().is_none() {
        info!("no config yet: waiting for the controller");
    }
    loop {
        service::alive();
        let first = in_force.borrow_and_update().clone();
        let Some(InForce { config, .. }) = first else {
            tokio::select! {
                () = sleep(TICK) => {}
                changed = in_force.changed() => if changed.is_err() {
                    return;
                },
                Ok(()) = refused.changed() => {
                    status.send_replace(Status {
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                        problems: refused.borrow_and_update().clone().into_iter().collect(),
                        ..Status::default()
                    });
                }
            }
            continue;
        };
        let gateway = match Gateway::start(&config, host.key.clone()).await {
            Ok(gateway) => gateway,
            Err(failure) => {
                report(&status, "gateway", &failure);
                sleep(Duration::from_secs(2)).await;
                continue;
            }
        };
        host.bgp.send_replace(Some(gateway.bgp().inquiry()));
        match live(&host, gateway, &mut in_force, &refused, &status).await {
            Ended::Moved => {}
            Ended::Orphaned => continue,
            Ended::Failed => {
                sleep(Duration::from_secs(2)).await;
                continue;
            }
        }
        // The private side is now another namespace: what is in the old one is of no use there.
        info!("the overlay has changed: leaving {}", config.overlay);
        let vici = Vici::new(host.vici.clone());
        match reconcile::down(&config, &vici, &host.state_dir).await {
            Ok(problems) => problems
                .iter()
                .for_each(|p| error!("{}: {}", p.object, p.reason)),
            Err(failure) => error!("cannot clean up: {failure}"),
        }
    }
}

/// Why a gateway's passes came to an end.
enum Ended {
    /// The private side is to be elsewhere.
    Moved,
    /// The private side was deleted. What is left of ours is among the public interfaces: no time is to be lost.
    Orphaned,
    /// The kernel cannot be watched, or the daemon ends.
    Failed,
}

/// Passes until the overlay changes.
async fn live(
    host: &Host,
    mut gateway: Gateway,
    in_force: &mut watch::Receiver<Option<InForce>>,
    refused: &watch::Receiver<Option<Problem>>,
    status: &watch::Sender<Status>,
) -> Ended {
    let mut kernel_events = match gateway.kernel().events() {
        Ok(events) => events,
        Err(failure) => {
            error!("cannot listen to the kernel: {failure}");
            return Ended::Failed;
        }
    };
    let mut identity = host.identity.clone();
    let mut own = identity.borrow().clone();
    let mut held = Held::of(&own);
    let (wanted, connections) = watch::channel(None);
    let (seen, mut charon) = watch::channel(Seen::default());
    let keeper = Keeper {
        vici: Vici::new(host.vici.clone()),
        socket: host.vici.clone(),
        identity: host.identity.clone(),
        state_dir: host.state_dir.clone(),
        bgp: gateway.bgp().clone(),
        key: None,
        old_keys: Vec::new(),
        shared: BTreeMap::new(),
        kernel: Release::running(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(keeper.run(connections, seen));
    let (found, mut findings) = watch::channel(Vec::new());
    let vici = Vici::new(host.vici.clone());
    tasks.spawn(preflight::watch(vici, in_force.clone(), found));
    let mut bgp_changes = gateway.bgp().changes();
    let mut firewall = gateway.firewall().changes();
    let mut probe = gateway.probe().changes();
    let mut asked = interval(ASKED);
    let mut leaving = Leaving::default();
    let overlay = in_force.borrow().as_ref().map(|f| f.config.overlay.clone());
    loop {
        let Some(mut config) = in_force
            .borrow_and_update()
            .as_ref()
            .map(|f| f.config.clone())
        else {
            return Ended::Failed;
        };
        let drained = host.state_dir.drained();
        config.drain |= drained;
        let mut nowhere = None;
        if let Some(overlay) = overlay.as_ref().filter(|it| **it != config.overlay) {
            match Kernel::open(&config.overlay) {
                Ok(_) => {
                    gateway.bgp().shutdown("overlay changed").await;
                    // What is on its way to charon arrives before the clean-up looks.
                    tasks.shutdown().await;
                    return Ended::Moved;
                }
                // What keeps the mesh's traffic from the default route is not given up for a place that is not there.
                Err(failure) => {
                    nowhere = Some(problem(&config.overlay, &failure));
                    config.overlay = overlay.clone();
                }
            }
        }
        if gateway.kernel().is_orphaned() {
            error!("the overlay was deleted, and perhaps made again");
            return Ended::Orphaned;
        }
        let seen = charon.borrow_and_update().clone();
        let now = std::time::Instant::now();
        let gone = leaving.adapt(&mut config, &seen.yielding, now);
        // Whoever waited for a change has seen it: what it is now is the question.
        let new = identity.borrow_and_update().clone();
        if new != own {
            held = Held::of(&new);
            own = new;
        }
        let pass = gateway.pass(&config, &own, &seen, &wanted);
        let outcome = pass.await;
        let ended = Instant::now();
        let mut due = ended + TICK;
        match outcome {
            Ok(Pass {
                status: mut report,
                again,
            }) => {
                due = due.min(again.map_or(due, Instant::from_std));
                report.problems.extend(refused.borrow().clone());
                report.problems.extend(nowhere);
                report.findings.clone_from(&findings.borrow_and_update());
                let wall = SystemTime::now();
                report.problems.extend(held.problem(host.renewed, wall));
                report.certificate.clone_from(&held.status);
                status.send_replace(report);
            }
            Err(failure) => {
                report(status, "kernel", &failure);
            }
        }
        due = gone.map_or(due, |gone| due.min(Instant::from_std(gone)));
        due = due.max(ended + BREATH);
        service::alive();
        // Until then, what BGP tells.
        while due > Instant::now() {
            if gateway.work().await {
                // What came of it is to be reported, and what was in use may go.
                due = due.min(Instant::now() + REPORT);
            }
            let soon = |due: Instant| due.min(Instant::now() + BREATH);
            tokio::select! {
                alive = gateway.hear() => if !alive {
                    error!("the BGP speaker has ended unexpectedly");
                    return Ended::Failed;
                },
                event = kernel_events.next() => {
                    due = soon(due);
                    match event {
                        // Its nexthops are gone, and its peers do not know yet.
                        Event::LinkDown(link) => {
                            gateway.link_down(link);
                            due = Instant::now();
                        }
                        Event::Gone(key) => gateway.gone(key),
                        Event::Overrun | Event::Routes | Event::Foreign => gateway.doubt(),
                        Event::Changed => {}
                    }
                }
                changed = in_force.changed() => match changed {
                    Ok(()) => due = soon(due),
                    Err(_) => return Ended::Failed,
                },
                changed = charon.changed() => match changed {
                    Ok(()) => due = soon(due),
                    Err(_) => {
                        error!("the loop over charon has ended unexpectedly");
                        return Ended::Failed;
                    }
                },
                Ok(()) = findings.changed() => due = soon(due),
                Ok(()) = identity.changed() => due = soon(due),
                changed = firewall.changed() => match changed {
                    Ok(()) => due = soon(due),
                    Err(_) => {
                        error!("the loop over the packet filter has ended unexpectedly");
                        return Ended::Failed;
                    }
                },
                changed = probe.changed() => match changed {
                    Ok(()) => due = soon(due),
                    Err(_) => {
                        error!("the probing of the tunnels has ended unexpectedly");
                        return Ended::Failed;
                    }
                },
                changed = bgp_changes.changed() => match changed {
                    Ok(()) => due = soon(due),
                    Err(_) => {
                        error!("the BGP speaker has ended unexpectedly");
                        return Ended::Failed;
                    }
                },
                () = sleep_until(due) => {}
                _ = asked.tick() => if host.state_dir.drained() != drained {
                    due = soon(due);
                },
            }
        }
    }
}

/// Reports a failure in place of what is not known any more, and says it once.
fn report(status: &watch::Sender<Status>, object: &str, error: &kernel::Error) {
    let problems = vec![problem(object, error)];
    status.send_if_modified(|status| {
        let news = status.problems != problems;
        if news {
            error!("{object}: {error}");
            *status = Status {
                generation: status.generation,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                problems,
                ..Status::default()
            };
        }
        news
    });
}
