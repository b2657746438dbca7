//! Local disks: fast when they are ours, untouched when they are not.
//!
//! Three guards stand before the first byte that is written to a disk. **Identity**: [`Disk::is_local`], by what the controller is and
//! never by name, size or place. **Emptiness**: the disk is blank, or carries a UUID that we noted, on the OS disk of this very VM,
//! before we wrote it there. **Exclusivity**: nobody has it open, mounted, or in an array or mapping; the host checks that again at the
//! last moment, under a lock, with the other two. One disk that does not pass keeps all of them from being touched, because whoever
//! owns one may be about to take the others, and the node comes up on its OS disk.
//!
//! The UUIDs are derived from VM, boot and disk, so the same facts give the same plan, and no two incarnations of a disk share one: an
//! array made again over old members shows the file system that was on it before, and only the UUID tells that it is not ours.
//!
//! A single disk carries its file system itself. Several become RAID0 with chunks of 256 KiB: the largest with which XFS keeps
//! log stripes. mdadm's own file system of choice matters to nobody else, so there is no partition table.
//!
//! systemd mounts: it orders what comes after, unmounts at shutdown, and shows people what is where. The units are started by the
//! boot, each time, never by systemd itself: after a redeployment the same OS disk meets blank disks.

use std::collections::BTreeSet;

use serde::Serialize;

use super::credentials::KUBELET_KEYS;
use super::resource::{AbsPath, Content as Text, Digest, Readiness, Stage, Step, Want, public_file};
use super::system::Swap;
use crate::config::{LocalDisks as Wish, NodeConfig, Use};
use crate::facts::Facts;
use crate::facts::disks::{Disk, DiskRecord, Format, Phase, Transport, VolumeRecord};
use crate::facts::superblock::{ARRAY_MEMBER, Content, Signature};
use crate::os::{MDADM, MKFS_EXT4, MKFS_XFS};

/// Where the file system over the local disks is mounted, or the directory of those of `mount`.
pub const EPHEMERAL: &str = "/var/lib/ephemeral";

/// Label of every file system of ours, and the start of every array's name, for people.
pub const LABEL: &str = "nap-local";

/// Chunk of an array, in KiB. mdadm's 512 KiB pushes XFS to a 32 KiB log stripe.
pub const CHUNK_KIB: u64 = 256;

/// What ours have before this offset is a superblock; behind it may be anybody's data. Where md's data begins is far behind.
const SUPERBLOCKS_END: u64 = 8192;

/// Share of the advertised size that kubelet's disk must have: file systems keep some for themselves.
const ADVERTISED_PERCENT: u64 = 95;

const GIB: u64 = 1024 * 1024 * 1024;

/// The units of `mount`, one a disk.
const NUMBERED: [(&str, &str); 16] = [
    ("var-lib-ephemeral-0.mount", "/var/lib/ephemeral/0"),
    ("var-lib-ephemeral-1.mount", "/var/lib/ephemeral/1"),
    ("var-lib-ephemeral-2.mount", "/var/lib/ephemeral/2"),
    ("var-lib-ephemeral-3.mount", "/var/lib/ephemeral/3"),
    ("var-lib-ephemeral-4.mount", "/var/lib/ephemeral/4"),
    ("var-lib-ephemeral-5.mount", "/var/lib/ephemeral/5"),
    ("var-lib-ephemeral-6.mount", "/var/lib/ephemeral/6"),
    ("var-lib-ephemeral-7.mount", "/var/lib/ephemeral/7"),
    ("var-lib-ephemeral-8.mount", "/var/lib/ephemeral/8"),
    ("var-lib-ephemeral-9.mount", "/var/lib/ephemeral/9"),
    ("var-lib-ephemeral-10.mount", "/var/lib/ephemeral/10"),
    ("var-lib-ephemeral-11.mount", "/var/lib/ephemeral/11"),
    ("var-lib-ephemeral-12.mount", "/var/lib/ephemeral/12"),
    ("var-lib-ephemeral-13.mount", "/var/lib/ephemeral/13"),
    ("var-lib-ephemeral-14.mount", "/var/lib/ephemeral/14"),
    ("var-lib-ephemeral-15.mount", "/var/lib/ephemeral/15"),
];

const EPHEMERAL_UNIT: &str = "var-lib-ephemeral.mount";

/// containerd's directory where nobody chose another.
pub const CONTAINERD_DIRECTORY: &str = "/var/lib/containerd";

/// A directory that can lie on the local disks.
struct Place {
    of: Use,
    name: &'static str,
    path: &'static str,
    unit: &'static str,
    /// Directory below the local disks' mount point.
    below: &'static str,
    mode: u32,
}

const PLACES: [Place; 3] = [
    Place {
        of: Use::Kubelet,
        name: "kubelet",
        path: "/var/lib/kubelet",
        unit: "var-lib-kubelet.mount",
        below: "kubelet",
        mode: 0o755,
    },
    Place {
        of: Use::Containerd,
        name: "containerd",
        path: CONTAINERD_DIRECTORY,
        unit: "var-lib-containerd.mount",
        below: "containerd",
        mode: 0o711,
    },
    Place {
        of: Use::PodLogs,
        name: "pod-logs",
        path: "/var/log/pods",
        unit: "var-log-pods.mount",
        below: "pods",
        mode: 0o755,
    },
];

/// kubelet's keys stay on the OS disk, where they were: a node whose local disks come back blank, or not at all, can still say who it is.
const KEYS_UNIT: &str = "var-lib-kubelet-pki.mount";

/// The OS disk's own `/var/lib`, without what is mounted in it: the way to what kubelet's directory covers.
const UNCOVERED: &str = "/run/nap-agent/lib";
const UNCOVERED_UNIT: &str = "run-nap\\x2dagent-lib.mount";
const UNCOVERED_KEYS: &str = "/run/nap-agent/lib/kubelet/pki";

/// All our mount units, in an order in which they can be stopped.
pub fn disk_units() -> impl Iterator<Item = &'static str> {
    let places = PLACES.iter().map(|place| place.unit);
    let numbered = NUMBERED.iter().map(|(unit, _)| *unit);
    [KEYS_UNIT, UNCOVERED_UNIT].into_iter().chain(places).chain(numbered).chain([EPHEMERAL_UNIT])
}

/// Start of the names of the steps that mount, each with its unit behind it.
const MOUNTED: &str = "disks.mounted.";

/// Where a step mounts something that the node itself lies on; nothing for other steps, and for the disks of `mount`, which are their owner's.
pub fn node_mount_point(step: &str) -> Option<&'static str> {
    let unit = step.strip_prefix(MOUNTED)?;
    let places = PLACES.iter().map(|place| (place.unit, place.path));
    let mut all = places.chain([(KEYS_UNIT, KUBELET_KEYS), (EPHEMERAL_UNIT, EPHEMERAL)]);
    all.find_map(|(of, path)| (of == unit).then_some(path))
}

const SWAP: Swap = Swap { file: "/var/lib/ephemeral/swapfile", unit: "var-lib-ephemeral-swapfile.swap" };

/// Is there when containerd may start: its directory is where this boot wants it.
const READY: &str = "/run/nap-agent/disks-ready";

/// A file system on local disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// The VM's id, for the record.
    pub vm_id: String,
    /// Its disks, in order.
    pub members: Vec<Member>,
    /// UUID of the array; absent for a single disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub array: Option<String>,
    /// Its format.
    pub format: Format,
    /// UUID of the file system.
    pub file_system: String,
    /// Whether it may be made; otherwise it is there already, and only an array has to be put together.
    pub make: bool,
    /// UUIDs of ours that it may overwrite.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<String>,
}

/// One disk of a [`Volume`]. The kernel's name is none of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Serial number.
    pub serial: String,
    /// Size in bytes.
    pub bytes: u64,
}

impl Volume {
    /// What is noted of it, so far or at last.
    pub fn record(&self, phase: Phase) -> VolumeRecord {
        VolumeRecord {
            phase,
            array: self.array.clone(),
            format: self.format,
            file_system: self.file_system.clone(),
            members: self.members.iter().map(|member| member.serial.clone()).collect(),
            replaces: match phase {
                Phase::Creating => self.replaces.clone(),
                Phase::Ready => Vec::new(),
            },
        }
    }

    /// Whether a disk with this content may be overwritten by it.
    pub fn may_overwrite(&self, content: Option<&Content>) -> bool {
        let own = self.array.iter().chain([&self.file_system]).chain(&self.replaces);
        let own: Vec<&str> = own.map(String::as_str).collect();
        match content {
            Some(Content::Blank) => true,
            Some(content @ Content::Occupied { .. }) => carries(content, |uuid| own.contains(&uuid)),
            Some(Content::Unreadable { .. }) | None => false,
        }
    }

    /// Whether a disk with this content is its.
    pub fn is_on(&self, content: Option<&Content>) -> bool {
        let uuid = self.array.as_ref().unwrap_or(&self.file_system);
        content.is_some_and(|content| carries(content, |found| found == uuid))
    }
}

/// Whether the superblocks at the start of a disk are all ours, and there is one.
fn carries(content: &Content, ours: impl Fn(&str) -> bool) -> bool {
    let Content::Occupied { found } = content else { return false };
    let is_ours = |signature: &Signature| {
        let kinds = [ARRAY_MEMBER, Format::Xfs.name(), Format::Ext4.name()];
        kinds.contains(&signature.kind.as_str()) && signature.uuid.as_deref().is_some_and(&ours)
    };
    let mut superblocks = found.iter().filter(|signature| signature.offset < SUPERBLOCKS_END).peekable();
    superblocks.peek().is_some() && superblocks.all(is_ours)
}

/// What becomes of the local disks.
pub(super) struct LocalDisks {
    wanted: bool,
    volumes: Vec<Volume>,
    /// Where directories go.
    base: Option<AbsPath>,
    moved: BTreeSet<Use>,
    notes: Vec<String>,
}

/// The disks as they are to be used.
enum Layout {
    Nothing,
    Volumes(Vec<Volume>),
    /// The temporary disk, mounted by cloud-init; and its size.
    Temporary(String, u64),
}

impl LocalDisks {
    pub(super) fn new(config: &NodeConfig, facts: &Facts) -> Self {
        let wanted = config.storage.local_disks != Wish::None;
        let mut disks = Self { wanted, volumes: Vec::new(), base: None, moved: BTreeSet::new(), notes: Vec::new() };
        if !wanted {
            return disks;
        }
        let layout = match &facts.local_disks_failure {
            Some(why) => Err(format!("LocalDiskFailed: {why}")),
            None => layout(config.storage.local_disks, facts),
        };
        let bytes = match layout {
            Ok(Layout::Nothing) => return disks,
            Ok(Layout::Volumes(volumes)) => {
                let bytes = volumes.iter().flat_map(|volume| &volume.members).map(|member| member.bytes).sum();
                disks.volumes = volumes;
                if config.storage.local_disks != Wish::Mount {
                    disks.base = Some(AbsPath::literal(EPHEMERAL));
                }
                bytes
            }
            Ok(Layout::Temporary(mount_point, bytes)) => {
                // A mount point is a path; one that is none of ours is no reason to fail.
                disks.base = AbsPath::try_from(format!("{}/aks", mount_point.trim_end_matches('/')).as_str()).ok();
                bytes
            }
            Err(note) => {
                disks.notes.push(format!("{note}; the node uses its OS disk"));
                return disks;
            }
        };
        if disks.base.is_some() {
            disks.moved = config.storage.uses.clone();
            disks.keep_back(config, facts, bytes);
        }
        disks
    }

    /// Takes out what must not go there.
    fn keep_back(&mut self, config: &NodeConfig, facts: &Facts, bytes: u64) {
        let advertised = config.claims.os_disk_gb.or(facts.instance.as_ref().and_then(|instance| instance.os_disk_gb));
        if let Some(gib) = advertised.filter(|gib| bytes < u64::from(*gib) * GIB / 100 * ADVERTISED_PERCENT)
            && self.moved.remove(&Use::Kubelet)
        {
            let have = bytes / GIB;
            self.notes.push(format!(
                "LocalDiskTooSmall: kubelet stays on the OS disk: the provisioner advertised {gib} GiB, the local disks have {have} GiB"
            ));
        }
        if let Some(root) = &config.containerd.root
            && self.moved.remove(&Use::Containerd)
        {
            self.notes.push(format!("containerd stays in {root}, which the configuration chose"));
        }
        let limit = config.storage.copy_limit_bytes;
        if self.moved.contains(&Use::Containerd) && facts.containerd_bytes.is_none_or(|bytes| bytes > limit) {
            self.moved.remove(&Use::Containerd);
            let mib = limit / (1024 * 1024);
            self.notes.push(format!(
                "containerd stays on the OS disk: the image has more than {mib} MiB in its directory (storage.copyLimitMiB)"
            ));
        }
    }

    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Where the swap file goes.
    pub(super) fn swap(&self) -> Swap {
        if self.is_one_file_system() && self.moved.contains(&Use::Swap) { SWAP } else { Swap::ON_ROOT }
    }

    /// Whether the directories go to a file system of ours; not to the temporary disk, and not nowhere.
    fn is_one_file_system(&self) -> bool {
        !self.volumes.is_empty() && self.base.is_some()
    }

    fn has_kubelet(&self) -> bool {
        self.moved.contains(&Use::Kubelet)
    }

    /// From blank disks to directories in their places; none where nobody wants local disks.
    pub(super) fn stages(&self) -> Vec<Stage> {
        let stage = |name, steps| Stage { name, steps };
        let stages = [
            stage("disks", self.made()),
            stage("disks-mount", self.mounted()),
            stage("disks-copy", self.filled()),
            stage("disks-bind", self.bound()),
            stage("disks-ready", self.ready()),
        ];
        stages.into_iter().filter(|stage| !stage.steps.is_empty()).collect()
    }

    /// Unit files, and the file systems themselves.
    fn made(&self) -> Vec<Step> {
        let mut steps = self.unit_files();
        for (number, volume) in self.volumes.iter().enumerate() {
            let id = if self.volumes.len() == 1 { "disks.volume".to_owned() } else { format!("disks.volume.{number}") };
            let why = "the node class wants its local disks used";
            steps.push(Step::new(id, why, Want::Volume { volume: volume.clone() }).desired());
        }
        steps
    }

    fn unit_files(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.wanted {
            let text = format!(
                "# Written by nap-agent: its directory may be moved first.\n[Unit]\nConditionPathExists={READY}\n"
            );
            let want = public_file("/etc/systemd/system/containerd.service.d/20-nap-agent-disks.conf", text);
            let why = "containerd must not fill a directory that is about to be covered";
            steps.push(Step::new("disks.containerd-waits", why, want).desired());
        }
        let mounts = self.mounts().map(|(unit, at, volume)| {
            let what = format!("/dev/disk/by-uuid/{}", volume.file_system);
            (unit, mount_unit(&what, at, volume.format.name(), volume.format.mount_options()))
        });
        let binds = self.places().map(|(place, source)| (place.unit, bind_unit(source.as_str(), place.path, "bind")));
        let keys = [
            // Private, or what is mounted over kubelet's directory would show here as well.
            (UNCOVERED_UNIT, bind_unit("/var/lib", UNCOVERED, "bind,private")),
            (KEYS_UNIT, bind_unit(UNCOVERED_KEYS, KUBELET_KEYS, "bind")),
        ];
        let keys = keys.into_iter().filter(|_| self.has_kubelet());
        for (unit, text) in mounts.chain(binds).chain(keys) {
            let path = AbsPath::try_from(format!("/etc/systemd/system/{unit}").as_str());
            let path = path.expect("unit names have no slash");
            let want = Want::File { path, mode: 0o644, content: Text::public(text) };
            steps.push(Step::new(format!("disks.unit.{unit}"), "systemd mounts it", want).desired());
        }
        steps
    }

    /// Our file systems, by unit and mount point.
    fn mounts(&self) -> impl Iterator<Item = (&'static str, &'static str, &Volume)> {
        let is_one = self.is_one_file_system();
        let at = move |number: usize| if is_one { (EPHEMERAL_UNIT, EPHEMERAL) } else { NUMBERED[number] };
        self.volumes.iter().enumerate().take(NUMBERED.len()).map(move |(number, volume)| {
            let (unit, path) = at(number);
            (unit, path, volume)
        })
    }

    /// The directories that move, with their new places.
    fn places(&self) -> impl Iterator<Item = (&'static Place, AbsPath)> {
        let base = self.base.clone();
        PLACES.iter().filter(|place| self.moved.contains(&place.of)).filter_map(move |place| {
            let path = format!("{}/{}", base.as_ref()?, place.below);
            Some((place, AbsPath::try_from(path.as_str()).ok()?))
        })
    }

    fn mounted(&self) -> Vec<Step> {
        let why = "what goes to the local disks needs them mounted";
        self.mounts().map(|(unit, _, _)| self.unit_step(unit, why)).collect()
    }

    /// What is in the directories now goes along, once.
    fn filled(&self) -> Vec<Step> {
        let copied = self.places().map(|(place, source)| {
            let why = "what the image has there goes along";
            let from = AbsPath::literal(place.path);
            // Keys that are on the OS disk for good must not be on a local disk as well.
            let without = (place.of == Use::Kubelet).then_some("pki");
            let stopped = (place.of == Use::Containerd).then_some("containerd.service");
            let want = Want::Copied { from, to: source, mode: place.mode, without, stopped };
            Step::new(format!("disks.copy.{}", place.name), why, want).desired()
        });
        copied.collect()
    }

    fn bound(&self) -> Vec<Step> {
        let places =
            self.places().map(|(place, _)| self.unit_step(place.unit, "programs and people find it at its old path"));
        let uncovered = self.has_kubelet().then(|| self.unit_step(UNCOVERED_UNIT, "the OS disk has kubelet's keys"));
        places.chain(uncovered).collect()
    }

    /// Last: kubelet's keys back to their place, and containerd may start.
    fn ready(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.has_kubelet() {
            steps.push(self.unit_step(KEYS_UNIT, "a node whose local disks come back blank must still have its keys"));
        }
        if self.wanted {
            let want = public_file(READY, "The directories of containerd and kubelet are in their places.\n");
            steps.push(Step::new("disks.ready", "containerd waits for it", want));
        }
        steps
    }

    fn unit_step(&self, name: &'static str, why: &'static str) -> Step {
        let files = self.unit_files();
        let id = format!("disks.unit.{name}");
        let inputs = Digest::of_files(files.iter().filter(|step| step.id == id));
        let want = Want::Unit { name, inputs, readiness: Readiness::Active };
        Step::new(format!("{MOUNTED}{name}"), why, want).desired()
    }
}

/// A disk as a person wants to see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskUse {
    /// The kernel's name, now.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Model.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// What it is used for, or why not.
    pub purpose: String,
}

/// Each disk, what for, and why not.
pub fn disk_uses(config: &NodeConfig, facts: &Facts) -> Vec<DiskUse> {
    let local = LocalDisks::new(config, facts);
    let describe = |disk: &Disk| DiskUse {
        name: disk.name.clone(),
        bytes: disk.bytes,
        model: disk.model.clone(),
        serial: disk.serial.clone(),
        purpose: local.purpose(disk),
    };
    facts.disks.iter().map(describe).collect()
}

impl LocalDisks {
    fn purpose(&self, disk: &Disk) -> String {
        if disk.system {
            return "the system is on it".to_owned();
        }
        let in_use = || match disk.used_by.as_slice() {
            [] => "nobody uses it".to_owned(),
            users => format!("used by {}", users.join(", ")),
        };
        if disk.temporary {
            let ours = self.base.as_ref().filter(|_| !self.is_one_file_system());
            return format!("temporary disk; {}", ours.map_or_else(in_use, |base| self.carries(base)));
        }
        if !disk.is_local() {
            return format!("not a local disk, so never touched; {}", in_use());
        }
        let mut mounts = self.mounts();
        let mine = mounts.find(|(_, _, volume)| volume.members.iter().any(|member| member.serial == disk.serial));
        match mine {
            Some((_, at, volume)) => {
                let part = if volume.array.is_some() { "part of an array" } else { "all" };
                let carries =
                    self.base.as_ref().map_or("for whoever looks for it".to_owned(), |base| self.carries(base));
                format!("local; {part} of {} at {at}, {carries}", volume.format.name())
            }
            None if !self.wanted => "local, left raw: storage.localDisks is none".to_owned(),
            None => format!("local, not used: {}", self.notes.first().map_or("it is not needed", String::as_str)),
        }
    }

    fn carries(&self, base: &AbsPath) -> String {
        let names: Vec<_> =
            PLACES.iter().filter(|place| self.moved.contains(&place.of)).map(|place| place.path).collect();
        match names.as_slice() {
            [] => format!("nothing goes to {base}"),
            names => format!("has {}", names.join(", ")),
        }
    }
}

/// Mounted for the boot by the boot; a private mount, so that what pods mount below a directory bound from it does not show twice.
fn mount_unit(what: &str, at: &str, format: &str, options: &str) -> String {
    format!(
        "# Written by nap-agent.\n[Unit]\nDescription=Local disks of this AKS node at {at}\n\n\
         [Mount]\nWhat={what}\nWhere={at}\nType={format}\nOptions={options}\n"
    )
}

fn bind_unit(what: &str, at: &str, options: &str) -> String {
    format!(
        "# Written by nap-agent.\n[Unit]\nDescription={what} at {at}\n\n\
         [Mount]\nWhat={what}\nWhere={at}\nType=none\nOptions={options}\n"
    )
}

/// Read-ahead above this, in KiB, was chosen by nobody: the kernel takes twice what a disk calls its best size, and remote NVMe disks
/// call 32 MiB so. Source: Azure/AKS#5743.
pub const MAX_READ_AHEAD_KIB: u64 = 4096;
/// Read-ahead of disks that had more, in KiB: of the OS disk, and of others and arrays.
const OS_READ_AHEAD_KIB: u64 = 256;
/// The same for the others.
pub const READ_AHEAD_KIB: u64 = 128;

/// Time that a remote NVMe disk gets for a request: the host tries again for two minutes. Source: azure-vm-utils, udev rules.
const REMOTE_TIMEOUT_MS: u64 = 240_000;

/// Requests that queue for a SCSI OS disk. Source: AgentBaker, `disk_queue.sh`; NVMe has queues of its own, one a processor.
const OS_REQUESTS: u64 = 128;

/// How the kernel queues requests for the disks that are not ours.
pub(super) fn queues(facts: &Facts) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut set = |disk: &Disk, file: &str, value: u64, why| {
        let path = format!("/sys/block/{}/queue/{file}", disk.name);
        let Ok(path) = AbsPath::try_from(path.as_str()) else { return };
        let want = Want::Choice { path, value: value.to_string() };
        steps.push(Step::new(format!("disks.queue.{}.{file}", disk.name), why, want).desired());
    };
    for disk in &facts.disks {
        let queue = disk.queue;
        if disk.is_accelerator() && queue.read_ahead_kib.is_some_and(|kib| kib > MAX_READ_AHEAD_KIB) {
            let kib = if disk.system { OS_READ_AHEAD_KIB } else { READ_AHEAD_KIB };
            set(disk, "read_ahead_kb", kib, "reading ahead tens of MiB makes every small read slow");
        }
        if disk.is_accelerator() && queue.io_timeout_ms.is_some_and(|limit| limit < REMOTE_TIMEOUT_MS) {
            set(disk, "io_timeout", REMOTE_TIMEOUT_MS, "Azure's storage may take two minutes to come back");
        }
        let is_scsi = disk.transport == Transport::Scsi;
        if disk.system && is_scsi && queue.requests.is_some_and(|requests| requests != OS_REQUESTS) {
            set(disk, "nr_requests", OS_REQUESTS, "AKS' nodes queue so many");
        }
    }
    steps
}

fn layout(wish: Wish, facts: &Facts) -> Result<Layout, String> {
    let mut local: Vec<&Disk> = facts.disks.iter().filter(|disk| disk.is_local()).collect();
    local.sort_by(|a, b| a.order().cmp(&b.order()));
    match wish {
        Wish::None => Ok(Layout::Nothing),
        Wish::Temporary => temporary(facts),
        Wish::Auto if local.is_empty() => match facts.disks.iter().any(|disk| disk.temporary) {
            true => temporary(facts),
            false => Ok(Layout::Nothing),
        },
        Wish::Raid0 | Wish::Mount if local.is_empty() => Ok(Layout::Nothing),
        Wish::Auto | Wish::Raid0 | Wish::Mount => volumes(wish, &local, facts).map(Layout::Volumes),
    }
}

/// cloud-init made a file system on it and mounted it; we never write to it but through that.
fn temporary(facts: &Facts) -> Result<Layout, String> {
    let Some(disk) = facts.disks.iter().find(|disk| disk.temporary) else {
        return Err("LocalDiskMissing: this VM has no temporary disk".to_owned());
    };
    match disk.used_by.iter().find(|user| user.starts_with('/')) {
        Some(mount_point) => Ok(Layout::Temporary(mount_point.clone(), disk.bytes)),
        None => Err(format!("LocalDiskMissing: nobody has mounted the temporary disk {}", disk.name)),
    }
}

fn volumes(wish: Wish, local: &[&Disk], facts: &Facts) -> Result<Vec<Volume>, String> {
    let record = facts.disk_record.as_ref().filter(|record| record.vm_id == facts.dmi.product_uuid);
    refuse_without_identity(local)?;
    refuse_foreign(local, record)?;
    if let Some(volumes) = record.and_then(|record| whole(record, local)) {
        return Ok(volumes);
    }
    let format = format(facts)?;
    let replaces: Vec<String> =
        record.iter().flat_map(|record| &record.volumes).flat_map(VolumeRecord::uuids).map(str::to_owned).collect();
    let has_mdadm = facts.present.contains(MDADM);
    let groups: Vec<Vec<&Disk>> = match wish {
        Wish::Mount => local.iter().take(NUMBERED.len()).map(|disk| vec![*disk]).collect(),
        _ if local.len() == 1 || has_mdadm => vec![local.to_vec()],
        Wish::Auto => local.iter().max_by_key(|disk| disk.bytes).map(|disk| vec![*disk]).into_iter().collect(),
        _ => return Err(format!("LocalDiskToolMissing: {} disks need {MDADM}, which this image lacks", local.len())),
    };
    let make = |(number, disks): (usize, Vec<&Disk>)| {
        let uuid = |kind: &str| {
            let serials = disks.iter().map(|disk| disk.serial.clone());
            let parts = [kind.to_owned(), facts.dmi.product_uuid.clone(), facts.boot_id.clone(), number.to_string()];
            uuid_of(&Digest::of_parts(parts.into_iter().chain(serials)))
        };
        Volume {
            vm_id: facts.dmi.product_uuid.clone(),
            array: (disks.len() > 1).then(|| uuid("array")),
            file_system: uuid("file system"),
            format,
            make: true,
            replaces: replaces.clone(),
            members: disks.iter().map(|disk| member(disk)).collect(),
        }
    };
    Ok(groups.into_iter().enumerate().map(make).collect())
}

fn member(disk: &Disk) -> Member {
    Member { serial: disk.serial.clone(), bytes: disk.bytes }
}

/// A disk that cannot be told from another cannot be recognised tomorrow.
fn refuse_without_identity(local: &[&Disk]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let bad = local.iter().find(|disk| disk.serial.is_empty() || !seen.insert(disk.serial.as_str()));
    bad.map_or(Ok(()), |disk| {
        Err(format!(
            "LocalDiskUnidentified: the serial number of {} ({:?}) names no single disk",
            disk.name, disk.serial
        ))
    })
}

/// The second and third guard: one foreign disk, and all are left alone.
fn refuse_foreign(local: &[&Disk], record: Option<&DiskRecord>) -> Result<(), String> {
    let ours = |uuid: &str| {
        record.is_some_and(|record| record.volumes.iter().any(|volume| volume.uuids().any(|own| own == uuid)))
    };
    let mut foreign = Vec::new();
    for disk in local {
        let is_ours = disk.content.as_ref().is_some_and(|content| carries(content, ours));
        let why = match &disk.content {
            None => Some("was not looked at".to_owned()),
            _ if is_ours => None,
            Some(Content::Blank) if disk.used_by.is_empty() => None,
            Some(Content::Blank) => Some(format!("is in use: {}", disk.used_by.join(", "))),
            Some(content) => Some(content.describe()),
        };
        foreign.extend(why.map(|why| format!("{} (serial {}) {why}", disk.name, disk.serial)));
    }
    if foreign.is_empty() {
        return Ok(());
    }
    Err(format!("LocalDiskForeignData: no local disk is touched, because {}", foreign.join("; ")))
}

/// What is noted as ready and is all there stays as it is.
fn whole(record: &DiskRecord, local: &[&Disk]) -> Option<Vec<Volume>> {
    let volume = |noted: &VolumeRecord| {
        let disks = noted.members.iter().map(|serial| local.iter().find(|disk| disk.serial == *serial).copied());
        let disks = disks.collect::<Option<Vec<&Disk>>>()?;
        let volume = Volume {
            vm_id: record.vm_id.clone(),
            members: disks.iter().map(|disk| member(disk)).collect(),
            array: noted.array.clone(),
            format: noted.format,
            file_system: noted.file_system.clone(),
            make: false,
            replaces: Vec::new(),
        };
        let is_there = noted.phase == Phase::Ready && disks.iter().all(|disk| volume.is_on(disk.content.as_ref()));
        is_there.then_some(volume)
    };
    if record.volumes.is_empty() {
        return None;
    }
    record.volumes.iter().map(volume).collect()
}

/// XFS where image and kernel have it, since it makes a file system of any size at once; else ext4.
fn format(facts: &Facts) -> Result<Format, String> {
    if facts.kernel.xfs && facts.present.contains(MKFS_XFS) {
        Ok(Format::Xfs)
    } else if facts.present.contains(MKFS_EXT4) {
        Ok(Format::Ext4)
    } else {
        Err(format!("LocalDiskToolMissing: the image has neither {MKFS_XFS} nor {MKFS_EXT4}"))
    }
}

/// A UUID of version 8 (RFC 9562) from a digest.
fn uuid_of(digest: &Digest) -> String {
    let digits: Vec<char> = digest.as_str().chars().take(32).collect();
    let part = |range: std::ops::Range<usize>| digits[range].iter().collect::<String>();
    format!("{}-{}-8{}-8{}-{}", part(0..8), part(8..12), part(13..16), part(17..20), part(20..32))
}

#[cfg(test)]
mod tests;
