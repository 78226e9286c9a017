//! GoBGP: gobgpd, asked through its command line.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use routemesh_tests::lab::error::Result;
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::process::Process;
use routemesh_tests::lab::report::wait_until;
use serde_json::Value;

use crate::daemon::{
    BANDWIDTH, Family, Heard, Known, LARGE_MARK, MARK, More, Route, SECOND_HOP, Setup, Ways,
    difference,
};
use crate::lan::write;
use crate::read::{self, list, number, word};

/// The community on prefixes that are announced with a bandwidth: its command line cannot write that
/// one, its policies can.
const FAST: &str = "65001:40";

pub const WAYS: Ways = Ways {
    version: ("gobgpd", "--version"),
    start,
    heard,
    announce,
    refresh,
    updates,
    shutdown,
    reset,
    state,
};

fn start(host: &Host, setup: &Setup, routes: &[Route], again: bool) -> Result<Vec<Process>> {
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
    announce(host, setup, &[], routes)?;
    // Only now, or it would say that it has told all, having told nothing.
    ask(host, &["neighbor", &remote(setup), "enable"])?;
    Ok(vec![process])
}

fn ask(host: &Host, words: &[&str]) -> Result<String> {
    host.run(&[&["gobgp"], words].concat())
}

fn json(host: &Host, words: &[&str]) -> Result<Value> {
    let text = ask(host, &[&["-j"], words].concat())?;
    read::json(&format!("gobgp {words:?}"), &text)
}

fn family(prefix: &str) -> &'static str {
    match Family::of(prefix) {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

fn announce(host: &Host, setup: &Setup, before: &[Route], now: &[Route]) -> Result<()> {
    let change = |verb: &str, route: &Route, with: &[&str]| {
        let prefix = &route.prefix;
        let identifier = match route.more {
            More::SecondPath => ["identifier", "2"],
            _ => ["identifier", "1"],
        };
        let words = ["global", "rib", verb, "-a", family(prefix), prefix];
        let identifier = &identifier[..if setup.add_path { 2 } else { 0 }];
        ask(host, &[&words, identifier, with].concat()).map(drop)
    };
    let (gone, new) = difference(before, now);
    gone.into_iter()
        .try_for_each(|route| change("del", route, &[]))?;
    new.into_iter().try_for_each(|route| {
        let hop = match route.more {
            More::SecondPath => SECOND_HOP,
            _ => setup.local(),
        };
        let communities = match route.more {
            More::Nothing | More::SecondPath => MARK.to_owned(),
            More::Shutdown => format!("{MARK},65535:0"),
            More::Bandwidth => format!("{MARK},{FAST}"),
        };
        let with = ["nexthop", hop, "origin", "igp", "med", "50"];
        let marks = ["community", &communities, "large-community", LARGE_MARK];
        change("add", route, &[&with[..], &marks].concat())
    })
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

fn reset(host: &Host, setup: &Setup) -> Result<()> {
    ask(host, &["neighbor", &remote(setup), "reset"]).map(drop)
}

fn state(host: &Host, setup: &Setup) -> Result<String> {
    ask(host, &["neighbor", &remote(setup)])
}

fn updates(host: &Host, setup: &Setup) -> Result<u64> {
    let state = json(host, &["neighbor", &remote(setup)])?;
    let count = &state["state"]["messages"]["received"]["update"];
    Ok(count.as_u64().unwrap_or_default())
}

fn heard(host: &Host, setup: &Setup, prefix: &str) -> Result<Vec<Heard>> {
    let words = ["neighbor", &remote(setup), "adj-in", "-a", family(prefix)];
    let table = json(host, &words)?;
    Ok(list(&table[prefix]).iter().map(path).collect())
}

fn path(path: &Value) -> Heard {
    let mut heard = Heard::default();
    for attribute in list(&path["attrs"]) {
        match attribute["type"].as_u64().unwrap_or_default() {
            2 => {
                let segments = list(&attribute["as_paths"]).iter();
                let asns = segments.flat_map(|segment| list(&segment["asns"]));
                heard.as_path = asns.filter_map(number).collect();
            }
            3 | 14 => heard.next_hop = word(&attribute["nexthop"]),
            4 => heard.med = number(&attribute["metric"]),
            5 => heard.local_pref = number(&attribute["value"]),
            8 => heard.communities = communities(list(&attribute["communities"])),
            32 => {
                let all = list(&attribute["value"]).iter();
                let text =
                    |c: &Value| format!("{}:{}:{}", c["ASN"], c["LocalData1"], c["LocalData2"]);
                heard.large_communities = all.map(text).collect();
            }
            _ => {}
        }
    }
    heard
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
    let paths = match setup.add_path {
        true => "[neighbors.afi-safis.add-paths.config]\nreceive = true\nsend-max = 8\n",
        false => "",
    };
    let family = |name: &&str| {
        format!(
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{name}\"\n\
             [neighbors.afi-safis.mp-graceful-restart.config]\nenabled = {graceful}\n{last_resort}{limit}{paths}\n"
        )
    };
    let families: String = families.iter().map(family).collect();
    format!(
        "[global.config]
as = {asn}
router-id = \"192.0.2.254\"
[global.apply-policy.config]
export-policy-list = [\"fast\"]
default-export-policy = \"accept-route\"
[[defined-sets.bgp-defined-sets.community-sets]]
community-set-name = \"fast\"
community-list = [\"{FAST}\"]
[[policy-definitions]]
name = \"fast\"
[[policy-definitions.statements]]
name = \"fast\"
[policy-definitions.statements.conditions.bgp-conditions.match-community-set]
community-set = \"fast\"
[policy-definitions.statements.actions]
route-disposition = \"accept-route\"
[policy-definitions.statements.actions.bgp-actions.set-ext-community]
options = \"add\"
[policy-definitions.statements.actions.bgp-actions.set-ext-community.set-ext-community-method]
communities-list = [\"lb:{asn}:{bytes_per_second}\"]
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
notification-enabled = {notifications}
{restart}
{families}",
        keep = hold / 3,
        notifications = setup.notifications,
        bytes_per_second = BANDWIDTH * 1_000_000 / 8,
    )
}
