//! What two OPENs make of each other (RFC 4271 section 6.2, RFC 5492), as a pure function.

use crate::wire::notification::{code, open};
use crate::wire::{
    Context, Directions, Family, GracefulRestart, LongLived, Notification, Open, PerFamily,
};
use std::collections::BTreeSet;
use std::time::Duration;

/// What both sides can do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Negotiated {
    pub(crate) context: Context,
    pub(crate) families: BTreeSet<Family>,
    /// Zero: neither hold nor keepalive timer.
    pub(crate) hold_time: Duration,
    /// The peer's capability. Ours is always there.
    pub(crate) graceful_restart: Option<GracefulRestart>,
    /// NOTIFICATIONs restart gracefully too (RFC 8538).
    pub(crate) graceful_notification: bool,
    /// The peer's capability with the shorter of the two sides' times (RFC 9494), where both have it.
    pub(crate) long_lived: PerFamily<Option<LongLived>>,
}

impl Negotiated {
    /// Families that the peer restarts gracefully, as far as its F bit is what is asked for.
    pub(crate) fn restarting_families(&self, asked: impl Fn(bool) -> bool) -> BTreeSet<Family> {
        let listed = self.graceful_restart.iter().flat_map(|it| &it.families);
        let listed = listed.filter(|(_, forwarding)| asked(*forwarding));
        let listed: BTreeSet<Family> = listed.map(|(family, _)| *family).collect();
        &listed & &self.families
    }

    /// Whether the peer restarts gracefully in at least one family.
    pub(crate) fn graceful(&self) -> bool {
        !self.restarting_families(|_| true).is_empty()
    }
}

/// Checks the peer's OPEN and settles what both sides can do. The error is the NOTIFICATION with
/// which the connection has to end. `peer_asn` is the AS that the peer has to be of.
pub(crate) fn negotiate(
    ours: &Open,
    theirs: &Open,
    peer_asn: u32,
) -> Result<Negotiated, Notification> {
    let refuse = |subcode, data: &[u8]| Err(Notification::new(code::OPEN, subcode, data));
    if theirs.asn != peer_asn || theirs.asn == 0 {
        return refuse(open::BAD_PEER_AS, &[]);
    }
    // RFC 6286 section 2.2: within an AS identifiers are unique; between two they need not be.
    let internal = peer_asn == ours.asn;
    let own = internal && theirs.router_id == ours.router_id;
    if own || theirs.router_id.is_unspecified() {
        return refuse(open::BAD_IDENTIFIER, &[]);
    }
    if matches!(theirs.hold_time, 1 | 2) {
        return refuse(open::UNACCEPTABLE_HOLD_TIME, &[]);
    }
    let (we, they) = (&ours.capabilities, &theirs.capabilities);
    // RFC 9234 section 4.2. A peer without a role is taken as it is: the strict mode, which refuses
    // it, is not offered.
    if let (Some(our_role), Some(their_role)) = (we.role, they.role)
        && !our_role.fits(their_role)
    {
        return refuse(open::ROLE_MISMATCH, &[]);
    }
    let theirs_or_ipv4 = match they.families.is_empty() {
        true => BTreeSet::from([Family::Ipv4]),
        false => they.families.clone(),
    };
    let families = &we.families & &theirs_or_ipv4;
    if families.is_empty() {
        // RFC 5492 section 3, with the capability that we miss: multiprotocol, AFI, SAFI 1.
        let missing = match we.families.first() {
            Some(Family::Ipv6) => [1, 4, 0, 2, 0, 1],
            _ => [1, 4, 0, 1, 0, 1],
        };
        return refuse(open::UNSUPPORTED_CAPABILITY, &missing);
    }
    let add_path = |family: Family| {
        let (we, they) = (we.add_path.of(family), they.add_path.of(family));
        Directions {
            receive: we.receive && they.send,
            send: we.send && they.receive,
        }
    };
    let long_lived = |family: Family| {
        // RFC 9494 section 4.5: not without graceful restart.
        they.graceful_restart.as_ref()?;
        let (we, they) = (*we.long_lived.of(family), *they.long_lived.of(family));
        let (we, they) = (we?, they?);
        families.contains(&family).then_some(LongLived {
            seconds: we.seconds.min(they.seconds),
            ..they
        })
    };
    let hold_time = ours.hold_time.min(theirs.hold_time);
    let notification = |open: &Open| {
        let graceful = open.capabilities.graceful_restart.as_ref();
        graceful.is_some_and(|it| it.notification)
    };
    Ok(Negotiated {
        context: Context {
            four_octet_as: we.four_octet_as && they.four_octet_as,
            extended_next_hop: we.extended_next_hop && they.extended_next_hop,
            internal,
            // RFC 8654 section 3: each side says what it takes.
            extended_messages: Directions {
                receive: we.extended_messages,
                send: they.extended_messages,
            },
            enhanced_route_refresh: we.enhanced_route_refresh && they.enhanced_route_refresh,
            add_path: PerFamily {
                ipv4: add_path(Family::Ipv4),
                ipv6: add_path(Family::Ipv6),
            },
        },
        hold_time: Duration::from_secs(hold_time.into()),
        graceful_restart: they.graceful_restart.clone(),
        graceful_notification: notification(ours) && notification(theirs),
        long_lived: PerFamily {
            ipv4: long_lived(Family::Ipv4),
            ipv6: long_lived(Family::Ipv6),
        },
        families,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Capabilities, Role};
    use std::net::Ipv4Addr;

    fn open(number: u8, change: impl FnOnce(&mut Capabilities)) -> Open {
        let mut capabilities = Capabilities {
            families: BTreeSet::from([Family::Ipv4, Family::Ipv6]),
            ..Capabilities::default()
        };
        change(&mut capabilities);
        Open {
            asn: 65000 + u32::from(number),
            hold_time: 90,
            router_id: Ipv4Addr::new(10, 0, 0, number),
            capabilities,
        }
    }

    fn between(
        ours: impl FnOnce(&mut Capabilities),
        theirs: impl FnOnce(&mut Capabilities),
    ) -> Result<Negotiated, Notification> {
        negotiate(&open(1, ours), &open(2, theirs), 65002)
    }

    #[test]
    fn several_paths_go_where_one_side_sends_and_the_other_receives() {
        let (receive, send) = (true, true);
        let table = [
            ((receive, send), (receive, send), (true, true)),
            ((receive, send), (false, send), (true, false)),
            ((receive, send), (receive, false), (false, true)),
            ((receive, false), (receive, false), (false, false)),
            ((false, send), (false, send), (false, false)),
        ];
        for (ours, theirs, expected) in table {
            let offer = |(receive, send)| {
                move |it: &mut Capabilities| it.add_path.ipv6 = Directions { receive, send }
            };
            let context = between(offer(ours), offer(theirs)).unwrap().context;
            let found = (context.add_path.ipv6.receive, context.add_path.ipv6.send);
            assert_eq!(found, expected, "{ours:?} {theirs:?}");
            assert_eq!(context.add_path.ipv4, Directions::NEITHER);
        }
    }

    #[test]
    fn long_messages_go_to_who_takes_them() {
        let offer = |it: &mut Capabilities| it.extended_messages = true;
        let messages = |it: Result<Negotiated, _>| it.unwrap().context.extended_messages;
        assert_eq!(messages(between(offer, offer)), Directions::BOTH);
        let only_ours = messages(between(offer, |_| {}));
        assert!(only_ours.receive && !only_ours.send);
    }

    #[test]
    fn the_shorter_long_lived_time_counts_and_needs_graceful_restart() {
        let offer = |seconds, graceful: bool| {
            move |it: &mut Capabilities| {
                it.long_lived.ipv4 = Some(LongLived {
                    forwarding: true,
                    seconds,
                });
                it.graceful_restart = graceful.then(GracefulRestart::default);
            }
        };
        let seconds = |ours, theirs, graceful| {
            let negotiated = between(offer(ours, true), offer(theirs, graceful)).unwrap();
            assert_eq!(negotiated.long_lived.ipv6, None);
            negotiated.long_lived.ipv4.map(|it| it.seconds)
        };
        assert_eq!(seconds(10, 20, true), Some(10));
        assert_eq!(seconds(20, 10, true), Some(10));
        assert_eq!(seconds(20, 10, false), None);
        let negotiated = between(|_| {}, offer(10, true)).unwrap();
        assert_eq!(negotiated.long_lived.ipv4, None);
    }

    #[test]
    fn both_sides_have_to_say_that_notifications_are_graceful() {
        let offer = |notification| {
            move |it: &mut Capabilities| {
                it.graceful_restart = Some(GracefulRestart {
                    notification,
                    ..GracefulRestart::default()
                });
            }
        };
        for (ours, theirs) in [(true, true), (true, false), (false, true)] {
            let negotiated = between(offer(ours), offer(theirs)).unwrap();
            assert_eq!(negotiated.graceful_notification, ours && theirs);
        }
    }

    #[test]
    fn roles_that_do_not_fit_are_refused_where_both_have_one() {
        let role = |role| move |it: &mut Capabilities| it.role = role;
        let subcode = |ours, theirs| between(role(ours), role(theirs)).err().map(|it| it.subcode);
        let (provider, customer) = (Some(Role::Provider), Some(Role::Customer));
        assert_eq!(subcode(provider, customer), None);
        assert_eq!(subcode(provider, provider), Some(open::ROLE_MISMATCH));
        assert_eq!(subcode(provider, None), None);
        assert_eq!(subcode(None, provider), None);
    }
}
