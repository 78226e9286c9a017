//! What the controller knows: the mesh in force, and the last report of each gateway.

use super::canary;
use super::figures::Figures;
use super::heard::Heard;
use super::history::{Moved, expect, of_revision};
use super::reports::Gathered;
use super::steps::Steps;
use crate::admission::Admissions;
use crate::ca::Role;
use crate::canary::{Progress, Trial};
use crate::drain::{Drain, staying};
use crate::ids::{self, tunnel_count};
use crate::mesh::{Keys, Mesh, retire};
use crate::plan::summary;
use crate::report::{Report, Reports};
use crate::spec::{self, MeshSpec, SpecErrors, TunnelKind};
use crate::store::{Change, Kind, Others, Revision, Store, StoreError};
use routemesh_proto::{self as proto, PublicKey};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::{Semaphore, watch};
use tracing::{error, info};

/// Why something was not done. But for [`ApplyError::Revoked`], nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It is wrong.
    #[error(transparent)]
    Spec(#[from] SpecErrors),
    /// It cannot be kept.
    #[error("nothing was changed: {0}")]
    Store(#[from] StoreError),
    /// Another generation is in force than was expected.
    #[error(transparent)]
    Moved(#[from] Moved),
    /// The revocation is kept; the mesh was to follow.
    #[error(
        "{name} is revoked, and no certificate of that name is good any more; but the mesh in force still has its          tunnels, as another could not be made: {}; do it again, so that its peers give them up", .source.reason()
    )]
    Revoked {
        /// Whose.
        name: String,
        /// Why there is no other mesh.
        source: Box<ApplyError>,
    },
    /// A trial is under way, or cannot be.
    #[error("{0}")]
    Canary(String),
    /// The store is not ours to copy.
    #[error(
        "the mesh is kept in etcd, which is backed up as a whole: `etcdctl snapshot save FILE`; for a database of it, \
         `mesh-controller migrate --from etcd:... --to sqlite:DIR`"
    )]
    NoBackup,
    /// A generation that is not kept.
    #[error("generation {0} is not kept: meshctl history lists those that are")]
    Gone(u64),
}

impl ApplyError {
    /// Why, where something was changed before.
    fn reason(&self) -> String {
        match self {
            Self::Store(error) => error.to_string(),
            other => other.to_string(),
        }
    }
}

/// What the controller knows, shared by everything that serves.
#[derive(Debug)]
pub struct State {
    pub(super) store: Mutex<Store>,
    pub(super) mesh: watch::Sender<Option<Arc<Mesh>>>,
    pub(super) admissions: watch::Sender<Arc<Admissions>>,
    /// Gateways were revoked or admitted since the mesh was made.
    pub(super) unmade: AtomicBool,
    /// It holds what `mesh` does before that says so.
    pub(super) steps: Steps,
    /// Places for work that takes a processor for long; one processor is left to everything else.
    pub(super) work: Semaphore,
    pub(super) reports: Gathered,
    /// Keys for WireGuard that gateways told and that are not on disk yet.
    pub(super) told: Mutex<Keys>,
    /// How the trial stands, where there is one.
    pub(super) progress: Mutex<Option<Progress>>,
    /// Other controllers before the same store, where there can be any.
    pub(super) others: Option<Others>,
    /// What gateways report here, for those others.
    pub(super) heard: Heard,
    pub(super) figures: Arc<Figures>,
}

/// What stands behind a lock is whole after every statement, so a panic elsewhere spoils nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn places() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    processors.saturating_sub(1).max(1)
}

impl State {
    /// Takes up where the store left off.
    pub fn new(mut store: Store) -> Result<Self, StoreError> {
        let others = store.others();
        let mesh = load(&store)?.map(Arc::new);
        let steps = Steps::default();
        if let Some(mesh) = &mesh {
            steps.push(mesh.clone());
        }
        let admissions = store.admissions()?;
        Ok(Self {
            admissions: watch::Sender::new(Arc::new(admissions)),
            reports: Gathered::new(store.reports()?),
            mesh: watch::Sender::new(mesh),
            unmade: AtomicBool::default(),
            steps,
            work: Semaphore::new(places()),
            told: Mutex::default(),
            progress: Mutex::default(),
            others,
            heard: Heard::default(),
            figures: Arc::default(),
            store: Mutex::new(store),
        })
    }

    /// The mesh in force, now and whenever it changes.
    pub fn mesh(&self) -> watch::Receiver<Option<Arc<Mesh>>> {
        self.mesh.subscribe()
    }

    /// Puts a specification in force, or changes nothing; `expected`: only if this generation, or none
    /// (0), is in force until then. Blocks on the disk.
    pub fn apply(
        &self,
        operator: &str,
        file: &str,
        text: &str,
        expected: Option<u64>,
    ) -> Result<proto::ApplyReply, ApplyError> {
        let spec = spec::parse(file, text)?;
        // One at a time, from here to the end.
        let mut store = lock(&self.store);
        self.refresh(&store)?;
        expect(&store, expected)?;
        refuse_in_trial(self.mesh.borrow().as_deref())?;
        let spec = spec.admitted(&self.admissions.borrow());
        let said = summary(self.mesh.borrow().as_ref().map(|mesh| &*mesh.spec), &spec);
        let new = New {
            operator,
            kind: Kind::Apply,
            summary: said,
            file,
            text,
            spec,
            trial: None,
        };
        self.replace(&mut store, new)
    }

    /// Puts a specification that is right in force.
    pub(super) fn replace(
        &self,
        store: &mut Store,
        new: New,
    ) -> Result<proto::ApplyReply, ApplyError> {
        let before = self.mesh.borrow().clone();
        let same = |mesh: &&Arc<Mesh>| mesh.text.expose() == new.text && mesh.trial.is_none();
        if let Some(mesh) = before.as_ref().filter(same) {
            return Ok(reply(mesh, true));
        }
        self.install(store, new)
    }

    /// The same, though the text may be the one in force: what it comes to has changed.
    pub(super) fn install(
        &self,
        store: &mut Store,
        new: New,
    ) -> Result<proto::ApplyReply, ApplyError> {
        let New {
            operator,
            kind,
            summary,
            file,
            text,
            spec,
            trial,
        } = new;
        let before = self.mesh.borrow().clone();
        // First, as all else is read after it: if this is still in force in the end, so was the rest.
        let current = store.current()?;
        let ids =
            ids::assign(&store.ids()?, &spec).map_err(|errors| SpecErrors::new(file, errors))?;
        let spec = spec.admitted(&self.admissions.borrow());
        let retired = retire(before.as_deref(), store.retired()?, &spec);
        let (in_force, drains) = current.map_or_else(Default::default, |revision| {
            (revision.generation, revision.drains)
        });
        let drains = staying(drains, &spec);
        let change = Change {
            revision: Revision {
                generation: 0,
                file: file.to_owned(),
                text: text.into(),
                operator: operator.to_owned(),
                at: SystemTime::now(),
                kind,
                summary,
                drains,
                canary: trial.as_ref().map(|it| proto::Canary {
                    site: it.site.clone(),
                    before: it.before.generation,
                    up: it.up.iter().copied().collect(),
                }),
            },
            ids: &ids,
            retired: &retired,
        };
        // What another controller did since is not undone unseen.
        let known = before.map_or(in_force, |before| before.generation);
        let generation = store.save(known, &change)?;
        let Revision { text, drains, .. } = change.revision;
        let mut mesh = Mesh::new(generation, text, spec, ids);
        (mesh.retired, mesh.drains, mesh.keys) = (retired, drains, store.keys()?);
        mesh.trial = trial.map(Arc::new);
        let reply = reply(&mesh, false);
        info!(
            "generation {generation} by {operator}: {} sites, {} gateways, {} tunnels",
            reply.sites, reply.gateways, reply.tunnels
        );
        self.put_in_force(mesh);
        Ok(reply)
    }

    pub(super) fn put_in_force(&self, mesh: Mesh) {
        let mesh = Arc::new(mesh);
        self.unmade.store(false, Ordering::Relaxed);
        self.steps.push(mesh.clone());
        self.mesh.send_replace(Some(mesh));
    }

    /// Drains what is named, or lets traffic come back to it: a generation of its own, with the same
    /// specification. `None` without a mesh. Blocks on the disk.
    pub fn drain(
        &self,
        operator: &str,
        drain: Drain,
        undo: bool,
    ) -> Result<Option<proto::DrainReply>, ApplyError> {
        let mut store = lock(&self.store);
        self.refresh(&store)?;
        let before = self.mesh.borrow().clone();
        refuse_in_trial(before.as_deref())?;
        let (Some(before), Some(revision)) = (before, store.current()?) else {
            return Ok(None);
        };
        let mut mesh = before.as_ref().clone();
        match undo {
            true => mesh.drains.remove(&drain),
            false => mesh.drains.insert(drain.clone()),
        };
        // What was asked for may have left the mesh meanwhile.
        mesh.drains = staying(mesh.drains, &mesh.spec);
        let changed = mesh.drains != before.drains;
        if changed {
            let change = Change {
                revision: Revision {
                    operator: operator.to_owned(),
                    at: SystemTime::now(),
                    kind: if undo { Kind::Undrain } else { Kind::Drain },
                    summary: drain.to_string(),
                    drains: mesh.drains.clone(),
                    ..revision
                },
                ids: &mesh.ids,
                retired: &mesh.retired,
            };
            mesh.generation = store.save(before.generation, &change)?;
            let Revision { kind, summary, .. } = &change.revision;
            info!(
                "generation {} by {operator}: {kind} {summary}",
                mesh.generation
            );
        }
        let reply = proto::DrainReply {
            generation: mesh.generation,
            unchanged: !changed,
        };
        if changed {
            self.put_in_force(mesh);
        }
        Ok(Some(reply))
    }

    /// Knows from now on who was revoked; the mesh is made anew after.
    pub(super) fn admit(&self, admissions: Admissions) {
        let same = {
            let known = self.admissions.borrow();
            known.gateways().eq(admissions.gateways())
        };
        // No person is in the mesh.
        if !same {
            self.unmade.store(true, Ordering::Relaxed);
        }
        self.admissions.send_replace(Arc::new(admissions));
    }

    pub(super) fn has(&self, gateway: &str) -> bool {
        let mesh = self.mesh.borrow();
        mesh.as_ref()
            .is_some_and(|mesh| mesh.gateway(gateway).is_some())
    }

    /// Notes what a gateway of the mesh reports; others are nobody's business.
    pub fn report(&self, gateway: &str, status: proto::Status) {
        if self.has(gateway) {
            self.reports.put(gateway, status);
            self.heard.whole(gateway);
        }
    }

    /// Notes what has changed since; `false` where nothing was reported before.
    pub fn report_change(&self, gateway: &str, change: proto::StatusChange) -> bool {
        if !self.has(gateway) {
            return true;
        }
        let copy = self.heard.wanted().then(|| change.clone());
        let changed = self.reports.change(gateway, change, None);
        match copy {
            _ if !changed => {}
            Some(change) => self.heard.change(gateway, change),
            // Whoever came to listen meanwhile may have seen it without.
            None => self.heard.whole(gateway),
        }
        changed
    }

    /// Notes a gateway's key for WireGuard; [`State::tell_keys`] passes it on.
    pub fn key(&self, gateway: &str, key: PublicKey) {
        let mesh = self.mesh.borrow().clone();
        let known = mesh.as_ref().and_then(|mesh| mesh.keys.get(gateway));
        let mut told = lock(&self.told);
        if known == Some(&key) {
            told.remove(gateway);
        } else {
            told.insert(gateway.to_owned(), key);
        }
    }

    /// Brings the keys that were told to disk, and then to the gateways' peers: all of a while at once, as
    /// in a new mesh every gateway tells one. Blocks on the disk.
    pub fn tell_keys(&self) -> Result<(), StoreError> {
        // Nobody applies a specification meanwhile.
        let mut store = lock(&self.store);
        let told = lock(&self.told).clone();
        if told.is_empty() {
            return Ok(());
        }
        self.refresh(&store)?;
        let mut good = told.clone();
        let admissions = self.admissions.borrow().clone();
        // At another controller, maybe, while this one was told.
        good.retain(|gateway, _| !admissions.of(Role::Gateway, gateway).revoked);
        store.save_keys(&good)?;
        // One that was told since is other than this, and stays for the next time.
        lock(&self.told).retain(|gateway, key| told.get(gateway) != Some(key));
        self.mesh.send_if_modified(|mesh| {
            let Some(mesh) = mesh.as_mut() else {
                return false;
            };
            Arc::make_mut(mesh).keys.extend(good);
            let matters = mesh.spec.has(TunnelKind::WireGuard);
            if matters {
                self.steps.push(mesh.clone());
            }
            matters
        });
        Ok(())
    }

    /// The last report of every gateway.
    pub fn reports(&self) -> Reports {
        self.reports.all()
    }

    /// The last report of one.
    pub fn last_report(&self, gateway: &str) -> Option<Report> {
        self.reports.one(gateway)
    }

    /// Brings reports to disk: some, or `all` that are not there. Blocks on it.
    pub fn flush(&self, all: bool) -> Result<(), StoreError> {
        // Those who stand beside it know them too.
        if self.others.is_some() {
            return Ok(());
        }
        loop {
            let due = self.reports.due(all);
            if due.is_empty() {
                return Ok(());
            }
            let saved = lock(&self.store).save_reports(&due);
            if saved.is_err() {
                self.reports.failed(&due);
            }
            if saved.is_err() || !all {
                return saved;
            }
        }
    }
}

/// A generation to be.
pub(super) struct New<'n> {
    pub(super) operator: &'n str,
    pub(super) kind: Kind,
    pub(super) summary: String,
    pub(super) file: &'n str,
    pub(super) text: &'n str,
    pub(super) spec: MeshSpec,
    pub(super) trial: Option<Trial>,
}

/// What is tried at one site is not to be mixed with something else.
pub(super) fn refuse_in_trial(mesh: Option<&Mesh>) -> Result<(), ApplyError> {
    let Some((mesh, trial)) = mesh.and_then(|mesh| Some((mesh, mesh.trial.as_ref()?))) else {
        return Ok(());
    };
    Err(ApplyError::Canary(format!(
        "nothing was changed: site {} tries generation {}: wait for its end (meshctl history), or end it: meshctl rollback {}",
        trial.site, mesh.generation, trial.before.generation
    )))
}

/// The mesh as it was kept. One that this version does not accept is left alone, and agents keep
/// what they run until an operator applies another.
pub(super) fn load(store: &Store) -> Result<Option<Mesh>, StoreError> {
    let Some(revision) = store.current()? else {
        return Ok(None);
    };
    let generation = revision.generation;
    let (ids, keys, admissions) = (store.ids()?, store.keys()?, store.admissions()?);
    let trial = match &revision.canary {
        Some(canary) => canary::kept(store, &ids, &keys, canary)?.map(Arc::new),
        None => None,
    };
    if trial.is_none() && revision.canary.is_some() {
        error!(
            "generation {generation} is tried at one site, and the one before is not accepted by this version; agents keep what they run until another is applied"
        );
        return Ok(None);
    }
    match of_revision(&ids, &keys, &admissions, &revision) {
        Ok(mut mesh) => {
            (mesh.retired, mesh.trial) = (store.retired()?, trial);
            Ok(Some(mesh))
        }
        Err(errors) => {
            error!(
                "generation {generation} is not accepted by this version; agents keep what they run until another is applied:\n{errors}"
            );
            Ok(None)
        }
    }
}

fn reply(mesh: &Mesh, unchanged: bool) -> proto::ApplyReply {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    proto::ApplyReply {
        generation: mesh.generation,
        unchanged,
        sites: count(mesh.spec.sites.len()),
        gateways: count(mesh.spec.gateways().count()),
        tunnels: u32::try_from(tunnel_count(&mesh.spec)).unwrap_or(u32::MAX),
    }
}
