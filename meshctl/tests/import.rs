//! Meshes made by hand, drafted: every directory of `tests/import` against the draft beside it.
//!
//! `RENEW_GOLDEN=1 cargo test -p routemesh-meshctl --test import` writes the drafts anew: read the difference before it
//! is committed. The controller's golden test holds the drafts to what it accepts.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// What the files of a host are.
fn kind(file: &str) -> &'static str {
    match file {
        "swanctl.conf" => "swanctl",
        "bird.conf" => "bird",
        _ => "ipsec.conf",
    }
}

#[test]
fn drafts_are_as_they_were() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
    for (mesh, hosts) in [
        ("cloud", &["home-1=cloud"][..]),
        ("routed", &["routed/ipsec-gw", "routed/ipsec-enodeb"]),
        (
            "lab",
            &[
                "lab/V1-1", "lab/V1-2", "lab/V2-1", "lab/V2-2", "lab/V3-1", "lab/V3-2",
            ],
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
        command.current_dir(&dir).arg("import");
        for host in hosts {
            let (name, directory) = host.split_once('=').unwrap_or(("", host));
            let files = fs::read_dir(dir.join(directory)).unwrap();
            let mut files: Vec<String> = files
                .map(|it| it.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort();
            for file in files {
                let named = if name.is_empty() {
                    String::new()
                } else {
                    format!("{name}=")
                };
                command.args([kind(&file), &format!("{named}{directory}/{file}")]);
            }
        }
        let output = command.output().unwrap();
        let (text, told) = (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        );
        assert!(output.status.success(), "{mesh}: {told}");
        for (extension, now) in [("toml", text), ("notes", told)] {
            let kept = dir.join(mesh).with_extension(extension);
            if std::env::var_os("RENEW_GOLDEN").is_some() {
                fs::write(kept, now).unwrap();
            } else {
                assert_eq!(
                    fs::read_to_string(&kept).unwrap(),
                    now,
                    "{}",
                    kept.display()
                );
            }
        }
    }
}

#[test]
fn keys_go_into_files_of_their_own_and_nothing_is_replaced() {
    let out = tempfile::tempdir().unwrap();
    let draft = out.path().join("new/mesh.toml");
    let import = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import/cloud/swanctl.conf");
        let output = command
            .args(["import", "swanctl"])
            .arg(file)
            .arg("--out")
            .arg(&draft)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (done, told) = import();
    assert!(done, "{told}");
    assert!(!told.contains("the secret of"), "{told}");
    let key = out.path().join("new/oci-tunnel-2.psk");
    assert_eq!(
        fs::read_to_string(&key).unwrap(),
        "the secret of tunnel 2\n"
    );
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let text = fs::read_to_string(&draft).unwrap();
    assert!(
        text.contains("psk_file = \"oci-tunnel-2.psk\"") && !text.contains("the secret of"),
        "{text}"
    );
    let (done, told) = import();
    assert!(!done && told.contains("File exists"), "{told}");
}

#[test]
fn a_program_gets_the_draft_and_its_notes_in_one_value() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    let words = ["import", "swanctl", "cloud/swanctl.conf", "-o", "json"];
    let output = command.current_dir(&dir).args(words).output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(value["text"].as_str().unwrap().contains("[mesh]"));
    let keys = value["keys"].as_array().unwrap();
    assert!(keys.contains(&"oci-tunnel-2.psk".into()), "{keys:?}");
    let notes = value["notes"].as_array().unwrap();
    assert_eq!(notes[0]["file"], "cloud/swanctl.conf");
    assert!(notes.iter().any(|it| it["line"].as_u64() > Some(0)));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(!told.contains("the secret of") && output.stderr.is_empty());
}
