//! The node's network: full tables, and the way to the API server. Facts: catalogue F79, F83, F85 to F87.
//!
//! The kernel's messages about full tables share one rate limit and are lost in a flood; counters are not. An API server that cannot be
//! reached is the world's fault until the contrary is known, so it never makes a node worse than degraded.

use std::time::Duration;

use super::{
    Class, Fault, Monitor, Outcome, Reading, Scope, Seen, Signal, Subsystem, degrading, minutes, nearly_used, seconds,
    signal,
};

const OVERFLOWS_WINDOW: Duration = minutes(5);

static CONNTRACK: Fault = degrading(
    "ConntrackExhausted",
    Subsystem::Network,
    "The table of connections is nearly full; new connections are dropped.",
    "`sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max`; find who opens so many.",
);
static NEIGHBOURS: Fault = degrading(
    "NeighbourTableFull",
    Subsystem::Network,
    "The table of neighbours overflowed; some addresses of this network cannot be reached.",
    "Raise net.ipv4.neigh.default.gc_thresh3.",
);
/// Others may take the route away for a moment, to put another one in its place.
static ROUTE: Fault = degrading(
    "DefaultRouteMissing",
    Subsystem::Network,
    "The route to everything outside the node's own network is gone.",
    "`ip route`, `networkctl status`; `networkctl reconfigure LINK` asks for it again.",
);
static NAME_SERVERS: Fault = degrading(
    "ResolvConfInvalid",
    Subsystem::Network,
    "/etc/resolv.conf names no server any more; programs on the node, and pods with its DNS policy, resolve no names.",
    "`ls -l /etc/resolv.conf`: it should lead to a file below /run/systemd/resolve.",
);
static API_SERVER: Fault = Fault {
    scope: Scope::Upstream,
    explained_by: &["DefaultRouteMissing", "ResolvConfInvalid"],
    ..degrading(
        "APIServerUnreachable",
        Subsystem::Network,
        "The API server's name does not resolve or its port does not answer.",
        "Look at the cluster first, then at this node's DNS, routes and packet filter.",
    )
};

static CONNECTIONS: Signal = signal("conntrack.used", &CONNTRACK, Class::Counter, (3, 3), seconds(20), 3);
static OVERFLOWS: Signal = signal("neighbours.full", &NEIGHBOURS, Class::Counter, (2, 2), seconds(20), 3);
static ROUTES: Signal =
    Signal { is_authoritative: true, ..signal("route.default", &ROUTE, Class::Kernel, (2, 2), seconds(10), 2) };
static RESOLVERS: Signal = signal("resolv.conf", &NAME_SERVERS, Class::Kernel, (2, 2), seconds(10), 2);
static REACH: Signal = signal("api.connect", &API_SERVER, Class::Probe, (4, 5), seconds(20), 3);

pub(super) const MONITOR: Monitor = Monitor { signals: &[&CONNECTIONS, &OVERFLOWS, &ROUTES, &RESOLVERS, &REACH], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    let mut say = |signal, target: &str, outcome| readings.push(Reading { signal, target: target.to_owned(), outcome });
    if let Some(outcome) = nearly_used(seen, "conntrack", "connections") {
        say(&CONNECTIONS, "", outcome);
    }
    for name in seen.now.counters.keys() {
        let Some(table) = name.strip_prefix("neighbours.full/") else { continue };
        let grown = seen.history.growth(name, OVERFLOWS_WINDOW).unwrap_or_default();
        let outcome = if grown == 0 { Outcome::Good } else { Outcome::Bad("table_fulls grew".to_owned()) };
        say(&OVERFLOWS, table, outcome);
    }
    let places = [
        (&ROUTES, seen.now.default_route, "the kernel has no default route"),
        (&RESOLVERS, seen.now.name_servers, "no line names a server"),
    ];
    for (signal, is_there, why) in places {
        if let Some(is_there) = is_there {
            say(signal, "", if is_there { Outcome::Good } else { Outcome::Bad(why.to_owned()) });
        }
    }
    if let Some(api_server) = &seen.now.api_server {
        say(
            &REACH,
            "",
            match api_server {
                Ok(()) => Outcome::Good,
                Err(why) => Outcome::Bad(why.clone()),
            },
        );
    }
}
