//! What Azure announces. Facts: catalogue F120 to F122.
//!
//! A preemption comes half a minute ahead, so it counts at once. A freeze is no fault: the verdict suppresses what it makes look like
//! one. The other events are published for the provisioner, who can replace first.

use super::{
    Class, Fault, Monitor, Outcome, Reading, Scope, Seen, Signal, Subsystem, Verdict, degrading, seconds, signal,
};

static PREEMPTED: Fault = Fault {
    reason: "PreemptScheduled",
    subsystem: Subsystem::Platform,
    worst: Verdict::NeedsReplacement,
    scope: Scope::Local,
    persist: seconds(0),
    explained_by: &[],
    meaning: "Azure takes this spot VM away.",
    hint: "Nothing here; the pods need another node within half a minute.",
};

static MAINTENANCE: Fault = degrading(
    "MaintenanceScheduled",
    Subsystem::Platform,
    "Azure will reboot, move or delete this VM; the document has the event and its time.",
    "Replace the node before that time, or let it pass.",
);

static IMDS_UNREACHABLE: Fault = Fault {
    scope: Scope::Unknown,
    ..degrading(
        "ImdsUnreachable",
        Subsystem::Platform,
        "IMDS does not answer, so an announced preemption would not be seen.",
        "Check the route to 169.254.169.254 and the rules of the packet filter.",
    )
};

static PREEMPT: Signal = Signal {
    is_authoritative: true,
    is_immediate: true,
    ..signal("imds.events", &PREEMPTED, Class::Platform, (1, 1), seconds(0), 3)
};
static EVENTS: Signal =
    Signal { is_immediate: true, ..signal("imds.events", &MAINTENANCE, Class::Platform, (1, 1), seconds(0), 3) };
static ANSWERS: Signal = signal("imds.answer", &IMDS_UNREACHABLE, Class::Probe, (8, 10), seconds(15), 3);

pub(super) const MONITOR: Monitor = Monitor { signals: &[&PREEMPT, &EVENTS, &ANSWERS], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    let Some(events) = &seen.now.scheduled_events else { return };
    let mut say = |signal, outcome| readings.push(Reading { signal, target: String::new(), outcome });
    let events = match events {
        Ok(events) => events,
        Err(why) => {
            say(&ANSWERS, Outcome::Bad(why.clone()));
            say(&PREEMPT, Outcome::Unknown(why.clone()));
            return say(&EVENTS, Outcome::Unknown(why.clone()));
        }
    };
    say(&ANSWERS, Outcome::Good);
    for (signal, kinds) in [(&PREEMPT, &["Preempt"][..]), (&EVENTS, &["Reboot", "Redeploy", "Terminate"])] {
        let event = events.iter().find(|event| kinds.contains(&event.kind.as_str()));
        // No id and no time in the text: the event in the document has them.
        let outcome = event.map_or(Outcome::Good, |event| Outcome::Bad(format!("{} by {}", event.kind, event.source)));
        say(signal, outcome);
    }
}
