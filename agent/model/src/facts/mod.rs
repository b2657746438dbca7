//! What was observed of the machine, as plain data. The time is one of the facts.

pub mod disks;
mod streaming;
pub mod superblock;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use disks::{Disk, DiskRecord};
pub use streaming::Streaming;

use crate::image::Image;
use crate::kubernetes::KubernetesVersion;

/// Everything the plan may depend on beyond the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Facts {
    /// When they were observed.
    pub observed_at: Timestamp,
    /// `/etc/os-release`.
    pub os: Os,
    /// The kernel's host name.
    pub host_name: String,
    /// `/proc/sys/kernel/random/boot_id`.
    #[serde(default)]
    pub boot_id: String,
    /// What the firmware says of the VM.
    #[serde(default)]
    pub dmi: Dmi,
    /// The running kernel.
    #[serde(default)]
    pub kernel: Kernel,
    /// Trusted launch, as the guest sees it.
    #[serde(default)]
    pub trust: Trust,
    /// The root file system.
    #[serde(default)]
    pub root_disk: RootDisk,
    /// Whole disks, sorted by name.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// What we noted of the disks that we made file systems on, in this or an earlier boot.
    #[serde(default)]
    pub disk_record: Option<DiskRecord>,
    /// Bytes in containerd's directory; absent when there are more than the plan would copy, or when nobody counted.
    #[serde(default)]
    pub containerd_bytes: Option<u64>,
    /// Why the local disks could not be used in this boot of the machine; absent when they could or were not tried.
    #[serde(default)]
    pub local_disks_failure: Option<String>,
    /// Network interfaces with hardware behind them, sorted by name.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// NVIDIA GPUs; absent when there is none.
    #[serde(default)]
    pub gpu: Option<Gpu>,
    /// Which of [`crate::os::OPTIONAL_FILES`] the image has.
    #[serde(default)]
    pub present: BTreeSet<String>,
    /// Installed programs that the plan depends on.
    #[serde(default)]
    pub programs: Programs,
    /// What the image's builder wrote down; absent without [`crate::image::INVENTORY`].
    #[serde(default)]
    pub image: Option<Image>,
    /// Address from which the default route leaves; absent without one.
    #[serde(default)]
    pub primary_address: Option<IpAddr>,
    /// IMDS' description of this VM; absent when it did not answer in time or described another VM.
    #[serde(default)]
    pub instance: Option<Instance>,
    /// kubelet's client certificate; absent when there is none that can be read.
    #[serde(default)]
    pub client_certificate: Option<Certificate>,
    /// Why LocalDNS did not come up in this boot of the machine; absent when it did or was not tried.
    #[serde(default)]
    pub local_dns_failure: Option<String>,
    /// Why secure TLS bootstrapping gave no certificate in this boot; absent when it did or was not tried.
    #[serde(default)]
    pub secure_tls_failure: Option<String>,
    /// Why [`crate::os::CREDENTIAL_PROVIDER`] gives no credentials; absent when it runs, or when the image has none.
    #[serde(default)]
    pub credential_provider_failure: Option<String>,
    /// What artifact streaming needs of the machine; absent when nobody asked for it.
    #[serde(default)]
    pub streaming: Option<Streaming>,
    /// Why artifact streaming did not come up in this boot of the machine; absent when it did or was not tried.
    #[serde(default)]
    pub streaming_failure: Option<String>,
    /// What the streaming mirror does instead of answering; absent while it answers or was not asked.
    #[serde(default)]
    pub mirror_failure: Option<String>,
}

/// `/etc/os-release`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Os {
    /// `ID`, such as `ubuntu`.
    pub id: String,
    /// `VERSION_ID`, such as `24.04`.
    #[serde(default)]
    pub version_id: String,
}

/// `/sys/class/dmi/id`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dmi {
    /// `product_uuid`, lower case, as the firmware has it.
    #[serde(default)]
    pub product_uuid: String,
    /// `chassis_asset_tag`.
    #[serde(default)]
    pub chassis_asset_tag: String,
    /// Whether the VM booted by UEFI (generation 2); generation 1 swaps bytes of the UUID.
    #[serde(default)]
    pub uefi: bool,
}

impl Dmi {
    /// The VM's id as Azure's API has it: the first three groups byte-swapped on generation 1.
    /// Source: cloud-init, `sources/azure/identity.py`.
    pub fn vm_id(&self) -> String {
        if self.uefi { self.product_uuid.clone() } else { byte_swapped(&self.product_uuid) }
    }

    /// Whether IMDS' `vmId` names this VM. With no UUID to compare, nothing contradicts it.
    pub fn is_vm(&self, vm_id: &str) -> bool {
        self.product_uuid.is_empty()
            || [&self.product_uuid, &self.vm_id()].iter().any(|id| id.eq_ignore_ascii_case(vm_id))
    }
}

fn byte_swapped(uuid: &str) -> String {
    let swap = |(position, group): (usize, &str)| {
        let pairs = group.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into_owned());
        if position < 3 { pairs.rev().collect::<String>() } else { group.to_owned() }
    };
    uuid.split('-').enumerate().map(swap).collect::<Vec<_>>().join("-")
}

/// The running kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kernel {
    /// `uname -r`.
    #[serde(default)]
    pub release: String,
    /// `/proc/sys/crypto/fips_enabled` is 1.
    #[serde(default)]
    pub fips: bool,
    /// Whether it can mount XFS, built in or as a module.
    #[serde(default)]
    pub xfs: bool,
    /// `/sys/fs/cgroup` is the unified hierarchy.
    #[serde(default)]
    pub cgroup_v2: bool,
}

/// Trusted launch, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trust {
    /// There is a `/sys/class/tpm/tpm0`.
    #[serde(default)]
    pub tpm: bool,
    /// The firmware's variable `SecureBoot` is 1; absent without such firmware.
    #[serde(default)]
    pub secure_boot: Option<bool>,
}

/// The root file system. All zero when it could not be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RootDisk {
    /// Size of the file system in bytes.
    #[serde(default)]
    pub file_system_bytes: u64,
    /// Size in bytes of the partition that it is on.
    #[serde(default)]
    pub partition_bytes: u64,
    /// Size in bytes of the disk that the partition is on.
    #[serde(default)]
    pub disk_bytes: u64,
    /// Free bytes, for root.
    #[serde(default)]
    pub free_bytes: u64,
}

/// A network interface with hardware behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nic {
    /// The kernel's name, such as `eth0`.
    pub name: String,
    /// Twelve upper-case hexadecimal digits, as IMDS writes it.
    pub mac: String,
    /// Driver, such as `hv_netvsc` or `mlx5_core`.
    #[serde(default)]
    pub driver: String,
}

/// NVIDIA GPUs and the parts of their driver.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gpu {
    /// How many devices are on the PCI bus.
    pub devices: u32,
    /// How many NVSwitches are on it.
    #[serde(default)]
    pub switches: u32,
    /// Version of the loaded kernel module (`/sys/module/nvidia/version`).
    #[serde(default)]
    pub module: Option<String>,
    /// Version in the name of the installed `libnvidia-ml.so.*`.
    #[serde(default)]
    pub library: Option<String>,
}

/// Installed programs; absent when there is none at the place where the image has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Programs {
    /// kubelet.
    #[serde(default)]
    pub kubelet: Option<KubernetesVersion>,
    /// containerd.
    #[serde(default)]
    pub containerd: Option<KubernetesVersion>,
}

/// What the agent uses of IMDS' instance document.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Instance {
    /// `compute.name`.
    pub name: String,
    /// `compute.vmId`.
    pub vm_id: String,
    /// `compute.resourceId`.
    #[serde(default)]
    pub resource_id: String,
    /// `compute.location`.
    #[serde(default)]
    pub location: String,
    /// `compute.vmSize`.
    #[serde(default)]
    pub vm_size: String,
    /// `compute.zone`.
    #[serde(default)]
    pub zone: String,
    /// Whether the control plane has a custom data for this VM (`extended.compute.hasCustomData`).
    #[serde(default)]
    pub has_custom_data: bool,
    /// Addresses by MAC (upper case, no separators), in IMDS' order, IPv4 first.
    #[serde(default)]
    pub interfaces: BTreeMap<String, Vec<IpAddr>>,
    /// Azure tags, names as given (Azure compares them without case).
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// `compute.securityProfile.secureBootEnabled`.
    #[serde(default)]
    pub secure_boot: Option<bool>,
    /// `compute.securityProfile.virtualTpmEnabled`.
    #[serde(default)]
    pub vtpm: Option<bool>,
    /// `compute.securityProfile.encryptionAtHost`.
    #[serde(default)]
    pub encryption_at_host: Option<bool>,
    /// `compute.storageProfile.osDisk.diskSizeGB`.
    #[serde(default)]
    pub os_disk_gb: Option<u32>,
}

impl Instance {
    /// Gives a tag another value, under the name that it has already.
    pub fn set_tag(&mut self, name: &str, value: &str) {
        match self.tags.iter_mut().find(|(tag, _)| tag.eq_ignore_ascii_case(name)) {
            Some((_, old)) => value.clone_into(old),
            None => _ = self.tags.insert(name.to_owned(), value.to_owned()),
        }
    }

    /// A tag's value; Azure compares names of tags without case.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find(|(tag, _)| tag.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The part of an X.509 certificate that decides whether kubelet can use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Certificate {
    /// Start of its validity.
    pub not_before: Timestamp,
    /// End of its validity.
    pub not_after: Timestamp,
}

impl Certificate {
    /// Whether it is valid at `time`.
    pub fn is_valid_at(&self, time: Timestamp) -> bool {
        (self.not_before..self.not_after).contains(&time)
    }
}

impl Facts {
    /// Whether kubelet already has a client certificate it can use.
    pub fn has_joined(&self) -> bool {
        self.client_certificate.is_some_and(|certificate| certificate.is_valid_at(self.observed_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_1_swaps_the_first_three_groups() {
        let dmi = Dmi { product_uuid: "11223344-5566-7788-99aa-bbccddeeff00".into(), ..Dmi::default() };
        assert_eq!(dmi.vm_id(), "44332211-6655-8877-99aa-bbccddeeff00");
        assert!(dmi.is_vm("44332211-6655-8877-99AA-BBCCDDEEFF00") && !dmi.is_vm("0"));
        assert_eq!(Dmi { uefi: true, ..dmi.clone() }.vm_id(), dmi.product_uuid);
    }
}
