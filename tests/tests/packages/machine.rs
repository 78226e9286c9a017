//! A machine with systemd, in namespaces of this one: a clean Debian that forgets everything.

use crate::shell::Shell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For everything that is waited for.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);
/// For systemd to stop all, in an orderly way.
const FAREWELL: Duration = Duration::from_secs(15);

/// Of this process, so far.
static MACHINES: AtomicU32 = AtomicU32::new(0);

/// It ends with its value.
pub struct Machine {
    unshare: Child,
    /// Where its processes are, from the host's root.
    cgroup: String,
    /// systemd, as this machine numbers it.
    init: u32,
}

impl Machine {
    /// Boots it.
    pub fn boot() -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = tests.join("../target/packages/root");
        let root = root.canonicalize().expect("tests/packages/root made it");
        let number = MACHINES.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("routemesh-{}-{number}", process::id());
        let unshare = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child"])
            .args(["--net", "--uts", "--ipc"])
            .arg(tests.join("packages/boot"))
            .arg(root)
            .arg(&cgroup)
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare runs");
        let pid = unshare.id();
        let init = wait_for("the first process", || {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            children.ok()?.trim().parse().ok()
        });
        let machine = Self {
            unshare,
            cgroup,
            init,
        };
        // charon does not start where the kernel has no ESP, which makes the machine a degraded one.
        wait_for("systemd", || {
            let state = machine.try_run("systemctl is-system-running");
            matches!(state.trim(), "running" | "degraded").then_some(())
        });
        machine
    }

    /// A program on it, with what an administrator's login has around it.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string()])
            .args(["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"])
            .args(["--root", "--wd", "--", "/usr/bin/env", "-i"])
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"])
            .args(["DEBIAN_FRONTEND=noninteractive", "PAGER=cat"]);
        command
    }

    fn command(&self, words: &[&str]) -> Output {
        let output = self.enter().args(words).output();
        output.expect("nsenter runs")
    }

    /// A shell on it, kept open.
    pub fn shell(&self) -> Shell {
        let mut command = self.enter();
        command.arg("bash");
        Shell::start(command)
    }

    /// A cable between two machines, and the address of each on it.
    pub fn join(&self, other: &Self, here: &str, there: &str) {
        let (one, two) = (self.init.to_string(), other.init.to_string());
        let cable = [
            "link", "add", "net0", "netns", &one, "type", "veth", "peer", "name", "net0",
        ];
        let made = Command::new("ip")
            .args(cable)
            .args(["netns", &two])
            .status();
        assert!(made.expect("ip runs").success());
        for (machine, address) in [(self, here), (other, there)] {
            machine.run(&format!("ip address add {address} dev net0 nodad"));
            machine.run("ip link set net0 up");
        }
    }

    /// What a command prints, which must be a good one.
    pub fn run(&self, words: &str) -> String {
        let words: Vec<&str> = words.split(' ').collect();
        let output = self.command(&words);
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{words:?}: {out}{error}");
        out
    }

    /// What lines for a shell print, all of which must go well.
    pub fn sh(&self, lines: &str) -> String {
        let output = self.command(&["bash", "-euc", lines]);
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        if !output.status.success() {
            let journal = self.try_run("journalctl --no-pager -n 60");
            panic!("{lines}: {out}{error}\n{journal}");
        }
        out
    }

    /// What it prints, whatever becomes of it.
    pub fn try_run(&self, words: &str) -> String {
        let words: Vec<&str> = words.split(' ').collect();
        let output = self.command(&words);
        text(&output.stdout) + &text(&output.stderr)
    }

    /// Waits until what a command prints has this in it.
    pub fn wait_until(&self, words: &str, shows: &str) {
        self.wait_until_said(words, shows, || self.try_run(words));
    }

    /// Waits until what a line prints in a shell on it has this in it.
    pub fn wait_until_shell(&self, shell: &mut Shell, line: &str, shows: &str) {
        self.wait_until_said(line, shows, || shell.run(line).1);
    }

    fn wait_until_said(&self, what: &str, shows: &str, mut ask: impl FnMut() -> String) {
        let began = Instant::now();
        loop {
            let said = ask();
            if said.contains(shows) {
                return;
            }
            if began.elapsed() > DEADLINE {
                let journal = self.try_run("journalctl --no-pager -n 60");
                panic!("{what} does not show {shows:?} but {said}\n{journal}");
            }
            sleep(LOOK);
        }
    }

    /// Brings our packages of a version into its /root, and no others; `make packages-test` made them.
    pub fn bring(&self, version: &str) {
        let root = self.path("/root");
        self.sh("rm -f /root/*.deb");
        let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/packages");
        let made = fs::read_dir(made.join(version)).expect("packages of this version");
        for package in made {
            let package = package.expect("an entry");
            fs::copy(package.path(), root.join(package.file_name())).expect("copied");
        }
    }

    /// Writes a file, in folders that are made.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        let dir = path.parent().expect("it is in a folder");
        fs::create_dir_all(dir).expect("made");
        fs::write(&path, text).expect("written");
    }

    /// A place on its disk, from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.try_run("systemctl poweroff --force");
        let began = Instant::now();
        while began.elapsed() < FAREWELL && matches!(self.unshare.try_wait(), Ok(None)) {
            sleep(LOOK);
        }
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut mounts = mounts.lines().map(|line| line.split(' '));
        let of_cgroups = mounts.find(|it| it.clone().nth(2) == Some("cgroup2"));
        if let Some(root) = of_cgroups.and_then(|mut it| it.nth(1)) {
            let _ = Command::new("find")
                .arg(Path::new(root).join(&self.cgroup))
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
                .status();
        }
    }
}

fn wait_for<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            began.elapsed() < DEADLINE,
            "{what}: not within {DEADLINE:?}"
        );
        sleep(LOOK);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
