//! Memory that is not needed goes back to the system: a gateway is small beside what else its host
//! does, and a table of a hundred thousand routes leaves much behind while it arrives.

use std::time::{Duration, Instant};

/// Sets the allocator up. Called once, before there are threads.
pub fn frugal() {
    #[cfg(target_env = "gnu")]
    // SAFETY: they set two numbers, and no other thread is there yet.
    unsafe {
        // One heap for all threads but two: what one frees serves another.
        libc::mallopt(libc::M_ARENA_MAX, 2);
        // What is large stays outside of them, whatever was freed before.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 * 1024);
    }
}

/// Work on so many prefixes leaves enough behind.
const MUCH: usize = 10_000;
/// Without work for so long, it has come to an end. To give memory back takes milliseconds in which nobody
/// gets any, and right after much work a peer may be lost as well as at any other time.
const REST: Duration = Duration::from_secs(1);

/// What work on prefixes has left behind.
#[derive(Debug, Default)]
pub struct Litter {
    prefixes: usize,
    last: Option<Instant>,
}

impl Litter {
    /// So many prefixes were worked on.
    pub fn add(&mut self, prefixes: usize, now: Instant) {
        self.prefixes += prefixes;
        self.last = Some(now);
    }

    /// When memory is to be given back, if at all.
    pub fn due(&self) -> Option<Instant> {
        let last = self.last.filter(|_| self.prefixes >= MUCH)?;
        Some(last + REST)
    }
}

/// Gives back what is free.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it has no precondition, and what is in use stays where it is.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(target_env = "gnu")]
use nix::libc;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_after_much_work_and_a_rest() {
        let (mut litter, now) = (Litter::default(), Instant::now());
        assert_eq!(litter.due(), None);
        litter.add(MUCH - 1, now);
        assert_eq!(litter.due(), None);
        litter.add(1, now + REST);
        assert_eq!(litter.due(), Some(now + REST + REST));
        litter.add(1, now + REST * 2);
        assert_eq!(litter.due(), Some(now + REST * 3));
    }
}
