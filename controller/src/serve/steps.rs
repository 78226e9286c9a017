//! The last generations and the steps between them, so that an agent that has an earlier one is told
//! only what it lacks.

use super::state::lock;
use crate::mesh::Mesh;
use crate::step::Step;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// So many generations are remembered. An agent that was away for longer gets its config whole.
const REMEMBERED: usize = 16;

/// Meshes as they followed each other, by a count of their own: in one generation, gateways may tell keys.
#[derive(Debug, Default)]
pub(super) struct Steps(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The count of the mesh to come.
    next: u64,
    /// In order, the latest at the end.
    meshes: VecDeque<(u64, Arc<Mesh>)>,
    /// To the latest, each made when it is first asked for.
    to_latest: Vec<(u64, Arc<Step>)>,
}

/// What an agent is to be told of.
pub(super) struct Latest {
    /// Its count.
    pub(super) count: u64,
    pub(super) mesh: Arc<Mesh>,
    /// What the agent has, and what has changed since, if that is still known.
    pub(super) since: Option<(Arc<Mesh>, Arc<Step>)>,
}

impl Steps {
    pub(super) fn push(&self, mesh: Arc<Mesh>) {
        let mut inner = lock(&self.0);
        inner.to_latest.clear();
        let count = inner.next;
        inner.next += 1;
        inner.meshes.push_back((count, mesh));
        while inner.meshes.len() > REMEMBERED {
            inner.meshes.pop_front();
        }
    }

    /// None of them is in force any more.
    pub(super) fn forget(&self) {
        let mut inner = lock(&self.0);
        inner.meshes.clear();
        inner.to_latest.clear();
    }

    /// The last mesh of a generation, if that is still known.
    pub(super) fn find(&self, generation: u64) -> Option<(u64, Arc<Mesh>)> {
        let inner = lock(&self.0);
        let mut latest_first = inner.meshes.iter().rev();
        let found = latest_first.find(|(_, mesh)| mesh.generation == generation);
        found.cloned()
    }

    /// The latest mesh, for an agent that has the one of this count.
    pub(super) fn latest(&self, has: Option<u64>) -> Option<Latest> {
        let mut inner = lock(&self.0);
        let (count, mesh) = inner.meshes.back()?.clone();
        let before = inner.meshes.iter().find(|(it, _)| Some(*it) == has);
        let before = before.cloned();
        let since = before.map(|(has, before)| {
            let made = inner.to_latest.iter().find(|(it, _)| *it == has);
            let step = match made {
                Some((_, step)) => step.clone(),
                None => {
                    let step = Arc::new(Step::new(&before, &mesh));
                    inner.to_latest.push((has, step.clone()));
                    step
                }
            };
            (before, step)
        });
        Some(Latest { count, mesh, since })
    }
}
