//! Malformed attributes of one peer (RFC 7606): all are counted, not all get a line in the log.

use crate::config::Time;
use crate::wire::notification::{code, update};
use crate::wire::{Action, Fault, Notification};
use std::collections::BTreeMap;
use std::time::Duration;

/// So many get a line of their own within [`PERIOD`]: a peer must not fill a disk.
const LINES: u32 = 5;
const PERIOD: Duration = Duration::from_secs(1);

/// What was counted. Its size is bounded: there are 256 attributes and a few actions.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) counts: BTreeMap<(u8, Action), u64>,
    /// When the period began, and how many lines it has had.
    began: Time,
    lines: u32,
    /// Without a line since the last that had one.
    unsaid: u64,
}

impl Faults {
    /// Counts a fault. Returns whether it gets a line, and then how many before it got none.
    pub(crate) fn note(&mut self, fault: &Fault, now: Time) -> Option<u64> {
        let count = self.counts.entry((fault.attribute, fault.action));
        let count = count.or_default();
        *count = count.saturating_add(1);
        if now >= self.began + PERIOD {
            self.began = now;
            self.lines = 0;
        }
        if self.lines >= LINES {
            self.unsaid = self.unsaid.saturating_add(1);
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// The fault for which we end a session with this NOTIFICATION, if it is about an attribute.
pub(crate) fn reset(notification: &Notification) -> Option<Fault> {
    if notification.code != code::UPDATE {
        return None;
    }
    // RFC 4271 section 6.3: the data is the attribute, from its flags on, or only its type.
    let attribute = match (notification.subcode, notification.data.as_slice()) {
        (update::MISSING_WELL_KNOWN, [kind, ..]) | (_, [_, kind, ..]) => *kind,
        (update::MALFORMED_AS_PATH, _) => AS_PATH,
        _ => 0,
    };
    Some(Fault {
        attribute,
        action: Action::SessionReset,
        reason: "cannot be worked around",
    })
}

/// Attribute type code (RFC 4271 section 5.1.2).
const AS_PATH: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_in_full_and_said_in_part() {
        let mut faults = Faults::default();
        let fault = Fault {
            attribute: 4,
            action: Action::Discard,
            reason: "",
        };
        let mut said = Vec::new();
        for tenth in 0..20 {
            for _ in 0..100 {
                said.extend(faults.note(&fault, Duration::from_millis(1000 + tenth * 100)));
            }
        }
        assert_eq!(said, [0, 0, 0, 0, 0, 995, 0, 0, 0, 0]);
        assert_eq!(faults.counts[&(4, Action::Discard)], 2000);
    }

    #[test]
    fn a_reset_names_its_attribute() {
        let attribute = |subcode, data: &[u8]| {
            let notification = Notification::new(code::UPDATE, subcode, data);
            reset(&notification).map(|it| it.attribute)
        };
        assert_eq!(
            attribute(update::OPTIONAL_ATTRIBUTE, &[0x80, 14, 1, 0]),
            Some(14)
        );
        assert_eq!(attribute(update::MISSING_WELL_KNOWN, &[3]), Some(3));
        assert_eq!(attribute(update::MALFORMED_AS_PATH, &[]), Some(2));
        assert_eq!(attribute(update::MALFORMED_ATTRIBUTES, &[]), Some(0));
        assert_eq!(reset(&Notification::cease(1)), None);
    }
}
