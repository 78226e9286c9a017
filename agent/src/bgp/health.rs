//! BFD for the peers that want it, and what it and others find out about the ways to them.

use crate::bfd::{Bfd, Reports, Target};
use crate::liveness::{self, Liveness, Standing, Verdict};
use crate::netns::Netns;
use routemesh_bgp::{PeerId, PeerState, Speaker, Time};
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::error;

pub(super) struct Health {
    overlay: Netns,
    epoch: Instant,
    /// Where there is somebody to have BFD with.
    bfd: Option<(Bfd, watch::Receiver<Arc<Reports>>)>,
    pub(super) liveness: Liveness,
}

impl Health {
    pub(super) fn new(overlay: Netns, epoch: Instant) -> Self {
        Self {
            overlay,
            epoch,
            bfd: None,
            liveness: Liveness::default(),
        }
    }

    /// Makes these the BFD sessions, and forgets about peers that are gone.
    pub(super) fn configure(
        &mut self,
        targets: &BTreeMap<PeerId, Target>,
        is_peer: impl Fn(&PeerId) -> bool,
        now: Time,
    ) {
        self.liveness.keep(is_peer);
        if targets.is_empty() {
            self.bfd = None;
            let nothing = |_: &PeerId| liveness::Bgp::Nothing;
            self.liveness.bfd(&Reports::new(), nothing, now);
            return;
        }
        if self.bfd.is_none() {
            let epoch = self.epoch.into_std();
            match Bfd::start(self.overlay.clone(), epoch, super::seed()) {
                Ok(bfd) => {
                    let reports = bfd.reports();
                    self.bfd = Some((bfd, reports));
                }
                Err(failure) => error!("BFD cannot be started: {failure}"),
            }
        }
        if let Some((bfd, _)) = &self.bfd {
            bfd.configure(targets.clone());
        }
    }

    /// Waits until BFD has something to report. Dropping the future loses nothing.
    pub(super) async fn changed(&mut self) {
        match &mut self.bfd {
            Some((_, reports)) => {
                if reports.changed().await.is_ok() {
                    reports.mark_changed();
                    return;
                }
                // The thread has come to its end, which it never should.
                error!("BFD has ended unexpectedly");
                self.bfd = None;
                // Nobody is dead by it any more.
                let now = self.epoch.elapsed();
                let nothing = |_: &PeerId| liveness::Bgp::Nothing;
                self.liveness.bfd(&Reports::new(), nothing, now);
            }
            None => pending().await,
        }
    }

    /// BFD has something to report.
    pub(super) fn has_news(&self) -> bool {
        let bfd = self.bfd.as_ref();
        bfd.is_some_and(|(_, reports)| reports.has_changed().unwrap_or(false))
    }

    /// What follows from what BFD has reported since, and from the time.
    /// And whether there is anything new to tell.
    pub(super) fn verdicts(
        &mut self,
        speaker: &Speaker,
        now: Time,
    ) -> (Vec<(PeerId, Verdict)>, bool) {
        let (mut verdicts, mut news) = (Vec::new(), false);
        if let Some((_, reports)) = &mut self.bfd
            && reports.has_changed().unwrap_or(false)
        {
            let reports = reports.borrow_and_update().clone();
            let bgp = |peer: &PeerId| state(speaker, peer);
            verdicts = self.liveness.bfd(&reports, bgp, now);
            news = true;
        }
        verdicts.extend(self.liveness.timeout(now));
        news |= !verdicts.is_empty();
        (verdicts, news)
    }

    pub(super) fn reports(&self) -> Arc<Reports> {
        let reports = self.bfd.as_ref();
        reports.map_or_else(Arc::default, |(_, reports)| reports.borrow().clone())
    }

    pub(super) fn standings(&self, now: Time) -> BTreeMap<PeerId, Standing> {
        self.liveness.standings(now)
    }

    /// Takes leave of everybody.
    pub(super) fn stop(&mut self) {
        self.bfd = None;
    }
}

fn state(speaker: &Speaker, peer: &PeerId) -> liveness::Bgp {
    match speaker.peer(peer) {
        Some(status) if status.state == PeerState::Established => liveness::Bgp::Established,
        Some(status) if !status.stale.is_empty() => liveness::Bgp::Kept,
        _ => liveness::Bgp::Nothing,
    }
}
