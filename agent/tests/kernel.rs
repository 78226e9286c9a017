//! The kernel as it is, in namespaces made for each test; what came of it is asked of `ip`.
//!
//! All but the tests of tunnel interfaces, in `links`, run on any kernel with nexthop objects.

#[path = "kernel/links.rs"]
mod links;
#[path = "kernel/model.rs"]
mod model;
mod space;

use ipnet::IpNet;
use routemesh_agent::config::{Hash, Overlay};
use routemesh_agent::kernel::{Event, Kernel, Op, Reason, forwarding, tunnels};
use routemesh_agent::netns::{self, Netns};
use routemesh_agent::state::{
    Group, Link, LinkKind, Member, Nexthop, NexthopId, Place, RouteKey, Side, Target, ours,
};
use serde_json::Value;
use space::{Space, run};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const GROUP: NexthopId = NexthopId(0x5280_0000);

/// A namespace with `wan` up, and 2001:db8:ff::/64 and 192.0.2.0/24 on it.
fn with_wan() -> Space {
    let space = Space::new();
    space.ip("link add wan type veth peer name far");
    // Nothing moves here but what a test moves.
    space.ip("link set wan addrgenmode none");
    space.ip("link set far addrgenmode none");
    space.ip("link set far up");
    space.ip("link set wan up");
    space.ip("addr add 2001:db8:ff::1/64 dev wan nodad");
    space.ip("addr add 192.0.2.1/24 dev wan");
    space
}

fn open(space: &Space) -> Kernel {
    Kernel::open(&Overlay::Netns(space.0.clone())).expect("kernel opens")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn id(number: u32) -> NexthopId {
    NexthopId(ours::NEXTHOPS.start() + number)
}

fn via(gateway: &str) -> Nexthop {
    Nexthop {
        gateway: gateway.parse().expect("an address"),
        link: "wan".into(),
    }
}

fn put_nexthop(number: u32, gateway: &str) -> Op {
    Op::PutNexthop {
        id: id(number),
        nexthop: via(gateway),
        replace: false,
    }
}

fn group(members: &[(u32, u16)]) -> Group {
    let members = members
        .iter()
        .map(|&(number, weight)| Member {
            id: id(number),
            weight,
        })
        .collect();
    Group {
        members,
        resilient: false,
    }
}

fn put_group(members: &[(u32, u16)], replace: bool) -> Op {
    Op::PutGroup {
        id: GROUP,
        group: group(members),
        replace,
    }
}

fn key(prefix: &str, metric: u32) -> RouteKey {
    RouteKey {
        prefix: net(prefix),
        table: ours::TABLE,
        metric,
    }
}

fn put_route(prefix: &str, target: Target) -> Op {
    let metric = match target {
        Target::Group(_) => ours::METRIC,
        Target::Unreachable => ours::METRIC_UNREACHABLE,
    };
    Op::PutRoute {
        key: key(prefix, metric),
        target,
        replace: false,
    }
}

async fn all_ok(kernel: &Kernel, ops: &[Op]) {
    let results = kernel.apply(ops).await;
    assert_eq!(results.len(), ops.len());
    for result in results {
        result.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The one operation fails, and why.
async fn refused(kernel: &Kernel, op: Op) -> (Reason, String) {
    let mut results = kernel.apply(&[op]).await;
    let error = results.pop().expect("one result").expect_err("refused");
    (error.reason.clone(), error.to_string())
}

/// Two nexthops in one group.
fn two_paths() -> Vec<Op> {
    vec![
        put_nexthop(1, "2001:db8:ff::a"),
        put_nexthop(2, "2001:db8:ff::b"),
        put_group(&[(1, 1), (2, 200)], false),
    ]
}

#[tokio::test]
async fn what_is_applied_is_observed() {
    let space = with_wan();
    let kernel = open(&space);
    let mut ops = two_paths();
    ops.push(put_route("10.1.0.0/24", Target::Group(GROUP)));
    ops.push(put_route("2001:db8:a1::/64", Target::Group(GROUP)));
    ops.push(put_route("10.0.0.0/8", Target::Unreachable));
    ops.push(put_route("2001:db8:a1::/64", Target::Unreachable));
    all_ok(&kernel, &ops).await;

    let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
    let nexthops = [
        (id(1), via("2001:db8:ff::a")),
        (id(2), via("2001:db8:ff::b")),
    ];
    assert_eq!(observed.nexthops, BTreeMap::from(nexthops));
    assert_eq!(
        observed.groups,
        BTreeMap::from([(GROUP, group(&[(1, 1), (2, 200)]))])
    );
    let routes = [
        (key("10.0.0.0/8", u32::MAX), Target::Unreachable),
        (key("10.1.0.0/24", 50), Target::Group(GROUP)),
        (key("2001:db8:a1::/64", 50), Target::Group(GROUP)),
        (key("2001:db8:a1::/64", u32::MAX), Target::Unreachable),
    ];
    assert_eq!(observed.routes, BTreeMap::from(routes));
    assert!(observed.links.is_empty());

    // Once more: all of it is already so.
    all_ok(&kernel, &ops).await;
    assert_eq!(
        kernel.observe(&BTreeSet::new()).await.expect("observed"),
        observed
    );

    // The kernel and iproute2 see the same.
    let route = &space.json("route show 10.1.0.0/24")[0];
    assert_eq!(
        (&route["nhid"], &route["protocol"]),
        (&GROUP.0.into(), &"82".into())
    );
    let hops = route["nexthops"].as_array().expect("hops");
    let hop = |hop: &Value| (hop["via"]["host"].clone(), hop["weight"].clone());
    let expected = [
        ("2001:db8:ff::a".into(), 1.into()),
        ("2001:db8:ff::b".into(), 200.into()),
    ];
    assert_eq!(hops.iter().map(hop).collect::<Vec<_>>(), expected);
    let v6 = space.json("-6 route show 2001:db8:a1::/64");
    assert_eq!(v6.len(), 2);
    assert_eq!(
        (&v6[1]["type"], &v6[1]["metric"]),
        (&"unreachable".into(), &u32::MAX.into())
    );
}

#[tokio::test]
async fn everything_of_ours_goes_and_nothing_else() {
    let space = with_wan();
    let foreign = [
        "nexthop add id 7 via 2001:db8:ff::c dev wan proto 3",
        "nexthop add id 8 group 7 proto 3",
        // Our range with another protocol, our protocol beyond our range.
        "nexthop add id 1375731713 via 2001:db8:ff::d dev wan proto 3",
        "nexthop add id 9 via 2001:db8:ff::d dev wan proto 82",
        "route add 10.9.0.0/24 via 192.0.2.9 proto bird metric 50",
        "-6 route add 2001:db8:a9::/64 nhid 8 proto static metric 50",
        "route add unreachable 10.8.0.0/24 metric 4294967295 proto static",
        // Our protocol in another table.
        "route add 10.7.0.0/24 via 192.0.2.9 proto 82 table 100",
    ];
    for command in foreign {
        space.ip(command);
    }
    let all = |space: &Space| {
        let show = [
            "nexthop show",
            "route show table all",
            "-6 route show table all",
        ];
        show.map(|what| space.ip(what))
    };
    let before = all(&space);
    let kernel = open(&space);
    let empty = kernel.observe(&BTreeSet::new()).await.expect("observed");
    assert!(empty.nexthops.is_empty() && empty.groups.is_empty() && empty.routes.is_empty());

    // Number 1 is taken by a stranger.
    let ops = [
        put_nexthop(2, "2001:db8:ff::a"),
        put_group(&[(2, 1)], false),
        put_route("10.1.0.0/24", Target::Group(GROUP)),
        put_route("2001:db8:a1::/64", Target::Unreachable),
    ];
    all_ok(&kernel, &ops).await;
    assert_ne!(all(&space), before);

    // Routes of strangers have the keys of some that we are asked to delete.
    let down = [
        Op::DelRoute {
            key: key("10.1.0.0/24", 50),
        },
        Op::DelRoute {
            key: key("2001:db8:a1::/64", u32::MAX),
        },
        Op::DelRoute {
            key: key("10.9.0.0/24", 50),
        },
        Op::DelRoute {
            key: key("2001:db8:a9::/64", 50),
        },
        Op::DelRoute {
            key: key("10.8.0.0/24", u32::MAX),
        },
        Op::DelGroup { id: GROUP },
        Op::DelNexthop { id: id(2) },
        Op::DelNexthop { id: id(99) },
        Op::DelLink {
            name: "rm99".into(),
            side: Side::Overlay,
        },
        Op::DelAddress {
            link: "rm99".into(),
            address: net("10.0.0.1/32"),
        },
    ];
    all_ok(&kernel, &down).await;
    assert_eq!(all(&space), before);
    assert_eq!(
        kernel.observe(&BTreeSet::new()).await.expect("observed"),
        empty
    );
}

#[tokio::test]
async fn a_strangers_place_is_a_conflict() {
    let space = with_wan();
    space.ip("nexthop add id 1375731713 via 2001:db8:ff::d dev wan proto 3");
    space.ip("nexthop add id 1384120320 group 1375731713 proto 3");
    space.ip("route add 10.9.0.0/24 via 192.0.2.9 proto bird metric 50");
    space.ip("-6 route add 2001:db8:a9::/64 via 2001:db8:ff::9 proto bird metric 50");
    let show = |what| space.ip(what);
    let before = [show("nexthop"), show("route"), show("-6 route")];
    let kernel = open(&space);
    all_ok(&kernel, &[put_nexthop(2, "2001:db8:ff::a")]).await;
    let conflicts = [
        put_nexthop(1, "2001:db8:ff::d"),
        put_group(&[(2, 1)], false),
        put_route("10.9.0.0/24", Target::Group(id(2))),
        put_route("2001:db8:a9::/64", Target::Group(id(2))),
        // Ours, but not the same: it was not observed.
        put_nexthop(2, "2001:db8:ff::b"),
    ];
    for op in &conflicts {
        let (reason, text) = refused(&kernel, op.clone()).await;
        assert_eq!(reason, Reason::Conflict, "{text}");
        assert!(text.starts_with(&op.to_string()), "{text}");
    }
    all_ok(&kernel, &[Op::DelNexthop { id: id(2) }]).await;
    assert_eq!([show("nexthop"), show("route"), show("-6 route")], before);
}

#[tokio::test]
async fn a_refusal_names_the_object_and_repeats_the_kernel() {
    let space = with_wan();
    let kernel = open(&space);
    let (_, text) = refused(&kernel, put_group(&[(1, 1)], false)).await;
    let group = "add nexthop group 1384120320 of 1375731713*1: Invalid nexthop id (EINVAL";
    assert!(text.starts_with(group), "{text}");

    let nexthop = Nexthop {
        link: "rm5".into(),
        ..via("2001:db8:ff::a")
    };
    let op = Op::PutNexthop {
        id: id(1),
        nexthop,
        replace: false,
    };
    let (reason, text) = refused(&kernel, op).await;
    assert_eq!(reason, Reason::NoLink("rm5".into()));
    assert!(
        text.contains("nexthop 1375731713 via 2001:db8:ff::a dev rm5"),
        "{text}"
    );

    // One refusal in the middle of a batch is its own; those around it succeed, in order.
    let ops = [
        put_nexthop(1, "2001:db8:ff::a"),
        put_group(&[(1, 1), (3, 1)], false),
        put_group(&[(1, 1)], false),
        put_route("10.1.0.0/24", Target::Group(id(7))),
        put_route("10.2.0.0/24", Target::Group(GROUP)),
        Op::DelRoute {
            key: key("10.3.0.0/24", 50),
        },
    ];
    let ok: Vec<bool> = kernel.apply(&ops).await.iter().map(Result::is_ok).collect();
    assert_eq!(ok, [true, false, true, false, true, true]);
    assert_eq!(space.json("route show proto 82").len(), 1);
}

#[tokio::test]
async fn what_is_begun_is_done_in_order() {
    let space = with_wan();
    let kernel = open(&space);
    let route = |number| put_route(&format!("10.1.{number}.0/24"), Target::Group(GROUP));
    let missing = put_route("10.2.0.0/24", Target::Group(id(7)));
    let mut routes: Vec<Op> = (0..3).map(route).collect();
    routes.insert(1, missing);
    let delete = vec![Op::DelGroup { id: GROUP }];
    let works = [two_paths(), routes, delete].map(std::sync::Arc::new);
    let begun = works.clone().map(|ops| kernel.begin(ops));
    let mut refused = Vec::new();
    for (ops, mut begun) in works.iter().zip(begun) {
        let answers = begun.answer().await;
        let results = kernel.judge(ops, answers).await;
        assert_eq!(results.len(), ops.len());
        refused.extend(results.into_iter().filter_map(Result::err));
    }
    // The group was there before the routes, and took them along afterwards.
    let refused: Vec<&Op> = refused.iter().map(|error| &error.op).collect();
    assert_eq!(refused, [&works[1][1]]);
    assert_eq!(space.json("route show proto 82").len(), 0);
}

#[tokio::test]
async fn replacing_changes_in_place() {
    let space = with_wan();
    let kernel = open(&space);
    let mut ops = two_paths();
    ops.push(put_route("10.1.0.0/24", Target::Group(GROUP)));
    ops.push(put_route("2001:db8:a1::/64", Target::Group(GROUP)));
    all_ok(&kernel, &ops).await;

    let changes = [
        Op::PutNexthop {
            id: id(2),
            nexthop: via("2001:db8:ff::e"),
            replace: true,
        },
        put_group(&[(2, 256)], true),
        Op::PutRoute {
            key: key("10.1.0.0/24", 50),
            target: Target::Unreachable,
            replace: true,
        },
        Op::PutRoute {
            key: key("2001:db8:a1::/64", 50),
            target: Target::Unreachable,
            replace: true,
        },
    ];
    all_ok(&kernel, &changes).await;
    let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
    assert_eq!(observed.nexthops[&id(2)], via("2001:db8:ff::e"));
    assert_eq!(observed.groups[&GROUP], group(&[(2, 256)]));
    let unreachable: Vec<_> = observed.routes.values().collect();
    assert_eq!(unreachable, [&Target::Unreachable; 2]);
    let back = |prefix| Op::PutRoute {
        key: key(prefix, 50),
        target: Target::Group(GROUP),
        replace: true,
    };
    all_ok(&kernel, &[back("10.1.0.0/24"), back("2001:db8:a1::/64")]).await;
    let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
    let group: Vec<_> = observed.routes.values().collect();
    assert_eq!(group, [&Target::Group(GROUP); 2]);
}

#[tokio::test]
async fn deleting_a_nexthop_shrinks_its_group() {
    let space = with_wan();
    let kernel = open(&space);
    let mut ops = two_paths();
    ops.push(put_route("10.1.0.0/24", Target::Group(GROUP)));
    ops.push(Op::DelNexthop { id: id(1) });
    all_ok(&kernel, &ops).await;
    let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
    assert_eq!(observed.groups[&GROUP], group(&[(2, 200)]));
    assert_eq!(
        observed.routes[&key("10.1.0.0/24", 50)],
        Target::Group(GROUP)
    );
    all_ok(&kernel, &[Op::DelNexthop { id: id(2) }]).await;
    let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
    assert!(
        observed.groups.is_empty() && observed.routes.is_empty(),
        "{observed:?}"
    );
}

/// Of another kind than another of the same members, which serves routes meanwhile.
#[tokio::test]
async fn a_resilient_group_shrinks_like_any_other() {
    const OTHER: NexthopId = NexthopId(GROUP.0 + 1);
    let space = with_wan();
    let kernel = open(&space);
    let resilient = |members: &[(u32, u16)]| Group {
        resilient: true,
        ..group(members)
    };
    let mut ops = two_paths();
    ops.push(Op::PutGroup {
        id: OTHER,
        group: resilient(&[(1, 1), (2, 200)]),
        replace: false,
    });
    ops.push(put_route("10.1.0.0/24", Target::Group(GROUP)));
    ops.push(put_route("2001:db8:a1::/64", Target::Group(GROUP)));
    for prefix in ["10.1.0.0/24", "2001:db8:a1::/64"] {
        ops.push(Op::PutRoute {
            key: key(prefix, 50),
            target: Target::Group(OTHER),
            replace: true,
        });
    }
    ops.push(Op::DelGroup { id: GROUP });
    all_ok(&kernel, &ops).await;
    let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
    let expected = resilient(&[(1, 1), (2, 200)]);
    assert_eq!(observed.groups, BTreeMap::from([(OTHER, expected)]));
    assert_eq!(observed.routes.len(), 2);
    let listed = &space.json("nexthop show groups")[0];
    assert_eq!(listed["resilient_args"]["buckets"], 256, "{listed}");

    all_ok(&kernel, &[Op::DelNexthop { id: id(1) }]).await;
    let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
    assert_eq!(observed.groups[&OTHER], resilient(&[(2, 200)]));
    assert_eq!(observed.routes.len(), 2);
}

#[tokio::test]
async fn strange_routes_of_ours_are_seen_and_repaired() {
    let space = with_wan();
    space.ip("route add 10.1.0.0/24 via 192.0.2.9 proto 82 metric 50");
    space.ip("-6 route add blackhole 2001:db8:a1::/64 proto 82 metric 50");
    space.ip("route add 10.3.0.0/24 dev wan proto 82 metric 50");
    let kernel = open(&space);
    let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
    let strange: Vec<_> = observed.routes.values().collect();
    assert_eq!(strange, [&Target::Group(NexthopId(0)); 3]);
    let mut ops = two_paths();
    let direct = key("10.3.0.0/24", 50);
    ops.push(Op::DelRoute { key: direct });
    for key in observed.routes.into_keys().filter(|key| *key != direct) {
        ops.push(Op::PutRoute {
            key,
            target: Target::Group(GROUP),
            replace: true,
        });
    }
    all_ok(&kernel, &ops).await;
    let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
    let repaired: Vec<_> = observed.routes.values().collect();
    assert_eq!(repaired, [&Target::Group(GROUP); 2]);
}

#[tokio::test]
async fn the_neighbourhood_is_observed() {
    let space = with_wan();
    for command in [
        "link add lan type veth peer name lanfar",
        "link set lan up",
        "link set lanfar up",
        "link add dark type veth peer name darkfar",
        "link set dark up",
        "addr add 10.0.1.1/24 dev lan",
        "addr add 10.0.9.1/24 dev dark",
        "route add 10.20.0.0/16 via 10.0.1.2 proto bird metric 32",
        "route add 10.20.0.0/16 via 10.0.1.3 proto static metric 100",
        "-6 route add 2001:db8:20::/48 via 2001:db8:ff::2 proto ospf",
        "route add unreachable 10.30.0.0/16 proto static",
        "route add 10.40.0.0/16 via 10.0.1.2 proto bird table 100",
        "route add 10.50.0.0/16 via 10.0.1.2 proto 82",
    ] {
        space.ip(command);
    }
    let observed = open(&space)
        .observe(&BTreeSet::new())
        .await
        .expect("observed");
    let (kernel, static_, bird, ospf) = (2, 4, 12, 188);
    let expected = [
        (net("10.0.1.0/24"), kernel),
        (net("10.20.0.0/16"), bird),
        (net("192.0.2.0/24"), kernel),
        (net("2001:db8:20::/48"), ospf),
        (net("2001:db8:ff::/64"), kernel),
    ];
    assert_eq!(observed.foreign, BTreeMap::from(expected));
    space.ip("route del 10.20.0.0/16 via 10.0.1.2");
    let later = open(&space)
        .observe(&BTreeSet::new())
        .await
        .expect("observed");
    assert_eq!(later.foreign[&net("10.20.0.0/16")], static_);

    let own = |text: &str| text.parse().expect("an address");
    let expected = [
        (net("10.0.1.0/24"), own("10.0.1.1"), "lan".to_owned()),
        (net("10.0.9.0/24"), own("10.0.9.1"), "dark".to_owned()),
        (net("192.0.2.0/24"), own("192.0.2.1"), "wan".to_owned()),
        (
            net("2001:db8:ff::/64"),
            own("2001:db8:ff::1"),
            "wan".to_owned(),
        ),
    ];
    assert_eq!(observed.connected, expected);
    let usable = |name: &str| observed.link_state[name].1;
    assert!(usable("lan") && usable("wan") && usable("lo"));
    assert!(
        !usable("dark") && !usable("darkfar"),
        "no carrier, and down"
    );
}

#[tokio::test]
async fn an_untouched_namespace_is_observed() {
    // It has no main table yet.
    let space = Space(format!("rm-test-{}-bare", std::process::id()));
    run("ip", &["netns", "add", &space.0]);
    let observed = open(&space)
        .observe(&BTreeSet::new())
        .await
        .expect("observed");
    assert!(observed.foreign.is_empty() && observed.connected.is_empty());
    // Some kernels put an idle tunnel or two into every namespace.
    assert!(observed.link_state.contains_key("lo"));
    assert!(observed.link_state.values().all(|(_, usable)| !usable));
}

#[tokio::test]
async fn links_of_strangers_are_left_alone() {
    let space = with_wan();
    space.ip("link add rm7 type veth peer name far7");
    space.ip("addr add 10.0.7.1/24 dev rm7");
    let before = space.ip("addr show dev rm7");
    let kernel = open(&space);
    assert!(
        kernel
            .observe(&BTreeSet::new())
            .await
            .expect("observed")
            .links
            .is_empty()
    );
    let name = || "rm7".to_owned();
    let ops = [
        Op::SetLink {
            name: name(),
            up: true,
            mtu: 1400,
        },
        Op::AddAddress {
            link: name(),
            address: net("10.0.7.2/24"),
        },
        Op::DelAddress {
            link: name(),
            address: net("10.0.7.1/24"),
        },
        Op::MoveLink { name: name() },
        Op::DelLink {
            name: name(),
            side: Side::Overlay,
        },
    ];
    for op in ops {
        let (reason, text) = refused(&kernel, op).await;
        assert_eq!(reason, Reason::NotOurs(name()), "{text}");
    }
    assert_eq!(space.ip("addr show dev rm7"), before);
}

#[tokio::test]
async fn routes_come_and_go_in_bulk() {
    const COUNT: u32 = 20_000;
    let space = with_wan();
    let kernel = open(&space);
    all_ok(&kernel, &two_paths()).await;
    let prefix = |number: u32| {
        let octets = 0x0a00_0000u32 + (number << 8);
        match number % 2 {
            0 => net(&format!("{}/24", std::net::Ipv4Addr::from(octets))),
            _ => net(&format!("2001:db8:{number:x}::/48")),
        }
    };
    let keys: Vec<_> = (0..COUNT)
        .map(|number| Place::default().key(prefix(number)))
        .collect();
    let put = |replace| {
        let put = |key: &RouteKey| Op::PutRoute {
            key: *key,
            target: Target::Group(GROUP),
            replace,
        };
        keys.iter().map(put).collect::<Vec<_>>()
    };
    let began = Instant::now();
    all_ok(&kernel, &put(false)).await;
    let added = began.elapsed();
    let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
    assert_eq!(observed.routes.len(), COUNT as usize);
    assert!(
        observed
            .routes
            .values()
            .all(|target| *target == Target::Group(GROUP))
    );
    let observing = began.elapsed() - added;
    // Every one is refused, and forgiven: more refusals than a receive buffer holds at once.
    all_ok(&kernel, &put(false)).await;
    all_ok(&kernel, &put(true)).await;
    let delete: Vec<_> = keys.into_iter().map(|key| Op::DelRoute { key }).collect();
    all_ok(&kernel, &delete).await;
    all_ok(&kernel, &delete).await;
    assert!(
        kernel
            .observe(&BTreeSet::new())
            .await
            .expect("observed")
            .routes
            .is_empty()
    );
    println!("{COUNT} routes: added in {added:?}, observed in {observing:?}");
    // One exchange a route takes longer than this even without a build beside it.
    assert!(added < Duration::from_secs(5), "{added:?}");
}

/// The next event, or `None` after a while of silence, longer than the kernel takes to tell that a
/// link is up.
async fn next(events: &mut routemesh_agent::kernel::Events) -> Option<Event> {
    tokio::time::timeout(Duration::from_millis(1200), events.next())
        .await
        .ok()
}

async fn quiet(events: &mut routemesh_agent::kernel::Events) {
    let began = Instant::now();
    while next(events).await.is_some() {
        assert!(began.elapsed() < Duration::from_secs(20), "it never ends");
    }
}

#[tokio::test]
async fn strangers_cause_events_and_we_do_not() {
    let space = with_wan();
    let kernel = open(&space);
    let mut events = kernel.events().expect("events");
    quiet(&mut events).await;

    let mut ops = two_paths();
    ops.push(put_route("10.1.0.0/24", Target::Group(GROUP)));
    ops.push(put_route("2001:db8:a1::/64", Target::Group(GROUP)));
    ops.push(Op::DelNexthop { id: id(1) });
    ops.push(Op::DelRoute {
        key: key("10.1.0.0/24", 50),
    });
    all_ok(&kernel, &ops).await;
    kernel.observe(&BTreeSet::new()).await.expect("observed");
    assert_eq!(
        next(&mut events).await,
        None,
        "our own changes, and looking"
    );

    for (command, event) in [
        ("route add 10.9.0.0/24 via 192.0.2.9", Event::Foreign),
        (
            "-6 route add 2001:db8:a9::/64 via 2001:db8:ff::9",
            Event::Foreign,
        ),
        (
            "-6 route del 2001:db8:a1::/64 proto 82",
            Event::Gone(key("2001:db8:a1::/64", 50)),
        ),
        ("route add 10.8.0.0/24 dev wan proto 82", Event::Routes),
        ("addr add 192.0.2.77/24 dev wan", Event::Changed),
        ("addr add 2001:db8:ff::77/64 dev wan nodad", Event::Changed),
        (
            "nexthop add id 7 via 2001:db8:ff::c dev wan",
            Event::Changed,
        ),
        ("link set wan mtu 1400", Event::Changed),
    ] {
        space.ip(command);
        let mut seen = Vec::new();
        while let Some(event) = next(&mut events).await {
            seen.push(event);
        }
        assert!(seen.contains(&event), "{command}: {seen:?}");
    }
}

#[tokio::test]
async fn a_link_going_down_is_told_by_name() {
    let space = with_wan();
    let kernel = open(&space);
    let mut events = kernel.events().expect("events");
    quiet(&mut events).await;
    all_ok(&kernel, &two_paths()).await;
    // The far end goes: carrier lost.
    space.ip("link set far down");
    let mut seen = Vec::new();
    while let Some(event) = next(&mut events).await {
        seen.push(event);
    }
    assert!(seen.contains(&Event::LinkDown("wan".into())), "{seen:?}");
    assert_eq!(seen.last(), Some(&Event::Changed), "{seen:?}");
    let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
    assert!(!observed.link_state["wan"].1);

    space.ip("link set far up");
    quiet(&mut events).await;
    space.ip("link del wan");
    let mut seen = Vec::new();
    while let Some(event) = next(&mut events).await {
        seen.push(event);
    }
    assert!(seen.contains(&Event::LinkDown("wan".into())), "{seen:?}");
}

#[tokio::test]
async fn a_flood_is_one_event_or_an_overrun() {
    let space = with_wan();
    let kernel = open(&space);
    let mut events = kernel.events().expect("events");
    quiet(&mut events).await;
    let batch: String = (0..40_000u32)
        .map(|number| {
            format!(
                "route add 10.{}.{}.0/24 via 192.0.2.9\n",
                number / 256,
                number % 256
            )
        })
        .collect();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), batch).expect("written");
    let path = file.path().to_str().expect("a path");
    // Nobody reads meanwhile: the runtime has one thread, and this call blocks it.
    run("ip", &["-n", &space.0, "-batch", path]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(next(&mut events).await, Some(Event::Overrun));
    assert_eq!(next(&mut events).await, None, "coalesced");
    space.ip("link set far down");
    let down = [next(&mut events).await, next(&mut events).await];
    let wan = Some(Event::LinkDown("wan".into()));
    assert!(down.contains(&wan), "still listening: {down:?}");
}

#[tokio::test]
async fn settings_are_written_once_and_only_in_the_overlay() {
    let space = with_wan();
    let kernel = open(&space);
    let read = |space: Option<&str>, key: &str| {
        let mut arguments = vec!["-n", key];
        if let Some(name) = space {
            arguments.splice(0..0, ["netns", "exec", name, "sysctl"]);
            return run("ip", &arguments);
        }
        run("sysctl", &arguments)
    };
    let host: Vec<_> = forwarding(Hash::L4)
        .iter()
        .map(|setting| read(None, &setting.key))
        .collect();
    // The default route of a host that hears router advertisements has to survive forwarding.
    let accept_ra = |link: &str| read(Some(&space.0), &format!("net.ipv6.conf.{link}.accept_ra"));
    let off = "net.ipv6.conf.far.accept_ra=0";
    run(
        "ip",
        &["netns", "exec", &space.0, "sysctl", "-q", "-w", off],
    );
    assert_eq!(
        (accept_ra("wan").trim(), accept_ra("far").trim()),
        ("1", "0")
    );
    let changed = kernel.set(forwarding(Hash::L4)).await.expect("set");
    assert_eq!(
        (accept_ra("wan").trim(), accept_ra("far").trim()),
        ("2", "0")
    );
    assert!(
        changed
            .iter()
            .any(|setting| setting.key == "net.ipv4.ip_forward")
    );
    for setting in forwarding(Hash::L4) {
        assert_eq!(
            read(Some(&space.0), &setting.key).trim(),
            setting.value,
            "{}",
            setting.key
        );
    }
    assert_eq!(kernel.set(forwarding(Hash::L4)).await.expect("set"), []);
    let host_after: Vec<_> = forwarding(Hash::L4)
        .iter()
        .map(|setting| read(None, &setting.key))
        .collect();
    assert_eq!(host, host_after);

    // `wan` plays a VTI.
    let link = Link {
        side: Side::Overlay,
        kind: LinkKind::Vti {
            local: "192.0.2.1".parse().expect("an address"),
            remote: "192.0.2.2".parse().expect("an address"),
            key: ours::IF_ID,
        },
        up: true,
        mtu: 1400,
        addresses: BTreeSet::new(),
        wireguard: None,
    };
    let mut links = BTreeMap::from([("wan".to_owned(), link.clone()), ("gone".to_owned(), link)]);
    run(
        "ip",
        &[
            "netns",
            "exec",
            &space.0,
            "sysctl",
            "-qw",
            "net.ipv4.conf.all.rp_filter=0",
        ],
    );
    run(
        "ip",
        &[
            "netns",
            "exec",
            &space.0,
            "sysctl",
            "-qw",
            "net.ipv4.conf.wan.rp_filter=0",
        ],
    );
    let keys = |settings: Vec<routemesh_agent::kernel::Setting>| {
        settings
            .into_iter()
            .map(|setting| setting.key)
            .collect::<Vec<_>>()
    };
    let changed = keys(kernel.set(tunnels(&links)).await.expect("set"));
    assert_eq!(
        changed,
        [
            "net.ipv4.conf.wan.disable_policy",
            "net.ipv6.conf.wan.disable_policy"
        ]
    );
    run(
        "ip",
        &[
            "netns",
            "exec",
            &space.0,
            "sysctl",
            "-qw",
            "net.ipv4.conf.all.rp_filter=1",
        ],
    );
    let changed = keys(kernel.set(tunnels(&links)).await.expect("set"));
    assert_eq!(changed, ["net.ipv4.conf.wan.rp_filter"]);
    assert_eq!(kernel.set(tunnels(&links)).await.expect("set"), []);
    links
        .values_mut()
        .for_each(|link| link.side = Side::Underlay);
    assert_eq!(tunnels(&links), []);

    let key = "net.ipv4.no_such_setting".to_owned();
    let setting = routemesh_agent::kernel::Setting {
        key,
        ..forwarding(Hash::L4)[0].clone()
    };
    let error = kernel
        .set(vec![setting])
        .await
        .expect_err("not there")
        .to_string();
    assert!(error.contains("net.ipv4.no_such_setting"), "{error}");
}

#[tokio::test]
async fn namespaces_are_entered_on_a_thread_of_their_own() {
    let space = with_wan();
    let netns = Netns::named(&space.0).expect("there");
    let own = Netns::current().expect("own");
    let here = std::fs::read_link("/proc/thread-self/ns/net").expect("a link");
    let there = netns
        .run(|| std::fs::read_link("/proc/thread-self/ns/net"))
        .expect("entered");
    assert_ne!(there.expect("a link"), here);
    assert_eq!(
        std::fs::read_link("/proc/thread-self/ns/net").expect("a link"),
        here
    );
    assert!(own.is(&own) && !netns.is(&own));

    let file = format!("{}-file", space.0);
    std::fs::write(format!("/run/netns/{file}"), "").expect("written");
    let error = Netns::named(&file)
        .expect("opens")
        .run(|| ())
        .expect_err("no namespace");
    std::fs::remove_file(format!("/run/netns/{file}")).expect("removed");
    assert!(matches!(error, netns::Error::Enter { .. }), "{error}");
    assert!(
        error.to_string().contains(&format!("ip netns add {file}")),
        "{error}"
    );
}

/// A path's MTU is its interface's, a route's own, or what path MTU discovery found.
#[tokio::test]
async fn the_mtu_of_a_path_is_what_the_kernel_goes_by() {
    let space = with_wan();
    let inside = Netns::named(&space.0).expect("it is there");
    let kernel = inside
        .run(|| Kernel::open(&Overlay::Own))
        .expect("a thread");
    let kernel = kernel.expect("kernel opens");
    let address = |text: &str| text.parse::<std::net::IpAddr>().expect("an address");
    let pairs = [
        ("192.0.2.1", "198.51.100.7"),
        ("2001:db8:ff::1", "2001:db8:7::7"),
    ];
    for (local, remote) in pairs {
        let (local, remote) = (address(local), address(remote));
        let mtu = async || kernel.path_mtu(local, remote).await.expect("it is told");
        assert_eq!(mtu().await, None, "no route to {remote}");
        let (prefix, via) = match remote.is_ipv6() {
            true => ("2001:db8:7::/64", "2001:db8:ff::fe"),
            false => ("198.51.100.0/24", "192.0.2.254"),
        };
        space.ip(&format!("route add {prefix} via {via} dev wan"));
        assert_eq!(mtu().await, Some(1500));
        space.ip("link set wan mtu 1420");
        assert_eq!(mtu().await, Some(1420));
        space.ip(&format!(
            "route replace {prefix} via {via} dev wan mtu 1400"
        ));
        assert_eq!(mtu().await, Some(1400));
        let elsewhere = address(if remote.is_ipv6() {
            "2001:db8:ff::9"
        } else {
            "192.0.2.9"
        });
        let absent = kernel
            .path_mtu(elsewhere, remote)
            .await
            .expect("it is told");
        assert_eq!(
            absent.filter(|_| !remote.is_ipv6()),
            None,
            "not our address"
        );
        space.ip("link set wan mtu 1500");
    }
}
