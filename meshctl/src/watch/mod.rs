//! The mesh live, on the whole screen. `pages` says what there is to see, `model` what a key does, `draw` how it looks:
//! all of that is pure. What is here carries it between terminal, controller and clock, and decides nothing.

mod draw;
mod model;
mod pages;

use crate::client::Client;
use crate::failure::Failure;
use crate::table::Look;
use crossterm::event::{Event, EventStream};
use futures::StreamExt;
use model::{Model, News};
use ratatui::DefaultTerminal;
use routemesh_proto::GetTopologyRequest;
use std::io::{self, IsTerminal};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_secs(2);
/// A controller that is long at an answer has so many times that until the next question.
const REST: u32 = 4;

/// Until somebody has seen enough.
pub(crate) async fn watch(
    client: Client,
    request: GetTopologyRequest,
    look: Look,
) -> Result<(), Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "--watch needs a terminal; without it, `meshctl topology` shows the same once",
        ));
    }
    let mut screen = Screen::open()?;
    let (tell, news) = mpsc::channel(1);
    let asking = tokio::spawn(ask(client.quietly(), request, tell));
    let ended = run(&mut screen.0, news, look).await;
    asking.abort();
    Ok(ended?)
}

async fn run(
    terminal: &mut DefaultTerminal,
    mut news: mpsc::Receiver<News>,
    look: Look,
) -> io::Result<()> {
    let began = Instant::now();
    let mut model = Model::default();
    let mut keys = EventStream::new();
    // Ages grow.
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut signals = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
        signal(SignalKind::interrupt())?,
    ];
    let [terminate, hangup, interrupt] = &mut signals;
    while !model.is_done() {
        terminal.draw(|frame| draw::draw(frame, &model, began.elapsed(), look))?;
        tokio::select! {
            Some(it) = news.recv() => model.hear(it, began.elapsed()),
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) => model.press(key),
                // Another size is drawn for at once.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            _ = second.tick() => {}
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
    Ok(())
}

/// Asks the controller again and again, beside the screen, which never waits for it.
async fn ask(client: Client, request: GetTopologyRequest, tell: mpsc::Sender<News>) {
    loop {
        let asked = Instant::now();
        let news = client.topology(request.clone()).await;
        let took = asked.elapsed();
        let news = news.map(Box::new).map_err(|error| error.to_string());
        if tell.send(news).await.is_err() {
            return;
        }
        sleep(PAUSE.max(took.saturating_mul(REST))).await;
    }
}

/// The terminal as it is while all of it is ours; given back however we end (a panic included).
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        Ok(Self(ratatui::try_init()?))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

#[cfg(test)]
mod tests;
