//! Which connections charon is to have, and what hangs on these.

use crate::charon::Definitions;
use crate::config::{Config, Tunnel};
use crate::state::State;
use crate::vici::{Child, Definition};
use routemesh_bgp::PeerId;
use std::collections::BTreeSet;
use tokio::sync::watch;

/// Wants the connections of all tunnels whose interface is where and what it should be. While one waits
/// for another interface, as it was before it stays.
pub(super) fn want(
    wanted: &watch::Sender<Option<Definitions>>,
    mut definitions: Definitions,
    desired: &State,
    in_kernel: &State,
) {
    let kind_and_side = |state: &State, link: &str| {
        let link = state.links.get(link)?;
        Some((link.kind.clone(), link.side))
    };
    let ready = |definition: &Definition| {
        let ready = |child: &Child| {
            let link = child.bind.link();
            let there = kind_and_side(in_kernel, &link);
            // One that waits for its rules is in neither.
            there.is_some() && there == kind_and_side(desired, &link)
        };
        definition.children.iter().all(ready)
    };
    wanted.send_if_modified(|before| {
        let of_before = |name: &String| before.as_ref()?.get(name).filter(|it| ready(it));
        definitions.retain(|name, definition| {
            if !ready(definition)
                && let Some(before) = of_before(name)
            {
                definition.clone_from(before);
            }
            ready(definition)
        });
        let changed = before.as_ref() != Some(&definitions);
        *before = Some(definitions);
        changed
    });
}

/// The ways without a session that groups in the kernel have.
pub(super) fn forwarding(config: &Config, in_kernel: &State) -> BTreeSet<PeerId> {
    let members = in_kernel.groups.values().flat_map(|it| &it.members);
    let nexthops = members.filter_map(|it| in_kernel.nexthops.get(&it.id));
    let links: BTreeSet<&str> = nexthops.map(|it| it.link.as_str()).collect();
    let ways = statics(config).filter(|it| links.contains(it.link().as_str()));
    ways.map(|it| it.name().into()).collect()
}

fn statics(config: &Config) -> impl Iterator<Item = &Tunnel> {
    let tunnels = config.tunnels.values();
    tunnels.filter(|it| it.abroad().is_some_and(|it| it.session.is_none()))
}

/// The ways without a session that no wanted connection has.
pub(super) fn unwanted(config: &Config, wanted: &Definitions) -> Vec<String> {
    let children = wanted.values().flat_map(|it| &it.children);
    let ways: BTreeSet<&str> = children.map(|it| it.way.as_str()).collect();
    let names = statics(config).map(Tunnel::name);
    names.filter(|it| !ways.contains(it.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EspOptions, IkeOptions};
    use crate::state::ours;
    use crate::state::{Group, Link, LinkKind, Member, Nexthop, NexthopId, Side};
    use crate::vici::{Auth, Bind};
    use routemesh_proto::Secret;

    fn with_link(side: Side) -> State {
        let link = Link {
            side,
            kind: LinkKind::Xfrm { if_id: 1 },
            up: true,
            mtu: 1500,
            addresses: BTreeSet::new(),
            wireguard: None,
        };
        State {
            links: [("rm1".to_owned(), link)].into(),
            ..State::default()
        }
    }

    fn definition(children: &[u32]) -> Definition {
        let child = |number: &u32| {
            let bind = Bind::IfId(ours::IF_ID + number);
            Child::of_all(format!("rm{number}-V2-1"), bind)
        };
        Definition {
            site: "two".into(),
            local_addrs: Vec::new(),
            nat: false,
            remote_addrs: Vec::new(),
            local_id: "V1-1".into(),
            remote_id: "V2-1".into(),
            auth: Auth::Psk(Secret::default()),
            children: children.iter().map(child).collect(),
            initiate: true,
            ike: IkeOptions::default(),
            esp: EspOptions::default(),
        }
    }

    #[test]
    fn a_connection_with_one_more_interface_stays_as_it_was_until_that_is_in_place() {
        let named = |children: &[u32]| -> Definitions {
            [("rm1-V2-1".to_owned(), definition(children))].into()
        };
        let (wanted, seen) = watch::channel(Some(named(&[1])));
        let one = with_link(Side::Overlay);
        let mut two = one.clone();
        two.links.insert("rm2".into(), one.links["rm1"].clone());
        let children = |new: &[u32], desired: &State, in_kernel: &State| {
            want(&wanted, named(new), desired, in_kernel);
            let seen = seen.borrow();
            let definition = seen.as_ref().and_then(|it| it.get("rm1-V2-1"));
            definition.map_or(0, |it| it.children.len())
        };
        assert_eq!(children(&[1, 2], &two, &one), 1);
        assert_eq!(children(&[1, 2], &two, &two), 2);
        // Neither can be: its own interface is gone.
        assert_eq!(children(&[1, 2, 3], &two, &one), 0);
        assert_eq!(children(&[1, 2], &one, &one), 0);
    }

    /// Two static tunnels to a foreign peer, numbered from 1, and one with a session.
    fn config() -> Config {
        let foreign = |number, connection, peer_asn| routemesh_proto::Tunnel {
            number,
            peer: "cloud".into(),
            peer_site: "cloud".into(),
            peer_asn,
            kind: "xfrm".into(),
            local_endpoint: "192.0.2.1".into(),
            remote_endpoint: format!("198.51.100.{number}"),
            local_address: "169.254.10.2".into(),
            remote_address: "169.254.10.1".into(),
            foreign: Some(routemesh_proto::Foreign {
                connection,
                local_id: "192.0.2.1".into(),
                remote_id: format!("198.51.100.{number}"),
                psk: "a secret of both".into(),
                prefix_length: 30,
                ..routemesh_proto::Foreign::default()
            }),
            ..routemesh_proto::Tunnel::default()
        };
        let raw = routemesh_proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            tunnels: vec![foreign(1, 1, 0), foreign(2, 2, 0), foreign(3, 3, 64512)],
            ..routemesh_proto::Config::default()
        };
        Config::try_from(&raw).unwrap()
    }

    #[test]
    fn an_earlier_runs_ways_are_up_where_a_group_has_them() {
        let nexthop = |link: &str| Nexthop {
            gateway: "fe80::1".parse().unwrap(),
            link: link.into(),
        };
        let group = Group {
            members: [1, 3]
                .map(|id| Member {
                    id: NexthopId(id),
                    weight: 1,
                })
                .into(),
            resilient: false,
        };
        let in_kernel = State {
            nexthops: [
                (NexthopId(1), nexthop("rm1")),
                (NexthopId(2), nexthop("rm2")),
            ]
            .into(),
            groups: [(NexthopId(9), group)].into(),
            ..State::default()
        };
        let ways = forwarding(&config(), &in_kernel);
        assert_eq!(ways, [PeerId::from("rm1-cloud")].into());
        assert!(forwarding(&config(), &State::default()).is_empty());
    }

    #[test]
    fn ways_that_no_wanted_connection_has_are_known() {
        let mut one = definition(&[1]);
        one.children[0].way = "rm1-cloud".into();
        let wanted = [("rm1-cloud".to_owned(), one)].into();
        assert_eq!(unwanted(&config(), &wanted), ["rm2-cloud"]);
    }

    #[test]
    fn no_connection_is_wanted_before_its_interface_is_in_place() {
        let definitions: Definitions = [("rm1-V2-1".to_owned(), definition(&[1]))].into();
        let desired = with_link(Side::Overlay);
        let wants = |desired: &State, in_kernel: &State| {
            let (wanted, seen) = watch::channel(None);
            want(&wanted, definitions.clone(), desired, in_kernel);
            seen.borrow().as_ref().map_or(0, Definitions::len)
        };
        assert_eq!(wants(&desired, &State::default()), 0);
        assert_eq!(wants(&desired, &with_link(Side::Underlay)), 0);
        assert_eq!(wants(&desired, &desired), 1);
        // Its rules are not in place yet.
        assert_eq!(wants(&State::default(), &State::default()), 0);
    }
}
