//! OpenBGPD, the portable edition.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::process::Process;
use routemesh_tests::lab::report::wait_until;
use serde_json::Value;

use crate::daemon::{Family, Heard, LARGE_MARK, MARK, Setup, Ways, difference};
use crate::lan::write;

pub const WAYS: Ways = Ways {
    version: ("bgpctl", "-V"),
    start,
    heard,
    announce,
    refresh,
    updates,
    shutdown,
    state,
};

fn start(host: &Host, setup: &Setup, prefixes: &[String], _: bool) -> Result<Vec<Process>> {
    let file = write(host, "bgpd.conf", &config(host, setup))?;
    let mut command = Command::new("sh");
    // The folder that it locks itself into, in a /run of its own.
    let script = "mkdir /run/openbgpd && exec bgpd -d -v -f \"$1\"";
    command.args(["-c", script, "sh"]).arg(file);
    let mut process = host.spawn_with_own_run("bgpd", command)?;
    wait_until("OpenBGPD", Duration::from_secs(20), || {
        process.check()?;
        ask(host, &["show"]).map(drop)
    })?;
    announce(host, setup, &[], prefixes)?;
    Ok(vec![process])
}

fn socket(host: &Host) -> String {
    host.dir().join("bgpd.sock").display().to_string()
}

fn ask(host: &Host, words: &[&str]) -> Result<String> {
    host.run(&[&["bgpctl", "-s", &socket(host)], words].concat())
}

fn json(host: &Host, words: &[&str]) -> Result<Value> {
    let text = ask(host, &[&["-j"], words].concat())?;
    serde_json::from_str(&text)
        .map_err(|error| LabError::Unexpected(format!("bgpctl {words:?}: {error}: {text}")))
}

fn announce(host: &Host, _: &Setup, before: &[String], now: &[String]) -> Result<()> {
    let (gone, new) = difference(before, now);
    for prefix in gone {
        ask(host, &["network", "delete", prefix])?;
    }
    for prefix in new {
        let marks = ["community", MARK, "large-community", LARGE_MARK];
        let words = [&["network", "add", prefix][..], &marks, &["metric", "50"]];
        ask(host, &words.concat())?;
    }
    Ok(())
}

fn refresh(host: &Host, setup: &Setup) -> Result<()> {
    ask(host, &["neighbor", setup.remote(), "refresh"]).map(drop)
}

fn shutdown(host: &Host, setup: &Setup, text: &str) -> Result<()> {
    ask(host, &["neighbor", setup.remote(), "down", text]).map(drop)
}

fn state(host: &Host, setup: &Setup) -> Result<String> {
    ask(host, &["show", "neighbor", setup.remote()])
}

fn updates(host: &Host, setup: &Setup) -> Result<u64> {
    let state = json(host, &["show", "neighbor", setup.remote()])?;
    let count = &state["neighbors"][0]["stats"]["message"]["received"]["updates"];
    Ok(count.as_u64().unwrap_or_default())
}

fn heard(host: &Host, setup: &Setup, prefix: &str) -> Result<Option<Heard>> {
    let table = json(
        host,
        &["show", "rib", "detail", "neighbor", setup.remote(), prefix],
    )?;
    let paths = table["rib"].as_array();
    let Some(path) = paths.and_then(|paths| paths.iter().find(|p| p["prefix"] == prefix)) else {
        return Ok(None);
    };
    let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    let words = |value: &Value| -> BTreeSet<String> {
        let words = value.as_array().into_iter().flatten();
        words
            .filter_map(|w| w.as_str().map(str::to_owned))
            .collect()
    };
    let as_path = path["aspath"].as_str().unwrap_or_default();
    Ok(Some(Heard {
        next_hop: path["exit_nexthop"].as_str().unwrap_or_default().to_owned(),
        as_path: as_path
            .split(' ')
            .filter_map(|asn| asn.parse().ok())
            .collect(),
        communities: words(&path["communities"]),
        large_communities: words(&path["large_communities"]),
        med: number(&path["metric"]),
        local_pref: number(&path["localpref"]),
    }))
}

fn config(host: &Host, setup: &Setup) -> String {
    let (asn, hold) = (setup.asn(), setup.hold_time);
    let (local, remote) = (setup.local(), setup.remote());
    let family = match setup.transport {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let limit = setup.limit.map(|limit| format!("max-prefix {limit}"));
    let limit = limit.unwrap_or_default();
    let mut more = String::new();
    if let Some(password) = setup.password {
        more += &format!("tcp md5sig password {password}\n");
    }
    if setup.ttl_security {
        more += "ttl-security yes\n";
    }
    if let Some(role) = setup.role {
        more += &format!("announce policy {role}\n");
    }
    let restart = if setup.graceful { "yes" } else { "no" };
    format!(
        r#"AS {asn}
router-id 192.0.2.254
connect-retry 1
holdtime {hold}
socket "{socket}"
listen on {local}
fib-update no
log updates
nexthop qualify via default
neighbor {remote} {{
    remote-as 65000
    local-address {local}
    announce {family} unicast
    announce restart {restart}
    announce enhanced refresh yes
    {limit}
    {more}
}}
allow from any
allow to any
"#,
        socket = socket(host),
    )
}
