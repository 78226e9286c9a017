//! BFD and echo requests for the peers that want them, and what these and others find out about the ways
//! to them.

use super::pings::Pings;
use super::setup::Setup;
use super::statics::Statics;
use crate::bfd::{Bfd, Reports};
use crate::liveness::{self, Liveness, Sign, Standing, Verdict};
use crate::netns::Netns;
use crate::probe::ping::{self, Round};
use routemesh_bgp::{PeerId, PeerState, Speaker, Time};
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::error;

pub(super) struct Health {
    overlay: Netns,
    epoch: Instant,
    /// Where there is somebody to have BFD with.
    bfd: Option<(Bfd, watch::Receiver<Arc<Reports>>)>,
    asking: ping::Pings,
    rounds: mpsc::Receiver<Round>,
    /// Those that were waited for.
    heard: Vec<Round>,
    pings: Pings,
    pub(super) liveness: Liveness,
}

impl Health {
    pub(super) fn new(overlay: Netns, epoch: Instant) -> Self {
        let (asking, rounds) = ping::Pings::new(overlay.clone());
        Self {
            overlay,
            epoch,
            bfd: None,
            asking,
            rounds,
            heard: Vec::new(),
            pings: Pings::default(),
            liveness: Liveness::default(),
        }
    }

    /// Has BFD with whom it is wanted with, asks whom to ask, and forgets about peers that are gone.
    pub(super) fn configure(&mut self, setup: &Setup, now: Time) {
        let Setup {
            speaker, reaches, ..
        } = setup;
        let is_peer =
            |peer: &PeerId| speaker.peers.contains_key(peer) || reaches.contains_key(peer);
        self.liveness.keep(is_peer);
        let asked = setup.pings.iter();
        let lost = asked.clone().map(|(peer, (_, lost))| (peer.clone(), *lost));
        for peer in self.pings.configure(&lost.collect()) {
            self.liveness.sign(&peer, Sign::Echo(true), now);
        }
        self.asking
            .configure(asked.map(|(peer, (asked, _))| (peer, asked)));
        let targets = &setup.bfd;
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

    /// An earlier run, which had forwarded by some of the ways without BGP, had not used the others: those that
    /// it may have found dead are so until they are heard of.
    pub(super) fn doubt(&mut self, setup: &Setup, statics: &Statics, now: Time) {
        for way in setup.reaches.keys().filter(|way| !statics.carries(way)) {
            // Without BFD nobody is dead by it.
            let bfd = self.bfd.is_some() && setup.bfd.contains_key(way);
            let echo = setup.pings.contains_key(way);
            if bfd || echo {
                self.pings.doubt(way);
                self.liveness.doubt(way, bfd, echo, now);
            }
        }
    }

    /// Waits until there is something to report. Dropping the future loses nothing.
    pub(super) async fn changed(&mut self) {
        let reports = async {
            match &mut self.bfd {
                Some((_, reports)) => match reports.changed().await {
                    Ok(()) => {
                        reports.mark_changed();
                        true
                    }
                    Err(_) => false,
                },
                None => pending().await,
            }
        };
        tokio::select! {
            alive = reports => if !alive {
                // The thread has come to its end, which it never should.
                error!("BFD has ended unexpectedly");
                self.bfd = None;
                // Nobody is dead by it any more.
                let now = self.epoch.elapsed();
                let nothing = |_: &PeerId| liveness::Bgp::Nothing;
                self.liveness.bfd(&Reports::new(), nothing, now);
            },
            Some(round) = self.rounds.recv() => self.heard.push(round),
        }
    }

    /// There is something to report.
    pub(super) fn has_news(&self) -> bool {
        let bfd = self.bfd.as_ref();
        let bfd = bfd.is_some_and(|(_, reports)| reports.has_changed().unwrap_or(false));
        bfd || !self.heard.is_empty() || !self.rounds.is_empty()
    }

    /// What follows from what was reported since, and from the time.
    /// And whether there is anything new to tell.
    pub(super) fn verdicts(
        &mut self,
        speaker: &Speaker,
        statics: &Statics,
        now: Time,
    ) -> (Vec<(PeerId, Verdict)>, bool) {
        let (mut verdicts, mut news) = (Vec::new(), false);
        let bgp = |peer: &PeerId| state(speaker, statics, peer);
        if let Some((_, reports)) = &mut self.bfd
            && reports.has_changed().unwrap_or(false)
        {
            let reports = reports.borrow_and_update().clone();
            verdicts = self.liveness.bfd(&reports, bgp, now);
            news = true;
        }
        let waiting = std::iter::from_fn(|| self.rounds.try_recv().ok());
        let rounds: Vec<Round> = self.heard.drain(..).chain(waiting).collect();
        for Round { peer, answered } in rounds {
            let carried = bgp(&peer) != liveness::Bgp::Nothing;
            if let Some(there) = self.pings.round(&peer, answered, carried) {
                let sign = Sign::Echo(there);
                let verdict = self.liveness.sign(&peer, sign, now);
                verdicts.extend(verdict.map(|verdict| (peer, verdict)));
                news = true;
            }
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

    /// Whom it cannot ask, and why.
    pub(super) fn problems(&self) -> BTreeMap<PeerId, String> {
        self.pings.problems()
    }

    /// Takes leave of everybody.
    pub(super) fn stop(&mut self) {
        self.bfd = None;
    }
}

fn state(speaker: &Speaker, statics: &Statics, peer: &PeerId) -> liveness::Bgp {
    match speaker.peer(peer) {
        Some(status) if status.state == PeerState::Established => liveness::Bgp::Established,
        Some(status) if !status.stale.is_empty() => liveness::Bgp::Kept,
        None if statics.carries(peer) => liveness::Bgp::Static,
        _ => liveness::Bgp::Nothing,
    }
}
