//! One TCP connection: bytes in, bytes out, and word of its end.

use routemesh_bgp::{ConnId, PeerId};
use std::io;
use std::net::IpAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep};
use tracing::debug;

/// Messages that may wait to be written; beyond that the peer is stuck.
const OUTBOX: usize = 1024;
const READ: usize = 64 * 1024;

/// What the sockets have to tell.
pub enum Io {
    /// Somebody connected to us.
    Accepted { stream: TcpStream, remote: IpAddr },
    /// An attempt to connect came to its end.
    Connected {
        peer: PeerId,
        stream: io::Result<TcpStream>,
    },
    /// Bytes arrived.
    Received { conn: ConnId, bytes: Vec<u8> },
    /// What was to be sent has gone to the kernel.
    Writable { conn: ConnId },
    /// The connection is over.
    Closed { conn: ConnId },
}

/// Accepts for as long as the listener lives.
pub async fn accept(listener: TcpListener, io: mpsc::Sender<Io>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let remote = from.ip();
                if io.send(Io::Accepted { stream, remote }).await.is_err() {
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

/// Serves a connection until either side ends it. Dropping the outbox ends it from here, after
/// what is in it was sent.
pub fn serve(conn: ConnId, stream: TcpStream, io: mpsc::Sender<Io>) -> mpsc::Sender<Vec<u8>> {
    let (outbox, messages) = mpsc::channel(OUTBOX);
    let (reader, writer) = stream.into_split();
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = read(conn, reader, &io) => ended,
            ended = write(conn, writer, messages, &io) => ended,
        };
        if let Err(error) = ended {
            debug!(conn = conn.0, %error, "connection ended");
        }
        let _ = io.send(Io::Closed { conn }).await;
    });
    outbox
}

async fn read(conn: ConnId, mut reader: OwnedReadHalf, io: &mpsc::Sender<Io>) -> io::Result<()> {
    let mut buffer = vec![0; READ];
    loop {
        let n = reader.read(&mut buffer).await?;
        let bytes = buffer.get(..n).unwrap_or_default().to_vec();
        if n == 0 || io.send(Io::Received { conn, bytes }).await.is_err() {
            return Ok(());
        }
    }
}

async fn write(
    conn: ConnId,
    mut writer: OwnedWriteHalf,
    mut messages: mpsc::Receiver<Vec<u8>>,
    io: &mpsc::Sender<Io>,
) -> io::Result<()> {
    while let Some(bytes) = messages.recv().await {
        writer.write_all(&bytes).await?;
        if messages.is_empty() && io.send(Io::Writable { conn }).await.is_err() {
            break;
        }
    }
    writer.shutdown().await
}
