//! Sessions between two of our speakers, each in a namespace of its own: who may connect, and what
//! the kernel keeps away. Seen from both ends, and in the kernel's counters.

mod space;

use ipnet::IpNet;
use routemesh_agent::bgp::Bgp;
use routemesh_agent::bgp::setup::{Range, Setup, Transport};
use routemesh_agent::config::Overlay;
use routemesh_agent::kernel::Kernel;
use routemesh_agent::liveness::Sign;
use routemesh_agent::netns::Netns;
use routemesh_bgp::{PeerConfig, PeerState, SpeakerConfig};
use space::{Space, run};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const DEADLINE: Duration = Duration::from_secs(30);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A speaker's configuration without a peer.
fn nobody(asn: u32, id: u8) -> Setup {
    Setup::from(SpeakerConfig {
        asn,
        router_id: [192, 0, 2, id].into(),
        restart_time: Duration::from_secs(120),
        deferral_time: Duration::from_secs(30),
        peers: BTreeMap::new(),
    })
}

/// The A of AS 65001 and the B of AS 65002.
fn a() -> Setup {
    nobody(65001, 1)
}

fn b() -> Setup {
    nobody(65002, 2)
}

/// The same with a peer of the other AS, named by its address.
fn with(mut setup: Setup, local: &str, remote: &str, transport: &Transport) -> Setup {
    let asn = 65001 + 65002 - setup.speaker.asn;
    let peer = PeerConfig {
        hold_time: Duration::from_secs(3),
        ..PeerConfig::new(asn, ip(local), ip(remote))
    };
    setup.add(remote.to_owned(), peer, transport.clone());
    setup
}

fn start(space: &Space, setup: Setup) -> Bgp {
    let netns = Netns::named(&space.0).expect("the namespace opens");
    Bgp::start(netns, setup, BTreeSet::new(), None).0
}

/// Two namespaces on one link, `lan0`: 10.0.0.1 and .2, fd00::1 and ::2, fe80::1 and ::2.
fn neighbours() -> (Space, Space) {
    let (a, b) = (Space::new(), Space::new());
    let peer = format!("link add lan0 type veth peer name lan0 netns {}", b.0);
    a.ip(&peer);
    for (space, last) in [(&a, 1), (&b, 2)] {
        space.ip("link set lan0 addrgenmode none");
        space.ip(&format!("addr add 10.0.0.{last}/24 dev lan0"));
        space.ip(&format!("addr add fd00::{last}/64 dev lan0 nodad"));
        space.ip(&format!("addr add fe80::{last}/64 dev lan0 nodad"));
        space.ip("link set lan0 up");
    }
    (a, b)
}

async fn state(bgp: &Bgp, peer: &str) -> Option<PeerState> {
    bgp.view().await.peers.get(peer).map(|peer| peer.state)
}

async fn wait_for(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(
            began.elapsed() < DEADLINE,
            "{what}: not within {DEADLINE:?}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

async fn wait_until_up(bgp: &Bgp, peer: &str) {
    let what = format!("a session with {peer}");
    let up = async || {
        // No pause between attempts need pass.
        bgp.sign(peer, Sign::Interface(true)).await;
        state(bgp, peer).await == Some(PeerState::Established)
    };
    wait_for(&what, up).await;
}

async fn wait_until_down(bgp: &Bgp, peer: &str) {
    let what = format!("the end of the session with {peer}");
    let down = async || state(bgp, peer).await != Some(PeerState::Established);
    wait_for(&what, down).await;
}

/// A counter of TCP in a namespace, e.g. `TCPMinTTLDrop`.
fn counter(space: &Space, name: &str) -> u64 {
    let text = run(
        "ip",
        &["netns", "exec", &space.0, "cat", "/proc/net/netstat"],
    );
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both.find(|(it, _)| *it == name).expect("such a counter");
    value.parse().expect("a number")
}

/// Waits until the kernel has thrown away a few more packets for this reason, and checks that there
/// is no session for all that was tried.
async fn wait_until_refused(space: &Space, reason: &str, bgp: &Bgp, peer: &str) {
    let before = counter(space, reason);
    let more = async || {
        bgp.sign(peer, Sign::Interface(true)).await;
        counter(space, reason) >= before + 2
    };
    wait_for(&format!("{peer} refused by {reason}"), more).await;
    assert_ne!(state(bgp, peer).await, Some(PeerState::Established));
}

fn password(text: &str) -> Transport {
    Transport {
        password: Some(text.into()),
        ..Transport::default()
    }
}

fn hops(hops: u8) -> Transport {
    Transport {
        hops: Some(hops),
        ..Transport::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_needed_where_it_is_configured_and_only_there() {
    let (space_a, space_b) = neighbours();
    for (own, other) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let none = Transport::default();
        let setup_a = |transport: &Transport| with(a(), own, other, transport);
        let setup_b = |transport: &Transport| with(b(), other, own, transport);
        let bgp_a = start(&space_a, setup_a(&password("right")));
        let bgp_b = start(&space_b, setup_b(&password("right")));
        wait_until_up(&bgp_a, other).await;

        bgp_b.configure(setup_b(&password("wrong"))).await;
        wait_until_down(&bgp_a, other).await;
        wait_until_refused(&space_a, "TCPMD5Failure", &bgp_a, other).await;

        bgp_b.configure(setup_b(&none)).await;
        wait_until_refused(&space_a, "TCPMD5NotFound", &bgp_a, other).await;

        bgp_b.configure(setup_b(&password("right"))).await;
        wait_until_up(&bgp_b, own).await;

        // A signature that nobody asked for is no better.
        bgp_a.configure(setup_a(&none)).await;
        wait_until_down(&bgp_b, own).await;
        wait_until_refused(&space_a, "TCPMD5Unexpected", &bgp_a, other).await;

        bgp_b.configure(setup_b(&none)).await;
        wait_until_up(&bgp_b, own).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_further_away_than_configured_nothing_counts() {
    let (space_a, router, space_b) = (Space::new(), Space::new(), Space::new());
    for (space, name, net) in [(&space_a, "to-a", 1), (&space_b, "to-b", 2)] {
        let peer = format!("link add {name} type veth peer name lan0 netns {}", space.0);
        router.ip(&peer);
        router.ip(&format!("addr add 10.0.{net}.254/24 dev {name}"));
        router.ip(&format!("addr add fd00:{net}::ff/64 dev {name} nodad"));
        space.ip(&format!("addr add 10.0.{net}.1/24 dev lan0"));
        space.ip(&format!("addr add fd00:{net}::1/64 dev lan0 nodad"));
        router.ip(&format!("link set {name} up"));
        space.ip("link set lan0 up");
        space.ip(&format!("route add default via 10.0.{net}.254"));
        space.ip(&format!("-6 route add default via fd00:{net}::ff"));
    }
    let forward = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
    for setting in forward {
        run(
            "ip",
            &["netns", "exec", &router.0, "sysctl", "-qw", setting],
        );
    }
    for (own, other) in [("10.0.1.1", "10.0.2.1"), ("fd00:1::1", "fd00:2::1")] {
        let setup_a = |transport: &Transport| with(a(), own, other, transport);
        let bgp_a = start(&space_a, setup_a(&hops(2)));
        let bgp_b = start(&space_b, with(b(), other, own, &hops(2)));
        wait_until_up(&bgp_a, other).await;

        bgp_a.configure(setup_a(&hops(1))).await;
        wait_until_down(&bgp_b, own).await;
        wait_until_refused(&space_a, "TCPMinTTLDrop", &bgp_a, other).await;

        bgp_a.configure(setup_a(&hops(2))).await;
        wait_until_up(&bgp_a, other).await;
    }
}

/// A listener asks for as little as the least of its peers has to show; what its own peer must, a
/// connection asks for itself.
#[tokio::test(flavor = "multi_thread")]
async fn one_peer_need_not_be_near_and_the_other_must_for_all_that() {
    let (space_a, space_b) = neighbours();
    space_b.ip("addr add 10.0.0.3/24 dev lan0");
    let far = Transport::default();
    let setup = with(a(), "10.0.0.1", "10.0.0.2", &hops(1));
    let mut setup = with(setup, "10.0.0.1", "10.0.0.3", &far);
    for peer in setup.speaker.peers.values_mut() {
        peer.passive = true;
    }
    let bgp_a = start(&space_a, setup);
    // As from two hops away, whatever we set.
    let far_away =
        "add table ip far { chain out { type filter hook output priority 0; ip ttl set 254; }; }";
    run("ip", &["netns", "exec", &space_b.0, "nft", far_away]);
    let setup = with(b(), "10.0.0.2", "10.0.0.1", &far);
    let near = start(&space_b, setup);
    let setup = with(nobody(65002, 3), "10.0.0.3", "10.0.0.1", &far);
    let bgp_b = start(&space_b, setup);
    wait_until_up(&bgp_b, "10.0.0.1").await;
    wait_until_refused(&space_a, "TCPMinTTLDrop", &bgp_a, "10.0.0.2").await;
    assert_ne!(state(&near, "10.0.0.1").await, Some(PeerState::Established));
    assert_eq!(
        state(&bgp_a, "10.0.0.3").await,
        Some(PeerState::Established)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_from_a_range_is_a_peer_while_it_is_there() {
    let (space_a, space_b) = neighbours();
    space_b.ip("addr add 10.0.0.3/24 dev lan0");
    space_b.ip("addr add 10.0.0.200/24 dev lan0");
    let mut setup_a = a();
    let prefix: IpNet = "10.0.0.0/25".parse().expect("a prefix");
    setup_a.ranges.push(Range {
        prefix,
        link: None,
        locals: BTreeSet::from([ip("10.0.0.1")]),
        peer: PeerConfig::new(65002, prefix.addr(), prefix.addr()),
        transport: password("of the range"),
    });
    let bgp_a = start(&space_a, setup_a.clone());
    let from = |own: &str, id: u8| {
        let setup = with(
            nobody(65002, id),
            own,
            "10.0.0.1",
            &password("of the range"),
        );
        start(&space_b, setup)
    };
    let (second, third, stranger) = (
        from("10.0.0.2", 2),
        from("10.0.0.3", 3),
        from("10.0.0.200", 4),
    );
    wait_until_up(&bgp_a, "10.0.0.2").await;
    wait_until_up(&bgp_a, "10.0.0.3").await;
    let names = async || {
        let peers = bgp_a.view().await.peers;
        peers.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["10.0.0.2", "10.0.0.3"]);
    assert_ne!(
        state(&stranger, "10.0.0.1").await,
        Some(PeerState::Established)
    );

    // Another pass over the same configuration disturbs nobody.
    let since = async || bgp_a.view().await.peers["10.0.0.3"].since;
    let before = since().await;
    bgp_a.configure(setup_a.clone()).await;
    assert_eq!(names().await, ["10.0.0.2", "10.0.0.3"]);
    second.shutdown("test").await;
    wait_for("the guest gone", async || names().await == ["10.0.0.3"]).await;
    assert_eq!(since().await, before);

    setup_a.ranges.clear();
    bgp_a.configure(setup_a).await;
    wait_for("no range, no guests", async || names().await.is_empty()).await;
    wait_until_down(&third, "10.0.0.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unnumbered_neighbours_find_each_other() {
    let (space_a, space_b) = neighbours();
    let index = |space: &Space| {
        let link = space.json("link show lan0");
        link[0]["ifindex"].as_u64().expect("an index") as u32
    };
    // A finds its routers on the interface; B has A's address in its configuration, and dials.
    let on_link = |space: &Space| Transport {
        scope: index(space),
        ..hops(1)
    };
    let nobody = ip("fe80::");
    let unnumbered = |mut setup: Setup, own: &str, asn: u32, space: &Space| {
        setup.ranges.push(Range {
            prefix: "fe80::/10".parse().expect("a prefix"),
            link: Some("lan0".into()),
            locals: BTreeSet::from([ip(own)]),
            peer: PeerConfig::new(asn, nobody, nobody),
            transport: on_link(space),
        });
        setup
    };
    let bgp_a = start(&space_a, unnumbered(a(), "fe80::1", 65002, &space_a));
    let kernel = Kernel::open(&Overlay::Netns(space_b.0.clone())).expect("kernel opens");
    let routers = async || kernel.routers().await.expect("neighbours are listed");
    let expected = BTreeMap::from([(index(&space_b), ["fe80::1".parse().expect("IPv6")].into())]);
    wait_for("A known to B's kernel", async || {
        routers().await == expected
    })
    .await;

    let bgp_b = start(
        &space_b,
        with(b(), "fe80::2", "fe80::1", &on_link(&space_b)),
    );
    wait_until_up(&bgp_a, "fe80::2%lan0").await;
    wait_until_up(&bgp_b, "fe80::1").await;
}
