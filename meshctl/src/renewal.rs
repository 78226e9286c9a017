//! The caller's own certificate.

use crate::client::{CallError, Client};
use crate::context::Context;
use routemesh_proto::{Identity, RenewRequest, Request, Validity};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

/// Gets another certificate, for a new key.
pub(crate) async fn renew(client: &Client, dir: &Path, old: &Identity) -> Result<(), CallError> {
    let request = Request::renewing(old)?;
    let asked = RenewRequest {
        request: request.der().to_vec(),
    };
    let answer = client.renew(asked).await?;
    Ok(request.answered(answer)?.save(dir)?)
}

/// After whatever was asked for: gets the next certificate in the last third of this one's time. Nobody is
/// bothered with it unless it fails.
pub(crate) async fn when_due(context: &Context) {
    let (Some(dir), Ok(client)) = (context.identity(), context.client()) else {
        return;
    };
    // One at a time: what two of them save would not belong together.
    let Ok(lock) = File::create(dir.join("renewal.lock")) else {
        return;
    };
    if lock.try_lock().is_err() {
        return;
    }
    let Ok(old) = Identity::load(dir) else {
        return;
    };
    let (Ok(validity), now) = (old.validity(), SystemTime::now()) else {
        return;
    };
    if is_due(validity, now)
        && let Err(error) = renew(&client, dir, &old).await
    {
        let left = validity.to.duration_since(now).unwrap_or_default();
        let hours = left.as_secs() / 3600;
        let told = format!(
            "meshctl: the certificate lasts for {hours} hours, and no other is to be had: {error}"
        );
        let _ = writeln!(io::stderr(), "{told}");
    }
}

/// One that has run out is of no use for that.
fn is_due(validity: Validity, now: SystemTime) -> bool {
    validity.holds(now) && validity.renewal(0) <= now
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_certificate_is_renewed_in_its_last_third() {
        let day = Duration::from_secs(86_400);
        let validity = Validity {
            from: UNIX_EPOCH,
            to: UNIX_EPOCH + 30 * day,
        };
        let due = |days: u32| is_due(validity, UNIX_EPOCH + day * days);
        assert_eq!([19, 20, 29, 31].map(due), [false, true, true, false]);
    }
}
