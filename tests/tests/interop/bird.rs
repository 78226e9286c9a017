//! BIRD 2: as the daemon under test, and as the feeder.

use std::process::Command;
use std::time::Duration;

use routemesh_tests::lab::bird;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::process::Process;
use routemesh_tests::lab::report::wait_until;

use crate::daemon::{BANDWIDTH, Family, Heard, More, Route, SECOND_HOP, Setup, Ways, bandwidth};
use crate::lan::{fed_prefix, write};

/// The feeder's address.
pub const FEEDER: &str = "fd00:2::253";

/// What it announces when asked to: with so many large communities,
pub const LONG_PREFIX: &str = "2001:db8:2:8::/64";
pub const LONG: usize = 500;
/// and with an AS path as short as the daemon's, and a quarter of its bandwidth.
pub const SHARED_PREFIX: &str = "2001:db8:2:9::/64";

pub const WAYS: Ways = Ways {
    version: ("bird", "--version"),
    start,
    heard: |host, _, prefix| heard(host, prefix),
    announce,
    refresh,
    updates,
    shutdown,
    reset,
    state,
};

/// Starts a BIRD with this configuration and waits until it answers.
pub fn run(host: &Host, config: &str, again: bool) -> Result<Process> {
    let file = write(host, "bird.conf", config)?;
    let mut command = Command::new("bird");
    command.arg("-f").arg("-c").arg(file);
    command.arg("-s").arg(host.dir().join("bird.ctl"));
    command.arg("-P").arg(host.dir().join("bird.pid"));
    if again {
        command.arg("-R");
    }
    let mut process = host.spawn("bird", command)?;
    wait_until("BIRD", Duration::from_secs(20), || {
        process.check()?;
        ask(host, "show status").map(drop)
    })?;
    Ok(process)
}

/// `birdc COMMAND`.
pub fn ask(host: &Host, command: &str) -> Result<String> {
    bird::ask(&host.dir().join("bird.ctl"), command)
}

fn start(host: &Host, setup: &Setup, routes: &[Route], again: bool) -> Result<Vec<Process>> {
    Ok(vec![run(host, &config(setup, routes), again)?])
}

fn announce(host: &Host, setup: &Setup, _: &[Route], now: &[Route]) -> Result<()> {
    write(host, "bird.conf", &config(setup, now))?;
    ask(host, "configure").map(drop)
}

fn refresh(host: &Host, _: &Setup) -> Result<()> {
    ask(host, "reload in mesh").map(drop)
}

fn shutdown(host: &Host, _: &Setup, text: &str) -> Result<()> {
    ask(host, &format!("disable mesh \"{text}\"")).map(drop)
}

fn reset(host: &Host, _: &Setup) -> Result<()> {
    ask(host, "restart mesh").map(drop)
}

fn state(host: &Host, _: &Setup) -> Result<String> {
    ask(host, "show protocols all mesh")
}

fn updates(host: &Host, setup: &Setup) -> Result<u64> {
    let state = state(host, setup)?;
    let counts = state.lines().filter_map(|line| {
        let counts = line.trim().strip_prefix("Import updates:")?;
        counts.split_whitespace().next()?.parse::<u64>().ok()
    });
    Ok(counts.sum())
}

/// The paths to a prefix that a BIRD has from the gateway.
pub fn heard(host: &Host, prefix: &str) -> Result<Vec<Heard>> {
    let text = match ask(host, &format!("show route {prefix} all protocol mesh")) {
        Ok(text) => text,
        Err(LabError::Unexpected(text)) if text.contains("not found") => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut all = Vec::new();
    for line in text.lines() {
        if line.contains(" [mesh ") {
            all.push(Heard::default());
        }
        let (Some(heard), Some((key, value))) = (all.last_mut(), line.trim().split_once(": "))
        else {
            continue;
        };
        // "(65001,7) (65001,8)"
        let tuples = || {
            let tuples = value.split(") (").map(|one| one.trim_matches(['(', ')']));
            tuples
                .map(|one| one.replace(' ', "").replace(',', ":"))
                .collect()
        };
        match key {
            "BGP.next_hop" => {
                heard.next_hop = value.split(' ').next().unwrap_or_default().to_owned();
            }
            "BGP.as_path" => {
                heard.as_path = value
                    .split(' ')
                    .filter_map(|asn| asn.parse().ok())
                    .collect();
            }
            "BGP.community" => heard.communities = tuples(),
            "BGP.large_community" => heard.large_communities = tuples(),
            "BGP.med" => heard.med = value.parse().ok(),
            "BGP.local_pref" => heard.local_pref = value.parse().ok(),
            _ => {}
        }
    }
    Ok(all)
}

/// How many large communities are on a prefix: [`LONG`] or not.
pub fn large_communities(host: &Host, prefix: &str) -> Result<usize> {
    let filter = format!("where bgp_large_community.len = {LONG}");
    let shown = ask(host, &format!("show route {prefix} {filter}"))?;
    Ok(if shown.contains(prefix) { LONG } else { 0 })
}

fn config(setup: &Setup, routes: &[Route]) -> String {
    let on = |on: bool| if on { "on" } else { "aware" };
    let limit = setup
        .limit
        .map(|limit| format!("receive limit {limit} action disable;"));
    let limit = limit.unwrap_or_default();
    let mut more = String::new();
    if let Some(password) = setup.password {
        more += &format!("password \"{password}\";");
    }
    if setup.ttl_security {
        more += "ttl security on;";
    }
    if let Some(role) = setup.role {
        more += &format!("local role {role};");
    }
    if setup.long_lived {
        more += "graceful restart time 2; long lived graceful restart on; \
                 long lived stale time 60;";
    }
    let link = setup.scope();
    let route = |route: &Route| {
        let (prefix, more) = (&route.prefix, said(route.more, setup.asn()));
        format!(
            "route {prefix} unreachable {{ bgp_community.add((65001,7)); \
             bgp_large_community.add((65001,1,2)); {more} }};\n"
        )
    };
    // A table has one path to a prefix from one protocol.
    let protocols = [
        ("own4", Family::V4, false),
        ("own6", Family::V6, false),
        ("second4", Family::V4, true),
        ("second6", Family::V6, true),
    ];
    let protocol = |(name, family, second)| {
        let own = routes.iter().filter(|r| Family::of(&r.prefix) == family);
        let own = own.filter(|r| (r.more == More::SecondPath) == second);
        let (routes, channel): (String, _) = (own.map(route).collect(), channel_of(family));
        format!("protocol static {name} {{ {channel}; {routes}}}\n")
    };
    let statics: String = protocols.into_iter().map(protocol).collect();
    let channel = |name: &str, more: &str| {
        let paths = if setup.add_path { "on" } else { "off" };
        format!(
            "{name} {{ import all; export filter mine; next hop keep; add paths {paths}; \
             {more} {limit} }};\n"
        )
    };
    let channels = match setup.transport {
        Family::V4 => channel("ipv4", ""),
        Family::V6 => channel("ipv4", "extended next hop on;") + &channel("ipv6", ""),
    };
    format!(
        "log stderr all;
router id 192.0.2.254;
protocol device {{}}
filter mine {{ if source != RTS_STATIC then reject; bgp_med = 50; accept; }}
{statics}
protocol bgp mesh {{
    local {} as {};
    neighbor {}{link} as 65000;
    {more}
    hold time {};
    connect delay time 1;
    connect retry time 1;
    error wait time 1, 3;
    enable extended messages on;
    graceful restart {};
    {channels}
}}
",
        setup.local(),
        setup.asn(),
        setup.remote(),
        setup.hold_time,
        on(setup.graceful),
    )
}

fn channel_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// The attributes that say it.
fn said(more: More, asn: u32) -> String {
    match more {
        More::Nothing => String::new(),
        More::SecondPath => format!("bgp_next_hop = {SECOND_HOP};"),
        More::Bandwidth => add_bandwidth(asn, BANDWIDTH),
        More::Shutdown => "bgp_community.add((65535,0));".to_owned(),
    }
}

fn add_bandwidth(asn: u32, mbits: u32) -> String {
    let (high, low) = bandwidth(asn, mbits);
    format!("bgp_ext_community.add((generic,{high},{low}));")
}

/// The feeder's configuration.
pub fn feeder(setup: &Setup) -> String {
    let long: String = (0..LONG)
        .map(|n| format!("bgp_large_community.add((65002,2,{n}));\n"))
        .collect();
    let route = |family| {
        format!(
            "route {} unreachable {{ bgp_community.add((65002,7)); bgp_community.add((65002,8)); \
             bgp_large_community.add((65002,1,2)); bgp_ext_community.add((rt,65002,5)); \
             bgp_path.prepend(65333); }};",
            fed_prefix(family)
        )
    };
    format!(
        "log stderr all;
router id 192.0.2.253;
protocol device {{}}
filter mine {{ if source != RTS_STATIC then reject; bgp_med = 40; accept; }}
protocol static fed4 {{ ipv4; {} }}
protocol static fed6 {{ ipv6; {} }}
protocol static fedlong {{ disabled; ipv6; route {LONG_PREFIX} unreachable {{ {long} }}; }}
protocol static fedshared {{ disabled; ipv6; route {SHARED_PREFIX} unreachable {{
    bgp_community.add((65002,11)); {bandwidth} }}; }}
protocol static fedsecond {{ disabled; ipv6; route {SHARED_PREFIX} unreachable {{
    bgp_community.add((65002,12)); }}; }}
protocol bgp mesh {{
    local {FEEDER} as 65002;
    neighbor fd00:2::1 as 65000;
    connect delay time 1;
    connect retry time 1;
    error wait time 1, 3;
    enable extended messages on;
    ipv4 {{ import all; export filter mine; extended next hop on; next hop self; }};
    ipv6 {{ import all; export filter mine; next hop self; add paths {paths}; }};
}}
",
        route(Family::V4),
        route(Family::V6),
        bandwidth = add_bandwidth(65002, BANDWIDTH / 4),
        paths = if setup.add_path { "on" } else { "off" },
    )
}
