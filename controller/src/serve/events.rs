//! The last events, counted and kept for whoever asks; and those that come.

use super::state::lock;
use crate::events::{Seen, changes};
use crate::serve::State;
use routemesh_proto::Event;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

/// Events that are kept.
const KEPT: usize = 10_000;
/// Between two looks. What comes and goes within is not seen.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// Events on their way to whoever asked.
const QUEUE: usize = 64;

impl State {
    /// What events are found in.
    pub(super) fn seen(&self) -> Seen {
        let mesh = self.mesh().borrow().clone();
        Seen::new(mesh, self.reports())
    }
}

/// What happened.
#[derive(Debug)]
pub(super) struct Events {
    kept: Mutex<VecDeque<Event>>,
    /// The number of the last one.
    last: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            last: watch::Sender::new(0),
        }
    }
}

impl Events {
    /// Looks for changes since what was seen first, for ever.
    pub(super) async fn watch(self: Arc<Self>, state: Arc<State>, first: Seen) {
        let mut seen = Some(first);
        loop {
            tokio::time::sleep(LOOK).await;
            let state = state.clone();
            let before = seen.take();
            let look = move || {
                let now = state.seen();
                let found = before.map(|before| changes(&before, &now));
                (now, found.unwrap_or_default())
            };
            if let Ok((now, found)) = tokio::task::spawn_blocking(look).await {
                self.push(found, SystemTime::now());
                seen = Some(now);
            }
        }
    }

    fn push(&self, found: Vec<Event>, now: SystemTime) {
        if found.is_empty() {
            return;
        }
        let at = humantime::format_rfc3339_seconds(now).to_string();
        let mut kept = lock(&self.kept);
        let mut number = kept.back().map_or(0, |event| event.number);
        for event in found {
            number += 1;
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(Event {
                number,
                at: at.clone(),
                ..event
            });
        }
        drop(kept);
        self.last.send_replace(number);
    }

    /// Those after a number that are of a gateway, or of whomever.
    fn since(&self, after: u64, gateway: &str) -> (Vec<Event>, u64) {
        let kept = lock(&self.kept);
        let of = |event: &&Event| {
            event.number > after
                && (gateway.is_empty() || event.gateways.iter().any(|it| it == gateway))
        };
        let last = kept.back().map_or(after, |event| event.number.max(after));
        (kept.iter().filter(of).cloned().collect(), last)
    }

    #[allow(clippy::result_large_err)]
    pub(super) fn stream(
        self: &Arc<Self>,
        gateway: String,
        mut after: u64,
        follow: bool,
    ) -> Result<Response<ReceiverStream<Result<Event, Status>>>, Status> {
        let last = lock(&self.kept).back().map_or(0, |event| event.number);
        if after > last {
            return Err(Status::out_of_range(format!(
                "there is no event {after}, the last is {last}: the controller was restarted and counts anew, or it is another one; ask without --after"
            )));
        }
        let (out, stream) = mpsc::channel(QUEUE);
        let events = self.clone();
        tokio::spawn(async move {
            let mut changed = events.last.subscribe();
            loop {
                changed.mark_unchanged();
                let (found, last) = events.since(after, &gateway);
                after = last;
                for event in found {
                    if out.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                if !follow {
                    return;
                }
                tokio::select! {
                    changed = changed.changed() => if changed.is_err() {
                        return;
                    },
                    () = out.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    fn event(gateway: &str, text: &str) -> Event {
        Event {
            kind: "tunnel".to_owned(),
            gateways: vec![gateway.to_owned()],
            text: text.to_owned(),
            ..Event::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_counted_kept_and_followed() {
        let events = Arc::new(Events::default());
        let now = SystemTime::UNIX_EPOCH;
        events.push(vec![event("A", "one"), event("B", "two")], now);
        let stream = |gateway: &str, after, follow| {
            let stream = events.stream(gateway.to_owned(), after, follow);
            stream.unwrap().into_inner()
        };
        let mut all = stream("", 0, true);
        let mut of_a = stream("A", 1, true);
        // As of a controller before this one.
        let beyond = events.stream(String::new(), 3, true).unwrap_err();
        assert_eq!(beyond.code(), tonic::Code::OutOfRange);
        let next = async |of: &mut ReceiverStream<Result<Event, Status>>| -> (u64, String) {
            let event = of.next().await.unwrap().unwrap();
            (event.number, event.text)
        };
        assert_eq!(next(&mut all).await, (1, "one".to_owned()));
        assert_eq!(next(&mut all).await, (2, "two".to_owned()));
        events.push(vec![event("A", "three")], now);
        assert_eq!(next(&mut of_a).await, (3, "three".to_owned()));
        assert_eq!(next(&mut all).await, (3, "three".to_owned()));
        // Without following, it ends.
        let kept = stream("", 2, false);
        assert_eq!(kept.collect::<Vec<_>>().await.len(), 1);
        events.push((0..2 * KEPT).map(|_| event("A", "many")).collect(), now);
        assert_eq!(events.since(0, "").0.len(), KEPT);
    }
}
