//! Memory: the machine stands still for it, or the kernel killed a system service for it. Facts: catalogue F40, F43.
//!
//! What is killed in a pod's own limit is the workload's affair and no fault of the node: only kills below `system.slice` count, from
//! its cgroup's counter and not from the log.

use std::time::Duration;

use super::{
    Class, Fault, Monitor, Outcome, Reading, Seen, Signal, Subsystem, at_least, degrading, minutes, seconds, signal,
};

const KILLS_WINDOW: Duration = minutes(30);

static STALLED: Fault = degrading(
    "MemoryStalled",
    Subsystem::Kernel,
    "All tasks wait for memory most of the time.",
    "/proc/pressure/memory, and `systemd-cgtop -m` for who uses it.",
);
static KILLED: Fault = degrading(
    "SystemOom",
    Subsystem::Kernel,
    "The kernel killed a system service because memory ran out.",
    "`journalctl -k | grep 'Killed process'`; reserve more with kubelet's systemReserved or kubeReserved.",
);

static PRESSURE: Signal = signal("memory.pressure", &STALLED, Class::Kernel, (5, 6), seconds(10), 5);
static KILLS: Signal = signal("system.oom.kills", &KILLED, Class::Counter, (1, 1), seconds(10), 3);

pub(super) const MONITOR: Monitor = Monitor { signals: &[&PRESSURE, &KILLS], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    let mut say = |signal, outcome| readings.push(Reading { signal, target: String::new(), outcome });
    if let Some(pressure) = seen.now.pressure
        && let Some(outcome) =
            at_least(pressure.memory_full, 50.0, || "all tasks wait more than half of the time".to_owned())
    {
        say(&PRESSURE, outcome);
    }
    if seen.now.counters.contains_key("oom.kills/system.slice")
        && let Some(kills) = seen.history.growth("oom.kills/system.slice", KILLS_WINDOW)
    {
        say(&KILLS, if kills == 0 { Outcome::Good } else { Outcome::Bad("oom_kill of system.slice grew".to_owned()) });
    }
}
