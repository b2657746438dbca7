//! What the node class says of the machine and the node can only check: image, FIPS, trusted launch, encryption, disk.
//!
//! A mismatch is the image's or the provider's mistake, and a node that does not come up would only hide it: it is a note that starts
//! with a stable word, in the log, the report and `status`.

use super::resource::{Digest, Readiness, Step, Want};
use crate::config::NodeConfig;
use crate::facts::Facts;
use crate::os::{Distribution, GROW_ROOT_UNIT};

/// Azure counts a GB of disk as 2^30 bytes.
const BYTES_PER_GB: u64 = 1 << 30;

/// A file system is that much smaller than its partition for its own tables, in percent.
const FILE_SYSTEM_OVERHEAD_PERCENT: u64 = 5;

pub(super) fn check(config: &NodeConfig, facts: &Facts, os: &Distribution) -> Vec<String> {
    let claims = &config.claims;
    let instance = facts.instance.as_ref();
    let mut notes = Vec::new();
    let mut note = |word: &str, text: String| notes.push(format!("{word}: {text}"));
    if let Some(family) = claims.image_family.filter(|family| !os.families.contains(family)) {
        note("ImageFamilyMismatch", format!("the node class wants {family:?}, this machine runs {}", os.name));
    }
    if let Some(wanted) = claims.fips.filter(|wanted| *wanted != facts.kernel.fips) {
        let word = if wanted { "FipsNotEnabled" } else { "FipsUnexpected" };
        note(
            word,
            format!(
                "the node class wants fipsMode {}, the kernel says fips_enabled {}",
                if wanted { "FIPS" } else { "Disabled" },
                u8::from(facts.kernel.fips)
            ),
        );
    }
    if claims.vtpm == Some(true) && !facts.trust.tpm && instance.and_then(|instance| instance.vtpm) != Some(true) {
        note(
            "VirtualTpmMissing",
            "the node class wants a virtual TPM, this machine has no /sys/class/tpm/tpm0".to_owned(),
        );
    }
    if claims.secure_boot == Some(true) && facts.trust.secure_boot != Some(true) {
        let seen = facts.trust.secure_boot.map_or("has no such variable", |_| "says it is off");
        note("SecureBootOff", format!("the node class wants secure boot, the firmware {seen}"));
    }
    let encrypted = instance.and_then(|instance| instance.encryption_at_host);
    if claims.encryption_at_host == Some(true) && encrypted == Some(false) {
        note("EncryptionAtHostOff", "the node class wants encryption at host, IMDS says it is off".to_owned());
    }
    if claims.kata {
        note(
            "KataNotSetUp",
            "pods are to run in virtual machines, and this version sets up no Kata runtime".to_owned(),
        );
    }
    if let Some(text) = disk_mismatch(config, facts) {
        note("OsDiskSizeMismatch", text);
    }
    if !facts.kernel.release.is_empty() && !facts.kernel.cgroup_v2 {
        note(
            "CgroupV1",
            "this machine has no unified cgroup hierarchy; kubelet 1.35 and later refuse to start".to_owned(),
        );
    }
    notes
}

fn disk_mismatch(config: &NodeConfig, facts: &Facts) -> Option<String> {
    let wanted = u64::from(config.claims.os_disk_gb?) * BYTES_PER_GB;
    let found = facts.root_disk.disk_bytes;
    (found > 0 && found < wanted).then(|| {
        format!("the node class wants {} GiB, the OS disk has {} GiB", wanted / BYTES_PER_GB, found / BYTES_PER_GB)
    })
}

/// Grows the root file system to its partition. cloud-init grows the partition; a system that could not do both leaves pods without
/// room. systemd's own unit does it, online, for ext4, xfs and btrfs.
pub(super) fn grown_root(facts: &Facts, notes: &mut Vec<String>) -> Vec<Step> {
    let disk = &facts.root_disk;
    let full = disk.partition_bytes - disk.partition_bytes * FILE_SYSTEM_OVERHEAD_PERCENT / 100;
    if disk.partition_bytes == 0 || disk.file_system_bytes >= full {
        return Vec::new();
    }
    if !facts.present.contains(GROW_ROOT_UNIT) {
        let (found, room) = (disk.file_system_bytes / BYTES_PER_GB, disk.partition_bytes / BYTES_PER_GB);
        notes.push(format!("RootNotGrown: {found} GiB of {room} GiB are used, and the image has no {GROW_ROOT_UNIT}"));
        return Vec::new();
    }
    let want =
        Want::Unit { name: "systemd-growfs-root.service", inputs: Digest::of_files([]), readiness: Readiness::Active };
    vec![Step::new("disk.grown-root", "the root file system is smaller than its partition", want).desired()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::DISTRIBUTIONS;

    #[test]
    fn a_root_that_is_too_small_is_grown_where_the_image_can() {
        let mut facts = DISTRIBUTIONS[1].typical_facts();
        let mut notes = Vec::new();
        assert_eq!(grown_root(&facts, &mut notes).len() + notes.len(), 0);
        facts.root_disk.file_system_bytes /= 2;
        facts.present.insert(GROW_ROOT_UNIT.to_owned());
        assert_eq!(grown_root(&facts, &mut notes)[0].id, "disk.grown-root");
        facts.present.clear();
        assert!(grown_root(&facts, &mut notes).is_empty() && notes[0].starts_with("RootNotGrown: "), "{notes:?}");
    }
}
