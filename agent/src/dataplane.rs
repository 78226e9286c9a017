//! What is to be done to the kernel next, and what is known of it: the deciding half of
//! [`reconcile`](crate::reconcile), without any I/O.
//!
//! Three kinds of work over one [`State`], in this order:
//! a lost peer's nexthops, which go at once, whatever else waits; what BGP told about some prefixes,
//! in batches of the kernel's liking; and, when nothing else is left, what nobody uses any more.
//! Each is a [`Work`] that is carried out by whoever asked for it and handed back with its results.
//! While some is carried out, the next changes are thought out, so that the kernel never waits: what
//! is known of their prefixes is certain, as none of them is under way. Nothing else looks ahead.
//!
//! Nothing is remembered of what BGP told. Whenever what the kernel holds turns out to be other than
//! was known, or a path leads elsewhere than before, BGP is asked to tell everything again, which
//! comes as changes of which most change nothing: a review. What a review did not mention goes.

use crate::desired::{Sets, Ways};
use crate::fib;
use crate::kernel::Op;
use crate::plan::{self, Change};
use crate::repairs::{self, Repairs};
use crate::state::{NexthopId, Place, RouteKey, State, Target};
use hashbrown::HashSet;
use ipnet::IpNet;
use routemesh_bgp::{Hop, PeerId};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

/// Changes in one piece of work: what the kernel is given in one go.
pub const BATCH: usize = 512;

/// What BGP tells, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The session with a peer is gone, and none of its paths is kept. The changes that follow from
    /// it come later; those told before may still mention it.
    Lost(PeerId),
    /// Prefixes whose ECMP set is another.
    Changes(Vec<Change>),
    /// For now that is all.
    Level {
        /// The last review of which everything has been told.
        review: u64,
        /// Every peer has told all it knows, or was waited for long enough.
        settled: bool,
    },
}

/// Operations to be carried out, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// What to do; may be nothing.
    pub ops: Arc<Vec<Op>>,
    /// BGP waits to hear which of these the kernel forwards.
    pub told: Vec<IpNet>,
}

/// What waits to be worked on.
#[derive(Debug)]
enum Waiting {
    Changes(Vec<Change>),
    Unwanted(Vec<Change>),
    Level { review: u64, settled: bool },
}

/// What was handed out and not yet handed back.
#[derive(Debug, Default)]
struct UnderWay {
    works: usize,
    /// Whose routes are being changed.
    prefixes: HashSet<IpNet>,
    /// Nexthops or groups are being deleted: what goes with them is known afterwards.
    deletes: bool,
}

/// The kernel as we know it, and what there is to do about it.
#[derive(Debug, Default)]
pub struct Dataplane {
    /// Without what is under way.
    state: State,
    under_way: UnderWay,
    /// Not all is as the sets take it to be. They are looked at again when nothing is under way;
    /// whether what was refused is then asked for again.
    doubt: Option<bool>,
    sets: Sets,
    /// Ids in our range that strangers hold.
    taken: BTreeSet<NexthopId>,
    urgent: Vec<Op>,
    waiting: VecDeque<Waiting>,
    settled: bool,
    /// The review that was asked for last.
    review: u64,
    /// How far it is.
    progress: Progress,
    /// There may be groups and nexthops that nobody uses.
    untidy: bool,
    /// An earlier run left routes.
    inherited: bool,
    /// Prefixes of ours to which a stranger has a route of our metric as well.
    shared: BTreeSet<IpNet>,
    listing: Listing,
    repairs: Repairs,
}

/// The listing of the kernel's routes under way.
#[derive(Debug, Default)]
struct Listing {
    barriers: BTreeMap<RouteKey, Target>,
    /// To which strangers have a route of our metric.
    strangers: BTreeSet<IpNet>,
    /// It shows what was not known.
    news: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Over,
    Wanted,
    UnderWay,
}

impl Dataplane {
    /// The kernel as far as we know it.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Next hops on no subnet of ours.
    pub fn unresolved(&self) -> impl Iterator<Item = IpAddr> {
        self.sets.unresolved()
    }

    /// What somebody else undid of nexthops, groups and routes.
    pub fn repairs(&self) -> Repairs {
        self.repairs
    }

    /// Every peer has told all it knows.
    pub fn settled(&self) -> bool {
        self.settled
    }

    /// Nothing is left to be done, and nothing is awaited.
    pub fn at_rest(&self) -> bool {
        let waiting = !self.urgent.is_empty() || !self.waiting.is_empty();
        let tidying = self.untidy && self.settled;
        self.under_way.works == 0 && !waiting && !tidying && self.progress == Progress::Over
    }

    /// BGP tells.
    pub fn news(&mut self, news: News) {
        match news {
            News::Changes(changes) => self.waiting.push_back(Waiting::Changes(changes)),
            News::Level { review, settled } => {
                self.waiting.push_back(Waiting::Level { review, settled });
            }
            News::Lost(peer) => {
                for waiting in &mut self.waiting {
                    if let Waiting::Changes(changes) = waiting {
                        leave_out(changes, &peer);
                    }
                }
                let ids = self.sets.lose(&peer).into_iter();
                self.urgent.extend(ids.map(|id| Op::DelNexthop { id }));
            }
        }
    }

    /// The number of a review that BGP is to be asked for now, if one is wanted and nothing is under
    /// way.
    pub fn begin_review(&mut self) -> Option<u64> {
        if self.progress != Progress::Wanted || self.under_way.works > 0 {
            return None;
        }
        self.progress = Progress::UnderWay;
        self.review += 1;
        self.sets.review(None, &self.state, true);
        self.state.routes.begin_review();
        Some(self.review)
    }

    /// What to do next, if there is anything that need not wait for what is under way. All is to be
    /// carried out in this order, and to be handed back to [`Dataplane::done`] in the same.
    pub fn next_work(&mut self) -> Option<Work> {
        if let Some(work) = self.urgent() {
            return Some(work);
        }
        let alone = self.under_way.works == 0;
        if self.under_way.deletes || self.doubt.is_some() {
            return None;
        }
        // A review does not wait for the end of what is told.
        while self.progress != Progress::Wanted
            && let Some(waiting) = self.waiting.pop_front()
        {
            let ready = match &waiting {
                Waiting::Changes(changes) | Waiting::Unwanted(changes) => {
                    let apart = |(prefix, _): &Change| !self.under_way.prefixes.contains(prefix);
                    changes.iter().all(apart)
                }
                // What was not wanted is what there is of routes when all before it is done.
                Waiting::Level { review, .. } => !self.ends_review(*review),
            };
            if !alone && !ready {
                self.waiting.push_front(waiting);
                return None;
            }
            match waiting {
                Waiting::Changes(changes) => {
                    let told = changes.iter().map(|(prefix, _)| *prefix).collect();
                    let sets = changes.iter().filter_map(|(_, hops)| hops.as_ref());
                    let mut ops = self.sets.make(sets, &self.state, &self.taken);
                    ops.extend(self.change(&changes));
                    return Some(self.hand_out(ops, told));
                }
                Waiting::Unwanted(changes) => {
                    let ops = self.change(&changes);
                    return Some(self.hand_out(ops, Vec::new()));
                }
                Waiting::Level { review, settled } => self.level(review, settled),
            }
        }
        let rest = alone && self.settled && self.progress == Progress::Over;
        if rest && std::mem::take(&mut self.untidy) {
            let ops = plan::tidy(&self.state);
            return (!ops.is_empty()).then(|| self.hand_out(ops, Vec::new()));
        }
        None
    }

    /// What does not wait for anything else: the nexthops of lost peers.
    pub fn urgent(&mut self) -> Option<Work> {
        let ops = std::mem::take(&mut self.urgent);
        (!ops.is_empty()).then(|| self.hand_out(ops, Vec::new()))
    }

    fn hand_out(&mut self, ops: Vec<Op>, told: Vec<IpNet>) -> Work {
        self.under_way.works += 1;
        for op in &ops {
            match op {
                Op::PutRoute { key, .. } | Op::DelRoute { key } => {
                    self.under_way.prefixes.insert(key.prefix);
                }
                Op::DelNexthop { .. } | Op::DelGroup { .. } => self.under_way.deletes = true,
                _ => {}
            }
        }
        let ops = Arc::new(ops);
        Work { ops, told }
    }

    fn change(&mut self, changes: &[Change]) -> Vec<Op> {
        if self.progress != Progress::Over {
            let wanted = changes.iter().filter(|(_, hops)| hops.is_some());
            wanted.for_each(|(prefix, _)| self.state.routes.want(prefix));
        }
        let (state, shared) = (&self.state, &self.shared);
        plan::routes(changes, &self.sets, state, shared, self.settled)
    }

    fn ends_review(&self, review: u64) -> bool {
        self.progress == Progress::UnderWay && review == self.review
    }

    /// All was told up to here.
    fn level(&mut self, review: u64, settled: bool) {
        self.untidy = true;
        if settled && !self.settled {
            self.settled = true;
            // What an earlier run left was not touched till now.
            if self.inherited {
                self.want_review();
            }
        }
        if self.ends_review(review) {
            self.progress = Progress::Over;
            if self.settled {
                let gone = self.state.routes.unwanted().map(|prefix| (prefix, None));
                let gone: Vec<Change> = gone.collect();
                // Before all that was told since: it may be wanted again.
                for batch in gone.chunks(BATCH) {
                    self.waiting.push_front(Waiting::Unwanted(batch.to_vec()));
                }
            }
        }
    }

    /// The oldest work under way was carried out, operation by operation with success or not. Which
    /// of the prefixes BGP waits to hear of does the kernel forward?
    pub fn done(&mut self, work: &Work, ok: impl IntoIterator<Item = bool>) -> Vec<(IpNet, bool)> {
        let mut all = true;
        let mut nexthops_gone = BTreeSet::new();
        for (op, ok) in work.ops.iter().zip(ok) {
            if let Op::PutRoute { key, .. } | Op::DelRoute { key } = op {
                self.under_way.prefixes.remove(&key.prefix);
            }
            match op {
                _ if !ok => all = false,
                Op::DelNexthop { id } | Op::DelGroup { id } => drop(nexthops_gone.insert(*id)),
                op => self.state.done(op),
            }
        }
        // Each is a walk over all groups.
        if !nexthops_gone.is_empty() {
            self.state.forget_nexthops(&nexthops_gone);
        }
        if !all || !nexthops_gone.is_empty() {
            // What was refused is not asked for again at once.
            self.doubt = Some(self.doubt.unwrap_or(true) && all);
        }
        self.under_way.works = self.under_way.works.saturating_sub(1);
        if self.under_way.works == 0 {
            self.under_way.deletes = false;
            if let Some(again) = self.doubt.take() {
                self.sets.review(None, &self.state, again);
            }
        }
        let routes = &self.state.routes;
        let told = work.told.iter();
        told.map(|prefix| (*prefix, routes.get(prefix).is_some()))
            .collect()
    }

    /// Operations beside those of [`Dataplane::next_work`] were carried out.
    pub fn was_done(&mut self, op: &Op) {
        self.state.done(op);
        if matches!(op, Op::DelLink { .. }) {
            self.sets.review(None, &self.state, true);
            self.want_review();
        }
    }

    /// The kernel was looked at, routes excepted, while nothing was under way, and paths lead these
    /// ways. The interfaces that are `shaken` went down since the last look, and may be up again.
    pub fn observed(
        &mut self,
        seen: State,
        taken: BTreeSet<NexthopId>,
        ways: Ways,
        shaken: &BTreeSet<String>,
    ) {
        let steady = |link: &str| ways.is_usable(link) && !shaken.contains(link);
        self.repairs += repairs::nexthops(&self.state, &seen, steady);
        let State {
            links,
            nexthops,
            groups,
            ..
        } = seen;
        self.state.links = links;
        self.taken = taken;
        let same = (&self.state.nexthops, &self.state.groups) == (&nexthops, &groups);
        if same && self.sets.leads(&ways) {
            return;
        }
        (self.state.nexthops, self.state.groups) = (nexthops, groups);
        self.state.forget_stranded();
        self.sets.review(Some(ways), &self.state, true);
        self.want_review();
    }

    /// Somebody has deleted these routes, while nothing was under way. Those that carried traffic are
    /// put back as they were: what BGP told since comes after that. What a review under way says of
    /// them is not known, so that another one follows it; `unreachable` ones come with the next plan.
    pub fn mend(&mut self, gone: impl IntoIterator<Item = RouteKey>) -> Option<Work> {
        let mut ops = Vec::new();
        for key in gone {
            if !self.state.place.holds(&key) {
                let held = self.state.barriers.remove(&key);
                self.repairs.routes += u64::from(held.is_some());
                continue;
            }
            let Some(group) = self.state.routes.get(&key.prefix) else {
                continue;
            };
            self.state.routes.remove(&key.prefix);
            self.repairs.routes += 1;
            if self.progress != Progress::Over || group == NexthopId(0) {
                self.want_review();
                continue;
            }
            ops.push(Op::PutRoute {
                key,
                target: Target::Group(group),
                replace: false,
            });
        }
        (!ops.is_empty()).then(|| self.hand_out(ops, Vec::new()))
    }

    /// Asks for a review: something did not succeed, or was changed by somebody else.
    pub fn want_review(&mut self) {
        self.progress = Progress::Wanted;
    }

    /// Where the routes that carry traffic belong, while nothing is under way. Those in another place
    /// are taken away by the plan, when all are in this one.
    pub fn place(&mut self, place: Place) {
        if self.state.place != place {
            self.state.move_to(place);
            self.shared.clear();
            self.want_review();
        }
    }

    /// The tables in which there are routes of ours.
    pub fn tables(&self) -> BTreeSet<u32> {
        let tables = self.state.barriers.keys().map(|key| key.table);
        tables.chain([self.state.place.table]).collect()
    }

    /// The kernel's routes are about to be listed, while no change of them is under way.
    pub fn begin_listing(&mut self) {
        self.state.routes.begin_listing();
        // What one that was torn has shown is known by now, and still to be acted upon.
        let news = self.listing.news;
        self.listing = Listing {
            news,
            ..Listing::default()
        };
    }

    /// One of ours is listed.
    pub fn listed(&mut self, key: RouteKey, target: Target) {
        let groups = &self.state.groups;
        match self.state.place.holds(&key) {
            true => {
                // Over no group of ours: of a shape we never make.
                let group = match target {
                    Target::Group(id) if groups.contains_key(&id) => id,
                    _ => NexthopId(0),
                };
                let listed = self.state.routes.listed(&key.prefix, group);
                self.listing.news |= listed != fib::Listed::Known;
                self.repairs.routes += u64::from(listed == fib::Listed::Changed);
            }
            // The kernel can hold more than one of a key; we never make such.
            false => match self.listing.barriers.entry(key) {
                Entry::Vacant(place) => drop(place.insert(target)),
                Entry::Occupied(mut place) => drop(place.insert(Target::Group(NexthopId(0)))),
            },
        }
    }

    /// A stranger's is listed. The kernel lets him put one beside ours, or before it.
    pub fn listed_stranger(&mut self, key: RouteKey) {
        if self.state.place.holds(&key) {
            self.listing.strangers.insert(key.prefix);
        }
    }

    /// The listing has come to its end: what it did not show is not there. Where that is other than
    /// was known, a review follows.
    pub fn end_listing(&mut self) {
        let Listing {
            barriers,
            mut strangers,
            news,
        } = std::mem::take(&mut self.listing);
        let known = std::mem::replace(&mut self.state.barriers, barriers);
        let held =
            |(key, target): &(&RouteKey, &Target)| self.state.barriers.get(key) == Some(target);
        let undone = known.len() - known.iter().filter(held).count();
        let gone = self.state.routes.end_listing();
        self.repairs.routes += (gone + undone) as u64;
        let routes = &self.state.routes;
        strangers.retain(|prefix| routes.get(prefix).is_some());
        self.shared = strangers;
        if news || gone > 0 {
            self.want_review();
        }
        self.inherited |= news && !self.settled;
    }
}

/// Takes a peer's paths out of sets.
fn leave_out(changes: &mut [Change], peer: &PeerId) {
    let mut left: BTreeMap<usize, Option<Arc<[Hop]>>> = BTreeMap::new();
    for (_, hops) in changes {
        let Some(set) = hops
            .as_ref()
            .filter(|set| set.iter().any(|hop| hop.peer == *peer))
        else {
            continue;
        };
        let without = left.entry(Arc::as_ptr(set).cast::<Hop>().addr());
        let without = without.or_insert_with(|| {
            let rest = set.iter().filter(|hop| hop.peer != *peer).cloned();
            let rest: Vec<Hop> = rest.collect();
            (!rest.is_empty()).then(|| rest.into())
        });
        *hops = without.clone();
    }
}

#[cfg(test)]
#[path = "dataplane_tests/mod.rs"]
mod tests;
