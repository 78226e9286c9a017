//! The one pass that serves boot, change, repair and timer alike: observe, ask BGP, plan, apply,
//! heal, report. What it does is decided by `peers`, `desired`, `plan`, `vici::heal` and `status`;
//! here it is only carried out, and what could not be carried out is named.

use crate::bgp::{self, Bgp};
use crate::config::{Config, Tunnel};
use crate::desired::{self, Links};
use crate::kernel::{self, Kernel, Observed};
use crate::peers;
use crate::plan::{self, Op};
use crate::state::{Connection, State, Target};
use crate::state_dir::StateDir;
use crate::status::{self, Facts, bind};
use crate::vici::{Definition, IkeSa, Secret, Vici, heal};
use ipnet::IpNet;
use routemesh_bgp::PeerState;
use routemesh_proto::{Identity, Problem, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tracing::{debug, info, warn};

/// A silent peer is asked for a sign of life after this long.
const DPD_DELAY: Duration = Duration::from_secs(10);
/// How long peers are waited for to be told that this gateway goes.
const LEAVE: Duration = Duration::from_secs(5);

/// One gateway: its kernel, its charon, its speaker.
pub struct Gateway {
    kernel: Kernel,
    vici: Vici,
    identity: Identity,
    state_dir: Arc<StateDir>,
    bgp: Bgp,
    usable: BTreeSet<String>,
    history: heal::History,
    problems: Vec<Problem>,
    done: Vec<Op>,
}

/// What came of a pass.
pub struct Pass {
    /// The report.
    pub status: Status,
    /// When the next pass is due even if nothing happens: at once after changes that went well, to
    /// see what became of them.
    pub again: Option<Instant>,
}

/// What charon has of ours.
struct Charon {
    connections: BTreeMap<String, Connection>,
    sas: Vec<IkeSa>,
}

impl Gateway {
    /// Opens the kernel and starts the speaker. Routes of ours
    /// in the kernel mean that an earlier run left them for us: a graceful restart.
    pub async fn start(
        config: &Config,
        vici: Vici,
        identity: Identity,
        state_dir: Arc<StateDir>,
    ) -> Result<Self, kernel::Error> {
        let kernel = Kernel::open(config.overlay.as_deref())?;
        let observed = kernel.observe().await?;
        let restarting = !observed.groups.is_empty();
        if restarting {
            info!(
                routes = observed.routes.len(),
                "taking over what an earlier run left in the kernel"
            );
        }
        // With its peers from the first moment: without any, it would have nobody to wait for.
        let speaker = peers::speaker(config, &links(&observed));
        Ok(Self {
            bgp: Bgp::start(kernel.overlay().clone(), speaker, restarting),
            kernel,
            vici,
            identity,
            state_dir,
            usable: BTreeSet::new(),
            history: heal::History::default(),
            problems: Vec::new(),
            done: Vec::new(),
        })
    }

    /// The speaker, whose changes are a reason for a pass.
    pub fn bgp(&self) -> &Bgp {
        &self.bgp
    }

    /// The kernel, whose events are a reason for a pass.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// One pass. An error is a kernel that cannot be observed; whatever else fails is in the status.
    pub async fn pass(&mut self, config: &Config) -> Result<Pass, kernel::Error> {
        let mut problems = Vec::new();
        if let Err(error) = self.kernel.set(kernel::forwarding()).await {
            problems.push(problem("kernel settings", &error));
        }
        let observed = self.kernel.observe().await?;
        let charon = self.charon(&mut problems).await;
        let links = links(&observed);
        self.tell_bgp(config, &links).await;
        let originated = peers::originated(config, &observed.foreign);
        self.bgp.originate(originated.clone()).await;
        let view = self.bgp.view().await;

        let (routes, unresolved) = desired::routes(config, &view.loc_rib, &links);
        for next_hop in unresolved {
            let reason = "it is on no subnet of this gateway: give the interface an address there";
            problems.push(remark(format!("next hop {next_hop}"), reason));
        }
        let state = state(&observed, charon.as_ref());
        let (first, state) = match view.settled {
            true => plan::shrink(&state, &routes.values().flatten().collect()),
            false => (Vec::new(), state),
        };
        let definitions = self.definitions(config);
        let connections = match &charon {
            // What cannot be seen cannot be planned.
            None => BTreeMap::new(),
            Some(_) => digests(&definitions),
        };
        let desired = desired::desired(config, connections, &routes, view.settled, &state);
        let ops: Vec<Op> = first
            .into_iter()
            .chain(plan::plan(&desired, &state))
            .collect();
        let failed = self.perform(&ops, &definitions).await;
        let in_kernel = if failed.is_empty() { &desired } else { &state };
        self.bgp.installed(forwarded(in_kernel)).await;
        let mut changed = !ops.is_empty() && failed.is_empty();
        problems.extend(failed);
        if changed && ops == self.done {
            // Not again at once: two programs that undo each other's work must not spin.
            changed = false;
            let reason = "was done and undone again: does another program claim the same object?";
            problems.extend(ops.first().map(|op| remark(op, reason)));
        }
        self.done = ops;
        if let Err(error) = self.kernel.set(kernel::tunnels(&desired.links)).await {
            problems.push(problem("kernel settings", &error));
        }
        let mut again = changed.then(Instant::now);
        if let Some(charon) = &charon {
            let heal = self.heal(config, &definitions, charon, &mut problems).await;
            again = again.or(heal);
        }
        self.log(&problems);
        let status = status::status(Facts {
            config,
            state: &state,
            usable: &links.usable,
            sas: charon.as_ref().map(|c| c.sas.as_slice()),
            view: &view,
            originated: &originated,
            problems,
            now: self.bgp.age(),
        });
        Ok(Pass { status, again })
    }

    /// What charon has; `None` with a problem where it does not answer. Our key is part of it: a
    /// charon that was restarted has none.
    async fn charon(&self, problems: &mut Vec<Problem>) -> Option<Charon> {
        let look = async {
            let held = self.vici.keys().await?;
            let saved = self.state_dir.key_id();
            if saved.is_none_or(|id| !held.contains(&id)) {
                let key = Secret::new(self.identity.expose_key().to_owned());
                let id = self.vici.load_key(&key).await?;
                self.state_dir.save_key_id(&id);
            }
            Ok::<_, crate::vici::Error>(Charon {
                connections: self.vici.connections().await?,
                sas: self.vici.sas().await?,
            })
        };
        match look.await {
            Ok(charon) => Some(charon),
            Err(error) => {
                problems.push(problem("charon", &error));
                None
            }
        }
    }

    /// Tells the speaker who its peers are, and which of them cannot or can again be reached.
    async fn tell_bgp(&mut self, config: &Config, links: &Links) {
        self.bgp.configure(peers::speaker(config, links)).await;
        for tunnel in config.tunnels.values() {
            let link = tunnel.link();
            match (self.usable.contains(&link), links.usable.contains(&link)) {
                (true, false) => self.bgp.dead(&tunnel.name()).await,
                (false, true) => self.bgp.alive(&tunnel.name()).await,
                _ => {}
            }
        }
        self.usable.clone_from(&links.usable);
    }

    /// charon said that an SA of this connection is gone. If that was the last one, the tunnel is
    /// dead, and BGP need not wait for its hold timer.
    pub async fn connection_down(&self, config: &Config, name: &str) {
        let Some(tunnel) = config.tunnels.values().find(|t| t.name() == name) else {
            return;
        };
        if let Ok(sas) = self.vici.sas().await
            && !sas.iter().any(|sa| status::carries(sa, tunnel))
        {
            info!("tunnel {name} has lost its last SA");
            self.bgp.dead(name).await;
        }
    }

    fn definitions(&self, config: &Config) -> BTreeMap<String, Definition> {
        let define = |tunnel: &Tunnel| Definition {
            local_addrs: vec![tunnel.local_endpoint.clone()],
            remote_addrs: vec![tunnel.remote_endpoint.clone()],
            local_id: config.gateway.clone(),
            remote_id: tunnel.peer.clone(),
            certificate_pem: self.identity.certificate.clone(),
            ca_pem: self.identity.ca.clone(),
            ike_proposals: config.ike_proposals.clone(),
            esp_proposals: config.esp_proposals.clone(),
            bind: bind(tunnel),
            initiate: tunnel.initiate,
            dpd_delay: DPD_DELAY,
        };
        config
            .tunnels
            .values()
            .map(|t| (t.name(), define(t)))
            .collect()
    }

    /// Carries out a plan in order. A connection whose interface could not be made is not loaded:
    /// without the interface its SA would let traffic pass in clear.
    async fn perform(
        &self,
        ops: &[Op],
        definitions: &BTreeMap<String, Definition>,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut bare: BTreeSet<String> = BTreeSet::new();
        if !ops.is_empty() {
            info!("{} changes", ops.len());
        }
        for run in ops.chunk_by(|a, b| matches!((a, b), (Op::Kernel(_), Op::Kernel(_)))) {
            let kernel: Vec<kernel::Op> = run.iter().filter_map(Op::kernel).cloned().collect();
            for op in &kernel {
                debug!("{op}");
            }
            for error in self
                .kernel
                .apply(&kernel)
                .await
                .into_iter()
                .filter_map(Result::err)
            {
                bare.extend(made_link(&error.op).map(ToOwned::to_owned));
                problems.push(problem(&error.op, &error.reason));
            }
            for op in run {
                let done = match op {
                    Op::Kernel(_) => continue,
                    Op::Load(name) if bare.contains(link_of(name)) => continue,
                    Op::Load(name) => self.load(name, definitions).await,
                    Op::Unload(name) => self.unload(name).await,
                };
                info!("{op}");
                if let Err(error) = done {
                    problems.push(problem(op, &error));
                }
            }
        }
        problems
    }

    async fn load(
        &self,
        name: &str,
        definitions: &BTreeMap<String, Definition>,
    ) -> Result<(), crate::vici::Error> {
        match definitions.get(name) {
            Some(definition) => self.vici.load(name, definition).await,
            None => Ok(()),
        }
    }

    async fn unload(&self, name: &str) -> Result<(), crate::vici::Error> {
        unload(&self.vici, name).await
    }

    /// Starts what has no SA and closes what is double; returns when to look again.
    async fn heal(
        &mut self,
        config: &Config,
        definitions: &BTreeMap<String, Definition>,
        charon: &Charon,
        problems: &mut Vec<Problem>,
    ) -> Option<Instant> {
        let wanted: Vec<heal::Wanted> = config
            .tunnels
            .values()
            .filter_map(|tunnel| {
                let connection = tunnel.name();
                let child = definitions.get(&connection)?.digest();
                Some(heal::Wanted {
                    connection,
                    child,
                    bind: bind(tunnel),
                    initiate: tunnel.initiate,
                })
            })
            .collect();
        let heal = heal::wanted(&wanted, &charon.sas, &self.history, Instant::now());
        self.history = heal.history;
        for action in heal.actions {
            debug!("{action:?}");
            let done = match &action {
                heal::Action::Initiate { connection, child } => {
                    self.vici.initiate(connection, child).await
                }
                heal::Action::Terminate { unique_id } => self.vici.terminate(*unique_id).await,
                heal::Action::TerminateChild { unique_id } => {
                    self.vici.terminate_child(*unique_id).await
                }
            };
            if let Err(error) = done {
                problems.push(problem("charon", &error));
            }
        }
        heal.again
    }

    /// Says each problem once, when it comes, and when all are gone.
    fn log(&mut self, problems: &[Problem]) {
        for problem in problems.iter().filter(|p| !self.problems.contains(p)) {
            warn!("{}: {}", problem.object, problem.reason);
        }
        if problems.is_empty() && !self.problems.is_empty() {
            info!("all problems are gone");
        }
        self.problems = problems.to_vec();
    }
}

/// Removes all that is ours from kernel and charon, and nothing else. What failed is returned.
pub async fn down(
    config: &Config,
    vici: &Vici,
    state_dir: &StateDir,
) -> Result<Vec<Problem>, kernel::Error> {
    let mut problems = Vec::new();
    let kernel = Kernel::open(config.overlay.as_deref())?;
    take_leave(config, &kernel).await?;
    // SAs first: while the interface is there, nothing passes in clear.
    match vici.connections().await {
        Ok(connections) => {
            for name in connections.keys() {
                if let Err(error) = unload(vici, name).await {
                    problems.push(problem(format!("connection {name}"), &error));
                }
            }
            if let Some(id) = state_dir.key_id()
                && let Err(error) = vici.unload_key(&id).await
            {
                problems.push(problem("private key", &error));
            }
        }
        Err(error) => problems.push(problem("charon", &error)),
    }
    let observed = state(&kernel.observe().await?, None);
    let ops: Vec<kernel::Op> = plan::plan(&State::default(), &observed)
        .iter()
        .filter_map(Op::kernel)
        .cloned()
        .collect();
    for error in kernel.apply(&ops).await.into_iter().filter_map(Result::err) {
        problems.push(problem(&error.op, &error.reason));
    }
    Ok(problems)
}

/// Peers keep the paths of an agent that went away for its return (RFC 4724). This one does not
/// return: it opens the sessions once more, says that nothing was preserved, and closes them.
async fn take_leave(config: &Config, kernel: &Kernel) -> Result<(), kernel::Error> {
    let links = links(&kernel.observe().await?);
    let bgp = Bgp::start(
        kernel.overlay().clone(),
        peers::speaker(config, &links),
        false,
    );
    let established = |view: bgp::View| {
        let mut peers = view.peers.into_values();
        peers.all(|peer| peer.state == PeerState::Established)
    };
    let began = Instant::now();
    while began.elapsed() < LEAVE && !established(bgp.view().await) {
        sleep(Duration::from_millis(100)).await;
    }
    bgp.shutdown("gateway taken down").await;
    // What was said has to leave the sockets before they go.
    sleep(Duration::from_millis(100)).await;
    Ok(())
}

/// Unloads a connection and closes its SAs, which would outlive it.
async fn unload(vici: &Vici, name: &str) -> Result<(), crate::vici::Error> {
    vici.unload(name).await?;
    for sa in vici.sas().await?.iter().filter(|sa| sa.connection == name) {
        vici.terminate(sa.unique_id).await?;
    }
    Ok(())
}

/// The interface that an operation would have made ready.
fn made_link(op: &kernel::Op) -> Option<&str> {
    match op {
        kernel::Op::AddLink { name, .. }
        | kernel::Op::MoveLink { name }
        | kernel::Op::SetLink { name, .. } => Some(name),
        _ => None,
    }
}

/// The interface that a connection's name begins with.
fn link_of(connection: &str) -> &str {
    connection
        .split_once('-')
        .map_or(connection, |(link, _)| link)
}

/// A problem told by an error and the causes beneath it, as far as it does not tell them itself.
fn problem(object: impl ToString, error: &dyn Error) -> Problem {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !reason.ends_with(&text) {
            reason = format!("{reason}: {text}");
        }
        cause = error.source();
    }
    remark(object, &reason)
}

fn remark(object: impl ToString, reason: &str) -> Problem {
    Problem {
        object: object.to_string(),
        reason: reason.to_owned(),
    }
}

fn links(observed: &Observed) -> Links {
    let up = observed.link_state.iter().filter(|(_, usable)| **usable);
    Links {
        connected: observed.connected.clone(),
        usable: up.map(|(name, _)| name.clone()).collect(),
    }
}

/// Prefixes that carry traffic.
fn forwarded(state: &State) -> BTreeSet<IpNet> {
    let routes = state.routes.iter();
    let over_group = routes.filter(|(_, target)| matches!(target, Target::Group(_)));
    over_group.map(|(key, _)| key.prefix).collect()
}

fn digests(definitions: &BTreeMap<String, Definition>) -> BTreeMap<String, Connection> {
    let digest = |d: &Definition| Connection { digest: d.digest() };
    definitions
        .iter()
        .map(|(name, d)| (name.clone(), digest(d)))
        .collect()
}

fn state(observed: &Observed, charon: Option<&Charon>) -> State {
    State {
        links: observed.links.clone(),
        nexthops: observed.nexthops.clone(),
        groups: observed.groups.clone(),
        routes: observed.routes.clone(),
        connections: charon.map(|c| c.connections.clone()).unwrap_or_default(),
    }
}
