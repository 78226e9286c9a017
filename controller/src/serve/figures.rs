//! What is counted while serving, for `/metrics` and for who asks what was refused.

use super::access::Refusals;
use super::state::lock;
use crate::metrics::{Certificate, Seen, Survey, Work};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// How many there are of something: as many as hold what [`Gauge::enter`] gave them.
#[derive(Debug, Default)]
pub(super) struct Gauge(Arc<()>);

impl Gauge {
    pub(super) fn enter(&self) -> Arc<()> {
        self.0.clone()
    }

    fn count(&self) -> u64 {
        (Arc::strong_count(&self.0) - 1) as u64
    }
}

/// Since the start.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) refusals: Refusals,
    /// Handshakes under way.
    pub(super) handshakes: Gauge,
    /// Connections without a certificate.
    pub(super) strangers: Gauge,
    /// Connections with one.
    pub(super) holders: Gauge,
    /// Agents' streams.
    pub(super) agents: Gauge,
    /// Somebody wants to know how the mesh is.
    pub(super) asked: Notify,
    store_errors: AtomicU64,
    work: Mutex<BTreeMap<&'static str, Work>>,
    certificates: Mutex<Vec<Certificate>>,
    survey: Mutex<Option<Survey>>,
}

impl Figures {
    /// What was to be kept or read could not be.
    pub(super) fn store_failed(&self) {
        self.store_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Work that is done, and for how long it took a processor. There are as many kinds as the program has.
    pub(super) fn worked(&self, what: &'static str, time: Duration) {
        let mut all = lock(&self.work);
        let work = all.entry(what).or_default();
        work.count += 1;
        work.time += time;
    }

    pub(super) fn certificates_are(&self, certificates: Vec<Certificate>) {
        *lock(&self.certificates) = certificates;
    }

    pub(super) fn surveyed(&self, survey: Survey) {
        *lock(&self.survey) = Some(survey);
    }

    /// All of it. How the mesh is, is as of the last time that somebody asked.
    pub(super) fn seen(&self, generation: u64) -> Seen {
        self.asked.notify_one();
        let connections = [
            ("handshake", &self.handshakes),
            ("no certificate", &self.strangers),
            ("certificate", &self.holders),
        ];
        Seen {
            generation,
            agents: self.agents.count(),
            connections: connections.map(|(kind, gauge)| (kind, gauge.count())),
            refusals: self.refusals.all(),
            work: lock(&self.work).clone(),
            store_errors: self.store_errors.load(Ordering::Relaxed),
            certificates: lock(&self.certificates).clone(),
            survey: lock(&self.survey).clone(),
        }
    }
}
