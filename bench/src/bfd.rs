//! BFD at the far ends: BIRD in a peer's namespace, which does nothing else, so that every subject has the
//! same one to deal with.

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::prefix::Family;
use crate::process::{Daemon, run, wait};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How often to send, and how much may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Milliseconds between packets, both ways.
    pub interval: u32,
    /// Packets in a row.
    pub multiplier: u8,
}

impl Timers {
    /// As BIRD is told, with a session for which nobody else asks.
    pub fn bird(self, session: &str) -> String {
        let Self {
            interval,
            multiplier,
        } = self;
        format!(
            "protocol bfd bfd1 {{ interface \"*\" {{ interval {interval} ms; multiplier {multiplier}; }}; {session}}}\n"
        )
    }
}

/// The far end of one session.
pub struct FarEnd {
    daemon: Daemon,
    control: PathBuf,
}

impl FarEnd {
    /// Starts it beside peer `peer`.
    pub fn start(
        lab: &Lab,
        peer: usize,
        family: Family,
        timers: Timers,
        dir: &Path,
    ) -> Result<Self> {
        let (own, daemon) = (
            Lab::peer_address(family, peer),
            Lab::daemon_address(family, peer),
        );
        let session = format!("neighbor {daemon} dev \"eth0\" local {own}; ");
        let config = format!(
            "router id 192.0.2.{};\nprotocol device {{}}\n{}",
            peer + 101,
            timers.bird(&session)
        );
        let name = format!("far-bfd-{peer}");
        let (file, control) = (dir.join(&name), dir.join(format!("{name}.ctl")));
        fs::write(&file, config).map_err(Error::io(file.display().to_string()))?;
        let mut command = Command::new("bird");
        command.arg("-f").arg("-c").arg(&file);
        command.arg("-s").arg(&control);
        command.arg("-P").arg(dir.join(format!("{name}.pid")));
        let space = lab.peers.get(peer).unwrap_or(&lab.source);
        let daemon = space.daemon(&name, command, dir)?;
        Ok(Self { daemon, control })
    }

    /// Waits until the session is up.
    pub fn up(&self, after: Duration) -> Result<()> {
        let control = self.control.display().to_string();
        let birdc = ["-s", &control, "show", "bfd", "sessions"];
        wait("BFD", after, || {
            let up = self.control.exists() && run("birdc", &birdc)?.contains(" Up ");
            Ok(up.then_some(()))
        })
    }

    /// It falls silent.
    pub fn freeze(&self) -> Result<()> {
        self.daemon.freeze()
    }
}
