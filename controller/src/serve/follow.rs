//! The other controllers before the same store: what they change is taken over, and what they are told.

use super::state::{State, load, lock};
use crate::ca::Authority;
use crate::spec::TunnelKind;
use crate::store::{Store, StoreError};
use routemesh_proto::controllers_client::ControllersClient;
use routemesh_proto::heard::Report;
use routemesh_proto::{FollowRequest, Heard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// What was not heard of is looked for this often.
const LOOK: Duration = Duration::from_secs(30);
/// An agent says something more often than this.
const SILENT: Duration = Duration::from_secs(15);
/// Before the next attempt to reach another controller.
const PAUSE: Duration = Duration::from_secs(1);

impl State {
    /// Looks whether another controller has revoked somebody or made a generation. Blocks on the store.
    pub(super) fn refresh(&self, store: &Store) -> Result<(), StoreError> {
        if self.others.is_none() {
            return Ok(());
        }
        let admissions = store.admissions()?;
        if **self.admissions.borrow() != admissions {
            self.admit(admissions);
        }
        let known = self.mesh.borrow().as_ref().map(|mesh| mesh.generation);
        let unmade = self.unmade.load(Ordering::Relaxed);
        if !unmade && store.generation()? == known.unwrap_or_default() {
            return Ok(());
        }
        match load(store)? {
            Some(mesh) => {
                info!(
                    "generation {} is in force, as another controller has it",
                    mesh.generation
                );
                self.put_in_force(mesh);
            }
            // Another may be applied here, and until then nobody is told what is not in force any more.
            None => {
                self.steps.forget();
                self.mesh.send_replace(None);
            }
        }
        Ok(())
    }

    /// Takes over what other controllers have changed. Blocks on the store.
    fn follow(&self) -> Result<(), StoreError> {
        let store = lock(&self.store);
        self.refresh(&store)?;
        let keys = store.keys()?;
        self.mesh.send_if_modified(|mesh| {
            let Some(mesh) = mesh.as_mut().filter(|mesh| mesh.keys != keys) else {
                return false;
            };
            Arc::make_mut(mesh).keys = keys;
            let matters = mesh.spec.has(TunnelKind::WireGuard);
            if matters {
                self.steps.push(mesh.clone());
            }
            matters
        });
        Ok(())
    }

    /// Notes what another controller was told; `false` where that changes what is not known here.
    fn told(&self, heard: Heard, by: &Arc<str>) -> bool {
        let Heard {
            gateway,
            age,
            report,
        } = heard;
        match report {
            // Only a gateway of the mesh reports, so it has left the mesh since.
            Some(_) if !self.has(&gateway) => true,
            Some(Report::Whole(status)) => {
                let age = Duration::from_millis(age);
                self.reports.put_told(&gateway, status, age, by);
                true
            }
            // One that the gateway has told somebody else since is none of theirs: whoever begins anew hears how old
            // it is.
            Some(Report::Change(change)) => {
                let known = || self.last_report(&gateway);
                self.reports.change(&gateway, change, Some(by))
                    || known().is_some_and(|known| known.age < SILENT)
            }
            None => true,
        }
    }
}

/// Follows the others for as long as the controller lives.
pub async fn follow(state: Arc<State>, authority: Authority) {
    let Some(others) = &state.others else {
        return;
    };
    let (mut changed, mut controllers) = (others.changed.clone(), others.controllers.clone());
    let own: Arc<str> = others.own.as_str().into();
    let mut following = JoinSet::new();
    let mut there: BTreeMap<String, AbortHandle> = BTreeMap::new();
    controllers.mark_changed();
    loop {
        tokio::select! {
            heard = timeout(LOOK, changed.changed()) => {
                // Nobody tells any more: the store is closed.
                if matches!(heard, Ok(Err(_))) {
                    return;
                }
                let state = state.clone();
                let followed = tokio::task::spawn_blocking(move || state.follow()).await;
                if let Ok(Err(error)) = followed {
                    warn!("what another controller changed is not known yet: {error}");
                }
            }
            Ok(()) = controllers.changed() => {
                let now = controllers.borrow_and_update().clone();
                there.retain(|url, task| {
                    let stays = now.contains(url);
                    if !stays {
                        info!("the controller at {url} is gone");
                        task.abort();
                    }
                    stays
                });
                for url in now {
                    there.entry(url.clone()).or_insert_with(|| {
                        info!("another controller is at {url}");
                        following.spawn(hear(state.clone(), authority.clone(), own.clone(), url))
                    });
                }
            }
        }
    }
}

/// Hears what the controller at `url` is told, again whenever that ends. `own`: where this one is.
async fn hear(state: Arc<State>, authority: Authority, own: Arc<str>, url: String) {
    let by: Arc<str> = url.as_str().into();
    let mut said = String::new();
    loop {
        let trouble = match hear_once(&state, &authority, &own, &by).await {
            Ok(()) => String::new(),
            Err(trouble) => trouble,
        };
        if trouble != said && !trouble.is_empty() {
            warn!("what gateways report at {url} is not known here: {trouble}");
        }
        said = trouble;
        sleep(PAUSE).await;
    }
}

async fn hear_once(
    state: &Arc<State>,
    authority: &Authority,
    own: &Arc<str>,
    by: &Arc<str>,
) -> Result<(), String> {
    let (authority, own) = (authority.clone(), own.clone());
    let now = SystemTime::now().into();
    let identity = tokio::task::spawn_blocking(move || authority.controller(&own, now)).await;
    let identity = identity.map_err(|error| error.to_string())?;
    let identity = identity.map_err(|error| error.to_string())?;
    let channel = identity.dial(by).map_err(|error| error.to_string())?;
    let mut client =
        ControllersClient::new(channel).max_decoding_message_size(super::LARGEST_REPORT);
    let words = |status: tonic::Status| match std::error::Error::source(&status) {
        Some(source) => format!("{}: {source}", status.message()),
        None => status.message().to_owned(),
    };
    let heard = client.follow(FollowRequest {}).await;
    let mut stream = heard.map_err(words)?.into_inner();
    let mut looked: Option<Instant> = None;
    while let Some(heard) = stream.message().await.map_err(words)? {
        let (state, by) = (state.clone(), by.clone());
        // A controller may tell of a gateway before the store's watch tells of the generation that brought it.
        if !state.has(&heard.gateway) {
            // Not more often: there may be a generation here that is not understood.
            let since = looked.map_or(PAUSE, |it| it.elapsed());
            sleep(PAUSE.saturating_sub(since)).await;
            looked = Some(Instant::now());
            let state = state.clone();
            let followed = tokio::task::spawn_blocking(move || state.follow()).await;
            let followed = followed.map_err(|error| error.to_string())?;
            followed.map_err(|error| error.to_string())?;
        }
        let told = match heard.report {
            // Packing takes a while.
            Some(Report::Whole(_)) => {
                let told = tokio::task::spawn_blocking(move || state.told(heard, &by)).await;
                told.map_err(|error| error.to_string())?
            }
            _ => state.told(heard, &by),
        };
        if !told {
            return Ok(());
        }
    }
    Ok(())
}
