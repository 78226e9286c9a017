//! Messages to bytes.

use super::attribute::{MP_UNREACH_NLRI, OPTIONAL};
use super::frame::{HEADER_LENGTH, Kind};
use super::pack::{self, Shape};
use super::{Attributes, Context, Family, Message, NextHop, Notification, Refresh, Update};
use super::{nlri, open};
use ipnet::IpNet;
use std::net::IpAddr;

/// Appends `message` to `out` as one message, or as several where an UPDATE has more prefixes than
/// fit into one, or prefixes of several kinds (RFC 7606 section 5.1). Withdrawals come first, then
/// announcements, then End-of-RIB. An UPDATE that says nothing appends nothing, as bytes that said
/// nothing would be End-of-RIB.
///
/// All bytes are valid for the peer. What cannot be said is left out:
///
/// - What [`announce`] cannot.
/// - The data of a NOTIFICATION as far as it does not fit.
/// - Path identifiers, where the peer does not take them (RFC 7911).
/// - The beginning and the end of a refresh, unless both sides have RFC 7313.
pub fn encode(message: &Message, context: &Context, out: &mut Vec<u8>) {
    match message {
        Message::Open(open) => frame(Kind::Open, out, |out| open::write(open, out)),
        Message::Update(update) => write_update(update, context, out),
        Message::Notification(notification) => {
            frame(Kind::Notification, out, |out| {
                write_notification(notification, context, out)
            });
        }
        Message::Keepalive => frame(Kind::Keepalive, out, |_| {}),
        Message::RouteRefresh(family, refresh) => {
            write_route_refresh(*family, *refresh, context, out);
        }
    }
}

/// Appends UPDATEs that withdraw `prefixes`, all of one family, with their path identifiers.
pub fn withdraw(
    family: Family,
    prefixes: impl IntoIterator<Item = (u32, IpNet)>,
    context: &Context,
    out: &mut Vec<u8>,
) {
    // A prefix and nothing else always fits.
    Shape::withdraw(family, context).pack(prefixes.into_iter(), out);
}

/// Appends UPDATEs that announce `prefixes`, all of one family, with their path identifiers.
///
/// What cannot be said is left out:
///
/// - A prefix whose attributes leave no room for it (RFC 4271 section 9.2), or whose next hop the
///   peer cannot take (IPv6 for IPv4 without [`Context::extended_next_hop`], IPv4 for IPv6), is
///   withdrawn instead, so that the peer does not keep an older path. These are returned.
/// - LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST go to internal peers only.
/// - Repeated communities go once, unknown attributes with a code that is known not at all.
pub fn announce(
    family: Family,
    next_hop: &NextHop,
    attributes: &Attributes,
    prefixes: impl IntoIterator<Item = (u32, IpNet)>,
    context: &Context,
    out: &mut Vec<u8>,
) -> Vec<(u32, IpNet)> {
    let prefixes = prefixes.into_iter();
    let unsent = match (family, next_hop.address) {
        (Family::Ipv4, IpAddr::V4(address)) => {
            Shape::announce(address, attributes, context).pack(prefixes, out)
        }
        (Family::Ipv4, IpAddr::V6(_)) if !context.extended_next_hop => prefixes.collect(),
        (Family::Ipv6, IpAddr::V4(_)) => prefixes.collect(),
        (_, IpAddr::V6(_)) => {
            Shape::announce_mp(family, next_hop, attributes, context).pack(prefixes, out)
        }
    };
    if !unsent.is_empty() {
        withdraw(family, unsent.iter().copied(), context, out);
    }
    unsent
}

/// Appends a message with what `body` writes.
fn frame(kind: Kind, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    pack::write_header(kind, out);
    body(out);
    let length = out.len() - start;
    pack::grow(out, start + pack::LENGTH, length);
}

fn write_notification(notification: &Notification, context: &Context, out: &mut Vec<u8>) {
    out.extend([notification.code, notification.subcode]);
    let room = pack::max_length(context) - HEADER_LENGTH - 2;
    out.extend(notification.data.iter().take(room));
}

fn write_route_refresh(family: Family, refresh: Refresh, context: &Context, out: &mut Vec<u8>) {
    let subtype = match refresh {
        Refresh::Request => 0,
        _ if !context.enhanced_route_refresh => return,
        Refresh::Begin => 1,
        Refresh::End => 2,
    };
    frame(Kind::RouteRefresh, out, |out| {
        out.extend(nlri::afi(family).to_be_bytes());
        out.extend([subtype, nlri::UNICAST]);
    });
}

fn write_update(update: &Update, context: &Context, out: &mut Vec<u8>) {
    for family in [Family::Ipv4, Family::Ipv6] {
        withdraw(family, of_family(&update.withdrawn, family), context, out);
    }
    for reach in &update.reach {
        for family in [Family::Ipv4, Family::Ipv6] {
            let prefixes = of_family(&reach.prefixes, family);
            let (next_hop, attributes) = (&reach.next_hop, &update.attributes);
            announce(family, next_hop, attributes, prefixes, context, out);
        }
    }
    if let Some(family) = update.end_of_rib {
        frame(Kind::Update, out, |out| write_end_of_rib(family, out));
    }
}

fn of_family(prefixes: &[(u32, IpNet)], family: Family) -> impl Iterator<Item = (u32, IpNet)> {
    let prefixes = prefixes.iter().copied();
    prefixes.filter(move |(_, prefix)| Family::of(prefix) == family)
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

#[cfg(test)]
mod tests {
    use super::super::{AsPath, Reach, UnknownAttribute, decode};
    use super::*;
    use ipnet::{Ipv4Net, Ipv6Net};
    use std::net::{Ipv4Addr, Ipv6Addr};

    const INTERNAL: Context = Context {
        four_octet_as: true,
        extended_next_hop: true,
        internal: true,
        ..Context::UNKNOWN
    };
    const IPV4_HOP: NextHop = NextHop {
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
        link_local: None,
    };
    const IPV6_HOP: NextHop = NextHop {
        address: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        link_local: None,
    };

    fn ipv4(length: u8) -> IpNet {
        IpNet::V4(Ipv4Net::new_assert(
            Ipv4Addr::new(10, 255, 255, 255),
            length,
        ))
    }

    fn ipv6(length: u8) -> IpNet {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 0);
        IpNet::V6(Ipv6Net::new_assert(address, length))
    }

    fn without_ids(prefixes: &[IpNet]) -> Vec<(u32, IpNet)> {
        prefixes.iter().map(|prefix| (0, *prefix)).collect()
    }

    /// As they arrive.
    fn arrived(prefixes: &[IpNet]) -> Vec<(u32, IpNet)> {
        prefixes.iter().map(|prefix| (0, prefix.trunc())).collect()
    }

    /// An attribute that takes `size` bytes.
    fn filler(code: u8, size: usize) -> UnknownAttribute {
        let header = if size - 3 > 255 { 4 } else { 3 };
        UnknownAttribute {
            code,
            value: vec![code; size - header],
        }
    }

    fn update(next_hop: NextHop, prefixes: Vec<IpNet>, unknown: Vec<UnknownAttribute>) -> Update {
        let prefixes = without_ids(&prefixes);
        Update {
            reach: vec![Reach { next_hop, prefixes }],
            attributes: Attributes {
                unknown,
                ..Attributes::default()
            },
            ..Update::default()
        }
    }

    fn encoded(message: Message, context: &Context) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&message, context, &mut bytes);
        bytes
    }

    /// Encodes an UPDATE and decodes all that becomes of it.
    fn exchange(update: Update, context: &Context) -> Vec<(usize, Update)> {
        let bytes = encoded(Message::Update(update), context);
        let mut rest = bytes.as_slice();
        let mut updates = Vec::new();
        while let Ok(Some(decoded)) = decode(rest, context) {
            assert_eq!(decoded.faults, []);
            if let Message::Update(update) = decoded.message {
                updates.push((decoded.length, update.to_update()));
            }
            rest = rest.get(decoded.length..).unwrap_or_default();
        }
        assert!(rest.is_empty());
        updates
    }

    #[test]
    fn a_message_can_be_exactly_full_and_no_fuller() {
        // 19 header, 4 lengths, 4 ORIGIN, 3 AS_PATH, 7 NEXT_HOP.
        let attributes = 4096 - 19 - 4 - 4 - 3 - 7 - 5;
        let full = update(IPV4_HOP, vec![ipv4(32); 2], vec![filler(99, attributes)]);
        let lengths: Vec<usize> = exchange(full, &INTERNAL).iter().map(|one| one.0).collect();
        assert_eq!(lengths, [4096, 4096]);
        // 19 header, 4 lengths, 4 + 21 MP_REACH_NLRI, 4 ORIGIN, 3 AS_PATH.
        let attributes = 4096 - 19 - 4 - 25 - 4 - 3 - 17;
        let full = update(IPV6_HOP, vec![ipv6(128); 2], vec![filler(99, attributes)]);
        let lengths: Vec<usize> = exchange(full, &INTERNAL).iter().map(|one| one.0).collect();
        assert_eq!(lengths, [4096, 4096]);
    }

    #[test]
    fn a_prefix_that_its_attributes_leave_no_room_for_is_withdrawn() {
        // Room for three bytes of prefix.
        let attributes = 4096 - 19 - 4 - 4 - 3 - 7 - 4;
        let prefixes = vec![ipv4(32), ipv4(8), ipv4(24), ipv4(25)];
        let tight = update(IPV4_HOP, prefixes, vec![filler(99, attributes)]);
        let updates: Vec<Update> = exchange(tight, &INTERNAL)
            .into_iter()
            .map(|one| one.1)
            .collect();
        let announced = updates.iter().flat_map(|update| &update.reach);
        let announced: Vec<_> = announced.flat_map(|reach| reach.prefixes.clone()).collect();
        assert_eq!(announced, arrived(&[ipv4(8), ipv4(24)]));
        let withdrawn: Vec<_> = updates
            .into_iter()
            .flat_map(|update| update.withdrawn)
            .collect();
        assert_eq!(withdrawn, arrived(&[ipv4(32), ipv4(25)]));
    }

    #[test]
    fn attributes_longer_than_any_length_field_do_no_harm() {
        for unknown in [
            vec![filler(99, 70_000)],
            (200..=255).map(|code| filler(code, 4000)).collect(),
            vec![filler(99, 65_530), filler(100, 65_530)],
        ] {
            for (next_hop, prefix) in [
                (IPV4_HOP, ipv4(8)),
                (IPV6_HOP, ipv6(32)),
                (IPV6_HOP, ipv4(8)),
            ] {
                let huge = update(next_hop, vec![prefix], unknown.clone());
                let updates = exchange(huge, &INTERNAL);
                assert_eq!(updates.len(), 1);
                assert_eq!(updates[0].1.withdrawn, arrived(&[prefix]));
            }
        }
    }

    #[test]
    fn what_the_peer_cannot_take_is_withdrawn() {
        let plain = Context {
            extended_next_hop: false,
            ..INTERNAL
        };
        for (context, next_hop, prefix) in
            [(plain, IPV6_HOP, ipv4(8)), (INTERNAL, IPV4_HOP, ipv6(32))]
        {
            let updates = exchange(update(next_hop, vec![prefix], vec![]), &context);
            assert_eq!(updates.len(), 1);
            assert_eq!(updates[0].1.withdrawn, arrived(&[prefix]));
            assert_eq!(updates[0].1.reach, []);
        }
    }

    #[test]
    fn a_mixture_of_families_is_sorted_out() {
        let mixed = vec![ipv6(32), ipv4(8), ipv6(48), ipv4(16)];
        let updates = exchange(update(IPV6_HOP, mixed, vec![]), &INTERNAL);
        let reach = |index: usize| &updates[index].1.reach[0].prefixes;
        assert_eq!(updates.len(), 2);
        assert_eq!(*reach(0), arrived(&[ipv4(8), ipv4(16)]));
        assert_eq!(*reach(1), arrived(&[ipv6(32), ipv6(48)]));
    }

    #[test]
    fn an_external_peer_does_not_see_what_is_internal() {
        let mut internal = update(IPV4_HOP, vec![ipv4(8)], vec![]);
        internal.attributes.local_pref = Some(200);
        internal.attributes.originator_id = Some(Ipv4Addr::new(1, 1, 1, 1));
        internal.attributes.cluster_list = vec![Ipv4Addr::new(2, 2, 2, 2)];
        let external = Context {
            internal: false,
            ..INTERNAL
        };
        // Any of the three would be a fault.
        let updates = exchange(internal, &external);
        assert_eq!(updates[0].1.attributes, Attributes::default());
    }

    #[test]
    fn attributes_stand_in_ascending_order() {
        let mut all = update(IPV6_HOP, vec![ipv6(32)], vec![]);
        all.attributes = Attributes {
            as_path: AsPath(vec![70_000]),
            med: Some(1),
            local_pref: Some(1),
            atomic_aggregate: true,
            aggregator: Some((70_000, Ipv4Addr::LOCALHOST)),
            communities: vec![1],
            originator_id: Some(Ipv4Addr::LOCALHOST),
            cluster_list: vec![Ipv4Addr::LOCALHOST],
            extended_communities: vec![[1; 8]],
            large_communities: vec![[1; 3], [1; 3]],
            // The last one is none: MED is known.
            unknown: [11, 20, 99, 4].map(|code| filler(code, 5)).to_vec(),
            ..Attributes::default()
        };
        let context = Context {
            four_octet_as: false,
            ..INTERNAL
        };
        let bytes = encoded(Message::Update(all), &context);
        let mut reader = super::super::reader::Reader::new(bytes.get(23..).unwrap_or_default());
        let mut codes = Vec::new();
        while let Some(attribute) = super::super::attribute::Attribute::read(&mut reader) {
            codes.push(attribute.code);
        }
        assert!(reader.is_empty());
        // MP_REACH_NLRI is first in any case (RFC 7606 section 5.1).
        let expected = [14, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 20, 32, 99];
        assert_eq!(codes, expected);
    }

    #[test]
    fn messages_are_filled_to_the_last_byte() {
        // 4096 - 23 bytes are room for 814 prefixes of five bytes and one of three.
        let mut withdrawn = vec![ipv4(32); 814];
        withdrawn.push(ipv4(16));
        let one = Update {
            withdrawn: without_ids(&withdrawn),
            ..Update::default()
        };
        let lengths: Vec<usize> = exchange(one, &INTERNAL).iter().map(|one| one.0).collect();
        assert_eq!(lengths, [4096]);
    }

    #[test]
    fn communities_go_once() {
        let mut repeated = update(IPV4_HOP, vec![ipv4(8)], vec![]);
        repeated.attributes.large_communities = vec![[1; 3], [2; 3], [1; 3]];
        repeated.attributes.extended_communities = vec![[2; 8], [1; 8], [2; 8]];
        repeated.attributes.communities = vec![1, 1];
        let twice = encoded(Message::Update(repeated.clone()), &INTERNAL);
        repeated.attributes.large_communities.truncate(2);
        repeated.attributes.extended_communities.truncate(2);
        repeated.attributes.communities.truncate(1);
        assert_eq!(twice, encoded(Message::Update(repeated), &INTERNAL));
    }

    #[test]
    fn data_of_a_notification_is_cut_to_fit() {
        let long = Notification::new(6, 2, vec![7; 10_000]);
        let bytes = encoded(Message::Notification(long), &INTERNAL);
        assert_eq!(bytes.len(), 4096);
        assert!(matches!(decode(&bytes, &INTERNAL), Ok(Some(_))));
    }

    #[test]
    fn nothing_to_say_is_not_end_of_rib() {
        let mut nothing = update(IPV4_HOP, vec![], vec![]);
        nothing.attributes.med = Some(1);
        assert!(encoded(Message::Update(nothing), &INTERNAL).is_empty());
    }
}
