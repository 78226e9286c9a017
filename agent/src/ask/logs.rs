//! The agent's last log lines, kept for whoever asks. Secrets are redacted by their types before a line is
//! one.

use super::{Desk, Error, Reply};
use routemesh_proto::{self as proto, answer};
use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines that are kept.
const KEPT: usize = 2_000;
/// Bytes of one.
const LONGEST: usize = 1_024;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    at: SystemTime,
    level: Level,
    text: String,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Line>,
    /// Number of the first line that is kept.
    first: u64,
}

/// The last lines. Copies are of the same.
#[derive(Clone, Debug)]
pub struct Logs {
    ring: Arc<Mutex<Ring>>,
    /// The number of the next line.
    next: Arc<watch::Sender<u64>>,
}

impl Default for Logs {
    fn default() -> Self {
        Self::new()
    }
}

impl Logs {
    /// Without any line yet.
    pub fn new() -> Self {
        Self {
            ring: Arc::default(),
            next: Arc::new(watch::Sender::new(0)),
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: Line) {
        let mut ring = self.ring();
        if ring.lines.len() == KEPT {
            ring.lines.pop_front();
            ring.first += 1;
        }
        ring.lines.push_back(line);
        let next = ring.first + ring.lines.len() as u64;
        drop(ring);
        self.next.send_replace(next);
    }

    /// Lines from this number on that are wanted, and the number of the next.
    fn since(&self, number: u64, wanted: impl Fn(&Line) -> bool) -> (Vec<Line>, u64) {
        let ring = self.ring();
        let skip = number.saturating_sub(ring.first);
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let lines = ring.lines.iter().skip(skip).filter(|line| wanted(line));
        let next = ring.first + ring.lines.len() as u64;
        (lines.cloned().collect(), next)
    }
}

impl<S: Subscriber> Layer<S> for Logs {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.push(Line {
            at: SystemTime::now(),
            level: *event.metadata().level(),
            text: text.0,
        });
    }
}

/// The message, and then the fields. What is too long is cut.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = if field.name() == "message" {
            let message = format!("{value:?}");
            self.0.insert_str(0, &message);
            Ok(())
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
        let mut end = self.0.len().min(LONGEST);
        while !self.0.is_char_boundary(end) {
            end -= 1;
        }
        self.0.truncate(end);
        // Writing into memory does not fail.
        let _ = written;
    }
}

pub(super) async fn answer(desk: &Desk, asked: proto::AskLogs, reply: &Reply) -> Result<(), Error> {
    let least: Level = asked.level.parse().unwrap_or(Level::TRACE);
    let wanted = |line: &Line| line.level <= least && line.text.contains(&asked.text);
    let mut changes = desk.logs.next.subscribe();
    let (mut lines, mut next) = desk.logs.since(0, wanted);
    let most = usize::try_from(asked.lines).unwrap_or(usize::MAX);
    lines.drain(..lines.len().saturating_sub(most));
    let end = Instant::now() + Duration::from_secs(asked.follow.into());
    loop {
        for line in lines {
            reply.send(answer::Piece::Log(tell(line))).await;
        }
        if asked.follow == 0 {
            return Ok(());
        }
        match timeout_at(end, changes.changed()).await {
            Ok(Ok(())) => (lines, next) = desk.logs.since(next, wanted),
            Ok(Err(_)) | Err(_) => return Ok(()),
        }
    }
}

fn tell(line: Line) -> proto::LogLine {
    let at = line.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    proto::LogLine {
        at: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
        level: line.level.as_str().to_ascii_lowercase(),
        text: line.text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_proto::Secret;
    use tracing::{debug, error, info};
    use tracing_subscriber::prelude::*;

    fn texts(logs: &Logs, from: u64) -> Vec<String> {
        let (lines, _) = logs.since(from, |_| true);
        lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn the_last_lines_are_kept_with_their_fields_and_without_secrets() {
        let logs = Logs::new();
        let subscriber = tracing_subscriber::registry().with(logs.clone());
        tracing::subscriber::with_default(subscriber, || {
            let key = Secret::from("swordfish");
            info!(tunnels = 3, ?key, "new config");
            error!("{}", "x".repeat(3 * LONGEST));
        });
        let kept = texts(&logs, 0);
        assert!(kept[0].starts_with("new config tunnels=3 key="), "{kept:?}");
        assert!(!kept[0].contains("swordfish"), "{kept:?}");
        assert_eq!(kept[1].len(), LONGEST);
    }

    #[test]
    fn a_ring_forgets_the_oldest_and_numbers_go_on() {
        let logs = Logs::new();
        let subscriber = tracing_subscriber::registry().with(logs.clone());
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..KEPT + 5 {
                debug!("line {n}");
            }
        });
        let (lines, next) = logs.since(0, |_| true);
        assert_eq!((lines.len(), next), (KEPT, KEPT as u64 + 5));
        assert_eq!(lines[0].text, "line 5");
        assert_eq!(texts(&logs, next - 1), [format!("line {}", KEPT + 4)]);
        assert_eq!(logs.since(0, |it| it.level <= Level::INFO).0.len(), 0);
    }
}
