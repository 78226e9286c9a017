mod world;

use super::*;
use crate::state::Nexthop;
use proptest::prelude::*;
use routemesh_bgp::wire::NextHop;
use world::{PEERS, PREFIXES, World, net, nexthop, peer};

#[derive(Clone, Debug)]
enum Step {
    Announce(usize, usize),
    Withdraw(usize, usize),
    /// So many changes are told.
    Tell(usize),
    /// So many pieces of work are done, one after the other.
    Work(usize),
    /// Work is begun, so many pieces at a time.
    Begin(usize),
    /// The kernel carries out a piece of what was begun, and does not say so yet.
    CarryOut,
    /// The oldest is heard of.
    Answer,
    /// A session is gone, which is told before anything else.
    Lose(usize),
    LinkDown(usize),
    LinkUp(usize),
    Observe,
    List,
    Settled,
    /// The other kind of group is asked for.
    Kind,
    /// Routes belong in this table from now on.
    Table(u32),
    /// Told once more, as if something had been heard twice.
    Again(usize),
    /// Somebody deletes a route, a group or a nexthop, and the word of it comes with the next listing.
    Meddle(usize),
    /// Or it comes by itself, and perhaps once more.
    HearOf(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let (prefix, peer) = (0..PREFIXES.len(), 0..PEERS);
    prop_oneof![
        8 => (prefix.clone(), peer.clone()).prop_map(|(n, p)| Step::Announce(n, p)),
        3 => (prefix.clone(), peer.clone()).prop_map(|(n, p)| Step::Withdraw(n, p)),
        6 => (1usize..4).prop_map(Step::Tell),
        4 => (1usize..4).prop_map(Step::Work),
        8 => (1usize..4).prop_map(Step::Begin),
        4 => Just(Step::CarryOut),
        6 => Just(Step::Answer),
        2 => peer.clone().prop_map(Step::Lose),
        1 => peer.clone().prop_map(Step::LinkDown),
        1 => peer.prop_map(Step::LinkUp),
        1 => Just(Step::Observe),
        1 => Just(Step::List),
        1 => Just(Step::Settled),
        1 => Just(Step::Kind),
        1 => (253u32..256).prop_map(Step::Table),
        1 => prefix.clone().prop_map(Step::Again),
        1 => (0usize..25).prop_map(Step::Meddle),
        1 => any::<bool>().prop_map(Step::HearOf),
    ]
}

fn run(world: &mut World, step: Step) {
    match step {
        Step::Announce(prefix, peer) => {
            world.lost.remove(&peer);
            world.bgp.announce(prefix, peer);
        }
        Step::Withdraw(prefix, peer) => world.bgp.withdraw(prefix, peer),
        Step::Tell(most) => world.bgp.tell(most, &mut world.dataplane),
        Step::Work(most) => {
            for _ in 0..most {
                world.work();
            }
        }
        Step::Begin(most) => while world.begin(most) {},
        Step::CarryOut => drop(world.carry_out()),
        Step::Answer => {
            if world.answer() && world.under_way.is_empty() && !world.meddled {
                assert_eq!(*world.dataplane.state(), world.kernel.state());
            }
        }
        Step::Lose(number) => {
            world.dataplane.news(News::Lost(peer(number)));
            for prefix in 0..PREFIXES.len() {
                world.bgp.withdraw(prefix, number);
            }
            // Only the peers of this run can be lost; what an earlier one left may go with them.
            world.inherited.clear();
            // The word is the first thing that is acted upon, after what was begun.
            if let Some(work) = world.dataplane.urgent() {
                world.under_way.push_back((work, None));
                while world.carry_out() {}
                let back = |it: &Nexthop| *it == nexthop(number);
                assert!(world.meddled || !world.kernel.nexthops.values().any(back));
                world.lost.insert(number);
            }
        }
        Step::LinkDown(number) => {
            world.up.remove(&number);
            // What is under way may have been about it.
            world.meddled |= world.under_way.iter().any(|(_, ok)| ok.is_none());
            world.kernel.link_down(&format!("lan{number}"));
            world.inherited.clear();
            // The event is acted upon before anything else is begun.
            world.observe();
        }
        Step::LinkUp(number) => {
            world.up.insert(number);
            world.observe();
        }
        Step::Observe => world.observe(),
        Step::List => world.list(),
        Step::Settled => world.bgp.settled = true,
        Step::Table(table) => {
            world.inherited.clear();
            world.place(table);
        }
        Step::Kind => {
            world.resilient = !world.resilient;
            world.observe();
        }
        Step::Again(prefix) => {
            world.bgp.changed.insert(prefix);
        }
        Step::Meddle(number) => {
            world.meddled = true;
            world.inherited.clear();
            let routes: Vec<RouteKey> = world.kernel.routes.keys().copied().collect();
            let nexthops: Vec<NexthopId> = world.kernel.nexthops.keys().copied().collect();
            let groups: Vec<NexthopId> = world.kernel.groups.keys().copied().collect();
            let at = number % 7;
            let op = match (routes.get(number), nexthops.get(at), groups.get(at)) {
                (Some(key), ..) => Op::DelRoute { key: *key },
                (None, Some(id), _) if number % 2 == 0 => Op::DelNexthop { id: *id },
                (None, _, Some(id)) => Op::DelGroup { id: *id },
                (None, ..) => return,
            };
            world.deleted.extend(routes.get(number));
            let _ = world.kernel.apply(&op);
        }
        Step::HearOf(again) => {
            let deleted = match again {
                true => world.deleted.clone(),
                false => std::mem::take(&mut world.deleted),
            };
            world.hear_of(deleted);
        }
    }
}

fn earlier() -> impl Strategy<Value = Vec<(usize, BTreeSet<usize>)>> {
    let peers = proptest::collection::btree_set(0..PEERS, 0..3);
    proptest::collection::vec((0..PREFIXES.len(), peers), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// However what happens is cut into pieces, and whatever somebody else does meanwhile: in the end
    /// the kernel holds what BGP and the links say, and nothing else.
    #[test]
    fn all_ways_lead_to_the_same_end(
        earlier in earlier(),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new(&earlier);
        for step in steps {
            run(&mut world, step);
        }
        world.bgp.settled = true;
        world.observe();
        if world.meddled {
            world.list();
        }
        if world.refused {
            world.dataplane.want_review();
        }
        world.settle();
        world.plan();
        world.check();
        // What nobody else has done is nothing to be repaired.
        prop_assert!(world.meddled || world.dataplane.repairs() == Repairs::default());
        // Looking once more finds nothing to do.
        world.observe();
        world.list();
        prop_assert!(world.dataplane.at_rest());
    }
}

fn with_two_paths() -> World {
    let mut world = World::new(&[]);
    world.bgp.settled = true;
    for prefix in 0..PREFIXES.len() {
        world.bgp.announce(prefix, 0);
        world.bgp.announce(prefix, 1);
    }
    world.settle();
    world.check();
    world
}

#[test]
fn a_lost_peer_costs_one_message_and_no_route() {
    let mut world = with_two_paths();
    world.dataplane.news(News::Lost(peer(0)));
    let work = world.dataplane.next_work().unwrap();
    assert!(matches!(work.ops[..], [Op::DelNexthop { .. }]), "{work:?}");
    assert!(world.kernel.apply(&work.ops[0]));
    world.dataplane.done(&work, [true]);
    for prefix in 0..PREFIXES.len() {
        world.bgp.withdraw(prefix, 0);
    }
    world.bgp.tell(usize::MAX, &mut world.dataplane);
    let work = world.dataplane.next_work().unwrap();
    assert_eq!((work.ops.len(), work.told.len()), (0, PREFIXES.len()));
    world.dataplane.done(&work, []);
    assert_eq!(world.dataplane.next_work(), None);
    world.check();
}

/// BGP tells of two prefixes at a time.
fn with_three_pieces() -> World {
    let mut world = World::new(&[]);
    world.bgp.settled = true;
    world.settle();
    for prefix in 0..PREFIXES.len() {
        world.bgp.announce(prefix, 0);
        world.bgp.announce(prefix, 1);
    }
    for _ in 0..3 {
        world.bgp.tell(2, &mut world.dataplane);
    }
    world
}

#[test]
fn the_next_changes_are_thought_out_while_the_kernel_writes() {
    let mut world = with_three_pieces();
    assert!(world.begin(3) && world.begin(3) && world.begin(3));
    let works = world.under_way.iter();
    let routes = works.map(|(work, _)| work.told.len());
    assert_eq!(routes.collect::<Vec<_>>(), [2, 2, 2]);
    // What is known of a prefix under way is not certain.
    world.bgp.withdraw(5, 0);
    world.bgp.tell(2, &mut world.dataplane);
    assert!(world.answer() && world.answer() && !world.begin(3));
    assert!(world.answer() && world.begin(3));
    world.settle();
    world.check();
}

#[test]
fn a_lost_peer_goes_before_what_waits() {
    let mut world = with_three_pieces();
    assert!(world.begin(2) && world.begin(2));
    world.dataplane.news(News::Lost(peer(0)));
    for prefix in 0..PREFIXES.len() {
        world.bgp.withdraw(prefix, 0);
    }
    assert!(world.begin(2), "whatever is under way");
    let (work, _) = world.under_way.back().unwrap();
    assert!(matches!(work.ops[..], [Op::DelNexthop { .. }]), "{work:?}");
    // The groups that are there afterwards are not known before.
    assert!(!world.begin(9));
    assert!(world.answer() && world.answer() && !world.begin(9));
    assert!(world.answer());
    // No route moves: two groups of one content would be.
    world.bgp.tell(usize::MAX, &mut world.dataplane);
    let mut routes = 0;
    while world.begin(1) {
        let (work, _) = world.under_way.back().unwrap();
        let put = |op: &&Op| matches!(op, Op::PutRoute { replace: true, .. });
        assert_eq!(work.ops.iter().find(put), None);
        routes += work.told.len();
        world.answer();
    }
    assert!(routes >= PREFIXES.len());
    world.settle();
    world.check();
}

#[test]
fn what_stands_on_something_refused_is_tried_again() {
    let mut world = with_three_pieces();
    assert!(world.begin(3) && world.begin(3));
    // The link goes down before anything is written: nexthops and groups are refused, and so are
    // the routes over them, those that were thought out meanwhile among them.
    world.meddled = true;
    let ops = world.under_way.iter().flat_map(|(work, _)| work.ops.iter());
    let ops = ops.filter(|op| matches!(op, Op::PutNexthop { .. })).count();
    assert_eq!(ops, 2);
    for (work, ok) in &mut world.under_way {
        *ok = Some(vec![false; work.ops.len()]);
    }
    world.land();
    assert!(world.dataplane.state().groups.is_empty());
    world.dataplane.want_review();
    world.settle();
    world.check();
}

/// Groups of the other kind beside, routes moved, the old ones last: each is forwarded by all the while.
#[test]
fn another_kind_of_group_is_there_before_the_old_ones_go() {
    let mut world = with_two_paths();
    world.resilient = true;
    world.observe();
    let routes = world.kernel.routes.clone();
    for _ in 0..1000 {
        world.bgp.tell(2, &mut world.dataplane);
        while world.work() {
            assert!(world.kernel.routes.keys().eq(routes.keys()));
        }
    }
    world.check();
    let old = |target: &Target| routes.values().any(|it| it == target);
    assert!(!world.kernel.routes.values().any(old), "all have moved");
    // A lost peer still costs one message.
    world.dataplane.news(News::Lost(peer(0)));
    let work = world.dataplane.next_work().unwrap();
    assert!(matches!(work.ops[..], [Op::DelNexthop { .. }]), "{work:?}");
}

#[test]
fn another_table_has_all_routes_before_the_old_one_loses_any() {
    let mut world = with_two_paths();
    let before = world.kernel.routes.clone();
    world.place(1234);
    world.settle();
    let kept = |(key, target): (&RouteKey, &Target)| world.kernel.routes.get(key) == Some(target);
    assert!(before.iter().all(kept), "{:?}", world.kernel.routes);
    assert_eq!(world.kernel.routes.len(), 2 * before.len());
    assert_eq!(world.dataplane.tables(), [254, 1234].into());
    world.plan();
    world.check();
    assert_eq!(world.dataplane.tables(), [1234].into());
    // Back, and back again before that has come to its end.
    world.place(254);
    world.place(1234);
    world.settle();
    world.plan();
    world.check();
    assert_eq!(world.dataplane.repairs(), Repairs::default());
}

#[test]
fn a_nexthop_that_another_peer_names_too_stays() {
    let mut world = World::new(&[]);
    world.bgp.settled = true;
    let hop = |name| Hop {
        peer: peer(name),
        next_hop: NextHop {
            address: nexthop(0).gateway,
            link_local: None,
        },
        weight: 1,
    };
    let sets: [Arc<[Hop]>; 2] = [[hop(0)].into(), [hop(1)].into()];
    let changes = [
        (net(0), Some(sets[0].clone())),
        (net(1), Some(sets[1].clone())),
    ];
    world.dataplane.news(News::Changes(changes.to_vec()));
    while world.work() {}
    world.dataplane.news(News::Lost(peer(0)));
    assert_eq!(world.dataplane.urgent(), None);
}

/// What the kernel holds of the first prefix.
fn first(world: &World) -> (RouteKey, Target) {
    let key = world.kernel.place.key(net(0));
    (key, world.kernel.routes[&key])
}

#[test]
fn a_strangers_route_of_our_key_is_never_replaced() {
    let mut world = with_two_paths();
    let (key, before) = first(&world);
    world.dataplane.begin_listing();
    for (key, target) in &world.kernel.routes {
        world.dataplane.listed(*key, *target);
    }
    world.dataplane.listed_stranger(key);
    world.dataplane.end_listing();
    // The kernel refuses to create what there is, as often as it is asked, and ours stays.
    world.meddled = true;
    world.bgp.withdraw(0, 0);
    world.settle();
    assert_eq!(first(&world).1, before);
    world.dataplane.want_review();
    world.settle();
    assert_eq!(first(&world).1, before);
    // He is gone.
    world.list();
    world.dataplane.want_review();
    world.settle();
    world.check();
}

#[test]
fn what_a_torn_listing_has_shown_is_acted_upon() {
    let mut world = with_two_paths();
    let (key, _) = first(&world);
    // Somebody turns a route elsewhere, and the listing that shows it does not come to its end.
    let elsewhere = Target::Group(NexthopId(0));
    world.kernel.routes.insert(key, elsewhere);
    world.dataplane.begin_listing();
    world.dataplane.listed(key, elsewhere);
    world.list();
    world.settle();
    world.check();
}

#[test]
fn a_route_that_somebody_deleted_comes_back_at_once_and_is_counted() {
    let mut world = with_two_paths();
    assert_eq!(world.dataplane.repairs(), Repairs::default());
    let (key, target) = first(&world);
    world.kernel.routes.remove(&key);
    let barrier = world.kernel.place.barrier(net(0));
    let work = world.dataplane.mend([key, barrier]).unwrap();
    let put = Op::PutRoute {
        key,
        target,
        replace: false,
    };
    assert_eq!(*work.ops, [put], "the other is not ours to keep");
    world.under_way.push_back((work, None));
    world.land();
    world.check();
    // Without a word of it, the next listing shows it, and who went elsewhere.
    world.kernel.routes.remove(&key);
    let elsewhere = RouteKey {
        prefix: net(1),
        ..key
    };
    let strange = Target::Group(NexthopId(0));
    world.kernel.routes.insert(elsewhere, strange);
    world.list();
    assert_eq!(world.dataplane.repairs().routes, 3);
    world.settle();
    world.check();
    // Groups and nexthops, with the routes that went with them.
    let Target::Group(group) = target else {
        panic!("no group serves it")
    };
    world.meddled = true;
    assert!(world.kernel.apply(&Op::DelGroup { id: group }));
    world.observe();
    world.list();
    world.settle();
    world.check();
    let nexthop = *world.kernel.nexthops.keys().next().unwrap();
    assert!(world.kernel.apply(&Op::DelNexthop { id: nexthop }));
    world.observe();
    world.settle();
    world.check();
    let Repairs {
        nexthops,
        groups,
        routes,
        ..
    } = world.dataplane.repairs();
    assert_eq!((nexthops, groups, routes), (1, 1, 3));
}
