//! Prefixes of sites and foreign peers: who announces them, and how everybody else gets there.

use super::{Report, Reports, Wanted};
use crate::mesh::Mesh;
use crate::spec::{At, Foreign, Site};
use ipnet::IpNet;
use routemesh_proto as proto;
use std::collections::{BTreeMap, BTreeSet};

/// The announced prefixes and routes of one gateway that reported lately, parsed.
struct Seen<'m> {
    gateway: &'m str,
    site: &'m str,
    announced: BTreeSet<IpNet>,
    routes: BTreeMap<IpNet, Vec<String>>,
    /// There are more than are listed: what is not listed is not known.
    announced_cut: bool,
    routes_cut: bool,
    /// How it reaches others is to be shown.
    wanted: bool,
}

impl<'m> Seen<'m> {
    fn new(gateway: &'m str, site: &'m str, report: &Report, wanted: bool) -> Self {
        let status = report.kept.head();
        let routes = wanted.then(|| report.kept.routes());
        let listed = routes.as_ref().map_or(0, Vec::len);
        let routes = routes.iter().flatten().filter_map(|route| {
            let via = route.paths.iter().map(|path| path.via.clone());
            Some((route.prefix.parse().ok()?, via.collect()))
        });
        Self {
            gateway,
            site,
            announced: status
                .announced
                .iter()
                .filter_map(|p| p.parse().ok())
                .collect(),
            routes: routes.collect(),
            announced_cut: status.announced_total > status.announced.len() as u64,
            routes_cut: status.routes_total > listed as u64,
            wanted,
        }
    }
}

/// Who owns prefixes.
#[derive(Clone, Copy)]
enum Owner<'m> {
    Site(&'m Site),
    Foreign(&'m Foreign),
}

impl<'m> Owner<'m> {
    fn name(self) -> &'m str {
        match self {
            Self::Site(it) => &it.name,
            Self::Foreign(it) => &it.name,
        }
    }

    fn prefixes(self) -> &'m [At<IpNet>] {
        match self {
            Self::Site(it) => &it.prefixes,
            Self::Foreign(it) => &it.prefixes,
        }
    }

    /// It is here, or right behind this gateway.
    fn is_at(self, seen: &Seen) -> bool {
        match self {
            Self::Site(it) => it.name.value == seen.site,
            Self::Foreign(it) => it.is_held_by(seen.gateway),
        }
    }

    fn admits(self, seen: &Seen) -> bool {
        match self {
            Self::Site(_) => true,
            Self::Foreign(it) => it.admits(seen.site),
        }
    }
}

/// So many ways of gateways to prefixes are shown.
const MOST: usize = 200_000;

/// One row for every prefix that a site or foreign peer announces, and for every one that it owns where
/// nothing of it is announced.
///
/// Nothing, and true, where that would be too much.
pub(super) fn prefixes(
    mesh: &Mesh,
    reports: &Reports,
    wanted: &Wanted,
) -> (Vec<proto::PrefixView>, bool) {
    let owned = mesh.spec.sites.iter().map(|site| site.prefixes.len());
    let ways = owned.sum::<usize>().saturating_mul(reports.len());
    if wanted.is_all() && ways > MOST {
        return (Vec::new(), true);
    }
    let seen: Vec<Seen> = mesh
        .spec
        .gateways()
        .filter_map(|(site, gateway)| {
            let name = gateway.name.as_str();
            let report = reports.get(name).filter(|report| report.is_fresh())?;
            let wanted = wanted.has(site, gateway);
            Some(Seen::new(name, &site.name, report, wanted))
        })
        .collect();
    let sites = mesh.spec.sites.iter().map(Owner::Site);
    let owners = sites.chain(mesh.spec.foreign.iter().map(Owner::Foreign));
    let rows = owners.flat_map(|owner| {
        let rows = rows(owner, &seen).into_iter();
        rows.map(|net| row(net, owner, &seen)).collect::<Vec<_>>()
    });
    (rows.collect(), false)
}

fn rows(owner: Owner, seen: &[Seen]) -> Vec<IpNet> {
    let here = || seen.iter().filter(|seen| owner.is_at(seen));
    let announced: BTreeSet<IpNet> = here()
        .flat_map(|seen| seen.announced.iter().copied())
        .collect();
    let mut rows = Vec::new();
    for owned in owner.prefixes() {
        let before = rows.len();
        rows.extend(announced.iter().filter(|net| owned.contains(*net)));
        if rows.len() == before && !here().any(|seen| seen.announced_cut) {
            rows.push(owned.value);
        }
    }
    // One that two owned prefixes hold, the one within the other, is still one row.
    let mut listed = BTreeSet::new();
    rows.retain(|net| listed.insert(*net));
    rows
}

fn row(net: IpNet, owner: Owner, seen: &[Seen]) -> proto::PrefixView {
    let (here, elsewhere): (Vec<&Seen>, Vec<&Seen>) =
        seen.iter().partition(|seen| owner.is_at(seen));
    let elsewhere = elsewhere
        .iter()
        .filter(|seen| seen.wanted && owner.admits(seen));
    proto::PrefixView {
        prefix: net.to_string(),
        site: owner.name().to_owned(),
        announced_by: here
            .iter()
            .filter(|seen| seen.announced.contains(&net))
            .map(|seen| seen.gateway.to_owned())
            .collect(),
        paths: elsewhere
            .filter(|seen| !seen.routes_cut || seen.routes.contains_key(&net))
            .map(|seen| proto::PrefixPaths {
                gateway: seen.gateway.to_owned(),
                via: seen.routes.get(&net).cloned().unwrap_or_default(),
            })
            .collect(),
    }
}
