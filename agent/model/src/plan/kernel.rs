//! Kernel modules and kernel settings.

use std::collections::BTreeMap;

use super::resource::{Step, Want, public_file};
use crate::config::NodeConfig;

/// Modules that containerd, kubelet and every pod network need.
const MODULES: &[(&str, &str)] = &[
    ("overlay", "containerd unpacks images into overlay mounts"),
    ("br_netfilter", "bridged pod traffic must pass the packet filter"),
    ("nf_conntrack", "services need connection tracking, and its settings exist only with it"),
];

/// What pod networking needs, whatever else is asked for. Source: AgentBaker `99-force-bridge-forward.conf`.
const FORWARDING: &[(&str, &str)] = &[
    ("net.bridge.bridge-nf-call-iptables", "1"),
    ("net.ipv4.conf.all.forwarding", "1"),
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
];

/// kubelet with `protectKernelDefaults` refuses to start when these differ.
/// Source: k8s.io/kubernetes/pkg/kubelet/cm `setupKernelTunables`, pkg/util/sysctl.
const KUBELET_EXPECTS: &[(&str, &str)] = &[
    ("kernel.keys.root_maxbytes", "25000000"),
    ("kernel.keys.root_maxkeys", "1000000"),
    ("kernel.panic", "10"),
    ("kernel.panic_on_oops", "1"),
    ("vm.overcommit_memory", "1"),
    ("vm.panic_on_oom", "0"),
];

/// AKS' defaults, which the configuration may override. Source: AgentBaker `999-sysctl-aks.conf`.
const DEFAULTS: &[(&str, &str)] = &[
    ("net.core.message_burst", "80"),
    ("net.core.message_cost", "40"),
    ("net.core.somaxconn", "16384"),
    ("net.ipv4.neigh.default.gc_thresh1", "4096"),
    ("net.ipv4.neigh.default.gc_thresh2", "8192"),
    ("net.ipv4.neigh.default.gc_thresh3", "16384"),
    ("net.ipv4.tcp_max_syn_backlog", "16384"),
    ("net.ipv4.tcp_retries2", "8"),
];

/// A port that AKS keeps for itself when the local range would reach it. Source: AgentBaker `getSysctlContent`.
const RESERVED_PORT: u16 = 65330;

pub(super) fn modules() -> Vec<Step> {
    let step = |(name, why): &(&'static str, &'static str)| {
        Step::new(format!("module.{name}"), why, Want::Module { name }).desired()
    };
    MODULES.iter().map(step).collect()
}

/// The same on every node.
pub(super) fn baked_files() -> Vec<Step> {
    let names: String = MODULES.iter().map(|(name, _)| format!("{name}\n")).collect();
    vec![
        Step::new(
            "modules.conf",
            "modules are loaded early at the next boot",
            public_file("/etc/modules-load.d/nap-agent.conf", names),
        )
        .at_bake(),
        Step::new(
            "sysctls.forwarding.conf",
            "forwarding survives a reload of all sysctls",
            public_file("/etc/sysctl.d/99-force-bridge-forward.conf", lines(&owned(FORWARDING))),
        )
        .at_bake(),
    ]
}

pub(super) fn files(config: &NodeConfig) -> Vec<Step> {
    let mut files = baked_files();
    files.push(Step::new(
        "sysctls.conf",
        "settings survive a reload of all sysctls",
        public_file("/etc/sysctl.d/999-sysctl-aks.conf", lines(&settings(config))),
    ));
    files
}

fn lines(settings: &BTreeMap<String, String>) -> String {
    settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
}

pub(super) fn sysctls(config: &NodeConfig) -> Vec<Step> {
    let all = owned(FORWARDING).into_iter().chain(settings(config));
    all.map(|(key, value)| {
        let expected = KUBELET_EXPECTS.iter().any(|(name, _)| *name == key);
        let why = if expected {
            "kubelet refuses to start with another value"
        } else {
            "the node class or AKS' defaults ask for it"
        };
        let step = Step::new(format!("sysctl.{key}"), why, Want::Sysctl { key, value });
        if expected { step } else { step.desired() }
    })
    .collect()
}

fn settings(config: &NodeConfig) -> BTreeMap<String, String> {
    let mut settings = owned(DEFAULTS);
    settings.extend(config.sysctls.clone());
    if protects_kernel_defaults(config) {
        settings.extend(owned(KUBELET_EXPECTS));
    }
    let last_port =
        settings.get("net.ipv4.ip_local_port_range").and_then(|range| range.rsplit(' ').next()?.parse::<u16>().ok());
    if last_port.is_some_and(|port| port >= RESERVED_PORT) {
        settings.insert("net.ipv4.ip_local_reserved_ports".to_owned(), RESERVED_PORT.to_string());
    }
    settings
}

fn protects_kernel_defaults(config: &NodeConfig) -> bool {
    let in_config = config.kubelet.config.get("protectKernelDefaults").and_then(serde_json::Value::as_bool);
    let in_flags = config.kubelet.flags.get("protect-kernel-defaults").map(|value| value != "false");
    in_flags.or(in_config).unwrap_or(true)
}

fn owned(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
    rows.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
