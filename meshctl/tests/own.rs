//! What meshctl tells of itself, and the meshes that it knows.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn meshctl(config: &Path, args: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(args)
        .env("XDG_CONFIG_HOME", config)
        .env_remove("MESHCTL_CONTROLLER")
        .env_remove("MESHCTL_IDENTITY")
        .env_remove("MESHCTL_CONTEXT")
        .output()
        .unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = output;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.success(), text(stdout), text(stderr))
}

#[test]
fn a_shell_takes_the_completions() {
    let dir = tempfile::tempdir().unwrap();
    let (done, script, _) = meshctl(dir.path(), &["completions", "bash"]);
    assert!(done && script.contains("--controller") && script.contains("rollback"));
    let file = dir.path().join("meshctl.bash");
    fs::write(&file, script).unwrap();
    let asked = "source \"$0\"; COMP_WORDS=(meshctl topo); COMP_CWORD=1; _meshctl meshctl topo meshctl; echo \"${COMPREPLY[@]}\"";
    let told = Command::new("bash")
        .args(["-c", asked])
        .arg(&file)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(
        (told.stdout.as_slice(), complaint.as_str()),
        (b"topology\n".as_slice(), "")
    );
    for (shell, begins) in [("zsh", "#compdef meshctl"), ("fish", "# Print an optspec")] {
        let (done, script, _) = meshctl(dir.path(), &["completions", shell]);
        assert!(done && script.starts_with(begins), "{script}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let (done, _, error) = meshctl(dir.path(), &["man", "--dir", dir.path().to_str().unwrap()]);
    assert!(done, "{error}");
    for page in ["meshctl.1", "meshctl-topology.1", "meshctl-context-use.1"] {
        let text = fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(
            text.contains(".TH meshctl") && text.contains(".SH SYNOPSIS"),
            "{page}: {text}"
        );
    }
    let (done, _, error) = meshctl(dir.path(), &["man", "--dir", "/nowhere"]);
    assert!(!done && error.contains("cannot write /nowhere"), "{error}");
}

#[test]
fn meshes_are_known_by_names() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path();
    let file = config.join("routemesh/meshctl.toml");
    fs::create_dir(config.join("routemesh")).unwrap();
    let text = "[contexts.home]\ncontroller = \"https://[::1]:1\"\nidentity = \"home\"\n\
                [contexts.prod]\ncontroller = \"https://[::1]:2\"\nidentity = \"/p\"\n";
    fs::write(&file, text).unwrap();
    let shown = |args: &[&str]| {
        let (done, out, error) = meshctl(config, &[args, &["-o", "json"]].concat());
        assert!(done, "{error}");
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        value
    };
    assert_eq!(
        shown(&["context", "show"])["controller"],
        serde_json::Value::Null
    );
    assert!(meshctl(config, &["context", "use", "prod"]).0);
    let chosen = serde_json::json!({ "value": "https://[::1]:2", "from": "context prod" });
    assert_eq!(shown(&["context", "show"])["controller"], chosen);
    let named = shown(&["--context", "home", "context", "show"]);
    assert_eq!(
        named["identity"]["value"],
        config.join("routemesh/home").to_str().unwrap()
    );
    let listed = shown(&["context", "list"]);
    assert_eq!(
        (&listed[0]["in_use"], &listed[1]["in_use"]),
        (&false.into(), &true.into())
    );
    let (done, out, _) = meshctl(config, &["context", "list"]);
    assert!(done && out.contains("*  prod"), "{out}");
    let (done, _, error) = meshctl(config, &["context", "use", "nowhere"]);
    assert!(
        !done && error.contains("there is no context nowhere"),
        "{error}"
    );
    let (done, _, error) = meshctl(config, &["--context", "nowhere", "topology"]);
    assert!(
        !done && error.contains("there is no context nowhere"),
        "{error}"
    );
    fs::write(&file, "contexts = 7").unwrap();
    let (done, _, error) = meshctl(config, &["topology"]);
    assert!(!done && error.contains("meshctl.toml"), "{error}");
}
