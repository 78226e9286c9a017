//! A way without BGP is given up when nobody answers through it any more, and comes back by itself: by echo
//! requests and by BFD, over a link in place of a tunnel.

mod space;

use routemesh_agent::bfd::Target;
use routemesh_agent::bgp::Bgp;
use routemesh_agent::bgp::setup::Setup;
use routemesh_agent::dataplane::News;
use routemesh_agent::liveness::{Life, Sign};
use routemesh_agent::netns::Netns;
use routemesh_agent::probe::ping::Asked;
use routemesh_bfd::Timers;
use routemesh_bgp::{PeerId, Reach, SpeakerConfig};
use space::{Space, run};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

const DEADLINE: Duration = Duration::from_secs(60);
const WAY: &str = "rm4-oracle";

/// We, and the far end: 10.1.0.1 is ours, 10.9.0.1 and fd00:9::1 are behind it. A link with 169.254.10.1 and .2,
/// fd00::1 and ::2.
fn spaces() -> [Space; 2] {
    let [ours, theirs] = [Space::new(), Space::new()];
    let peer = format!("link add rm4 type veth peer name rm4 netns {}", theirs.0);
    ours.ip(&peer);
    for (space, last) in [(&ours, 2), (&theirs, 1)] {
        space.ip(&format!("addr add 169.254.10.{last}/30 dev rm4"));
        space.ip(&format!("addr add fd00::{last}/126 dev rm4 nodad"));
        space.ip("link set rm4 up");
    }
    ours.ip("addr add 10.1.0.1/32 dev lo");
    theirs.ip("addr add 10.9.0.1/32 dev lo");
    theirs.ip("route add 10.1.0.0/16 via 169.254.10.2");
    // As on a gateway where no way is alive.
    ours.ip("route add unreachable 10.9.0.0/16 metric 4294967295");
    [ours, theirs]
}

fn index(space: &Space) -> u32 {
    let links = space.json("link show rm4");
    let index = links.first().and_then(|it| it["ifindex"].as_u64());
    u32::try_from(index.expect("an index")).expect("a small one")
}

fn asked(space: &Space, [source, target]: [&str; 2]) -> Asked {
    Asked {
        source: source.parse().expect("an address"),
        target: target.parse().expect("an address"),
        link: "rm4".into(),
        index: index(space),
        interval: Duration::from_millis(200),
        number: 4,
    }
}

fn setup() -> Setup {
    let mut setup = Setup::from(SpeakerConfig {
        asn: 65000,
        router_id: [192, 0, 2, 1].into(),
        restart_time: Duration::from_secs(120),
        deferral_time: Duration::from_secs(30),
        peers: BTreeMap::new(),
    });
    let reach = Reach {
        prefixes: ["10.9.0.0/16".parse().expect("a prefix")].into(),
        ..Reach::default()
    };
    setup.reaches.insert(WAY.into(), reach);
    setup
}

struct Running {
    bgp: Bgp,
    _news: mpsc::Receiver<News>,
}

/// With an SA.
async fn start(space: &Space, setup: Setup) -> Running {
    start_after(space, setup, None).await
}

/// With an SA, after a run that forwarded by these.
async fn start_after(space: &Space, setup: Setup, inherited: Option<&[&str]>) -> Running {
    let netns = Netns::named(&space.0).expect("the namespace opens");
    let inherited = inherited.map(|ways| ways.iter().map(|way| PeerId::from(*way)).collect());
    let (bgp, news) = Bgp::start(netns, setup, BTreeSet::new(), inherited);
    bgp.sign(WAY, Sign::Sa(true)).await;
    Running { bgp, _news: news }
}

impl Running {
    async fn life(&self) -> (Life, String) {
        let view = self.bgp.view().await;
        let standing = view.standings.get(&PeerId::from(WAY));
        standing.map_or((Life::Alive, String::new()), |it| {
            (it.state, it.reason.clone())
        })
    }

    async fn wait(&self, what: &str, holds: impl Fn(&Life, &str) -> bool) {
        let began = Instant::now();
        loop {
            let (life, reason) = self.life().await;
            if holds(&life, &reason) {
                return;
            }
            assert!(began.elapsed() < DEADLINE, "not {what}: {life:?} {reason}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn dies_and_comes_back(&self, theirs: &Space, reason: &str) {
        self.wait("alive", |life, _| *life == Life::Alive).await;
        drops(theirs);
        self.wait("dead", |life, said| *life == Life::Dead && said == reason)
            .await;
        run("ip", &["netns", "exec", &theirs.0, "nft", "flush ruleset"]);
        let back = |life: &Life, said: &str| *life == Life::Alive && said == reason;
        self.wait("alive again", back).await;
    }
}

/// Nothing that comes by the link arrives.
fn drops(space: &Space) {
    let rules = "add table inet t; add chain inet t c { type filter hook prerouting priority 0; }; \
                 add rule inet t c iifname rm4 meta l4proto { icmp, udp } drop; \
                 add rule inet t c iifname rm4 icmpv6 type echo-request drop";
    run("ip", &["netns", "exec", &space.0, "nft", rules]);
}

#[tokio::test]
async fn a_way_whose_pings_are_lost_is_dead_until_they_are_answered() {
    let [ours, theirs] = spaces();
    // Between the addresses within, and to a machine behind, to which there is no route.
    let all = [
        ["169.254.10.2", "169.254.10.1"],
        ["fd00::2", "fd00::1"],
        ["10.1.0.1", "10.9.0.1"],
    ];
    for ends in all {
        let mut setup = setup();
        let asked = (asked(&ours, ends), 3);
        setup.pings.insert(WAY.into(), asked);
        let running = start(&ours, setup.clone()).await;
        running
            .dies_and_comes_back(&theirs, "its pings are not answered")
            .await;
        // Who asks no more holds nobody for dead.
        drops(&theirs);
        running.wait("dead", |life, _| *life == Life::Dead).await;
        setup.pings.clear();
        running.bgp.configure(setup).await;
        let held = |life: &Life, _: &str| *life != Life::Dead;
        running.wait("held, and alive soon", held).await;
        run("ip", &["netns", "exec", &theirs.0, "nft", "flush ruleset"]);
    }
}

#[tokio::test]
async fn a_way_that_an_earlier_run_did_not_use_is_dead_until_it_answers() {
    let [ours, theirs] = spaces();
    drops(&theirs);
    let mut setup = setup();
    let asked = asked(&ours, ["169.254.10.2", "169.254.10.1"]);
    setup.pings.insert(WAY.into(), (asked, 20));
    // One that it did use is not in doubt.
    let used = start_after(&ours, setup.clone(), Some(&[WAY])).await;
    assert_eq!(used.life().await.0, Life::Alive);
    drop(used);
    let running = start_after(&ours, setup, Some(&[])).await;
    assert_eq!(running.life().await.0, Life::Dead);
    run("ip", &["netns", "exec", &theirs.0, "nft", "flush ruleset"]);
    let alive = |life: &Life, _: &str| *life == Life::Alive;
    running.wait("alive", alive).await;
}

#[tokio::test]
async fn without_an_address_to_ask_from_nobody_is_dead_and_it_is_told() {
    let [ours, theirs] = spaces();
    theirs.ip("route add 10.2.0.0/16 via 169.254.10.2");
    let mut setup = setup();
    let asked = asked(&ours, ["10.2.0.99", "10.9.0.1"]);
    setup.pings.insert(WAY.into(), (asked, 3));
    let running = start(&ours, setup).await;
    let told = async |expected: bool| {
        let began = Instant::now();
        loop {
            let view = running.bgp.view().await;
            let problem = view.unasked.get(&PeerId::from(WAY));
            if let Some(problem) = problem {
                assert!(problem.contains("no echo from 10.2.0.99"), "{problem}");
                assert!(problem.contains("give the gateway"), "{problem}");
            }
            if problem.is_some() == expected {
                break;
            }
            assert!(began.elapsed() < DEADLINE, "not so: {expected}");
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(running.life().await, (Life::Alive, String::new()));
    };
    told(true).await;
    ours.ip("addr add 10.2.0.99/32 dev lo");
    told(false).await;
    // Also where it goes while it is in use.
    ours.ip("addr del 10.2.0.99/32 dev lo");
    told(true).await;
}

#[tokio::test]
async fn a_way_without_bgp_lives_as_long_as_bfd_hears_of_it() {
    let [ours, theirs] = spaces();
    let with_bfd = |space: &Space, [local, remote]: [&str; 2]| {
        let mut setup = setup();
        let target = Target {
            local: local.parse().expect("an address"),
            remote: remote.parse().expect("an address"),
            link: "rm4".into(),
            index: index(space),
            timers: Timers {
                interval: Duration::from_millis(100),
                multiplier: 5,
            },
        };
        setup.bfd.insert(WAY.into(), target);
        setup
    };
    let ends = ["169.254.10.2", "169.254.10.1"];
    // One that an earlier run did not use is dead until there is BFD.
    let began_dead = start_after(&ours, with_bfd(&ours, ends), Some(&[])).await;
    assert_eq!(began_dead.life().await.0, Life::Dead);
    let far = start(&theirs, with_bfd(&theirs, [ends[1], ends[0]])).await;
    let alive = |life: &Life, _: &str| *life == Life::Alive;
    began_dead.wait("alive", alive).await;
    drop(began_dead);
    let running = start_after(&ours, with_bfd(&ours, ends), Some(&[WAY])).await;
    assert_eq!(running.life().await.0, Life::Alive);
    let began = Instant::now();
    loop {
        let up = |it: &Running| {
            let bgp = it.bgp.clone();
            async move {
                let view = bgp.view().await;
                let report = view.bfd.get(&PeerId::from(WAY));
                report.is_some_and(|it| it.state == routemesh_bfd::State::Up)
            }
        };
        if up(&far).await && up(&running).await {
            break;
        }
        assert!(began.elapsed() < DEADLINE);
        sleep(Duration::from_millis(20)).await;
    }
    // We hear nothing of it: so it is we who notice.
    drops(&ours);
    let reason = "BFD: nothing is heard of the far end";
    let dead = |life: &Life, said: &str| *life == Life::Dead && said == reason;
    running.wait("dead", dead).await;
    run("ip", &["netns", "exec", &ours.0, "nft", "flush ruleset"]);
    let back = |life: &Life, said: &str| *life == Life::Alive && said == reason;
    running.wait("alive again", back).await;
}
