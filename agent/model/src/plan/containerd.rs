//! containerd: its `config.toml`, built as data, and its unit.

use serde_json::{Value, json};

use super::gpu;
use super::resource::{Digest, Readiness, Step, Want, public_file};
use super::streaming::Streaming;
use crate::config::{NodeConfig, Ulimits};
use crate::facts::Facts;
use crate::os::{Distribution, NVIDIA_RUNTIME};

const CONFIG: &str = "/etc/containerd/config.toml";

/// AKS' address of containerd's metrics. Source: AgentBaker containerd templates.
const METRICS_ADDRESS: &str = "0.0.0.0:10257";

/// The oldest containerd that speaks CRI v1, without which no kubelet since 1.26 starts a pod.
/// Source: Kubernetes, changelog of 1.26; containerd, release notes of 1.6.
pub(super) const OLDEST: (u32, u32) = (1, 6);

/// The oldest containerd that knows the Container Device Interface.
const KNOWS_CDI: (u32, u32) = (1, 7);

/// Where a configuration of either version says who makes snapshots.
const IMAGES_2: &str = "/plugins/io.containerd.grpc.v1.cri/containerd";
const IMAGES_3: &str = "/plugins/io.containerd.cri.v1.images";

pub(super) struct Containerd {
    config: String,
    limits: String,
    streaming: Vec<Step>,
    /// What it reads when it starts beside its own files.
    reads: Vec<Step>,
}

impl Containerd {
    pub(super) fn new(
        config: &NodeConfig,
        facts: &Facts,
        (os, streaming): (&Distribution, &Streaming),
        shared: &[Step],
        notes: &mut Vec<String>,
    ) -> Self {
        let version = facts.programs.containerd.map_or(OLDEST, |version| (version.major, version.minor));
        let runtimes = runtimes(os, has_gpu(config, facts, notes));
        let mut data =
            if version.0 >= 2 { version_3(config, os, &runtimes) } else { version_2(config, os, version, &runtimes) };
        let images = if version.0 >= 2 { IMAGES_3 } else { IMAGES_2 };
        for (name, value) in streaming.image_settings().into_iter().flatten() {
            data.pointer_mut(images).expect("both versions have it")[name] = value;
        }
        if let Some(plugins) = streaming.proxy_plugins() {
            data["proxy_plugins"] = plugins;
        }
        let table = toml::Table::try_from(&data).expect("JSON objects without null are TOML tables");
        Self {
            config: toml::to_string_pretty(&table).expect("a table of plain values can be written"),
            limits: limits(&config.os.ulimits),
            streaming: streaming.files(),
            reads: shared.to_vec(),
        }
    }

    pub(super) fn files(&self) -> Vec<Step> {
        let mut files = vec![
            Step::new(
                "containerd.config",
                "containerd runs pods as kubelet expects it",
                public_file(CONFIG, self.config.clone()),
            ),
            Step::new(
                "containerd.limits",
                "a node has more files and tasks than a service's defaults",
                public_file("/etc/systemd/system/containerd.service.d/10-nap-agent.conf", self.limits.clone()),
            ),
        ];
        files.extend(self.streaming.iter().cloned());
        files
    }

    pub(super) fn running(&self) -> Step {
        let inputs = Digest::of_files(self.files().iter().chain(&self.reads));
        let want = Want::Unit { name: "containerd.service", inputs, readiness: Readiness::Active };
        Step::new("containerd.running", "kubelet needs a container runtime", want)
    }
}

/// Containers inherit containerd's limits, and a node has more files and tasks than a service's defaults.
fn limits(ulimits: &Ulimits) -> String {
    let no_file = ulimits.no_file.as_deref().unwrap_or("1048576");
    let mut text = format!("[Service]\nLimitNOFILE={no_file}\n");
    if let Some(memory) = &ulimits.max_locked_memory {
        text.push_str(&format!("LimitMEMLOCK={memory}\n"));
    }
    text + "TasksMax=infinity\nOOMScoreAdjust=-999\n"
}

fn has_gpu(config: &NodeConfig, facts: &Facts, notes: &mut Vec<String>) -> bool {
    match gpu::usable(config, facts) {
        Ok(usable) => usable,
        Err(why) => {
            notes.push(why);
            false
        }
    }
}

/// Configuration version 2, for containerd 1. Source: containerd `docs/cri/config.md`, release/1.6 and release/1.7.
fn version_2(config: &NodeConfig, os: &Distribution, version: (u32, u32), runtimes: &Value) -> Value {
    let mut data = common(config, 2);
    let mut cri = json!({
        "sandbox_image": config.containerd.sandbox_image,
        "containerd": runtimes,
        "cni": cni(os),
        "registry": registry(),
    });
    if version >= KNOWS_CDI {
        cri["enable_cdi"] = json!(true);
    }
    data["plugins"] = json!({"io.containerd.grpc.v1.cri": cri});
    data
}

/// Configuration version 3, for containerd 2. Source: containerd `docs/cri/config.md`, main.
fn version_3(config: &NodeConfig, os: &Distribution, runtimes: &Value) -> Value {
    let mut data = common(config, 3);
    data["plugins"] = json!({
        "io.containerd.cri.v1.images": {
            "pinned_images": {"sandbox": config.containerd.sandbox_image},
            "registry": registry(),
        },
        "io.containerd.cri.v1.runtime": {
            "enable_cdi": true,
            "containerd": runtimes,
            "cni": cni(os),
        },
    });
    data
}

fn common(config: &NodeConfig, version: u8) -> Value {
    let mut data = json!({"version": version, "oom_score": -999, "metrics": {"address": METRICS_ADDRESS}});
    if let Some(root) = &config.containerd.root {
        data["root"] = json!(root);
    }
    data
}

fn runtimes(os: &Distribution, gpu: bool) -> Value {
    let runtime = |program: &str| json!({"runtime_type": "io.containerd.runc.v2", "options": {"BinaryName": program, "SystemdCgroup": true}});
    let mut runtimes = json!({"runc": runtime(os.runc), "untrusted": runtime(os.runc)});
    if gpu {
        runtimes["nvidia-container-runtime"] = runtime(NVIDIA_RUNTIME);
    }
    let default = if gpu { "nvidia-container-runtime" } else { "runc" };
    json!({"default_runtime_name": default, "runtimes": runtimes})
}

fn cni(os: &Distribution) -> Value {
    json!({"bin_dir": os.cni_bin, "conf_dir": "/etc/cni/net.d"})
}

fn registry() -> Value {
    json!({"config_path": "/etc/containerd/certs.d", "headers": {"X-Meta-Source-Client": ["azure/aks"]}})
}
