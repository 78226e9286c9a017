//! A host of the lab: a network namespace, and what can be done in it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::error::{LabError, Result};
use super::process::{Process, Registry};

/// How long one command may take. Generous: the processor may be emulated and busy.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// A named network namespace.
#[derive(Debug)]
pub struct Host {
    name: String,
    netns: File,
    dir: PathBuf,
    registry: Registry,
}

impl Host {
    /// The host whose namespace of that name exists already. Its logs and sockets go to `dir`.
    pub(super) fn open(name: &str, dir: &Path, registry: Registry) -> Result<Self> {
        let path = format!("/run/netns/{name}");
        let netns = File::open(&path).map_err(LabError::io(path))?;
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).map_err(LabError::io(dir.display().to_string()))?;
        Ok(Self {
            name: name.to_owned(),
            netns,
            dir,
            registry,
        })
    }

    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where this host's files, sockets and logs are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs a closure on a thread inside the namespace. Sockets opened there stay there, and
    /// processes started there live there: no `ip netns exec`, which would cost a process.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.netns, CloneFlags::CLONE_NEWNET)
                        .map_err(LabError::os(format!("enter {}", self.name)))?;
                    Ok(inside())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command to its end and gives its standard output.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        self.enter(|| finish(&self.name, words))?
    }

    /// `ip -j ARGS`, read.
    pub fn ip(&self, args: &[&str]) -> Result<Vec<Value>> {
        let text = self.run(&[&["ip", "-j", "-d"], args].concat())?;
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        match serde_json::from_str(&text) {
            Ok(Value::Array(items)) => Ok(items.into_iter().filter(|v| *v != empty()).collect()),
            Ok(one) => Ok(vec![one]),
            Err(error) => Err(LabError::Unexpected(format!(
                "{}: ip {}: {error} in {text:?}",
                self.name,
                args.join(" ")
            ))),
        }
    }

    /// Runs lines of `ip` commands in one process.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        let path = self.dir.join("batch");
        std::fs::write(&path, lines.join("\n")).map_err(LabError::io("write a batch"))?;
        self.run(&["ip", "-batch", &path.display().to_string()])?;
        Ok(())
    }

    /// A signal to every process in the namespace, whoever started it.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pids = finish(&self.name, &["ip", "netns", "pids", &self.name])?;
        for pid in pids.lines().filter_map(|line| line.trim().parse().ok()) {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), signal);
        }
        Ok(())
    }

    /// Writes kernel settings by their path below `/proc/sys/net`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (name, value) in settings {
                let path = format!("/proc/sys/net/{name}");
                std::fs::write(&path, value)
                    .map_err(LabError::io(format!("{}: {path}", self.name)))?;
            }
            Ok(())
        })?
    }

    /// Starts a daemon. Its output goes to `NAME.log` in the host's folder.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        self.enter(|| Process::start(self.name.clone(), name, command, &self.dir, &self.registry))?
    }

    /// Starts a daemon with an empty `/run` of its own, as charon needs: it has one pid file.
    pub fn spawn_with_own_run(&self, name: &str, command: Command) -> Result<Process> {
        use nix::mount::{MsFlags, mount};
        let what = |what: &str| LabError::os(format!("{}: {what}", self.name));
        self.enter(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(what("own mounts"))?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
                .map_err(what("private mounts"))?;
            mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none)
                .map_err(what("own /run"))?;
            Process::start(self.name.clone(), name, command, &self.dir, &self.registry)
        })?
    }
}

/// `ip -j` prints an empty object for what it filtered out.
fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}

/// Runs a command in the caller's namespace until it ends, or kills it when time is up.
pub(super) fn finish(host: &str, words: &[&str]) -> Result<String> {
    let failed = |outcome: String, output: String| LabError::Command {
        host: host.to_owned(),
        command: words.join(" "),
        outcome,
        output,
    };
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(LabError::io(format!("{host}: {}", words[0])))?;
    // Read while it runs, or a full pipe would stop it.
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut text);
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = reader(child.stdout.take().map(|p| Box::new(p) as _));
    let stderr = reader(child.stderr.take().map(|p| Box::new(p) as _));
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if start.elapsed() < COMMAND_DEADLINE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    match status {
        Some(status) if status.success() => Ok(stdout),
        Some(status) => Err(failed(status.to_string(), stdout + &stderr)),
        None => Err(failed(
            format!("still running after {COMMAND_DEADLINE:?}"),
            stdout + &stderr,
        )),
    }
}
