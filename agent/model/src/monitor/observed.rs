//! What the host saw in one sweep, as plain data. A part that was not looked at in a sweep is absent.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::kernel_line::KernelLine;
use crate::facts::Certificate;

/// One sweep.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// When.
    pub tick: Tick,
    /// How the boot of this boot of the machine went.
    pub boot: Option<BootSeen>,
    /// Units by name, as PID 1 sees them.
    pub units: BTreeMap<String, Result<UnitSeen, String>>,
    /// Main processes of units, by the unit's name.
    pub processes: BTreeMap<String, ProcessSeen>,
    /// kubelet's `/healthz`.
    pub kubelet: Option<Answer>,
    /// containerd's answer to CRI's Version.
    pub runtime: Option<Answer>,
    /// The conditions in containerd's answer to CRI's Status.
    pub runtime_conditions: Option<Vec<RuntimeCondition>>,
    /// What the snapshotter of artifact streaming does instead of answering; nothing, once containerd does not need it any more.
    pub snapshotter: Option<Result<(), String>>,
    /// containerd's images, by its own books and by what it lists; looked at only while the snapshotter answers.
    pub images: Option<ImagesSeen>,
    /// Which device of a streamed image gives no sector, and what it does instead.
    pub streamed_devices: Option<Result<(), String>>,
    /// The file system with the caches of streamed images.
    pub streamed_caches: Option<Space>,
    /// File systems that the node cannot do without.
    pub filesystems: Vec<FilesystemSeen>,
    /// NVMe controllers and their state: `live`, `resetting`, `dead`, ...
    pub nvme: BTreeMap<String, String>,
    /// What they say of their own health, those that do.
    pub smart: BTreeMap<String, SmartSeen>,
    /// NVIDIA GPUs as the kernel has them; only where there should be some.
    pub gpus: Option<GpusSeen>,
    /// The same, as NVIDIA's management library has them; only where the driver is the image's, and loaded.
    pub nvml: Option<NvmlSeen>,
    /// Numbers that only grow, by name: what, a slash, of what.
    pub counters: BTreeMap<String, u64>,
    /// What is used of a limit, by name.
    pub limits: BTreeMap<String, Used>,
    /// Which cgroup controllers that kubelet needs the kernel has not; only where it has cgroups of version 2.
    pub missing_controllers: Option<Vec<String>>,
    /// Whether there is a route for what no other route is for; absent where there never was one.
    pub default_route: Option<bool>,
    /// Whether a name server is told of in `/etc/resolv.conf`; absent where there never was one.
    pub name_servers: Option<bool>,
    /// Whether a thread could be started.
    pub canary: Option<Result<(), String>>,
    /// The cgroup that has the most tasks and how many it has, when there is little room for more.
    pub busiest_cgroup: Option<(String, u64)>,
    /// Pressure stall information of the whole machine.
    pub pressure: Option<Pressure>,
    /// The machine's watchdogs, those that count down: their timeouts in seconds. Absent when it was not looked.
    pub watchdogs: Option<Vec<u64>>,
    /// `/proc/sys/kernel/tainted`.
    pub tainted: Option<u64>,
    /// Tasks that have been in uninterruptible sleep since an earlier sweep: name, and for how long.
    pub stuck_tasks: Option<Vec<(String, Duration)>>,
    /// How far our clock is ahead of another one, by that one's name; its resolution is a second.
    pub clock_ahead_seconds: BTreeMap<String, i64>,
    /// kubelet's client certificate.
    pub client_certificate: Option<Certificate>,
    /// What the guard cannot put back.
    pub drift: Option<Vec<String>>,
    /// Where the boot had mounted something that the node lies on, and nothing is mounted now.
    pub unmounted: Option<Vec<String>>,
    /// Where the way to the API server ends: nothing when it is whole.
    pub api_server: Option<Result<(), String>>,
    /// What IMDS announces for this VM.
    pub scheduled_events: Option<Result<Vec<ScheduledEvent>, String>>,
    /// What the kernel said since the last sweep. Evidence; it decides nothing.
    pub kernel_lines: Vec<KernelLine>,
}

/// The time of a sweep, by two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Since the machine started, time in suspend included.
    pub since_boot: Duration,
    /// The wall clock, which may be set.
    pub wall: Timestamp,
    /// How much later than planned this sweep came.
    pub late: Duration,
}

impl Default for Tick {
    fn default() -> Self {
        Self { since_boot: Duration::ZERO, wall: Timestamp::UNIX_EPOCH, late: Duration::ZERO }
    }
}

/// How the boot went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootSeen {
    /// It has not ended, or not begun.
    Running,
    /// It failed: its reason, as `nap-agent reasons` has it.
    Failed(String),
    /// The node has registered.
    Done,
}

/// A unit as systemd sees it. Source: org.freedesktop.systemd1(5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitSeen {
    /// `active`, `activating`, `failed`, ...
    pub active: String,
    /// `running`, `auto-restart`, ...
    pub sub: String,
    /// `success`, `exit-code`, `oom-kill`, ...
    pub result: String,
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessSeen {
    /// Its id.
    pub pid: u32,
    /// `R`, `S`, `D`, `T`, `Z`, ... Source: proc_pid_stat(5).
    pub state: char,
}

/// What came back from a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How long it took, or was waited for.
    pub took: Duration,
    /// Whether it was good.
    pub result: Result<(), NoAnswer>,
}

/// Why there was no good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    /// Nobody listens there.
    Refused(String),
    /// Somebody listens and did not answer in time.
    Late,
    /// It answered badly.
    Bad(String),
}

/// Images of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImagesSeen {
    /// That containerd lists.
    pub listed: usize,
    /// That it has.
    pub stored: usize,
}

/// A condition in containerd's status, such as `NetworkReady`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeCondition {
    /// Its type.
    pub kind: String,
    /// Whether it holds.
    pub status: bool,
    /// Why not, in a word.
    pub reason: String,
    /// Why not, for people.
    pub message: String,
}

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesystemSeen {
    /// The directory by which we know it.
    pub path: String,
    /// It holds `/`.
    pub is_root: bool,
    /// Its size and what is left; absent when it did not say.
    pub space: Option<Space>,
    /// The last write that ended since the last sweep, or one that has not ended for too long.
    pub write: Option<WriteSeen>,
}

/// What is left of a file system, as for a user without privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Its size in bytes.
    pub bytes: u64,
    /// Free bytes.
    pub free_bytes: u64,
    /// Its inodes; 0 where they are made as needed.
    pub inodes: u64,
    /// Free inodes.
    pub free_inodes: u64,
}

/// How a probe's write went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteSeen {
    /// It is on the disk, after this time.
    Done(Duration),
    /// It failed: the name of the error, such as `EROFS`.
    Failed(String),
    /// It has been under way for this long.
    Hanging(Duration),
}

/// What is used of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// How many there are.
    pub count: u64,
    /// How many there can be.
    pub limit: u64,
}

impl Used {
    /// From 0 to 1, and beyond it where a limit came down.
    pub fn share(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
        if self.limit == 0 { 0.0 } else { self.count as f64 / self.limit as f64 }
    }
}

/// Share of the time, in percent, in which tasks waited; over ten seconds. Source: Documentation/accounting/psi.rst.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// Some task for a CPU.
    pub cpu_some: f64,
    /// All tasks for a disk.
    pub io_full: f64,
    /// All tasks for memory.
    pub memory_full: f64,
}

/// GPUs that this node should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpusExpected {
    /// How many.
    pub count: u32,
    /// They are to be used with the driver of the image.
    pub driver: bool,
    /// They are joined by switches, which somebody has to manage.
    pub switched: bool,
}

/// NVIDIA GPUs in `/sys` and `/proc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpusSeen {
    /// What there should be.
    pub expected: GpusExpected,
    /// Those on the PCI bus, by their addresses.
    pub on_bus: BTreeMap<String, BusSeen>,
    /// How many the loaded driver has.
    pub driven: Option<usize>,
    /// The version of the loaded kernel module.
    pub module: Option<String>,
    /// The version of the installed `libnvidia-ml.so`.
    pub library: Option<String>,
}

/// A device on the PCI bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusSeen {
    /// It answers there.
    pub answers: bool,
    /// The kernel's driver that has it.
    pub driver: Option<String>,
}

/// How NVIDIA's management library answered. Source: nvml.h, `nvmlReturn_t`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NvmlSeen {
    /// It has not answered for this long.
    Hanging(Duration),
    /// It is of another version than the driver.
    OtherVersion,
    /// It fails in another way.
    Failed(String),
    /// The GPUs that the driver has, by their PCI addresses; for each that gives no answer why.
    Gpus(BTreeMap<String, Result<GpuSeen, GpuFailure>>),
}

/// A GPU, as it tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GpuSeen {
    /// A row of its memory could not be replaced by a spare one; absent where it has no such rows.
    pub remap_failed: Option<bool>,
    /// A row of its memory waits for a reset to be replaced.
    pub remap_pending: Option<bool>,
    /// What slows its clocks down that should not; absent when it does not say.
    pub slowed: Option<Vec<&'static str>>,
}

/// Why a GPU gives no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuFailure {
    /// It is off the bus, or otherwise out of reach.
    Lost,
    /// Anything else.
    Other(String),
}

/// What an NVMe controller says of its own health. Source: NVM Express base specification, SMART / Health Information log page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmartSeen {
    /// A bit for each thing that is wrong.
    pub critical_warning: u8,
    /// How often its media lost data.
    pub media_errors: u64,
}

/// What Azure will do to the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduledEvent {
    /// Its id, from IMDS.
    pub id: String,
    /// `Preempt`, `Freeze`, `Reboot`, `Redeploy` or `Terminate`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Not before this time; absent once it has started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// `Platform` or `User`.
    pub source: String,
    /// It has begun.
    pub has_started: bool,
}
