//! Waiting for peers to connect.

use super::connection::{self, Io};
use super::setup::{Demands, Setup};
use super::{options, sockets};
use crate::netns::Netns;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// One listener per local address in use.
pub struct Listeners {
    overlay: Netns,
    io: mpsc::Sender<Io>,
    open: BTreeMap<(IpAddr, u32), Listener>,
    /// Addresses without a listener, and why.
    deaf: BTreeMap<IpAddr, String>,
}

/// Accepts until it is dropped.
struct Listener {
    socket: Arc<TcpListener>,
    demands: Demands,
    accepting: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
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
    pub fn listen(&mut self, setup: &Setup) {
        let wanted = setup.listeners();
        self.open.retain(|place, _| wanted.contains_key(place));
        self.deaf.clear();
        for ((local, scope), demands) in wanted {
            let result = match self.open.get_mut(&(local, scope)) {
                Some(listener) => {
                    let before = std::mem::replace(&mut listener.demands, demands);
                    ask(&listener.socket, local, &before, &listener.demands)
                }
                None => self.open(local, scope, demands),
            };
            if let Err(error) = result {
                // Better no listener than one that asks for too little.
                self.open.remove(&(local, scope));
                let hint = match error.kind() {
                    io::ErrorKind::AddrInUse => " (is another BGP daemon bound to all addresses?)",
                    _ => "",
                };
                let reason = format!(
                    "cannot listen on port 179: {error}{hint}; peers cannot connect from their side"
                );
                self.deaf.insert(local, reason);
            }
        }
    }

    fn open(&mut self, local: IpAddr, scope: u32, demands: Demands) -> io::Result<()> {
        let socket = sockets::bind(&self.overlay, local, scope)?;
        // Before the first connection can come.
        options::remember_syn(&socket)?;
        ask(&socket, local, &Demands::default(), &demands)?;
        let socket = Arc::new(sockets::listen(socket)?);
        let accepting = connection::accept(socket.clone(), local, self.io.clone());
        let listener = Listener {
            socket,
            demands,
            accepting: tokio::spawn(accepting),
        };
        self.open.insert((local, scope), listener);
        Ok(())
    }
}

/// Asks for what is asked now, and no more for what was asked before.
fn ask(socket: &impl AsFd, local: IpAddr, before: &Demands, now: &Demands) -> io::Result<()> {
    if before.minimum_ttl != now.minimum_ttl {
        options::set_minimum_ttl(socket, local, now.minimum_ttl)?;
    }
    let passwords = before.passwords.keys();
    for peers in passwords.filter(|peers| !now.passwords.contains_key(peers)) {
        options::set_md5(socket, *peers, None)?;
    }
    for (peers, password) in &now.passwords {
        if before.passwords.get(peers) != Some(password) {
            options::set_md5(socket, *peers, Some(password))?;
        }
    }
    Ok(())
}
