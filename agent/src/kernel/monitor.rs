//! What the kernel tells by itself: a reason to look again, nothing more.

use super::socket::enlarge;
use super::wire::messages;
use super::{Error, Kernel};
use super::{link, route};
use crate::netns::Netns;
use crate::state::{RouteKey, ours};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use nix::libc;
use socket2::{SockFilter, SockRef};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Room for a burst of route notifications while the task that reads them is not running.
const RECEIVE_BUFFER: usize = 4 << 20;
const DATAGRAM: usize = 64 * 1024;
/// How long a socket that fails for no known reason rests.
const REST: Duration = Duration::from_secs(1);

/// So many deleted routes are named; where there are more, all are to be looked at.
const NAMED: usize = 1024;

/// Of `rtm_protocol` in `struct rtmsg`.
const PROTOCOL: usize = 5;

const LINK: u32 = 1;
const IPV4_ADDRESS: u32 = 5;
const IPV4_ROUTE: u32 = 7;
const IPV4_RULE: u32 = 8;
const IPV6_ADDRESS: u32 = 9;
const IPV6_ROUTE: u32 = 11;
const IPV6_RULE: u32 = 19;
const NEXTHOP: u32 = 32;

/// Something changed that we did not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An overlay interface went down, lost its carrier or is gone. Its nexthops, and IPv4 routes
    /// over them alone, went silently with it. Comes before [`Event::Changed`].
    LinkDown(String),
    /// Notifications were lost: like [`Event::Changed`], and links may have gone down.
    Overrun,
    /// Somebody else deleted this route of ours, or the kernel did.
    Gone(RouteKey),
    /// Somebody else changed routes of ours, or deleted very many.
    Routes,
    /// Other routes changed.
    Foreign,
    /// Links, addresses, nexthops or rules changed.
    Changed,
}

/// The events of both namespaces, coalesced: whatever happens between two calls of
/// [`next`](Self::next) is at most one of each kind, one `LinkDown` per interface and one `Gone` per
/// route.
///
/// What was changed through [`Kernel::apply`] is recognised by its sender and causes no event, and
/// observing causes none either, so a loop of `next`, observe, plan, apply comes to rest by itself.
/// What the kernel does in consequence of a change of ours (routes that go with a link) does cause
/// one: one more pass, which finds nothing to do.
pub struct Events {
    pending: Arc<Pending>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Pending {
    waiting: Mutex<Waiting>,
    notify: Notify,
}

#[derive(Default)]
struct Waiting {
    down: BTreeSet<String>,
    overrun: bool,
    gone: BTreeSet<RouteKey>,
    routes: bool,
    foreign: bool,
    changed: bool,
}

impl Kernel {
    /// Starts listening. Begin before the first observation, so that nothing falls between.
    /// Within a tokio runtime only.
    pub fn events(&self) -> Result<Events, Error> {
        let pending = Arc::new(Pending::default());
        let mut tasks = JoinSet::new();
        let groups = [
            LINK,
            IPV4_ADDRESS,
            IPV4_ROUTE,
            IPV4_RULE,
            IPV6_ADDRESS,
            IPV6_ROUTE,
            IPV6_RULE,
            NEXTHOP,
        ];
        let overlay = Monitor {
            socket: open(&self.netns, &groups, Some(self.overlay.port()))?,
            request_port: self.overlay.port(),
            tells_down: true,
            usable: BTreeMap::new(),
        };
        tasks.spawn(overlay.run(Arc::clone(&pending)));
        if !self.same {
            // The underlay's routes, perhaps a whole Internet's, are no concern of ours.
            let underlay = Monitor {
                socket: open(&self.own, &[LINK, IPV4_ADDRESS, IPV6_ADDRESS], None)?,
                request_port: self.underlay.port(),
                tells_down: false,
                usable: BTreeMap::new(),
            };
            tasks.spawn(underlay.run(Arc::clone(&pending)));
        }
        Ok(Events {
            pending,
            _tasks: tasks,
        })
    }
}

impl Events {
    /// The next event, links down first. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.pending.lock().take() {
                return event;
            }
            self.pending.notify.notified().await;
        }
    }
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.lock());
        self.notify.notify_one();
    }
}

impl Waiting {
    fn gone(&mut self, body: &[u8]) {
        let Some(route) = route::read(body) else {
            return;
        };
        match self.gone.len() < NAMED {
            true => drop(self.gone.insert(route.key)),
            false => self.routes = true,
        }
    }

    fn take(&mut self) -> Option<Event> {
        if let Some(name) = self.down.pop_first() {
            return Some(Event::LinkDown(name));
        }
        if std::mem::take(&mut self.overrun) {
            (self.routes, self.foreign, self.changed) = (false, false, false);
            self.gone.clear();
            return Some(Event::Overrun);
        }
        if let Some(key) = self.gone.pop_first() {
            return Some(Event::Gone(key));
        }
        if std::mem::take(&mut self.routes) {
            return Some(Event::Routes);
        }
        if std::mem::take(&mut self.foreign) {
            return Some(Event::Foreign);
        }
        std::mem::take(&mut self.changed).then_some(Event::Changed)
    }
}

/// `writer`: the socket whose changes of routes are not told.
fn open(netns: &Netns, groups: &[u32], writer: Option<u32>) -> Result<TokioSocket, Error> {
    let mask = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
    let runtime = Handle::current();
    let socket = netns.run(|| -> io::Result<TokioSocket> {
        let _entered = runtime.enter();
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        enlarge(socket.socket_ref(), RECEIVE_BUFFER)?;
        if let Some(port) = writer {
            SockRef::from(socket.socket_ref()).attach_filter(&without_routes_of(port))?;
        }
        socket.socket_mut().bind(&SocketAddr::new(0, mask))?;
        Ok(socket)
    })?;
    socket.map_err(|error| Error::Refused {
        what: "listen for changes",
        refusal: error.into(),
    })
}

/// A packet filter that drops notifications of routes changed through the socket of this port. They
/// come by the hundred thousand, and would fill the buffer before we could pass them over.
fn without_routes_of(port: u32) -> [SockFilter; 7] {
    // Loads are in network order, the header is in the machine's.
    let kind = |kind: u16| u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
    let step = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let load = libc::BPF_LD | libc::BPF_ABS;
    let (all, none) = (u32::MAX, 0);
    [
        step(load | libc::BPF_H, 0, 0, 4),
        step(equal, 1, 0, kind(libc::RTM_NEWROUTE)),
        step(equal, 0, 2, kind(libc::RTM_DELROUTE)),
        step(load | libc::BPF_W, 0, 0, 12),
        step(equal, 1, 0, u32::from_be_bytes(port.to_ne_bytes())),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, all),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, none),
    ]
}

struct Monitor {
    socket: TokioSocket,
    /// Changes made through the socket of this port are our own.
    request_port: u32,
    tells_down: bool,
    /// By index: the interfaces whose state was told.
    usable: BTreeMap<u32, bool>,
}

impl Monitor {
    async fn run(mut self, pending: Arc<Pending>) {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            datagram.clear();
            match self.socket.recv(&mut datagram).await {
                Ok(()) => self.tell(&datagram, &pending),
                Err(error) => {
                    pending.add(|waiting| waiting.overrun = true);
                    if error.raw_os_error() != Some(Errno::ENOBUFS as i32) {
                        tracing::warn!(%error, "listening for kernel changes failed");
                        tokio::time::sleep(REST).await;
                    }
                }
            }
        }
    }

    fn tell(&mut self, datagram: &[u8], pending: &Pending) {
        for message in messages(datagram) {
            let own = message.port == self.request_port;
            let down = self.went_down(message.kind, message.body);
            if own {
                continue;
            }
            pending.add(|waiting| {
                match (message.kind, message.body.get(PROTOCOL)) {
                    (libc::RTM_NEWROUTE, Some(&ours::PROTOCOL)) => waiting.routes = true,
                    (libc::RTM_DELROUTE, Some(&ours::PROTOCOL)) => waiting.gone(message.body),
                    (libc::RTM_NEWROUTE | libc::RTM_DELROUTE, _) => waiting.foreign = true,
                    _ => waiting.changed = true,
                }
                waiting.down.extend(down.filter(|_| self.tells_down));
            });
        }
    }

    /// The name of an interface that this message says is no longer usable. One never heard of
    /// counts as usable before.
    fn went_down(&mut self, kind: u16, body: &[u8]) -> Option<String> {
        let interface = link::decode(kind, body)?;
        let before = if kind == libc::RTM_DELLINK {
            self.usable.remove(&interface.index)
        } else {
            self.usable.insert(interface.index, interface.usable)
        };
        (!interface.usable && before != Some(false)).then_some(interface.name)
    }
}
