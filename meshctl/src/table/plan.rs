//! A plan, for somebody who has to decide on it at once.

use super::{Look, count};
use comfy_table::Color;
use routemesh_proto::{Counts, FieldPlan, GatewayPlan, Plan, SitePlan, TunnelPlan};

/// Of a gateway's tunnels that change alike, so many are named.
const NAMED: usize = 4;

/// What would change, or did: sites, then gateways, then the sum in one line.
pub(crate) fn plan(plan: &Plan, look: Look) -> String {
    let mut out = String::new();
    for site in &plan.sites {
        out += &self::site(site, look);
    }
    let listed = alike(&plan.gateways);
    for (gateways, planned) in &listed {
        out += &gateway(gateways, planned, look);
    }
    let gateways = plan.gateway_counts.unwrap_or_default();
    let all = gateways.added + gateways.removed + gateways.changed;
    let cut = all.saturating_sub(plan.gateways.len() as u64);
    if cut > 0 {
        out += &format!("  and {cut} more gateways\n");
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out + &sum(plan) + "\n"
}

/// Whether there is nothing to do.
pub(crate) fn is_empty(plan: &Plan) -> bool {
    plan.sites.is_empty() && plan.gateways.is_empty()
}

fn sum(plan: &Plan) -> String {
    if is_empty(plan) {
        return "no changes".to_owned();
    }
    let words = |counts: Option<Counts>, what: &str| {
        let Counts {
            added,
            removed,
            changed,
        } = counts.unwrap_or_default();
        format!("{what}: {added} to add, {changed} to change, {removed} to remove")
    };
    format!(
        "{}; {}",
        words(plan.gateway_counts, "gateways"),
        words(plan.tunnel_counts, "tunnels")
    )
}

fn site(site: &SitePlan, look: Look) -> String {
    let owns = |sign: &str, prefixes: &[String]| {
        let each = prefixes.iter().map(|it| format!("{sign}{it}"));
        each.collect::<Vec<_>>()
    };
    let mut prefixes = owns("+", &site.added);
    prefixes.extend(owns("-", &site.removed));
    let line = format!("{} {}  {}", site.kind, site.name, prefixes.join(" "));
    marked(&site.change, line.trim_end(), look)
}

/// Gateways of which the same is to be told, together: whoever joins changes all others alike.
fn alike(all: &[GatewayPlan]) -> Vec<(Vec<&str>, &GatewayPlan)> {
    let mut groups: Vec<(Vec<&str>, &GatewayPlan)> = Vec::new();
    for planned in all {
        match groups.iter_mut().find(|(_, first)| same(first, planned)) {
            Some((names, _)) => names.push(&planned.name),
            None => groups.push((vec![&planned.name], planned)),
        }
    }
    groups
}

fn same(one: &GatewayPlan, other: &GatewayPlan) -> bool {
    let mut tunnels = one.tunnels.iter().zip(&other.tunnels);
    one.change == "change"
        && other.change == "change"
        && one.fields == other.fields
        && one.counts == other.counts
        && one.tunnels.len() == other.tunnels.len()
        && tunnels.all(|(x, y)| x.peer == y.peer && x.change == y.change && x.fields == y.fields)
}

fn gateway(names: &[&str], planned: &GatewayPlan, look: Look) -> String {
    let who = match names {
        [_] => format!("gateway {} ({})", planned.name, planned.site),
        _ => format!("gateways {}", some(names)),
    };
    let counts = planned.counts.unwrap_or_default();
    let tunnels = |n: u64| count(u32::try_from(n).unwrap_or(u32::MAX), "tunnel");
    // What comes or goes whole needs no list.
    let whole = match planned.change.as_str() {
        "add" => Some(format!(" joins, with {}", tunnels(counts.added))),
        "remove" => Some(format!(" leaves, with {}", tunnels(counts.removed))),
        _ => None,
    };
    if let Some(whole) = whole {
        return marked(&planned.change, &(who + &whole), look);
    }
    let mut out = marked("change", &who, look);
    for field in &planned.fields {
        out += &format!("      {}\n", self::field(field));
    }
    for (tunnels, first) in tunnels_alike(&planned.tunnels) {
        let to: Vec<&str> = tunnels.iter().map(|it| it.peer.as_str()).collect();
        let what = match tunnels.as_slice() {
            [one] if names.len() == 1 => format!("tunnel rm{} to {}", one.number, one.peer),
            [one] => format!("tunnel to {}", one.peer),
            many => format!("{} tunnels to {}", many.len(), some(&to)),
        };
        out += &format!("    {}", marked(&first.change, &what, look));
        for field in &first.fields {
            out += &format!("          {}\n", self::field(field));
        }
    }
    let all = counts.added + counts.removed + counts.changed;
    let cut = all.saturating_sub(planned.tunnels.len() as u64);
    if cut > 0 {
        out += &format!("      and {cut} more tunnels\n");
    }
    out
}

fn tunnels_alike(all: &[TunnelPlan]) -> Vec<(Vec<&TunnelPlan>, &TunnelPlan)> {
    let mut groups: Vec<(Vec<&TunnelPlan>, &TunnelPlan)> = Vec::new();
    for planned in all {
        let same = |(_, first): &&mut (Vec<&TunnelPlan>, &TunnelPlan)| {
            first.change == planned.change && first.fields == planned.fields
        };
        match groups.iter_mut().find(same) {
            Some((tunnels, _)) => tunnels.push(planned),
            None => groups.push((vec![planned], planned)),
        }
    }
    groups
}

fn some(names: &[&str]) -> String {
    match names.get(..NAMED) {
        Some(first) if names.len() > NAMED => {
            format!("{} and {} more", first.join(", "), names.len() - NAMED)
        }
        _ => names.join(", "),
    }
}

fn field(field: &FieldPlan) -> String {
    let or_none = |text: &str| match text {
        "" => "(none)".to_owned(),
        text => text.to_owned(),
    };
    format!(
        "{}: {} -> {}",
        field.name,
        or_none(&field.before),
        or_none(&field.after)
    )
}

fn marked(change: &str, line: &str, look: Look) -> String {
    let (sign, paint) = match change {
        "add" => ('+', Color::Green),
        "remove" => ('-', Color::Red),
        _ => ('~', Color::Yellow),
    };
    look.paint(paint, &format!("{sign} {line}")) + "\n"
}
