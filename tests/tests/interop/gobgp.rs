//! GoBGP: gobgpd, asked through its command line.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::process::Process;
use routemesh_tests::lab::report::wait_until;
use serde_json::Value;

use crate::daemon::{Family, Heard, Known, LARGE_MARK, MARK, Setup, Ways, difference};
use crate::lan::write;

pub const WAYS: Ways = Ways {
    version: ("gobgpd", "--version"),
    start,
    heard,
    announce,
    refresh,
    updates,
    shutdown,
    state,
};

fn start(host: &Host, setup: &Setup, prefixes: &[String], again: bool) -> Result<Vec<Process>> {
    let file = write(host, "gobgp.conf", &config(setup))?;
    if setup.known == Known::Interface {
        // It looks for its neighbour once, among those that the kernel knows.
        host.run(&["ping", "-c1", "-W5", &remote(setup)])?;
    }
    let mut command = Command::new("gobgpd");
    command.arg("-f").arg(file);
    command.args(["-p", "--pprof-disable", "--cpus", "1", "-l", "debug"]);
    command.args(["--api-hosts", "127.0.0.1:50051"]);
    if again {
        command.arg("-r");
    }
    let mut process = host.spawn("gobgpd", command)?;
    wait_until("gobgpd", Duration::from_secs(20), || {
        process.check()?;
        ask(host, &["neighbor"]).map(drop)
    })?;
    announce(host, setup, &[], prefixes)?;
    // Only now, or it would say that it has told all, having told nothing.
    ask(host, &["neighbor", &remote(setup), "enable"])?;
    Ok(vec![process])
}

fn ask(host: &Host, words: &[&str]) -> Result<String> {
    host.run(&[&["gobgp"], words].concat())
}

fn json(host: &Host, words: &[&str]) -> Result<Value> {
    let text = ask(host, &[&["-j"], words].concat())?;
    serde_json::from_str(&text)
        .map_err(|error| LabError::Unexpected(format!("gobgp {words:?}: {error}: {text}")))
}

fn family(prefix: &str) -> &'static str {
    match Family::of(prefix) {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

fn announce(host: &Host, setup: &Setup, before: &[String], now: &[String]) -> Result<()> {
    let (gone, new) = difference(before, now);
    for prefix in gone {
        ask(
            host,
            &["global", "rib", "del", "-a", family(prefix), prefix],
        )?;
    }
    for prefix in new {
        let route = ["global", "rib", "add", "-a", family(prefix), prefix];
        let with = ["nexthop", setup.local(), "origin", "igp", "med", "50"];
        let marks = ["community", MARK, "large-community", LARGE_MARK];
        ask(host, &[&route[..], &with, &marks].concat())?;
    }
    Ok(())
}

/// What it calls us.
fn remote(setup: &Setup) -> String {
    format!("{}{}", setup.remote(), setup.scope())
}

fn refresh(host: &Host, setup: &Setup) -> Result<()> {
    ask(host, &["neighbor", &remote(setup), "softresetin"]).map(drop)
}

fn shutdown(host: &Host, setup: &Setup, text: &str) -> Result<()> {
    let words = ["neighbor", &remote(setup), "shutdown", "--reason", text];
    ask(host, &words).map(drop)
}

fn state(host: &Host, setup: &Setup) -> Result<String> {
    ask(host, &["neighbor", &remote(setup)])
}

fn updates(host: &Host, setup: &Setup) -> Result<u64> {
    let state = json(host, &["neighbor", &remote(setup)])?;
    let count = &state["state"]["messages"]["received"]["update"];
    Ok(count.as_u64().unwrap_or_default())
}

fn heard(host: &Host, setup: &Setup, prefix: &str) -> Result<Option<Heard>> {
    let words = ["neighbor", &remote(setup), "adj-in", "-a", family(prefix)];
    let table = json(host, &words)?;
    let Some(path) = table[prefix].as_array().and_then(|paths| paths.first()) else {
        return Ok(None);
    };
    let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut heard = Heard::default();
    for attribute in list(&path["attrs"]) {
        match attribute["type"].as_u64().unwrap_or_default() {
            2 => {
                let segments = list(&attribute["as_paths"]);
                let asns = segments.iter().flat_map(|segment| list(&segment["asns"]));
                heard.as_path = asns.filter_map(|asn| number(&asn)).collect();
            }
            3 | 14 => {
                heard.next_hop = attribute["nexthop"].as_str().unwrap_or_default().to_owned();
            }
            4 => heard.med = number(&attribute["metric"]),
            5 => heard.local_pref = number(&attribute["value"]),
            8 => heard.communities = communities(&list(&attribute["communities"])),
            32 => {
                let all = list(&attribute["value"]);
                let text =
                    |c: &Value| format!("{}:{}:{}", c["ASN"], c["LocalData1"], c["LocalData2"]);
                heard.large_communities = all.iter().map(text).collect();
            }
            _ => {}
        }
    }
    Ok(Some(heard))
}

fn communities(values: &[Value]) -> BTreeSet<String> {
    let numbers = values.iter().filter_map(Value::as_u64);
    numbers
        .map(|n| format!("{}:{}", n >> 16, n & 0xffff))
        .collect()
}

fn config(setup: &Setup) -> String {
    let (asn, local, remote) = (setup.asn(), setup.local(), remote(setup));
    let scope = setup.scope();
    let (hold, graceful) = (setup.hold_time, setup.graceful);
    let families: &[&str] = match setup.transport {
        Family::V4 => &["ipv4-unicast"],
        Family::V6 => &["ipv4-unicast", "ipv6-unicast"],
    };
    let (restart, last_resort) = match setup.long_lived {
        true => (
            "restart-time = 2\nlong-lived-enabled = true",
            "[neighbors.afi-safis.long-lived-graceful-restart.config]\nenabled = true\n\
             restart-time = 60\n",
        ),
        false => ("restart-time = 60", ""),
    };
    let limit =
        |limit| format!("[neighbors.afi-safis.prefix-limit.config]\nmax-prefixes = {limit}\n");
    let limit = setup.limit.map(limit).unwrap_or_default();
    let password = |word| format!("auth-password = \"{word}\"");
    let password = setup.password.map(password).unwrap_or_default();
    let neighbor = match setup.known {
        Known::Interface => "neighbor-interface = \"lan0\"".to_owned(),
        _ => format!("neighbor-address = \"{remote}\""),
    };
    let guard = match setup.ttl_security {
        true => "[neighbors.ttl-security.config]\nenabled = true\nttl-min = 255",
        false => "",
    };
    let family = |name: &&str| {
        format!(
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{name}\"\n\
             [neighbors.afi-safis.mp-graceful-restart.config]\nenabled = {graceful}\n{last_resort}{limit}\n"
        )
    };
    let families: String = families.iter().map(family).collect();
    format!(
        "[global.config]
as = {asn}
router-id = \"192.0.2.254\"
[[neighbors]]
[neighbors.config]
{neighbor}
peer-as = 65000
admin-down = true
{password}
[neighbors.timers.config]
connect-retry = 1
hold-time = {hold}
keepalive-interval = {keep}
idle-hold-time-after-reset = 1
[neighbors.transport.config]
local-address = \"{local}{scope}\"
{guard}
[neighbors.graceful-restart.config]
enabled = {graceful}
{restart}
{families}",
        keep = hold / 3,
    )
}
