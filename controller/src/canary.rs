//! A specification that the gateways of one site run before all others follow: who runs what meanwhile,
//! and whether to go on or back. Pure.

use crate::mesh::Mesh;
use crate::render::of_spec;
use crate::spec::{MeshSpec, Site};
use ipnet::IpNet;
use routemesh_proto::{self as proto, Config, Topology};
use std::collections::{BTreeMap, BTreeSet};
use std::iter::successors;
use std::time::{Duration, Instant};

/// All has to be well for so long: longer than BGP's hold time, and than the pause between two reports.
pub const STEADY: Duration = Duration::from_secs(30);
/// What is not well by then does not become so.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The site that tries a generation, and what the others stay with.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The site.
    pub site: String,
    /// The generation before.
    pub before: Mesh,
    /// Numbers of the tunnels that were up then.
    pub up: BTreeSet<u32>,
}

/// Why a specification cannot be tried at one site; `None` if it can.
pub fn objection(before: &MeshSpec, after: &MeshSpec, site: &str) -> Option<String> {
    let has = |spec: &MeshSpec| spec.sites.iter().any(|it| it.name.value == site);
    if !has(before) || !has(after) {
        return Some(format!(
            "site {site:?} is not both in the mesh and in the specification: it cannot try it"
        ));
    }
    gateway_moves(before, after).or_else(|| prefix_moves(before, after, site))
}

/// A gateway that is to its peers somebody else than before.
fn gateway_moves(before: &MeshSpec, after: &MeshSpec) -> Option<String> {
    let was: BTreeMap<&str, &Site> = before
        .gateways()
        .map(|(site, gateway)| (gateway.name.as_str(), site))
        .collect();
    after.gateways().find_map(|(now, gateway)| {
        let was = was.get(gateway.name.as_str())?;
        let what = match was.name.value != now.name.value {
            true => "site",
            false if was.asn != now.asn => "AS",
            false => return None,
        };
        Some(format!(
            "gateway {} gets another {what}, which its peers have to know at the same moment: apply it without --canary",
            gateway.name.value
        ))
    })
}

/// Of what kind, and its name.
type Owner<'s> = (&'static str, &'s str);

fn owned(spec: &MeshSpec) -> BTreeMap<IpNet, Owner<'_>> {
    let sites = spec.sites.iter();
    let sites = sites.map(|it| (("site", it.name.as_str()), &it.prefixes));
    let foreign = spec.foreign.iter();
    let foreign = foreign.map(|it| (("foreign peer", it.name.as_str()), &it.prefixes));
    let all = sites.chain(foreign);
    all.flat_map(|(owner, prefixes)| prefixes.iter().map(move |it| (it.value, owner)))
        .collect()
}

/// What covers a prefix, and whose it is: all that do are of one owner.
fn covering<'s>(owned: &BTreeMap<IpNet, Owner<'s>>, net: IpNet) -> Option<(IpNet, Owner<'s>)> {
    let mut wider = successors(Some(net), IpNet::supernet);
    wider.find_map(|it| Some((it, *owned.get(&it)?)))
}

/// A prefix that is somebody else's afterwards, in whole or in part. Those who do not try it would take it
/// from nobody, as the one says that it is the other's, who does not announce it yet. What the site that
/// tries it takes over in whole, it announces, and everybody hears whose it is.
fn prefix_moves(before: &MeshSpec, after: &MeshSpec, site: &str) -> Option<String> {
    let (before, after) = (owned(before), owned(after));
    let wider_before = after.iter().filter_map(|(new, now)| {
        let (old, was) = covering(&before, *new)?;
        Some(((old, was), (*new, *now)))
    });
    let wider_after = before.iter().filter_map(|(old, was)| {
        let (new, now) = covering(&after, *old)?;
        Some(((*old, *was), (new, now)))
    });
    let mut all = wider_before.chain(wider_after);
    let ((old, was), (new, now)) = all.find(|((old, was), (new, now))| {
        let taken_over = was.0 == "site" && *now == ("site", site) && new.contains(old);
        was != now && !taken_over
    })?;
    Some(format!(
        "{old} of {} {} becomes {new} of {} {}, and would be nobody's for those who do not try it: only a whole prefix of another site can move, and only to site {site}; apply it without --canary",
        was.0, was.1, now.0, now.1
    ))
}

/// What a gateway runs meanwhile: those of the site as the new specification says. The others as before,
/// but for their tunnels to these, as both ends have to be alike, and for what the site owns.
pub(crate) fn config(mesh: &Mesh, trial: &Trial, gateway: &str) -> Option<Config> {
    let at_site = |mesh: &Mesh| {
        let found = mesh.gateway(gateway);
        found.is_some_and(|(site, _)| site.name.value == trial.site)
    };
    if at_site(mesh) || at_site(&trial.before) {
        return of_spec(mesh, gateway);
    }
    let mut before = trial.before.clone();
    before.keys.clone_from(&mesh.keys);
    let mut config = of_spec(&before, gateway)?;
    config.generation = mesh.generation;
    // Who has left has no tunnels in either.
    let new = of_spec(mesh, gateway).unwrap_or_default();
    let theirs =
        |tunnel: &proto::Tunnel| tunnel.foreign.is_none() && tunnel.peer_site == trial.site;
    config.tunnels.retain(|tunnel| !theirs(tunnel));
    config
        .tunnels
        .extend(new.tunnels.into_iter().filter(theirs));
    config.tunnels.sort_by_key(|tunnel| tunnel.number);
    if let Some(own) = mesh
        .spec
        .sites
        .iter()
        .find(|it| it.name.value == trial.site)
    {
        let own: Vec<IpNet> = own.prefixes.iter().map(|it| it.value).collect();
        owners(&mut config.sites, &trial.site, &own);
    }
    Some(config)
}

/// A prefix belongs to one site: what the site owns now, no other owns.
fn owners(sites: &mut [proto::Site], site: &str, own: &[IpNet]) {
    let overlaps = |prefix: &IpNet| {
        let mut own = own.iter();
        own.any(|it| it.contains(prefix) || prefix.contains(it))
    };
    for it in sites {
        match it.name == site {
            true => it.prefixes = own.iter().map(ToString::to_string).collect(),
            false => it
                .prefixes
                .retain(|text| text.parse().is_ok_and(|prefix| !overlaps(&prefix))),
        }
    }
}

/// What is to become of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not known yet; for people: for what it waits.
    Wait(String),
    /// Everybody follows.
    On,
    /// It goes back, and why.
    Back(String),
}

/// What is not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    words: String,
    /// Time does not mend it.
    lasting: bool,
}

/// The first thing that is not well: a gateway of the site that does not run what it tries, another that
/// does not run what belongs to it, a tunnel that was up.
pub fn fault(trial: &Trial, view: &Topology) -> Option<Fault> {
    let fault = |words: String| Fault {
        words,
        lasting: false,
    };
    let gateways = view.gateways.iter();
    let refused = gateways.clone().find_map(|it| {
        let mut problems = it.problems.iter();
        let refused = format!("config of generation {}", view.generation);
        let problem = problems.find(|problem| problem.object == refused)?;
        Some(format!("{} refuses it: {}", it.name, problem.reason))
    });
    if let Some(words) = refused {
        return Some(Fault {
            words,
            lasting: true,
        });
    }
    let behind = gateways.clone().find(|it| match it.site == trial.site {
        true => it.verdict != "ok",
        // Those that are away or have problems of their own need not be waited for; their tunnels tell.
        false => it.verdict == "behind" && trial.before.gateway(&it.name).is_some(),
    });
    if let Some(it) = behind {
        return Some(fault(format!(
            "{} is {}: {}",
            it.name, it.verdict, it.reason
        )));
    }
    let mut edges = view.edges.iter();
    let worse = edges.find(|it| it.verdict != "up" && trial.up.contains(&it.number));
    worse.map(|it| {
        fault(format!(
            "tunnel {} is {}: {}",
            it.number, it.verdict, it.reason
        ))
    })
}

/// How a trial stands.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Which generation is tried.
    pub generation: u64,
    /// When it began, or the controller started.
    begun: Instant,
    well_since: Option<Instant>,
    /// For people.
    pub said: String,
}

impl Progress {
    /// Begins now.
    pub fn new(generation: u64, now: Instant) -> Self {
        Self {
            generation,
            begun: now,
            well_since: None,
            said: "it begins".to_owned(),
        }
    }

    /// What is to become of it.
    pub fn judge(&mut self, fault: Option<Fault>, now: Instant) -> Verdict {
        let verdict = match fault {
            Some(fault) if fault.lasting => Verdict::Back(fault.words),
            Some(fault) if now - self.begun >= PATIENCE => {
                Verdict::Back(format!("after {} s, {}", PATIENCE.as_secs(), fault.words))
            }
            Some(fault) => {
                self.well_since = None;
                Verdict::Wait(fault.words)
            }
            None => {
                let well = now - *self.well_since.get_or_insert(now);
                match well >= STEADY {
                    true => Verdict::On,
                    false => {
                        let seconds = STEADY.as_secs();
                        Verdict::Wait(format!("all is well, and has to stay so for {seconds} s"))
                    }
                }
            }
        };
        if let Verdict::Wait(words) = &verdict {
            self.said.clone_from(words);
        }
        verdict
    }
}

#[cfg(test)]
mod tests;
