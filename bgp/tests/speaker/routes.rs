//! What becomes of routes: taken or refused, chosen, passed on or kept back.

use crate::network::*;
use crate::solo::{Solo, bytes, messages, name_of, peers};
use ipnet::IpNet;
use routemesh_bgp::policy::{Changes, Conditions, Term, Then};
use routemesh_bgp::wire::notification::{cease, code};
use routemesh_bgp::wire::{
    Action, AsPath, Attributes, Family, Message, NextHop, Origin, Reach, Refresh, Update,
};
use routemesh_bgp::{
    ConnId, Event, Heard, Hop, Input, Known, Output, PeerConfig, PeerState, Policy, Rejection,
    SpeakerConfig,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

const US: u32 = 65000;
const THEM: u32 = 65009;

/// A speaker that originates nothing, with these peers established and everything said.
fn with(list: &[(u8, u32)], change: impl FnOnce(&mut SpeakerConfig)) -> Solo {
    let mut solo = Solo::with(|config| {
        peers(list)(config);
        change(config);
    });
    solo.speaker.originate(BTreeSet::new(), solo.now);
    for (number, asn) in list {
        solo.establish(*number, *asn, |_| {});
    }
    solo.told();
    solo
}

fn through(ases: &[u32]) -> AsPath {
    AsPath(ases.to_vec())
}

/// What each peer is told of a prefix: its attributes.
fn told(solo: &mut Solo, prefix: &str) -> BTreeMap<u8, Attributes> {
    let prefix = net(prefix);
    let told = solo.told().into_iter();
    told.filter_map(|(number, updates)| {
        let tells = |it: &&Update| {
            it.reach
                .iter()
                .any(|reach| reach.prefixes.contains(&(0, prefix)))
        };
        let update = updates.iter().find(tells)?;
        Some((number, update.attributes.clone()))
    })
    .collect()
}

fn withdrawn(solo: &mut Solo) -> Vec<(u8, IpNet)> {
    let told = solo.told().into_iter();
    told.flat_map(|(number, updates)| {
        let prefixes = updates.into_iter().flat_map(|it| it.withdrawn);
        prefixes
            .map(move |(_, prefix)| (number, prefix))
            .collect::<Vec<_>>()
    })
    .collect()
}

fn used(solo: &Solo, prefix: &str) -> Vec<String> {
    let prefix = net(prefix);
    let found = solo.speaker.loc_rib().find(|it| it.0 == prefix);
    found.map_or(Vec::new(), |(_, best)| {
        best.iter().map(|it| it.peer.to_string()).collect()
    })
}

fn change_peer(
    solo: &mut Solo,
    config: &mut SpeakerConfig,
    number: u8,
    change: impl FnOnce(&mut PeerConfig),
) {
    change(config.peers.get_mut(&name_of(number)).unwrap());
    solo.speaker.configure(config.clone(), solo.now);
}

fn config(list: &[(u8, u32)]) -> SpeakerConfig {
    let mut config = speaker(2, US);
    peers(list)(&mut config);
    config
}

// ---- Import ----

fn within(prefixes: &[&str]) -> Option<Policy> {
    let nets: Vec<IpNet> = prefixes.iter().map(|prefix| net(prefix)).collect();
    Some(Policy::accept().within(&nets))
}

#[test]
fn without_a_policy_nothing_passes_between_ases() {
    // RFC 8212: a peer of another AS is told nothing and believed nothing.
    let list = [(3, US), (4, THEM)];
    let mut solo = with(&list, |config| {
        for peer in config.peers.values_mut() {
            (peer.import, peer.export) = (None, None);
        }
    });
    solo.announce(3, "10.0.3.0/24", |_| {});
    solo.announce(4, "10.0.4.0/24", |_| {});
    assert_eq!(used(&solo, "10.0.3.0/24"), ["3"]);
    assert!(used(&solo, "10.0.4.0/24").is_empty());
    let rejected: Vec<_> = solo.speaker.rejected().collect();
    let refused = (name_of(4), net("10.0.4.0/24"), Rejection::NoPolicy);
    assert_eq!(rejected, [refused]);
    assert!(told(&mut solo, "10.0.3.0/24").is_empty());
}

#[test]
fn a_prefix_that_a_peer_may_not_announce_is_refused_visibly_until_it_may() {
    let list = [(3, US), (4, THEM)];
    let mut config = config(&list);
    config.peers.get_mut(&name_of(3)).unwrap().import = within(&["10.0.3.0/24"]);
    let mut solo = with(&list, |it| *it = config.clone());
    solo.announce(3, "10.0.3.128/25", |_| {});
    solo.announce(3, "10.0.4.0/24", |_| {});
    assert_eq!(used(&solo, "10.0.3.128/25"), ["3"]);
    assert!(used(&solo, "10.0.4.0/24").is_empty());
    let rejected = |solo: &Solo| -> Vec<_> {
        let all = solo.speaker.rejected();
        all.map(|(peer, prefix, why)| (peer.clone(), prefix, why))
            .collect()
    };
    let refused = (name_of(3), net("10.0.4.0/24"), Rejection::NotAuthorized);
    assert_eq!(rejected(&solo), std::slice::from_ref(&refused));
    assert_eq!(solo.speaker.adj_rib_in(&name_of(3)).count(), 2);
    assert!(told(&mut solo, "10.0.4.0/24").is_empty());

    // More is allowed: what was refused is used, without a reset.
    solo.events.clear();
    change_peer(&mut solo, &mut config, 3, |it| {
        it.import = within(&["10.0.3.0/24", "10.0.4.0/24"])
    });
    assert_eq!(used(&solo, "10.0.4.0/24"), ["3"]);
    assert!(rejected(&solo).is_empty());
    assert_eq!(told(&mut solo, "10.0.4.0/24").len(), 1);

    // Less is allowed: it is gone again, everywhere.
    change_peer(&mut solo, &mut config, 3, |it| {
        it.import = within(&["10.0.3.0/24"])
    });
    assert!(used(&solo, "10.0.4.0/24").is_empty());
    assert_eq!(rejected(&solo), [refused]);
    assert_eq!(withdrawn(&mut solo), [(4, net("10.0.4.0/24"))]);
    assert!(solo.events.is_empty());
    let status = solo.speaker.peers().next().unwrap();
    assert_eq!(
        (status.received, status.accepted, status.rejected),
        (2, 1, 1)
    );
}

#[test]
fn what_only_counts_inside_an_as_is_not_taken_from_another() {
    let mut solo = with(&[(3, THEM), (4, US)], |_| {});
    solo.announce(3, "10.0.3.0/24", |it| {
        it.as_path = through(&[THEM]);
        it.local_pref = Some(500);
        it.originator_id = Some(Ipv4Addr::new(9, 9, 9, 9));
        it.cluster_list = vec![Ipv4Addr::new(9, 9, 9, 9)];
    });
    let told = told(&mut solo, "10.0.3.0/24");
    assert_eq!(told[&4].local_pref, Some(100));
    assert_eq!(told[&4].originator_id, None);
    assert!(told[&4].cluster_list.is_empty());
}

#[test]
fn a_family_that_was_not_negotiated_is_ignored() {
    let mut solo = Solo::with(peers(&[(3, US)]));
    solo.establish(3, US, |open| {
        open.capabilities.families.remove(&Family::Ipv4);
    });
    solo.announce(3, "10.0.3.0/24", |_| {});
    solo.announce(3, "2001:db8:a3::/64", |_| {});
    let routes: Vec<_> = solo
        .speaker
        .adj_rib_in(&name_of(3))
        .map(|it| it.0)
        .collect();
    assert_eq!(routes, [net("2001:db8:a3::/64")]);
    let told = solo.told().remove(&3).unwrap();
    let ends: Vec<_> = told.iter().filter_map(|it| it.end_of_rib).collect();
    assert_eq!(ends, [Family::Ipv6]);
    assert!(
        told.iter()
            .all(|it| it.reach.iter().all(|it| it.prefixes[0].1.addr().is_ipv6()))
    );
}

#[test]
fn a_malformed_attribute_costs_its_routes_and_not_the_session() {
    let mut solo = with(&[(3, THEM)], |_| {});
    solo.announce(3, "10.0.3.0/24", |it| {
        it.as_path = through(&[THEM]);
        it.local_pref = None;
    });
    assert_eq!(used(&solo, "10.0.3.0/24"), ["3"]);
    let good = bytes(&Message::Update(Update {
        reach: vec![Reach {
            next_hop: NextHop {
                address: address(3),
                link_local: None,
            },
            prefixes: vec![(0, net("10.0.3.0/24"))],
        }],
        attributes: Attributes {
            as_path: through(&[THEM]),
            origin: Origin::Incomplete,
            ..Attributes::default()
        },
        ..Update::default()
    }));
    // ORIGIN: flags 0x40, type 1, length 1, value 2 - made 9, which is undefined.
    let at = good
        .windows(4)
        .position(|it| it == [0x40, 1, 1, 2])
        .unwrap();
    let mut bytes = good;
    bytes[at + 3] = 9;
    solo.input(Input::Received {
        conn: ConnId(3),
        bytes,
    });
    solo.told();
    assert!(used(&solo, "10.0.3.0/24").is_empty());
    assert_eq!(solo.state(), PeerState::Established);
    let fault = solo.events.iter().find_map(|event| match event {
        Event::Fault { peer, fault, .. } if *peer == name_of(3) => Some(fault.clone()),
        _ => None,
    });
    let fault = fault.unwrap();
    assert_eq!(
        (fault.attribute, fault.action),
        (1, Action::TreatAsWithdraw)
    );
}

#[test]
fn too_many_prefixes_end_the_session_until_the_configuration_changes() {
    let list = [(3, US), (4, THEM)];
    let mut config = config(&list);
    config.peers.get_mut(&name_of(3)).unwrap().max_prefixes = 2;
    let mut solo = with(&list, |it| *it = config.clone());
    solo.announce(3, "10.0.1.0/24", |_| {});
    solo.announce(3, "10.0.2.0/24", |_| {});
    solo.announce(3, "10.0.2.0/24", |it| it.med = Some(1));
    assert_eq!(solo.state(), PeerState::Established);
    solo.announce(3, "10.0.3.0/24", |_| {});
    assert_eq!(solo.outputs(), ["6/1 3", "close 3"]);
    assert_eq!(solo.state(), PeerState::Idle);
    assert_eq!(solo.speaker.loc_rib().count(), 0);
    solo.pass(Duration::from_secs(600));
    solo.outputs();
    assert_eq!(solo.state(), PeerState::Idle);
    change_peer(&mut solo, &mut config, 3, |it| it.max_prefixes = 0);
    assert_eq!(solo.outputs(), ["connect"]);
}

// ---- Choice ----

#[test]
fn what_we_originate_wins_and_is_not_among_the_routes() {
    let mut solo = with(&[(3, US), (4, THEM)], |_| {});
    let prefix = "10.0.3.0/24";
    solo.announce(3, prefix, |it| it.med = Some(7));
    assert_eq!(told(&mut solo, prefix)[&4].as_path, through(&[US]));
    solo.speaker.originate(nets(&[prefix]), solo.now);
    assert!(used(&solo, prefix).is_empty());
    // Now it goes to peer 3 too; peer 4 gets nothing new.
    let now_told = told(&mut solo, prefix);
    assert_eq!(now_told.keys().collect::<Vec<_>>(), [&3]);
    assert_eq!(now_told[&3].local_pref, Some(100));
    // And back.
    solo.speaker.originate(BTreeSet::new(), solo.now);
    assert_eq!(used(&solo, prefix), ["3"]);
    assert_eq!(withdrawn(&mut solo), [(3, net(prefix))]);
}

#[test]
fn equal_paths_share_and_a_lost_one_leaves_the_other() {
    let mut solo = with(&[(3, US), (4, US), (5, THEM)], |_| {});
    let prefix = "2001:db8:a3::/64";
    solo.announce(4, prefix, |_| {});
    solo.announce(3, prefix, |_| {});
    assert_eq!(used(&solo, prefix), ["3", "4"]);
    let hops: Vec<IpAddr> = {
        let (_, best) = solo.speaker.loc_rib().next().unwrap();
        best.iter().map(|it| it.next_hop.address).collect()
    };
    assert_eq!(hops, [address(3), address(4)]);
    assert_eq!(told(&mut solo, prefix).len(), 1);
    solo.input(Input::Dead { peer: name_of(3) });
    // To peer 5 the route looks as before.
    assert!(solo.told().is_empty());
    assert_eq!(used(&solo, prefix), ["4"]);
    solo.withdraw(4, prefix);
    assert_eq!(withdrawn(&mut solo), [(5, net(prefix))]);
}

#[test]
fn a_lost_peer_is_told_of_before_its_routes_are_looked_at() {
    let mut solo = with(&[(3, US), (4, US)], |_| {});
    solo.announce(3, "10.0.3.0/24", |_| {});
    solo.announce(4, "10.0.3.0/24", |_| {});
    solo.told();
    assert!(solo.speaker.has_changes());
    let changes = solo.speaker.take_changes(usize::MAX);
    assert_eq!(changes.len(), 1);
    solo.input(Input::Dead { peer: name_of(3) });
    let is_down = |output: &Output| matches!(output, Output::Event(Event::Down { .. }));
    while !is_down(&solo.speaker.poll_output().unwrap()) {}
    assert_eq!(used(&solo, "10.0.3.0/24"), ["3", "4"]);
    solo.outputs();
    assert_eq!(used(&solo, "10.0.3.0/24"), ["4"]);
}

#[test]
fn changes_come_once_each_and_as_they_are_now() {
    let mut solo = with(&[(3, US), (4, US)], |_| {});
    for prefix in ["10.0.1.0/24", "10.0.2.0/24", "2001:db8:a1::/64"] {
        solo.announce(3, prefix, |_| {});
        solo.announce(4, prefix, |_| {});
    }
    solo.withdraw(3, "10.0.2.0/24");
    let mut taken = solo.speaker.take_changes(2);
    assert_eq!(taken.len(), 2);
    taken.extend(solo.speaker.take_changes(2));
    assert!(solo.speaker.take_changes(2).is_empty() && !solo.speaker.has_changes());
    let taken: BTreeMap<_, _> = taken.into_iter().collect();
    let hops = |prefix| taken[&net(prefix)].clone().unwrap();
    assert!(Arc::ptr_eq(&hops("10.0.1.0/24"), &hops("2001:db8:a1::/64")));
    assert_eq!(
        (hops("10.0.1.0/24").len(), hops("10.0.2.0/24").len()),
        (2, 1)
    );
    // Attributes are nothing to it.
    solo.announce(4, "10.0.2.0/24", |it| it.communities = vec![7]);
    assert!(!solo.speaker.has_changes());
    // Our own leaves the Loc-RIB, as what is lost does.
    solo.speaker.originate(nets(&["10.0.1.0/24"]), solo.now);
    solo.input(Input::Dead { peer: name_of(4) });
    let taken: BTreeMap<_, _> = solo.speaker.take_changes(9).into_iter().collect();
    assert_eq!(taken.len(), 3);
    assert_eq!(taken[&net("10.0.1.0/24")], None);
    assert_eq!(taken[&net("10.0.2.0/24")], None);
    assert_eq!(taken[&net("2001:db8:a1::/64")].as_ref().unwrap().len(), 1);
}

#[test]
fn a_review_tells_everything_in_use_once_more() {
    let mut solo = with(&[(3, US)], |_| {});
    solo.announce(3, "10.0.1.0/24", |_| {});
    solo.announce(3, "2001:db8:a1::/64", |_| {});
    solo.announce(3, "10.0.2.0/24", |_| {});
    solo.withdraw(3, "10.0.2.0/24");
    let first = solo.speaker.take_changes(usize::MAX);
    assert!(!solo.speaker.has_changes());
    solo.speaker.review();
    let again = solo.speaker.take_changes(usize::MAX);
    let in_use = |changes: Vec<(IpNet, Option<Arc<[routemesh_bgp::Hop]>>)>| -> BTreeMap<_, _> {
        let changes = changes.into_iter();
        changes.filter(|(_, hops)| hops.is_some()).collect()
    };
    assert_eq!((again.len(), in_use(again)), (2, in_use(first)));
    let installed = |solo: &Solo| solo.speaker.in_use(&net("10.0.1.0/24")).map(|(_, it)| it);
    assert_eq!(installed(&solo), Some(false));
    solo.speaker
        .installed([(net("10.0.1.0/24"), true)], solo.now);
    assert_eq!(installed(&solo), Some(true));
    assert_eq!(solo.speaker.in_use(&net("10.0.2.0/24")), None);
}

// ---- Export ----

#[test]
fn who_learns_what_from_whom() {
    // 3 and 4: mesh, iBGP. 5 and 6: clients. 7 and 8: other ASes.
    let list = [(3, US), (4, US), (5, US), (6, US), (7, THEM), (8, THEM + 1)];
    let clients = |config: &mut SpeakerConfig| {
        for number in [5, 6] {
            config.peers.get_mut(&name_of(number)).unwrap().client = true;
        }
    };
    let table: [(u8, &[u8]); 4] = [
        (3, &[5, 6, 7, 8]),
        (5, &[3, 4, 6, 7, 8]),
        (7, &[3, 4, 5, 6, 8]),
        // Our own.
        (2, &[3, 4, 5, 6, 7, 8]),
    ];
    for (from, expected) in table {
        let mut solo = with(&list, clients);
        let prefix = "10.0.9.0/24";
        match from {
            2 => solo.speaker.originate(nets(&[prefix]), solo.now),
            7 => solo.announce(7, prefix, |it| it.as_path = through(&[THEM])),
            _ => solo.announce(from, prefix, |_| {}),
        }
        let told = told(&mut solo, prefix);
        let numbers: Vec<u8> = told.keys().copied().collect();
        assert_eq!(numbers, expected, "from {from}");
    }
}

#[test]
fn attributes_as_each_kind_of_peer_gets_them() {
    let mut solo = with(&[(3, US), (4, US), (7, THEM)], |config| {
        config.peers.get_mut(&name_of(4)).unwrap().client = true;
        config.peers.insert(name_of(5), peer(2, 5, US));
    });
    let transitive = [0, 2, 0, 0, 0, 0, 0, 1];
    let non_transitive = [0x40, 4, 0, 0, 0, 0, 0, 1];
    let original = Attributes {
        origin: Origin::Incomplete,
        as_path: through(&[64999]),
        med: Some(7),
        local_pref: Some(300),
        communities: vec![0x0001_0002],
        extended_communities: vec![transitive, non_transitive],
        cluster_list: vec![Ipv4Addr::new(7, 7, 7, 7)],
        originator_id: Some(Ipv4Addr::new(6, 6, 6, 6)),
        ..Attributes::default()
    };
    solo.announce(3, "10.0.9.0/24", |it| *it = original.clone());
    let told_of = told(&mut solo, "10.0.9.0/24");
    // Reflected: as it was, but for our id in the cluster list.
    let reflected = Attributes {
        cluster_list: vec![Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(7, 7, 7, 7)],
        ..original.clone()
    };
    assert_eq!(told_of[&4], reflected);
    let external = Attributes {
        as_path: through(&[US, 64999]),
        med: None,
        local_pref: None,
        extended_communities: vec![transitive],
        cluster_list: vec![],
        originator_id: None,
        ..original
    };
    assert_eq!(told_of[&7], external);

    // Without an originator, it is the one we learnt it from.
    solo.announce(3, "10.0.8.0/24", |_| {});
    let told_of = told(&mut solo, "10.0.8.0/24");
    assert_eq!(told_of[&4].originator_id, Some(Ipv4Addr::new(10, 0, 0, 3)));
    assert_eq!(told_of[&4].cluster_list, [Ipv4Addr::new(10, 0, 0, 2)]);
    // And that is each path's own, however alike the paths are.
    solo.establish(5, US, |_| {});
    solo.announce(5, "10.0.8.1/32", |_| {});
    solo.announce(3, "10.0.8.0/32", |_| {});
    let reflected = solo.told().remove(&4).unwrap();
    let originators = reflected.iter().map(|it| {
        let prefixes = it.reach.iter().flat_map(|it| &it.prefixes);
        let prefixes = prefixes.map(|(_, prefix)| *prefix);
        (prefixes.collect(), it.attributes.originator_id)
    });
    let originators: BTreeMap<Vec<IpNet>, _> = originators.collect();
    let expected = [("10.0.8.0/32", 3), ("10.0.8.1/32", 5)]
        .map(|(prefix, from)| (vec![net(prefix)], Some(Ipv4Addr::new(10, 0, 0, from))));
    assert_eq!(originators, BTreeMap::from(expected));
    // From another AS, it is no reflection, and MED is kept inside.
    solo.announce(7, "10.0.7.0/24", |it| {
        it.as_path = through(&[THEM]);
        it.med = Some(5);
    });
    let told_of = told(&mut solo, "10.0.7.0/24");
    assert_eq!(
        (told_of[&4].originator_id, told_of[&4].med),
        (None, Some(5))
    );
    assert_eq!(told_of[&3].as_path, through(&[THEM]));
}

#[test]
fn communities_confine_a_route() {
    const NO_EXPORT: u32 = 0xffff_ff01;
    const NO_ADVERTISE: u32 = 0xffff_ff02;
    const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;
    let table: [(u32, &[u8]); 4] = [
        (NO_EXPORT, &[4]),
        (NO_EXPORT_SUBCONFED, &[4]),
        (NO_ADVERTISE, &[]),
        (0x0001_0001, &[4, 7]),
    ];
    for (community, expected) in table {
        let mut solo = with(&[(4, US), (7, THEM), (8, THEM + 1)], |_| {});
        solo.announce(8, "10.0.8.0/24", |it| {
            it.as_path = through(&[THEM + 1]);
            it.communities = vec![5, community];
        });
        let numbers: Vec<u8> = told(&mut solo, "10.0.8.0/24").into_keys().collect();
        assert_eq!(numbers, expected, "{community:x}");
        assert_eq!(used(&solo, "10.0.8.0/24"), ["8"]);
    }
}

#[test]
fn the_next_hop_is_always_our_address_of_the_session() {
    let v4 = |number: u8| IpAddr::from([192, 0, 2, number]);
    let prefixes = ["10.0.9.0/24", "2001:db8:a9::/64"];
    // (addresses are IPv6, peer has RFC 8950) -> families announced
    let table: [(bool, bool, &[Family]); 4] = [
        (true, true, &[Family::Ipv4, Family::Ipv6]),
        (true, false, &[Family::Ipv6]),
        (false, true, &[Family::Ipv4]),
        (false, false, &[Family::Ipv4]),
    ];
    for (over_ipv6, extended, expected) in table {
        let mut solo = Solo::with(|config| {
            peers(&[(3, US), (4, THEM)])(config);
            if !over_ipv6 {
                let peer = config.peers.get_mut(&name_of(4)).unwrap();
                (peer.local, peer.remote) = (v4(2), v4(4));
            }
        });
        solo.speaker.originate(BTreeSet::new(), solo.now);
        solo.establish(3, US, |_| {});
        solo.establish(4, THEM, |open| {
            open.capabilities.extended_next_hop = extended
        });
        solo.told();
        for prefix in prefixes {
            solo.announce(3, prefix, |_| {});
        }
        let updates = solo.told().remove(&4).unwrap_or_default();
        assert!(updates.iter().all(|it| it.withdrawn.is_empty()));
        let reach: Vec<_> = updates.into_iter().flat_map(|it| it.reach).collect();
        let families: Vec<_> = reach
            .iter()
            .map(|it| Family::of(&it.prefixes[0].1))
            .collect();
        assert_eq!(families, expected, "IPv6 {over_ipv6}, RFC 8950 {extended}");
        let ours = if over_ipv6 { address(2) } else { v4(2) };
        assert!(reach.iter().all(|it| it.next_hop.address == ours));
    }
}

#[test]
fn what_a_peer_may_be_told_can_change_without_a_reset() {
    let list = [(3, US), (4, THEM)];
    let mut config = config(&list);
    let only = within(&["10.0.1.0/24"]);
    config.peers.get_mut(&name_of(4)).unwrap().export = only.clone();
    let mut solo = with(&list, |it| *it = config.clone());
    solo.announce(3, "10.0.1.0/24", |_| {});
    solo.announce(3, "10.0.2.0/24", |_| {});
    let told_of = |solo: &Solo| -> Vec<IpNet> {
        solo.speaker
            .adj_rib_out(&name_of(4))
            .map(|it| it.0)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    solo.told();
    assert_eq!(told_of(&solo), [net("10.0.1.0/24")]);
    change_peer(&mut solo, &mut config, 4, |it| {
        it.export = within(&["10.0.0.0/16"])
    });
    assert_eq!(told(&mut solo, "10.0.2.0/24").len(), 1);
    assert_eq!(told_of(&solo), [net("10.0.1.0/24"), net("10.0.2.0/24")]);
    change_peer(&mut solo, &mut config, 4, |it| it.export = only);
    assert_eq!(withdrawn(&mut solo), [(4, net("10.0.2.0/24"))]);
    // The same again changes nothing.
    solo.speaker.configure(config, solo.now);
    assert_eq!(solo.outputs(), Vec::<String>::new());
}

#[test]
fn a_refresh_repeats_one_family_whole_and_forgets_no_withdrawal() {
    let mut solo = with(&[(3, US), (4, THEM)], |_| {});
    for prefix in ["10.0.1.0/24", "10.0.2.0/24", "2001:db8:a1::/64"] {
        solo.announce(3, prefix, |_| {});
    }
    solo.told();
    solo.receive(
        ConnId(4),
        &Message::RouteRefresh(Family::Ipv4, Refresh::Request),
    );
    solo.withdraw(3, "10.0.2.0/24");
    let told = solo.told().remove(&4).unwrap();
    let reach: Vec<_> = told
        .iter()
        .flat_map(|it| &it.reach)
        .flat_map(|it| &it.prefixes)
        .collect();
    assert_eq!(reach, [&(0, net("10.0.1.0/24"))]);
    let gone: Vec<_> = told.iter().flat_map(|it| &it.withdrawn).collect();
    assert_eq!(gone, [&(0, net("10.0.2.0/24"))]);
}

/// Each answer is a walk over all that was told: who asks a thousand times gets two.
#[test]
fn whoever_asks_while_he_is_answered_is_answered_once_more() {
    const ALL: usize = 5000;
    let mut solo = with(&[(3, US), (4, THEM)], |_| {});
    for number in 0..ALL {
        let prefix = format!("10.{}.{}.0/24", number / 256, number % 256);
        solo.announce(3, &prefix, |_| {});
    }
    solo.told();
    let conn = ConnId(4);
    let request = Message::RouteRefresh(Family::Ipv4, Refresh::Request);
    let ask = |solo: &mut Solo| (0..1000).for_each(|_| solo.receive(conn, &request));
    ask(&mut solo);
    let (mut answered, mut asked) = (0, false);
    while let Some(output) = solo.speaker.poll_output() {
        let Output::Send { conn, bytes } = output else {
            continue;
        };
        for message in messages(&bytes) {
            if let Message::Update(update) = message {
                let prefixes = update.reach.iter().map(|it| it.prefixes.len());
                answered += prefixes.sum::<usize>();
            }
        }
        solo.input(Input::Writable { conn });
        if !std::mem::replace(&mut asked, answered > 0) && answered > 0 {
            assert!(answered < ALL);
            ask(&mut solo);
        }
    }
    assert_eq!(answered, 2 * ALL);
}

#[test]
fn prefixes_with_the_same_attributes_share_messages() {
    let mut solo = with(&[(3, US), (4, THEM)], |_| {});
    for number in 0..1000_u32 {
        let prefix = format!("10.{}.{}.0/24", number / 256, number % 256);
        // Two sets of attributes, mixed.
        solo.announce(3, &prefix, |it| {
            it.origin = [Origin::Igp, Origin::Egp][number as usize % 2]
        });
    }
    let told = solo.told().remove(&4).unwrap();
    let prefixes: usize = told
        .iter()
        .flat_map(|it| &it.reach)
        .map(|it| it.prefixes.len())
        .sum();
    assert_eq!(prefixes, 1000);
    // 500 of four bytes fill half a message.
    assert_eq!(told.len(), 2);
}

// ---- Back-pressure ----

/// What is handed out for a connection without it ever becoming writable.
fn unread(solo: &mut Solo) -> BTreeMap<u64, usize> {
    let mut sizes = BTreeMap::new();
    while let Some(output) = solo.speaker.poll_output() {
        if let Output::Send { conn, bytes } = output {
            *sizes.entry(conn.0).or_default() += bytes.len();
        }
    }
    sizes
}

#[test]
fn a_peer_that_does_not_read_costs_little_and_holds_up_nobody() {
    let mut solo = with(&[(3, US), (4, THEM), (5, THEM)], |_| {});
    let announce_all = |solo: &mut Solo, med: u32| {
        for number in 0..8_000_u32 {
            let prefix = format!("10.{}.{}.0/24", number / 256, number % 256);
            // No two alike: much to send.
            let path = through(&[64000 + number % 7, 1_000_000 + number, med]);
            solo.announce(3, &prefix, |it| it.as_path = path);
        }
    };
    announce_all(&mut solo, 1);
    let sizes = unread(&mut solo);
    assert!(sizes[&4] > 60_000 && sizes[&4] < 80_000, "{sizes:?}");
    assert_eq!(unread(&mut solo), BTreeMap::new());
    // Keepalives go out all the same.
    solo.pass(Duration::from_secs(3));
    assert_eq!(unread(&mut solo).len(), 3);
    // The other one reads, and gets everything.
    let mut total = 0;
    loop {
        solo.input(Input::Writable { conn: ConnId(5) });
        match unread(&mut solo).remove(&5) {
            Some(bytes) => total += bytes,
            None => break,
        }
    }
    assert!(total > 500_000, "{total}");
    assert_eq!(solo.speaker.adj_rib_out(&name_of(5)).count(), 8_000);
    let all = total;
    // Four changes of everything are one to whom did not read.
    for med in 2..=5 {
        announce_all(&mut solo, med);
    }
    let mut total = 0;
    loop {
        solo.input(Input::Writable { conn: ConnId(4) });
        match unread(&mut solo).remove(&4) {
            Some(bytes) => total += bytes,
            None => break,
        }
    }
    assert!(total < all * 3 / 2, "{total} instead of {all}");
    let slow = name_of(4);
    let mut last = solo.speaker.adj_rib_out(&slow);
    assert!(last.all(|(_, it)| it.as_path.contains(5)));
}

// ---- Configuration ----

#[test]
fn peers_come_go_and_are_reset_as_the_configuration_says() {
    let list = [(3, US), (4, US)];
    let mut config = config(&list);
    let mut solo = with(&list, |it| *it = config.clone());
    solo.announce(3, "10.0.3.0/24", |_| {});
    solo.announce(4, "10.0.3.0/24", |_| {});
    // A new peer.
    config.peers.insert(name_of(5), peer(2, 5, US));
    solo.speaker.configure(config.clone(), solo.now);
    assert_eq!(solo.outputs(), ["connect"]);
    // One that is gone.
    config.peers.remove(&name_of(4));
    solo.speaker.configure(config.clone(), solo.now);
    assert_eq!(solo.outputs(), ["6/3 4", "close 4"]);
    assert_eq!(used(&solo, "10.0.3.0/24"), ["3"]);
    assert_eq!(solo.speaker.peers().count(), 2);
    // A hold time is for the next session to negotiate.
    change_peer(&mut solo, &mut config, 3, |it| {
        it.hold_time = Duration::from_secs(30)
    });
    assert!(solo.outputs().is_empty());
    assert_eq!(used(&solo, "10.0.3.0/24"), ["3"]);
    // One that has to be reset, and is tried again at once.
    change_peer(&mut solo, &mut config, 3, |it| it.client = !it.client);
    assert_eq!(solo.outputs(), ["6/6 3", "close 3", "connect"]);
    assert!(used(&solo, "10.0.3.0/24").is_empty());
    // Ourselves.
    solo.establish(3, US, |_| {});
    solo.outputs();
    config.router_id = Ipv4Addr::new(10, 0, 0, 77);
    solo.speaker.configure(config, solo.now);
    let outputs = solo.outputs();
    assert!(outputs.contains(&"6/6 3".into()), "{outputs:?}");
}

#[test]
fn a_shut_down_speaker_stays_so() {
    let mut solo = with(&[(3, US), (4, THEM)], |_| {});
    solo.announce(3, "10.0.3.0/24", |_| {});
    solo.told();
    solo.speaker.shutdown("bye", solo.now);
    let mut said = Vec::new();
    while let Some(output) = solo.speaker.poll_output() {
        if let Output::Send { bytes, .. } = output {
            said.extend(messages(&bytes));
        }
    }
    assert_eq!(said.len(), 2);
    for message in said {
        let Message::Notification(it) = message else {
            panic!("{message:?}")
        };
        assert_eq!(
            (it.code, it.subcode),
            (code::CEASE, cease::ADMINISTRATIVE_SHUTDOWN)
        );
        assert_eq!(it.text(), Some("bye".into()));
    }
    assert_eq!(solo.speaker.loc_rib().count(), 0);
    solo.pass(Duration::from_secs(3600));
    solo.speaker
        .configure(config(&[(3, US), (5, US)]), solo.now);
    solo.input(Input::Alive { peer: name_of(3) });
    assert_eq!(solo.outputs(), Vec::<String>::new());
}

// ---- Size ----

#[test]
fn a_hundred_thousand_prefixes_arrive_everywhere_and_go_again() {
    let mut network = Network::mesh(&["A", "B", "C"], true);
    let many: BTreeSet<IpNet> = (0..100_000_u32)
        .map(|number| match number % 2 {
            0 => IpNet::new(Ipv4Addr::from(0x2000_0000 + number * 256).into(), 24).unwrap(),
            _ => {
                let bits = 0x2001_0db8_u128 << 96 | u128::from(number) << 64;
                IpNet::new(std::net::Ipv6Addr::from(bits).into(), 64).unwrap()
            }
        })
        .collect();
    network.look_at_changes = false;
    network.originate("A", many.clone());
    network.originate("B", many.clone());
    network.run(seconds(60.0));
    // C has both paths to each.
    let routes = network.speaker("C").loc_rib();
    assert_eq!(routes.filter(|(_, best)| best.len() == 2).count(), 100_000);
    assert_eq!(network.status("C", "A").accepted, 100_000);
    network.originate("A", BTreeSet::new());
    network.run(seconds(60.0));
    let routes = network.speaker("C").loc_rib();
    let only_b = |best: &[Hop]| best.len() == 1 && &*best[0].peer.0 == "B";
    assert_eq!(routes.filter(|(_, best)| only_b(best)).count(), 100_000);
    network.kill("B", false);
    network.run(RESTART + seconds(60.0));
    assert_eq!(network.speaker("C").loc_rib().count(), 0);
}

#[test]
fn what_the_kernel_does_not_forward_yet_is_not_announced() {
    let mut solo = with(&[(3, US), (4, THEM)], |_| {});
    solo.speaker.installed([], solo.now);
    solo.announce(3, "10.0.3.0/24", |_| {});
    assert_eq!(used(&solo, "10.0.3.0/24"), ["3"]);
    assert!(told(&mut solo, "10.0.3.0/24").is_empty());

    let installed = [(net("10.0.3.0/24"), true)];
    solo.speaker.installed(installed, solo.now);
    assert_eq!(told(&mut solo, "10.0.3.0/24").len(), 1);
    solo.speaker.installed(installed, solo.now);
    assert!(told(&mut solo, "10.0.3.0/24").is_empty());
    // Our own is not for the kernel to say.
    solo.speaker
        .originate(BTreeSet::from([net("10.0.2.0/24")]), solo.now);
    assert_eq!(told(&mut solo, "10.0.2.0/24").len(), 2);

    let no_more = [(net("10.0.3.0/24"), false)];
    solo.speaker.installed(no_more, solo.now);
    assert_eq!(withdrawn(&mut solo), [(4, net("10.0.3.0/24"))]);
}

#[test]
fn a_session_that_begins_is_told_only_what_the_kernel_forwards() {
    let mut solo = with(&[(3, US)], peers(&[(3, US), (4, THEM)]));
    solo.speaker
        .installed([(net("10.0.3.0/24"), true)], solo.now);
    solo.announce(3, "10.0.3.0/24", |_| {});
    solo.announce(3, "10.0.4.0/24", |_| {});
    solo.establish(4, THEM, |_| {});
    let told: Vec<IpNet> = solo
        .told()
        .into_values()
        .flatten()
        .flat_map(|update| update.reach)
        .flat_map(|reach| reach.prefixes)
        .map(|(_, prefix)| prefix)
        .collect();
    assert_eq!(told, [net("10.0.3.0/24")]);
}

#[test]
fn what_let_a_path_in_is_told_to_whoever_asks() {
    let list = [(3, THEM), (4, THEM), (5, US)];
    let mut solo = with(&list, |config| {
        let marked = Term {
            changes: Changes {
                preference: Some(200),
                ..Changes::default()
            },
            then: Then::Next,
            ..Term::default()
        };
        let long = Term {
            conditions: Conditions {
                longest_path: Some(0),
                ..Conditions::default()
            },
            ..Term::default()
        };
        let of = |terms: Vec<Term>| Some(Policy::new(terms).unwrap().within(&[net("10.0.0.0/16")]));
        let peer = |config: &mut SpeakerConfig, number, import| {
            config.peers.get_mut(&name_of(number)).unwrap().import = import;
        };
        peer(config, 3, of(vec![marked, long, Term::default()]));
        peer(config, 4, of(vec![Term::default()]));
    });
    for (number, asn) in list {
        solo.announce(number, "10.0.3.0/24", |it| {
            if asn == THEM {
                it.as_path = through(&[THEM]);
            }
        });
    }
    solo.announce(4, "10.0.0.0/8", |it| it.as_path = through(&[THEM]));
    let own = BTreeSet::from([net("10.0.0.0/16")]);
    solo.speaker.originate(own, solo.now);
    let heard = |number, used, rejected, terms: &[usize]| Heard {
        peer: name_of(number),
        used,
        rejected,
        terms: terms.to_vec(),
    };
    let known = |target: &str| {
        let mut known = solo.speaker.known(target.parse().unwrap());
        for it in &mut known {
            it.paths.sort_by_key(|it| it.peer.clone());
        }
        known
    };
    let expected = [
        Known {
            prefix: net("10.0.3.0/24"),
            originated: false,
            paths: vec![
                heard(3, true, None, &[0, 2]),
                heard(4, false, None, &[0]),
                heard(5, false, None, &[0]),
            ],
        },
        Known {
            prefix: net("10.0.0.0/16"),
            originated: true,
            paths: Vec::new(),
        },
        Known {
            prefix: net("10.0.0.0/8"),
            originated: false,
            paths: vec![heard(4, false, Some(Rejection::NotAuthorized), &[])],
        },
    ];
    assert_eq!(known("10.0.3.7"), expected);
    assert_eq!(known("10.0.4.7"), expected[1..]);
    assert_eq!(known("2001:db8::1"), []);
}
