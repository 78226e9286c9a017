//! A real charon on a gateway, driven over VICI by whoever wants to.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::DAEMON_DEADLINE;
use super::error::{LabError, Result};
use super::host::Host;
use super::process::Process;
use super::report::wait_until;

/// Just what route-based VPN needs: every plugin more costs start-up time.
const PLUGINS: &str = "random nonce openssl pem pkcs1 pkcs8 x509 pubkey kdf kernel-netlink \
                       socket-default vici updown";

/// A running charon.
#[derive(Debug)]
pub struct Charon {
    socket: PathBuf,
    settings: PathBuf,
    process: Process,
}

impl Charon {
    /// Starts it; [`Charon::wait`] waits for its socket.
    pub(super) fn start(host: &Host) -> Result<Self> {
        let socket = host.dir().join("charon.vici");
        let settings = host.dir().join("strongswan.conf");
        let text = format!(
            "charon {{\n\
             \x20 load_modular = no\n\
             \x20 load = {PLUGINS}\n\
             \x20 threads = 8\n\
             \x20 install_routes = no\n\
             \x20 install_virtual_ip = no\n\
             \x20 plugins {{\n\
             \x20   vici {{\n\
             \x20     socket = unix://{}\n\
             \x20   }}\n\
             \x20 }}\n\
             \x20 filelog {{\n\
             \x20   stderr {{\n\
             \x20     default = 1\n\
             \x20     time_format = %H:%M:%S\n\
             \x20   }}\n\
             \x20 }}\n\
             }}\n\
             # swanctl too is quick only with the plugins that it needs.\n\
             swanctl {{\n\
             \x20 load = random nonce openssl pem pkcs1 pkcs8 x509 pubkey\n\
             \x20 socket = unix://{}\n\
             }}\n",
            socket.display(),
            socket.display()
        );
        let written = std::fs::write(&settings, text);
        written.map_err(LabError::io(settings.display().to_string()))?;
        let mut command = Command::new("/usr/lib/ipsec/charon");
        command.env("STRONGSWAN_CONF", &settings);
        let process = host.spawn_with_own_run("charon", command)?;
        Ok(Self {
            socket,
            settings,
            process,
        })
    }

    /// Waits until VICI answers.
    pub(super) fn wait(&mut self) -> Result<()> {
        let Self {
            socket, process, ..
        } = self;
        wait_until("charon's VICI socket", DAEMON_DEADLINE, || {
            process.check()?;
            let opened = UnixStream::connect(&*socket);
            opened
                .map(drop)
                .map_err(LabError::io(socket.display().to_string()))
        })
    }

    /// Its VICI socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs `swanctl` against it, on its host.
    pub fn swanctl(&self, host: &Host, words: &[&str]) -> Result<String> {
        let settings = format!("STRONGSWAN_CONF={}", self.settings.display());
        host.run(&[&["env", &settings, "swanctl"], words].concat())
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        self.process.log()
    }
}
