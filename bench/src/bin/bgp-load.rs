//! `bgp-load`: a BGP speaker that can only be a load for another one.
//!
//! It opens one iBGP session, IPv4 or IPv6 by its addresses, and does what lines on standard input
//! say: `announce` (all prefixes, then End-of-RIB), `withdraw` (all), `abort` (the connection ends in
//! a reset, as that of a killed daemon does). It answers on standard output with `established`,
//! `announcing`, `announced`, `withdrawing`, `withdrawn`, `aborted`, each with the nanoseconds of
//! CLOCK_MONOTONIC at that moment. End of input ends it.
//!
//! All bytes are made before they are asked for. It shares no code with the speaker of Routemesh.

use clap::Parser;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use routemesh_bench::clock;
use routemesh_bench::prefix::{Family, MOST};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

const PORT: u16 = 179;
/// Longer than any wait: a daemon that is busy for long is slow, not lost.
const HOLD_TIME: u16 = 600;
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
/// How long the other side may take to listen and to open the session.
const OPENING: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(100);

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
const HEADER: usize = 19;

/// Announces prefixes to one BGP peer, on command.
#[derive(Parser)]
struct Args {
    /// Address to speak from, which is the next hop too.
    #[arg(long)]
    local: IpAddr,
    /// The peer.
    #[arg(long)]
    remote: IpAddr,
    /// AS of both.
    #[arg(long, default_value_t = 65000)]
    asn: u16,
    /// BGP identifier.
    #[arg(long)]
    router_id: Ipv4Addr,
    /// How many prefixes.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    count: u32,
    /// How many of them in one UPDATE.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=200))]
    per_update: u32,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bgp-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<()> {
    let load = Load::new(args);
    let stream = establish(args)?;
    say("established")?;
    Session::new(stream, &load)?.run()
}

fn say(word: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{word} {}", clock::now().as_nanos())?;
    out.flush()
}

/// The UPDATEs, ready to be sent.
struct Load {
    announce: Vec<u8>,
    withdraw: Vec<u8>,
}

impl Load {
    fn new(args: &Args) -> Self {
        let family = Family::of(args.local);
        let mut load = Self {
            announce: Vec::new(),
            withdraw: Vec::new(),
        };
        for first in (0..args.count).step_by(args.per_update as usize) {
            let last = args.count.min(first + args.per_update);
            let prefixes = (first..last).flat_map(|number| {
                let octets = family.octets(number);
                let length = family.length();
                let used = usize::from(length).div_ceil(8);
                std::iter::once(length).chain(octets.into_iter().take(used))
            });
            let prefixes: Vec<u8> = prefixes.collect();
            frame(
                UPDATE,
                &announcement(args.local, &prefixes),
                &mut load.announce,
            );
            frame(UPDATE, &withdrawal(family, &prefixes), &mut load.withdraw);
        }
        // End-of-RIB (RFC 4724 section 2) withdraws nothing.
        let end = match family {
            Family::Ipv4 => vec![0, 0, 0, 0],
            Family::Ipv6 => withdrawal(family, &[]),
        };
        frame(UPDATE, &end, &mut load.announce);
        load
    }
}

fn frame(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    out.extend([0xff; 16]);
    out.extend(length(HEADER + body.len()));
    out.push(kind);
    out.extend(body);
}

/// A length of two octets. Nothing here is longer.
fn length(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// ORIGIN IGP, AS_PATH 64500 64501, LOCAL_PREF 100, and the next hop: the same for all.
fn announcement(next_hop: IpAddr, prefixes: &[u8]) -> Vec<u8> {
    let mut attributes = vec![0x40, 1, 1, 0];
    attributes.extend([0x40, 2, 10, 2, 2, 0, 0, 0xfb, 0xf4, 0, 0, 0xfb, 0xf5]);
    if let IpAddr::V4(address) = next_hop {
        attributes.extend([0x40, 3, 4]);
        attributes.extend(address.octets());
    }
    attributes.extend([0x40, 5, 4, 0, 0, 0, 100]);
    let mut nlri = prefixes;
    if let IpAddr::V6(address) = next_hop {
        attributes.extend([0x90, 14]);
        attributes.extend(length(4 + 16 + 1 + prefixes.len()));
        attributes.extend([0, 2, 1, 16]);
        attributes.extend(address.octets());
        attributes.push(0);
        attributes.extend(prefixes);
        nlri = &[];
    }
    let mut body = vec![0, 0];
    body.extend(length(attributes.len()));
    body.extend(attributes);
    body.extend(nlri);
    body
}

fn withdrawal(family: Family, prefixes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    match family {
        Family::Ipv4 => {
            body.extend(length(prefixes.len()));
            body.extend(prefixes);
            body.extend([0, 0]);
        }
        Family::Ipv6 => {
            body.extend([0, 0]);
            body.extend(length(4 + 3 + prefixes.len()));
            body.extend([0x90, 15]);
            body.extend(length(3 + prefixes.len()));
            body.extend([0, 2, 1]);
            body.extend(prefixes);
        }
    }
    body
}

/// A session, as soon as the other side will have one. A daemon that has just started may refuse
/// connections, and end some that it accepted.
fn establish(args: &Args) -> io::Result<TcpStream> {
    let began = clock::now();
    loop {
        match connect(args).and_then(|stream| open(stream, args)) {
            Ok(stream) => return Ok(stream),
            Err(error) if clock::now() - began > OPENING => return Err(error),
            Err(_) => std::thread::sleep(RETRY),
        }
    }
}

fn connect(args: &Args) -> io::Result<TcpStream> {
    let remote = SocketAddr::new(args.remote, PORT);
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, None)?;
    socket.bind(&SockAddr::from(SocketAddr::new(args.local, 0)))?;
    socket.connect_timeout(&SockAddr::from(remote), Duration::from_secs(2))?;
    Ok(socket.into())
}

/// OPEN and KEEPALIVE, both ways.
fn open(mut stream: TcpStream, args: &Args) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(OPENING))?;
    let afi = match Family::of(args.local) {
        Family::Ipv4 => 1,
        Family::Ipv6 => 2,
    };
    // Multiprotocol (RFC 4760), AS numbers of four octets (RFC 6793), route refresh (RFC 2918).
    let mut capabilities = vec![1, 4, 0, afi, 0, 1, 65, 4, 0, 0];
    capabilities.extend(args.asn.to_be_bytes());
    capabilities.extend([2, 0]);
    let mut body = vec![4];
    body.extend(args.asn.to_be_bytes());
    body.extend(HOLD_TIME.to_be_bytes());
    body.extend(args.router_id.octets());
    let parameters = u8::try_from(capabilities.len()).unwrap_or(u8::MAX);
    body.extend([parameters + 2, 2, parameters]);
    body.extend(capabilities);
    let mut bytes = Vec::new();
    frame(OPEN, &body, &mut bytes);
    frame(KEEPALIVE, &[], &mut bytes);
    stream.write_all(&bytes)?;
    for expected in [OPEN, KEEPALIVE] {
        let (kind, body) = read_message(&mut stream)?;
        if kind != expected {
            let said = format!("message {kind} {body:?} where {expected} was expected");
            return Err(io::Error::other(said));
        }
    }
    Ok(stream)
}

fn read_message(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut body = vec![0; length.saturating_sub(HEADER)];
    stream.read_exact(&mut body)?;
    Ok((header[18], body))
}

/// The established session: what is being sent, and what was received of an unfinished message.
struct Session<'a> {
    stream: TcpStream,
    load: &'a Load,
    sending: &'a [u8],
    /// Said once all is sent.
    then: &'static str,
    received: Vec<u8>,
    keepalive: Vec<u8>,
    spoke: Duration,
}

impl<'a> Session<'a> {
    fn new(stream: TcpStream, load: &'a Load) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut keepalive = Vec::new();
        frame(KEEPALIVE, &[], &mut keepalive);
        Ok(Self {
            stream,
            load,
            sending: &[],
            then: "",
            received: Vec::new(),
            keepalive,
            spoke: clock::now(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            let mut wanted = PollFlags::POLLIN;
            if !self.sending.is_empty() {
                wanted |= PollFlags::POLLOUT;
            }
            let stdin = io::stdin();
            let mut fds = [
                PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.stream.as_fd(), wanted),
            ];
            poll(&mut fds, PollTimeout::from(1000_u16))?;
            let ready = |fd: &PollFd| fd.any().unwrap_or(false);
            let (command, socket) = (ready(&fds[0]), ready(&fds[1]));
            if socket {
                self.receive()?;
                self.send()?;
            }
            if command && !self.obey()? {
                return Ok(());
            }
            if self.sending.is_empty() && clock::now() - self.spoke > KEEPALIVE_TIME {
                self.spoke = clock::now();
                // Nothing is under way: it fits into the socket's buffer.
                self.stream.write_all(&self.keepalive)?;
            }
        }
    }

    /// One command; false at the end. A command comes alone: the next is given when it is done.
    fn obey(&mut self) -> io::Result<bool> {
        let mut line = [0; 64];
        let length = io::stdin().read(&mut line)?;
        match line.get(..length).unwrap_or_default().trim_ascii() {
            b"announce" => self.begin(&self.load.announce, "announcing", "announced")?,
            b"withdraw" => self.begin(&self.load.withdraw, "withdrawing", "withdrawn")?,
            b"abort" => {
                // A reset in place of a proper end, when the connection is dropped.
                SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
                say("aborted")?;
                return Ok(false);
            }
            b"" => return Ok(false),
            other => {
                let said = format!("unknown command {}", String::from_utf8_lossy(other));
                return Err(io::Error::other(said));
            }
        }
        Ok(true)
    }

    fn begin(&mut self, bytes: &'a [u8], now: &str, then: &'static str) -> io::Result<()> {
        say(now)?;
        self.sending = bytes;
        self.then = then;
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.sending.is_empty() {
            match self.stream.write(self.sending) {
                Ok(written) => self.sending = self.sending.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.sending.is_empty() {
                self.spoke = clock::now();
                say(self.then)?;
            }
        }
        Ok(())
    }

    /// Whatever the peer says is thrown away, unless it ends the session.
    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 65_536];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::Error::other("the peer closed the connection")),
                Ok(length) => self.received.extend(buffer.iter().take(length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            let mut at = 0;
            while let Some(header) = self.received.get(at..at + HEADER) {
                let length = usize::from(u16::from_be_bytes([header[16], header[17]])).max(HEADER);
                let Some(message) = self.received.get(at..at + length) else {
                    break;
                };
                if header[18] == NOTIFICATION {
                    let said = format!("NOTIFICATION {:?}", &message[HEADER..]);
                    return Err(io::Error::other(said));
                }
                at += length;
            }
            self.received.drain(..at);
        }
    }
}
