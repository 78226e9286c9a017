//! Connections to hosts whose files were not given: foreign peers.

use super::super::{Connection, Host, Key, Note, names};
use super::{Foreign, Tunnel, note, options, outermost, sessions};
use ipnet::IpNet;
use routemesh_proto::Secret;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// By what far ends are known to be of one network.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Network {
    prefixes: Vec<IpNet>,
    asn: Option<u32>,
    /// Not 0 where nothing says that it is the same as another one.
    alone: usize,
}

/// Connections to the same networks are tunnels to one foreign peer.
pub(super) fn foreign(
    hosts: &[Host],
    named: &[String],
    abroad: &[(usize, &Connection)],
    taken: &mut BTreeSet<String>,
    notes: &mut Vec<Note>,
) -> Vec<Foreign> {
    let mut peers: BTreeMap<Network, Vec<(usize, &Connection)>> = BTreeMap::new();
    for (at, (own, connection)) in abroad.iter().enumerate() {
        let there = connection.children.iter().flat_map(|it| &it.remote);
        let session = hosts
            .get(*own)
            .and_then(|host| sessions::over(host, connection));
        let mut network = Network {
            prefixes: outermost(there.copied()),
            asn: session.and_then(|it| it.asn),
            alone: 0,
        };
        if network.prefixes.is_empty() && network.asn.is_none() {
            network.alone = at + 1;
        }
        peers.entry(network).or_default().push((*own, connection));
    }
    let mut foreign = Vec::new();
    for (Network { prefixes, asn, .. }, connections) in peers {
        let called: Vec<&str> = connections.iter().map(|(_, it)| it.name.as_str()).collect();
        let name = names::common(&called).unwrap_or_else(|| "foreign".to_owned());
        let name = names::unique(name, taken);
        for (_, connection) in &connections {
            if !connection.psk {
                notes.push(note(connection, format!(
                    "{} has certificates: with who is not of the mesh, a pre-shared key has to be agreed on", connection.name
                )));
            }
            let far = connection.remote.join(", ");
            notes.push(note(connection, format!(
                "{far} is taken for a foreign peer, {name}; if it is to be a gateway of the mesh, give its files as well"
            )));
        }
        if let Some((_, connection)) = connections.first().filter(|_| prefixes.is_empty()) {
            notes.push(note(
                connection,
                format!("no file says what is behind {name}: write its prefixes into the draft"),
            ));
        }
        let all: Vec<&Connection> = connections.iter().map(|(_, it)| *it).collect();
        let tunnels = connections.iter().enumerate();
        foreign.push(Foreign {
            agreed: options::agree(vec![(None, all.as_slice())], notes),
            tunnels: tunnels
                .filter_map(|(at, (own, it))| {
                    tunnel(at, hosts.get(*own)?, named.get(*own)?, it, &name)
                })
                .collect(),
            name,
            prefixes,
            asn,
        });
    }
    foreign
}

fn tunnel(
    at: usize,
    host: &Host,
    gateway: &str,
    connection: &Connection,
    peer: &str,
) -> Option<Tunnel> {
    let remote = connection.remote.first()?.clone();
    let endpoints: BTreeSet<&String> = host.connections.iter().flat_map(|it| &it.local).collect();
    let local = connection.local.first();
    let other =
        |id: &Option<String>, address: Option<&String>| id.clone().filter(|id| Some(id) != address);
    let session = sessions::over(host, connection);
    Some(Tunnel {
        gateway: gateway.to_owned(),
        local: local.filter(|_| endpoints.len() > 1).cloned(),
        local_id: other(&connection.local_id, local),
        remote_id: other(&connection.remote_id, Some(&remote)),
        key_file: format!("{peer}-{}.psk", at + 1),
        key: key(&host.keys, connection),
        children: connection.children.clone(),
        inside: session.and_then(|it| inside(it.local?, it.address?)),
        remote,
    })
}

/// The key that charon would take: the one that names most of the two ends.
fn key(keys: &[Key], connection: &Connection) -> Option<Secret> {
    let ids = |id: &Option<String>, addresses: &[String]| -> Vec<String> {
        id.iter().chain(addresses).cloned().collect()
    };
    let own = ids(&connection.local_id, &connection.local);
    let far = ids(&connection.remote_id, &connection.remote);
    let score = |key: &Key| {
        let names = |side: &[String]| key.ids.iter().any(|id| side.contains(id));
        match (names(&own), names(&far), key.ids.is_empty()) {
            (true, true, _) => Some(3),
            (false, true, _) => Some(2),
            (_, _, true) => Some(1),
            _ => None,
        }
    };
    let scored = keys.iter().filter_map(|key| Some((score(key)?, key)));
    scored
        .max_by_key(|(score, _)| *score)
        .map(|(_, key)| key.secret.clone())
}

/// Our address with the longest prefix that holds both as hosts.
fn inside(own: IpAddr, far: IpAddr) -> Option<IpNet> {
    let lengths = if own.is_ipv4() { [31, 30] } else { [127, 126] };
    let net = |length: u8| IpNet::new(own, length).ok();
    let hosts = |net: &IpNet| {
        let pair = net.prefix_len() + 1 == net.max_prefix_len();
        let edge = |address| {
            !pair
                && net.addr().is_ipv4()
                && (address == net.network() || address == net.broadcast())
        };
        net.contains(&far) && !edge(own) && !edge(far)
    };
    lengths.into_iter().filter_map(net).find(hosts)
}
