//! Where charon and the kernel disagree about IPsec: [`audit`], a pure comparison.
//!
//! charon believes in what it has made, and is not told when somebody deletes it; and what a charon
//! that was killed has made lives on in the kernel, where the next one knows nothing of it: the tunnel
//! works until the peer rekeys, which then has nobody to rekey with.

use super::sas::{ChildSa, ChildState, IkeSa};
use crate::kernel::{Policy, Sa};
use crate::state::ours;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long something must have been wrong: while SAs are made, or go over from one IKE_SA to the next,
/// charon and the kernel may disagree.
const WRONG_FOR: Duration = Duration::from_millis(200);
/// How long SAs that charon does not know of are taken for a way. Its far end may have forgotten them too.
const SERVES: Duration = Duration::from_secs(10);
/// How often a tunnel's SAs are believed to be broken. If new ones have not cured it, it is more likely
/// that the comparison is wrong; and traffic may flow.
const CURES: usize = 3;
/// How long an SA must be whole for its tunnel to be cured.
const CURED: Duration = Duration::from_secs(10);
/// After so long it is tried again.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// What the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// All SAs, of whomever.
    pub sas: Vec<Sa>,
    /// Policies of ours.
    pub policies: BTreeSet<Policy>,
}

/// What is not as charon believes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// charon's numbers of CHILD_SAs of which the kernel lacks something.
    pub broken: BTreeSet<u32>,
    /// SAs of ours that charon does not know of, by the tunnel's `if_id` or mark.
    pub orphans: BTreeMap<u32, Vec<Sa>>,
    /// Tunnels that seem to have such, of which it is not certain yet.
    pub doubtful: BTreeSet<u32>,
    /// Tunnels with such for a short time: traffic goes on by them.
    pub serving: BTreeSet<u32>,
    /// Tunnels whose SAs seem broken however often they are made anew: they are left alone.
    pub incurable: BTreeSet<u32>,
}

/// Policies for each pair of selectors: in, out and forwarded.
const DIRECTIONS: usize = 3;

/// Compares charon's SAs with what the kernel had before they were listed. What is lacking may only
/// have come since: `after` is what the kernel had afterwards, if that is known already. `others` are the
/// SPIs of what charon has besides.
pub fn audit(
    sas: &[IkeSa],
    others: &BTreeSet<u32>,
    before: &Kernel,
    after: Option<&Kernel>,
) -> Audit {
    let lists = || [Some(before), after].into_iter().flatten();
    let spis: BTreeSet<u32> = lists().flat_map(|it| &it.sas).map(|sa| sa.spi).collect();
    let policies: Vec<BTreeMap<u32, usize>> = lists().map(policies).collect();
    let children = || sas.iter().flat_map(|ike| &ike.children);
    let lacking = children().filter(|child| child.state == ChildState::Installed);
    let lacking = lacking.filter(|child| {
        let gone = |spi: Option<u32>| spi.is_some_and(|spi| !spis.contains(&spi));
        // The end that did not ask for a rekey sends by the old one for as long as that is there.
        let sends = || {
            let mut serving = children().filter(|it| it.bind == child.bind);
            serving.any(|it| it.spi_out.is_some_and(|spi| spis.contains(&spi)))
        };
        let number = child.bind.map(|bind| bind.number());
        let unguarded = |number| {
            let count = |it: &BTreeMap<u32, usize>| it.get(&number).copied().unwrap_or(0);
            let needed = DIRECTIONS * child.selectors;
            policies.iter().all(|it| count(it) < needed)
        };
        gone(child.spi_in) || gone(child.spi_out) && !sends() || number.is_some_and(unguarded)
    });
    let broken = lacking.map(|child| child.unique_id).collect();

    let known = children().flat_map(|child| [child.spi_in, child.spi_out]);
    let mut known: BTreeSet<u32> = known.flatten().collect();
    known.extend(others);
    // Of children that it is about to close charon does not tell the SPIs.
    let silent = |ike: &&IkeSa| ike.children.iter().any(|child| child.spi_in.is_none());
    let numbers = |ike: &IkeSa| -> Vec<u32> {
        let binds = ike.children.iter().filter_map(|child| child.bind);
        let bound = binds.map(|bind| bind.number());
        bound.chain(of(&ike.connection)).collect()
    };
    let silent = sas.iter().filter(silent);
    let silent: BTreeSet<u32> = silent.flat_map(numbers).collect();
    let halves = halves(&before.sas);
    let mut orphans: BTreeMap<u32, Vec<Sa>> = BTreeMap::new();
    for sa in before.sas.iter().filter(|sa| !known.contains(&sa.spi)) {
        let other = || halves.get(&(sa.to, sa.from, sa.reqid)).copied();
        match sa.number.or_else(other) {
            Some(number) if !silent.contains(&number) => {
                orphans.entry(number).or_default().push(sa.clone());
            }
            _ => {}
        }
    }
    Audit {
        broken,
        orphans,
        ..Audit::default()
    }
}

/// How many policies each tunnel has.
fn policies(kernel: &Kernel) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    for policy in &kernel.policies {
        *counts.entry(policy.number).or_default() += 1;
    }
    counts
}

/// The tunnel of a connection, by its name.
fn of(connection: &str) -> Option<u32> {
    let (number, _) = connection.strip_prefix("rm")?.split_once('-')?;
    ours::IF_ID.checked_add(number.parse().ok()?)
}

/// The tunnels of SAs with marks: what a VTI tunnel receives by has none, and is known by this, its other
/// half.
fn halves(sas: &[Sa]) -> BTreeMap<(IpAddr, IpAddr, u32), u32> {
    let marked = sas.iter().filter(|sa| sa.mark.is_some());
    marked
        .filter_map(|sa| Some(((sa.from, sa.to, sa.reqid), sa.number?)))
        .collect()
}

/// What was found wrong, and since when.
#[derive(Debug, Default)]
pub struct Suspects {
    broken: BTreeMap<u32, Instant>,
    orphans: BTreeMap<Sa, Instant>,
    /// By tunnel: the SAs that were believed to be broken since it was last cured.
    cures: BTreeMap<u32, Cures>,
}

#[derive(Debug)]
struct Cures {
    /// How often all was broken, and something else than before.
    count: usize,
    /// What was broken the last time, and when.
    last: (BTreeSet<u32>, Instant),
}

impl Suspects {
    /// Leaves in an audit what has been wrong for long enough; says when to look again for the rest.
    pub fn confirm(&mut self, audit: &mut Audit, sas: &[IkeSa], now: Instant) -> Option<Instant> {
        let Self {
            broken, orphans, ..
        } = self;
        *broken = since(broken, &audit.broken, now);
        *orphans = since(orphans, audit.orphans.values().flatten(), now);
        audit.broken.retain(|id| {
            broken
                .get(id)
                .is_some_and(|since| *since + WRONG_FOR <= now)
        });
        let recent = |sa: &Sa| orphans.get(sa).is_some_and(|since| *since + SERVES > now);
        let serving = audit
            .orphans
            .iter()
            .filter(|(_, sas)| sas.iter().any(recent));
        audit.serving = serving.map(|(number, _)| *number).collect();
        let doubtful = &mut audit.doubtful;
        audit.orphans.retain(|number, sas| {
            let found = sas.len();
            sas.retain(|sa| {
                orphans
                    .get(sa)
                    .is_some_and(|since| *since + WRONG_FOR <= now)
            });
            if sas.len() < found {
                doubtful.insert(*number);
            }
            !sas.is_empty()
        });
        let since = broken.values().chain(orphans.values());
        let due = since.map(|since| *since + WRONG_FOR);
        let due = due.filter(|due| *due > now).min();
        self.despair(audit, sas, now);
        due
    }

    /// Believes no more in what nothing cures.
    fn despair(&mut self, audit: &mut Audit, sas: &[IkeSa], now: Instant) {
        let installed = |it: &&ChildSa| it.state == ChildState::Installed;
        let children = || sas.iter().flat_map(|ike| &ike.children).filter(installed);
        let settled = |child: &ChildSa| child.installed.is_some_and(|age| age >= CURED);
        for child in children().filter(|it| settled(it) && !self.broken.contains_key(&it.unique_id))
        {
            let number = child.bind.map(|bind| bind.number());
            number.map(|number| self.cures.remove(&number));
        }
        self.cures.retain(|_, cures| cures.last.1 + FORGOTTEN > now);
        let mut found: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for child in children().filter(|it| audit.broken.contains(&it.unique_id)) {
            if let Some(bind) = child.bind {
                found
                    .entry(bind.number())
                    .or_default()
                    .insert(child.unique_id);
            }
        }
        for (number, found) in found {
            let cures = self.cures.entry(number).or_insert_with(|| Cures {
                count: 0,
                last: (BTreeSet::new(), now),
            });
            if !cures.last.0.is_disjoint(&found) {
                cures.last.0 = found;
            } else if cures.count < CURES {
                cures.count += 1;
                cures.last = (found, now);
            } else {
                audit.broken.retain(|id| !found.contains(id));
                audit.incurable.insert(number);
            }
        }
    }
}

/// Those of before that are still there, and the new ones since now.
fn since<'a, T: Ord + Clone + 'a>(
    before: &BTreeMap<T, Instant>,
    found: impl IntoIterator<Item = &'a T>,
    now: Instant,
) -> BTreeMap<T, Instant> {
    let one = |it: &T| (it.clone(), *before.get(it).unwrap_or(&now));
    found.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vici::heal::tests::{BIND, ike, up};
    use crate::vici::{Bind, ChildSa, IkeState};

    const NUMBER: u32 = 0x5200_0007;

    fn found_in(sas: &[IkeSa], before: &Kernel, after: Option<&Kernel>) -> Audit {
        audit(sas, &BTreeSet::new(), before, after)
    }

    /// A pair of SAs by its SPIs, in and out.
    fn pair(spi_in: u32, spi_out: u32) -> Vec<Sa> {
        let [here, there] = ["2001:db8::1", "2001:db8::2"].map(|it| it.parse().unwrap());
        let sa = |from, to, spi| Sa::new(from, to, spi, 1, Some(NUMBER));
        vec![sa(there, here, spi_in), sa(here, there, spi_out)]
    }

    fn kernel(sas: Vec<Sa>) -> Kernel {
        let of = |direction| {
            [2, 10].map(|family| Policy {
                number: NUMBER,
                direction,
                family,
            })
        };
        Kernel {
            sas,
            policies: (0..3).flat_map(of).collect(),
        }
    }

    fn child(spi_in: u32, spi_out: u32) -> IkeSa {
        let mut sa = up(1, 5, "new");
        let child: &mut ChildSa = &mut sa.children[0];
        (child.spi_in, child.spi_out) = (Some(spi_in), Some(spi_out));
        assert_eq!(child.bind, Some(BIND));
        sa
    }

    #[test]
    fn where_both_have_the_same_nothing_is_wrong() {
        let found = found_in(&[child(1, 2)], &kernel(pair(1, 2)), None);
        assert_eq!(found, Audit::default());
    }

    #[test]
    fn what_the_kernel_lacks_is_broken() {
        let broken = |kernel: &Kernel| found_in(&[child(1, 2)], kernel, None).broken;
        let five = BTreeSet::from([5]);
        for half in [0, 1] {
            assert_eq!(broken(&kernel(vec![pair(1, 2).remove(half)])), five);
        }
        let mut unguarded = kernel(pair(1, 2));
        unguarded.policies.pop_first();
        assert_eq!(broken(&unguarded), five);
        // One that is still being made has nothing there yet.
        let mut making = child(1, 2);
        making.children[0].state = ChildState::Making;
        assert_eq!(found_in(&[making], &kernel(vec![]), None), Audit::default());
    }

    #[test]
    fn one_that_does_not_send_yet_is_not_broken_while_the_old_one_does() {
        let mut old = child(1, 2);
        old.children[0].state = ChildState::Closing;
        let sas = [old, child(3, 4)];
        let half = |it: &Kernel| found_in(&sas, it, None).broken.len();
        let mut held = [pair(1, 2), pair(3, 4)].concat();
        held.pop();
        assert_eq!(half(&kernel(held.clone())), 0);
        held.remove(1);
        assert_eq!(half(&kernel(held)), 1);
    }

    #[test]
    fn only_what_stays_broken_counts() {
        let now = Instant::now();
        let mut suspects = Suspects::default();
        let mut look = |broken: &[u32], after: Duration| {
            let mut audit = Audit::default();
            audit.broken.extend(broken);
            audit.orphans = broken.iter().map(|id| (*id, pair(*id, *id))).collect();
            let again = suspects.confirm(&mut audit, &[], now + after);
            assert!(audit.broken.iter().eq(audit.orphans.keys()));
            let told: BTreeSet<u32> = audit.broken.union(&audit.doubtful).copied().collect();
            assert!(told.iter().eq(broken), "certain or doubtful");
            (audit.broken.into_iter().collect::<Vec<_>>(), again)
        };
        let half = WRONG_FOR / 2;
        assert_eq!(look(&[1], Duration::ZERO), (vec![], Some(now + WRONG_FOR)));
        assert_eq!(look(&[1, 2], half), (vec![], Some(now + WRONG_FOR)));
        let then = now + half + WRONG_FOR;
        assert_eq!(look(&[1, 2], WRONG_FOR), (vec![1], Some(then)));
        assert_eq!(look(&[2], half + WRONG_FOR), (vec![2], None));
        assert_eq!(
            look(&[1], half + WRONG_FOR),
            (vec![], Some(then + WRONG_FOR))
        );
    }

    #[test]
    fn what_charon_has_forgotten_is_a_way_for_a_short_time() {
        let start = Instant::now();
        let mut suspects = Suspects::default();
        let mut serves = |after| {
            let mut audit = Audit {
                orphans: [(NUMBER, pair(1, 2))].into(),
                ..Audit::default()
            };
            suspects.confirm(&mut audit, &[], start + after);
            audit.serving == [NUMBER].into()
        };
        assert!(serves(Duration::ZERO));
        assert!(serves(SERVES / 2));
        assert!(!serves(SERVES));
    }

    #[test]
    fn what_three_new_sas_do_not_cure_is_left_alone_until_one_is_whole_or_it_is_forgotten() {
        let start = Instant::now();
        let mut suspects = Suspects::default();
        let mut look = |id: u32, age: u64, whole: bool, second: u64| {
            let mut sa = up(1, id, "new");
            sa.children[0].installed = Some(Duration::from_secs(age));
            let mut audit = Audit::default();
            audit.broken.extend((!whole).then_some(id));
            suspects.confirm(&mut audit, &[sa], start + Duration::from_secs(second));
            let left = audit.incurable == [NUMBER].into();
            assert!(!left || audit.broken.is_empty());
            (!audit.broken.is_empty(), left)
        };
        let (nothing, closed, left) = ((false, false), (true, false), (false, true));
        for (id, second) in [(1, 0), (2, 3), (3, 6), (4, 9)] {
            let expected = if id < 4 { closed } else { left };
            assert_eq!(look(id, 0, false, second), nothing, "not certain yet");
            assert_eq!(look(id, 1, false, second + 1), expected, "{id}");
            assert_eq!(look(id, 2, false, second + 2), expected, "{id}, again");
        }
        // Being whole for a moment is no cure.
        assert_eq!(look(5, 9, true, 20), nothing);
        look(5, 10, false, 21);
        assert_eq!(look(5, 11, false, 22), left);
        assert_eq!(look(5, 12, true, 23), nothing);
        look(6, 0, false, 30);
        assert_eq!(look(6, 0, false, 31), closed, "it was cured");
        for id in [7, 8] {
            look(id, 0, false, u64::from(id) * 10);
            assert_eq!(look(id, 0, false, u64::from(id) * 10 + 1), closed);
        }
        look(9, 0, false, 90);
        assert_eq!(look(9, 0, false, 91), left);
        assert_eq!(look(9, 0, false, 680), left);
        assert_eq!(look(9, 0, false, 681), closed, "forgotten");
    }

    #[test]
    fn what_came_while_it_was_listed_is_not_broken() {
        let (before, after) = (kernel(vec![]), kernel(pair(1, 2)));
        let found = |after| found_in(&[child(1, 2)], &before, after).broken.len();
        assert_eq!((found(None), found(Some(&after))), (1, 0));
    }

    #[test]
    fn what_charon_does_not_know_of_is_an_orphan() {
        let all = [pair(1, 2), pair(3, 4)].concat();
        let found = found_in(&[child(1, 2)], &kernel(all), None);
        assert_eq!(found.broken, BTreeSet::new());
        assert_eq!(found.orphans, [(NUMBER, pair(3, 4))].into());
        // One that it is about to close it knows of.
        let mut closing = child(3, 4);
        closing.children[0].state = ChildState::Closing;
        let found = found_in(&[closing], &kernel(pair(3, 4)), None);
        assert_eq!(found, Audit::default());
    }

    #[test]
    fn what_charon_is_about_to_close_is_no_orphan() {
        let mut closing = child(3, 4);
        closing.connection = "rm7-V2-1".into();
        let child = &mut closing.children[0];
        (child.state, child.spi_in, child.spi_out) = (ChildState::Closing, None, None);
        let found = found_in(&[closing], &kernel(pair(3, 4)), None);
        assert_eq!(found.orphans, BTreeMap::new());
    }

    #[test]
    fn one_without_mark_belongs_to_its_other_half_and_a_strangers_to_nobody() {
        let mut sas = pair(3, 4);
        sas[0].number = None;
        // A stranger between the same ends, with the same reqid.
        let xfrm = found_in(&[], &kernel(sas.clone()), None);
        assert_eq!(xfrm.orphans, [(NUMBER, vec![sas[1].clone()])].into());
        sas[1].mark = Some([0; 8]);
        let vti = found_in(&[], &kernel(sas.clone()), None);
        assert_eq!(vti.orphans, [(NUMBER, sas.clone())].into());
        let others = BTreeSet::from([3]);
        let known = audit(&[], &others, &kernel(sas.clone()), None);
        assert_eq!(known.orphans, [(NUMBER, vec![sas[1].clone()])].into());
        sas[1].number = None;
        let unbound = ike(1, IkeState::Established, vec![]);
        let found = found_in(&[unbound], &kernel(sas), None);
        assert_eq!(found, Audit::default());
        assert_eq!(Bind::IfId(NUMBER), BIND);
    }
}
