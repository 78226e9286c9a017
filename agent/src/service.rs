//! What systemd is told, where the agent is a service of its (sd_notify(3)); elsewhere nobody is.

use sd_notify::{NotifyState, notify};
use tracing::debug;

/// It works: it is ready if it was not, and its watchdog has no reason to bark.
pub fn alive() {
    tell(&[NotifyState::Ready, NotifyState::Watchdog]);
}

/// It is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState]) {
    // Not for children, such as nft.
    if let Err(error) = notify(false, state) {
        debug!("systemd cannot be told anything: {error}");
    }
}
