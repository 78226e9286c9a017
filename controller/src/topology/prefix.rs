//! Sites' prefixes: who announces them, and how everybody else gets there.

use super::{Report, Reports};
use crate::mesh::Mesh;
use crate::spec::Site;
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
}

impl<'m> Seen<'m> {
    fn new(gateway: &'m str, site: &'m str, report: &Report) -> Self {
        let status = &report.status;
        let routes = status.routes.iter().filter_map(|route| {
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
            routes_cut: status.routes_total > status.routes.len() as u64,
        }
    }
}

/// One row for every prefix that a site announces, and for every one that it owns where nothing
/// of it is announced.
pub(super) fn prefixes(mesh: &Mesh, reports: &Reports) -> Vec<proto::PrefixView> {
    let seen: Vec<Seen> = mesh
        .spec
        .gateways()
        .filter_map(|(site, gateway)| {
            let name = gateway.name.as_str();
            let report = reports.get(name).filter(|report| report.is_fresh())?;
            Some(Seen::new(name, &site.name, report))
        })
        .collect();
    let rows = mesh.spec.sites.iter().flat_map(|site| {
        let rows = rows(site, &seen).into_iter();
        rows.map(|net| row(net, site, &seen)).collect::<Vec<_>>()
    });
    rows.collect()
}

fn rows(site: &Site, seen: &[Seen]) -> Vec<IpNet> {
    let here = || seen.iter().filter(|seen| *seen.site == *site.name.value);
    let announced: BTreeSet<IpNet> = here()
        .flat_map(|seen| seen.announced.iter().copied())
        .collect();
    let mut rows = Vec::new();
    for owned in &site.prefixes {
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

fn row(net: IpNet, site: &Site, seen: &[Seen]) -> proto::PrefixView {
    let (here, elsewhere): (Vec<&Seen>, Vec<&Seen>) =
        seen.iter().partition(|seen| *seen.site == *site.name.value);
    proto::PrefixView {
        prefix: net.to_string(),
        site: site.name.value.clone(),
        announced_by: here
            .iter()
            .filter(|seen| seen.announced.contains(&net))
            .map(|seen| seen.gateway.to_owned())
            .collect(),
        paths: elsewhere
            .iter()
            .filter(|seen| !seen.routes_cut || seen.routes.contains_key(&net))
            .map(|seen| proto::PrefixPaths {
                gateway: seen.gateway.to_owned(),
                via: seen.routes.get(&net).cloned().unwrap_or_default(),
            })
            .collect(),
    }
}
