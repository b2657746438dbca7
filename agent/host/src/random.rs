//! Randomness for what must not happen everywhere at the same moment.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// A time from zero up to this one, each as likely.
pub fn up_to(most: Duration) -> Duration {
    // Clocks of machines that lost their server together tell the same time; the keys of a hasher are the kernel's random numbers.
    let share = RandomState::new().build_hasher().finish() % 1000;
    most.mul_f64(share as f64 / 1000.0)
}

/// A time, give or take this part of it (0 to 1).
pub fn about(time: Duration, part: f64) -> Duration {
    time.mul_f64(1.0 - part) + up_to(time.mul_f64(2.0 * part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spread_over_all_that_is_allowed() {
        let second = Duration::from_secs(1);
        let times: Vec<_> = (0..1000).map(|_| about(second, 0.5)).collect();
        assert!(times.iter().all(|time| (second / 2..second * 3 / 2).contains(time)));
        for tenth in 5..15 {
            let is_in = |time: &&Duration| (second * tenth / 10..second * (tenth + 1) / 10).contains(*time);
            assert!((50..200).contains(&times.iter().filter(is_in).count()), "{tenth}: {times:?}");
        }
    }
}
