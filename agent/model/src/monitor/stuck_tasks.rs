//! Tasks that wait for a disk and cannot be killed. Facts: catalogue F20.
//!
//! The kernel warns of ten and is silent then, so we look ourselves: the same task in state D, sweep after sweep.

use std::time::Duration;

use super::{Class, Fault, Monitor, Outcome, Reading, Seen, Signal, Subsystem, degrading, seconds, signal};

/// What the kernel's own detector takes for hung. Source: `hung_task_timeout_secs`.
const HUNG: Duration = seconds(120);

static FAULT: Fault = Fault {
    explained_by: &["DiskStalled", "RootFilesystemFailing", "DataFilesystemFailing", "StreamedDeviceStalled"],
    ..degrading(
        "TaskHung",
        Subsystem::Kernel,
        "A task has been waiting in the kernel for more than two minutes and cannot be killed.",
        "`cat /proc/PID/stack` shows where; most often a disk or a network file system.",
    )
};

static STATE: Signal = signal("tasks.stuck", &FAULT, Class::Kernel, (2, 2), seconds(20), 2);

pub(super) const MONITOR: Monitor = Monitor { signals: &[&STATE], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    let Some(tasks) = &seen.now.stuck_tasks else { return };
    let hung = tasks.iter().find(|(_, time)| *time >= HUNG);
    let outcome =
        hung.map_or(Outcome::Good, |(name, _)| Outcome::Bad(format!("{name} in state D for more than 120 s")));
    readings.push(Reading { signal: &STATE, target: String::new(), outcome });
}
