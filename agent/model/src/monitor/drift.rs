//! What the guard cannot put back: another writer changes it, the machine refuses, or it would do harm.

use super::{
    Class, Fault, Monitor, Outcome, Reading, Scope, Seen, Signal, Subsystem, Verdict, degrading, minutes, seconds,
    signal,
};
use crate::plan::MOUNTED;

static DRIFT: Fault = Fault {
    explained_by: &["RootFilesystemReadOnly", "RootFilesystemFailing", "DiskFull", "InodesExhausted"],
    ..degrading(
        "ConfigurationDrift",
        Subsystem::Configuration,
        "Something is not as the boot left it, and cannot be put back.",
        "`nap-agent status` lists it; find the other writer.",
    )
};
static UNMOUNTED: Fault = Fault {
    reason: "LocalDiskUnmounted",
    subsystem: Subsystem::Storage,
    worst: Verdict::NeedsReboot,
    scope: Scope::Local,
    persist: minutes(10),
    // Who stopped them is at work on this machine.
    explained_by: &["KubeletStopped", "ContainerdStopped"],
    meaning: "Directories of kubelet, containerd or pods are not on the local disks any more, and cannot be put back under a running node.",
    hint: "`nap-agent status` says why; `findmnt` and the journal who unmounted them. A reboot mounts them before anything runs.",
};

static LOOK: Signal = signal("guard.look", &DRIFT, Class::Probe, (2, 2), seconds(20), 2);
// What is mounted the kernel knows.
static MOUNTS: Signal =
    Signal { is_authoritative: true, ..signal("guard.mounts", &UNMOUNTED, Class::Kernel, (2, 2), seconds(20), 2) };

pub(super) const MONITOR: Monitor = Monitor { signals: &[&LOOK, &MOUNTS], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    let Some(left) = &seen.now.drift else { return };
    let (mounts, others): (Vec<&String>, Vec<_>) = left.iter().partition(|step| step.starts_with(MOUNTED));
    for (signal, left) in [(&LOOK, others), (&MOUNTS, mounts)] {
        let outcome = left.first().map_or(Outcome::Good, |first| match left.len() {
            1 => Outcome::Bad((*first).clone()),
            count => Outcome::Bad(format!("{first}, and {} more", count - 1)),
        });
        readings.push(Reading { signal, target: String::new(), outcome });
    }
}
