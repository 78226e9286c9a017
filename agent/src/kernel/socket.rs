//! A blocking netlink socket for requests: batches with their acknowledgements, and dumps.
//!
//! Not rtnetlink's connection, for four reasons: it keeps one task and one channel a message, where
//! routes come by the hundred thousand; it drops, with only a log line, a message it cannot decode,
//! so that one strange foreign object could hide ours; its errors lose the kernel's explanation;
//! and it has no time-out.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
    NLMSG_OVERRUN, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket as Raw, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use std::fmt;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::wire::{HEADER, Message, messages};

/// One batch, or one datagram of a dump, is answered within this.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// A whole dump is.
const DUMP_TIMEOUT: Duration = Duration::from_secs(120);
/// Messages in one send: beyond half of this nothing gets faster.
pub(super) const BATCH_MESSAGES: usize = 1024;
/// Bytes in one send, well below the default send buffer of 208 KiB.
const BATCH_BYTES: usize = 64 * 1024;
/// What to ask for as receive buffer: room for [`BATCH_MESSAGES`] refusals.
const RECEIVE_BUFFER: usize = 4 << 20;
/// What one refusal may take of it, the kernel's own bookkeeping included.
const REFUSAL_SIZE: usize = 4096;
/// The kernel sends dumps in datagrams of at most 32 KiB.
const DATAGRAM: usize = 64 * 1024;
/// Exchanges that may wait for their turn.
const QUEUE: usize = 64;
/// Objects of a listing that are passed on together.
const PIECE: usize = 1024;
/// A dump that the kernel declares torn by a concurrent change is asked for again this often.
const TORN_DUMPS: usize = 10;

/// How the kernel refused: the error number and, where it gave one, its explanation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// The error number.
    pub errno: Errno,
    /// The extended acknowledgement, or what else is known.
    pub text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "{text} ({})", self.errno),
            None => write!(f, "{}", self.errno),
        }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { errno, text: None }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32)).into()
    }
}

impl Refusal {
    fn timeout() -> Self {
        let text = format!("the kernel did not answer within {} s", TIMEOUT.as_secs());
        Self {
            errno: Errno::ETIMEDOUT,
            text: Some(text),
        }
    }

    fn torn(times: usize) -> Self {
        let text = format!("changes tore {times} listings in a row");
        Self {
            errno: Errno::EINTR,
            text: Some(text),
        }
    }

    pub(super) fn malformed() -> Self {
        Self {
            errno: Errno::EBADMSG,
            text: Some("the kernel's answer makes no sense".into()),
        }
    }
}

/// A request without its header: the socket numbers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub kind: u16,
    /// Beside `NLM_F_REQUEST` and `NLM_F_ACK`.
    pub flags: u16,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(message: RouteNetlinkMessage, flags: u16) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        Self {
            kind: message.message_type(),
            flags,
            body,
        }
    }

    fn size(&self) -> usize {
        HEADER + self.body.len()
    }
}

/// What a socket is to do.
type Exchange = Box<dyn FnOnce(&mut Socket) + Send>;

/// A request socket on a thread of its own: one exchange after the other, in the order in which
/// they were asked for, each bounded in time. The thread ends with the last handle.
#[derive(Clone)]
pub(super) struct Channel {
    exchanges: SyncSender<Exchange>,
    port: u32,
}

/// What will come of an exchange.
pub(super) struct Answer<T> {
    answer: oneshot::Receiver<T>,
    due: Instant,
}

impl<T> Answer<T> {
    /// Waits for it. Dropping the future loses nothing.
    pub async fn get(&mut self) -> Result<T, Refusal> {
        match timeout_at(self.due, &mut self.answer).await {
            Ok(Ok(answer)) => Ok(answer),
            // It panicked, or there was no room for it.
            Ok(Err(_)) => Err(Errno::ECANCELED.into()),
            Err(_) => Err(Refusal::timeout()),
        }
    }
}

impl Channel {
    /// Opens it in the calling thread's namespace, to that part of the kernel.
    pub fn open(protocol: isize) -> Result<Self, Refusal> {
        let mut socket = Socket::open(protocol)?;
        let port = socket.port;
        let (exchanges, queue) = sync_channel::<Exchange>(QUEUE);
        let serve = move || {
            for exchange in queue {
                // What was asked for is refused, and the next may do better.
                let exchange = AssertUnwindSafe(|| exchange(&mut socket));
                let _ = catch_unwind(exchange);
            }
        };
        let thread = std::thread::Builder::new().name("netlink".into());
        thread.spawn(serve)?;
        Ok(Self { exchanges, port })
    }

    /// The address under which the kernel knows this socket: notifications of what was changed
    /// through it carry this number.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// What `decode` makes of the messages (type and body) that answer a dump request.
    pub async fn dump<T: Send + 'static>(
        &self,
        request: Request,
        decode: fn(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        let dump = move |socket: &mut Socket| socket.ask(&request, NLM_F_DUMP, decode);
        self.exchange(DUMP_TIMEOUT, dump).get().await?
    }

    /// Like [`Channel::dump`], in pieces as they come. Of a listing that is not needed any more the
    /// rest is passed over.
    pub async fn stream<T: Send + 'static>(
        &self,
        request: Request,
        decode: fn(u16, &[u8]) -> Option<T>,
        pieces: mpsc::Sender<Vec<T>>,
    ) -> Result<(), Refusal> {
        let stream = move |socket: &mut Socket| {
            let mut piece = Vec::new();
            let torn = socket.ask_each(&request, NLM_F_DUMP, |kind, body| {
                piece.extend(decode(kind, body));
                if piece.len() >= PIECE {
                    let _ = pieces.blocking_send(std::mem::take(&mut piece));
                }
            })?;
            let _ = pieces.blocking_send(piece);
            match torn {
                true => Err(Refusal::torn(1)),
                false => Ok(()),
            }
        };
        self.exchange(DUMP_TIMEOUT, stream).get().await?
    }

    /// What `decode` makes of the one message that answers a request for one object.
    pub async fn get<T: Send + 'static>(
        &self,
        request: Request,
        decode: fn(u16, &[u8]) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let get = move |socket: &mut Socket| socket.ask(&request, NLM_F_ACK, decode);
        Ok(self.exchange(TIMEOUT, get).get().await??.pop())
    }

    /// Sends one request.
    pub async fn send_one(&self, request: Request) -> Result<(), Refusal> {
        let send = move |socket: &mut Socket| socket.send([request]).pop();
        let result = self.exchange(TIMEOUT, send).get().await?;
        result.unwrap_or_else(|| Err(Refusal::malformed()))
    }

    /// Has an exchange done after those that were asked for before. One that does not end in time
    /// keeps the socket: those after it fail too.
    pub fn exchange<T: Send + 'static>(
        &self,
        timeout: Duration,
        exchange: impl FnOnce(&mut Socket) -> T + Send + 'static,
    ) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        let exchange = Box::new(move |socket: &mut Socket| {
            // Whoever asked may have gone.
            let _ = reply.send(exchange(socket));
        });
        let due = Instant::now() + timeout;
        // Without room for it, nobody will answer.
        let _ = self.exchanges.try_send(exchange);
        Answer { answer, due }
    }
}

/// The socket itself.
pub(super) struct Socket {
    raw: Raw,
    port: u32,
    /// Messages in one send: there is room for the refusal of each.
    batch: usize,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Socket {
    pub fn open(protocol: isize) -> Result<Self, Refusal> {
        let mut raw = Raw::new(protocol)?;
        raw.set_cap_ack(true)?;
        raw.set_ext_ack(true)?;
        raw.set_netlink_get_strict_chk(true)?;
        enlarge(&raw, RECEIVE_BUFFER)?;
        setsockopt(
            &raw,
            sockopt::ReceiveTimeout,
            &TimeVal::new(TIMEOUT.as_secs() as _, 0),
        )?;
        let port = raw.bind_auto()?.port_number();
        raw.connect(&SocketAddr::new(0, 0))?;
        let room = raw.get_rx_buf_sz()?;
        Ok(Self {
            raw,
            port,
            batch: (room / REFUSAL_SIZE).clamp(1, BATCH_MESSAGES),
            sequence: 0,
            datagram: vec![0; DATAGRAM],
        })
    }

    /// Appends a request to what is to be sent and returns its sequence number.
    fn append(&mut self, bytes: &mut Vec<u8>, request: &Request, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let length = (HEADER + request.body.len()) as u32;
        bytes.extend(length.to_ne_bytes());
        bytes.extend(request.kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | request.flags | flags).to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(&request.body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.sequence
    }

    /// Sends requests in order, many at a time, and returns what became of each, in order.
    pub fn send(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Vec<Result<(), Refusal>> {
        let mut requests = requests.into_iter().peekable();
        let (mut results, mut bytes) = (Vec::new(), Vec::new());
        while let Some(mut request) = requests.next() {
            bytes.clear();
            let mut count = 1;
            while count < self.batch
                && let Some(next) = requests
                    .next_if(|next| bytes.len() + request.size() + next.size() <= BATCH_BYTES)
            {
                self.append(&mut bytes, &request, 0);
                (request, count) = (next, count + 1);
            }
            let last = self.append(&mut bytes, &request, NLM_F_ACK);
            results.extend(self.send_batch(&bytes, last, count));
        }
        results
    }

    /// Sends so many requests and reads until the last of them is acknowledged. The kernel works
    /// through them in order within the send call, so an acknowledgement is asked for the last one
    /// only; refusals come one by one, before it.
    fn send_batch(&mut self, bytes: &[u8], last: u32, count: usize) -> Vec<Result<(), Refusal>> {
        let mut results = vec![Ok(()); count];
        let first = last.wrapping_sub(count as u32 - 1);
        let outcome = self.transmit(bytes).and_then(|()| {
            loop {
                let mut done = false;
                self.receive(|message| {
                    let index = message.sequence.wrapping_sub(first) as usize;
                    if message.kind == NLMSG_ERROR && index < results.len() {
                        results[index] = message.result();
                        done |= index + 1 == results.len();
                    }
                })?;
                if done {
                    return Ok(());
                }
            }
        });
        if let Err(refusal) = outcome {
            // What was not refused by name is unknown.
            results
                .iter_mut()
                .filter(|r| r.is_ok())
                .for_each(|r| *r = Err(refusal.clone()));
        }
        results
    }

    /// Sends a request that is answered by messages and an end to them: the end of a dump, or the
    /// acknowledgement of a single request.
    pub fn ask<T>(
        &mut self,
        request: &Request,
        flags: u16,
        decode: fn(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        for _ in 0..TORN_DUMPS {
            let mut decoded = Vec::new();
            let each = |kind, body: &[u8]| decoded.extend(decode(kind, body));
            if !self.ask_each(request, flags, each)? {
                return Ok(decoded);
            }
        }
        Err(Refusal::torn(TORN_DUMPS))
    }

    /// Shows each message that answers; true if the kernel declares them torn by a concurrent
    /// change.
    fn ask_each(
        &mut self,
        request: &Request,
        flags: u16,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<bool, Refusal> {
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, request, flags);
        self.transmit(&bytes)?;
        let (mut torn, mut end) = (false, None);
        while end.is_none() {
            self.receive(|message| {
                if message.sequence != sequence {
                    return;
                }
                torn |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => end = Some(message.result()),
                    NLMSG_NOOP | NLMSG_OVERRUN => {}
                    kind => each(kind, message.body),
                }
            })?;
        }
        match end {
            Some(Err(refusal)) => Err(refusal),
            _ => Ok(torn),
        }
    }

    fn transmit(&self, bytes: &[u8]) -> Result<(), Refusal> {
        let sent = retry(|| self.raw.send(bytes, 0))?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(Refusal::malformed())
        }
    }

    /// Reads one datagram and shows each message in it.
    fn receive(&mut self, mut each: impl FnMut(Message)) -> Result<(), Refusal> {
        let length = match retry(|| self.raw.recv(&mut &mut self.datagram[..], 0)) {
            Ok(length) => length.min(self.datagram.len()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(Refusal::timeout()),
            Err(error) => return Err(error.into()),
        };
        messages(&self.datagram[..length]).for_each(&mut each);
        Ok(())
    }
}

fn retry(mut call: impl FnMut() -> std::io::Result<usize>) -> std::io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Asks for a receive buffer beyond the system's limit, or, unprivileged, up to it.
pub(super) fn enlarge(socket: &Raw, bytes: usize) -> std::io::Result<()> {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &bytes)?;
    }
    Ok(())
}
