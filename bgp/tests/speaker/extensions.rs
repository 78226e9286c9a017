//! What the younger RFCs make of routes on their way in and out.

use crate::network::*;
use crate::solo::{Solo, name_of, peers, their_open};
use ipnet::IpNet;
use routemesh_bgp::policy::{Changes, Community, Med, Policy, Term};
use routemesh_bgp::wire::{
    AsPath, Attributes, Context, Directions, Family, LongLived, Message, NextHop, PerFamily, Reach,
    Refresh, Role, UnknownAttribute, Update, decode, encode,
};
use routemesh_bgp::{ConnId, Event, Input, Output, PeerConfig, Rejection, SpeakerConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

const US: u32 = 65000;
const THEM: u32 = 65009;
const PREFIX: &str = "10.0.3.0/24";

/// A speaker that originates nothing, with these peers established and everything said.
fn with(list: &[(u8, u32)], change: impl FnOnce(&mut SpeakerConfig)) -> Solo {
    let mut solo = Solo::with(|config| {
        peers(list)(config);
        change(config);
    });
    solo.speaker.originate(BTreeSet::new(), solo.now);
    for (number, asn) in list {
        solo.establish(*number, *asn, |open| {
            open.capabilities.enhanced_route_refresh = true;
        });
    }
    solo.told();
    solo
}

fn of(config: &mut SpeakerConfig, number: u8) -> &mut PeerConfig {
    config.peers.get_mut(&name_of(number)).unwrap()
}

/// What each peer is told of the prefix: its attributes.
fn told(solo: &mut Solo) -> BTreeMap<u8, Attributes> {
    let told = solo.told().into_iter();
    let tells = |it: &Update| {
        it.reach
            .iter()
            .any(|it| it.prefixes.contains(&(0, net(PREFIX))))
    };
    told.filter_map(|(number, updates)| {
        let update = updates.into_iter().find(tells)?;
        Some((number, update.attributes))
    })
    .collect()
}

fn used(solo: &Solo) -> Vec<(String, u16)> {
    let mut routes = solo.speaker.loc_rib();
    let found = routes.find(|it| it.0 == net(PREFIX));
    let hops = found.map(|(_, hops)| hops.clone());
    let hops = hops.iter().flat_map(|hops| hops.iter());
    hops.map(|hop| (hop.peer.to_string(), hop.weight)).collect()
}

// ---- Several paths (RFC 7911) ----

fn with_path_ids() -> Context {
    let both = Directions {
        receive: true,
        send: true,
    };
    Context {
        four_octet_as: true,
        extended_next_hop: true,
        internal: true,
        add_path: PerFamily {
            ipv4: both,
            ipv6: both,
        },
        ..Context::UNKNOWN
    }
}

/// Peers 3 and 4 of our AS exchange several paths; 5 of another one does not.
fn several() -> Solo {
    let list = [(3, US), (4, US), (5, THEM)];
    let mut solo = Solo::with(|config| {
        peers(&list)(config);
        for number in [3, 4] {
            of(config, number).add_path = true;
            of(config, number).client = true;
        }
    });
    solo.speaker.originate(BTreeSet::new(), solo.now);
    for (number, asn) in list {
        solo.establish(number, asn, |open| {
            if number != 5 {
                open.capabilities.add_path = with_path_ids().add_path;
            }
        });
    }
    heard(&mut solo);
    solo
}

fn say(solo: &mut Solo, update: Update) {
    let mut bytes = Vec::new();
    encode(&Message::Update(update), &with_path_ids(), &mut bytes);
    let conn = ConnId(3);
    solo.input(Input::Received { conn, bytes });
}

/// Peer 3 announces the prefix with a path identifier, by a next hop of its own.
fn announce_path(solo: &mut Solo, path: u32, med: u32) {
    let hop = u16::try_from(path).unwrap();
    let update = Update {
        reach: vec![Reach {
            next_hop: NextHop {
                address: address(100 + hop),
                link_local: None,
            },
            prefixes: vec![(path, net(PREFIX))],
        }],
        attributes: Attributes {
            local_pref: Some(100),
            as_path: AsPath(vec![64999]),
            med: Some(med),
            ..Attributes::default()
        },
        ..Update::default()
    };
    say(solo, update);
}

type Paths = BTreeMap<u8, Vec<(bool, u32, IpNet)>>;

/// What the peers are told: whether announced, path identifier and prefix.
fn heard(solo: &mut Solo) -> Paths {
    let mut heard = Paths::new();
    while let Some(output) = solo.speaker.poll_output() {
        let Output::Send { conn, bytes } = output else {
            continue;
        };
        solo.speaker.input(Input::Writable { conn }, solo.now);
        let plain = Context {
            add_path: PerFamily::default(),
            ..with_path_ids()
        };
        let context = if conn.0 == 5 { plain } else { with_path_ids() };
        let mut rest = bytes.as_slice();
        while let Some(decoded) = decode(rest, &context).unwrap() {
            rest = &rest[decoded.length..];
            let Message::Update(update) = decoded.message.to_owned() else {
                continue;
            };
            let list = heard.entry(conn.0 as u8).or_default();
            list.extend(update.withdrawn.into_iter().map(|it| (false, it.0, it.1)));
            let reach = update.reach.into_iter().flat_map(|it| it.prefixes);
            list.extend(reach.map(|it| (true, it.0, it.1)));
        }
    }
    heard.retain(|_, list| !list.is_empty());
    heard
}

#[test]
fn paths_of_one_peer_are_told_apart_by_their_identifiers() {
    let mut solo = several();
    announce_path(&mut solo, 1, 5);
    announce_path(&mut solo, 2, 5);
    announce_path(&mut solo, 3, 9);
    let hops = |solo: &Solo| {
        let (_, hops) = solo.speaker.loc_rib().next().unwrap();
        let addresses: BTreeSet<_> = hops.iter().map(|it| it.next_hop.address).collect();
        addresses
    };
    // The third is worse.
    assert_eq!(hops(&solo), [address(101), address(102)].into());
    assert_eq!(solo.speaker.adj_rib_in(&name_of(3)).count(), 3);
    // A path is replaced by its identifier, and withdrawn by it.
    announce_path(&mut solo, 1, 9);
    assert_eq!(hops(&solo), [address(102)].into());
    let gone = Update {
        withdrawn: vec![(2, net(PREFIX))],
        ..Update::default()
    };
    say(&mut solo, gone);
    assert_eq!(hops(&solo), [address(101), address(103)].into());
    assert_eq!(solo.speaker.adj_rib_in(&name_of(3)).count(), 2);
    solo.input(Input::Dead { peer: name_of(3) });
    heard(&mut solo);
    assert_eq!(solo.speaker.loc_rib().count(), 0);
}

#[test]
fn too_many_paths_to_a_prefix_are_ignored_and_told_of_once() {
    let mut solo = several();
    for path in 0..70 {
        announce_path(&mut solo, path, 5);
    }
    assert_eq!(solo.speaker.adj_rib_in(&name_of(3)).count(), 64);
    let mut told = 0;
    while let Some(output) = solo.speaker.poll_output() {
        let ignored = Event::PathsIgnored {
            peer: name_of(3),
            prefix: net(PREFIX),
        };
        told += usize::from(output == Output::Event(ignored));
    }
    assert_eq!(told, 1);
}

#[test]
fn all_paths_in_use_are_announced_to_who_takes_several() {
    let mut solo = several();
    for path in [1, 2, 3] {
        announce_path(&mut solo, path, 5);
    }
    let first = heard(&mut solo);
    let ids = |list: &[(bool, u32, IpNet)], announced: bool| -> BTreeSet<u32> {
        let list = list.iter().filter(|it| it.0 == announced);
        list.map(|it| it.1).collect()
    };
    let known = ids(&first[&4], true);
    assert_eq!(known.len(), 3);
    assert!(!first.contains_key(&3), "back to where they came from");
    assert_eq!(ids(&first[&5], true), [0].into());
    // One is not as good any more: it goes, the others stay as they were.
    announce_path(&mut solo, 2, 9);
    let then = heard(&mut solo);
    let gone = ids(&then[&4], false);
    assert_eq!((gone.len(), ids(&then[&4], true).len()), (1, 0));
    assert!(gone.is_subset(&known));
    // It is back under a name that no other has.
    announce_path(&mut solo, 2, 5);
    let back = ids(&heard(&mut solo)[&4], true);
    assert_eq!(back.len(), 1);
    assert!(known.difference(&gone).all(|it| !back.contains(it)));
    solo.input(Input::Dead { peer: name_of(3) });
    let end = heard(&mut solo);
    assert_eq!(ids(&end[&4], false).len(), 3);
    assert_eq!(solo.speaker.adj_rib_out(&name_of(4)).count(), 0);
}

#[test]
fn who_announced_the_best_path_is_told_of_the_others() {
    let mut solo = several();
    announce_path(&mut solo, 1, 5);
    heard(&mut solo);
    // As good, from peer 4, whose router id is higher: 3 is told of it.
    let update = Update {
        reach: vec![Reach {
            next_hop: NextHop {
                address: address(4),
                link_local: None,
            },
            prefixes: vec![(9, net(PREFIX))],
        }],
        attributes: Attributes {
            local_pref: Some(100),
            as_path: AsPath(vec![64999]),
            med: Some(5),
            ..Attributes::default()
        },
        ..Update::default()
    };
    let mut bytes = Vec::new();
    encode(&Message::Update(update), &with_path_ids(), &mut bytes);
    let conn = ConnId(4);
    solo.input(Input::Received { conn, bytes });
    assert_eq!(used(&solo).len(), 2);
    assert_eq!(heard(&mut solo)[&3].len(), 1);
}

// ---- Policy and weights ----

fn policy(changes: Changes) -> Option<Policy> {
    let term = Term {
        changes,
        ..Term::default()
    };
    Policy::new(vec![term]).ok()
}

#[test]
fn what_policy_changes_decides_and_is_passed_on() {
    let mut solo = with(&[(3, US), (4, US), (5, THEM)], |config| {
        of(config, 4).import = policy(Changes {
            preference: Some(200),
            add_communities: vec![Community::Standard(0x0001_0007)],
            ..Changes::default()
        });
        of(config, 5).export = policy(Changes {
            med: Some(Med::Set(9)),
            prepend: 2,
            ..Changes::default()
        });
    });
    solo.announce(3, PREFIX, |_| {});
    assert_eq!(told(&mut solo)[&5].as_path.0, [US, US, US]);
    solo.announce(4, PREFIX, |_| {});
    assert_eq!(used(&solo), [("4".into(), 1)]);
    let attributes = told(&mut solo).remove(&5).unwrap();
    assert_eq!(attributes.communities, [0x0001_0007]);
    assert_eq!(attributes.med, Some(9));
    // What the peer said is still known, and counts when the policy goes.
    let peer = name_of(4);
    let received = solo.speaker.adj_rib_in(&peer).next().unwrap().1;
    assert_eq!(received.attributes.local_pref, Some(100));
    of(&mut solo.config, 4).import = None;
    solo.speaker.configure(solo.config.clone(), solo.now);
    assert_eq!(used(&solo), [("3".into(), 1), ("4".into(), 1)]);
}

#[test]
fn link_bandwidth_makes_weights_where_every_path_has_one() {
    let bandwidth = |megabytes: f32| {
        let [a, b, c, d] = (megabytes * 1e6).to_be_bytes();
        vec![[0x40, 0x04, 0, 1, a, b, c, d]]
    };
    let mut solo = with(&[(3, US), (4, US)], |_| {});
    solo.announce(3, PREFIX, |it| it.extended_communities = bandwidth(100.0));
    solo.announce(4, PREFIX, |it| it.extended_communities = bandwidth(50.0));
    assert_eq!(used(&solo), [("3".into(), 2), ("4".into(), 1)]);
    solo.announce(4, PREFIX, |_| {});
    assert_eq!(used(&solo), [("3".into(), 1), ("4".into(), 1)]);
    // What policy says comes first.
    let weight = |weight| {
        policy(Changes {
            weight: Some(weight),
            ..Changes::default()
        })
    };
    of(&mut solo.config, 3).import = weight(1);
    of(&mut solo.config, 4).import = weight(3);
    solo.speaker.configure(solo.config.clone(), solo.now);
    assert_eq!(used(&solo), [("3".into(), 1), ("4".into(), 3)]);
}

// ---- Roles (RFC 9234) ----

#[test]
fn what_is_for_customers_goes_to_customers() {
    // We are to 3 a customer, to 4 a peer, to 5 a provider; 6 has no role; 7 is of our AS.
    let list = [(3, 65003), (4, 65004), (5, 65005), (6, 65006), (7, US)];
    let roles = [(3, Role::Customer), (4, Role::Peer), (5, Role::Provider)];
    let start = || {
        with(&list, |config| {
            for (number, role) in roles {
                of(config, number).role = Some(role);
            }
        })
    };
    let announce = |solo: &mut Solo, number: u8, otc: Option<u32>| {
        solo.announce(number, PREFIX, |it| {
            it.as_path = AsPath(vec![65000 + u32::from(number)]);
            it.only_to_customer = otc;
            it.local_pref = None;
        });
        told(solo)
    };
    let told_otc = |told: BTreeMap<u8, Attributes>| -> Vec<_> {
        let told = told.into_iter();
        told.map(|(number, it)| (number, it.only_to_customer))
            .collect()
    };
    // From a provider: marked as its, and told to customers and inside only.
    let from_provider = told_otc(announce(&mut start(), 3, None));
    let mark = Some(65003);
    assert_eq!(from_provider, [(5, mark), (6, mark), (7, mark)]);
    // From a customer: to everybody, marked as ours for all but providers.
    let from_customer = told_otc(announce(&mut start(), 5, None));
    assert_eq!(
        from_customer,
        [(3, None), (4, Some(US)), (6, None), (7, None)]
    );
    // A customer that passes on what was meant for customers, or a peer what is not its own, leaks.
    for (number, otc, leaks) in [(5, 1, true), (4, 1, true), (4, 65004, false), (3, 1, false)] {
        let mut solo = start();
        announce(&mut solo, number, Some(otc));
        let why: Vec<_> = solo.speaker.rejected().map(|it| it.2).collect();
        let expected = if leaks {
            vec![Rejection::RouteLeak(otc)]
        } else {
            vec![]
        };
        assert_eq!(why, expected, "from {number}");
        assert_eq!(used(&solo).is_empty(), leaks);
    }
}

// ---- Graceful shutdown (RFC 8326) ----

#[test]
fn what_is_about_to_go_is_the_last_choice() {
    const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
    let mut solo = with(&[(3, US), (4, US), (5, THEM), (6, US)], |config| {
        of(config, 6).client = true;
    });
    solo.announce(3, PREFIX, |it| it.local_pref = Some(300));
    solo.announce(4, PREFIX, |_| {});
    assert_eq!(used(&solo), [("3".into(), 1)]);
    solo.announce(3, PREFIX, |it| {
        it.local_pref = Some(300);
        it.communities = vec![GRACEFUL_SHUTDOWN];
    });
    assert_eq!(used(&solo), [("4".into(), 1)]);
    solo.withdraw(4, PREFIX);
    assert_eq!(used(&solo), [("3".into(), 1)]);
    solo.announce(3, PREFIX, |_| {});
    solo.told();

    // We drain: everybody is told, without a reset, and told otherwise when we stay.
    solo.events.clear();
    let drain = |solo: &mut Solo, drain: bool| {
        for number in [5, 6] {
            of(&mut solo.config, number).drain = drain;
        }
        solo.speaker.configure(solo.config.clone(), solo.now);
        let told = told(solo);
        let shuts_down = |it: &Attributes| it.communities == [GRACEFUL_SHUTDOWN];
        [5, 6].map(|number| {
            let it = &told[&number];
            (shuts_down(it), it.local_pref, it.med)
        })
    };
    let told = [(true, None, Some(u32::MAX)), (true, Some(0), None)];
    assert_eq!(drain(&mut solo, true), told);
    let told = [(false, None, None), (false, Some(100), None)];
    assert_eq!(drain(&mut solo, false), told);
    assert!(solo.events.is_empty());
}

// ---- Long-lived graceful restart (RFC 9494) ----

#[test]
fn a_path_kept_for_long_is_marked_and_told_to_who_understands() {
    const LLGR_STALE: u32 = 0xffff_0006;
    const NO_LLGR: u32 = 0xffff_0007;
    let list = [(3, US), (4, US), (5, THEM), (6, THEM)];
    let mut solo = Solo::with(|config| {
        peers(&list)(config);
        of(config, 3).long_lived = Duration::from_secs(1000);
        of(config, 5).long_lived = Duration::from_secs(1000);
        // The mark is not one of those that a policy takes away.
        of(config, 5).export = policy(Changes {
            clear_communities: true,
            ..Changes::default()
        });
    });
    solo.speaker.originate(BTreeSet::new(), solo.now);
    for (number, asn) in list {
        solo.establish(number, asn, |open| {
            open.hold_time = 0;
            if number % 2 == 1 {
                open.capabilities.long_lived.ipv4 = Some(LongLived {
                    forwarding: true,
                    seconds: 1000,
                });
            }
        });
    }
    solo.announce(3, PREFIX, |_| {});
    solo.announce(3, "10.0.9.0/24", |it| it.communities = vec![NO_LLGR]);
    solo.told();
    solo.input(Input::Closed { conn: ConnId(3) });
    assert!(solo.told().is_empty());
    solo.pass(RESTART);
    // Gone where it is not understood, marked where it is; what asks for it is gone altogether.
    assert_eq!(used(&solo), [("3".into(), 1)]);
    assert_eq!(solo.speaker.loc_rib().count(), 1);
    let mut told = solo.told();
    let withdrawn = |updates: &[Update]| -> BTreeSet<IpNet> {
        let withdrawn = updates.iter().flat_map(|it| &it.withdrawn);
        withdrawn.map(|it| it.1).collect()
    };
    let to_5 = told.remove(&5).unwrap();
    assert_eq!(withdrawn(&to_5), nets(&["10.0.9.0/24"]));
    let marked = to_5.iter().find(|it| !it.reach.is_empty()).unwrap();
    assert_eq!(marked.attributes.communities, [LLGR_STALE]);
    assert_eq!(
        withdrawn(&told.remove(&6).unwrap()),
        nets(&[PREFIX, "10.0.9.0/24"])
    );
    // Anything else is better, however bad.
    solo.announce(4, PREFIX, |it| {
        it.local_pref = Some(1);
        it.as_path = AsPath(vec![1, 2, 3]);
    });
    assert_eq!(used(&solo), [("4".into(), 1)]);
}

// ---- Refresh (RFC 7313) ----

#[test]
fn the_answer_to_a_refresh_has_a_beginning_and_an_end() {
    let mut solo = with(&[(3, US), (4, THEM)], |_| {});
    solo.announce(3, PREFIX, |_| {});
    solo.told();
    let request = Message::RouteRefresh(Family::Ipv4, Refresh::Request);
    solo.receive(ConnId(4), &request);
    assert_eq!(solo.outputs(), ["refresh 4", "update 4", "refresh 4"]);
    // With nothing to tell, too.
    let request = Message::RouteRefresh(Family::Ipv6, Refresh::Request);
    solo.receive(ConnId(4), &request);
    assert_eq!(solo.outputs(), ["refresh 4", "refresh 4"]);
}

// ---- What does not fit, and what is carried on ----

#[test]
fn a_prefix_whose_attributes_fill_a_message_is_not_announced_and_told_of() {
    let mut solo = with(&[(3, US), (4, THEM)], |config| {
        of(config, 4).export = policy(Changes {
            prepend: 5,
            ..Changes::default()
        });
    });
    solo.announce(3, PREFIX, |_| {});
    assert_eq!(told(&mut solo).len(), 1);
    solo.events.clear();
    // 4,096 bytes hold it as it comes, and no more with our AS in front.
    let communities: Vec<u32> = (0..1005).collect();
    solo.announce(3, PREFIX, |it| it.communities = communities.clone());
    assert_eq!(used(&solo), [("3".into(), 1)]);
    let told = solo.told().remove(&4).unwrap();
    assert_eq!(told[0].withdrawn, [(0, net(PREFIX))]);
    assert_eq!(solo.speaker.adj_rib_out(&name_of(4)).count(), 0);
    let event = Event::NotAnnounced {
        peer: name_of(4),
        prefix: net(PREFIX),
        prefixes: 1,
    };
    assert_eq!(solo.events, [event]);
    // Once it is smaller, it is there again.
    solo.announce(3, PREFIX, |it| it.communities = vec![1]);
    assert_eq!(self::told(&mut solo).len(), 1);
}

#[test]
fn what_we_do_not_use_is_carried_on() {
    let mut solo = with(&[(3, US), (4, THEM), (5, US)], |config| {
        of(config, 5).client = true;
    });
    let carried = |it: &mut Attributes| {
        it.atomic_aggregate = true;
        it.aggregator = Some((64999, Ipv4Addr::new(9, 9, 9, 9)));
        it.communities = vec![0x0001_0001];
        it.large_communities = vec![[1, 2, 3]];
        it.unknown = vec![UnknownAttribute {
            code: 200,
            value: vec![1, 2, 3],
        }];
    };
    solo.announce(3, PREFIX, carried);
    for (number, attributes) in told(&mut solo) {
        let mut same = attributes.clone();
        carried(&mut same);
        assert_eq!(attributes, same, "to {number}");
    }
}

// ---- Next hop (RFC 2545) ----

#[test]
fn over_a_link_local_session_the_next_hop_is_link_local() {
    let local = "fe80::2".parse().unwrap();
    let mut solo = Solo::with(|config| {
        peers(&[(3, US), (4, THEM)])(config);
        of(config, 4).local = local;
        of(config, 4).remote = "fe80::4".parse().unwrap();
    });
    solo.speaker
        .originate(nets(&[PREFIX, "2001:db8:a2::/64"]), solo.now);
    solo.establish(4, THEM, |open| {
        *open = routemesh_bgp::wire::Open {
            asn: THEM,
            ..their_open()
        }
    });
    let told = solo.told().remove(&4).unwrap();
    let hops: Vec<_> = told
        .iter()
        .flat_map(|it| &it.reach)
        .map(|it| it.next_hop)
        .collect();
    assert_eq!(hops.len(), 2);
    assert!(
        hops.iter()
            .all(|it| it.address == local && it.link_local.is_none())
    );
}
