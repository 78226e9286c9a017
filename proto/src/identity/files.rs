//! Files that are there whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where a file is written before it takes its place.
pub(super) fn new_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Replaces a file or makes it, with its mode from the first byte on. After a crash there is the old
/// one or the new one.
pub fn save_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    prepare(path, text, mode)?;
    put_in_place(path)
}

/// Writes what is to take a file's place.
pub(super) fn prepare(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let new = new_of(path);
    // One that a crash left behind may have another mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(mode)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Puts what was prepared in its place.
pub(super) fn put_in_place(path: &Path) -> io::Result<()> {
    fs::rename(new_of(path), path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes a directory that only its owner reads, where it is missing.
pub(super) fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
