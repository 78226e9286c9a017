//! What we say of ourselves in OPENs.

use crate::config::{PeerConfig, SpeakerConfig, Time};
use crate::wire::{Capabilities, Directions, Family, GracefulRestart, LongLived, Open, PerFamily};
use std::net::Ipv4Addr;
use std::time::Duration;

/// The longest restart time that the capability can say: 12 bits (RFC 4724 section 3).
const LONGEST_RESTART: u16 = 0xfff;
/// The longest time of the long-lived capability: 24 bits (RFC 9494 section 3.1).
const LONGEST_LONG_LIVED: u32 = 0xff_ffff;
/// The shortest hold time that is not none (RFC 4271 section 4.2).
const SHORTEST_HOLD: u16 = 3;

/// What we are, as far as sessions depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) asn: u32,
    pub(crate) router_id: Ipv4Addr,
    restart_time: Duration,
    /// Until when OPENs say that we have restarted; `None`: we have not.
    restarting_until: Option<Time>,
}

impl Identity {
    /// `restarted`: when, if an earlier run left its routes in the kernel.
    pub(crate) fn new(config: &SpeakerConfig, restarted: Option<Time>) -> Self {
        Self {
            asn: config.asn,
            router_id: config.router_id,
            restart_time: config.restart_time,
            restarting_until: restarted.map(|start| start + config.restart_time),
        }
    }

    /// The OPEN for a peer. `was_up`: it had a session with us before.
    pub(crate) fn open(&self, peer: &PeerConfig, was_up: bool, now: Time) -> Open {
        let restarting = self.restarting_until.is_some_and(|until| now < until);
        // Our kernel's routes outlive a restart, and a lost connection too: the peer need not
        // drop ours.
        let forwarding = restarting || was_up;
        let families = peer.families.iter().map(|family| (*family, forwarding));
        let graceful_restart = GracefulRestart {
            restarting,
            notification: peer.graceful_notification,
            restart_time: saturating_seconds(self.restart_time).min(LONGEST_RESTART),
            families: families.collect(),
        };
        let hold_time = match peer.hold_time.is_zero() {
            true => 0,
            false => saturating_seconds(peer.hold_time).max(SHORTEST_HOLD),
        };
        let long_lived = LongLived {
            forwarding,
            seconds: peer.long_lived.as_secs().min(LONGEST_LONG_LIVED.into()) as u32,
        };
        let offers_long_lived = |family: Family| {
            let offered = !peer.long_lived.is_zero() && peer.families.contains(&family);
            offered.then_some(long_lived)
        };
        let add_path = |family: Family| match peer.add_path && peer.families.contains(&family) {
            true => Directions::BOTH,
            false => Directions::NEITHER,
        };
        Open {
            asn: self.asn,
            hold_time,
            router_id: self.router_id,
            capabilities: Capabilities {
                families: peer.families.clone(),
                extended_next_hop: peer.families.contains(&Family::Ipv4) && peer.local.is_ipv6(),
                route_refresh: true,
                four_octet_as: true,
                graceful_restart: Some(graceful_restart),
                enhanced_route_refresh: true,
                extended_messages: true,
                // RFC 9234 section 4.1: there are no roles within an AS.
                role: peer.role.filter(|_| peer.asn != self.asn),
                add_path: PerFamily {
                    ipv4: add_path(Family::Ipv4),
                    ipv6: add_path(Family::Ipv6),
                },
                long_lived: PerFamily {
                    ipv4: offers_long_lived(Family::Ipv4),
                    ipv6: offers_long_lived(Family::Ipv6),
                },
            },
        }
    }
}

fn saturating_seconds(duration: Duration) -> u16 {
    u16::try_from(duration.as_secs()).unwrap_or(u16::MAX)
}
