//! Keeps the gateway's certificate good: asks for the next in time, and for the authorities of the mesh.
//!
//! Nothing waits for it. Whoever needs the identity watches it: the connection to the controller is made
//! anew, and charon gets the new key, then the connections with the new certificate, whose SAs are made
//! before the old ones go; then the old key goes.

use crate::problem::remark;
use routemesh_proto::certificates_client::CertificatesClient;
use routemesh_proto::{
    AuthoritiesRequest, CertificateStatus, Identity, IdentityError, Problem, RenewRequest, Request,
    Validity,
};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tracing::{info, warn};

/// For an answer of the controller.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at the clock at most, which may be set meanwhile.
const LOOK: Duration = Duration::from_secs(60);
/// Between two questions for the authorities at most: so long may a new one take to be known everywhere.
const AUTHORITIES: Duration = Duration::from_secs(600);

/// Why there is no other certificate, or no knowing.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error("the controller says: {0}")]
    Refused(String),
    #[error("the controller does not answer")]
    Silent,
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl From<tonic::Status> for RenewalError {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(status.message().to_owned())
    }
}

/// When to do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Ask for a certificate.
    Renew,
    /// Ask for the authorities, after this time.
    Ask(Duration),
    /// Nobody grants anything to a certificate that has run out.
    TooLate,
}

/// What is next for a certificate. `chance`: a random number, the same for the same certificate.
fn next(validity: Validity, of_first: bool, now: SystemTime, chance: u64) -> Next {
    let left = validity.to.duration_since(now).unwrap_or_default();
    if left.is_zero() {
        return Next::TooLate;
    }
    let due = validity.renewal(chance);
    // One of an authority that is to go, or has come too early by our clock.
    if !of_first || due <= now {
        return Next::Renew;
    }
    // Less up to a quarter: all agents start together.
    let often = often(validity) / 1024 * (768 + u32::try_from(chance % 257).unwrap_or_default());
    let until_due = due.duration_since(now).unwrap_or_default();
    Next::Ask(often.min(until_due).max(Duration::from_secs(1)))
}

/// How often the controller is asked at most.
fn often(validity: Validity) -> Duration {
    let whole = validity.to.duration_since(validity.from);
    AUTHORITIES.min(whole.unwrap_or_default() / 24)
}

/// After a renewal: nothing to wait for, unless the new certificate is due at once too, as our clock is ahead
/// or its authority is not the first one told.
fn rest(validity: Validity, of_first: bool, now: SystemTime, chance: u64) -> Duration {
    match next(validity, of_first, now, chance) {
        Next::Renew => often(validity).max(Duration::from_secs(1)),
        Next::Ask(_) | Next::TooLate => Duration::ZERO,
    }
}

/// Between attempts that fail: often enough for what time is left, and not more often than that.
fn pause(validity: Validity, now: SystemTime) -> Duration {
    let left = validity.to.duration_since(now).unwrap_or_default();
    (left / 16).clamp(Duration::from_secs(1), Duration::from_secs(600))
}

/// What is told of an identity; it does not change while the identity does not, and takes some reckoning.
pub struct Held {
    /// For reports.
    pub status: Option<CertificateStatus>,
    validity: Result<Validity, String>,
}

impl Held {
    /// Of this one.
    pub fn of(identity: &Identity) -> Self {
        Self {
            status: identity.status(),
            validity: identity.validity().map_err(|error| error.to_string()),
        }
    }

    /// What is wrong with the certificate, long before nobody takes it any more. `kept`: a controller is asked for
    /// another in time.
    pub fn problem(&self, kept: bool, now: SystemTime) -> Option<Problem> {
        let reason = match (&self.validity, kept) {
            (Ok(validity), true) => overdue(*validity, now)?,
            (Ok(validity), false) => ending(*validity, now)?,
            (Err(error), _) => error.clone(),
        };
        Some(remark("certificate", &reason))
    }
}

/// Without a controller somebody has to see to it.
fn ending(validity: Validity, now: SystemTime) -> Option<String> {
    let left = validity.to.duration_since(now).unwrap_or_default();
    let words = match left.as_secs() / 86_400 {
        _ if left.is_zero() => "it has run out, and other gateways do not take it".to_owned(),
        days @ 0..30 => format!("it runs out in {days} days"),
        _ => return None,
    };
    Some(format!(
        "{words}; nobody renews it, as no controller is known: make another by `mesh-controller issue`"
    ))
}

/// Whoever is renewed in time never has less than a third of the time left.
fn overdue(validity: Validity, now: SystemTime) -> Option<String> {
    let whole = validity.to.duration_since(validity.from);
    let left = validity.to.duration_since(now).unwrap_or_default();
    if left.is_zero() {
        return Some(
            "it has run out, and neither the controller nor other gateways take it: `meshctl token create`, \
             then `mesh-agent enroll --replace` on the gateway"
                .to_owned(),
        );
    }
    let words = match left.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    };
    (left < whole.unwrap_or_default() / 4).then(|| {
        format!(
            "it runs out in {words} and was due for another: the agent's log says why there is none; \
             is the controller reachable from the gateway?"
        )
    })
}

/// Keeps one identity.
pub struct Keeper {
    /// Its directory.
    pub dir: PathBuf,
    /// Where it is renewed.
    pub controller: String,
    /// Told to all who need it.
    pub holds: watch::Sender<Identity>,
    /// The way to the controller with it.
    pub dialled: watch::Sender<Channel>,
}

impl Keeper {
    /// For ever. `chance`: random numbers.
    pub async fn run(self, mut chance: impl FnMut() -> u64) {
        let mut of_this = chance();
        let mut said = String::new();
        let mut asked = Instant::now();
        loop {
            let own = self.holds.borrow().clone();
            let validity = match own.validity() {
                Ok(validity) => validity,
                Err(error) => {
                    warn!("the certificate is never renewed: {error}");
                    return std::future::pending().await;
                }
            };
            let now = SystemTime::now();
            let step = next(validity, own.is_of_first_authority(), now, of_this);
            let done = match step {
                Next::Renew => self.renew(&own).await.map(|new| {
                    info!("the certificate is renewed");
                    of_this = chance();
                    Some(new)
                }),
                Next::Ask(wait) => {
                    let rest = wait.saturating_sub(asked.elapsed());
                    if !rest.is_zero() {
                        sleep(rest.min(LOOK)).await;
                        continue;
                    }
                    asked = Instant::now();
                    self.authorities(&own).await
                }
                Next::TooLate => Err(RenewalError::Refused(
                    "it has run out: an administrator's `meshctl token create` lets the gateway enroll again"
                        .to_owned(),
                )),
            };
            let taken = done.and_then(|new| match new {
                Some(new) => self.take(new),
                None => Ok(()),
            });
            let Err(error) = taken else {
                said.clear();
                let new = self.holds.borrow().clone();
                if let (Next::Renew, Ok(validity)) = (step, new.validity()) {
                    let of_first = new.is_of_first_authority();
                    sleep(rest(validity, of_first, SystemTime::now(), of_this)).await;
                }
                continue;
            };
            let error = error.to_string();
            if error != said {
                warn!("the gateway's certificate is not renewed: {error}");
            }
            said = error;
            sleep(pause(validity, now)).await;
        }
    }

    async fn renew(&self, own: &Identity) -> Result<Identity, RenewalError> {
        let request = Request::renewing(own)?;
        let asked = RenewRequest {
            request: request.der().to_vec(),
        };
        let mut client = self.client();
        let answer = timeout(PATIENCE, client.renew(asked)).await;
        let answer = answer.map_err(|_| RenewalError::Silent)??.into_inner();
        Ok(request.answered(answer)?)
    }

    /// The same identity with other authorities, if there are others.
    async fn authorities(&self, own: &Identity) -> Result<Option<Identity>, RenewalError> {
        let mut client = self.client();
        let call = client.get_authorities(AuthoritiesRequest {});
        let answer = timeout(PATIENCE, call).await;
        let mut new = own.clone();
        new.ca = answer.map_err(|_| RenewalError::Silent)??.into_inner().pem;
        // An answer without any would leave us with nobody to trust.
        Ok(Some(new).filter(|new| new.ca != own.ca && !new.authorities().is_empty()))
    }

    fn client(&self) -> CertificatesClient<Channel> {
        CertificatesClient::new(self.dialled.borrow().clone())
    }

    /// On disk first: what is in use is there after a restart.
    fn take(&self, new: Identity) -> Result<(), RenewalError> {
        new.save(&self.dir)?;
        self.dialled.send_replace(new.dial(&self.controller)?);
        self.holds.send_replace(new);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn one_that_is_not_renewed_is_a_problem_before_it_runs_out() {
        let from = UNIX_EPOCH + 20_000 * DAY;
        let validity = Validity {
            from,
            to: from + 30 * DAY,
        };
        // Whenever it may still be renewed in time, it is not one.
        for chance in [0, 128, 256] {
            assert_eq!(overdue(validity, validity.renewal(chance)), None);
        }
        let at = |days: u32| overdue(validity, from + DAY * days);
        assert_eq!(at(22), None);
        assert!(at(23).is_some_and(|it| it.starts_with("it runs out in 7 days")));
        assert!(at(30).is_some_and(|it| it.starts_with("it has run out")));
    }

    #[test]
    fn one_that_nobody_renews_is_a_problem_a_month_before() {
        let from = UNIX_EPOCH + 20_000 * DAY;
        let validity = Validity {
            from,
            to: from + 730 * DAY,
        };
        let at = |days: u32| ending(validity, from + DAY * days);
        assert_eq!(at(700), None);
        assert!(at(701).is_some_and(|it| it.starts_with("it runs out in 29 days")));
        assert!(at(730).is_some_and(|it| it.starts_with("it has run out")));
    }

    #[test]
    fn a_certificate_is_renewed_in_its_second_half() {
        let from = UNIX_EPOCH + 20_000 * DAY;
        let validity = Validity {
            from,
            to: from + 30 * DAY,
        };
        let at = |days: u32, of_first| next(validity, of_first, from + DAY * days, 256);
        assert_eq!(at(1, true), Next::Ask(AUTHORITIES));
        assert_eq!(at(15, true), Next::Renew);
        assert_eq!(at(29, true), Next::Renew);
        // The authority that signed it is to go.
        assert_eq!(at(1, false), Next::Renew);
        for of_first in [true, false] {
            assert_eq!(at(30, of_first), Next::TooLate);
            assert_eq!(at(99, of_first), Next::TooLate);
        }
        // Those that live for minutes ask more often, and not all together.
        let short = Validity {
            from,
            to: from + Duration::from_secs(240),
        };
        let waits = [0, 256].map(|chance| next(short, true, from, chance));
        assert_ne!(waits[0], waits[1]);
        assert!(matches!(waits[1], Next::Ask(wait) if wait <= Duration::from_secs(10)));
        // No loop where the new one is due at once.
        let rest_at = |days: u32, of_first| rest(validity, of_first, from + DAY * days, 256);
        assert_eq!(rest_at(1, true), Duration::ZERO);
        assert_eq!(rest_at(1, false), AUTHORITIES);
        assert_eq!(rest_at(29, true), AUTHORITIES);
        assert!(rest(short, false, from, 0) >= Duration::from_secs(1));
        assert_eq!(pause(validity, from), Duration::from_secs(600));
        assert_eq!(pause(validity, from + 60 * DAY), Duration::from_secs(1));
    }
}
