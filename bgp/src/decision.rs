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
