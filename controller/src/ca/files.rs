//! The authority's directory, and the directories that it issues.

use super::{DAY, Issued, Peer, Requested, Role, SecretPem, Subject, authority, certify, issue_to};
use crate::spec::check_name;
use rcgen::KeyPair;
use routemesh_proto::{Identity, IdentityError, KeyKind, fingerprint, save_file};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

/// How long an authority lasts: ten years.
const AUTHORITY: Duration = Duration::from_secs(3650 * 86_400);

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
    /// What is there cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate cannot be made.
    #[error("cannot make the certificate: {0}; is the authority's key damaged?")]
    Make(#[from] rcgen::Error),
}

/// Makes an authority and the controller's own certificate in `dir`.
pub fn init(dir: &Path, kind: KeyKind, lifetime: Duration) -> Result<(), CaError> {
    for name in ["ca.pem", "ca-key.pem"] {
        let path = dir.join(name);
        if path.exists() {
            return Err(CaError::Exists { path });
        }
    }
    private_dir(dir)?;
    let authority = authority(kind, AUTHORITY, OffsetDateTime::now_utc())?;
    write(&dir.join("ca-key.pem"), authority.key.expose(), 0o600)?;
    write(&dir.join("ca.pem"), &authority.certificate, 0o644)?;
    renew(dir, lifetime)
}

/// Makes the controller a new certificate, signed by the authority in `dir`.
pub fn renew(dir: &Path, lifetime: Duration) -> Result<(), CaError> {
    let authority = read_authority(dir)?;
    let now = OffsetDateTime::now_utc();
    let kind = KeyKind::of_pem(authority.key.expose())?;
    let controller = issue_to(&authority, &Subject::Controller, kind, lifetime, now)?;
    let own = Identity::new(
        signing_first(dir)?,
        controller.certificate,
        controller.key.0,
    );
    Ok(own.save(dir)?)
}

/// Makes an identity for `peer` in the directory `out`, signed by the authority in `dir`.
pub fn issue(dir: &Path, peer: &Peer, out: &Path, lifetime: Duration) -> Result<(), CaError> {
    check_name(&peer.name).map_err(CaError::Name)?;
    let mark = out.join("cert.pem");
    if mark.exists() {
        return Err(CaError::Exists { path: mark });
    }
    let authority = read_authority(dir)?;
    let now = OffsetDateTime::now_utc();
    let kind = KeyKind::of_pem(authority.key.expose())?;
    let issued = issue_to(&authority, &Subject::Peer(peer), kind, lifetime, now)?;
    let bundle = signing_first(dir)?;
    Ok(Identity::new(bundle, issued.certificate, issued.key.0).save(out)?)
}

/// The authority of a running controller.
#[derive(Clone, Debug)]
pub struct Authority {
    dir: PathBuf,
    lifetime: Duration,
}

impl Authority {
    /// The one in `dir`; what it signs is good for `lifetime`.
    pub fn new(dir: &Path, lifetime: Duration) -> Self {
        Self {
            dir: dir.to_owned(),
            lifetime,
        }
    }

    /// The controller's own identity, renewed where it is due or not of the authority that signs now.
    pub fn own(&self, now: OffsetDateTime) -> Result<Identity, CaError> {
        let mut own = Identity::load(&self.dir)?;
        own.ca = self.bundle()?;
        let due = own.validity()?.renewal(0) <= SystemTime::from(now);
        let ours = own.is_of_first_authority();
        if ours && !due {
            return Ok(own);
        }
        // One that holds no authority's key, as its operator renews it by hand, goes on with what it has.
        if !self.dir.join("ca-key.pem").exists() {
            return Ok(own);
        }
        renew(&self.dir, self.lifetime)?;
        Ok(Identity::load(&self.dir)?)
    }

    /// The authorities, PEM: the first one signs.
    pub fn bundle(&self) -> Result<String, CaError> {
        signing_first(&self.dir)
    }

    /// By what a token names the authority that signs.
    pub fn fingerprint(&self) -> Result<[u8; 32], CaError> {
        let first = first_certificate(&read_authority(&self.dir)?.certificate);
        let first = first.ok_or(IdentityError::Certificate)?;
        Ok(fingerprint(&first))
    }

    /// An identity by which this controller sees what another one knows.
    pub fn viewer(&self, now: OffsetDateTime) -> Result<Identity, CaError> {
        let authority = read_authority(&self.dir)?;
        let kind = KeyKind::of_pem(authority.key.expose())?;
        let peer = Peer::new(Role::Viewer, "controller");
        let issued = issue_to(&authority, &Subject::Peer(&peer), kind, DAY, now)?;
        Ok(Identity::new(
            self.bundle()?,
            issued.certificate,
            issued.key.0,
        ))
    }

    /// A certificate for whoever asked.
    pub fn certify(
        &self,
        peer: &Peer,
        requested: &Requested,
        now: OffsetDateTime,
    ) -> Result<String, CaError> {
        let authority = read_authority(&self.dir)?;
        let subject = Subject::Peer(peer);
        let certificate = certify(&authority, &subject, &requested.key, self.lifetime, now)?;
        Ok(certificate)
    }
}

fn first_certificate(pem: &str) -> Option<Vec<u8>> {
    let (_, first) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    Some(first.contents)
}

fn read(path: &Path) -> Result<String, CaError> {
    fs::read_to_string(path).map_err(|source| CaError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The authority that signs: of those that are trusted, the one that the key is of.
fn read_authority(dir: &Path) -> Result<Issued, CaError> {
    let key = SecretPem(read(&dir.join("ca-key.pem"))?);
    let certificate = of_key(&bundle(dir)?, &key)?;
    Ok(Issued {
        certificate: certificate.ok_or(IdentityError::Mismatch)?,
        key,
    })
}

/// Of these certificates, the one that the key is of.
fn of_key(all: &[String], key: &SecretPem) -> Result<Option<String>, CaError> {
    let own = KeyPair::from_pem(key.expose())?;
    let is_own = |pem: &String| {
        let der = first_certificate(pem)?;
        let (_, it) = x509_parser::parse_x509_certificate(&der).ok()?;
        Some(*it.public_key().subject_public_key.data == *own.public_key_raw())
    };
    let mut all = all.iter();
    Ok(all.find(|pem| is_own(pem).unwrap_or_default()).cloned())
}

/// The authorities, one PEM text each.
fn bundle(dir: &Path) -> Result<Vec<String>, CaError> {
    Ok(split(read(&dir.join("ca.pem"))?))
}

/// The authorities, PEM: the first one signs, also where a rollover was interrupted. Where no key is kept,
/// the file is taken as it is.
fn signing_first(dir: &Path) -> Result<String, CaError> {
    if !dir.join("ca-key.pem").exists() {
        return read(&dir.join("ca.pem"));
    }
    let signs = read_authority(dir)?.certificate;
    let mut all = bundle(dir)?;
    all.retain(|it| *it != signs);
    all.insert(0, signs);
    Ok(all.concat())
}

fn split(pem: String) -> Vec<String> {
    Identity::new(pem, String::new(), String::new()).authorities()
}

/// Takes the next step from one authority to the next, and says what it was. The first makes another
/// authority, which is trusted and signs nothing; the second lets it sign; the last ends trust in those
/// before it. Between two of them, all who hold certificates must have taken the one before.
///
/// One that was interrupted is taken again. Which is next is told by two files: the key of one that does not
/// sign yet, and those that are to go. How many are trusted tells nothing: an operator's root may be among them.
pub fn roll_over(dir: &Path, kind: KeyKind) -> Result<Step, CaError> {
    let [authorities, next_key, to_go] =
        ["ca.pem", "ca-next-key.pem", "ca-to-go.pem"].map(|name| dir.join(name));
    let signs = read_authority(dir)?.certificate;
    let mut all = bundle(dir)?;
    let next = match next_key.exists() {
        true => {
            let key = SecretPem(read(&next_key)?);
            of_key(&all, &key)?.map(|certificate| Issued { certificate, key })
        }
        false => None,
    };
    if let Some(next) = next {
        all.retain(|it| *it != next.certificate);
        write(&to_go, &all.concat(), 0o644)?;
        // The key first: whichever certificate is its own signs.
        write(&dir.join("ca-key.pem"), next.key.expose(), 0o600)?;
        write(&authorities, &signing_first(dir)?, 0o644)?;
        remove(next_key)?;
        return Ok(Step::Signs);
    }
    if to_go.exists() {
        let gone = split(read(&to_go)?);
        all.retain(|it| *it == signs || !gone.contains(it));
        write(&authorities, &all.concat(), 0o644)?;
        remove(to_go)?;
        return Ok(Step::Alone);
    }
    let next = authority(kind, AUTHORITY, OffsetDateTime::now_utc())?;
    write(&next_key, next.key.expose(), 0o600)?;
    all.push(next.certificate);
    write(&authorities, &all.concat(), 0o644)?;
    Ok(Step::Trusted)
}

fn remove(path: PathBuf) -> Result<(), CaError> {
    fs::remove_file(&path).map_err(|source| CaError::Write { path, source })
}

/// What has become of the next authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is trusted beside the other.
    Trusted,
    /// It signs; the other is still trusted.
    Signs,
    /// Those before it are gone.
    Alone,
}

fn private_dir(dir: &Path) -> Result<(), CaError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| CaError::Write {
        path: dir.to_owned(),
        source,
    })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    save_file(path, text, mode).map_err(|source| CaError::Write {
        path: path.to_owned(),
        source,
    })
}
