//! Values known by small numbers, which are used again.

/// The number of nothing.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Slab<T> {
    values: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(at) = self.free.pop()
            && let Some(place) = self.values.get_mut(at as usize)
        {
            *place = Some(value);
            return at;
        }
        let at = u32::try_from(self.values.len()).unwrap_or(NONE);
        self.values.push(Some(value));
        at
    }

    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        self.values.get(at as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.values.get_mut(at as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, at: u32) -> Option<T> {
        let value = self.values.get_mut(at as usize)?.take();
        if value.is_some() {
            self.free.push(at);
        }
        if self.free.len() == self.values.len() {
            // What a peer blew up is given back.
            *self = Self::default();
        }
        value
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let values = (0..).zip(&self.values);
        values.filter_map(|(at, value)| Some((at, value.as_ref()?)))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }
}
