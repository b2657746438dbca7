//! containerd: its stacks into its log, then a restart. Pods go on: their shims are processes of their own.
//!
//! Never on a disk that does not take writes: it would be killed in the middle of one, and not come up again. Also the last rung for a
//! kubelet that a restart of its own did not help: it may wait for an answer that containerd owes it. And the only cure for one that
//! started before its snapshotter and lists no images.

use std::time::Duration;

use super::{Act, NO_RESTART_WHILE, Repair, Risk, minutes};
use crate::monitor::{CONTAINERD, Subsystem};

pub(super) static RESTART: Repair = Repair {
    name: "RestartContainerd",
    act: Act::DumpStacksAndRestart(CONTAINERD),
    subsystem: Subsystem::Runtime,
    against: &[
        "ContainerdDown",
        "ContainerdCrashLooping",
        "ContainerdUnresponsive",
        "KubeletCrashLooping",
        "KubeletUnresponsive",
        "ImagesNotListed",
    ],
    on_suspicion: &["ContainerdUnresponsive", "ImagesNotListed"],
    not_while: NO_RESTART_WHILE,
    risk: Risk::Medium,
    after: Duration::ZERO,
    budget: (2, 4),
    pause: (minutes(2), minutes(20)),
    // systemd gives it 90 s to end and as long to start.
    limit: minutes(3),
    meaning: "Lets containerd write its stacks to its log, then restarts it. Pods go on; starts and attached sessions are cut off.",
};
