//! What the kernel tells by itself: a reason to look again, nothing more.

use super::link;
use super::socket::enlarge;
use super::wire::messages;
use super::{Error, Kernel};
use crate::netns::Netns;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use nix::libc;
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

const LINK: u32 = 1;
const IPV4_ADDRESS: u32 = 5;
const IPV4_ROUTE: u32 = 7;
const IPV6_ADDRESS: u32 = 9;
const IPV6_ROUTE: u32 = 11;
const NEXTHOP: u32 = 32;

/// Something changed that we did not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An overlay interface went down, lost its carrier or is gone. Its nexthops, and IPv4 routes
    /// over them alone, went silently with it. Comes before [`Event::Changed`].
    LinkDown(String),
    /// Notifications were lost: like [`Event::Changed`], and links may have gone down.
    Overrun,
    /// Links, addresses, nexthops or routes changed.
    Changed,
}

/// The events of both namespaces, coalesced: whatever happens between two calls of
/// [`next`](Self::next) is at most one `Changed`, one `Overrun` and one `LinkDown` per interface.
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
            IPV6_ADDRESS,
            IPV6_ROUTE,
            NEXTHOP,
        ];
        let overlay = Monitor {
            socket: open(&self.netns, &groups)?,
            request_port: self.overlay.port(),
            tells_down: true,
            usable: BTreeMap::new(),
        };
        tasks.spawn(overlay.run(Arc::clone(&pending)));
        if !self.same {
            // The underlay's routes, perhaps a whole Internet's, are no concern of ours.
            let underlay = Monitor {
                socket: open(&self.own, &[LINK, IPV4_ADDRESS, IPV6_ADDRESS])?,
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
    fn take(&mut self) -> Option<Event> {
        if let Some(name) = self.down.pop_first() {
            return Some(Event::LinkDown(name));
        }
        if std::mem::take(&mut self.overrun) {
            self.changed = false;
            return Some(Event::Overrun);
        }
        std::mem::take(&mut self.changed).then_some(Event::Changed)
    }
}

fn open(netns: &Netns, groups: &[u32]) -> Result<TokioSocket, Error> {
    let mask = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
    let runtime = Handle::current();
    let socket = netns.run(|| -> io::Result<TokioSocket> {
        let _entered = runtime.enter();
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        enlarge(socket.socket_ref(), RECEIVE_BUFFER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, mask))?;
        Ok(socket)
    })?;
    socket.map_err(|error| Error::Refused {
        what: "listen for changes",
        refusal: error.into(),
    })
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
                waiting.changed = true;
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
