//! What the lab says while it works, and the figures that it leaves.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::error::{LabError, Result};

/// Where results and the logs of failed labs go: `target/lab`, which outlives the machine.
pub fn output_dir() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/lab"))
}

/// One line of progress. Past the test runner's capture, so that slow steps are seen as they end.
pub fn say(line: impl Display) {
    static START: OnceLock<Instant> = OnceLock::new();
    let at = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    // Nobody to tell is no reason to stop.
    let _ = writeln!(std::io::stderr(), "  {at:7.1} s  {line}");
}

/// A measured figure: said, and appended to `target/lab/results.txt`, with the kind of tunnel that
/// the run is about where it is about one.
pub fn measured(name: &str, value: impl Display) {
    let name = match std::env::var("LAB_TUNNEL") {
        Ok(kind) => format!("{kind}: {name}"),
        Err(_) => name.to_owned(),
    };
    say(format_args!("measured: {name}: {value}"));
    let path = output_dir().join("results.txt");
    let appended = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{name}: {value}"));
    if let Err(error) = appended {
        say(format_args!("{}: {error}", path.display()));
    }
}

/// Asks again and again until there is an answer. An error counts as "not yet", and the last one
/// is told when the time is up.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match attempt() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => "nothing yet".to_owned(),
            Err(died @ LabError::Died { .. }) => return Err(died),
            Err(error) => error.to_string(),
        };
        if start.elapsed() >= deadline {
            return Err(LabError::Timeout {
                what: what.to_owned(),
                after: deadline,
                last,
            });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Like [`wait_for`], for a condition whose failure says what is missing.
pub fn wait_until(
    what: &str,
    deadline: Duration,
    mut check: impl FnMut() -> Result<()>,
) -> Result<()> {
    wait_for(what, deadline, || check().map(Some))
}
