//! The kernel made as it should be: passes, which serve boot, change, repair and timer alike, and
//! between them what BGP tells, as it comes. What is to be done is decided by `peers`, `desired`,
//! `plan`, `dataplane` and `status`; here it is only carried out, and what could not be carried out
//! is named.
//!
//! charon has a loop of its own, `charon`, so that nothing here waits for it.

mod down;
mod listing;
mod unled;
mod work;

pub use down::down;
use down::open;

use crate::bgp::Bgp;
use crate::charon::{self, Definitions, Seen};
use crate::config::{Config, Overlay, Tunnel};
use crate::dataplane::{Dataplane, News, Work};
use crate::desired::{self, Links, Ways};
use crate::firewall::Firewall;
use crate::kernel::{self, Answers, Begun, Claim, Foreign, Kernel, Observed, Op, Paths};
use crate::liveness::Sign;
use crate::memory::{self, Litter};
use crate::mtu;
use crate::peers;
use crate::plan;
use crate::probe::{self, Probe};
use crate::problem::{problem, remark};
use crate::repairs::{self, Repairs};
use crate::state::{Place, RouteKey, State, Target};
use crate::status::{self, Facts};
use crate::vici::{Child, Definition};
use crate::wireguard::{self, PrivateKey};
use ipnet::IpNet;
use listing::{Listed, compare};
use routemesh_bgp::PeerId;
use routemesh_bgp::wire::Family;
use routemesh_proto::{Identity, Problem, Status};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};
use unled::{lookup, unled};

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
        let mtus = self.mtus(config, seen, &mut problems).await;
        let mut desired = desired::desired(config, place, &mtus, self.key.as_ref().ok());
        if let Err(reason) = &self.key {
            let keyless = desired::keep_keyless(&mut desired, self.dataplane.state(), config);
            problems.extend(keyless.then(|| reason.clone()));
        }
        let in_charon = seen.charon.as_ref().map(charon::Charon::links);
        desired::keep_links(&mut desired, self.dataplane.state(), in_charon.as_ref());
        let in_kernel = &self.dataplane.state().links;
        self.firewall.want(config, in_kernel, seen.charon.as_ref());
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
        let definitions = charon::definitions(config, identity);
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
        seen: &Seen,
        problems: &mut Vec<Problem>,
    ) -> BTreeMap<u32, u32> {
        let sas = seen.charon.as_ref().map_or(&[][..], |charon| &charon.sas);
        let carriers = mtu::carriers(config, sas);
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

/// Wants the connections of all tunnels whose interface is where and what it should be. While one waits
/// for another interface, as it was before it stays.
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
    let ready = |definition: &Definition| {
        let ready = |child: &Child| {
            let link = child.bind.link();
            let there = kind_and_side(in_kernel, &link);
            // One that waits for its rules is in neither.
            there.is_some() && there == kind_and_side(desired, &link)
        };
        definition.children.iter().all(ready)
    };
    wanted.send_if_modified(|before| {
        let of_before = |name: &String| before.as_ref()?.get(name).filter(|it| ready(it));
        definitions.retain(|name, definition| {
            if !ready(definition)
                && let Some(before) = of_before(name)
            {
                definition.clone_from(before);
            }
            ready(definition)
        });
        let changed = before.as_ref() != Some(&definitions);
        *before = Some(definitions);
        changed
    });
}

/// The ways without a session that groups in the kernel have.
fn forwarding(config: &Config, in_kernel: &State) -> BTreeSet<PeerId> {
    let members = in_kernel.groups.values().flat_map(|it| &it.members);
    let nexthops = members.filter_map(|it| in_kernel.nexthops.get(&it.id));
    let links: BTreeSet<&str> = nexthops.map(|it| it.link.as_str()).collect();
    let ways = statics(config).filter(|it| links.contains(it.link().as_str()));
    ways.map(|it| it.name().into()).collect()
}

fn statics(config: &Config) -> impl Iterator<Item = &Tunnel> {
    let tunnels = config.tunnels.values();
    tunnels.filter(|it| it.abroad().is_some_and(|it| it.session.is_none()))
}

/// The ways without a session that no wanted connection has.
fn unwanted(config: &Config, wanted: &Definitions) -> Vec<String> {
    let children = wanted.values().flat_map(|it| &it.children);
    let ways: BTreeSet<&str> = children.map(|it| it.way.as_str()).collect();
    let names = statics(config).map(Tunnel::name);
    names.filter(|it| !ways.contains(it.as_str())).collect()
}

fn failures(results: Vec<Result<(), kernel::OpError>>) -> Vec<Problem> {
    let errors = results.into_iter().filter_map(Result::err);
    errors
        .map(|error| problem(&error.op, &error.reason))
        .collect()
}

fn links(observed: &Observed) -> Links {
    let state = observed.link_state.iter();
    let indices = state
        .clone()
        .map(|(name, (index, _))| (name.clone(), *index));
    let up = state.filter(|(_, (_, usable))| *usable);
    Links {
        connected: observed.connected.clone(),
        usable: up.map(|(name, _)| name.clone()).collect(),
        indices: indices.collect(),
        link_local: observed.link_local.clone(),
        routers: BTreeMap::new(),
    }
}

/// Adds the routers that made themselves known, where the configuration asks for them.
/// Whether an operation takes away what keeps traffic from the default route, although nothing is looked
/// up in the table that holds it now.
fn gives_up(op: &Op, place: Place, unled: &[Family]) -> bool {
    let Op::DelRoute { key } = op else {
        return false;
    };
    key.table != place.table && unled.contains(&Family::of(&key.prefix))
}

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

fn state(observed: &Observed, place: Place) -> State {
    let mut state = State {
        place,
        links: observed.links.clone(),
        nexthops: observed.nexthops.clone(),
        groups: observed.groups.clone(),
        ..State::default()
    };
    for (key, target) in &observed.routes {
        match (state.place.holds(key), target) {
            (true, Target::Group(group)) => state.routes.insert(&key.prefix, *group),
            _ => drop(state.barriers.insert(*key, *target)),
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EspOptions, IkeOptions};
    use crate::state::ours;
    use crate::state::{Group, Link, LinkKind, Member, Nexthop, NexthopId, Side};
    use crate::vici::{Auth, Bind};
    use routemesh_proto::Secret;

    fn with_link(side: Side) -> State {
        let link = Link {
            side,
            kind: LinkKind::Xfrm { if_id: 1 },
            up: true,
            mtu: 1500,
            addresses: BTreeSet::new(),
            wireguard: None,
        };
        State {
            links: [("rm1".to_owned(), link)].into(),
            ..State::default()
        }
    }

    fn definition(children: &[u32]) -> Definition {
        let child = |number: &u32| {
            let bind = Bind::IfId(ours::IF_ID + number);
            Child::of_all(format!("rm{number}-V2-1"), bind)
        };
        Definition {
            site: "two".into(),
            local_addrs: Vec::new(),
            remote_addrs: Vec::new(),
            local_id: "V1-1".into(),
            remote_id: "V2-1".into(),
            auth: Auth::Psk(Secret::default()),
            children: children.iter().map(child).collect(),
            initiate: true,
            ike: IkeOptions::default(),
            esp: EspOptions::default(),
        }
    }

    #[test]
    fn a_connection_with_one_more_interface_stays_as_it_was_until_that_is_in_place() {
        let named = |children: &[u32]| -> Definitions {
            [("rm1-V2-1".to_owned(), definition(children))].into()
        };
        let (wanted, seen) = watch::channel(Some(named(&[1])));
        let one = with_link(Side::Overlay);
        let mut two = one.clone();
        two.links.insert("rm2".into(), one.links["rm1"].clone());
        let children = |new: &[u32], desired: &State, in_kernel: &State| {
            want(&wanted, named(new), desired, in_kernel);
            let seen = seen.borrow();
            let definition = seen.as_ref().and_then(|it| it.get("rm1-V2-1"));
            definition.map_or(0, |it| it.children.len())
        };
        assert_eq!(children(&[1, 2], &two, &one), 1);
        assert_eq!(children(&[1, 2], &two, &two), 2);
        // Neither can be: its own interface is gone.
        assert_eq!(children(&[1, 2, 3], &two, &one), 0);
        assert_eq!(children(&[1, 2], &one, &one), 0);
    }

    /// Two static tunnels to a foreign peer, numbered from 1, and one with a session.
    fn config() -> Config {
        let foreign = |number, connection, peer_asn| routemesh_proto::Tunnel {
            number,
            peer: "cloud".into(),
            peer_site: "cloud".into(),
            peer_asn,
            kind: "xfrm".into(),
            local_endpoint: "192.0.2.1".into(),
            remote_endpoint: format!("198.51.100.{number}"),
            local_address: "169.254.10.2".into(),
            remote_address: "169.254.10.1".into(),
            foreign: Some(routemesh_proto::Foreign {
                connection,
                local_id: "192.0.2.1".into(),
                remote_id: format!("198.51.100.{number}"),
                psk: "a secret of both".into(),
                prefix_length: 30,
                ..routemesh_proto::Foreign::default()
            }),
            ..routemesh_proto::Tunnel::default()
        };
        let raw = routemesh_proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            tunnels: vec![foreign(1, 1, 0), foreign(2, 2, 0), foreign(3, 3, 64512)],
            ..routemesh_proto::Config::default()
        };
        Config::try_from(&raw).unwrap()
    }

    #[test]
    fn an_earlier_runs_ways_are_up_where_a_group_has_them() {
        let nexthop = |link: &str| Nexthop {
            gateway: "fe80::1".parse().unwrap(),
            link: link.into(),
        };
        let group = Group {
            members: [1, 3]
                .map(|id| Member {
                    id: NexthopId(id),
                    weight: 1,
                })
                .into(),
            resilient: false,
        };
        let in_kernel = State {
            nexthops: [
                (NexthopId(1), nexthop("rm1")),
                (NexthopId(2), nexthop("rm2")),
            ]
            .into(),
            groups: [(NexthopId(9), group)].into(),
            ..State::default()
        };
        let ways = forwarding(&config(), &in_kernel);
        assert_eq!(ways, [PeerId::from("rm1-cloud")].into());
        assert!(forwarding(&config(), &State::default()).is_empty());
    }

    #[test]
    fn ways_that_no_wanted_connection_has_are_known() {
        let mut one = definition(&[1]);
        one.children[0].way = "rm1-cloud".into();
        let wanted = [("rm1-cloud".to_owned(), one)].into();
        assert_eq!(unwanted(&config(), &wanted), ["rm2-cloud"]);
    }

    #[test]
    fn no_connection_is_wanted_before_its_interface_is_in_place() {
        let definitions: Definitions = [("rm1-V2-1".to_owned(), definition(&[1]))].into();
        let desired = with_link(Side::Overlay);
        let wants = |desired: &State, in_kernel: &State| {
            let (wanted, seen) = watch::channel(None);
            want(&wanted, definitions.clone(), desired, in_kernel);
            seen.borrow().as_ref().map_or(0, Definitions::len)
        };
        assert_eq!(wants(&desired, &State::default()), 0);
        assert_eq!(wants(&desired, &with_link(Side::Underlay)), 0);
        assert_eq!(wants(&desired, &desired), 1);
        // Its rules are not in place yet.
        assert_eq!(wants(&State::default(), &State::default()), 0);
    }
}
