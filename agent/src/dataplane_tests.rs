use super::*;
use crate::desired::Links;
use crate::model::Model;
use crate::state::Nexthop;
use proptest::prelude::*;
use routemesh_bgp::wire::NextHop;

const PEERS: usize = 3;
const PREFIXES: [&str; 6] = [
    "10.0.0.0/24",
    "10.0.1.0/24",
    "10.0.0.0/16",
    "2001:db8:1::/48",
    "2001:db8:2::/48",
    "::/0",
];

fn net(number: usize) -> IpNet {
    PREFIXES[number].parse().unwrap()
}

fn peer(number: usize) -> PeerId {
    PeerId::from(format!("fd00:{number}::1"))
}

fn nexthop(number: usize) -> Nexthop {
    Nexthop {
        gateway: format!("fd00:{number}::1").parse().unwrap(),
        link: format!("lan{number}"),
    }
}

/// BGP as it speaks to the dataplane: a Loc-RIB of plain sets of peers.
#[derive(Default)]
struct Bgp {
    loc_rib: BTreeMap<usize, BTreeSet<usize>>,
    interned: BTreeMap<BTreeSet<usize>, Arc<[Hop]>>,
    changed: BTreeSet<usize>,
    review: u64,
    settled: bool,
}

impl Bgp {
    fn announce(&mut self, prefix: usize, peer: usize) {
        if self.loc_rib.entry(prefix).or_default().insert(peer) {
            self.changed.insert(prefix);
        }
    }

    fn withdraw(&mut self, prefix: usize, peer: usize) {
        if let Some(peers) = self.loc_rib.get_mut(&prefix)
            && peers.remove(&peer)
        {
            self.changed.insert(prefix);
        }
    }

    fn set(&mut self, prefix: usize) -> Option<Arc<[Hop]>> {
        let peers = self
            .loc_rib
            .get(&prefix)
            .filter(|peers| !peers.is_empty())?;
        let hop = |number: &usize| Hop {
            peer: peer(*number),
            next_hop: NextHop {
                address: nexthop(*number).gateway,
                link_local: None,
            },
            // Weights count: those of a prefix over two peers are another group.
            weight: if *number == 2 { 1 } else { 7 },
        };
        let hops = || peers.iter().map(hop).collect();
        let set = self.interned.entry(peers.clone()).or_insert_with(hops);
        Some(set.clone())
    }

    fn tell(&mut self, most: usize, dataplane: &mut Dataplane) {
        let mut some = Vec::new();
        while some.len() < most
            && let Some(prefix) = self.changed.pop_first()
        {
            some.push((net(prefix), self.set(prefix)));
        }
        if !some.is_empty() {
            dataplane.news(News::Changes(some));
        }
        if self.changed.is_empty() {
            let (review, settled) = (self.review, self.settled);
            dataplane.news(News::Level { review, settled });
        }
    }
}

/// The kernel, BGP, and the dataplane between them.
struct World {
    kernel: Model,
    up: BTreeSet<usize>,
    bgp: Bgp,
    dataplane: Dataplane,
    /// Work that was begun, and what the kernel said to it once it has carried it out.
    under_way: VecDeque<(Work, Option<Vec<bool>>)>,
    /// Whose nexthop must not come back before the peer has told something again.
    lost: BTreeSet<usize>,
    /// Somebody else had his hand in it.
    meddled: bool,
    /// Something was refused, and is to be tried again.
    refused: bool,
    /// Left by an earlier run, and not to be touched before BGP is settled.
    inherited: BTreeMap<RouteKey, Target>,
}

impl World {
    /// An earlier run left these sets of peers.
    fn new(earlier: &[(usize, BTreeSet<usize>)]) -> Self {
        let mut world = Self {
            kernel: Model::default(),
            up: (0..PEERS).collect(),
            bgp: Bgp::default(),
            dataplane: Dataplane::default(),
            under_way: VecDeque::new(),
            lost: BTreeSet::new(),
            meddled: false,
            refused: false,
            inherited: BTreeMap::new(),
        };
        world.bgp.settled = true;
        world.observe();
        for (prefix, peers) in earlier {
            peers.iter().for_each(|it| world.bgp.announce(*prefix, *it));
        }
        world.settle();
        world.inherited = world.kernel.routes.clone();
        // The agent starts anew.
        world.bgp = Bgp::default();
        world.dataplane = Dataplane::default();
        world.observe();
        world.list();
        world
    }

    /// When nothing is under way, as any look at the kernel.
    fn observe(&mut self) {
        self.land();
        let connected = |number: &usize| {
            let subnet = format!("fd00:{number}::/64").parse().unwrap();
            let own = format!("fd00:{number}::2").parse().unwrap();
            (subnet, own, format!("lan{number}"))
        };
        let links = Links {
            connected: (0..PEERS).map(|number| connected(&number)).collect(),
            usable: self.up.iter().map(|it| format!("lan{it}")).collect(),
            ..Links::default()
        };
        let ways = Ways::over(&links);
        let state = self.kernel.state();
        self.dataplane.observed(state, BTreeSet::new(), ways);
    }

    fn list(&mut self) {
        self.land();
        self.dataplane.begin_listing();
        for (key, target) in &self.kernel.routes {
            self.dataplane.listed(*key, *target);
        }
        self.dataplane.end_listing();
    }

    /// Begins a piece of work, with at most so many under way; false if there is none.
    fn begin(&mut self, most: usize) -> bool {
        let work = match self.under_way.len() < most {
            true => self.dataplane.next_work(),
            false => self.dataplane.urgent(),
        };
        if let Some(work) = work {
            self.under_way.push_back((work, None));
            return true;
        }
        let Some(review) = self.dataplane.begin_review() else {
            return false;
        };
        self.bgp.review = review;
        let used = self.bgp.loc_rib.iter().filter(|(_, it)| !it.is_empty());
        self.bgp.changed.extend(used.map(|(prefix, _)| *prefix));
        // It is heard of later: a level on its way is not about this review.
        true
    }

    /// The kernel carries out the next work that was begun; false if there is none.
    fn carry_out(&mut self) -> bool {
        let next = self.under_way.iter_mut().find(|(_, ok)| ok.is_none());
        let Some((work, ok)) = next else { return false };
        let mut answers = Vec::new();
        for op in work.ops.iter() {
            let accepted = self.kernel.apply(op);
            assert!(accepted || self.meddled, "{op} in {:?}", self.kernel);
            // What is gone already is success.
            answers.push(accepted || matches!(op, Op::DelNexthop { .. } | Op::DelRoute { .. }));
        }
        self.refused |= answers.contains(&false);
        *ok = Some(answers);
        for number in &self.lost {
            let back = |it: &Nexthop| *it == nexthop(*number);
            assert!(!self.kernel.nexthops.values().any(back), "{number} is back");
        }
        if !self.bgp.settled {
            for (key, target) in &self.inherited {
                let same = self.kernel.routes.get(key) == Some(target);
                assert!(same, "{key:?} was touched before its time");
            }
        }
        true
    }

    /// The dataplane hears what came of the oldest work; false if there is none.
    fn answer(&mut self) -> bool {
        if let Some((_, None)) = self.under_way.front() {
            self.carry_out();
        }
        let Some((work, ok)) = self.under_way.pop_front() else {
            return false;
        };
        let told = self.dataplane.done(&work, ok.unwrap());
        assert_eq!(told.len(), work.told.len());
        true
    }

    fn land(&mut self) {
        while self.answer() {}
    }

    /// One piece of work from beginning to end; false if there is none.
    fn work(&mut self) -> bool {
        self.begin(1) | self.answer()
    }

    /// Until nothing happens any more.
    fn settle(&mut self) {
        self.bgp.tell(usize::MAX, &mut self.dataplane);
        for _ in 0..1000 {
            while self.work() {}
            if self.dataplane.at_rest() && self.bgp.changed.is_empty() {
                return;
            }
            self.bgp.tell(usize::MAX, &mut self.dataplane);
        }
        panic!("it never comes to rest: {:?}", self.dataplane);
    }

    fn check(&self) {
        let served = |target: &Target| match target {
            Target::Group(id) => self.kernel.groups[id]
                .iter()
                .map(|member| (self.kernel.nexthops[&member.id].clone(), member.weight))
                .collect(),
            Target::Unreachable => BTreeMap::new(),
        };
        let routes = self.kernel.routes.iter();
        let held: BTreeMap<IpNet, BTreeMap<Nexthop, u16>> = routes
            .map(|(key, target)| (key.prefix, served(target)))
            .collect();
        let wanted = self.bgp.loc_rib.iter().map(|(prefix, peers)| {
            let peers = peers.intersection(&self.up);
            let weight = |number| if number == 2 { 1 } else { 7 };
            (
                net(*prefix),
                peers.map(|it| (nexthop(*it), weight(*it))).collect(),
            )
        });
        let wanted: BTreeMap<IpNet, BTreeMap<Nexthop, u16>> = wanted
            .filter(|(_, nexthops): &(_, BTreeMap<_, _>)| !nexthops.is_empty())
            .collect();
        assert_eq!(held, wanted);
        assert_eq!(*self.dataplane.state(), self.kernel.state());
        // Nothing is left over.
        let used = |id: &NexthopId| {
            self.kernel
                .routes
                .values()
                .any(|it| *it == Target::Group(*id))
        };
        assert!(self.kernel.groups.keys().all(used));
        let members = || self.kernel.groups.values().flatten();
        let used = |id: &NexthopId| members().any(|member| member.id == *id);
        assert!(self.kernel.nexthops.keys().all(used));
    }
}

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
    /// Told once more, as if something had been heard twice.
    Again(usize),
    /// Somebody deletes a route, or a nexthop, and the word of it comes with the next listing.
    Meddle(usize),
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
        1 => prefix.clone().prop_map(Step::Again),
        1 => (0usize..100).prop_map(Step::Meddle),
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
        Step::Again(prefix) => {
            world.bgp.changed.insert(prefix);
        }
        Step::Meddle(number) => {
            world.meddled = true;
            world.inherited.clear();
            let routes: Vec<RouteKey> = world.kernel.routes.keys().copied().collect();
            let nexthops: Vec<NexthopId> = world.kernel.nexthops.keys().copied().collect();
            let op = match (routes.get(number), nexthops.get(number % 7)) {
                (Some(key), _) => Op::DelRoute { key: *key },
                (None, Some(id)) => Op::DelNexthop { id: *id },
                (None, None) => return,
            };
            let _ = world.kernel.apply(&op);
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
        world.check();
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
    let key = RouteKey {
        prefix: net(0),
        metric: ours::METRIC,
    };
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
