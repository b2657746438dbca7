//! The snapshotter of artifact streaming: a restart. Containers keep their mounts, which the devices' service holds, not this one. One that
//! stays silent is left: the node goes on with overlayfs, and pulls again what was streamed.

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

pub(super) static LEAVE_STREAMING: Repair = Repair {
    name: "LeaveStreaming",
    act: Act::LeaveStreaming,
    subsystem: Subsystem::Runtime,
    against: &["SnapshotterUnresponsive"],
    on_suspicion: &["SnapshotterUnresponsive"],
    not_while: NO_RESTART_WHILE,
    risk: Risk::Medium,
    after: minutes(5),
    budget: (1, 2),
    pause: (minutes(9), minutes(9)),
    limit: minutes(1),
    meaning: "Images are pulled whole until the next boot: the guard tells containerd and kubelet so and restarts both. Pods go on.",
};
