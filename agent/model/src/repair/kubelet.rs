//! kubelet: forgotten failures and a restart; another certificate for one that expired. Pods go on meanwhile.
//!
//! A kubelet whose client certificate has expired asks for another with that very certificate, until it ends itself; only when it starts
//! does it look for a bootstrap credential. By then the guard has put the token's kubeconfig back. Whether that token is still good only the
//! API server knows.

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

/// As any restart; and without an API server there is nobody to ask.
const NO_REBOOTSTRAP_WHILE: [&str; NO_RESTART_WHILE.len() + 1] = {
    let mut all = ["APIServerUnreachable"; NO_RESTART_WHILE.len() + 1];
    let (others, _) = all.split_at_mut(NO_RESTART_WHILE.len());
    others.copy_from_slice(NO_RESTART_WHILE);
    all
};

pub(super) static REBOOTSTRAP: Repair = Repair {
    name: "Rebootstrap",
    act: Act::Rebootstrap,
    subsystem: Subsystem::Kubelet,
    against: &["ClientCertificateExpired"],
    on_suspicion: &[],
    not_while: &NO_REBOOTSTRAP_WHILE,
    risk: Risk::Low,
    // The guard's look comes first, and so does a kubelet that is about to get its certificate.
    after: minutes(1),
    budget: (2, 4),
    pause: (minutes(3), minutes(9)),
    limit: minutes(2),
    meaning: "Restarts kubelet with the bootstrap token that the guard has put back, for another client certificate.",
};
