//! Memory that is not needed goes back to the system: a gateway is small beside what else its host
//! does, and a table of a hundred thousand routes leaves much behind while it arrives.

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
