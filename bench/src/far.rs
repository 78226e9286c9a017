//! Far ends with BFD: a BIRD, so that every subject has the same ones to deal with.

use crate::error::{Error, Result};
use crate::lab::Space;
use crate::prefix::Family;
use crate::process::{Daemon, pause, run, wait};
use nix::sys::signal::Signal;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
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
    /// As BIRD is told.
    pub fn bird(self) -> String {
        let Self {
            interval,
            multiplier,
        } = self;
        format!(
            "protocol bfd bfd1 {{ interface \"*\" {{ interval {interval} ms; multiplier {multiplier}; }}; }}\n"
        )
    }
}

/// BIRD with this many sessions, each from one address to another; the first `speaking` of them announce
/// the first `count` prefixes.
pub struct FarEnd {
    daemon: Daemon,
    control: PathBuf,
    sessions: usize,
    bfd: bool,
}

impl FarEnd {
    /// Starts it in `space` as router 192.0.2.`id`, with its files in `dir`.
    pub fn start(
        space: &Space,
        id: usize,
        sessions: &[(IpAddr, IpAddr)],
        (speaking, count): (usize, u32),
        bfd: Option<Timers>,
        dir: &Path,
    ) -> Result<Self> {
        let name = space.name();
        let family = sessions
            .first()
            .map_or(Family::Ipv4, |(own, _)| Family::of(*own));
        let channel = match family {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        };
        let mut config = format!(
            "router id 192.0.2.{id};\nprotocol device {{}}\n{}protocol static {{ {channel};\n",
            bfd.map(Timers::bird).unwrap_or_default()
        );
        let with_bfd = if bfd.is_some() { "bfd on;" } else { "" };
        for n in 0..count {
            let (prefix, length) = (family.address(n, 0), family.length());
            let _ = writeln!(config, "route {prefix}/{length} unreachable;");
        }
        config += "}\n";
        for (n, (own, other)) in sessions.iter().enumerate() {
            let export = if n < speaking { "all" } else { "none" };
            let _ = writeln!(
                config,
                "protocol bgp p{n} {{ local {own} as 65000; neighbor {other} as 65000; direct; {with_bfd}\n\
                 connect delay time 1; connect retry time 1; error wait time 1, 1;\n\
                 graceful restart off;\n\
                 {channel} {{ import none; export {export}; next hop self; }}; }}"
            );
        }
        let (file, control) = (
            dir.join(format!("{name}.conf")),
            dir.join(format!("{name}.ctl")),
        );
        fs::write(&file, config).map_err(Error::io(file.display().to_string()))?;
        let mut command = Command::new("bird");
        command.arg("-f").arg("-c").arg(&file);
        command.arg("-s").arg(&control);
        command.arg("-P").arg(dir.join(format!("{name}.pid")));
        Ok(Self {
            daemon: space.daemon(name, command, dir)?,
            control,
            sessions: sessions.len(),
            bfd: bfd.is_some(),
        })
    }

    /// Waits until all sessions are up, of BGP and of BFD.
    pub fn up(&self, after: Duration) -> Result<()> {
        let control = self.control.display().to_string();
        let questions = [("protocols", "Established"), ("bfd sessions", " Up ")];
        for (question, word) in questions.into_iter().take(1 + usize::from(self.bfd)) {
            let mut words = vec!["-s", &control, "show"];
            words.extend(question.split(' '));
            wait(question, after, || {
                pause(Duration::from_millis(200))?;
                let up = self.control.exists()
                    && run("birdc", &words)?.matches(word).count() == self.sessions;
                Ok(up.then_some(()))
            })?;
        }
        Ok(())
    }

    /// Asks it something. BIRD 2.0.12 can go to sleep with an UPDATE left to be sent, for 3 s or until
    /// something comes.
    pub fn nudge(&self) -> Result<()> {
        let control = self.control.display().to_string();
        run("birdc", &["-s", &control, "show", "status"]).map(drop)
    }

    /// It stops where it stands: nothing is closed, nothing is said.
    pub fn freeze(&self) -> Result<()> {
        self.daemon.signal(Signal::SIGSTOP)
    }

    /// And goes on.
    pub fn thaw(&self) -> Result<()> {
        self.daemon.signal(Signal::SIGCONT)
    }
}
