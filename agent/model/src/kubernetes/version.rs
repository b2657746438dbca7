//! Versions of Kubernetes and of the programs on the node.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A version `major.minor.patch`; what comes after (`-rc.1`, `+k3s1`) is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KubernetesVersion {
    /// First number.
    pub major: u32,
    /// Second number, the one version gates look at.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

/// Why a text is no version.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a version such as 1.34.2")]
pub struct VersionError;

impl TryFrom<&str> for KubernetesVersion {
    type Error = VersionError;

    fn try_from(text: &str) -> Result<Self, VersionError> {
        let core = text.trim().trim_start_matches('v').split(['-', '+', '~']).next().unwrap_or_default();
        let mut numbers = core.split('.').map(|number| number.parse::<u32>().map_err(|_| VersionError));
        let mut next = || numbers.next().ok_or(VersionError)?;
        let version = Self { major: next()?, minor: next()?, patch: next()? };
        if numbers.next().is_some() { Err(VersionError) } else { Ok(version) }
    }
}

impl TryFrom<String> for KubernetesVersion {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        Self::try_from(text.as_str())
    }
}

impl From<KubernetesVersion> for String {
    fn from(version: KubernetesVersion) -> Self {
        version.to_string()
    }
}

impl KubernetesVersion {
    /// Whether this is Kubernetes 1.`minor` or later.
    pub fn at_least(self, minor: u32) -> bool {
        (self.major, self.minor) >= (1, minor)
    }
}

impl fmt::Display for KubernetesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_with_prefix_and_suffix() {
        for text in ["1.36.2", "v1.36.2", "1.36.2-rc.1", "1.36.2+k3s1", "1.36.2~ds1"] {
            assert_eq!(KubernetesVersion::try_from(text).unwrap().to_string(), "1.36.2");
        }
        for text in ["", "1.36", "1.x.2", "1.2.3.4", "latest"] {
            assert_eq!(KubernetesVersion::try_from(text), Err(VersionError), "{text}");
        }
    }

    #[test]
    fn gates_compare_by_minor() {
        let version = KubernetesVersion::try_from("1.34.0").unwrap();
        assert!(version.at_least(34) && version.at_least(9) && !version.at_least(35));
    }
}
