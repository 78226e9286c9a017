//! All hosts' connections -> who is who in a mesh.
//!
//! A host whose files were given is a gateway; a far end that is none of them is a foreign peer. Gateways of one
//! AS, or with the same prefixes behind them, are a site.

mod abroad;
mod options;
mod sessions;
mod write;

use super::{Child, Connection, Host, ImportError, Neighbour, Note, names};
use ipnet::IpNet;
use options::Agreed;
use routemesh_proto::Secret;
use std::collections::{BTreeMap, BTreeSet};

/// A specification, and what a person has to know of it.
pub(crate) struct Draft {
    pub(crate) text: String,
    /// Files that the text names, each with the key that belongs there.
    pub(crate) keys: Vec<(String, Secret)>,
    /// By file and line.
    pub(crate) notes: Vec<Note>,
}

/// What the text is written from.
#[derive(Default)]
struct Mesh {
    asn: u32,
    vti: bool,
    agreed: Agreed,
    sites: Vec<Site>,
    foreign: Vec<Foreign>,
}

struct Site {
    name: String,
    /// Where sites differ in it.
    asn: Option<u32>,
    prefixes: Vec<IpNet>,
    gateways: Vec<Gateway>,
}

struct Gateway {
    name: String,
    endpoints: Vec<String>,
    bird: bool,
    routers: Vec<Neighbour>,
}

struct Foreign {
    name: String,
    prefixes: Vec<IpNet>,
    asn: Option<u32>,
    agreed: Agreed,
    tunnels: Vec<Tunnel>,
}

struct Tunnel {
    gateway: String,
    /// Where the gateway has several endpoints.
    local: Option<String>,
    remote: String,
    local_id: Option<String>,
    remote_id: Option<String>,
    key_file: String,
    key: Option<Secret>,
    children: Vec<Child>,
    inside: Option<IpNet>,
}

/// For a mesh that says none.
const PRIVATE_AS: u32 = 65000;

pub(super) fn draft(hosts: Vec<Host>, mut notes: Vec<Note>) -> Result<Draft, ImportError> {
    let mut taken = BTreeSet::new();
    let named: Vec<String> = hosts
        .iter()
        .map(|host| names::of_host(host, &hosts).unwrap_or_else(|| "gateway-1".to_owned()))
        .map(|name| names::unique(name, &mut taken))
        .collect();
    let owners = owners(&hosts, &named)?;
    let far = |connection: &Connection| {
        connection
            .remote
            .iter()
            .find_map(|it| owners.get(it.as_str()).copied())
    };

    let mut pairs: BTreeMap<(usize, usize), Vec<&Connection>> = BTreeMap::new();
    let mut abroad: Vec<(usize, &Connection)> = Vec::new();
    for (own, host) in hosts.iter().enumerate() {
        for connection in &host.connections {
            match far(connection) {
                Some(far) => pairs
                    .entry((own.min(far), own.max(far)))
                    .or_default()
                    .push(connection),
                None if connection.remote.is_empty() => notes.push(note(
                    connection,
                    format!(
                        "{} says no address of its far end: it is left out",
                        connection.name
                    ),
                )),
                None => abroad.push((own, connection)),
            }
        }
    }
    let within: Vec<&Connection> = pairs.values().flatten().copied().collect();
    let children = || within.iter().flat_map(|it| &it.children);
    let mut groups = Vec::new();
    for ((a, b), connections) in &pairs {
        let between = named
            .get(*a)
            .zip(named.get(*b))
            .map(|(a, b)| [a.clone(), b.clone()]);
        groups.push((between, connections.as_slice()));
    }
    let sites = sites(&hosts, &named, &far, &mut notes);
    for site in &sites {
        taken.insert(site.name.clone());
    }
    let mesh = Mesh {
        asn: sites
            .iter()
            .find_map(|it| it.asn)
            .or_else(|| asn(&hosts))
            .unwrap_or(PRIVATE_AS),
        vti: children().any(|it| it.vti),
        agreed: options::agree(groups, &mut notes),
        foreign: abroad::foreign(&hosts, &named, &abroad, &mut taken, &mut notes),
        sites,
    };
    let mut keys = Vec::new();
    for tunnel in mesh.foreign.iter().flat_map(|it| &it.tunnels) {
        keys.extend(tunnel.key.clone().map(|key| (tunnel.key_file.clone(), key)));
    }
    if let Some(connection) = within.iter().find(|it| it.psk) {
        notes.push(note(
            connection,
            "gateways of the mesh get certificates: keys that they share now are not carried over",
        ));
    }
    notes.sort();
    notes.dedup();
    let text = write::text(&mesh, &owners.keys().copied().collect::<Vec<_>>().join(" "));
    Ok(Draft { text, keys, notes })
}

fn note(connection: &Connection, text: impl Into<String>) -> Note {
    Note {
        file: connection.file.clone(),
        line: connection.line,
        text: text.into(),
    }
}

/// Whose each outer address is.
fn owners<'h>(
    hosts: &'h [Host],
    named: &[String],
) -> Result<BTreeMap<&'h str, usize>, ImportError> {
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    for (host, it) in hosts.iter().enumerate() {
        for address in it.connections.iter().flat_map(|it| &it.local) {
            match owners.insert(address, host) {
                Some(other) if other != host => {
                    let name = |at: usize| named.get(at).cloned().unwrap_or_default();
                    return Err(ImportError::Twice(name(other), name(host), address.clone()));
                }
                _ => {}
            }
        }
    }
    Ok(owners)
}

/// The AS of a host, where BIRD says one.
fn own_as(host: &Host) -> Option<u32> {
    host.bird.as_ref().and_then(|bird| bird.asn)
}

fn asn(hosts: &[Host]) -> Option<u32> {
    hosts.iter().find_map(own_as)
}

/// What is behind a gateway, as its own connections and those to it say.
fn behind(own: usize, hosts: &[Host], far: &impl Fn(&Connection) -> Option<usize>) -> Vec<IpNet> {
    let all = hosts
        .iter()
        .enumerate()
        .flat_map(|(at, host)| host.connections.iter().map(move |it| (at, it)));
    let selectors = all.flat_map(|(at, it)| {
        let there = at != own && far(it) == Some(own);
        it.children
            .iter()
            .flat_map(move |child| match (at == own, there) {
                (true, _) => child.local.as_slice(),
                (_, true) => child.remote.as_slice(),
                _ => &[],
            })
    });
    outermost(selectors.copied())
}

/// Without those that others include.
fn outermost(nets: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let nets: BTreeSet<IpNet> = nets.collect();
    let covered = |net: &IpNet| nets.iter().any(|it| it != net && it.contains(net));
    nets.iter().filter(|net| !covered(net)).copied().collect()
}

fn sites(
    hosts: &[Host],
    named: &[String],
    far: &impl Fn(&Connection) -> Option<usize>,
    notes: &mut Vec<Note>,
) -> Vec<Site> {
    let ases: BTreeSet<u32> = hosts.iter().filter_map(own_as).collect();
    let differ = ases.len() > 1;
    // Hosts with the same of these are together.
    let mut together: BTreeMap<(Option<u32>, Vec<IpNet>, usize), Vec<usize>> = BTreeMap::new();
    for (at, host) in hosts.iter().enumerate() {
        let prefixes = behind(at, hosts, far);
        let key = match own_as(host).filter(|_| differ) {
            Some(asn) => (Some(asn), Vec::new(), 0),
            // Who has nothing in common with others is alone.
            None if prefixes.is_empty() => (None, prefixes, at + 1),
            None => (None, prefixes, 0),
        };
        together.entry(key).or_default().push(at);
    }
    let mut taken = BTreeSet::new();
    let mut sites = Vec::new();
    for ((asn, _, _), members) in together {
        let names: Vec<&str> = members
            .iter()
            .filter_map(|at| named.get(*at).map(String::as_str))
            .collect();
        let name = names::common(&names).unwrap_or_else(|| match asn {
            Some(asn) => format!("as{asn}"),
            None => "site-1".to_owned(),
        });
        let name = names::unique(name, &mut taken);
        let prefixes = outermost(members.iter().flat_map(|at| behind(*at, hosts, far)));
        let first = members
            .iter()
            .find_map(|at| hosts.get(*at)?.connections.first());
        if let Some(connection) = first.filter(|_| prefixes.is_empty()) {
            notes.push(note(
                connection,
                format!("no file says what site {name} owns: write its prefixes into the draft"),
            ));
        }
        let gateway = |at: &usize| {
            let host = hosts.get(*at)?;
            let endpoints: BTreeSet<String> = host
                .connections
                .iter()
                .flat_map(|it| it.local.clone())
                .collect();
            Some(Gateway {
                name: named.get(*at)?.clone(),
                endpoints: endpoints.into_iter().collect(),
                bird: host.bird.as_ref().is_some_and(|bird| bird.others),
                routers: sessions::routers(*at, hosts, notes),
            })
        };
        sites.push(Site {
            name,
            asn,
            prefixes,
            gateways: members.iter().filter_map(gateway).collect(),
        });
    }
    sites
}
