//! Connecting to peers.

use super::connection::Io;
use super::setup::{Setup, Transport};
use super::sockets;
use crate::netns::Netns;
use routemesh_bgp::{PeerConfig, PeerId};
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// The attempts to connect that are under way.
pub struct Dialler {
    overlay: Netns,
    io: mpsc::Sender<Io>,
    attempts: BTreeMap<PeerId, AbortHandle>,
}

impl Dialler {
    pub fn new(overlay: Netns, io: mpsc::Sender<Io>) -> Self {
        Self {
            overlay,
            io,
            attempts: BTreeMap::new(),
        }
    }

    /// Begins an attempt, of which [`Io::Connected`] tells the end.
    pub fn connect(&mut self, peer: PeerId, config: &PeerConfig, transport: Transport) {
        let name = peer.clone();
        let connecting =
            sockets::connect(self.overlay.clone(), config.local, config.remote, transport);
        let io = self.io.clone();
        let attempt = tokio::spawn(async move {
            let stream = connecting.await;
            // The driver may have ended.
            let _ = io.send(Io::Connected { peer, stream }).await;
        });
        // A new attempt replaces the old one, whose failure would count against it.
        if let Some(old) = self.attempts.insert(name, attempt.abort_handle()) {
            old.abort();
        }
    }

    /// Ends the attempt that may be under way; true if there was one.
    pub fn abort(&mut self, peer: &PeerId) -> bool {
        let attempt = self.attempts.remove(peer);
        attempt.is_some_and(|attempt| {
            attempt.abort();
            !attempt.is_finished()
        })
    }

    /// Forgets the attempts of peers that are gone.
    pub fn keep(&mut self, setup: &Setup) {
        let peers = &setup.speaker.peers;
        self.attempts.retain(|peer, _| peers.contains_key(peer));
    }
}
