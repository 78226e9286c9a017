//! The packet filter with the real nft and kernel: veth pairs stand for tunnels.

mod space;

use routemesh_agent::config::Config;
use routemesh_agent::firewall::{self, Firewall, Seen};
use routemesh_agent::nat::Nat;
use routemesh_agent::netns::Netns;
use routemesh_proto as proto;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use space::{Space, run};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use tokio::time::sleep;

const DEADLINE: Duration = Duration::from_secs(20);
/// What does not come in this time is not let through.
const LOST: Duration = Duration::from_millis(300);

/// A host on the LAN, the gateway, and the far gateway, which has what the far site owns.
struct Lab {
    host: Space,
    gateway: Space,
    far: Space,
}

impl Lab {
    fn new() -> Self {
        let (host, gateway, far) = (Space::new(), Space::new(), Space::new());
        gateway.ip(&format!(
            "link add lan0 type veth peer name eth0 netns {}",
            host.0
        ));
        gateway.ip(&format!(
            "link add rm3 type veth peer name eth0 netns {}",
            far.0
        ));
        for (space, link, addresses) in [
            (&host, "eth0", ["10.0.1.2/24", "fd00:1::2/64"]),
            (&gateway, "lan0", ["10.0.1.1/24", "fd00:1::1/64"]),
            (&gateway, "rm3", ["198.18.0.1/24", "fd00:ff::6/64"]),
            (&far, "eth0", ["198.18.0.2/24", "fd00:ff::7/64"]),
            // 2 is the far site's; 3 is a third one's; 9 is nobody's.
            (&far, "lo", ["10.0.2.1/32", "fd00:2::1/128"]),
            (&far, "lo", ["10.0.3.1/32", "fd00:3::1/128"]),
            (&far, "lo", ["10.0.9.1/32", "fd00:9::1/128"]),
        ] {
            for address in addresses {
                let nodad = if address.contains(':') { " nodad" } else { "" };
                space.ip(&format!("addr add {address} dev {link}{nodad}"));
            }
            space.ip(&format!("link set {link} up"));
        }
        gateway.ip("link set rm3 mtu 1400");
        for (space, setting) in [
            (&gateway, "net.ipv4.ip_forward=1"),
            (&gateway, "net.ipv6.conf.all.forwarding=1"),
            (&gateway, "net.ipv4.conf.all.rp_filter=0"),
            (&gateway, "net.ipv4.conf.rm3.rp_filter=0"),
            (&gateway, "net.ipv4.conf.lan0.rp_filter=0"),
        ] {
            run("ip", &["netns", "exec", &space.0, "sysctl", "-qw", setting]);
        }
        host.ip("route add default via 10.0.1.1");
        host.ip("-6 route add default via fd00:1::1");
        far.ip("route add default via 198.18.0.1");
        far.ip("-6 route add default via fd00:ff::6");
        gateway.ip("route add default via 198.18.0.2");
        gateway.ip("-6 route add default via fd00:ff::7");
        // A tunnel has no neighbours to look for.
        let mac = |space: &Space, link: &str| -> String {
            let link = space.json(&format!("link show {link}")).remove(0);
            link["address"].as_str().expect("a MAC address").to_owned()
        };
        let (near, distant) = (mac(&gateway, "rm3"), mac(&far, "eth0"));
        far.ip(&format!("neigh add fd00:ff::6 lladdr {near} dev eth0"));
        gateway.ip(&format!("neigh add fd00:ff::7 lladdr {distant} dev rm3"));
        let lab = Self { host, gateway, far };
        let began = Instant::now();
        while !lab.passes((&lab.far, "fd00:2::1"), (&lab.host, "fd00:1::2"), 7000) {
            assert!(began.elapsed() < DEADLINE, "IPv6 does not come up");
        }
        lab
    }

    fn start(&self) -> Firewall {
        let netns = netns(&self.gateway);
        Firewall::start(&netns, &netns)
    }

    fn nft(&self, arguments: &str) -> String {
        let mut all = vec!["netns", "exec", &self.gateway.0, "nft"];
        all.extend(arguments.split_whitespace());
        run("ip", &all)
    }

    fn counted(&self, name: &str) -> u64 {
        let text = self.nft("-j list counters table inet routemesh");
        let listing: Value = serde_json::from_str(&text).expect("JSON");
        let objects = listing["nftables"].as_array().expect("a list");
        let mut counters = objects.iter().map(|it| &it["counter"]);
        let counter = counters.find(|it| it["name"] == name);
        counter
            .and_then(|it| it["packets"].as_u64())
            .expect("the counter")
    }

    /// Whether a datagram from one place arrives at another.
    fn passes(&self, from: (&Space, &str), to: (&Space, &str), port: u16) -> bool {
        let receiver = udp(to.0, to.1, port);
        let sender = udp(from.0, from.1, 0);
        sender.send_to(b"x", (ip(to.1), port)).expect("it is sent");
        heard(&receiver)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn netns(space: &Space) -> Netns {
    Netns::named(&space.0).expect("it was made")
}

fn udp(space: &Space, address: &str, port: u16) -> UdpSocket {
    let bound = netns(space).run(|| UdpSocket::bind((ip(address), port)));
    bound.expect("entered").expect("bound")
}

fn heard(receiver: &UdpSocket) -> bool {
    receiver.set_read_timeout(Some(LOST)).expect("set");
    receiver.recv(&mut [0; 8]).is_ok()
}

fn connect(space: &Space, from: &str, to: &str, port: u16) -> io::Result<TcpStream> {
    let connected = netns(space).run(|| {
        let socket = Socket::new(
            Domain::for_address((ip(to), port).into()),
            Type::STREAM,
            None,
        )?;
        socket.bind(&SocketAddr::from((ip(from), 0)).into())?;
        socket.connect_timeout(&SocketAddr::from((ip(to), port)).into(), LOST)?;
        Ok(socket.into())
    });
    connected.expect("entered")
}

fn listen(space: &Space, port: u16) -> TcpListener {
    let bound = netns(space).run(|| TcpListener::bind(("::", port)));
    bound.expect("entered").expect("bound")
}

fn raw() -> proto::Config {
    let site = |name: &str, number: u8| proto::Site {
        name: name.into(),
        prefixes: vec![format!("10.0.{number}.0/24"), format!("fd00:{number}::/64")],
        ..proto::Site::default()
    };
    proto::Config {
        gateway: "V1-1".into(),
        site: "one".into(),
        asn: 65000,
        router_id: "198.18.0.1".into(),
        hold_time: 9,
        sites: vec![site("one", 1), site("two", 2), site("three", 3)],
        tunnels: vec![tunnel(3)],
        ..proto::Config::default()
    }
}

fn tunnel(number: u32) -> proto::Tunnel {
    proto::Tunnel {
        number,
        peer: "V2-1".into(),
        peer_site: "two".into(),
        peer_asn: 65000,
        kind: "xfrm".into(),
        local_endpoint: "198.18.0.1".into(),
        remote_endpoint: "198.18.0.2".into(),
        local_address: "fd00:ff::6".into(),
        remote_address: "fd00:ff::7".into(),
        initiate: true,
        ..proto::Tunnel::default()
    }
}

fn config(change: impl FnOnce(&mut proto::Config)) -> Config {
    let mut raw = raw();
    change(&mut raw);
    Config::try_from(&raw).expect("a config")
}

fn want(firewall: &Firewall, config: &Config) {
    firewall.want(config, &Nat::default(), &BTreeMap::new(), None);
}

async fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < DEADLINE, "not in time: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the rules are in place; nothing has failed.
async fn in_place(firewall: &Firewall, config: &Config) {
    let guards = |seen: Seen| seen.guards(config, "rm3");
    wait_until("rules in place", || guards(firewall.seen())).await;
    assert_eq!(firewall.seen().problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_sites_own_passes() {
    let lab = Lab::new();
    let (host, far) = (&lab.host, &lab.far);
    let firewall = lab.start();
    let enforce = config(|_| {});
    assert!(!firewall.seen().guards(&enforce, "rm3"));
    want(&firewall, &enforce);
    in_place(&firewall, &enforce).await;
    for (own, two, three, nobody) in [
        ("10.0.1.2", "10.0.2.1", "10.0.3.1", "10.0.9.1"),
        ("fd00:1::2", "fd00:2::1", "fd00:3::1", "fd00:9::1"),
    ] {
        assert!(lab.passes((far, two), (host, own), 7000), "{two} to {own}");
        assert!(lab.passes((host, own), (far, two), 7000), "{own} to {two}");
        let spoofed = lab.counted("rm3_spoofed");
        assert!(!lab.passes((far, three), (host, own), 7000));
        assert!(!lab.passes((far, nobody), (host, own), 7000));
        assert_eq!(lab.counted("rm3_spoofed"), spoofed + 2);
        let astray = lab.counted("rm3_not_there");
        assert!(!lab.passes((host, own), (far, nobody), 7000));
        assert_eq!(lab.counted("rm3_not_there"), astray + 1);
    }
    // The host has another address, which is not its site's.
    host.ip("addr add 10.0.8.1/32 dev lo");
    assert!(!lab.passes((host, "10.0.8.1"), (far, "10.0.2.1"), 7000));
    assert_eq!(lab.counted("rm3_not_ours"), 1);
    lab.gateway.ip("route add 10.0.8.0/24 via 10.0.1.2");
    assert!(!lab.passes((far, "10.0.2.1"), (host, "10.0.8.1"), 7000));
    assert_eq!(lab.counted("rm3_not_here"), 1);

    let observe = config(|it| it.firewall = "observe".into());
    let spoofed = lab.counted("rm3_spoofed");
    want(&firewall, &observe);
    wait_until("spoofed packets pass", || {
        lab.passes((far, "10.0.9.1"), (host, "10.0.1.2"), 7000)
    })
    .await;
    // Counted on from where it was.
    assert!(lab.counted("rm3_spoofed") > spoofed);

    want(&firewall, &config(|it| it.firewall = "off".into()));
    wait_until("table removed", || {
        !lab.nft("list tables").contains("routemesh")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_on_the_way_may_complain() {
    let lab = Lab::new();
    let firewall = lab.start();
    let enforce = config(|_| {});
    want(&firewall, &enforce);
    in_place(&firewall, &enforce).await;
    let far = &lab.far;
    run(
        "ip",
        &[
            "netns",
            "exec",
            &far.0,
            "sysctl",
            "-qw",
            "net.ipv4.ip_forward=1",
        ],
    );
    run(
        "ip",
        &[
            "netns",
            "exec",
            &far.0,
            "sysctl",
            "-qw",
            "net.ipv6.conf.all.forwarding=1",
        ],
    );
    far.ip("route add prohibit 10.0.2.128/25");
    far.ip("-6 route add prohibit fd00:2::8000/113");
    // The far gateway says so from its address on the tunnel, which no site owns.
    for (own, beyond) in [("10.0.1.2", "10.0.2.129"), ("fd00:1::2", "fd00:2::8001")] {
        let asking = udp(&lab.host, own, 0);
        asking.connect((ip(beyond), 7001)).expect("connected");
        asking.send(b"x").expect("sent");
        asking.set_read_timeout(Some(DEADLINE)).expect("set");
        let refused = asking.recv(&mut [0; 8]).expect_err("it is prohibited");
        assert_ne!(refused.kind(), io::ErrorKind::WouldBlock, "{own}");
    }
    assert_eq!(lab.counted("rm3_spoofed"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_serves_what_it_is_told_to() {
    let lab = Lab::new();
    let firewall = lab.start();
    let closed = config(|_| {});
    want(&firewall, &closed);
    in_place(&firewall, &closed).await;
    let (gateway, far) = (&lab.gateway, &lab.far);
    let _ssh = listen(gateway, 22);
    let _bgp = listen(gateway, 179);
    let _far_bgp = listen(far, 179);
    let _far_ssh = listen(far, 22);
    assert!(connect(far, "fd00:2::1", "fd00:1::1", 22).is_err());
    assert!(connect(far, "10.0.2.1", "10.0.1.1", 22).is_err());
    assert!(lab.counted("rm3_closed") >= 2);
    // Its own connections and questions are answered.
    assert!(connect(gateway, "10.0.1.1", "10.0.2.1", 22).is_ok());
    assert!(connect(gateway, "fd00:1::1", "fd00:2::1", 22).is_ok());
    for (own, two) in [("10.0.1.1", "10.0.2.1"), ("fd00:1::1", "fd00:2::1")] {
        let (asking, asked) = (udp(gateway, own, 0), udp(far, two, 53));
        let asking_at = asking.local_addr().expect("bound");
        asked.send_to(b"x", asking_at).expect("sent");
        assert!(!heard(&asking), "nobody has asked {two}");
        asking.send_to(b"x", (ip(two), 53)).expect("sent");
        assert!(heard(&asked));
        asked.send_to(b"x", asking_at).expect("sent");
        assert!(heard(&asking), "{two} was asked");
    }
    // BGP and BFD are between the two gateways only, over the tunnel's own addresses.
    assert!(connect(far, "fd00:ff::7", "fd00:ff::6", 179).is_ok());
    assert!(connect(gateway, "fd00:ff::6", "fd00:ff::7", 179).is_ok());
    assert!(connect(far, "fd00:2::1", "fd00:ff::6", 179).is_err());
    assert!(lab.passes((far, "fd00:ff::7"), (gateway, "fd00:ff::6"), 3784));
    assert!(!lab.passes((far, "fd00:2::1"), (gateway, "fd00:ff::6"), 3784));

    let open = config(|it| it.services = vec!["tcp/22".into(), "udp/7000-7010".into()]);
    want(&firewall, &open);
    wait_until("SSH is open", || {
        connect(far, "fd00:2::1", "fd00:1::1", 22).is_ok()
    })
    .await;
    assert!(connect(far, "fd00:ff::7", "fd00:ff::6", 22).is_ok());
    assert!(lab.passes((far, "10.0.2.1"), (gateway, "10.0.1.1"), 7010));
    assert!(!lab.passes((far, "10.0.2.1"), (gateway, "10.0.1.1"), 7011));
    assert!(
        connect(far, "fd00:3::1", "fd00:1::1", 22).is_err(),
        "not from a third site"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ipsec_comes_from_endpoints_only() {
    let lab = Lab::new();
    let firewall = lab.start();
    let enforce = config(|_| {});
    want(&firewall, &enforce);
    in_place(&firewall, &enforce).await;
    let (gateway, far) = (&lab.gateway, &lab.far);
    gateway.ip("link set rm3 name wan");
    for port in [500, 4500] {
        assert!(lab.passes((far, "198.18.0.2"), (gateway, "198.18.0.1"), port));
        assert!(!lab.passes((far, "10.0.9.1"), (gateway, "198.18.0.1"), port));
    }
    assert!(
        lab.passes((far, "10.0.9.1"), (gateway, "198.18.0.1"), 501),
        "not ours"
    );
    let esp = Some(Protocol::from(50));
    let receiver = netns(gateway).run(|| Socket::new(Domain::IPV4, Type::RAW, esp));
    let receiver: UdpSocket = receiver.expect("entered").expect("a raw socket").into();
    let send = |from: &str| {
        let sender = netns(far).run(|| Socket::new(Domain::IPV4, Type::RAW, esp));
        let sender = sender.expect("entered").expect("a raw socket");
        sender
            .bind(&SocketAddr::from((ip(from), 0)).into())
            .expect("bound");
        let to = SocketAddr::from((ip("198.18.0.1"), 0)).into();
        sender.send_to(&[0; 32], &to).expect("sent");
    };
    let strangers = lab.counted("ipsec_stranger");
    assert_eq!(strangers, 2);
    send("198.18.0.2");
    assert_eq!(lab.counted("ipsec_stranger"), strangers);
    send("10.0.9.1");
    wait_until("a stranger is counted", || {
        lab.counted("ipsec_stranger") > strangers
    })
    .await;
    drop(receiver);
    let more = config(|it| it.ipsec_from = vec!["10.0.9.0/24".into()]);
    want(&firewall, &more);
    wait_until("IKE from elsewhere", || {
        lab.passes((far, "10.0.9.1"), (gateway, "198.18.0.1"), 500)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_changes_is_mended_and_what_is_not_ours_stays() {
    let lab = Lab::new();
    lab.nft("add table inet other { chain input { type filter hook input priority 0; }; }");
    let other = lab.nft("list table inet other");
    let firewall = lab.start();
    let enforce = config(|_| {});
    want(&firewall, &enforce);
    in_place(&firewall, &enforce).await;
    let ours = || lab.nft("-s list table inet routemesh");
    let made = ours();
    assert_eq!(firewall.seen().repaired, 0);
    for meddling in [
        "flush chain inet routemesh is_spoofed",
        "add element inet routemesh own_ip4 { 10.7.0.0/16 }",
        "delete element inet routemesh tunnel_links { rm3 }",
        "add rule inet routemesh overlay_input counter",
    ] {
        lab.nft(meddling);
        assert_ne!(ours(), made, "{meddling}");
        wait_until(meddling, || ours() == made).await;
    }
    lab.nft("delete table inet routemesh");
    wait_until("the table is back", || {
        lab.nft("list tables").contains("routemesh")
    })
    .await;
    assert_eq!(ours(), made);
    // Where somebody is faster than the look at what was made, it is not known that it was undone.
    wait_until("counted", || (1..=5).contains(&firewall.seen().repaired)).await;
    assert_eq!(lab.nft("list table inet other"), other);

    // The agent goes: who is kept out stays out.
    drop(firewall);
    assert_eq!(ours(), made);
    let netns = netns(&lab.gateway);
    assert_eq!(firewall::down(&netns, &netns).await, []);
    assert_eq!(lab.nft("list tables").trim(), "table inet other");
    assert_eq!(lab.nft("list table inet other"), other);
}

/// The far end of a connection takes segments that fit through the tunnel, before any was too long.
#[tokio::test(flavor = "multi_thread")]
async fn tcp_is_told_what_fits() {
    let lab = Lab::new();
    let segment = |own: &str, two: &str| {
        let listener = listen(&lab.far, 80);
        let _client = connect(&lab.host, own, two, 80).expect("connected");
        let (server, _) = listener.accept().expect("accepted");
        socket2::SockRef::from(&server).tcp_mss().expect("a size")
    };
    assert!(segment("10.0.1.2", "10.0.2.1") > 1400);
    let firewall = lab.start();
    let enforce = config(|_| {});
    want(&firewall, &enforce);
    in_place(&firewall, &enforce).await;
    assert!(segment("10.0.1.2", "10.0.2.1") <= 1400 - 40);
    assert!(segment("fd00:1::2", "fd00:2::1") <= 1400 - 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_tunnels() {
    let lab = Lab::new();
    let firewall = lab.start();
    let many = config(|it| {
        for site in 0..250 {
            it.sites.push(proto::Site {
                name: format!("more{site}"),
                prefixes: (0..8)
                    .map(|i| format!("10.{}.{}.0/24", site + 1, 2 * i))
                    .collect(),
                ..proto::Site::default()
            });
        }
        it.tunnels.extend((4..504).map(|number| proto::Tunnel {
            peer_site: format!("more{}", number / 2 - 2),
            ..tunnel(number)
        }));
    });
    let began = Instant::now();
    want(&firewall, &many);
    in_place(&firewall, &many).await;
    println!("500 tunnels in {:?}", began.elapsed());
    // One prefix more is one transaction more.
    let grown = Config {
        ipsec_from: vec!["192.0.2.0/24".parse().expect("a prefix")],
        ..many
    };
    let began = Instant::now();
    want(&firewall, &grown);
    wait_until("the change", || {
        lab.nft("list set inet routemesh endpoints_ip4")
            .contains("192.0.2.0/24")
    })
    .await;
    println!("and changed in {:?}", began.elapsed());
}
