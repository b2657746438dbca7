//! NVIDIA GPUs: what the kernel has of them, and what they tell of themselves through NVIDIA's management library (NVML).
//!
//! The library is the image's, opened for each look and closed after it: who holds it holds the devices, and then nobody can reset a GPU or
//! change its driver. A GPU that is ill can hold up whoever asks about it, for ever and in the kernel, so each of the two looks has a thread
//! of its own.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nap_model::monitor::{GpuFailure, GpuSeen, GpusExpected, GpusSeen, NvmlSeen};
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

const KERNEL_EVERY: Duration = Duration::from_secs(15);
const NVML_EVERY: Duration = Duration::from_secs(60);
/// What was not well a while ago is looked at as often.
const NVML_AGAIN: Duration = Duration::from_secs(25);
/// Without a persistent driver the first look wakes each GPU, which takes seconds.
const HANGS_AFTER: Duration = Duration::from_secs(30);

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
    kernel: Aside<Result<GpusSeen, FileError>>,
    kernel_turn: Turn,
    nvml: Aside<Option<NvmlSeen>>,
    nvml_turn: Turn,
    suspect_until: Option<Instant>,
    seen: Option<GpusSeen>,
}

impl Gpus {
    pub(super) fn start(root: &Arc<Root>, news: &Arc<Notify>, expected: GpusExpected) -> Option<Self> {
        let of_kernel = Arc::clone(root);
        let kernel = Aside::start("gpus", Arc::clone(news), move || look(&of_kernel, expected));
        let of_nvml = Arc::clone(root);
        let nvml = Aside::start("nvml", Arc::clone(news), move || ask(&of_nvml));
        let (kernel, nvml) = kernel
            .and_then(|kernel| Ok((kernel, nvml?)))
            .map_err(|error| warn!(error = %error, "GPUs are not looked at"))
            .ok()?;
        let (kernel_turn, nvml_turn) = (Turn::every(KERNEL_EVERY), Turn::every(NVML_EVERY));
        Some(Self { kernel, kernel_turn, nvml, nvml_turn, suspect_until: None, seen: None })
    }

    /// The driver has said something.
    pub(super) fn hurry(&mut self) {
        self.kernel_turn.hurry(URGENT_EVERY);
        self.nvml_turn.hurry(URGENT_EVERY);
    }

    /// What came back since. What NVML says comes with what the kernel last had.
    pub(super) fn take(&mut self) -> (Option<GpusSeen>, Option<NvmlSeen>) {
        if self.kernel_turn.has_come() {
            self.kernel.ask();
        }
        if self.nvml_turn.has_come() {
            self.nvml.ask();
        }
        let new = self.kernel.take().and_then(|seen| seen.ok()); // one that goes away while it is read; the next look tells
        if let Some(new) = &new {
            self.seen = Some(new.clone());
        }
        let hangs = || self.nvml.away_for().filter(|away| *away >= HANGS_AFTER).map(NvmlSeen::Hanging);
        let nvml = self.nvml.take().flatten().or_else(hangs);
        let now = Instant::now();
        if nvml.as_ref().is_some_and(|seen| !is_well(seen)) {
            self.suspect_until = Some(now + SUSPECT);
        }
        if nvml.is_some() && self.suspect_until.is_some_and(|until| now < until) {
            self.nvml_turn.by(now + NVML_AGAIN);
        }
        let seen = if nvml.is_some() { self.seen.clone() } else { new };
        (seen, nvml)
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
    let addresses = gpus(root)?.into_iter();
    let on_bus = addresses.map(|address| Ok((answers(root, &address)?, address)));
    let on_bus =
        on_bus.collect::<Result<Vec<_>, FileError>>()?.into_iter().map(|(answers, address)| (address, answers));
    let module = gpu_module(root)?;
    let driven = root.names(DRIVEN)?.len();
    Ok(GpusSeen {
        expected,
        on_bus: on_bus.collect(),
        driven: module.is_some().then_some(driven),
        module,
        library: gpu_library(root)?.map(|(_, version)| version),
    })
}

/// Whether a device gives its vendor's number. Who is off the bus gives ones. Only these four bytes: others may have side effects.
fn answers(root: &Root, address: &str) -> Result<bool, FileError> {
    let Some(space) = root.open_for_reading(&format!("{PCI_DEVICES}/{address}/config"))? else { return Ok(true) };
    let mut vendor = [0; 4];
    Ok(space.read_exact_at(&mut vendor, 0).is_err() || vendor != [0xff; 4])
}

/// Nothing where there is no library.
fn ask(root: &Root) -> Option<NvmlSeen> {
    let (path, _) = gpu_library(root).ok()??;
    let nvml = match Nvml::builder().lib_path(root.outside(&path).as_os_str()).init() {
        Ok(nvml) => nvml,
        Err(NvmlError::DriverNotLoaded) => return Some(NvmlSeen::NoDriver),
        Err(NvmlError::LibRmVersionMismatch) => return Some(NvmlSeen::OtherVersion),
        Err(error) => return Some(NvmlSeen::Failed(error.to_string())),
    };
    Some(match nvml.device_count() {
        Ok(count) => NvmlSeen::Gpus((0..count).map(|index| ask_gpu(&nvml, index)).collect()),
        Err(error) => NvmlSeen::Failed(error.to_string()),
    })
}

type Answer = (String, Result<GpuSeen, GpuFailure>);

fn ask_gpu(nvml: &Nvml, index: u32) -> Answer {
    let unnamed = |error| (format!("index {index}"), Err(failure(error)));
    let gpu = match nvml.device_by_index(index) {
        Ok(gpu) => gpu,
        Err(error) => return unnamed(error),
    };
    match gpu.pci_info() {
        Ok(info) => (address(&info.bus_id), tell(&gpu).map_err(failure)),
        Err(error) => unnamed(error),
    }
}

fn failure(error: NvmlError) -> GpuFailure {
    match error {
        NvmlError::GpuLost => GpuFailure::Lost,
        other => GpuFailure::Other(other.to_string()),
    }
}

/// The kernel's way to write `00000001:00:00.0`.
fn address(bus_id: &str) -> String {
    let bus_id = bus_id.to_ascii_lowercase();
    match bus_id.split_once(':') {
        Some((domain, rest)) if domain.len() == 8 => format!("{}:{rest}", &domain[4..]),
        _ => bus_id,
    }
}

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

/// What an old GPU or library does not know is no failure.
fn known<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(NvmlError::NotSupported | NvmlError::FunctionNotFound | NvmlError::FailedToLoadSymbol(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::Write as _;

    use super::*;

    const EXPECTED: GpusExpected = GpusExpected { count: 1, driver: true };

    #[test]
    fn what_is_on_the_bus_and_answers_is_told_apart_from_what_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let put = |path: &str, bytes: &[u8]| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        assert_eq!(look(&root, EXPECTED).unwrap().on_bus, BTreeMap::new());
        for (name, config) in [("0001:00:00.0", [0xde, 0x10, 0x35, 0x23]), ("0002:00:00.0", [0xff; 4])] {
            put(&format!("sys/bus/pci/devices/{name}/vendor"), b"0x10de\n");
            put(&format!("sys/bus/pci/devices/{name}/class"), b"0x030200\n");
            put(&format!("sys/bus/pci/devices/{name}/config"), &config);
        }
        put("sys/module/nvidia/version", b"580.159.04\n");
        put("proc/driver/nvidia/gpus/0001:00:00.0/information", b"");
        put("usr/lib64/libnvidia-ml.so.570.86.15", b"");
        let seen = look(&root, EXPECTED).unwrap();
        assert_eq!(seen.on_bus, [("0001:00:00.0".to_owned(), true), ("0002:00:00.0".to_owned(), false)].into());
        assert_eq!(seen.driven, Some(1));
        assert_eq!((seen.module.as_deref(), seen.library.as_deref()), (Some("580.159.04"), Some("570.86.15")));
    }

    #[test]
    fn without_a_library_nothing_is_asked_and_one_that_is_none_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert_eq!(ask(&root), None);
        fs::create_dir_all(directory.path().join("usr/lib64")).unwrap();
        fs::write(directory.path().join("usr/lib64/libnvidia-ml.so.570.86.15"), "no library").unwrap();
        assert!(matches!(ask(&root), Some(NvmlSeen::Failed(_))));
    }

    #[test]
    fn addresses_are_the_kernels() {
        assert_eq!(address("00000001:00:00.0"), "0001:00:00.0");
        assert_eq!(address("0000000A:C1:00.0"), "000a:c1:00.0");
        assert_eq!(address("0001:00:00.0"), "0001:00:00.0");
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
        assert!(seen.on_bus.values().all(|answers| *answers), "{seen:?}");
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
