//! What `mesh-agent down` takes away, and what it leaves.

use std::collections::BTreeSet;

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::mesh::Mesh;
use routemesh_tests::lab::report::say;
use routemesh_tests::lab::settle::{SETTLE, await_paths};
use routemesh_tests::lab::topology::Gateway;

/// What of a gateway's is somebody else's.
pub(super) struct Foreign {
    gateway: Gateway,
    kernel: BTreeSet<String>,
    all: BTreeSet<String>,
}

impl Foreign {
    /// Puts objects of somebody else where ours will be.
    pub(super) fn plant(lab: &Lab, gateway: Gateway) -> Result<Self> {
        plant(lab, gateway)?;
        Ok(Self {
            gateway,
            kernel: lab.kernel_state(gateway)?,
            all: planted(lab, gateway)?,
        })
    }
}

/// In a mesh that is up.
pub(super) fn removes_what_is_ours_and_nothing_else(
    lab: &Lab,
    mesh: &mut Mesh<'_>,
    foreign: &Foreign,
) -> Result<()> {
    let at = foreign.gateway;
    kept("in the mesh", &foreign.all, &planted(lab, at)?)?;
    mesh.stop_agent(at)?;
    let state = lab.kernel_state(at)?;
    let (routes, links) = (count(&state, "route"), count(&state, "link"));
    assert!(
        routes > 0 && links == 4,
        "a stopped agent took its state along: {state:?}"
    );
    mesh.down(at)?;
    kept("after down", &foreign.all, &planted(lab, at)?)?;
    let left = lab.kernel_state(at)?;
    let ours: Vec<_> = left.difference(&foreign.kernel).collect();
    assert!(ours.is_empty(), "left after down: {ours:#?}");
    let connections = lab
        .charon(at)
        .swanctl(lab.underlay(at), &["--list-conns"])?;
    let names: Vec<_> = connections
        .lines()
        .filter(|l| !l.starts_with(' '))
        .collect();
    assert_eq!(
        names.len(),
        1,
        "charon has more than the foreign connection: {names:?}"
    );
    say("the others route around it");
    await_paths(lab, &[at], SETTLE)
}

/// Checks that nothing of what was there is gone.
pub(super) fn kept(when: &str, before: &BTreeSet<String>, after: &BTreeSet<String>) -> Result<()> {
    let gone: Vec<_> = before.difference(after).collect();
    if gone.is_empty() {
        return Ok(());
    }
    Err(LabError::Unexpected(format!("gone {when}: {gone:#?}")))
}

fn count(state: &BTreeSet<String>, kind: &str) -> usize {
    state.iter().filter(|line| line.starts_with(kind)).count()
}

fn plant(lab: &Lab, gateway: Gateway) -> Result<()> {
    let lines = |lines: &[&str]| lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
    lab.overlay(gateway).ip_batch(&lines(&[
        "link add foreign0 up type dummy",
        "address add 192.0.2.1/24 dev foreign0",
        "nexthop add id 7 dev foreign0",
        "nexthop add id 8 via 192.0.2.7 dev foreign0",
        "nexthop add id 9 group 8",
        "route add 198.51.100.0/24 via 192.0.2.9 proto 99 metric 50",
        "route add 203.0.113.0/24 nhid 9 proto 99",
        // A prefix of the mesh, by a foreigner and with a metric of its own.
        "route add 10.0.2.0/24 via 192.0.2.9 proto 99 metric 4000",
        "route add 2001:db8:a2::/64 dev foreign0 proto 99 metric 4000",
        "route add unreachable 2001:db8:dead::/48 proto 99",
        "rule add from 192.0.2.0/24 lookup 77 pref 7777",
        "route add default dev foreign0 table 77",
    ]))?;
    lab.underlay(gateway).ip_batch(&lines(&[
        "link add foreign1 type xfrm dev eth0 if_id 0x77",
        "address add 2001:db8:77::1/64 dev foreign1 nodad",
        "xfrm state add src 2001:db8:77::1 dst 2001:db8:77::2 proto esp spi 0x7777 mode tunnel \
         if_id 0x77 aead rfc4106(gcm(aes)) 0x0123456789abcdef0123456789abcdef01234567 128",
        "xfrm policy add dir out src 2001:db8:77::/64 dst 2001:db8:78::/64 if_id 0x77 \
         tmpl src 2001:db8:77::1 dst 2001:db8:77::2 proto esp mode tunnel",
    ]))?;
    let rule = "ip -6 rule add from 2001:db8:77::/64 lookup 77 pref 7777";
    lab.underlay(gateway)
        .run(&rule.split(' ').collect::<Vec<_>>())?;
    let file = lab.underlay(gateway).dir().join("foreign.swanctl");
    let text = "connections { foreign { version = 2\n remote_addrs = 2001:db8:77::2\n \
                local { auth = psk }\n remote { auth = psk }\n \
                children { foreign { remote_ts = 2001:db8:78::/64 } } } }\n\
                secrets { ike-foreign { secret = \"not yours\" } }\n";
    std::fs::write(&file, text).map_err(LabError::io("foreign.swanctl"))?;
    let words = ["--load-all", "--file", &file.display().to_string()];
    lab.charon(gateway)
        .swanctl(lab.underlay(gateway), &words)
        .map(drop)
}

/// All that is not ours on a gateway, as text.
fn planted(lab: &Lab, gateway: Gateway) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for host in [lab.overlay(gateway), lab.underlay(gateway)] {
        for words in [
            ["ip", "-4", "route", "show", "table", "all"].as_slice(),
            &["ip", "-6", "route", "show", "table", "all"],
            &["ip", "nexthop"],
            &["ip", "rule"],
            &["ip", "-6", "rule"],
            &["ip", "-o", "address"],
            &["ip", "-o", "xfrm", "policy"],
            &["ip", "-o", "xfrm", "state"],
        ] {
            let text = host.run(words)?;
            // How a route by nexthop object is printed hangs on nexthop_compat_mode, which the
            // agent sets: what counts is the object.
            let lines = text.lines().map(|line| match line.split_once(" nhid ") {
                Some((prefix, rest)) => {
                    format!("{prefix} nhid {}", rest.split(' ').next().unwrap_or(rest))
                }
                None => line.to_owned(),
            });
            found.extend(lines.map(|line| format!("{}: {line}", host.name())));
        }
    }
    let connections = lab
        .charon(gateway)
        .swanctl(lab.underlay(gateway), &["--list-conns"])?;
    found.extend(
        connections
            .lines()
            .filter(|l| l.contains("foreign"))
            .map(str::to_owned),
    );
    // Counters and lifetimes move by themselves.
    found.retain(|line| !line.contains("expires") && !line.contains("fe80::"));
    Ok(found)
}
