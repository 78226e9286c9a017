//! The last report of each gateway, as they come and as they go to disk.

use super::state::lock;
use crate::report::{Kept, Report, Reports};
use crate::store::StoredReport;
use routemesh_proto::{Status, StatusChange};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// A gateway's report goes to disk this often; agents repeat what a crash loses.
const EVERY: Duration = Duration::from_secs(60);
/// And so many at once.
const AT_ONCE: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Gathered(Mutex<BTreeMap<String, Received>>);

#[derive(Debug)]
struct Received {
    kept: Arc<Kept>,
    /// How old it was when it came to us, which is more than nothing for what the store kept.
    age: Duration,
    since: Instant,
    /// Not on disk yet.
    dirty: bool,
    /// When it was last brought there.
    stored: Option<Instant>,
    /// The controller that told it, where the gateway itself did not.
    teller: Option<Arc<str>>,
}

impl Gathered {
    /// Those that the store kept. What another version kept is not known here, and will come again.
    pub(super) fn new(stored: Vec<StoredReport>) -> Self {
        let (now, at) = (SystemTime::now(), Instant::now());
        let received = stored.into_iter().filter_map(|report| {
            let received = Received {
                kept: Arc::new(Kept::from_octets(&report.kept)?),
                age: now.duration_since(report.at).unwrap_or_default(),
                since: at,
                dirty: false,
                stored: Some(at),
                teller: None,
            };
            Some((report.gateway, received))
        });
        Self(Mutex::new(received.collect()))
    }

    /// A whole report.
    pub(super) fn put(&self, gateway: &str, status: Status) {
        // Packing takes a while, which is not to be waited for by others.
        let kept = Arc::new(Kept::new(status));
        let mut all = lock(&self.0);
        let stored = all.get(gateway).and_then(|it| it.stored);
        let received = Received {
            kept,
            age: Duration::ZERO,
            since: Instant::now(),
            dirty: true,
            stored,
            teller: None,
        };
        all.insert(gateway.to_owned(), received);
    }

    /// A whole report that another controller tells, if none is known that is newer.
    pub(super) fn put_told(&self, gateway: &str, status: Status, age: Duration, by: &Arc<str>) {
        let older = |all: &BTreeMap<String, Received>| {
            all.get(gateway)
                .is_none_or(|known| known.age + known.since.elapsed() >= age)
        };
        if !older(&lock(&self.0)) {
            return;
        }
        let kept = Arc::new(Kept::new(status));
        let mut all = lock(&self.0);
        // The gateway itself may have spoken meanwhile.
        if !older(&all) {
            return;
        }
        let received = Received {
            kept,
            age,
            since: Instant::now(),
            dirty: false,
            stored: None,
            teller: Some(by.clone()),
        };
        all.insert(gateway.to_owned(), received);
    }

    /// Gateways that told themselves.
    pub(super) fn own(&self) -> Vec<String> {
        let all = lock(&self.0);
        let own = all.iter().filter(|(_, it)| it.teller.is_none());
        own.map(|(gateway, _)| gateway.clone()).collect()
    }

    /// What has changed since the same told the last; `false` where there is nothing that could have, or it is too much. `by`:
    /// another controller.
    pub(super) fn change(
        &self,
        gateway: &str,
        change: StatusChange,
        by: Option<&Arc<str>>,
    ) -> bool {
        let mut all = lock(&self.0);
        let received = all.get_mut(gateway);
        let Some(received) = received.filter(|it| it.teller.as_ref() == by) else {
            return false;
        };
        if !Arc::make_mut(&mut received.kept).change(change) {
            all.remove(gateway);
            return false;
        }
        received.age = Duration::ZERO;
        received.since = Instant::now();
        received.dirty = by.is_none();
        true
    }

    pub(super) fn one(&self, gateway: &str) -> Option<Report> {
        lock(&self.0).get(gateway).map(Received::report)
    }

    pub(super) fn all(&self) -> Reports {
        let all = lock(&self.0);
        let all = all.iter().map(|(name, it)| (name.clone(), it.report()));
        all.collect()
    }

    /// Some that are to go to disk, and count as being there; all who are not there yet in the end.
    pub(super) fn due(&self, all: bool) -> Vec<StoredReport> {
        let (now, at) = (SystemTime::now(), Instant::now());
        let mut received = lock(&self.0);
        let due = received.iter_mut().filter(|(_, it)| {
            let waited = it.stored.is_none_or(|stored| at - stored >= EVERY);
            it.dirty && (all || waited)
        });
        due.take(AT_ONCE)
            .map(|(gateway, it)| {
                it.dirty = false;
                it.stored = Some(at);
                StoredReport {
                    gateway: gateway.clone(),
                    kept: it.kept.to_octets(),
                    at: now - it.age - it.since.elapsed(),
                }
            })
            .collect()
    }

    /// These could not be kept.
    pub(super) fn failed(&self, reports: &[StoredReport]) {
        let mut all = lock(&self.0);
        for report in reports {
            if let Some(received) = all.get_mut(&report.gateway) {
                received.dirty = true;
                received.stored = None;
            }
        }
    }
}

impl Received {
    fn report(&self) -> Report {
        Report {
            kept: self.kept.clone(),
            age: self.age + self.since.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(version: &str) -> Status {
        Status {
            version: version.to_owned(),
            ..Status::default()
        }
    }

    fn change(to: &str) -> StatusChange {
        StatusChange {
            head: Some(version(to)),
            ..StatusChange::default()
        }
    }

    /// A gateway that goes from one controller to another is believed, and of what others tell, the newest.
    #[test]
    fn of_several_tellers_the_last_one_counts() {
        let (all, one, two) = (Gathered::default(), "one".into(), "two".into());
        let second = Duration::from_secs(1);
        let says = |words: &str| {
            let known = all.one("V1").unwrap();
            assert_eq!(known.kept.head().version, words);
        };
        // Of one that never told anything, nothing can change.
        assert!(!all.change("V1", change("a"), Some(&one)));
        all.put_told("V1", version("a"), 9 * second, &one);
        assert!(all.change("V1", change("b"), Some(&one)));
        says("b");
        // Another tells what it was told earlier, and changes of that.
        all.put_told("V1", version("old"), 60 * second, &two);
        assert!(!all.change("V1", change("older"), Some(&two)));
        says("b");
        // The gateway comes here. What others still tell is of the past.
        assert!(!all.change("V1", change("c"), None));
        all.put("V1", version("c"));
        all.put_told("V1", version("old"), 2 * second, &one);
        assert!(!all.change("V1", change("older"), Some(&one)));
        assert!(all.change("V1", change("d"), None));
        says("d");
        assert_eq!(all.own(), ["V1"]);
        // And it goes there again.
        all.put_told("V1", version("e"), Duration::ZERO, &two);
        says("e");
        assert!(all.own().is_empty() && all.change("V1", change("f"), Some(&two)));
        says("f");
    }
}
