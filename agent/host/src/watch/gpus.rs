//! NVIDIA GPUs: what the kernel has of them, and what they tell of themselves through NVIDIA's management library (NVML).
//!
//! The library is the image's, opened for each look and closed after it: who holds it holds the devices, and then nobody can reset a GPU or
//! change its driver. It is only opened where the driver is the image's and loaded, because without one it would load one by itself. A GPU
//! that is ill can hold up whoever asks about it, for ever and in the kernel, so each of the two looks has a thread of its own.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nap_model::monitor::{BusSeen, GpuFailure, GpuSeen, GpusExpected, GpusSeen, NvmlSeen};
use nap_model::plan::AbsPath;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};
use tokio::sync::Notify;
use tracing::warn;

use super::{Aside, SUSPECT, Turn, URGENT_EVERY};
use crate::observe::{PCI_DEVICES, gpu_library, gpu_module, gpus};
use crate::root::{FileError, Root};

/// Where the driver lists its devices. Source: NVIDIA's driver README, "The /proc Interface".
const DRIVEN: &str = "/proc/driver/nvidia/gpus";
/// By what programs reach the driver.
const CONTROL: &str = "/dev/nvidiactl";

const KERNEL_EVERY: Duration = Duration::from_secs(15);
const NVML_EVERY: Duration = Duration::from_secs(60);
/// After a change for the better or the worse; and the least time between two looks, whatever the driver says.
const NVML_AGAIN: Duration = Duration::from_secs(25);
/// A look is no more than this part of the time: without a persistent driver each wakes all GPUs, which takes seconds.
const NVML_PART: u32 = 20;
/// The same for what is no answer yet.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// Command and status, in a PCI device's configuration space. The numbers of vendor and device, which come before, the driver of Hyper-V's
/// virtual bus gives from its own books. Reading it has no side effects. Source: include/uapi/linux/pci_regs.h; drivers/pci/controller/pci-hyperv.c.
const COMMAND_AND_STATUS: u64 = 4;

/// Source: nvml.h, `NVML_FI_DEV_REMAPPED_PENDING` and `NVML_FI_DEV_REMAPPED_FAILURE`.
const REMAPPED_PENDING: FieldId = FieldId(144);
const REMAPPED_FAILURE: FieldId = FieldId(145);

/// Slower than asked for, for a reason that nobody chose. The others are idleness, settings, and the power limit that every busy GPU is at.
const SLOWED: [(ThrottleReasons, &str); 4] = [
    (ThrottleReasons::HW_THERMAL_SLOWDOWN, "too hot (hardware)"),
    (ThrottleReasons::SW_THERMAL_SLOWDOWN, "too hot (driver)"),
    (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake of the host"),
    (ThrottleReasons::HW_SLOWDOWN, "slowed by hardware"),
];

/// The two that look.
#[derive(Debug)]
pub(super) struct Gpus {
    expected: GpusExpected,
    kernel: Aside<Result<GpusSeen, FileError>>,
    kernel_turn: Turn,
    nvml: Aside<Option<(NvmlSeen, Duration)>>,
    nvml_turn: Turn,
    was_well: bool,
    suspect_until: Option<Instant>,
}

impl Gpus {
    pub(super) fn start(root: &Arc<Root>, news: &Arc<Notify>, expected: GpusExpected) -> Option<Self> {
        let of_kernel = Arc::clone(root);
        let kernel = Aside::start("gpus", Arc::clone(news), move || look(&of_kernel, expected));
        let of_nvml = Arc::clone(root);
        let nvml = Aside::start("nvml", Arc::clone(news), move || {
            let start = Instant::now();
            Some((ask(&of_nvml)?, start.elapsed()))
        });
        let (kernel, nvml) = kernel
            .and_then(|kernel| Ok((kernel, nvml?)))
            .map_err(|error| warn!(error = %error, "GPUs are not looked at"))
            .ok()?;
        let (kernel_turn, nvml_turn) = (Turn::every(KERNEL_EVERY), Turn::every(NVML_EVERY));
        Some(Self { expected, kernel, kernel_turn, nvml, nvml_turn, was_well: true, suspect_until: None })
    }

    /// GPUs are joined by switches.
    pub(super) fn are_switched(&self) -> bool {
        self.expected.switched
    }

    /// The driver has said something.
    pub(super) fn hurry(&mut self) {
        self.kernel_turn.hurry(URGENT_EVERY);
        self.nvml_turn.hurry(NVML_AGAIN);
    }

    /// What came back since.
    pub(super) fn take(&mut self) -> (Option<GpusSeen>, Option<NvmlSeen>) {
        if self.kernel_turn.has_come() {
            self.kernel.ask();
        }
        if self.expected.driver && self.nvml_turn.has_come() {
            self.nvml.ask();
        }
        // A device may go away while it is read; the next look tells.
        (self.kernel.take().and_then(Result::ok), self.take_nvml())
    }

    fn take_nvml(&mut self) -> Option<NvmlSeen> {
        let now = Instant::now();
        let Some((seen, took)) = self.nvml.take().flatten() else {
            return self.nvml.away_for().filter(|away| *away >= HANGS_AFTER).map(NvmlSeen::Hanging);
        };
        if self.was_well != is_well(&seen) {
            self.was_well = !self.was_well;
            self.suspect_until = Some(now + SUSPECT);
        }
        if self.suspect_until.is_some_and(|until| now < until) {
            self.nvml_turn.by(now + NVML_AGAIN);
        }
        // What hung did not cost anything.
        if took < HANGS_AFTER {
            self.nvml_turn.not_before(now + took * NVML_PART);
        }
        Some(seen)
    }
}

fn is_well(seen: &NvmlSeen) -> bool {
    let NvmlSeen::Gpus(gpus) = seen else { return false };
    gpus.values().all(|gpu| {
        gpu.as_ref().is_ok_and(|gpu| {
            gpu.remap_failed != Some(true)
                && gpu.remap_pending != Some(true)
                && gpu.slowed.as_ref().is_none_or(Vec::is_empty)
        })
    })
}

fn look(root: &Root, expected: GpusExpected) -> Result<GpusSeen, FileError> {
    let on_bus = gpus(root)?.into_iter().map(|address| Ok((address.clone(), device(root, &address)?)));
    let module = gpu_module(root)?;
    let driven = root.names(DRIVEN)?.len();
    Ok(GpusSeen {
        expected,
        on_bus: on_bus.collect::<Result<_, FileError>>()?,
        driven: module.is_some().then_some(driven),
        module,
        library: gpu_library(root)?.map(|(_, version)| version),
    })
}

/// Who is off the bus gives ones for everything.
fn device(root: &Root, address: &str) -> Result<BusSeen, FileError> {
    let space = root.open_for_reading(&format!("{PCI_DEVICES}/{address}/config"))?;
    let mut registers = [0; 4];
    let is_read = space.is_some_and(|space| space.read_exact_at(&mut registers, COMMAND_AND_STATUS).is_ok());
    let driver = AbsPath::try_from(format!("{PCI_DEVICES}/{address}/driver").as_str()).ok();
    let driver = driver.and_then(|driver| root.link(&driver).ok());
    let driver = driver.and_then(|driver| Some(driver.rsplit_once('/')?.1.to_owned()));
    Ok(BusSeen { answers: !is_read || registers != [0xff; 4], driver })
}

/// Nothing where there is no library, or no driver for it.
fn ask(root: &Root) -> Option<NvmlSeen> {
    let (path, _) = gpu_library(root).ok()??;
    gpu_module(root).ok()??;
    root.target(&AbsPath::literal(CONTROL)).ok()??;
    let nvml = match Nvml::builder().lib_path(root.outside(&path).as_os_str()).init() {
        Ok(nvml) => nvml,
        Err(NvmlError::LibRmVersionMismatch) => return Some(NvmlSeen::OtherVersion),
        Err(error) => return Some(NvmlSeen::Failed(error.to_string())),
    };
    let addresses = root.names(DRIVEN).ok()?.into_iter();
    Some(NvmlSeen::Gpus(addresses.map(|address| ask_gpu(&nvml, address)).collect()))
}

fn ask_gpu(nvml: &Nvml, address: String) -> (String, Result<GpuSeen, GpuFailure>) {
    let answer = nvml.device_by_pci_bus_id(address.as_str()).and_then(|gpu| tell(&gpu));
    let answer = answer.map_err(|error| match error {
        NvmlError::GpuLost => GpuFailure::Lost,
        other => GpuFailure::Other(other.to_string()),
    });
    (address, answer)
}

/// What it does not know, or does not want to say, is nothing; only that it is lost ends the look.
fn tell(gpu: &Device<'_>) -> Result<GpuSeen, NvmlError> {
    let rows = known(gpu.field_values_for(&[REMAPPED_PENDING, REMAPPED_FAILURE]))?;
    // NVML chooses the type for each field: driver 580 gives these as 64 bits.
    let row = |index: usize| match rows.as_ref()?.get(index)?.as_ref().ok()?.value.as_ref().ok()? {
        SampleValue::U32(value) => Some(*value != 0),
        SampleValue::U64(value) => Some(*value != 0),
        SampleValue::I64(value) => Some(*value != 0),
        SampleValue::F64(_) => None,
    };
    let reasons = known(gpu.current_throttle_reasons())?;
    let slowed = reasons.map(|reasons| {
        SLOWED.into_iter().filter(|(reason, _)| reasons.contains(*reason)).map(|(_, why)| why).collect()
    });
    Ok(GpuSeen { remap_pending: row(0), remap_failed: row(1), slowed })
}

fn known<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Err(NvmlError::GpuLost) => Err(NvmlError::GpuLost),
        other => Ok(other.ok()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    const EXPECTED: GpusExpected = GpusExpected { count: 1, driver: true, switched: false };

    #[test]
    fn what_is_on_the_bus_and_answers_is_told_apart_from_what_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let put = |path: &str, bytes: &[u8]| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        assert!(look(&root, EXPECTED).unwrap().on_bus.is_empty());
        // Of the second Hyper-V's bus still knows who it was.
        let there = [0xde, 0x10, 0x35, 0x23, 0x06, 0x00, 0x10, 0x00];
        let gone = [0xde, 0x10, 0x35, 0x23, 0xff, 0xff, 0xff, 0xff];
        for (name, config) in [("0001:00:00.0", there), ("0002:00:00.0", gone)] {
            put(&format!("sys/bus/pci/devices/{name}/vendor"), b"0x10de\n");
            put(&format!("sys/bus/pci/devices/{name}/class"), b"0x030200\n");
            put(&format!("sys/bus/pci/devices/{name}/config"), &config);
        }
        let driver = directory.path().join("sys/bus/pci/devices/0001:00:00.0/driver");
        std::os::unix::fs::symlink("../../../bus/pci/drivers/nvidia", driver).unwrap();
        put("sys/module/nvidia/version", b"580.159.04\n");
        put("proc/driver/nvidia/gpus/0001:00:00.0/information", b"");
        put("usr/lib64/libnvidia-ml.so.570.86.15", b"");
        let seen = look(&root, EXPECTED).unwrap();
        let wanted = [
            ("0001:00:00.0".to_owned(), BusSeen { answers: true, driver: Some("nvidia".to_owned()) }),
            ("0002:00:00.0".to_owned(), BusSeen { answers: false, driver: None }),
        ];
        assert_eq!(seen.on_bus, wanted.into());
        assert_eq!(seen.driven, Some(1));
        assert_eq!((seen.module.as_deref(), seen.library.as_deref()), (Some("580.159.04"), Some("570.86.15")));
    }

    #[test]
    fn only_a_driver_with_its_library_is_asked_and_a_library_that_is_none_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let put = |path: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "no library").unwrap();
        };
        for file in ["usr/lib64/libnvidia-ml.so.570.86.15", "sys/module/nvidia/version", "dev/nvidiactl"] {
            assert_eq!(ask(&root), None);
            put(file);
        }
        assert!(matches!(ask(&root), Some(NvmlSeen::Failed(_))));
    }

    fn note(text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}"); // nobody listens: nobody needs to know
    }

    #[test]
    fn real_gpus_are_well_and_cost_little() {
        let root = Root::open("/".as_ref()).unwrap();
        let module = gpu_module(&root).unwrap().filter(|_| !gpus(&root).unwrap().is_empty());
        let Some(module) = module else { return note("SKIPPED: no NVIDIA GPU with a driver here") };
        let seen = look(&root, EXPECTED).unwrap();
        note(&format!("{seen:?}"));
        let nvidia = Some("nvidia".to_owned());
        assert!(seen.on_bus.values().all(|one| one.answers && one.driver == nvidia), "{seen:?}");
        assert_eq!((seen.driven, seen.library), (Some(seen.on_bus.len()), Some(module)));
        let own = || Root::open("/".as_ref()).unwrap();
        let resident_kib = || {
            let status = own().read_text("/proc/self/status").unwrap().unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let open_devices = || {
            let files = fs::read_dir("/proc/self/fd").unwrap().filter_map(|file| fs::read_link(file.ok()?.path()).ok());
            files.filter(|file| file.starts_with("/dev") && file.to_string_lossy().contains("nvidia")).count()
        };
        let before = resident_kib();
        let mut took = Vec::new();
        for round in 0..200 {
            let start = Instant::now();
            let answer = ask(&root);
            took.push(start.elapsed());
            assert!(answer.as_ref().is_some_and(is_well), "{answer:?}");
            let Some(NvmlSeen::Gpus(gpus)) = &answer else { unreachable!() };
            assert!(gpus.keys().eq(seen.on_bus.keys()), "{gpus:?}");
            if [0, 9, 99, 199].contains(&round) {
                note(&format!("after {} looks: {} KiB more resident; {answer:?}", round + 1, resident_kib() - before));
            }
        }
        assert_eq!(open_devices(), 0, "who holds a GPU keeps others from resetting it");
        took.sort_unstable();
        note(&format!("a look: {:?} in the middle, {:?} at most", took[100], took[199]));
    }
}
