//! Room on a file system that the node needs, when kubelet did not make any: it evicts pods and collects images from 85 percent on, but never
//! the journal's, and no image while it is down or at odds with containerd.

use super::{Act, NO_RESTART_WHILE, Repair, Risk, minutes};
use crate::monitor::Subsystem;

/// Source: the facts, 8.7. Only what nobody uses, so the one who filled the disk loses nothing by it.
pub(super) static FREE_SPACE: Repair = Repair {
    name: "FreeSpace",
    act: Act::FreeSpace,
    subsystem: Subsystem::Storage,
    against: &["DiskFull", "InodesExhausted"],
    on_suspicion: &["DiskFull", "InodesExhausted"],
    not_while: NO_RESTART_WHILE,
    risk: Risk::Low,
    after: minutes(10),
    budget: (2, 4),
    pause: (minutes(9), minutes(9)),
    limit: minutes(5),
    meaning: "Removes images that no container uses, and the oldest files of the journal, from a file system that stayed full for ten minutes.",
};
