//! A peer of the daemon: the program `bgp-load`, driven from here.

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::prefix::Family;
use crate::process::{sibling, wait};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

/// One peer, as a process. Dropped, it is killed.
pub struct Load {
    peer: usize,
    child: Child,
    said: Receiver<String>,
}

impl Load {
    /// Starts it; it opens its session by itself.
    pub fn start(lab: &Lab, peer: usize, family: Family, count: u32) -> Result<Self> {
        let mut command = Command::new(sibling("bgp-load")?);
        command
            .args(["--local", &Lab::peer_address(family, peer).to_string()])
            .args(["--remote", &Lab::daemon_address(family, peer).to_string()])
            .args(["--router-id", &format!("192.0.2.{}", peer + 1)])
            .args(["--count", &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let space = lab.peers.get(peer).unwrap_or(&lab.source);
        let mut child = space.spawn(command)?;
        let (tell, said) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout)
                    .lines()
                    .map_while(std::io::Result::ok)
                {
                    let _ = tell.send(line);
                }
            });
        }
        Ok(Self { peer, child, said })
    }

    /// Gives a command.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut();
        // In one piece: it is read in one.
        let line = format!("{command}\n");
        let written = stdin.map(|stdin| stdin.write_all(line.as_bytes()));
        written
            .unwrap_or(Ok(()))
            .map_err(Error::io(format!("peer {}", self.peer)))
    }

    /// When it did what `word` says, which must be the next that it says.
    pub fn when(&mut self, word: &str, after: Duration) -> Result<Duration> {
        let what = format!("peer {}: {word}", self.peer);
        let wrong = |said: String| Error::Wrong(format!("{what}, but: {said}"));
        let line = wait(&what, after, || match self.said.try_recv() {
            Ok(line) => Ok(Some(line)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(wrong("it ended".into())),
        })?;
        match line.split_once(' ') {
            Some((said, time)) if said == word => {
                let time = time.parse().map_err(|_| wrong(line.clone()))?;
                Ok(Duration::from_nanos(time))
            }
            _ => Err(wrong(line)),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
