//! What the guard cannot put back: another writer changes it, or the machine refuses.

use super::{Class, Fault, Monitor, Outcome, Reading, Seen, Signal, Subsystem, degrading, seconds, signal};

static DRIFT: Fault = Fault {
    explained_by: &["RootFilesystemReadOnly", "RootFilesystemFailing", "DiskFull", "InodesExhausted"],
    ..degrading(
        "ConfigurationDrift",
        Subsystem::Configuration,
        "Something is not as the boot left it, and cannot be put back.",
        "`nap-agent status` lists it; find the other writer.",
    )
};

static LOOK: Signal = signal("guard.look", &DRIFT, Class::Probe, (2, 2), seconds(20), 2);

pub(super) const MONITOR: Monitor = Monitor { signals: &[&LOOK], read };

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    let Some(left) = &seen.now.drift else { return };
    let outcome = left.first().map_or(Outcome::Good, |first| match left.len() {
        1 => Outcome::Bad(first.clone()),
        count => Outcome::Bad(format!("{first}, and {} more", count - 1)),
    });
    readings.push(Reading { signal: &LOOK, target: String::new(), outcome });
}
