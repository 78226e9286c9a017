//! A specification tried at one site: how it begins, is looked after, and ends.

use super::history::{expect, of_revision};
use super::state::{ApplyError, New, State, lock, refuse_in_trial};
use crate::canary::{Progress, Trial, Verdict, fault, objection};
use crate::ids::Ids;
use crate::mesh::{Keys, Mesh};
use crate::plan::summary;
use crate::spec;
use crate::store::{Kind, Revision, Store, StoreError};
use crate::topology::{Wanted, topology, unheard, up};
use routemesh_proto as proto;
use std::time::Instant;
use tracing::info;

impl State {
    /// Puts a specification in force at one site, for the others to follow if all stays well. Blocks on
    /// the disk.
    pub fn try_at(
        &self,
        site: &str,
        operator: &str,
        (file, text): (&str, &str),
        expected: Option<u64>,
    ) -> Result<proto::ApplyReply, ApplyError> {
        let spec = spec::parse(file, text)?;
        let mut store = lock(&self.store);
        self.refresh(&store)?;
        expect(&store, expected)?;
        let before = self.mesh.borrow().clone();
        refuse_in_trial(before.as_deref())?;
        let Some(before) = before else {
            let none = "there is no mesh yet, and nothing to try it in: apply it without a canary";
            return Err(ApplyError::Canary(none.to_owned()));
        };
        let spec = spec.admitted(&self.admissions.borrow());
        if let Some(objection) = objection(&before.spec, &spec, site) {
            return Err(ApplyError::Canary(format!(
                "nothing was changed: {objection}"
            )));
        }
        let reports = self.reports();
        let silent = unheard(&before, &reports, site);
        if !silent.is_empty() {
            return Err(ApplyError::Canary(format!(
                "nothing was changed: what is well with site {site} is not known here, as there is no fresh report of {}:                  wait until they report (meshctl topology), or apply it without --canary",
                silent.into_iter().collect::<Vec<_>>().join(", ")
            )));
        }
        let trial = Trial {
            site: site.to_owned(),
            up: up(&before, &reports),
            before: before.as_ref().clone(),
        };
        let said = format!(
            "at site {site} first: {}",
            summary(Some(&before.spec), &spec)
        );
        let new = New {
            operator,
            kind: Kind::Canary,
            summary: said,
            file,
            text,
            spec,
            trial: Some(trial),
        };
        self.replace(&mut store, new)
    }

    /// Looks after a trial, if there is one: goes on, or back, or waits. Blocks on the disk.
    pub fn tend(&self, now: Instant) -> Result<(), ApplyError> {
        let mesh = self.mesh.borrow().clone();
        let Some((mesh, trial)) = mesh.as_ref().and_then(|it| Some((it, it.trial.as_ref()?)))
        else {
            *lock(&self.progress) = None;
            return Ok(());
        };
        let view = topology(mesh, &self.reports(), &Wanted::default());
        let fault = fault(trial, &view);
        let verdict = {
            let mut progress = lock(&self.progress);
            if progress
                .as_ref()
                .is_none_or(|it| it.generation != mesh.generation)
            {
                *progress = None;
            }
            let progress = progress.get_or_insert_with(|| Progress::new(mesh.generation, now));
            progress.judge(fault, now)
        };
        let (kind, generation, words) = match verdict {
            Verdict::Wait(_) => return Ok(()),
            Verdict::On => (
                Kind::Promote,
                mesh.generation,
                format!("all was well at site {}", trial.site),
            ),
            Verdict::Back(why) => (
                Kind::Rollback,
                trial.before.generation,
                format!("trial at site {}: {why}", trial.site),
            ),
        };
        let ended = self.end(mesh, kind, generation, words);
        match ended {
            // An operator has ended it meanwhile, or another controller, which looks after it too.
            Err(ApplyError::Moved(_) | ApplyError::Store(StoreError::Moved { .. })) => Ok(()),
            ended => ended,
        }
    }

    /// Ends a trial by putting the specification of a generation in force everywhere.
    fn end(
        &self,
        mesh: &Mesh,
        kind: Kind,
        generation: u64,
        words: String,
    ) -> Result<(), ApplyError> {
        let mut store = lock(&self.store);
        expect(&store, Some(mesh.generation))?;
        let operator = store.current()?.map(|it| it.operator).unwrap_or_default();
        let revision = store.revision(generation)?;
        let Revision { file, text, .. } = revision.ok_or(ApplyError::Gone(generation))?;
        let spec = spec::parse(&file, text.expose())?;
        info!("generation {}: {kind}: {words}", mesh.generation);
        let new = New {
            operator: &operator,
            kind,
            summary: words,
            file: &file,
            text: text.expose(),
            spec,
            trial: None,
        };
        self.replace(&mut store, new).map(drop)
    }

    /// How the trial of a generation stands, or ended.
    pub fn canary(&self, generation: u64) -> Result<proto::CanaryView, ApplyError> {
        let (state, reason) = {
            let store = lock(&self.store);
            let in_force = store.generation()?;
            let kept = store.revision(generation)?;
            let kept = kept.filter(|it| it.kind == Kind::Canary);
            kept.ok_or(ApplyError::Gone(generation))?;
            match in_force == generation {
                true => ("trying", String::new()),
                // Whatever ends a trial is the next generation.
                false => match store.revision(generation + 1)? {
                    Some(it) if it.kind == Kind::Promote => ("promoted", it.summary),
                    Some(it) => ("rolled back", it.summary),
                    None => return Err(ApplyError::Gone(generation + 1)),
                },
            }
        };
        let said = || lock(&self.progress).as_ref().map(|it| it.said.clone());
        let in_force = self.mesh.borrow().as_ref().map(|mesh| mesh.generation);
        Ok(proto::CanaryView {
            state: state.to_owned(),
            reason: match state {
                "trying" => said().unwrap_or_default(),
                _ => reason,
            },
            generation: in_force.unwrap_or_default(),
        })
    }
}

/// A trial as it was kept; `None` where the generation before is gone or not accepted any more.
pub(super) fn kept(
    store: &Store,
    ids: &Ids,
    keys: &Keys,
    canary: &proto::Canary,
) -> Result<Option<Trial>, StoreError> {
    let (before, admissions) = (store.revision(canary.before)?, store.admissions()?);
    let before: Option<Mesh> = before.and_then(|it| of_revision(ids, keys, &admissions, &it).ok());
    let Some(mut before) = before else {
        return Ok(None);
    };
    // Who had left before it. Who leaves with it is still there, and is not asked for here.
    before.retired = store.retired()?;
    Ok(Some(Trial {
        site: canary.site.clone(),
        before,
        up: canary.up.iter().copied().collect(),
    }))
}
