//! Artifact streaming: containers start from an image before it has been pulled, where its registry has it in a streamable form.
//!
//! containerd's snapshotter is then a program of its own, and whatever happens to that program happens to every pull and every pod on
//! the node. So it must have proven itself before containerd is told of it: the kernel's modules, the service that serves the devices,
//! the snapshotter, then questions to the snapshotter's own socket, all in stages before the one with containerd's configuration. When
//! one of them does not come, the boot notes why as a fact ([`Facts::streaming_failure`]) and plans again: the same node with overlayfs.
//! A machine that lacks something ([`requirements`]) is planned so from the start.
//!
//! The decision falls before the first image is unpacked. Later it is dear: an image that was streamed has no layers in containerd's
//! store, and a container of it could never be made under overlayfs (`facts/disks-imds-streaming.md` 5.3, case C). So where a node falls
//! back that has streamed before, such images are forgotten once containerd is up, and kubelet pulls them again; and what serves the
//! containers that are still there runs on.
//!
//! Considered and left: containerd first with overlayfs and a switch once all is well (the pause image is unpacked by then, and case D
//! unpacks everything twice); waiting for the snapshotter for as long as the boot may take (a node without streaming is a good node).

mod requirements;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::resource::{AbsPath, Stage, Step, Want, public_file};
use crate::config::NodeConfig;
use crate::facts::{Facts, Streaming as Seen};
use crate::os::{STREAMING_DEVICES, STREAMING_MIRROR, STREAMING_MODULES, STREAMING_SNAPSHOTTER};

/// Where the snapshotter listens. Source: accelerated-container-image, `/etc/overlaybd-snapshotter/config.json`.
pub const SNAPSHOTTER_SOCKET: &str = "/run/overlaybd-snapshotter/overlaybd.sock";

/// Where it keeps its snapshots. Source: the same.
pub const SNAPSHOTTER_DIRECTORY: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.overlaybd/snapshots";

/// Where the mirror listens on loopback. Source: acr-mirror, `config.toml`.
pub const MIRROR_PORT: u16 = 8578;

/// Why a node that streamed does so no more.
pub const LEFT_STREAMING: &str = "it was left until the machine's next boot";

/// The step that asks the mirror.
pub const MIRROR_ANSWERS: &str = "streaming.mirror-answers";

/// containerd's own.
const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// Whatever of streaming did not come up: the steps whose failure means overlayfs.
const DECISIVE: &[&str] = &["streaming.devices", "streaming.snapshotter", "streaming.answers"];

/// Modules are decisive, too, one step each.
const MODULE: &str = "streaming.module.";

/// The step that asks the snapshotter; who is ill later is the watch's.
pub const SNAPSHOTTER_ANSWERS: &str = "streaming.answers";

/// The snapshotter's name in containerd.
const NAME: &str = "overlaybd";

const DROP_IN: &str = "/etc/systemd/system/containerd.service.d/20-nap-agent-streaming.conf";

/// Says on the Node that images are streamed. Source: karpenter-provider-azure, `ArtifactStreamingEnabled`.
const LABEL: &str = "kubernetes.azure.com/artifactstreaming-enabled";

/// Whether this step's failure means that the node is planned without streaming.
pub fn decides_streaming(step: &str) -> bool {
    DECISIVE.contains(&step) || step.starts_with(MODULE)
}

/// What becomes of artifact streaming on this machine.
pub(super) enum Streaming {
    /// Nobody asked for it.
    Unwanted,
    /// It was asked for and cannot be, for these reasons.
    Unavailable {
        why: Vec<String>,
        /// The snapshotter has snapshots, of containers that may be running.
        has_snapshots: bool,
    },
    /// Images are streamed; while the mirror answers otherwise than it should, for this reason, they are pulled whole.
    Streams {
        mirror_failure: Option<String>,
        /// The snapshotter has snapshots: none in the first boot, and none where it lost them.
        has_snapshots: bool,
    },
}

/// What containerd is told of the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MirrorUse {
    /// Nothing, and nobody else's word is touched.
    Unwanted,
    /// It is asked first.
    Asked,
    /// It must not be asked.
    NotAsked,
}

impl Streaming {
    pub(super) fn new(config: &NodeConfig, facts: &Facts) -> Self {
        if !config.registries.streaming {
            return Self::Unwanted;
        }
        let nobody_looked = || (vec!["NotObserved: nobody looked whether this machine can".to_owned()], false);
        let (mut why, has_snapshots) = facts
            .streaming
            .as_ref()
            .map_or_else(nobody_looked, |seen: &Seen| (requirements::unmet(config, facts, seen), seen.has_snapshots));
        why.extend(facts.streaming_failure.iter().map(|why| match why.as_str() {
            LEFT_STREAMING => format!("Left: {why}"),
            why => format!("DidNotComeUp: {why}"),
        }));
        if why.is_empty() {
            Self::Streams { mirror_failure: facts.mirror_failure.clone(), has_snapshots }
        } else {
            Self::Unavailable { why, has_snapshots }
        }
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let why = match self {
            Self::Unwanted | Self::Streams { mirror_failure: None, .. } => return Vec::new(),
            Self::Streams { mirror_failure: Some(why), .. } => {
                return vec![format!("StreamingMirrorSilent: {why}; images are pulled whole until it answers")];
            }
            Self::Unavailable { why, .. } => why,
        };
        why.iter().map(|why| format!("ArtifactStreamingUnavailable: {why}; images are pulled whole")).collect()
    }

    /// The mirror is in the way of every pull, so it is asked only while it answers.
    pub(super) fn mirror(&self) -> MirrorUse {
        match self {
            Self::Unwanted => MirrorUse::Unwanted,
            Self::Streams { mirror_failure: None, .. } => MirrorUse::Asked,
            Self::Streams { mirror_failure: Some(_), .. } | Self::Unavailable { .. } => MirrorUse::NotAsked,
        }
    }

    /// The label, which only a node that streams may have.
    pub(super) fn label(&self, labels: &mut std::collections::BTreeMap<String, String>) {
        match self {
            Self::Streams { .. } => _ = labels.insert(LABEL.to_owned(), "true".to_owned()),
            Self::Unwanted | Self::Unavailable { .. } => _ = labels.remove(LABEL),
        }
    }

    /// What containerd's part for images gets beside the rest.
    pub(super) fn image_settings(&self) -> Option<[(&'static str, Value); 2]> {
        // Without annotations the snapshotter does not learn which image a layer is of.
        let settings = [("snapshotter", json!(NAME)), ("disable_snapshot_annotations", json!(false))];
        matches!(self, Self::Streams { .. }).then_some(settings)
    }

    /// How containerd reaches the snapshotter; also after it was left, for the containers and snapshots that are still there.
    pub(super) fn proxy_plugins(&self) -> Option<Value> {
        let is_known = matches!(self, Self::Streams { .. } | Self::Unavailable { has_snapshots: true, .. });
        is_known.then(|| json!({NAME: {"type": "snapshot", "address": SNAPSHOTTER_SOCKET}}))
    }

    /// What must be so before containerd is told of the snapshotter, in order.
    pub(super) fn stages(&self) -> Vec<Stage> {
        let Self::Streams { mirror_failure, .. } = self else { return Vec::new() };
        let module = |name: &&'static str| {
            let why = "a program serves the devices of streamed images through it";
            Step::new(format!("{MODULE}{name}"), why, Want::Module { name }).desired()
        };
        let answers = Want::SnapshotterAnswers { socket: AbsPath::literal(SNAPSHOTTER_SOCKET) };
        let service = |id, why, name| Step::new(id, why, Want::Enabled { name, enabled: true }).desired();
        let stage = |name, step| Stage { name, steps: vec![step] };
        let mut stages = vec![
            Stage { name: "streaming-kernel", steps: STREAMING_MODULES.iter().map(module).collect() },
            stage(
                "streaming-devices",
                service("streaming.devices", "it serves the devices of streamed images", STREAMING_DEVICES),
            ),
            stage(
                "streaming-snapshotter",
                service("streaming.snapshotter", "it makes the file systems of containers", STREAMING_SNAPSHOTTER),
            ),
            stage(
                "streaming-answers",
                Step::new(SNAPSHOTTER_ANSWERS, "a silent one would break every pull and every pod", answers).desired(),
            ),
            stage(
                "streaming-mirror",
                service("streaming.mirror", "it finds the streamable form of an image", STREAMING_MIRROR),
            ),
        ];
        // Before the files that lead to it. One that was silent is asked again by the guard.
        if mirror_failure.is_none() {
            let answers = Want::MirrorAnswers { port: MIRROR_PORT };
            let step = Step::new(MIRROR_ANSWERS, "a silent one would hold every pull", answers).desired();
            stages.push(stage("streaming-mirror-answers", step));
        }
        stages
    }

    /// The drop-in by which containerd waits for the snapshotter whoever starts it: one that starts first loses its images.
    pub(super) fn files(&self) -> Vec<Step> {
        match self {
            Self::Unwanted => Vec::new(),
            Self::Unavailable { .. } => {
                let want = Want::Absent { path: AbsPath::literal(DROP_IN) };
                vec![Step::new("streaming.drop-in", "containerd waits for no snapshotter of others", want)]
            }
            Self::Streams { .. } => {
                let why = "containerd forgets its images when it starts before the snapshotter";
                vec![Step::new("streaming.drop-in", why, public_file(DROP_IN, drop_in()))]
            }
        }
    }

    /// A snapshotter that has nothing where containerd's books have something: no image could be unpacked or pulled again, for ever
    /// (case G).
    pub(super) fn kept_snapshots(&self) -> Option<Step> {
        let Self::Streams { has_snapshots: false, .. } = self else { return None };
        let want = Want::KeptSnapshots { socket: AbsPath::literal(CONTAINERD_SOCKET), snapshotter: NAME };
        let why = "an image whose snapshots are lost could be neither used nor pulled";
        Some(Step::new("streaming.kept-snapshots", why, want).desired())
    }

    /// What was streamed cannot be unpacked by overlayfs: kubelet must pull it.
    pub(super) fn whole_images(&self) -> Option<Step> {
        let Self::Unavailable { has_snapshots: true, .. } = self else { return None };
        let want = Want::WholeImages { socket: AbsPath::literal(CONTAINERD_SOCKET) };
        let why = "no container could be made of an image that was streamed";
        Some(Step::new("streaming.whole-images", why, want).desired())
    }

    /// The services of a node that does without, last: one that hangs takes systemd a minute and a half to end.
    pub(super) fn off(&self) -> Option<Stage> {
        let Self::Unavailable { has_snapshots, .. } = self else { return None };
        let why = "a node that pulls images whole does without";
        let service = |id, name| Step::new(id, why, Want::Enabled { name, enabled: false }).desired();
        let mut steps = vec![service("streaming.no-mirror", STREAMING_MIRROR)];
        if !has_snapshots {
            steps.push(service("streaming.no-snapshotter", STREAMING_SNAPSHOTTER));
            steps.push(service("streaming.no-devices", STREAMING_DEVICES));
        }
        Some(Stage { name: "streaming-off", steps })
    }
}

/// Its failure is no failure of containerd's: without the snapshotter pulls fail, and without containerd everything does.
fn drop_in() -> String {
    format!(
        "# Written by nap-agent.\n\
         [Unit]\n\
         Wants={STREAMING_DEVICES} {STREAMING_SNAPSHOTTER}\n\
         After={STREAMING_DEVICES} {STREAMING_SNAPSHOTTER}\n\
         \n\
         [Service]\n\
         ExecStartPre=-/usr/bin/nap-agent streaming wait\n"
    )
}

/// Names of an image's snapshots, the lowest first, from the digests of its layers' archives. Source: opencontainers/image-spec, `ChainID`.
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff in diff_ids {
        let next = chain.last().map_or_else(
            || diff.clone(),
            |below| {
                let digest = Sha256::digest(format!("{below} {diff}"));
                format!("sha256:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
            },
        );
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests;
