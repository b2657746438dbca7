//! What artifact streaming needs of a machine, as it was found.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Looked at only where the configuration asks for streaming.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Streaming {
    /// The processor, as the kernel names it: `x86_64` or `aarch64`.
    pub architecture: String,
    /// CPUs that are online; 0 when the kernel does not say.
    pub cpus: u32,
    /// Memory in bytes, without what the kernel keeps for itself; 0 when it does not say.
    pub memory_bytes: u64,
    /// Free bytes where the caches will be; 0 when the kernel does not say.
    pub cache_free_bytes: u64,
    /// Which of [`crate::os::STREAMING_MODULES`] this kernel neither has nor can load.
    #[serde(default)]
    pub missing_modules: BTreeSet<String>,
    /// The kernel has configfs, by which devices are made.
    pub configfs: bool,
    /// Which of [`crate::os::STREAMING_UNITS`] cannot run, and why.
    #[serde(default)]
    pub unusable_units: BTreeMap<String, String>,
    /// The snapshotter has unpacked images, in this or an earlier boot.
    #[serde(default)]
    pub has_snapshots: bool,
}
