//! The decision process (RFC 4271 section 9.1.2.2, with RFC 4456 section 9) as a pure function.

use crate::rib::Path;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// LOCAL_PREF of a path that has none: those learnt by eBGP.
pub(crate) const DEFAULT_LOCAL_PREF: u32 = 100;

/// The usable paths that are equally good, the best one first; empty when none is usable.
///
/// Every step removes all paths that are worse than another, so the order of `paths` has no
/// influence. The steps up to eBGP over iBGP decide which paths are used together (ECMP); router
/// id, cluster list and address only decide which of these is announced to others. The step that
/// compares the interior cost of next hops has nothing to do: ours are all directly connected.
pub(crate) fn select(paths: &[Path]) -> Vec<&Path> {
    let mut left: Vec<&Path> = paths
        .iter()
        .filter(|path| path.rejected.is_none())
        .collect();
    if left.len() > 1 {
        keep_least(&mut left, |path| Reverse(local_pref(path)));
        keep_least(&mut left, |path| path.attributes.as_path.length());
        keep_least(&mut left, |path| path.attributes.origin);
        drop_higher_med(&mut left);
        keep_least(&mut left, |path| path.source.internal);
        left.sort_by(|a, b| tie_break(a).cmp(&tie_break(b)));
    }
    left
}

fn local_pref(path: &Path) -> u32 {
    path.attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
}

fn keep_least<K: Ord>(paths: &mut Vec<&Path>, key: impl Fn(&Path) -> K) {
    if let Some(least) = paths.iter().map(|path| key(path)).min() {
        paths.retain(|path| key(path) == least);
    }
}

/// MED is compared only among paths through the same neighbouring AS; one without it counts as 0.
fn drop_higher_med(paths: &mut Vec<&Path>) {
    let med = |path: &Path| path.attributes.med.unwrap_or(0);
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
/// The name makes the order total: two peers may have one address, on different interfaces.
fn tie_break(path: &Path) -> (Ipv4Addr, usize, std::net::IpAddr, &crate::PeerId) {
    let source = &path.source;
    (
        path.attributes.originator_id.unwrap_or(source.router_id),
        path.attributes.cluster_list.len(),
        source.address,
        &source.peer,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::Source;
    use crate::wire::{AsPath, Attributes, NextHop, Origin};
    use std::net::IpAddr;
    use std::sync::Arc;

    /// An iBGP path from the peer with this number, by AS 1 and 2, changed.
    fn path(number: u8, change: impl FnOnce(&mut Attributes, &mut Source)) -> Path {
        let address = IpAddr::from([10, 0, 0, number]);
        let mut source = Source {
            peer: format!("P{number}").into(),
            internal: true,
            client: false,
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
            source: Arc::new(source),
            attributes: Arc::new(attributes),
            next_hop: NextHop {
                address,
                link_local: None,
            },
            stale: false,
            rejected: None,
        }
    }

    fn through(ases: &[u32]) -> AsPath {
        AsPath(ases.to_vec())
    }

    /// The numbers of the paths selected, whichever way round they are given.
    fn selected(paths: &[Path]) -> Vec<u8> {
        let numbers = |paths: &[Path]| -> Vec<u8> {
            let selected = select(paths).into_iter();
            selected
                .map(|path| path.source.router_id.octets()[3])
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
        assert!(select(&[]).is_empty());
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
    fn a_rejected_path_is_not_considered() {
        let mut best = path(1, |it, _| it.local_pref = Some(200));
        best.rejected = Some(crate::Rejection::NotAuthorized);
        assert_eq!(selected(&[best.clone(), path(2, |_, _| {})]), [2]);
        assert!(select(&[best]).is_empty());
    }
}
