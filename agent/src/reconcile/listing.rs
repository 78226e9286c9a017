//! All routes of the kernel compared with what is known of them: at the start, in doubt, and otherwise
//! once a minute.

use super::Gateway;
use crate::config::Config;
use crate::dataplane::Dataplane;
use crate::kernel::{self, Foreign, Route};
use ipnet::IpNet;
use std::time::{Duration, Instant};

/// All routes are listed every so often, even if nothing asks for it.
const LISTING: Duration = Duration::from_secs(60);

/// When the kernel's routes were listed last.
pub(super) struct Listed {
    at: Instant,
    took: Duration,
    /// They are not as they were.
    pub(super) doubt: bool,
}

impl Listed {
    /// The first time, which began then.
    pub(super) fn first(began: Instant) -> Self {
        Self {
            at: Instant::now(),
            took: began.elapsed(),
            doubt: false,
        }
    }

    /// When to list them again: not so often that nothing else is done.
    pub(super) fn due(&self) -> Instant {
        self.at
            + match self.doubt {
                true => self.took * 20,
                false => LISTING.max(self.took * 100),
            }
    }
}

impl Gateway {
    /// Compares all routes of the kernel with what is known of them. One that failed is tried again,
    /// but not sooner than any other that somebody's changes ask for.
    pub(super) async fn list(&mut self, config: &Config) -> Result<(), kernel::Error> {
        let began = Instant::now();
        // What changes meanwhile is a doubt again.
        self.listed.doubt = false;
        let result = self.list_all(config).await;
        self.listed = Listed {
            at: Instant::now(),
            took: began.elapsed(),
            doubt: self.listed.doubt || result.is_err(),
        };
        result
    }

    async fn list_all(&mut self, config: &Config) -> Result<(), kernel::Error> {
        let mut foreign = Foreign::new(&self.dataplane.state().links, self.kernel.table());
        let mut listing = self.kernel.routes(&self.dataplane.tables());
        self.dataplane.begin_listing();
        while let Some(piece) = self.meanwhile(listing.recv()).await {
            compare(piece?, &mut self.dataplane, &mut foreign, config);
        }
        self.dataplane.end_listing();
        self.foreign = foreign.best();
        Ok(())
    }
}

/// A piece of the listing of all routes.
pub(super) fn compare(
    piece: Vec<Route>,
    dataplane: &mut Dataplane,
    foreign: &mut Foreign,
    config: &Config,
) {
    let owned = |prefix: &IpNet| config.owned().iter().any(|own| own.contains(prefix));
    for route in piece {
        if route.is_ours() {
            dataplane.listed(route.key, route.target());
            continue;
        }
        dataplane.listed_stranger(route.key);
        if owned(&route.key.prefix) {
            foreign.add(&route);
        }
    }
}
