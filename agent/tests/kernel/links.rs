//! Tunnel interfaces: made in one namespace, moved to another, seen, used and deleted.
//!
//! Needs a kernel with XFRM interfaces and VTI; elsewhere these tests say so and pass:
//! `tests/vm/run` has one.

use crate::net;
use crate::space::{Space, require_esp, run};
use routemesh_agent::config::Overlay;
use routemesh_agent::kernel::{Event, Kernel, Observed, Op, OpError, Reason, tunnels};
use routemesh_agent::netns::Netns;
use routemesh_agent::state::{
    Group, Link, LinkKind, Member, Nexthop, NexthopId, Peer, Place, Side, Target, WireGuard, ours,
};
use routemesh_proto::PublicKey;
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::Duration;

const GROUP: NexthopId = NexthopId(0x5280_0000);
const NUMBER: u32 = ours::IF_ID + 1;
const XFRM: LinkKind = LinkKind::Xfrm { if_id: NUMBER };

/// An underlay and an overlay, and the kernel as the agent has it.
struct Gateway {
    underlay: Space,
    overlay: Space,
    kernel: Kernel,
}

impl Gateway {
    fn new() -> Self {
        let (underlay, overlay) = (Space::new(), Space::new());
        underlay.ip("addr add 2001:db8::1/128 dev lo nodad");
        underlay.ip("addr add 192.0.2.1/32 dev lo");
        let netns = Netns::named(&underlay.0).expect("there");
        let kernel = netns
            .run(|| Kernel::open(&Overlay::Netns(overlay.0.clone())))
            .expect("entered");
        Self {
            kernel: kernel.expect("kernel opens"),
            underlay,
            overlay,
        }
    }

    async fn apply(&self, op: Op) -> Result<(), OpError> {
        self.kernel.apply(&[op]).await.pop().expect("one result")
    }

    async fn all_ok(&self, ops: &[Op]) {
        for result in self.kernel.apply(ops).await {
            result.unwrap_or_else(|error| panic!("{error}"));
        }
    }

    async fn observe(&self) -> Observed {
        self.kernel
            .observe(&BTreeSet::new())
            .await
            .expect("observed")
    }
}

fn add(name: &str, kind: &LinkKind) -> Op {
    Op::AddLink {
        name: name.into(),
        kind: kind.clone(),
        mtu: 1400,
    }
}

fn move_link(name: &str) -> Op {
    Op::MoveLink { name: name.into() }
}

fn set(name: &str, up: bool, mtu: u32) -> Op {
    Op::SetLink {
        name: name.into(),
        up,
        mtu,
    }
}

fn delete(name: &str, side: Side) -> Op {
    Op::DelLink {
        name: name.into(),
        side,
    }
}

fn address(name: &str, text: &str) -> Op {
    Op::AddAddress {
        link: name.into(),
        address: net(text),
    }
}

fn link(side: Side, kind: &LinkKind, mtu: u32, up: bool, addresses: &[&str]) -> Link {
    let addresses = addresses.iter().map(|text| net(text)).collect();
    Link {
        side,
        kind: kind.clone(),
        up,
        mtu,
        addresses,
        wireguard: None,
    }
}

fn vti(local: &str, remote: &str) -> LinkKind {
    let parse = |text: &str| text.parse().expect("an address");
    LinkKind::Vti {
        local: parse(local),
        remote: parse(remote),
        key: NUMBER,
    }
}

/// A life of an interface of this kind.
async fn life(kind: LinkKind, info: &[(&str, &str)]) {
    require_esp();
    let gateway = Gateway::new();
    let Gateway {
        underlay,
        overlay,
        kernel,
    } = &gateway;
    gateway.all_ok(&[add("rm1", &kind)]).await;
    let made = link(Side::Underlay, &kind, 1400, false, &[]);
    assert_eq!(gateway.observe().await.links["rm1"], made);
    let check = |space: &Space| {
        let shown = &space.json("link show dev rm1")[0]["linkinfo"]["info_data"];
        for (name, value) in info {
            assert_eq!(shown[name], *value, "{name} in {shown}");
        }
    };
    check(underlay);

    // As after a crash here: a second pass finds it made, and goes on.
    gateway.all_ok(&[add("rm1", &kind), move_link("rm1")]).await;
    let moved = link(Side::Overlay, &kind, 1400, false, &[]);
    assert_eq!(gateway.observe().await.links["rm1"], moved);
    check(overlay);
    assert!(!underlay.ip("link show").contains("rm1"));

    let dress = [
        set("rm1", true, 1350),
        address("rm1", "2001:db8:ff::/127"),
        address("rm1", "10.255.0.0/31"),
    ];
    gateway.all_ok(&dress).await;
    let addresses = ["2001:db8:ff::/127", "10.255.0.0/31"];
    let dressed = link(Side::Overlay, &kind, 1350, true, &addresses);
    let observed = gateway.observe().await;
    assert_eq!(observed.links["rm1"], dressed);
    assert!(observed.link_state["rm1"].1);
    assert!(
        observed.foreign.is_empty(),
        "interconnects are no news: {:?}",
        observed.foreign
    );
    let nodad = overlay.json("-6 addr show dev rm1 scope global")[0]["addr_info"][0].clone();
    assert_eq!(
        (&nodad["nodad"], &nodad["tentative"]),
        (&true.into(), &().into()),
        "{nodad}"
    );

    // All of it again: already so.
    gateway.all_ok(&[add("rm1", &kind), move_link("rm1")]).await;
    gateway.all_ok(&dress).await;
    assert_eq!(gateway.observe().await, observed);

    // It serves: IPv4 and IPv6 routes over an IPv6 neighbour.
    let nexthop = Nexthop {
        gateway: "2001:db8:ff::1".parse().expect("an address"),
        link: "rm1".into(),
    };
    let id = NexthopId(*ours::NEXTHOPS.start());
    let members = BTreeSet::from([Member { id, weight: 1 }]);
    let route = |prefix| Op::PutRoute {
        key: Place::default().key(net(prefix)),
        target: Target::Group(GROUP),
        replace: false,
    };
    let serve = [
        Op::PutNexthop {
            id,
            nexthop: nexthop.clone(),
            replace: false,
        },
        Op::PutGroup {
            id: GROUP,
            group: Group {
                members,
                resilient: false,
            },
            replace: false,
        },
        route("10.2.0.0/24"),
        route("2001:db8:a2::/64"),
    ];
    gateway.all_ok(&serve).await;
    let serving = gateway.observe().await;
    assert_eq!(serving.nexthops[&id], nexthop);
    assert_eq!(serving.routes.len(), 2);
    let way = overlay.ip("route get 10.2.0.9");
    assert!(way.contains("via inet6 2001:db8:ff::1 dev rm1"), "{way}");

    if matches!(kind, LinkKind::Vti { .. }) {
        let changed = kernel.set(tunnels(&serving.links)).await.expect("set");
        assert!(
            changed
                .iter()
                .any(|s| s.key == "net.ipv4.conf.rm1.disable_policy")
        );
        assert_eq!(kernel.set(tunnels(&serving.links)).await.expect("set"), []);
    }

    let undress = Op::DelAddress {
        link: "rm1".into(),
        address: net("10.255.0.0/31"),
    };
    gateway.all_ok(&[undress.clone(), undress]).await;
    let dressed = link(Side::Overlay, &kind, 1350, true, &addresses[..1]);
    assert_eq!(gateway.observe().await.links["rm1"], dressed);

    gateway.all_ok(&[set("rm1", false, 1350)]).await;
    let down = gateway.observe().await;
    assert!(!down.link_state["rm1"].1 && !down.links["rm1"].up);
    assert!(
        down.nexthops.is_empty() && down.groups.is_empty(),
        "gone with the link: {down:?}"
    );

    let gone = delete("rm1", Side::Overlay);
    gateway
        .all_ok(&[gone.clone(), gone, delete("rm1", Side::Underlay)])
        .await;
    assert!(gateway.observe().await.links.is_empty());
    assert!(!overlay.ip("link show").contains("rm1"));
}

#[tokio::test]
async fn xfrm() {
    life(XFRM, &[("if_id", "0x52000001")]).await;
}

#[tokio::test]
async fn vti6() {
    let ends = [("local", "2001:db8::1"), ("remote", "2001:db8::2")];
    let keys = [("ikey", "82.0.0.1"), ("okey", "82.0.0.1")];
    life(vti("2001:db8::1", "2001:db8::2"), &[ends, keys].concat()).await;
}

#[tokio::test]
async fn vti4() {
    let ends = [("local", "192.0.2.1"), ("remote", "192.0.2.2")];
    let keys = [("ikey", "82.0.0.1"), ("okey", "82.0.0.1")];
    life(vti("192.0.2.1", "192.0.2.2"), &[ends, keys].concat()).await;
}

const WIREGUARD: LinkKind = LinkKind::WireGuard { group: NUMBER };

#[tokio::test]
async fn wireguard() {
    life(WIREGUARD, &[]).await;
}

#[tokio::test]
async fn what_wireguard_has_is_set_and_seen() {
    require_esp();
    let gateway = Gateway::new();
    let has = |port, endpoint: &str| WireGuard {
        private_key: [7; 32].into(),
        port,
        peer: Some(Peer {
            public_key: [9; 32].into(),
            endpoint: endpoint.parse().expect("an endpoint"),
        }),
    };
    let give = |wireguard: &WireGuard, anew| Op::SetWireGuard {
        name: "rm1".into(),
        wireguard: Box::new(wireguard.clone()),
        anew,
    };
    let seen = async || gateway.observe().await.links["rm1"].wireguard.clone();
    let alone = WireGuard {
        peer: None,
        ..has(20_001, "192.0.2.9:20000")
    };
    gateway
        .all_ok(&[add("rm1", &WIREGUARD), move_link("rm1")])
        .await;
    assert_eq!(seen().await, None);
    gateway.all_ok(&[give(&alone, true)]).await;
    assert_eq!(seen().await, Some(alone));
    let first = has(20_001, "192.0.2.9:20000");
    gateway
        .all_ok(&[give(&first, true), set("rm1", true, 1420)])
        .await;
    assert_eq!(seen().await, Some(first.clone()));
    // Its socket is where the public addresses are.
    let bind = |space: &Space, port: u16| {
        let netns = Netns::named(&space.0).expect("there");
        let bound = netns.run(|| UdpSocket::bind(("::", port)).is_ok());
        bound.expect("entered")
    };
    assert!(!bind(&gateway.underlay, 20_001) && bind(&gateway.overlay, 20_001));
    // Another port and endpoint, on the living interface.
    let second = has(26_001, "[2001:db8::9]:26000");
    gateway.all_ok(&[give(&second, false)]).await;
    assert_eq!(seen().await, Some(second.clone()));
    assert!(!bind(&gateway.underlay, 26_001) && bind(&gateway.underlay, 20_001));

    let key = PublicKey::from([9; 32]);
    for change in [
        format!("peer {key} persistent-keepalive 25"),
        format!("peer {key} allowed-ips 10.0.0.0/8"),
        format!(
            "peer {key} remove peer {} allowed-ips 0.0.0.0/0,::/0",
            PublicKey::from([8; 32])
        ),
        "fwmark 7".to_owned(),
    ] {
        let words: Vec<&str> = change.split_whitespace().collect();
        let wg = ["netns", "exec", &gateway.overlay.0, "wg", "set", "rm1"];
        run("ip", &[&wg[..], &words].concat());
        assert_ne!(seen().await, Some(second.clone()), "{change}");
        gateway.all_ok(&[give(&second, true)]).await;
        assert_eq!(seen().await, Some(second.clone()), "{change}");
    }
}

#[tokio::test]
async fn strangers_keep_their_interfaces() {
    require_esp();
    let gateway = Gateway::new();
    for space in [&gateway.underlay, &gateway.overlay] {
        // Another's number, another's name, and not a tunnel at all.
        space.ip("link add rm3 type xfrm dev lo if_id 3");
        space.ip("link add ipsec0 type xfrm dev lo if_id 0x52000004");
        space.ip("link add rm5 type veth peer name far5");
        space.ip("link add rm7 type wireguard");
    }
    let show = || [&gateway.underlay, &gateway.overlay].map(|space| space.ip("link show"));
    let before = show();
    assert!(gateway.observe().await.links.is_empty());

    let kind = |number| LinkKind::Xfrm {
        if_id: ours::IF_ID + number,
    };
    for op in [
        add("rm3", &kind(3)),
        add("rm4", &kind(4)),
        add("rm5", &kind(5)),
        add("rm7", &WIREGUARD),
    ] {
        let error = gateway.apply(op).await.expect_err("refused");
        assert_eq!(error.reason, Reason::Conflict, "{error}");
    }
    for name in ["rm3", "rm5", "rm7"] {
        for op in [
            move_link(name),
            set(name, true, 1400),
            address(name, "10.255.0.0/31"),
            delete(name, Side::Underlay),
            delete(name, Side::Overlay),
        ] {
            let error = gateway.apply(op).await.expect_err("refused");
            assert_eq!(error.reason, Reason::NotOurs(name.into()), "{error}");
        }
    }
    assert_eq!(show(), before);

    // A stranger sits where ours is to go.
    gateway.overlay.ip("link add rm6 type veth peer name far6");
    gateway.all_ok(&[add("rm6", &kind(6))]).await;
    let error = gateway.apply(move_link("rm6")).await.expect_err("refused");
    assert!(
        error
            .to_string()
            .starts_with("move link rm6 to the overlay: "),
        "{error}"
    );
    assert_eq!(gateway.observe().await.links["rm6"].side, Side::Underlay);
    gateway.all_ok(&[delete("rm6", Side::Underlay)]).await;
}

#[tokio::test]
async fn what_is_nowhere_is_named() {
    require_esp();
    let gateway = Gateway::new();
    for op in [
        move_link("rm1"),
        set("rm1", true, 1400),
        address("rm1", "10.255.0.0/31"),
    ] {
        let error = gateway.apply(op).await.expect_err("refused");
        assert_eq!(error.reason, Reason::NoLink("rm1".into()), "{error}");
    }
    let mixed = vti("192.0.2.1", "2001:db8::2");
    let error = gateway
        .apply(add("rm1", &mixed))
        .await
        .expect_err("refused");
    assert_eq!(error.reason, Reason::MixedFamilies);
}

#[tokio::test]
async fn one_namespace_serves_as_both() {
    require_esp();
    let space = Space::new();
    let netns = Netns::named(&space.0).expect("there");
    for overlay in [Overlay::Own, Overlay::Netns(space.0.clone())] {
        let kernel = netns
            .run(|| Kernel::open(&overlay))
            .expect("entered")
            .expect("opens");
        let ops = [add("rm1", &XFRM), move_link("rm1"), set("rm1", true, 1400)];
        for result in kernel.apply(&ops).await {
            result.unwrap_or_else(|error| panic!("{error}"));
        }
        let observed = kernel
            .observe(&std::collections::BTreeSet::new())
            .await
            .expect("observed");
        assert_eq!(
            observed.links["rm1"],
            link(Side::Overlay, &XFRM, 1400, true, &[])
        );
        let results = kernel.apply(&[delete("rm1", Side::Overlay)]).await;
        assert_eq!(results, [Ok(())]);
    }
}

#[tokio::test]
async fn a_vrf_has_what_is_a_part_of_it() {
    require_esp();
    let space = Space::new();
    let netns = Netns::named(&space.0).expect("there");
    let open = || netns.run(|| Kernel::open(&Overlay::Vrf("blue".into())));
    let missing = open().expect("entered").err().expect("no such VRF");
    assert!(missing.is_missing(), "{missing}");
    assert!(missing.to_string().contains("ip link add blue type vrf"));
    space.ip("link add blue type bridge");
    let other = open().expect("entered").err().expect("a bridge");
    assert!(other.is_missing(), "{other}");
    space.ip("link delete blue");
    space.ip("link add blue up type vrf table 77");
    space.ip("link add lan up master blue type dummy");
    space.ip("link add wan up type dummy");
    space.ip("addr add 192.0.2.1/24 dev wan");
    space.ip("addr add 10.0.1.1/24 dev lan");
    space.ip("addr add 127.0.0.1/8 dev blue");
    space.ip("route add 10.0.9.0/24 via 10.0.1.9 table 77 proto static");
    space.ip("route add 10.0.8.0/24 via 192.0.2.9 proto static");
    let kernel = open().expect("entered").expect("opens");
    let place = kernel.place(Place::default());
    assert_eq!((place.table, kernel.table()), (77, 77));
    let observe = || async { kernel.observe(&BTreeSet::new()).await.expect("observed") };
    let results = async |ops: &[Op]| kernel.apply(ops).await;

    // Outside, nothing is done with it but to bring it in.
    assert_eq!(results(&[add("rm1", &XFRM)]).await, [Ok(())]);
    let outside = link(Side::Underlay, &XFRM, 1400, false, &[]);
    assert_eq!(observe().await.links["rm1"], outside);
    for op in [set("rm1", true, 1400), address("rm1", "fd00:ff::/127")] {
        let refused = results(&[op]).await.remove(0).expect_err("outside");
        assert_eq!(refused.reason, Reason::NoLink("rm1".into()));
    }
    let ops = [
        move_link("rm1"),
        move_link("rm1"),
        set("rm1", true, 1400),
        address("rm1", "fd00:ff::/127"),
        Op::PutRoute {
            key: place.barrier(net("10.0.2.0/24")),
            target: Target::Unreachable,
            replace: false,
        },
    ];
    assert!(results(&ops).await.iter().all(Result::is_ok));
    let observed = observe().await;
    let inside = link(Side::Overlay, &XFRM, 1400, true, &["fd00:ff::/127"]);
    assert_eq!(observed.links["rm1"], inside);
    let connected = observed
        .connected
        .iter()
        .map(|(net, _, link)| (net.to_string(), link.as_str()));
    let expected = [
        ("10.0.1.0/24".to_owned(), "lan"),
        ("fd00:ff::/127".to_owned(), "rm1"),
    ];
    assert_eq!(connected.collect::<Vec<_>>(), expected);
    let names: Vec<&str> = observed.link_state.keys().map(String::as_str).collect();
    assert_eq!(names, ["blue", "lan", "rm1"]);
    let foreign: Vec<String> = observed.foreign.keys().map(ToString::to_string).collect();
    assert_eq!(foreign, ["10.0.1.0/24", "10.0.9.0/24"]);
    assert_eq!(observed.routes.len(), 1);
    assert_eq!(kernel.tables().await.expect("tables"), [77].into());

    // Taken out by somebody else, and brought in again.
    space.ip("link set rm1 nomaster");
    assert_eq!(observe().await.links["rm1"].side, Side::Underlay);
    assert_eq!(results(&[move_link("rm1")]).await, [Ok(())]);
    let again = link(Side::Overlay, &XFRM, 1400, false, &[]);
    assert_eq!(observe().await.links["rm1"], again);
}

#[tokio::test]
async fn the_underlay_is_listened_to_as_well() {
    require_esp();
    let gateway = Gateway::new();
    let mut events = gateway.kernel.events().expect("events");
    let quiet = Duration::from_millis(1200);
    while tokio::time::timeout(quiet, events.next()).await.is_ok() {}
    run(
        "ip",
        &[
            "-n",
            &gateway.underlay.0,
            "link",
            "add",
            "rm1",
            "type",
            "xfrm",
            "dev",
            "lo",
            "if_id",
            &NUMBER.to_string(),
        ],
    );
    let event = tokio::time::timeout(quiet, events.next()).await;
    assert_eq!(event, Ok(Event::Changed));
    // The underlay's links are not the overlay's: nothing goes down by their name.
    while let Ok(event) = tokio::time::timeout(quiet, events.next()).await {
        assert_eq!(event, Event::Changed);
    }
}
