//! What an AKSNodeConfig asks of the machine around kubelet.

use std::time::Duration;

use serde_json::{Map, Value};

use super::document::Checked;
use super::local_dns::{self, LocalDns, Zone};
use super::machine::{
    Gpu, HugePages, Network, OperatingSystem, Proxy, Registries, SecondaryNics, ServiceAccountPulls, Ssh, Ulimits,
};
use super::problem::{Findings, entry, quoted};
use super::rules;
use super::storage::Storage;

const MIB: u64 = 1024 * 1024;

/// Settings of the operating system; kubelet's configuration says whether it bears swap.
pub(super) fn os(checked: Checked<'_>, kubelet: &Map<String, Value>, findings: &mut Findings) -> OperatingSystem {
    let linux = |name: &str| checked.text(&format!("custom_linux_os_config.{name}")).map(str::to_owned);
    OperatingSystem {
        huge_pages: HugePages { enabled: linux("transparent_hugepage_support"), defrag: linux("transparent_defrag") },
        swap_file_bytes: swap_file(checked, kubelet, findings),
        ulimits: Ulimits {
            no_file: linux("ulimit_config.no_file"),
            max_locked_memory: linux("ulimit_config.max_locked_memory"),
        },
        message_of_the_day: rules::base64_text(checked, "message_of_the_day", findings),
        ssh: Ssh {
            enabled: checked.flag("enable_ssh").unwrap_or(true),
            public_keys: checked.flag("disable_pubkey_auth") != Some(true),
        },
        admin_user: Some(checked.text("linux_admin_username").unwrap_or(ADMIN_USER).to_owned()),
        unattended_upgrades: checked.flag("enable_unattended_upgrade"),
    }
}

/// Source: AgentBaker, `getLinuxAdminUsername`.
const ADMIN_USER: &str = "azureuser";

fn swap_file(checked: Checked<'_>, kubelet: &Map<String, Value>, findings: &mut Findings) -> Option<u64> {
    let path = "custom_linux_os_config.swap_file_size";
    if checked.flag("custom_linux_os_config.enable_swap_config") != Some(true) {
        return None;
    }
    let size = checked.number(path).and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0);
    let Some(size) = size else {
        findings.warn("custom_linux_os_config.enable_swap_config", "no swap file: swap_file_size is not above 0");
        return None;
    };
    if kubelet.get("failSwapOn") != Some(&Value::Bool(false)) {
        let wanted = "kubelet's failSwapOn false beside it, or kubelet does not start";
        findings.problem(path, "a swap file", wanted);
    }
    Some(size * MIB)
}

/// The node's own network.
pub(super) fn network(checked: Checked<'_>) -> Network {
    let nics = checked.number("network_config.standard_secondary_nic_count");
    Network {
        search_domains: checked
            .text("custom_search_domain_config.domain_name")
            .map(str::to_owned)
            .into_iter()
            .collect(),
        private_api_server: checked.flag("enable_hosts_config_agent") == Some(true),
        api_server_address: None,
        dual_stack: checked.flag("ipv6_dual_stack_enabled") == Some(true),
        secondary_nics: match nics.and_then(|count| u32::try_from(count).ok()) {
            None | Some(0) => SecondaryNics::None,
            Some(count) => SecondaryNics::Count(count),
        },
        restrict_imds: checked.flag("imds_restriction_config.enable_imds_restriction") == Some(true),
        service_cidrs: Vec::new(),
    }
}

/// HTTP proxy; none without a URL.
pub(super) fn proxy(checked: Checked<'_>) -> Option<Proxy> {
    let url = |name: &str| checked.text(&format!("http_proxy_config.{name}")).map(Into::into);
    let proxy = Proxy {
        http: url("http_proxy"),
        https: url("https_proxy"),
        no_proxy: checked.items("http_proxy_config.no_proxy_entries").map(str::to_owned).collect(),
    };
    (proxy.http.is_some() || proxy.https.is_some()).then_some(proxy)
}

/// Certificate authorities of the whole machine, the proxy's among them.
pub(super) fn trusted_certificates(checked: Checked<'_>, findings: &mut Findings) -> Vec<String> {
    let given = checked.items("custom_ca_certs").enumerate().filter(|(_, pem)| !pem.is_empty());
    let path = "http_proxy_config.proxy_trusted_ca";
    let of_proxy = checked.text(path).map(|pem| (path.to_owned(), pem));
    let all = given.map(|(i, pem)| (format!("custom_ca_certs[{i}]"), pem)).chain(of_proxy);
    rules::trusted_certificates(all, findings)
}

/// GPU. protobuf leaves out what is false, so an object that is there and says nothing says no.
pub(super) fn gpu(checked: Checked<'_>) -> Gpu {
    if checked.object("gpu_config").is_none() {
        return Gpu::default();
    }
    let flag = |name: &str| checked.flag(&format!("gpu_config.{name}"));
    Gpu {
        driver: flag("config_gpu_driver") == Some(true) && flag("enable_nvidia") != Some(false),
        device_plugin: flag("gpu_device_plugin") == Some(true),
    }
}

/// Local disks.
pub(super) fn storage(checked: Checked<'_>) -> Storage {
    match checked.text("kubelet_config.kubelet_disk_type") {
        Some("KUBELET_DISK_TEMP_DISK") => Storage::temporary(),
        _ => Storage::default(),
    }
}

/// Where images come from.
pub(super) fn registries(checked: Checked<'_>, findings: &mut Findings) -> Registries {
    Registries {
        dns_suffix: checked.text("custom_cloud_config.container_registry_dns_suffix").map(str::to_owned),
        service_account_pulls: service_account_pulls(checked, findings),
        bootstrap: checked.text("bootstrap_profile_container_registry_server").map(str::to_owned),
        mirrors: Vec::new(),
        streaming: checked.flag("enable_artifact_streaming") == Some(true),
    }
}

fn service_account_pulls(checked: Checked<'_>, findings: &mut Findings) -> Option<ServiceAccountPulls> {
    let of_profile = |name: &str| format!("service_account_image_pull_profile.{name}");
    if checked.flag(&of_profile("enabled")) != Some(true) {
        return None;
    }
    let text = |name: &str| checked.text(&of_profile(name)).map(str::to_owned);
    let local_authority = text("local_authority_sni");
    if local_authority.is_none() {
        let why = "absent, so nobody would take a service account's token; images are pulled as the node";
        findings.warn(&of_profile("local_authority_sni"), why);
    }
    Some(ServiceAccountPulls {
        local_authority: local_authority?,
        client_id: text("default_client_id"),
        tenant_id: text("default_tenant_id"),
    })
}

/// LocalDNS; nothing when disabled.
pub(super) fn local_dns(checked: Checked<'_>, findings: &mut Findings) -> Option<LocalDns> {
    if checked.flag("local_dns_profile.enable_local_dns") != Some(true) {
        return None;
    }
    let [node, pods] = ["local_dns_profile.vnet_dns_overrides", "local_dns_profile.kube_dns_overrides"];
    let zones = [zones(checked, node, findings), zones(checked, pods, findings)];
    let [of_node, of_pods] = zones;
    let mut local_dns = LocalDns::new(of_node, of_pods, [node, pods], findings);
    let limit = |name: &str| {
        let limit = checked.number(&format!("local_dns_profile.{name}"));
        limit.and_then(|limit| u32::try_from(limit).ok()).filter(|limit| *limit > 0)
    };
    if let Some(milli_cores) = limit("cpu_limit_in_milli_cores") {
        local_dns.cpu_percent = milli_cores.div_ceil(10);
    }
    if let Some(megabytes) = limit("memory_limit_in_mb") {
        local_dns.memory_mb = megabytes;
    }
    Some(local_dns)
}

fn zones(checked: Checked<'_>, path: &str, findings: &mut Findings) -> Vec<Zone> {
    let overrides = checked.object(path).into_iter().flatten();
    overrides.map(|(name, zone)| zone_of(name, Checked(zone), &entry(path, name), findings)).collect()
}

fn zone_of(name: &str, zone: Checked<'_>, path: &str, findings: &mut Findings) -> Zone {
    if !local_dns::is_zone(name) {
        findings.problem(path, quoted(name), "a DNS zone such as . or example.com");
    }
    let seconds =
        |field: &str| zone.number(field).and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let words = local_dns::Words {
        name,
        query_logging: zone.text("query_logging"),
        protocol: zone.text("protocol"),
        forward: zone.text("forward_destination"),
        policy: zone.text("forward_policy"),
        max_concurrent: zone.number("max_concurrent"),
        cache_for: seconds("cache_duration_in_seconds"),
        serve_stale: zone.text("serve_stale"),
        serve_stale_for: seconds("serve_stale_duration_in_seconds"),
    };
    words.zone(path, findings)
}
