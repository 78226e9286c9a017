//! Network namespaces for tests, named apart and gone with their values.

#![allow(dead_code, reason = "each test file uses its part")]

use serde_json::Value;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A namespace with a name of its own.
pub struct Space(pub String);

impl Space {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let space = Self(format!("rm-test-{}-{number}", std::process::id()));
        run("ip", &["netns", "add", &space.0]);
        space.ip("link set lo up");
        space
    }

    /// `ip` in here.
    pub fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["-n", &self.0];
        all.extend(arguments.split_whitespace());
        run("ip", &all)
    }

    /// What `ip -j -d` lists.
    pub fn json(&self, arguments: &str) -> Vec<Value> {
        let text = self.ip(&format!("-j -d {arguments}"));
        match text.trim() {
            "" => Vec::new(),
            text => serde_json::from_str(text)
                .unwrap_or_else(|e| panic!("ip {arguments}: {e} in {text}")),
        }
    }

    /// A program to be run in here.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Runs a program to its end, which must be a good one.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {}: {error}",
        arguments.join(" ")
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Fails where the kernel has no XFRM interfaces, VTI and ESP.
pub fn require_esp() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vm/capable");
    let status = Command::new(script).status().expect("the script runs");
    assert!(
        status.success(),
        "no ESP in this kernel; tests/vm/run has one"
    );
}
