//! The distributions, one row each. What differs between images is a column here and nowhere else.

use crate::facts::Os;
use crate::report::{Failure, Reason};

/// Where an image has what the plan needs.
#[derive(Debug, PartialEq, Eq)]
pub struct Distribution {
    /// `ID` of os-release.
    id: &'static str,
    /// `VERSION_ID` of os-release must start so; empty for any.
    version: &'static str,
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
}

const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The rows.
pub const DISTRIBUTIONS: &[Distribution] = &[
    Distribution {
        id: "ubuntu",
        version: "22.04",
        kubelet: "/opt/bin/kubelet",
        containerd: "/usr/bin/containerd",
        runc: "/usr/bin/runc",
        cni_bin: "/opt/cni/bin",
        resolv_conf: RESOLVED,
    },
    Distribution {
        id: "ubuntu",
        version: "24.04",
        kubelet: "/opt/bin/kubelet",
        containerd: "/usr/bin/containerd",
        runc: "/usr/bin/runc",
        cni_bin: "/opt/cni/bin",
        resolv_conf: RESOLVED,
    },
    Distribution {
        id: "azurelinux",
        version: "3",
        kubelet: "/opt/bin/kubelet",
        containerd: "/usr/bin/containerd",
        runc: "/usr/bin/runc",
        cni_bin: "/opt/cni/bin",
        resolv_conf: RESOLVED,
    },
    // The image of the VM tests. Debian packages runc and the CNI plugins elsewhere and has no systemd-resolved.
    Distribution {
        id: "debian",
        version: "",
        kubelet: "/opt/bin/kubelet",
        containerd: "/usr/bin/containerd",
        runc: "/usr/sbin/runc",
        cni_bin: "/usr/lib/cni",
        resolv_conf: "/etc/resolv.conf",
    },
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
}
