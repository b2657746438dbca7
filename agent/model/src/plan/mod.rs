//! From what is wanted and what was observed to the steps that lead there.
//!
//! [`plan`] is the whole decision. It writes nothing, and the same input gives the same plan: golden files in `tests/golden`
//! hold one for each kind of node.

mod claims;
mod cloud;
mod cni;
mod containerd;
mod credential_provider;
mod credentials;
mod diff;
pub(crate) mod disks;
mod gpu;
mod kernel;
mod kubelet;
mod kubelet_gates;
mod kubelet_names;
mod local_dns;
mod network;
mod packet_filter;
mod pre_pull;
mod provider_id;
mod proxy;
mod registries;
mod resource;
mod secure_tls;
mod slices;
mod streaming;
mod system;
mod trust;

pub use credential_provider::{CREDENTIAL_PROVIDER_CONFIG, matches_image};
pub use credentials::{BOOTSTRAP_KUBECONFIG, CLIENT_CERTIFICATE};
pub use diff::text_diff;
use disks::LocalDisks;
pub use disks::{
    CHUNK_KIB, CONTAINERD_DIRECTORY, DiskUse, EPHEMERAL, LABEL, MAX_READ_AHEAD_KIB, Member, READ_AHEAD_KIB, Volume,
    disk_units, disk_uses, node_mount_point,
};
pub use gpu::gpus_expected;
use kubelet::node_address;
pub use kubelet::{HEALTHZ_PORT, healthz_port, node_name};
use local_dns::LocalDns;
pub use local_dns::{COREFILE, LOCAL_DNS_RUNNING, LOCAL_DNS_UNIT};
pub use network::api_server_tag;
pub use packet_filter::{PACKET_FILTER_TABLE, packet_filter_rules};
use provider_id::node_provider_id;
pub use registries::{HOSTS_OF_OURS, public_registry};
pub use resource::{AbsPath, AbsPathError, Content, Digest, Place, Plan, Readiness, Stage, Step, Want, When};
use secure_tls::SecureTls;
pub use secure_tls::{SECURE_TLS_RUN, SECURE_TLS_UNIT, tries_secure_tls};
use streaming::Streaming;
pub use streaming::{
    LEFT_STREAMING, MIRROR_ANSWERS, MIRROR_PORT, SNAPSHOTTER_ANSWERS, SNAPSHOTTER_DIRECTORY, SNAPSHOTTER_SOCKET,
    chain_ids, decides_streaming,
};

use crate::config::NodeConfig;
use crate::facts::Facts;
use crate::os::Distribution;
use crate::report::{Failure, Reason};

/// The steps that make this machine the wanted node.
///
/// # Errors
/// When this machine cannot become that node: unknown distribution, missing program, no credential, an image that lacks something.
pub fn plan(config: &NodeConfig, facts: &Facts) -> Result<Plan, Failure> {
    if let Some(image) = facts.image.as_ref().filter(|_| !facts.has_joined()) {
        crate::image::refuse(image, config, Distribution::of(&facts.os)?)?;
    }
    credentials::refuse_missing(config, facts)?;
    let mut plan = keep(config, facts)?;
    let kept = Streaming::new(config, facts).kept_snapshots();
    let kept = kept.map(|step| Stage { name: "kept-snapshots", steps: vec![step] });
    let after = after_containerd(&plan.stages);
    plan.stages.splice(after..after, whole_images(config, facts).into_iter().chain(kept));
    Ok(plan)
}

/// Where a stage stands that needs containerd as it is planned.
pub fn after_containerd(stages: &[Stage]) -> usize {
    stages.iter().position(|stage| stage.name == "containerd").map_or(0, |at| at + 1)
}

/// The stage of [`whole_images`].
pub const WHOLE_IMAGES: &str = "whole-images";

/// What follows a containerd that was restarted to stream no more. Not for every look of the guard: to look into every image is dear.
pub fn whole_images(config: &NodeConfig, facts: &Facts) -> Option<Stage> {
    let step = Streaming::new(config, facts).whole_images()?;
    Some(Stage { name: WHOLE_IMAGES, steps: vec![step] })
}

/// What may be done when an image is built: the steps of every plan that need neither a configuration nor a running machine.
pub fn bake(os: &Distribution) -> Plan {
    let directories = [kubelet::directories(), cni::directories(os)].concat();
    let files = [kernel::baked_files(), vec![kubelet::unit_file(os)]].concat();
    let stages = vec![Stage { name: "prepare", steps: directories }, Stage { name: "files", steps: files }];
    Plan { stages, notes: Vec::new() }
}

/// The same steps for a node that has booted, whose credentials are kubelet's own affair.
///
/// # Errors
/// When this machine cannot be that node.
pub fn keep(config: &NodeConfig, facts: &Facts) -> Result<Plan, Failure> {
    let os = Distribution::of(&facts.os)?;
    refuse_missing_programs(facts, os)?;
    let mut notes = claims::check(config, facts, os);
    notes.extend(trust::notes(config, facts, os));
    let proxy = proxy::files(config, os, &mut notes);
    let trust = trust::files(config, os);
    // containerd and kubelet read these once, when they start.
    let shared: Vec<Step> = [proxy, trust, slices::files(&config.kubelet.config)].concat();
    slices::refuse_missing(&config.kubelet.config)?;
    let disks = LocalDisks::new(config, facts);
    let local_dns = LocalDns::new(config, facts);
    let streaming = Streaming::new(config, facts);
    let kubelet = kubelet::Kubelet::new(config, facts, os, &shared, (&local_dns, &streaming))?;
    let containerd = containerd::Containerd::new(config, facts, (os, &streaming), &shared, &mut notes);
    let filter = packet_filter::PacketFilter::new(config, facts, &local_dns);
    let files = [
        kubelet.files(),
        containerd.files(),
        credentials::files(config, facts),
        secure_tls::files(config, facts),
        cni::files(config.cni),
        cloud::files(&config.cloud),
        kernel::files(config),
        system::files(config, os, disks.swap()),
        network::files(config, facts, os, &mut notes),
        registries::files(config, streaming.mirror()),
        shared,
        filter.files(),
        pre_pull::files(config),
    ];
    let units = [
        network::units(config, facts, os),
        system::units(config, os, disks.swap()),
        claims::grown_root(facts, &mut notes),
        gpu::units(config, facts),
    ];
    notes.extend(SecureTls::new(config, facts).note(config));
    notes.extend(disks.notes().iter().cloned());
    notes.extend(local_dns.notes(config));
    notes.extend(streaming.notes());
    notes.extend(kubelet.notes.clone());
    let packet_filter = filter.loaded();
    notes.extend(filter.into_notes());
    let directories = [kubelet::directories(), cni::directories(os), kernel::modules()].concat();
    // Before all else: the first file below a directory that moves must be written to its new place.
    let mut stages = disks.stages();
    stages.push(Stage { name: "prepare", steps: directories });
    if let Some(running) = local_dns.running() {
        // Before kubelet's files, which say where pods ask: the module tells why.
        stages.push(Stage { name: "local-dns-files", steps: local_dns.files() });
        stages.push(Stage { name: "local-dns", steps: vec![running] });
    }
    // Before containerd's files, which say who makes its snapshots.
    stages.extend(streaming.stages());
    let settings =
        [kernel::sysctls(config), system::settings(config, os, disks.swap()), disks::queues(facts), packet_filter];
    stages.extend([
        Stage { name: "files", steps: files.concat() },
        Stage { name: "trust", steps: trust::store(config, os) },
        Stage { name: "settings", steps: settings.concat() },
        Stage { name: "units", steps: units.concat() },
        Stage { name: "containerd", steps: vec![containerd.running()] },
    ]);
    stages.extend(secure_tls::run(config, facts).map(|step| Stage { name: "secure-tls", steps: vec![step] }));
    stages.push(Stage { name: "kubelet", steps: vec![kubelet.running()] });
    stages.extend(streaming.off());
    stages.extend(pre_pull::running(config));
    Ok(Plan { stages, notes })
}

fn refuse_missing_programs(facts: &Facts, os: &Distribution) -> Result<(), Failure> {
    let missing = |reason, path: &str| {
        Err(Failure::new(reason, "plan", format!("{path} is not there or does not tell its version")))
    };
    match (facts.programs.kubelet, facts.programs.containerd) {
        (None, _) => missing(Reason::KubeletBinaryMissing, os.kubelet),
        (_, None) => missing(Reason::ContainerdBinaryMissing, os.containerd),
        (Some(_), Some(containerd)) if (containerd.major, containerd.minor) < containerd::OLDEST => {
            let (major, minor) = containerd::OLDEST;
            let message =
                format!("{} is {containerd}; no kubelet works with one before {major}.{minor}", os.containerd);
            Err(Failure::new(Reason::ContainerdBinaryMissing, "plan", message))
        }
        (Some(_), Some(_)) => Ok(()),
    }
}

#[cfg(test)]
mod matrix;
#[cfg(test)]
mod tests;
