//! From when to when a certificate is good, and when its holder asks for the next.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// From when to when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: SystemTime,
    /// Not after.
    pub to: SystemTime,
}

impl Validity {
    /// Of a certificate, DER.
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let time = |seconds: i64| {
            let seconds = u64::try_from(seconds).ok()?;
            UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
        };
        let validity = certificate.validity();
        Some(Self {
            from: time(validity.not_before.timestamp())?,
            to: time(validity.not_after.timestamp())?,
        })
    }

    /// When to ask for the next: a third of its time before it runs out, and by chance up to a sixth
    /// earlier, as a mesh's certificates are often made on the same day. `chance`: a random number.
    pub fn renewal(&self, chance: u64) -> SystemTime {
        let whole = self.to.duration_since(self.from).unwrap_or_default();
        let share = 512 + u32::try_from(chance % 257).unwrap_or_default();
        // 512 to 768 of 1,536: a third to a half.
        self.to - whole / 1536 * share
    }

    /// Whether it is good at `now`.
    pub fn holds(&self, now: SystemTime) -> bool {
        (self.from..=self.to).contains(&now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_renewed_in_good_time_and_not_together_with_others() {
        let day = Duration::from_secs(86_400);
        let from = UNIX_EPOCH + 20_000 * day;
        let validity = Validity {
            from,
            to: from + 30 * day,
        };
        let before = |chance| {
            validity
                .to
                .duration_since(validity.renewal(chance))
                .unwrap()
        };
        assert_eq!(before(0), 10 * day);
        assert_eq!(before(256), 15 * day);
        assert!((0..1000).all(|chance| (10 * day..=15 * day).contains(&before(chance))));
        assert!(before(u64::MAX) <= 15 * day);
        assert!(validity.holds(from) && !validity.holds(validity.to + day));
    }
}
