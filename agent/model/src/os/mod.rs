//! The distributions, one row each. What differs between images is a column here and nowhere else.

use crate::config::ImageFamily;
use crate::facts::{Facts, Os};
use crate::report::{Failure, Reason};

/// Where an image has what the plan needs.
#[derive(Debug, PartialEq, Eq)]
pub struct Distribution {
    /// The row's name, for `--os`.
    pub name: &'static str,
    /// `ID` of os-release.
    id: &'static str,
    /// `VERSION_ID` of os-release must start so; empty for any.
    version: &'static str,
    /// Image families that this distribution is.
    pub families: &'static [ImageFamily],
    /// kubelet.
    pub kubelet: &'static str,
    /// containerd.
    pub containerd: &'static str,
    /// runc.
    pub runc: &'static str,
    /// Directory of CNI plugins.
    pub cni_bin: &'static str,
    /// The resolver file that pods inherit: the one without a stub on loopback.
    pub resolv_conf: &'static str,
    /// The trust store.
    pub trust: TrustStore,
    /// Units of the SSH server, those that start it on demand among them.
    pub ssh_units: &'static [&'static str],
    /// What installs updates by itself.
    pub upgrades: Upgrades,
    /// Name of the systemd-networkd file that brings up the primary interface.
    pub network_file: &'static str,
    /// Facts as such a machine has them, for plans away from one: JSON of [`Facts`].
    typical: &'static str,
}

/// Where certificate authorities go that the whole machine trusts, and what makes its bundle of them.
#[derive(Debug, PartialEq, Eq)]
pub struct TrustStore {
    /// Directory for certificates beside the distribution's.
    pub anchors: &'static str,
    /// The file that programs read.
    pub bundle: &'static str,
    /// The program that makes it, and its arguments.
    pub program: &'static [&'static str],
    /// Whether only authorities get into the bundle; otherwise a server's own certificate does, too.
    pub authorities_only: bool,
}

/// What installs updates by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrades {
    /// apt's daily timers.
    Apt,
    /// dnf-automatic's timer.
    DnfAutomatic,
}

const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

const DEBIAN_TRUST: TrustStore = TrustStore {
    anchors: "/usr/local/share/ca-certificates",
    bundle: "/etc/ssl/certs/ca-certificates.crt",
    program: &["/usr/sbin/update-ca-certificates"],
    authorities_only: false,
};

const RED_HAT_TRUST: TrustStore = TrustStore {
    anchors: "/etc/pki/ca-trust/source/anchors",
    bundle: "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    program: &["/usr/bin/update-ca-trust", "extract"],
    authorities_only: true,
};

/// The rows.
pub const DISTRIBUTIONS: &[Distribution] = &[
    Distribution {
        name: "ubuntu-22.04",
        id: "ubuntu",
        version: "22.04",
        families: &[ImageFamily::Ubuntu, ImageFamily::Ubuntu2204],
        kubelet: "/opt/bin/kubelet",
        containerd: "/usr/bin/containerd",
        runc: "/usr/bin/runc",
        cni_bin: "/opt/cni/bin",
        resolv_conf: RESOLVED,
        trust: DEBIAN_TRUST,
        ssh_units: &["ssh.service"],
        upgrades: Upgrades::Apt,
        network_file: "10-netplan-eth0.network",
        typical: include_str!("../../testdata/ubuntu-2204.json"),
    },
    Distribution {
        name: "ubuntu-24.04",
        id: "ubuntu",
        version: "24.04",
        families: &[ImageFamily::Ubuntu, ImageFamily::Ubuntu2404],
        kubelet: "/opt/bin/kubelet",
        containerd: "/usr/bin/containerd",
        runc: "/usr/bin/runc",
        cni_bin: "/opt/cni/bin",
        resolv_conf: RESOLVED,
        trust: DEBIAN_TRUST,
        // 24.04 starts the server when somebody knocks.
        ssh_units: &["ssh.socket", "ssh.service"],
        upgrades: Upgrades::Apt,
        network_file: "10-netplan-eth0.network",
        typical: include_str!("../../testdata/ubuntu-2404.json"),
    },
    Distribution {
        name: "azurelinux-3",
        id: "azurelinux",
        version: "3",
        families: &[ImageFamily::AzureLinux],
        kubelet: "/opt/bin/kubelet",
        containerd: "/usr/bin/containerd",
        runc: "/usr/bin/runc",
        cni_bin: "/opt/cni/bin",
        resolv_conf: RESOLVED,
        trust: RED_HAT_TRUST,
        ssh_units: &["sshd.socket", "sshd.service"],
        upgrades: Upgrades::DnfAutomatic,
        network_file: "99-dhcp-en.network",
        typical: include_str!("../../testdata/azurelinux-3.json"),
    },
    // The images of the tests. Debian packages runc and the CNI plugins elsewhere and has no systemd-resolved.
    Distribution {
        name: "debian-12",
        id: "debian",
        version: "12",
        families: &[],
        kubelet: "/opt/bin/kubelet",
        containerd: "/usr/bin/containerd",
        runc: "/usr/sbin/runc",
        cni_bin: "/usr/lib/cni",
        resolv_conf: "/etc/resolv.conf",
        trust: DEBIAN_TRUST,
        ssh_units: &["ssh.socket", "ssh.service"],
        upgrades: Upgrades::Apt,
        network_file: "50-nap-vm.network",
        typical: include_str!("../../testdata/debian-12.json"),
    },
    Distribution {
        name: "debian-13",
        id: "debian",
        version: "13",
        families: &[],
        kubelet: "/opt/bin/kubelet",
        containerd: "/usr/bin/containerd",
        runc: "/usr/sbin/runc",
        cni_bin: "/usr/lib/cni",
        resolv_conf: "/etc/resolv.conf",
        trust: DEBIAN_TRUST,
        ssh_units: &["ssh.socket", "ssh.service"],
        upgrades: Upgrades::Apt,
        network_file: "50-nap-vm.network",
        typical: include_str!("../../testdata/debian-13.json"),
    },
];

/// The packet filter's program; it takes our rules in one transaction.
pub const NFT: &str = "/usr/sbin/nft";
/// The DNS server of LocalDNS. Source: AgentBaker, `localdns.sh`.
pub const COREDNS: &str = "/opt/azure/containers/localdns/binary/coredns";
/// The client that gets a node's certificate by its attested identity. Source: AgentBaker, `secure-tls-bootstrap.service`.
pub const SECURE_TLS_BOOTSTRAP_CLIENT: &str = "/opt/bin/aks-secure-tls-bootstrap-client";
/// Gives kubelet credentials for Azure container registries. Source: AgentBaker, `installCredentialProvider`.
pub const CREDENTIAL_PROVIDER: &str = "/var/lib/kubelet/credential-provider/acr-credential-provider";
/// Serves the block devices of streamed images. It must run on while containers read from them.
pub const STREAMING_DEVICES: &str = "overlaybd-tcmu.service";
/// containerd's snapshotter for streamed images, which serves ordinary ones, too.
pub const STREAMING_SNAPSHOTTER: &str = "overlaybd-snapshotter.service";
/// Answers containerd with the streamable form of an image, where its registry has one.
pub const STREAMING_MIRROR: &str = "acr-mirror.service";
/// The services of artifact streaming, in the order in which they need each other. Source: AgentBaker, `ensureArtifactStreaming`.
pub const STREAMING_UNITS: &[&str] = &[STREAMING_DEVICES, STREAMING_SNAPSHOTTER, STREAMING_MIRROR];
/// Modules of the kernel by which a program serves a block device; they bring what they need themselves.
/// Source: accelerated-container-image, `pkg/snapshot/storage.go`.
pub const STREAMING_MODULES: &[&str] = &["target_core_user", "tcm_loop"];
/// NVIDIA's container runtime.
pub const NVIDIA_RUNTIME: &str = "/usr/bin/nvidia-container-runtime";
/// NVIDIA's fabric manager, for machines with an NVSwitch.
pub const FABRIC_MANAGER_UNIT: &str = "/usr/lib/systemd/system/nvidia-fabricmanager.service";
/// NVIDIA's device plugin, as a unit of the image.
pub const DEVICE_PLUGIN_UNIT: &str = "/usr/lib/systemd/system/nvidia-device-plugin.service";

/// Grows the root file system to its partition; systemd 249 of Ubuntu 22.04 has no such unit.
pub const GROW_ROOT_UNIT: &str = "/usr/lib/systemd/system/systemd-growfs-root.service";

/// Makes arrays.
pub const MDADM: &str = "/usr/sbin/mdadm";
/// Makes XFS file systems.
pub const MKFS_XFS: &str = "/usr/sbin/mkfs.xfs";
/// Makes ext4 file systems.
pub const MKFS_EXT4: &str = "/usr/sbin/mkfs.ext4";

/// Files that not every image has and that the plan asks about; [`Facts::present`] names those that are there.
pub const OPTIONAL_FILES: &[&str] = &[
    NFT,
    COREDNS,
    SECURE_TLS_BOOTSTRAP_CLIENT,
    CREDENTIAL_PROVIDER,
    NVIDIA_RUNTIME,
    FABRIC_MANAGER_UNIT,
    DEVICE_PLUGIN_UNIT,
    GROW_ROOT_UNIT,
    MDADM,
    MKFS_XFS,
    MKFS_EXT4,
];

impl Distribution {
    /// The row of a machine.
    ///
    /// # Errors
    /// [`Reason::OsUnsupported`] when there is none.
    pub fn of(os: &Os) -> Result<&'static Distribution, Failure> {
        let row = DISTRIBUTIONS.iter().find(|row| row.id == os.id && os.version_id.starts_with(row.version));
        row.ok_or_else(|| {
            Failure::new(Reason::OsUnsupported, "plan", "this distribution is in no row of our table")
                .seen(format!("os-release says ID={} VERSION_ID={}", os.id, os.version_id))
        })
    }

    /// The row with this name.
    pub fn named(name: &str) -> Option<&'static Distribution> {
        DISTRIBUTIONS.iter().find(|row| row.name == name)
    }

    /// Facts as a machine with this distribution has them.
    pub fn typical_facts(&self) -> Facts {
        serde_json::from_str(self.typical).expect("typical facts are facts: a test reads each of them")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(id: &str, version_id: &str) -> Os {
        Os { id: id.into(), version_id: version_id.into() }
    }

    #[test]
    fn known_distributions_have_a_row_and_others_a_failure() {
        for (id, version) in [("ubuntu", "22.04"), ("ubuntu", "24.04"), ("azurelinux", "3.0"), ("debian", "13")] {
            assert_eq!(Distribution::of(&os(id, version)).unwrap().id, id);
        }
        assert_eq!(Distribution::of(&os("ubuntu", "18.04")).unwrap_err().reason, Reason::OsUnsupported);
    }

    #[test]
    fn typical_facts_are_of_their_row() {
        for row in DISTRIBUTIONS {
            assert_eq!(Distribution::of(&row.typical_facts().os), Ok(row));
            assert_eq!(Distribution::named(row.name), Some(row));
        }
    }
}
