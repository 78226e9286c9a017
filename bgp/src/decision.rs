//! The decision process (RFC 4271 section 9.1.2.2, with RFC 4456 section 9) as a pure function.

use crate::table::Source;
use crate::wire::{Attributes, NextHop};
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// LOCAL_PREF of a path that has none: those learnt by eBGP.
pub(crate) const DEFAULT_LOCAL_PREF: u32 = 100;

/// The path was kept by a peer for long after its own peer had gone (RFC 9494).
pub(crate) const LLGR_STALE: u32 = 0xffff_0006;

/// A usable path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    /// Which one it is.
    pub(crate) at: usize,
    pub(crate) source: &'a Source,
    pub(crate) attributes: &'a Attributes,
    pub(crate) next_hop: NextHop,
    /// Kept for long after its peer has gone (RFC 9494).
    pub(crate) last_resort: bool,
}

/// The paths to one prefix, hardly ever more than a few.
pub(crate) type Candidates<'a> = SmallVec<[Candidate<'a>; 4]>;

/// The paths that are equally good, the best one first.
///
/// Every step removes all paths that are worse than another, so the order of `left` has no
/// influence. The steps up to eBGP over iBGP decide which paths are used together (ECMP); router
/// id, cluster list and address only decide which of these is announced to others. The step that
/// compares the interior cost of next hops has nothing to do: ours are all directly connected.
pub(crate) fn select(mut left: Candidates<'_>) -> Candidates<'_> {
    if left.len() > 1 {
        keep_least(&mut left, is_last_resort);
        keep_least(&mut left, |path| Reverse(local_pref(path)));
        keep_least(&mut left, |path| path.attributes.as_path.length());
        keep_least(&mut left, |path| path.attributes.origin);
        drop_higher_med(&mut left);
        keep_least(&mut left, |path| path.source.internal);
        left.sort_by(|a, b| tie_break(a).cmp(&tie_break(b)));
    }
    left
}

/// RFC 9494 section 4.4: before all else, a path kept for long is worse than any other.
fn is_last_resort(path: &Candidate<'_>) -> bool {
    path.last_resort || path.attributes.communities.contains(&LLGR_STALE)
}

fn local_pref(path: &Candidate<'_>) -> u32 {
    path.attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
}

fn keep_least<K: Ord>(paths: &mut Candidates<'_>, key: impl Fn(&Candidate<'_>) -> K) {
    if let Some(least) = paths.iter().map(&key).min() {
        paths.retain(|path| key(path) == least);
    }
}

/// MED is compared only among paths through the same neighbouring AS; one without it counts as 0.
fn drop_higher_med(paths: &mut Candidates<'_>) {
    let med = |path: &Candidate<'_>| path.attributes.med.unwrap_or(0);
    let mut meds = paths.iter().map(med);
    let first = meds.next();
    if meds.all(|it| Some(it) == first) {
        return;
    }
    let mut least: BTreeMap<Option<u32>, u32> = BTreeMap::new();
    for path in paths.iter() {
        let lowest = least
            .entry(path.attributes.as_path.first())
            .or_insert(u32::MAX);
        *lowest = med(path).min(*lowest);
    }
    paths.retain(|path| least.get(&path.attributes.as_path.first()) == Some(&med(path)));
}

/// The order among equally good paths: the originator's id stands for the router id of a
/// reflected path, then the shorter cluster list (RFC 4456 section 9), then the lower address.
/// The name makes the order total among peers, since two may have one address, on different
/// interfaces; the next hop does among paths of one peer (RFC 7911), as far as traffic sees.
fn tie_break<'a>(path: &Candidate<'a>) -> impl Ord + use<'a> {
    let source = path.source;
    (
        path.attributes.originator_id.unwrap_or(source.router_id),
        path.attributes.cluster_list.len(),
        source.address,
        &source.peer,
        path.next_hop,
        path.attributes,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{AsPath, Origin};
    use std::net::{IpAddr, Ipv4Addr};

    #[derive(Clone)]
    struct Path {
        source: Source,
        attributes: Attributes,
        next_hop: NextHop,
        last_resort: bool,
    }

    /// An iBGP path from the peer with this number, by AS 1 and 2, changed.
    fn path(number: u8, change: impl FnOnce(&mut Attributes, &mut Source)) -> Path {
        let address = IpAddr::from([10, 0, 0, number]);
        let mut source = Source {
            peer: format!("P{number}").into(),
            internal: true,
            client: false,
            meshed: false,
            router_id: Ipv4Addr::new(1, 1, 1, number),
            address,
        };
        let mut attributes = Attributes {
            as_path: AsPath(vec![1, 2]),
            local_pref: Some(100),
            ..Attributes::default()
        };
        change(&mut attributes, &mut source);
        Path {
            source,
            attributes,
            next_hop: NextHop {
                address,
                link_local: None,
            },
            last_resort: false,
        }
    }

    fn candidate(at: usize, path: &Path) -> Candidate<'_> {
        Candidate {
            at,
            source: &path.source,
            attributes: &path.attributes,
            next_hop: path.next_hop,
            last_resort: path.last_resort,
        }
    }

    fn through(ases: &[u32]) -> AsPath {
        AsPath(ases.to_vec())
    }

    /// The numbers of the paths selected, whichever way round they are given.
    fn selected(paths: &[Path]) -> Vec<u8> {
        let numbers = |paths: &[Path]| -> Vec<u8> {
            let candidates = paths
                .iter()
                .enumerate()
                .map(|(at, it)| candidate(at, it))
                .collect();
            select(candidates)
                .iter()
                .map(|it| it.source.router_id.octets()[3])
                .collect()
        };
        let mut paths = paths.to_vec();
        let first = numbers(&paths);
        for _ in 0..paths.len() {
            paths.rotate_left(1);
            assert_eq!(numbers(&paths), first);
        }
        paths.reverse();
        assert_eq!(numbers(&paths), first);
        first
    }

    #[test]
    fn every_step_decides_before_those_after_it() {
        type Change = fn(&mut Attributes, &mut Source);
        // Each makes the path better at its step than the one of the step before, which stays
        // better at all later steps.
        let steps: [Change; 6] = [
            |it, _| it.local_pref = Some(101),
            |it, _| it.as_path = through(&[1]),
            |it, _| it.origin = Origin::Igp,
            |it, _| it.med = Some(5),
            |_, source| source.internal = false,
            |_, _| {},
        ];
        let worst: Change = |it, source| {
            it.local_pref = Some(100);
            it.origin = Origin::Egp;
            it.med = Some(10);
            source.internal = true;
        };
        for (at, step) in steps.iter().enumerate().take(5) {
            let better = path(9, |it, source| {
                worst(it, source);
                step(it, source);
            });
            let worse = path(1, |it, source| {
                worst(it, source);
                for later in steps.iter().skip(at + 1) {
                    later(it, source);
                }
            });
            assert_eq!(selected(&[better, worse]), [9], "step {at}");
        }
    }

    #[test]
    fn equal_paths_are_used_together_the_lowest_router_id_first() {
        let paths = [path(3, |_, _| {}), path(1, |_, _| {}), path(2, |_, _| {})];
        assert_eq!(selected(&paths), [1, 2, 3]);
        assert!(selected(&[]).is_empty());
    }

    #[test]
    fn ties_are_broken_in_order() {
        let lowest = Ipv4Addr::new(0, 0, 0, 1);
        // The originator's id stands for the router id.
        let reflected = path(9, |it, _| it.originator_id = Some(lowest));
        assert_eq!(selected(&[path(1, |_, _| {}), reflected.clone()]), [9, 1]);
        // Then the shorter cluster list.
        let longer = path(2, |it, _| {
            it.originator_id = Some(lowest);
            it.cluster_list = vec![lowest];
        });
        assert_eq!(selected(&[longer.clone(), reflected.clone()]), [9, 2]);
        // Then the lower address.
        let other = path(8, |it, _| it.originator_id = Some(lowest));
        assert_eq!(selected(&[reflected, longer, other]), [8, 9, 2]);
    }

    #[test]
    fn med_counts_only_among_paths_of_one_neighbouring_as() {
        let with = |number, med, neighbour| {
            path(number, move |it, _| {
                it.med = med;
                it.as_path = through(&[neighbour, 2]);
            })
        };
        assert_eq!(selected(&[with(1, Some(5), 1), with(2, Some(3), 1)]), [2]);
        assert_eq!(
            selected(&[with(1, Some(5), 1), with(2, Some(3), 7)]),
            [1, 2]
        );
        // None is the best there is.
        assert_eq!(selected(&[with(1, Some(5), 1), with(2, None, 1)]), [2]);
        assert_eq!(selected(&[with(1, Some(0), 1), with(2, None, 1)]), [1, 2]);
        // Where comparing pairs in turn would depend on the order.
        let paths = [
            with(1, Some(5), 1),
            with(2, Some(9), 7),
            with(3, Some(3), 1),
        ];
        assert_eq!(selected(&paths), [2, 3]);
        // Paths of our own AS are compared with each other.
        let own = |number, med| {
            path(number, move |it, _| {
                it.med = med;
                it.as_path = AsPath::default();
            })
        };
        assert_eq!(selected(&[own(1, Some(5)), own(2, Some(3))]), [2]);
    }

    #[test]
    fn no_local_pref_counts_as_100() {
        let without = path(1, |it, _| it.local_pref = None);
        assert_eq!(selected(&[without.clone(), path(2, |_, _| {})]), [1, 2]);
        let lower = path(2, |it, _| it.local_pref = Some(99));
        assert_eq!(selected(&[without, lower]), [1]);
    }

    #[test]
    fn what_was_kept_for_long_is_a_last_resort() {
        let mut kept = path(1, |it, _| it.local_pref = Some(200));
        kept.last_resort = true;
        assert_eq!(selected(&[kept.clone(), path(2, |_, _| {})]), [2]);
        assert_eq!(selected(&[kept.clone()]), [1]);
        // Whoever kept it.
        let elsewhere = path(3, |it, _| it.communities = vec![7, LLGR_STALE]);
        assert_eq!(selected(&[elsewhere.clone(), path(2, |_, _| {})]), [2]);
        assert_eq!(selected(&[elsewhere, kept]), [1]);
    }

    #[test]
    fn paths_of_one_peer_have_an_order_too() {
        let mut first = path(1, |_, _| {});
        first.next_hop.address = IpAddr::from([10, 0, 0, 8]);
        let mut second = path(1, |_, _| {});
        second.next_hop.address = IpAddr::from([10, 0, 0, 9]);
        for paths in [[&first, &second], [&second, &first]] {
            let selected = select(
                paths
                    .iter()
                    .enumerate()
                    .map(|(at, it)| candidate(at, it))
                    .collect(),
            );
            assert_eq!(selected[0].next_hop, first.next_hop);
        }
    }
}
