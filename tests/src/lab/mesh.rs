//! Our own programs in the lab: a controller, an agent per gateway, `meshctl`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::error::{LabError, Result};
use super::process::{Process, tail};
use super::report::{say, wait_until};
use super::topology::{CONTROLLER, CONTROLLER_ADDRESS, Gateway};
use super::{Lab, in_parallel};

/// The specification that the lab's addresses come from.
pub const THREE_SITES: &str = include_str!("../../../examples/three-sites.toml");

/// How long certificates last, unless a test is about that.
const LIFETIME: &str = "30d";

/// Its name in messages about it.
const SPEC_FILE: &str = "three-sites.toml";

/// A running mesh.
#[derive(Debug)]
pub struct Mesh<'lab> {
    lab: &'lab Lab,
    controller: Option<Process>,
    agents: BTreeMap<String, Process>,
    /// Of certificates that the controller gives out.
    lifetime: &'static str,
}

impl<'lab> Mesh<'lab> {
    /// Starts the controller, gives it the specification, starts an agent on every gateway.
    pub fn start(lab: &'lab Lab, spec: &str) -> Result<Self> {
        let mut mesh = Self::without_agents(lab, spec)?;
        say("an agent on every gateway");
        for gateway in lab.topology().gateways() {
            mesh.start_agent(gateway)?;
        }
        Ok(mesh)
    }

    /// The same, where every gateway has its identity for a token, the second with a key of the other kind,
    /// and certificates last for `lifetime`.
    pub fn enrolled(lab: &'lab Lab, spec: &str, lifetime: &'static str) -> Result<Self> {
        let mut mesh = Self::new(lab, lifetime);
        say("controller, specification, an identity for every gateway's token");
        mesh.ready(Vec::new())?;
        mesh.apply(spec)?;
        for gateway in lab.topology().gateways() {
            let kind = ["ecdsa-p384", "ed25519"][usize::from(gateway.member == 2)];
            let token = mesh.meshctl(&["token", "create", "--gateway", &gateway.name()])?;
            let (program, dir) = (program("mesh-agent")?, mesh.identity_dir(gateway));
            let dir = dir.display().to_string();
            let words = [
                &program,
                "enroll",
                token.trim(),
                "--identity",
                &dir,
                "--key",
                kind,
            ];
            lab.underlay(gateway).run(&words)?;
            mesh.start_agent(gateway)?;
        }
        Ok(mesh)
    }

    fn new(lab: &'lab Lab, lifetime: &'static str) -> Self {
        Self {
            lab,
            controller: None,
            agents: BTreeMap::new(),
            lifetime,
        }
    }

    /// The controller with its specification, and identities for everybody.
    pub fn without_agents(lab: &'lab Lab, spec: &str) -> Result<Self> {
        let mut mesh = Self::new(lab, LIFETIME);
        say("controller, identities, specification");
        let gateways = lab.topology().gateways().into_iter();
        let issued = gateways.map(|it| ("--gateway", it.name(), mesh.identity_dir(it)));
        mesh.ready(issued.collect())?;
        mesh.apply(spec)?;
        Ok(mesh)
    }

    /// An authority, identities made by it for an administrator and these, and a controller that answers.
    fn ready(&mut self, mut issued: Vec<(&str, String, PathBuf)>) -> Result<()> {
        self.controller_command(&["init"])?;
        issued.push(("--admin", "admin".to_owned(), self.operator_dir()));
        in_parallel(&issued, |(kind, name, out)| {
            self.controller_command(&["issue", kind, name, "--out", &out.display().to_string()])
        })?;
        self.start_controller()?;
        // Ready when it answers, if only that it has no mesh yet.
        wait_until("the controller", Duration::from_secs(30), || {
            self.check_controller()?;
            match self.meshctl(&["topology"]) {
                Err(error) if error.to_string().contains("there is no mesh yet") => Ok(()),
                other => other.map(drop),
            }
        })
    }

    /// `mesh-controller WORD --dir DIR WORDS`, to its end.
    pub fn controller_command(&self, words: &[&str]) -> Result<()> {
        let (program, dir) = (program("mesh-controller")?, self.controller_dir());
        let dir = dir.display().to_string();
        let all = [&[program.as_str(), words[0], "--dir", &dir], &words[1..]].concat();
        self.lab.host(CONTROLLER).run(&all).map(drop)
    }

    /// The controller's own folder.
    pub fn controller_dir(&self) -> PathBuf {
        self.lab.host(CONTROLLER).dir().join("controller")
    }

    fn operator_dir(&self) -> PathBuf {
        self.lab.host(CONTROLLER).dir().join("admin")
    }

    /// The folder with a gateway's certificate and key.
    pub fn identity_dir(&self, gateway: Gateway) -> PathBuf {
        self.lab.underlay(gateway).dir().join("identity")
    }

    /// The agent's state folder.
    pub fn state_dir(&self, gateway: Gateway) -> PathBuf {
        self.lab.underlay(gateway).dir().join("state")
    }

    /// Starts the controller.
    pub fn start_controller(&mut self) -> Result<()> {
        let mut command = Command::new(program("mesh-controller")?);
        command.arg("run").arg("--dir").arg(self.controller_dir());
        command.args(["--listen", "[::]:7179", "--lifetime", self.lifetime]);
        self.controller = Some(self.lab.host(CONTROLLER).spawn("controller", command)?);
        Ok(())
    }

    fn check_controller(&mut self) -> Result<()> {
        self.controller.as_mut().map_or(Ok(()), Process::check)
    }

    /// Kills the controller.
    pub fn kill_controller(&mut self) {
        self.controller = None;
    }

    /// `meshctl apply`.
    pub fn apply(&self, spec: &str) -> Result<String> {
        let file = self.lab.host(CONTROLLER).dir().join(SPEC_FILE);
        std::fs::write(&file, spec).map_err(LabError::io(SPEC_FILE))?;
        self.meshctl(&["apply", &file.display().to_string()])
    }

    /// `meshctl WORDS`, as the operator on the controller's host.
    pub fn meshctl(&self, words: &[&str]) -> Result<String> {
        let identity = self.operator_dir().display().to_string();
        let program = program("meshctl")?;
        let url = controller_url();
        let own = [
            program.as_str(),
            "--controller",
            &url,
            "--identity",
            &identity,
        ];
        self.lab.host(CONTROLLER).run(&[&own, words].concat())
    }

    /// `meshctl topology --output json`.
    pub fn topology(&self) -> Result<Value> {
        let text = self.meshctl(&["topology", "--output", "json"])?;
        serde_json::from_str(&text)
            .map_err(|error| LabError::Unexpected(format!("meshctl topology: {error}: {text}")))
    }

    /// Starts a gateway's agent; what it finds of an earlier one it is to keep.
    pub fn start_agent(&mut self, gateway: Gateway) -> Result<()> {
        self.run_agent(gateway, &controller_url())
    }

    /// The same, where no controller is at the address that it is told.
    pub fn start_agent_alone(&mut self, gateway: Gateway) -> Result<()> {
        self.run_agent(gateway, &format!("https://[{CONTROLLER_ADDRESS}]:9"))
    }

    fn run_agent(&mut self, gateway: Gateway, controller: &str) -> Result<()> {
        let mut command = Command::new(program("mesh-agent")?);
        command.args(["run", "--controller", controller]);
        command.arg("--identity").arg(self.identity_dir(gateway));
        self.host_args(&mut command, gateway);
        let agent = self.lab.underlay(gateway).spawn("agent", command)?;
        self.agents.insert(gateway.name(), agent);
        Ok(())
    }

    fn host_args(&self, command: &mut Command, gateway: Gateway) {
        command.arg("--state-dir").arg(self.state_dir(gateway));
        command.arg("--vici").arg(self.lab.vici(gateway));
    }

    /// SIGKILL to a gateway's agent.
    pub fn kill_agent(&mut self, gateway: Gateway) {
        self.agents.remove(&gateway.name());
    }

    /// A gateway's agent stands still while something is done.
    pub fn while_frozen(&self, gateway: Gateway, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let agent = self.agents.get(&gateway.name());
        let signal = |it| agent.map_or(Ok(()), |agent| agent.signal(it));
        signal(Signal::SIGSTOP)?;
        let done = work();
        signal(Signal::SIGCONT)?;
        done
    }

    /// SIGTERM to a gateway's agent.
    pub fn stop_agent(&mut self, gateway: Gateway) -> Result<()> {
        match self.agents.remove(&gateway.name()) {
            Some(mut agent) => agent.stop(Duration::from_secs(20)),
            None => Ok(()),
        }
    }

    /// `mesh-agent down`.
    pub fn down(&self, gateway: Gateway) -> Result<String> {
        let state = self.state_dir(gateway).display().to_string();
        let vici = self.lab.vici(gateway).display().to_string();
        let program = program("mesh-agent")?;
        let words = [&program, "down", "--state-dir", &state, "--vici", &vici];
        self.lab.underlay(gateway).run(&words)
    }

    /// An error if a daemon of ours ended by itself.
    pub fn check(&mut self) -> Result<()> {
        self.check_controller()?;
        self.agents.values_mut().try_for_each(Process::check)
    }

    /// The last lines of what our daemons said, for whoever looks at a failure.
    pub fn last_words(&self) -> String {
        let daemons = self.controller.iter().chain(self.agents.values());
        let words = |daemon: &Process| {
            let log = daemon.log().display();
            format!("--- {log}\n{}\n", tail(daemon.log(), 12))
        };
        daemons.map(words).collect()
    }
}

impl Drop for Mesh<'_> {
    fn drop(&mut self) {
        if !self.lab.has_passed() {
            say(format_args!(
                "what our daemons said last:\n{}",
                self.last_words()
            ));
        }
    }
}

fn controller_url() -> String {
    format!("https://[{CONTROLLER_ADDRESS}]:7179")
}

/// The path of one of our programs: release builds, unless `ROUTEMESH_BIN` says otherwise.
pub fn program(name: &str) -> Result<String> {
    let dir = std::env::var_os("ROUTEMESH_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release"),
        PathBuf::from,
    );
    let path = dir.join(name);
    if path.exists() {
        return Ok(path.display().to_string());
    }
    Err(LabError::Unexpected(format!(
        "{} is not built: cargo build --release",
        path.display()
    )))
}
