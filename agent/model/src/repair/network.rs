//! Routes: the default route that was there is put back as it was, and nothing else is touched.
//!
//! networkd could be asked to configure the interface anew, but it takes away what the pod network added: routes, addresses and rules that
//! are not its own.

use super::{Act, Repair, Risk, minutes, seconds};
use crate::monitor::Subsystem;

/// A minute: who changes routes on purpose takes one away before he adds another.
pub(super) static PUT_BACK_ROUTE: Repair = Repair {
    name: "PutBackRoute",
    act: Act::PutBackRoute,
    subsystem: Subsystem::Network,
    against: &["DefaultRouteMissing"],
    on_suspicion: &[],
    not_while: &[],
    risk: Risk::Low,
    after: seconds(60),
    budget: (2, 6),
    pause: (minutes(2), minutes(9)),
    limit: minutes(1),
    meaning: "Adds the IPv4 default route again as it was last seen: its interface, gateway and metric.",
};
