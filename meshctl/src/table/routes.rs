//! What one gateway forwards, announces and refuses.

use super::{Look, ago, near_limit, table};
use routemesh_proto::{BgpStatus, Routes};

/// One gateway's routes, what it announces, and how much it refused.
pub(crate) fn routes(routes: &Routes, look: Look) -> String {
    let mut parts = vec![headline(routes)];
    if !routes.routes.is_empty() {
        parts.push(forwarded(routes, look));
    }
    if !routes.announced.is_empty() {
        let announced = routes.announced.join(" ");
        let more = more(routes.announced_total, routes.announced.len());
        parts.push(format!("announces {announced}\n{more}"));
    }
    match routes.rejected_total.max(routes.rejected.len() as u64) {
        0 => {}
        total => parts.push(format!(
            "refuses {total}: meshctl routes {} --rejected\n",
            routes.gateway
        )),
    }
    parts.join("\n")
}

/// One gateway's BGP peers, and what they announced that is not used.
pub(crate) fn rejected(routes: &Routes, look: Look) -> String {
    let mut parts = vec![headline(routes)];
    let tunnels = routes.tunnels.iter().map(|it| (&it.peer, it.bgp.as_ref()));
    let routers = routes.routers.iter();
    let routers = routers.map(|it| (&it.address, it.bgp.as_ref()));
    let peers: Vec<(&String, &BgpStatus)> = tunnels
        .chain(routers)
        .filter_map(|(name, bgp)| Some((name, bgp?)))
        .collect();
    if !peers.is_empty() {
        parts.push(peers_table(&peers, look));
    }
    if routes.rejected.is_empty() {
        parts.push("refuses nothing\n".to_owned());
    } else {
        let mut table = table(look, &["REFUSED", "FROM", "REASON"]);
        for rejected in &routes.rejected {
            table.add_row([&rejected.prefix, &rejected.peer, &rejected.reason]);
        }
        let more = more(routes.rejected_total, routes.rejected.len());
        parts.push(format!("{}\n{more}", table.trim_fmt()));
    }
    parts.join("\n")
}

fn headline(routes: &Routes) -> String {
    format!("{}, reported {}\n", routes.gateway, ago(routes.reported))
}

/// A line that says how many are not listed.
fn more(total: u64, listed: usize) -> String {
    match total.saturating_sub(listed as u64) {
        0 => String::new(),
        rest => format!("… and {rest} more\n"),
    }
}

fn forwarded(routes: &Routes, look: Look) -> String {
    let mut header = vec!["PREFIX", "VIA", "INTERFACE", "NEXTHOP"];
    let paths = routes.routes.iter().flat_map(|route| &route.paths);
    let weighted = paths.clone().any(|path| path.weight > 1);
    if weighted {
        header.push("WEIGHT");
    }
    let mut table = table(look, &header);
    for route in &routes.routes {
        for (i, path) in route.paths.iter().enumerate() {
            let prefix = if i == 0 { route.prefix.as_str() } else { "" };
            let mut row = vec![prefix, &path.via, &path.interface, &path.address];
            let weight = path.weight.max(1).to_string();
            if weighted {
                row.push(&weight);
            }
            table.add_row(row);
        }
        if route.paths.is_empty() {
            table.add_row([route.prefix.as_str(), "unreachable", "", ""]);
        }
    }
    let more = more(routes.routes_total, routes.routes.len());
    format!("{}\n{more}", table.trim_fmt())
}

fn peers_table(peers: &[(&String, &BgpStatus)], look: Look) -> String {
    let header = [
        "PEER",
        "STATE",
        "RECEIVED",
        "REFUSED",
        "TOLD",
        "MESSAGES IN/OUT",
        "FAULTS",
        "LAST NOTIFICATION",
    ];
    let mut table = table(look, &header);
    for (name, bgp) in peers {
        table.add_row([
            name.as_str(),
            &bgp.state,
            &near_limit(bgp).unwrap_or_else(|| bgp.received.to_string()),
            &bgp.rejected.to_string(),
            &bgp.advertised.to_string(),
            &format!("{}/{}", bgp.messages_received, bgp.messages_sent),
            &faults(bgp),
            &bgp.last_notification,
        ]);
    }
    table.trim_fmt() + "\n"
}

/// Malformed attributes, by what was done about them (RFC 7606).
fn faults(bgp: &BgpStatus) -> String {
    let faults = bgp.faults.iter().map(|fault| {
        let (count, action) = (fault.count, &fault.action);
        match fault.attribute {
            0 => format!("{count} x {action}"),
            attribute => format!("{count} x {action} (attribute {attribute})"),
        }
    });
    let faults: Vec<String> = faults.collect();
    match faults.as_slice() {
        [] => "0".to_owned(),
        faults => faults.join("\n"),
    }
}
