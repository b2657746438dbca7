//! NVMe controllers that the kernel gave up on. Facts: catalogue F09. A single timeout is the kernel's to reset and no fault.

use super::{
    Class, Fault, Monitor, Outcome, Reading, Scope, Seen, Signal, Subsystem, Verdict, minutes, seconds, signal,
};

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

pub(super) const MONITOR: Monitor = Monitor { signals: &[&STATE], read };

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
}
