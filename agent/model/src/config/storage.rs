//! What is wanted of the VM's local disks.

use std::collections::BTreeSet;

use serde::Serialize;

use super::document::Checked;
use super::shape::Shape::{Integer, List, Word};
use super::shape::{Field, field};

/// Local disks. Where nobody says anything they stay raw: others on the node may want them so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Storage {
    /// What is made of them.
    pub local_disks: LocalDisks,
    /// What goes there.
    pub uses: BTreeSet<Use>,
    /// Most bytes that are copied there before containerd starts: images of the machine image.
    pub copy_limit_bytes: u64,
}

/// What is made of local disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum LocalDisks {
    /// Nothing.
    #[default]
    None,
    /// One file system over all NVMe disks; without any, the temporary disk of a SCSI VM.
    Auto,
    /// One file system over all NVMe disks, and nothing when that cannot be.
    Raid0,
    /// A file system on each NVMe disk, for whoever looks for one; nothing of the node's goes there.
    Mount,
    /// The temporary disk of a SCSI VM, where cloud-init mounted it.
    Temporary,
}

/// What can go to local disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Use {
    /// kubelet's directory, without its keys.
    Kubelet,
    /// containerd's directory: images and snapshots together.
    Containerd,
    /// `/var/log/pods`.
    PodLogs,
    /// The swap file, when there is one.
    Swap,
}

const GIB: u64 = 1024 * 1024 * 1024;

/// Copying takes about 10 s a GiB from a remote disk.
const COPY_LIMIT_BYTES: u64 = 2 * GIB;

const WORDS: &[(&str, LocalDisks)] = &[
    ("none", LocalDisks::None),
    ("auto", LocalDisks::Auto),
    ("raid0", LocalDisks::Raid0),
    ("mount", LocalDisks::Mount),
    ("temporary", LocalDisks::Temporary),
];

const USES: &[(&str, Use)] =
    &[("kubelet", Use::Kubelet), ("containerd", Use::Containerd), ("podLogs", Use::PodLogs), ("swap", Use::Swap)];

/// The fields of `storage`.
pub(super) const FIELDS: &[Field] = &[
    field(
        "localDisks",
        Word(&["none", "auto", "raid0", "mount", "temporary"]),
        "What is made of local disks; none when absent. auto: one file system over all NVMe disks, else a SCSI VM's temporary disk; \
         raid0: the former or nothing; mount: a file system on each below /var/lib/ephemeral; temporary: the latter or nothing.",
    ),
    field(
        "use",
        List(&Word(&["kubelet", "containerd", "podLogs", "swap"])),
        "What goes there; kubelet, containerd and podLogs when absent, nothing with mount.",
    ),
    field(
        "copyLimitMiB",
        Integer(0, 1024 * 1024),
        "Most MiB of images in containerd's directory that are copied there; with more, containerd stays. 2048 when absent.",
    ),
];

impl Default for Storage {
    fn default() -> Self {
        Self { local_disks: LocalDisks::None, uses: BTreeSet::new(), copy_limit_bytes: COPY_LIMIT_BYTES }
    }
}

impl Storage {
    /// As AKS does with a SCSI VM's temporary disk.
    pub(super) fn temporary() -> Self {
        let uses = [Use::Kubelet, Use::Containerd].into();
        Self { local_disks: LocalDisks::Temporary, uses, ..Self::default() }
    }
}

pub(super) fn read(checked: Checked<'_>) -> Storage {
    let word = checked.text("storage.localDisks").unwrap_or("none");
    let local_disks = WORDS.iter().find(|(name, _)| *name == word).map(|(_, meaning)| *meaning).unwrap_or_default();
    let given: BTreeSet<Use> = checked
        .items("storage.use")
        .filter_map(|word| USES.iter().find(|(name, _)| *name == word).map(|(_, meaning)| *meaning))
        .collect();
    let uses = match local_disks {
        LocalDisks::None | LocalDisks::Mount => BTreeSet::new(),
        _ if given.is_empty() => [Use::Kubelet, Use::Containerd, Use::PodLogs].into(),
        _ => given,
    };
    let limit = checked.number("storage.copyLimitMiB").and_then(|mib| u64::try_from(mib).ok());
    Storage { local_disks, uses, copy_limit_bytes: limit.map_or(COPY_LIMIT_BYTES, |mib| mib * 1024 * 1024) }
}
