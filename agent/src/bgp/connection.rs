//! One TCP connection: bytes in, bytes out, and word of its end.

use super::setup::Ends;
use routemesh_bgp::{ConnId, PeerId};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Duration, sleep, timeout};
use tracing::debug;

/// Bytes that may wait to be written; beyond that the peer is stuck. The speaker holds back its
/// UPDATEs long before.
const OUTBOX: usize = 1 << 20;
/// What one read takes at most.
const READ: usize = 64 * 1024;
/// Reads of less are copied out of their buffer, so that no connection sits on a large one.
const SMALL: usize = READ / 4;
/// Buffers that are read into, or wait for the speaker, at any time, whatever the number of
/// connections: the others' bytes wait in the kernel, and TCP makes their senders wait.
const BUFFERS: usize = 16;
/// How many of them one connection may have: with more, the speaker would work off one peer's whole
/// table before another's begins, and prefixes wait for the second peer that tells of them.
const OWN_BUFFERS: usize = 2;
/// How long the peer is given to read our last words and to close from its side. A connection closed
/// with bytes unread is reset, and the peer might never see the NOTIFICATION.
const LINGER: Duration = Duration::from_secs(1);

/// What the sockets have to tell.
pub enum Io {
    /// Somebody connected to us.
    Accepted { stream: TcpStream, ends: Ends },
    /// An attempt to connect came to its end.
    Connected {
        peer: PeerId,
        stream: io::Result<TcpStream>,
    },
    /// Bytes arrived. More may be read when `_buffer` is dropped.
    Received {
        conn: ConnId,
        bytes: Vec<u8>,
        _buffer: Buffer,
    },
    /// What was to be sent has gone to the kernel.
    Writable { conn: ConnId },
    /// The connection is over.
    Closed { conn: ConnId },
}

/// The right to a buffer: one of the connection's own, and one of all.
pub struct Buffer {
    _own: OwnedSemaphorePermit,
    _any: OwnedSemaphorePermit,
}

/// Where connections tell what happens, and get the right to read from.
#[derive(Clone)]
pub struct Sink {
    io: mpsc::Sender<Io>,
    buffers: Arc<Semaphore>,
}

impl Sink {
    pub fn new(io: mpsc::Sender<Io>) -> Self {
        let buffers = Arc::new(Semaphore::new(BUFFERS));
        Self { io, buffers }
    }
}

/// Accepts for as long as the listener lives.
pub async fn accept(listener: Arc<TcpListener>, local: IpAddr, io: mpsc::Sender<Io>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let remote = from.ip();
                // Global addresses have no scope, whatever interface they come by.
                let scope = match from {
                    SocketAddr::V6(from) => from.scope_id(),
                    SocketAddr::V4(_) => 0,
                };
                let ends = Ends {
                    local,
                    remote,
                    scope,
                };
                if io.send(Io::Accepted { stream, ends }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                debug!(%error, "accept failed");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What is to be sent over a connection. Dropping it ends the connection, after what is in it was
/// sent.
pub struct Outbox {
    messages: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

/// So much waits that the peer does not read any more, or the connection is over.
#[derive(Debug)]
pub struct Stuck;

impl Outbox {
    /// Hands bytes over to be sent.
    pub fn send(&self, bytes: Vec<u8>) -> Result<(), Stuck> {
        let size = bytes.len();
        let before = self.waiting.fetch_add(size, Ordering::Relaxed);
        match before + size <= OUTBOX {
            true => self.messages.send(bytes).map_err(|_| Stuck),
            false => Err(Stuck),
        }
    }
}

/// Serves a connection until either side ends it.
pub fn serve(conn: ConnId, stream: TcpStream, sink: Sink) -> Outbox {
    let (messages, inbox) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let outbox = Outbox {
        messages,
        waiting: waiting.clone(),
    };
    let (reader, writer) = stream.into_split();
    tokio::spawn(async move {
        let mut reading = pin!(read(conn, reader, &sink));
        let ended = tokio::select! {
            ended = &mut reading => ended,
            ended = write(conn, writer, inbox, &waiting, &sink.io) => {
                let _ = timeout(LINGER, reading).await;
                ended
            }
        };
        if let Err(error) = ended {
            debug!(conn = conn.0, %error, "connection ended");
        }
        let _ = sink.io.send(Io::Closed { conn }).await;
    });
    outbox
}

async fn read(conn: ConnId, reader: OwnedReadHalf, sink: &Sink) -> io::Result<()> {
    let own = Arc::new(Semaphore::new(OWN_BUFFERS));
    loop {
        // Nothing is held for a connection on which nothing happens.
        reader.readable().await?;
        let Ok(_own) = own.clone().acquire_owned().await else {
            return Ok(());
        };
        let Ok(_any) = sink.buffers.clone().acquire_owned().await else {
            return Ok(());
        };
        let mut bytes = Vec::with_capacity(READ);
        match reader.try_read_buf(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(n) if n < SMALL => bytes = bytes.as_slice().to_vec(),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let received = Io::Received {
            conn,
            bytes,
            _buffer: Buffer { _own, _any },
        };
        if sink.io.send(received).await.is_err() {
            return Ok(());
        }
    }
}

async fn write(
    conn: ConnId,
    mut writer: OwnedWriteHalf,
    mut inbox: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: &AtomicUsize,
    io: &mpsc::Sender<Io>,
) -> io::Result<()> {
    while let Some(bytes) = inbox.recv().await {
        writer.write_all(&bytes).await?;
        waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
        if inbox.is_empty() && io.send(Io::Writable { conn }).await.is_err() {
            break;
        }
    }
    writer.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// Ours and the peer's end.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, peers) = tokio::join!(TcpStream::connect(address), listener.accept());
        (ours.unwrap(), peers.unwrap().0)
    }

    fn sink() -> (Sink, mpsc::Receiver<Io>) {
        let (io, events) = mpsc::channel(256);
        (Sink::new(io), events)
    }

    async fn next(events: &mut mpsc::Receiver<Io>) -> Io {
        let event = timeout(Duration::from_secs(20), events.recv());
        event.await.expect("an event").expect("a sender")
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_stuck_before_much_waits_for_it() {
        let (ours, _peers) = connection().await;
        let (sink, _events) = sink();
        let outbox = serve(ConnId(1), ours, sink);
        let mut sent = 0;
        while outbox.send(vec![0; 64 * 1024]).is_ok() {
            sent += 64 * 1024;
            assert!(sent < 64 << 20, "nothing stops it");
            sleep(Duration::from_millis(1)).await;
        }
        assert!(outbox.waiting.load(Ordering::Relaxed) <= OUTBOX + 64 * 1024);
    }

    #[tokio::test]
    async fn what_is_not_digested_is_not_read() {
        const EACH: usize = 1 << 20;
        const PEERS: usize = 10;
        let (sink, mut events) = sink();
        let mut outboxes = Vec::new();
        for number in 0..PEERS as u64 {
            let (ours, mut peers) = connection().await;
            outboxes.push(serve(ConnId(number), ours, sink.clone()));
            tokio::spawn(async move { peers.write_all(&vec![0; EACH]).await });
        }
        while events.len() < BUFFERS {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(Duration::from_millis(50)).await;
        assert_eq!(events.len(), BUFFERS);
        let (mut all, mut closed) = (0, 0);
        while closed < PEERS {
            match next(&mut events).await {
                Io::Received { bytes, .. } => {
                    assert!(bytes.capacity() <= READ);
                    all += bytes.len();
                }
                Io::Closed { .. } => closed += 1,
                _ => {}
            }
        }
        assert_eq!(all, PEERS * EACH);
    }

    #[tokio::test]
    async fn connections_are_read_in_turns() {
        let (sink, mut events) = sink();
        let mut connections = Vec::new();
        for _ in 0..2 {
            let (ours, mut peers) = connection().await;
            // As much as the sockets take.
            let much = vec![0; 64 << 20];
            let filled = timeout(Duration::from_millis(200), peers.write_all(&much)).await;
            assert!(filled.is_err());
            connections.push((ours, peers));
        }
        let mut open = Vec::new();
        for (number, (ours, peers)) in connections.into_iter().enumerate() {
            let outbox = serve(ConnId(number as u64), ours, sink.clone());
            open.push((outbox, peers));
        }
        // However slowly they are worked off.
        let mut reads = [0usize; 2];
        for _ in 0..40 {
            if let Io::Received { conn, .. } = next(&mut events).await {
                reads[conn.0 as usize] += 1;
            }
            let ahead = reads[0].abs_diff(reads[1]);
            assert!(ahead <= OWN_BUFFERS, "{reads:?}");
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn last_words_arrive_though_the_peer_has_said_more_than_was_read() {
        let (ours, mut peers) = connection().await;
        let (sink, mut events) = sink();
        let outbox = serve(ConnId(1), ours, sink);
        while events.len() < OWN_BUFFERS || peers.try_write(&[0; 1024]).is_ok() {
            let _ = peers.try_write(&[0; READ]);
            sleep(Duration::from_millis(1)).await;
        }
        // More than the peer's window takes before it reads: what waits in the kernel would go with
        // a reset.
        outbox.send(vec![0; OUTBOX / 2]).unwrap();
        outbox.send(b"good bye".to_vec()).unwrap();
        drop(outbox);
        let digest = async { while !matches!(next(&mut events).await, Io::Closed { .. }) {} };
        let mut heard = Vec::new();
        let listen = async {
            sleep(Duration::from_millis(100)).await;
            let result = peers.read_to_end(&mut heard).await;
            drop(peers);
            result
        };
        let (_, result) = tokio::join!(digest, listen);
        result.expect("a connection closed, not reset");
        assert!(heard.ends_with(b"good bye"), "{} bytes", heard.len());
    }
}
