//! The commands of docs/operations.md, as they stand there and in this order, on a controller's host and a gateway: what
//! they promise, and what the packages' own scripts do.

use crate::machine::Machine;
use crate::page::Page;
use std::fs;

const MESH: &str = r#"
[mesh]
as = 65000
interconnect = "2001:db8:ff::/64"

[sites.one]
prefixes = ["10.0.1.0/24"]
gateways.V1-1 = { endpoints = ["192.0.2.1"] }

[sites.two]
prefixes = ["10.0.2.0/24"]
gateways.V2-1 = { endpoints = ["192.0.2.2"], overlay = "private" }
"#;

/// What is not carried out, by its first line.
const LEFT: [(&str, &str); 9] = [
    ("make packages ", "`make packages-test` made them"),
    ("kernel      Linux", "it is what preflight says"),
    ("+ site three", "it is what a plan says"),
    (
        "meshctl apply mesh.toml --canary one",
        "it needs tunnels, or it is refused: controller/tests/canary.rs, tests/tests/mesh/identity.rs",
    ),
    ("etcd ... ", "controller/tests/several.rs has an etcd"),
    ("etcdctl role add", "controller/tests/several.rs"),
    (
        "systemctl stop routemesh-controller",
        "controller/tests/several.rs",
    ),
    ("MESH_CONTROLLER_STORE", "they are settings"),
    ("systemctl stop routemesh-controller", "it needs etcd"),
];

/// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN.
const AGENT_MAY: u64 = 1 << 10 | 1 << 12 | 1 << 13 | 1 << 21;

/// In the namespace, whatever this kernel makes of the tunnel.
const ROUTES: &str = "ip -n private route show proto 82";

/// What the main process of a service may.
fn capabilities(machine: &Machine, service: &str) -> u64 {
    let pid = machine.run(&format!(
        "systemctl show --property MainPID --value {service}"
    ));
    let status = machine.run(&format!("cat /proc/{}/status", pid.trim()));
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    u64::from_str_radix(line.expect("CapBnd").trim(), 16).expect("a number")
}

#[test]
fn the_pages_commands_do_what_they_promise() {
    let mut page = Page::read("operations.md");
    let (host, gateway) = (Machine::boot(), Machine::boot());
    host.join(&gateway, "2001:db8:c::1/64", "2001:db8:c::2/64");
    let (mut on_host, mut on_gateway) = (host.shell(), gateway.shell());
    let active = |service: &str| format!("systemctl is-active {service}");

    for machine in [&host, &gateway] {
        // Whoever is asked says yes.
        machine.write("/etc/apt/apt.conf.d/yes", "APT::Get::Assume-Yes true;");
    }

    // Install: the controller has made itself an authority and runs.
    host.bring("1.0");
    host.write("/root/mesh.toml", MESH);
    let said = page.block("apt install ./routemesh-controller", &mut on_host, &[]);
    let token = said.lines().last().expect("a token").to_owned();
    assert_eq!(capabilities(&host, "routemesh-controller"), 0);
    host.wait_until(&active("routemesh-controller"), "active\n");

    // The agent waits for an identity, and runs as soon as it has one.
    gateway.bring("1.0");
    gateway.run("ip netns add private");
    let given = [("TOKEN", token.as_str())];
    page.block("apt install ./routemesh-agent", &mut on_gateway, &given);
    gateway.wait_until(&active("routemesh-agent"), "active\n");
    assert_eq!(
        gateway.run("systemctl is-enabled routemesh-agent"),
        "enabled\n"
    );
    assert_eq!(capabilities(&gateway, "routemesh-agent"), AGENT_MAY);
    let beat = "systemctl show --property WatchdogTimestampMonotonic --value routemesh-agent";
    assert_ne!(gateway.run(beat).trim(), "0");
    gateway.wait_until(ROUTES, "unreachable 10.0.1.0/24");
    host.wait_until_shell(
        &mut on_host,
        "meshctl get gateways -o json",
        r#""generation": 1"#,
    );
    page.block(
        "systemctl enable --now routemesh-drain",
        &mut on_gateway,
        &[],
    );
    gateway.wait_until(&active("routemesh-drain"), "active\n");

    // Looking at it.
    let config = [("FILE", "/var/lib/routemesh/config.toml")];
    let said = page.block("mesh-agent preflight", &mut on_gateway, &config);
    assert!(said.contains("strongSwan  5."), "{said}");
    let said = page.block("meshctl doctor V2-1", &mut on_host, &[]);
    assert!(said.contains("V2-1"), "{said}");
    page.block("journalctl -u routemesh-agent", &mut on_gateway, &[]);
    let said = page.block("journalctl -u routemesh-controller", &mut on_host, &[]);
    assert!(said.contains("V2-1"), "{said}");

    // Changes: three generations, with the numbers that they have here.
    let mesh = MESH.replace("10.0.1.0/24", "10.0.3.0/24");
    host.write("/root/mesh.toml", &mesh);
    let given = [("41", "2"), ("40", "1"), ("42", "2")];
    let said = page.block("meshctl plan mesh.toml", &mut on_host, &given);
    assert!(said.contains("-prefixes = [\"10.0.1.0/24\"]"), "{said}");
    gateway.wait_until(ROUTES, "unreachable 10.0.1.0/24");
    host.wait_until_shell(&mut on_host, "meshctl history", "rollback");

    // A gateway out of use, by its controller and by itself.
    page.block("meshctl drain V2-1", &mut on_host, &[]);
    page.block("mesh-agent drain", &mut on_gateway, &[]);

    // A backup, on a new host: the agent comes back to it by itself.
    page.block("meshctl backup mesh.db", &mut on_host, &[]);
    host.run("dpkg --purge routemesh-controller");
    // Whoever loses the authority's key loses the mesh.
    let authority = host.path("/var/lib/routemesh-controller/ca-key.pem");
    assert!(authority.exists());
    let key = fs::read(&authority).expect("read");
    host.sh("rm -r /var/lib/routemesh-controller; apt install /root/routemesh-controller_*.deb");
    host.wait_until(&active("routemesh-controller"), "active\n");
    assert_ne!(fs::read(&authority).expect("read"), key);
    page.block("systemctl stop routemesh-controller", &mut on_host, &[]);
    host.wait_until(&active("routemesh-controller"), "active\n");
    host.wait_until_shell(&mut on_host, "meshctl get gateways -o json", r#""verdict""#);
    host.wait_until_shell(&mut on_host, "meshctl history", "rollback");

    // An upgrade takes nothing out of the kernel, and nobody's settings.
    let settings = gateway.path("/etc/default/routemesh-agent");
    let set = fs::read_to_string(&settings).expect("read");
    let before = gateway.run("systemctl show --property MainPID routemesh-agent");
    gateway.run("systemd-run --unit watch ip -n private -o monitor route");
    gateway.bring("1.1");
    page.block("apt install ./routemesh-agent_*.deb", &mut on_gateway, &[]);
    gateway.wait_until(&active("routemesh-agent"), "active\n");
    assert_ne!(
        gateway.run("systemctl show --property MainPID routemesh-agent"),
        before
    );
    assert_eq!(fs::read_to_string(&settings).expect("read"), set);
    assert!(gateway.run(ROUTES).contains("unreachable 10.0.1.0/24"));
    let told = gateway.run("journalctl --no-pager --unit watch");
    assert!(!told.contains("Deleted"), "{told}");
    gateway.run("ip -n private route add blackhole 198.51.100.0/24");
    gateway.run("ip -n private route del blackhole 198.51.100.0/24");
    gateway.wait_until(
        "journalctl --no-pager --unit watch",
        "Deleted blackhole 198.51.100.0/24",
    );

    // Removed: what it made is gone, its identity stays until it is purged.
    let (remove, purge) = ("apt remove routemesh-agent", "apt purge routemesh-agent");
    page.block(remove, &mut on_gateway, &[]);
    assert_eq!(gateway.run(ROUTES), "");
    assert!(gateway.path("/etc/routemesh/identity/key.pem").exists());
    page.block(purge, &mut on_gateway, &[]);
    assert!(!gateway.path("/etc/routemesh").exists());
    assert!(!gateway.path("/var/lib/routemesh").exists());

    let rest = page.rest();
    assert_eq!(rest.len(), LEFT.len(), "{rest:#?}");
    for (line, (begins, why)) in rest.iter().zip(LEFT) {
        assert!(line.starts_with(begins), "{line} is not {begins} ({why})");
    }
}
