//! Which tunnels to bring up and which SAs to close: [`wanted`], a pure function of what is there.
//!
//! One side of a tunnel initiates, at once; the other only after [`RESPONDER_WAITS`] without an
//! SA, should the first believe in one that the other has lost. The same goes for closing
//! duplicates: if both sides closed "the older one" at once, they could disagree on which that is
//! and close both.
//!
//! An SA serves a tunnel if it is bound to the tunnel's interface, whatever its name. It is also
//! current if its child is named by the digest of what is loaded now, but for who is trusted by now besides. After a
//! change the SAs made before stay until a current one is there: make before break.
//!
//! Where charon and the kernel disagree ([`super::audit()`]), only the side that sees it can do something.
//! An SA of which the kernel lacks something is closed: the peer learns of it with the next packet, takes
//! its traffic elsewhere too, and a new one is made as always. What the kernel has without charon's
//! knowledge carries traffic: a new SA is made beside it, and it goes some time after.
//!
//! In charon, who answers sends by the new SA before who asked can receive by it. So where there is
//! one that carries traffic, BGP gets [`YIELD`] to take the peer's traffic elsewhere before a new one is
//! made. Of several tunnels to the same site, half do so at a time: the others are where it goes.

mod closing;

use super::audit::Audit;
use super::definition::{Bind, is_current};
use super::sas::{ChildSa, ChildState, IkeSa, IkeState};
use crate::kernel::Sa;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long the side that does not initiate waits for the one that does.
pub const RESPONDER_WAITS: Duration = Duration::from_secs(15);
/// How long making an SA may take. charon itself would retransmit the request of an exchange that
/// the peer knows nothing of any more for minutes, unless configured otherwise.
pub const STUCK: Duration = Duration::from_secs(10);
/// How long duplicates are left alone by the side that initiates: the newer must be in use first.
pub const DUPLICATES_STAY: Duration = Duration::from_secs(5);
/// How long they are left alone by the other side, for which the first should have done it.
pub const RESPONDER_CLOSES: Duration = Duration::from_secs(60);
/// How long SAs that charon does not know of are left alone once one that it knows of is there: the
/// peer must have gone over to that, and no listing may have been mistaken.
pub const ORPHANS_STAY: Duration = Duration::from_secs(5);
/// How long traffic has to leave a tunnel that carries it, before a new SA is made.
pub const YIELD: Duration = Duration::from_millis(1500);
/// How long a tunnel waits for others to the same site before traffic leaves it nevertheless.
pub const TURN: Duration = Duration::from_secs(15);
/// How long an SA must live until attempts are counted from zero again.
const SETTLED: Duration = Duration::from_secs(10);
/// Between two attempts: first, and at most; it doubles from one to the other.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// When to look again after closing something to make room for an attempt.
const SOON: Duration = Duration::from_millis(200);

/// A child of a connection that is loaded, which should have an SA. A connection may have several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The connection's name.
    pub connection: String,
    /// The name of its child.
    pub child: String,
    /// The interface its SAs belong to.
    pub bind: Bind,
    /// Whether this side initiates.
    pub initiate: bool,
    /// The site at the far end, or the foreign peer.
    pub site: String,
}

/// Something to ask of charon.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Bring a child up.
    Initiate {
        /// Name of the connection.
        connection: String,
        /// Name of its child.
        child: String,
    },
    /// Close an IKE_SA with all its children.
    Terminate {
        /// charon's number for it.
        unique_id: u32,
    },
    /// Close a CHILD_SA whose IKE_SA is still needed.
    TerminateChild {
        /// charon's number for it.
        unique_id: u32,
    },
    /// Delete an SA from the kernel.
    Clear(Sa),
}

/// What must be remembered from one pass to the next. It can be lost: that delays closing and
/// forgets about spacing, nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Attempts by interface since it last worked: how many, and when the last one was.
    attempts: BTreeMap<Bind, (u32, Instant)>,
    /// Since when an interface has had no current SA.
    missing: BTreeMap<Bind, Instant>,
    /// Since when an interface has had an SA too many.
    duplicates: BTreeMap<Bind, Instant>,
    /// Since when an IKE_SA has been in the making, or making a child, by its number.
    making: BTreeMap<u32, Instant>,
    /// Since when the kernel has had an SA that charon does not know of.
    orphans: BTreeMap<Sa, Instant>,
    /// Interfaces whose SAs are made anew because charon and the kernel disagree.
    mending: BTreeSet<Bind>,
    /// Since when traffic has been leaving an interface. It stays known when that is over, until there
    /// is a new SA.
    leaving: BTreeMap<Bind, Instant>,
    /// What charon was asked to close, and when.
    asked: BTreeMap<Action, Instant>,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heal {
    /// To be carried out in order; each may fail, which the next pass will see.
    pub actions: Vec<Action>,
    /// For the next pass.
    pub history: History,
    /// When another pass is due even if nothing happens, if at all.
    pub again: Option<Instant>,
    /// Connections that are made anew because charon and the kernel disagreed.
    pub repaired: BTreeSet<String>,
    /// Connections that carry traffic and are about to be made anew: traffic is to leave them before.
    pub yielding: BTreeSet<String>,
}

/// A CHILD_SA that carries a tunnel's traffic, and its IKE_SA.
type Working<'a> = (&'a IkeSa, &'a ChildSa);

/// Compares what should be with charon's SAs of ours, and with what was found wrong with them.
///
/// `connections` must be all there are: SAs of ours that belong to none of them are closed.
pub fn wanted(
    connections: &[Wanted],
    sas: &[IkeSa],
    audit: &Audit,
    history: &History,
    now: Instant,
) -> Heal {
    let mut pass = Pass {
        connections,
        before: history,
        audit,
        now,
        heal: Heal::default(),
        initiated: BTreeSet::new(),
    };
    for ike in sas.iter().filter(|ike| in_the_making(ike)) {
        let since = *history.making.get(&ike.unique_id).unwrap_or(&now);
        pass.heal.history.making.insert(ike.unique_id, since);
    }
    for connection in connections {
        pass.connection(connection, sas);
    }
    for ike in sas {
        pass.left_over(ike);
    }
    let served = |number: &u32| connections.iter().any(|it| it.bind.number() == *number);
    for (_, orphans) in audit.orphans.iter().filter(|(number, _)| !served(number)) {
        pass.clear(orphans);
    }
    pass.heal
}

/// Whether an IKE_SA may bring a child that is not there yet.
fn in_the_making(ike: &IkeSa) -> bool {
    match ike.state {
        IkeState::Connecting => true,
        IkeState::Established => {
            ike.making_child
                || ike
                    .children
                    .iter()
                    .any(|child| child.state == ChildState::Making)
        }
        IkeState::Closing => false,
    }
}

struct Pass<'a> {
    connections: &'a [Wanted],
    before: &'a History,
    audit: &'a Audit,
    now: Instant,
    heal: Heal,
    /// Connections of which this pass initiates a child: two at once could become two IKE_SAs.
    initiated: BTreeSet<String>,
}

impl Pass<'_> {
    fn connection(&mut self, wanted: &Wanted, sas: &[IkeSa]) {
        let living = || sas.iter().filter(|ike| ike.state != IkeState::Closing);
        let mut working: Vec<Working> = living()
            .filter(|ike| ike.state == IkeState::Established)
            .flat_map(|ike| ike.children.iter().map(move |child| (ike, child)))
            .filter(|(_, child)| {
                child.state == ChildState::Installed && child.bind == Some(wanted.bind)
            })
            .collect();
        let current = |(ike, child): &Working| {
            ike.connection == wanted.connection && is_current(&child.name, &wanted.child)
        };
        // The one to keep comes last: a current one before others, and the newest of those.
        let whole = |(_, child): &Working| !self.audit.broken.contains(&child.unique_id);
        working.sort_by_key(|sa| (whole(sa), current(sa), sa.1.unique_id));

        let of_this = living().filter(|ike| ike.connection == wanted.connection);
        let making: Vec<&IkeSa> = of_this.clone().filter(|ike| in_the_making(ike)).collect();
        match working.split_last() {
            Some((kept, others)) if whole(kept) && current(kept) => {
                if let Some(orphans) = self.audit.orphans.get(&wanted.bind.number()) {
                    self.clear(orphans);
                }
                let idle = of_this
                    .filter(|ike| ike.state == IkeState::Established && ike.children.is_empty())
                    .filter(|ike| !in_the_making(ike));
                self.present(wanted, *kept, others, idle.collect());
                self.stuck(&making);
            }
            // It sorts last, so none is.
            Some((newest, _)) if !whole(newest) => self.broken(wanted, &working),
            _ => self.missing(wanted, &making, !working.is_empty()),
        }
    }

    /// Keeps what is known of an interface without a current SA; since when there is none, and the
    /// attempts made.
    fn remember(&mut self, wanted: &Wanted) -> (Instant, Option<(u32, Instant)>) {
        let since = self.since(|history| &history.missing, wanted.bind);
        let history = &mut self.heal.history;
        history.missing.insert(wanted.bind, since);
        if self.before.mending.contains(&wanted.bind) {
            history.mending.insert(wanted.bind);
        }
        let attempts = self.before.attempts.get(&wanted.bind).copied();
        if let Some(attempts) = attempts {
            history.attempts.insert(wanted.bind, attempts);
        }
        if let Some(leaving) = self.before.leaving.get(&wanted.bind) {
            history.leaving.insert(wanted.bind, *leaving);
        }
        (since, attempts)
    }

    /// Counts a repair: once, however often it takes.
    fn mending(&mut self, wanted: &Wanted) {
        if self.heal.history.mending.insert(wanted.bind) {
            self.heal.repaired.insert(wanted.connection.clone());
        }
    }

    /// There is no current SA: make one, unless that is under way. `carries` says that another carries
    /// traffic.
    fn missing(&mut self, wanted: &Wanted, making: &[&IkeSa], carries: bool) {
        let (since, attempts) = self.remember(wanted);
        let number = wanted.bind.number();
        // The peer sees nothing of it.
        let forgotten = self.audit.orphans.contains_key(&number);
        let may_be_forgotten = forgotten || self.audit.doubtful.contains(&number);
        let turn = match wanted.initiate || may_be_forgotten {
            true => since,
            false => since + RESPONDER_WAITS,
        };
        let turn = match carries || may_be_forgotten {
            true => self.leave(wanted, turn),
            false => turn,
        };
        if !making.is_empty() {
            // What is stuck is closed now and replaced by the next pass: initiating at the same
            // time, charon could give the new child to the IKE_SA that it is about to close.
            // That pass need not wait: spacing is for attempts that are refused, and a peer that
            // was cut off should be met as soon as it is back.
            if self.stuck(making) {
                self.heal.history.attempts.remove(&wanted.bind);
            }
            return;
        }
        if self.initiated.contains(&wanted.connection) {
            self.due(self.now + SOON);
            return;
        }
        if !self.due(turn) {
            return;
        }
        if let Some((count, last)) = attempts
            && !self.due(last + backoff(count))
        {
            return;
        }
        let count = attempts.map_or(0, |(count, _)| count).saturating_add(1);
        let attempt = (count, self.now);
        self.heal.history.attempts.insert(wanted.bind, attempt);
        self.initiated.insert(wanted.connection.clone());
        self.heal.actions.push(Action::Initiate {
            connection: wanted.connection.clone(),
            child: wanted.child.clone(),
        });
        if forgotten {
            self.mending(wanted);
        }
        self.due(self.now + backoff(count));
    }

    /// Has traffic leave a tunnel that carries it, from `turn` on; says when it will have left.
    fn leave(&mut self, wanted: &Wanted, turn: Instant) -> Instant {
        if !self.due(turn) {
            return turn;
        }
        let began = match self.before.leaving.get(&wanted.bind) {
            Some(began) => *began,
            None if self.is_crowded(wanted) && !self.due(turn + TURN) => {
                self.due(self.now + SOON);
                return turn + TURN;
            }
            None => self.now,
        };
        self.heal.history.leaving.insert(wanted.bind, began);
        // Not for ever: the peer may not have its config yet.
        if !self.due(began + STUCK) {
            self.heal.yielding.insert(wanted.connection.clone());
        }
        began + YIELD
    }

    /// Traffic is leaving half of the connections to the same site, or the only other one.
    fn is_crowded(&self, wanted: &Wanted) -> bool {
        let all = || self.connections.iter().filter(|it| it.site == wanted.site);
        let leaves = |it: &&Wanted| {
            let both = [self.before, &self.heal.history];
            let mut since = both.iter().filter_map(|of| of.leaving.get(&it.bind));
            since.any(|since| *since + STUCK > self.now)
        };
        let all_names: BTreeSet<&str> = all().map(|it| it.connection.as_str()).collect();
        let leaving = all().filter(leaves).map(|it| it.connection.as_str());
        // Its own other children go with it.
        let leaving = leaving.filter(|name| *name != wanted.connection);
        leaving.collect::<BTreeSet<_>>().len() >= (all_names.len() / 2).max(1)
    }

    /// Since when something has been so; now, if it is new.
    fn since(&self, of: impl Fn(&History) -> &BTreeMap<Bind, Instant>, interface: Bind) -> Instant {
        *of(self.before).get(&interface).unwrap_or(&self.now)
    }

    /// Whether it is time; if not, a pass is due then.
    fn due(&mut self, when: Instant) -> bool {
        if when <= self.now {
            return true;
        }
        self.heal.again = Some(self.heal.again.map_or(when, |again| again.min(when)));
        false
    }
}

/// How long to wait after so many attempts.
fn backoff(attempts: u32) -> Duration {
    let doubled = 1u32
        .checked_shl(attempts.saturating_sub(1))
        .unwrap_or(u32::MAX);
    BACKOFF.0.saturating_mul(doubled).min(BACKOFF.1)
}

#[cfg(test)]
pub(crate) mod tests;
