//! The kernel made as it should be: passes, which serve boot, change, repair and timer alike, and
//! between them what BGP tells, as it comes. What is to be done is decided by `peers`, `desired`,
//! `plan`, `dataplane` and `status`; here it is only carried out, and what could not be carried out
//! is named.
//!
//! charon has a loop of its own, `charon`, so that nothing here waits for it.

mod down;
mod listing;
mod seen;
mod unled;
mod wanted;
mod work;

pub use down::down;
use down::open;

use crate::bgp::Bgp;
use crate::charon::{self, Definitions, Seen};
use crate::config::{Config, Overlay};
use crate::dataplane::{Dataplane, News, Work};
use crate::desired::{self, Links, Ways};
use crate::firewall::Firewall;
use crate::kernel::{self, Answers, Begun, Claim, Foreign, Kernel, Observed, Op, Paths};
use crate::liveness::Sign;
use crate::memory::{self, Litter};
use crate::mtu;
use crate::nat::Nat;
use crate::peers;
use crate::plan;
use crate::probe::{self, Probe};
use crate::problem::{problem, remark};
use crate::repairs::{self, Repairs};
use crate::state::{Place, RouteKey};
use crate::status::{self, Facts};
use crate::wireguard::{self, PrivateKey};
use ipnet::IpNet;
use listing::{Listed, compare};
use routemesh_bgp::wire::Family;
use routemesh_proto::{Identity, Problem, Status};
use seen::{links, state, with_routers};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};
use unled::{lookup, unled};
use wanted::{forwarding, unwanted, want};

/// One gateway's kernel and its BGP speaker.
pub struct Gateway {
    kernel: Arc<Kernel>,
    /// For WireGuard, or why there is none.
    key: Result<PrivateKey, Problem>,
    bgp: Bgp,
    news: mpsc::Receiver<News>,
    dataplane: Dataplane,
    firewall: Firewall,
    probe: Probe,
    /// What the kernel is doing, in order.
    under_way: VecDeque<(Work, Begun)>,
    /// What it has done.
    answers: VecDeque<(Work, Answers)>,
    /// How often nexthops of lost peers were taken away beside a pass.
    losses: u64,
    usable: BTreeSet<String>,
    problems: Vec<Problem>,
    tried: Vec<Op>,
    /// Routes of other programs.
    foreign: BTreeMap<IpNet, u8>,
    /// Between the endpoints.
    paths: Paths,
    originated: BTreeSet<IpNet>,
    /// Interfaces that went down since the last pass.
    shaken: BTreeSet<String>,
    /// Routes of ours that somebody has deleted since the last pass.
    gone: BTreeSet<RouteKey>,
    /// When routes were put back, of late.
    mended: BTreeMap<RouteKey, Instant>,
    /// What somebody else undid of interfaces and addresses.
    repairs: Repairs,
    /// All that was undone by others, as last told.
    repaired: Repairs,
    /// What the kernel refused since the last review, and when that is tried again.
    refused: Vec<Problem>,
    retry: Option<Instant>,
    listed: Listed,
    /// Since memory was given back.
    litter: Litter,
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
    pub async fn start(
        config: &Config,
        key: Result<PrivateKey, Problem>,
    ) -> Result<Self, kernel::Error> {
        let kernel = open(&config.overlay).await?;
        let claim = kernel.claim()?;
        let observed = kernel.objects().await?;
        let restarting = !observed.groups.is_empty();
        // With its peers from the first moment: without any, it would have nobody to wait for.
        let links = with_routers(links(&observed), config, &kernel).await?;
        let setup = peers::setup(config, &links);
        let mut dataplane = Dataplane::default();
        let place = kernel.place(config.place);
        dataplane.place(place);
        let ways = Ways::new(config, &links);
        let none = BTreeSet::new();
        dataplane.observed(state(&observed, place), observed.taken, ways, &none);
        let began = Instant::now();
        let mut foreign = Foreign::new(&dataplane.state().links, kernel.table());
        // An earlier run may have had another place for them.
        let mut tables = kernel.tables().await?;
        tables.extend(dataplane.tables());
        let mut listing = kernel.routes(&tables);
        while let Some(piece) = listing.recv().await {
            compare(piece?, &mut dataplane, &mut foreign, config);
        }
        dataplane.end_listing();
        let foreign = foreign.best();
        let routes = &dataplane.state().routes;
        if restarting {
            info!(
                routes = routes.len(),
                "taking over what an earlier run left in the kernel"
            );
        }
        let originated = peers::originated(config, &foreign);
        let overlay = kernel.overlay().clone();
        let firewall = Firewall::start(kernel.underlay(), &overlay);
        let probe = Probe::start(overlay.clone());
        let inherited = restarting.then(|| forwarding(config, dataplane.state()));
        let (bgp, news) = Bgp::start(overlay, setup, originated.clone(), inherited);
        let forwarded = routes.iter().map(|(prefix, _)| (prefix, true));
        bgp.installed(forwarded.collect()).await;
        Ok(Self {
            kernel: Arc::new(kernel),
            key,
            bgp,
            news,
            dataplane,
            firewall,
            probe,
            under_way: VecDeque::new(),
            answers: VecDeque::new(),
            losses: 0,
            usable: BTreeSet::new(),
            problems: Vec::new(),
            tried: Vec::new(),
            foreign,
            paths: Paths::default(),
            originated,
            shaken: BTreeSet::new(),
            gone: BTreeSet::new(),
            mended: BTreeMap::new(),
            repairs: Repairs::default(),
            repaired: Repairs::default(),
            refused: Vec::new(),
            retry: None,
            listed: Listed::first(began),
            litter: Litter::default(),
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

    /// The packet filter, whose changes are a reason for a pass.
    pub fn firewall(&self) -> &Firewall {
        &self.firewall
    }

    /// What is known of the sizes that tunnels carry, whose changes are a reason for a pass.
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Routes may not be as they were: they are listed in a pass to come.
    pub fn doubt(&mut self) {
        self.listed.doubt = true;
    }

    /// An interface went down, and its nexthops with it.
    pub fn link_down(&mut self, link: String) {
        self.shaken.insert(link);
    }

    /// Somebody has deleted a route of ours: the next pass puts it back.
    pub fn gone(&mut self, key: RouteKey) {
        self.gone.insert(key);
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
        let began = Instant::now();
        self.land().await;
        let mut problems = seen.problems.clone();
        let (observed, links) = self.observe(config).await?;
        let (nat, absent) = Nat::new(config, &observed.outer);
        problems.extend(absent);
        self.tell_bgp(config, &links).await;
        let ways = Ways::new(config, &links);
        let seen_links = observed.links.clone();
        let place = self.kernel.place(config.place);
        self.dataplane.place(place);
        let known_links = self.dataplane.state().links.clone();
        let shaken = std::mem::take(&mut self.shaken);
        let state = state(&observed, place);
        self.dataplane
            .observed(state, observed.taken, ways, &shaken);
        let now = Instant::now();
        self.mend(now).await;
        if self.retry.is_some_and(|due| due <= now) {
            self.retry = None;
            self.doubt();
            self.dataplane.want_review();
        }
        if self.listed.due() <= now
            && let Err(failure) = self.list(config).await
        {
            problems.push(problem("kernel routes", &failure));
        }
        self.originate(config).await;
        let mtus = self.mtus(config, &nat, seen, &mut problems).await;
        let mut desired = desired::desired(config, place, &mtus, self.key.as_ref().ok());
        if let Err(reason) = &self.key {
            let keyless = desired::keep_keyless(&mut desired, self.dataplane.state(), config);
            problems.extend(keyless.then(|| reason.clone()));
        }
        let in_charon = seen.charon.as_ref().map(charon::Charon::links);
        desired::keep_links(&mut desired, self.dataplane.state(), in_charon.as_ref());
        let in_kernel = &self.dataplane.state().links;
        self.firewall
            .want(config, &nat, in_kernel, seen.charon.as_ref());
        let firewall = self.firewall.seen();
        // No interface before its rules.
        let may_be = |link: &str| in_kernel.contains_key(link) || firewall.guards(config, link);
        desired.links.retain(|link, _| may_be(link));
        let rest = self.dataplane.settled() && self.dataplane.at_rest();
        self.repairs += repairs::links(&known_links, &seen_links, &desired.links);
        let mut ops = plan::plan(&desired, self.dataplane.state(), rest);
        let (unled, reason) = self.unled(config).await;
        problems.extend(reason);
        ops.retain(|op| !gives_up(op, place, &unled));
        let failed = self.perform(&ops).await;
        // Last: before the `unreachable` routes are there, nothing is forwarded.
        let kernel = self.kernel.clone();
        let mut settings = kernel::forwarding(config.hash);
        settings.push(kernel::in_full(&config.announce));
        let set = self.meanwhile(kernel.set(settings)).await;
        if let Err(error) = set {
            problems.push(problem("kernel settings", &error));
        }
        let in_kernel = self.dataplane.state();
        let definitions = charon::definitions(config, &nat, identity);
        want(wanted, definitions, &desired, in_kernel);
        // charon has nothing for them, or is about to lose it, and tells nobody.
        let left = match (&seen.charon, &*wanted.borrow()) {
            (Some(_), Some(wanted)) => unwanted(config, wanted),
            _ => Vec::new(),
        };
        let tunnels = kernel::tunnels(&in_kernel.links);
        for way in left {
            self.bgp.sign(&way, Sign::Sa(false)).await;
        }
        if let Err(error) = self.meanwhile(kernel.set(tunnels)).await {
            problems.push(problem("kernel settings", &error));
        }
        if self.litter.due().is_some_and(|due| due <= now) {
            self.litter = Litter::default();
            memory::give_back();
        }
        let bgp = self.bgp.clone();
        let view = self.meanwhile(bgp.view()).await;
        for next_hop in self.dataplane.unresolved() {
            let reason = "it is on no subnet of this gateway: give the interface an address there";
            problems.push(remark(format!("next hop {next_hop}"), reason));
        }
        let targets = probe::targets(config, &view, &self.dataplane.state().links);
        self.probe.want(targets);
        problems.extend(self.probe.problems());
        for (address, reason) in &view.deaf {
            problems.push(remark(format!("address {address}"), reason));
        }
        for (way, reason) in &view.unasked {
            problems.push(remark(format!("health of {way}"), reason));
        }
        // Not at once for the same again: two programs that undo each other's work must not spin.
        let same = ops == self.tried;
        let again = (!ops.is_empty() && !same).then(Instant::now);
        let listing = self.listed.doubt.then(|| self.listed.due());
        let again = again.into_iter().chain(listing).chain(self.litter.due());
        let again = again.min();
        if same && failed.is_empty() && self.problems.is_empty() {
            let reason = "was done and undone again: does another program claim the same object?";
            problems.extend(ops.first().map(|op| remark(op, reason)));
        }
        problems.extend(failed);
        problems.extend(self.refused.iter().cloned());
        problems.extend(firewall.problems);
        self.tried = ops;
        self.log(&problems);
        let mut repairs = self.repairs;
        repairs += self.dataplane.repairs();
        repairs.tables += firewall.repaired;
        repairs.sas += seen.repaired;
        if self.repaired != repairs {
            warn!("undone by others, and repaired so far: {repairs}");
            self.repaired = repairs;
        }
        let status = status::status(Facts {
            config,
            state: self.dataplane.state(),
            usable: &links.usable,
            handshakes: &observed.handshakes,
            sas: seen.charon.as_ref().map(|c| c.sas.as_slice()),
            refusals: &seen.refusals,
            view: &view,
            originated: &self.originated,
            invalid: &firewall.counts,
            repairs,
            problems,
            now: self.bgp.age(),
        });
        debug!("a pass of {} us", began.elapsed().as_micros());
        Ok(Pass { status, again })
    }

    /// The kernel, routes excepted, as it is after the last loss of a peer.
    async fn observe(&mut self, config: &Config) -> Result<(Observed, Links), kernel::Error> {
        let kernel = self.kernel.clone();
        loop {
            let losses = self.losses;
            let look = async {
                let mut observed = kernel.objects().await?;
                wireguard::follow(&mut observed.links, &observed.handshakes, config);
                let links = with_routers(links(&observed), config, &kernel).await?;
                Ok((observed, links))
            };
            let seen = self.meanwhile(look).await;
            if seen.is_err() || self.losses == losses {
                return seen;
            }
        }
    }

    /// Tells the speaker who its peers are, and which of them cannot or can again be reached.
    async fn tell_bgp(&mut self, config: &Config, links: &Links) {
        self.bgp.configure(peers::setup(config, links)).await;
        for (peer, link) in peers::links(config, links) {
            match (self.usable.contains(&link), links.usable.contains(&link)) {
                (before, now) if before != now => self.bgp.sign(&peer, Sign::Interface(now)).await,
                _ => {}
            }
        }
        self.usable.clone_from(&links.usable);
    }

    /// The MTU of each tunnel, by its number.
    async fn mtus(
        &mut self,
        config: &Config,
        nat: &Nat,
        seen: &Seen,
        problems: &mut Vec<Problem>,
    ) -> BTreeMap<u32, u32> {
        let sas = seen.charon.as_ref().map_or(&[][..], |charon| &charon.sas);
        let carriers = mtu::carriers(config, nat, sas);
        let ends = carriers.values().map(|carrier| carrier.ends).collect();
        let (kernel, mut paths) = (self.kernel.clone(), std::mem::take(&mut self.paths));
        let looked = self.meanwhile(paths.look(&kernel, ends)).await;
        self.paths = paths;
        if let Err(failure) = looked {
            problems.push(problem("paths between endpoints", &failure));
        }
        let links = &self.dataplane.state().links;
        let (mtus, small) = mtu::mtus(config, &carriers, self.paths.mtus(), links);
        problems.extend(small);
        mtus
    }

    /// Of which families no packet gets to the table of the mesh's routes, and what to do about it.
    async fn unled(&mut self, config: &Config) -> (Vec<Family>, Option<Problem>) {
        if let Overlay::Vrf(name) = &config.overlay
            && !self.usable.contains(name)
        {
            let reason = format!("is down, and carries nothing: `ip link set {name} up`");
            return (Vec::new(), Some(remark(&config.overlay, &reason)));
        }
        let Some(lookup) = lookup(config) else {
            return (Vec::new(), None);
        };
        let kernel = self.kernel.clone();
        match self.meanwhile(kernel.without_rule(lookup)).await {
            Ok(families) => {
                let reason = unled(&config.overlay, lookup, &families);
                (families, reason)
            }
            Err(failure) => {
                let both = vec![Family::Ipv4, Family::Ipv6];
                (both, Some(problem(&config.overlay, &failure)))
            }
        }
    }

    async fn originate(&mut self, config: &Config) {
        let originated = peers::originated(config, &self.foreign);
        if self.originated != originated {
            self.originated.clone_from(&originated);
            self.bgp.originate(originated).await;
        }
    }

    /// Carries out a plan in order, and names what failed.
    async fn perform(&mut self, ops: &[Op]) -> Vec<Problem> {
        if !ops.is_empty() {
            info!("{} changes in the kernel", ops.len());
        }
        ops.iter().for_each(|op| debug!("{op}"));
        let kernel = self.kernel.clone();
        let results = self.meanwhile(kernel.apply(ops)).await;
        let done = ops.iter().zip(&results).filter(|(_, it)| it.is_ok());
        done.for_each(|(op, _)| self.dataplane.was_done(op));
        failures(results)
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

fn failures(results: Vec<Result<(), kernel::OpError>>) -> Vec<Problem> {
    let errors = results.into_iter().filter_map(Result::err);
    errors
        .map(|error| problem(&error.op, &error.reason))
        .collect()
}

/// Whether an operation takes away what keeps traffic from the default route, although nothing is looked
/// up in the table that holds it now.
fn gives_up(op: &Op, place: Place, unled: &[Family]) -> bool {
    let Op::DelRoute { key } = op else {
        return false;
    };
    key.table != place.table && unled.contains(&Family::of(&key.prefix))
}
