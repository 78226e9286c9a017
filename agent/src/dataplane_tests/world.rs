//! BGP, the kernel, and the dataplane between them, for tests.

use super::super::*;
use crate::desired::Links;
use crate::model::Model;
use crate::state::{Group, Nexthop};
use routemesh_bgp::wire::NextHop;

pub const PEERS: usize = 3;
pub const PREFIXES: [&str; 6] = [
    "10.0.0.0/24",
    "10.0.1.0/24",
    "10.0.0.0/16",
    "2001:db8:1::/48",
    "2001:db8:2::/48",
    "::/0",
];

pub fn net(number: usize) -> IpNet {
    PREFIXES[number].parse().unwrap()
}

pub fn peer(number: usize) -> PeerId {
    PeerId::from(format!("fd00:{number}::1"))
}

pub fn nexthop(number: usize) -> Nexthop {
    Nexthop {
        gateway: format!("fd00:{number}::1").parse().unwrap(),
        link: format!("lan{number}"),
    }
}

/// BGP as it speaks to the dataplane: a Loc-RIB of plain sets of peers.
#[derive(Default)]
pub struct Bgp {
    pub loc_rib: BTreeMap<usize, BTreeSet<usize>>,
    pub interned: BTreeMap<BTreeSet<usize>, Arc<[Hop]>>,
    pub changed: BTreeSet<usize>,
    pub review: u64,
    pub settled: bool,
}

impl Bgp {
    pub fn announce(&mut self, prefix: usize, peer: usize) {
        if self.loc_rib.entry(prefix).or_default().insert(peer) {
            self.changed.insert(prefix);
        }
    }

    pub fn withdraw(&mut self, prefix: usize, peer: usize) {
        if let Some(peers) = self.loc_rib.get_mut(&prefix)
            && peers.remove(&peer)
        {
            self.changed.insert(prefix);
        }
    }

    pub fn set(&mut self, prefix: usize) -> Option<Arc<[Hop]>> {
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

    pub fn tell(&mut self, most: usize, dataplane: &mut Dataplane) {
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
pub struct World {
    pub kernel: Model,
    pub up: BTreeSet<usize>,
    /// The kind of group that is asked for.
    pub resilient: bool,
    pub bgp: Bgp,
    pub dataplane: Dataplane,
    /// Work that was begun, and what the kernel said to it once it has carried it out.
    pub under_way: VecDeque<(Work, Option<Vec<bool>>)>,
    /// Whose nexthop must not come back before the peer has told something again.
    pub lost: BTreeSet<usize>,
    /// Somebody else had his hand in it.
    pub meddled: bool,
    /// Routes that he deleted, of which we may have heard.
    pub deleted: Vec<RouteKey>,
    /// Something was refused, and is to be tried again.
    pub refused: bool,
    /// Left by an earlier run, and not to be touched before BGP is settled.
    pub inherited: BTreeMap<RouteKey, Target>,
}

impl World {
    /// An earlier run left these sets of peers.
    pub fn new(earlier: &[(usize, BTreeSet<usize>)]) -> Self {
        let mut world = Self {
            kernel: Model::default(),
            up: (0..PEERS).collect(),
            resilient: false,
            bgp: Bgp::default(),
            dataplane: Dataplane::default(),
            under_way: VecDeque::new(),
            lost: BTreeSet::new(),
            meddled: false,
            deleted: Vec::new(),
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
    pub fn observe(&mut self) {
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
        let ways = Ways::over(&links, self.resilient);
        let state = self.kernel.state();
        self.dataplane
            .observed(state, BTreeSet::new(), ways, &BTreeSet::new());
    }

    /// Routes belong in this table.
    pub fn place(&mut self, table: u32) {
        self.land();
        self.kernel.place.table = table;
        self.dataplane.place(self.kernel.place);
        self.observe();
    }

    /// What is in no place any more goes, at rest.
    pub fn plan(&mut self) {
        let ops = plan::plan(&State::default(), self.dataplane.state(), true);
        for op in ops {
            let _ = self.kernel.apply(&op);
            self.dataplane.was_done(&op);
        }
    }

    /// The word of deleted routes comes, after a look at the rest.
    pub fn hear_of(&mut self, gone: Vec<RouteKey>) {
        self.observe();
        if let Some(work) = self.dataplane.mend(gone) {
            self.under_way.push_back((work, None));
            self.land();
        }
    }

    pub fn list(&mut self) {
        self.land();
        self.dataplane.begin_listing();
        for (key, target) in &self.kernel.routes {
            self.dataplane.listed(*key, *target);
        }
        self.dataplane.end_listing();
    }

    /// Begins a piece of work, with at most so many under way; false if there is none.
    pub fn begin(&mut self, most: usize) -> bool {
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
    pub fn carry_out(&mut self) -> bool {
        let next = self.under_way.iter_mut().find(|(_, ok)| ok.is_none());
        let Some((work, ok)) = next else { return false };
        let mut answers = Vec::new();
        for op in work.ops.iter() {
            let accepted = self.kernel.apply(op);
            assert!(accepted || self.meddled, "{op} in {:?}", self.kernel);
            // What is gone already is success.
            let so_already = match op {
                Op::DelNexthop { .. } | Op::DelRoute { .. } => true,
                Op::PutRoute { key, target, .. } => self.kernel.routes.get(key) == Some(target),
                _ => false,
            };
            answers.push(accepted || so_already);
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
    pub fn answer(&mut self) -> bool {
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

    pub fn land(&mut self) {
        while self.answer() {}
    }

    /// One piece of work from beginning to end; false if there is none.
    pub fn work(&mut self) -> bool {
        self.begin(1) | self.answer()
    }

    /// Until nothing happens any more.
    pub fn settle(&mut self) {
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

    pub fn check(&self) {
        let served = |target: &Target| match target {
            Target::Group(id) => self.kernel.groups[id]
                .members
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
        let of_kind = |group: &Group| group.resilient == self.resilient;
        assert!(self.kernel.groups.values().all(of_kind));
        // Nothing is left over.
        let used = |id: &NexthopId| {
            self.kernel
                .routes
                .values()
                .any(|it| *it == Target::Group(*id))
        };
        assert!(self.kernel.groups.keys().all(used));
        let members = || self.kernel.groups.values().flat_map(|it| &it.members);
        let used = |id: &NexthopId| members().any(|member| member.id == *id);
        assert!(self.kernel.nexthops.keys().all(used));
    }
}
