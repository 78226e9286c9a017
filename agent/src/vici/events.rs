//! What charon tells unasked.

use super::error::{Call, Error};
use super::fence::{self, Connection};
use super::message::{Message, Received};
use super::refusal;
use super::sas::is_ours;
use futures::StreamExt;
use futures::stream::select_all;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that may wait for the consumer; more are replaced by one [`Event::Resync`].
const WAITING: usize = 256;
/// How long opening and registering may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Waiting before opening again: from, to.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Something happened to SAs of ours.
///
/// Events come late and some not at all, and each is about one SA while a connection may have
/// several: they are reasons to look at [`super::Vici::sas`], which is the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Events may have been missed, or charon is a new one that knows nothing: list everything.
    Resync,
    /// The connection to charon was lost; after it is back, there is a `Resync`.
    Lost,
    /// A CHILD_SA of this connection was installed.
    ConnectionUp(String),
    /// An IKE_SA or CHILD_SA of this connection is gone.
    ConnectionDown(String),
    /// An IKE_SA or CHILD_SA of this connection was replaced by a new one.
    Rekeyed(String),
    /// An attempt to make one came to nothing.
    Refused {
        /// The connection.
        connection: String,
        /// Why, for people.
        reason: String,
    },
}

/// What is asked of charon.
#[derive(Clone, Copy)]
enum Topic {
    ChildUpdown,
    IkeUpdown,
    ChildRekey,
    IkeRekey,
    Log,
}

const TOPICS: [(&str, Topic); 5] = [
    ("child-updown", Topic::ChildUpdown),
    ("ike-updown", Topic::IkeUpdown),
    ("child-rekey", Topic::ChildRekey),
    ("ike-rekey", Topic::IkeRekey),
    ("log", Topic::Log),
];

/// charon's events, on a connection of their own, until the receiver is dropped.
///
/// A [`Event::Resync`] comes first, as soon as charon is there.
pub fn events(socket: PathBuf) -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let mut outbox = Outbox {
        sender,
        behind: false,
    };
    tokio::spawn(async move {
        let closed = outbox.sender.clone();
        tokio::select! {
            () = closed.closed() => {}
            () = forever(&socket, &mut outbox) => {}
        }
    });
    receiver
}

/// Opens and reads again and again.
async fn forever(socket: &Path, outbox: &mut Outbox) {
    let mut wait = BACKOFF.0;
    loop {
        let mut registered = false;
        let error = listen(socket, outbox, &mut registered).await;
        if registered {
            tracing::warn!(%error, "charon's events are lost until it is back");
            outbox.send(Event::Lost);
            wait = BACKOFF.0;
        } else {
            tracing::debug!(%error, "no events from charon");
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACKOFF.1);
    }
}

/// Opens a connection, registers once and passes events on until it fails.
async fn listen(socket: &Path, outbox: &mut Outbox, registered: &mut bool) -> Error {
    let call = Call {
        socket: socket.to_owned(),
        command: "events",
        object: String::new(),
    };
    let mut connection = match Connection::open(socket, LIMIT).await {
        Ok(connection) => connection,
        Err(source) => return Error::Connect { call, source },
    };
    let streams = TOPICS.map(|(name, topic)| {
        let events = connection.client.subscribe::<Received>(name);
        Box::pin(events.map(move |event| event.map(|Received(message)| (topic, message))))
    });
    let mut events = select_all(streams);
    let mut end = connection.seen();
    let mut confirmed = connection.seen();
    let mut untimely = Untimely::default();
    let deadline = tokio::time::sleep(LIMIT);
    tokio::pin!(deadline);
    loop {
        // The streams first: charon is not to wait for us.
        tokio::select! {
            biased;
            event = events.next() => match event {
                Some(Ok((topic, message))) => {
                    outbox.send(untimely.sift(interpret(topic, message.as_ref())));
                }
                Some(Err(source)) => return Error::Exchange { call, source },
                None => return Error::Lost { call, reason: "all subscriptions ended".into() },
            },
            reason = fence::ended(&mut end) => return Error::Lost { call, reason },
            // From here on nothing is missed, so this is the time to list everything.
            Ok(_) = confirmed.wait_for(|seen| seen.confirmed >= TOPICS.len()), if !*registered => {
                *registered = true;
                outbox.send(Some(Event::Resync));
            }
            () = &mut deadline, if !*registered => return Error::Timeout { call, after: LIMIT },
            () = outbox.catch_up(), if outbox.behind => {}
        }
    }
}

/// What an event says about ours. One that cannot be read may say anything, but for a line of the log.
fn interpret(topic: Topic, message: Option<&Message>) -> Option<Event> {
    let Some(message) = message else {
        return (!matches!(topic, Topic::Log)).then_some(Event::Resync);
    };
    let ours = || {
        let mut sections = message.sections();
        let (name, _) = sections.find(|(name, _)| is_ours(name))?;
        Some(name.to_owned())
    };
    let up = message.get_text("up") == Some("yes");
    match topic {
        Topic::ChildUpdown if up => ours().map(Event::ConnectionUp),
        // Its child follows, and only that carries traffic.
        Topic::IkeUpdown if up => None,
        Topic::ChildUpdown | Topic::IkeUpdown => ours().map(Event::ConnectionDown),
        Topic::ChildRekey | Topic::IkeRekey => ours().map(Event::Rekeyed),
        Topic::Log => refused(message),
    }
}

/// What a line of charon's log says of an attempt of ours.
fn refused(message: &Message) -> Option<Event> {
    let connection = message.get_text("ikesa-name").filter(|it| is_ours(it))?;
    Some(Event::Refused {
        connection: connection.to_owned(),
        reason: refusal::reason(message.get_text("msg")?)?,
    })
}

/// Connections whose peer has shown a certificate that is not valid now. charon says so, and in its next breath that
/// it trusts none: the first tells more.
#[derive(Default)]
struct Untimely(BTreeSet<String>);

impl Untimely {
    fn sift(&mut self, event: Option<Event>) -> Option<Event> {
        if let Some(Event::Refused { connection, reason }) = &event {
            match reason.as_str() {
                refusal::UNTIMELY => drop(self.0.insert(connection.clone())),
                refusal::UNTRUSTED if self.0.remove(connection) => return None,
                _ => {}
            }
        }
        event
    }
}

/// Where events go: never waits, never grows.
struct Outbox {
    sender: mpsc::Sender<Event>,
    /// Something found no room: a `Resync` is owed, and stands for all that comes before it.
    behind: bool,
}

impl Outbox {
    fn send(&mut self, event: impl Into<Option<Event>>) {
        if let (Some(event), false) = (event.into(), self.behind) {
            self.behind = self.sender.try_send(event).is_err();
        }
    }

    /// Pays the `Resync` as soon as there is room.
    async fn catch_up(&mut self) {
        if let Ok(permit) = self.sender.reserve().await {
            permit.send(Event::Resync);
            self.behind = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_certificate_is_not_trusted_counts_before_that_it_is_not() {
        let refused = |connection: &str, reason: &str| Event::Refused {
            connection: connection.to_owned(),
            reason: reason.to_owned(),
        };
        let mut untimely = Untimely::default();
        let mut passes = |connection: &str, reason: &str| {
            let event = Some(refused(connection, reason));
            untimely.sift(event.clone()) == event
        };
        assert!(passes("rm1-a", refusal::UNTIMELY));
        assert!(passes("rm2-b", refusal::UNTRUSTED), "of another one");
        assert!(!passes("rm1-a", refusal::UNTRUSTED));
        assert!(passes("rm1-a", refusal::UNTRUSTED), "of another attempt");
    }
}
