//! What was, what would be, and how to get back.

use super::state::{ApplyError, New, State, lock};
use crate::admission::Admissions;
use crate::ids;
use crate::mesh::{Keys, Mesh};
use crate::plan::{plan, summary};
use crate::spec::{self, SpecErrors, redact};
use crate::store::{Backup, Kind, Revision, Store, StoreError};
use routemesh_proto as proto;
use std::fmt;
use std::time::SystemTime;
use time::OffsetDateTime;

/// Of the changes in between, so many are told.
const TOLD: usize = 5;

/// A change was planned against a generation that is not in force any more. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub struct Moved {
    expected: u64,
    found: u64,
    /// What came after the one that was expected, the newest first, as far as it is kept.
    since: Vec<Revision>,
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            expected,
            found,
            since,
        } = self;
        match (expected, found) {
            (_, 0) => {
                return write!(
                    f,
                    "nothing was changed: there is no generation {expected}, as there is no mesh yet"
                );
            }
            (0, _) => write!(
                f,
                "nothing was changed: there is a mesh already, generation {found}"
            )?,
            _ => write!(
                f,
                "nothing was changed: generation {found} is in force, not {expected}"
            )?,
        }
        for it in since.iter().take(TOLD) {
            write!(
                f,
                "\n  {} by {} at {}: {} ({})",
                it.generation,
                it.operator,
                utc(it.at),
                it.kind,
                it.summary
            )?;
        }
        if since.len() > TOLD {
            write!(f, "\n  and {} before these", since.len() - TOLD)?;
        }
        match expected {
            0 => {
                f.write_str("\nlook at it (meshctl topology, meshctl plan FILE), then apply again")
            }
            _ => write!(
                f,
                "\nsee what they changed (meshctl diff {expected} {found}), take it into your file, then apply again"
            ),
        }
    }
}

/// Whether the generation in force is the one that a change was made for.
pub(super) fn expect(store: &Store, expected: Option<u64>) -> Result<(), ApplyError> {
    let Some(expected) = expected else {
        return Ok(());
    };
    let found = store.generation()?;
    if found == expected {
        return Ok(());
    }
    let mut since = store.history(crate::store::KEPT)?;
    since.retain(|it| it.generation > expected);
    Err(ApplyError::Moved(Moved {
        expected,
        found,
        since,
    }))
}

impl State {
    /// What a specification would change.
    pub fn plan(&self, file: &str, text: &str) -> Result<proto::Plan, ApplyError> {
        let spec = spec::parse(file, text)?;
        let before = self.mesh.borrow().clone();
        let (ids, generation, drains) = match &before {
            Some(mesh) => (
                mesh.ids.as_ref().clone(),
                mesh.generation,
                mesh.drains.clone(),
            ),
            // One that this version does not accept is in no mesh, and in force all the same.
            None => {
                let store = lock(&self.store);
                let (generation, drains) = store
                    .current()?
                    .map_or_else(Default::default, |it| (it.generation, it.drains));
                (store.ids()?, generation, drains)
            }
        };
        let ids = ids::assign(&ids, &spec).map_err(|errors| SpecErrors::new(file, errors))?;
        let spec = spec.admitted(&self.admissions.borrow());
        let drains = crate::drain::staying(drains, &spec);
        let mut after = Mesh::new(0, text.into(), spec, ids);
        (after.drains, after.keys) = (drains, self.keys());
        Ok(proto::Plan {
            generation,
            ..plan(before.as_deref(), &after)
        })
    }

    /// What changed from one generation to another.
    pub fn diff(&self, from: u64, to: u64) -> Result<proto::Diff, ApplyError> {
        let (ids, old, new) = {
            let store = lock(&self.store);
            let kept = |generation| {
                store
                    .revision(generation)?
                    .ok_or(ApplyError::Gone(generation))
            };
            let mesh = self.mesh.borrow().clone();
            let ids = match mesh {
                Some(mesh) => mesh.ids.as_ref().clone(),
                None => store.ids()?,
            };
            (ids, kept(from)?, kept(to)?)
        };
        // What this version does not accept has no plan.
        let keys = self.keys();
        let admissions = self.admissions.borrow().clone();
        let mesh = |revision: &Revision| of_revision(&ids, &keys, &admissions, revision).ok();
        let plan = mesh(&new).map(|after| plan(mesh(&old).as_ref(), &after));
        Ok(proto::Diff {
            from_text: redact(old.text.expose()),
            to_text: redact(new.text.expose()),
            from: Some(shown(old)),
            to: Some(shown(new)),
            plan,
        })
    }

    /// The newest generations; 0 for all that are kept.
    pub fn history(&self, limit: u32) -> Result<proto::History, StoreError> {
        let limit = if limit == 0 { u32::MAX } else { limit };
        let revisions = lock(&self.store).history(limit)?;
        Ok(proto::History {
            revisions: revisions.into_iter().map(shown).collect(),
        })
    }

    /// Puts an earlier specification in force again, as a generation of its own. What is drained stays so.
    pub fn rollback(
        &self,
        operator: &str,
        generation: u64,
        expected: Option<u64>,
    ) -> Result<proto::ApplyReply, ApplyError> {
        let mut store = lock(&self.store);
        self.refresh(&store)?;
        expect(&store, expected)?;
        let revision = store.revision(generation)?;
        let Revision { file, text, .. } = revision.ok_or(ApplyError::Gone(generation))?;
        let spec = spec::parse(&file, text.expose())?;
        let spec = spec.admitted(&self.admissions.borrow());
        let said = summary(self.mesh.borrow().as_ref().map(|mesh| &*mesh.spec), &spec);
        let said = format!("to generation {generation}: {said}");
        let new = New {
            operator,
            kind: Kind::Rollback,
            summary: said,
            file: &file,
            text: text.expose(),
            spec,
            trial: None,
        };
        self.replace(&mut store, new)
    }

    fn keys(&self) -> Keys {
        let mesh = self.mesh.borrow();
        mesh.as_ref()
            .map(|mesh| mesh.keys.clone())
            .unwrap_or_default()
    }

    /// Whence the database can be copied.
    pub fn backup(&self) -> Result<Backup, ApplyError> {
        lock(&self.store).backup().ok_or(ApplyError::NoBackup)
    }
}

pub(super) fn of_revision(
    ids: &ids::Ids,
    keys: &Keys,
    admissions: &Admissions,
    revision: &Revision,
) -> Result<Mesh, SpecErrors> {
    let Revision { file, text, .. } = revision;
    let spec = spec::parse(file, text.expose())?;
    let ids = ids::assign(ids, &spec).map_err(|errors| SpecErrors::new(file, errors))?;
    let spec = spec.admitted(admissions);
    let mut mesh = Mesh::new(revision.generation, text.clone(), spec, ids);
    (mesh.drains, mesh.keys) = (revision.drains.clone(), keys.clone());
    Ok(mesh)
}

fn shown(revision: Revision) -> proto::Revision {
    proto::Revision {
        generation: revision.generation,
        at: utc(revision.at),
        operator: revision.operator,
        kind: revision.kind.to_string(),
        summary: revision.summary,
        file: revision.file,
    }
}

/// A time as RFC 3339 has it, to the second.
pub(super) fn utc(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}
