//! NVMe controllers that the kernel gave up on, or that say that they fail. Facts: catalogue F09, F10. A single timeout is the kernel's to reset
//! and no fault, and what a disk says of itself is no more than a reason to move: its writes may go well for years.

use std::time::Duration;

use super::{
    Class, Fault, Monitor, Outcome, Reading, Scope, Seen, Signal, SmartSeen, Subsystem, Verdict, degrading, minutes,
    seconds, signal,
};

/// Media that lost something an hour ago and nothing since is history.
const ERRORS_WINDOW: Duration = minutes(60);

/// Bits of the critical warning. Source: NVM Express base specification, SMART / Health Information log page.
const WARNINGS: [&str; 6] = [
    "its spare blocks run out",
    "its temperature is beyond its limits",
    "its media or inner errors make it unreliable",
    "it takes no more writes",
    "its memory is not kept without power",
    "its persistent memory takes no more writes",
];

static DEAD: Fault = Fault {
    reason: "NvmeControllerDead",
    subsystem: Subsystem::Storage,
    worst: Verdict::NeedsReplacement,
    scope: Scope::Local,
    persist: minutes(2),
    explained_by: &[],
    meaning: "The kernel gave an NVMe controller up; its disks are gone.",
    hint: "`journalctl -k | grep nvme`; /sys/class/nvme/*/state has the word.",
};

static STATE: Signal =
    Signal { is_authoritative: true, ..signal("nvme.state", &DEAD, Class::Device, (3, 3), seconds(10), 3) };

static CRITICAL: Fault = degrading(
    "NvmeSmartCritical",
    Subsystem::Storage,
    "An NVMe disk says of itself that it fails.",
    "`nvme smart-log /dev/nvme0`: critical_warning and media_errors. Drain and replace the node when it suits.",
);

static WARNING: Signal = signal("nvme.smart", &CRITICAL, Class::Device, (2, 2), seconds(45), 2);
static MEDIA: Signal = signal("nvme.media", &CRITICAL, Class::Counter, (1, 1), seconds(45), 2);

pub(super) const MONITOR: Monitor = Monitor { signals: &[&STATE, &WARNING, &MEDIA], read };

/// The counter of a controller's media errors.
pub fn media_errors_of(controller: &str) -> String {
    format!("nvme.media/{controller}")
}

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    for (controller, state) in &seen.now.nvme {
        let outcome = match state.as_str() {
            "live" => Outcome::Good,
            // Source: nvme_ctrl_state in drivers/nvme/host/core.c.
            "dead" => Outcome::Bad("its state is dead".to_owned()),
            other => Outcome::Unknown(other.to_owned()),
        };
        readings.push(Reading { signal: &STATE, target: controller.clone(), outcome });
    }
    for (controller, SmartSeen { critical_warning, .. }) in &seen.now.smart {
        let mut say = |signal, outcome| readings.push(Reading { signal, target: controller.clone(), outcome });
        let warnings: Vec<_> = (0..8).filter(|bit| critical_warning & (1 << bit) != 0).map(warning).collect();
        say(&WARNING, if warnings.is_empty() { Outcome::Good } else { Outcome::Bad(warnings.join(", ")) });
        let grown = seen.history.growth(&media_errors_of(controller), ERRORS_WINDOW).unwrap_or_default();
        say(&MEDIA, if grown == 0 { Outcome::Good } else { Outcome::Bad("media_errors grew".to_owned()) });
    }
}

fn warning(bit: usize) -> &'static str {
    WARNINGS.get(bit).copied().unwrap_or("it warns of something newer than this agent")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{History, Observed};

    #[test]
    fn what_a_disk_warns_of_is_told_in_words() {
        let mut history = History::default();
        let mut told = |critical_warning, media_errors| {
            let smart = SmartSeen { critical_warning, media_errors };
            let mut now = Observed::default();
            now.smart.insert("nvme0".to_owned(), smart);
            now.counters.insert(media_errors_of("nvme0"), media_errors);
            history.add(1000 * (media_errors + 1) * 60, &now.counters);
            let mut readings = Vec::new();
            read(Seen { now: &now, history: &history }, &mut readings);
            let bad = readings.into_iter().filter_map(|one| match one.outcome {
                Outcome::Bad(why) => Some(format!("{} {}: {why}", one.signal.name, one.target)),
                _ => None,
            });
            bad.collect::<Vec<_>>()
        };
        assert_eq!(told(0, 0), [""; 0]);
        assert_eq!(
            told(0b1000_1001, 0),
            [
                "nvme.smart nvme0: its spare blocks run out, it takes no more writes, it warns of something newer than this agent"
            ]
        );
        assert_eq!(told(0, 3), ["nvme.media nvme0: media_errors grew"]);
    }
}
