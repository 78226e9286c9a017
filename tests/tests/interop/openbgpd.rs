//! OpenBGPD, the portable edition.

use std::process::Command;
use std::time::Duration;

use routemesh_tests::lab::error::Result;
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::process::Process;
use routemesh_tests::lab::report::wait_until;
use serde_json::Value;

use crate::bird;
use crate::daemon::{
    Family, Heard, LARGE_MARK, MARK, More, Route, SECOND_HOP, Setup, Ways, difference,
};
use crate::lan::write;
use crate::read::{self, list, number, word, words};

pub const WAYS: Ways = Ways {
    version: ("bgpctl", "-V"),
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
    announce(host, setup, &[], routes)?;
    let mut processes = vec![process];
    if setup.add_path {
        host.ip_batch(&[format!("address add {SECOND_HOP}/64 dev lan0 nodad")])?;
        processes.push(bird::run(host, &second(setup), false)?);
    }
    Ok(processes)
}

fn socket(host: &Host) -> String {
    host.dir().join("bgpd.sock").display().to_string()
}

fn ask(host: &Host, words: &[&str]) -> Result<String> {
    host.run(&[&["bgpctl", "-s", &socket(host)], words].concat())
}

fn json(host: &Host, words: &[&str]) -> Result<Value> {
    let text = ask(host, &[&["-j"], words].concat())?;
    read::json(&format!("bgpctl {words:?}"), &text)
}

fn announce(host: &Host, _: &Setup, before: &[Route], now: &[Route]) -> Result<()> {
    let (gone, new) = difference(before, now);
    for route in gone {
        if route.more == More::SecondPath {
            bird::ask(host, "disable second")?;
            continue;
        }
        ask(host, &["network", "delete", &route.prefix])?;
    }
    for route in new {
        let marks = ["community", MARK, "large-community", LARGE_MARK];
        let more: &[&str] = match route.more {
            More::Shutdown => &["community", "GRACEFUL_SHUTDOWN"],
            More::SecondPath => {
                bird::ask(host, "enable second")?;
                continue;
            }
            _ => &[],
        };
        let words: [&[&str]; 4] = [
            &["network", "add", &route.prefix],
            &marks,
            more,
            &["metric", "50"],
        ];
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

fn reset(host: &Host, setup: &Setup) -> Result<()> {
    ask(host, &["neighbor", setup.remote(), "clear"]).map(drop)
}

fn state(host: &Host, setup: &Setup) -> Result<String> {
    ask(host, &["show", "neighbor", setup.remote()])
}

fn updates(host: &Host, setup: &Setup) -> Result<u64> {
    let state = json(host, &["show", "neighbor", setup.remote()])?;
    let count = &state["neighbors"][0]["stats"]["message"]["received"]["updates"];
    Ok(count.as_u64().unwrap_or_default())
}

fn heard(host: &Host, setup: &Setup, prefix: &str) -> Result<Vec<Heard>> {
    let table = json(
        host,
        &["show", "rib", "detail", "neighbor", setup.remote(), prefix],
    )?;
    let paths = list(&table["rib"])
        .iter()
        .filter(|path| path["prefix"] == prefix);
    let path = |path: &Value| {
        let as_path = path["aspath"].as_str().unwrap_or_default().split(' ');
        Heard {
            next_hop: word(&path["exit_nexthop"]),
            as_path: as_path.filter_map(|asn| asn.parse().ok()).collect(),
            communities: words(&path["communities"]),
            large_communities: words(&path["large_communities"]),
            med: number(&path["metric"]),
            local_pref: number(&path["localpref"]),
        }
    };
    Ok(paths.map(path).collect())
}

/// It has one path of its own to a prefix: the second comes from a BIRD beside it.
fn second(setup: &Setup) -> String {
    format!(
        "log stderr all;
router id 192.0.2.252;
protocol device {{}}
protocol static second {{ disabled; ipv6; route {prefix} unreachable; }}
protocol bgp daemon {{
    local {SECOND_HOP} as 65003;
    strict bind on;
    multihop;
    neighbor {local} as {asn};
    connect delay time 1;
    connect retry time 1;
    error wait time 1, 3;
    ipv6 {{ import none; export where source = RTS_STATIC; next hop self; }};
}}
",
        prefix = bird::SHARED_PREFIX,
        local = setup.local(),
        asn = setup.asn(),
    )
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
    let second = format!(
        "neighbor {SECOND_HOP} {{\n remote-as 65003\n passive\n announce IPv6 unicast\n}}\n"
    );
    // Both paths are equally good.
    let passed = format!(
        "match to {remote} community {MARK} set prepend-self 1\n\
         match to {remote} source-as 65003 set {{ metric 50 nexthop {SECOND_HOP} }}\n"
    );
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
    announce add-path recv {paths}
    announce add-path send {all}
    {limit}
    {more}
}}
{second}allow from any
allow to any
{passed}"#,
        socket = socket(host),
        second = if setup.add_path { &second } else { "" },
        passed = if setup.add_path { &passed } else { "" },
        paths = if setup.add_path { "yes" } else { "no" },
        all = if setup.add_path { "all" } else { "no" },
    )
}
