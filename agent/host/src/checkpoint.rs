//! Places where a test may kill this process, to see what the next run makes of the rest.
//!
//! Without the `crash-points` feature there is nothing here.

/// A place between two system calls.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn pass(_name: &str) {}

#[cfg(feature = "crash-points")]
pub(crate) use armed::pass;
#[cfg(feature = "crash-points")]
pub use armed::{abort_at, passed};

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::atomic::{AtomicUsize, Ordering};

    static PASSED: AtomicUsize = AtomicUsize::new(0);
    static ABORT_AT: AtomicUsize = AtomicUsize::new(usize::MAX);

    pub(crate) fn pass(_name: &str) {
        if PASSED.fetch_add(1, Ordering::SeqCst) == ABORT_AT.load(Ordering::SeqCst) {
            // No destructor, no flush: as close to kill -9 as a process comes by itself.
            std::process::abort();
        }
    }

    /// Aborts the process when it passes the checkpoint with this number, counted from 0.
    pub fn abort_at(number: usize) {
        ABORT_AT.store(number, Ordering::SeqCst);
    }

    /// How many checkpoints were passed so far.
    pub fn passed() -> usize {
        PASSED.load(Ordering::SeqCst)
    }
}
