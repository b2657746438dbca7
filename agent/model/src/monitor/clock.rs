//! A clock that is wrong, by the clocks of others. Facts: catalogue F28.
//!
//! The host's clock comes with every answer of IMDS and the cluster's with every answer of the API server, to the second. That a clock
//! *is* wrong matters; whether a daemon says that it disciplines it does not.

use super::{Class, Fault, Monitor, Outcome, Reading, Seen, Signal, Subsystem, degrading, seconds, signal};

/// More than the second's resolution and the way of an answer explain.
const SKEWED_SECONDS: u64 = 5;

static SKEWED: Fault = degrading(
    "ClockSkewed",
    Subsystem::Time,
    "This machine's clock is more than five seconds from another one's; certificates and leases depend on it.",
    "`chronyc tracking` or `timedatectl timesync-status`; start the time service.",
);

static OFFSET: Signal = signal("clock.offset", &SKEWED, Class::Probe, (3, 3), seconds(20), 3);

pub(super) const MONITOR: Monitor = Monitor { signals: &[&OFFSET], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    for (other, ahead) in &seen.now.clock_ahead_seconds {
        let outcome = if ahead.unsigned_abs() <= SKEWED_SECONDS {
            Outcome::Good
        } else {
            let direction = if *ahead > 0 { "ahead of" } else { "behind" };
            Outcome::Bad(format!("more than {SKEWED_SECONDS} s {direction} the clock of {other}"))
        };
        readings.push(Reading { signal: &OFFSET, target: other.clone(), outcome });
    }
}
