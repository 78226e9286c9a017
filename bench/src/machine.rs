//! What the figures were measured on, in a sentence.

use std::fs;
use std::process::Command;

/// Kernel, processors, and the versions of the other daemons.
pub fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let processors = read("/proc/cpuinfo");
    let mut models = processors.lines().filter_map(|line| {
        let (name, model) = line.split_once(':')?;
        (name.trim() == "model name").then(|| model.trim())
    });
    let model = models.next().unwrap_or("an unknown processor");
    let number = models.count() + 1;
    let bird = version("bird", &["--version"]);
    let frr = version("/usr/lib/frr/zebra", &["--version"]);
    format!(
        "Linux {}, {number} × {model}; {bird}; {frr}.",
        kernel.trim()
    )
}

/// The first line that a program says of itself.
fn version(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat());
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    let line = text.lines().next().unwrap_or_default().trim();
    match line.is_empty() {
        true => format!("no {program}"),
        false => line.to_owned(),
    }
}
