//! Services of the system and of GPUs: forgotten failures and a start. Each has given its work up already, so there is nothing to interrupt.
//!
//! networkd is dearer than the others: when it starts it takes routes away that it does not know, unless its configuration forbids that.

use std::time::Duration;

use super::{Act, Repair, Risk, minutes};
use crate::monitor::{CHRONYD, DEVICE_PLUGIN, FABRIC_MANAGER, JOURNALD, NETWORKD, RESOLVED, Subsystem};

/// All have this in common. Source: the facts, 8.7.
const fn restart(name: &'static str, unit: &'static str, meaning: &'static str) -> Repair {
    Repair {
        name,
        act: Act::Restart(unit),
        subsystem: Subsystem::Network,
        against: &[],
        on_suspicion: &[],
        not_while: &["RootFilesystemReadOnly", "RootFilesystemFailing", "DiskStalled", "PidsExhausted"],
        risk: Risk::Low,
        after: Duration::ZERO,
        budget: (2, 6),
        pause: (minutes(1), minutes(9)),
        limit: minutes(2),
        meaning,
    }
}

pub(super) static RESTART_RESOLVED: Repair = Repair {
    against: &["ResolvedDown"],
    ..restart("RestartResolved", RESOLVED, "Starts systemd-resolved again after systemd gave it up.")
};

pub(super) static RESTART_CHRONYD: Repair = Repair {
    subsystem: Subsystem::Time,
    against: &["ChronydDown"],
    ..restart("RestartChronyd", CHRONYD, "Starts chronyd again after systemd gave it up.")
};

pub(super) static RESTART_JOURNALD: Repair = Repair {
    subsystem: Subsystem::Kernel,
    against: &["JournaldDown"],
    ..restart("RestartJournald", JOURNALD, "Starts systemd-journald again after systemd gave it up.")
};

pub(super) static RESTART_NETWORKD: Repair = Repair {
    against: &["NetworkdDown"],
    risk: Risk::Medium,
    ..restart("RestartNetworkd", NETWORKD, "Starts systemd-networkd again after systemd gave it up.")
};

pub(super) static RESTART_DEVICE_PLUGIN: Repair = Repair {
    subsystem: Subsystem::Accelerators,
    against: &["GpuDevicePluginDown"],
    ..restart("RestartGpuDevicePlugin", DEVICE_PLUGIN, "Starts nvidia-device-plugin again after systemd gave it up.")
};

/// Medium: jobs that use NVLink meanwhile are cut off from it.
pub(super) static RESTART_FABRIC_MANAGER: Repair = Repair {
    subsystem: Subsystem::Accelerators,
    against: &["FabricManagerDown"],
    risk: Risk::Medium,
    ..restart("RestartFabricManager", FABRIC_MANAGER, "Starts nvidia-fabricmanager again after systemd gave it up.")
};
