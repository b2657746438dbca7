//! From what is wanted and what was observed to the steps that lead there.
//!
//! [`plan`] is the whole decision. It writes nothing, and the same input gives the same plan: golden files in `tests/golden`
//! hold one for each kind of node.

mod cloud;
mod cni;
mod containerd;
mod credentials;
mod diff;
mod kernel;
mod kubelet;
mod kubelet_gates;
mod local_dns;
mod provider_id;
mod resource;

pub use diff::text_diff;
pub use kubelet::{healthz_port, node_name};
use local_dns::LocalDns;
pub use local_dns::{COREFILE, LOCAL_DNS_RUNNING, LOCAL_DNS_UNIT};
use provider_id::node_provider_id;
pub use resource::{AbsPath, AbsPathError, Content, Digest, Plan, Readiness, Stage, Step, Want, When};

use crate::config::NodeConfig;
use crate::facts::Facts;
use crate::os::Distribution;
use crate::report::{Failure, Reason};

/// The steps that make this machine the wanted node.
///
/// # Errors
/// When this machine cannot become that node: unknown distribution, missing program, no credential.
pub fn plan(config: &NodeConfig, facts: &Facts) -> Result<Plan, Failure> {
    credentials::refuse_missing(config, facts)?;
    keep(config, facts)
}

/// The same steps for a node that has booted, whose credentials are kubelet's own affair.
///
/// # Errors
/// When this machine cannot be that node.
pub fn keep(config: &NodeConfig, facts: &Facts) -> Result<Plan, Failure> {
    let os = Distribution::of(&facts.os)?;
    refuse_missing_programs(facts, os)?;
    let local_dns = LocalDns::new(config, facts);
    let kubelet = kubelet::Kubelet::new(config, facts, os, &local_dns)?;
    let containerd = containerd::Containerd::new(config, facts, os);
    let directories = [kubelet.directories(), cni::directories(os), kernel::modules()].concat();
    let files = [
        kubelet.files(),
        containerd.files(),
        credentials::files(config, facts),
        cni::files(config.cni),
        cloud::files(&config.cloud),
        kernel::files(config),
    ];
    let mut stages = vec![Stage { name: "prepare", steps: directories }];
    if let Some(running) = local_dns.running() {
        // Before kubelet's files, which say where pods ask: the module tells why.
        stages.push(Stage { name: "local-dns-files", steps: local_dns.files() });
        stages.push(Stage { name: "local-dns", steps: vec![running] });
    }
    stages.extend([
        Stage { name: "files", steps: files.concat() },
        Stage { name: "sysctls", steps: kernel::sysctls(config) },
        Stage { name: "containerd", steps: vec![containerd.running()] },
        Stage { name: "kubelet", steps: vec![kubelet.running()] },
    ]);
    Ok(Plan { stages, notes: [local_dns.notes(config), kubelet.notes].concat() })
}

fn refuse_missing_programs(facts: &Facts, os: &Distribution) -> Result<(), Failure> {
    let missing = |reason, path: &str| {
        Err(Failure::new(reason, "plan", format!("{path} is not there or does not tell its version")))
    };
    match (facts.programs.kubelet, facts.programs.containerd) {
        (None, _) => missing(Reason::KubeletBinaryMissing, os.kubelet),
        (_, None) => missing(Reason::ContainerdBinaryMissing, os.containerd),
        (Some(_), Some(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
