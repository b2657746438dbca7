//! The snapshotter of artifact streaming: a restart. Containers keep their mounts, which the devices' service holds, not this one.

use std::time::Duration;

use super::{Act, NO_RESTART_WHILE, Repair, Risk, minutes, seconds};
use crate::monitor::Subsystem;
use crate::os::STREAMING_SNAPSHOTTER;

pub(super) static RESTART: Repair = Repair {
    name: "RestartSnapshotter",
    act: Act::Restart(STREAMING_SNAPSHOTTER),
    subsystem: Subsystem::Runtime,
    against: &["SnapshotterUnresponsive"],
    on_suspicion: &["SnapshotterUnresponsive"],
    not_while: NO_RESTART_WHILE,
    risk: Risk::Low,
    after: Duration::ZERO,
    budget: (3, 6),
    pause: (seconds(30), minutes(10)),
    // systemd gives a process 90 s to end before it kills it.
    limit: minutes(2),
    meaning: "Forgets the failures of the snapshotter's unit and restarts it. Pods go on; pulls and starts resume.",
};
