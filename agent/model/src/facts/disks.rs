//! Block devices as they were seen, and what we noted of our own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::superblock::Content;

/// A whole disk: no partition, no array, no loop device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Disk {
    /// The kernel's name, such as `nvme1n1`: good for this boot of the machine, and no identity.
    pub name: String,
    /// `major:minor`.
    #[serde(default)]
    pub device: String,
    /// Size in bytes.
    #[serde(default)]
    pub bytes: u64,
    /// How it is attached.
    #[serde(default)]
    pub transport: Transport,
    /// Model, trimmed: of the controller for NVMe, of the device for SCSI.
    #[serde(default)]
    pub model: String,
    /// Serial number, trimmed.
    #[serde(default)]
    pub serial: String,
    /// PCI vendors of its controllers, as sysfs writes them (`0x1414`); empty where no controller is a PCI device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pci_vendors: Vec<String>,
    /// NVMe namespace id, which the kernel's name does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<u32>,
    /// What Azure says of a namespace in its vendor-specific Identify data, such as `type=local`, `index=1`.
    /// Source: azure-vm-utils, doc/disk-identification.md.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub identify: BTreeMap<String, String>,
    /// Whether `/`, `/boot` or `/boot/efi` is on it.
    #[serde(default)]
    pub system: bool,
    /// Whether this is the temporary disk of a SCSI VM.
    #[serde(default)]
    pub temporary: bool,
    /// Who uses it: partitions, arrays, mappings, `swap`, and mount points of itself and its partitions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<String>,
    /// What is on it. Only disks that are local by identity are looked into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// How the kernel queues requests for it.
    #[serde(default)]
    pub queue: Queue,
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// NVMe, over whatever.
    Nvme,
    /// SCSI, Hyper-V's among it.
    Scsi,
    /// Anything else.
    #[default]
    Other,
}

/// `/sys/block/*/queue`; absent where the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Queue {
    /// `read_ahead_kb`, in KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_ahead_kib: Option<u64>,
    /// `io_timeout`, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_timeout_ms: Option<u64>,
    /// `nr_requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
}

/// Controllers whose namespaces are local disks, by exact model. What is not in here is never written to.
/// Source: azure-vm-utils, doc/disk-identification.md.
const LOCAL_MODELS: [&str; 2] = ["Microsoft NVMe Direct Disk", "Microsoft NVMe Direct Disk v2"];

/// Controllers of remote disks, and of ephemeral OS disks on local flash. Source: the same.
const REMOTE_MODEL: &str = "MSFT NVMe Accelerator v1.0";

/// Microsoft's PCI vendor id.
const MICROSOFT: &str = "0x1414";

impl Disk {
    /// Whether this is flash of the VM's own host, delivered raw: by the exact model of its controller, by PCI vendor where there is
    /// PCI, and by Azure's own word where the namespace carries it. The first of the three guards of `plan::disks`.
    pub fn is_local(&self) -> bool {
        let says = |key: &str| self.identify.get(key).map(String::as_str);
        self.transport == Transport::Nvme
            && LOCAL_MODELS.contains(&self.model.as_str())
            && self.pci_vendors.iter().all(|vendor| vendor == MICROSOFT)
            && says("type").is_none_or(|kind| kind == "local")
            && !self.system
            && !self.temporary
    }

    /// Whether it is a remote disk behind NVMe.
    pub fn is_accelerator(&self) -> bool {
        self.transport == Transport::Nvme && self.model == REMOTE_MODEL
    }

    /// The order of members: by the index that Azure gives, else by serial. Never by the kernel's name.
    pub fn order(&self) -> (u64, &str) {
        let index = self.identify.get("index").and_then(|index| index.parse().ok());
        (index.unwrap_or(u64::MAX), &self.serial)
    }
}

/// What we noted before we first wrote to a disk: `/var/lib/nap-agent/disks.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskRecord {
    /// The VM it is about; in an image captured with it, it is about none.
    pub vm_id: String,
    /// Each file system.
    pub volumes: Vec<VolumeRecord>,
}

/// What we noted of one file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeRecord {
    /// How far it came.
    pub phase: Phase,
    /// UUID of the array; absent for a single disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<String>,
    /// Format of the file system.
    pub format: Format,
    /// UUID of the file system.
    pub file_system: String,
    /// Serial numbers of its disks, in order.
    pub members: Vec<String>,
    /// UUIDs of arrays and file systems of ours that it replaces: what carries one of them may be overwritten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<String>,
}

/// A format of file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// XFS.
    Xfs,
    /// ext4.
    Ext4,
}

impl Format {
    /// The kernel's name of it, and blkid's.
    pub fn name(self) -> &'static str {
        match self {
            Format::Xfs => "xfs",
            Format::Ext4 => "ext4",
        }
    }

    /// Options of its mount. Project quota costs nothing on XFS and lets kubelet count what pods use; ext4 would need a module for it.
    /// Private, so that what pods mount below a directory bound from it does not show twice.
    pub fn mount_options(self) -> &'static str {
        match self {
            Format::Xfs => "noatime,prjquota,private",
            Format::Ext4 => "noatime,private",
        }
    }
}

/// How far a file system came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Written to before or while it is made: there is nothing of value on it.
    Creating,
    /// Made. What is on it is the node's.
    Ready,
}

impl VolumeRecord {
    /// Every UUID by which a disk is known to be ours.
    pub fn uuids(&self) -> impl Iterator<Item = &str> {
        self.array.iter().chain([&self.file_system]).chain(&self.replaces).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Disk {
        Disk {
            name: "nvme1n1".into(),
            transport: Transport::Nvme,
            model: "Microsoft NVMe Direct Disk v2".into(),
            pci_vendors: vec![MICROSOFT.into()],
            identify: [("type".into(), "local".into())].into(),
            ..Disk::default()
        }
    }

    #[test]
    fn a_disk_is_local_by_model_vendor_and_azures_word() {
        assert!(local().is_local());
        assert!(Disk { identify: BTreeMap::new(), pci_vendors: Vec::new(), ..local() }.is_local());
        let others = [
            Disk { model: "Microsoft NVMe Direct Disk v3".into(), ..local() },
            Disk { model: "Microsoft NVMe Direct".into(), ..local() },
            Disk { model: "MSFT NVMe Accelerator v1.0".into(), ..local() },
            Disk { pci_vendors: vec![MICROSOFT.into(), "0x1b36".into()], ..local() },
            Disk { identify: [("type".into(), "data".into())].into(), ..local() },
            Disk { transport: Transport::Scsi, ..local() },
            Disk { system: true, ..local() },
            Disk { temporary: true, ..local() },
        ];
        for disk in others {
            assert!(!disk.is_local(), "{disk:?}");
        }
    }

    #[test]
    fn members_are_ordered_by_index_then_serial() {
        let disk = |index: Option<&str>, serial: &str| Disk {
            identify: index.map(|index| ("index".to_owned(), index.to_owned())).into_iter().collect(),
            serial: serial.into(),
            ..local()
        };
        let mut disks = [disk(None, "a"), disk(Some("10"), "b"), disk(Some("2"), "c"), disk(None, "A")];
        disks.sort_by(|a, b| a.order().cmp(&b.order()));
        assert_eq!(disks.map(|disk| disk.serial), ["c", "b", "A", "a"]);
    }
}
