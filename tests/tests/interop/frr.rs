//! FRR: its bgpd, and zebra, without which bgpd does not know its interfaces.

use std::fs;
use std::process::Command;
use std::time::Duration;

use routemesh_tests::lab::error::Result;
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::process::Process;
use routemesh_tests::lab::report::wait_until;
use serde_json::Value;

use crate::daemon::{
    BANDWIDTH, Family, Heard, Known, More, Route, SECOND_HOP, Setup, Ways, difference,
};
use crate::lan::{set_mode, write};
use crate::read::{self, list, number, word, words};

pub const WAYS: Ways = Ways {
    version: ("/usr/lib/frr/bgpd", "--version"),
    start,
    heard,
    announce,
    refresh,
    updates,
    shutdown,
    reset,
    state,
};

fn start(host: &Host, setup: &Setup, routes: &[Route], _: bool) -> Result<Vec<Process>> {
    // It becomes a user of its own, who has to reach all of this.
    set_mode(host.dir(), 0o777)?;
    let mut processes = Vec::new();
    for (name, text) in [("zebra", String::new()), ("bgpd", config(setup, routes))] {
        let file = write(host, &format!("{name}.conf"), &text)?;
        set_mode(&file, 0o644)?;
        let pid = host.dir().join(format!("{name}.pid"));
        let _ = fs::remove_file(&pid);
        let mut command = Command::new(format!("/usr/lib/frr/{name}"));
        command.arg("--vty_socket").arg(host.dir());
        command.arg("-z").arg(host.dir().join("zserv.api"));
        command.arg("-f").arg(file).arg("-i").arg(pid);
        command.args(["-u", "frr", "-g", "frr", "-P", "0", "--log", "stdout"]);
        let mut process = host.spawn(name, command)?;
        wait_until(name, Duration::from_secs(20), || {
            process.check()?;
            ask(host, name, &["show version"]).map(drop)
        })?;
        processes.push(process);
    }
    processes.reverse();
    Ok(processes)
}

/// `vtysh -c COMMAND ...`
fn ask(host: &Host, daemon: &str, commands: &[&str]) -> Result<String> {
    let dir = host.dir().display().to_string();
    let mut words = vec!["vtysh", "--vty_socket", &dir, "-d", daemon];
    for command in commands {
        words.extend(["-c", command]);
    }
    host.run(&words)
}

fn json(host: &Host, command: &str) -> Result<Value> {
    read::json(command, &ask(host, "bgpd", &[command])?)
}

fn family(prefix: &str) -> &'static str {
    match Family::of(prefix) {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

fn announce(host: &Host, setup: &Setup, before: &[Route], now: &[Route]) -> Result<()> {
    let change = |word: &str, route: &Route| {
        if route.more == More::SecondPath {
            // The kernel's, which it redistributes.
            let verb = if word.is_empty() { "add" } else { "delete" };
            return host.ip_batch(&[format!("route {verb} {} dev lo", route.prefix)]);
        }
        let commands = [
            "configure terminal",
            &format!("router bgp {}", setup.asn()),
            &format!("address-family {} unicast", family(&route.prefix)),
            &format!("{word}{}", network(route)),
        ];
        ask(host, "bgpd", &commands).map(drop)
    };
    let (gone, new) = difference(before, now);
    gone.into_iter()
        .try_for_each(|route| change("no ", route))?;
    new.into_iter().try_for_each(|route| change("", route))
}

fn network(route: &Route) -> String {
    let map = match route.more {
        More::Nothing | More::SecondPath => "mark",
        More::Bandwidth => "bandwidth",
        More::Shutdown => "shutdown",
    };
    format!("network {} route-map {map}", route.prefix)
}

/// What it calls us.
fn remote(setup: &Setup) -> &'static str {
    match setup.known {
        Known::Interface => "lan0",
        _ => setup.remote(),
    }
}

fn refresh(host: &Host, setup: &Setup) -> Result<()> {
    for family in families(setup) {
        let command = format!("clear bgp {family} {} in", remote(setup));
        ask(host, "bgpd", &[&command])?;
    }
    Ok(())
}

fn shutdown(host: &Host, setup: &Setup, text: &str) -> Result<()> {
    let commands = [
        "configure terminal",
        &format!("router bgp {}", setup.asn()),
        &format!("neighbor {} shutdown message {text}", remote(setup)),
    ];
    ask(host, "bgpd", &commands).map(drop)
}

fn reset(host: &Host, setup: &Setup) -> Result<()> {
    ask(host, "bgpd", &[&format!("clear bgp {}", remote(setup))]).map(drop)
}

fn state(host: &Host, setup: &Setup) -> Result<String> {
    let command = format!("show bgp neighbors {}", remote(setup));
    ask(host, "bgpd", &[&command])
}

fn updates(host: &Host, setup: &Setup) -> Result<u64> {
    let state = json(host, &format!("show bgp neighbors {} json", remote(setup)))?;
    let count = &state[remote(setup)]["messageStats"]["updatesRecv"];
    Ok(count.as_u64().unwrap_or_default())
}

fn heard(host: &Host, setup: &Setup, prefix: &str) -> Result<Vec<Heard>> {
    let table = json(
        host,
        &format!("show bgp {} unicast {prefix} json", family(prefix)),
    )?;
    let ours = list(&table["paths"])
        .iter()
        .filter(|path| path["peer"]["peerId"] == setup.remote());
    let path = |path: &Value| {
        let segments = list(&path["aspath"]["segments"]).iter();
        Heard {
            next_hop: word(&path["nexthops"][0]["ip"]),
            as_path: segments
                .flat_map(|segment| list(&segment["list"]))
                .filter_map(number)
                .collect(),
            communities: words(&path["community"]["list"]),
            large_communities: words(&path["largeCommunity"]["list"]),
            med: number(&path["metric"]),
            local_pref: number(&path["locPrf"]),
        }
    };
    Ok(ours.map(path).collect())
}

fn families(setup: &Setup) -> &'static [&'static str] {
    match setup.transport {
        Family::V4 => &["ipv4"],
        Family::V6 => &["ipv4", "ipv6"],
    }
}

fn config(setup: &Setup, routes: &[Route]) -> String {
    let (asn, remote, hold) = (setup.asn(), remote(setup), setup.hold_time);
    let limit = setup
        .limit
        .map(|limit| format!("neighbor {remote} maximum-prefix {limit}"));
    let limit = limit.unwrap_or_default();
    let mut more = String::new();
    let known = match setup.known {
        Known::Interface => "interface remote-as",
        _ => "remote-as",
    };
    if setup.long_lived {
        more += " bgp graceful-restart restart-time 2\n \
                 bgp long-lived-graceful-restart stale-time 60\n";
    }
    if setup.known == Known::LinkLocal {
        more += &format!(" neighbor {remote} interface lan0\n");
    }
    if let Some(password) = setup.password {
        more += &format!(" neighbor {remote} password {password}\n");
    }
    if setup.ttl_security {
        more += &format!(" neighbor {remote} ttl-security hops 1\n");
    }
    if let Some(role) = setup.role {
        more += &format!(" neighbor {remote} local-role {role}\n");
    }
    let paths = match setup.add_path {
        true => format!(
            "neighbor {remote} addpath-tx-all-paths\n  redistribute kernel route-map second"
        ),
        false => String::new(),
    };
    if setup.notifications {
        more += " bgp graceful-restart notification\n no bgp hard-administrative-reset\n";
    }
    let restart = match setup.graceful {
        true => "bgp graceful-restart\n bgp graceful-restart preserve-fw-state",
        false => "bgp graceful-restart-disable",
    };
    let families = families(setup).iter().map(|name| {
        let own = routes.iter().filter(|route| family(&route.prefix) == *name);
        let networks: String = own.map(|route| format!("  {}\n", network(route))).collect();
        format!(
            " address-family {name} unicast\n  neighbor {remote} activate\n  {limit}\n  {paths}\n\
             {networks} exit-address-family\n"
        )
    });
    let families: String = families.collect();
    format!(
        "log timestamp precision 3
bgp send-extra-data zebra
{maps}router bgp {asn}
 bgp router-id 192.0.2.254
 bgp log-neighbor-changes
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 {restart}
 neighbor {remote} {known} 65000
 neighbor {remote} timers {keep} {hold}
 neighbor {remote} timers connect 1
 neighbor {remote} capability extended-nexthop
{more}{families}",
        maps = maps(),
        keep = hold / 3,
    )
}

/// What is said of the prefixes.
fn maps() -> String {
    let maps = [
        ("mark", "65001:7", String::new()),
        (
            "second",
            "65001:7",
            format!(" set origin igp\n set ipv6 next-hop global {SECOND_HOP}\n"),
        ),
        (
            "bandwidth",
            "65001:7",
            format!(" set extcommunity bandwidth {BANDWIDTH}\n"),
        ),
        ("shutdown", "65001:7 graceful-shutdown", String::new()),
    ];
    let map = |(name, communities, more)| {
        format!(
            "route-map {name} permit 10\n set community {communities}\n \
             set large-community 65001:1:2\n set metric 50\n{more}exit\n"
        )
    };
    maps.map(map).concat()
}
