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
        };
        all.insert(gateway.to_owned(), received);
    }

    /// What has changed since; `false` where there is nothing that could have.
    pub(super) fn change(&self, gateway: &str, change: StatusChange) -> bool {
        let mut all = lock(&self.0);
        let Some(received) = all.get_mut(gateway) else {
            return false;
        };
        Arc::make_mut(&mut received.kept).change(change);
        received.age = Duration::ZERO;
        received.since = Instant::now();
        received.dirty = true;
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
