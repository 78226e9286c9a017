//! A sign of life while somebody waits at a terminal.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use tokio::time::{Instant, interval_at};

const SECOND: Duration = Duration::from_secs(1);

/// Waits for something; says so on standard error after a second, and then how long it has been.
pub(crate) async fn waiting<T>(what: &str, it: impl Future<Output = T>) -> T {
    if !io::stderr().is_terminal() {
        return it.await;
    }
    let began = Instant::now();
    let mut second = interval_at(began + SECOND, SECOND);
    let mut said = false;
    tokio::pin!(it);
    loop {
        tokio::select! {
            done = &mut it => {
                if said {
                    say("\r\u{1b}[K");
                }
                return done;
            }
            _ = second.tick() => {
                said = true;
                say(&format!("\r\u{1b}[K{what}: {} s", began.elapsed().as_secs()));
            }
        }
    }
}

fn say(text: &str) {
    let mut error = io::stderr().lock();
    let _ = error.write_all(text.as_bytes());
    let _ = error.flush();
}
