//! Arbitrary valid messages.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use routemesh_bgp::wire::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub fn context() -> impl Strategy<Value = Context> {
    let flags = any::<(bool, bool, bool, bool)>();
    (flags, directions(), per_family(directions())).prop_map(
        |(flags, extended_messages, add_path)| {
            let (four_octet_as, extended_next_hop, internal, enhanced_route_refresh) = flags;
            Context {
                four_octet_as,
                extended_next_hop,
                internal,
                extended_messages,
                enhanced_route_refresh,
                add_path,
            }
        },
    )
}

fn directions() -> impl Strategy<Value = Directions> + Clone {
    any::<(bool, bool)>().prop_map(|(receive, send)| Directions { receive, send })
}

fn per_family<S: Strategy + Clone>(strategy: S) -> impl Strategy<Value = PerFamily<S::Value>> {
    (strategy.clone(), strategy).prop_map(|(ipv4, ipv6)| PerFamily { ipv4, ipv6 })
}

/// The same session as seen from the other side.
pub fn of_receiver(sender: &Context) -> Context {
    let turned = |it: Directions| Directions {
        receive: it.send,
        send: it.receive,
    };
    Context {
        extended_messages: turned(sender.extended_messages),
        add_path: PerFamily {
            ipv4: turned(sender.add_path.ipv4),
            ipv6: turned(sender.add_path.ipv6),
        },
        ..*sender
    }
}

/// A message that `context` allows, small enough for one message on the wire.
pub fn message(context: Context) -> impl Strategy<Value = Message> {
    prop_oneof![
        1 => open().prop_map(Message::Open),
        6 => small_update(context).prop_map(Message::Update),
        1 => notification().prop_map(Message::Notification),
        1 => Just(Message::Keepalive),
        1 => (family(), refresh(context)).prop_map(|(family, it)| Message::RouteRefresh(family, it)),
    ]
}

fn refresh(context: Context) -> impl Strategy<Value = Refresh> {
    let all = [Refresh::Request, Refresh::Begin, Refresh::End];
    let possible: usize = if context.enhanced_route_refresh { 3 } else { 1 };
    (0..possible).prop_map(move |index| all[index])
}

pub fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
}

fn ipv4() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from)
}

fn ipv6() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(Ipv6Addr::from)
}

pub fn open() -> impl Strategy<Value = Open> {
    let hold_time = prop_oneof![Just(0), 3..=u16::MAX];
    (1..=u32::MAX, hold_time, 1..=u32::MAX, capabilities()).prop_map(
        |(asn, hold_time, router_id, capabilities)| Open {
            // Without the capability the AS has two octets.
            asn: match capabilities.four_octet_as {
                true => asn,
                false => asn % 65535 + 1,
            },
            hold_time,
            router_id: router_id.into(),
            capabilities,
        },
    )
}

prop_compose! {
    fn capabilities()(
        families in btree_set(family(), 0..=2),
        flags in any::<(bool, bool, bool, bool, bool)>(),
        graceful_restart in option::of(graceful_restart()),
        role in option::of(role()),
        add_path in per_family(directions()),
        long_lived in per_family(option::of(long_lived())),
    ) -> Capabilities {
        let (extended_next_hop, route_refresh, four_octet_as, enhanced, extended_messages) = flags;
        Capabilities {
            families,
            extended_next_hop,
            route_refresh,
            four_octet_as,
            graceful_restart,
            enhanced_route_refresh: enhanced,
            extended_messages,
            role,
            add_path,
            long_lived,
        }
    }
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![
        Just(Role::Provider),
        Just(Role::RouteServer),
        Just(Role::RouteServerClient),
        Just(Role::Customer),
        Just(Role::Peer),
        (5..=255_u8).prop_map(Role::Unassigned),
    ]
}

fn long_lived() -> impl Strategy<Value = LongLived> + Clone {
    (any::<bool>(), 0..1_u32 << 24).prop_map(|(forwarding, seconds)| LongLived {
        forwarding,
        seconds,
    })
}

fn graceful_restart() -> impl Strategy<Value = GracefulRestart> {
    let families = btree_map(family(), any::<bool>(), 0..=2);
    (any::<(bool, bool)>(), 0..4096_u16, families).prop_map(|(flags, restart_time, families)| {
        let (restarting, notification) = flags;
        GracefulRestart {
            restarting,
            restart_time,
            notification,
            families: families.into_iter().collect(),
        }
    })
}

pub fn notification() -> impl Strategy<Value = Notification> {
    (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..300))
        .prop_map(|(code, subcode, data)| Notification::new(code, subcode, data))
}

/// An UPDATE of one kind, which goes into one message.
fn small_update(context: Context) -> impl Strategy<Value = Update> {
    prop_oneof![
        1 => family().prop_map(|family| Update { end_of_rib: Some(family), ..Update::default() }),
        1 => family().prop_flat_map(move |family| vec(with_id(family, context), 1..40))
            .prop_map(|withdrawn| Update { withdrawn, ..Update::default() }),
        4 => (attributes(context), reach(context, 1..40)).prop_map(|(attributes, reach)| Update {
            attributes,
            reach: vec![reach],
            ..Update::default()
        }),
    ]
}

/// An UPDATE of all kinds at once, which may take many messages.
pub fn large_update(context: Context) -> impl Strategy<Value = Update> {
    let prefix = family().prop_flat_map(move |family| with_id(family, context));
    let withdrawn = vec(prefix, 0..1500);
    let reach = vec(reach(context, 1..1500), 1..3);
    let end_of_rib = option::of(family());
    (withdrawn, attributes(context), reach, end_of_rib).prop_map(
        |(withdrawn, attributes, reach, end_of_rib)| Update {
            withdrawn,
            attributes,
            reach,
            end_of_rib,
        },
    )
}

/// A prefix, with a path identifier where the peer takes one.
fn with_id(family: Family, context: Context) -> impl Strategy<Value = (u32, IpNet)> {
    let path_ids = match context.add_path.of(family).send {
        true => 0..=u32::MAX,
        false => 0..=0,
    };
    (path_ids, prefix(family))
}

pub fn prefix(family: Family) -> BoxedStrategy<IpNet> {
    match family {
        Family::Ipv4 => (ipv4(), 0..=32_u8)
            .prop_map(|(address, length)| Ipv4Net::new_assert(address, length).trunc().into())
            .boxed(),
        Family::Ipv6 => (ipv6(), 0..=128_u8)
            .prop_map(|(address, length)| Ipv6Net::new_assert(address, length).trunc().into())
            .boxed(),
    }
}

fn reach(context: Context, count: std::ops::Range<usize>) -> impl Strategy<Value = Reach> {
    (family(), any::<bool>())
        .prop_flat_map(move |(family, extended)| {
            let plain = family == Family::Ipv4 && !(context.extended_next_hop && extended);
            (
                next_hop(plain),
                vec(with_id(family, context), count.clone()),
            )
        })
        .prop_map(|(next_hop, prefixes)| Reach { next_hop, prefixes })
}

fn next_hop(plain: bool) -> BoxedStrategy<NextHop> {
    if plain {
        let host = (1_u32 << 24)..(224 << 24);
        return host
            .prop_map(|address| NextHop {
                address: IpAddr::V4(address.into()),
                link_local: None,
            })
            .boxed();
    }
    let unicast = 1_u128..(0xff00 << 112);
    let link_local = (0xfe80_u128 << 112)..(0xfec0 << 112);
    (unicast, option::of(link_local))
        .prop_map(|(address, link_local)| NextHop {
            address: IpAddr::V6(address.into()),
            link_local: link_local.map(Ipv6Addr::from),
        })
        .boxed()
}

prop_compose! {
    /// Attributes that such a peer may send, in the order in which they are decoded.
    pub fn attributes(context: Context)(
        origin in prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)],
        as_path in vec(asn(), 0..80).prop_map(AsPath),
        med in option::of(any::<u32>()),
        local_pref in option::of(any::<u32>()),
        atomic_aggregate in any::<bool>(),
        aggregator in option::of((asn(), ipv4())),
        reflection in (option::of(ipv4()), vec(ipv4(), 0..5)),
        communities in set(any::<u32>(), 80),
        extended_communities in set(any::<[u8; 8]>(), 10),
        large_communities in set(any::<[u32; 3]>(), 10),
        only_to_customer in option::of(asn()),
        unknown in btree_map(unknown_code(), vec(any::<u8>(), 0..300), 0..4),
    ) -> Attributes {
        let (originator_id, cluster_list) = reflection;
        Attributes {
            origin,
            as_path,
            med,
            local_pref: local_pref.filter(|_| context.internal),
            atomic_aggregate,
            aggregator,
            communities,
            originator_id: originator_id.filter(|_| context.internal),
            cluster_list: if context.internal { cluster_list } else { vec![] },
            extended_communities,
            large_communities,
            only_to_customer,
            unknown: unknown
                .into_iter()
                .map(|(code, value)| UnknownAttribute { code, value })
                .collect(),
        }
    }
}

/// Each item once, in any order.
fn set<S: Strategy>(item: S, size: usize) -> impl Strategy<Value = Vec<S::Value>>
where
    S::Value: Clone + Ord,
{
    btree_set(item, 0..size)
        .prop_map(Vec::from_iter)
        .prop_shuffle()
}

fn asn() -> impl Strategy<Value = u32> {
    prop_oneof![1..=65535_u32, Just(23456), 65536..=u32::MAX]
}

fn unknown_code() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0_u8), 11..=13_u8, 19..=31_u8, 33..=34_u8, 36..=255_u8]
}
