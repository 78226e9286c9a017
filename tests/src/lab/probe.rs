//! Measures loss and gaps: numbered datagrams from one host to another, at a steady rate, spread
//! over many flows so that every path carries some.

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::error::{LabError, Result};
use super::host::Host;

/// In every datagram, so that a capture recognises one in clear wherever it is.
pub const MARK: &[u8; 16] = b"routemesh-probe\n";
/// Source ports of a probe's flows start here.
const FIRST_PORT: u16 = 40_000;
/// Where probes go.
const SINK_PORT: u16 = 7_007;

/// A probe under way.
#[derive(Debug)]
pub struct Probe {
    from: String,
    to: String,
    start: Instant,
    stop: Arc<AtomicBool>,
    sender: JoinHandle<std::io::Result<Vec<Sent>>>,
    sink: JoinHandle<std::io::Result<Vec<Seen>>>,
    flows: usize,
}

type Sent = Instant;

#[derive(Debug, Clone, Copy)]
struct Seen {
    number: usize,
    at: Instant,
}

/// What a probe measured.
#[derive(Debug, Clone)]
pub struct ProbeReport {
    /// "R1 to 2001:db8:a2::1".
    pub path: String,
    /// Datagrams sent.
    pub sent: usize,
    /// Of these, how many never arrived.
    pub lost: usize,
    /// The longest time between two arrivals of one flow, the flow's pace taken off.
    pub longest_gap: Duration,
    /// When the last lost datagram was sent, from the probe's start.
    pub last_loss: Option<Duration>,
    /// When the first of them was.
    pub first_loss: Option<Duration>,
    /// Sent and lost, flow by flow.
    pub flows: Vec<(usize, usize)>,
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} of {} lost, from {:.2} s to {:.2} s, longest gap {:.2} s, {} of {} flows hit",
            self.path,
            self.lost,
            self.sent,
            self.first_loss.unwrap_or_default().as_secs_f64(),
            self.last_loss.unwrap_or_default().as_secs_f64(),
            self.longest_gap.as_secs_f64(),
            self.flows.iter().filter(|flow| flow.1 > 0).count(),
            self.flows.len(),
        )
    }
}

impl Probe {
    /// Starts `rate` datagrams a second from an address of one host to an address of another.
    pub fn start(from: (&Host, &str), to: (&Host, &str), flows: usize, rate: u32) -> Result<Self> {
        let address = |text: &str, port: u16| -> Result<SocketAddr> {
            let ip = text.parse();
            ip.map(|ip| SocketAddr::new(ip, port))
                .map_err(|_| LabError::Unexpected(format!("{text} is not an address")))
        };
        let target = address(to.1, SINK_PORT)?;
        let sink = to.0.enter(|| UdpSocket::bind(target))?;
        let sink = sink.map_err(LabError::io(format!("{} {target}", to.0.name())))?;
        // The thread that reads may be held up for seconds; that must not look like a loss.
        setsockopt(&sink, sockopt::RcvBufForce, &(16 << 20)).map_err(LabError::os("buffer"))?;
        let mut sources = Vec::new();
        for (_, port) in (0..flows).zip(FIRST_PORT..) {
            let source = address(from.1, port)?;
            let socket = from.0.enter(|| {
                let socket = UdpSocket::bind(source)?;
                socket.connect(target)?;
                // A full queue must cost a datagram, not the pace of all the others.
                socket.set_nonblocking(true)?;
                Ok(socket)
            })?;
            sources.push(socket.map_err(LabError::io(format!("{} {source}", from.0.name())))?);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let start = Instant::now();
        let (stop_sender, stop_sink) = (stop.clone(), stop.clone());
        Ok(Self {
            from: from.0.name().to_owned(),
            to: to.1.to_owned(),
            start,
            stop,
            sender: std::thread::spawn(move || send(&sources, rate, &stop_sender)),
            sink: std::thread::spawn(move || receive(&sink, &stop_sink)),
            flows,
        })
    }

    /// When it started.
    pub fn started(&self) -> Instant {
        self.start
    }

    /// Ends it, waits for what is still under way, and reports.
    pub fn stop(self) -> Result<ProbeReport> {
        let path = format!("{} to {}", self.from, self.to);
        self.stop.store(true, Ordering::Relaxed);
        let ended = |what| LabError::io(format!("probe {path}: {what}"));
        let panicked = |_| LabError::Unexpected(format!("probe {path}: panicked"));
        let sent = self
            .sender
            .join()
            .map_err(panicked)?
            .map_err(ended("send"))?;
        let seen = self
            .sink
            .join()
            .map_err(panicked)?
            .map_err(ended("receive"))?;
        Ok(account(path, self.start, self.flows, &sent, &seen))
    }
}

fn send(sources: &[UdpSocket], rate: u32, stop: &AtomicBool) -> std::io::Result<Vec<Sent>> {
    let pace = Duration::from_secs(1) / rate;
    let start = Instant::now();
    let mut sent = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = sent.len();
        let due = start + pace * u32::try_from(number).unwrap_or(u32::MAX);
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(early);
        }
        let mut datagram = MARK.to_vec();
        datagram.extend((number as u64).to_be_bytes());
        // Unreachable is an answer about the network, and counts as a loss.
        let _ = sources[number % sources.len()].send(&datagram);
        sent.push(Instant::now());
    }
    Ok(sent)
}

fn receive(sink: &UdpSocket, stop: &AtomicBool) -> std::io::Result<Vec<Seen>> {
    sink.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut seen = Vec::new();
    let mut stopped = None;
    let mut datagram = [0; 64];
    loop {
        if stop.load(Ordering::Relaxed) {
            // Whoever is slower than this is lost.
            let since: Instant = *stopped.get_or_insert_with(Instant::now);
            if since.elapsed() > Duration::from_secs(1) {
                return Ok(seen);
            }
        }
        let Ok(length) = sink.recv(&mut datagram) else {
            continue;
        };
        let number = datagram[..length]
            .strip_prefix(MARK)
            .and_then(|rest| rest.try_into().ok())
            .map(u64::from_be_bytes);
        if let Some(number) = number {
            seen.push(Seen {
                number: usize::try_from(number).unwrap_or(usize::MAX),
                at: Instant::now(),
            });
        }
    }
}

fn account(
    path: String,
    start: Instant,
    flows: usize,
    sent: &[Sent],
    seen: &[Seen],
) -> ProbeReport {
    let mut arrived = vec![None; sent.len()];
    for one in seen {
        if let Some(slot) = arrived.get_mut(one.number) {
            *slot = Some(one.at);
        }
    }
    let mut counts = vec![(0, 0); flows];
    let mut longest_gap = Duration::ZERO;
    for (flow, count) in counts.iter_mut().enumerate() {
        // The gap of a flow runs from its last arrival before a loss to its next one, and to the
        // end of the probe if nothing more came.
        let mut last_sent_ok: Option<Instant> = sent.get(flow).copied();
        let mut missing = false;
        for number in (flow..sent.len()).step_by(flows) {
            count.0 += 1;
            match arrived[number] {
                Some(at) => {
                    if let (true, Some(before)) = (missing, last_sent_ok) {
                        longest_gap = longest_gap.max(at.duration_since(before));
                    }
                    missing = false;
                    last_sent_ok = Some(sent[number]);
                }
                None => {
                    count.1 += 1;
                    missing = true;
                }
            }
        }
        if let (true, Some(before), Some(end)) = (missing, last_sent_ok, sent.last()) {
            longest_gap = longest_gap.max(end.duration_since(before));
        }
    }
    let losses = || arrived.iter().zip(sent).filter(|(at, _)| at.is_none());
    let when = |(_, at): (_, &Instant)| at.duration_since(start);
    ProbeReport {
        path,
        sent: sent.len(),
        lost: losses().count(),
        longest_gap,
        last_loss: losses().next_back().map(when),
        first_loss: losses().next().map(when),
        flows: counts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two flows, 10 ms apart; flow 1 loses its datagrams 3 and 5 of the whole.
    #[test]
    fn a_gap_is_measured_from_the_last_datagram_that_arrived() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let sent: Vec<_> = (0..10).map(|n| at(n * 10)).collect();
        let seen: Vec<_> = (0..10)
            .filter(|n| ![3, 5].contains(n))
            .map(|n| Seen {
                number: n,
                at: sent[n] + Duration::from_millis(1),
            })
            .collect();
        let report = account("x".into(), start, 2, &sent, &seen);
        assert_eq!((report.sent, report.lost), (10, 2));
        assert_eq!(report.flows, [(5, 0), (5, 2)]);
        assert_eq!(report.longest_gap, Duration::from_millis(61));
        assert_eq!(report.first_loss, Some(Duration::from_millis(30)));
        assert_eq!(report.last_loss, Some(Duration::from_millis(50)));
    }

    #[test]
    fn what_never_comes_back_is_a_gap_until_the_end() {
        let start = Instant::now();
        let sent: Vec<_> = (0..10)
            .map(|n| start + Duration::from_millis(n * 10))
            .collect();
        let report = account(
            "x".into(),
            start,
            1,
            &sent,
            &[Seen {
                number: 0,
                at: sent[0],
            }],
        );
        assert_eq!(report.lost, 9);
        assert_eq!(report.longest_gap, Duration::from_millis(90));
    }
}
