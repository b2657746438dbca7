//! What a machine must have to stream images: one row each.

use crate::config::NodeConfig;
use crate::facts::{Facts, Streaming};
use crate::os::{STREAMING_MODULES, STREAMING_UNITS};

const GIB: u64 = 1 << 30;

/// Fewest CPUs and least memory: below them the services take from pods what they give by starting sooner.
/// Source: awslabs/amazon-eks-ami, nodeadm's rule for its own parallel pull and unpack.
const FEWEST_CPUS: u32 = 4;
const LEAST_MEMORY: u64 = 7 * GIB;

/// Two caches of 4 GB each, and something for pods. Source: overlaybd, `overlaybd.json`.
const LEAST_SPACE: u64 = 10 * GIB;

/// One thing that a machine must have.
pub(super) struct Requirement {
    /// The word for its absence; never changes its meaning.
    pub(super) reason: &'static str,
    /// What was found instead; nothing when it is there.
    unmet: fn(&NodeConfig, &Facts, &Streaming) -> Option<String>,
    /// What a person can do.
    hint: &'static str,
    /// Asked of a machine that has streamed already, too. What streaming itself uses up must not end it at a reboot.
    always: bool,
}

/// The rows, in the order in which they are told.
pub(super) const REQUIREMENTS: &[Requirement] = &[
    Requirement {
        reason: "ArchitectureNotSupported",
        unmet: |_, _, seen| {
            (seen.architecture != "x86_64").then(|| format!("this machine is {}, not x86_64", seen.architecture))
        },
        hint: "choose an amd64 size, or leave artifactStreaming out of this node class",
        always: true,
    },
    Requirement {
        reason: "FipsNotSupported",
        unmet: |config, facts, _| {
            (facts.kernel.fips || config.claims.fips == Some(true)).then(|| "this node is a FIPS one".to_owned())
        },
        hint: "the services' cryptography is not validated: leave artifactStreaming out of FIPS node classes",
        always: true,
    },
    Requirement {
        reason: "KataNotSupported",
        unmet: |config, _, _| config.claims.kata.then(|| "pods of this node run in virtual machines".to_owned()),
        hint: "pods in virtual machines have a snapshotter of their own: leave artifact streaming out",
        always: true,
    },
    Requirement {
        reason: "ContainerdElsewhere",
        unmet: |config, _, _| {
            config.containerd.root.as_ref().map(|root| format!("containerd keeps its images in {root}"))
        },
        hint: "the snapshotter's directory is below /var/lib/containerd: leave containerd.root out, or use storage",
        always: true,
    },
    Requirement {
        reason: "ServiceMissing",
        unmet: |_, _, seen| {
            let unusable = STREAMING_UNITS.iter().filter_map(|unit| Some((unit, seen.unusable_units.get(*unit)?)));
            listed(unusable.map(|(unit, why)| format!("{unit}: {why}")))
        },
        hint: "build the image with AKS' packages acr-mirror and containerd-overlaybd",
        always: true,
    },
    Requirement {
        reason: "KernelModuleMissing",
        unmet: |_, _, seen| {
            let missing = STREAMING_MODULES.iter().filter(|module| seen.missing_modules.contains(**module));
            listed(missing.map(|module| format!("this kernel has no {module}")))
        },
        hint: "build the image with the kernel's extra modules (linux-modules-extra)",
        always: true,
    },
    Requirement {
        reason: "ConfigfsMissing",
        unmet: |_, _, seen| (!seen.configfs).then(|| "this kernel has no configfs".to_owned()),
        hint: "use a kernel with CONFIG_CONFIGFS_FS",
        always: true,
    },
    Requirement {
        reason: "TooFewCpus",
        unmet: |_, _, seen| {
            (seen.cpus < FEWEST_CPUS).then(|| format!("{}, streaming needs {FEWEST_CPUS}", counted(seen.cpus)))
        },
        hint: "choose a larger size",
        always: false,
    },
    Requirement {
        reason: "TooLittleMemory",
        unmet: |_, _, seen| below(seen.memory_bytes, LEAST_MEMORY, "memory"),
        hint: "choose a larger size",
        always: false,
    },
    Requirement {
        reason: "TooLittleSpace",
        unmet: |_, _, seen| below(seen.cache_free_bytes, LEAST_SPACE, "free space for the caches"),
        hint: "choose a larger OS disk",
        always: false,
    },
];

/// Everything that is missing on this machine, each in one line that begins with its reason.
pub(super) fn unmet(config: &NodeConfig, facts: &Facts, seen: &Streaming) -> Vec<String> {
    let asked = REQUIREMENTS.iter().filter(|row| row.always || !seen.has_snapshots);
    asked
        .filter_map(|row| {
            (row.unmet)(config, facts, seen).map(|found| format!("{}: {found}: {}", row.reason, row.hint))
        })
        .collect()
}

fn listed(items: impl Iterator<Item = String>) -> Option<String> {
    let items: Vec<String> = items.collect();
    (!items.is_empty()).then(|| items.join(", "))
}

fn counted(cpus: u32) -> String {
    match cpus {
        0 => "the kernel does not say how many CPUs there are".to_owned(),
        1 => "1 CPU".to_owned(),
        many => format!("{many} CPUs"),
    }
}

fn below(found: u64, least: u64, what: &str) -> Option<String> {
    let gib = |bytes: u64| format!("{}.{}", bytes / GIB, bytes % GIB * 10 / GIB);
    (found < least).then(|| format!("{} GiB of {what}, streaming needs {}", gib(found), gib(least)))
}
