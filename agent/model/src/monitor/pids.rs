//! No more processes. Facts: catalogue F29. Who runs out cannot start the tools to find out, so we start nothing but a thread, and name the
//! cgroup that has most of them. To end it is its owner's: kubelet evicts pods when `evictionHard` has `pid.available`, systemd keeps units to
//! `TasksMax=`, and which of a pod's processes is one too many nobody else knows.

use super::{
    Class, Fault, Monitor, Outcome, Reading, Scope, Seen, Signal, Subsystem, Verdict, minutes, nearly_used, seconds,
    signal,
};

static EXHAUSTED: Fault = Fault {
    reason: "PidsExhausted",
    subsystem: Subsystem::Kernel,
    worst: Verdict::NeedsReboot,
    scope: Scope::Local,
    persist: minutes(10),
    explained_by: &[],
    meaning: "The machine cannot start processes or threads any more.",
    hint: "The evidence names the cgroup that has the most; end or limit what it belongs to. `podPidsLimit` and `evictionHard` keep pods from it.",
};

static USED: Signal = signal("tasks.used", &EXHAUSTED, Class::Counter, (3, 3), seconds(10), 3);
static CANARY: Signal = signal("thread.start", &EXHAUSTED, Class::Probe, (3, 3), seconds(10), 3);

pub(super) const MONITOR: Monitor = Monitor { signals: &[&USED, &CANARY], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    let mut say = |signal, outcome| readings.push(Reading { signal, target: String::new(), outcome });
    if let Some(outcome) = nearly_used(seen, "tasks", "tasks") {
        let by = seen.now.busiest_cgroup.as_ref().map(|(cgroup, count)| format!(", {count} of them in {cgroup}"));
        say(
            &USED,
            match outcome {
                Outcome::Bad(what) => Outcome::Bad(what + &by.unwrap_or_default()),
                good => good,
            },
        );
    }
    if let Some(canary) = &seen.now.canary {
        say(
            &CANARY,
            match canary {
                Ok(()) => Outcome::Good,
                Err(why) => Outcome::Bad(format!("a thread cannot be started: {why}")),
            },
        );
    }
}
