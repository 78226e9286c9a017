//! From one store to another.

use super::{Change, Store, StoreError};
use crate::admission::Admission;
use crate::ids::Ids;
use crate::mesh::Retired;
use std::time::{SystemTime, UNIX_EPOCH};

/// Copies everything but reports, which agents repeat, into a store that has nothing. Returns the
/// generation in force. `said` is told of every generation that is copied, and how many there are.
pub fn migrate(
    from: &Store,
    to: &mut Store,
    mut said: impl FnMut(usize, usize),
) -> Result<u64, StoreError> {
    let mut running = from.controllers()?;
    running.extend(to.controllers()?);
    if !running.is_empty() {
        let running: Vec<String> = running.into_iter().collect();
        return Err(StoreError::Running(running.join(", ")));
    }
    let found = to.generation()?;
    let empty = to.tokens()?.is_empty()
        && to.admissions()?.iter().next().is_none()
        && to.keys()?.is_empty()
        && to.deeds(1)?.is_empty();
    if found > 0 || !empty {
        return Err(StoreError::NotEmpty { found });
    }
    // Whoever is revoked loses tokens and key at that moment: they come after.
    for (kind, name, admission) in from.admissions()?.iter() {
        to.save_admission(kind.into(), name, Admission::default(), admission, None)?;
    }
    for token in from.tokens()? {
        // None is forgotten for its age.
        to.add_token(&token, UNIX_EPOCH.max(token.expires.min(SystemTime::now())))?;
    }
    to.save_keys(&from.keys()?)?;
    for deed in from.deeds(u32::MAX)?.iter().rev() {
        to.note(deed)?;
    }
    let (ids, retired) = (from.ids()?, from.retired()?);
    let history = from.history(u32::MAX)?;
    for (before, it) in history.iter().rev().enumerate() {
        let last = before + 1 == history.len();
        let generation = it.generation;
        let Some(revision) = from.revision(generation)? else {
            return Err(StoreError::NotWhole { generation });
        };
        // Ids and who left are of all generations together.
        let (none, nobody) = (Ids::default(), Retired::new());
        to.import(&Change {
            revision,
            ids: if last { &ids } else { &none },
            retired: if last { &retired } else { &nobody },
        })?;
        said(before + 1, history.len());
    }
    to.generation()
}
