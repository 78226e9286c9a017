//! A real charon on a gateway, driven over VICI by whoever wants to.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;

use super::DAEMON_DEADLINE;
use super::error::{LabError, Result};
use super::host::Host;
use super::process::Process;
use super::report::wait_until;
use super::vici::{self, Word};

/// Just what route-based VPN needs: every plugin more costs start-up time.
const PLUGINS: &str = "random nonce openssl pem pkcs1 pkcs8 x509 pubkey kdf kernel-netlink \
                       socket-default vici updown";

/// What our package brings.
const PACKAGED: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../packaging/strongswan.d/routemesh.conf"
);

/// A running charon.
#[derive(Debug)]
pub struct Charon {
    socket: PathBuf,
    settings: PathBuf,
    /// Another one after a restart.
    process: Mutex<Process>,
}

impl Charon {
    /// Starts it; [`Charon::wait`] waits for its socket.
    pub fn start(host: &Host) -> Result<Self> {
        let socket = host.dir().join("charon.vici");
        let settings = host.dir().join("strongswan.conf");
        let text = format!(
            "include {PACKAGED}\n\
             charon {{\n\
             \x20 load_modular = no\n\
             \x20 load = {PLUGINS}\n\
             \x20 threads = 8\n\
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
        let process = spawn(host, &settings)?;
        Ok(Self {
            socket,
            settings,
            process: Mutex::new(process),
        })
    }

    /// Waits until VICI answers.
    pub fn wait(&self) -> Result<()> {
        wait_until("charon's VICI socket", DAEMON_DEADLINE, || {
            self.process().check()?;
            let opened = UnixStream::connect(&self.socket);
            opened
                .map(drop)
                .map_err(LabError::io(self.socket.display().to_string()))
        })
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// SIGKILL: what it had in the kernel stays there.
    pub fn kill(&self) {
        self.process().kill();
    }

    /// Starts another one in its place, which knows nothing, and waits until VICI answers.
    pub fn start_again(&self, host: &Host) -> Result<()> {
        *self.process() = spawn(host, &self.settings)?;
        self.wait()
    }

    /// It answers nobody, neither its peers nor VICI, until [`Charon::thaw`].
    pub fn freeze(&self) -> Result<()> {
        self.process().signal(Signal::SIGSTOP)
    }

    /// It goes on.
    pub fn thaw(&self) -> Result<()> {
        self.process().signal(Signal::SIGCONT)
    }

    /// Its CHILD_SAs that carry traffic.
    pub fn children(&self) -> Result<Vec<vici::Child>> {
        vici::children(&self.socket)
    }

    /// The connections that are loaded, with the names of their children.
    pub fn loaded(&self) -> Result<BTreeSet<(String, String)>> {
        vici::loaded(&self.socket)
    }

    /// `rekey` of one SA: by `child`, or by `ike`.
    pub fn rekey(&self, what: &str, name: &str, reauth: bool) -> Result<()> {
        let reauth = reauth.then_some(Word::Text("reauth", "yes"));
        let arguments: Vec<Word> = [Word::Text(what, name)].into_iter().chain(reauth).collect();
        self.order("rekey", &arguments)
    }

    /// Any command with any arguments.
    pub fn order(&self, command: &str, arguments: &[vici::Word<'_>]) -> Result<()> {
        vici::order(&self.socket, command, arguments)
    }

    /// Closes a connection's IKE_SA, without waiting for the peer's word.
    pub fn terminate(&self, connection: &str) -> Result<()> {
        let arguments = [
            Word::Text("ike", connection),
            Word::Text("force", "yes"),
            Word::Text("timeout", "-1"),
        ];
        vici::order(&self.socket, "terminate", &arguments)
    }

    /// Starts to bring a child up.
    pub fn initiate(&self, connection: &str, child: &str) -> Result<()> {
        let arguments = [
            Word::Text("ike", connection),
            Word::Text("child", child),
            Word::Text("timeout", "-1"),
        ];
        vici::order(&self.socket, "initiate", &arguments)
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
    pub fn log(&self) -> PathBuf {
        self.process().log().to_owned()
    }
}

fn spawn(host: &Host, settings: &Path) -> Result<Process> {
    let mut command = Command::new("/usr/lib/ipsec/charon");
    command.env("STRONGSWAN_CONF", settings);
    host.spawn_with_own_run("charon", command)
}
