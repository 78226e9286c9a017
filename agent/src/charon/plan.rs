//! What charon should have, and what is to be done about what it has. Pure.

use super::Definitions;
use crate::config::{Config, Far, Tunnel};
use crate::nat::Nat;
use crate::problem::remark;
use crate::state::{Connection, LinkKind, ours};
use crate::vici::{Audit, Auth, Bind, Child, ChildSa, ChildState, Definition, IkeSa};
use crate::vici::{heal, is_current};
use ipnet::IpNet;
use routemesh_proto::{Identity, Problem};
use std::collections::BTreeMap;

/// The connections of all tunnels.
pub fn definitions(config: &Config, nat: &Nat, identity: &Identity) -> Definitions {
    let mut definitions = Definitions::new();
    let own = Auth::Certificate {
        own_pem: identity.certificate.clone(),
        ca_pems: identity.authorities(),
    };
    // By number: the first is the one that a connection is named after.
    for tunnel in config.tunnels.values() {
        let Some(bind) = bind(tunnel) else {
            continue;
        };
        let of_new = || define(config, nat, &own, tunnel);
        let definition = definitions
            .entry(tunnel.connection())
            .or_insert_with(of_new);
        definition.children.push(child(config, tunnel, bind));
    }
    definitions
}

/// A tunnel's connection, still without children.
fn define(config: &Config, nat: &Nat, own: &Auth, tunnel: &Tunnel) -> Definition {
    let (local_id, remote_id, auth) = match &tunnel.far {
        Far::Gateway { .. } => (&config.identity, &tunnel.peer_identity, own.clone()),
        Far::Abroad(it) => (&it.local_id, &it.remote_id, Auth::Psk(it.psk.clone())),
    };
    Definition {
        site: tunnel.peer_site.clone(),
        local_addrs: vec![tunnel.here()],
        nat: nat.translates(tunnel),
        remote_addrs: vec![tunnel.remote_endpoint.clone()],
        local_id: local_id.clone(),
        remote_id: remote_id.clone(),
        auth,
        children: Vec::new(),
        initiate: tunnel.initiate,
        ike: tunnel.ike.clone(),
        esp: tunnel.esp.clone(),
    }
}

fn child(config: &Config, tunnel: &Tunnel, bind: Bind) -> Child {
    let all = Child::of_all(tunnel.name(), bind);
    let texts = |prefixes: &[IpNet], all: Vec<String>| match prefixes {
        [] => all,
        some => some.iter().map(ToString::to_string).collect(),
    };
    match tunnel.abroad() {
        None => all,
        Some(abroad) => Child {
            reached: abroad.session.is_none().then(|| config.statics(tunnel)),
            local: texts(&abroad.local_selectors, all.local),
            remote: texts(&abroad.remote_selectors, all.remote),
            ..all
        },
    }
}

/// What a tunnel's SAs are bound to, if it has any.
fn bind(tunnel: &Tunnel) -> Option<Bind> {
    match tunnel.kind {
        LinkKind::Xfrm { if_id } => Some(Bind::IfId(if_id)),
        LinkKind::Vti { key, .. } => Some(Bind::Mark(key)),
        LinkKind::WireGuard { .. } => None,
    }
}

/// The children of an SA that take a tunnel's packets.
pub fn installed<'a>(sa: &'a IkeSa, tunnel: &Tunnel) -> impl Iterator<Item = &'a ChildSa> {
    bind(tunnel).into_iter().flat_map(|bind| bound(sa, bind))
}

pub(super) fn bound(sa: &IkeSa, bind: Bind) -> impl Iterator<Item = &ChildSa> {
    let installed = sa.children.iter();
    installed.filter(move |it| it.state == ChildState::Installed && it.bind == Some(bind))
}

/// The interface that a connection's name begins with.
pub fn link_of(connection: &str) -> &str {
    connection
        .split_once('-')
        .map_or(connection, |(link, _)| link)
}

/// A step towards the wanted connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Anew, if there is one.
    Load(String),
    /// With its SAs.
    Unload(String),
}

/// What differs, new before old.
pub(super) fn plan(wanted: &Definitions, observed: &BTreeMap<String, Connection>) -> Vec<Op> {
    let differs = |(name, definition): &(&String, &Definition)| {
        let loaded = observed.get(*name).map(|connection| &connection.digest);
        loaded != Some(&definition.digest())
    };
    let load = wanted
        .iter()
        .filter(differs)
        .map(|(name, _)| Op::Load(name.clone()));
    let gone = observed.keys().filter(|name| !wanted.contains_key(*name));
    load.chain(gone.cloned().map(Op::Unload)).collect()
}

/// The SAs that carry a connection's packets.
fn children<'a>(definition: &'a Definition, sas: &'a [IkeSa]) -> impl Iterator<Item = &'a ChildSa> {
    let binds = definition.children.iter().map(|child| child.bind);
    binds.flat_map(|bind| sas.iter().flat_map(move |sa| bound(sa, bind)))
}

/// A connection is wanted, and one of its interfaces has no SA of it as it is now.
pub(super) fn lacks(definition: Option<&Definition>, sas: &[IkeSa]) -> bool {
    let Some(definition) = definition else {
        return false;
    };
    let digest = definition.digest();
    let mut children = definition.named_children(&digest);
    children.any(|(name, child)| {
        let mut there = sas.iter().flat_map(|sa| bound(sa, child.bind));
        !there.any(|it| is_current(&it.name, &name))
    })
}

/// Connections that cannot be made as they are now, and serve as they were.
pub(super) fn outdated(
    wanted: &Definitions,
    sas: &[IkeSa],
    refusals: &BTreeMap<String, String>,
) -> Vec<Problem> {
    let refused = |(name, it)| Some((name, it, refusals.get(name)?));
    let all = wanted.iter().filter_map(refused);
    let served = |definition: &Definition| {
        let mut children = definition.children.iter();
        children.all(|child| sas.iter().any(|sa| bound(sa, child.bind).next().is_some()))
    };
    let some = all.filter(|(_, definition, _)| served(definition));
    some.map(|(name, _, reason)| {
        let reason = format!("keeps its SAs of before it was changed: {reason}");
        remark(format!("connection {name}"), &reason)
    })
    .collect()
}

/// The connections that have SAs of which the kernel lacks something.
pub(super) fn broken(wanted: &Definitions, sas: &[IkeSa], audit: &Audit) -> Vec<String> {
    let lacks = |(_, definition): &(&String, &Definition)| {
        let mut children = children(definition, sas);
        children.any(|child| audit.broken.contains(&child.unique_id))
    };
    let lacking = wanted.iter().filter(lacks);
    lacking.map(|(name, _)| name.clone()).collect()
}

/// The connections with ways of which only the SA says whether they are alive.
pub(super) fn statics(wanted: &Definitions) -> impl Iterator<Item = String> {
    let any = |it: &Definition| it.children.iter().any(|child| child.reached.is_some());
    let some = wanted.iter().filter(move |(_, it)| any(it));
    some.map(|(name, _)| name.clone())
}

/// Ways without BGP whose far end has agreed to less than what is to be reached by them.
pub(super) fn narrowed(wanted: &Definitions, sas: &[IkeSa]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for child in wanted.values().flat_map(|it| &it.children) {
        let mut installed = sas.iter().flat_map(|sa| bound(sa, child.bind)).peekable();
        let any = installed.peek().is_some();
        if any && !installed.any(|it| it.takes(child.reached.iter().flatten())) {
            let reason = "the far end has agreed to a part of its prefixes only, so it is not used: let the selectors \
                          of both ends, and the foreign peer's prefixes, be the same";
            problems.push(remark(format!("tunnel {}", child.way), reason));
        }
    }
    problems
}

/// Tunnels of whose SAs the kernel seems to lack something, whatever is done.
pub(super) fn incurable(wanted: &Definitions, audit: &Audit) -> Vec<Problem> {
    let children = wanted.values().flat_map(|it| &it.children);
    let some = children.filter(|it| audit.incurable.contains(&it.bind.number()));
    let reason = "the kernel seems to lack a part of its SAs or policies, also of new ones, so they are left as they \
                  are for ten minutes: does another program delete them? See `ip xfrm state` and `ip xfrm policy`";
    some.map(|child| remark(format!("tunnel {}", child.way), reason))
        .collect()
}

/// Tunnels whose peer does not do IP-TFS: charon then makes an SA in tunnel mode by itself.
pub(super) fn weaker(wanted: &Definitions, sas: &[IkeSa]) -> Vec<Problem> {
    let plain = |(_, definition): &(&String, &Definition)| {
        let mut children = children(definition, sas);
        definition.esp.iptfs && children.any(|child| !child.iptfs)
    };
    let reason = "esp.mode = \"iptfs\" is asked for, and the peer does not do it: packets are encrypted, \
                  and have their own sizes; it needs strongSwan 6.0.2 and Linux 6.14";
    let all = wanted.iter().filter(plain);
    all.map(|(name, _)| remark(format!("connection {name}"), reason))
        .collect()
}

/// The tunnels, as they are loaded: what could not be loaded stays as it was.
pub(super) fn tunnels(
    wanted: &Definitions,
    loaded: &BTreeMap<String, Connection>,
) -> Vec<heal::Wanted> {
    let mut tunnels = Vec::new();
    for (name, definition) in wanted {
        let digest = match loaded.get(name) {
            Some(connection) => connection.digest.clone(),
            None => definition.digest(),
        };
        for (child, of) in definition.named_children(&digest) {
            tunnels.push(heal::Wanted {
                connection: name.clone(),
                child,
                bind: of.bind,
                initiate: definition.initiate,
                site: definition.site.clone(),
            });
        }
    }
    tunnels.sort_by_key(|it| turn(it.bind));
    tunnels
}

/// In which of two turns a tunnel is made anew, where it can choose. Two gateways of a site that begin at the
/// same time do not begin with the same gateway at the far end, which would have no way left but those that are being
/// left: so it is where the endpoints of each site were numbered one after the other, as those of one specification
/// are. Elsewhere some packets may be lost.
fn turn(bind: Bind) -> u64 {
    let number = u64::from(bind.number().wrapping_sub(ours::IF_ID));
    let b = (8 * number + 1).isqrt().div_ceil(2);
    let a = number.saturating_sub(b * b.saturating_sub(1) / 2);
    (a + b) % 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EspOptions, IkeOptions};
    use crate::vici::heal::tests::{BIND, up};
    use std::collections::BTreeSet;

    fn definition(peer: &str) -> Definition {
        Definition {
            site: "two".into(),
            local_addrs: vec!["192.0.2.1".into()],
            nat: false,
            remote_addrs: vec!["198.51.100.1".into()],
            local_id: "V1-1".into(),
            remote_id: peer.into(),
            auth: Auth::Certificate {
                own_pem: String::new(),
                ca_pems: Vec::new(),
            },
            children: vec![Child::of_all(peer.into(), Bind::IfId(1))],
            initiate: true,
            ike: IkeOptions::default(),
            esp: EspOptions::default(),
        }
    }

    #[test]
    fn gateways_of_a_site_do_not_begin_with_the_same_far_end() {
        // Endpoints 0 and 1 of one site, 2 and 3 of the other.
        let of = |a: u32, b: u32| turn(Bind::IfId(ours::IF_ID + b * (b - 1) / 2 + a));
        assert_eq!([of(0, 2), of(1, 3)], [0, 0]);
        assert_eq!([of(1, 2), of(0, 3)], [1, 1]);
        // Also the largest of all.
        assert!(turn(Bind::IfId(u32::MAX)) < 2);
    }

    #[test]
    fn what_differs_is_loaded_and_what_is_not_wanted_goes() {
        let wanted: Definitions = ["rm1-a", "rm2-b", "rm3-c"]
            .map(|name| (name.to_owned(), definition(name)))
            .into();
        let loaded = |digest: String| Connection {
            digest,
            more: BTreeSet::new(),
        };
        let observed = BTreeMap::from([
            ("rm1-a".to_owned(), loaded(wanted["rm1-a"].digest())),
            ("rm2-b".to_owned(), loaded("another".into())),
            ("rm9-x".to_owned(), loaded("old".into())),
        ]);
        let ops = plan(&wanted, &observed);
        let load = |name: &str| Op::Load(name.into());
        assert_eq!(
            ops,
            [load("rm2-b"), load("rm3-c"), Op::Unload("rm9-x".into())]
        );

        let digests = wanted
            .iter()
            .map(|(name, d)| (name.clone(), loaded(d.digest())));
        assert_eq!(plan(&wanted, &digests.collect()), []);
    }

    #[test]
    fn what_could_not_be_loaded_is_made_as_it_is_loaded() {
        let wanted: Definitions = [("rm1-a".to_owned(), definition("a"))].into();
        let child = |digest: Option<&str>| {
            let connection = digest.map(|digest| Connection {
                digest: digest.to_owned(),
                more: BTreeSet::new(),
            });
            let loaded = connection.map(|it| ("rm1-a".to_owned(), it));
            let mut all = tunnels(&wanted, &loaded.into_iter().collect());
            all.remove(0).child
        };
        assert_eq!(child(Some("old")), "old");
        assert_eq!(child(None), wanted["rm1-a"].digest());
    }

    #[test]
    fn a_connection_lacks_an_sa_until_every_interface_has_one_of_it_as_it_is() {
        let mut wanted = definition("a");
        wanted.children[0].bind = BIND;
        assert!(lacks(Some(&wanted), &[]));
        assert!(lacks(Some(&wanted), &[up(1, 1, "old")]));
        assert!(!lacks(Some(&wanted), &[up(1, 1, &wanted.digest())]));
        wanted
            .children
            .push(Child::of_all("b".into(), Bind::IfId(1)));
        assert!(lacks(Some(&wanted), &[up(1, 1, &wanted.digest())]));
        assert!(!lacks(None, &[]), "it is wanted no more");
    }

    #[test]
    fn a_change_that_the_far_end_refuses_is_told_of_while_the_old_sa_serves() {
        let mut one = definition("a");
        one.children[0].bind = BIND;
        let wanted: Definitions = [("rm1-a".to_owned(), one)].into();
        let told = |sas: &[IkeSa], refused: &str| {
            let refusals = [(refused.to_owned(), "no".to_owned())].into();
            let problems = outdated(&wanted, sas, &refusals).into_iter();
            problems.map(|it| it.object).collect::<Vec<_>>()
        };
        assert_eq!(told(&[up(1, 1, "old")], "rm1-a"), ["connection rm1-a"]);
        assert_eq!(told(&[up(1, 1, "old")], "rm2-b"), [""; 0]);
        // Its tunnel says so itself.
        assert_eq!(told(&[], "rm1-a"), [""; 0]);
    }

    #[test]
    fn what_nothing_cures_is_told_of() {
        let wanted: Definitions = [("rm1-a".to_owned(), definition("a"))].into();
        let told = |number| {
            let audit = Audit {
                incurable: [number].into(),
                ..Audit::default()
            };
            let problems = incurable(&wanted, &audit).into_iter();
            problems.map(|it| it.object).collect::<Vec<_>>()
        };
        assert_eq!(told(1), ["tunnel a"]);
        assert_eq!(told(2), [""; 0]);
    }

    #[test]
    fn who_does_no_iptfs_is_told_of() {
        let mut asked = definition("a");
        asked.children = vec![Child::of_all("a".into(), BIND)];
        asked.esp.iptfs = true;
        let weak = |definition: &Definition, sa: IkeSa| {
            let wanted = [("rm1-a".to_owned(), definition.clone())].into();
            weaker(&wanted, &[sa]).len()
        };
        let plain = || up(1, 1, "new");
        assert_eq!(weak(&asked, plain()), 1);
        let mut iptfs = plain();
        iptfs.children[0].iptfs = true;
        assert_eq!(weak(&asked, iptfs), 0);
        let mut closing = plain();
        closing.children[0].state = ChildState::Closing;
        assert_eq!(weak(&asked, closing), 0);
        asked.children = vec![Child::of_all("a".into(), Bind::IfId(1))];
        assert_eq!(weak(&asked, plain()), 0, "of another tunnel");
        asked.children = vec![Child::of_all("a".into(), BIND)];
        asked.esp.iptfs = false;
        assert_eq!(weak(&asked, plain()), 0);
    }
}
