//! Processes of a trial: each ends with its value.

use crate::clock;
use crate::error::{Error, Result};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a wait sleeps between two looks.
const STEP: Duration = Duration::from_micros(200);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes SIGINT and SIGTERM end the waits, so that everything is cleaned up.
pub fn catch_signals() -> Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
    extern "C" fn note(_: i32) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler does nothing but store into an atomic.
        unsafe { sigaction(signal, &action) }.map_err(Error::os("catch signals"))?;
    }
    Ok(())
}

/// Looks again and again until there is an answer.
pub fn wait<T>(
    what: &str,
    after: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let began = clock::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        if clock::now() - began > after {
            let what = what.to_owned();
            return Err(Error::Timeout { what, after });
        }
        std::thread::sleep(STEP);
    }
}

/// Waits for nothing.
pub fn pause(duration: Duration) -> Result<()> {
    match wait("", duration, || Ok(None::<()>)) {
        Err(Error::Timeout { .. }) => Ok(()),
        other => other,
    }
}

/// Runs a program to its end, which must be a good one.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(Error::io(program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Program {
        program: format!("{program} {}", arguments.join(" ")),
        said: format!("{}, {}", said.trim(), output.status),
    })
}

/// A program of this build, beside the one that runs.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(Error::io("the path of this program"))?;
    // Test programs lie one level deeper.
    let mut places = own.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    places
        .find(|path| path.exists())
        .ok_or_else(|| Error::Program {
            program: name.into(),
            said: format!(
                "is not beside {}: build it in the same profile",
                own.display()
            ),
        })
}

/// A daemon. Dropped, it is killed.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Daemon {
    /// Starts it; what it says goes to `NAME.log` in `dir`.
    pub fn start(name: &str, mut command: Command, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).map_err(Error::io(log.display().to_string()))?;
        let errors = file.try_clone().map_err(Error::io("a log"))?;
        let command = command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let child = command.spawn().map_err(Error::io(name))?;
        let name = name.to_owned();
        Ok(Self { name, log, child })
    }

    /// An error if it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Error::Program {
                program: self.name.clone(),
                said: format!("ended: {status}\n{}", self.last_words()),
            }),
            Err(source) => Err(Error::io(self.name.clone())(source)),
        }
    }

    /// All of its log.
    pub fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The last lines of its log.
    pub fn last_words(&self) -> String {
        let text = self.said();
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(10);
        lines.get(first..).unwrap_or_default().join("\n")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id());
        let pid = pid.map_err(|_| Error::Wrong("no such process id".into()))?;
        let sent = nix::sys::signal::kill(Pid::from_raw(pid), signal);
        sent.map_err(Error::os(signal.as_str()))
    }

    /// Processor time used by all its threads.
    pub fn busy(&self) -> Result<Duration> {
        let path = format!("/proc/{}/task", self.child.id());
        let threads = fs::read_dir(&path).map_err(Error::io(path))?;
        let mut busy = Duration::ZERO;
        for thread in threads.flatten() {
            // One that has just ended does not count.
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let first = text.split_whitespace().next();
            let nanos = first.and_then(|it| it.parse().ok()).unwrap_or(0);
            busy += Duration::from_nanos(nanos);
        }
        Ok(busy)
    }

    /// Resident memory in octets: all, and what of it is no part of a file.
    pub fn resident(&self) -> Result<[u64; 2]> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).map_err(Error::io(path))?;
        let octets = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number
                .map(|kilo| kilo * 1024)
                .ok_or_else(|| Error::Wrong(format!("no {name}")))
        };
        Ok([octets("VmRSS:")?, octets("RssAnon:")?])
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
