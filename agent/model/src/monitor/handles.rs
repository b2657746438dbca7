//! No more open files, machine-wide. Facts: catalogue F31.

use super::{Class, Fault, Monitor, Reading, Seen, Signal, Subsystem, degrading, nearly_used, seconds, signal};

static EXHAUSTED: Fault = degrading(
    "FileHandlesExhausted",
    Subsystem::Kernel,
    "Nearly all open files that the kernel allows are open.",
    "Find the process: `ls /proc/*/fd | wc -l` by process, most often a leak.",
);

static USED: Signal = signal("files.open", &EXHAUSTED, Class::Counter, (3, 3), seconds(20), 3);

pub(super) const MONITOR: Monitor = Monitor { signals: &[&USED], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    if let Some(outcome) = nearly_used(seen, "files", "open files") {
        readings.push(Reading { signal: &USED, target: String::new(), outcome });
    }
}
