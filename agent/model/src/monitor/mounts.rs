//! Directories of the node that are not on the local disks any more, where the boot had put them: somebody unmounted them under it.
//!
//! What was open stays open, so pods go on for a while; who looks anew sees what the OS disk has below. Nothing mounts them again under a
//! node that runs: that would hide what was written meanwhile, and the mounts of pods below are gone with them. A boot does, before
//! anything runs.

use super::{
    Class, Fault, Monitor, Outcome, Reading, Scope, Seen, Signal, Subsystem, Verdict, minutes, seconds, signal,
};

static UNMOUNTED: Fault = Fault {
    reason: "LocalDiskUnmounted",
    subsystem: Subsystem::Storage,
    worst: Verdict::NeedsReboot,
    scope: Scope::Local,
    persist: minutes(10),
    explained_by: &[
        // systemd unmounts what has lost its disk.
        "DataFilesystemFailing",
        // Who stopped them is at work on this machine.
        "KubeletStopped",
        "ContainerdStopped",
    ],
    meaning: "A directory of kubelet, containerd or pods is not on the local disks any more, where the boot had put it.",
    hint: "The journal says who unmounted it. A reboot mounts it before anything runs; under pods it would hide what they wrote.",
};

// What is mounted the kernel knows.
static MOUNTS: Signal =
    Signal { is_authoritative: true, ..signal("mount.state", &UNMOUNTED, Class::Kernel, (2, 2), seconds(20), 2) };

pub(super) const MONITOR: Monitor = Monitor { signals: &[&MOUNTS], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    let Some(unmounted) = &seen.now.unmounted else { return };
    let outcome = match unmounted.is_empty() {
        true => Outcome::Good,
        false => Outcome::Bad(format!("not mounted: {}", unmounted.join(", "))),
    };
    readings.push(Reading { signal: &MOUNTS, target: String::new(), outcome });
}
