//! What a kubelet would not start with, by version: it is left out, and the plan says so.
//!
//! Provisioners send one list of flags to every version. A kubelet exits at the first flag it does not know, and at the first file that it
//! is told to read and that is not there.

use crate::kubernetes::KubernetesVersion;

/// Flags that a kubelet no longer knows, and since which minor version.
/// Source: Kubernetes changelogs; karpenter-provider-azure `aksbootstrap.go`.
const REMOVED_FLAGS: &[(&str, u32)] = &[
    ("azure-container-registry-config", 30),
    ("cloud-config", 34),
    ("container-runtime", 27),
    ("dynamic-config-dir", 24),
    ("iptables-drop-bit", 31),
    ("iptables-masquerade-bit", 31),
    ("keep-terminated-pod-volumes", 31),
    ("pod-infra-container-image", 35),
    ("really-crash-for-testing", 31),
];

/// Fields of KubeletConfiguration that a version deprecates and warns about, and since which minor version.
const REMOVED_FIELDS: &[(&str, u32)] = &[("streamingConnectionIdleTimeout", 34)];

/// Flags and fields that name a file which this version of nap-agent does not write.
const WITHOUT_FILE: &[(&str, &str, &str)] = &[
    ("tls-cert-file", "tlsCertFile", "kubelet makes its own serving certificate"),
    ("tls-private-key-file", "tlsPrivateKeyFile", "kubelet makes its own serving certificate"),
    ("image-credential-provider-config", "", "this version does not configure the credential provider"),
    ("image-credential-provider-bin-dir", "", "this version does not configure the credential provider"),
];

/// Why a kubelet of this version must not be given this flag, if it must not.
pub(super) fn refused_flag(flag: &str, version: KubernetesVersion) -> Option<String> {
    let without_file = WITHOUT_FILE.iter().find(|(name, _, _)| *name == flag).map(|(_, _, why)| (*why).to_owned());
    removed(REMOVED_FLAGS, flag, version).or(without_file)
}

/// Why a kubelet of this version must not be given this field, if it must not.
pub(super) fn refused_field(field: &str, version: KubernetesVersion) -> Option<String> {
    let without_file = WITHOUT_FILE.iter().find(|(_, name, _)| *name == field).map(|(_, _, why)| (*why).to_owned());
    removed(REMOVED_FIELDS, field, version).or(without_file)
}

fn removed(rows: &[(&str, u32)], name: &str, version: KubernetesVersion) -> Option<String> {
    let (_, since) = rows.iter().find(|(removed, since)| *removed == name && version.at_least(*since))?;
    Some(format!("Kubernetes 1.{since} removed it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_open_and_close_at_their_version() {
        let version = |text| KubernetesVersion::try_from(text).unwrap();
        for (flag, below, since) in
            [("cloud-config", "1.33.9", "1.34.0"), ("pod-infra-container-image", "1.34.5", "1.35.0")]
        {
            assert_eq!(refused_flag(flag, version(below)), None);
            assert!(refused_flag(flag, version(since)).is_some());
        }
        assert_eq!(refused_field("streamingConnectionIdleTimeout", version("1.33.0")), None);
        assert!(refused_field("tlsCertFile", version("1.30.0")).is_some());
        assert_eq!(refused_flag("v", version("1.37.0")), None);
    }
}
