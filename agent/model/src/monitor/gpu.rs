//! NVIDIA GPUs: fewer than there should be, off the bus, with a driver of two versions, with memory that cannot be mended. Facts: catalogue
//! F110 to F118.
//!
//! An Xid in the kernel's log makes us look, and no more: most are an application's mistake (F112), and none is a reason to lose a node by
//! itself. What the device and its driver say of its state counts. Software around the GPU that is down never costs the node.

use super::service::{given_up, read_given_up};
use super::{
    BusSeen, Class, Fault, GpuFailure, GpuSeen, GpusSeen, Monitor, NvmlSeen, Outcome, Reading, Scope, Seen, Signal,
    Subsystem, Verdict, degrading, minutes, seconds, signal,
};

/// Software of the image for GPUs, which systemd runs where it is baked.
pub const GPU_SERVICES: [&str; 2] = [FABRIC_MANAGER, DEVICE_PLUGIN];

/// Manages the switches by which GPUs reach each other.
pub const FABRIC_MANAGER: &str = "nvidia-fabricmanager.service";
pub(crate) const DEVICE_PLUGIN: &str = "nvidia-device-plugin.service";

const fn costly(
    reason: &'static str,
    worst: Verdict,
    persist: std::time::Duration,
    meaning: &'static str,
    hint: &'static str,
) -> Fault {
    Fault {
        reason,
        subsystem: Subsystem::Accelerators,
        worst,
        scope: Scope::Local,
        persist,
        explained_by: &[],
        meaning,
        hint,
    }
}

static MISSING: Fault = costly(
    "GpuMissing",
    Verdict::NeedsReplacement,
    minutes(10),
    "The node has fewer GPUs than it had at boot, or than its VM size has.",
    "`lspci -d 10de:`, `ls /proc/driver/nvidia/gpus`, `nvidia-smi -L`, `journalctl -k | grep -e NVRM -e pci`.",
);

static LOST: Fault = costly(
    "GpuFallenOffBus",
    Verdict::NeedsReplacement,
    minutes(2),
    "A GPU does not answer on the PCI bus any more; who uses it hangs or fails.",
    "`journalctl -k | grep NVRM` has Xid 79. Nothing inside the VM brings it back.",
);

static MEMORY: Fault = costly(
    "GpuMemoryFailed",
    Verdict::NeedsReplacement,
    minutes(10),
    "A row of a GPU's memory is broken, and no spare one is left for it.",
    "`nvidia-smi -q -d ROW_REMAPPER`. The GPU is to be replaced.",
);

static RESET_PENDING: Fault = degrading(
    "GpuResetPending",
    Subsystem::Accelerators,
    "A row of a GPU's memory was broken; a spare one takes its place at the GPU's next reset.",
    "`nvidia-smi -q -d ROW_REMAPPER`. Drain the node and reboot it when it suits.",
);

static DRIVER_MISSING: Fault = costly(
    "GpuDriverMissing",
    Verdict::NeedsReboot,
    minutes(10),
    "The node has GPUs, is to use the image's driver, and the kernel has not loaded it.",
    "`modprobe nvidia` says why; `dkms status`, `journalctl -k | grep -i nvidia`.",
);

static DRIVER_MISMATCH: Fault = costly(
    "GpuDriverMismatch",
    Verdict::NeedsReboot,
    minutes(10),
    "The loaded driver and its libraries are of different versions, as after an upgrade: nothing new can use the GPU.",
    "`cat /sys/module/nvidia/version`, `ls -l /usr/lib/*/libnvidia-ml.so.1`. A reboot loads the driver that is installed.",
);

static SILENT: Fault = degrading(
    "GpuManagementFailing",
    Subsystem::Accelerators,
    "NVIDIA's management library hangs or fails, for all GPUs or for one: it can most likely not be used.",
    "`timeout 60 nvidia-smi`; `journalctl -k | grep NVRM`.",
);

static THROTTLED: Fault = degrading(
    "GpuThrottled",
    Subsystem::Accelerators,
    "A GPU runs slower than it could because it is too hot or gets too little power.",
    "`nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER`.",
);

static FABRIC_MANAGER_DOWN: Fault = degrading(
    "FabricManagerDown",
    Subsystem::Accelerators,
    "systemd gave nvidia-fabricmanager up; GPUs do not reach each other over NVLink, and CUDA may not start.",
    "`journalctl -u nvidia-fabricmanager -n 50`.",
);

static DEVICE_PLUGIN_DOWN: Fault = degrading(
    "GpuDevicePluginDown",
    Subsystem::Accelerators,
    "systemd gave nvidia-device-plugin up; the node offers no GPUs to pods. Those that run go on.",
    "`journalctl -u nvidia-device-plugin -n 50`.",
);

static MISSING_ON_BUS: Signal = signal("pci.gpus", &MISSING, Class::Device, (3, 3), seconds(10), 3);
static MISSING_IN_DRIVER: Signal = signal("driver.gpus", &MISSING, Class::Kernel, (3, 3), seconds(10), 3);
static LOST_ON_BUS: Signal = signal("pci.config", &LOST, Class::Device, (3, 3), seconds(10), 3);
static LOST_IN_NVML: Signal = signal("nvml.device", &LOST, Class::Probe, (2, 2), seconds(20), 2);
/// The GPU's own lasting record, and NVIDIA's criterion for another one.
static MEMORY_REMAP: Signal =
    Signal { is_authoritative: true, ..signal("nvml.remap", &MEMORY, Class::Device, (3, 3), seconds(20), 2) };
static PENDING_REMAP: Signal = signal("nvml.remap", &RESET_PENDING, Class::Device, (2, 2), seconds(20), 2);
static NO_MODULE: Signal = signal("driver.module", &DRIVER_MISSING, Class::Kernel, (3, 3), seconds(10), 3);
static NO_DRIVER: Signal = signal("pci.driver", &DRIVER_MISSING, Class::Device, (3, 3), seconds(10), 3);
static VERSIONS: Signal = signal("driver.version", &DRIVER_MISMATCH, Class::Kernel, (3, 3), seconds(10), 3);
static OTHER_VERSION: Signal = signal("nvml.start", &DRIVER_MISMATCH, Class::Probe, (2, 2), seconds(20), 2);
static NO_ANSWER: Signal = signal("nvml.answer", &SILENT, Class::Probe, (2, 2), seconds(20), 2);
static SLOWED: Signal = signal("nvml.clocks", &THROTTLED, Class::Device, (5, 8), seconds(20), 4);
static FABRIC_MANAGER_FAILED: Signal = given_up(&FABRIC_MANAGER_DOWN);
static DEVICE_PLUGIN_FAILED: Signal = given_up(&DEVICE_PLUGIN_DOWN);

pub(super) const MONITOR: Monitor = Monitor {
    signals: &[
        &MISSING_ON_BUS,
        &MISSING_IN_DRIVER,
        &LOST_ON_BUS,
        &LOST_IN_NVML,
        &MEMORY_REMAP,
        &PENDING_REMAP,
        &NO_MODULE,
        &NO_DRIVER,
        &VERSIONS,
        &OTHER_VERSION,
        &NO_ANSWER,
        &SLOWED,
        &FABRIC_MANAGER_FAILED,
        &DEVICE_PLUGIN_FAILED,
    ],
    read,
};

fn read(seen: Seen<'_>, readings: &mut Vec<Reading>) {
    if let Some(gpus) = &seen.now.gpus {
        read_kernel(gpus, readings);
    }
    if let Some(nvml) = &seen.now.nvml {
        read_nvml(nvml, seen.is_strained(), readings);
    }
    read_given_up(GPU_SERVICES, [&FABRIC_MANAGER_FAILED, &DEVICE_PLUGIN_FAILED], seen, readings);
}

/// Good, or bad for a reason.
fn unless(is_bad: bool, why: impl FnOnce() -> String) -> Outcome {
    if is_bad { Outcome::Bad(why()) } else { Outcome::Good }
}

fn read_kernel(gpus: &GpusSeen, readings: &mut Vec<Reading>) {
    let GpusSeen { expected, on_bus, driven, module, library } = gpus;
    let mut say = |signal, target: &str, outcome| readings.push(Reading { signal, target: target.to_owned(), outcome });
    say(&MISSING_ON_BUS, "", enough(on_bus.len(), expected.count as usize, "on the PCI bus"));
    for (address, BusSeen { answers, .. }) in on_bus {
        let why = || "its command and status registers read as ones".to_owned();
        say(&LOST_ON_BUS, address, unless(!answers, why));
    }
    if !expected.driver {
        return;
    }
    // Somebody gave them to another driver, as for VMs.
    let of_others = |one: &&BusSeen| one.driver.as_deref().is_some_and(|driver| driver != "nvidia");
    let wanted = (expected.count as usize).saturating_sub(on_bus.values().filter(of_others).count());
    let outcome = driven.map(|driven| enough(driven, wanted, "known to the driver"));
    say(&MISSING_IN_DRIVER, "", outcome.unwrap_or_else(|| Outcome::Unknown("the driver is not loaded".to_owned())));
    let is_missing = wanted > 0 && module.is_none();
    say(&NO_MODULE, "", unless(is_missing, || "the kernel module nvidia is not loaded".to_owned()));
    let undriven = on_bus.values().filter(|one| one.driver.is_none()).count();
    say(&NO_DRIVER, "", unless(is_missing && undriven > 0, || format!("{undriven} GPUs have no driver")));
    if let (Some(module), Some(library)) = (module, library) {
        say(&VERSIONS, "", unless(module != library, || format!("kernel module {module}, library {library}")));
    }
}

fn enough(count: usize, wanted: usize, place: &str) -> Outcome {
    unless(count < wanted, || format!("{count} of {wanted} GPUs are {place}"))
}

fn read_nvml(nvml: &NvmlSeen, is_strained: bool, readings: &mut Vec<Reading>) {
    let mut say = |signal, target: &str, outcome| readings.push(Reading { signal, target: target.to_owned(), outcome });
    let why = || "NVML is of another version than the driver".to_owned();
    if matches!(nvml, NvmlSeen::OtherVersion | NvmlSeen::Gpus(_)) {
        say(&OTHER_VERSION, "", unless(*nvml == NvmlSeen::OtherVersion, why));
    }
    let hangs = |since: &std::time::Duration| format!("NVML has not answered for {} s", since.as_secs());
    let answer = match nvml {
        NvmlSeen::Hanging(since) if is_strained => Outcome::Unknown(hangs(since)),
        NvmlSeen::Hanging(since) => Outcome::Bad(hangs(since)),
        NvmlSeen::Failed(why) => Outcome::Bad(why.clone()),
        NvmlSeen::OtherVersion => Outcome::Unknown("NVML does not start".to_owned()),
        NvmlSeen::Gpus(_) => Outcome::Good,
    };
    say(&NO_ANSWER, "", answer);
    let NvmlSeen::Gpus(known) = nvml else { return };
    for (address, gpu) in known {
        let gpu = match gpu {
            Err(GpuFailure::Lost) => {
                say(&LOST_IN_NVML, address, Outcome::Bad("NVML says that the GPU is lost".to_owned()));
                continue;
            }
            Err(GpuFailure::Other(why)) => {
                say(&LOST_IN_NVML, address, Outcome::Unknown(why.clone()));
                say(&NO_ANSWER, address, Outcome::Bad(why.clone()));
                continue;
            }
            Ok(gpu) => gpu,
        };
        say(&LOST_IN_NVML, address, Outcome::Good);
        say(&NO_ANSWER, address, Outcome::Good);
        let GpuSeen { remap_failed, remap_pending, slowed } = gpu;
        if let Some(failed) = remap_failed {
            say(&MEMORY_REMAP, address, unless(*failed, || "a row of its memory could not be remapped".to_owned()));
        }
        if let Some(pending) = remap_pending {
            say(&PENDING_REMAP, address, unless(*pending, || "a row of its memory waits to be remapped".to_owned()));
        }
        if let Some(slowed) = slowed {
            say(&SLOWED, address, unless(!slowed.is_empty(), || slowed.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::monitor::{GpusExpected, History, Observed, UnitSeen};

    const VERSION: &str = "580.159.04";
    const GPU: &str = "0001:00:00.0";

    fn gpus(count: u32, driver: bool) -> GpusSeen {
        let on_bus = |index| {
            let driver = driver.then(|| "nvidia".to_owned());
            (format!("{index:04x}:00:00.0"), BusSeen { answers: true, driver })
        };
        GpusSeen {
            expected: GpusExpected { count, driver, switched: false },
            on_bus: (1..=count).map(on_bus).collect(),
            driven: driver.then_some(count as usize),
            module: driver.then(|| VERSION.to_owned()),
            library: driver.then(|| VERSION.to_owned()),
        }
    }

    fn nvml(gpu: Result<GpuSeen, GpuFailure>) -> Option<NvmlSeen> {
        Some(NvmlSeen::Gpus(BTreeMap::from([(GPU.to_owned(), gpu)])))
    }

    /// Reasons and signals of what is bad.
    fn bad(gpus: GpusSeen, nvml: Option<NvmlSeen>) -> Vec<String> {
        let now = Observed { gpus: Some(gpus), nvml, ..Observed::default() };
        let mut readings = Vec::new();
        read(Seen { now: &now, history: &History::default() }, &mut readings);
        let bad = readings.iter().filter(|one| matches!(one.outcome, Outcome::Bad(_)));
        bad.map(|one| format!("{} {}", one.signal.fault.reason, one.signal.name)).collect()
    }

    #[test]
    fn a_gpu_as_it_should_be_is_no_fault() {
        let well = GpuSeen { remap_failed: Some(false), remap_pending: Some(false), slowed: Some(Vec::new()) };
        assert_eq!(bad(gpus(1, true), nvml(Ok(well))), [""; 0]);
        assert_eq!(bad(gpus(1, true), nvml(Ok(GpuSeen::default()))), [""; 0], "an old one that says little");
        assert_eq!(bad(gpus(8, false), None), [""; 0], "somebody else's driver, or none");
    }

    #[test]
    fn one_too_few_is_seen_on_the_bus_and_by_the_driver() {
        let mut seven = gpus(8, true);
        seven.on_bus.remove(GPU);
        seven.driven = Some(7);
        assert_eq!(bad(seven.clone(), None), ["GpuMissing pci.gpus", "GpuMissing driver.gpus"]);
        seven.expected.driver = false;
        assert_eq!(bad(seven, None), ["GpuMissing pci.gpus"], "which alone proves nothing");
    }

    #[test]
    fn one_that_was_given_to_another_driver_is_not_missing() {
        let mut given = gpus(2, true);
        given.on_bus.get_mut(GPU).unwrap().driver = Some("vfio-pci".to_owned());
        given.driven = Some(1);
        assert_eq!(bad(given.clone(), None), [""; 0]);
        given.on_bus.values_mut().for_each(|one| one.driver = Some("vfio-pci".to_owned()));
        assert_eq!(bad(GpusSeen { module: None, driven: None, ..given }, None), [""; 0]);
    }

    #[test]
    fn one_off_the_bus_is_seen_by_the_bus_and_by_its_driver() {
        let mut off = gpus(1, true);
        off.on_bus.get_mut(GPU).unwrap().answers = false;
        assert_eq!(
            bad(off, nvml(Err(GpuFailure::Lost))),
            ["GpuFallenOffBus pci.config", "GpuFallenOffBus nvml.device"]
        );
        let other = nvml(Err(GpuFailure::Other("an unknown error".to_owned())));
        assert_eq!(bad(gpus(1, true), other), ["GpuManagementFailing nvml.answer"]);
    }

    #[test]
    fn a_driver_of_two_versions_or_none_is_told_only_where_it_is_the_images() {
        let mut other = gpus(1, true);
        other.library = Some("580.200.01".to_owned());
        let wanted = ["GpuDriverMismatch driver.version", "GpuDriverMismatch nvml.start"];
        assert_eq!(bad(other.clone(), Some(NvmlSeen::OtherVersion)), wanted);
        let mut none = GpusSeen { module: None, driven: None, ..gpus(1, true) };
        none.on_bus.get_mut(GPU).unwrap().driver = None;
        assert_eq!(bad(none.clone(), None), ["GpuDriverMissing driver.module", "GpuDriverMissing pci.driver"]);
        for mut theirs in [other, none] {
            theirs.expected.driver = false;
            assert_eq!(bad(theirs, None), [""; 0]);
        }
    }

    #[test]
    fn memory_clocks_and_a_library_that_hangs_are_told() {
        let ill = GpuSeen { remap_failed: Some(true), remap_pending: Some(true), slowed: Some(vec!["too hot"]) };
        let wanted = ["GpuMemoryFailed nvml.remap", "GpuResetPending nvml.remap", "GpuThrottled nvml.clocks"];
        assert_eq!(bad(gpus(1, true), nvml(Ok(ill))), wanted);
        let hangs = NvmlSeen::Hanging(Duration::from_secs(40));
        assert_eq!(bad(gpus(1, true), Some(hangs)), ["GpuManagementFailing nvml.answer"]);
        let fails = NvmlSeen::Failed("unknown error".to_owned());
        assert_eq!(bad(gpus(1, true), Some(fails)), ["GpuManagementFailing nvml.answer"]);
    }

    #[test]
    fn software_that_was_given_up_is_told() {
        let unit = UnitSeen { active: "failed".to_owned(), sub: String::new(), result: "exit-code".to_owned() };
        let mut now = Observed::default();
        now.units.extend(GPU_SERVICES.map(|name| (name.to_owned(), Ok(unit.clone()))));
        let mut readings = Vec::new();
        read(Seen { now: &now, history: &History::default() }, &mut readings);
        let bad: Vec<_> = readings.iter().map(|one| one.signal.fault.reason).collect();
        assert_eq!(bad, ["FabricManagerDown", "GpuDevicePluginDown"]);
    }
}
