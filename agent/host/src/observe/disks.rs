//! Whole disks: what they are, from sysfs; who uses them; and, of those that are local by identity, what is on them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nap_model::facts::disks::{Disk, Queue, Transport};
use nap_model::facts::superblock::{self, Content};
use nap_model::plan::AbsPath;
use tracing::{debug, warn};

use super::hardware::{SECTOR_BYTES, exists};
use crate::root::{FileError, Root};
use crate::{nvme, persist};

/// Devices that are made of others or of memory, or hold no data of the node.
const NO_DISKS: [&str; 9] = ["loop", "ram", "dm-", "md", "sr", "zram", "nbd", "fd", "mtd"];

/// Vendors of disks that a program in this node makes up (artifact streaming's images).
const MADE_UP: [&str; 2] = ["LIO-ORG", "TCMU"];

/// Where the system itself is.
const SYSTEM: [&str; 4] = ["/", "/boot", "/boot/efi", "/usr"];

/// A Hyper-V controller's disk, by the start of the controller's id and the LUN; any LUN where none is given.
/// Source: azure-vm-utils, udev/80-azure-disk.rules: generation 1 and 2.
const TEMPORARY: [(&str, Option<&str>); 2] =
    [("{00000000-0001-", None), ("{f8b3781a-1e82-4818-a1c3-63d806ec15bb}", Some("1"))];

/// Longest wait for disks; those that are gone for good cost a boot so much.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// How often they are looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// So many looks in a row show the same when they have settled.
const SAME_LOOKS: u32 = 4;

/// Longest look into one disk: 6 MiB of a disk that is well take milliseconds. The kernel gives a request 30 s before it resets the
/// controller, and what is slower than that is not well.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// Every whole disk, sorted by name; nobody is looked into.
///
/// # Errors
/// When sysfs is there and cannot be read.
pub fn disks(root: &Root) -> Result<Vec<Disk>, FileError> {
    let mounts = Mounts::read(root)?;
    let mut disks = Vec::new();
    for name in root.names("/sys/block")? {
        if NO_DISKS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let sysfs = Sysfs { root, path: format!("/sys/block/{name}") };
        // The hidden ones are paths to a disk that is listed itself.
        if sysfs.text("hidden")?.as_deref() == Some("1") {
            continue;
        }
        let bytes = sysfs.number("size")?.unwrap_or_default().saturating_mul(SECTOR_BYTES);
        let vendor = sysfs.text("device/vendor")?.unwrap_or_default();
        if bytes == 0 || MADE_UP.iter().any(|made_up| vendor.starts_with(made_up)) {
            continue;
        }
        disks.push(disk(&sysfs, name, bytes, &mounts)?);
    }
    Ok(disks)
}

/// Waits until the disks that the kernel has found stay the same and each NVMe controller is up, with every disk that a record of ours
/// names; at most [`SETTLE_LIMIT`]. An array of ours must not be taken for broken because a member is late.
pub async fn disks_settled(root: &Root) {
    let started = tokio::time::Instant::now();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let (mut before, mut same) = (None, 0);
    while started.elapsed() < SETTLE_LIMIT {
        ticks.tick().await;
        let now = awaited(root).ok();
        let is_same = now.is_some() && now == before;
        same = if is_same { same + 1 } else { 0 };
        let is_whole = now.as_ref().is_some_and(|(_, missing)| missing.is_empty());
        if is_whole && same >= SAME_LOOKS {
            return;
        }
        before = now;
    }
    let missing = before.map(|(_, missing)| missing.join(", ")).unwrap_or_default();
    warn!(missing, "disks have not settled; going on with what is there");
}

/// Serial numbers that are there, and what is not: members in a record of ours, and controllers that are not up.
fn awaited(root: &Root) -> Result<(Vec<String>, Vec<String>), FileError> {
    let serials: Vec<String> = disks(root)?.into_iter().map(|disk| disk.serial).collect();
    let record = persist::read_disk_record(root)?;
    let noted = record.into_iter().flat_map(|record| record.volumes).flat_map(|volume| volume.members);
    let mut missing: Vec<String> = noted.filter(|serial| !serials.contains(serial)).collect();
    for controller in root.names("/sys/class/nvme")? {
        if root.read_text(&format!("/sys/class/nvme/{controller}/state"))?.is_some_and(|state| state != "live") {
            missing.push(controller);
        }
    }
    Ok((serials, missing))
}

/// Looks into the disks that are local by identity, all at once.
pub fn look_into(root: &Root, disks: &mut [Disk]) {
    let started = Instant::now();
    let looks: Vec<_> = disks
        .iter_mut()
        .filter(|disk| disk.is_local())
        .map(|disk| {
            let opened = open(root, &disk.name);
            let (size, (say, hear)) = (disk.bytes, mpsc::channel());
            // A thread that a disk never answers stays behind; the boot goes on.
            std::thread::spawn(move || {
                let content = match opened {
                    Ok(file) => content(&file, size),
                    Err(error) => Content::Unreadable { why: crate::chain(&error) },
                };
                let _ = say.send(content); // nobody waits any more
            });
            (disk, hear)
        })
        .collect();
    for (disk, hear) in looks {
        let left = LOOK_LIMIT.saturating_sub(started.elapsed());
        let content = hear
            .recv_timeout(left)
            .unwrap_or_else(|_| Content::Unreadable { why: format!("no answer within {} s", LOOK_LIMIT.as_secs()) });
        debug!(disk = disk.name, content = content.describe(), "disk looked into");
        disk.content = Some(content);
    }
}

/// Opens a disk to read from it.
pub(crate) fn open(root: &Root, name: &str) -> Result<File, FileError> {
    let path = format!("/dev/{name}");
    let missing = || FileError { action: "open", path: path.clone(), source: std::io::ErrorKind::NotFound.into() };
    root.open_for_reading(&path)?.ok_or_else(missing)
}

/// What is on an open disk of so many bytes.
pub(crate) fn content(file: &File, bytes: u64) -> Content {
    superblock::examine(bytes, |offset, length| {
        let mut part = vec![0; length];
        file.read_exact_at(&mut part, offset).map(|()| part)
    })
}

struct Sysfs<'r> {
    root: &'r Root,
    path: String,
}

impl Sysfs<'_> {
    fn text(&self, file: &str) -> Result<Option<String>, FileError> {
        let text = self.root.read_text(&format!("{}/{file}", self.path));
        match text {
            // The device went, or does not answer this question.
            Err(error) if error.source.raw_os_error().is_some_and(|code| [5, 6, 19, 22].contains(&code)) => Ok(None),
            other => other,
        }
    }

    fn number(&self, file: &str) -> Result<Option<u64>, FileError> {
        Ok(self.text(file)?.and_then(|text| text.parse().ok()))
    }

    fn names(&self, directory: &str) -> Result<Vec<String>, FileError> {
        self.root.names(&format!("{}/{directory}", self.path))
    }
}

fn disk(sysfs: &Sysfs<'_>, name: String, bytes: u64, mounts: &Mounts) -> Result<Disk, FileError> {
    let device = sysfs.text("dev")?.unwrap_or_default();
    let mut parts = vec![device.clone()];
    let mut used_by = sysfs.names("holders")?;
    for entry in sysfs.names(".")?.into_iter().filter(|entry| entry.starts_with(&name)) {
        if let Some(number) = sysfs.text(&format!("{entry}/dev"))?
            && sysfs.text(&format!("{entry}/partition"))?.is_some()
        {
            used_by.extend(sysfs.names(&format!("{entry}/holders"))?);
            used_by.push(entry);
            parts.push(number);
        }
    }
    used_by.extend(parts.iter().flat_map(|part| mounts.by_device.get(part).into_iter().flatten().cloned()));
    if mounts.swap.iter().any(|swap| *swap == name || used_by.contains(swap)) {
        used_by.push("swap".to_owned());
    }
    let mut disk = Disk {
        bytes,
        used_by,
        system: mounts.system.contains(&name),
        queue: Queue {
            read_ahead_kib: sysfs.number("queue/read_ahead_kb")?,
            io_timeout_ms: sysfs.number("queue/io_timeout")?,
            requests: sysfs.number("queue/nr_requests")?,
        },
        model: sysfs.text("device/model")?.unwrap_or_default(),
        serial: sysfs.text("device/serial")?.unwrap_or_default(),
        device,
        name,
        ..Disk::default()
    };
    if disk.name.starts_with("nvme") {
        nvme_disk(sysfs, &mut disk)?;
    } else if exists(sysfs.root, &format!("{}/device/scsi_level", sysfs.path))? {
        disk.transport = Transport::Scsi;
        disk.temporary = is_temporary(sysfs)?;
    }
    Ok(disk)
}

/// With multipath a namespace belongs to a subsystem, and that to one controller or more.
fn nvme_disk(sysfs: &Sysfs<'_>, disk: &mut Disk) -> Result<(), FileError> {
    disk.transport = Transport::Nvme;
    disk.namespace = sysfs.number("nsid")?.and_then(|id| u32::try_from(id).ok());
    let is_controller = |name: &String| {
        name.strip_prefix("nvme").is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
    };
    let controllers: Vec<String> = match sysfs.text("device/transport")? {
        Some(_) => vec!["device".to_owned()],
        None => {
            let names = sysfs.names("device")?.into_iter().filter(is_controller);
            names.map(|name| format!("device/{name}")).collect()
        }
    };
    for controller in &controllers {
        if sysfs.text(&format!("{controller}/transport"))?.as_deref() == Some("pcie") {
            // What does not tell its vendor is nobody's.
            disk.pci_vendors.push(sysfs.text(&format!("{controller}/device/vendor"))?.unwrap_or_default());
        }
    }
    if controllers.is_empty() {
        disk.pci_vendors.push(String::new());
    }
    if let (true, Some(namespace)) = (disk.is_local(), disk.namespace) {
        disk.identify = open(sysfs.root, &disk.name)
            .ok()
            .and_then(|file| nvme::vendor_words(&file, namespace).ok())
            .unwrap_or_default();
    }
    Ok(())
}

fn is_temporary(sysfs: &Sysfs<'_>) -> Result<bool, FileError> {
    let Some(controller) = sysfs.text("device/../../../device_id")? else { return Ok(false) };
    let link =
        AbsPath::try_from(format!("{}/device", sysfs.path).as_str()).expect("names in /sys have no dots of their own");
    let link = sysfs.root.link(&link)?;
    let lun = link.rsplit_once(':').map(|(_, lun)| lun);
    Ok(TEMPORARY.iter().any(|(id, wanted)| controller.starts_with(id) && (wanted.is_none() || *wanted == lun)))
}

/// Who has what mounted or swaps to it.
struct Mounts {
    /// Mount points by `major:minor`.
    by_device: BTreeMap<String, Vec<String>>,
    /// Disks that the system is on.
    system: BTreeSet<String>,
    /// Names of devices that are swapped to.
    swap: Vec<String>,
}

impl Mounts {
    fn read(root: &Root) -> Result<Self, FileError> {
        let mut mounts = Self { by_device: BTreeMap::new(), system: BTreeSet::new(), swap: Vec::new() };
        for line in root.read_text("/proc/self/mountinfo")?.unwrap_or_default().lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, _, device, below, at, ..] = fields[..] else { continue };
            // btrfs and others have no device number of a disk; their source names one.
            let source = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').nth(1)).unwrap_or_default();
            let source = source.strip_prefix("/dev/").and_then(|name| number_of(root, name).transpose()).transpose()?;
            let device = if device.starts_with("0:") { source.as_deref().unwrap_or(device) } else { device };
            if SYSTEM.contains(&at) {
                base_disks(root, device, &mut mounts.system)?;
            }
            // A bind of a directory is no other use.
            if below == "/" {
                mounts.by_device.entry(device.to_owned()).or_default().push(at.to_owned());
            }
        }
        let swaps = root.read_text("/proc/swaps")?.unwrap_or_default();
        let swaps = swaps.lines().filter_map(|line| line.split_whitespace().next()?.strip_prefix("/dev/"));
        mounts.swap = swaps.map(str::to_owned).collect();
        Ok(mounts)
    }
}

fn number_of(root: &Root, name: &str) -> Result<Option<String>, FileError> {
    root.read_text(&format!("/sys/class/block/{name}/dev"))
}

/// The disks below a device: through partitions, arrays and mappings.
fn base_disks(root: &Root, device: &str, found: &mut BTreeSet<String>) -> Result<(), FileError> {
    let path = format!("/sys/dev/block/{device}");
    let Ok(link) = AbsPath::try_from(path.as_str()) else { return Ok(()) };
    if root.entry(&link)?.is_none() {
        return Ok(());
    }
    let slaves = root.names(&format!("{path}/slaves"))?;
    for slave in &slaves {
        if let Some(number) = number_of(root, slave)? {
            base_disks(root, &number, found)?;
        }
    }
    let target = root.link(&link)?;
    let mut names = target.rsplit('/');
    let name = names.next().unwrap_or_default();
    let disk = if exists(root, &format!("{path}/partition"))? { names.next().unwrap_or_default() } else { name };
    found.insert(disk.to_owned());
    Ok(())
}

/// Bytes of the files below a directory, each counted as long as it is; nothing when there are more than `limit`, or counting them
/// takes longer than `time`.
pub fn directory_bytes(root: &Root, path: &str, limit: u64, time: Duration) -> Option<u64> {
    let started = Instant::now();
    let mut waiting = vec![root.outside(path)];
    let mut bytes = 0;
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let metadata = entry.metadata().ok()?;
            bytes += if metadata.is_dir() { 0 } else { metadata.len() };
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
            if bytes > limit || started.elapsed() > time {
                return None;
            }
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
