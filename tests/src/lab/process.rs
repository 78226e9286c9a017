//! Daemons of the lab, and the record by which a later run finds those of one that was killed.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::{LabError, Result};

/// Names of namespaces and ids of processes that are ours, in a file.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    path: Arc<PathBuf>,
}

impl Registry {
    /// Opens the record in the lab's folder.
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            path: Arc::new(dir.join("ours")),
        }
    }

    /// Adds one line; before the fact for namespaces, so that none escapes.
    pub(super) fn add(&self, line: &str) -> Result<()> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&*self.path)
            .and_then(|mut file| writeln!(file, "{line}"))
            .map_err(LabError::io(self.path.display().to_string()))
    }

    /// Kills the recorded processes that still run, and gives the recorded namespaces.
    pub(super) fn sweep(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&*self.path).unwrap_or_default();
        let mut namespaces = Vec::new();
        for line in text.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["netns", name] => namespaces.push(name.to_owned()),
                ["pid", pid, started] => {
                    // The same number may be another process by now: compare the start time.
                    if let Ok(pid) = pid.parse::<i32>()
                        && start_time(pid).as_deref() == Some(started)
                    {
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                }
                _ => {}
            }
        }
        namespaces
    }
}

/// Field 22 of `/proc/PID/stat`, which with the id names one process for good.
pub(super) fn start_time(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split(' ').nth(20).map(str::to_owned)
}

/// A daemon that we started. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    host: String,
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    pub(super) fn start(
        host: String,
        name: &str,
        mut command: Command,
        dir: &Path,
        registry: &Registry,
    ) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        // Appended: what a daemon said before it was killed is wanted too.
        let open =
            || -> std::io::Result<File> { OpenOptions::new().create(true).append(true).open(&log) };
        let io = |what: &str| LabError::io(format!("{host}: {what}"));
        let child = command
            .stdin(Stdio::null())
            .stdout(open().map_err(io("log"))?)
            .stderr(open().map_err(io("log"))?)
            .spawn()
            .map_err(io(name))?;
        let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
        let started = start_time(pid).unwrap_or_default();
        registry.add(&format!("pid {pid} {started}"))?;
        Ok(Self {
            host,
            name: name.to_owned(),
            log,
            child,
        })
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// An error if it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(LabError::Died {
                host: self.host.clone(),
                name: self.name.clone(),
                status: status.to_string(),
                output: tail(&self.log, 20),
            }),
            Err(error) => Err(LabError::io(self.name.clone())(error)),
        }
    }

    /// SIGKILL: it gets no chance to tidy up.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        kill(pid, signal).map_err(LabError::os(format!("{signal} to {}", self.name)))
    }

    /// SIGTERM, and an error if it does not end in time.
    pub fn stop(&mut self, deadline: Duration) -> Result<()> {
        let start = Instant::now();
        self.signal(Signal::SIGTERM)?;
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > deadline {
                self.kill();
                return Err(LabError::Timeout {
                    what: format!("{} on {} to end", self.name, self.host),
                    after: deadline,
                    last: tail(&self.log, 5),
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a log.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
