//! Messages to bytes.

use super::attribute::{MP_UNREACH_NLRI, OPTIONAL};
use super::decode::{
    HEADER_LENGTH, KEEPALIVE, MAX_LENGTH, NOTIFICATION, OPEN, ROUTE_REFRESH, UPDATE,
};
use super::pack::{self, Shape};
use super::{Attributes, Context, Family, Message, NextHop, Notification, Reach, Update};
use super::{encode_attributes, nlri, open};
use ipnet::IpNet;
use std::net::IpAddr;

/// Appends `message` to `out` as one message of at most 4,096 bytes, or as several where an
/// UPDATE has more prefixes than fit into one, or prefixes of several kinds (RFC 7606 section 5.1).
/// Withdrawals come first, then announcements, then End-of-RIB. An UPDATE that says nothing appends
/// nothing, as bytes that said nothing would be End-of-RIB.
///
/// All bytes are valid for the peer. What cannot be said is left out:
///
/// - A prefix whose attributes leave no room for it (RFC 4271 section 9.2), or whose next hop the
///   peer cannot take (IPv6 for IPv4 without [`Context::extended_next_hop`], IPv4 for IPv6), is
///   withdrawn instead, so that the peer does not keep an older path.
/// - LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST go to internal peers only.
/// - Repeated large communities go once, empty AS_PATH segments and unknown attributes with a code
///   that is known not at all, and the data of a NOTIFICATION as far as it fits.
pub fn encode(message: &Message, context: &Context, out: &mut Vec<u8>) {
    match message {
        Message::Open(open) => frame(OPEN, out, |out| open::write(open, out)),
        Message::Update(update) => write_update(update, context, out),
        Message::Notification(notification) => {
            frame(NOTIFICATION, out, |out| {
                write_notification(notification, out)
            });
        }
        Message::Keepalive => frame(KEEPALIVE, out, |_| {}),
        Message::RouteRefresh(family) => frame(ROUTE_REFRESH, out, |out| {
            out.extend(nlri::afi(*family).to_be_bytes());
            out.extend([0, nlri::UNICAST]);
        }),
    }
}

/// Appends a message with what `body` writes.
fn frame(kind: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    pack::write_header(kind, out);
    body(out);
    let length = out.len() - start;
    pack::grow(out, start + pack::LENGTH, length);
}

fn write_notification(notification: &Notification, out: &mut Vec<u8>) {
    out.extend([notification.code, notification.subcode]);
    let room = MAX_LENGTH - HEADER_LENGTH - 2;
    out.extend(notification.data.iter().take(room));
}

fn write_update(update: &Update, context: &Context, out: &mut Vec<u8>) {
    withdraw(&update.withdrawn, out);
    for reach in &update.reach {
        announce(reach, &update.attributes, context, out);
    }
    if let Some(family) = update.end_of_rib {
        frame(UPDATE, out, |out| write_end_of_rib(family, out));
    }
}

fn withdraw(prefixes: &[IpNet], out: &mut Vec<u8>) {
    for family in [Family::Ipv4, Family::Ipv6] {
        let of_family = |prefix: &&IpNet| Family::of(prefix) == family;
        // A prefix and nothing else always fits.
        Shape::withdraw(family).pack(prefixes.iter().filter(of_family), out);
    }
}

fn announce(reach: &Reach, attributes: &Attributes, context: &Context, out: &mut Vec<u8>) {
    for family in [Family::Ipv4, Family::Ipv6] {
        let of_family = |prefix: &&IpNet| Family::of(prefix) == family;
        let mut prefixes = reach.prefixes.iter().filter(of_family).peekable();
        if prefixes.peek().is_none() {
            continue;
        }
        let unsent = announce_family(family, prefixes, &reach.next_hop, attributes, context, out);
        withdraw(&unsent, out);
    }
}

/// Returns the prefixes that could not be announced.
fn announce_family<'p>(
    family: Family,
    prefixes: impl Iterator<Item = &'p IpNet>,
    next_hop: &NextHop,
    attributes: &Attributes,
    context: &Context,
    out: &mut Vec<u8>,
) -> Vec<IpNet> {
    match (family, next_hop.address) {
        (Family::Ipv4, IpAddr::V4(address)) => {
            let attributes = encode_attributes::write(attributes, Some(address), context);
            Shape::announce(&attributes).pack(prefixes, out)
        }
        (Family::Ipv4, IpAddr::V6(_)) if !context.extended_next_hop => prefixes.copied().collect(),
        (Family::Ipv6, IpAddr::V4(_)) => prefixes.copied().collect(),
        (_, IpAddr::V6(_)) => {
            let attributes = encode_attributes::write(attributes, None, context);
            Shape::announce_mp(family, next_hop, &attributes).pack(prefixes, out)
        }
    }
}

/// RFC 4724 section 2.
fn write_end_of_rib(family: Family, out: &mut Vec<u8>) {
    out.extend([0, 0]);
    match family {
        Family::Ipv4 => out.extend([0, 0]),
        Family::Ipv6 => {
            out.extend([0, 6, OPTIONAL, MP_UNREACH_NLRI, 3]);
            out.extend(nlri::afi(family).to_be_bytes());
            out.push(nlri::UNICAST);
        }
    }
}
