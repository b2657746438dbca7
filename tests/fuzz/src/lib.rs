//! The promises of nap-model, under a limit of memory. libFuzzer limits the time.

use std::alloc::System;

use cap::Cap;

mod promises;

/// Most memory that one input may take, in bytes, whatever it opens to.
const MAX_BYTES: usize = 64 * 1024 * 1024;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// Tries one input.
///
/// # Panics
/// When a promise is broken. Too much memory ends the process, as libFuzzer takes any other crash.
pub fn run(target: &str, input: &[u8]) {
    let limited = MEMORY.set_limit(MEMORY.allocated() + MAX_BYTES);
    limited.expect("the limit is above what is allocated");
    promises::hold(target, input);
    MEMORY.set_limit(usize::MAX).expect("nothing is above no limit");
}
