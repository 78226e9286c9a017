//! What to tell the controller of a report: all of it at first, and then what has changed. Pure.

use routemesh_proto::{Status, StatusChange, TunnelStatus, agent_message, status_diff};
use std::collections::BTreeMap;
use std::time::Duration;

/// A tunnel of which nothing has changed but what counts on by itself is told anew this often.
const COUNTS: Duration = Duration::from_secs(300);

/// What the controller has been told over this stream.
#[derive(Debug, Default)]
pub struct Told {
    status: Option<Status>,
    /// When each tunnel was.
    at: BTreeMap<u32, Duration>,
}

impl Told {
    /// What to say of a report, `now` since whenever.
    pub fn next(&self, status: &Status, now: Duration) -> (agent_message::Message, Self) {
        let Some(told) = &self.status else {
            let at = status.tunnels.iter().map(|it| (it.number, now)).collect();
            let told = Self {
                status: Some(status.clone()),
                at,
            };
            return (agent_message::Message::Status(status.clone()), told);
        };
        // As the controller will know it: of tunnels that only count on, what was told before.
        let known: BTreeMap<u32, &TunnelStatus> =
            told.tunnels.iter().map(|it| (it.number, it)).collect();
        let mut at = BTreeMap::new();
        let tunnels = status.tunnels.iter().map(|tunnel| {
            let known = known.get(&tunnel.number);
            let last = self.at.get(&tunnel.number).copied().unwrap_or(now);
            let same = known.filter(|it| {
                now.saturating_sub(last) < COUNTS && without_counts(it) == without_counts(tunnel)
            });
            at.insert(tunnel.number, if same.is_some() { last } else { now });
            same.map_or(tunnel, |it| it).clone()
        });
        let status = Status {
            tunnels: tunnels.collect(),
            ..status.clone()
        };
        let change: StatusChange = status_diff(told, &status);
        let told = Self {
            status: Some(status),
            at,
        };
        (agent_message::Message::Change(change), told)
    }
}

/// A tunnel without what changes though nothing happens.
fn without_counts(tunnel: &TunnelStatus) -> TunnelStatus {
    let mut tunnel = tunnel.clone();
    if let Some(bgp) = &mut tunnel.bgp {
        bgp.seconds = 0;
        bgp.messages_received = 0;
        bgp.messages_sent = 0;
    }
    if let Some(bfd) = &mut tunnel.bfd {
        bfd.seconds = 0;
    }
    if let Some(liveness) = &mut tunnel.liveness {
        liveness.held = 0;
    }
    tunnel
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_proto::BgpStatus;

    fn status(generation: u64, tunnels: &[(u32, &str, u64)]) -> Status {
        let tunnels = tunnels.iter().map(|(number, ike, seconds)| TunnelStatus {
            number: *number,
            ike: (*ike).to_owned(),
            bgp: Some(BgpStatus {
                seconds: *seconds,
                ..BgpStatus::default()
            }),
            ..TunnelStatus::default()
        });
        Status {
            generation,
            tunnels: tunnels.collect(),
            ..Status::default()
        }
    }

    #[test]
    fn after_the_first_report_only_what_happened_is_told() {
        let at = Duration::from_secs;
        let first = status(1, &[(1, "up", 5), (2, "up", 5)]);
        let (message, told) = Told::default().next(&first, at(0));
        assert_eq!(message, agent_message::Message::Status(first));
        // When, what is seen, and what is told: the tunnels, and whether anything else.
        type Step<'a> = (u64, Status, &'a [(u32, &'a str, u64)], &'a [u32], bool);
        #[rustfmt::skip]
        let steps: [Step; 6] = [
            (10, status(1, &[(1, "up", 15), (2, "up", 15)]), &[], &[], false),
            (20, status(1, &[(1, "up", 25), (2, "down", 25)]), &[(2, "down", 25)], &[], false),
            (30, status(2, &[(1, "up", 35), (2, "down", 35)]), &[], &[], true),
            (300, status(2, &[(1, "up", 305), (2, "down", 305)]), &[(1, "up", 305)], &[], false),
            (310, status(2, &[(2, "down", 315), (3, "up", 0)]), &[(3, "up", 0)], &[1], false),
            (320, status(2, &[(2, "down", 325), (3, "up", 10)]), &[(2, "down", 325)], &[], false),
        ];
        let mut told = told;
        for (seconds, seen, tunnels, removed, head) in steps {
            let (message, next) = told.next(&seen, at(seconds));
            let agent_message::Message::Change(change) = message else {
                panic!("a change at {seconds}");
            };
            assert_eq!(change.tunnels, status(0, tunnels).tunnels, "{seconds}");
            assert_eq!(change.removed_tunnels, removed, "{seconds}");
            assert_eq!(change.head.is_some(), head, "{seconds}");
            told = next;
        }
    }
}
