//! A table of ours in the kernel's packet filter, kept as it should be in a loop of its own, so that
//! a slow `nft` or resolver holds up no failover.
//!
//! | module | |
//! |---|---|
//! | [`rules`] | what the table is to hold: pure |
//! | [`nft`], [`monitor`], [`names`] | the program, the kernel's notifications, the resolver |
//!
//! The kernel's pass says what is wanted, and makes no interface before its rules are in place.
//! docs/firewall.md tells operators the rest.

mod monitor;
mod names;
mod nft;
pub mod rules;

pub use nft::Error;
pub use rules::{Count, Counter, Reason};

use crate::charon::Charon;
use crate::config::{Config, Mode, Tunnel};
use crate::kernel::generation;
use crate::nat::Nat;
use crate::netns::Netns;
use crate::problem::problem;
use crate::state::Link;
use crate::vici::IkeState;
use names::{Answers, Book};
use routemesh_proto::Problem;
use rules::Table;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

/// Between two looks at least: what happens meanwhile is dealt with together.
const BREATH: Duration = Duration::from_millis(200);
/// And at most, for what failed.
const TICK: Duration = Duration::from_secs(10);
/// How often counters are read: for those of 500 tunnels nft takes 60 ms of a processor.
const COUNT: Duration = Duration::from_secs(30);
/// How often names are asked for.
const ASK: Duration = Duration::from_secs(30);
/// How long a table that an earlier run left stays until it is known what addresses names have.
const HOLD: Duration = Duration::from_secs(15);

/// What the table is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    config: Config,
    /// Ends of tunnels that the host does not have itself.
    nat: Nat,
    /// Interfaces of tunnels that the config does not name any more.
    leftovers: BTreeSet<String>,
    /// Where peers that have proven who they are come from; `None` where charon was not heard yet.
    authenticated: Option<BTreeSet<IpAddr>>,
}

/// The outcome of one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Tunnels whose rules are in place, by interface.
    guarded: BTreeSet<String>,
    /// What the counters have counted.
    pub counts: BTreeMap<Counter, Count>,
    /// How often a table that somebody had changed was made anew.
    pub repaired: u64,
    /// What could not be done.
    pub problems: Vec<Problem>,
}

impl Seen {
    /// An interface of this name may be made.
    pub fn guards(&self, config: &Config, link: &str) -> bool {
        config.firewall != Mode::Enforce || self.guarded.contains(link)
    }
}

/// The packet filter of one gateway. Dropping it leaves the table as it is: traffic that is not
/// allowed stays out while no agent runs.
pub struct Firewall {
    wanted: watch::Sender<Option<Wanted>>,
    seen: watch::Receiver<Seen>,
    _task: JoinSet<()>,
}

impl Firewall {
    /// Starts to watch. Nothing is done before something is wanted.
    pub fn start(underlay: &Netns, overlay: &Netns) -> Self {
        let (wanted, wishes) = watch::channel(None);
        let (tell, seen) = watch::channel(Seen::default());
        let changed = Arc::new(Notify::new());
        let mut places = vec![Place::new(underlay, true, underlay.is(overlay))];
        if !underlay.is(overlay) {
            places.push(Place::new(overlay, false, true));
        }
        let mut task = JoinSet::new();
        for place in &places {
            match monitor::watch(&place.netns, changed.clone()) {
                Ok(monitor) => drop(task.spawn(monitor)),
                // Where this cannot be had, nft has more to say.
                Err(error) => warn!("changes of the packet filter go unnoticed: {error}"),
            }
        }
        let keeper = Keeper {
            places,
            hold: Instant::now() + HOLD,
            book: Book::default(),
            questions: JoinSet::new(),
            ask: Instant::now(),
            authenticated: BTreeSet::new(),
        };
        task.spawn(keeper.run(wishes, tell, changed));
        Self {
            wanted,
            seen,
            _task: task,
        }
    }

    /// Wants the table for a config, with what there is of tunnels in kernel and charon.
    pub fn want(
        &self,
        config: &Config,
        nat: &Nat,
        links: &BTreeMap<String, Link>,
        charon: Option<&Charon>,
    ) {
        let tunnels: BTreeSet<String> = config.tunnels.values().map(Tunnel::link).collect();
        let leftovers = links.keys().filter(|link| !tunnels.contains(*link));
        let leftovers: BTreeSet<String> = leftovers.cloned().collect();
        let authenticated = charon.map(authenticated);
        self.wanted.send_if_modified(|wanted| {
            let same = wanted.as_ref().is_some_and(|it| {
                it.config == *config
                    && it.nat == *nat
                    && it.leftovers == leftovers
                    && it.authenticated == authenticated
            });
            if !same {
                *wanted = Some(Wanted {
                    config: config.clone(),
                    nat: nat.clone(),
                    leftovers,
                    authenticated,
                });
            }
            !same
        });
    }

    /// What was last seen.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Changes whenever something else is seen.
    pub fn changes(&self) -> watch::Receiver<Seen> {
        self.seen.clone()
    }
}

/// Removes the table.
pub async fn down(underlay: &Netns, overlay: &Netns) -> Vec<Problem> {
    let mut problems = Vec::new();
    for netns in [underlay, overlay] {
        if let Err(error) = nft::delete(netns).await {
            problems.push(problem("firewall", &error));
        }
    }
    problems
}

/// The outer addresses in use of peers that have proven who they are. A packet from one that has
/// moved is a stranger's until charon has heard of it by another way.
fn authenticated(charon: &Charon) -> BTreeSet<IpAddr> {
    let sas = charon
        .sas
        .iter()
        .filter(|sa| sa.state == IkeState::Established);
    sas.filter_map(|sa| sa.remote_host.parse().ok()).collect()
}

/// A namespace with a table.
struct Place {
    netns: Netns,
    underlay: bool,
    overlay: bool,
    applied: Option<Applied>,
    repaired: u64,
    counts: BTreeMap<Counter, Count>,
}

/// What was last made so.
struct Applied {
    table: Option<Table>,
    /// How nft prints it, where it is certain that nobody was faster.
    listing: Option<String>,
}

impl Place {
    fn new(netns: &Netns, underlay: bool, overlay: bool) -> Self {
        Self {
            netns: netns.clone(),
            underlay,
            overlay,
            applied: None,
            repaired: 0,
            counts: BTreeMap::new(),
        }
    }

    fn table(&self, wanted: &Wanted, known: &BTreeSet<IpAddr>) -> Option<Table> {
        let Wanted {
            config,
            nat,
            leftovers,
            ..
        } = wanted;
        let underlay = self.underlay.then(|| rules::underlay(config, nat, known));
        let overlay = self.overlay.then(|| rules::overlay(config, leftovers));
        let parts = underlay.into_iter().chain(overlay);
        // A host that carries no tunnel any more may have other uses for IPsec.
        let idle = config.tunnels.is_empty() && leftovers.is_empty();
        let on = config.firewall != Mode::Off && !idle;
        parts.reduce(Table::with).filter(|_| on)
    }

    /// Makes it so, if it is not. Where it was and is no more, somebody else has been here.
    async fn settle(&mut self, table: Option<Table>, doubt: bool) -> Result<(), Error> {
        if let Some(before) = self.applied.as_ref().filter(|it| it.table == table) {
            if table.is_none() || !doubt {
                return Ok(());
            }
            if let Some(listing) = &before.listing {
                if nft::list(&self.netns).await?.as_ref() == Some(listing) {
                    return Ok(());
                }
                self.repaired += 1;
                let (name, netns) = (rules::TABLE, &self.netns);
                warn!(
                    "somebody has changed table inet {name} of network namespace {netns}: it is made anew"
                );
            }
        }
        self.applied = None;
        let mut listing = None;
        match &table {
            Some(table) => {
                // The table matters more than what the old one has counted.
                if let Err(error) = self.count().await {
                    warn!("the packet filter's counters start anew: {error}");
                }
                let before = generation(&self.netns).ok().flatten();
                nft::put(&self.netns, table, &self.counts).await?;
                listing = nft::list(&self.netns).await?;
                // Another one than ours may have been to this table.
                let after = generation(&self.netns).ok().flatten();
                let next = before.map(|before| before.wrapping_add(1));
                listing = listing.filter(|_| next.is_some() && after == next);
            }
            None => {
                nft::delete(&self.netns).await?;
                self.counts.clear();
            }
        }
        self.applied = Some(Applied { table, listing });
        Ok(())
    }

    /// Reads the counters. Those that somebody has deleted keep what they had.
    async fn count(&mut self) -> Result<(), Error> {
        self.counts.extend(nft::counts(&self.netns).await?);
        Ok(())
    }
}

struct Keeper {
    places: Vec<Place>,
    /// An earlier run's table stays until then, where names are not known yet.
    hold: Instant,
    book: Book,
    questions: JoinSet<Answers>,
    /// When names are asked for again.
    ask: Instant,
    /// The last that charon told; while it is not heard, they stay.
    authenticated: BTreeSet<IpAddr>,
}

impl Keeper {
    async fn run(
        mut self,
        mut wishes: watch::Receiver<Option<Wanted>>,
        tell: watch::Sender<Seen>,
        changed: Arc<Notify>,
    ) {
        let mut due = Instant::now() + TICK;
        let mut count = Instant::now();
        let mut doubt = false;
        loop {
            tokio::select! {
                wish = wishes.changed() => if wish.is_err() {
                    return;
                },
                () = changed.notified() => doubt = true,
                Some(answers) = self.questions.join_next() => {
                    self.book.enter(answers.unwrap_or_default());
                }
                () = sleep_until(due) => {}
            }
            let wanted = wishes.borrow_and_update().clone();
            due = Instant::now() + TICK;
            let Some(wanted) = wanted else { continue };
            self.ask(&wanted.config);
            if self.holds(&wanted).await {
                due = self.hold;
                continue;
            }
            let mut seen = tell.borrow().clone();
            seen.problems = self.settle(&wanted, doubt).await;
            seen.repaired = self.places.iter().map(|place| place.repaired).sum();
            // What could not be looked at is looked at again.
            doubt = !seen.problems.is_empty();
            if !doubt {
                let tunnels = wanted.config.tunnels.values();
                seen.guarded = tunnels.map(Tunnel::link).collect();
            }
            if count <= Instant::now() {
                count = Instant::now() + COUNT;
                seen.counts = self.count(&mut seen.problems).await;
            }
            seen.problems.extend(self.book.problems());
            tell.send_if_modified(|before| {
                let news = *before != seen;
                *before = seen;
                news
            });
            sleep(BREATH).await;
        }
    }

    /// Asks for the addresses of names, if it is time.
    fn ask(&mut self, config: &Config) {
        let names = names::names(config);
        self.book.keep(&names);
        let due = self.ask <= Instant::now() || !self.book.has_all(&names);
        if due && !names.is_empty() && self.questions.is_empty() {
            self.ask = Instant::now() + ASK;
            self.questions.spawn(names::resolve(names));
        }
    }

    /// An agent that starts again while its resolver is away does not shut out peers whose names
    /// the table it finds still lets in.
    async fn holds(&mut self, wanted: &Wanted) -> bool {
        let known =
            wanted.authenticated.is_some() && self.book.has_all(&names::names(&wanted.config));
        if known || self.hold <= Instant::now() || wanted.config.firewall == Mode::Off {
            return false;
        }
        let Some(underlay) = self.places.iter().find(|place| place.underlay) else {
            return false;
        };
        underlay.applied.is_none() && matches!(nft::list(&underlay.netns).await, Ok(Some(_)))
    }

    /// Makes all tables as they are wanted. What cannot be done is returned.
    async fn settle(&mut self, wanted: &Wanted, doubt: bool) -> Vec<Problem> {
        if let Some(authenticated) = &wanted.authenticated {
            self.authenticated.clone_from(authenticated);
        }
        let known = self
            .book
            .addresses()
            .chain(self.authenticated.iter().copied());
        let known: BTreeSet<IpAddr> = known.collect();
        let mut problems = Vec::new();
        for place in &mut self.places {
            let table = place.table(wanted, &known);
            if let Err(error) = place.settle(table, doubt).await {
                problems.push(problem(
                    format!("firewall of network namespace {}", place.netns),
                    &error,
                ));
            }
        }
        problems
    }

    async fn count(&mut self, problems: &mut Vec<Problem>) -> BTreeMap<Counter, Count> {
        let mut counts = BTreeMap::new();
        let with_table =
            |place: &&mut Place| place.applied.as_ref().is_some_and(|it| it.table.is_some());
        for place in self.places.iter_mut().filter(with_table) {
            if let Err(error) = place.count().await {
                problems.push(problem(
                    format!("firewall of network namespace {}", place.netns),
                    &error,
                ));
            }
            counts.extend(place.counts.clone());
        }
        counts
    }
}
