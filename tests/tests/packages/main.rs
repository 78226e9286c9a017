//! The Debian packages, on a clean Debian under systemd: installed, run, upgraded, removed.
//! `make packages-test` makes all that they need.

mod beside;
mod machine;

use machine::Machine;
use std::fs;

const MESH: &str = r#"
[mesh]
as = 65000
interconnect = "2001:db8:ff::/64"

[sites.one]
prefixes = ["10.0.1.0/24"]
gateways.V1-1 = { endpoints = ["192.0.2.1"], overlay = "private" }

[sites.two]
prefixes = ["10.0.2.0/24"]
gateways.V2-1 = { endpoints = ["192.0.2.2"] }
"#;

/// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN.
const AGENT_MAY: u64 = 1 << 10 | 1 << 12 | 1 << 13 | 1 << 21;

fn packages(machine: &Machine, version: &str) {
    machine.bring(version);
    machine.run("dpkg --install --recursive /root");
}

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
fn installed_run_upgraded_and_removed() {
    let machine = Machine::boot();
    let active = |service: &str| format!("systemctl is-active {service}");
    packages(&machine, "1.0");

    // The controller has made itself an authority; the agent waits for an identity.
    machine.wait_until(&active("routemesh-controller"), "active\n");
    assert_eq!(machine.try_run(&active("routemesh-agent")), "inactive\n");
    assert_eq!(
        machine.run("systemctl is-enabled routemesh-agent"),
        "enabled\n"
    );
    assert_eq!(capabilities(&machine, "routemesh-controller"), 0);
    machine.run("mesh-controller issue --admin alice --out /root/alice");
    let token = machine.run("meshctl token create --gateway V1-1");
    machine.run(&format!("mesh-agent enroll {}", token.trim()));
    let settings = machine.path("/etc/default/routemesh-agent");
    let mut text = fs::read_to_string(&settings).expect("read");
    text += "MESH_AGENT_CONTROLLER=https://127.0.0.1:7179\nMESH_AGENT_METRICS=127.0.0.1:7180\n";
    fs::write(&settings, &text).expect("written");
    fs::write(machine.path("/root/mesh.toml"), MESH).expect("written");
    machine.run("ip netns add private");
    machine.run("meshctl apply /root/mesh.toml");
    machine.run("systemctl start routemesh-agent");
    machine.wait_until(&active("routemesh-agent"), "active\n");
    assert_eq!(capabilities(&machine, "routemesh-agent"), AGENT_MAY);
    // In the namespace, whatever this kernel makes of the tunnel; and reported.
    let routes = "ip -n private route show proto 82";
    machine.wait_until(routes, "unreachable 10.0.2.0/24");
    machine.wait_until("meshctl get gateways --output json", r#""generation": 1"#);
    let beat = "systemctl show --property WatchdogTimestampMonotonic --value routemesh-agent";
    assert_ne!(machine.run(beat).trim(), "0");

    // An upgrade takes nothing out of the kernel, and nobody's settings.
    let before = machine.run("systemctl show --property MainPID routemesh-agent");
    machine.run("systemd-run --unit watch ip -n private -o monitor route");
    packages(&machine, "1.1");
    machine.wait_until(&active("routemesh-agent"), "active\n");
    machine.wait_until(&active("routemesh-controller"), "active\n");
    let after = machine.run("systemctl show --property MainPID routemesh-agent");
    assert_ne!(before, after);
    assert_eq!(fs::read_to_string(&settings).expect("read"), text);
    machine.wait_until("meshctl get gateways --output json", r#""verdict""#);
    assert!(machine.run(routes).contains("unreachable 10.0.2.0/24"));
    let told = machine.run("journalctl --no-pager --unit watch");
    assert!(!told.contains("Deleted"), "{told}");
    machine.run("ip -n private route add blackhole 198.51.100.0/24");
    machine.run("ip -n private route del blackhole 198.51.100.0/24");
    machine.wait_until(
        "journalctl --no-pager --unit watch",
        "Deleted blackhole 198.51.100.0/24",
    );

    // Removed: what it made is gone, its identity stays until it is purged.
    machine.run("dpkg --remove routemesh-agent");
    assert_eq!(machine.run(routes), "");
    assert!(machine.path("/etc/routemesh/identity/key.pem").exists());
    machine.run("dpkg --purge routemesh-agent routemesh-controller meshctl");
    assert!(!machine.path("/etc/routemesh").exists());
    assert!(!machine.path("/var/lib/routemesh").exists());
    // Whoever loses the authority's key loses the mesh.
    assert!(
        machine
            .path("/var/lib/routemesh-controller/ca-key.pem")
            .exists()
    );
}
