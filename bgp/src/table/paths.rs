//! Paths: twelve bytes each, those of a prefix linked one to the next.

use super::slab::NONE;

/// One path of a prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathRecord {
    /// The next path of the prefix; in a free place: the next one.
    pub(crate) next: u32,
    /// What its peer offers it with; `NONE` in a free place.
    pub(crate) offer: u32,
    /// The path identifier that its peer gave it (RFC 7911); 0 where there is none.
    pub(crate) id: u32,
}

#[derive(Debug)]
pub(crate) struct Paths {
    records: Vec<PathRecord>,
    free: u32,
    used: usize,
}

impl Paths {
    pub(crate) fn new() -> Self {
        Self {
            records: Vec::new(),
            free: NONE,
            used: 0,
        }
    }

    /// Adds a path in front of those that begin with `next`.
    pub(crate) fn add(&mut self, path: PathRecord) -> u32 {
        self.used += 1;
        match self.records.get_mut(self.free as usize) {
            Some(place) => {
                let at = std::mem::replace(&mut self.free, place.next);
                *place = path;
                at
            }
            None => {
                let at = u32::try_from(self.records.len()).unwrap_or(NONE);
                self.records.push(path);
                at
            }
        }
    }

    pub(crate) fn get(&self, at: u32) -> Option<&PathRecord> {
        self.records.get(at as usize)
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut PathRecord> {
        self.records.get_mut(at as usize)
    }

    /// The paths that begin with `first`, by number.
    pub(crate) fn list(&self, first: u32) -> impl Iterator<Item = (u32, PathRecord)> {
        let mut next = first;
        std::iter::from_fn(move || {
            let (at, path) = (next, *self.get(next)?);
            next = path.next;
            Some((at, path))
        })
    }

    /// Takes a path out of the list that begins with `first`, and returns the new beginning.
    pub(crate) fn unlink(&mut self, first: u32, at: u32) -> u32 {
        let Some(next) = self.get(at).map(|it| it.next) else {
            return first;
        };
        if first == at {
            return next;
        }
        let before = self.list(first).find(|(_, it)| it.next == at);
        if let Some((before, _)) = before
            && let Some(before) = self.get_mut(before)
        {
            before.next = next;
        }
        first
    }

    /// Frees a path that is in no list.
    pub(crate) fn free(&mut self, at: u32) {
        let next = self.free;
        if let Some(place) = self.get_mut(at) {
            *place = PathRecord {
                next,
                offer: NONE,
                id: 0,
            };
            self.free = at;
            self.used -= 1;
        }
        if self.used == 0 {
            *self = Self::new();
        }
    }
}
