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

use crate::daemon::{
    BANDWIDTH, Family, Heard, LARGE_MARK, MARK, More, Route, SECOND_HOP, Setup, Ways, bandwidth,
    difference,
};
use crate::lan::{expect, set_mode, write};
use crate::read::{list, number};

pub const WAYS: Ways = Ways {
    version: ("exabgp", "--version"),
    start,
    heard,
    announce,
    refresh,
    updates,
    shutdown,
    reset,
    state,
};

/// What it runs to talk to: its words go to a file, ours come from a pipe.
const PROCESS: &str = r#"cd "$1"
exec 3<>commands 4<&0
cat <&4 >>told &
echo ready >>told
exec cat <&3
"#;

fn start(host: &Host, setup: &Setup, routes: &[Route], _: bool) -> Result<Vec<Process>> {
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
    announce(host, setup, &[], routes)?;
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

fn announce(host: &Host, setup: &Setup, before: &[Route], now: &[Route]) -> Result<()> {
    let path = |route: &Route| {
        let (hop, path) = match route.more {
            More::SecondPath => (SECOND_HOP, "0.0.0.2"),
            _ => (setup.local(), "0.0.0.1"),
        };
        let hop = format!("route {} next-hop {hop}", route.prefix);
        match setup.add_path {
            true => format!("{hop} path-information {path}"),
            false => hop,
        }
    };
    let (gone, new) = difference(before, now);
    for route in gone {
        tell(host, setup, &format!("withdraw {}", path(route)))?;
    }
    for route in new {
        let (high, low) = bandwidth(setup.asn(), BANDWIDTH);
        let (communities, more) = match route.more {
            More::Nothing | More::SecondPath => (MARK.to_owned(), String::new()),
            More::Shutdown => (format!("{MARK} 65535:0"), String::new()),
            More::Bandwidth => {
                let more = format!("extended-community [0x{high:08x}{low:08x}]");
                (MARK.to_owned(), more)
            }
        };
        let with = format!("med 50 community [{communities}] large-community [{LARGE_MARK}]");
        tell(
            host,
            setup,
            &format!("announce {} {with} {more}", path(route)),
        )?;
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

fn reset(host: &Host, setup: &Setup) -> Result<()> {
    tell(host, setup, "teardown 4")
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

fn heard(host: &Host, _: &Setup, prefix: &str) -> Result<Vec<Heard>> {
    let mut table = BTreeMap::new();
    for message in messages(host) {
        if message["neighbor"]["state"] == "down" {
            table.clear();
        }
        let update = &message["neighbor"]["message"]["update"];
        for (next_hop, path) in announced(update, prefix) {
            table.insert(path, attributes(&update["attribute"], next_hop));
        }
        for path in withdrawn(update, prefix) {
            table.remove(&path);
        }
    }
    Ok(table.into_values().collect())
}

/// `"announce": {"ipv4 unicast": {"NEXTHOP": [{"nlri": "PREFIX", "path-information": "0.0.0.1"}]}}`
fn announced(update: &Value, prefix: &str) -> Vec<(String, String)> {
    let families = update["announce"].as_object().into_iter().flatten();
    let next_hops = families.flat_map(|(_, hops)| hops.as_object().into_iter().flatten());
    let pairs = next_hops.flat_map(|(hop, prefixes)| {
        let paths = list(prefixes).iter().filter_map(|it| path(it, prefix));
        paths.map(|path| (hop.clone(), path))
    });
    pairs.collect()
}

/// `"withdraw": {"ipv4 unicast": [{"nlri": "PREFIX"}]}`
fn withdrawn(update: &Value, prefix: &str) -> Vec<String> {
    let families = update["withdraw"].as_object().into_iter().flatten();
    let prefixes = families.flat_map(|(_, prefixes)| list(prefixes));
    prefixes.filter_map(|it| path(it, prefix)).collect()
}

/// Which path to the prefix is meant, if one is.
fn path(nlri: &Value, prefix: &str) -> Option<String> {
    let path = nlri["path-information"].as_str().unwrap_or_default();
    (nlri["nlri"] == prefix).then(|| path.to_owned())
}

fn attributes(attribute: &Value, next_hop: String) -> Heard {
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
    capability {{ nexthop; route-refresh; extended-message; {graceful} {paths} }}
    api {{
        processes [ tests ];
        neighbor-changes;
        receive {{ parsed; update; notification; open; refresh; }}
    }}
}}
",
        dir = host.dir().display(),
        asn = setup.asn(),
        paths = if setup.add_path {
            "add-path send/receive;"
        } else {
            ""
        },
        hold = setup.hold_time,
    )
}
