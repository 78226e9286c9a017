//! FRR: its bgpd, and zebra, without which bgpd does not know its interfaces.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::process::Process;
use routemesh_tests::lab::report::wait_until;
use serde_json::Value;

use crate::daemon::{Family, Heard, Known, Setup, Ways, difference};
use crate::lan::{set_mode, write};

pub const WAYS: Ways = Ways {
    version: ("/usr/lib/frr/bgpd", "--version"),
    start,
    heard,
    announce,
    refresh,
    updates,
    shutdown,
    state,
};

fn start(host: &Host, setup: &Setup, prefixes: &[String], _: bool) -> Result<Vec<Process>> {
    // It becomes a user of its own, who has to reach all of this.
    set_mode(host.dir(), 0o777)?;
    let mut processes = Vec::new();
    for (name, text) in [("zebra", String::new()), ("bgpd", config(setup, prefixes))] {
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
    let text = ask(host, "bgpd", &[command])?;
    serde_json::from_str(&text)
        .map_err(|error| LabError::Unexpected(format!("{command}: {error}: {text}")))
}

fn family(prefix: &str) -> &'static str {
    match Family::of(prefix) {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

fn announce(host: &Host, setup: &Setup, before: &[String], now: &[String]) -> Result<()> {
    let change = |prefix: &str, line: &str| {
        let commands = [
            "configure terminal",
            &format!("router bgp {}", setup.asn()),
            &format!("address-family {} unicast", family(prefix)),
            line,
        ];
        ask(host, "bgpd", &commands).map(drop)
    };
    let (gone, new) = difference(before, now);
    for prefix in gone {
        change(prefix, &format!("no network {prefix} route-map mark"))?;
    }
    for prefix in new {
        change(prefix, &format!("network {prefix} route-map mark"))?;
    }
    Ok(())
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

fn state(host: &Host, setup: &Setup) -> Result<String> {
    let command = format!("show bgp neighbors {}", remote(setup));
    ask(host, "bgpd", &[&command])
}

fn updates(host: &Host, setup: &Setup) -> Result<u64> {
    let state = json(host, &format!("show bgp neighbors {} json", remote(setup)))?;
    let count = &state[remote(setup)]["messageStats"]["updatesRecv"];
    Ok(count.as_u64().unwrap_or_default())
}

fn heard(host: &Host, setup: &Setup, prefix: &str) -> Result<Option<Heard>> {
    let table = json(
        host,
        &format!("show bgp {} unicast {prefix} json", family(prefix)),
    )?;
    let paths = table["paths"].as_array().into_iter().flatten();
    let ours = paths
        .into_iter()
        .find(|path| path["peer"]["peerId"] == setup.remote());
    let Some(path) = ours else {
        return Ok(None);
    };
    let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    let words = |value: &Value| -> BTreeSet<String> {
        let words = value["list"].as_array().into_iter().flatten();
        words
            .filter_map(|w| w.as_str().map(str::to_owned))
            .collect()
    };
    let segments = path["aspath"]["segments"].as_array().into_iter().flatten();
    Ok(Some(Heard {
        next_hop: path["nexthops"][0]["ip"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        as_path: segments
            .flat_map(|segment| segment["list"].as_array().into_iter().flatten())
            .filter_map(number)
            .collect(),
        communities: words(&path["community"]),
        large_communities: words(&path["largeCommunity"]),
        med: number(&path["metric"]),
        local_pref: number(&path["locPrf"]),
    }))
}

fn families(setup: &Setup) -> &'static [&'static str] {
    match setup.transport {
        Family::V4 => &["ipv4"],
        Family::V6 => &["ipv4", "ipv6"],
    }
}

fn config(setup: &Setup, prefixes: &[String]) -> String {
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
    let restart = match setup.graceful {
        true => "bgp graceful-restart\n bgp graceful-restart preserve-fw-state",
        false => "bgp graceful-restart-disable",
    };
    let families = families(setup).iter().map(|name| {
        let own = prefixes.iter().filter(|prefix| family(prefix) == *name);
        let networks: String = own
            .map(|prefix| format!("  network {prefix} route-map mark\n"))
            .collect();
        format!(
            " address-family {name} unicast\n  neighbor {remote} activate\n  {limit}\n{networks} \
             exit-address-family\n"
        )
    });
    let families: String = families.collect();
    format!(
        "log timestamp precision 3
bgp send-extra-data zebra
route-map mark permit 10
 set community 65001:7
 set large-community 65001:1:2
 set metric 50
exit
router bgp {asn}
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
        keep = hold / 3,
    )
}
