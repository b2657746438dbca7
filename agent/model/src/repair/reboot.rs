//! The whole machine, once. What may be held up by a dead disk or a kernel that lost its way comes back in order; so do its pods.
//!
//! An attempt that cannot be written down is not made, or a fault that survives a reboot would make the machine reboot for ever. A
//! grant is for one boot and cannot come again, so it is enough in place of a record.

use std::time::Duration;

use super::{Act, Repair, Risk, minutes};
use crate::monitor::Subsystem;

/// A reboot of our own choice waits for up to so long, each machine for its own time: what befell many at once must not take them all
/// down at once.
pub const LOTTERY: Duration = minutes(10);

/// Source of the budget: the facts, 8.7.
pub(super) static REBOOT: Repair = Repair {
    name: "Reboot",
    act: Act::Reboot,
    subsystem: Subsystem::Kernel,
    against: &[
        "RootFilesystemReadOnly",
        "RootFilesystemFailing",
        "DiskStalled",
        "PidsExhausted",
        "LocalDiskUnmounted",
        "KubeletDown",
        "KubeletCrashLooping",
        "KubeletUnresponsive",
        "ContainerdDown",
        "ContainerdCrashLooping",
        "ContainerdUnresponsive",
        "GpuDriverMissing",
        "GpuDriverMismatch",
    ],
    on_suspicion: &[],
    not_while: &[],
    risk: Risk::High,
    after: Duration::ZERO,
    budget: (1, 2),
    pause: (minutes(6 * 60), minutes(6 * 60)),
    limit: minutes(5),
    meaning: "Shuts the machine down in order and starts it again, when nothing milder is left; only where the owner allows it or the provisioner grants it.",
};
