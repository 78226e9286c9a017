//! ExaBGP: it has no table of its own, it tells all that it hears in JSON and does what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use nix::sys::stat::Mode;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::process::Process;
use routemesh_tests::lab::report::wait_until;
use serde_json::Value;

use crate::daemon::{Family, Heard, LARGE_MARK, MARK, Setup, Ways, difference};
use crate::lan::{expect, set_mode, write};

pub const WAYS: Ways = Ways {
    version: ("exabgp", "--version"),
    start,
    heard,
    announce,
    refresh,
    updates,
    shutdown,
    state,
};

/// What it runs to talk to: its words go to a file, ours come from a pipe.
const PROCESS: &str = r#"cd "$1"
exec 3<>commands 4<&0
cat <&4 >>told &
echo ready >>told
exec cat <&3
"#;

fn start(host: &Host, setup: &Setup, prefixes: &[String], _: bool) -> Result<Vec<Process>> {
    let dir = host.dir();
    set_mode(dir, 0o777)?;
    let pipe = dir.join("commands");
    let _ = fs::remove_file(&pipe);
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).map_err(LabError::os("a pipe"))?;
    let _ = fs::remove_file(dir.join("told"));
    write(host, "process.sh", PROCESS)?;
    let file = write(host, "exabgp.conf", &config(host, setup))?;
    let mut command = Command::new("exabgp");
    command
        .env("exabgp.daemon.user", "root")
        .env("exabgp.log.all", "true")
        .env("exabgp.log.level", "INFO")
        .env("exabgp.tcp.bind", setup.local())
        .env("exabgp.tcp.port", "179")
        .env("exabgp.api.ack", "false")
        .arg(file);
    let mut process = host.spawn("exabgp", command)?;
    wait_until("ExaBGP", Duration::from_secs(20), || {
        process.check()?;
        expect(told(host).contains("ready"), || "not ready".into())
    })?;
    announce(host, setup, &[], prefixes)?;
    Ok(vec![process])
}

/// All that it has told.
fn told(host: &Host) -> String {
    let told = fs::read(host.dir().join("told")).unwrap_or_default();
    String::from_utf8_lossy(&told).into_owned()
}

fn tell(host: &Host, setup: &Setup, command: &str) -> Result<()> {
    let pipe = host.dir().join("commands");
    let line = format!("neighbor {} {command}\n", setup.remote());
    // Its other end is open for as long as ExaBGP runs.
    let opened = fs::OpenOptions::new().read(true).write(true).open(&pipe);
    opened
        .and_then(|mut pipe| pipe.write_all(line.as_bytes()))
        .map_err(LabError::io(pipe.display().to_string()))
}

fn announce(host: &Host, setup: &Setup, before: &[String], now: &[String]) -> Result<()> {
    let (gone, new) = difference(before, now);
    for prefix in gone {
        let route = format!("withdraw route {prefix} next-hop {}", setup.local());
        tell(host, setup, &route)?;
    }
    for prefix in new {
        let route = format!("announce route {prefix} next-hop {}", setup.local());
        let with = format!("med 50 community [{MARK}] large-community [{LARGE_MARK}]");
        tell(host, setup, &format!("{route} {with}"))?;
    }
    Ok(())
}

fn refresh(host: &Host, setup: &Setup) -> Result<()> {
    for family in families(setup) {
        tell(host, setup, &format!("announce route-refresh {family}"))?;
    }
    Ok(())
}

fn shutdown(host: &Host, setup: &Setup, _: &str) -> Result<()> {
    // It has no text to give.
    tell(host, setup, "teardown 2")
}

fn state(host: &Host, _: &Setup) -> Result<String> {
    Ok(told(host))
}

/// The UPDATEs among what it has told.
fn messages(host: &Host) -> Vec<Value> {
    let told = told(host);
    let lines = told
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines.collect()
}

fn updates(host: &Host, _: &Setup) -> Result<u64> {
    let messages = messages(host);
    let updates = messages.iter().filter(|m| m["type"] == "update");
    Ok(updates.count() as u64)
}

fn heard(host: &Host, _: &Setup, prefix: &str) -> Result<Option<Heard>> {
    let mut table = BTreeMap::new();
    for message in messages(host) {
        if message["neighbor"]["state"] == "down" {
            table.clear();
        }
        let update = &message["neighbor"]["message"]["update"];
        for (next_hop, prefix) in announced(update) {
            table.insert(prefix, attributes(&update["attribute"], next_hop));
        }
        for prefix in withdrawn(update) {
            table.remove(&prefix);
        }
    }
    Ok(table.remove(prefix))
}

/// `"announce": {"ipv4 unicast": {"NEXTHOP": [{"nlri": "PREFIX"}]}}`
fn announced(update: &Value) -> Vec<(String, String)> {
    let families = update["announce"].as_object().into_iter().flatten();
    let next_hops = families.flat_map(|(_, hops)| hops.as_object().into_iter().flatten());
    let pairs = next_hops.flat_map(|(hop, prefixes)| {
        let prefixes = prefixes.as_array().into_iter().flatten();
        prefixes.filter_map(|p| Some((hop.clone(), p["nlri"].as_str()?.to_owned())))
    });
    pairs.collect()
}

/// `"withdraw": {"ipv4 unicast": [{"nlri": "PREFIX"}]}`
fn withdrawn(update: &Value) -> Vec<String> {
    let families = update["withdraw"].as_object().into_iter().flatten();
    let prefixes = families.flat_map(|(_, prefixes)| prefixes.as_array().into_iter().flatten());
    prefixes
        .filter_map(|p| p["nlri"].as_str().map(str::to_owned))
        .collect()
}

fn attributes(attribute: &Value, next_hop: String) -> Heard {
    let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let tuples = |value: &Value| -> BTreeSet<String> {
        let tuple = |parts: &Value| {
            let parts: Vec<String> = list(parts).iter().map(ToString::to_string).collect();
            parts.join(":")
        };
        list(value).iter().map(tuple).collect()
    };
    Heard {
        next_hop,
        as_path: list(&attribute["as-path"])
            .iter()
            .filter_map(number)
            .collect(),
        communities: tuples(&attribute["community"]),
        large_communities: tuples(&attribute["large-community"]),
        med: number(&attribute["med"]),
        local_pref: number(&attribute["local-preference"]),
    }
}

fn families(setup: &Setup) -> &'static [&'static str] {
    match setup.transport {
        Family::V4 => &["ipv4 unicast"],
        Family::V6 => &["ipv4 unicast", "ipv6 unicast"],
    }
}

fn config(host: &Host, setup: &Setup) -> String {
    let (local, remote) = (setup.local(), setup.remote());
    let family: String = families(setup).iter().map(|f| format!("{f}; ")).collect();
    let next_hop = match setup.transport {
        Family::V4 => "",
        Family::V6 => "nexthop { ipv4 unicast ipv6; }",
    };
    let graceful = if setup.graceful {
        "graceful-restart 60;"
    } else {
        ""
    };
    let mut more = String::new();
    if let Some(password) = setup.password {
        more += &format!("md5-password {password};");
    }
    if setup.ttl_security {
        more += "outgoing-ttl 255; incoming-ttl 255;";
    }
    format!(
        "process tests {{ run /bin/sh {dir}/process.sh {dir}; encoder json; }}
neighbor {remote} {{
    router-id 192.0.2.254;
    local-address {local};
    local-as {asn};
    peer-as 65000;
    hold-time {hold};
    family {{ {family} }}
    {next_hop}
    {more}
    capability {{ nexthop; route-refresh; extended-message; {graceful} }}
    api {{
        processes [ tests ];
        neighbor-changes;
        receive {{ parsed; update; notification; open; refresh; }}
    }}
}}
",
        dir = host.dir().display(),
        asn = setup.asn(),
        hold = setup.hold_time,
    )
}
