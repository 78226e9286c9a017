//! The authority's directory, and the directories that it issues.

use super::{Issued, Peer, SecretPem, Subject, authority, certify};
use crate::spec::check_name;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// How long an authority lasts.
const AUTHORITY_DAYS: u32 = 3650;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file or directory.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The authority cannot be read.
    #[error("cannot read {}: {source}; --dir names the authority's directory, which `mesh-controller init` makes", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is one already.
    #[error("{} is there already: it is not replaced; choose another directory, or remove it if nobody needs it", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// Not a name that may stand in a certificate.
    #[error("{0}")]
    Name(String),
    /// The certificate cannot be made.
    #[error("cannot make the certificate: {0}; is the authority's key damaged?")]
    Make(#[from] rcgen::Error),
}

/// Makes an authority and the controller's own certificate in `dir`.
pub fn init(dir: &Path, days: u32) -> Result<(), CaError> {
    for name in ["ca.pem", "ca-key.pem"] {
        let path = dir.join(name);
        if path.exists() {
            return Err(CaError::Exists { path });
        }
    }
    private_dir(dir)?;
    let authority = authority(AUTHORITY_DAYS, OffsetDateTime::now_utc())?;
    write(&dir.join("ca-key.pem"), authority.key.expose(), 0o600)?;
    write(&dir.join("ca.pem"), &authority.certificate, 0o644)?;
    renew(dir, days)
}

/// Makes the controller a new certificate, signed by the authority in `dir`.
pub fn renew(dir: &Path, days: u32) -> Result<(), CaError> {
    let authority = read_authority(dir)?;
    let now = OffsetDateTime::now_utc();
    let controller = certify(&authority, &Subject::Controller, days, now)?;
    write(&dir.join("key.pem"), controller.key.expose(), 0o600)?;
    write(&dir.join("cert.pem"), &controller.certificate, 0o644)
}

/// Makes an identity for `peer` in the directory `out`, signed by the authority in `dir`.
pub fn issue(dir: &Path, peer: &Peer, out: &Path, days: u32) -> Result<(), CaError> {
    check_name(&peer.name).map_err(CaError::Name)?;
    let mark = out.join("cert.pem");
    if mark.exists() {
        return Err(CaError::Exists { path: mark });
    }
    let authority = read_authority(dir)?;
    let now = OffsetDateTime::now_utc();
    let issued = certify(&authority, &Subject::Peer(peer), days, now)?;
    private_dir(out)?;
    write(&out.join("ca.pem"), &authority.certificate, 0o644)?;
    write(&out.join("key.pem"), issued.key.expose(), 0o600)?;
    write(&mark, &issued.certificate, 0o644)
}

fn read_authority(dir: &Path) -> Result<Issued, CaError> {
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).map_err(|source| CaError::Read { path, source })
    };
    Ok(Issued {
        certificate: read("ca.pem")?,
        key: SecretPem(read("ca-key.pem")?),
    })
}

fn private_dir(dir: &Path) -> Result<(), CaError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| CaError::Write {
        path: dir.to_owned(),
        source,
    })
}

/// Writes a whole file or none, with its mode from the first byte on.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    let attempt = || {
        let new = path.with_extension("new");
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
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    attempt().map_err(|source| CaError::Write {
        path: path.to_owned(),
        source,
    })
}
