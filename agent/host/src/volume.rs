//! A file system on local disks: found by its UUID, put together, or made.
//!
//! What the plan decided is checked again here, against disks looked at again, under a lock that udev and everybody polite honours,
//! and with nobody having them open: identity, emptiness, exclusivity. What is about to be made is noted on the OS disk before the
//! first byte is written, so that whatever a crash leaves is known to be ours, and known to be worth nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use nap_model::facts::DiskRecord;
use nap_model::facts::disks::{Disk, Format, Phase};
use nap_model::facts::superblock::{self, Content, Signature};
use nap_model::os::{MDADM, MKFS_EXT4, MKFS_XFS};
use nap_model::plan::{AbsPath, CHUNK_KIB, LABEL, MAX_READ_AHEAD_KIB, READ_AHEAD_KIB, Volume};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use thiserror::Error;
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::cmd::{Cmd, CmdError};
use crate::root::{FileError, Root};
use crate::wait::{Try, until};
use crate::{chain, checkpoint, kernel, observe, persist};

/// Time for one program; making a file system writes a few MiB.
const PROGRAM_LIMIT: Duration = Duration::from_secs(60);

/// Time for the kernel and udev to finish with a device.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Bytes in which a file system has its superblock.
const START_BYTES: usize = 64 * 1024;

/// Why there is no such file system.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A program failed.
    #[error(transparent)]
    Cmd(#[from] CmdError),
    /// A member is not there, or there are two.
    #[error("LocalDiskMissing: {count} disks have the serial number {serial} and are local by model and vendor")]
    Unidentified {
        /// The serial number.
        serial: String,
        /// How many.
        count: usize,
    },
    /// A member has something on it that is not ours.
    #[error("LocalDiskForeignData: {disk} (serial {serial}) {found}; refusing to write to it")]
    Foreign {
        /// The kernel's name.
        disk: String,
        /// Serial number.
        serial: String,
        /// What is there.
        found: String,
    },
    /// Somebody uses a member.
    #[error("LocalDiskInUse: {disk} is in use{by}; refusing to write to it")]
    InUse {
        /// The kernel's name.
        disk: String,
        /// By whom, where that is known.
        by: String,
    },
    /// It was there, and is no more: only a boot that sees that from the start may make another.
    #[error("LocalDiskLost: the file system {uuid} was ready and is gone")]
    Lost {
        /// Its UUID.
        uuid: String,
    },
    /// The array did not come up.
    #[error("the array {uuid} is not there, or not active, after mdadm said that it is")]
    NoArray {
        /// Its UUID.
        uuid: String,
    },
}

/// One volume is made at a time: they share the record and, through udev, the machine.
static MAKING: Mutex<()> = Mutex::const_new(());

/// How the machine differs. Nothing but sysfs and a superblock is read.
pub(crate) fn difference(root: &Root, volume: &Volume) -> Result<Option<String>, VolumeError> {
    let (uuid, format) = (&volume.file_system, volume.format.name());
    let record = persist::read_disk_record(root)?;
    let noted = record
        .iter()
        .flat_map(|record| &record.volumes)
        .any(|noted| noted.phase == Phase::Ready && noted.file_system == *uuid);
    let serials: Vec<_> = volume.members.iter().map(|member| member.serial.as_str()).collect();
    let serials = serials.join(", ");
    let Some(device) = device(root, volume)? else {
        let verb = if noted { "put together" } else { "make" };
        return Ok(Some(format!("{verb} {format} {uuid} on an array of {serials}")));
    };
    let is_there = is_on(root, &device, volume.format, uuid)?;
    Ok(match (is_there, noted) {
        (true, true) => array_read_ahead(root, volume, &device)?
            .map(|kib| format!("set read-ahead of {device} from {kib} to {READ_AHEAD_KIB} KiB")),
        (true, false) => Some(format!("make {format} {uuid} on {serials} anew: nothing says that it was finished")),
        (false, _) => Some(format!("make {format} {uuid} on {serials}")),
    })
}

/// The device that carries the file system: the disk, or the array when it is active.
fn device(root: &Root, volume: &Volume) -> Result<Option<String>, VolumeError> {
    match &volume.array {
        Some(uuid) => Ok(active_array(root, uuid)?),
        None => {
            let serial = volume.members.first().map(|member| member.serial.clone()).unwrap_or_default();
            let disks = observe::disks(root)?;
            Ok(Some(the_one(&disks, &serial)?.name.clone()))
        }
    }
}

/// An array by UUID, when it works.
fn active_array(root: &Root, uuid: &str) -> Result<Option<String>, FileError> {
    let state = |name: &String| root.read_text(&format!("/sys/block/{name}/md/array_state"));
    let Some(name) = array(root, uuid)? else { return Ok(None) };
    let is_active = state(&name)?.is_some_and(|state| !["inactive", "clear", "broken"].contains(&state.as_str()));
    Ok(is_active.then_some(name))
}

/// An array by UUID, in whatever state.
fn array(root: &Root, uuid: &str) -> Result<Option<String>, FileError> {
    for name in root.names("/sys/block")?.into_iter().filter(|name| name.starts_with("md")) {
        let found = root.read_text(&format!("/sys/block/{name}/md/uuid"))?;
        if found.is_some_and(|found| digits(&found) == digits(uuid)) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// sysfs, mdadm and superblocks put hyphens and colons at places of their own.
fn digits(uuid: &str) -> String {
    uuid.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase()
}

fn is_on(root: &Root, device: &str, format: Format, uuid: &str) -> Result<bool, VolumeError> {
    let found = start_of(root, device)?;
    Ok(found.iter().any(|one| one.kind == format.name() && one.uuid.as_deref() == Some(uuid)))
}

/// What an array reads ahead when it is too much: the kernel takes twice a whole stripe.
fn array_read_ahead(root: &Root, volume: &Volume, device: &str) -> Result<Option<u64>, FileError> {
    if volume.array.is_none() {
        return Ok(None);
    }
    let kib = root.read_text(&read_ahead_file(device))?.and_then(|text| text.parse::<u64>().ok());
    Ok(kib.filter(|kib| *kib > MAX_READ_AHEAD_KIB))
}

fn read_ahead_file(device: &str) -> String {
    format!("/sys/block/{device}/queue/read_ahead_kb")
}

fn the_one<'d>(disks: &'d [Disk], serial: &str) -> Result<&'d Disk, VolumeError> {
    let found: Vec<&Disk> = disks.iter().filter(|disk| disk.serial == serial && disk.is_local()).collect();
    match found[..] {
        [disk] => Ok(disk),
        _ => Err(VolumeError::Unidentified { serial: serial.to_owned(), count: found.len() }),
    }
}

/// Makes it so: puts the array together, or makes both.
pub(crate) async fn make(root: &Root, volume: &Volume) -> Result<(), VolumeError> {
    let _one = MAKING.lock().await;
    let record = persist::read_disk_record(root)?;
    let was_ready = record
        .iter()
        .flat_map(|record| &record.volumes)
        .any(|noted| noted.phase == Phase::Ready && noted.file_system == volume.file_system);
    match (was_ready, &volume.array) {
        (true, Some(uuid)) => assemble(root, volume, uuid).await?,
        (true, None) => {}
        (false, _) if volume.make => return create(root, volume, record).await,
        (false, _) => {}
    }
    match device(root, volume)? {
        Some(device) if is_on(root, &device, volume.format, &volume.file_system)? => calm(root, volume, &device),
        _ => Err(VolumeError::Lost { uuid: volume.file_system.clone() }),
    }
}

fn calm(root: &Root, volume: &Volume, device: &str) -> Result<(), VolumeError> {
    if array_read_ahead(root, volume, device)?.is_some()
        && let Ok(path) = AbsPath::try_from(read_ahead_file(device).as_str())
    {
        kernel::write_choice(root, &path, &READ_AHEAD_KIB.to_string())?;
    }
    Ok(())
}

/// udev does so as well, as members appear, and whoever comes second finds it done.
async fn assemble(root: &Root, volume: &Volume, uuid: &str) -> Result<(), VolumeError> {
    if active_array(root, uuid)?.is_some() {
        return Ok(());
    }
    let disks = observe::disks(root)?;
    let members = members(volume, &disks)?;
    let mut arguments = vec!["--assemble".to_owned(), array_path(), format!("--uuid={uuid}")];
    arguments.extend(members.iter().map(|disk| path_of(disk)));
    let ran = mdadm(root, &arguments).await;
    match (active_array(root, uuid)?, ran) {
        (Some(_), _) => Ok(()),
        (None, Err(error)) => Err(error.into()),
        (None, Ok(_)) => Err(VolumeError::NoArray { uuid: uuid.to_owned() }),
    }
}

fn array_path() -> String {
    format!("/dev/md/{LABEL}")
}

fn path_of(disk: &Disk) -> String {
    format!("/dev/{}", disk.name)
}

fn members<'d>(volume: &Volume, disks: &'d [Disk]) -> Result<Vec<&'d Disk>, VolumeError> {
    volume.members.iter().map(|member| the_one(disks, &member.serial)).collect()
}

async fn mdadm(root: &Root, arguments: &[String]) -> Result<String, CmdError> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Cmd::new(root.outside(MDADM), &arguments, PROGRAM_LIMIT).output().await
}

async fn create(root: &Root, volume: &Volume, record: Option<DiskRecord>) -> Result<(), VolumeError> {
    stop_our_arrays(root, volume).await?;
    let disks = observe::disks(root)?;
    let members = members(volume, &disks)?;
    note(root, volume, record, Phase::Creating)?;
    checkpoint::pass("volume noted");
    let locks = lock_all(root, &members).await?;
    for (disk, lock) in members.iter().zip(&locks) {
        refuse_used(root, disk)?;
        let content = observe::disk_content(lock, disk.bytes);
        if !volume.may_overwrite(Some(&content)) {
            let (disk, serial) = (disk.name.clone(), disk.serial.clone());
            return Err(VolumeError::Foreign { disk, serial, found: content.describe() });
        }
    }
    let device = match &volume.array {
        Some(uuid) => create_array(root, volume, uuid, &members).await?,
        None => members.first().map(|disk| disk.name.clone()).unwrap_or_default(),
    };
    checkpoint::pass("array made");
    make_file_system(root, volume, &device).await?;
    checkpoint::pass("file system made");
    if !is_on(root, &device, volume.format, &volume.file_system)? {
        return Err(VolumeError::Lost { uuid: volume.file_system.clone() });
    }
    calm(root, volume, &device)?;
    let record = persist::read_disk_record(root)?;
    note(root, volume, record, Phase::Ready)?;
    info!(disk = device, format = volume.format.name(), "local disks have a file system");
    Ok(())
}

/// Replaces what was noted of this file system, and of those that it replaces.
fn note(root: &Root, volume: &Volume, record: Option<DiskRecord>, phase: Phase) -> Result<(), FileError> {
    let new = volume.record(phase);
    let same_vm = record.filter(|record| record.vm_id == volume.vm_id);
    let mut volumes = same_vm.map(|record| record.volumes).unwrap_or_default();
    volumes.retain(|noted| noted.file_system != new.file_system && !volume.replaces.contains(&noted.file_system));
    volumes.push(new);
    persist::write_disk_record(root, &DiskRecord { vm_id: volume.vm_id.clone(), volumes })
}

/// What udev put together, whole or not, of members that are to be made anew. An array that never ran tells no UUID, so its members do.
async fn stop_our_arrays(root: &Root, volume: &Volume) -> Result<(), VolumeError> {
    let disks = observe::disks(root)?;
    let members = members(volume, &disks)?;
    for array in root.names("/sys/block")?.into_iter().filter(|name| name.starts_with("md")) {
        let parts = root.names(&format!("/sys/block/{array}/slaves"))?;
        let ours = |part: &String| match members.iter().find(|disk| disk.name == *part) {
            Some(disk) => carries_ours(root, volume, disk),
            None => Ok(false),
        };
        if parts.is_empty() || !parts.iter().map(ours).collect::<Result<Vec<bool>, _>>()?.into_iter().all(|is| is) {
            continue;
        }
        info!(disk = array, "stopping an array of ours that is to be made anew");
        mdadm(root, &["--stop".to_owned(), format!("/dev/{array}")]).await?;
    }
    Ok(())
}

fn carries_ours(root: &Root, volume: &Volume, disk: &Disk) -> Result<bool, VolumeError> {
    let found = start_of(root, &disk.name)?;
    Ok(!found.is_empty() && volume.may_overwrite(Some(&Content::Occupied { found })))
}

fn start_of(root: &Root, device: &str) -> Result<Vec<Signature>, VolumeError> {
    let file = observe::open_disk(root, device)?;
    let mut start = vec![0; START_BYTES];
    let wrap = |source| FileError { action: "read", path: format!("/dev/{device}"), source };
    file.read_exact_at(&mut start, 0).map_err(wrap)?;
    Ok(superblock::at_the_start(&start))
}

/// The lock that udev takes before it looks at a disk, held until the file system is made. Source: systemd, "Locking Block Device Access".
async fn lock_all(root: &Root, members: &[&Disk]) -> Result<Vec<Flock<File>>, VolumeError> {
    let mut locks = Vec::new();
    for disk in members {
        let locked = until("udev to be done with a local disk", SETTLE_LIMIT, || async {
            match observe::open_disk(root, &disk.name) {
                Ok(file) => match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                    Ok(lock) => Try::Done(lock),
                    Err((_, Errno::EWOULDBLOCK)) => Try::Again("somebody holds its lock".to_owned()),
                    Err((_, errno)) => Try::Stop(errno.to_string()),
                },
                Err(error) => Try::Stop(chain(&error)),
            }
        });
        let in_use = |why| VolumeError::InUse { disk: disk.name.clone(), by: format!(": {why}") };
        locks.push(locked.await.map_err(in_use)?);
    }
    Ok(locks)
}

/// The kernel gives a block device to one exclusive holder: mounts, arrays, mappings and swap are such.
fn refuse_used(root: &Root, disk: &Disk) -> Result<(), VolumeError> {
    let path: PathBuf = root.outside(&path_of(disk));
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_EXCL.bits()).open(path);
    // A partition table that the kernel knows is somebody's work, even if its partitions are free.
    match opened {
        Ok(_) if disk.used_by.is_empty() => Ok(()),
        Ok(_) => Err(VolumeError::InUse { disk: disk.name.clone(), by: format!(": {}", disk.used_by.join(", ")) }),
        Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {
            let by = if disk.used_by.is_empty() { String::new() } else { format!(": {}", disk.used_by.join(", ")) };
            Err(VolumeError::InUse { disk: disk.name.clone(), by })
        }
        Err(source) => Err(FileError { action: "open alone", path: path_of(disk), source }.into()),
    }
}

async fn create_array(root: &Root, volume: &Volume, uuid: &str, members: &[&Disk]) -> Result<String, VolumeError> {
    // mdadm asks nothing and overwrites what it finds with --run: our own proof stands above. It takes any host's array for ours with
    // --homehost=any, because cloud-init changes the host's name after udev has looked.
    let mut arguments: Vec<String> =
        ["--create", &array_path(), "--run", "--metadata=1.2", "--level=0", "--homehost=any"]
            .map(str::to_owned)
            .to_vec();
    arguments.push(format!("--raid-devices={}", members.len()));
    arguments.push(format!("--chunk={CHUNK_KIB}K"));
    arguments.push(format!("--name={LABEL}"));
    arguments.push(format!("--uuid={uuid}"));
    arguments.extend(members.iter().map(|disk| path_of(disk)));
    // It waits for udev to make a link and may call it a failure when that is late. Whether there is an array sysfs says.
    if let Err(error) = mdadm(root, &arguments).await {
        if active_array(root, uuid)?.is_none() {
            return Err(error.into());
        }
        warn!(
            uuid,
            members = volume.members.len(),
            error = chain(&error),
            "mdadm says it failed, and the array is there"
        );
    }
    let missing = || VolumeError::NoArray { uuid: uuid.to_owned() };
    until("the array", SETTLE_LIMIT, || async {
        match active_array(root, uuid) {
            Ok(Some(name)) => Try::Done(name),
            Ok(None) => Try::Again("not in sysfs yet".to_owned()),
            Err(error) => Try::Stop(chain(&error)),
        }
    })
    .await
    .map_err(|_| missing())
}

/// Whatever is on the device goes: an array shows what was on its members before. Nothing is discarded first: the disks come so.
async fn make_file_system(root: &Root, volume: &Volume, device: &str) -> Result<(), VolumeError> {
    let (program, options): (&str, &[&str]) = match volume.format {
        Format::Xfs => (MKFS_XFS, &["-q", "-f", "-K", "-L", LABEL, "-m"]),
        Format::Ext4 => {
            // No share kept for root: it is no disk that a system must come up from.
            let lazy = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
            (MKFS_EXT4, &["-q", "-F", "-L", LABEL, "-m", "0", "-E", lazy, "-U"])
        }
    };
    let uuid = match volume.format {
        Format::Xfs => format!("uuid={}", volume.file_system),
        Format::Ext4 => volume.file_system.clone(),
    };
    let device = format!("/dev/{device}");
    let arguments: Vec<&str> = options.iter().copied().chain([uuid.as_str(), device.as_str()]).collect();
    Cmd::new(root.outside(program), &arguments, PROGRAM_LIMIT).output().await?;
    let opened = OpenOptions::new().read(true).open(root.outside(&device)).and_then(|file| file.sync_all());
    let wrap = |source: io::Error| FileError { action: "sync", path: device.clone(), source };
    Ok(opened.map_err(wrap)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_compared_by_their_digits() {
        assert_eq!(digits("11111111:22222222:AAAAAAAA:44444444"), digits("11111111-2222-2222-aaaa-aaaa44444444"));
    }
}
