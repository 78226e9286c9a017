//! Waiting for peers to connect.

use super::connection::{self, Io};
use super::sockets;
use crate::netns::Netns;
use routemesh_bgp::SpeakerConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// One listener per local address in use.
pub struct Listeners {
    overlay: Netns,
    io: mpsc::Sender<Io>,
    open: BTreeMap<IpAddr, Listener>,
    /// Addresses without a listener, and why.
    deaf: BTreeMap<IpAddr, String>,
}

/// Accepts until it is dropped.
struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listeners {
    pub fn new(overlay: Netns, io: mpsc::Sender<Io>) -> Self {
        Self {
            overlay,
            io,
            open: BTreeMap::new(),
            deaf: BTreeMap::new(),
        }
    }

    /// Addresses on which no peer can connect, and why.
    pub fn deaf(&self) -> &BTreeMap<IpAddr, String> {
        &self.deaf
    }

    /// Opens what is wanted and not open yet, and closes what is wanted no more.
    pub fn listen(&mut self, config: &SpeakerConfig) {
        let wanted: BTreeSet<IpAddr> = config.peers.values().map(|p| p.local).collect();
        self.deaf.retain(|local, _| wanted.contains(local));
        self.open.retain(|local, _| wanted.contains(local));
        for local in wanted {
            if self.open.contains_key(&local) {
                continue;
            }
            match sockets::listen(&self.overlay, local) {
                Ok(listener) => {
                    self.deaf.remove(&local);
                    let task = tokio::spawn(connection::accept(listener, self.io.clone()));
                    self.open.insert(local, Listener(task));
                }
                Err(error) => {
                    let reason = format!(
                        "cannot listen on port 179: {error}; peers cannot connect from their side \
                         (is another BGP daemon bound to all addresses?)"
                    );
                    self.deaf.insert(local, reason);
                }
            }
        }
    }
}
