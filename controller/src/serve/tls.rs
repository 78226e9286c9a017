//! TLS 1.3, and who is at the other end.
//!
//! Whoever wants to enroll has no certificate, so none is asked for in the handshake; what those without
//! one may do is decided in [`super::access`]. Nobody can fill the house: there are so many places for
//! handshakes, for those without a certificate, and for each name; who comes when all are taken gets the
//! place of whoever has had one longest.

use super::access::{Caller, Refusals};
use super::figures::Figures;
use crate::ca::Peer;
use routemesh_proto::Identity;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{
    NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
};
use tokio_rustls::rustls::{self, CertificateError, RootCertStore, ServerConfig, version};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// A client that takes longer has lost its chance.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes under way at once, where there are file descriptors for twice as many.
const HANDSHAKES: usize = 4096;
/// For how long one without a certificate is listened to: it has one thing to ask.
const ENROLMENT: Duration = Duration::from_secs(30);
/// Connections without a certificate at once.
const STRANGERS: usize = 256;
/// Connections of one holder at once: an agent has one or two.
const OF_ONE: usize = 32;
/// A connection ends with its certificate, and after this long at the latest.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// An identity that TLS cannot use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM.
    #[error("the controller's certificates or key are damaged: {0}")]
    Pem(#[from] pem::Error),
    /// The authority.
    #[error("the certificate authority cannot be used: {0}")]
    Authority(#[from] VerifierBuilderError),
    /// The certificate.
    #[error("the controller's certificate cannot be used: {0}")]
    Certificate(#[from] rustls::Error),
}

/// How to be a server with this identity.
pub(super) fn server_config(identity: &Identity) -> Result<ServerConfig, TlsError> {
    let authorities =
        CertificateDer::pem_slice_iter(identity.ca.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let mut roots = RootCertStore::empty();
    for certificate in &authorities {
        roots.add(certificate.clone())?;
    }
    let mut chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    // Whoever enrolls knows the authority by its fingerprint only, and has to be shown it.
    chain.extend(authorities.into_iter().next());
    let key = PrivateKeyDer::from_pem_slice(identity.expose_key().as_bytes())?;
    let provider = Arc::new(default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.alpn_protocols.push(b"h2".to_vec());
    // A session that is resumed is not looked at again, and its certificate may have run out.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Places, of which there are so many.
struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

/// Who has come, by number: the first has had its place longest.
#[derive(Default)]
struct Taken {
    last: u64,
    all: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// One of them, as long as it lives.
struct Place {
    number: u64,
    places: Arc<Places>,
    /// Ends when somebody else gets the place.
    given_away: oneshot::Receiver<()>,
}

impl Places {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::default(),
        })
    }

    /// Takes a place, that of whoever has had one longest if all are taken.
    fn take(self: &Arc<Self>) -> Place {
        let (own, given_away) = oneshot::channel();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while taken.all.len() >= self.most {
            taken.all.pop_front();
        }
        taken.last += 1;
        let number = taken.last;
        taken.all.push_back((number, own));
        Place {
            number,
            places: self.clone(),
            given_away,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self
            .places
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let all = &mut taken.all;
        if let Ok(at) = all.binary_search_by_key(&self.number, |(number, _)| *number) {
            all.remove(at);
        }
    }
}

/// All places for connections.
#[derive(Default)]
struct House {
    of_one: Mutex<HashMap<String, Arc<Places>>>,
}

impl House {
    /// As many names as there are good certificates.
    fn of(&self, name: &str) -> Arc<Places> {
        let mut all = self.of_one.lock().unwrap_or_else(PoisonError::into_inner);
        let places = all.entry(name.to_owned());
        places.or_insert_with(|| Places::new(OF_ONE)).clone()
    }
}

/// A connection whose handshake is done, for as long as it may be used.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    until: Pin<Box<Sleep>>,
    place: Place,
    refusals: Refusals,
    /// Why it must end, once it must.
    ended: Option<&'static str>,
    /// One of those that are counted.
    _here: Arc<()>,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl Connection {
    /// Whether it must end, and why. Whatever it is asked for: one whose peer takes nothing is never read from.
    fn ended(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.ended.is_none() && self.until.as_mut().poll(context).is_ready() {
            self.ended = Some("its time is over");
        }
        // It must not be asked again once it has told.
        if self.ended.is_none()
            && Pin::new(&mut self.place.given_away)
                .poll(context)
                .is_ready()
        {
            self.refusals.count("too many connections");
            self.ended = Some("too many connections of the same holder");
        }
        match self.ended {
            Some(why) => Err(io::Error::new(io::ErrorKind::TimedOut, why)),
            None => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.ended(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ended(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.ended(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Half of the file descriptors at most: those who are let in need the others.
fn handshakes() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = files(&limits).unwrap_or(usize::MAX);
    (files / 2).clamp(1, HANDSHAKES)
}

/// The soft limit of open files in what proc_pid_limits(5) describes.
fn files(limits: &str) -> Option<usize> {
    let mut lines = limits.lines();
    let rest = lines.find_map(|line| line.strip_prefix("Max open files"))?;
    rest.split_whitespace().next()?.parse().ok()
}

type Connections = ReceiverStream<io::Result<Connection>>;

/// Connections whose handshake is done. Slow ones wait beside each other, not in a row, and for nobody.
pub(super) fn incoming(
    listener: TcpListener,
    config: watch::Receiver<Arc<ServerConfig>>,
    figures: Arc<Figures>,
    mut stopped: watch::Receiver<bool>,
) -> Connections {
    let (done, connections) = mpsc::channel(64);
    let (handshakes, strangers) = (Places::new(handshakes()), Places::new(STRANGERS));
    let house = Arc::new(House::default());
    tokio::spawn(async move {
        let mut full = false;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopped.wait_for(|stopped| *stopped) => return,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => {
                    full = false;
                    accepted
                }
                Err(error) => {
                    // Out of file descriptors, most likely: trying at once would only spin, and so would saying
                    // so each time fill the log.
                    if !std::mem::replace(&mut full, true) {
                        warn!("cannot accept connections: {error}");
                    }
                    figures.refusals.count("no file descriptor");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let acceptor = TlsAcceptor::from(config.borrow().clone());
            let mut place = handshakes.take();
            let (done, strangers, house) = (done.clone(), strangers.clone(), house.clone());
            let figures = figures.clone();
            tokio::spawn(async move {
                let handshake = figures.handshakes.enter();
                let refused = |reason| figures.refusals.count(reason);
                let _ = stream.set_nodelay(true);
                let accept = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
                let stream = tokio::select! {
                    accepted = accept => match accepted {
                        Ok(Ok(stream)) => stream,
                        Ok(Err(error)) => {
                            refused(reason(&error));
                            return debug!("{from} refused: {error}");
                        }
                        Err(_) => {
                            refused("handshake too slow");
                            return debug!("{from} refused: no handshake within {HANDSHAKE:?}");
                        }
                    },
                    _ = &mut place.given_away => {
                        refused("too many handshakes");
                        return debug!("{from} refused: others were faster");
                    }
                };
                drop((place, handshake));
                let (caller, until) = who(&stream, SystemTime::now());
                let (places, kind) = match &caller {
                    Caller::Holder(peer) => (house.of(&peer.uri()), &figures.holders),
                    Caller::Nobody | Caller::Unclear(_) => (strangers, &figures.strangers),
                };
                let connection = Connection {
                    stream,
                    caller,
                    until: Box::pin(sleep(until)),
                    place: places.take(),
                    refusals: figures.refusals.clone(),
                    ended: None,
                    _here: kind.enter(),
                };
                let _ = done.send(Ok(connection)).await;
            });
        }
    });
    ReceiverStream::new(connections)
}

/// Why a handshake failed, for counting.
fn reason(error: &io::Error) -> &'static str {
    let cause = error.get_ref().and_then(|it| it.downcast_ref());
    let Some(rustls::Error::InvalidCertificate(why)) = cause else {
        return "handshake failed";
    };
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate not valid yet"
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => "unknown authority",
        _ => "bad certificate",
    }
}

/// Who is at the other end, and for how long.
fn who(stream: &TlsStream<TcpStream>, now: SystemTime) -> (Caller, Duration) {
    let (_, session) = stream.get_ref();
    let Some(certificate) = session.peer_certificates().and_then(<[_]>::first) else {
        return (Caller::Nobody, ENROLMENT);
    };
    match Peer::from_certificate(certificate) {
        Ok(peer) => {
            let until = routemesh_proto::Validity::of(certificate)
                .and_then(|validity| validity.to.duration_since(now).ok());
            (Caller::Holder(peer), until.unwrap_or_default().min(LONGEST))
        }
        Err(error) => (Caller::Unclear(error), ENROLMENT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_comes_last_gets_the_place_of_whoever_has_had_one_longest() {
        let places = Places::new(2);
        let (mut first, second) = (places.take(), places.take());
        assert!(first.given_away.try_recv().is_err_and(is_empty));
        let mut third = places.take();
        assert!(!first.given_away.try_recv().is_err_and(is_empty));
        // Who left makes room, and who lost a place cannot leave twice.
        drop((first, second));
        let _fourth = places.take();
        assert!(third.given_away.try_recv().is_err_and(is_empty));
        let _fifth = places.take();
        assert!(!third.given_away.try_recv().is_err_and(is_empty));
    }

    #[test]
    fn the_limit_of_files_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             63382                63382                processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(files(limits), Some(1024));
        assert_eq!(files("Max open files            unlimited"), None);
        assert!((1..=HANDSHAKES).contains(&handshakes()));
    }

    fn is_empty(error: oneshot::error::TryRecvError) -> bool {
        error == oneshot::error::TryRecvError::Empty
    }
}
