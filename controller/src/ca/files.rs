//! The authority's directory, and the directories that it issues.

use super::above::{self, Above, AboveError};
use super::{DAY, Issued, Peer, Requested, Role, SecretPem, Subject, authority, certify, issue_to};
use crate::spec::check_name;
use rcgen::KeyPair;
use routemesh_proto::{Identity, IdentityError, KeyKind, Validity, fingerprint, save_file};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

/// How long an authority lasts: ten years.
const AUTHORITY: Duration = Duration::from_secs(3650 * 86_400);

/// What an operator's CA says of the authorities: see [`super::above`].
const ABOVE: &str = "ca-above.pem";

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
    /// What an operator's CA has made.
    #[error(transparent)]
    Above(#[from] AboveError),
    /// Whoever vouched for the authority does so no more.
    #[error(
        "the authority is good until {} only, and signs nothing after: let your CA sign \
         `mesh-controller request` again, or remove ca-above.pem to be beneath it no more; where there is none above it, \
         `mesh-controller rollover` makes another", .0.date()
    )]
    Ended(OffsetDateTime),
    /// It would lead to no operator's CA any more.
    #[error(
        "the authority that signs now leads to your CA, and the next one does not yet: let your CA sign what \
         `mesh-controller request` prints, give `mesh-controller certificate` what it made, and run this again; \
         where that CA is to be above no more, remove ca-above.pem first"
    )]
    NotBeneath,
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
    let way = way(dir, &authority)?;
    let lifetime = within(&authority, &way, lifetime, now)?;
    let controller = issue_to(&authority, &Subject::Controller, kind, lifetime, now)?;
    let own = Identity::new(
        signing_first(dir)?,
        controller.certificate + &above::shown(&way),
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
    let lifetime = within(&authority, &way(dir, &authority)?, lifetime, now)?;
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

    /// An identity by which the controller at this address hears what another one is told.
    pub fn controller(&self, address: &str, now: OffsetDateTime) -> Result<Identity, CaError> {
        // An address is no name: it may be too long, and has other characters.
        let digest = fingerprint(address.as_bytes());
        let name: String = digest
            .iter()
            .take(8)
            .map(|it| format!("{it:02x}"))
            .collect();
        self.for_a_day(&Peer::new(Role::Controller, &name), now)
    }

    /// An identity that nobody keeps.
    pub fn for_a_day(&self, peer: &Peer, now: OffsetDateTime) -> Result<Identity, CaError> {
        let authority = read_authority(&self.dir)?;
        let kind = KeyKind::of_pem(authority.key.expose())?;
        let lifetime = within(&authority, &way(&self.dir, &authority)?, DAY, now)?;
        let issued = issue_to(&authority, &Subject::Peer(peer), kind, lifetime, now)?;
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
        let way = way(&self.dir, &authority)?;
        let lifetime = within(&authority, &way, self.lifetime, now)?;
        let certificate = certify(&authority, &subject, &requested.key, lifetime, now)?;
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

/// Whose key a request to an operator's CA is of: that of the next authority while there is one that does not sign yet.
fn requesting(dir: &Path) -> Result<Issued, CaError> {
    Ok(match next_authority(dir)? {
        Some(next) => next,
        None => read_authority(dir)?,
    })
}

/// The one that does not sign yet.
fn next_authority(dir: &Path) -> Result<Option<Issued>, CaError> {
    let next_key = dir.join("ca-next-key.pem");
    if !next_key.exists() {
        return Ok(None);
    }
    let key = SecretPem(read(&next_key)?);
    let certificate = of_key(&bundle(dir)?, &key)?;
    Ok(certificate.map(|certificate| Issued { certificate, key }))
}

/// From an authority up to the operator's root; empty where nobody is above it.
fn way(dir: &Path, authority: &Issued) -> Result<Vec<Above>, CaError> {
    let kept = dir.join(ABOVE);
    match kept.exists() {
        true => Ok(above::way(authority, &read(&kept)?)?),
        false => Ok(Vec::new()),
    }
}

/// Nothing outlasts who vouches for it.
fn within(
    authority: &Issued,
    way: &[Above],
    lifetime: Duration,
    now: OffsetDateTime,
) -> Result<Duration, CaError> {
    let der = first_certificate(&authority.certificate).ok_or(IdentityError::Certificate)?;
    let own = Validity::of(&der).ok_or(IdentityError::Certificate)?.to;
    let own = OffsetDateTime::from(own);
    let until = above::until(way).map_or(own, |above| above.min(own));
    match Duration::try_from(until - now) {
        Ok(left) if !left.is_zero() => Ok(lifetime.min(left)),
        _ => Err(CaError::Ended(until)),
    }
}

/// A request to certify the authority, PKCS#10 as PEM, for an operator's own CA: of the next one while there is one.
pub fn request(dir: &Path) -> Result<String, CaError> {
    let authority = requesting(dir)?;
    let key = KeyPair::from_pem(authority.key.expose())?;
    Ok(above::request(&authority, &key)?)
}

/// Puts the authority beneath an operator's CA, which made `certificates` of [`request`]: the authority's, and those
/// above it up to the root. Says until when they are good.
pub fn put_beneath(
    dir: &Path,
    certificates: &str,
    now: OffsetDateTime,
) -> Result<OffsetDateTime, CaError> {
    let authority = requesting(dir)?;
    let found = above::way(&authority, certificates)?;
    above::check(&authority, &found, now)?;
    let until = within(&authority, &found, AUTHORITY, now)?;
    let mut all = above::text(&found);
    // The authority that signs keeps its own while the next one gets one.
    let signs = read_authority(dir)?;
    if signs.certificate != authority.certificate {
        all += &above::text(&way(dir, &signs)?);
    }
    write(&dir.join(ABOVE), &all, 0o644)?;
    show(dir, &signs)?;
    Ok(now + until)
}

/// Lets the controller show what is above the authority, with the certificate that it has.
fn show(dir: &Path, signs: &Issued) -> Result<(), CaError> {
    let mut own = Identity::load(dir)?;
    let mut all = split(own.certificate).into_iter();
    own.certificate =
        all.next().ok_or(IdentityError::Certificate)? + &above::shown(&way(dir, signs)?);
    Ok(own.save(dir)?)
}

fn split(pem: String) -> Vec<String> {
    Identity::new(pem, String::new(), String::new()).authorities()
}

/// Which step [`roll_over`] takes next, and the authority that it is about, by the digits of its fingerprint: the one that
/// is to sign, or to be left alone.
pub fn next_step(dir: &Path) -> Result<(Step, String), CaError> {
    let next = next_authority(dir)?;
    let step = match &next {
        Some(_) => Step::Signs,
        None if dir.join("ca-to-go.pem").exists() => Step::Alone,
        None => Step::Trusted,
    };
    let about = match next {
        Some(next) => next,
        None => read_authority(dir)?,
    };
    let der = first_certificate(&about.certificate).ok_or(IdentityError::Certificate)?;
    let digits = fingerprint(&der)
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect();
    Ok((step, digits))
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
    if let Some(next) = next_authority(dir)? {
        let now = read_authority(dir)?;
        if !way(dir, &now)?.is_empty() && way(dir, &next)?.is_empty() {
            return Err(CaError::NotBeneath);
        }
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
