//! kubelet: forgotten failures and a restart. Pods go on meanwhile.

use std::time::Duration;

use super::{Act, NO_RESTART_WHILE, Repair, Risk, minutes, seconds};
use crate::monitor::{KUBELET, Subsystem};

pub(super) static RESTART: Repair = Repair {
    name: "RestartKubelet",
    act: Act::Restart(KUBELET),
    subsystem: Subsystem::Kubelet,
    against: &["KubeletDown", "KubeletCrashLooping", "KubeletUnresponsive"],
    on_suspicion: &["KubeletUnresponsive"],
    // Faults of containerd explain those of kubelet; restarting kubelet under them is the wrong rung.
    not_while: NO_RESTART_WHILE,
    risk: Risk::Low,
    after: Duration::ZERO,
    budget: (3, 6),
    pause: (seconds(30), minutes(10)),
    // systemd gives a process 90 s to end before it kills it.
    limit: minutes(2),
    meaning: "Forgets the failures of kubelet's unit and restarts it. Pods go on.",
};
