//! Routes: networkd is asked to configure the machine's interfaces anew. It leases their addresses again, and its routes come with them.

use super::{Act, Repair, Risk, minutes, seconds};
use crate::monitor::Subsystem;

/// A minute: who changes routes on purpose takes one away before he adds another.
pub(super) static RECONFIGURE: Repair = Repair {
    name: "ReconfigureLinks",
    act: Act::ReconfigureLinks,
    subsystem: Subsystem::Network,
    against: &["DefaultRouteMissing"],
    on_suspicion: &[],
    not_while: &["NetworkdDown"],
    risk: Risk::Medium,
    after: seconds(60),
    budget: (2, 6),
    pause: (minutes(2), minutes(9)),
    limit: minutes(1),
    meaning: "Has systemd-networkd configure the network interfaces anew, which brings their routes back; connections stand still for a moment.",
};
