//! The fence around rsvici: a stream beneath it and a connection above it.
//!
//! rsvici 0.1.5 waits for ever on a connection that charon closed while its reader spins on the
//! end of file, loses its place when a packet comes in two pieces, and allocates whatever length
//! the socket announces. So [`Stream`] gives it whole packets of a checked length or nothing at
//! all, and tells [`Connection`] about the end; [`Connection`] gives up on time, and whoever holds
//! one drops it on any doubt.

use super::error::{Call, Error};
use super::message::{LONGEST_PACKET, Message, Received};
use futures::StreamExt;
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// Packet types that charon sends.
mod packet {
    pub const RESPONSE: u8 = 1;
    pub const UNKNOWN_COMMAND: u8 = 2;
    pub const EVENT_CONFIRM: u8 = 5;
    pub const UNKNOWN_EVENT: u8 = 6;
    pub const EVENT: u8 = 7;
}

/// What went by on a stream.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Event registrations that charon confirmed.
    pub confirmed: usize,
    /// Why nothing more will come.
    pub end: Option<String>,
}

/// Passes bytes on in whole packets; at the end it falls silent and says so in [`Seen`].
pub struct Stream<S> {
    inner: S,
    seen: watch::Sender<Seen>,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were passed on.
    passed: usize,
    /// Bytes of `buffer` that may be passed on: the end of a packet.
    whole: usize,
}

impl<S> Stream<S> {
    /// A fenced stream, and where to look at what goes by.
    pub fn new(inner: S) -> (Stream<S>, watch::Receiver<Seen>) {
        let (seen, watcher) = watch::channel(Seen::default());
        (
            Stream {
                inner,
                seen,
                buffer: Vec::new(),
                passed: 0,
                whole: 0,
            },
            watcher,
        )
    }

    /// Notes the end. Reading again would only make rsvici spin, so it never becomes ready again.
    fn end(&mut self, reason: String) -> Poll<io::Result<()>> {
        self.buffer = Vec::new();
        (self.passed, self.whole) = (0, 0);
        self.seen.send_modify(|seen| {
            seen.end.get_or_insert(reason);
        });
        Poll::Pending
    }

    /// Looks for the next whole packet behind the one passed on.
    fn find_packet(&mut self) -> Result<bool, String> {
        let Some((head, body)) = self.buffer[self.passed..].split_first_chunk::<4>() else {
            return Ok(false);
        };
        let length = u32::from_be_bytes(*head) as usize;
        if length == 0 || length > LONGEST_PACKET {
            return Err(format!(
                "a packet of {length} bytes was announced, 1 to {LONGEST_PACKET} are possible"
            ));
        }
        let Some(packet) = body.get(..length) else {
            return Ok(false);
        };
        match packet[0] {
            packet::EVENT_CONFIRM => self.seen.send_modify(|seen| seen.confirmed += 1),
            packet::RESPONSE | packet::UNKNOWN_COMMAND | packet::UNKNOWN_EVENT => {}
            packet::EVENT
                if packet
                    .get(1)
                    .is_some_and(|&n| packet.len() >= 2 + n as usize) => {}
            other => {
                return Err(format!(
                    "a packet of type {other} that charon never sends, or cut short"
                ));
            }
        }
        self.whole = self.passed + 4 + length;
        Ok(true)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.seen.borrow().end.is_some() {
            return Poll::Pending;
        }
        loop {
            if this.passed < this.whole {
                let n = out.remaining().min(this.whole - this.passed);
                out.put_slice(&this.buffer[this.passed..this.passed + n]);
                this.passed += n;
                return Poll::Ready(Ok(()));
            }
            match this.find_packet() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(reason) => return this.end(reason),
            }
            this.buffer.drain(..this.passed);
            (this.passed, this.whole) = (0, 0);

            let mut piece = [0; 8192];
            let mut piece = ReadBuf::new(&mut piece);
            match Pin::new(&mut this.inner).poll_read(cx, &mut piece) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return this.end(error.to_string()),
                Poll::Ready(Ok(())) if piece.filled().is_empty() => {
                    return this.end("end of file".into());
                }
                Poll::Ready(Ok(())) => this.buffer.extend_from_slice(piece.filled()),
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, bytes);
        if let Poll::Ready(Err(error)) = &written {
            let _ = this.end(error.to_string());
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// A connection to charon. After an error, or if a call was cancelled, it must be dropped.
pub struct Connection {
    /// rsvici's, for subscriptions.
    pub client: rsvici::Client,
    seen: watch::Receiver<Seen>,
}

impl Connection {
    /// Connects.
    pub async fn open(socket: &Path, limit: Duration) -> io::Result<Connection> {
        let stream = timeout(limit, UnixStream::connect(socket))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        let (stream, seen) = Stream::new(stream);
        Ok(Connection {
            client: rsvici::Client::new(stream),
            seen,
        })
    }

    /// Whether charon closed it.
    pub fn ended(&self) -> bool {
        self.seen.has_changed().is_err() || self.seen.borrow().end.is_some()
    }

    /// What goes by on it.
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.clone()
    }

    /// One command and its answer.
    pub async fn request(
        &mut self,
        call: &Call,
        arguments: &Message,
        limit: Duration,
    ) -> Result<Message, Error> {
        let seen = self.seen();
        let exchange = async {
            let answer = self
                .client
                .request::<_, Received>(call.command, arguments)
                .await;
            match answer {
                Ok(Received(Some(answer))) => Ok(answer),
                Ok(Received(None)) => Err(unreadable(call)),
                Err(source) => Err(Error::Exchange {
                    call: call.clone(),
                    source,
                }),
            }
        };
        bounded(call, limit, seen, exchange).await
    }

    /// One command that is answered by a stream of events.
    pub async fn list(
        &mut self,
        call: &Call,
        event: &str,
        arguments: &Message,
        limit: Duration,
    ) -> Result<Vec<Message>, Error> {
        let seen = self.seen();
        let exchange = async {
            let mut items = pin!(self.client.stream_request::<_, Received>(
                call.command,
                event,
                arguments
            ));
            let mut list = Vec::new();
            while let Some(item) = items.next().await {
                match item {
                    Ok(Received(Some(message))) => list.push(message),
                    // Ours are plain ASCII: what cannot be read is somebody else's.
                    Ok(Received(None)) => {
                        tracing::warn!(%call, "skipped an entry that cannot be read")
                    }
                    Err(source) => {
                        return Err(Error::Exchange {
                            call: call.clone(),
                            source,
                        });
                    }
                }
            }
            Ok(list)
        };
        bounded(call, limit, seen, exchange).await
    }
}

/// An answer that is no message.
fn unreadable(call: &Call) -> Error {
    Error::Unexpected {
        call: call.clone(),
        reason: "it cannot be read".into(),
    }
}

/// Waits for an exchange as long as it may take, but not beyond the end of its connection.
async fn bounded<T>(
    call: &Call,
    limit: Duration,
    mut seen: watch::Receiver<Seen>,
    exchange: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        result = exchange => result,
        reason = ended(&mut seen) => Err(Error::Lost { call: call.clone(), reason }),
        () = tokio::time::sleep(limit) => Err(Error::Timeout { call: call.clone(), after: limit }),
    }
}

/// Waits for the end of a connection and says why.
pub async fn ended(seen: &mut watch::Receiver<Seen>) -> String {
    match seen.wait_for(|seen| seen.end.is_some()).await {
        Ok(seen) => seen.end.clone().unwrap_or_default(),
        Err(_) => "its reader stopped".into(),
    }
}
