//! What a message means, in one line of text.

use ipnet::IpNet;
use routemesh_bgp::wire::*;
use std::fmt::Display;

pub fn meaning(message: &Message) -> String {
    match message {
        Message::Open(it) => open(it),
        Message::Update(it) => update(it),
        Message::Notification(it) => format!("notification: {it}"),
        Message::Keepalive => "keepalive".into(),
        Message::RouteRefresh(family, it) => format!("refresh of {family:?}: {it:?}"),
    }
}

fn open(open: &Open) -> String {
    let can = &open.capabilities;
    let mut said = format!(
        "open: AS {}, hold {}, id {}",
        open.asn, open.hold_time, open.router_id
    );
    let mut say = |is: bool, what: &str| {
        if is {
            said += "; ";
            said += what;
        }
    };
    for family in &can.families {
        say(true, &format!("{family:?}"));
    }
    say(can.extended_next_hop, "extended next hop");
    say(can.route_refresh, "refresh");
    say(can.enhanced_route_refresh, "enhanced refresh");
    say(can.extended_messages, "extended messages");
    say(can.four_octet_as, "4-octet AS");
    if let Some(it) = &can.graceful_restart {
        say(true, &format!("restart in {}", it.restart_time));
        say(it.restarting, "has restarted");
        say(it.notification, "N");
        for (family, kept) in &it.families {
            let kept = if *kept { " kept" } else { "" };
            say(true, &format!("restarts {family:?}{kept}"));
        }
    }
    for family in [Family::Ipv4, Family::Ipv6] {
        let it = can.add_path.of(family);
        say(it.receive, &format!("receives paths of {family:?}"));
        say(it.send, &format!("sends paths of {family:?}"));
        if let Some(it) = can.long_lived.of(family) {
            let kept = if it.forwarding { " kept" } else { "" };
            say(
                true,
                &format!("long-lived {family:?} {} s{kept}", it.seconds),
            );
        }
    }
    if let Some(role) = can.role {
        say(true, &format!("{role:?}"));
    }
    said
}

fn update(update: &Update) -> String {
    let mut said = Vec::new();
    if !update.withdrawn.is_empty() {
        said.push(format!("withdraw {}", prefixes(&update.withdrawn)));
    }
    for Reach { next_hop, prefixes } in &update.reach {
        let beside = next_hop.link_local.map(|it| format!(" and {it}"));
        said.push(format!(
            "announce {} via {}{}",
            self::prefixes(prefixes),
            next_hop.address,
            beside.unwrap_or_default()
        ));
    }
    if !update.reach.is_empty() {
        attributes(&update.attributes, &mut said);
    }
    if let Some(family) = update.end_of_rib {
        said.push(format!("end of {family:?}"));
    }
    said.join("; ")
}

fn prefixes(prefixes: &[(u32, IpNet)]) -> String {
    let each = prefixes.iter().map(|(id, prefix)| match id {
        0 => prefix.to_string(),
        id => format!("{id}:{prefix}"),
    });
    each.collect::<Vec<_>>().join(" ")
}

fn attributes(it: &Attributes, said: &mut Vec<String>) {
    said.push(format!("{:?}", it.origin));
    said.push(format!("path {}", path(&it.as_path.0)));
    let mut option = |name: &str, value: Option<&dyn Display>| {
        said.extend(value.map(|value| format!("{name} {value}")));
    };
    option("MED", it.med.as_ref().map(|it| it as _));
    option("preference", it.local_pref.as_ref().map(|it| it as _));
    let aggregator = it.aggregator.map(|(asn, id)| format!("{asn} at {id}"));
    option("aggregated by", aggregator.as_ref().map(|it| it as _));
    option("originator", it.originator_id.as_ref().map(|it| it as _));
    let customer = it.only_to_customer;
    option("only to customers of", customer.as_ref().map(|it| it as _));
    if it.atomic_aggregate {
        said.push("atomic".into());
    }
    let mut list = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            said.push(format!("{name} {}", values.join(" ")));
        }
    };
    let text = |it: &dyn Display| it.to_string();
    list(
        "clusters",
        it.cluster_list.iter().map(|it| text(it)).collect(),
    );
    let communities = it.communities.iter();
    let communities = communities.map(|it| format!("{}:{}", it >> 16, it & 0xffff));
    list("communities", communities.collect());
    let extended = it.extended_communities.iter();
    let extended = extended.map(|it| format!("{:016x}", u64::from_be_bytes(*it)));
    list("extended", extended.collect());
    let large = it.large_communities.iter();
    let large = large.map(|[a, b, c]| format!("{a}:{b}:{c}"));
    list("large", large.collect());
    if let Some(it) = LinkBandwidth::find(&it.extended_communities) {
        said.push(format!("{} bytes/s in AS {}", it.bytes_per_second, it.asn));
    }
    for unknown in &it.unknown {
        let value = String::from_utf8_lossy(&unknown.value);
        said.push(format!("attribute {} {value:?}", unknown.code));
    }
}

/// ASes, with runs of consecutive ones as "1001-1299".
fn path(ases: &[u32]) -> String {
    let runs = ases.chunk_by(|one, next| one.checked_add(1) == Some(*next));
    let runs = runs.map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        [only] => only.to_string(),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(" ")
}
