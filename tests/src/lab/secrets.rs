//! Whether what a run wrote tells a secret to whoever can read it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{LabError, Result as Checked};

/// A key of WireGuard's is a line of base64, and nothing of it says so but its name.
const WIREGUARD: &str = "wireguard.key";

/// Nothing below `dir` that others than its owner may read tells a private key that is there, or one of these secrets.
pub fn kept(dir: &Path, others: &[String]) -> Checked<()> {
    let search = || {
        let mut secrets = private_keys(dir)?;
        let keys = secrets.len();
        secrets.extend_from_slice(others);
        // What is looked for would be found.
        let control = dir.join("control");
        fs::write(&control, secrets.join("\n"))?;
        let found = leaks(dir, &secrets)?;
        fs::remove_file(&control)?;
        Ok::<_, io::Error>((keys, found, control))
    };
    let name = dir.display().to_string();
    let (keys, found, control) = search().map_err(LabError::io(name))?;
    match keys > 0 && found == [control] {
        true => Ok(()),
        false => Err(LabError::Unexpected(format!(
            "secrets (of {keys} keys, and others) are in {found:?}"
        ))),
    }
}

/// The files below `dir` that others than their owner may read, and that have one of these secrets in them.
pub fn leaks(dir: &Path, secrets: &[String]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(dir, &mut |path, mode| {
        if mode & 0o077 != 0 {
            let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
            if secrets.iter().any(|secret| text.contains(secret)) {
                found.push(path.to_owned());
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// The private keys below `dir`, by a line of their text each.
pub fn private_keys(dir: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    walk(dir, &mut |path, _| {
        let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
        if path.file_name().is_some_and(|name| name == WIREGUARD) {
            found.push(text.trim().to_owned());
        }
        let mut lines = text.lines();
        while lines.any(|line| line.contains("PRIVATE KEY-----")) {
            found.extend(lines.next().map(str::to_owned));
            lines.find(|line| line.starts_with("-----END"));
        }
        Ok(())
    })?;
    Ok(found)
}

fn walk(dir: &Path, each: &mut impl FnMut(&Path, u32) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            walk(&path, each)?;
        } else if metadata.is_file() {
            each(&path, metadata.mode())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_others_may_read_is_searched() {
        let dir = std::env::temp_dir().join(format!("rm-secrets-{}", std::process::id()));
        fs::create_dir_all(dir.join("deep")).unwrap();
        let file = dir.join("deep/log");
        let key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----\n";
        fs::write(&file, format!("a key:\n{key}")).unwrap();
        fs::write(dir.join(WIREGUARD), "c2VjcmV0\n").unwrap();
        let mut keys = private_keys(&dir).unwrap();
        keys.sort();
        fs::remove_file(dir.join(WIREGUARD)).unwrap();
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o640);
        let told = leaks(&dir, &keys).unwrap();
        mode(0o600);
        let kept = leaks(&dir, &keys).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(
            (keys, told, kept),
            (
                ["MC4CAQAw", "c2VjcmV0"].map(str::to_owned).into(),
                vec![file],
                vec![]
            )
        );
    }
}
