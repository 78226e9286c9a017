//! Says when somebody, we among them, has changed the packet filter: a reason to look.

use crate::netns::Netns;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use nix::libc;
use socket2::{SockFilter, SockRef};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// `NFT_MSG_NEWGEN` of `NFNL_SUBSYS_NFTABLES`: the end of a transaction.
const NEW_GENERATION: u16 = 10 << 8 | 15;
const DATAGRAM: usize = 64 * 1024;
/// How long a socket that fails for no known reason rests.
const REST: Duration = Duration::from_secs(1);

/// Tells of each transaction of a namespace, for ever. Within a tokio runtime only.
pub fn watch(
    netns: &Netns,
    changed: Arc<Notify>,
) -> Result<impl Future<Output = ()> + Send + use<>, super::nft::Error> {
    let runtime = Handle::current();
    let socket = netns.run(|| -> io::Result<TokioSocket> {
        let _entered = runtime.enter();
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        SockRef::from(socket.socket_ref()).attach_filter(&only_ends())?;
        socket
            .socket_mut()
            .bind(&SocketAddr::new(0, 1 << (GROUP - 1)))?;
        Ok(socket)
    })??;
    Ok(async move {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            datagram.clear();
            let received = socket.recv(&mut datagram).await;
            // What was lost may have been one.
            changed.notify_one();
            if let Err(error) = received
                && error.raw_os_error() != Some(Errno::ENOBUFS as i32)
            {
                tracing::warn!(%error, "listening for changes of the packet filter failed");
                tokio::time::sleep(REST).await;
            }
        }
    })
}

/// A packet filter that passes the ends of transactions only: a large one has thousands of messages.
fn only_ends() -> [SockFilter; 4] {
    // Loads are in network order, the header is in the machine's.
    let kind = u32::from(u16::from_be_bytes(NEW_GENERATION.to_ne_bytes()));
    let step = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    [
        step(libc::BPF_LD | libc::BPF_ABS | libc::BPF_H, 0, 0, 4),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, kind),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}
