//! The one pass over the kernel that serves boot, change, repair and timer alike: observe, ask
//! BGP, plan, apply, report. What it does is decided by `peers`, `desired`, `plan` and `status`;
//! here it is only carried out, and what could not be carried out is named.
//!
//! charon has a loop of its own, `charon`, so that nothing here waits for it.

use crate::bgp::{self, Bgp};
use crate::charon::{self, Definitions, Seen};
use crate::config::Config;
use crate::desired::{self, Links};
use crate::kernel::{self, Claim, Kernel, Observed, Op};
use crate::peers;
use crate::plan;
use crate::problem::{problem, remark};
use crate::state::{State, Target};
use crate::state_dir::StateDir;
use crate::status::{self, Facts};
use crate::vici::Vici;
use ipnet::IpNet;
use routemesh_bgp::PeerState;
use routemesh_proto::{Identity, Problem, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

/// How long peers are waited for to be told that this gateway goes.
const LEAVE: Duration = Duration::from_secs(5);

/// One gateway's kernel and its BGP speaker.
pub struct Gateway {
    kernel: Kernel,
    bgp: Bgp,
    usable: BTreeSet<String>,
    problems: Vec<Problem>,
    tried: Vec<Op>,
    _claim: Claim,
}

/// What came of a pass.
pub struct Pass {
    /// The report.
    pub status: Status,
    /// When the next pass is due even if nothing happens: at once after changes that went well, to
    /// see what became of them.
    pub again: Option<Instant>,
}

impl Gateway {
    /// Opens the kernel and starts the speaker. Routes of ours in the kernel mean that an earlier
    /// run left them for us: a graceful restart.
    pub async fn start(config: &Config) -> Result<Self, kernel::Error> {
        let kernel = Kernel::open(config.overlay.as_deref())?;
        let claim = kernel.claim()?;
        let observed = kernel.observe().await?;
        let restarting = !observed.groups.is_empty();
        if restarting {
            info!(
                routes = observed.routes.len(),
                "taking over what an earlier run left in the kernel"
            );
        }
        // With its peers from the first moment: without any, it would have nobody to wait for.
        let links = with_routers(links(&observed), config, &kernel).await?;
        let setup = peers::setup(config, &links);
        let originated = peers::originated(config, &observed.foreign);
        let overlay = kernel.overlay().clone();
        Ok(Self {
            bgp: Bgp::start(overlay, setup, originated, restarting),
            kernel,
            usable: BTreeSet::new(),
            problems: Vec::new(),
            tried: Vec::new(),
            _claim: claim,
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

    /// One pass, with what was last seen of charon; says which connections charon should have. An
    /// error is a kernel that cannot be observed; whatever else fails is in the status.
    pub async fn pass(
        &mut self,
        config: &Config,
        identity: &Identity,
        seen: &Seen,
        wanted: &watch::Sender<Option<Definitions>>,
    ) -> Result<Pass, kernel::Error> {
        let mut problems = seen.problems.clone();
        let observed = self.kernel.observe().await?;
        let links = with_routers(links(&observed), config, &self.kernel).await?;
        self.tell_bgp(config, &links).await;
        let originated = peers::originated(config, &observed.foreign);
        self.bgp.originate(originated.clone()).await;
        let view = self.bgp.view().await;

        let (routes, unresolved) = desired::routes(config, &view.loc_rib, &links);
        for next_hop in unresolved {
            let reason = "it is on no subnet of this gateway: give the interface an address there";
            problems.push(remark(format!("next hop {next_hop}"), reason));
        }
        for (address, reason) in &view.deaf {
            problems.push(remark(format!("address {address}"), reason));
        }
        let (first, state) = match view.settled {
            true => plan::shrink(&state(&observed), &routes.values().flatten().collect()),
            false => (Vec::new(), state(&observed)),
        };
        let mut desired = desired::desired(config, &routes, view.settled, &state);
        let in_charon = seen.charon.as_ref().map(charon::Charon::links);
        desired::keep_links(&mut desired, &state, in_charon.as_ref());
        let ops: Vec<Op> = first
            .into_iter()
            .chain(plan::plan(&desired, &state))
            .collect();
        let failed = self.perform(&ops).await;
        let in_kernel = match failed.is_empty() {
            true => desired.clone(),
            false => self::state(&self.kernel.observe().await?),
        };
        let in_kernel = &in_kernel;
        // Last: before the `unreachable` routes are there, nothing is forwarded.
        if let Err(error) = self.kernel.set(kernel::forwarding()).await {
            problems.push(problem("kernel settings", &error));
        }
        self.bgp.installed(forwarded(in_kernel)).await;
        want(
            wanted,
            charon::definitions(config, identity),
            &desired,
            in_kernel,
        );
        if let Err(error) = self.kernel.set(kernel::tunnels(&in_kernel.links)).await {
            problems.push(problem("kernel settings", &error));
        }
        // Not at once for the same again: two programs that undo each other's work must not spin.
        let same = ops == self.tried;
        let again = (!ops.is_empty() && !same).then(Instant::now);
        if same && failed.is_empty() && self.problems.is_empty() {
            let reason = "was done and undone again: does another program claim the same object?";
            problems.extend(ops.first().map(|op| remark(op, reason)));
        }
        problems.extend(failed);
        self.tried = ops;
        self.log(&problems);
        let status = status::status(Facts {
            config,
            state: &state,
            usable: &links.usable,
            sas: seen.charon.as_ref().map(|c| c.sas.as_slice()),
            view: &view,
            originated: &originated,
            problems,
            now: self.bgp.age(),
        });
        Ok(Pass { status, again })
    }

    /// Tells the speaker who its peers are, and which of them cannot or can again be reached.
    async fn tell_bgp(&mut self, config: &Config, links: &Links) {
        self.bgp.configure(peers::setup(config, links)).await;
        for (peer, link) in peers::links(config, links) {
            match (self.usable.contains(&link), links.usable.contains(&link)) {
                (true, false) => self.bgp.dead(&peer).await,
                (false, true) => self.bgp.alive(&peer).await,
                _ => {}
            }
        }
        self.usable.clone_from(&links.usable);
    }

    /// Carries out a plan in order, and names what failed.
    async fn perform(&self, ops: &[Op]) -> Vec<Problem> {
        if !ops.is_empty() {
            info!("{} changes in the kernel", ops.len());
        }
        for op in ops {
            debug!("{op}");
        }
        failures(self.kernel.apply(ops).await)
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
    let kernel = Kernel::open(config.overlay.as_deref())?;
    let _claim = kernel.claim()?;
    take_leave(config, &kernel).await?;
    // SAs first: while the interface is there, nothing passes in clear.
    let mut problems = charon::down(vici, state_dir).await;
    let observed = state(&kernel.observe().await?);
    let ops = plan::plan(&State::default(), &observed);
    problems.extend(failures(kernel.apply(&ops).await));
    Ok(problems)
}

/// Peers keep the paths of an agent that went away for its return (RFC 4724). This one does not
/// return: it opens the sessions once more, says that nothing was preserved, and closes them.
async fn take_leave(config: &Config, kernel: &Kernel) -> Result<(), kernel::Error> {
    let links = with_routers(links(&kernel.observe().await?), config, kernel).await?;
    let setup = peers::setup(config, &links);
    let bgp = Bgp::start(kernel.overlay().clone(), setup, BTreeSet::new(), false);
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

/// Wants the connections of all tunnels whose interface is where and what it should be.
fn want(
    wanted: &watch::Sender<Option<Definitions>>,
    mut definitions: Definitions,
    desired: &State,
    in_kernel: &State,
) {
    let kind_and_side = |state: &State, link: &str| {
        let link = state.links.get(link)?;
        Some((link.kind.clone(), link.side))
    };
    definitions.retain(|name, _| {
        let link = charon::link_of(name);
        kind_and_side(in_kernel, link) == kind_and_side(desired, link)
    });
    wanted.send_if_modified(|before| {
        let changed = before.as_ref() != Some(&definitions);
        *before = Some(definitions);
        changed
    });
}

fn failures(results: Vec<Result<(), kernel::OpError>>) -> Vec<Problem> {
    let errors = results.into_iter().filter_map(Result::err);
    errors
        .map(|error| problem(&error.op, &error.reason))
        .collect()
}

fn links(observed: &Observed) -> Links {
    let up = observed.link_state.iter().filter(|(_, usable)| **usable);
    Links {
        connected: observed.connected.clone(),
        usable: up.map(|(name, _)| name.clone()).collect(),
        link_local: observed.link_local.clone(),
        routers: BTreeMap::new(),
    }
}

/// Adds the routers that made themselves known, where the configuration asks for them.
async fn with_routers(
    links: Links,
    config: &Config,
    kernel: &Kernel,
) -> Result<Links, kernel::Error> {
    let routers = match config.is_unnumbered() {
        true => kernel.routers().await?,
        false => BTreeMap::new(),
    };
    Ok(Links { routers, ..links })
}

/// Prefixes that carry traffic.
fn forwarded(state: &State) -> BTreeSet<IpNet> {
    let routes = state.routes.iter();
    let over_group = routes.filter(|(_, target)| matches!(target, Target::Group(_)));
    over_group.map(|(key, _)| key.prefix).collect()
}

fn state(observed: &Observed) -> State {
    State {
        links: observed.links.clone(),
        nexthops: observed.nexthops.clone(),
        groups: observed.groups.clone(),
        routes: observed.routes.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Link, LinkKind, Side};
    use crate::vici::{Bind, Definition};

    fn with_link(side: Side) -> State {
        let link = Link {
            side,
            kind: LinkKind::Xfrm { if_id: 1 },
            up: true,
            mtu: 1500,
            addresses: BTreeSet::new(),
        };
        State {
            links: [("rm1".to_owned(), link)].into(),
            ..State::default()
        }
    }

    #[test]
    fn no_connection_is_wanted_before_its_interface_is_in_place() {
        let definition = Definition {
            local_addrs: Vec::new(),
            remote_addrs: Vec::new(),
            local_id: "V1-1".into(),
            remote_id: "V2-1".into(),
            certificate_pem: String::new(),
            ca_pem: String::new(),
            ike_proposals: Vec::new(),
            esp_proposals: Vec::new(),
            bind: Bind::IfId(1),
            initiate: true,
            dpd_delay: Duration::from_secs(10),
        };
        let definitions: Definitions = [("rm1-V2-1".to_owned(), definition)].into();
        let desired = with_link(Side::Overlay);
        let wants = |in_kernel: &State| {
            let (wanted, seen) = watch::channel(None);
            want(&wanted, definitions.clone(), &desired, in_kernel);
            seen.borrow().as_ref().map_or(0, Definitions::len)
        };
        assert_eq!(wants(&State::default()), 0);
        assert_eq!(wants(&with_link(Side::Underlay)), 0);
        assert_eq!(wants(&desired), 1);
    }
}
