//! What else minds a host's network, on the same host as the agent: what docs/coexistence.md says of each. A veth pair
//! stands for a tunnel, whose names are all that these programs go by.

use crate::machine::Machine;

/// A gateway without a controller: a router on its LAN, and a tunnel that this kernel may be unable to make.
const CONFIG: &str = r#"
gateway = "V1-1"
site = "one"
asn = 65000
router_id = "198.18.0.1"
hold_time = 9

[[sites]]
name = "one"
prefixes = ["10.1.0.0/16", "fd00:1::/32"]

[[sites]]
name = "two"
prefixes = ["10.2.0.0/16", "fd00:2::/32"]

[[routers]]
address = "fd00:1::254"
asn = 65001

[[tunnels]]
number = 5
peer = "V2-1"
peer_site = "two"
peer_asn = 65000
kind = "xfrm"
local_endpoint = "198.18.0.1"
remote_endpoint = "198.18.0.2"
local_address = "fd00:ff::a"
remote_address = "fd00:ff::b"
initiate = true
"#;

const ROUTER: &str = r#"
router id 10.1.0.254;
protocol device { }
protocol static { route 10.1.9.0/24 blackhole; ipv4; }
protocol static { route fd00:1:9::/48 blackhole; ipv6; }
protocol bgp {
    local fd00:1::254 as 65001;
    neighbor fd00:1::1 as 65000;
    connect delay time 1;
    connect retry time 1;
    error wait time 1, 2;
    ipv4 { import all; export all; extended next hop; };
    ipv6 { import all; export all; };
}
"#;

/// The host's links, and those of a router on the LAN and of the tunnel's far end.
const LINKS: &str = "
ip netns add router
ip link add lan0 type veth peer name lan0 netns router
ip address add fd00:1::1/64 dev lan0 nodad
ip address add 10.1.0.1/24 dev lan0
ip link set lan0 up
ip -n router address add fd00:1::254/64 dev lan0 nodad
ip -n router address add 10.1.0.254/24 dev lan0
ip -n router link set lan0 up
ip -n router route add default via 10.1.0.1
ip -n router route add default via fd00:1::1
ip netns add far
ip link add rm5 type veth peer name eth0 netns far
ip link set rm5 addrgenmode none
ip address add fd00:ff::a/127 dev rm5 nodad
ip address add 198.18.1.1/24 dev rm5
ip link set rm5 up
ip -n far address add fd00:ff::b/127 dev eth0 nodad
ip -n far address add 198.18.1.2/24 dev eth0
ip -n far address add 10.2.0.1/32 dev lo
ip -n far address add fd00:2::1/128 dev lo nodad
ip -n far link set lo up
ip -n far link set eth0 up
ip -n far route add default via 198.18.1.1
ip -n far route add default via fd00:ff::a
ip netns exec router bird -c /etc/router.conf -s /run/router.ctl
";

const LEARNED: [&str; 2] = [
    "ip -4 route show 10.1.9.0/24 proto 82",
    "ip -6 route show fd00:1:9::/48 proto 82",
];

/// The packaged agent on a host, with all that it makes where the kernel has no ESP.
fn gateway() -> Machine {
    let machine = Machine::boot();
    machine.bring("1.0");
    machine.sh("dpkg --install /root/routemesh-agent_*.deb");
    machine.write("/etc/routemesh/config.toml", CONFIG);
    // Only to be readable: there is no controller, and charon can make no tunnel.
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        machine.write(&format!("/etc/routemesh/identity/{name}"), "none");
    }
    machine.sh("chmod -R go= /etc/routemesh
        echo MESH_AGENT_CONFIG=/etc/routemesh/config.toml >>/etc/default/routemesh-agent");
    machine.write("/etc/router.conf", ROUTER);
    machine.sh(LINKS);
    machine.sh("systemctl start routemesh-agent");
    all_there(&machine);
    machine
}

/// Waits until all is in the kernel that the agent makes.
fn all_there(machine: &Machine) {
    for route in LEARNED {
        machine.wait_until(route, "nhid");
    }
    machine.wait_until("ip -4 route show proto 82", "unreachable 10.2.0.0/16");
    machine.wait_until("ip -6 route show proto 82", "unreachable fd00:2::/32");
    machine.wait_until("nft list tables", "table inet routemesh");
}

/// What must stay whatever others do: ours, an operator's rule, and what is on a tunnel.
fn kept(machine: &Machine) -> String {
    machine.sh("
        ip -4 route show proto 82 type unreachable
        ip -6 route show proto 82 type unreachable
        ip rule show table 1234
        ip -o address show dev rm5 | sed 's/ *valid_lft.*//'
        ip -o link show dev rm5
        nft list tables")
}

fn nexthops(machine: &Machine) -> String {
    machine.sh(
        "ip nexthop show protocol 82; ip -4 route show 10.1.9.0/24; ip -6 route show fd00:1:9::/48",
    )
}

/// Writes down from now on what is deleted in the kernel's tables.
fn watch(machine: &Machine) {
    machine.sh("systemd-run --quiet --unit watch stdbuf -oL ip -o monitor route nexthop rule");
    said_when_deleted(machine, "192.0.2.1");
}

fn said_when_deleted(machine: &Machine, address: &str) {
    let journal = format!("journalctl --no-pager -u watch -g {address}");
    for _ in 0..50 {
        machine.sh(&format!(
            "ip route add blackhole {address}; ip route del blackhole {address}"
        ));
        if machine.try_run(&journal).contains("Deleted blackhole") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("ip monitor says nothing of {address}");
}

/// What was deleted of ours since [`watch`].
fn deleted(machine: &Machine) -> Vec<String> {
    said_when_deleted(machine, "192.0.2.2");
    let told = machine.run("journalctl --no-pager -o cat -u watch");
    let gone = told
        .lines()
        .filter(|line| line.contains("Deleted") && line.contains("proto 82"));
    gone.map(str::to_owned).collect()
}

const LAN: &str =
    "[Match]\nName=lan0\n[Network]\nAddress=10.1.0.1/24\nAddress=fd00:1::1/64\nIPv6AcceptRA=no\n";
const ALL: &str = "[Match]\nName=*\n[Network]\nAddress=10.77.0.1/24\nIPv6AcceptRA=no\n";

/// Waits until networkd has given the LAN's interface its address again: what is not its own, it deletes before that.
fn configured_anew(machine: &Machine, change: &str) {
    // A reload looks at files that are newer.
    machine.sh("touch /etc/systemd/network/50-lan.network; ip address del 10.1.0.1/24 dev lan0");
    machine.sh(change);
    machine.wait_until("ip -o address show dev lan0", "10.1.0.1/24");
}

#[test]
fn networkd_leaves_what_is_ours_and_takes_it_without_our_files() {
    let machine = gateway();
    machine.sh("ip rule add iif lan0 lookup 1234");
    machine.write("/etc/systemd/network/50-lan.network", LAN);
    machine.write("/etc/systemd/network/60-all.network", ALL);
    let before = kept(&machine);
    // Stopped, it mends nothing.
    machine.sh("systemctl stop routemesh-agent");
    for change in [
        "systemctl start systemd-networkd",
        "systemctl restart systemd-networkd",
        "networkctl reload",
        "networkctl reconfigure lan0",
    ] {
        configured_anew(&machine, change);
        assert_eq!(kept(&machine), before, "{change}");
        let tunnel = machine.run("networkctl list rm5");
        assert!(tunnel.contains("unmanaged"), "{change}: {tunnel}");
    }
    // The nexthop groups, which systemd before 256 deletes nevertheless.
    machine.sh("systemctl start routemesh-agent");
    all_there(&machine);
    configured_anew(&machine, "systemctl restart systemd-networkd");
    all_there(&machine);

    // Files of the same name in /etc undo ours: what they are for does happen.
    machine.sh("systemctl stop routemesh-agent");
    machine.write("/etc/systemd/networkd.conf.d/10-routemesh.conf", "");
    configured_anew(&machine, "systemctl restart systemd-networkd");
    let left = "ip -4 route show proto 82 type unreachable; ip rule show table 1234";
    machine.sh(&format!(
        "timeout 60 bash -c 'until [ -z \"$({left})\" ]; do sleep 0.2; done'"
    ));
    machine.write("/etc/systemd/network/10-routemesh.network", "");
    machine.sh("systemctl restart systemd-networkd");
    machine.wait_until("ip -o address show dev rm5", "10.77.0.1");
    machine.sh("systemctl start routemesh-agent");
    all_there(&machine);
}

/// Debian's rule, by which it leaves every veth pair alone, would prove ours whatever ours says.
const NO_VETH: &str = "/etc/udev/rules.d/85-nm-unmanaged.rules";

#[test]
fn networkmanager_leaves_tunnels_alone() {
    let machine = gateway();
    machine.write(NO_VETH, "");
    machine.write(
        "/etc/NetworkManager/conf.d/test.conf",
        "[main]\nno-auto-default=*\n",
    );
    machine.sh("udevadm control --reload; udevadm trigger --settle --subsystem-match=net");
    let (before, hops) = (kept(&machine), nexthops(&machine));
    for change in ["start", "restart"] {
        machine.sh(&format!(
            "systemctl {change} NetworkManager; nm-online -s -q -t 60"
        ));
        let devices = machine.run("nmcli -t -f DEVICE,STATE device");
        assert!(devices.contains("rm5:unmanaged"), "{devices}");
        assert!(!devices.contains("lan0:unmanaged"), "{devices}");
        assert_eq!(kept(&machine), before);
        assert_eq!(nexthops(&machine), hops);
    }
}

const BIRD: &str = r#"
router id 10.1.0.1;
protocol device { }
protocol kernel { learn; scan time 1; ipv4 { import all; export all; }; }
protocol kernel { learn; scan time 1; ipv6 { import all; export all; }; }
protocol static { route 10.1.7.0/24 blackhole; ipv4; }
protocol static { route fd00:1:7::/48 blackhole; ipv6; }
"#;
const FRR: &str = "ip route 10.1.8.0/24 blackhole\nipv6 route fd00:1:8::/48 blackhole\n";

#[test]
fn bird_and_frr_on_the_same_host_keep_theirs_and_leave_ours() {
    let machine = gateway();
    machine.write("/etc/bird/bird.conf", BIRD);
    machine.write("/etc/frr/frr.conf", FRR);
    let (before, hops) = (kept(&machine), nexthops(&machine));
    watch(&machine);
    for change in ["start", "restart"] {
        machine.sh(&format!("systemctl {change} bird frr"));
        theirs(&machine);
        // BIRD has looked twice at what the kernel has.
        let seen = machine.run("birdc show route");
        machine.sh("sleep 2");
        assert_eq!(deleted(&machine), Vec::<String>::new(), "{change}: {seen}");
    }
    assert_eq!(kept(&machine), before);
    assert_eq!(nexthops(&machine), hops);
    machine.sh("systemctl restart routemesh-agent");
    all_there(&machine);
    theirs(&machine);
    // Not their end either.
    machine.sh("systemctl stop bird frr");
    assert_eq!(deleted(&machine), Vec::<String>::new());
    machine.sh("systemctl start bird frr");
    theirs(&machine);
    machine.sh("systemctl stop routemesh-agent; mesh-agent down");
    assert_eq!(machine.run("ip route show proto 82"), "");
    theirs(&machine);
}

/// What BIRD and FRR have put into the kernel.
fn theirs(machine: &Machine) {
    machine.wait_until(
        "ip -4 route show 10.1.7.0/24",
        "blackhole 10.1.7.0/24 proto bird",
    );
    machine.wait_until("ip -6 route show fd00:1:7::/48", "blackhole fd00:1:7::/48");
    machine.wait_until("ip -4 route show 10.1.8.0/24", "blackhole 10.1.8.0/24");
    machine.wait_until("ip -6 route show fd00:1:8::/48", "blackhole fd00:1:8::/48");
}

/// The chains and the policy that Docker makes at its start.
const DOCKER: &str = "
for iptables in iptables ip6tables; do
    $iptables --policy FORWARD DROP
    $iptables --new DOCKER
    $iptables --new DOCKER-USER
    $iptables --append DOCKER-USER --jump RETURN
    $iptables --insert FORWARD --jump DOCKER-USER
    $iptables --append FORWARD --out-interface docker0 --jump DOCKER
done";

#[test]
fn docker_and_the_hosts_own_firewall_are_passed_as_the_page_says() {
    let machine = gateway();
    // This kernel's tunnel leads nowhere: a route takes its place, better than ours that is unreachable.
    machine.sh("ip route add 10.2.0.0/16 via 198.18.1.2; ip route add fd00:2::/32 via fd00:ff::b");
    let pings = [
        "ip netns exec far ping -c 1 -W 1 -I 10.2.0.1 10.1.0.254",
        "ip netns exec far ping -c 1 -W 1 -I fd00:2::1 fd00:1::254",
    ];
    let answered = "1 received";
    for ping in pings {
        machine.wait_until(ping, answered);
    }
    machine.sh(DOCKER);
    for ping in pings {
        let said = machine.try_run(ping);
        assert!(said.contains("0 received"), "{said}");
    }
    for iptables in ["iptables", "ip6tables"] {
        machine.sh(&format!(
            "{iptables} -I DOCKER-USER -i rm+ -j ACCEPT; {iptables} -I DOCKER-USER -o rm+ -j ACCEPT"
        ));
    }
    for ping in pings {
        machine.wait_until(ping, answered);
    }
    let rules = || machine.run("iptables -S") + &machine.run("ip6tables -S");
    let theirs = rules();
    machine.sh("systemctl restart routemesh-agent || { journalctl -n 40; exit 1; }");
    all_there(&machine);
    assert_eq!(rules(), theirs);
    // What we drop stays dropped, whoever accepts it: a source that is not the far site's.
    machine.sh("ip -n far address add 10.9.0.1/32 dev lo; ip route add 10.9.0.0/16 via 198.18.1.2");
    let forged = "ip netns exec far ping -c 1 -W 1 -I 10.9.0.1 10.1.0.254";
    assert!(machine.try_run(forged).contains("0 received"));
    machine.sh("nft flush ruleset");
    machine.wait_until("nft list tables", "table inet routemesh");
    assert!(machine.try_run(forged).contains("0 received"));
    // It is the table that dropped it.
    machine.sh("systemctl stop routemesh-agent; nft delete table inet routemesh");
    machine.wait_until(forged, answered);
}
