//! Hosts for tests that run beside each other: network namespaces with names of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;

use super::error::{LabError, Result};
use super::host::{Host, finish};
use super::process::{Registry, start_time};
use super::report::{output_dir, say};
use super::secrets;

/// Below it every set of hosts has a folder. Short, for a socket's path has at most 107 bytes.
const DIR: &str = "/tmp/routemesh-spaces";

/// A set of hosts. Dropped, their processes are killed and they are removed; a later run removes
/// those of one that was killed.
#[derive(Debug)]
pub struct Spaces {
    id: String,
    dir: PathBuf,
    registry: Registry,
    /// Where the logs go if the test fails; `None`: it did not.
    keep: Option<String>,
}

impl Spaces {
    /// No hosts yet. `name` is for the logs kept of a test that fails.
    pub fn new(name: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        sweep();
        let pid = std::process::id();
        let id = format!("{pid}-{number}");
        let dir = Path::new(DIR).join(&id);
        fs::create_dir_all(&dir).map_err(LabError::io(DIR))?;
        let registry = Registry::new(&dir);
        let started = start_time(i32::try_from(pid).unwrap_or(i32::MAX)).unwrap_or_default();
        registry.add(&format!("by {pid} {started}"))?;
        Ok(Self {
            id,
            dir,
            registry,
            keep: Some(name.to_owned()),
        })
    }

    /// One more host. IPv6 addresses are there at once, without duplicate address detection.
    pub fn host(&self, name: &str) -> Result<Host> {
        let namespace = format!("rms-{}-{name}", self.id);
        self.registry.add(&format!("netns {namespace}"))?;
        finish("here", &["ip", "netns", "add", &namespace])?;
        let host = Host::open(&namespace, &self.dir, self.registry.clone())?;
        host.sysctl(&[
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
        ])?;
        host.ip_batch(&["link set lo up".to_owned()])?;
        Ok(host)
    }

    /// Nothing that anybody has written here tells a private key or one of these secrets.
    pub fn keep_secrets(&self, others: &[String]) -> Result<()> {
        secrets::kept(&self.dir, others)
    }

    /// Says at its end that a test passed. Of one without that, the logs are kept.
    pub fn passed(&mut self) {
        self.keep = None;
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        if let Some(name) = &self.keep {
            let kept = output_dir().join("failed").join(name);
            match keep(&self.dir, &kept) {
                Ok(()) => say(format_args!("logs kept in target/lab/failed/{name}")),
                Err(error) => say(format_args!("logs not kept: {error}")),
            }
        }
        remove(&self.dir, &self.registry);
    }
}

/// Removes what tests left behind whose process is gone.
fn sweep() {
    let Ok(entries) = fs::read_dir(DIR) else {
        return;
    };
    for dir in entries.flatten().map(|entry| entry.path()) {
        let ours = fs::read_to_string(dir.join("ours")).unwrap_or_default();
        let mut words = ours.lines().next().unwrap_or_default().split(' ');
        let (Some("by"), Some(pid), Some(started)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let now = pid.parse().ok().and_then(start_time);
        if now.as_deref() != Some(started) {
            remove(&dir, &Registry::new(&dir));
        }
    }
}

fn remove(dir: &Path, registry: &Registry) {
    for namespace in registry.sweep() {
        // Some daemons leave children behind, which the record does not know.
        if let Ok(host) = Host::open(&namespace, dir, registry.clone()) {
            let _ = host.signal(Signal::SIGKILL);
        }
        if let Err(error) = finish("here", &["ip", "netns", "delete", &namespace]) {
            say(format_args!("{namespace} not removed: {error}"));
        }
    }
    if let Err(error) = fs::remove_dir_all(dir) {
        say(format_args!("{}: {error}", dir.display()));
    }
}

/// Copies logs and configurations.
fn keep(from: &Path, to: &Path) -> Result<()> {
    // Those of an earlier failure.
    let _ = fs::remove_dir_all(to);
    for host in fs::read_dir(from)
        .map_err(LabError::io("logs"))?
        .flatten()
        .filter(|entry| entry.path().is_dir())
    {
        let to = to.join(host.file_name());
        fs::create_dir_all(&to).map_err(LabError::io(to.display().to_string()))?;
        for file in fs::read_dir(host.path())
            .map_err(LabError::io("logs"))?
            .flatten()
        {
            let text = matches!(
                file.path().extension().and_then(|e| e.to_str()),
                Some("log" | "conf" | "toml" | "pcap")
            );
            if text {
                fs::copy(file.path(), to.join(file.file_name())).map_err(LabError::io("logs"))?;
            }
        }
    }
    Ok(())
}
