//! Randomness for what must not happen everywhere at the same moment.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

/// A time from zero up to this one, each as likely.
pub fn up_to(most: Duration) -> Duration {
    let mut bytes = [0; 8];
    // Clocks of machines that lost their server together tell the same time; the kernel's random numbers do not. It never runs out.
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    let share = match read {
        Ok(()) => u64::from_ne_bytes(bytes) % 1000,
        Err(_) => u64::from(std::process::id()) % 1000,
    };
    most.mul_f64(share as f64 / 1000.0)
}
