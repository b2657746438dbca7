//! Kernel, firmware, disks, network interfaces and GPUs, read from `/proc` and `/sys`.

use std::collections::BTreeSet;

use nap_model::facts::{Gpu, Kernel, Nic, RootDisk, Trust};
use nap_model::os::OPTIONAL_FILES;
use nap_model::plan::AbsPath;

use crate::root::{FileError, Root};

/// Bytes of a sector, as `/sys/block/*/size` counts them whatever the disk has. Source: the kernel's include/linux/blk_types.h.
pub(super) const SECTOR_BYTES: u64 = 512;

/// One directory for each device; its `config` is the device's configuration space. Source: the kernel's Documentation/PCI/sysfs-pci.rst.
pub(crate) const PCI_DEVICES: &str = "/sys/bus/pci/devices";

/// NVIDIA on the PCI bus.
const NVIDIA: &str = "0x10de";
/// Display and 3D controllers. Source: the kernel's include/linux/pci_ids.h.
const DISPLAY_CLASSES: [&str; 2] = ["0x0300", "0x0302"];
/// Bridges of no other kind: what NVSwitches are.
const SWITCH_CLASSES: [&str; 1] = ["0x0680"];

/// `EFI_GLOBAL_VARIABLE`: four bytes of attributes, then the value.
const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Files that name directories in which the loader looks before its own.
const LOADER_DIRECTORIES: &str = "/etc/ld.so.conf.d";
const LIBRARY: &str = "libnvidia-ml.so.";
const LIBRARY_DIRECTORIES: [&str; 4] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/local/nvidia/lib64"];

pub(super) fn kernel(root: &Root) -> Result<Kernel, FileError> {
    Ok(Kernel {
        release: root.read_text("/proc/sys/kernel/osrelease")?.unwrap_or_default(),
        fips: root.read_text("/proc/sys/crypto/fips_enabled")?.as_deref() == Some("1"),
        xfs: has_xfs(root)?,
        cgroup_v2: exists(root, "/sys/fs/cgroup/cgroup.controllers")?,
    })
}

fn has_xfs(root: &Root) -> Result<bool, FileError> {
    let known =
        root.read_text("/proc/filesystems")?.is_some_and(|list| list.lines().any(|line| line.ends_with("\txfs")));
    let release = root.read_text("/proc/sys/kernel/osrelease")?.unwrap_or_default();
    Ok(known || !root.names(&format!("/lib/modules/{release}/kernel/fs/xfs"))?.is_empty())
}

pub(super) fn trust(root: &Root) -> Result<Trust, FileError> {
    let secure_boot = root.read(SECURE_BOOT)?.and_then(|bytes| Some(*bytes.get(4)? == 1));
    Ok(Trust { tpm: exists(root, "/sys/class/tpm/tpm0")?, secure_boot })
}

pub(super) fn root_disk(root: &Root) -> Result<RootDisk, FileError> {
    let (file_system_bytes, free_bytes) = root.space()?;
    let device = root.read_text("/proc/self/mountinfo")?.and_then(|mounts| root_device(&mounts));
    let Some(device) = device else { return Ok(RootDisk { file_system_bytes, free_bytes, ..RootDisk::default() }) };
    let sectors = |path: String| -> Result<u64, FileError> {
        let size = root.read_text(&path)?.and_then(|size| size.parse::<u64>().ok());
        Ok(size.unwrap_or_default() * SECTOR_BYTES)
    };
    let partition_bytes = sectors(format!("/sys/dev/block/{device}/size"))?;
    let is_partition = exists(root, &format!("/sys/dev/block/{device}/partition"))?;
    // The link leads into the disk's directory, so its parent is the disk.
    let disk_bytes = if is_partition { sectors(format!("/sys/dev/block/{device}/../size"))? } else { partition_bytes };
    Ok(RootDisk { file_system_bytes, partition_bytes, disk_bytes, free_bytes })
}

/// `major:minor` of the last file system mounted on `/`.
fn root_device(mountinfo: &str) -> Option<String> {
    let fields = mountinfo.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut on_root = fields.filter(|fields| fields.get(4) == Some(&"/"));
    on_root.next_back().and_then(|fields| fields.get(2).map(|device| (*device).to_owned()))
}

pub(super) fn nics(root: &Root) -> Result<Vec<Nic>, FileError> {
    let mut nics = Vec::new();
    for name in root.names("/sys/class/net")? {
        let path = format!("/sys/class/net/{name}");
        let Some(device) = root.read_text(&format!("{path}/device/uevent"))? else { continue };
        // A virtual function of accelerated networking has the MAC of the interface that it belongs to.
        if exists(root, &format!("{path}/master"))? {
            continue;
        }
        let mac = root.read_text(&format!("{path}/address"))?.unwrap_or_default().replace(':', "").to_ascii_uppercase();
        let driver = device.lines().find_map(|line| line.strip_prefix("DRIVER=")).unwrap_or_default().to_owned();
        nics.push(Nic { name, mac, driver });
    }
    Ok(nics)
}

pub(super) fn gpu(root: &Root) -> Result<Option<Gpu>, FileError> {
    let count = |classes: &[&str]| Ok(u32::try_from(of_nvidia(root, classes)?.len()).unwrap_or(u32::MAX));
    let (devices, switches) = (count(&DISPLAY_CLASSES)?, count(&SWITCH_CLASSES)?);
    if devices == 0 {
        return Ok(None);
    }
    let library = gpu_library(root)?.map(|(_, version)| version);
    Ok(Some(Gpu { devices, switches, module: gpu_module(root)?, library }))
}

/// Addresses of NVIDIA's GPUs on the PCI bus.
pub(crate) fn gpus(root: &Root) -> Result<Vec<String>, FileError> {
    of_nvidia(root, &DISPLAY_CLASSES)
}

fn of_nvidia(root: &Root, classes: &[&str]) -> Result<Vec<String>, FileError> {
    let mut found = Vec::new();
    for device in root.names(PCI_DEVICES)? {
        let read = |file: &str| root.read_text(&format!("{PCI_DEVICES}/{device}/{file}"));
        if read("vendor")?.as_deref() != Some(NVIDIA) {
            continue;
        }
        let class = read("class")?.unwrap_or_default();
        if classes.iter().any(|wanted| class.starts_with(wanted)) {
            found.push(device);
        }
    }
    Ok(found)
}

/// The version of the loaded kernel module `nvidia`.
pub(crate) fn gpu_module(root: &Root) -> Result<Option<String>, FileError> {
    root.read_text("/sys/module/nvidia/version")
}

/// Where `libnvidia-ml.so.570.86.15` is, and its version: the one that programs load. The loader's own directories come first, and of several
/// versions in one the link `libnvidia-ml.so.1` says which. Source: ldconfig(8).
pub(crate) fn gpu_library(root: &Root) -> Result<Option<(String, String)>, FileError> {
    let mut directories = Vec::new();
    for name in root.names(LOADER_DIRECTORIES)? {
        let text = root.read_text(&format!("{LOADER_DIRECTORIES}/{name}"))?.unwrap_or_default();
        directories.extend(text.lines().map(str::trim).filter(|line| line.starts_with('/')).map(str::to_owned));
    }
    for directory in directories.iter().map(String::as_str).chain(LIBRARY_DIRECTORIES) {
        let Ok(link) = AbsPath::try_from(format!("{directory}/{LIBRARY}1").as_str()) else { continue };
        let names = root.names(directory)?;
        let version =
            |name: &str| name.strip_prefix(LIBRARY).filter(|version| version.contains('.')).map(str::to_owned);
        let linked = root.link(&link).ok().filter(|target| names.contains(target)).and_then(|target| version(&target));
        let newest = || names.iter().filter_map(|name| version(name)).max_by_key(|version| numbers(version));
        if let Some(version) = linked.or_else(newest) {
            return Ok(Some((format!("{directory}/{LIBRARY}{version}"), version)));
        }
    }
    Ok(None)
}

/// 580.95.05 is older than 580.159.04.
fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// Which of [`OPTIONAL_FILES`] there are.
///
/// # Errors
/// When the kernel does not say.
pub fn present(root: &Root) -> Result<BTreeSet<String>, FileError> {
    let mut present = BTreeSet::new();
    for path in OPTIONAL_FILES {
        if exists(root, path)? {
            present.insert((*path).to_owned());
        }
    }
    Ok(present)
}

pub(super) fn exists(root: &Root, path: &str) -> Result<bool, FileError> {
    let path = AbsPath::try_from(path).expect("paths here are absolute, names in /sys have no dots of their own");
    Ok(root.target(&path)?.is_some())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn root_with(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root::open(directory.path()).unwrap();
        (directory, root)
    }

    #[test]
    fn the_last_mount_on_the_root_counts() {
        let mountinfo = "1 0 0:2 / / rw - rootfs none rw\n23 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
                         30 23 0:5 / /proc rw - proc proc rw";
        assert_eq!(root_device(mountinfo).as_deref(), Some("259:2"));
    }

    #[test]
    fn a_virtual_function_is_no_nic_of_its_own() {
        let (directory, root) = root_with(&[
            ("sys/class/net/eth0/device/uevent", "DRIVER=hv_netvsc\nMODALIAS=x"),
            ("sys/class/net/eth0/address", "00:0d:3a:12:ab:56"),
            ("sys/class/net/enP1/device/uevent", "DRIVER=mlx5_core"),
            ("sys/class/net/enP1/address", "00:0d:3a:12:ab:56"),
            ("sys/class/net/lo/address", "00:00:00:00:00:00"),
        ]);
        fs::create_dir(directory.path().join("sys/class/net/enP1/master")).unwrap();
        let nic = Nic { name: "eth0".into(), mac: "000D3A12AB56".into(), driver: "hv_netvsc".into() };
        assert_eq!(nics(&root).unwrap(), [nic]);
    }

    #[test]
    fn a_gpu_is_what_has_nvidias_vendor_and_a_display_class() {
        let (directory, root) = root_with(&[
            ("sys/bus/pci/devices/0001:00:00.0/vendor", "0x10de\n"),
            ("sys/bus/pci/devices/0001:00:00.0/class", "0x030200\n"),
            ("sys/bus/pci/devices/0001:00:01.0/vendor", "0x10de\n"),
            ("sys/bus/pci/devices/0001:00:01.0/class", "0x068000\n"),
            ("sys/module/nvidia/version", "570.86.15\n"),
            ("usr/lib64/libnvidia-ml.so.1", ""),
            ("usr/lib64/libnvidia-ml.so.565.57.01", ""),
        ]);
        let found =
            Gpu { devices: 1, switches: 1, module: Some("570.86.15".into()), library: Some("565.57.01".into()) };
        assert_eq!(gpu(&root).unwrap(), Some(found));
        let libraries = directory.path().join("usr/lib64");
        fs::write(libraries.join("libnvidia-ml.so.570.86.15"), "").unwrap();
        fs::remove_file(libraries.join("libnvidia-ml.so.1")).unwrap();
        std::os::unix::fs::symlink("libnvidia-ml.so.565.57.01", libraries.join("libnvidia-ml.so.1")).unwrap();
        assert_eq!(gpu(&root).unwrap().unwrap().library.as_deref(), Some("565.57.01"), "the one that is loaded");
        fs::remove_file(libraries.join("libnvidia-ml.so.1")).unwrap();
        fs::write(libraries.join("libnvidia-ml.so.570.9.1"), "").unwrap();
        assert_eq!(gpu(&root).unwrap().unwrap().library.as_deref(), Some("570.86.15"), "the newest");
        fs::create_dir_all(directory.path().join("etc/ld.so.conf.d")).unwrap();
        fs::create_dir_all(directory.path().join("opt/nvidia/lib64")).unwrap();
        fs::write(directory.path().join("etc/ld.so.conf.d/nvidia.conf"), "# NVIDIA\n/opt/nvidia/lib64\n").unwrap();
        fs::write(directory.path().join("opt/nvidia/lib64/libnvidia-ml.so.580.1.2"), "").unwrap();
        assert_eq!(gpu(&root).unwrap().unwrap().library.as_deref(), Some("580.1.2"), "where the loader looks first");
        fs::remove_dir_all(directory.path().join("sys/bus")).unwrap();
        assert_eq!(gpu(&root).unwrap(), None);
    }

    #[test]
    fn secure_boot_is_the_byte_after_the_attributes() {
        for (bytes, expected) in [("\x06\0\0\0\x01", Some(true)), ("\x06\0\0\0\0", Some(false)), ("", None)] {
            let (_directory, root) = root_with(&[(SECURE_BOOT.trim_start_matches('/'), bytes)]);
            assert_eq!(trust(&root).unwrap().secure_boot, expected);
        }
        let (_directory, root) = root_with(&[]);
        assert_eq!(trust(&root).unwrap(), Trust::default());
    }

    #[test]
    fn this_machines_root_disk_is_found() {
        let disk = root_disk(&Root::open(Path::new("/")).unwrap()).unwrap();
        assert!(disk.file_system_bytes > 0 && disk.free_bytes <= disk.file_system_bytes, "{disk:?}");
    }
}
